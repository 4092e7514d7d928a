use std::net::SocketAddr;
use std::time::Duration;

use mcpm_shared::token::Token;

use super::*;

fn layer() -> Layer {
    Layer { database: Some(Database::Memory), ..Layer::default() }
}

fn public() -> Layer {
    Layer { domain: Some("share.example.com".parse().unwrap()), ..layer() }
}

fn settings(error: &ConfigError) -> Vec<&'static str> {
    error.problems.iter().map(|problem| problem.setting).collect()
}

#[test]
fn a_relay_on_loopback_needs_no_settings_but_a_place_for_data() {
    let config = Layer { data_dir: Some("/data".into()), ..Layer::default() }.resolve().unwrap();
    assert_eq!(config.domain, Domain::localhost());
    assert_eq!(config.listen, "127.0.0.1:8080".parse().unwrap());
    assert_eq!(config.admin_listen, Some("127.0.0.1:6277".parse().unwrap()));
    assert_eq!((config.auth.kind(), config.paths), (AuthKind::Open, true));
    assert_eq!(config.database, Database::Sqlite("/data/relay.db".into()));
    assert_eq!(config.key, KeySource::File("/data/relay.key".into()));
    assert_eq!(config.timing.share_ttl, Some(Duration::from_secs(24 * 3600)));
}

#[test]
fn a_relay_that_others_can_reach_must_choose_whom_it_serves() {
    assert_eq!(settings(&public().resolve().unwrap_err()), ["auth"]);
    let everywhere = Layer { listen: Some("0.0.0.0:8080".parse().unwrap()), ..layer() };
    assert_eq!(settings(&everywhere.resolve().unwrap_err()), ["auth"]);
    let chosen = Layer { auth: Some(AuthKind::Open), ..public() }.resolve().unwrap();
    assert_eq!(chosen.listen, "0.0.0.0:80".parse().unwrap());
    assert!(!chosen.paths && !chosen.http_mode);
}

#[test]
fn with_tls_the_default_port_is_443() {
    let tls = Some(TlsKind::SelfSigned);
    let config = Layer { auth: Some(AuthKind::Token), tls, ..public() }.resolve().unwrap();
    assert_eq!(config.listen, "0.0.0.0:443".parse().unwrap());
    assert_eq!(config.timing.share_ttl, None);
    let local = Layer { tls, ..layer() }.resolve().unwrap();
    assert_eq!(local.listen, "127.0.0.1:8443".parse().unwrap());
}

#[test]
fn every_bad_setting_is_reported_at_once() {
    let bad = Layer {
        domain: Some("share.example.com".parse().unwrap()),
        tls_cert: Some("cert.pem".into()),
        public_url: Some("https://other.example.com".to_owned()),
        idle_secs: Some(0),
        share_ttl_secs: Some(5),
        limits: LimitsLayer {
            max_sessions: Some(0),
            max_header_bytes: Some(1),
            ..LimitsLayer::default()
        },
        ..Layer::default()
    };
    let error = bad.resolve().unwrap_err();
    insta::assert_snapshot!(error, @r#"
    8 bad settings
      tls-key: is needed with tls-cert
      auth: must be chosen for a relay that others can reach: `secret` for a team, `token` or `oidc` for users that you name, `open` for everybody
      data-dir: is needed, or database = "memory:" to keep nothing
      public-url: must have the host `share.example.com`
      idle-secs: must be 1 or more
      share-ttl-secs: must be 0 or at least 60
      limits.max-header-bytes: must be 8192 or more
      limits.max-sessions: must be 1 or more
    "#);
}

#[test]
fn one_bad_setting_is_one_line() {
    let error = public().resolve().unwrap_err().to_string();
    assert!(error.starts_with("bad setting `auth`: must be chosen"), "{error}");
    assert_eq!(error.lines().count(), 1);
}

#[test]
fn a_secret_comes_from_a_file_or_the_environment_and_is_long() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    let with_file = || Layer { secret_file: Some(path.clone()), ..public() };
    assert_eq!(settings(&with_file().resolve().unwrap_err()), ["secret-file"]);
    std::fs::write(&path, "  \n").unwrap();
    assert_eq!(settings(&with_file().resolve().unwrap_err()), ["secret-file"]);
    std::fs::write(&path, "short\n").unwrap();
    let error = with_file().resolve().unwrap_err();
    assert!(!error.to_string().contains("short"), "{error}");
    std::fs::write(&path, "0123456789abcdef\n\nfedcba9876543210\n").unwrap();
    let AuthMode::Secret(secrets) = with_file().resolve().unwrap().auth else {
        unreachable!("a secret implies the mode")
    };
    assert_eq!(secrets.len(), 2);
    let from_env = Layer { secret: Some(Token::new("0123456789abcdef")), ..public() };
    assert_eq!(from_env.resolve().unwrap().auth.kind(), AuthKind::Secret);
    let missing = Layer { auth: Some(AuthKind::Secret), ..public() };
    assert_eq!(settings(&missing.resolve().unwrap_err()), ["secret-file"]);
    let contrary = Layer { auth: Some(AuthKind::Open), ..with_file() };
    assert_eq!(settings(&contrary.resolve().unwrap_err()), ["auth"]);
}

#[test]
fn tls_files_come_in_pairs() {
    let open = || Layer { auth: Some(AuthKind::Open), ..public() };
    let key_only = Layer { tls_key: Some("key.pem".into()), ..open() };
    assert_eq!(settings(&key_only.resolve().unwrap_err()), ["tls-cert"]);
    let cert_only = Layer { tls_cert: Some("cert.pem".into()), ..open() };
    assert_eq!(settings(&cert_only.resolve().unwrap_err()), ["tls-key"]);
    let contrary = Layer { tls: Some(TlsKind::SelfSigned), tls_key: Some("k".into()), ..open() };
    assert_eq!(settings(&contrary.resolve().unwrap_err()), ["tls"]);
    let both =
        Layer { tls_cert: Some("cert.pem".into()), tls_key: Some("key.pem".into()), ..open() };
    let Tls::Files { cert, key } = both.resolve().unwrap().tls else { panic!("other TLS") };
    assert_eq!((cert, key), ("cert.pem".into(), "key.pem".into()));
}

fn acme() -> Layer {
    Layer {
        auth: Some(AuthKind::Open),
        tls: Some(TlsKind::Acme),
        data_dir: Some("/data".into()),
        ..public()
    }
}

#[test]
fn shares_at_their_own_hosts_take_a_dns_challenge() {
    assert_eq!(settings(&acme().resolve().unwrap_err()), ["acme-dns"]);
    let by_path = Layer { paths: Some(true), ..acme() }.resolve().unwrap();
    let Tls::Acme(found) = by_path.tls else { panic!("other TLS") };
    assert!(matches!(found.proof, AcmeProof::Tls));
    assert_eq!(found.directory, "https://acme-v02.api.letsencrypt.org/directory");

    let program = Some("exec:/bin/dns".parse().unwrap());
    let by_dns = Layer { acme_dns: program, acme_dns_wait_secs: Some(3), ..acme() };
    let Tls::Acme(found) = by_dns.resolve().unwrap().tls else { panic!("other TLS") };
    let AcmeProof::Dns { token: None, wait, .. } = found.proof else { panic!("other proof") };
    assert_eq!(wait, Some(Duration::from_secs(3)));
}

#[test]
fn what_ordering_certificates_needs_is_asked_for() {
    let dns = |provider: &str| Layer { acme_dns: Some(provider.parse().unwrap()), ..acme() };
    assert_eq!(settings(&dns("desec").resolve().unwrap_err()), ["acme-dns-token-file"]);
    let token = Some(Token::new("token".to_owned()));
    assert!(Layer { acme_dns_token: token, ..dns("desec") }.resolve().is_ok());

    let http = Layer {
        acme_challenge: Some(AcmeChallenge::Http),
        paths: Some(true),
        acme_directory: Some("http://ca.example/dir".to_owned()),
        data_dir: None,
        ..acme()
    };
    let error = http.resolve().unwrap_err();
    assert_eq!(settings(&error), ["data-dir", "acme-directory", "http-listen"]);
    let local = Layer { domain: None, paths: Some(true), ..acme() };
    assert_eq!(settings(&local.resolve().unwrap_err()), ["tls"]);
    let plain = Layer {
        http_listen: Some("127.0.0.1:80".parse().unwrap()),
        tls: Some(TlsKind::None),
        ..acme()
    };
    assert_eq!(settings(&plain.resolve().unwrap_err()), ["http-listen"]);
}

#[test]
fn custom_domains_are_proved_by_tls_or_http() {
    let dns = Layer {
        acme_dns: Some("exec:/bin/dns".parse().unwrap()),
        data_dir: None,
        database: Some("postgres://relay@db/relay".parse().unwrap()),
        key_file: Some("relay.key".into()),
        ..acme()
    };
    let challenge = |kind| Layer { acme_domains_challenge: Some(kind), ..dns.clone() };
    let error = challenge(AcmeChallenge::Dns).resolve().unwrap_err();
    assert_eq!(settings(&error), ["acme-domains-challenge"]);
    let error = challenge(AcmeChallenge::Http).resolve().unwrap_err();
    assert_eq!(settings(&error), ["http-listen"]);
    let Tls::Acme(acme) = dns.resolve().unwrap().tls else { panic!("that is what was asked for") };
    assert_eq!(acme.customs, AcmeCustoms::default(), "and a database keeps what was ordered");
}

#[cfg(feature = "bin")]
#[test]
fn printed_acme_settings_resolve_to_the_same() {
    let config = Layer {
        acme_dns: Some("exec:/bin/dns".parse().unwrap()),
        acme_email: Some("ops@example.com".to_owned()),
        http_listen: Some("0.0.0.0:80".parse().unwrap()),
        trusted_proxies: Some("10.0.0.0/8,192.0.2.1/32".parse().unwrap()),
        acme_domains_challenge: Some(AcmeChallenge::Http),
        acme_domains_per_hour: Some(7),
        dns_servers: Some("192.0.2.53,[::1]:5353".parse().unwrap()),
        hsts: Some(60),
        ..acme()
    };
    let config = config.resolve().unwrap();
    let printed = toml::to_string(&Layer::from(&config)).unwrap();
    let again = Layer::from_toml(&printed).unwrap().resolve().unwrap();
    assert_eq!(format!("{config:?}"), format!("{again:?}"));
}

#[test]
fn an_address_has_no_subdomains() {
    let domain = Some("192.0.2.7".parse().unwrap());
    let auth = Some(AuthKind::Open);
    let config = Layer { domain: domain.clone(), auth, ..layer() }.resolve().unwrap();
    assert!(config.paths);
    let error = Layer { domain, auth, paths: Some(false), ..layer() }.resolve().unwrap_err();
    assert_eq!(settings(&error), ["paths"]);
}

#[test]
fn zero_switches_rates_and_expiry_off() {
    let layer = Layer {
        share_ttl_secs: Some(0),
        limits: LimitsLayer { requests_per_second: Some(0), ..LimitsLayer::default() },
        ..layer()
    };
    let config = layer.resolve().unwrap();
    assert_eq!((config.timing.share_ttl, config.limits.requests_per_second), (None, None));
}

#[test]
fn the_upper_layer_wins_field_by_field() {
    let upper = Layer { hold_secs: Some(1), ..Layer::default() };
    let lower = Layer { hold_secs: Some(2), idle_secs: Some(3), ..layer() };
    let config = upper.or(lower).resolve().unwrap();
    assert_eq!(config.timing.hold, Duration::from_secs(1));
    assert_eq!(config.timing.idle, Duration::from_secs(3));
}

#[test]
fn a_secret_file_in_a_flag_beats_the_secret_of_the_environment() {
    let flag = Layer { secret_file: Some("given".into()), ..Layer::default() };
    let env = Layer { secret: Some(Token::new("x")), ..Layer::default() };
    assert!(flag.clone().or(env.clone()).secret.is_none());
    let env_over_file = env.or(flag);
    assert!(env_over_file.secret.is_some() && env_over_file.secret_file.is_none());
}

#[test]
fn the_database_comes_from_a_url_or_from_a_file_with_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("database");
    let with_file = || Layer {
        database: None,
        database_file: Some(path.clone()),
        key_file: Some("key".into()),
        ..Layer::default()
    };
    assert_eq!(settings(&with_file().resolve().unwrap_err()), ["database-file"]);
    std::fs::write(&path, "postgres://relay:hunt er2@db/relay\n").unwrap();
    let error = with_file().resolve().unwrap_err();
    assert!(!error.to_string().contains("hunt"), "{error}");
    std::fs::write(&path, "postgres://relay:hunter2@db/relay\n").unwrap();
    let config = with_file().resolve().unwrap();
    let Database::Postgres(url) = &config.database else { panic!("{:?}", config.database) };
    assert_eq!(url.expose(), "postgres://relay:hunter2@db/relay");
    let printed = Layer::from(&config);
    assert_eq!((printed.database, printed.database_file), (None, Some(path.clone())));
    assert_eq!(with_file().storage().unwrap().database, config.database);
    let both = Layer { database: Some(Database::Memory), ..with_file() };
    assert_eq!(settings(&both.resolve().unwrap_err()), ["database-file"]);
    let flag = Layer { database: Some(Database::Memory), ..Layer::default() };
    assert_eq!(flag.or(with_file()).database_file, None, "the upper layer's form counts");
}

#[test]
fn the_storage_can_be_found_where_the_rest_is_wrong() {
    let layer = Layer { database: None, data_dir: Some("/data".into()), ..public() };
    let storage = layer.storage().unwrap();
    assert_eq!(storage.database, Database::Sqlite("/data/relay.db".into()));
    assert_eq!(settings(&Layer::default().storage().unwrap_err()), ["data-dir"]);
    let no_key = Layer { database: Some(Database::Sqlite("x.db".into())), ..Layer::default() };
    assert_eq!(settings(&no_key.storage().unwrap_err()), ["key-file"]);
}

fn name() -> Name {
    "calc-a1b2c3".parse().unwrap()
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn a_local_relay_hands_out_path_urls_with_its_port() {
    let url = Config::local().share_url(addr("127.0.0.1:8080"), &name(), ShareMode::Mcp);
    assert_eq!(url, "http://localhost:8080/s/calc-a1b2c3/mcp");
}

#[test]
fn default_ports_are_left_out_of_urls() {
    let config = Config {
        domain: "share.example.com".parse().unwrap(),
        paths: false,
        tls: Tls::SelfSigned,
        ..Config::local()
    };
    let url = config.share_url(addr("0.0.0.0:443"), &name(), ShareMode::Mcp);
    assert_eq!(url, "https://calc-a1b2c3.share.example.com/mcp");
    assert_eq!(config.apex_origin(addr("0.0.0.0:8443")), "https://share.example.com:8443");
}

#[test]
fn a_public_url_wins_over_the_listener() {
    let config = Config {
        domain: "share.example.com".parse().unwrap(),
        paths: false,
        public_url: Some("https://share.example.com".parse().unwrap()),
        ..Config::local()
    };
    let url = config.share_url(addr("127.0.0.1:8080"), &name(), ShareMode::Mcp);
    assert_eq!(url, "https://calc-a1b2c3.share.example.com/mcp");
}

#[test]
fn audiences_hold_the_proxied_and_the_direct_origin() {
    let config = Config { domain: "share.example.com".parse().unwrap(), ..Config::local() };
    let all = config.audiences(addr("127.0.0.1:8080"), Some(addr("0.0.0.0:6276")));
    for origin in [
        "https://share.example.com",
        "http://share.example.com:8080",
        "http://share.example.com:6276",
    ] {
        assert!(all.iter().any(|known| known == origin), "{origin} in {all:?}");
    }
    assert!(!all.iter().any(|known| known.contains("localhost")));
}

#[test]
fn an_ipv6_domain_is_written_in_brackets() {
    let config = Config { domain: "::1".parse().unwrap(), ..Config::local() };
    let url = config.share_url(addr("[::1]:8080"), &name(), ShareMode::Mcp);
    assert_eq!(url, "http://[::1]:8080/s/calc-a1b2c3/mcp");
}

#[cfg(feature = "bin")]
mod toml_file {
    use std::path::PathBuf;

    use super::*;

    const EXAMPLE: &str = include_str!("../../../deploy/config/relay.example.toml");

    #[test]
    fn the_example_is_obeyed() {
        let config = Layer::from_toml(EXAMPLE).unwrap().resolve().unwrap();
        assert_eq!(config.domain.as_str(), "share.example.com");
        assert_eq!(config.auth.kind(), AuthKind::Token);
        assert_eq!(config.data_dir, Some(PathBuf::from("/var/lib/mcpm-relay")));
    }

    #[test]
    fn the_example_shows_the_defaults_of_the_limits_and_timers() {
        let config = Layer::from_toml(EXAMPLE).unwrap().resolve().unwrap();
        assert_eq!(config.limits, Limits::default());
        assert_eq!(config.timing, Timing::default());
    }

    #[test]
    fn the_example_names_every_setting() {
        let all = serde_json::to_value(Layer::default()).unwrap();
        let tables = ["limits", "quotas", "oidc"].map(|table| all[table].as_object().unwrap());
        let inner = tables.iter().flat_map(|table| table.keys());
        for key in all.as_object().unwrap().keys().chain(inner) {
            assert!(EXAMPLE.contains(key.as_str()), "{key} is missing");
        }
    }

    #[test]
    fn printed_settings_resolve_to_the_same() {
        let config = Layer::from_toml(EXAMPLE).unwrap().resolve().unwrap();
        let printed = toml::to_string(&Layer::from(&config)).unwrap();
        let again = Layer::from_toml(&printed).unwrap().resolve().unwrap();
        assert_eq!(format!("{config:?}"), format!("{again:?}"));
    }

    #[test]
    fn an_unknown_key_is_an_error() {
        for text in ["domian = \"x\"", "[limits]\nmax-sesions = 3"] {
            assert!(Layer::from_toml(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_secret_in_a_file_is_an_error() {
        assert!(Layer::from_toml("secret = \"0123456789abcdef\"").is_err());
    }
}
