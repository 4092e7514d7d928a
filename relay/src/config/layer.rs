//! One layer of settings, as written in flags, environment or file: everything may be absent.
//!
//! The doc comments of the fields are the texts of `--help`.

use std::net::SocketAddr;
use std::path::PathBuf;

use mcpm_shared::token::Token;
use serde::{Deserialize, Serialize};

use super::acme::{AcmeChallenge, DnsProvider, DnsServers, Nets};
use super::database::Database;
use super::observe::AccessLogKind;
use super::oidc::OidcLayer;
use super::quotas::QuotasLayer;
use super::values::{AuthKind, Contact, Domain, Listen, LogFormat, TlsKind};

/// How long a day is, where settings count in days.
pub(super) const SECS_PER_DAY: u64 = 24 * 3600;

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

    /// Listener for plain HTTP that sends visitors to HTTPS, such as 0.0.0.0:80 [default: none]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_HTTP_LISTEN", value_name = "ADDR"))]
    pub http_listen: Option<Listen>,

    /// Listener for health, metrics, dashboard and admin API, or `none` [default: 127.0.0.1:6277]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_ADMIN_LISTEN", value_name = "ADDR"))]
    pub admin_listen: Option<Listen>,

    /// File with the token of the admin API, made when absent
    /// [default: admin.token in the data directory]
    #[cfg_attr(
        feature = "bin",
        arg(long, env = "MCPM_RELAY_ADMIN_TOKEN_FILE", value_name = "FILE")
    )]
    pub admin_token_file: Option<PathBuf>,

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

    /// Where leases and tokens live: `sqlite:///FILE`, `postgres://USER@HOST/DATABASE` or `memory:`;
    /// with a password only in `MCPM_RELAY_DATABASE` or a file
    /// [default: relay.db in the data directory]
    #[cfg_attr(
        feature = "bin",
        arg(long, env = "MCPM_RELAY_DATABASE", value_name = "URL", hide_env_values = true)
    )]
    pub database: Option<Database>,

    /// File with the URL of the database, where it holds a password
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_DATABASE_FILE", value_name = "FILE"))]
    pub database_file: Option<PathBuf>,

    /// Key that signs tickets and agent tokens, made when absent
    /// [default: relay.key in the data directory]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_KEY_FILE", value_name = "FILE"))]
    pub key_file: Option<PathBuf>,

    /// Unix socket by which `serve --take-over` gets the listeners of this process, or `none`
    /// [default: takeover.sock in the data directory]
    #[cfg_attr(
        feature = "bin",
        arg(long, env = "MCPM_RELAY_TAKEOVER_SOCKET", value_name = "FILE")
    )]
    pub takeover_socket: Option<PathBuf>,

    /// Let /readyz say 200 while the database does not answer: shares that are up go on
    /// [default: true]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_READY_WITHOUT_DATABASE",
        value_name = "BOOL", num_args = 0..=1, default_missing_value = "true",
        require_equals = true))]
    pub ready_without_database: Option<bool>,

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

    /// Directory of the authority with --tls acme [default: that of Let's Encrypt]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_ACME_DIRECTORY", value_name = "URL"))]
    pub acme_directory: Option<String>,

    /// Address that the authority may write to [default: none]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_ACME_EMAIL", value_name = "EMAIL"))]
    pub acme_email: Option<String>,

    /// PEM file with the root of a private authority's own server
    /// [default: what the system trusts]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_ACME_CA", value_name = "FILE"))]
    pub acme_ca: Option<PathBuf>,

    /// How to prove that the domain is the relay's
    /// [default: dns-01 if --acme-dns is given, else tls-alpn-01]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_ACME_CHALLENGE", value_name = "KIND"))]
    pub acme_challenge: Option<AcmeChallenge>,

    /// Who writes DNS records for the authority, needed for *.DOMAIN: exec:PROGRAM,
    /// rfc2136:KEY@SERVER:PORT/ZONE (without :PORT it is 53), cloudflare or desec
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_ACME_DNS", value_name = "PROVIDER"))]
    pub acme_dns: Option<DnsProvider>,

    /// File with the provider's API token or TSIG secret; or set MCPM_RELAY_ACME_DNS_TOKEN
    #[cfg_attr(
        feature = "bin",
        arg(long, env = "MCPM_RELAY_ACME_DNS_TOKEN_FILE", value_name = "FILE")
    )]
    pub acme_dns_token_file: Option<PathBuf>,

    /// The provider's token itself: from the environment only, never from flags or files.
    #[cfg_attr(feature = "bin", arg(skip))]
    #[serde(skip)]
    pub acme_dns_token: Option<Token>,

    /// Seconds until a DNS record is seen everywhere
    /// [default: 0 with exec, 5 with rfc2136, 20 with cloudflare, 90 with desec]
    #[cfg_attr(
        feature = "bin",
        arg(long, env = "MCPM_RELAY_ACME_DNS_WAIT_SECS", value_name = "SECS")
    )]
    pub acme_dns_wait_secs: Option<u64>,

    /// How custom domains get certificates of their own with --tls acme
    /// [default: http-01 with --acme-challenge http-01, else tls-alpn-01]
    #[cfg_attr(
        feature = "bin",
        arg(
            long,
            env = "MCPM_RELAY_ACME_DOMAINS_CHALLENGE",
            value_name = "KIND",
            value_parser = super::acme::challenges_of_domains()
        )
    )]
    pub acme_domains_challenge: Option<AcmeChallenge>,

    /// Certificates of custom domains that all nodes order in an hour, 0 for none at all
    /// [default: 40]
    #[cfg_attr(
        feature = "bin",
        arg(long, env = "MCPM_RELAY_ACME_DOMAINS_PER_HOUR", value_name = "N")
    )]
    pub acme_domains_per_hour: Option<u32>,

    /// Name servers that say whose custom domains are, such as 192.0.2.53 [default: system]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_DNS_SERVERS", value_name = "ADDRS"))]
    pub dns_servers: Option<DnsServers>,

    /// Tell browsers for so many seconds that these hosts speak HTTPS only; alone for a year, 0 to
    /// take it back [default: say nothing]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_HSTS", value_name = "SECS",
        num_args = 0..=1, default_missing_value = "31536000", require_equals = true))]
    pub hsts: Option<u64>,

    /// Networks whose connections begin with a PROXY protocol header of version 2, such as
    /// 10.0.0.0/8 [default: none]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_PROXY_PROTOCOL", value_name = "NETS"))]
    pub proxy_protocol: Option<Nets>,

    /// Networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed
    /// [default: none]
    #[cfg_attr(
        feature = "bin",
        arg(long, env = "MCPM_RELAY_TRUSTED_PROXIES", value_name = "NETS")
    )]
    pub trusted_proxies: Option<Nets>,

    /// Let agents share plain HTTP servers too: pages under your domain, so a risk of phishing
    /// [default: false]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_HTTP_MODE", value_name = "BOOL",
        num_args = 0..=1, default_missing_value = "true", require_equals = true))]
    pub http_mode: Option<bool>,

    /// Name of this node in the database [default: main, or a random one with --node-listen]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_NODE_ID", value_name = "NAME"))]
    pub node_id: Option<String>,

    /// Listener for the other nodes of this relay, such as 0.0.0.0:6278; makes it one of several
    /// over one PostgreSQL [default: none]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_NODE_LISTEN", value_name = "ADDR"))]
    pub node_listen: Option<Listen>,

    /// Where the other nodes reach that listener [default: the address of --node-listen]
    #[cfg_attr(
        feature = "bin",
        arg(long, env = "MCPM_RELAY_NODE_ADVERTISE", value_name = "HOST:PORT")
    )]
    pub node_advertise: Option<String>,

    /// File with the secret that all nodes have, one a line while rotating
    #[cfg_attr(
        feature = "bin",
        arg(long, env = "MCPM_RELAY_NODE_SECRET_FILE", value_name = "FILE")
    )]
    pub node_secret_file: Option<PathBuf>,

    /// Form of the log lines on stderr [default: text]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_LOG_FORMAT", value_name = "FORM"))]
    pub log_format: Option<LogFormat>,

    /// What to log: a level, or a filter such as `info,mcpm_relay=debug` [default: info]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_LOG", value_name = "FILTER"))]
    pub log: Option<String>,

    /// Write a line for each request that ended [default: text if --access-log-file is given, else
    /// off]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_ACCESS_LOG", value_name = "FORM"))]
    pub access_log: Option<AccessLogKind>,

    /// File of the access log, opened again on SIGHUP [default: stdout]
    #[cfg_attr(
        feature = "bin",
        arg(long, env = "MCPM_RELAY_ACCESS_LOG_FILE", value_name = "FILE")
    )]
    pub access_log_file: Option<PathBuf>,

    /// OpenTelemetry collector that gets traces over HTTP, such as `http://127.0.0.1:4318`; or set
    /// OTEL_EXPORTER_OTLP_ENDPOINT [default: none]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_OTLP_ENDPOINT", value_name = "URL"))]
    pub otlp_endpoint: Option<String>,

    /// Part of the requests that is traced, from 0 to 1 [default: 1]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_TRACE_RATIO", value_name = "RATIO"))]
    pub trace_ratio: Option<f64>,

    /// Seconds that streams get to end at shutdown [default: 30]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_GRACE_SECS", value_name = "SECS"))]
    pub grace_secs: Option<u64>,

    /// Seconds that the relay still accepts visitors after it was told to stop, while /readyz says
    /// so, for balancers to notice [default: 0]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_DRAIN_SECS", value_name = "SECS"))]
    pub drain_secs: Option<u64>,

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

    /// File with names that nobody gets unless you reserve them for somebody: one a line, with `*` at
    /// either end for the rest [default: none]
    #[cfg_attr(
        feature = "bin",
        arg(long, env = "MCPM_RELAY_RESERVED_NAMES_FILE", value_name = "FILE")
    )]
    pub reserved_names_file: Option<PathBuf>,

    /// Give no names that look like those of banks, mail services and other names that many trust
    /// [default: true with --auth open, else false]
    #[cfg_attr(feature = "bin", arg(long, env = "MCPM_RELAY_PROTECT_BRANDS", value_name = "BOOL",
        num_args = 0..=1, default_missing_value = "true", require_equals = true))]
    pub protect_brands: Option<bool>,

    /// Mail address or page for complaints, shown to who is refused and in /.well-known/security.txt
    /// [default: none]
    #[cfg_attr(
        feature = "bin",
        arg(long, env = "MCPM_RELAY_ABUSE_CONTACT", value_name = "CONTACT")
    )]
    pub abuse_contact: Option<Contact>,

    /// Limits.
    #[cfg_attr(feature = "bin", command(flatten, next_help_heading = "Limits"))]
    pub limits: LimitsLayer,

    /// Quotas of owners and addresses.
    #[cfg_attr(feature = "bin", command(flatten, next_help_heading = "Quotas"))]
    pub quotas: QuotasLayer,

    /// The identity provider.
    #[cfg_attr(feature = "bin", command(flatten, next_help_heading = "OpenID Connect"))]
    pub oidc: OidcLayer,
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
    /// Returns this layer, with what it lacks taken from `lower`.
    #[must_use]
    pub fn or(self, lower: Self) -> Self {
        // Destructured, so that a new field cannot be missed.
        let Self {
            domain,
            listen,
            tunnel_listen,
            http_listen,
            admin_listen,
            admin_token_file,
            auth,
            secret_file,
            secret,
            data_dir,
            database,
            database_file,
            key_file,
            takeover_socket,
            ready_without_database,
            paths,
            public_url,
            tls,
            tls_cert,
            tls_key,
            acme_directory,
            acme_email,
            acme_ca,
            acme_challenge,
            acme_dns,
            acme_dns_token_file,
            acme_dns_token,
            acme_dns_wait_secs,
            acme_domains_challenge,
            acme_domains_per_hour,
            dns_servers,
            hsts,
            proxy_protocol,
            trusted_proxies,
            http_mode,
            node_id,
            node_listen,
            node_advertise,
            node_secret_file,
            log_format,
            log,
            access_log,
            access_log_file,
            otlp_endpoint,
            trace_ratio,
            grace_secs,
            drain_secs,
            hold_secs,
            idle_secs,
            share_ttl_secs,
            keep_name_days,
            reserved_names_file,
            protect_brands,
            abuse_contact,
            limits,
            quotas,
            oidc,
        } = self;
        // The database too is one setting in two forms.
        let (database, database_file) = if database.is_some() || database_file.is_some() {
            (database, database_file)
        } else {
            (lower.database, lower.database_file)
        };
        // A secret counts with its rank: a flag for a file beats the environment's value.
        let (secret_file, secret) = if secret_file.is_some() || secret.is_some() {
            (secret_file, secret)
        } else {
            (lower.secret_file, lower.secret)
        };
        let (acme_dns_token_file, acme_dns_token) =
            if acme_dns_token_file.is_some() || acme_dns_token.is_some() {
                (acme_dns_token_file, acme_dns_token)
            } else {
                (lower.acme_dns_token_file, lower.acme_dns_token)
            };
        Self {
            domain: domain.or(lower.domain),
            listen: listen.or(lower.listen),
            tunnel_listen: tunnel_listen.or(lower.tunnel_listen),
            http_listen: http_listen.or(lower.http_listen),
            admin_listen: admin_listen.or(lower.admin_listen),
            admin_token_file: admin_token_file.or(lower.admin_token_file),
            auth: auth.or(lower.auth),
            secret_file,
            secret,
            data_dir: data_dir.or(lower.data_dir),
            database,
            database_file,
            key_file: key_file.or(lower.key_file),
            takeover_socket: takeover_socket.or(lower.takeover_socket),
            ready_without_database: ready_without_database.or(lower.ready_without_database),
            paths: paths.or(lower.paths),
            public_url: public_url.or(lower.public_url),
            tls: tls.or(lower.tls),
            tls_cert: tls_cert.or(lower.tls_cert),
            tls_key: tls_key.or(lower.tls_key),
            acme_directory: acme_directory.or(lower.acme_directory),
            acme_email: acme_email.or(lower.acme_email),
            acme_ca: acme_ca.or(lower.acme_ca),
            acme_challenge: acme_challenge.or(lower.acme_challenge),
            acme_dns: acme_dns.or(lower.acme_dns),
            acme_dns_token_file,
            acme_dns_token,
            acme_dns_wait_secs: acme_dns_wait_secs.or(lower.acme_dns_wait_secs),
            acme_domains_challenge: acme_domains_challenge.or(lower.acme_domains_challenge),
            acme_domains_per_hour: acme_domains_per_hour.or(lower.acme_domains_per_hour),
            dns_servers: dns_servers.or(lower.dns_servers),
            hsts: hsts.or(lower.hsts),
            proxy_protocol: proxy_protocol.or(lower.proxy_protocol),
            trusted_proxies: trusted_proxies.or(lower.trusted_proxies),
            http_mode: http_mode.or(lower.http_mode),
            node_id: node_id.or(lower.node_id),
            node_listen: node_listen.or(lower.node_listen),
            node_advertise: node_advertise.or(lower.node_advertise),
            node_secret_file: node_secret_file.or(lower.node_secret_file),
            log_format: log_format.or(lower.log_format),
            log: log.or(lower.log),
            access_log: access_log.or(lower.access_log),
            access_log_file: access_log_file.or(lower.access_log_file),
            otlp_endpoint: otlp_endpoint.or(lower.otlp_endpoint),
            trace_ratio: trace_ratio.or(lower.trace_ratio),
            grace_secs: grace_secs.or(lower.grace_secs),
            drain_secs: drain_secs.or(lower.drain_secs),
            hold_secs: hold_secs.or(lower.hold_secs),
            idle_secs: idle_secs.or(lower.idle_secs),
            share_ttl_secs: share_ttl_secs.or(lower.share_ttl_secs),
            keep_name_days: keep_name_days.or(lower.keep_name_days),
            reserved_names_file: reserved_names_file.or(lower.reserved_names_file),
            protect_brands: protect_brands.or(lower.protect_brands),
            abuse_contact: abuse_contact.or(lower.abuse_contact),
            limits: limits.or(lower.limits),
            quotas: quotas.or(lower.quotas),
            oidc: oidc.or(lower.oidc),
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
