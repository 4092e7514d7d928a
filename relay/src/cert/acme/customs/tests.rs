//! Certificates of custom domains, and what nodes share.

use std::net::SocketAddr;
use std::path::Path;

use rustls::pki_types::PrivateKeyDer;

use super::*;
use crate::cert::acme::pebble::{Pebble, free_ports, signed, until};
use crate::cert::acme::tests::{DOMAIN, acme, config, covers, plain, rfc2136, shown};
use crate::cert::{CertSource, Place, Vault, certified};
use crate::config::{AcmeChallenge, AcmeCustoms, AcmeProof, Config, Database, Tls};
use crate::domains::fake_dns::FakeDns;
use crate::domains::{Checker, Dns};
use crate::operator::domains::{add_domain, remove_domain, verify_domain};
use crate::operator::parse_owner;
use crate::ports::Ports;
use crate::relay::Relay;
use crate::store::{DomainRecord, DomainState, MemoryStore, Store};

const THEIRS: &str = "mcp.example.org";

fn theirs() -> CustomDomain {
    THEIRS.parse().unwrap()
}

/// Settings of a relay that keeps its certificates in a database.
fn with_database(pebble: &Pebble, dns: &FakeDns, dir: &Path, challenge: AcmeChallenge) -> Config {
    let mut settings = acme(pebble, rfc2136(dns));
    settings.customs = AcmeCustoms { challenge, ..AcmeCustoms::default() };
    Config {
        database: Database::Sqlite(dir.join("relay.db")),
        tls: Tls::Acme(Box::new(settings)),
        ..config(pebble, rfc2136(dns), dir)
    }
}

/// Adds a domain and has it verified.
async fn verified(store: &dyn Store, dns: &FakeDns) {
    let (owner, name) = (parse_owner("ada").unwrap(), "calc".parse().unwrap());
    let entry = add_domain(store, Some(DOMAIN), theirs(), &owner, name, 1).await.unwrap();
    dns.set(&entry.proof.name, &[&entry.proof.text]);
    let checker = Checker { dns: Dns::new(vec![dns.address()]), apex: None };
    let entry = verify_domain(store, &checker, &theirs(), 2).await.unwrap();
    assert_eq!(entry.record.state, DomainState::Verified);
}

fn orders(relay_metrics: &str, result: &str) -> u32 {
    let line = format!("mcpm_relay_certificate_orders_total{{result=\"{result}\"}} ");
    let count = relay_metrics.lines().find_map(|text| text.strip_prefix(&line));
    count.unwrap().parse().unwrap()
}

async fn a_verified_domain_gets_its_own(challenge: AcmeChallenge) {
    let dns = FakeDns::start().await;
    let Some(mut pebble) = Pebble::start(dns.address()).await else { return };
    let dir = tempfile::tempdir().unwrap();
    let config = with_database(&pebble, &dns, dir.path(), challenge);
    let ports = Ports::open(&config).await.unwrap();
    let (store, cert) = (Arc::clone(&ports.store), ports.cert.clone().unwrap());
    let relay = Relay::start(config.clone(), ports).await.unwrap();
    let (at, asked) = (relay.addr(), &cert);
    until("the relay has its own", || async move { asked.leaf().is_some() }).await;
    let own = cert.leaf().unwrap();
    assert_eq!(shown(at, THEIRS).await.unwrap(), own, "nothing is ordered for unknown names");

    verified(&*store, &dns).await;
    until("the domain has one", || has_own(at)).await;
    let first = shown(at, "MCP.example.org").await.unwrap();
    assert!(covers(&first, THEIRS) && !covers(&first, DOMAIN));
    assert_eq!(shown(at, DOMAIN).await.unwrap(), own);
    // It is shown a moment before it is kept.
    let kept = &store;
    until("account and both certificates are kept", || async move {
        let rows = kept.sealed_after(0).await.unwrap();
        rows.iter().filter(|row| !row.sealed.is_empty()).count() == 3
    })
    .await;
    assert!(!dir.path().join("acme").exists(), "all is in the database");
    relay.shutdown().await;
    pebble.stop().await;

    // The next start shows both, without an authority.
    let relay = Relay::start(config.clone(), Ports::open(&config).await.unwrap()).await.unwrap();
    let at = relay.addr();
    until("the domain has it again", || has_own(at)).await;
    assert_eq!(shown(at, THEIRS).await.unwrap(), first);
    remove_domain(&*store, &theirs(), 3).await.unwrap();
    let own = &own;
    until("the domain is nobody's", || async move {
        shown(at, THEIRS).await.is_ok_and(|it| it == *own)
    })
    .await;
    let kept = &store;
    let forgotten = || async move {
        let rows = kept.sealed_after(0).await.unwrap();
        rows.iter().all(|row| !row.name.contains(THEIRS) || row.sealed.is_empty())
    };
    until("its certificate is forgotten", forgotten).await;
    relay.shutdown().await;
}

async fn has_own(at: SocketAddr) -> bool {
    shown(at, THEIRS).await.is_ok_and(|leaf| covers(&leaf, THEIRS))
}

#[tokio::test]
async fn a_verified_domain_gets_its_own_certificate_by_tls() {
    a_verified_domain_gets_its_own(AcmeChallenge::TlsAlpn).await;
}

#[tokio::test]
async fn a_verified_domain_gets_its_own_certificate_by_http() {
    a_verified_domain_gets_its_own(AcmeChallenge::Http).await;
}

/// A table in which one domain is verified.
async fn table() -> (Arc<MemoryStore>, Arc<Domains>) {
    let (store, domains) = (Arc::new(MemoryStore::new()), Arc::new(Domains::default()));
    let record = DomainRecord {
        domain: theirs(),
        owner: "sub:ada".to_owned(),
        name: "calc".parse().unwrap(),
        token: "proof".to_owned(),
        state: DomainState::Verified,
        added_at: 1,
        checked_at: Some(1),
        proved_at: Some(1),
        failing_since: None,
        problem: String::new(),
        changed_at: 1,
        revision: 0,
    };
    store.set_domain(record, 0).await.unwrap();
    domains.refresh(&*store).await.unwrap();
    (store, domains)
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_a_domain_is_ordered_for_when_somebody_asks_for_it() {
    let (store, domains) = table().await;
    let [port] = free_ports();
    let settings = plain(format!("http://127.0.0.1:{port}/dir"));
    let place = Place::Rows { store, files: None };
    let vault = Vault::open(place, &[1; 32], "main").await.unwrap();
    let source = AcmeCert::open(&settings, &DOMAIN.parse().unwrap(), vault, domains).await.unwrap();
    let metrics = Metrics::new();
    let minutes = |minutes: u64| tokio::time::sleep(Duration::from_secs(60 * minutes));
    let watch = async {
        minutes(20).await;
        // The relay's own at once, after 1, 4 and 13 minutes; the domain's only at once.
        assert_eq!(orders(&metrics.encode(), "failed"), 5);
        assert!(matches!(source.customs.find(THEIRS), Found::Missing));
        assert!(matches!(source.customs.find("other.example.org"), Found::Other));
        minutes(2).await;
        assert_eq!(orders(&metrics.encode(), "failed"), 6);
    };
    tokio::select! {
        () = source.renew(&metrics) => {}
        () = watch => {}
    }
}

#[cfg(all(unix, feature = "sqlx"))]
#[tokio::test]
async fn an_authority_may_come_to_another_node_than_the_one_that_ordered() {
    use crate::keys::RelayKey;
    use crate::store::SqlStore;

    let dns = FakeDns::start().await;
    let Some(pebble) = Pebble::start(dns.address()).await else { return };
    let Some(server) = crate::store::private_postgres::PrivatePostgres::start() else { return };
    let (url, dir) = (server.database(), tempfile::tempdir().unwrap());
    // The node that Pebble comes to waits for its turn, which somebody else has.
    let key = RelayKey::open(&dir.path().join("relay.key")).unwrap();
    let store: Arc<dyn Store> = Arc::new(SqlStore::connect(&url).await.unwrap());
    let place = Place::Rows { store: Arc::clone(&store), files: None };
    let vault = Vault::open(place, key.storage_key(), "other").await.unwrap();
    let settings = acme(&pebble, AcmeProof::Tls);
    let domain = DOMAIN.parse().unwrap();
    let other = AcmeCert::open(&settings, &domain, vault, Arc::default()).await.unwrap();
    let now = UnixTime::now().as_secs();
    assert!(store.take_turn(&other.row(DOMAIN), "somebody", now, now + 3600).await.unwrap());
    let config =
        Config { database: url.parse().unwrap(), ..config(&pebble, AcmeProof::Tls, dir.path()) };
    let ports = Ports::open(&config).await.unwrap();
    let cert = ports.cert.clone().unwrap();
    let relay = Relay::start(config, ports).await.unwrap();

    other.order(other.apex()).await.unwrap();
    let asked = &cert;
    until("the node shows it, too", || async move { asked.leaf().is_some() }).await;
    assert_eq!(cert.leaf(), other.leaf());
    assert_eq!(shown(relay.addr(), DOMAIN).await.unwrap(), other.leaf().unwrap());
    relay.shutdown().await;
}

#[tokio::test]
async fn so_many_are_ordered_in_an_hour_by_all_nodes_and_no_more() {
    let (store, domains) = table().await;
    let node = async |per_hour| {
        let place = Place::Rows { store: Arc::clone(&store) as _, files: None };
        let vault = Vault::open(place, &[1; 32], "main").await.unwrap();
        let mut settings = plain("http://127.0.0.1:1/dir".to_owned());
        settings.customs.orders_per_hour = per_hour;
        let domain = DOMAIN.parse().unwrap();
        AcmeCert::open(&settings, &domain, vault, Arc::clone(&domains)).await.unwrap()
    };
    let (here, there) = (node(3).await, node(3).await);
    for node in [&here, &there, &here] {
        assert_eq!(node.customs.capped(&node.vault).await.unwrap(), None);
    }
    for node in [&here, &there] {
        let wait = node.customs.capped(&node.vault).await.unwrap().unwrap();
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(3600), "{wait:?}");
    }
    assert!(!node(0).await.customs.is_on());
}

#[tokio::test]
async fn the_metrics_tell_of_the_certificate_that_ends_first() {
    const DAY: u64 = 24 * 3600;
    let (store, domains) = table().await;
    let vault = Vault::open(Place::Rows { store, files: None }, &[1; 32], "main").await.unwrap();
    let settings = plain("http://127.0.0.1:1/dir".to_owned());
    let source = AcmeCert::open(&settings, &DOMAIN.parse().unwrap(), vault, domains).await.unwrap();
    let (customs, metrics, mut alarmed) = (&source.customs, Metrics::new(), None);
    let (_, slot) = customs.renew_slots().pop().unwrap();
    assert!(customs.renew_slots().is_empty(), "each is tended once");
    customs.report(&mut alarmed, &metrics);
    assert_eq!((metrics.domain_certificates.get(), alarmed), (0, None));
    let now = UnixTime::now().as_secs();
    for (left, warned) in [(60, false), (5, true)] {
        let (cert, key) = signed(THEIRS, now - 30 * DAY, now + left * DAY);
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        slot.shown.show(certified(vec![cert], key).unwrap());
        customs.report(&mut alarmed, &metrics);
        assert_eq!(metrics.domain_certificates.get(), 1);
        let ends = i64::try_from(now + left * DAY).unwrap();
        assert_eq!((metrics.domain_certificate_expiry.get(), alarmed.is_some()), (ends, warned));
    }
}
