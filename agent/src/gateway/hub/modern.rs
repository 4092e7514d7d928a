//! Requests of a modern client to a legacy server.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::drive::{Drive, id_of};
use super::member::Member;
use super::parked::{Question, Waiting};
use super::session::raw;
use crate::gateway::link::Packet;
use crate::gateway::seal::{Binding, Digest, Kind as Handle};
use crate::gateway::upstream::Conn;
use crate::mcp::bridge::{self, Failure, InputRequired, Level};
use crate::mcp::message::{Edit, INVALID_PARAMS, Incoming, Kind, Message, string};

/// How many questions one call may ask.
const MAX_QUESTIONS: usize = 100;

/// What a modern request says of itself.
struct Said {
    capabilities: Option<Box<RawValue>>,
    level: Option<Level>,
}

fn said(request: &Message<'_>) -> Said {
    let meta = request.meta();
    let level = request
        .peek()
        .meta
        .and_then(|meta| crate::mcp::lists::member(meta, bridge::LOG_LEVEL))
        .and_then(string);
    Said {
        capabilities: meta.client_capabilities.map(ToOwned::to_owned),
        level: level.and_then(|level| Level::parse(&level)),
    }
}

/// Carries a request over a legacy conversation.
pub(super) async fn pass(
    drive: &Drive<'_>,
    member: &Arc<Member>,
    conn: &Arc<Conn>,
    request: &Message<'_>,
    edits: Vec<Edit>,
) {
    let binding = Binding {
        kind: Handle::Parked,
        principal: Digest::of_principal(&drive.session.principal),
        request: Digest::of_request(request.method(), request.params()),
    };
    let state = request.params().and_then(bridge::request_state);
    let waiting = match state {
        Some(state) => match drive.session.hub.parking().take(&state, &binding) {
            Ok(waiting) => answered(waiting, request).await,
            Err(error) => {
                return drive.fail(request, INVALID_PARAMS, &error.to_string()).await;
            }
        },
        None => match begin(drive, conn, request, edits).await {
            Ok(waiting) => waiting,
            Err(refusal) => return drive.refused(request, member, refusal).await,
        },
    };
    follow(drive, member, request, waiting, binding).await;
}

async fn begin(
    drive: &Drive<'_>,
    conn: &Arc<Conn>,
    request: &Message<'_>,
    edits: Vec<Edit>,
) -> Result<Waiting, crate::gateway::link::Refusal> {
    let edited = request.rewrite(edits);
    let edited = std::str::from_utf8(&edited).unwrap_or_default();
    let text = Message::parse(edited).map(|message| bridge::legacy_request(&message));
    let text = text.unwrap_or_else(|_| request.text().to_owned());
    let message = Message::parse(&text).unwrap_or_else(|_| request.clone());
    let (claim, packets) = conn.request(&message, Vec::new(), drive.session.number).await?;
    let asked_for = drive.asked(claim);
    Ok(Waiting { conn: conn.clone(), asked_for, packets, questions: Vec::new(), asked: 0 })
}

/// Hands the client's answers to the server; what it left out stays open.
async fn answered(mut waiting: Waiting, request: &Message<'_>) -> Waiting {
    let answers = request.params().map(bridge::input_responses).unwrap_or_default();
    for (key, answer) in answers {
        let at = waiting.questions.iter().position(|question| question.key == key);
        if let Some(at) = at {
            let question = waiting.questions.swap_remove(at);
            let line = bridge::legacy_answer(&question.id, &answer);
            drop(waiting.conn.answer(line.into()).await);
        }
    }
    waiting
}

/// Follows a call until its answer, or until it asks something.
async fn follow(
    drive: &Drive<'_>,
    member: &Arc<Member>,
    request: &Message<'_>,
    mut waiting: Waiting,
    binding: Binding,
) {
    let said = said(request);
    // Another request may have begun the call.
    waiting.asked_for.taken_back = drive.taken_back.clone();
    loop {
        if !waiting.questions.is_empty() {
            return park(drive, member, request, waiting, binding).await;
        }
        let Some(packet) = waiting.packets.recv().await else {
            return drive.gave_up(request, member).await;
        };
        if packet.last {
            return finish(drive, &waiting.conn, request, &said, &packet).await;
        }
        let Ok(Incoming::One(message)) = Incoming::parse(&packet.message) else { continue };
        match (message.kind(), message.method()) {
            (Kind::Request, _) => question(&said, &mut waiting, &message).await,
            (Kind::Notification, "notifications/message") => {
                if said.level.is_some_and(|level| level.admits(&message)) {
                    drive.send(packet).await;
                }
            }
            (Kind::Notification, "notifications/progress") => drive.send(packet).await,
            // The modern era has no others within a request.
            _ => tracing::debug!(method = message.method(), "notification dropped"),
        }
    }
}

async fn question(said: &Said, waiting: &mut Waiting, message: &Message<'_>) {
    let Some(id) = message.id() else { return };
    let asked = bridge::Question::of(message.method(), message.params());
    let able = said.capabilities.as_deref().zip(asked);
    let able = able.is_some_and(|(capabilities, asked)| bridge::declares(capabilities, asked));
    if !able || waiting.asked >= MAX_QUESTIONS {
        let refusal = bridge::legacy_refusal(id, message.method());
        drop(waiting.conn.answer(refusal.into()).await);
        return;
    }
    waiting.asked += 1;
    waiting.questions.push(Question {
        key: format!("input-{}", waiting.asked),
        id: id.to_owned(),
        method: message.method().to_owned(),
        params: message.params().map(ToOwned::to_owned),
    });
}

/// Answers with the open questions and puts the call aside.
async fn park(
    drive: &Drive<'_>,
    member: &Arc<Member>,
    request: &Message<'_>,
    waiting: Waiting,
    binding: Binding,
) {
    let requests = waiting
        .questions
        .iter()
        .map(|question| {
            bridge::input_request(&question.method, question.params.as_deref(), &question.key)
        })
        .collect();
    let principal = &drive.session.principal;
    let parked = drive.session.hub.parking().park(binding, principal, member.index, waiting);
    let Ok(state) = parked else {
        return drive.fail(request, INVALID_PARAMS, "too many calls wait for answers").await;
    };
    let result = InputRequired { requests, state: Some(state) }.to_result();
    drive.reply(request, &result).await;
}

async fn finish(
    drive: &Drive<'_>,
    conn: &Conn,
    request: &Message<'_>,
    said: &Said,
    packet: &Packet,
) {
    let Ok(Incoming::One(answer)) = Incoming::parse(&packet.message) else { return };
    if let Some(error) = answer.error() {
        let capabilities = said.capabilities.as_deref();
        match bridge::modern_error(request.method(), error, capabilities) {
            Failure::Input(input) => drive.reply(request, &input.to_result()).await,
            Failure::Error(error) => {
                let id = id_of(request);
                let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#);
                drive.send(Packet { message: text.into(), last: true }).await;
            }
        }
        return;
    }
    let nothing = raw("{}".to_owned());
    let result = answer.result().unwrap_or(&nothing);
    let info = server_info(drive, conn);
    let result = bridge::modern_result(request.method(), result, info.as_deref());
    drive.reply(request, &result).await;
}

/// Returns who answers: the server itself when it stands alone, else we.
fn server_info(drive: &Drive<'_>, conn: &Conn) -> Option<Box<RawValue>> {
    if drive.session.view.prefixed {
        return Some(raw(super::our_info()));
    }
    conn.facts().server_info.clone()
}
