//! Requests of a legacy client to a server of the modern era.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::drive::{Drive, id_of};
use super::member::Member;
use super::session::raw;
use crate::gateway::link::Packet;
use crate::gateway::upstream::Conn;
use crate::mcp::bridge::{self, InputRequired, Level, Stamp};
use crate::mcp::message::{
    Edit, INTERNAL_ERROR, Incoming, Kind, METHOD_NOT_FOUND, Message, string,
};

/// How many times a server may ask for input before it answers, as SDKs have it.
const MAX_ROUNDS: usize = 10;
/// How long a user may take to answer.
const PATIENCE: Duration = Duration::from_secs(600);

/// What came of one round.
enum Round {
    Done,
    Input(InputRequired),
}

/// Carries a request over a modern conversation.
pub(super) async fn pass(
    drive: &Drive<'_>,
    member: &Arc<Member>,
    conn: &Arc<Conn>,
    request: &Message<'_>,
    edits: Vec<Edit>,
) {
    let edited = request.rewrite(edits);
    let edited = std::str::from_utf8(&edited).unwrap_or_default();
    let Ok(message) = Message::parse(edited) else { return };
    let mut text = stamp(drive, conn, &message);
    for _ in 0..MAX_ROUNDS {
        let input = match round(drive, member, conn, request, &text).await {
            Round::Done => return,
            Round::Input(input) => input,
        };
        let Some(answers) = ask(drive, &input).await else {
            let text = "the client did not give the input asked for";
            return drive.fail(request, INTERNAL_ERROR, text).await;
        };
        let Ok(stamped) = Message::parse(&text) else { return };
        text = input.retry(&stamped, answers);
    }
    drive.fail(request, INTERNAL_ERROR, "the server asks for input again and again").await;
}

/// Writes what a modern request says of its sender.
fn stamp(drive: &Drive<'_>, conn: &Conn, message: &Message<'_>) -> String {
    let client = &drive.session.client;
    let capabilities = raw(client.capabilities.clone());
    let capabilities = raw(bridge::modern_client_capabilities(&capabilities));
    let info = raw(client.info.clone());
    let stamp = Stamp {
        version: &conn.facts().version,
        capabilities: &capabilities,
        client_info: Some(&info),
        log_level: drive.session.level().as_deref().and_then(Level::parse),
    };
    bridge::modern_request(message, &stamp)
}

async fn round(
    drive: &Drive<'_>,
    member: &Arc<Member>,
    conn: &Arc<Conn>,
    request: &Message<'_>,
    text: &str,
) -> Round {
    let Ok(message) = Message::parse(text) else { return Round::Done };
    // It bears the server's own name of the tool already.
    let own = || message.peek().name.and_then(string).map(Cow::into_owned);
    let headers = drive.session.hub.mirrored.headers(member, conn, own, &message);
    let begun =
        conn.request_with_headers(&message, Vec::new(), headers, drive.session.number).await;
    let (claim, mut packets) = match begun {
        Ok(begun) => begun,
        Err(refusal) => {
            drive.refused(request, member, refusal).await;
            return Round::Done;
        }
    };
    let _asked = drive.asked(claim);
    while let Some(packet) = packets.recv().await {
        if packet.last {
            drive.relist_if_outdated(member, conn, request, &packet.message);
            return finish(drive, request, &packet).await;
        }
        if let Some(message) = drive.on_the_way(member, conn, packet.message).await {
            drive.send(Packet { message, last: false }).await;
        }
    }
    drive.gave_up(request, member).await;
    Round::Done
}

async fn finish(drive: &Drive<'_>, request: &Message<'_>, packet: &Packet) -> Round {
    let Ok(Incoming::One(answer)) = Incoming::parse(&packet.message) else { return Round::Done };
    if let Some(error) = answer.error() {
        let (id, error) = (id_of(request), bridge::legacy_error(error));
        let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#);
        drive.send(Packet { message: text.into(), last: true }).await;
        return Round::Done;
    }
    let nothing = raw("{}".to_owned());
    let result = answer.result().unwrap_or(&nothing);
    if let Some(input) = InputRequired::parse(result) {
        return Round::Input(input);
    }
    match bridge::legacy_result(request.method(), result) {
        Ok(result) => drive.reply(request, &result).await,
        Err(error) => drive.fail(request, INTERNAL_ERROR, &error.to_string()).await,
    }
    Round::Done
}

/// Asks the client all questions at once and waits for its answers; `None` when one of them is an
/// error or does not come. What is open then is withdrawn, as with a request that is given up.
async fn ask(drive: &Drive<'_>, input: &InputRequired) -> Option<Vec<(String, Box<RawValue>)>> {
    let mut open = Open { drive, ids: Vec::new() };
    // For all of them, before the session forgets the first: what it has forgotten is not withdrawn.
    let until = Instant::now() + PATIENCE;
    let mut waiting = Vec::new();
    for question in &input.requests {
        let (id, answer) = drive.session.questions.ask_ourselves()?;
        let elicitation = format!("mcpm-{}", id.trim_matches('"'));
        let params = question.params.as_deref();
        let text = bridge::legacy_question(&id, &question.method, params, &elicitation);
        drive.send(Packet { message: text.into(), last: false }).await;
        open.ids.push(id);
        waiting.push((question, answer));
    }
    let mut answers = Vec::new();
    for (question, answer) in waiting {
        let answer = tokio::time::timeout_at(until, answer).await.ok()?.ok()?;
        let Ok(Incoming::One(answer)) = Incoming::parse(&answer) else { return None };
        debug_assert!(answer.kind() == Kind::Response, "answers are responses");
        let result = match (answer.result(), answer.error_code()) {
            (Some(result), _) => result.to_owned(),
            // Who cannot be asked declines, where that can be said.
            (None, Some(METHOD_NOT_FOUND)) if question.method == "elicitation/create" => {
                raw(r#"{"action":"decline"}"#.to_owned())
            }
            (None, _) => return None,
        };
        answers.push((question.key.clone(), result));
    }
    Some(answers)
}

/// Questions that a client was asked. Dropped, it withdraws those without an answer: a modern server
/// has nothing to withdraw, and the client would go on asking its user (2025-11-25 §Cancellation).
struct Open<'a> {
    drive: &'a Drive<'a>,
    ids: Vec<String>,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let session = self.drive.session;
        for id in self.ids.drain(..).filter(|id| session.questions.give_up(id)) {
            let message = Bytes::from(bridge::legacy_withdrawal(&id));
            let packet = Packet { message: message.clone(), last: false };
            // Where the question went, if nobody has to be waited for.
            if self.drive.front.try_send(packet).is_err() {
                session.say(message);
            }
        }
    }
}
