//! What operators do with custom domains.

use mcpm_shared::name::Name;
use mcpm_shared::token::Token;
use serde::Serialize;

use super::{OperatorError, note};
use crate::admission::Owner;
use crate::domains::{Checker, keep, record_name, record_value};
use crate::host::CustomDomain;
use crate::store::{DomainRecord, DomainState, Store, StoreError};

/// A custom domain as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DomainEntry {
    /// What is kept of it.
    #[serde(flatten)]
    pub record: DomainRecord,
    /// What proves in the DNS whose it is.
    pub proof: Proof,
}

/// A record that must be in the DNS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// Its name, without the final dot.
    pub name: String,
    /// Its type: `TXT`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Its text.
    pub text: String,
}

impl From<DomainRecord> for DomainEntry {
    fn from(record: DomainRecord) -> Self {
        let (name, text) = (record_name(&record.domain), record_value(&record));
        Self { record, proof: Proof { name, kind: "TXT", text } }
    }
}

/// Adds a domain, to be served once the DNS proves it; one that its owner has already goes to
/// another share of theirs, without a new proof. `apex` is the relay's own domain, where it is known.
///
/// # Errors
/// Fails when the domain is the relay's own or somebody else's, or the store fails.
pub async fn add_domain(
    store: &dyn Store,
    apex: Option<&str>,
    domain: CustomDomain,
    owner: &Owner,
    name: Name,
    now: u64,
) -> Result<DomainEntry, OperatorError> {
    if apex.is_some_and(|apex| domain.is_at_or_below(apex)) {
        return Err(OperatorError::DomainOfRelay(domain));
    }
    let held = store.domain(domain.as_str()).await?;
    let seen = held.as_ref().map_or(0, |held| held.revision);
    let fresh = DomainRecord {
        domain: domain.clone(),
        owner: owner.as_str().to_owned(),
        name: name.clone(),
        // Drawn anew for each owner: what is in the DNS for one must not serve the next.
        token: Token::generate().expose().to_owned(),
        state: DomainState::Pending,
        added_at: now,
        checked_at: None,
        proved_at: None,
        failing_since: None,
        problem: String::new(),
        changed_at: now,
        revision: 0,
    };
    let record = match held.filter(|held| held.state != DomainState::Removed) {
        Some(held) if held.owner != owner.as_str() => {
            return Err(OperatorError::DomainTaken { domain, owner: held.owner });
        }
        Some(held) => DomainRecord { name, changed_at: now, ..held },
        None => fresh,
    };
    change(store, record.clone(), seen).await?;
    let detail = format!("{} of {owner}", record.name);
    note(store, "domain.add", record.domain.as_str(), detail, now).await?;
    Ok(record.into())
}

/// Asks the DNS now whether a domain is its owner's, and keeps what it says.
///
/// # Errors
/// Fails when there is no such domain, or the DNS or the store does not answer.
pub async fn verify_domain(
    store: &dyn Store,
    checker: &Checker,
    domain: &CustomDomain,
    now: u64,
) -> Result<DomainEntry, OperatorError> {
    let held = find(store, domain).await?;
    let checked = checker.check(&held, now).await?;
    match keep(store, &held, checked.clone(), "operator").await? {
        true => Ok(checked.into()),
        false => Err(OperatorError::DomainChanged(domain.clone())),
    }
}

/// Takes a domain out: it is not served a second later.
///
/// # Errors
/// Fails when there is no such domain, or the store fails.
pub async fn remove_domain(
    store: &dyn Store,
    domain: &CustomDomain,
    now: u64,
) -> Result<DomainEntry, OperatorError> {
    let held = find(store, domain).await?;
    let seen = held.revision;
    let record = DomainRecord { state: DomainState::Removed, changed_at: now, ..held };
    change(store, record.clone(), seen).await?;
    note(store, "domain.remove", domain.as_str(), record.owner.clone(), now).await?;
    Ok(record.into())
}

/// Returns all domains, by domain.
///
/// # Errors
/// Fails when the store does.
pub async fn domains(store: &dyn Store) -> Result<Vec<DomainEntry>, StoreError> {
    let mut all = store.domains(0).await?;
    all.retain(|record| record.state != DomainState::Removed);
    all.sort_by(|a, b| a.domain.cmp(&b.domain));
    Ok(all.into_iter().map(DomainEntry::from).collect())
}

async fn find(store: &dyn Store, domain: &CustomDomain) -> Result<DomainRecord, OperatorError> {
    let held = store.domain(domain.as_str()).await?;
    held.filter(|held| held.state != DomainState::Removed)
        .ok_or_else(|| OperatorError::NoDomain(domain.clone()))
}

async fn change(store: &dyn Store, record: DomainRecord, seen: u64) -> Result<(), OperatorError> {
    let domain = record.domain.clone();
    match store.set_domain(record, seen).await? {
        true => Ok(()),
        false => Err(OperatorError::DomainChanged(domain)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::parse_owner;
    use crate::store::MemoryStore;

    const NOW: u64 = 1_800_000_000;
    const APEX: Option<&str> = Some("share.example.com");

    fn domain(text: &str) -> CustomDomain {
        text.parse().unwrap()
    }

    async fn add(
        store: &MemoryStore,
        text: &str,
        owner: &str,
    ) -> Result<DomainEntry, OperatorError> {
        let (owner, name) = (parse_owner(owner).unwrap(), "calc".parse().unwrap());
        add_domain(store, APEX, domain(text), &owner, name, NOW).await
    }

    #[tokio::test]
    async fn a_domain_is_somebodys_until_it_is_removed() {
        let store = MemoryStore::new();
        let entry = add(&store, "MCP.example.org", "ada").await.unwrap();
        assert_eq!(entry.proof.name, "_mcpm-relay.mcp.example.org");
        assert!(entry.proof.text.starts_with("mcpm-relay-verify="));
        let error = add(&store, "mcp.example.org", "bob").await.unwrap_err();
        assert!(matches!(error, OperatorError::DomainTaken { .. }), "{error}");
        let again = add(&store, "mcp.example.org", "ada").await.unwrap();
        assert_eq!(again.proof, entry.proof);
        remove_domain(&store, &domain("mcp.example.org"), NOW).await.unwrap();
        let error = remove_domain(&store, &domain("mcp.example.org"), NOW).await.unwrap_err();
        assert!(matches!(error, OperatorError::NoDomain(_)), "{error}");
        assert_eq!(domains(&store).await.unwrap(), []);
        let others = add(&store, "mcp.example.org", "bob").await.unwrap();
        assert_ne!(others.proof, entry.proof, "what proved it for one does not for the next");
        let trail: Vec<_> = store.audit_trail(9).await.unwrap();
        let trail: Vec<_> = trail.iter().rev().map(|event| event.action.as_str()).collect();
        assert_eq!(trail, ["domain.add", "domain.add", "domain.remove", "domain.add"]);
    }

    #[tokio::test]
    async fn what_is_the_relays_own_is_nobodys() {
        let store = MemoryStore::new();
        for text in ["share.example.com", "calc.share.example.com"] {
            let error = add(&store, text, "ada").await.unwrap_err();
            assert!(matches!(error, OperatorError::DomainOfRelay(_)), "{error}");
        }
        add(&store, "example.com", "ada").await.unwrap();
    }

    #[cfg(feature = "acme")]
    #[tokio::test]
    async fn the_dns_proves_a_domain_by_its_text_or_by_an_alias_for_the_share() {
        use crate::domains::{Dns, fake_dns::FakeDns};

        let (store, fake) = (MemoryStore::new(), FakeDns::start().await);
        let apex = APEX.map(str::to_owned);
        let checker = Checker { dns: Dns::new(vec![fake.address()]), apex };
        let verify = async |text: &str| verify_domain(&store, &checker, &domain(text), NOW).await;
        let entry = add(&store, "a.example.org", "ada").await.unwrap();
        let checked = verify("a.example.org").await.unwrap().record;
        assert_eq!(checked.state, DomainState::Pending);
        assert_eq!(checked.problem, "there is no TXT record _mcpm-relay.a.example.org");
        fake.set(&entry.proof.name, &["mcpm-relay-verify=old"]);
        let checked = verify("a.example.org").await.unwrap().record;
        assert!(checked.problem.ends_with("has another text"), "{}", checked.problem);
        fake.set(&entry.proof.name, &["something", &entry.proof.text]);
        let checked = verify("a.example.org").await.unwrap().record;
        assert_eq!((checked.state, checked.proved_at), (DomainState::Verified, Some(NOW)));

        add(&store, "b.example.org", "ada").await.unwrap();
        fake.set_alias("b.example.org", "other.share.example.com");
        assert_eq!(verify("b.example.org").await.unwrap().record.state, DomainState::Pending);
        fake.set_alias("b.example.org", "calc.share.example.com");
        assert_eq!(verify("b.example.org").await.unwrap().record.state, DomainState::Verified);
        let error = verify("c.example.org").await.unwrap_err();
        assert!(matches!(error, OperatorError::NoDomain(_)), "{error}");
        let last = &store.audit_trail(1).await.unwrap()[0];
        assert_eq!(
            (last.action.as_str(), last.object.as_str()),
            ("domain.verify", "b.example.org")
        );
    }
}
