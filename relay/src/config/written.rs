//! From what is obeyed back to what could be written, for `config print`.

use super::layer::{Layer, LimitsLayer, SECS_PER_DAY};
use super::observe::AccessLogKind;
use super::oidc::OidcLayer;
use super::quotas::QuotasLayer;
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
                KeySource::Memory | KeySource::NodeSecret(_) => None,
                KeySource::File(path) => Some(path.clone()),
            },
            takeover_socket: Some(config.takeover_socket.clone().unwrap_or_else(|| "none".into())),
            ready_without_database: Some(config.ready_without_database),
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
            acme_domains_challenge: acme.map(|acme| acme.customs.challenge),
            acme_domains_per_hour: acme.map(|acme| acme.customs.orders_per_hour),
            dns_servers: Some(config.dns_servers.clone()),
            hsts: config.hsts.map(|age| age.as_secs()),
            acme_dns_wait_secs: dns.and_then(|(.., wait)| wait.map(|wait| wait.as_secs())),
            proxy_protocol: Some(config.proxy_protocol.clone()),
            trusted_proxies: Some(config.trusted_proxies.clone()),
            http_mode: Some(config.http_mode),
            node_id: Some(config.node.clone()).filter(|id| !id.is_empty()),
            node_listen: config.nodes.as_ref().map(|nodes| Listen::At(nodes.listen)),
            node_advertise: config.nodes.as_ref().and_then(|nodes| nodes.advertise.clone()),
            node_secret_file: config.nodes.as_ref().and_then(|nodes| nodes.secret_file.clone()),
            log_format: Some(config.log_format),
            log: Some(config.log.clone()),
            access_log: Some(AccessLogKind::of(config.access_log.as_ref())),
            access_log_file: config.access_log.as_ref().and_then(|log| log.file.clone()),
            otlp_endpoint: config.traces.as_ref().map(|traces| traces.endpoint.clone()),
            trace_ratio: config.traces.as_ref().map(|traces| traces.ratio),
            grace_secs: Some(config.timing.grace.as_secs()),
            drain_secs: Some(config.timing.drain.as_secs()),
            hold_secs: Some(config.timing.hold.as_secs()),
            idle_secs: Some(config.timing.idle.as_secs()),
            share_ttl_secs: Some(config.timing.share_ttl.map_or(0, |ttl| ttl.as_secs())),
            keep_name_days: Some(config.timing.keep_name.as_secs() / SECS_PER_DAY),
            reserved_names_file: config.reserved_names_file.clone(),
            protect_brands: Some(config.labels.brands),
            abuse_contact: config.abuse_contact.clone(),
            limits: LimitsLayer::from(&config.limits),
            quotas: QuotasLayer::from(&config.limits),
            oidc: match &config.auth {
                AuthMode::Oidc(oidc) => OidcLayer::from(&**oidc),
                _ => OidcLayer::default(),
            },
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
