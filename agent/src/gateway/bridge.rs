//! The stdio face over a remote server: each line of the client is a POST, what comes back is a
//! line.
//!
//! Requests run side by side. What must stay in order (the opening, notifications, answers) goes
//! through one lane, and a request starts when the lane has passed what the client said before it.

mod line;
mod seen;

use std::collections::HashMap;
use std::pin::pin;
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
use tokio::time::{Instant, sleep, timeout};
use tokio_util::codec::FramedRead;
use tokio_util::sync::CancellationToken;

use self::line::{Lane, mirror, sort};
use self::seen::{Ask, Seen};
use super::remote::{Remote, is_events};
use super::{GatewayError, Inner};
use crate::mcp::era::{Era, SESSION_HEADER, VERSION_HEADER, of_message};
use crate::mcp::line::{Line, LineCodec};
use crate::mcp::message::{INTERNAL_ERROR, Incoming, Key, Kind, error_response, on_one_line};
use crate::mcp::sse;

/// How many messages may wait for the client, and in the lane.
const QUEUE: usize = 64;
/// How long a notification may take to be taken.
const NOTICE: Duration = Duration::from_secs(30);
/// How long answers may still come, and the session may take to end, after the client is gone.
const DRAIN: Duration = Duration::from_secs(10);
const GOODBYE: Duration = Duration::from_secs(2);
/// How often in a row a broken stream is taken up again for nothing.
const RESUMES: u32 = 10;
/// A stream that was open for so long was not in vain, even if nothing came.
const LONG: Duration = Duration::from_secs(30);

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
        start_timeout: gateway.options.start_timeout,
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
    let mut written = pin!(write(stdout, outbox));
    let end = tokio::select! {
        end = &mut written => end,
        // A client that does not read must not keep us.
        end = work => end.and(timeout(GOODBYE, written).await.unwrap_or(Ok(()))),
    };
    match end {
        // The client is gone; there is nobody to tell.
        Err(GatewayError::Stdio(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        end => end,
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
    start_timeout: Duration,
    out: mpsc::Sender<Bytes>,
    session: watch::Sender<Session>,
    /// The requests in flight.
    running: Mutex<HashMap<Key, Running>>,
}

/// What becomes of a request.
#[derive(Clone, Debug)]
struct Running {
    era: Era,
    /// Ends its exchange, which is how a modern one is cancelled.
    cancel: CancellationToken,
    /// It was sent, or never will be.
    sent: CancellationToken,
}

/// A line that asks something.
struct Call {
    line: Bytes,
    asks: Vec<Ask>,
    running: Running,
}

impl Bridge<'_> {
    fn running(&self) -> MutexGuard<'_, HashMap<Key, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(&self, stdin: impl AsyncRead + Unpin) -> Result<(), GatewayError> {
        let (lane, queue) = mpsc::channel(QUEUE);
        let passed = watch::Sender::new(0_u64);
        let ended = CancellationToken::new();
        let requests = self.read(stdin, lane, &passed, &ended);
        let ordered = async {
            self.pass_in_order(queue, &passed).await;
            Ok(())
        };
        let work = async { tokio::try_join!(requests, ordered).map(|_| ()) };
        let overdue = async {
            ended.cancelled().await;
            sleep(DRAIN).await;
        };
        tokio::select! {
            end = work => end,
            () = overdue => Ok(()),
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
        ended: &CancellationToken,
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
                    let Some(call) = self.register(line) else { continue };
                    let mut turn = passed.subscribe();
                    requests.push(self.request(call, None, async move {
                        // The sender outlives us, so waiting cannot fail.
                        drop(turn.wait_for(|passed| *passed >= sent).await);
                    }));
                }
                Err(code) => {
                    let text = "the line is not JSON-RPC";
                    drop(self.out.send(error_response(None, code, text, None).into()).await);
                }
            }
        }
        drop(lane);
        ended.cancel();
        while requests.next().await.is_some() {}
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
                if let Some(call) = self.register(line) {
                    self.request(call, Some(self.start_timeout), std::future::ready(())).await;
                }
            } else if timeout(NOTICE, self.notify(&line)).await.is_err() {
                tracing::warn!(server = self.remote.server(), "a notification was not taken");
            }
            passed.send_replace(number);
        }
    }

    /// Ends a modern request that the client cancels; legacy servers are told themselves.
    fn cancels(&self, line: &[u8]) -> bool {
        match self.cancelled(line) {
            Some(Running { era: Era::Modern, cancel, .. }) => {
                cancel.cancel();
                true
            }
            _ => false,
        }
    }

    /// Returns the request that a line cancels, if it still runs.
    fn cancelled(&self, line: &[u8]) -> Option<Running> {
        let Ok(Incoming::One(message)) = Incoming::parse(line) else { return None };
        if message.method() != "notifications/cancelled" {
            return None;
        }
        let id = Key::of(message.peek().request_id?);
        self.running().get(&id).cloned()
    }

    /// Notes the requests of a line, before anything that follows it is looked at.
    fn register(&self, line: Bytes) -> Option<Call> {
        let incoming = Incoming::parse(&line).ok()?;
        let requests = incoming.messages().iter().filter(|m| m.kind() == Kind::Request);
        let asks: Vec<Ask> = requests.clone().filter_map(|m| m.id()).map(Ask::of).collect();
        let era = requests.clone().find_map(of_message).unwrap_or(Era::Legacy);
        let (cancel, sent) = (CancellationToken::new(), CancellationToken::new());
        let running = Running { era, cancel, sent };
        let keys = asks.iter().map(|ask| (ask.key.clone(), running.clone()));
        self.running().extend(keys);
        Some(Call { line, asks, running })
    }

    /// Makes one request (or a batch) when its turn comes, and sees to it that it is answered.
    async fn request(&self, call: Call, limit: Option<Duration>, turn: impl Future<Output = ()>) {
        let mut seen = Seen::waiting(&call.asks);
        let work = async {
            turn.await;
            let exchange = self.exchange(&call, &mut seen);
            let Some(after) = limit else { return exchange.await };
            timeout(after, exchange).await.unwrap_or_else(|_| {
                let (server, stderr) = (self.remote.server().to_owned(), String::new());
                Err(GatewayError::StartTimeout { server, after, stderr })
            })
        };
        let outcome = call.running.cancel.run_until_cancelled(work).await;
        call.running.sent.cancel();
        for ask in &call.asks {
            self.running().remove(&ask.key);
        }
        if let Some(Err(error)) = outcome {
            tracing::debug!(error = &error as &dyn std::error::Error, "a request failed");
            let text = with_root(&error);
            for ask in seen.unanswered() {
                let answer = error_response(Some(&ask.id), INTERNAL_ERROR, &text, None);
                drop(self.out.send(answer.into()).await);
            }
        }
    }

    async fn exchange(&self, call: &Call, seen: &mut Seen) -> Result<(), GatewayError> {
        let response = self.send(&call.line, call.running.sent.clone()).await?;
        self.take(response, seen).await?;
        self.resume(seen).await
    }

    /// Takes a stream up again until the answer is there.
    ///
    /// 2025-11-25: a server may close the connection and be asked again later, for as long as it
    /// likes; only what fails, or brings nothing, counts.
    async fn resume(&self, seen: &mut Seen) -> Result<(), GatewayError> {
        let mut failures = 0;
        while !seen.is_answered() {
            let unanswered = || self.refused("it closed the stream unanswered");
            if seen.last.is_none() {
                return Err(unanswered());
            }
            sleep(seen.rest(failures)).await;
            let outcome = match self.get(seen.last.as_ref()).await {
                Ok(response) if response.status().is_client_error() => {
                    return self.take(response, seen).await.and_then(|()| Err(unanswered()));
                }
                Ok(response) => self.take(response, seen).await,
                Err(error) => Err(error),
            };
            failures = if seen.take_news() { 0 } else { failures + 1 };
            if failures == RESUMES {
                return outcome.and_then(|()| Err(unanswered()));
            }
        }
        Ok(())
    }

    /// Posts what is no request. Only the status of the answer counts: what else a server may have
    /// to say belongs on another stream.
    async fn notify(&self, line: &Bytes) {
        // A cancellation must not overtake its request.
        if let Some(running) = self.cancelled(line) {
            running.sent.cancelled().await;
        }
        let outcome = match self.send(line, CancellationToken::new()).await {
            Ok(response) if !response.status().is_success() => Err(self.failure(response.status())),
            Ok(response) if is_events(response.headers()) => Ok(()),
            Ok(response) => {
                // A connection that was read to its end can serve again.
                drop(Limited::new(response.into_body(), self.max).collect().await);
                Ok(())
            }
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            tracing::warn!(error = &error as &dyn std::error::Error, "a notification failed");
        }
    }

    fn failure(&self, status: StatusCode) -> GatewayError {
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let (server, status) = (self.remote.server().to_owned(), status.as_u16());
                GatewayError::Unauthorized { server, status }
            }
            StatusCode::NOT_FOUND if self.session.borrow().id.is_some() => {
                self.refused("the session has ended; restart the client")
            }
            status => self.refused(&format!("it answered HTTP {}", status.as_u16())),
        }
    }

    fn refused(&self, message: &str) -> GatewayError {
        let (server, message) = (self.remote.server().to_owned(), message.to_owned());
        GatewayError::Refused { server, message }
    }

    async fn send(
        &self,
        line: &Bytes,
        on_wire: CancellationToken,
    ) -> Result<Response<Body>, GatewayError> {
        let headers = match Incoming::parse(line) {
            Ok(Incoming::One(message)) if of_message(&message) == Some(Era::Modern) => {
                mirror(&message)
            }
            Ok(Incoming::One(message)) if message.method() == "initialize" => HeaderMap::new(),
            _ => self.session_headers(),
        };
        self.remote.post(headers, line.clone(), on_wire).await
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

    /// Passes the messages of a response on.
    async fn take(&self, response: Response<Body>, seen: &mut Seen) -> Result<(), GatewayError> {
        let status = response.status();
        let session = response.headers().get(SESSION_HEADER).cloned();
        if status.is_success() && is_events(response.headers()) {
            return self.take_events(response.into_body(), session, seen).await;
        }
        let body = Limited::new(response.into_body(), self.max).collect().await;
        let body = body.map_err(|error| self.remote.unreachable(error))?.to_bytes();
        let ended = status == StatusCode::NOT_FOUND && self.session.borrow().id.is_some();
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self.failure(status)),
            // An error of the server's own is the best answer there is, whatever its status.
            _ if seen.is_answer(&body) => {
                self.arrived(body, session, seen).await;
                Ok(())
            }
            _ if !ended && let Some(answer) = seen.adopt(&body) => {
                self.arrived(answer, session, seen).await;
                Ok(())
            }
            status if status.is_success() && body.is_empty() => Ok(()),
            status => Err(self.failure(status)),
        }
    }

    /// Passes the messages of a stream on until it ends or has answered.
    async fn take_events(
        &self,
        mut body: Body,
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
                    self.arrived(event.data, session.clone(), seen).await;
                }
            }
            if seen.is_answered() {
                break;
            }
        }
        Ok(())
    }

    async fn arrived(&self, text: Bytes, session: Option<HeaderValue>, seen: &mut Seen) {
        if seen.answer(&text) {
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
        let mut seen = Seen::endless();
        let mut failures = 0;
        loop {
            let begun = Instant::now();
            match self.get(seen.last.as_ref()).await {
                Ok(response) if response.status().is_success() && is_events(response.headers()) => {
                    drop(self.take_events(response.into_body(), None, &mut seen).await);
                }
                Ok(response) if response.status().is_server_error() => {
                    tracing::debug!(status = response.status().as_u16(), "no stream");
                }
                Ok(_) => return std::future::pending().await,
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "no stream");
                }
            }
            let in_vain = !seen.take_news() && begun.elapsed() < LONG;
            failures = if in_vain { failures + 1 } else { 0 };
            sleep(seen.rest(failures)).await;
        }
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

#[cfg(test)]
mod tests;
