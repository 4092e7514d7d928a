//! How long a visitor stays admitted: what is open ends when the credential does.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

/// How often a token's end is looked for at least: clocks jump.
const LOOK: Duration = Duration::from_secs(60);

/// Waits until somebody is admitted no longer: the token was revoked or has expired, or the share is
/// not public any more. `admits` is asked again whenever something of `policy` changes. Cancel-safe.
pub async fn until_denied<P>(
    mut policy: watch::Receiver<P>,
    admits: impl Fn(&P, u64) -> Option<Option<u64>>,
) {
    loop {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let until = admits(&*policy.borrow_and_update(), now);
        let Some(until) = until else { return };
        let left = until.map(|until| Duration::from_secs(until.saturating_sub(now)));
        let look = async {
            match left {
                Some(left) => tokio::time::sleep(left.min(LOOK)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = policy.changed() => if changed.is_err() {
                // Whoever could change it is gone: nothing will, but time goes on.
                if left.is_none() { return std::future::pending().await }
                tokio::time::sleep(left.unwrap_or(LOOK).min(LOOK)).await;
            },
            () = look => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use mcpm_shared::access::{AccessPolicy, Principal};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_visitor_stays_until_the_policy_changes_for_him() {
        let (change, policy) = watch::channel(AccessPolicy::public());
        let admits = |policy: &AccessPolicy, now| policy.admits(&Principal::Anonymous, now);
        let waiting = until_denied(policy, admits);
        tokio::pin!(waiting);
        let early = tokio::time::timeout(Duration::from_secs(3600), &mut waiting).await;
        assert!(early.is_err());
        change.send_replace(AccessPolicy::default());
        waiting.await;
    }
}
