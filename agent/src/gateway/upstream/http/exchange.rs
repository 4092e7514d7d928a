//! One request over HTTP: its POST, what comes back, and how it can fail.

use std::sync::Arc;

use bytes::Bytes;
use http::header::HeaderMap;
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming as Body;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::stream::Seen;
use super::{Core, NOTICE};
use crate::gateway::GatewayError;
use crate::gateway::child::Exit;
use crate::gateway::link::{Arrival, Inbox, Packet, death_notice, failure};
use crate::gateway::upstream::endpoint::is_events;
use crate::hint::Hint as _;
use crate::mcp::era::{Era, SESSION_HEADER};
use crate::mcp::message::{Incoming, Key, Kind, METHOD_NOT_FOUND, Message};
use crate::mcp::sse::TooLong;

/// A request that is ready to be sent.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// Our id.
    pub(super) key: Key,
    /// The id as the client wrote it.
    pub(super) id: String,
    pub(super) line: Bytes,
    pub(super) headers: HeaderMap,
    /// Whether it opens the conversation.
    pub(super) opens: bool,
    pub(super) sink: Inbox,
}

/// Why a message did not do what it should.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    #[error("it answered HTTP {}", .0.as_u16())]
    Status(StatusCode),
    #[error("it answers with a redirect")]
    Redirect,
    #[error("it left the request unanswered")]
    Unanswered,
    #[error("a message is longer than {0} bytes")]
    TooLong(usize),
    #[error("the conversation has ended")]
    Over,
}

impl From<TooLong> for Failure {
    fn from(TooLong(limit): TooLong) -> Self {
        Self::TooLong(limit)
    }
}

impl Failure {
    /// Returns the error of a conversation that did not open.
    pub(super) fn into_error(self, server: &str) -> GatewayError {
        match self {
            Self::Gateway(error) => error,
            other => {
                GatewayError::Refused { server: server.to_owned(), message: other.to_string() }
            }
        }
    }

    /// Returns the text that answers a request.
    fn explain(&self, server: &str) -> String {
        match self {
            // Only a person can log in, and this is all that reaches one.
            Self::Gateway(
                error @ (GatewayError::Unauthorized { .. } | GatewayError::Login { .. }),
            ) => {
                let hint = error.hint().map(|hint| format!(". {hint}")).unwrap_or_default();
                format!("{}{hint}", with_root(error))
            }
            Self::Gateway(error) => with_root(error),
            Self::Status(status) => format!("server `{server}` answered HTTP {}", status.as_u16()),
            other => format!("server `{server}` did not answer: {other}"),
        }
    }
}

impl Core {
    /// Runs a request until it is answered, given up, or the conversation ends.
    pub(super) async fn run(
        self: Arc<Self>,
        outgoing: Outgoing,
        turn: u64,
        cancel: CancellationToken,
    ) {
        let work = async {
            // The sender is ours, so waiting cannot fail.
            drop(self.passed.subscribe().wait_for(|passed| *passed >= turn).await);
            self.exchange(&outgoing).await
        };
        let outcome = tokio::select! {
            biased;
            outcome = work => Some(outcome),
            () = cancel.cancelled() => None,
            () = self.stop.cancelled() => Some(Err(Failure::Over)),
        };
        match outcome {
            Some(Ok(_)) => {}
            Some(Err(failure)) => self.fail(&outgoing, &failure),
            // Closing the stream has told a modern server (2026-07-28 §Streamable HTTP).
            None => {
                let told = self.table().release(&outgoing.key);
                if let Some(line) = told.filter(|_| self.era == Era::Legacy) {
                    drop(self.enqueue(line).await);
                }
            }
        }
    }

    /// Answers a request that the server will not answer.
    fn fail(&self, outgoing: &Outgoing, failed: &Failure) {
        if !self.table().forget(&outgoing.key) {
            return;
        }
        let server = self.endpoint.server();
        let packet = if let Failure::Over = failed {
            let why = self.why.borrow().clone();
            let status = why.unwrap_or_else(|| "it was stopped".to_owned());
            let notice = death_notice(server, &Exit { success: false, status }, Some(&outgoing.id));
            Packet { message: notice.into(), last: true }
        } else {
            tracing::debug!(server, error = failed as &dyn std::error::Error, "a request failed");
            failure(&outgoing.id, &failed.explain(server), "upstream_failed")
        };
        drop(outgoing.sink.push(packet));
    }

    /// Sends a request and hands on all that comes back. It is answered when this returns well.
    pub(super) async fn exchange(&self, outgoing: &Outgoing) -> Result<StatusCode, Failure> {
        let (headers, line) = (outgoing.headers.clone(), outgoing.line.clone());
        let response = self.endpoint.call(Method::POST, headers, line).await?;
        let status = response.status();
        self.check(&response)?;
        if outgoing.opens && status.is_success() {
            self.session().id = response.headers().get(SESSION_HEADER).cloned();
        }
        let key = &outgoing.key;
        if status.is_success() && is_events(response.headers()) {
            let mut seen = Seen::default();
            self.follow(response.into_body(), Some(outgoing), &mut seen).await?;
            self.resume(outgoing, &mut seen).await?;
            return Ok(status);
        }
        let body = self.body(response).await?;
        if !outgoing.opens && self.ends_session(status, &body, Some(key)) {
            return Err(self.session_ended());
        }
        self.arrived(&body, Some(outgoing)).await;
        match self.table().waits(key) {
            false => Ok(status),
            true if status.is_success() => Err(Failure::Unanswered),
            true => Err(Failure::Status(status)),
        }
    }

    /// Passes on, one by one, what is no request.
    pub(super) async fn pass(&self, mut queue: mpsc::Receiver<Bytes>) {
        while let Some(line) = queue.recv().await {
            let server = self.endpoint.server();
            match timeout(NOTICE, self.post(line)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::debug!(server, error = &error as &dyn std::error::Error, "not taken");
                }
                Err(_) => tracing::debug!(server, "a notification was not taken in time"),
            }
            self.passed.send_modify(|passed| *passed += 1);
        }
    }

    /// Posts what is no request.
    pub(super) async fn post(&self, line: Bytes) -> Result<(), Failure> {
        let text = std::str::from_utf8(&line).unwrap_or_default();
        let Ok(message) = Message::parse(text) else { return Ok(()) };
        if self.era == Era::Modern && message.kind() == Kind::Response {
            // Modern servers ask nothing, so there is nothing to answer.
            return Ok(());
        }
        let headers = self.headers(&message);
        let response = self.endpoint.call(Method::POST, headers, line.clone()).await?;
        let status = response.status();
        self.check(&response)?;
        if status.is_success() && is_events(response.headers()) {
            return Ok(());
        }
        let body = self.body(response).await?;
        if self.ends_session(status, &body, None) {
            return Err(self.session_ended());
        }
        if status.is_success() { Ok(()) } else { Err(Failure::Status(status)) }
    }

    /// Refuses what no client of ours could use.
    pub(super) fn check(&self, response: &Response<Body>) -> Result<(), Failure> {
        match response.status() {
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(self.endpoint.refusal(status, response.headers()).into())
            }
            status if status.is_redirection() => Err(Failure::Redirect),
            _ => Ok(()),
        }
    }

    async fn body(&self, response: Response<Body>) -> Result<Bytes, Failure> {
        let body = Limited::new(response.into_body(), self.max).collect().await;
        let body = body.map_err(|error| match error.downcast::<LengthLimitError>() {
            Ok(_) => Failure::TooLong(self.max),
            Err(error) => self.endpoint.unreachable(error).into(),
        })?;
        Ok(body.to_bytes())
    }

    /// Tells whether an answer shows that the session is gone: by 404 (2025-11-25 §Session
    /// Management), or by the 400 that many servers give instead.
    fn ends_session(&self, status: StatusCode, body: &[u8], key: Option<&Key>) -> bool {
        if !self.in_session() {
            return false;
        }
        let answer = match Incoming::parse(body) {
            Ok(Incoming::One(message)) => message.id().map(Key::of).zip(Some(message.error_code())),
            _ => None,
        };
        let code = answer.filter(|(id, _)| Some(id) == key).map(|(_, code)| code);
        match status {
            StatusCode::NOT_FOUND => code != Some(Some(METHOD_NOT_FOUND)),
            StatusCode::BAD_REQUEST => {
                let text = String::from_utf8_lossy(&body[..body.len().min(1000)]);
                code.is_none() && text.to_ascii_lowercase().contains("session")
            }
            _ => false,
        }
    }

    /// Ends the conversation because the server has forgotten it.
    pub(super) fn session_ended(&self) -> Failure {
        self.session().id = None;
        self.end("its session has ended");
        Failure::Over
    }

    /// Hands on a message, or a batch of them (2025-03-26), that came over the stream of `via`.
    pub(super) async fn arrived(&self, text: &[u8], via: Option<&Outgoing>) {
        if text.trim_ascii_start().first() != Some(&b'[') {
            return self.hand(text, via).await;
        }
        let Ok(batch) = Incoming::parse(text) else { return };
        for message in batch.messages() {
            self.hand(message.text().as_bytes(), via).await;
        }
    }

    async fn hand(&self, text: &[u8], via: Option<&Outgoing>) {
        let arrival = self.table().arrive_via(text, via.map(|via| &via.key));
        match arrival {
            // The stream of a request waits for its own reader, which is the server's to feel;
            // giving up the claim ends both.
            Arrival::For(sink, packet) if via.is_some_and(|via| via.sink.same_channel(&sink)) => {
                sink.send(packet).await;
            }
            Arrival::For(sink, packet) => {
                if let Err(full) = sink.push(packet)
                    && let Some(line) = full.explain(self.endpoint.server())
                {
                    drop(self.enqueue(line.into()).await);
                }
            }
            Arrival::Answer(line) => drop(self.enqueue(line.into()).await),
            Arrival::Dropped(why) => {
                tracing::debug!(server = self.endpoint.server(), why, "message dropped");
            }
            Arrival::Noise => {
                tracing::debug!(server = self.endpoint.server(), "what came is not MCP, dropped");
            }
        }
    }
}

/// Returns an error with what is at the bottom of it, such as `connection refused`.
fn with_root(error: &GatewayError) -> String {
    let mut root: &dyn std::error::Error = error;
    while let Some(source) = root.source() {
        root = source;
    }
    let (text, root) = (error.to_string(), root.to_string());
    if text == root { text } else { format!("{text}: {root}") }
}
