//! From what is obeyed back to what could be written, for `config print`.

use super::layer::{Layer, LimitsLayer, SECS_PER_DAY};
use super::values::{Listen, TlsKind};
use super::{AcmeProof, AuthMode, Config, KeySource, Tls};

impl From<&Config> for Layer {
    /// Writes resolved settings out in full, without secrets.
    fn from(config: &Config) -> Self {
        let (tls, tls_cert, tls_key) = match &config.tls {
            Tls::None => (TlsKind::None, None, None),
            Tls::SelfSigned => (TlsKind::SelfSigned, None, None),
            Tls::Files { cert, key } => (TlsKind::Files, Some(cert.clone()), Some(key.clone())),
            Tls::Acme(_) => (TlsKind::Acme, None, None),
        };
        let acme = match &config.tls {
            Tls::Acme(acme) => Some(acme),
            _ => None,
        };
        let dns = acme.and_then(|acme| match &acme.proof {
            AcmeProof::Dns { provider, token_file, wait, .. } => Some((provider, token_file, wait)),
            _ => None,
        });
        let secret_file = match &config.auth {
            AuthMode::Secret(_) => config.secret_file.clone(),
            _ => None,
        };
        Self {
            domain: Some(config.domain.clone()),
            listen: Some(config.listen),
            tunnel_listen: Some(config.tunnel_listen.map_or(Listen::Off, Listen::At)),
            http_listen: Some(config.http_listen.map_or(Listen::Off, Listen::At)),
            admin_listen: Some(config.admin_listen.map_or(Listen::Off, Listen::At)),
            admin_token_file: config.admin_token_file.clone(),
            auth: Some(config.auth.kind()),
            secret_file,
            secret: None,
            data_dir: config.data_dir.clone(),
            database: config.database_file.is_none().then(|| config.database.clone()),
            database_file: config.database_file.clone(),
            key_file: match &config.key {
                KeySource::Memory => None,
                KeySource::File(path) => Some(path.clone()),
            },
            paths: Some(config.paths),
            public_url: config.public_url.map(|url| url.origin(&config.domain.host())),
            tls: Some(tls),
            tls_cert,
            tls_key,
            acme_directory: acme.map(|acme| acme.directory.clone()),
            acme_email: acme.and_then(|acme| acme.email.clone()),
            acme_ca: acme.and_then(|acme| acme.ca.clone()),
            acme_challenge: acme.map(|acme| acme.proof.challenge()),
            acme_dns: dns.map(|(provider, ..)| provider.clone()),
            acme_dns_token_file: dns.and_then(|(_, file, _)| file.clone()),
            acme_dns_token: None,
            acme_dns_wait_secs: dns.and_then(|(.., wait)| wait.map(|wait| wait.as_secs())),
            proxy_protocol: Some(config.proxy_protocol.clone()),
            trusted_proxies: Some(config.trusted_proxies.clone()),
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
