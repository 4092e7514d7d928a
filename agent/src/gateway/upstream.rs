//! One opened conversation with an upstream, whatever its transport.
//!
//! A [`Conn`] speaks for us: ids and progress tokens on the wire are ours and are restored in what
//! comes back. It does not know who is in front, merges nothing and bridges nothing; it delivers
//! the packets of one request in order, and whatever belongs to no request to one listener.

mod child;
mod endpoint;
#[cfg(test)]
pub(super) mod fake;
mod headers;
mod http;
mod opening;
mod rounds;
mod sse;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::http::HeaderMap;
use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::time::Instant;

use self::endpoint::Endpoint;
use self::http::Http;
pub(super) use self::rounds::Answer;
use self::rounds::Rounds;
use super::GatewayError;
use super::child::{Nursery, Spec};
use super::link::{Asker, Link, Receiver};
pub(super) use super::link::{Busy, Claim, Gone, Refusal};
use crate::mcp::era::Era;
use crate::mcp::message::{Edit, Message, one_line};
use crate::model::{Server, Transport};
use crate::oauth::Credentials;

/// How long a message that is no request may wait for a server that does not read.
const NOTICE: Duration = Duration::from_secs(10);

/// Where an upstream is.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// A process of ours.
    Child(Spec),
    /// A server reached over HTTP; clones share its connections.
    Remote(Arc<Endpoint>),
}

impl Target {
    /// Reads where a configured server is.
    ///
    /// # Errors
    /// The entry is for one client only, or its URL or headers are not usable.
    pub(super) fn new(
        server: &Server,
        credentials: Option<&Credentials>,
    ) -> Result<Self, GatewayError> {
        let name = server.name.clone();
        match &server.transport {
            Transport::Stdio { command, args, env, cwd } => Ok(Self::Child(Spec {
                server: name,
                command: command.clone(),
                args: args.clone(),
                env: env.clone(),
                cwd: cwd.clone(),
            })),
            Transport::Remote { url, headers } => {
                Ok(Self::Remote(Arc::new(Endpoint::new(&name, url, headers, credentials)?)))
            }
            Transport::Custom { .. } => Err(GatewayError::Custom(name)),
        }
    }
}

impl Target {
    /// Looks whether a process can be started at all, without starting it.
    ///
    /// # Errors
    /// Names the command, or the working directory, that does not exist.
    pub(super) fn check(&self) -> Result<(), GatewayError> {
        match self {
            Self::Child(spec) => spec.check(),
            Self::Remote(_) => Ok(()),
        }
    }
}

/// What an upstream is told of the client in front.
#[derive(Clone, Debug)]
pub(super) struct Opening {
    /// A JSON object: name, version and what else a client says of itself.
    pub(super) client_info: String,
    /// A JSON object: the client's capabilities.
    pub(super) capabilities: String,
    /// The legacy version to ask for.
    pub(super) version: String,
    /// The era of the client, which is the first to be tried.
    pub(super) era: Era,
    /// The whole `params` of the client's own `initialize`, which say more than we read.
    pub(super) params: Option<String>,
    /// Whether the conversation is for one legacy session alone.
    pub(super) sole: bool,
}

/// The bounds of a conversation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// How long opening may take, with all that is tried on the way.
    pub(super) start_timeout: Duration,
    /// Longest message, in bytes.
    pub(super) max_line: usize,
}

/// What an upstream said of itself.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// The era of the conversation.
    pub(super) era: Era,
    /// The revision that both ends speak.
    pub(super) version: String,
    /// A JSON object, `{}` where it said nothing.
    pub(super) capabilities: Box<RawValue>,
    /// A JSON object.
    pub(super) server_info: Option<Box<RawValue>>,
    /// What it tells the model.
    pub(super) instructions: Option<String>,
    /// The raw result object of `initialize` or `server/discover`.
    pub(super) opened: Bytes,
}

/// One opened conversation. Dropping the last hold on it, claims included, ends it.
#[derive(Debug)]
pub(super) struct Conn {
    facts: Facts,
    wire: Wire,
    /// Whether a client has had the server do anything: from then on what it lists may be its own.
    used: AtomicBool,
    /// Whether its end was our wish.
    stopped: AtomicBool,
    /// What it last listed since.
    lists: Mutex<[Option<Listed>; 4]>,
    /// Our own questions for its lists.
    rounds: [Rounds<Option<Listed>>; 4],
    /// The resources that a legacy server was asked to tell of.
    subscribed: Mutex<HashSet<String>>,
    /// The first pages of lists that are on their way to a client.
    pages: Mutex<[Option<Pages>; 4]>,
}

/// The items of a list, as the server wrote them.
pub(super) type Listed = Arc<Vec<Box<RawValue>>>;

/// The first pages of a list.
#[derive(Debug)]
pub(super) struct Pages {
    /// The cursor of the next one, as the server wrote it.
    pub(super) next: String,
    pub(super) items: Vec<Box<RawValue>>,
    /// Which question of this list the first page answered.
    pub(super) asked: u64,
}

#[derive(Debug)]
enum Wire {
    /// Lines over pipes: a child, or the old HTTP+SSE.
    Line(Arc<Link>),
    /// Streamable HTTP.
    Http(Arc<Http>),
}

impl Conn {
    /// Starts or dials the upstream and opens the conversation. `known` is the era to begin with;
    /// absent, the modern one is tried with less patience. The other one is tried next.
    ///
    /// # Errors
    /// Says why the server cannot be used.
    pub(super) async fn open(
        target: &Target,
        opening: &Opening,
        known: Option<Era>,
        nursery: &Nursery,
        limits: &Limits,
    ) -> Result<Arc<Self>, GatewayError> {
        let (wire, facts) = match target {
            Target::Child(spec) => {
                let (link, facts) = child::open(spec, opening, known, nursery, limits).await?;
                (Wire::Line(link), facts)
            }
            Target::Remote(endpoint) => {
                http::open(endpoint, opening, known, &nursery.scope, limits).await?
            }
        };
        let (used, stopped) = (AtomicBool::new(false), AtomicBool::new(false));
        let (lists, rounds, pages, subscribed) = Default::default();
        Ok(Arc::new(Self { facts, wire, used, stopped, lists, rounds, pages, subscribed }))
    }

    /// Tells whether a client has had the server do anything but list what it has.
    pub(super) fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Keeps what the server lists now in this conversation.
    pub(super) fn relist(&self, list: usize, items: Listed) {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)[list] = Some(items);
    }

    /// Returns what the server last listed in this conversation since a client uses it.
    pub(super) fn listed(&self, list: usize) -> Option<Listed> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)[list].clone()
    }

    /// Returns our own questions for a list.
    pub(super) fn rounds(&self, list: usize) -> &Rounds<Option<Listed>> {
        &self.rounds[list]
    }

    /// Returns the pages of lists that are on their way to a client.
    pub(super) fn pages(&self) -> MutexGuard<'_, [Option<Pages>; 4]> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the resources that a legacy server was asked to tell of.
    pub(super) fn subscribed(&self) -> MutexGuard<'_, HashSet<String>> {
        self.subscribed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what the upstream said of itself.
    pub(super) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Begins a request. Its id and progress token are replaced on the wire by ours, always unique,
    /// and restored in every packet; `edits` are further edits of the same message. It is on its
    /// way when this returns. Dropping the claim early cancels it. Who does not read loses what
    /// precedes the answer, but not the answer.
    ///
    /// # Errors
    /// Says why the request cannot be made.
    pub(super) async fn request(
        self: &Arc<Self>,
        message: &Message<'_>,
        edits: Vec<Edit>,
        client: u64,
    ) -> Result<(Claim, Receiver), Refusal> {
        self.request_with_headers(message, edits, HeaderMap::new(), client).await
    }

    /// Begins a request of our own: nothing comes of it but its answer.
    ///
    /// # Errors
    /// Says why the request cannot be made.
    pub(super) async fn inquire(
        self: &Arc<Self>,
        message: &Message<'_>,
    ) -> Result<(Claim, Receiver), Refusal> {
        self.begin(message, HeaderMap::new(), Asker::Ourselves).await
    }

    /// Begins a request with headers of its own, such as `Mcp-Param-…`; only HTTP carries them.
    ///
    /// # Errors
    /// Says why the request cannot be made.
    pub(super) async fn request_with_headers(
        self: &Arc<Self>,
        message: &Message<'_>,
        edits: Vec<Edit>,
        headers: HeaderMap,
        client: u64,
    ) -> Result<(Claim, Receiver), Refusal> {
        if !message.method().ends_with("/list") {
            self.used.store(true, Ordering::Relaxed);
        }
        let text = if edits.is_empty() { Vec::new() } else { message.rewrite(edits) };
        let edited = std::str::from_utf8(&text).ok().filter(|text| !text.is_empty());
        // An edit that spoils the message would be a fault of ours; the message itself is sound.
        let edited = edited.and_then(|text| Message::parse(text).ok());
        self.begin(edited.as_ref().unwrap_or(message), headers, Asker::Client(client)).await
    }

    async fn begin(
        &self,
        message: &Message<'_>,
        headers: HeaderMap,
        asker: Asker,
    ) -> Result<(Claim, Receiver), Refusal> {
        match &self.wire {
            Wire::Line(link) => link.request(message, asker).await,
            Wire::Http(http) => http.request(message, headers, asker),
        }
    }

    /// Sends a notification to the server, in order with other messages that are no requests.
    ///
    /// # Errors
    /// The conversation is over, or the server does not read.
    pub(super) async fn notify(&self, line: Bytes) -> Result<(), Gone> {
        match &self.wire {
            Wire::Line(link) if link.is_over() => Err(Gone),
            Wire::Line(link) => {
                let line = one_line(line);
                tokio::time::timeout(NOTICE, link.send(line)).await.unwrap_or(Err(Gone))
            }
            Wire::Http(http) => http.send(line).await,
        }
    }

    /// Sends our answer to a request of the server.
    ///
    /// # Errors
    /// The conversation is over, or the server does not read.
    pub(super) async fn answer(&self, line: Bytes) -> Result<(), Gone> {
        self.notify(line).await
    }

    /// Opens the stream of messages that belong to no request in flight; those that came before
    /// are first, as far as they were kept.
    ///
    /// # Errors
    /// One is open already.
    pub(super) fn listen(&self) -> Result<Receiver, Busy> {
        match &self.wire {
            Wire::Line(link) => link.listen(),
            Wire::Http(http) => http.listen(),
        }
    }

    /// Tells whether the conversation has ended.
    pub(super) fn is_over(&self) -> bool {
        match &self.wire {
            Wire::Line(link) => link.is_over(),
            Wire::Http(http) => http.is_over(),
        }
    }

    /// Tells whether somebody waits for an answer; subscriptions do not count.
    pub(super) fn is_busy(&self) -> bool {
        match &self.wire {
            Wire::Line(link) => link.is_working(),
            Wire::Http(http) => http.is_working(),
        }
    }

    /// Returns when the last message passed, either way.
    pub(super) fn last_used(&self) -> Instant {
        match &self.wire {
            Wire::Line(link) => link.last_used(),
            Wire::Http(http) => http.last_used(),
        }
    }

    /// Tells whether its end was our wish, and none of the server's.
    pub(super) fn was_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Ends the conversation.
    pub(super) fn stop(&self) {
        // What ended before has ended by itself.
        if !self.is_over() {
            self.stopped.store(true, Ordering::Relaxed);
        }
        match &self.wire {
            Wire::Line(link) => link.stop(),
            Wire::Http(http) => http.end("it was stopped"),
        }
    }

    /// Waits until the conversation is over; says why. Cancel-safe.
    pub(super) async fn over(&self) -> String {
        match &self.wire {
            Wire::Line(link) => link.child().exited().await.status,
            Wire::Http(http) => http.over().await,
        }
    }
}

#[cfg(test)]
mod testing;
