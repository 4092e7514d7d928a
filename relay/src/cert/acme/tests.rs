use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::{get, head, post};
use axum::{Json, Router};
use mcpm_shared::scope::Scope;
use mcpm_shared::token::Token;
use rustls::ClientConfig;
use rustls::client::verify_server_name;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::ServerName;
use rustls::server::ParsedCertificate;
use serde_json::json;

use super::pebble::{Pebble, signed, until};
use super::renewal::Plan;
use super::*;
use crate::cert::{AnyCert, CertStatus, Place};
use crate::config::{AcmeCustoms, Config, KeySource, Tls};
use crate::domains::fake_dns::{FakeDns, KEY, SECRET};
use crate::ports::Ports;
use crate::relay::Relay;
use crate::store::MemoryStore;

pub(super) const DOMAIN: &str = "share.example.com";

pub(super) fn acme(pebble: &Pebble, proof: AcmeProof) -> Acme {
    let email = Some("ops@example.com".to_owned());
    let customs = AcmeCustoms::default();
    Acme { directory: pebble.directory(), email, ca: Some(pebble.ca()), proof, customs }
}

/// Settings of an authority of which nobody gets anything.
pub(super) fn plain(directory: String) -> Acme {
    let customs = AcmeCustoms::default();
    Acme { directory, email: None, ca: None, proof: AcmeProof::Tls, customs }
}

/// The certificates of a relay that keeps them in files.
async fn in_files(settings: &Acme, dir: &Path) -> AcmeCert {
    let place = Place::Files { dir: dir.join("acme"), store: Arc::new(MemoryStore::new()) };
    let vault = Vault::open(place, &[1; 32], "main").await.unwrap();
    AcmeCert::open(settings, &DOMAIN.parse().unwrap(), vault, Arc::default()).await.unwrap()
}

/// A relay in front of which nothing stands, where Pebble looks for it.
pub(super) fn config(pebble: &Pebble, proof: AcmeProof, dir: &Path) -> Config {
    let on = |port| (Ipv4Addr::LOCALHOST, port).into();
    Config {
        domain: DOMAIN.parse().unwrap(),
        listen: on(pebble.tls_port),
        http_listen: Some(on(pebble.http_port)),
        data_dir: Some(dir.to_owned()),
        key: KeySource::File(dir.join("relay.key")),
        paths: !matches!(proof, AcmeProof::Dns { .. }),
        tls: Tls::Acme(Box::new(acme(pebble, proof))),
        ..Config::local()
    }
}

pub(super) fn rfc2136(dns: &FakeDns) -> AcmeProof {
    let provider = format!("rfc2136:{KEY}@{}/example.com", dns.address());
    AcmeProof::Dns {
        provider: provider.parse().unwrap(),
        token: Some(Token::new(SECRET.to_owned())),
        token_file: None,
        wait: Some(Duration::ZERO),
    }
}

pub(super) fn covers(leaf: &CertificateDer<'_>, name: &str) -> bool {
    let cert = ParsedCertificate::try_from(leaf).unwrap();
    verify_server_name(&cert, &ServerName::try_from(name).unwrap()).is_ok()
}

/// Returns the certificate that a visitor gets who asks for a name.
pub(super) async fn shown(at: SocketAddr, name: &str) -> std::io::Result<CertificateDer<'static>> {
    let provider = Arc::new(default_provider());
    let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCert::new(&provider)))
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(at).await?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let stream = connector.connect(name, stream).await?;
    Ok(stream.get_ref().1.peer_certificates().unwrap()[0].clone())
}

/// Starts a relay, waits for its certificate, and returns it as visitors get it.
async fn issued(config: &Config) -> (Relay, Arc<dyn CertSource>, CertificateDer<'static>) {
    let ports = Ports::open(config).await.unwrap();
    let cert = ports.cert.clone().unwrap();
    let relay = Relay::start(config.clone(), ports).await.unwrap();
    let asked = &cert;
    until("there is a certificate", || async move { asked.leaf().is_some() }).await;
    let leaf = cert.leaf().unwrap();
    assert_eq!(shown(relay.addr(), DOMAIN).await.unwrap(), leaf);
    (relay, cert, leaf)
}

#[tokio::test]
async fn an_authority_gives_a_wildcard_certificate_for_a_signed_dns_update() {
    let dns = FakeDns::start().await;
    let Some(mut pebble) = Pebble::start(dns.address()).await else { return };
    let dir = tempfile::tempdir().unwrap();
    let config = config(&pebble, rfc2136(&dns), dir.path());
    let (relay, _, leaf) = issued(&config).await;
    assert!(covers(&leaf, DOMAIN) && covers(&leaf, "calc.share.example.com"));
    let zone = &dns;
    let name = "_acme-challenge.share.example.com";
    until("the records are gone", || async move { zone.texts(name).is_empty() }).await;
    relay.shutdown().await;
    pebble.stop().await;

    // The next start shows the same one, without an authority, and what it read was sealed.
    let (relay, _, again) = issued(&config).await;
    assert_eq!(again, leaf);
    relay.shutdown().await;
    let mut files = 0;
    for entry in std::fs::read_dir(dir.path().join("acme")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(bytes.starts_with(b"mcpm-sealed/1\n"));
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains("PRIVATE KEY") && !text.contains("key_pkcs8"));
        files += 1;
    }
    assert_eq!(files, 2, "account and certificate");
}

#[tokio::test]
async fn an_authority_gives_a_wildcard_certificate_for_what_a_program_writes() {
    let dns = FakeDns::start().await;
    let Some(pebble) = Pebble::start(dns.address()).await else { return };
    let dir = tempfile::tempdir().unwrap();
    let (program, zone) = (dir.path().join("dns.sh"), dns.dir.path());
    let script = format!(
        "#!/bin/sh\ncd {}\ncase $1 in\npresent) echo \"$3\" >>\"$2\";;\ncleanup) rm -f \"$2\";;\nesac\n",
        zone.display()
    );
    std::fs::write(&program, script).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let all = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&program, all).unwrap();
    }
    let provider = crate::config::DnsProvider::Exec(program);
    let proof = AcmeProof::Dns { provider, token: None, token_file: None, wait: None };
    let (relay, _, leaf) = issued(&config(&pebble, proof, dir.path())).await;
    assert!(covers(&leaf, "calc.share.example.com"));
    relay.shutdown().await;
}

#[tokio::test]
async fn an_authority_gives_a_certificate_of_the_apex_for_a_proof_by_tls() {
    let dns = FakeDns::start().await;
    let Some(pebble) = Pebble::start(dns.address()).await else { return };
    let dir = tempfile::tempdir().unwrap();
    let (relay, _, leaf) = issued(&config(&pebble, AcmeProof::Tls, dir.path())).await;
    assert!(covers(&leaf, DOMAIN) && !covers(&leaf, "calc.share.example.com"));
    relay.shutdown().await;
}

#[tokio::test]
async fn an_authority_gives_a_certificate_of_the_apex_for_a_proof_by_http() {
    let dns = FakeDns::start().await;
    let Some(pebble) = Pebble::start(dns.address()).await else { return };
    let dir = tempfile::tempdir().unwrap();
    let (relay, cert, leaf) = issued(&config(&pebble, AcmeProof::Http, dir.path())).await;
    assert!(covers(&leaf, DOMAIN));
    assert_eq!(cert.http_proof("anything"), None);
    relay.shutdown().await;
}

#[tokio::test]
async fn whatever_fails_the_old_certificate_stays() {
    let dns = FakeDns::start().await;
    let Some(mut pebble) = Pebble::start(dns.address()).await else { return };
    let dir = tempfile::tempdir().unwrap();
    let settings = acme(&pebble, rfc2136(&dns));
    let source = in_files(&settings, dir.path()).await;
    source.order(source.apex()).await.unwrap();
    let first = source.leaf().unwrap();

    // A name server that refuses the key: nothing is laid, and nothing left behind.
    let AcmeProof::Dns { provider, .. } = rfc2136(&dns) else { unreachable!() };
    let token = Some(Token::new("b3RoZXI=".to_owned()));
    let proof = AcmeProof::Dns { provider, token, token_file: None, wait: Some(Duration::ZERO) };
    let refused = acme(&pebble, proof);
    let refused = in_files(&refused, dir.path()).await;
    assert!(matches!(refused.order(refused.apex()).await, Err(OrderError::Dns(_))));
    assert_eq!(refused.leaf(), Some(first.clone()));

    // No proof where the authority looks.
    let unseen = acme(&pebble, AcmeProof::Tls);
    let unseen = in_files(&unseen, dir.path()).await;
    let error = unseen.order(unseen.apex()).await.unwrap_err();
    assert!(matches!(error, OrderError::Unproved(_)), "{error:?}");
    assert_eq!(unseen.leaf(), Some(first.clone()));

    // An authority that forgot us gets another account; one that is away gives nothing.
    pebble.restart().await;
    source.order(source.apex()).await.unwrap();
    let second = source.leaf().unwrap();
    assert_ne!(second, first);
    pebble.stop().await;
    assert!(matches!(source.order(source.apex()).await, Err(OrderError::Acme(_))));
    assert_eq!(source.leaf(), Some(second));
}

#[tokio::test(start_paused = true)]
async fn a_failed_order_is_counted_and_tried_again_later() {
    let dir = tempfile::tempdir().unwrap();
    // Nobody listens there.
    let [port] = super::pebble::free_ports();
    let settings = plain(format!("http://127.0.0.1:{port}/dir"));
    let source = in_files(&settings, dir.path()).await;
    let metrics = Metrics::new();
    let five_minutes = tokio::time::timeout(Duration::from_secs(300), source.renew(&metrics));
    assert!(five_minutes.await.is_err());
    let text = metrics.encode();
    // At once, after one minute, and after three more.
    let line = "mcpm_relay_certificate_orders_total{result=\"failed\"} 3\n";
    assert!(text.contains(line), "{text}");
}

/// An authority that has advice on renewal and nothing else.
async fn adviser(start: u64, end: u64) -> String {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let urls: HashMap<_, _> = ["newNonce", "newAccount", "newOrder", "renewalInfo"]
        .map(|name| (name, format!("{base}/{name}")))
        .into();
    let account = format!("{base}/account");
    let time = |secs: u64| {
        let time = x509_parser::time::ASN1Time::from_timestamp(i64::try_from(secs).unwrap());
        let time = time.unwrap().to_datetime();
        let (year, month, day) = time.date().to_calendar_date();
        let (hour, minute, second) = time.to_hms();
        format!("{year}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z", u8::from(month))
    };
    let window = json!({ "suggestedWindow": { "start": time(start), "end": time(end) } });
    let nonce = || [("replay-nonce", "bm9uY2U")];
    let router = Router::new()
        .route("/dir", get(async move || Json(urls)))
        .route("/newNonce", head(async move || nonce()))
        .route(
            "/newAccount",
            post(async move || {
                let mut headers = HeaderMap::new();
                headers.insert(header::LOCATION, account.parse().unwrap());
                (StatusCode::CREATED, headers, Json(json!({ "status": "valid" })))
            }),
        )
        .route(
            "/renewalInfo/{id}",
            get(async move || ([(header::RETRY_AFTER, "21600")], Json(window))),
        );
    Scope::new().spawn(async move { axum::serve(listener, router).await.unwrap() });
    format!("{base}/dir")
}

#[tokio::test]
async fn renewal_is_when_the_authority_advises_it() {
    const DAY: u64 = 24 * 3600;
    let dir = tempfile::tempdir().unwrap();
    let now = UnixTime::now().as_secs();
    let (start, end) = (now + 3 * DAY, now + 4 * DAY);
    let settings = plain(adviser(start, end).await);
    let source = in_files(&settings, dir.path()).await;
    let mut plan = Plan::new();
    assert_eq!(source.due(source.apex(), &mut plan).await, None, "there is none yet");
    let (cert, key) = signed(DOMAIN, now - DAY, now + 89 * DAY);
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    source.current.show(certified(vec![cert], key).unwrap());
    let due = source.due(source.apex(), &mut plan).await.unwrap();
    assert!((start..=end).contains(&due), "{due}");
    let again = plan.ask_again_at.saturating_duration_since(tokio::time::Instant::now());
    assert!(again > Duration::from_secs(5 * 3600), "{again:?}");
}

#[tokio::test]
async fn a_relay_that_runs_gets_its_next_certificate_when_it_is_time() {
    let dns = FakeDns::start().await;
    // Two thirds of this are waited for.
    let life = Duration::from_secs(9);
    let Some(pebble) = Pebble::issuing(dns.address(), life).await else { return };
    let dir = tempfile::tempdir().unwrap();
    let config = config(&pebble, rfc2136(&dns), dir.path());
    let (relay, cert, first) = issued(&config).await;
    let (asked, before) = (&cert, &first);
    until("there is another", || async move { asked.leaf().as_ref() != Some(before) }).await;
    let next = shown(relay.addr(), DOMAIN).await.unwrap();
    assert!(next != first && covers(&next, "calc.share.example.com"));
    assert_eq!(CertStatus::of(&*cert).problem, None);
    relay.shutdown().await;
}

#[tokio::test]
async fn why_there_is_no_certificate_is_told() {
    let dir = tempfile::tempdir().unwrap();
    // Nobody listens there.
    let source = Arc::new(in_files(&plain("http://127.0.0.1:1/dir".to_owned()), dir.path()).await);
    assert_eq!(CertStatus::of(&*source).problem.unwrap(), "none was issued yet");
    let (renewing, scope) = (Arc::clone(&source), Scope::new());
    scope.spawn_until_cancelled(async move { renewing.renew(&Metrics::new()).await });
    let asked = &source;
    until("an attempt failed", || async move { asked.trouble().is_some() }).await;
    let status = CertStatus::of(&*source);
    assert_eq!((status.hosts.len(), status.ends_at, status.fingerprint), (0, None, None));
    let problem = status.problem.unwrap();
    assert!(problem.starts_with("the authority cannot be reached: "), "{problem}");
    scope.cancel();
}
