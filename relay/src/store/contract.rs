//! What every store must do, run against each of them.

use std::future::Future;

mod nodes;
mod tallies;

use mcpm_shared::name::Name;
use mcpm_shared::proto::ShareMode;

use super::{
    AuditEvent, AuditFilter, Claim, ClaimError, DomainRecord, DomainState, Lease, NameRule,
    NameState, OwnerQuota, Store, TokenRecord, Usage,
};
use crate::quota::Amounts;

const DAY: u64 = 24 * 3600;
const KEEP: u64 = 30 * DAY;
const NOW: u64 = 1_800_000_000;

/// Runs the whole contract, each part on a fresh store.
pub(crate) async fn check<S: Store, F: Future<Output = S>>(fresh: impl Fn() -> F) {
    a_free_name_goes_to_who_asks(&fresh().await).await;
    the_same_owner_always_wins_with_a_higher_generation(&fresh().await).await;
    another_owner_waits_until_the_name_was_kept(&fresh().await).await;
    an_expired_share_frees_its_name_after_the_same_time(&fresh().await).await;
    a_ticket_raises_the_generation(&fresh().await).await;
    a_stale_generation_can_do_nothing(&fresh().await).await;
    live_names_are_limited_per_owner(&fresh().await).await;
    a_restarted_node_lets_go_of_its_leases(&fresh().await).await;
    one_of_many_claims_at_once_wins(&fresh().await).await;
    extreme_numbers_are_kept(&fresh().await).await;
    a_lease_from_memory_is_kept_unless_a_later_claim_came_first(&fresh().await).await;
    a_rule_stands_above_every_right(&fresh().await).await;
    a_reserved_name_goes_to_its_owner_at_once(&fresh().await).await;
    a_vacated_name_cools_off_and_keeps_its_generation(&fresh().await).await;
    rules_are_numbered_in_their_order(&fresh().await).await;
    an_owners_quota_counts_before_any_other(&fresh().await).await;
    a_domain_changes_only_as_it_was_seen(&fresh().await).await;
    removed_domains_are_told_of_and_then_forgotten(&fresh().await).await;
    what_is_sealed_is_replaced_and_forgotten(&fresh().await).await;
    one_at_a_time_has_a_turn(&fresh().await).await;
    tallies::end_at_their_limit_and_begin_anew(&fresh().await).await;
    tallies::are_exact_for_many_at_once(&fresh().await).await;
    tallies::are_forgotten_when_they_are_old(&fresh().await).await;
    nodes::are_told_apart_by_their_generation(&fresh().await).await;
    nodes::that_are_lost_give_their_names_back(&fresh().await).await;
    tokens_are_listed_and_revoked(&fresh().await).await;
    the_audit_trail_is_newest_first(&fresh().await).await;
    the_audit_trail_is_filtered(&fresh().await).await;
    decisions_over_owners_are_numbered_and_whole(&fresh().await).await;
    what_owners_used_is_added_up(&fresh().await).await;
    prune_forgets_only_what_ended(&fresh().await).await;
    fresh().await.ping().await.unwrap();
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn claim(text: &str, owner: &str, now: u64) -> Claim {
    Claim {
        name: name(text),
        owner: owner.to_owned(),
        node: "main".to_owned(),
        mode: ShareMode::Mcp,
        floor_generation: 0,
        now,
        expires_at: None,
        keep_secs: KEEP,
        max_live: 3,
    }
}

async fn taken(store: &dyn Store, claim: Claim) -> bool {
    matches!(store.claim(claim).await, Err(ClaimError::Taken(_)))
}

async fn a_free_name_goes_to_who_asks(store: &dyn Store) {
    assert_eq!(store.lease(&name("calc")).await.unwrap(), None);
    let asked = Claim { expires_at: Some(NOW + 60), ..claim("calc", "ada", NOW) };
    let lease = store.claim(Claim { mode: ShareMode::Http, ..asked }).await.unwrap();
    let expected = Lease {
        name: name("calc"),
        owner: "ada".to_owned(),
        generation: 1,
        node: "main".to_owned(),
        mode: ShareMode::Http,
        claimed_at: NOW,
        held_until: Some(NOW + 60),
        released_at: None,
    };
    assert_eq!(lease, expected);
    assert_eq!(store.lease(&name("calc")).await.unwrap(), Some(expected.clone()));
    assert_eq!(store.leases().await.unwrap(), [expected]);
}

async fn the_same_owner_always_wins_with_a_higher_generation(store: &dyn Store) {
    store.claim(claim("calc", "ada", NOW)).await.unwrap();
    let moved = Claim { node: "other".to_owned(), ..claim("calc", "ada", NOW + 1) };
    let again = store.claim(moved).await.unwrap();
    assert_eq!((again.generation, again.node.as_str(), again.claimed_at), (2, "other", NOW + 1));
    store.release(&name("calc"), "ada", 2, NOW + 2).await.unwrap();
    let back = store.claim(claim("calc", "ada", NOW + 3)).await.unwrap();
    assert_eq!((back.generation, back.released_at), (3, None));
    assert_eq!(store.leases().await.unwrap().len(), 1);
}

async fn another_owner_waits_until_the_name_was_kept(store: &dyn Store) {
    store.claim(claim("calc", "ada", NOW)).await.unwrap();
    assert!(taken(store, claim("calc", "bob", NOW + 100 * KEEP)).await);
    assert!(store.release(&name("calc"), "ada", 1, NOW).await.unwrap());
    assert!(taken(store, claim("calc", "bob", NOW + KEEP - 1)).await);
    let lease = store.claim(claim("calc", "bob", NOW + KEEP)).await.unwrap();
    assert_eq!((lease.owner.as_str(), lease.generation), ("bob", 2));
    assert!(taken(store, claim("calc", "ada", NOW + KEEP)).await);
}

async fn an_expired_share_frees_its_name_after_the_same_time(store: &dyn Store) {
    let until = NOW + DAY;
    let asked = Claim { expires_at: Some(until), ..claim("calc", "ada", NOW) };
    store.claim(asked).await.unwrap();
    assert!(taken(store, claim("calc", "bob", until + KEEP - 1)).await);
    store.claim(claim("calc", "bob", until + KEEP)).await.unwrap();
}

async fn a_ticket_raises_the_generation(store: &dyn Store) {
    let asked = Claim { floor_generation: 41, ..claim("calc", "ada", NOW) };
    assert_eq!(store.claim(asked).await.unwrap().generation, 42);
    let older = Claim { floor_generation: 7, ..claim("calc", "ada", NOW) };
    assert_eq!(store.claim(older).await.unwrap().generation, 43);
    let newer = Claim { floor_generation: 99, ..claim("calc", "ada", NOW) };
    assert_eq!(store.claim(newer).await.unwrap().generation, 100);
}

async fn a_stale_generation_can_do_nothing(store: &dyn Store) {
    store.claim(claim("calc", "ada", NOW)).await.unwrap();
    store.claim(claim("calc", "ada", NOW)).await.unwrap();
    let calc = name("calc");
    assert!(!store.renew(&calc, 1, NOW, Some(NOW + 60)).await.unwrap());
    assert!(!store.release(&calc, "ada", 1, NOW).await.unwrap());
    assert!(!store.release(&calc, "bob", 2, NOW).await.unwrap());
    assert!(!store.release(&name("none"), "ada", 1, NOW).await.unwrap());
    assert!(store.renew(&calc, 2, NOW, Some(NOW + 60)).await.unwrap());
    assert_eq!(store.lease(&calc).await.unwrap().unwrap().held_until, Some(NOW + 60));
    // Too late: the share expired, so it must be claimed anew.
    assert!(!store.renew(&calc, 2, NOW + 60, Some(NOW + 120)).await.unwrap());
    assert!(store.release(&calc, "ada", 2, NOW).await.unwrap());
    assert!(!store.release(&calc, "ada", 2, NOW).await.unwrap());
    assert!(!store.renew(&calc, 2, NOW, None).await.unwrap());
}

async fn live_names_are_limited_per_owner(store: &dyn Store) {
    for text in ["a", "b", "c"] {
        store.claim(claim(text, "ada", NOW)).await.unwrap();
    }
    let error = store.claim(claim("d", "ada", NOW)).await.unwrap_err();
    assert!(matches!(error, ClaimError::TooMany { max: 3 }), "{error}");
    assert_eq!(store.lease(&name("d")).await.unwrap(), None);
    store.claim(claim("d", "bob", NOW)).await.unwrap();
    // A name of somebody else is taken rather than one too many.
    assert!(taken(store, claim("d", "ada", NOW)).await);
    store.claim(claim("a", "ada", NOW)).await.unwrap();
    store.release(&name("b"), "ada", 1, NOW).await.unwrap();
    assert_eq!(store.live_names("ada", NOW).await.unwrap(), 2);
    store.claim(claim("e", "ada", NOW)).await.unwrap();
    // Coming back to a kept name counts like a new one.
    let error = store.claim(claim("b", "ada", NOW)).await.unwrap_err();
    assert!(matches!(error, ClaimError::TooMany { .. }), "{error}");
}

async fn a_restarted_node_lets_go_of_its_leases(store: &dyn Store) {
    store.claim(claim("a", "ada", NOW)).await.unwrap();
    let elsewhere = Claim { node: "other".to_owned(), ..claim("b", "ada", NOW) };
    store.claim(elsewhere).await.unwrap();
    assert_eq!(store.release_node("main", NOW + 5).await.unwrap(), 1);
    assert_eq!(store.release_node("main", NOW + 6).await.unwrap(), 0);
    assert_eq!(store.lease(&name("a")).await.unwrap().unwrap().released_at, Some(NOW + 5));
    assert!(store.lease(&name("b")).await.unwrap().unwrap().is_live(NOW + 6));
    assert!(taken(store, claim("a", "bob", NOW + 6)).await);
}

async fn one_of_many_claims_at_once_wins(store: &dyn Store) {
    let claims = (0..20).map(|n| store.claim(claim("calc", &format!("owner{n}"), NOW)));
    let won = futures_util::future::join_all(claims).await;
    assert_eq!(won.iter().filter(|result| result.is_ok()).count(), 1);
}

async fn extreme_numbers_are_kept(store: &dyn Store) {
    let far = i64::MAX as u64;
    let asked = Claim { expires_at: Some(far), ..claim("calc", "ada", NOW) };
    assert_eq!(store.claim(asked).await.unwrap().held_until, Some(far));
    let forever =
        Claim { expires_at: Some(u64::MAX), keep_secs: u64::MAX, ..claim("b", "bob", NOW) };
    assert!(store.claim(forever).await.unwrap().is_live(far - 1));
    store.release(&name("b"), "bob", 1, NOW).await.unwrap();
    assert!(taken(store, Claim { keep_secs: u64::MAX, ..claim("b", "ada", far) }).await);
}

async fn a_lease_from_memory_is_kept_unless_a_later_claim_came_first(store: &dyn Store) {
    let lease = store.claim(claim("calc", "ada", NOW)).await.unwrap();
    let later = Lease { generation: 5, node: "other".to_owned(), ..lease.clone() };
    assert!(store.restore(later.clone()).await.unwrap());
    assert_eq!(store.lease(&name("calc")).await.unwrap(), Some(later.clone()));
    // Of the same generation only the node that holds it may move its end.
    let moved = Lease { held_until: Some(NOW + 9), ..later.clone() };
    assert!(store.restore(Lease { claimed_at: NOW + 5, ..moved.clone() }).await.unwrap());
    assert_eq!(store.lease(&name("calc")).await.unwrap(), Some(moved));
    assert!(!store.restore(Lease { node: "third".to_owned(), ..later.clone() }).await.unwrap());
    assert!(!store.restore(Lease { generation: 4, ..later.clone() }).await.unwrap());
    let stranger = Lease { owner: "bob".to_owned(), generation: 9, ..later.clone() };
    assert!(!store.restore(stranger).await.unwrap());
    assert!(store.release(&name("calc"), "ada", 5, NOW + 1).await.unwrap());
    assert!(!store.restore(later).await.unwrap());
    assert_eq!(store.claim(claim("calc", "ada", NOW + 2)).await.unwrap().generation, 6);
    let forgotten = Lease { name: name("new"), ..lease };
    assert!(store.restore(forgotten).await.unwrap());
}

fn rule(text: &str, state: NameState) -> NameRule {
    NameRule { name: name(text), state, note: "why".to_owned(), changed_at: NOW, revision: 0 }
}

async fn kept(store: &dyn Store, claim: Claim) -> bool {
    matches!(store.claim(claim).await, Err(ClaimError::Kept(_)))
}

async fn a_rule_stands_above_every_right(store: &dyn Store) {
    let lease = store.claim(claim("calc", "ada", NOW)).await.unwrap();
    store.set_name_rule(rule("calc", NameState::Blocked)).await.unwrap();
    assert!(kept(store, claim("calc", "ada", NOW)).await);
    assert!(kept(store, Claim { floor_generation: 9, ..claim("calc", "ada", NOW) }).await);
    assert!(!store.restore(Lease { generation: 9, ..lease }).await.unwrap());
    store.set_name_rule(rule("calc", NameState::Open)).await.unwrap();
    assert_eq!(store.claim(claim("calc", "ada", NOW)).await.unwrap().generation, 2);
    let nobody = NameState::Reserved { owner: None };
    store.set_name_rule(rule("free", nobody)).await.unwrap();
    assert!(kept(store, claim("free", "ada", NOW)).await);
    assert_eq!(store.lease(&name("free")).await.unwrap(), None);
}

async fn a_reserved_name_goes_to_its_owner_at_once(store: &dyn Store) {
    store.claim(claim("calc", "bob", NOW)).await.unwrap();
    let for_ada = NameState::Reserved { owner: Some("ada".to_owned()) };
    store.set_name_rule(rule("calc", for_ada)).await.unwrap();
    assert!(kept(store, claim("calc", "bob", NOW)).await);
    let lease = store.claim(claim("calc", "ada", NOW)).await.unwrap();
    assert_eq!((lease.owner.as_str(), lease.generation), ("ada", 2));
}

async fn a_vacated_name_cools_off_and_keeps_its_generation(store: &dyn Store) {
    store.claim(claim("calc", "ada", NOW)).await.unwrap();
    assert_eq!(store.vacate(&name("calc"), NOW + 1).await.unwrap().as_deref(), Some("ada"));
    assert_eq!(store.vacate(&name("calc"), NOW + 1).await.unwrap(), None);
    assert_eq!(store.vacate(&name("none"), NOW).await.unwrap(), None);
    assert_eq!(store.live_names("ada", NOW + 1).await.unwrap(), 0);
    let until = NOW + DAY;
    store.set_name_rule(rule("calc", NameState::Cooling { until })).await.unwrap();
    for owner in ["ada", "bob"] {
        let error = store.claim(claim("calc", owner, until - 1)).await.unwrap_err();
        let ClaimError::Cooling { until: told, .. } = error else { panic!("{error}") };
        assert_eq!(told, until);
    }
    let lease = store.claim(claim("calc", "bob", until)).await.unwrap();
    assert_eq!((lease.owner.as_str(), lease.generation), ("bob", 2));
    assert!(taken(store, claim("calc", "ada", until)).await);
}

async fn rules_are_numbered_in_their_order(store: &dyn Store) {
    assert_eq!(store.name_rule(&name("a")).await.unwrap(), None);
    for (text, state) in [
        ("b", NameState::Blocked),
        ("a", NameState::Reserved { owner: Some("ada".to_owned()) }),
        ("b", NameState::Open),
        ("c", NameState::Cooling { until: NOW }),
    ] {
        store.set_name_rule(rule(text, state)).await.unwrap();
    }
    let all = store.name_rules(0).await.unwrap();
    let names: Vec<_> = all.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    let a = NameState::Reserved { owner: Some("ada".to_owned()) };
    assert_eq!(all[0], NameRule { revision: 2, ..rule("a", a) });
    assert_eq!(store.name_rule(&name("c")).await.unwrap().as_ref(), all.last());
    assert_eq!(store.name_rules(3).await.unwrap(), all[2..]);
    assert_eq!(store.name_rules(4).await.unwrap(), []);
}

async fn an_owners_quota_counts_before_any_other(store: &dyn Store) {
    store.set_owner_quota(quota("bob", None)).await.unwrap();
    store.set_owner_quota(quota("ada", Some(9))).await.unwrap();
    store.set_owner_quota(quota("ada", Some(1))).await.unwrap();
    let all = store.owner_quotas().await.unwrap();
    let seen: Vec<_> = all.iter().map(|it| (it.owner.as_str(), it.max_shares)).collect();
    assert_eq!(seen, [("ada", Some(1)), ("bob", None)]);
    store.claim(claim("a", "ada", NOW)).await.unwrap();
    let error = store.claim(claim("b", "ada", NOW)).await.unwrap_err();
    assert!(matches!(error, ClaimError::TooMany { max: 1 }), "{error}");
    store.set_owner_quota(quota("ada", Some(5))).await.unwrap();
    for text in ["b", "c", "d", "e"] {
        store.claim(claim(text, "ada", NOW)).await.unwrap();
    }
    for text in ["f", "g", "h"] {
        store.claim(claim(text, "bob", NOW)).await.unwrap();
    }
    let error = store.claim(claim("i", "bob", NOW)).await.unwrap_err();
    assert!(matches!(error, ClaimError::TooMany { max: 3 }), "{error}");
}

fn domain(text: &str, owner: &str) -> DomainRecord {
    DomainRecord {
        domain: text.parse().unwrap(),
        owner: owner.to_owned(),
        name: name("calc"),
        token: "proof".to_owned(),
        state: DomainState::Pending,
        added_at: NOW,
        checked_at: None,
        proved_at: None,
        failing_since: None,
        problem: String::new(),
        changed_at: NOW,
        revision: 0,
    }
}

async fn a_domain_changes_only_as_it_was_seen(store: &dyn Store) {
    assert_eq!(store.domain("mcp.example.org").await.unwrap(), None);
    let added = domain("mcp.example.org", "ada");
    // What is not there cannot be changed, and what is there not be added.
    assert!(!store.set_domain(added.clone(), 1).await.unwrap());
    assert!(store.set_domain(added.clone(), 0).await.unwrap());
    assert!(!store.set_domain(domain("mcp.example.org", "bob"), 0).await.unwrap());
    let kept = DomainRecord { revision: 1, ..added };
    assert_eq!(store.domain("mcp.example.org").await.unwrap().as_ref(), Some(&kept));
    let verified = DomainRecord {
        state: DomainState::Verified,
        name: name("other"),
        checked_at: Some(NOW + 2),
        proved_at: Some(NOW + 2),
        failing_since: Some(NOW + 1),
        problem: "none".to_owned(),
        changed_at: NOW + 2,
        ..kept
    };
    assert!(store.set_domain(verified.clone(), 1).await.unwrap());
    assert!(!store.set_domain(verified.clone(), 1).await.unwrap(), "seen before");
    assert!(store.set_domain(domain("b.example.org", "bob"), 0).await.unwrap());
    let all = store.domains(0).await.unwrap();
    let b = DomainRecord { revision: 3, ..domain("b.example.org", "bob") };
    assert_eq!(all, [DomainRecord { revision: 2, ..verified }, b]);
    assert_eq!(store.domains(2).await.unwrap(), all[1..]);
    let racing = (0..10).map(|_| store.set_domain(domain("c.example.org", "ada"), 0));
    let won = futures_util::future::join_all(racing).await;
    assert_eq!(won.into_iter().filter(|won| *won.as_ref().unwrap()).count(), 1);
}

async fn removed_domains_are_told_of_and_then_forgotten(store: &dyn Store) {
    for text in ["a.example.org", "b.example.org"] {
        store.set_domain(domain(text, "ada"), 0).await.unwrap();
    }
    for (text, seen) in [("a.example.org", 1), ("b.example.org", 2)] {
        let removed = DomainRecord { state: DomainState::Removed, ..domain(text, "ada") };
        assert!(store.set_domain(removed, seen).await.unwrap());
    }
    assert_eq!(store.domains(2).await.unwrap().len(), 2);
    store.prune(NOW).await.unwrap();
    assert_eq!(store.domains(0).await.unwrap().len(), 2);
    store.prune(NOW + 1).await.unwrap();
    // The last revision stays: the next one must be above it.
    let left = store.domains(0).await.unwrap();
    assert_eq!((left.len(), left[0].revision), (1, 4));
    assert!(store.set_domain(domain("a.example.org", "bob"), 0).await.unwrap());
    assert_eq!(store.domain("a.example.org").await.unwrap().unwrap().revision, 5);
}

async fn what_is_sealed_is_replaced_and_forgotten(store: &dyn Store) {
    assert_eq!(store.sealed("a").await.unwrap(), None);
    store.keep_sealed("a", "one", NOW).await.unwrap();
    store.keep_sealed("b", "two", NOW).await.unwrap();
    store.keep_sealed("a", "three", NOW).await.unwrap();
    assert_eq!(store.sealed("a").await.unwrap().unwrap().sealed, "three");
    let rows = store.sealed_after(0).await.unwrap();
    let rows: Vec<_> = rows.iter().map(|row| (row.name.as_str(), row.revision)).collect();
    assert_eq!(rows, [("b", 2), ("a", 3)]);
    store.keep_sealed("b", "", NOW).await.unwrap();
    assert_eq!(store.sealed("b").await.unwrap(), None);
    assert_eq!(store.sealed_after(3).await.unwrap()[0].sealed, "", "others must hear of it");
    store.keep_sealed("a", "four", NOW).await.unwrap();
    store.prune(NOW + 1).await.unwrap();
    assert_eq!(store.sealed_after(0).await.unwrap().len(), 1);
    assert_eq!(store.sealed("a").await.unwrap().unwrap().sealed, "four");
}

async fn one_at_a_time_has_a_turn(store: &dyn Store) {
    assert!(store.take_turn("order", "one", NOW, NOW + 60).await.unwrap());
    assert!(!store.take_turn("order", "two", NOW + 59, NOW + 119).await.unwrap());
    assert!(store.take_turn("order", "one", NOW + 59, NOW + 119).await.unwrap());
    assert!(store.take_turn("other", "two", NOW, NOW + 60).await.unwrap());
    assert!(store.take_turn("order", "two", NOW + 119, NOW + 179).await.unwrap(), "too late");
    store.end_turn("order", "one").await.unwrap();
    assert!(!store.take_turn("order", "one", NOW + 120, NOW + 180).await.unwrap());
    store.end_turn("order", "two").await.unwrap();
    assert!(store.take_turn("order", "one", NOW + 120, NOW + 180).await.unwrap());
    let holders: Vec<_> = (0..10).map(|n| format!("node{n}")).collect();
    let taking = holders.iter().map(|one| store.take_turn("race", one, NOW, NOW + 9));
    let taken = futures_util::future::join_all(taking).await;
    assert_eq!(taken.into_iter().filter(|taken| *taken.as_ref().unwrap()).count(), 1);
}

fn quota(owner: &str, max_shares: Option<u32>) -> OwnerQuota {
    OwnerQuota { owner: owner.to_owned(), max_shares, changed_at: NOW, ..OwnerQuota::default() }
}

async fn decisions_over_owners_are_numbered_and_whole(store: &dyn Store) {
    assert_eq!(store.owner_quota("ada").await.unwrap(), None);
    let whole = OwnerQuota {
        names_per_hour: Some(1),
        requests_per_day: Some(u64::from(u32::MAX) * 9),
        bytes_per_day: Some(0),
        max_streams: Some(4),
        blocked_at: Some(NOW + 1),
        note: "why".to_owned(),
        ..quota("ada", Some(2))
    };
    store.set_owner_quota(quota("bob", Some(1))).await.unwrap();
    store.set_owner_quota(whole.clone()).await.unwrap();
    store.set_owner_quota(quota("bob", Some(3))).await.unwrap();
    let ada = OwnerQuota { revision: 2, ..whole };
    assert_eq!(store.owner_quota("ada").await.unwrap().as_ref(), Some(&ada));
    let bob = OwnerQuota { revision: 3, ..quota("bob", Some(3)) };
    assert_eq!(store.owner_quotas_after(0).await.unwrap(), [ada, bob.clone()]);
    assert_eq!(store.owner_quotas_after(2).await.unwrap(), [bob]);
    assert_eq!(store.owner_quotas_after(3).await.unwrap(), []);
}

fn used(day: u64, owner: &str, requests: u64) -> Usage {
    let amounts = Amounts { requests, bytes_in: requests * 10, bytes_out: requests * 100 };
    Usage { day, owner: owner.to_owned(), amounts }
}

async fn what_owners_used_is_added_up(store: &dyn Store) {
    assert_eq!(store.add_usage(Vec::new()).await.unwrap(), []);
    store.add_usage(vec![used(7, "ada", 2), used(8, "ada", 1)]).await.unwrap();
    let mut now = store.add_usage(vec![used(8, "bob", 9), used(8, "ada", 3)]).await.unwrap();
    now.sort_by(|a, b| a.owner.cmp(&b.owner));
    assert_eq!(now, [used(8, "ada", 4), used(8, "bob", 9)]);
    assert_eq!(store.usage(8, 9).await.unwrap(), [used(8, "bob", 9), used(8, "ada", 4)]);
    assert_eq!(store.usage(8, 1).await.unwrap(), [used(8, "bob", 9)]);
    assert_eq!(store.usage_of("ada", 7).await.unwrap(), [used(7, "ada", 2), used(8, "ada", 4)]);
    assert_eq!(store.usage_of("ada", 8).await.unwrap(), [used(8, "ada", 4)]);
    // More than one statement takes.
    let many = (0..2500).map(|n| used(9, &format!("owner{n}"), 1)).collect();
    assert_eq!(store.add_usage(many).await.unwrap().len(), 2500);
    store.prune(8 * DAY).await.unwrap();
    assert_eq!(store.usage_of("ada", 0).await.unwrap(), [used(8, "ada", 4)]);
}

fn token(jti: &str, issued_at: u64) -> TokenRecord {
    TokenRecord {
        jti: jti.to_owned(),
        subject: "ada".to_owned(),
        names: vec!["ada-*".to_owned(), "calc".to_owned()],
        max_shares: Some(4),
        bound_to: None,
        issued_at,
        expires_at: NOW + DAY,
        revoked_at: None,
    }
}

async fn tokens_are_listed_and_revoked(store: &dyn Store) {
    let bound = TokenRecord { bound_to: Some("thumb".to_owned()), ..token("b", NOW) };
    let plain = TokenRecord { max_shares: None, names: vec![], ..token("a", NOW + 1) };
    store.insert_token(plain.clone()).await.unwrap();
    store.insert_token(bound.clone()).await.unwrap();
    store.insert_token(token("b", NOW)).await.unwrap_err();
    assert_eq!(store.tokens().await.unwrap(), [bound.clone(), plain.clone()]);
    assert_eq!(store.token("b").await.unwrap(), Some(bound));
    assert_eq!(store.token("c").await.unwrap(), None);
    assert_eq!(store.revoked(NOW).await.unwrap(), Vec::<String>::new());
    assert!(!store.revoke_token("c", NOW).await.unwrap());
    assert!(store.revoke_token("b", NOW + 5).await.unwrap());
    assert!(store.revoke_token("b", NOW + 9).await.unwrap());
    assert_eq!(store.token("b").await.unwrap().unwrap().revoked_at, Some(NOW + 5));
    assert_eq!(store.revoked(NOW + 5).await.unwrap(), ["b"]);
    assert_eq!(store.revoked(NOW + DAY).await.unwrap(), Vec::<String>::new());
}

fn event(at: u64) -> AuditEvent {
    AuditEvent {
        at,
        action: "token.issue".to_owned(),
        actor: "operator".to_owned(),
        object: "b".to_owned(),
        detail: "ada".to_owned(),
    }
}

async fn the_audit_trail_is_newest_first(store: &dyn Store) {
    for at in [NOW, NOW + 1, NOW + 2] {
        store.audit(event(at)).await.unwrap();
    }
    assert_eq!(store.audit_trail(2).await.unwrap(), [event(NOW + 2), event(NOW + 1)]);
}

async fn the_audit_trail_is_filtered(store: &dyn Store) {
    for (at, action, actor, object) in [
        (NOW, "name.claim", "key:a", "calc"),
        (NOW + 1, "names", "key:a", "calc"),
        (NOW + 2, "name.refuse", "key:b", "calc"),
        (NOW + 3, "token.issue", "operator", "t1"),
    ] {
        let (action, actor, object) = (action.to_owned(), actor.to_owned(), object.to_owned());
        store.audit(AuditEvent { action, actor, object, ..event(at) }).await.unwrap();
    }
    let all = AuditFilter::newest(9);
    let text = |text: &str| Some(text.to_owned());
    for (filter, expected) in [
        (AuditFilter { action: text("name"), ..all.clone() }, vec![NOW + 2, NOW]),
        (AuditFilter { action: text("name.claim"), ..all.clone() }, vec![NOW]),
        (AuditFilter { actor: text("key:a"), ..all.clone() }, vec![NOW + 1, NOW]),
        (AuditFilter { object: text("t1"), ..all.clone() }, vec![NOW + 3]),
        (AuditFilter { since: Some(NOW + 2), ..all.clone() }, vec![NOW + 3, NOW + 2]),
        (AuditFilter { until: Some(NOW + 1), ..all.clone() }, vec![NOW]),
        (AuditFilter { object: text("calc"), limit: 1, ..all.clone() }, vec![NOW + 2]),
        (AuditFilter { action: text("name"), actor: text("key:b"), ..all }, vec![NOW + 2]),
    ] {
        let found = store.audit_events(filter.clone()).await.unwrap();
        let times: Vec<_> = found.iter().map(|event| event.at).collect();
        assert_eq!(times, expected, "{filter:?}");
    }
}

async fn prune_forgets_only_what_ended(store: &dyn Store) {
    store.claim(claim("live", "ada", NOW)).await.unwrap();
    store.claim(Claim { expires_at: Some(NOW + 1), ..claim("old", "ada", NOW) }).await.unwrap();
    store.claim(claim("gone", "ada", NOW)).await.unwrap();
    store.release(&name("gone"), "ada", 1, NOW + 2).await.unwrap();
    store.insert_token(token("a", NOW)).await.unwrap();
    store.audit(event(NOW)).await.unwrap();
    assert_eq!(store.prune(NOW).await.unwrap(), 0);
    assert_eq!(store.prune(NOW + 2).await.unwrap(), 2);
    assert_eq!(store.prune(NOW + DAY + 1).await.unwrap(), 2);
    let left: Vec<_> = store.leases().await.unwrap().into_iter().map(|it| it.name).collect();
    assert_eq!(left, [name("live")]);
}
