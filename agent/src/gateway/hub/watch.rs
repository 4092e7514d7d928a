//! What a server says that belongs to no request, and its end.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::kinds::List;
use super::listen::{Offer, our_listen, unmark};
use super::member::{Member, Slot, SlotKey};
use super::route::task_of;
use super::session::Session;
use super::turn::{Turn, set_off};
use super::{GATHER, Hub};
use super::{fetch, known, lists};
use crate::gateway::upstream::Conn;
use crate::mcp::bridge::{self, Level};
use crate::mcp::era::Era;
use crate::mcp::message::{Incoming, Key, Kind, METHOD_NOT_FOUND, Message, error_response};
use crate::mcp::object::Object;

/// How often a list is asked for whose server says again and again that it changed.
const PACE: Duration = Duration::from_secs(1);

/// What is asked for anew, one list at a time.
type Fresh = Arc<[Turn; 4]>;

/// Follows one conversation until it ends: by itself, by being stopped, or with the hub's scope.
/// The hub is held weakly, for it holds the conversation.
pub(super) fn run(
    hub: Weak<Hub>,
    slot: Arc<Slot>,
    member: Arc<Member>,
    conn: Arc<Conn>,
) -> impl Future<Output = ()> + Send + use<> {
    let listener = conn.listen();
    async move {
        let opened = async {
            if let Some(hub) = hub.upgrade() {
                begin(&hub, &slot, &member, &conn);
            }
        };
        let follow = async {
            let Ok(mut said) = listener else { return };
            let fresh = Fresh::default();
            while let Some(packet) = said.recv().await {
                let Some(hub) = hub.upgrade() else { return };
                heard(&hub, &slot, &member, &conn, &fresh, &packet.message).await;
            }
        };
        let subscribe = async {
            if conn.facts().era == Era::Modern && !Offer::of(conn.facts()).is_nothing() {
                stay_subscribed(&hub, &slot, &member, &conn).await;
            }
        };
        // What a server says is heard even if it does not answer what it is asked first.
        let work = async { tokio::join!(opened, follow, subscribe) };
        let reason = tokio::select! {
            reason = conn.over() => reason,
            _ = work => conn.over().await,
        };
        tracing::debug!(server = %member.name, reason, "a conversation ended");
        slot.died(&conn, &reason);
    }
}

/// What a new conversation needs: the level of logs, subscriptions of before, and a look at what
/// was answered for it.
fn begin(hub: &Arc<Hub>, slot: &Arc<Slot>, member: &Arc<Member>, conn: &Arc<Conn>) {
    set_level(hub, member, slot, conn);
    for list in List::ALL {
        let owed = member.known().said(conn.facts().era).owed[list.at()];
        if owed && known::offers(conn.facts(), list) {
            drop(fetch::fetch(hub, member, conn.clone(), list, true));
        }
    }
    hub.follow_wishes(member, slot, conn);
}

/// Asks servers for as much log as their clients want. Nobody waits for their answers.
pub(super) fn set_levels(session: &Session) {
    for member in &session.view.members {
        let slot = member.slot(session.slot_key(member));
        if let Some(conn) = slot.current() {
            set_level(&session.hub, member, &slot, &conn);
        }
    }
}

/// Asks a legacy server for as much log as the most curious of its clients wants. Where it was
/// asked before and has not answered yet, it is asked for the latest level then.
fn set_level(hub: &Arc<Hub>, member: &Arc<Member>, slot: &Arc<Slot>, conn: &Arc<Conn>) {
    let facts = conn.facts();
    let logs = Object::of(&facts.capabilities).is_some_and(|all| all.contains("logging"));
    if facts.era != Era::Legacy || !logs || !slot.levels.ask() {
        return;
    }
    let (weak, member, slot, conn) =
        (Arc::downgrade(hub), member.clone(), slot.clone(), conn.clone());
    set_off(hub.scope(), async move {
        while slot.levels.next() {
            let Some(clients) = weak.upgrade().map(|hub| hub.clients(&slot.key(), &member)) else {
                return;
            };
            let levels = clients.into_iter().filter_map(|session| session.level());
            let level = levels.filter_map(|level| Level::parse(&level)).min();
            let Some(level) = level else { continue };
            let mut params = Object::new();
            params.set_str("level", level.as_str());
            // The conversation may be a new one by now.
            let conn = slot.current().unwrap_or_else(|| conn.clone());
            drop(fetch::ask(&conn, "logging/setLevel", params).await);
        }
    });
}

/// Asks for a list that changed: after what comes together has come, one request at a time, and
/// not more often than the server can be up to.
fn refresh(hub: &Arc<Hub>, member: &Arc<Member>, conn: &Arc<Conn>, fresh: &Fresh, list: List) {
    if !fresh[list.at()].ask() {
        return;
    }
    let weak = Arc::downgrade(hub);
    let (member, conn, fresh) = (member.clone(), conn.clone(), fresh.clone());
    hub.scope().spawn_until_cancelled(async move {
        tokio::time::sleep(GATHER).await;
        while fresh[list.at()].next() {
            let next = Instant::now() + PACE;
            let Some(hub) = weak.upgrade().filter(|_| !conn.is_over()) else { return };
            drop(fetch::fetch(&hub, &member, conn.clone(), list, true).get().await);
            drop(hub);
            tokio::time::sleep_until(next).await;
        }
    });
}

async fn heard(
    hub: &Arc<Hub>,
    slot: &Slot,
    member: &Arc<Member>,
    conn: &Arc<Conn>,
    fresh: &Fresh,
    text: &Bytes,
) {
    let Ok(Incoming::One(message)) = Incoming::parse(text) else { return };
    if message.kind() == Kind::Request {
        return question(hub, slot, member, conn, &message).await;
    }
    let changed: Vec<List> = List::told_by(message.method()).collect();
    if let Some(list) = changed.first()
        && hub.everything.single().is_some()
        && !hub.hides(*list)
    {
        // Clients hear what the server says; they list anew if they care, and we learn from that.
        for session in hub.clients(&slot.key(), member) {
            session.say_changed(*list, text);
        }
        return;
    }
    if !changed.is_empty() {
        for list in changed {
            let seen = member.known().said(conn.facts().era).lists[list.at()].is_some();
            if seen || hub.hides(list) {
                refresh(hub, member, conn, fresh, list);
            } else {
                hub.tell_changed(member, list);
            }
        }
        return;
    }
    let clients = hub.clients(&slot.key(), member);
    match message.method() {
        "notifications/resources/updated" => updated(&clients, &message, text),
        "notifications/message" => {
            for session in clients {
                if let Some(text) = session.log(member, &message) {
                    session.say(text);
                }
            }
        }
        "notifications/cancelled" => {
            for session in clients {
                if let Some(text) = session.withdrawn(conn, &message) {
                    session.say(text);
                }
            }
        }
        method => {
            let task = method.starts_with("notifications/tasks").then(|| task_of(&message));
            let task = task.flatten();
            let theirs = |session: &&Arc<Session>| {
                session.era == conn.facts().era
                    && task.as_ref().is_none_or(|id| !hub.task_is_of_another(id, session, member))
            };
            for session in clients.iter().filter(theirs) {
                session.say(text.clone());
            }
        }
    }
}

fn updated(clients: &[Arc<Session>], message: &Message<'_>, text: &Bytes) {
    let Some(uri) = lists::text_member(message.params(), "uri") else { return };
    for session in clients {
        let subscribed = session.subscribed().contains(&uri);
        if subscribed {
            session.say(text.clone());
        }
        session.outlet.updated(&uri, text);
    }
}

/// A question that belongs to no request goes to a client only when there is no doubt which.
async fn question(
    hub: &Arc<Hub>,
    slot: &Slot,
    member: &Member,
    conn: &Arc<Conn>,
    message: &Message<'_>,
) {
    let clients = hub.clients(&slot.key(), member);
    if let ([session], SlotKey::Session(_)) = (clients.as_slice(), &slot.key()) {
        if let Some(text) = session.ask(conn, message).await {
            session.say(text);
        }
        return;
    }
    let id = message.id().map(serde_json::value::RawValue::get);
    let text = "no client can be asked: the request belongs to none";
    drop(conn.answer(error_response(id, METHOD_NOT_FOUND, text, None).into()).await);
}

/// Keeps a subscription open at a server of the modern era, for what its clients want.
async fn stay_subscribed(hub: &Weak<Hub>, slot: &Slot, member: &Arc<Member>, conn: &Arc<Conn>) {
    let fresh = Fresh::default();
    loop {
        let anew = member.known().resubscribe.clone();
        let changed = anew.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let Some(wanted) = hub.upgrade().map(|hub| hub.wanted(&slot.key(), member)) else { return };
        let Some(text) = our_listen(conn, &wanted) else {
            // Nobody wants to hear of a resource yet, and of lists it does not tell.
            changed.await;
            continue;
        };
        let Ok(request) = Message::parse(&text) else { return };
        let Ok((_claim, mut said)) = conn.inquire(&request).await else { return };
        loop {
            let packet = tokio::select! {
                packet = said.recv() => packet,
                () = &mut changed => break,
            };
            // A server may end it, or not know it at all: then there is nothing to hear.
            let Some(packet) = packet.filter(|packet| !packet.last) else { return };
            let Some(hub) = hub.upgrade() else { return };
            let Ok(Incoming::One(message)) = Incoming::parse(&packet.message) else { continue };
            if let Some(text) = unmark(&message) {
                heard(&hub, slot, member, conn, &fresh, &text.into()).await;
            }
        }
    }
}

impl Session {
    /// Makes a question of a server one for this client, or answers it when the client cannot.
    pub(super) async fn ask(&self, conn: &Arc<Conn>, question: &Message<'_>) -> Option<Bytes> {
        let capabilities = super::session::raw(self.client.capabilities.clone());
        let asked = bridge::Question::of(question.method(), question.params());
        let able = asked.is_none_or(|asked| bridge::declares(&capabilities, asked));
        if able
            && self.era == Era::Legacy
            && let Some(text) = self.questions.ask(conn, question)
        {
            return Some(text);
        }
        let id = question.id()?;
        let refusal = bridge::legacy_refusal(id, question.method());
        drop(conn.answer(refusal.into()).await);
        None
    }

    /// Decides whether this client wants a log message, and says which server it is from.
    pub(super) fn log(&self, member: &Member, message: &Message<'_>) -> Option<Bytes> {
        if self.era == Era::Legacy
            && let Some(level) = self.level().as_deref().and_then(Level::parse)
            && !level.admits(message)
        {
            return None;
        }
        if !self.view.prefixed {
            return Some(Bytes::copy_from_slice(message.text().as_bytes()));
        }
        let mut object = Object::parse(message.text())?;
        object.edit_in("params", |params| {
            let logger = params.get_str("logger").map(std::borrow::Cow::into_owned);
            let logger =
                logger.map_or_else(|| member.name.clone(), |l| format!("{}/{l}", member.name));
            params.set_str("logger", &logger);
        });
        Some(object.to_string().into())
    }

    /// Translates a server's taking back of a question.
    pub(super) fn withdrawn(&self, conn: &Arc<Conn>, message: &Message<'_>) -> Option<Bytes> {
        let theirs = message.peek().request_id?;
        let ours = self.questions.withdrawn(conn, &Key::of(theirs))?;
        Some(message.rewrite(vec![message.edit(theirs, &ours)]).into())
    }
}
