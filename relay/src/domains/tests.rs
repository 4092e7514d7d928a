use super::*;
use crate::store::MemoryStore;

const NOW: u64 = 1_800_000_000;

fn record(domain: &str, state: DomainState) -> DomainRecord {
    DomainRecord {
        domain: domain.parse().unwrap(),
        owner: "sub:ada".to_owned(),
        name: "calc".parse().unwrap(),
        token: "proof".to_owned(),
        state,
        added_at: NOW,
        checked_at: None,
        proved_at: None,
        failing_since: None,
        problem: String::new(),
        changed_at: NOW,
        revision: 0,
    }
}

#[tokio::test]
async fn only_verified_domains_lead_anywhere() {
    let (store, domains) = (MemoryStore::new(), Domains::default());
    assert!(domains.find("a.example.org").is_none());
    let mut changes = domains.changed();
    for (domain, state) in
        [("a.example.org", DomainState::Verified), ("b.example.org", DomainState::Pending)]
    {
        store.set_domain(record(domain, state), 0).await.unwrap();
    }
    domains.refresh(&store).await.unwrap();
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    domains.refresh(&store).await.unwrap();
    assert!(!changes.has_changed().unwrap(), "nothing is new");
    for host in ["a.example.org", "A.Example.org:8443", "a.example.org."] {
        let route = domains.find(host).unwrap();
        assert_eq!((route.name.as_str(), route.owner.as_str()), ("calc", "sub:ada"), "{host}");
    }
    for host in ["b.example.org", "x.a.example.org", "example.org", "a.example.org:http", ""] {
        assert!(domains.find(host).is_none(), "{host}");
    }
    let removed = record("a.example.org", DomainState::Removed);
    store.set_domain(removed, 1).await.unwrap();
    domains.refresh(&store).await.unwrap();
    assert!(domains.find("a.example.org").is_none() && domains.verified().is_empty());
    let pending = "b.example.org".parse().unwrap();
    assert!(domains.is_known(&pending) && !domains.is_known(&"a.example.org".parse().unwrap()));
}

#[cfg(feature = "acme")]
#[tokio::test]
async fn a_running_relay_finds_the_proof_by_itself_and_one_node_asks_for_all() {
    use mcpm_shared::scope::Scope;

    let (store, fake) = (Arc::new(MemoryStore::new()), fake_dns::FakeDns::start().await);
    for domain in ["a.example.org", "b.example.org"] {
        store.set_domain(record(domain, DomainState::Pending), 0).await.unwrap();
    }
    fake.set("_mcpm-relay.a.example.org", &["mcpm-relay-verify=proof"]);
    let scope = Scope::new();
    let checker = Checker { dns: Dns::new(vec![fake.address()]), apex: None };
    let mut tables = Vec::new();
    for node in ["one", "two"] {
        let domains = Arc::new(Domains::default());
        domains.refresh(&*store).await.unwrap();
        let (table, asked) = (Arc::clone(&domains), Arc::clone(&store) as Arc<dyn Store>);
        let checks = keep_checked(table, checker.clone(), asked, node.to_owned());
        scope.spawn_until_cancelled(checks);
        tables.push(domains);
    }
    let found = async {
        loop {
            let checked = store.domains(2).await.unwrap();
            if checked.len() == 2 {
                break checked;
            }
            tokio::task::yield_now().await;
        }
    };
    let checked = tokio::time::timeout(std::time::Duration::from_secs(20), found).await.unwrap();
    let state = |domain: &str| {
        let record = checked.iter().find(|record| record.domain.as_str() == domain).unwrap();
        (record.state, record.problem.is_empty())
    };
    assert_eq!(state("a.example.org"), (DomainState::Verified, true));
    assert_eq!(state("b.example.org"), (DomainState::Pending, false));
    let trail = store.audit_trail(9).await.unwrap();
    assert_eq!(trail.iter().filter(|event| event.action == "domain.verify").count(), 1);
    scope.cancel();
}
