//! The lists of all servers in view, as one.
//!
//! A server that runs is asked; one that does not is answered for from what is known of it, and is
//! started only when nothing is. No server holds up the lists of the others for long.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};

use super::Hub;
use super::drive::Drive;
use super::kinds::List;
use super::member::{Items, Member};
use super::session::{Session, raw};
use crate::catalog::same_list;
use crate::gateway::link::INBOX;
use crate::gateway::upstream::Conn;
use crate::mcp::era::Era;
use crate::mcp::message::{INVALID_PARAMS, Incoming, Message, string};
use crate::mcp::{bridge, lists, object};

/// How long a list waits for a server of which something is known already.
const REFRESH: Duration = Duration::from_secs(2);
/// How long a list of several servers waits for one of which nothing is known.
const FIRST: Duration = Duration::from_secs(10);
/// How long a server may take over one page.
const PAGE: Duration = Duration::from_secs(30);
/// How many pages and items of one server are taken.
const MAX_PAGES: usize = 1000;
const MAX_ITEMS: usize = 100_000;

/// Answers a request for a list.
pub(super) async fn answer(drive: &Drive<'_>, request: &Message<'_>, list: List) {
    let cursor = request.params().and_then(|params| lists::member(params, "cursor"));
    if cursor.is_some() {
        // All pages of all servers are one page here, so there is no cursor of ours.
        return drive.fail(request, INVALID_PARAMS, "the cursor is not one of this list").await;
    }
    let session = drive.session;
    let all = session.view.members.iter().map(|member| items(session, member, list));
    let all = join_all(all).await;
    let mut parts = Vec::new();
    for (member, items) in session.view.members.iter().zip(all) {
        let Some(items) = items else { continue };
        parts.push((member.clone(), items));
    }
    let result = merge(session, &parts, list);
    drive.reply(request, &result).await;
}

/// Makes one result of the lists of several servers, with the names they are advertised by.
fn merge(session: &Session, parts: &[(Arc<Member>, Items)], list: List) -> String {
    let hub = &session.hub;
    hub.note(parts, list);
    let mut items: Vec<Box<RawValue>> = Vec::new();
    let mut seen = HashSet::new();
    for (member, part) in parts {
        let era = member.known().era;
        for item in part.iter() {
            // The first of several servers with the same resource answers for it.
            if uri_of(item, list).is_some_and(|uri| !seen.insert(uri)) {
                continue;
            }
            let named = matches!(list, List::Tools | List::Prompts) && session.view.prefixed;
            let item = match lists::name_of(item).filter(|_| named) {
                Some(name) => {
                    let names = hub.names(list);
                    let Some(name) = names.name_of(member.index, &name) else { continue };
                    raw(lists::rename(item, name))
                }
                None => item.clone(),
            };
            // Tasks of the two eras differ, so they are not offered across.
            let crosses = era.is_some_and(|era| era != session.era) && list == List::Tools;
            items.push(if crosses { raw(lists::strip(&item, &["execution"])) } else { item });
        }
    }
    let result = lists::join(list.key(), items.iter().map(|item| item.get()), &[]);
    translate(session, list, parts, result)
}

/// Puts a list into the words of the client's era.
fn translate(
    session: &Session,
    list: List,
    parts: &[(Arc<Member>, Items)],
    result: String,
) -> String {
    let result = raw(result);
    if session.era == Era::Modern {
        let info = super::our_info();
        return bridge::modern_result(list.method(), &result, Some(&raw(info)));
    }
    let modern = parts.iter().any(|(member, _)| member.known().era == Some(Era::Modern));
    match modern.then(|| bridge::legacy_result(list.method(), &result)) {
        Some(Ok(result)) => result,
        Some(Err(_)) | None => result.get().to_owned(),
    }
}

/// Tells whether a server offers a list, as far as is known.
pub(super) fn offers(member: &Member, list: List) -> bool {
    let known = member.known();
    known.facts.as_ref().is_none_or(|facts| {
        object::Object::of(&facts.capabilities).is_none_or(|all| all.contains(list.capability()))
    })
}

/// Returns the items of one server; `None` when it does not say in time.
pub(super) async fn items(
    session: &Arc<Session>,
    member: &Arc<Member>,
    list: List,
) -> Option<Items> {
    if !offers(member, list) {
        return None;
    }
    let slot = member.slot(session.slot_key(member));
    let living = slot.current();
    let (known, slow) = {
        let known = member.known();
        (known.lists[list.at()].clone(), known.slow)
    };
    if slow || (known.is_some() && living.is_none()) {
        member.known().unconfirmed[list.at()] = true;
        if slow {
            retry(session, member, list);
        }
        return known;
    }
    let patience = match (&known, session.view.members.len()) {
        (Some(_), _) => REFRESH,
        (None, 1) => session.hub.options.start_timeout + PAGE,
        (None, _) => FIRST,
    };
    let fresh = async {
        let conn = match living {
            Some(conn) => conn,
            None => {
                let opening = || session.opening(&slot.key);
                slot.conn(&session.hub, member, opening).await.ok()?
            }
        };
        // What offers nothing was not known before it was started.
        if !offers(member, list) {
            return None;
        }
        let fetched = fetch(&session.hub, member, conn, list, false);
        fetched.await.ok().flatten()
    };
    match tokio::time::timeout(patience, fresh).await {
        Ok(Some(items)) => Some(items),
        Ok(None) => known,
        Err(_) => {
            tracing::warn!(server = %member.name, list = list.method(), "a list is late");
            member.known().slow = true;
            member.known().unconfirmed[list.at()] = true;
            known
        }
    }
}

/// Has another look at a server that was late, for the next time; clients are told of what comes.
fn retry(session: &Arc<Session>, member: &Arc<Member>, list: List) {
    let slot = member.slot(session.slot_key(member));
    let (hub, member, opening) = (session.hub.clone(), member.clone(), session.opening(&slot.key));
    hub.scope().clone().spawn_until_cancelled(async move {
        // A start that succeeds looks at what is unconfirmed by itself.
        let before = slot.current();
        if let Some(conn) = before {
            drop(fetch(&hub, &member, conn, list, true));
        } else {
            drop(slot.conn(&hub, &member, || opening).await);
        }
    });
}

/// Asks a server for a list, notes it, and tells the clients when it differs from what they were
/// told. It goes on when nobody waits any more.
pub(super) fn fetch(
    hub: &Arc<Hub>,
    member: &Arc<Member>,
    conn: Arc<Conn>,
    list: List,
    tell: bool,
) -> oneshot::Receiver<Option<Items>> {
    let (done, fetched) = oneshot::channel();
    let (hub, member) = (hub.clone(), member.clone());
    hub.scope().clone().spawn_until_cancelled(async move {
        let items = drain(&conn, list).await.map(Arc::new);
        if let Some(items) = &items {
            let (changed, unconfirmed) = {
                let mut known = member.known();
                let before = known.lists[list.at()].replace(items.clone());
                known.slow = false;
                let before = before.as_deref().map(Vec::as_slice);
                let changed = !same_list(before, Some(items.as_slice()));
                (changed, std::mem::take(&mut known.unconfirmed[list.at()]))
            };
            if changed {
                hub.note(&[(member.clone(), items.clone())], list);
                hub.save(&member);
                if tell || unconfirmed {
                    hub.tell_changed(&member, list);
                }
            }
        }
        drop(done.send(items));
    });
    fetched
}

/// Collects all pages of a list.
async fn drain(conn: &Arc<Conn>, list: List) -> Option<Vec<Box<RawValue>>> {
    let mut all = Vec::new();
    let mut cursor: Option<String> = None;
    for _ in 0..MAX_PAGES {
        let mut params = object::Object::new();
        if let Some(cursor) = &cursor {
            params.set("cursor", raw(cursor.clone()));
        }
        let result = ask(conn, list.method(), params).await?;
        let page = lists::items(&result, list.key()).ok()?;
        all.extend(page.items.iter().map(|&item| item.to_owned()));
        let next = lists::next_cursor(&result).map(|next| next.get().to_owned());
        let Some(next) = next.filter(|next| Some(next) != cursor.as_ref()) else {
            return Some(all);
        };
        if all.len() > MAX_ITEMS {
            break;
        }
        cursor = Some(next);
    }
    tracing::warn!(list = list.method(), items = all.len(), "a list does not end, cut");
    Some(all)
}

/// Makes a request of our own and returns its result.
pub(super) async fn ask(
    conn: &Arc<Conn>,
    method: &str,
    params: object::Object,
) -> Option<Box<RawValue>> {
    let params = params.to_raw();
    let text = format!(r#"{{"jsonrpc":"2.0","id":0,"method":"{method}","params":{params}}}"#);
    let text = stamped(conn, text);
    let request = Message::parse(&text).ok()?;
    let (sink, mut packets) = mpsc::channel(INBOX);
    let _claim = conn.request(&request, Vec::new(), sink).await.ok()?;
    let answer: Bytes = tokio::time::timeout(PAGE, async {
        loop {
            let packet = packets.recv().await?;
            if packet.last {
                return Some(packet.message);
            }
        }
    })
    .await
    .ok()??;
    let Ok(Incoming::One(answer)) = Incoming::parse(&answer) else { return None };
    if let Some(error) = answer.error() {
        tracing::debug!(method, error = error.get(), "a server refused a request of ours");
    }
    answer.result().map(ToOwned::to_owned)
}

/// Marks a request of ours with what the era of the server wants.
pub(super) fn stamped(conn: &Conn, text: String) -> String {
    if conn.facts().era == Era::Legacy {
        return text;
    }
    let Ok(message) = Message::parse(&text) else { return text };
    let (capabilities, info) = (raw("{}".to_owned()), raw(super::our_info()));
    let stamp = bridge::Stamp {
        version: &conn.facts().version,
        capabilities: &capabilities,
        client_info: Some(&info),
        log_level: None,
    };
    bridge::modern_request(&message, &stamp)
}

/// Returns the URI of a resource, or the template of several.
pub(super) fn uri_of(item: &RawValue, list: List) -> Option<String> {
    let uri = match list {
        List::Resources => lists::uri_of(item),
        List::Templates => lists::uri_template_of(item),
        List::Tools | List::Prompts => None,
    };
    uri.map(std::borrow::Cow::into_owned)
}

/// Returns the text of a JSON string member.
pub(super) fn text_member(params: Option<&RawValue>, key: &str) -> Option<String> {
    let value = lists::member(params?, key)?;
    string(value).map(std::borrow::Cow::into_owned)
}
