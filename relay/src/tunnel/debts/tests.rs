//! A relay whose store is away: what goes on, what must wait, and what the store hears after.

use mcpm_shared::proto::control::{self as wire, AgentMessage, Claimed, RelayMessage, Update};
use mcpm_shared::proto::{ShareMode, code};
use mcpm_shared::scope::Scope;

use super::*;
use crate::ports::Ports;
use crate::store::moody::Moody;
use crate::store::{Claim, Guarded, NameRule, NameState};
use crate::tunnel::tests::{Agent, tunnels_over};

/// A store that a test takes away.
struct Outage {
    moody: Arc<Moody>,
    over: Over,
}

impl std::ops::Deref for Outage {
    type Target = Over;

    fn deref(&self) -> &Over {
        &self.over
    }
}

/// Tunnels over a store, with the services that a relay runs.
struct Over {
    guarded: Arc<Guarded>,
    tunnels: Arc<Tunnels>,
    scope: Scope,
}

impl Over {
    fn new(store: Arc<dyn Store>) -> Self {
        let scope = Scope::new();
        let guarded = Arc::new(Guarded::new(store));
        let store = Arc::clone(&guarded) as Arc<dyn Store>;
        let tunnels = tunnels_over(&scope, &Ports { store, ..Ports::in_memory() });
        let (recovering, settling) = (Arc::clone(&guarded), Arc::clone(&tunnels));
        let ruled = Arc::clone(&tunnels);
        let health = guarded.health();
        scope.spawn_until_cancelled(async move { recovering.recover().await });
        scope.spawn_until_cancelled(async move { settling.debts.settle(&settling, health).await });
        scope.spawn_until_cancelled(async move { crate::tunnel::rules::follow(&ruled).await });
        Self { guarded, tunnels, scope }
    }

    async fn agent(&self) -> Agent {
        Agent::connect(&self.tunnels, &self.scope, None).await
    }

    /// Waits until the store answers, as those who recover it find out.
    async fn is_back(&self) {
        self.guarded.health().wait_for(|health| *health == Health::Up).await.unwrap();
    }
}

impl Outage {
    fn new() -> Self {
        let moody = Arc::new(Moody::default());
        Self { over: Over::new(Arc::clone(&moody) as Arc<dyn Store>), moody }
    }

    async fn take_away(&self) {
        self.moody.set_away(true);
        self.guarded.ping().await.unwrap_err();
    }

    async fn bring_back(&self) {
        self.moody.set_away(false);
        self.is_back().await;
    }

    /// Waits until the store has heard of something: time is paused, so nothing is waited for.
    async fn heard(&self, mut test: impl AsyncFnMut(&Moody) -> bool) {
        for _ in 0..1000 {
            if test(&self.moody).await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the store did not hear of it");
    }

    async fn lease(&self, name: &str) -> Lease {
        self.moody.lease(&name.parse().unwrap()).await.unwrap().unwrap()
    }
}

fn claimed(answer: RelayMessage) -> Claimed {
    let RelayMessage::Claimed(claimed) = answer else { panic!("{answer:?}") };
    claimed
}

#[tokio::test(start_paused = true)]
async fn who_had_a_name_gets_it_back_while_the_store_is_away() {
    let outage = Outage::new();
    let mut agent = outage.agent().await;
    let first = claimed(agent.ask("calc", None).await);
    outage.take_away().await;
    // By its ticket, and by the memory of this node alone.
    let mut again = outage.agent().await;
    let second = claimed(again.ask("calc", Some(first.ticket)).await);
    let mut once_more = outage.agent().await;
    let third = claimed(once_more.ask("calc", None).await);
    assert_eq!((first.generation, second.generation, third.generation), (1, 2, 3));
    outage.bring_back().await;
    outage
        .heard(async |store| {
            let lease = store.lease(&"calc".parse().unwrap()).await.unwrap().unwrap();
            lease.generation == 3 && lease.released_at.is_none()
        })
        .await;
    assert!(outage.tunnels.live_share(&"calc".parse().unwrap()).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_new_name_must_wait_for_the_store() {
    let outage = Outage::new();
    let mut agent = outage.agent().await;
    agent.ask("calc", None).await;
    outage.take_away().await;
    let RelayMessage::Refused(refused) = agent.ask("new", None).await else {
        panic!("nobody knows whose name it is")
    };
    assert_eq!(refused.refusal.code, code::UNAVAILABLE);
    assert!(!refused.refusal.is_terminal());
    assert_eq!(refused.refusal.retry_after_secs, Some(5));
    let calc = "calc".parse().unwrap();
    assert!(outage.tunnels.live_share(&calc).unwrap().may_serve(0), "live shares go on");
    outage.bring_back().await;
    claimed(agent.ask("new", None).await);
}

#[tokio::test(start_paused = true)]
async fn a_blocked_name_stays_blocked_while_the_store_is_away() {
    let outage = Outage::new();
    let mut agent = outage.agent().await;
    let first = claimed(agent.ask("calc", None).await);
    let (name, note) = ("calc".parse().unwrap(), String::new());
    let rule = NameRule { name, state: NameState::Blocked, note, changed_at: 1, revision: 0 };
    outage.moody.set_name_rule(rule).await.unwrap();
    let told = wire::read::<RelayMessage>(&mut agent.reader).await.unwrap();
    let RelayMessage::Revoked(revoked) = told else { panic!("{told:?}") };
    assert_eq!((revoked.share, revoked.refusal.is_terminal()), (first.share, true));
    assert!(outage.tunnels.live_share(&"calc".parse().unwrap()).is_none());
    outage.take_away().await;
    // The session ended with the share, so that nothing on it stays open.
    let mut agent = outage.agent().await;
    let answer = agent.ask("calc", Some(first.ticket)).await;
    let RelayMessage::Refused(refused) = answer else { panic!("{answer:?}") };
    assert_eq!(refused.refusal.code, code::NAME_RESERVED);
}

#[tokio::test(start_paused = true)]
async fn a_share_that_was_overtaken_elsewhere_ends_when_the_store_is_back() {
    let outage = Outage::new();
    let mut agent = outage.agent().await;
    let first = claimed(agent.ask("calc", None).await);
    outage.take_away().await;
    let mut again = outage.agent().await;
    claimed(again.ask("calc", Some(first.ticket)).await);
    // Another node reached the store, which this one does not.
    outage.moody.set_away(false);
    for _ in 0..3 {
        let elsewhere = Claim {
            name: "calc".parse().unwrap(),
            owner: "key:k".to_owned(),
            node: "other".to_owned(),
            mode: ShareMode::Mcp,
            floor_generation: 0,
            now: unix_now(),
            expires_at: None,
            keep_secs: 60,
            max_live: 9,
        };
        outage.moody.claim(elsewhere).await.unwrap();
    }
    outage.bring_back().await;
    let told = wire::read::<RelayMessage>(&mut again.reader).await.unwrap();
    let RelayMessage::Revoked(revoked) = told else { panic!("{told:?}") };
    assert_eq!(revoked.refusal.code, code::SUPERSEDED);
    assert_eq!(outage.lease("calc").await.node, "other");
}

#[tokio::test(start_paused = true)]
async fn ends_and_renewals_reach_the_store_when_it_is_back() {
    let outage = Outage::new();
    let (mut ended, mut renewed) = (outage.agent().await, outage.agent().await);
    let first = claimed(ended.ask("ended", None).await);
    let second = claimed(renewed.ask("renewed", None).await);
    outage.take_away().await;
    let release = wire::Release { request: 1, share: first.share };
    ended.say(&AgentMessage::Release(release)).await;
    let update =
        Update { request: 1, share: second.share, access: None, expires_in_secs: Some(90) };
    renewed.say(&AgentMessage::Update(update)).await;
    outage
        .heard(async |_| {
            let shares = &outage.tunnels;
            let renewed = shares.live_share(&"renewed".parse().unwrap()).unwrap();
            shares.live_share(&"ended".parse().unwrap()).is_none()
                && renewed.is_expired(unix_now() + 91)
        })
        .await;
    outage.bring_back().await;
    outage
        .heard(async |_| {
            outage.lease("ended").await.released_at.is_some()
                && outage.lease("renewed").await.held_until.is_some()
        })
        .await;
    outage
        .heard(async |store| {
            let trail = store.audit_trail(9).await.unwrap();
            trail.iter().any(|event| event.action == "name.release" && event.object == "ended")
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn only_the_generation_that_ended_is_released() {
    let outage = Outage::new();
    let (mut one, mut two) = (outage.agent().await, outage.agent().await);
    for name in ["ended", "renewed"] {
        one.ask(name, None).await;
    }
    two.ask("renewed", None).await;
    for name in ["ended", "renewed"] {
        let (name, owner) = (name.parse().unwrap(), "key:k".to_owned());
        outage.tunnels.debts.ended(Left { name, owner, generation: 1 });
    }
    outage.tunnels.debts.settled().await;
    outage.heard(async |_| outage.lease("ended").await.released_at.is_some()).await;
    assert_eq!(outage.lease("renewed").await.released_at, None);
}

#[tokio::test(start_paused = true)]
async fn decisions_over_names_are_in_the_trail() {
    let outage = Outage::new();
    let mut agent = outage.agent().await;
    agent.ask("calc", None).await;
    agent.ask("www", None).await;
    outage.tunnels.debts.settled().await;
    outage.heard(async |store| store.audit_trail(9).await.unwrap().len() == 2).await;
    let trail = outage.moody.audit_trail(9).await.unwrap();
    let line = |it: &AuditEvent| format!("{} {} {} {}", it.action, it.actor, it.object, it.detail);
    let lines: Vec<_> = trail.iter().map(line).collect();
    assert_eq!(
        lines,
        ["name.refuse key:k www name_reserved", "name.claim key:k calc generation 1"]
    );
}

#[cfg(all(unix, feature = "sqlx"))]
#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_stops_and_starts_costs_nobody_a_name() {
    use crate::store::SqlStore;
    use crate::store::private_postgres::PrivatePostgres;

    let Some(server) = PrivatePostgres::start() else { return };
    let store = Arc::new(SqlStore::connect(&server.database()).await.unwrap());
    let over = Over::new(Arc::clone(&store) as Arc<dyn Store>);
    let mut agent = over.agent().await;
    let first = claimed(agent.ask("calc", None).await);
    server.stop();
    let mut again = over.agent().await;
    let second = claimed(again.ask("calc", Some(first.ticket)).await);
    assert_eq!(second.generation, 2);
    let answer = again.ask("new", None).await;
    assert!(matches!(answer, RelayMessage::Refused(_)), "{answer:?}");
    server.start_again();
    over.is_back().await;
    over.tunnels.debts.settled().await;
    claimed(again.ask("new", None).await);
    // What was owed was told before, or is being told now.
    let calc = "calc".parse().unwrap();
    while store.lease(&calc).await.unwrap().unwrap().generation < 2 {
        tokio::task::yield_now().await;
    }
    assert!(over.tunnels.live_share(&calc).is_some());
}
