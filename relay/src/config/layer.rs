//! One layer of settings, as written in flags, environment or file: everything may be absent.
//!
//! The doc comments of the fields are the texts of `--help`.

use std::net::SocketAddr;
use std::path::PathBuf;

use mcpm_shared::token::Token;
use serde::{Deserialize, Serialize};

use super::values::{AuthKind, Database, Domain, Listen, LogFormat, TlsKind};
use super::{AuthMode, Config, KeySource, Tls};

/// Settings as written in one place.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "bin", derive(clap::Args))]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Layer {
    /// Apex host name, under which shares are named [default: localhost]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_DOMAIN", value_name = "HOST"))]
    pub domain: Option<Domain>,

    /// Public listener [default: 0.0.0.0:443 with TLS, 0.0.0.0:80 without;
    /// 127.0.0.1:8443 and 127.0.0.1:8080 where the domain is localhost]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_LISTEN", value_name = "ADDR"))]
    pub listen: Option<SocketAddr>,

    /// Extra listener for agents alone, such as 0.0.0.0:6276 [default: none]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_TUNNEL_LISTEN", value_name = "ADDR"))]
    pub tunnel_listen: Option<Listen>,

    /// Listener for health and metrics, or `none` [default: 127.0.0.1:6277]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_ADMIN_LISTEN", value_name = "ADDR"))]
    pub admin_listen: Option<Listen>,

    /// What agents must show; must be chosen unless the relay serves loopback only
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_AUTH", value_name = "MODE"))]
    pub auth: Option<AuthKind>,

    /// File with the shared secret, one a line while rotating; or set MCPM_RELAY_SECRET
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_SECRET_FILE", value_name = "FILE"))]
    pub secret_file: Option<PathBuf>,

    /// The shared secret itself: from the environment only, never from flags or files.
    #[cfg_attr(feature = "bin", arg(skip))]
    #[serde(skip)]
    pub secret: Option<Token>,

    /// Directory for the database, the key and certificates
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_DATA_DIR", value_name = "DIR"))]
    pub data_dir: Option<PathBuf>,

    /// Where leases and tokens live: `sqlite:///FILE` or `memory:`
    /// [default: relay.db in the data directory]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_DATABASE", value_name = "URL"))]
    pub database: Option<Database>,

    /// Key that signs tickets and agent tokens, made when absent
    /// [default: relay.key in the data directory]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_KEY_FILE", value_name = "FILE"))]
    pub key_file: Option<PathBuf>,

    /// Serve shares at DOMAIN/s/NAME/mcp, for operators without wildcard DNS
    /// [default: true where the domain is localhost or an address]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_PATHS", value_name = "BOOL",
        num_args = 0..=1, default_missing_value = "true", require_equals = true))]
    pub paths: Option<bool>,

    /// Scheme, domain and port that visitors use, where a proxy stands in front
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_PUBLIC_URL", value_name = "URL"))]
    pub public_url: Option<String>,

    /// TLS of the public listener [default: files if --tls-cert is given, else none]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_TLS", value_name = "MODE"))]
    pub tls: Option<TlsKind>,

    /// PEM file with the certificate chain, leaf first
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_TLS_CERT", value_name = "FILE"))]
    pub tls_cert: Option<PathBuf>,

    /// PEM file with the certificate's private key
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_TLS_KEY", value_name = "FILE"))]
    pub tls_key: Option<PathBuf>,

    /// Let agents share plain HTTP servers too: pages under your domain, so a risk of phishing
    /// [default: false]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_HTTP_MODE", value_name = "BOOL",
        num_args = 0..=1, default_missing_value = "true", require_equals = true))]
    pub http_mode: Option<bool>,

    /// Name of this node in the database [default: main]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_NODE", value_name = "NAME"))]
    pub node: Option<String>,

    /// Form of the log lines on stderr [default: text]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_LOG_FORMAT", value_name = "FORM"))]
    pub log_format: Option<LogFormat>,

    /// What to log: a level, or a filter such as `info,mcpm_relay=debug` [default: info]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_LOG", value_name = "FILTER"))]
    pub log: Option<String>,

    /// Seconds that streams get to end at shutdown [default: 30]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_GRACE_SECS", value_name = "SECS"))]
    pub grace_secs: Option<u64>,

    /// Seconds that requests wait for an agent that dropped out [default: 15]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_HOLD_SECS", value_name = "SECS"))]
    pub hold_secs: Option<u64>,

    /// Seconds of silence after which a request or response ends [default: 600]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_IDLE_SECS", value_name = "SECS"))]
    pub idle_secs: Option<u64>,

    /// Seconds until an unrenewed share ends, 0 for never
    /// [default: 86400 with --auth open, else 0]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_SHARE_TTL_SECS", value_name = "SECS"))]
    pub share_ttl_secs: Option<u64>,

    /// Days that a released name stays with its owner [default: 30]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_KEEP_NAME_DAYS", value_name = "DAYS"))]
    pub keep_name_days: Option<u64>,

    /// Quotas.
    #[cfg_attr(feature = "bin", command(flatten, next_help_heading = "Limits"))]
    pub limits: LimitsLayer,
}

/// Quotas as written in one place.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "bin", derive(clap::Args))]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LimitsLayer {
    /// Largest head of a request or response in bytes [default: 65536]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_MAX_HEADER_BYTES", value_name = "N"))]
    pub max_header_bytes: Option<usize>,

    /// Largest request body in bytes [default: 67108864]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_MAX_BODY_BYTES", value_name = "N"))]
    pub max_body_bytes: Option<u64>,

    /// Requests that one share may have open at once [default: 1024]
    #[cfg_attr(
        feature = "bin",
        arg(long, env = "MCPM_RELAY_MAX_STREAMS_PER_SHARE", value_name = "N")
    )]
    pub max_streams_per_share: Option<usize>,

    /// Requests that one agent may have open at once [default: 4096]
    #[cfg_attr(
        feature = "bin",
        arg(long, env = "MCPM_RELAY_MAX_STREAMS_PER_SESSION", value_name = "N")
    )]
    pub max_streams_per_session: Option<usize>,

    /// Agents that may be connected at once [default: 10000]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_MAX_SESSIONS", value_name = "N"))]
    pub max_sessions: Option<usize>,

    /// Live shares of one owner, unless its token says otherwise [default: 32]
    #[cfg_attr(
        feature = "bin",
        arg(long, env = "MCPM_RELAY_MAX_SHARES_PER_OWNER", value_name = "N")
    )]
    pub max_shares_per_owner: Option<u32>,

    /// Requests per second of one visitor address on one share, 0 for no limit [default: 500]
    #[cfg_attr(
        feature = "bin",
        arg(long, env = "MCPM_RELAY_REQUESTS_PER_SECOND", value_name = "N")
    )]
    pub requests_per_second: Option<u32>,

    /// Requests that a visitor may make at once before the rate counts [default: 2000]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_REQUESTS_BURST", value_name = "N"))]
    pub requests_burst: Option<u32>,

    /// Claims per minute of one agent key, 0 for no limit [default: 64]
    #[cfg_attr(
        feature = "bin",
        arg(long, env = "MCPM_RELAY_CLAIMS_PER_MINUTE_PER_KEY", value_name = "N")
    )]
    pub claims_per_minute_per_key: Option<u32>,

    /// Claims per minute of one agent address, 0 for no limit [default: 256]
    #[cfg_attr(
        feature = "bin",
        arg(long, env = "MCPM_RELAY_CLAIMS_PER_MINUTE_PER_ADDRESS", value_name = "N")
    )]
    pub claims_per_minute_per_address: Option<u32>,

    /// Tunnel handshakes per minute of one address, 0 for no limit [default: 300]
    #[cfg_attr(
        feature = "bin",
        arg(long, env = "MCPM_RELAY_HANDSHAKES_PER_MINUTE", value_name = "N")
    )]
    pub handshakes_per_minute: Option<u32>,
}

impl Layer {
    /// Reads a layer from the text of a TOML file.
    ///
    /// # Errors
    /// Fails on what is not TOML, on unknown keys and on values of the wrong kind.
    #[cfg(feature = "bin")]
    pub fn from_toml(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// Returns this layer, with what it lacks taken from `lower`.
    #[must_use]
    pub fn or(self, lower: Self) -> Self {
        // Destructured, so that a new field cannot be missed.
        let Self {
            domain,
            listen,
            tunnel_listen,
            admin_listen,
            auth,
            secret_file,
            secret,
            data_dir,
            database,
            key_file,
            paths,
            public_url,
            tls,
            tls_cert,
            tls_key,
            http_mode,
            node,
            log_format,
            log,
            grace_secs,
            hold_secs,
            idle_secs,
            share_ttl_secs,
            keep_name_days,
            limits,
        } = self;
        // A secret counts with its rank: a flag for a file beats the environment's value.
        let (secret_file, secret) = if secret_file.is_some() || secret.is_some() {
            (secret_file, secret)
        } else {
            (lower.secret_file, lower.secret)
        };
        Self {
            domain: domain.or(lower.domain),
            listen: listen.or(lower.listen),
            tunnel_listen: tunnel_listen.or(lower.tunnel_listen),
            admin_listen: admin_listen.or(lower.admin_listen),
            auth: auth.or(lower.auth),
            secret_file,
            secret,
            data_dir: data_dir.or(lower.data_dir),
            database: database.or(lower.database),
            key_file: key_file.or(lower.key_file),
            paths: paths.or(lower.paths),
            public_url: public_url.or(lower.public_url),
            tls: tls.or(lower.tls),
            tls_cert: tls_cert.or(lower.tls_cert),
            tls_key: tls_key.or(lower.tls_key),
            http_mode: http_mode.or(lower.http_mode),
            node: node.or(lower.node),
            log_format: log_format.or(lower.log_format),
            log: log.or(lower.log),
            grace_secs: grace_secs.or(lower.grace_secs),
            hold_secs: hold_secs.or(lower.hold_secs),
            idle_secs: idle_secs.or(lower.idle_secs),
            share_ttl_secs: share_ttl_secs.or(lower.share_ttl_secs),
            keep_name_days: keep_name_days.or(lower.keep_name_days),
            limits: limits.or(lower.limits),
        }
    }
}

impl LimitsLayer {
    /// Returns this layer, with what it lacks taken from `lower`.
    #[must_use]
    pub fn or(self, lower: Self) -> Self {
        let Self {
            max_header_bytes,
            max_body_bytes,
            max_streams_per_share,
            max_streams_per_session,
            max_sessions,
            max_shares_per_owner,
            requests_per_second,
            requests_burst,
            claims_per_minute_per_key,
            claims_per_minute_per_address,
            handshakes_per_minute,
        } = self;
        Self {
            max_header_bytes: max_header_bytes.or(lower.max_header_bytes),
            max_body_bytes: max_body_bytes.or(lower.max_body_bytes),
            max_streams_per_share: max_streams_per_share.or(lower.max_streams_per_share),
            max_streams_per_session: max_streams_per_session.or(lower.max_streams_per_session),
            max_sessions: max_sessions.or(lower.max_sessions),
            max_shares_per_owner: max_shares_per_owner.or(lower.max_shares_per_owner),
            requests_per_second: requests_per_second.or(lower.requests_per_second),
            requests_burst: requests_burst.or(lower.requests_burst),
            claims_per_minute_per_key: claims_per_minute_per_key
                .or(lower.claims_per_minute_per_key),
            claims_per_minute_per_address: claims_per_minute_per_address
                .or(lower.claims_per_minute_per_address),
            handshakes_per_minute: handshakes_per_minute.or(lower.handshakes_per_minute),
        }
    }
}

impl From<&Config> for Layer {
    /// Writes resolved settings out in full, without secrets.
    fn from(config: &Config) -> Self {
        let (tls, tls_cert, tls_key) = match &config.tls {
            Tls::None => (TlsKind::None, None, None),
            Tls::SelfSigned => (TlsKind::SelfSigned, None, None),
            Tls::Files { cert, key } => (TlsKind::Files, Some(cert.clone()), Some(key.clone())),
        };
        let secret_file = match &config.auth {
            AuthMode::Secret(_) => config.secret_file.clone(),
            _ => None,
        };
        Self {
            domain: Some(config.domain.clone()),
            listen: Some(config.listen),
            tunnel_listen: Some(config.tunnel_listen.map_or(Listen::Off, Listen::At)),
            admin_listen: Some(config.admin_listen.map_or(Listen::Off, Listen::At)),
            auth: Some(config.auth.kind()),
            secret_file,
            secret: None,
            data_dir: config.data_dir.clone(),
            database: Some(config.database.clone()),
            key_file: match &config.key {
                KeySource::Memory => None,
                KeySource::File(path) => Some(path.clone()),
            },
            paths: Some(config.paths),
            public_url: config.public_url.map(|url| url.origin(&config.domain.host())),
            tls: Some(tls),
            tls_cert,
            tls_key,
            http_mode: Some(config.http_mode),
            node: Some(config.node.clone()),
            log_format: Some(config.log_format),
            log: Some(config.log.clone()),
            grace_secs: Some(config.timing.grace.as_secs()),
            hold_secs: Some(config.timing.hold.as_secs()),
            idle_secs: Some(config.timing.idle.as_secs()),
            share_ttl_secs: Some(config.timing.share_ttl.map_or(0, |ttl| ttl.as_secs())),
            keep_name_days: Some(config.timing.keep_name.as_secs() / SECS_PER_DAY),
            limits: LimitsLayer::from(&config.limits),
        }
    }
}

pub(super) const SECS_PER_DAY: u64 = 24 * 3600;

impl From<&super::Limits> for LimitsLayer {
    fn from(limits: &super::Limits) -> Self {
        let rate = |rate: super::Rate| Some(rate.map_or(0, std::num::NonZeroU32::get));
        Self {
            max_header_bytes: Some(limits.max_header_bytes),
            max_body_bytes: Some(limits.max_body_bytes),
            max_streams_per_share: Some(limits.max_streams_per_share),
            max_streams_per_session: Some(limits.max_streams_per_session),
            max_sessions: Some(limits.max_sessions),
            max_shares_per_owner: Some(limits.max_shares_per_owner),
            requests_per_second: rate(limits.requests_per_second),
            requests_burst: Some(limits.requests_burst.get()),
            claims_per_minute_per_key: rate(limits.claims_per_minute_per_key),
            claims_per_minute_per_address: rate(limits.claims_per_minute_per_address),
            handshakes_per_minute: rate(limits.handshakes_per_minute),
        }
    }
}
