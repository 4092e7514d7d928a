//! From what was written to what is obeyed; every bad setting is found in one go.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mcpm_shared::token::Token;

use super::acme::{Acme, AcmeChallenge, AcmeCustoms, AcmeProof, LETS_ENCRYPT};
use super::database::Database;
use super::layer::{Layer, LimitsLayer, SECS_PER_DAY};
use super::names::labels;
use super::nodes::nodes;
use super::observe::observe;
use super::values::{AuthKind, Domain, Listen, LogFormat, PublicUrl, TlsKind};
use super::{AuthMode, Config, KEEP_NAME, KeySource, Limits, OPEN_SHARE_TTL, Rate, Timing, Tls};

/// Shortest accepted secret: below it, one seen assertion could be searched offline.
const MIN_SECRET_BYTES: usize = 16;

/// One setting that cannot be obeyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The setting, as it is called in the file and after `--`.
    pub setting: &'static str,
    /// What is wrong and what to write instead.
    pub message: String,
}

/// Settings that cannot be obeyed, all of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The problems, in the order of the settings.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.as_slice() {
            [one] => write!(f, "bad setting `{}`: {}", one.setting, one.message),
            many => {
                write!(f, "{} bad settings", many.len())?;
                many.iter().try_for_each(|one| write!(f, "\n  {}: {}", one.setting, one.message))
            }
        }
    }
}

/// Where a relay keeps what it must not forget: all that operators' commands need to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Where leases and tokens live.
    pub database: Database,
    /// Where the signing key lives.
    pub key: KeySource,
}

/// Collects problems while resolution goes on with stand-ins.
#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, setting: &'static str, message: impl Into<String>) {
        self.0.push(Problem { setting, message: message.into() });
    }
}

impl Layer {
    /// Returns the settings to obey; absent ones get their defaults.
    ///
    /// Reads the files of the secrets and of the database's URL, where there are any, and nothing
    /// else.
    ///
    /// # Errors
    /// Fails with every setting that is wrong or missing.
    pub fn resolve(self) -> Result<Config, ConfigError> {
        let mut problems = Problems::default();
        let domain = self.domain.clone().unwrap_or_else(Domain::localhost);
        let paths = self.paths.unwrap_or_else(|| domain.is_local());
        let tls = self.tls(&domain, paths, &mut problems);
        let listen = self.listen.unwrap_or_else(|| default_listen(&domain, &tls));
        let auth = self.auth(&domain, listen, &mut problems);
        let (database, key) = self.places(&mut problems);
        let public_url = self.public_url(&domain, &mut problems);
        if !paths && domain.address().is_some() {
            problems
                .add("paths", "must be true where the domain is an address: it has no subdomains");
        }
        let timing = self.timing(auth.kind(), &mut problems);
        let limits = self.limits.resolve(&mut problems);
        let (per_owner, per_address) = self.quotas.resolve(auth.kind());
        let limits = Limits { per_owner, per_address, ..limits };
        let labels = labels(&self, auth.kind(), |setting, why| problems.add(setting, why));
        let (several, node, wrong) = nodes(&self, &database);
        wrong.into_iter().for_each(|(setting, message)| problems.add(setting, message));
        let (access_log, traces, wrong) = observe(&self);
        wrong.into_iter().for_each(|(setting, message)| problems.add(setting, message));
        if !problems.0.is_empty() {
            return Err(ConfigError { problems: problems.0 });
        }
        let default_admin = Listen::At(SocketAddr::from((Ipv4Addr::LOCALHOST, 6277)));
        Ok(Config {
            domain,
            listen,
            tunnel_listen: self.tunnel_listen.and_then(Listen::addr),
            http_listen: self.http_listen.and_then(Listen::addr),
            admin_listen: self.admin_listen.unwrap_or(default_admin).addr(),
            admin_token_file: self
                .admin_token_file
                .or_else(|| self.data_dir.as_ref().map(|dir| dir.join("admin.token"))),
            takeover_socket: match self.takeover_socket {
                Some(path) if path.as_os_str() == "none" => None,
                None => self.data_dir.as_ref().map(|dir| dir.join("takeover.sock")),
                named => named,
            },
            auth,
            secret_file: self.secret_file,
            data_dir: self.data_dir,
            database,
            database_file: self.database_file,
            key,
            ready_without_database: self.ready_without_database.unwrap_or(true),
            paths,
            public_url,
            tls,
            dns_servers: self.dns_servers.unwrap_or_default(),
            hsts: self.hsts.map(Duration::from_secs),
            proxy_protocol: self.proxy_protocol.unwrap_or_default(),
            trusted_proxies: self.trusted_proxies.unwrap_or_default(),
            http_mode: self.http_mode.unwrap_or(false),
            node,
            nodes: several,
            log_format: self.log_format.unwrap_or(LogFormat::Text),
            log: self.log.unwrap_or_else(|| "info".to_owned()),
            access_log,
            traces,
            labels,
            reserved_names_file: self.reserved_names_file,
            abuse_contact: self.abuse_contact,
            limits,
            timing,
        })
    }

    /// Returns where things are kept, without asking for the rest to be right.
    ///
    /// # Errors
    /// Fails when it is not said where.
    pub fn storage(&self) -> Result<Storage, ConfigError> {
        let mut problems = Problems::default();
        let (database, key) = self.places(&mut problems);
        match problems.0.is_empty() {
            true => Ok(Storage { database, key }),
            false => Err(ConfigError { problems: problems.0 }),
        }
    }

    fn tls(&self, domain: &Domain, paths: bool, problems: &mut Problems) -> Tls {
        let files = self.tls_cert.is_some() || self.tls_key.is_some();
        let kind = self.tls.unwrap_or(if files { TlsKind::Files } else { TlsKind::None });
        if kind == TlsKind::None && self.http_listen.and_then(Listen::addr).is_some() {
            problems.add("http-listen", "needs tls: there is no HTTPS to send visitors to");
        }
        match (kind, &self.tls_cert, &self.tls_key) {
            (TlsKind::Files, Some(cert), Some(key)) => {
                return Tls::Files { cert: cert.clone(), key: key.clone() };
            }
            (TlsKind::Files, None, _) => problems.add("tls-cert", "is needed with tls = files"),
            (TlsKind::Files, _, None) => problems.add("tls-key", "is needed with tls-cert"),
            (TlsKind::SelfSigned | TlsKind::Acme | TlsKind::None, ..) if files => {
                problems.add("tls", "must be `files` where tls-cert or tls-key is given");
            }
            (TlsKind::SelfSigned, ..) => return Tls::SelfSigned,
            (TlsKind::Acme, ..) => {
                return Tls::Acme(Box::new(self.acme(domain, paths, problems)));
            }
            (TlsKind::None, ..) => {}
        }
        Tls::None
    }

    fn acme(&self, domain: &Domain, paths: bool, problems: &mut Problems) -> Acme {
        if domain.is_local() {
            problems.add("tls", "can be `acme` for a domain in the DNS only");
        }
        // A database keeps the certificates too.
        let forgets = matches!(self.database, None | Some(Database::Memory));
        if self.data_dir.is_none() && forgets && self.database_file.is_none() {
            problems.add("data-dir", "is needed with tls = acme, to keep the certificate");
        }
        let directory = self.acme_directory.clone().unwrap_or_else(|| LETS_ENCRYPT.to_owned());
        if !directory.starts_with("https://") || directory.parse::<http::Uri>().is_err() {
            problems.add("acme-directory", "must be a URL that begins with https://");
        }
        let proof = self.acme_proof(problems);
        if !paths && !matches!(proof, AcmeProof::Dns { .. }) {
            problems.add(
                "acme-dns",
                format!(
                    "is needed, because shares are at NAME.{domain} and wildcard certificates \
                     take a DNS record; or set paths = true"
                ),
            );
        }
        let customs = self.acme_customs(&proof, problems);
        Acme { directory, email: self.acme_email.clone(), ca: self.acme_ca.clone(), proof, customs }
    }

    fn acme_customs(&self, proof: &AcmeProof, problems: &mut Problems) -> AcmeCustoms {
        let default = match proof {
            AcmeProof::Http => AcmeChallenge::Http,
            _ => AcmeChallenge::TlsAlpn,
        };
        let challenge = self.acme_domains_challenge.unwrap_or(default);
        match challenge {
            AcmeChallenge::Dns => problems.add(
                "acme-domains-challenge",
                "must be tls-alpn-01 or http-01: nobody but their owners writes their DNS",
            ),
            AcmeChallenge::Http
                if !matches!(proof, AcmeProof::Http)
                    && self.http_listen.and_then(Listen::addr).is_none() =>
            {
                problems.add("http-listen", "is needed with acme-domains-challenge = http-01");
            }
            _ => {}
        }
        let per_hour = AcmeCustoms::default().orders_per_hour;
        AcmeCustoms { challenge, orders_per_hour: self.acme_domains_per_hour.unwrap_or(per_hour) }
    }

    fn acme_proof(&self, problems: &mut Problems) -> AcmeProof {
        let default = match self.acme_dns {
            Some(_) => AcmeChallenge::Dns,
            None => AcmeChallenge::TlsAlpn,
        };
        match (self.acme_challenge.unwrap_or(default), &self.acme_dns) {
            (AcmeChallenge::Dns, Some(provider)) => {
                let token = self.acme_dns_token(provider.wants_token(), problems);
                return AcmeProof::Dns {
                    provider: provider.clone(),
                    token,
                    token_file: self.acme_dns_token_file.clone(),
                    wait: self.acme_dns_wait_secs.map(Duration::from_secs),
                };
            }
            (AcmeChallenge::Dns, None) => {
                problems.add("acme-dns", "is needed with acme-challenge = dns-01");
            }
            (AcmeChallenge::Http, _) => {
                if self.http_listen.and_then(Listen::addr).is_none() {
                    problems.add("http-listen", "is needed with acme-challenge = http-01");
                }
                return AcmeProof::Http;
            }
            (AcmeChallenge::TlsAlpn, _) => {}
        }
        AcmeProof::Tls
    }

    fn acme_dns_token(&self, wanted: bool, problems: &mut Problems) -> Option<Token> {
        match (&self.acme_dns_token_file, &self.acme_dns_token) {
            (Some(path), _) => read_lines("acme-dns-token-file", path, problems).into_iter().next(),
            (None, Some(token)) => Some(token.clone()),
            (None, None) if wanted => {
                problems.add(
                    "acme-dns-token-file",
                    "is needed with this acme-dns (or MCPM_RELAY_ACME_DNS_TOKEN)",
                );
                None
            }
            (None, None) => None,
        }
    }

    /// Without a choice, only a relay that nobody else can reach is open.
    fn auth(&self, domain: &Domain, listen: SocketAddr, problems: &mut Problems) -> AuthMode {
        let given = self.secret_file.is_some() || self.secret.is_some();
        let private = domain.is_local() && listen.ip().is_loopback();
        match self.auth {
            Some(kind) if self.oidc.is_given() && kind != AuthKind::Oidc => {
                problems.add("auth", "must be `oidc` where settings of [oidc] are given");
                AuthMode::Open
            }
            Some(AuthKind::Oidc) => self.oidc(problems),
            None if self.oidc.is_given() => self.oidc(problems),
            Some(AuthKind::Secret) => AuthMode::Secret(self.secrets(problems)),
            Some(_) if given => {
                problems.add("auth", "must be `secret` where a secret is given");
                AuthMode::Open
            }
            None if given => AuthMode::Secret(self.secrets(problems)),
            Some(AuthKind::Open) => AuthMode::Open,
            Some(AuthKind::Token) => AuthMode::Token,
            None if private => AuthMode::Open,
            None => {
                problems.add(
                    "auth",
                    "must be chosen for a relay that others can reach: `secret` for a team, \
                     `token` or `oidc` for users that you name, `open` for everybody",
                );
                AuthMode::Open
            }
        }
    }

    fn oidc(&self, problems: &mut Problems) -> AuthMode {
        AuthMode::Oidc(Arc::new(self.oidc.resolve(|setting, why| problems.add(setting, why))))
    }

    fn secrets(&self, problems: &mut Problems) -> Vec<Token> {
        let secrets = match (&self.secret_file, &self.secret) {
            (Some(path), _) => read_lines("secret-file", path, problems),
            (None, Some(secret)) => vec![secret.clone()],
            (None, None) => {
                problems.add("secret-file", "is needed with auth = secret (or MCPM_RELAY_SECRET)");
                return Vec::new();
            }
        };
        if secrets.iter().any(|secret| secret.expose().len() < MIN_SECRET_BYTES) {
            problems.add(
                "secret-file",
                format!(
                    "a secret needs {MIN_SECRET_BYTES} characters or more; \
                     make one with `openssl rand -hex 32`"
                ),
            );
        }
        secrets
    }

    fn places(&self, problems: &mut Problems) -> (Database, KeySource) {
        let in_data_dir = |file: &str| self.data_dir.as_ref().map(|dir| dir.join(file));
        let database = self
            .database_url(problems)
            .or_else(|| in_data_dir("relay.db").map(Database::Sqlite))
            .unwrap_or_else(|| {
                problems.add("data-dir", "is needed, or database = \"memory:\" to keep nothing");
                Database::Memory
            });
        let own = || in_data_dir("relay.key").map(KeySource::File);
        // Nodes must believe each other's tickets and tokens.
        let shared = || self.node_secret_file.clone().map(KeySource::NodeSecret);
        let key = self.key_file.clone().map(KeySource::File).or_else(shared).or_else(own);
        if key.is_none() && database != Database::Memory {
            problems.add("key-file", "is needed, or data-dir, to keep tickets and tokens valid");
        }
        (database, key.unwrap_or(KeySource::Memory))
    }

    /// Returns the database that is given as a URL or in a file, if one is.
    fn database_url(&self, problems: &mut Problems) -> Option<Database> {
        let Some(path) = &self.database_file else { return self.database.clone() };
        if self.database.is_some() {
            problems.add("database-file", "must be left out where `database` is given");
            return self.database.clone();
        }
        let text = match std::fs::read_to_string(path) {
            Ok(text) => zeroize::Zeroizing::new(text),
            Err(error) => {
                problems.add("database-file", format!("cannot read {}: {error}", path.display()));
                return Some(Database::Memory);
            }
        };
        let database = text.trim().parse();
        Some(database.unwrap_or_else(|error| {
            problems.add("database-file", format!("{} holds {error}", path.display()));
            Database::Memory
        }))
    }

    fn public_url(&self, domain: &Domain, problems: &mut Problems) -> Option<PublicUrl> {
        let text = self.public_url.as_deref()?;
        match PublicUrl::parse_with_host(text) {
            Ok((url, host)) if host == domain.host() => return Some(url),
            Ok(_) => problems.add("public-url", format!("must have the host `{domain}`")),
            Err(error) => problems.add("public-url", error.to_string()),
        }
        None
    }

    fn timing(&self, auth: AuthKind, problems: &mut Problems) -> Timing {
        let default = Timing::default();
        let secs =
            |value: Option<u64>, default: Duration| value.map_or(default, Duration::from_secs);
        let idle = secs(self.idle_secs, default.idle);
        if idle.is_zero() {
            problems.add("idle-secs", "must be 1 or more");
        }
        let share_ttl = match self.share_ttl_secs {
            Some(0) => None,
            Some(1..60) => {
                // Agents renew in thirds of it; below this they would do little else.
                problems.add("share-ttl-secs", "must be 0 or at least 60");
                None
            }
            Some(secs) => Some(Duration::from_secs(secs)),
            None => (auth == AuthKind::Open).then_some(OPEN_SHARE_TTL),
        };
        Timing {
            grace: secs(self.grace_secs, default.grace),
            drain: secs(self.drain_secs, default.drain),
            hold: secs(self.hold_secs, default.hold),
            idle,
            share_ttl,
            keep_name: self
                .keep_name_days
                .map_or(KEEP_NAME, |days| Duration::from_secs(days.saturating_mul(SECS_PER_DAY))),
        }
    }
}

impl LimitsLayer {
    fn resolve(&self, problems: &mut Problems) -> Limits {
        let default = Limits::default();
        let rate = |value: Option<u32>, default: Rate| value.map_or(default, NonZeroU32::new);
        if self.max_header_bytes.is_some_and(|bytes| bytes < 8192) {
            // hyper's own floor for an HTTP/1 read buffer.
            problems.add("limits.max-header-bytes", "must be 8192 or more");
        }
        for (setting, zero) in [
            ("limits.max-streams-per-share", self.max_streams_per_share == Some(0)),
            ("limits.max-streams-per-session", self.max_streams_per_session == Some(0)),
            ("limits.max-sessions", self.max_sessions == Some(0)),
            ("limits.max-shares-per-owner", self.max_shares_per_owner == Some(0)),
            ("limits.requests-burst", self.requests_burst == Some(0)),
        ] {
            if zero {
                problems.add(setting, "must be 1 or more");
            }
        }
        Limits {
            max_header_bytes: self.max_header_bytes.unwrap_or(default.max_header_bytes),
            max_body_bytes: self.max_body_bytes.unwrap_or(default.max_body_bytes),
            max_streams_per_share: self
                .max_streams_per_share
                .unwrap_or(default.max_streams_per_share),
            max_streams_per_session: self
                .max_streams_per_session
                .unwrap_or(default.max_streams_per_session),
            max_sessions: self.max_sessions.unwrap_or(default.max_sessions),
            max_shares_per_owner: self.max_shares_per_owner.unwrap_or(default.max_shares_per_owner),
            requests_per_second: rate(self.requests_per_second, default.requests_per_second),
            requests_burst: self
                .requests_burst
                .and_then(NonZeroU32::new)
                .unwrap_or(default.requests_burst),
            claims_per_minute_per_key: rate(
                self.claims_per_minute_per_key,
                default.claims_per_minute_per_key,
            ),
            claims_per_minute_per_address: rate(
                self.claims_per_minute_per_address,
                default.claims_per_minute_per_address,
            ),
            handshakes_per_minute: rate(self.handshakes_per_minute, default.handshakes_per_minute),
            per_owner: default.per_owner,
            per_address: default.per_address,
        }
    }
}

fn default_listen(domain: &Domain, tls: &Tls) -> SocketAddr {
    let loopback = domain.as_str() == "localhost"
        || domain.address().is_some_and(|address| address.is_loopback());
    match (loopback, tls) {
        (true, Tls::None) => SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
        (true, _) => SocketAddr::from((Ipv4Addr::LOCALHOST, 8443)),
        (false, Tls::None) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 80)),
        (false, _) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 443)),
    }
}

fn read_lines(setting: &'static str, path: &Path, problems: &mut Problems) -> Vec<Token> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => zeroize::Zeroizing::new(text),
        Err(error) => {
            problems.add(setting, format!("cannot read {}: {error}", path.display()));
            return Vec::new();
        }
    };
    let secrets: Vec<Token> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(Token::new).collect();
    if secrets.is_empty() {
        problems.add(setting, format!("{} is empty", path.display()));
    }
    secrets
}
