//! What a client is told of the servers in view when it opens: at once where they are known.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::member::Member;
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
    }
}

/// Returns what a client calls itself.
pub(super) fn name_of(info: &str) -> Option<String> {
    Some(Object::parse(info)?.get_str("name")?.into_owned())
}

/// Returns the result of a legacy client's `initialize`.
pub(super) async fn initialize(session: &Arc<Session>) -> Result<String, String> {
    let version = &session.client.version;
    if let Some(only) = session.view.single() {
        let facts = facts_of_one(session, only).await?;
        let opened = raw(String::from_utf8_lossy(&facts.opened).into_owned());
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
pub(super) async fn discover(session: &Arc<Session>) -> String {
    if let Some(only) = session.view.single()
        && let Ok(facts) = facts_of_one(session, only).await
    {
        let opened = raw(String::from_utf8_lossy(&facts.opened).into_owned());
        return match facts.era {
            Era::Modern => opened.get().to_owned(),
            Era::Legacy => bridge::discover_result(&opened, &[MODERN]),
        };
    }
    let (capabilities, instructions) = together(session);
    let mut result = Object::new();
    result.set("capabilities", raw(capabilities));
    result.set("serverInfo", raw(super::our_info()));
    if let Some(text) = instructions {
        result.set_str("instructions", &text);
    }
    bridge::discover_result(&result.to_raw(), &[MODERN])
}

/// Returns what one server says of itself, which is started when that is not known.
async fn facts_of_one(session: &Arc<Session>, member: &Arc<Member>) -> Result<Arc<Facts>, String> {
    let known = member.known().facts.clone();
    if let Some(facts) = known {
        return Ok(facts);
    }
    let slot = member.slot(session.slot_key(member));
    let opening = || session.opening(&slot.key);
    let conn = slot.conn(&session.hub, member, opening).await.map_err(|e| e.to_string())?;
    Ok(Arc::new(conn.facts().clone()))
}

/// Returns the capabilities and instructions of all servers in view, as far as they are known.
fn together(session: &Session) -> (String, Option<String>) {
    let facts: Vec<(&str, Option<Arc<Facts>>)> = session
        .view
        .members
        .iter()
        .map(|member| (member.name.as_str(), member.known().facts.clone()))
        .collect();
    let anything = raw(ANYTHING.to_owned());
    let capabilities: Vec<&RawValue> = facts
        .iter()
        .map(|(_, facts)| facts.as_ref().map_or(&*anything, |facts| &*facts.capabilities))
        .collect();
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
