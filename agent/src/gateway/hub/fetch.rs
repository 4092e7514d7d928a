//! Asking servers for their lists, and noting what they say.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::Hub;
use super::kinds::List;
use super::known::Items;
use super::member::{Isolation, Member};
use super::session::raw;
use crate::catalog::same_list;
use crate::gateway::upstream::{Answer, Conn, Pages};
use crate::mcp::era::Era;
use crate::mcp::message::{Incoming, Message};
use crate::mcp::{bridge, lists, object};

/// How long a server may take over one page.
pub(super) const PAGE: Duration = Duration::from_secs(30);
/// How many pages and items of one server are taken.
const MAX_PAGES: usize = 1000;
const MAX_ITEMS: usize = 100_000;

/// What a server was asked for and will answer, or not.
#[derive(Debug)]
pub(super) struct Fetched(Answer<Option<Items>>);

impl Fetched {
    /// Waits for the list; `None` when the server does not give it.
    pub(super) async fn get(self) -> Option<Items> {
        self.0.get().await.flatten()
    }
}

/// Asks a server for a list, notes it, and tells the clients when it differs from what they were
/// told. It goes on when nobody waits any more; who comes meanwhile is answered by one more question.
pub(super) fn fetch(
    hub: &Arc<Hub>,
    member: &Arc<Member>,
    conn: Arc<Conn>,
    list: List,
    tell: bool,
) -> Fetched {
    let (answer, begins) = conn.rounds(list.at()).join(tell);
    if begins {
        let (hub, member) = (hub.clone(), member.clone());
        hub.scope().clone().spawn_until_cancelled(async move {
            let mut turns = conn.rounds(list.at()).turns();
            while let Some(round) = turns.next() {
                let asked = member.known().said_mut(conn.facts().era).ask(list);
                let before = last(&member, &conn, list);
                let items = drain(&conn, list, before).await;
                if let Some(items) = &items {
                    note(&hub, &member, &conn, list, (items, asked), round.tell);
                }
                round.answer(items);
            }
        });
    }
    Fetched(answer)
}

/// Returns a list as it is known in a conversation.
fn last(member: &Member, conn: &Conn, list: List) -> Option<Items> {
    conn.listed(list.at())
        .or_else(|| member.known().said(conn.facts().era).lists[list.at()].clone())
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
        let before = last(member, conn, list);
        conn.relist(list.at(), items.clone());
        if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, items)) {
            return;
        }
        hub.note(member, items, list);
        if let Some(key) = member.key_of(conn)
            && tell
            && differ(hub, member, list, before.as_ref(), items)
        {
            hub.clients(&key, member).iter().for_each(|session| session.tell_changed(list));
        }
        return;
    }
    let (changed, owed) = replace(hub, member, conn.facts().era, list, (items, asked));
    if changed && (tell || owed) {
        hub.tell_changed(member, list);
    }
}

/// Keeps a list as the server has it now, unless a later question was answered before this one;
/// tells whether clients see another one than before, and whether a client got that without having
/// heard the server.
pub(super) fn replace(
    hub: &Arc<Hub>,
    member: &Arc<Member>,
    era: Era,
    list: List,
    (items, asked): (&Items, u64),
) -> (bool, bool) {
    let (before, shown, owed) = {
        let mut known = member.known();
        if !known.said_mut(era).is_news(list, asked) {
            return (false, false);
        }
        let shown = known.list(era, list).map(|(_, items)| items);
        let said = known.said_mut(era);
        let before = said.lists[list.at()].replace(items.clone());
        (before, shown, std::mem::take(&mut said.owed[list.at()]))
    };
    if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, items))
        || same_list(before.as_deref().map(Vec::as_slice), Some(items.as_slice()))
    {
        return (false, owed);
    }
    hub.note(member, items, list);
    hub.save(member);
    (differ(hub, member, list, shown.as_ref(), items), owed)
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
    let cursor = super::lists::cursor_of(request).map(RawValue::get);
    if cursor.is_none()
        && let Some(before) = last(member, conn, list)
        && lists::holds(result, list.key(), &before)
    {
        conn.pages()[list.at()] = None;
        return note(hub, member, conn, list, (&before, asked), false);
    }
    let Ok(page) = lists::items(result, list.key()) else { return };
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

/// Collects all pages of a list. Where it reads as `before` that is returned, so that what was made
/// of it still holds.
async fn drain(conn: &Arc<Conn>, list: List, before: Option<Items>) -> Option<Items> {
    let mut all: Vec<Box<RawValue>> = Vec::new();
    let mut cursor: Option<String> = None;
    for _ in 0..MAX_PAGES {
        let mut params = object::Object::new();
        if let Some(cursor) = &cursor {
            params.set("cursor", raw(cursor.clone()));
        }
        let answer = answer(conn, list.method(), params).await?;
        let Ok(Incoming::One(message)) = Incoming::parse(&answer) else { return None };
        let result = result_of(&message, list.method())?;
        if cursor.is_none()
            && let Some(before) = before.as_ref().filter(|b| lists::holds(result, list.key(), b))
        {
            return Some(before.clone());
        }
        let page = lists::items(result, list.key()).ok()?;
        all.extend(page.items.iter().map(|&item| item.to_owned()));
        let next = lists::next_cursor(result).map(|next| next.get().to_owned());
        let Some(next) = next.filter(|next| Some(next) != cursor.as_ref()) else {
            let reads_as = |before: &Items| {
                let pairs = before.iter().zip(&all);
                before.len() == all.len() && pairs.clone().all(|(a, b)| a.get() == b.get())
            };
            return Some(before.filter(reads_as).unwrap_or_else(|| Arc::new(all)));
        };
        if all.len() > MAX_ITEMS {
            break;
        }
        cursor = Some(next);
    }
    tracing::warn!(list = list.method(), items = all.len(), "a list does not end, cut");
    Some(Arc::new(all))
}

/// Makes a request of our own and returns its result.
pub(super) async fn ask(
    conn: &Arc<Conn>,
    method: &str,
    params: object::Object,
) -> Option<Box<RawValue>> {
    let answer = answer(conn, method, params).await?;
    let Ok(Incoming::One(answer)) = Incoming::parse(&answer) else { return None };
    result_of(&answer, method).map(ToOwned::to_owned)
}

/// Returns the result of an answer to a request of ours.
fn result_of<'a>(answer: &Message<'a>, method: &str) -> Option<&'a RawValue> {
    if answer.error().is_some() {
        // Its words are the server's, and may hold anything.
        tracing::debug!(method, code = answer.error_code(), "a server refused a request of ours");
    }
    answer.result()
}

/// Makes a request of our own and returns its answer; `None` when there is none in time.
async fn answer(conn: &Arc<Conn>, method: &str, params: object::Object) -> Option<Bytes> {
    let params = params.to_raw();
    let text = format!(r#"{{"jsonrpc":"2.0","id":0,"method":"{method}","params":{params}}}"#);
    let text = stamped(conn, text);
    let request = Message::parse(&text).ok()?;
    let (_claim, mut packets) = conn.inquire(&request).await.ok()?;
    tokio::time::timeout(PAGE, async {
        loop {
            let packet = packets.recv().await?;
            if packet.last {
                return Some(packet.message);
            }
        }
    })
    .await
    .ok()?
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
