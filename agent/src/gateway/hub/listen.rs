//! Subscriptions of clients: `resources/subscribe` of the legacy era, `subscriptions/listen` of the
//! modern one.

use std::collections::HashSet;
use std::sync::Arc;

use super::Hub;
use super::drive::{Drive, id_of};
use super::kinds::List;
use super::lists::text_member;
use super::member::{Member, Slot};
use super::outlet::{Filter, mark};
use super::route::owners;
use super::session::Session;
use super::turn::set_off;
use crate::gateway::link::Packet;
use crate::gateway::upstream::{Conn, Facts};
use crate::mcp::bridge;
use crate::mcp::era::Era;
use crate::mcp::message::{INVALID_PARAMS, INVALID_REQUEST, Message, string};
use crate::mcp::object::{self, Object};

const SUBSCRIBE: &str = "resources/subscribe";
const UNSUBSCRIBE: &str = "resources/unsubscribe";
/// How many resources one subscription may name.
const MAX_URIS: usize = 1024;

/// Returns the server that a subscription is for: who is known to own the resource, else the only
/// one that has resources.
pub(super) fn owner(session: &Session, uri: &str) -> Option<Arc<Member>> {
    if let Some(only) = session.view.single() {
        return Some(only.clone());
    }
    owners(session, uri).into_iter().next()
}

pub(super) async fn subscribe(drive: &Drive<'_>, request: &Message<'_>) {
    let session = drive.session;
    let Some(uri) = text_member(request.params(), "uri") else {
        return drive.fail(request, INVALID_PARAMS, "the resource has no URI").await;
    };
    let Some(member) = owner(session, &uri) else {
        return drive.fail(request, INVALID_PARAMS, &format!("unknown resource: {uri}")).await;
    };
    let conn = match drive.conn(&member).await {
        Ok(conn) => conn,
        Err(unavailable) => return drive.unavailable(request, &unavailable).await,
    };
    let modern = conn.facts().era == Era::Modern;
    if modern && !Offer::of(conn.facts()).resources {
        return drive.unknown_method(request).await;
    }
    let (noted, told) = {
        // Noted together: who looks between would ask the server twice, or to stop again.
        let mut told = conn.subscribed();
        let others = told.contains(&uri) && !session.subscribed().contains(&uri);
        let noted = session.subscribe(&uri);
        if noted && !modern {
            told.insert(uri.clone());
        }
        (noted, others)
    };
    if !noted {
        return drive.fail(request, INVALID_REQUEST, "too many subscriptions").await;
    }
    if modern {
        // It hears of it when its own subscription is made anew.
        session.hub.resubscribe(&member);
        return drive.reply(request, "{}").await;
    }
    if told {
        // Another client has asked it.
        return drive.reply(request, "{}").await;
    }
    if drive_failed(drive, &member, request).await {
        session.subscribed().remove(&uri);
        conn.subscribed().remove(&uri);
    }
}

/// Passes a request on as it is; tells whether it failed.
async fn drive_failed(drive: &Drive<'_>, member: &Arc<Member>, request: &Message<'_>) -> bool {
    let (sink, mut packets) = tokio::sync::mpsc::channel(8);
    let inner = Drive::new(drive.session, drive.text, &sink, drive.taken_back.clone());
    let answered = async {
        while let Some(packet) = packets.recv().await {
            if packet.last {
                return Some(packet);
            }
            drive.send(packet).await;
        }
        None
    };
    let ((), answer) = tokio::join!(inner.to(member, request, Vec::new()), answered);
    let Some(answer) = answer else { return true };
    let failed = super::drive::is_error(&answer.message);
    drive.send(answer).await;
    failed
}

pub(super) async fn unsubscribe(drive: &Drive<'_>, request: &Message<'_>) {
    let session = drive.session;
    let Some(uri) = text_member(request.params(), "uri") else {
        return drive.fail(request, INVALID_PARAMS, "the resource has no URI").await;
    };
    session.subscribed().remove(&uri);
    let Some(member) = owner(session, &uri) else {
        return drive.fail(request, INVALID_PARAMS, &format!("unknown resource: {uri}")).await;
    };
    let slot = member.slot(session.slot_key(&member));
    let wanted = session.hub.wanted(&slot.key(), &member).contains(&uri);
    match slot.current() {
        Some(conn) if conn.facts().era == Era::Legacy && !wanted => {
            conn.subscribed().remove(&uri);
            let _failed = drive_failed(drive, &member, request).await;
        }
        Some(conn) if conn.facts().era == Era::Modern => {
            session.hub.resubscribe(&member);
            drive.reply(request, "{}").await;
        }
        // Another client still wants it, or nothing runs that could send it.
        _ => drive.reply(request, "{}").await,
    }
}

/// Serves `subscriptions/listen` until the client ends it.
pub(super) async fn listen(drive: &Drive<'_>, request: &Message<'_>) {
    let session = drive.session;
    let filter = filter(session, request);
    let honoured = honoured(&filter);
    let id = id_of(request);
    let text = format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{{"notifications":{honoured}}}}}"#
    );
    // Registered only after its first message, which the acknowledgement must be.
    let Some(first) = mark(text.as_bytes(), id) else { return };
    drive.send(Packet { message: first, last: false }).await;
    let uris: Vec<String> = filter.uris.iter().cloned().collect();
    let Some((number, mut told)) = session.outlet.subscribe(id, filter) else {
        return drive.fail(request, INVALID_REQUEST, "too many subscriptions").await;
    };
    let _ends = Subscription { session, number, uris: &uris };
    let begin = async {
        for uri in &uris {
            begin(session, drive, uri).await;
        }
    };
    let forward = async {
        while let Some(packet) = told.recv().await {
            drive.send(packet).await;
        }
    };
    // Its end is the client's: by closing the stream or cancelling the request.
    tokio::select! {
        () = drive.sink.closed() => {}
        _ = async { tokio::join!(begin, forward) } => {}
    }
}

/// Has a server tell of a resource.
async fn begin(session: &Arc<Session>, drive: &Drive<'_>, uri: &str) {
    let Some(member) = owner(session, uri) else { return };
    let Ok(conn) = drive.conn(&member).await else { return };
    if !Offer::of(conn.facts()).resources {
        return;
    }
    if conn.facts().era == Era::Modern {
        return session.hub.resubscribe(&member);
    }
    let slot = member.slot(session.slot_key(&member));
    session.hub.follow_wishes(&member, &slot, &conn);
}

/// Ends a subscription when it is dropped.
struct Subscription<'a> {
    session: &'a Arc<Session>,
    number: u64,
    uris: &'a [String],
}

impl Drop for Subscription<'_> {
    fn drop(&mut self) {
        self.session.outlet.unsubscribe(self.number);
        self.session.hub.release(self.session, self.uris);
    }
}

impl Hub {
    /// Gives up subscriptions of a client that nobody else holds.
    pub(super) fn release(self: &Arc<Self>, session: &Session, uris: &[String]) {
        if uris.is_empty() {
            return;
        }
        for member in &session.view.members {
            let slot = member.slot(session.slot_key(member));
            let Some(conn) = slot.current() else { continue };
            if conn.facts().era == Era::Modern {
                self.resubscribe(member);
                continue;
            }
            self.follow_wishes(member, &slot, &conn);
        }
    }

    /// Has a legacy server tell of the resources that its clients want to hear of, and of no others.
    /// One request follows the other, whoever changes his mind meanwhile.
    pub(super) fn follow_wishes(
        self: &Arc<Self>,
        member: &Arc<Member>,
        slot: &Arc<Slot>,
        conn: &Arc<Conn>,
    ) {
        if conn.facts().era != Era::Legacy || !slot.wishes.ask() {
            return;
        }
        let (weak, member, slot, conn) =
            (Arc::downgrade(self), member.clone(), slot.clone(), conn.clone());
        set_off(self.scope(), async move {
            while slot.wishes.next() {
                let Some(hub) = weak.upgrade() else { return };
                // The conversation may be a new one by now.
                let conn = slot.current().unwrap_or_else(|| conn.clone());
                let asks = {
                    let mut told = conn.subscribed();
                    let wanted = hub.wanted(&slot.key(), &member);
                    let less = told.difference(&wanted).map(|uri| (UNSUBSCRIBE, uri.clone()));
                    let more = wanted.difference(&told).map(|uri| (SUBSCRIBE, uri.clone()));
                    let asks: Vec<(&str, String)> = less.chain(more).collect();
                    *told = wanted;
                    asks
                };
                drop(hub);
                for (method, uri) in asks {
                    let mut params = Object::new();
                    params.set_str("uri", &uri);
                    let refused = super::fetch::ask(&conn, method, params).await.is_none();
                    if refused && method == SUBSCRIBE {
                        // It may do so the next time.
                        conn.subscribed().remove(&uri);
                    }
                }
            }
        });
    }
}

/// Reads what a subscription asks for and we can give.
fn filter(session: &Session, request: &Message<'_>) -> Filter {
    let params = request.params().and_then(Object::of);
    let asked = params.and_then(|params| params.get_object("notifications")).unwrap_or_default();
    let wants = |list: List| {
        asked.get(list.filter()).is_some_and(|wanted| wanted.get() == "true")
            && tells(session, list)
    };
    let uris = asked.get_array("resourceSubscriptions").unwrap_or_default();
    let uris: HashSet<String> = uris
        .into_iter()
        .filter_map(|uri| string(uri).map(std::borrow::Cow::into_owned))
        .filter(|uri| owner(session, uri).is_some_and(|member| may_subscribe(session, &member)))
        .take(MAX_URIS)
        .collect();
    Filter { lists: List::ALL.map(wants), uris }
}

/// Tells whether changes of a list can be told: of several servers always, since one may come or
/// go; of a single one when it tells itself.
fn tells(session: &Session, list: List) -> bool {
    session.view.single().is_none_or(|only| {
        let facts = only.known().facts(session.era);
        facts.is_none_or(|facts| Offer::of(&facts).lists[list.at()])
    })
}

/// Tells whether a server tells of its resources, as far as is known.
fn may_subscribe(session: &Session, member: &Member) -> bool {
    let facts = member.known().facts(session.era);
    facts.is_none_or(|facts| Offer::of(&facts).resources)
}

/// What a server says it tells of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Offer {
    /// That a list has changed.
    pub(super) lists: [bool; 4],
    /// That a resource has.
    pub(super) resources: bool,
}

impl Offer {
    pub(super) fn of(facts: &Facts) -> Self {
        let all = Object::of(&facts.capabilities).unwrap_or_default();
        let has = |capability: &str, key: &str| {
            let own = all.get_object(capability).unwrap_or_default();
            own.get(key).is_some_and(|value| value.get() == "true")
        };
        let lists = List::ALL.map(|list| has(list.capability(), "listChanged"));
        Self { lists, resources: has("resources", "subscribe") }
    }

    /// Tells whether it tells of nothing.
    pub(super) fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

fn honoured(filter: &Filter) -> String {
    let mut honoured = Object::new();
    for list in [List::Tools, List::Prompts, List::Resources] {
        if filter.lists[list.at()] {
            honoured.set(list.filter(), super::session::raw("true".to_owned()));
        }
    }
    if !filter.uris.is_empty() {
        let uris: Vec<_> = filter.uris.iter().map(|uri| object::text(uri)).collect();
        honoured.set("resourceSubscriptions", object::array(&uris));
    }
    honoured.to_raw().get().to_owned()
}

/// Returns the request by which we subscribe to a server of the modern era, to what it offers;
/// `None` when there is nothing to ask for.
pub(super) fn our_listen(conn: &Conn, uris: &HashSet<String>) -> Option<String> {
    let offer = Offer::of(conn.facts());
    let uris = if offer.resources { uris.iter().cloned().collect() } else { HashSet::new() };
    let filter = Filter { lists: offer.lists, uris };
    if filter.uris.is_empty() && filter.lists == [false; 4] {
        return None;
    }
    let wanted = honoured(&filter);
    let text = format!(
        r#"{{"jsonrpc":"2.0","id":0,"method":"subscriptions/listen","params":{{"notifications":{wanted}}}}}"#
    );
    Some(super::fetch::stamped(conn, text))
}

/// Removes the mark of our own subscription from a notification.
pub(super) fn unmark(message: &Message<'_>) -> Option<String> {
    let mut object = Object::parse(message.text())?;
    object.edit_in("params", |params| {
        params.edit_in("_meta", |meta| drop(meta.remove(bridge::SUBSCRIPTION_ID)));
    });
    Some(object.to_raw().get().to_owned())
}
