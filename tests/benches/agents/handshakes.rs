//! Agents that come, claim a name each and go.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mcpm_bench::outcome::{Outcome, gather};
use mcpm_shared::identity::AgentKey;
use mcpm_shared::scope::Scope;

use crate::protocol::{Address, Session};

/// How many have come so far: every name is a new one.
static COME: AtomicUsize = AtomicUsize::new(0);

/// Has them come, so many at a time, and tells how fast they did.
pub(crate) async fn run(count: usize, millis: u64, address: &Address) -> anyhow::Result<()> {
    let load = Duration::from_millis(millis);
    come(count, load / 4, address).await?;
    println!("begin");
    let outcome = come(count, load, address).await?;
    println!("done {} {}", outcome.rate(), outcome.percentile_ms(50));
    std::future::pending().await
}

async fn come(count: usize, load: Duration, address: &Address) -> anyhow::Result<Outcome> {
    let deadline = Instant::now() + load;
    gather(load, (0..count).map(|_| one_after_the_other(address.clone(), deadline))).await
}

async fn one_after_the_other(address: Address, deadline: Instant) -> anyhow::Result<Outcome> {
    let scope = Scope::new();
    let mut outcome = Outcome::default();
    while Instant::now() < deadline {
        // Nobody has seen any of them before: that is the most a relay has to do.
        let key = AgentKey::generate();
        let name = format!("new-{}", COME.fetch_add(1, Ordering::Relaxed));
        let begun = Instant::now();
        let mut session = Session::open(&address, &key, &scope).await?;
        session.claim(&name).await?;
        outcome.latencies.push(begun.elapsed().as_secs_f64());
    }
    Ok(outcome)
}
