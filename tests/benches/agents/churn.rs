//! Agents that come and go, and names that are claimed and released.

use std::time::Duration;

use anyhow::Context as _;
use mcpm::tunnel::HttpTarget;
use mcpm_bench::churn::{AGENTS, name};
use mcpm_shared::identity::AgentKey;
use mcpm_shared::scope::Scope;
use tokio::task::JoinSet;

use crate::library::{config, is_up, start};
use crate::protocol::{Address, Session};

/// How long an agent stays.
const STAY: Duration = Duration::from_secs(1);
/// How many sessions claim and release, how often, and how many names each does so with before the
/// next session.
const CLAIMERS: usize = 4;
const HOLD: Duration = Duration::from_millis(100);
const CLAIMS: usize = 20;

/// Has them come and go until one fails.
pub(crate) async fn run(target: &HttpTarget, address: &Address) -> anyhow::Result<()> {
    let mut all = JoinSet::new();
    for agent in 0..AGENTS {
        all.spawn(come_and_go(agent, target.clone(), address.clone()));
    }
    for claimer in 0..CLAIMERS {
        all.spawn(claim_and_release(claimer, address.clone()));
    }
    println!("up");
    all.join_next().await.context("there are agents")??
}

/// Has one agent after the other with the same key; every other goes without a goodbye.
async fn come_and_go(agent: usize, target: HttpTarget, address: Address) -> anyhow::Result<()> {
    let (scope, key) = (Scope::new(), AgentKey::generate());
    let mut stay = tokio::time::interval(STAY);
    for round in 0.. {
        let config = config(address.relay.clone(), None, key.clone());
        let tunnel = start(config, &name(agent, round), &target, &scope)?;
        is_up(&tunnel).await.with_context(|| name(agent, round))?;
        stay.tick().await;
        if round % 2 == 0 {
            tunnel.shutdown().await;
        }
    }
    Ok(())
}

/// Claims the same names again and again with the same key, in one session after the other.
async fn claim_and_release(claimer: usize, address: Address) -> anyhow::Result<()> {
    let (scope, key) = (Scope::new(), AgentKey::generate());
    let mut hold = tokio::time::interval(HOLD);
    loop {
        let mut session = Session::open(&address, &key, &scope).await?;
        for index in 0..CLAIMS {
            let claimed = session.claim(&format!("held-{claimer}-{index}")).await?;
            hold.tick().await;
            session.release(claimed.share).await?;
        }
    }
}
