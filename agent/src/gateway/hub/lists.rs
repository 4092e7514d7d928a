//! The lists of all servers in view, as one.
//!
//! A server that runs is asked; one that does not is answered for from what is known of it, and is
//! started only when nothing is. No server holds up the lists of the others for long.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::value::RawValue;

use super::drive::Drive;
use super::fetch::{PAGE, fetch};
use super::kinds::List;
use super::known::{self, Items, Known};
use super::member::{Member, Unavailable};
use super::merged::Last;
use super::session::{Session, raw};
use crate::mcp::era::Era;
use crate::mcp::message::{INVALID_PARAMS, Message, string};
use crate::mcp::{bridge, lists};

/// How long a list waits for a server of which something is known already.
const REFRESH: Duration = Duration::from_secs(2);

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

/// Returns the list of several servers for whom nobody has to be asked or started: each of them rests,
/// and what it last said is known.
pub(super) fn at_once(
    session: &Arc<Session>,
    request: &Message<'_>,
    list: List,
) -> Option<Arc<str>> {
    if session.view.single().is_some() || cursor_of(request).is_some() {
        return None;
    }
    let members = session.view.members.iter().filter(|member| offers(member, list));
    let resting = |member: &Arc<Member>| {
        let lives = member.slot(session.slot_key(member)).current().is_some();
        if lives { None } else { remembered(session, member, list) }
    };
    let parts: Option<Vec<Part>> = members.map(resting).collect();
    Some(merge(session, parts?, list))
}

/// Returns the cursor of a page that is asked for.
pub(super) fn cursor_of<'a>(request: &Message<'a>) -> Option<&'a RawValue> {
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

/// Returns the items of a server that rests, where they are known and it was not late with them.
fn remembered(session: &Session, member: &Arc<Member>, list: List) -> Option<Part> {
    let mut known = member.known();
    let listed = |era| known.said(era).lists[list.at()].is_some();
    if known.slow || !known.hop(session.era).is_some_and(listed) {
        return None;
    }
    stand_in(&mut known, session, member, list)
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
    let lives = living.is_some();
    if !lives && let Some(part) = remembered(session, member, list) {
        return Some(part);
    }
    let patience = {
        let mut known = member.known();
        if known.slow {
            let part = stand_in(&mut known, session, member, list);
            drop(known);
            retry(session, member, list);
            return part;
        }
        match (known.list(session.era, list), session.view.members.len()) {
            (Some(_), _) => REFRESH,
            (None, 1) => session.hub.options.start_timeout + PAGE,
            (None, _) => session.hub.options.first_list,
        }
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
            return Some(None);
        }
        let era = conn.facts().era;
        let items = fetch(&session.hub, member, conn, list, false).get().await?;
        Some(Some(Part { member: member.clone(), era, items }))
    };
    match tokio::time::timeout(patience, fresh).await {
        Ok(Some(part)) => part,
        Ok(None) => stand_in(&mut member.known(), session, member, list),
        Err(_) => {
            tracing::warn!(server = %member.name, list = list.method(), "a list is late");
            let part = {
                let mut known = member.known();
                known.slow = true;
                stand_in(&mut known, session, member, list)
            };
            // Its start goes on, and may have ended before it was known that something is owed.
            if !lives {
                retry(session, member, list);
            }
            part
        }
    }
}

/// Returns what is known, also in the other era, for a client that does not wait for the server. It
/// is told when the server says something else.
fn stand_in(
    known: &mut Known,
    session: &Session,
    member: &Arc<Member>,
    list: List,
) -> Option<Part> {
    known.owe(session.era, list);
    let era = known.hop(session.era).unwrap_or(session.era);
    let (era, items) = known.list(era, list)?;
    Some(Part { member: member.clone(), era, items })
}

/// Has another look at a server that was late, for the next time; clients are told of what comes.
fn retry(session: &Arc<Session>, member: &Arc<Member>, list: List) {
    let slot = member.slot(session.slot_key(member));
    let (hub, member, opening) =
        (session.hub.clone(), member.clone(), session.opening(&slot.key()));
    hub.scope().clone().spawn_until_cancelled(async move {
        // A start that succeeds looks at what is owed by itself.
        let before = slot.current();
        if let Some(conn) = before {
            drop(fetch(&hub, &member, conn, list, true));
        } else {
            drop(slot.conn(&hub, &member, || opening).await.inspect_err(Unavailable::log));
        }
    });
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
