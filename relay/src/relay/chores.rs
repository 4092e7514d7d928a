//! What a relay does from time to time: ends what has come to its end, and forgets.

use std::sync::Arc;
use std::time::Duration;

use mcpm_shared::proto::{Refusal, code};
use tokio::sync::watch;

use crate::admission::unix_now;
use crate::config::Live;
use crate::http::Edge;
use crate::metrics::Metrics;
use crate::store::{Health, Store};
use crate::tunnel::Tunnels;
use crate::tunnel::share::Share;
use crate::tunnel::table::Left;

/// How often the janitor looks around; a share ends at most this much late.
const JANITOR: Duration = Duration::from_secs(1);
/// How long a session must be up to be asked for a newer token.
const SETTLED: Duration = Duration::from_secs(90);
/// How long a name whose agent is gone stays in memory, and its lease live.
const AWAY_KEPT: Duration = Duration::from_secs(300);
/// How often the store forgets, and for how long it remembers what nobody has a right to any more:
/// clocks of nodes differ, and operators ask what was.
const PRUNE_INTERVAL: Duration = Duration::from_secs(3600);
const PRUNE_MARGIN: Duration = Duration::from_secs(24 * 3600);
/// How long counts of hours that are over stay: clocks of nodes differ.
const COUNTS_KEPT: Duration = Duration::from_secs(2 * 3600);

/// Ends sessions whose token was revoked, as soon as that is known.
pub(super) async fn end_revoked_sessions(tunnels: Arc<Tunnels>) {
    let mut revoked = tunnels.admission.revoked();
    while revoked.changed().await.is_ok() {
        end_sessions_without_right(&tunnels);
    }
}

fn end_sessions_without_right(tunnels: &Tunnels) {
    let now = unix_now();
    for session in tunnels.sessions().iter().filter(|session| !session.scope.is_cancelled()) {
        if let Err(refusal) = tunnels.admission.recheck(&session.admitted, now) {
            tracing::info!(agent.id = %session.admitted.subject, code = %refusal.code, "session ended");
            let owner = session.admitted.owner.as_str();
            let (agent, code) = (&session.admitted.subject, refusal.code.clone());
            tunnels.debts.audit("session.end", owner, agent, code);
            session.end(&refusal);
        }
    }
}

/// Asks agents to come back with a newer token before theirs ends, so that no request notices. One
/// that has just come with an old token is not asked: it has no other.
fn renew_tokens(tunnels: &Tunnels) {
    let now = unix_now();
    let grace = tunnels.config.load().timing.grace;
    for session in tunnels.sessions() {
        let asks = session.since.elapsed() > SETTLED
            && tunnels.admission.should_renew(&session.admitted, now);
        if asks {
            session.go_away("your token for this relay ends soon", grace);
        }
    }
}

/// Does what time brings: ends shares and sessions, forgets names and addresses at rest. All of it
/// in memory: that leases ended the store learns when it has time.
pub(super) async fn janitor(edge: Arc<Edge>) {
    let mut ticks = tokio::time::interval(JANITOR);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let tunnels = &edge.tunnels;
    loop {
        ticks.tick().await;
        end_sessions_without_right(tunnels);
        renew_tokens(tunnels);
        let now = unix_now();
        let mut left = Vec::new();
        for share in tunnels.table.live() {
            if share.is_expired(now) {
                left.push(expire(tunnels, &share));
            } else {
                share.tidy_lanes();
            }
        }
        left.extend(tunnels.table.sweep(AWAY_KEPT));
        for left in left {
            tunnels.debts.ended(left);
        }
        edge.proxy.tidy();
        tunnels.tidy();
    }
}

fn expire(tunnels: &Tunnels, share: &Arc<Share>) -> Left {
    let facts = &share.facts;
    tracing::info!(share.name = %facts.name, "share expired");
    let message = format!("the share `{}` has come to its end", facts.name);
    share.session.revoke(facts.id, Refusal::new(code::EXPIRED, message));
    tunnels.table.away(share, false);
    tunnels.debts.audit("share.expire", &facts.owner, facts.name.as_str(), "");
    Left { name: facts.name.clone(), owner: facts.owner.clone(), generation: facts.generation }
}

/// Shows in the metrics whether the store answers.
pub(super) async fn show_health(mut health: watch::Receiver<Health>, metrics: Arc<Metrics>) {
    loop {
        let up = *health.borrow_and_update() == Health::Up;
        metrics.store_up.set(i64::from(up));
        if health.changed().await.is_err() {
            return;
        }
    }
}

/// Makes the store forget what ended so long ago that nobody has a right to it, from time to time.
pub(super) async fn prune(store: Arc<dyn Store>, config: Live) {
    let mut ticks = tokio::time::interval(PRUNE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let keep_name = config.load().timing.keep_name;
        let age = keep_name.saturating_add(PRUNE_MARGIN).as_secs();
        match store.prune(unix_now().saturating_sub(age)).await {
            Ok(0) => {}
            Ok(forgotten) => tracing::info!(forgotten, "store pruned"),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "store not pruned");
            }
        }
        let counted = unix_now().saturating_sub(COUNTS_KEPT.as_secs());
        if let Err(error) = store.forget_tallies(counted).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "counts not forgotten");
        }
    }
}

#[cfg(test)]
mod tests {
    use mcpm_shared::proto::ShareMode;
    use mcpm_shared::scope::Scope;

    use super::*;
    use crate::config::Config;
    use crate::store::{Claim, MemoryStore};

    fn claim(name: &str) -> Claim {
        Claim {
            name: name.parse().unwrap(),
            owner: "key:a".to_owned(),
            node: "n".to_owned(),
            mode: ShareMode::Mcp,
            floor_generation: 0,
            now: unix_now(),
            expires_at: None,
            keep_secs: 60,
            max_live: 9,
        }
    }

    #[tokio::test]
    async fn the_store_forgets_what_nobody_has_a_right_to() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let keep = Duration::from_secs(60);
        let old = unix_now() - keep.as_secs() - PRUNE_MARGIN.as_secs() - 10;
        store.claim(Claim { now: old, expires_at: Some(old + 5), ..claim("old") }).await.unwrap();
        store.claim(claim("live")).await.unwrap();
        let mut config = Config::local();
        config.timing.keep_name = keep;
        let scope = Scope::new();
        scope.spawn_until_cancelled(prune(Arc::clone(&store), Live::new(Arc::new(config))));
        while store.leases().await.unwrap().len() > 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(store.leases().await.unwrap()[0].name.as_str(), "live");
    }
}
