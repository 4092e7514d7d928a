//! What every store must do, run against each of them.

use std::future::Future;

use mcpm_shared::name::Name;
use mcpm_shared::proto::ShareMode;

use super::{
    AuditEvent, Claim, ClaimError, Lease, NameRule, NameState, OwnerQuota, Store, TokenRecord,
};

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
    tokens_are_listed_and_revoked(&fresh().await).await;
    the_audit_trail_is_newest_first(&fresh().await).await;
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
    let quota = |owner: &str, max_shares| OwnerQuota {
        owner: owner.to_owned(),
        max_shares,
        changed_at: NOW,
    };
    store.set_owner_quota(quota("bob", None)).await.unwrap();
    store.set_owner_quota(quota("ada", Some(9))).await.unwrap();
    store.set_owner_quota(quota("ada", Some(1))).await.unwrap();
    assert_eq!(store.owner_quotas().await.unwrap(), [quota("ada", Some(1)), quota("bob", None)]);
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
