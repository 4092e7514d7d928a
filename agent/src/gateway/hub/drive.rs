//! One request of a client, from its arrival to its answer.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::HeaderMap;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::kinds::List;
use super::member::{Member, Unavailable};
use super::route::{self, Astray, Route};
use super::session::{Session, TakenBack, quoted};
use super::{fetch, filter, listen, lists, mirrored, modern, older, watch, welcome};
use crate::gateway::link::{Claim, INBOX, Packet, Refusal};
use crate::gateway::upstream::Conn;
use crate::mcp::era::Era;
use crate::mcp::message::{
    Edit, INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, Incoming, Key, Kind, METHOD_NOT_FOUND,
    Message, error_response, string,
};
use crate::mcp::{bridge, object};
use crate::usage::Call;

/// A request under way.
pub(super) struct Drive<'a> {
    pub(super) session: &'a Arc<Session>,
    /// The request as the client wrote it.
    pub(super) text: &'a [u8],
    pub(super) sink: &'a mpsc::Sender<Packet>,
    /// Where the client reads; for a request within a request that is not `sink`.
    pub(super) front: &'a mpsc::Sender<Packet>,
    /// How the client took the request back, if it did.
    pub(super) taken_back: TakenBack,
    /// Under what the client knows the request, where its ids are unique: free again with the answer.
    pub(super) key: Option<Key>,
    /// What the client was answered.
    pub(super) answered: OnceLock<Bytes>,
    /// Why no server could be had for it.
    pub(super) trouble: OnceLock<String>,
}

/// The right to an answer. Dropped early, it tells the server what the client said in taking the
/// request back.
#[derive(Debug)]
pub(super) struct Asked {
    claim: Claim,
    /// How the request was taken back, if it was.
    pub(super) taken_back: TakenBack,
}

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some(notice) = self.taken_back.get().and_then(|text| Message::parse(text).ok()) {
            self.claim.taken_back(&notice);
        }
    }
}

/// Sees a request through. Dropping the future gives it up at the server too.
pub(super) async fn run(drive: Drive<'_>) {
    let text = std::str::from_utf8(drive.text).unwrap_or_default();
    match Message::parse(text) {
        Ok(request) => drive.dispatch(&request).await,
        Err(error) => tracing::debug!(%error, "a request that was parsed before"),
    }
}

/// The id of a request as its client wrote it.
pub(super) fn id_of<'a>(request: &Message<'a>) -> &'a str {
    request.id().map_or("null", RawValue::get)
}

/// Returns the answer to a request that has this result.
pub(super) fn result(request: &Message<'_>, result: &str) -> Bytes {
    let parts = [r#"{"jsonrpc":"2.0","id":"#, id_of(request), r#","result":"#, result, "}"];
    parts.concat().into()
}

impl<'a> Drive<'a> {
    pub(super) fn new(
        session: &'a Arc<Session>,
        text: &'a [u8],
        sink: &'a mpsc::Sender<Packet>,
        taken_back: TakenBack,
    ) -> Self {
        let (answered, trouble) = (OnceLock::new(), OnceLock::new());
        Self { session, text, sink, front: sink, taken_back, key: None, answered, trouble }
    }
}

impl Drive<'_> {
    async fn dispatch(&self, request: &Message<'_>) {
        if let Some(ledger) = &self.session.usage {
            ledger.saw(self.session, request);
        }
        if filter::is_shady(self.session, request) {
            let text = "names of members are spelled as in the specification";
            return self.fail(request, INVALID_REQUEST, text).await;
        }
        let method = request.method();
        if let Some(list) = List::of_method(method) {
            return lists::answer(self, request, list).await;
        }
        match (method, self.session.era) {
            ("ping", Era::Legacy) => self.reply(request, "{}").await,
            ("server/discover", Era::Modern) => match welcome::discover(self.session).await {
                Ok(result) => self.reply(request, &result).await,
                Err(why) => self.unavailable(request, &why).await,
            },
            ("logging/setLevel", Era::Legacy) => self.set_level(request).await,
            ("resources/subscribe", Era::Legacy) => listen::subscribe(self, request).await,
            ("resources/unsubscribe", Era::Legacy) => listen::unsubscribe(self, request).await,
            ("subscriptions/listen", Era::Modern) => listen::listen(self, request).await,
            ("initialize", Era::Legacy) => {
                self.fail(request, INVALID_REQUEST, "the session is open already").await;
            }
            // The modern era has removed these; a legacy server behind would answer them.
            (
                "initialize"
                | "ping"
                | "logging/setLevel"
                | "resources/subscribe"
                | "resources/unsubscribe",
                Era::Modern,
            ) => self.unknown_method(request).await,
            _ => self.forward(request).await,
        }
    }

    /// Sends the request to the server it is for.
    async fn forward(&self, request: &Message<'_>) {
        match route::find(self.session, request).await {
            Ok(Route::To(member, edits)) => self.to(&member, request, edits).await,
            Ok(Route::Ask(members)) => self.ask_around(&members, request).await,
            Err(Astray::Unknown(text)) => self.fail(request, INVALID_PARAMS, &text).await,
            Err(Astray::Method) => self.unknown_method(request).await,
        }
    }

    pub(super) async fn unknown_method(&self, request: &Message<'_>) {
        let text = format!("`{}` is not served here", request.method());
        self.fail(request, METHOD_NOT_FOUND, &text).await;
    }

    /// Sends the request to one server.
    pub(super) async fn to(&self, member: &Arc<Member>, request: &Message<'_>, edits: Vec<Edit>) {
        let call = self.noted(member, request);
        self.carry(member, request, edits).await;
        self.note_end(call);
    }

    async fn carry(&self, member: &Arc<Member>, request: &Message<'_>, edits: Vec<Edit>) {
        match self.conn(member).await {
            Ok(conn) => self.over(member, &conn, request, edits).await,
            Err(unavailable) => self.unavailable(request, &unavailable).await,
        }
    }

    /// Returns the conversation that serves this client.
    pub(super) async fn conn(&self, member: &Arc<Member>) -> Result<Arc<Conn>, Unavailable> {
        let slot = member.slot(self.session.slot_key(member));
        slot.conn(&self.session.hub, member, || self.session.opening(&slot.key())).await
    }

    /// Carries the request over a conversation, by the eras of its two ends.
    async fn over(
        &self,
        member: &Arc<Member>,
        conn: &Arc<Conn>,
        request: &Message<'_>,
        edits: Vec<Edit>,
    ) {
        match (self.session.era, conn.facts().era) {
            (Era::Modern, Era::Legacy) => modern::pass(self, member, conn, request, edits).await,
            (Era::Legacy, Era::Modern) => older::pass(self, member, conn, request, edits).await,
            _ => self.pass(member, conn, request, edits).await,
        }
    }

    /// Carries the request between two ends of one era: what comes back passes as it is.
    async fn pass(
        &self,
        member: &Arc<Member>,
        conn: &Arc<Conn>,
        request: &Message<'_>,
        edits: Vec<Edit>,
    ) {
        let headers = self.headers(member, conn, request);
        let listed = List::of_method(request.method())
            .map(|list| (list, member.known().said_mut(conn.facts().era).ask(list)));
        let (claim, mut packets) =
            match conn.request_with_headers(request, edits, headers, self.session.number).await {
                Ok(begun) => begun,
                Err(refusal) => return self.refused(request, member, refusal).await,
            };
        let _asked = self.asked(claim);
        while let Some(packet) = packets.recv().await {
            if packet.last {
                route::learn(self.session, member, &packet.message);
                self.relist_if_outdated(member, conn, request, &packet.message);
                if let Some(listed) = listed {
                    fetch::learn(&self.session.hub, member, conn, request, listed, &packet.message);
                }
                return self.send(packet).await;
            }
            if let Some(message) = self.on_the_way(member, conn, packet.message).await {
                self.send(Packet { message, last: false }).await;
            }
        }
        self.gave_up(request, member).await;
    }

    /// Asks for the tools again after a refusal that says that other headers are wanted: the next call
    /// has them. This one is the client's to repeat, for a call is made once.
    pub(super) fn relist_if_outdated(
        &self,
        member: &Arc<Member>,
        conn: &Arc<Conn>,
        request: &Message<'_>,
        answer: &[u8],
    ) {
        if mirrored::is_outdated(conn, request, answer) {
            drop(fetch::fetch(&self.session.hub, member, conn.clone(), List::Tools, true));
        }
    }

    /// Returns the headers that a call must have besides those of every request.
    fn headers(&self, member: &Member, conn: &Conn, request: &Message<'_>) -> HeaderMap {
        let own = || {
            let name = request.peek().name.and_then(string)?;
            Some(route::original(self.session, member, request.method(), &name))
        };
        self.session.hub.mirrored.headers(member, conn, own, request)
    }

    /// Binds a claim to how the client may take its request back.
    pub(super) fn asked(&self, claim: Claim) -> Asked {
        Asked { claim, taken_back: self.taken_back.clone() }
    }

    /// Decides over a message that precedes the answer of a legacy server, or of one of our
    /// client's own era.
    pub(super) async fn on_the_way(
        &self,
        member: &Arc<Member>,
        conn: &Arc<Conn>,
        text: Bytes,
    ) -> Option<Bytes> {
        let Ok(Incoming::One(message)) = Incoming::parse(&text) else { return None };
        match (message.kind(), message.method()) {
            (Kind::Request, _) => self.session.ask(conn, &message).await,
            (Kind::Notification, "notifications/message") => self.session.log(member, &message),
            (Kind::Notification, "notifications/cancelled") => {
                self.session.withdrawn(conn, &message)
            }
            _ => Some(text.clone()),
        }
    }

    /// Asks servers in order until one knows the resource. Only the answer that the client gets is
    /// noted.
    async fn ask_around(&self, members: &[Arc<Member>], request: &Message<'_>) {
        let mut last: Option<(Packet, Option<Call>)> = None;
        for member in members {
            if let Some((_, Some(call))) = last.take() {
                call.forget();
            }
            let call = self.noted(member, request);
            let (sink, mut packets) = mpsc::channel(INBOX);
            let inner = Drive {
                front: self.front,
                ..Drive::new(self.session, self.text, &sink, self.taken_back.clone())
            };
            // Boxed: a request within a request.
            let asked = Box::pin(inner.carry(member, request, Vec::new()));
            let answer = async {
                while let Some(packet) = packets.recv().await {
                    if packet.last {
                        return Some(packet);
                    }
                    self.send(packet).await;
                }
                None
            };
            let ((), answer) = tokio::join!(
                async {
                    asked.await;
                },
                answer
            );
            let Some(answer) = answer else { continue };
            if !is_unknown(&answer.message) {
                route::remember(self.session, member, request);
                self.send(answer).await;
                return self.note_end(call);
            }
            last = Some((answer, call));
        }
        match last {
            Some((answer, call)) => {
                self.send(answer).await;
                self.note_end(call);
            }
            None => self.fail(request, INVALID_PARAMS, "no server knows this resource").await,
        }
    }

    async fn set_level(&self, request: &Message<'_>) {
        let params = request.params().and_then(object::Object::of);
        let level = params.as_ref().and_then(|params| params.get_str("level"));
        let Some(level) = level.filter(|level| bridge::Level::parse(level).is_some()) else {
            return self.fail(request, INVALID_PARAMS, "`level` is not a level of logging").await;
        };
        self.session.set_level(&level);
        watch::set_levels(self.session);
        self.reply(request, "{}").await;
    }

    /// Answers with a result of ours.
    pub(super) async fn reply(&self, request: &Message<'_>, result: &str) {
        self.send(Packet { message: self::result(request, result), last: true }).await;
    }

    /// Answers with an error of ours.
    pub(super) async fn fail(&self, request: &Message<'_>, code: i64, text: &str) {
        let message = error_response(Some(id_of(request)), code, text, None).into();
        self.send(Packet { message, last: true }).await;
    }

    pub(super) async fn send(&self, packet: Packet) {
        if packet.last {
            drop(self.answered.set(packet.message.clone()));
            // A client may use the id again as soon as it has the answer.
            if let Some(key) = &self.key {
                self.session.finished(key, &self.taken_back);
            }
        }
        // Whoever reads no more has given the request up, which ends us.
        drop(self.sink.send(packet).await);
    }

    /// Tells that a server cannot be had. A model can make something of a tool's failure, but
    /// nothing of an error of the protocol.
    pub(super) async fn unavailable(&self, request: &Message<'_>, why: &Unavailable) {
        why.log();
        let text = why.to_string();
        drop(self.trouble.set(text.clone()));
        if request.method() != "tools/call" {
            let data =
                serde_json::json!({ "server": why.server, "reason": "upstream_unavailable" });
            let id = Some(id_of(request));
            let message = error_response(id, INTERNAL_ERROR, &text, Some(&data)).into();
            return self.send(Packet { message, last: true }).await;
        }
        let complete =
            if self.session.era == Era::Modern { r#""resultType":"complete","# } else { "" };
        let text = quoted(&text);
        let result =
            format!(r#"{{{complete}"content":[{{"type":"text","text":{text}}}],"isError":true}}"#);
        self.reply(request, &result).await;
    }

    pub(super) async fn refused(&self, request: &Message<'_>, member: &Member, refusal: Refusal) {
        let reason = refusal.to_string();
        let server = member.name.clone();
        self.unavailable(request, &Unavailable { server, reason, cause: None }).await;
    }

    /// Tells that there will be no answer: we are shutting down.
    pub(super) async fn gave_up(&self, request: &Message<'_>, member: &Member) {
        let text = format!("the answer of server `{}` was lost", member.name);
        self.fail(request, INTERNAL_ERROR, &text).await;
    }
}

/// Tells whether an answer is an error of the protocol, or says that a tool failed.
pub(super) fn is_error(answer: &[u8]) -> bool {
    let Ok(Incoming::One(message)) = Incoming::parse(answer) else { return true };
    let failed = |result: &RawValue| {
        result.get().contains(r#""isError""#)
            && object::Object::of(result)
                .is_some_and(|result| result.get("isError").is_some_and(|is| is.get() == "true"))
    };
    message.error().is_some() || message.result().is_some_and(failed)
}

/// Tells whether an answer says that the server does not know what was asked for.
fn is_unknown(answer: &[u8]) -> bool {
    const NOT_FOUND: i64 = -32002;
    let Ok(Incoming::One(message)) = Incoming::parse(answer) else { return false };
    matches!(message.error_code(), Some(NOT_FOUND | INVALID_PARAMS | METHOD_NOT_FOUND))
}
