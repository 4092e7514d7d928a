//! What there is of processes and descriptors, where the system tells.

use std::fmt::Debug;
use std::time::Duration;

use harness::soon;
use tokio::time::interval;

/// How often something is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How many looks in a row must show the same.
const STILL: usize = 15;

/// How many descriptors a process holds; always the same where there is no `/proc`.
pub(super) fn descriptors(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).map_or(0, Iterator::count)
}

/// What the descriptors of a process are, for the message of a failing test.
pub(super) fn targets(process: u32) -> Vec<String> {
    let Ok(all) = std::fs::read_dir(format!("/proc/{process}/fd")) else { return Vec::new() };
    let all = all.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let mut all: Vec<String> = all.map(|target| target.to_string_lossy().into_owned()).collect();
    all.sort();
    all
}

/// Waits until a count does not change any more.
pub(super) async fn settled<T: PartialEq + Debug>(mut count: impl FnMut() -> T) -> T {
    let mut looks = interval(LOOK);
    soon("a count settles", async {
        let (mut last, mut still) = (count(), 0);
        while still < STILL {
            looks.tick().await;
            let now = count();
            still = if now == last { still + 1 } else { 0 };
            last = now;
        }
        last
    })
    .await
}

/// Ends a process at once, as a system does that is out of memory.
pub(super) async fn kill(process: u32) {
    let mut command = tokio::process::Command::new("kill");
    let killed = command.args(["-s", "KILL", &process.to_string()]).status().await;
    assert!(killed.unwrap().success(), "kill {process}");
}
