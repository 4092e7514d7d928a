//! The stdio face over a remote server: each line of the client is a POST, what comes back is a
//! line.
//!
//! Requests run side by side. What must stay in order (the opening, notifications, answers) goes
//! through one lane, and a request starts when the lane has passed what the client said before it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::header::{ACCEPT, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming as Body;
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufWriter};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::codec::FramedRead;
use tokio_util::sync::CancellationToken;

use super::remote::{Remote, is_events};
use super::{GatewayError, Inner};
use crate::mcp::era::{
    Era, METHOD_HEADER, NAME_HEADER, SESSION_HEADER, VERSION_HEADER, encode_header, of_message,
};
use crate::mcp::line::{Line, LineCodec};
use crate::mcp::message::{
    INTERNAL_ERROR, Incoming, Key, Kind, Message, error_response, on_one_line, string,
};
use crate::mcp::sse;

/// How many messages may wait for the client, and in the lane.
const QUEUE: usize = 64;
/// How long a notification may take to be taken.
const NOTICE: Duration = Duration::from_secs(30);
/// How long answers may still come, and the session may take to end, after the client is gone.
const DRAIN: Duration = Duration::from_secs(10);
const GOODBYE: Duration = Duration::from_secs(2);
/// How often a broken stream is taken up again, and how long it rests before.
const RESUMES: u32 = 10;
const REST: Duration = Duration::from_secs(1);

pub(super) async fn serve(
    gateway: &Inner,
    remote: &Remote,
    stdin: impl AsyncRead + Send + Unpin,
    stdout: impl AsyncWrite + Send + Unpin,
) -> Result<(), GatewayError> {
    let (out, outbox) = mpsc::channel(QUEUE);
    let bridge = Bridge {
        remote,
        max: gateway.options.max_line,
        out,
        session: watch::Sender::new(Session::default()),
        running: Mutex::default(),
    };
    let work = async move {
        let stopped = gateway.nursery.scope.cancelled();
        let end = tokio::select! {
            end = bridge.run(stdin) => end,
            () = stopped => Ok(()),
        };
        drop(timeout(GOODBYE, bridge.goodbye()).await);
        end
    };
    match tokio::try_join!(work, write(stdout, outbox)) {
        Ok(((), ())) => Ok(()),
        // The client is gone; there is nobody to tell.
        Err(GatewayError::Stdio(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(error),
    }
}

async fn write(
    stdout: impl AsyncWrite + Unpin,
    mut outbox: mpsc::Receiver<Bytes>,
) -> Result<(), GatewayError> {
    let mut stdout = BufWriter::new(stdout);
    while let Some(message) = outbox.recv().await {
        let line = on_one_line(&message);
        stdout.write_all(&line).await.map_err(GatewayError::Stdio)?;
        stdout.write_all(b"\n").await.map_err(GatewayError::Stdio)?;
        if outbox.is_empty() {
            stdout.flush().await.map_err(GatewayError::Stdio)?;
        }
    }
    Ok(())
}

/// What the answer to `initialize` told.
#[derive(Clone, Debug, Default)]
struct Session {
    open: bool,
    id: Option<HeaderValue>,
    version: Option<HeaderValue>,
}

struct Bridge<'a> {
    remote: &'a Remote,
    max: usize,
    out: mpsc::Sender<Bytes>,
    session: watch::Sender<Session>,
    /// The requests in flight; a modern one is cancelled by ending its exchange.
    running: Mutex<HashMap<Key, (Era, CancellationToken)>>,
}

impl Bridge<'_> {
    fn running(&self) -> MutexGuard<'_, HashMap<Key, (Era, CancellationToken)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(&self, stdin: impl AsyncRead + Unpin) -> Result<(), GatewayError> {
        let (lane, queue) = mpsc::channel(QUEUE);
        let passed = watch::Sender::new(0_u64);
        let requests = self.read(stdin, lane, &passed);
        let ordered = self.pass_in_order(queue, &passed);
        let work = async { tokio::join!(requests, ordered).0 };
        tokio::select! {
            end = work => end,
            // It only ends by being dropped.
            never = self.listen() => match never {},
        }
    }

    /// Reads the client and runs its requests until its input ends and they are answered.
    async fn read(
        &self,
        stdin: impl AsyncRead + Unpin,
        lane: mpsc::Sender<(u64, Bytes)>,
        passed: &watch::Sender<u64>,
    ) -> Result<(), GatewayError> {
        let mut lines = FramedRead::new(stdin, LineCodec::new(self.max));
        let mut requests = FuturesUnordered::new();
        let mut sent = 0;
        loop {
            let line = tokio::select! {
                line = lines.next() => line,
                Some(()) = requests.next() => continue,
            };
            let line = match line.transpose().map_err(GatewayError::Stdio)? {
                Some(Line::Text(line)) => line,
                Some(Line::TooLong(bytes)) => {
                    tracing::warn!(bytes, "a line of the client was too long, dropped");
                    continue;
                }
                None => break,
            };
            match sort(&line) {
                Ok(Lane::Ordered) if self.cancels(&line) => {}
                Ok(Lane::Ordered) => {
                    sent += 1;
                    let mut handed = std::pin::pin!(lane.send((sent, line)));
                    // Requests must go on while the lane is full.
                    loop {
                        tokio::select! {
                            taken = &mut handed => { drop(taken); break }
                            Some(()) = requests.next() => {}
                        }
                    }
                }
                Ok(Lane::Request) => {
                    let mut turn = passed.subscribe();
                    requests.push(async move {
                        // The sender outlives us, so waiting cannot fail.
                        drop(turn.wait_for(|passed| *passed >= sent).await);
                        self.request(&line).await;
                    });
                }
                Err(code) => {
                    let text = "the line is not JSON-RPC";
                    drop(self.out.send(error_response(None, code, text, None).into()).await);
                }
            }
        }
        drop(lane);
        let rest = async { while requests.next().await.is_some() {} };
        drop(timeout(DRAIN, rest).await);
        Ok(())
    }

    async fn pass_in_order(
        &self,
        mut queue: mpsc::Receiver<(u64, Bytes)>,
        passed: &watch::Sender<u64>,
    ) {
        while let Some((number, line)) = queue.recv().await {
            let opens =
                matches!(Incoming::parse(&line), Ok(Incoming::One(m)) if m.kind() == Kind::Request);
            if opens {
                self.request(&line).await;
            } else if timeout(NOTICE, self.post(&line)).await.is_err() {
                tracing::warn!(server = self.remote.server(), "a notification was not taken");
            }
            passed.send_replace(number);
        }
    }

    /// Ends a modern request that the client cancels; legacy servers are told themselves.
    fn cancels(&self, line: &[u8]) -> bool {
        let Ok(Incoming::One(message)) = Incoming::parse(line) else { return false };
        if message.method() != "notifications/cancelled" {
            return false;
        }
        let Some(id) = message.peek().request_id.map(Key::of) else { return false };
        match self.running().get(&id) {
            Some((Era::Modern, cancel)) => {
                cancel.cancel();
                true
            }
            _ => false,
        }
    }

    /// Makes one request (or a batch) and sees to it that it is answered.
    async fn request(&self, line: &Bytes) {
        let Ok(incoming) = Incoming::parse(line) else { return };
        let first = incoming.messages().iter().find(|message| message.kind() == Kind::Request);
        let Some((message, id)) = first.and_then(|first| Some((first, first.id()?))) else {
            return;
        };
        let era = of_message(message).unwrap_or(Era::Legacy);
        let cancel = CancellationToken::new();
        let key = Key::of(id);
        self.running().insert(key.clone(), (era, cancel.clone()));
        let outcome = cancel.run_until_cancelled(self.exchange(line, &key)).await;
        self.running().remove(&key);
        if let Some(Err(error)) = outcome {
            tracing::debug!(error = &error as &dyn std::error::Error, "a request failed");
            let text = with_root(&error);
            let answer = error_response(Some(id.get()), INTERNAL_ERROR, &text, None);
            drop(self.out.send(answer.into()).await);
        }
    }

    async fn exchange(&self, line: &Bytes, id: &Key) -> Result<(), GatewayError> {
        let response = self.send(line).await?;
        let mut seen = Seen::default();
        self.take(response, Some(id), &mut seen).await?;
        let mut tries = 0;
        while !seen.answered && seen.last.is_some() && tries < RESUMES {
            // 2025-11-25: a server may close the connection and be asked again later.
            tries += 1;
            tokio::time::sleep(seen.retry.unwrap_or(REST)).await;
            let response = self.get(seen.last.as_ref()).await?;
            self.take(response, Some(id), &mut seen).await?;
        }
        if seen.answered { Ok(()) } else { Err(self.refused("it closed the stream unanswered")) }
    }

    async fn post(&self, line: &Bytes) {
        let outcome = async {
            let response = self.send(line).await?;
            self.take(response, None, &mut Seen::default()).await
        };
        if let Err(error) = outcome.await {
            tracing::warn!(error = &error as &dyn std::error::Error, "a notification failed");
        }
    }

    fn refused(&self, message: &str) -> GatewayError {
        let (server, message) = (self.remote.server().to_owned(), message.to_owned());
        GatewayError::Refused { server, message }
    }

    async fn send(&self, line: &Bytes) -> Result<Response<Body>, GatewayError> {
        let headers = match Incoming::parse(line) {
            Ok(Incoming::One(message)) if of_message(&message) == Some(Era::Modern) => {
                mirror(&message)
            }
            Ok(Incoming::One(message)) if message.method() == "initialize" => HeaderMap::new(),
            _ => self.session_headers(),
        };
        self.remote.call(Method::POST, headers, line.clone()).await
    }

    fn session_headers(&self) -> HeaderMap {
        let session = self.session.borrow();
        let mut headers = HeaderMap::new();
        let pairs = [(SESSION_HEADER, &session.id), (VERSION_HEADER, &session.version)];
        for (name, value) in pairs {
            if let Some(value) = value {
                headers.insert(HeaderName::from_static(name), value.clone());
            }
        }
        headers
    }

    async fn get(&self, after: Option<&HeaderValue>) -> Result<Response<Body>, GatewayError> {
        let mut headers = self.session_headers();
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(after) = after {
            headers.insert(HeaderName::from_static("last-event-id"), after.clone());
        }
        self.remote.call(Method::GET, headers, Bytes::new()).await
    }

    /// Passes all messages of a response on.
    async fn take(
        &self,
        response: Response<Body>,
        id: Option<&Key>,
        seen: &mut Seen,
    ) -> Result<(), GatewayError> {
        let status = response.status();
        let session = response.headers().get(SESSION_HEADER).cloned();
        if status.is_success() && is_events(response.headers()) {
            return self.take_events(response.into_body(), id, session, seen).await;
        }
        let body = Limited::new(response.into_body(), self.max).collect().await;
        let body = body.map_err(|error| self.remote.unreachable(error))?.to_bytes();
        let answers = match Incoming::parse(&body) {
            Ok(incoming) => incoming.messages().iter().any(|m| m.kind() == Kind::Response),
            Err(_) => false,
        };
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let (server, status) = (self.remote.server().to_owned(), status.as_u16());
                Err(GatewayError::Unauthorized { server, status })
            }
            // An error of the server's own is the best answer there is, whatever its status.
            _ if answers && id.is_some() && names(&body, id) => {
                self.arrived(body, id, session, seen).await;
                Ok(())
            }
            StatusCode::NOT_FOUND if self.session.borrow().id.is_some() => {
                Err(self.refused("the session has ended; restart the client"))
            }
            status if status.is_success() && body.is_empty() => {
                seen.answered |= id.is_none();
                Ok(())
            }
            status => Err(self.refused(&format!("it answered HTTP {}", status.as_u16()))),
        }
    }

    async fn take_events(
        &self,
        mut body: Body,
        id: Option<&Key>,
        session: Option<HeaderValue>,
        seen: &mut Seen,
    ) -> Result<(), GatewayError> {
        let mut events = sse::Decoder::new(self.max);
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { break };
            let Ok(data) = frame.into_data() else { continue };
            events.push(&data);
            while let Some(event) =
                events.next_event().map_err(|error| self.remote.unreachable(error))?
            {
                seen.note(&event);
                if event.is_message() {
                    self.arrived(event.data, id, session.clone(), seen).await;
                }
            }
        }
        Ok(())
    }

    async fn arrived(
        &self,
        text: Bytes,
        id: Option<&Key>,
        session: Option<HeaderValue>,
        seen: &mut Seen,
    ) {
        if names(&text, id) {
            seen.answered = true;
            self.opened(&text, session);
        }
        if Incoming::parse(&text).is_ok() {
            // Fails only when the client is gone, which ends everything anyway.
            drop(self.out.send(text).await);
        }
    }

    /// Keeps what the answer to `initialize` says about the session.
    fn opened(&self, text: &[u8], id: Option<HeaderValue>) {
        #[derive(serde::Deserialize)]
        struct Opened {
            #[serde(rename = "protocolVersion")]
            version: String,
        }
        if self.session.borrow().open {
            return;
        }
        let Ok(Incoming::One(answer)) = Incoming::parse(text) else { return };
        let opened = answer.result().map(RawValue::get).map(serde_json::from_str::<Opened>);
        if let Some(Ok(Opened { version })) = opened {
            let version = HeaderValue::from_str(&version).ok();
            self.session.send_replace(Session { open: true, id, version });
        }
    }

    /// Keeps the stream for what belongs to no request; a server need not have one.
    async fn listen(&self) -> std::convert::Infallible {
        let mut session = self.session.subscribe();
        // The sender is ours, so waiting cannot fail.
        drop(session.wait_for(|session| session.open).await);
        let mut seen = Seen::default();
        for _ in 0..RESUMES {
            match self.get(seen.last.as_ref()).await {
                Ok(response) if response.status().is_success() && is_events(response.headers()) => {
                    drop(self.take_events(response.into_body(), None, None, &mut seen).await);
                }
                Ok(_) => break,
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "no stream");
                }
            }
            tokio::time::sleep(seen.retry.unwrap_or(REST)).await;
        }
        std::future::pending().await
    }

    async fn goodbye(&self) {
        if self.session.borrow().id.is_some() {
            drop(self.remote.call(Method::DELETE, self.session_headers(), Bytes::new()).await);
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

/// What a stream of events showed.
#[derive(Debug, Default)]
struct Seen {
    answered: bool,
    last: Option<HeaderValue>,
    retry: Option<Duration>,
}

impl Seen {
    fn note(&mut self, event: &sse::Event) {
        if let Some(id) = &event.id {
            self.last = HeaderValue::from_str(id).ok().filter(|id| !id.is_empty());
        }
        if let Some(retry) = event.retry_ms {
            self.retry = Some(Duration::from_millis(retry.min(30_000)));
        }
    }
}

enum Lane {
    Ordered,
    Request,
}

/// Tells how a line travels, or the code of what is wrong with it.
fn sort(line: &[u8]) -> Result<Lane, i64> {
    let incoming = Incoming::parse(line).map_err(|error| error.code())?;
    let requests = |message: &Message<'_>| message.kind() == Kind::Request;
    let opens = matches!(&incoming, Incoming::One(message) if message.method() == "initialize");
    let asks = incoming.messages().iter().any(requests);
    Ok(if asks && !opens { Lane::Request } else { Lane::Ordered })
}

/// Tells whether a text answers the request with this id.
fn names(text: &[u8], id: Option<&Key>) -> bool {
    let (Ok(incoming), Some(id)) = (Incoming::parse(text), id) else { return false };
    let answers = |message: &Message<'_>| {
        message.kind() == Kind::Response && message.id().is_some_and(|its| Key::of(its) == *id)
    };
    incoming.messages().iter().any(answers)
}

/// Returns the headers that mirror a modern message.
fn mirror(message: &Message<'_>) -> HeaderMap {
    let params = message.peek();
    let subject = match message.method() {
        "tools/call" | "prompts/get" => params.name,
        "resources/read" => params.uri,
        _ => None,
    };
    let version = message.meta().protocol_version.and_then(string);
    let method = Some(std::borrow::Cow::Borrowed(message.method()));
    let pairs = [
        (VERSION_HEADER, version),
        (METHOD_HEADER, method),
        (NAME_HEADER, subject.and_then(string)),
    ];
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let value = value.and_then(|value| HeaderValue::from_str(&encode_header(&value)).ok());
        if let Some(value) = value {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    headers
}

#[cfg(test)]
mod tests;
