//! What a client is told of the servers in view when it opens: at once where they are known.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::known;
use super::member::{Member, Unavailable};
use super::session::{Client, Session, quoted, raw};
use crate::gateway::upstream::Facts;
use crate::mcp::bridge;
use crate::mcp::era::{Era, LATEST_LEGACY, LEGACY_VERSIONS, MODERN};
use crate::mcp::lists::{merge_capabilities, merge_instructions};
use crate::mcp::message::Message;
use crate::mcp::object::Object;

/// What several servers are said to offer while nothing is known of one of them.
const ANYTHING: &str =
    r#"{"tools":{},"prompts":{},"resources":{"subscribe":true},"logging":{},"completions":{}}"#;

/// Reads who opens a legacy session.
pub(super) fn client(initialize: &Message<'_>) -> Client {
    let params = initialize.params().and_then(Object::of).unwrap_or_default();
    let object = |key: &str| params.get_object(key).map(|object| object.to_string());
    let asked = params.get_str("protocolVersion").unwrap_or_default();
    let version = LEGACY_VERSIONS.into_iter().find(|version| *version == asked);
    Client {
        info: object("clientInfo").unwrap_or_else(super::our_info),
        capabilities: object("capabilities").unwrap_or_else(|| "{}".to_owned()),
        version: version.unwrap_or(LATEST_LEGACY).to_owned(),
        params: version.and(initialize.params()).map(|params| params.get().to_owned()),
    }
}

/// Returns what a client calls itself.
pub(super) fn name_of(info: &str) -> Option<String> {
    Some(Object::parse(info)?.get_str("name")?.into_owned())
}

/// Returns the result of a legacy client's `initialize`.
pub(super) async fn initialize(session: &Arc<Session>) -> Result<String, Unavailable> {
    let version = &session.client.version;
    if let Some(only) = session.view.single() {
        let facts = facts_of_one(session, only).await?;
        let opened = known::opened(&facts);
        if facts.era == Era::Modern {
            return Ok(bridge::initialize_result(&opened, version));
        }
        let mut result = Object::of(&opened).unwrap_or_default();
        // What it agreed on with us it may not with this client: the older of both.
        if *version < facts.version {
            result.set_str("protocolVersion", version);
        }
        return Ok(result.to_string());
    }
    let (capabilities, instructions) = together(session);
    let info = super::our_info();
    let instructions = instructions
        .map(|text| format!(r#","instructions":{}"#, quoted(&text)))
        .unwrap_or_default();
    Ok(format!(
        r#"{{"protocolVersion":"{version}","capabilities":{capabilities},"serverInfo":{info}{instructions}}}"#
    ))
}

/// Returns the result of `server/discover`.
pub(super) async fn discover(session: &Arc<Session>) -> Result<String, Unavailable> {
    if let Some(only) = session.view.single() {
        let facts = facts_of_one(session, only).await?;
        let opened = known::opened(&facts);
        return Ok(match facts.era {
            Era::Modern => opened.get().to_owned(),
            Era::Legacy => bridge::discover_result(&opened, &[MODERN]),
        });
    }
    let (capabilities, instructions) = together(session);
    let capabilities = raw(capabilities);
    let mut result = Object::new();
    result.set("capabilities", capabilities.clone());
    result.set("serverInfo", raw(super::our_info()));
    if let Some(text) = instructions {
        result.set_str("instructions", &text);
    }
    let result = bridge::discover_result(&result.to_raw(), &[MODERN]);
    // It takes them for those of a legacy server, whose tasks are others.
    Ok(with_tasks(&result, &capabilities).unwrap_or(result))
}

/// Returns a result of `server/discover` with the tasks that these capabilities have.
fn with_tasks(result: &str, capabilities: &RawValue) -> Option<String> {
    let extensions = Object::of(capabilities)?.get_object("extensions")?;
    let tasks = extensions.get(bridge::TASKS)?.to_owned();
    let mut result = Object::parse(result)?;
    result.edit_in("capabilities", |capabilities| {
        capabilities.edit_in("extensions", |extensions| extensions.set(bridge::TASKS, tasks));
    });
    Some(result.to_string())
}

/// Returns what one server says of itself, which is started when that is not known.
async fn facts_of_one(
    session: &Arc<Session>,
    member: &Arc<Member>,
) -> Result<Arc<Facts>, Unavailable> {
    let slot = member.slot(session.slot_key(member));
    if let Some(conn) = slot.current() {
        return Ok(Arc::new(conn.facts().clone()));
    }
    let known = {
        let known = member.known();
        known.hop(session.era).and_then(|era| match session.era {
            Era::Legacy => {
                let whom = session.opening(&slot.key()).client_info;
                known.said(era).facts_for(&session.client.version, &whom)
            }
            Era::Modern => known.said(era).facts.clone(),
        })
    };
    if let Some(facts) = known {
        return Ok(facts);
    }
    let opening = || session.opening(&slot.key());
    let conn = slot.conn(&session.hub, member, opening).await?;
    Ok(Arc::new(conn.facts().clone()))
}

/// Returns the capabilities and instructions of all servers in view, as far as they are known.
fn together(session: &Session) -> (String, Option<String>) {
    let facts: Vec<(&str, Option<Arc<Facts>>)> = session
        .view
        .members
        .iter()
        .map(|member| (member.name.as_str(), member.known().facts(session.era)))
        .collect();
    // What is of one era only, such as tasks, is not offered to clients of the other.
    let capabilities = facts.iter().map(|(_, facts)| match facts {
        None => raw(ANYTHING.to_owned()),
        Some(facts) if facts.era == session.era => facts.capabilities.clone(),
        Some(facts) => raw(bridge::server_capabilities(&facts.capabilities)),
    });
    let capabilities: Vec<Box<RawValue>> = capabilities.collect();
    let capabilities: Vec<&RawValue> = capabilities.iter().map(|all| &**all).collect();
    let instructions: Vec<(&str, &str)> = facts
        .iter()
        .filter_map(|(name, facts)| Some((*name, facts.as_ref()?.instructions.as_deref()?)))
        .collect();
    (merge_capabilities(&capabilities), merge_instructions(&instructions))
}

/// Reads what a server said of itself from the result it opened with.
pub(super) fn facts(era: Era, opened: &RawValue) -> Facts {
    let result = Object::of(opened).unwrap_or_default();
    let info = match era {
        Era::Legacy => result.get("serverInfo").map(ToOwned::to_owned),
        Era::Modern => result
            .get_object("_meta")
            .and_then(|meta| meta.get(bridge::SERVER_INFO).map(ToOwned::to_owned)),
    };
    let version = match era {
        Era::Legacy => result.get_str("protocolVersion").map(std::borrow::Cow::into_owned),
        Era::Modern => Some(MODERN.to_owned()),
    };
    Facts {
        era,
        version: version.unwrap_or_else(|| LATEST_LEGACY.to_owned()),
        capabilities: result
            .get("capabilities")
            .map_or_else(|| raw("{}".to_owned()), ToOwned::to_owned),
        server_info: info,
        instructions: result.get_str("instructions").map(std::borrow::Cow::into_owned),
        opened: Bytes::copy_from_slice(opened.get().as_bytes()),
    }
}
