//! The old HTTP+SSE transport (2024-11-05), as a wire of lines: what a [`Link`] writes is posted,
//! and what the event stream brings is a line. The stream is the session.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::header::{ACCEPT, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming as Body;
use mcpm_shared::scope::Scope;
use tokio::io::{AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadHalf, duplex, split};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::codec::FramedRead;
use url::Url;

use super::{Facts, Limits, NOTICE, Opening, child};
use crate::gateway::GatewayError;
use crate::gateway::child::{Exit, Handle};
use crate::gateway::link::{Link, failure};
use crate::gateway::upstream::endpoint::{Endpoint, is_events};
use crate::mcp::line::{Line, LineCodec};
use crate::mcp::message::{Kind, Message, on_one_line};
use crate::mcp::sse;

/// How many lines from the server may wait for the link.
const QUEUE: usize = 64;
/// How many posts may be under way.
const MAX_POSTS: usize = 64;
/// How long a server may take over the post of a request; its answer comes by the stream.
const POST: Duration = Duration::from_secs(60);
/// How much of the body of a post is read, so that its connection can be used again.
const MAX_REST: usize = 64 * 1024;
/// Buffer between the link and the stream; most messages fit.
const PIPE: usize = 64 * 1024;

/// Dials a server and opens the conversation; `None` when it does not speak this transport.
pub(super) async fn open(
    endpoint: &Arc<Endpoint>,
    opening: &Opening,
    scope: &Scope,
    limits: &Limits,
) -> Result<Option<(Arc<Link>, Facts)>, GatewayError> {
    let Some(dialed) = dial(endpoint, limits).await? else { return Ok(None) };
    let link = connect(dialed, endpoint, opening, scope, limits);
    let facts = child::open_legacy(&link, opening, limits).await?;
    Ok(Some((link, facts)))
}

/// An event stream that has told where to post.
struct Dialed {
    stream: Events,
    target: Uri,
}

/// The events of a response.
struct Events {
    body: Body,
    decoder: sse::Decoder,
}

impl Events {
    /// Returns the next event. Not cancel-safe by itself, but whoever drops it drops the stream.
    async fn next(&mut self) -> Result<Option<sse::Event>, String> {
        loop {
            if let Some(event) = self.decoder.next_event().map_err(|error| error.to_string())? {
                return Ok(Some(event));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.decoder.push(&data);
                    }
                }
                Some(Err(error)) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "stream broke");
                    return Ok(None);
                }
                None => return Ok(None),
            }
        }
    }
}

async fn dial(endpoint: &Endpoint, limits: &Limits) -> Result<Option<Dialed>, GatewayError> {
    let events = HeaderValue::from_static("text/event-stream");
    let headers = HeaderMap::from_iter([(ACCEPT, events)]);
    let response = endpoint.call(Method::GET, headers, Bytes::new()).await?;
    let status = response.status();
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        return Err(endpoint.refusal(status, response.headers()));
    }
    if !status.is_success() || !is_events(response.headers()) {
        return Ok(None);
    }
    let decoder = sse::Decoder::new(limits.max_line);
    let mut stream = Events { body: response.into_body(), decoder };
    let refused = |message: &str| GatewayError::Refused {
        server: endpoint.server().to_owned(),
        message: message.to_owned(),
    };
    loop {
        match stream.next().await.map_err(|error| refused(&error))? {
            Some(event) if event.name == "endpoint" => {
                let target = resolve(endpoint.url(), &event.data);
                let target = target.ok_or_else(|| {
                    refused("its event stream names an endpoint of another origin")
                })?;
                return Ok(Some(Dialed { stream, target }));
            }
            // A stream that begins with messages is one of Streamable HTTP.
            Some(event) if event.is_message() => return Ok(None),
            Some(_) => {}
            None => return Ok(None),
        }
    }
}

/// Resolves where to post; credentials must not go to another origin.
fn resolve(base: &Uri, told: &[u8]) -> Option<Uri> {
    let base = Url::parse(&base.to_string()).ok()?;
    let target = base.join(std::str::from_utf8(told).ok()?.trim()).ok()?;
    if target.origin() != base.origin() || !target.username().is_empty() {
        return None;
    }
    target.as_str().split('#').next()?.parse().ok()
}

fn connect(
    dialed: Dialed,
    endpoint: &Arc<Endpoint>,
    opening: &Opening,
    scope: &Scope,
    limits: &Limits,
) -> Arc<Link> {
    let (handle, exit) = Handle::without_process(endpoint.server());
    let (ours, theirs) = duplex(PIPE);
    let (stdout, stdin) = split(ours);
    let (reader, writer) = split(theirs);
    let link = Link::new(stdin, stdout, handle.clone(), opening.sole, limits.max_line, scope);
    let (lines, queue) = mpsc::channel(QUEUE);
    let wire = Wire {
        endpoint: endpoint.clone(),
        target: dialed.target,
        max: limits.max_line,
        lines,
        handle,
    };
    scope.spawn(run(wire, dialed.stream, reader, writer, queue, scope.clone(), exit));
    link
}

/// What posts need.
struct Wire {
    endpoint: Arc<Endpoint>,
    target: Uri,
    max: usize,
    lines: mpsc::Sender<Bytes>,
    handle: Handle,
}

async fn run(
    wire: Wire,
    stream: Events,
    reader: ReadHalf<DuplexStream>,
    writer: impl AsyncWrite + Unpin,
    queue: mpsc::Receiver<Bytes>,
    scope: Scope,
    exit: watch::Sender<Option<Exit>>,
) {
    let work = async {
        tokio::select! {
            why = wire.read(stream) => why,
            why = wire.post_all(reader) => why,
            why = write(writer, queue) => why,
            () = scope.cancelled() => "the gateway is shutting down".to_owned(),
        }
    };
    let status = wire.handle.stopping().run_until_cancelled(work).await;
    let status = status.unwrap_or_else(|| "it was stopped".to_owned());
    wire.handle.stop();
    exit.send_replace(Some(Exit { success: false, status }));
}

async fn write(mut writer: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<Bytes>) -> String {
    while let Some(message) = queue.recv().await {
        let line = on_one_line(&message);
        let written = async {
            writer.write_all(&line).await?;
            writer.write_all(b"\n").await
        };
        if written.await.is_err() {
            break;
        }
    }
    "it was stopped".to_owned()
}

impl Wire {
    async fn read(&self, mut stream: Events) -> String {
        loop {
            match stream.next().await {
                // Fails only at the end of everything.
                Ok(Some(event)) if event.is_message() => drop(self.lines.send(event.data).await),
                Ok(Some(_)) => {}
                Ok(None) => return "its event stream ended".to_owned(),
                Err(error) => return error,
            }
        }
    }

    /// Posts what the link writes: requests side by side, everything else in order.
    async fn post_all(&self, reader: ReadHalf<DuplexStream>) -> String {
        let mut lines = FramedRead::new(reader, LineCodec::new(self.max));
        let mut posts = FuturesUnordered::new();
        let gone = || "its session has ended".to_owned();
        loop {
            let line = tokio::select! {
                line = lines.next(), if posts.len() < MAX_POSTS => line,
                Some(Gone(ended)) = posts.next() => {
                    if ended { return gone() }
                    continue;
                }
            };
            let Some(Ok(Line::Text(line))) = line else { break };
            let id = request_id(&line);
            if id.is_some() {
                posts.push(self.post(line, id));
                continue;
            }
            let mut post = std::pin::pin!(self.post(line, None));
            // Requests must go on meanwhile.
            loop {
                let (Gone(ended), done) = tokio::select! {
                    gone = &mut post => (gone, true),
                    Some(gone) = posts.next() => (gone, false),
                };
                if ended {
                    return gone();
                }
                if done {
                    break;
                }
            }
        }
        "it was stopped".to_owned()
    }

    /// Posts one message; an answer to a request that was not taken is made here.
    async fn post(&self, line: Bytes, id: Option<String>) -> Gone {
        let limit = if id.is_some() { POST } else { NOTICE };
        let send = self.endpoint.call_at(self.target.clone(), Method::POST, HeaderMap::new(), line);
        let taken = async { self.taken(send.await?).await };
        let text = match timeout(limit, taken).await {
            Ok(Ok(Taken::Yes)) => return Gone(false),
            Ok(Ok(Taken::Gone)) => return Gone(true),
            Ok(Ok(Taken::No(text))) => text,
            Ok(Err(error)) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "a post failed");
                error.to_string()
            }
            // The message is with the server; its answer may still come.
            Err(_) => return Gone(false),
        };
        match id {
            Some(id) => drop(self.lines.send(failure(&id, &text, "upstream_failed").message).await),
            None => tracing::debug!(server = self.handle.server(), text, "a post was not taken"),
        }
        Gone(false)
    }

    async fn taken(&self, response: Response<Body>) -> Result<Taken, GatewayError> {
        let (status, server) = (response.status(), self.endpoint.server());
        let refused = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        let (head, body) = response.into_parts();
        drop(Limited::new(body, MAX_REST).collect().await);
        Ok(match status {
            status if refused => return Err(self.endpoint.refusal(status, &head.headers)),
            status if status.is_success() => Taken::Yes,
            StatusCode::NOT_FOUND | StatusCode::GONE => Taken::Gone,
            status => Taken::No(format!("server `{server}` answered HTTP {}", status.as_u16())),
        })
    }
}

/// Whether the session has ended.
struct Gone(bool);

enum Taken {
    Yes,
    No(String),
    Gone,
}

fn request_id(line: &[u8]) -> Option<String> {
    let message = Message::parse(std::str::from_utf8(line).ok()?).ok()?;
    let id = message.id().filter(|_| message.kind() == Kind::Request)?;
    Some(id.get().to_owned())
}

#[cfg(test)]
mod tests;
