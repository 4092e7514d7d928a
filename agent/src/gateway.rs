//! The MCP engine: one server behind, or several as one; many clients in front.
//!
//! With one server and clients of its era the gateway is transparent: it forwards raw messages, in
//! order, and what it does not understand it forwards too. It has two faces, stdio
//! ([`Gateway::serve_stdio`]) and Streamable HTTP in both eras on one URL ([`Gateway::handle`]), and
//! two kinds of upstream, a child process and a remote server; between them stands one engine, the
//! hub. It does not know who may visit: callers bring an admitted [`Principal`] and have stripped
//! its credentials.

pub mod admission;
mod body;
mod child;
mod environment;
mod error;
mod events;
mod filter;
pub mod guard;
mod http;
mod hub;
mod link;
pub mod listen;
mod reply;
mod seal;
pub mod secrets;
mod sessions;
mod talk;
mod upstream;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::http::{Request, Response};
use bytes::Bytes;
use mcpm_shared::access::Principal;
use mcpm_shared::scope::Scope;
use tokio::io::{AsyncRead, AsyncWrite};

pub use self::body::{BoxError, GatewayBody};
use self::child::Nursery;
pub use self::error::{GatewayError, Remedy};
pub use self::filter::{BadPattern, ToolFilter, ToolPattern};
use self::guard::Guard;
pub use self::hub::Isolation;
pub use self::hub::Probe;
use self::hub::{Hub, HubOptions};
use self::sessions::Sessions;
use crate::catalog::Catalog;
use crate::mcp::line::MAX_LINE;
use crate::model::Server;
use crate::oauth::Credentials;
use crate::usage::{About, Recorder};

/// How long all children may take to end on shutdown.
const SHUTDOWN: Duration = Duration::from_secs(5);
/// How long writing what was learned of servers may take on shutdown.
const SAVING: Duration = Duration::from_secs(2);

/// Where the lines that servers write to stderr go.
#[derive(Clone)]
pub struct StderrSink(Arc<Sink>);

type Sink = dyn Fn(&str, &str) + Send + Sync;

impl StderrSink {
    /// Makes a sink of a function that takes the server's name and one line.
    pub fn new(sink: impl Fn(&str, &str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(sink))
    }

    fn line(&self, server: &str, line: &str) {
        (self.0)(server, line);
    }
}

impl fmt::Debug for StderrSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StderrSink")
    }
}

/// How a gateway behaves. The defaults suit a share.
#[derive(Clone, Debug)]
pub struct GatewayOptions {
    /// How many children may serve at a time; the longest idle one makes room.
    pub max_sessions: usize,
    /// How many of them may be of one principal; anonymous visitors have only the total.
    pub max_sessions_per_principal: usize,
    /// After how long without use a session ends.
    pub idle: Duration,
    /// How long a server may take to answer its first request.
    pub start_timeout: Duration,
    /// How long a list of several servers waits for one of which nothing is known. What comes later
    /// clients are told of.
    pub first_list: Duration,
    /// Longest message of a server, in bytes.
    pub max_line: usize,
    /// Longest body of a request, in bytes.
    pub max_body: usize,
    /// After how long without use a server of several is stopped; never when absent.
    pub idle_servers: Option<Duration>,
    /// Who shares the process of a server of several, where its entry does not say.
    pub isolation: Isolation,
    /// Which tools clients may see and call, by the names they are advertised by. What the entry of
    /// a server does not let pass stays out as well.
    pub tools: ToolFilter,
    /// Whether servers are started before they are used, where their entry does not say.
    pub warm: bool,
    /// Where what servers said of themselves is kept, so that lists need no server to run.
    pub catalog: Option<Catalog>,
    /// Who notes what was called, and what is served.
    pub usage: Option<(Recorder, About)>,
    /// The logins to remote servers.
    pub credentials: Option<Credentials>,
    /// Where the stderr of servers goes; to the log when absent.
    pub stderr: Option<StderrSink>,
    /// Who ends the children when we are killed; share one among all gateways of a process.
    pub guard: Guard,
}

impl Default for GatewayOptions {
    fn default() -> Self {
        Self {
            max_sessions: 64,
            max_sessions_per_principal: 32,
            idle: Duration::from_secs(600),
            // `npx` and `uvx` download packages on a first start.
            start_timeout: Duration::from_secs(30),
            first_list: Duration::from_secs(10),
            max_line: MAX_LINE,
            max_body: MAX_LINE,
            idle_servers: Some(Duration::from_secs(600)),
            isolation: Isolation::Session,
            tools: ToolFilter::default(),
            warm: false,
            catalog: None,
            usage: None,
            credentials: None,
            stderr: None,
            guard: Guard::this_program(),
        }
    }
}

/// What a gateway is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Legacy sessions that are open.
    pub sessions: usize,
    /// Child processes that live.
    pub children: usize,
    /// HTTP requests handled since the start.
    pub requests: u64,
}

/// The MCP engine for one server or several. Clones are the same gateway; it starts nothing by itself.
#[derive(Clone, Debug)]
pub struct Gateway(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    server: String,
    options: GatewayOptions,
    nursery: Nursery,
    hub: Arc<Hub>,
    sessions: Arc<Sessions>,
    requests: AtomicU64,
}

impl Gateway {
    /// Makes the gateway of one server.
    ///
    /// # Errors
    /// The entry cannot be served: it is for one client only, or its URL or headers are not usable.
    pub fn new(
        server: &Server,
        options: GatewayOptions,
        scope: Scope,
    ) -> Result<Self, GatewayError> {
        Self::aggregate(&server.name, std::slice::from_ref(server), &[], options, scope)
    }

    /// Makes the gateway of several servers as one, called `name` in messages. `profiles` are the
    /// parts of it that a client may choose: names, and the names of their servers.
    ///
    /// # Errors
    /// An entry cannot be served: it is for one client only, its URL or headers are not usable, or
    /// it refers to a secret that cannot be had.
    pub fn aggregate(
        name: &str,
        servers: &[Server],
        profiles: &[(String, Vec<String>)],
        options: GatewayOptions,
        scope: Scope,
    ) -> Result<Self, GatewayError> {
        let servers: Result<Vec<Server>, _> =
            servers.iter().map(|server| secrets::resolve(server).map(Cow::into_owned)).collect();
        let servers = &servers?;
        // Our own child scope: `shutdown` must not stop the caller's tasks.
        let nursery = Nursery::new(scope.child(), options.guard.clone(), options.stderr.clone());
        drop(scope);
        let hub = Hub::new(servers, profiles, hub_options(&options), nursery.clone())?;
        let (sessions, requests, server) = (Arc::default(), AtomicU64::new(0), name.to_owned());
        Ok(Self(Arc::new(Inner { server, options, nursery, hub, sessions, requests })))
    }

    /// Starts the only server once, asks who it is and what it has, and stops it again; to be called
    /// before publishing.
    ///
    /// # Errors
    /// Says why the server cannot be used.
    pub async fn probe(&self) -> Result<Probe, GatewayError> {
        self.0.hub.probe(&self.0.server).await
    }

    /// Starts the servers that are to be warm and that all clients share; those that each client
    /// has of its own start when it comes. To be called once clients can come; it waits for
    /// nothing.
    pub fn warm(&self) {
        self.0.hub.warm();
    }

    /// Returns what the user may want to know of the servers, as far as it is known before they
    /// run: which names collide.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        self.0.hub.notes()
    }

    /// Answers one HTTP request to the MCP endpoint, in either era. The path is not looked at.
    /// Dropping the future or the body is how a visitor's disconnect arrives.
    pub async fn handle<B>(
        &self,
        request: Request<B>,
        principal: &Principal,
    ) -> Response<GatewayBody>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
        match http::Face::of(&self.0, &request, principal) {
            Ok(face) => face.handle(request).await,
            Err(refusal) => *refusal,
        }
    }

    /// Serves one client over a pair of streams until its input ends.
    ///
    /// # Errors
    /// The only server cannot be used when the client opens its session, or our own streams failed.
    pub async fn serve_stdio(
        &self,
        stdin: impl AsyncRead + Send + Unpin,
        stdout: impl AsyncWrite + Send + Unpin,
    ) -> Result<(), GatewayError> {
        hub::stdio::serve(&self.0.hub, stdin, stdout).await
    }

    /// Stops every child: stdin closes, then SIGTERM and SIGKILL to its group, all within 5 s.
    pub async fn shutdown(&self) {
        if tokio::time::timeout(SAVING, self.0.hub.saved()).await.is_err() {
            tracing::warn!("a catalogue is not written in time");
        }
        self.0.nursery.scope.cancel();
        self.0.sessions.clear();
        self.0.hub.stop();
        if tokio::time::timeout(SHUTDOWN, self.0.nursery.empty()).await.is_err() {
            tracing::error!(server = %self.0.server, "a child process does not end");
        }
    }

    /// Tells what the gateway is doing.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            sessions: self.0.hub.count(),
            children: *self.0.nursery.alive.borrow(),
            requests: self.0.requests.load(Ordering::Relaxed),
        }
    }
}

fn hub_options(options: &GatewayOptions) -> HubOptions {
    HubOptions {
        isolation: options.isolation,
        tools: options.tools.clone(),
        warm: options.warm,
        idle: options.idle_servers,
        max_conns: options.max_sessions,
        start_timeout: options.start_timeout,
        first_list: options.first_list,
        max_line: options.max_line,
        catalog: options.catalog.clone(),
        usage: options.usage.clone(),
        credentials: options.credentials.clone(),
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.nursery.scope.cancel();
        // Clients hold the hub, and the hub some of them.
        self.sessions.clear();
        self.hub.stop();
    }
}
