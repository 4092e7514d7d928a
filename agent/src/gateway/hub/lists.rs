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
use tokio::sync::oneshot;

use super::Hub;
use super::drive::Drive;
use super::kinds::List;
use super::known::{self, Items};
use super::member::{Isolation, Member, Unavailable};
use super::merged::Last;
use super::session::{Session, raw};
use crate::catalog::same_list;
use crate::gateway::upstream::{Conn, Pages};
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

/// One server's part of a list.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) member: Arc<Member>,
    pub(super) era: Era,
    pub(super) items: Items,
}

/// Answers a request for a list.
pub(super) async fn answer(drive: &Drive<'_>, request: &Message<'_>, list: List) {
    let session = drive.session;
    let cursor = cursor_of(request);
    if let Some(only) = session.view.single().filter(|_| !session.hub.hides(list)) {
        let living = only.slot(session.slot_key(only)).current();
        let (unlisted, hop) = {
            let known = only.known();
            (known.offers(list) && known.any_list(list).is_none(), known.hop(session.era))
        };
        let era = living.as_ref().map(|conn| conn.facts().era).or(hop);
        // It pages itself, and says what we need not understand.
        let itself = era == Some(session.era) && (living.is_some() || unlisted);
        if cursor.is_some() || itself {
            return drive.to(only, request, Vec::new()).await;
        }
    }
    if cursor.is_some() {
        // All pages of all servers are one page here, so there is no cursor of ours.
        return drive.fail(request, INVALID_PARAMS, "the cursor is not one of this list").await;
    }
    let all = session.view.members.iter().map(|member| items(session, member, list));
    let parts: Vec<Part> = join_all(all).await.into_iter().flatten().collect();
    if let (Some(only), []) = (session.view.single(), parts.as_slice())
        && offers(only, list)
    {
        // That it cannot say is not that it has nothing.
        return drive.to(only, request, Vec::new()).await;
    }
    drive.reply(request, &merge(session, parts, list)).await;
}

fn cursor_of<'a>(request: &Message<'a>) -> Option<&'a RawValue> {
    request.params().and_then(|params| lists::member(params, "cursor"))
}

/// Returns one result of the lists of several servers, with the names they are advertised by.
fn merge(session: &Session, parts: Vec<Part>, list: List) -> Arc<str> {
    let names = || session.hub.names(list).state();
    let merged = &session.view.merged;
    if let Some(result) = merged.get(session.era, list, &parts, names()) {
        return result;
    }
    let result: Arc<str> = join(session, &parts, list).into();
    merged.keep(session.era, list, Last { parts, names: names(), result: result.clone() });
    result
}

/// Makes such a result.
fn join(session: &Session, parts: &[Part], list: List) -> String {
    let hub = &session.hub;
    let mut items: Vec<Box<RawValue>> = Vec::new();
    let mut seen = HashSet::new();
    for Part { member, era, items: part } in parts {
        hub.note(member, part, list);
        for item in hub.shown(member, list, part).iter() {
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
            let crosses = *era != session.era && list == List::Tools;
            items.push(if crosses { raw(lists::strip(&item, &["execution"])) } else { item });
        }
    }
    let result = lists::join(list.key(), items.iter().map(|item| item.get()), &[]);
    translate(session, list, parts, result)
}

/// Puts a list into the words of the client's era.
fn translate(session: &Session, list: List, parts: &[Part], result: String) -> String {
    let result = raw(result);
    if session.era == Era::Modern {
        let info = super::our_info();
        return bridge::modern_result(list.method(), &result, Some(&raw(info)));
    }
    let modern = parts.iter().any(|part| part.era == Era::Modern);
    match modern.then(|| bridge::legacy_result(list.method(), &result)) {
        Some(Ok(result)) => result,
        Some(Err(_)) | None => result.get().to_owned(),
    }
}

/// Tells whether a server offers a list, as far as is known.
pub(super) fn offers(member: &Member, list: List) -> bool {
    member.known().offers(list)
}

/// Returns the items of one server; `None` when it does not say in time.
pub(super) async fn items(
    session: &Arc<Session>,
    member: &Arc<Member>,
    list: List,
) -> Option<Part> {
    if !offers(member, list) {
        return None;
    }
    let slot = member.slot(session.slot_key(member));
    let living = slot.current();
    let (known, slow) = {
        let known = member.known();
        let era = living.as_ref().map(|conn| conn.facts().era).or_else(|| known.hop(session.era));
        let listed = era.and_then(|era| Some((era, known.said(era).lists[list.at()].clone()?)));
        (listed, known.slow)
    };
    let part = |(era, items): (Era, Items)| Part { member: member.clone(), era, items };
    if slow || (known.is_some() && living.is_none()) {
        unconfirmed(member, known.as_ref(), list);
        if slow {
            retry(session, member, list);
        }
        return known.map(part);
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
                let opening = || session.opening(&slot.key());
                slot.conn(&session.hub, member, opening).await.inspect_err(Unavailable::log).ok()?
            }
        };
        // What offers nothing was not known before it was started.
        if !known::offers(conn.facts(), list) {
            return None;
        }
        let era = conn.facts().era;
        let fetched = fetch(&session.hub, member, conn, list, false);
        Some((era, fetched.await.ok().flatten()?))
    };
    match tokio::time::timeout(patience, fresh).await {
        Ok(Some(fresh)) => Some(part(fresh)),
        Ok(None) => known.map(part),
        Err(_) => {
            tracing::warn!(server = %member.name, list = list.method(), "a list is late");
            member.known().slow = true;
            unconfirmed(member, known.as_ref(), list);
            known.map(part)
        }
    }
}

/// Notes that a client got a list which the server has not confirmed in this run.
fn unconfirmed(member: &Member, known: Option<&(Era, Items)>, list: List) {
    if let Some((era, _)) = known {
        member.known().said_mut(*era).unconfirmed[list.at()] = true;
    }
}

/// Has another look at a server that was late, for the next time; clients are told of what comes.
fn retry(session: &Arc<Session>, member: &Arc<Member>, list: List) {
    let slot = member.slot(session.slot_key(member));
    let (hub, member, opening) =
        (session.hub.clone(), member.clone(), session.opening(&slot.key()));
    hub.scope().clone().spawn_until_cancelled(async move {
        // A start that succeeds looks at what is unconfirmed by itself.
        let before = slot.current();
        if let Some(conn) = before {
            drop(fetch(&hub, &member, conn, list, true));
        } else {
            drop(slot.conn(&hub, &member, || opening).await.inspect_err(Unavailable::log));
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
    let asked = member.known().said_mut(conn.facts().era).ask(list);
    hub.scope().clone().spawn_until_cancelled(async move {
        let items = drain(&conn, list).await.map(Arc::new);
        if let Some(items) = &items {
            note(&hub, &member, &conn, list, (items, asked), tell);
        }
        drop(done.send(items));
    });
    fetched
}

/// Notes a list as the server has it now, and tells the clients when they see another one than
/// before: all that see the server, if `tell` says so or one of them was given what was known; where
/// the conversation is of one client who has had the server do something, only that one. What it
/// lists then may be its own.
fn note(
    hub: &Arc<Hub>,
    member: &Arc<Member>,
    conn: &Arc<Conn>,
    list: List,
    (items, asked): (&Items, u64),
    tell: bool,
) {
    member.known().slow = false;
    if member.isolation != Isolation::Shared && conn.is_used() {
        let before = conn.relist(list.at(), items.clone());
        let known = || member.known().said(conn.facts().era).lists[list.at()].clone();
        hub.note(member, items, list);
        if let Some(key) = member.key_of(conn)
            && tell
            && differ(hub, member, list, before.or_else(known).as_ref(), items)
        {
            hub.clients(&key, member).iter().for_each(|session| session.tell_changed(list));
        }
        return;
    }
    let (changed, unconfirmed) = replace(hub, member, conn.facts().era, list, (items, asked));
    if changed && (tell || unconfirmed) {
        hub.tell_changed(member, list);
    }
}

/// Keeps a list as the server has it now, unless a later question was answered before this one;
/// tells whether clients see another one than before, and whether a client got that without the
/// server having confirmed it.
pub(super) fn replace(
    hub: &Arc<Hub>,
    member: &Arc<Member>,
    era: Era,
    list: List,
    (items, asked): (&Items, u64),
) -> (bool, bool) {
    let (before, unconfirmed) = {
        let mut known = member.known();
        let said = known.said_mut(era);
        if !said.is_news(list, asked) {
            return (false, false);
        }
        let before = said.lists[list.at()].replace(items.clone());
        (before, std::mem::take(&mut said.unconfirmed[list.at()]))
    };
    if same_list(before.as_deref().map(Vec::as_slice), Some(items.as_slice())) {
        return (false, unconfirmed);
    }
    hub.note(member, items, list);
    hub.save(member);
    (differ(hub, member, list, before.as_ref(), items), unconfirmed)
}

/// Tells whether clients see a difference between two states of a list.
fn differ(hub: &Hub, member: &Member, list: List, before: Option<&Items>, after: &Items) -> bool {
    let shown = |items: &Items| hub.shown(member, list, items);
    let before = before.map(shown);
    !same_list(before.as_deref().map(Vec::as_slice), Some(shown(after).as_slice()))
}

/// Learns from a page of a list that passed by as the server wrote it; `asked` is which question of
/// its list the request was.
pub(super) fn learn(
    hub: &Arc<Hub>,
    member: &Arc<Member>,
    conn: &Arc<Conn>,
    request: &Message<'_>,
    (list, asked): (List, u64),
    answer: &[u8],
) {
    let Ok(Incoming::One(answer)) = Incoming::parse(answer) else { return };
    let Some(result) = answer.result() else { return };
    let Ok(page) = lists::items(result, list.key()) else { return };
    let cursor = cursor_of(request).map(RawValue::get);
    let next = lists::next_cursor(result).map(|next| next.get().to_owned());
    let (items, asked) = {
        let mut pages = conn.pages();
        let pages = &mut pages[list.at()];
        let before = pages.take().filter(|before| Some(before.next.as_str()) == cursor);
        let (mut items, asked) = match (before, cursor) {
            (Some(before), _) => (before.items, before.asked),
            (None, None) => (Vec::new(), asked),
            (None, Some(_)) => return,
        };
        items.extend(page.items.iter().map(|&item| item.to_owned()));
        if let Some(next) = next {
            *pages =
                Some(Pages { next, items, asked }).filter(|pages| pages.items.len() <= MAX_ITEMS);
            return;
        }
        (Arc::new(items), asked)
    };
    note(hub, member, conn, list, (&items, asked), false);
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
    let (_claim, mut packets) = conn.inquire(&request).await.ok()?;
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
