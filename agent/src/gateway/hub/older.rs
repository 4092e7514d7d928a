//! Requests of a legacy client to a server of the modern era.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::drive::{Drive, id_of};
use super::member::Member;
use super::session::raw;
use crate::gateway::link::{INBOX, Packet};
use crate::gateway::upstream::Conn;
use crate::mcp::bridge::{self, InputRequired, Level, Stamp};
use crate::mcp::message::{Edit, INTERNAL_ERROR, Incoming, Kind, METHOD_NOT_FOUND, Message};

/// How many times a server may ask for input before it answers, as SDKs have it.
const MAX_ROUNDS: usize = 10;
/// How long a user may take to answer.
const PATIENCE: Duration = Duration::from_secs(600);

/// What came of one round.
enum Round {
    Done { failed: bool },
    Input(InputRequired),
}

/// Carries a request over a modern conversation; tells whether it failed.
pub(super) async fn pass(
    drive: &Drive<'_>,
    member: &Arc<Member>,
    conn: &Arc<Conn>,
    request: &Message<'_>,
    edits: Vec<Edit>,
) -> bool {
    let edited = request.rewrite(edits);
    let edited = std::str::from_utf8(&edited).unwrap_or_default();
    let Ok(message) = Message::parse(edited) else { return true };
    let mut text = stamp(drive, conn, &message);
    for _ in 0..MAX_ROUNDS {
        let input = match round(drive, member, conn, request, &text).await {
            Round::Done { failed } => return failed,
            Round::Input(input) => input,
        };
        let Some(answers) = ask(drive, &input).await else {
            drive
                .fail(request, INTERNAL_ERROR, "the client did not give the input asked for")
                .await;
            return true;
        };
        let Ok(stamped) = Message::parse(&text) else { return true };
        text = input.retry(&stamped, answers);
    }
    drive.fail(request, INTERNAL_ERROR, "the server asks for input again and again").await;
    true
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
    let failed = Round::Done { failed: true };
    let Ok(message) = Message::parse(text) else { return failed };
    let (sink, mut packets) = mpsc::channel(INBOX);
    let _claim = match conn.request(&message, Vec::new(), sink).await {
        Ok(claim) => claim,
        Err(refusal) => {
            drive.refused(request, member, refusal).await;
            return failed;
        }
    };
    while let Some(packet) = packets.recv().await {
        if packet.last {
            return finish(drive, request, &packet).await;
        }
        if let Some(message) = drive.on_the_way(member, conn, packet.message).await {
            drive.send(Packet { message, last: false }).await;
        }
    }
    drive.gave_up(request, member).await;
    failed
}

async fn finish(drive: &Drive<'_>, request: &Message<'_>, packet: &Packet) -> Round {
    let failed = super::drive::is_error(&packet.message);
    let Ok(Incoming::One(answer)) = Incoming::parse(&packet.message) else {
        return Round::Done { failed: true };
    };
    if let Some(error) = answer.error() {
        let (id, error) = (id_of(request), bridge::legacy_error(error));
        let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#);
        drive.send(Packet { message: text.into(), last: true }).await;
        return Round::Done { failed };
    }
    let nothing = raw("{}".to_owned());
    let result = answer.result().unwrap_or(&nothing);
    if let Some(input) = InputRequired::parse(result) {
        return Round::Input(input);
    }
    match bridge::legacy_result(request.method(), result) {
        Ok(result) => drive.reply(request, &result).await,
        Err(error) => {
            drive.fail(request, INTERNAL_ERROR, &error.to_string()).await;
            return Round::Done { failed: true };
        }
    }
    Round::Done { failed }
}

/// Asks the client all questions at once and waits for its answers; `None` when one of them is an
/// error or does not come.
async fn ask(drive: &Drive<'_>, input: &InputRequired) -> Option<Vec<(String, Box<RawValue>)>> {
    let mut waiting = Vec::new();
    for question in &input.requests {
        let (id, answer) = drive.session.questions.ask_ourselves()?;
        let elicitation = format!("mcpm-{}", id.trim_matches('"'));
        let params = question.params.as_deref();
        let text = bridge::legacy_question(&id, &question.method, params, &elicitation);
        drive.send(Packet { message: text.into(), last: false }).await;
        waiting.push((question, answer));
    }
    let mut answers = Vec::new();
    for (question, answer) in waiting {
        let answer = tokio::time::timeout(PATIENCE, answer).await.ok()?.ok()?;
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
