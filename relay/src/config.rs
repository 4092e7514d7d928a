//! Settings of a relay: [`Layer`] (what a person wrote) → [`Config`] (what the relay obeys).
//!
//! Flags beat environment beat file beat defaults. Nothing here prints, reads the environment or
//! writes; a library user starts from [`Config::local`] and changes fields.

mod acme;
mod database;
#[cfg(feature = "bin")]
mod file;
mod layer;
mod live;
mod names;
mod nodes;
mod observe;
mod oidc;
mod quotas;
mod resolve;
mod values;
mod written;

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mcpm_shared::name::Name;
use mcpm_shared::proto::ShareMode;
use mcpm_shared::token::Token;

use crate::host::Labels;
use crate::quota::Allowance;

pub use acme::{
    Acme, AcmeChallenge, AcmeCustoms, AcmeProof, DnsProvider, DnsServers, Nets, Rfc2136,
};
pub use database::{Database, PostgresUrl};
#[cfg(feature = "bin")]
pub use file::{FileError, FileProblem};
pub use layer::{Layer, LimitsLayer};
pub use live::{Live, Obey, Prepare, ReloadError, Reloaded, Reloader, SettingsSource};
pub use nodes::NodeSettings;
pub use observe::{AccessLogConfig, AccessLogForm, AccessLogKind, TracesConfig};
pub(crate) use oidc::is_loopback_url;
pub use oidc::{Oidc, OidcLayer, OidcRequirement};
pub use quotas::QuotasLayer;
pub use resolve::{ConfigError, Problem, Storage};
pub use values::{AuthKind, Contact, Domain, Listen, LogFormat, PublicUrl, TlsKind, ValueError};

/// What a relay demands of agents beyond their key.
#[derive(Clone, Debug)]
pub enum AuthMode {
    /// Nothing: any key may claim any free name, under tight quotas.
    Open,
    /// Proof that the agent knows one of these secrets; several, so that one can be rotated.
    Secret(Vec<Token>),
    /// A token that this relay issued.
    Token,
    /// A token of the operator's identity provider.
    Oidc(Arc<Oidc>),
}

impl AuthMode {
    /// Returns the kind, without its secrets.
    pub fn kind(&self) -> AuthKind {
        match self {
            Self::Open => AuthKind::Open,
            Self::Secret(_) => AuthKind::Secret,
            Self::Token => AuthKind::Token,
            Self::Oidc(_) => AuthKind::Oidc,
        }
    }
}

/// Where the key that signs tickets and agent tokens lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// Made at start and forgotten at the end.
    Memory,
    /// Kept in this file, which is made once with mode 0600.
    File(PathBuf),
    /// Made of the secret in this file, which all nodes have.
    NodeSecret(PathBuf),
}

/// How the public listener speaks TLS.
#[derive(Clone, Debug)]
pub enum Tls {
    /// Plain HTTP: on loopback, or behind a proxy that ends TLS.
    None,
    /// A certificate that the relay makes once and keeps in its data directory.
    SelfSigned,
    /// Certificate chain and key from PEM files, read again when they change.
    Files {
        /// PEM file with the chain, leaf first.
        cert: PathBuf,
        /// PEM file with the private key.
        key: PathBuf,
    },
    /// A certificate that the relay orders from an authority and renews.
    Acme(Box<Acme>),
}

impl Tls {
    /// Tells whether the public listener speaks TLS.
    pub fn is_on(&self) -> bool {
        !matches!(self, Self::None)
    }
}

/// Requests or events per unit of time; `None` means no limit.
pub type Rate = Option<NonZeroU32>;

/// What one party may ask of the relay before it is told to slow down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest request or response head in bytes.
    pub max_header_bytes: usize,
    /// Largest request body in bytes; responses are unbounded streams.
    pub max_body_bytes: u64,
    /// Streams that one share may have open at once.
    pub max_streams_per_share: usize,
    /// Streams that one session may have open at once.
    pub max_streams_per_session: usize,
    /// Agents that may be connected at once.
    pub max_sessions: usize,
    /// Live shares that one owner may have, unless its token says otherwise.
    pub max_shares_per_owner: u32,
    /// Requests per second and visitor address on one share.
    pub requests_per_second: Rate,
    /// Requests that one visitor address may make at once before the rate counts.
    pub requests_burst: NonZeroU32,
    /// Claims per minute of one agent key.
    pub claims_per_minute_per_key: Rate,
    /// Claims per minute of one agent address.
    pub claims_per_minute_per_address: Rate,
    /// Tunnel handshakes per minute of one address.
    pub handshakes_per_minute: Rate,
    /// What one owner may use, unless an operator granted it something else.
    pub per_owner: Allowance,
    /// What one address may use, as a visitor's and as an agent's.
    pub per_address: Allowance,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Node's and nginx's defaults are 16 and 8–32 KiB; OAuth cookies of proxies reach 32.
            max_header_bytes: 64 * 1024,
            // A base64 image or document in a tool call, with room; more belongs in a resource.
            max_body_bytes: 64 * 1024 * 1024,
            // A visitor's SSE stream holds one for hours, so hundreds of visitors must fit; yet a
            // quarter of the session's, so that one share cannot starve its siblings.
            max_streams_per_share: 1024,
            // The protocol's minimum (design §5).
            max_streams_per_session: 4096,
            // What one node is sized for.
            max_sessions: 10_000,
            // A profile each for a person's dozen projects, and then some.
            max_shares_per_owner: 32,
            // A script that calls a tool in a tight loop passes; a flood does not.
            requests_per_second: NonZeroU32::new(500),
            requests_burst: nonzero(2_000),
            // One claim per share and reconnect: 32 shares may come back twice in a minute.
            claims_per_minute_per_key: NonZeroU32::new(64),
            // Several agents behind one NAT.
            claims_per_minute_per_address: NonZeroU32::new(256),
            // An office behind one NAT reconnects at once after a restart, up to 8 connections each.
            handshakes_per_minute: NonZeroU32::new(300),
            // Who was let in by name is not counted out.
            per_owner: Allowance::default(),
            per_address: Allowance::default(),
        }
    }
}

/// How long the relay waits for things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Time that streams get to end after a shutdown was asked for.
    pub grace: Duration,
    /// Time that visitors are still accepted before that, for balancers to notice.
    pub drain: Duration,
    /// Time that requests wait for an agent that dropped out.
    pub hold: Duration,
    /// Silence on a body, in either direction, after which the exchange ends.
    pub idle: Duration,
    /// Life of a share that is not renewed; `None` in modes where shares do not expire.
    pub share_ttl: Option<Duration>,
    /// Time that a released name stays with its owner.
    pub keep_name: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(30),
            drain: Duration::ZERO,
            // Below the 20–30 s at which MCP clients give up on a connect.
            hold: Duration::from_secs(15),
            // A tool may think for minutes before its first byte.
            idle: Duration::from_secs(600),
            share_ttl: None,
            keep_name: KEEP_NAME,
        }
    }
}

/// What one owner may use of a relay on which anybody may share: a person's work with room to spare,
/// and not a site's.
pub(crate) const OPEN_PER_OWNER: Allowance = Allowance {
    names_per_hour: Some(60),
    requests_per_day: Some(200_000),
    bytes_per_day: Some(20 * 1024 * 1024 * 1024),
    max_streams: Some(4096),
};
/// What one address may use of such a relay. Hosted assistants call for many people from a few
/// addresses, and offices stand behind one: so it is more than one owner's.
pub(crate) const OPEN_PER_ADDRESS: Allowance = Allowance {
    names_per_hour: Some(240),
    requests_per_day: Some(2_000_000),
    bytes_per_day: Some(200 * 1024 * 1024 * 1024),
    max_streams: Some(8192),
};
/// Life of an unrenewed share where anybody may share (design §5).
pub(crate) const OPEN_SHARE_TTL: Duration = Duration::from_secs(24 * 3600);
/// Time that a released name stays with its owner (design §5).
pub(crate) const KEEP_NAME: Duration = Duration::from_secs(30 * 24 * 3600);

/// All settings of a relay, resolved.
#[derive(Clone, Debug)]
pub struct Config {
    /// The apex under which shares are named.
    pub domain: Domain,
    /// The public listener; port 0 takes a free one.
    pub listen: SocketAddr,
    /// A second listener that serves the tunnel endpoint only.
    pub tunnel_listen: Option<SocketAddr>,
    /// A listener for plain HTTP that sends visitors to HTTPS.
    pub http_listen: Option<SocketAddr>,
    /// The listener for health and metrics.
    pub admin_listen: Option<SocketAddr>,
    /// The file with the token of the admin API; without one nobody may use it.
    pub admin_token_file: Option<PathBuf>,
    /// What agents must show.
    pub auth: AuthMode,
    /// The file that the shared secret came from, for `config print`.
    pub secret_file: Option<PathBuf>,
    /// Where files are kept; `None` keeps nothing on disk.
    pub data_dir: Option<PathBuf>,
    /// Where leases and tokens live.
    pub database: Database,
    /// The file that the database's URL came from, for `config print`.
    pub database_file: Option<PathBuf>,
    /// Where the signing key lives.
    pub key: KeySource,
    /// Where a successor gets the listeners; `None` offers them to nobody.
    pub takeover_socket: Option<PathBuf>,
    /// Whether `/readyz` says 200 while the database does not answer.
    pub ready_without_database: bool,
    /// Whether the apex serves shares at `/s/NAME/…` and share URLs have that form.
    pub paths: bool,
    /// Scheme and port of the URLs handed out, where a proxy stands in front.
    pub public_url: Option<PublicUrl>,
    /// TLS of the public and the tunnel listener.
    pub tls: Tls,
    /// Who says whose custom domains are.
    pub dns_servers: DnsServers,
    /// For how long browsers shall know that there is HTTPS only; `None` tells them nothing.
    pub hsts: Option<Duration>,
    /// Where connections must begin with a PROXY header, which names who is behind them.
    pub proxy_protocol: Nets,
    /// Whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed.
    pub trusted_proxies: Nets,
    /// Whether agents may share plain HTTP servers besides MCP servers.
    pub http_mode: bool,
    /// Name of this node in lease rows; empty until [`Config::name_node`] gives it one.
    pub node: String,
    /// What makes this process one node of several.
    pub nodes: Option<NodeSettings>,
    /// Form of the log lines.
    pub log_format: LogFormat,
    /// Filter of the log, in the syntax of `tracing_subscriber::EnvFilter`.
    pub log: String,
    /// The access log, where there is one.
    pub access_log: Option<AccessLogConfig>,
    /// Where traces go, where there are any.
    pub traces: Option<TracesConfig>,
    /// Which names are not given.
    pub labels: Labels,
    /// The file that the operator's own list of names came from, for `config print`.
    pub reserved_names_file: Option<PathBuf>,
    /// Whom to write to about abuse.
    pub abuse_contact: Option<Contact>,
    /// Quotas.
    pub limits: Limits,
    /// Timers.
    pub timing: Timing,
}

impl Config {
    /// Returns the settings of an embedded relay: loopback, a free port, nothing on disk.
    pub fn local() -> Self {
        Self {
            domain: Domain::localhost(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            tunnel_listen: None,
            http_listen: None,
            admin_listen: None,
            admin_token_file: None,
            auth: AuthMode::Open,
            secret_file: None,
            data_dir: None,
            database: Database::Memory,
            database_file: None,
            key: KeySource::Memory,
            takeover_socket: None,
            ready_without_database: true,
            paths: true,
            public_url: None,
            tls: Tls::None,
            dns_servers: DnsServers::default(),
            hsts: None,
            proxy_protocol: Nets::default(),
            trusted_proxies: Nets::default(),
            http_mode: true,
            node: DEFAULT_NODE.to_owned(),
            nodes: None,
            log_format: LogFormat::Text,
            log: "info".to_owned(),
            access_log: None,
            traces: None,
            labels: Labels::default(),
            reserved_names_file: None,
            abuse_contact: None,
            limits: Limits::default(),
            timing: Timing::default(),
        }
    }

    /// Returns [`Config::local`] with an admin listener and a short grace period.
    pub fn for_tests() -> Self {
        let timing = Timing { grace: Duration::from_secs(5), ..Timing::default() };
        let admin_listen = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        Self { admin_listen, timing, ..Self::local() }
    }

    /// Returns scheme and port of public URLs, given the port that the listener got.
    pub fn public(&self, bound: SocketAddr) -> PublicUrl {
        self.public_url.unwrap_or(PublicUrl { https: self.tls.is_on(), port: bound.port() })
    }

    /// Returns the origin of the apex as agents and visitors know it.
    pub fn apex_origin(&self, bound: SocketAddr) -> String {
        self.public(bound).origin(&self.domain.host())
    }

    /// Returns the URL at which a share is reached: its MCP endpoint, or the root of an HTTP server.
    pub fn share_url(&self, bound: SocketAddr, name: &Name, mode: ShareMode) -> String {
        let end = match mode {
            ShareMode::Mcp => "/mcp",
            ShareMode::Http => "",
        };
        if self.paths {
            return format!("{}/s/{name}{end}", self.apex_origin(bound));
        }
        let host = format!("{name}.{}", self.domain);
        format!("{}{end}", self.public(bound).origin(&host))
    }

    /// Returns every origin that an assertion may name as its audience.
    ///
    /// All of them are this relay, so accepting them all lets no assertion for another relay in:
    /// an agent behind a TLS-ending proxy and one beside the relay use different ones.
    pub fn audiences(&self, bound: SocketAddr, tunnel: Option<SocketAddr>) -> Vec<String> {
        let mut hosts = vec![self.domain.host()];
        if self.domain.is_local() {
            hosts.extend(["localhost", "127.0.0.1", "[::1]"].map(str::to_owned));
        }
        let mut ports = vec![80, 443, self.public(bound).port, bound.port()];
        ports.extend(tunnel.map(|addr| addr.port()));
        let mut all: Vec<String> = hosts
            .iter()
            .flat_map(|host| ports.iter().map(move |port| (host, *port)))
            .flat_map(|(host, port)| {
                [true, false].map(|https| PublicUrl { https, port }.origin(host))
            })
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// Name of the only node of a relay that runs on one machine.
pub(crate) const DEFAULT_NODE: &str = "main";

fn nonzero(value: u32) -> NonZeroU32 {
    NonZeroU32::new(value).unwrap_or(NonZeroU32::MIN)
}

#[cfg(test)]
mod tests;
