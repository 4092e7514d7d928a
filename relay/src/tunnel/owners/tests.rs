//! What is counted, and what the store hears of it.

use mcpm_shared::scope::Scope;

use super::*;
use crate::ports::Ports;
use crate::store::Store;
use crate::store::moody::Moody;
use crate::tunnel::tests::tunnels_over;

const NOW: u64 = 1_800_000_000;
const DAY: u64 = NOW / DAY_SECS;

struct Bench {
    tunnels: Arc<Tunnels>,
    store: Arc<Moody>,
    _scope: Scope,
}

impl Bench {
    fn new() -> Self {
        Self::over(Arc::default())
    }

    /// One more node on the same store.
    fn over(store: Arc<Moody>) -> Self {
        let scope = Scope::new();
        let shown = Arc::clone(&store) as Arc<dyn Store>;
        let tunnels = tunnels_over(&scope, &Ports { store: shown, ..Ports::in_memory() });
        Self { tunnels, store, _scope: scope }
    }

    fn meter(&self, owner: &str) -> Arc<Meter> {
        self.tunnels.owners.meter(owner)
    }

    async fn written(&self, owner: &str) -> Vec<(u64, u64)> {
        let used = self.store.usage_of(owner, 0).await.unwrap();
        used.iter().map(|used| (used.day, used.amounts.requests)).collect()
    }
}

fn per_day(requests: u64) -> Limits {
    let per_owner = Allowance { requests_per_day: Some(requests), ..Allowance::default() };
    Limits { per_owner, ..Limits::default() }
}

#[tokio::test]
async fn what_was_used_is_written_once() {
    let bench = Bench::new();
    let meter = bench.meter("ada");
    meter.begin().unwrap();
    meter.add_out(7);
    write_usage(&bench.tunnels, NOW).await;
    write_usage(&bench.tunnels, NOW + 10).await;
    assert_eq!(bench.written("ada").await, [(DAY, 1)]);
    meter.begin().unwrap();
    write_usage(&bench.tunnels, NOW + 20).await;
    assert_eq!(bench.written("ada").await, [(DAY, 2)]);
    assert_eq!(bench.store.usage_of("ada", DAY).await.unwrap()[0].amounts.bytes_out, 7);
}

#[tokio::test]
async fn a_day_that_ends_is_written_as_itself() {
    let bench = Bench::new();
    let meter = bench.meter("ada");
    meter.begin().unwrap();
    write_usage(&bench.tunnels, NOW).await;
    meter.begin().unwrap();
    write_usage(&bench.tunnels, NOW + DAY_SECS).await;
    meter.begin().unwrap();
    write_usage(&bench.tunnels, NOW + DAY_SECS + 10).await;
    assert_eq!(bench.written("ada").await, [(DAY, 2), (DAY + 1, 1)]);
}

#[tokio::test]
async fn an_outage_loses_nothing_and_lifts_no_limit() {
    let bench = Bench::new();
    bench.tunnels.owners.obey(&per_day(3));
    let meter = bench.meter("ada");
    write_usage(&bench.tunnels, NOW).await;
    bench.store.set_away(true);
    for _ in 0..3 {
        meter.begin().unwrap();
        write_usage(&bench.tunnels, NOW).await;
    }
    assert!(meter.begin().is_err(), "what is in memory counts");
    write_usage(&bench.tunnels, NOW + DAY_SECS).await;
    assert!(meter.begin().is_ok(), "a new day");
    bench.store.set_away(false);
    write_usage(&bench.tunnels, NOW + DAY_SECS + 10).await;
    assert_eq!(bench.written("ada").await, [(DAY, 3), (DAY + 1, 1)]);
}

#[tokio::test]
async fn nodes_count_each_others_requests() {
    let one = Bench::new();
    let two = Bench::over(Arc::clone(&one.store));
    for bench in [&one, &two] {
        bench.tunnels.owners.obey(&per_day(4));
        let meter = bench.meter("ada");
        meter.begin().unwrap();
        meter.begin().unwrap();
        write_usage(&bench.tunnels, NOW).await;
    }
    assert!(two.meter("ada").begin().is_err(), "four in all");
    // The first node hears of it with its next write.
    one.meter("ada").begin().unwrap();
    write_usage(&one.tunnels, NOW + 10).await;
    assert!(one.meter("ada").begin().is_err());
}

#[tokio::test]
async fn a_relay_that_starts_knows_what_was_used_today() {
    let one = Bench::new();
    let now = unix_now();
    let meter = one.meter("ada");
    meter.begin().unwrap();
    meter.begin().unwrap();
    write_usage(&one.tunnels, now).await;
    let next = Bench::over(Arc::clone(&one.store));
    next.tunnels.owners.obey(&per_day(2));
    load(&next.tunnels).await.unwrap();
    assert!(next.meter("ada").begin().is_err());
    assert!(next.meter("bob").begin().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_decision_counts_within_a_second_whoever_made_it() {
    let bench = Bench::new();
    bench.tunnels.owners.obey(&per_day(1));
    let (meter, owner) = (bench.meter("sub:ada"), crate::admission::Owner::of_subject("ada"));
    meter.begin().unwrap();
    assert!(meter.begin().is_err());
    let more = crate::operator::QuotaChange {
        requests_per_day: crate::operator::Change::To(5),
        ..Default::default()
    };
    let decided = async {
        let store = &*bench.store;
        crate::operator::set_quota(store, &owner, more, NOW).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(meter.begin().is_ok());
        crate::operator::block_owner(store, &owner, String::new(), NOW).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(bench.tunnels.owners.is_blocked("sub:ada"));
        crate::operator::unblock_owner(store, &owner, NOW).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!bench.tunnels.owners.is_blocked("sub:ada"));
    };
    tokio::select! {
        () = follow(&bench.tunnels) => unreachable!("it follows for ever"),
        () = decided => {}
    }
}
