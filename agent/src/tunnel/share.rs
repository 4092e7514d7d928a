//! The shares of this process at one relay, whichever session serves them.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mcpm_shared::access::AccessPolicy;
use mcpm_shared::name::Name;
use mcpm_shared::proto::{ShareMode, code};
use tokio::sync::{Notify, watch};

use super::gate::{Gate, Load};
use super::serve::Backend;
use super::{ShareInfo, TunnelError, TunnelStatus, unix_now};

/// What a share asks of the relay.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) name: Name,
    pub(super) mode: ShareMode,
    /// The life the user asked for, from the first claim on.
    pub(super) expires_at: Option<u64>,
    /// How often to try again as long as it was never up.
    pub(super) retries: Option<u32>,
}

/// One share, from the moment it is wanted until it has ended.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) wanted: Wanted,
    pub(super) backend: Backend,
    pub(super) gate: Arc<Gate>,
    status: Mutex<Told>,
    /// The ticket of the last `claimed`.
    ticket: Mutex<Option<Arc<str>>>,
    /// How often it was tried to bring the share up since it was.
    attempts: AtomicU32,
    was_up: AtomicBool,
    /// Whether nobody wants it any more.
    given_up: AtomicBool,
    /// Whether it has ended, in whatever way.
    over: AtomicBool,
}

/// Where a share stands, and how often that was told.
#[derive(Debug)]
struct Told {
    status: Arc<TunnelStatus>,
    times: u64,
}

/// Where a share stands, now and as it changes.
///
/// All shares of a process at one relay wake their followers together: there may be hundreds, and a channel each would take
/// some 400 bytes.
#[derive(Clone, Debug)]
pub struct StatusWatch {
    share: Arc<Share>,
    news: watch::Receiver<()>,
}

impl StatusWatch {
    pub(super) fn new(share: Arc<Share>, roster: &Roster) -> Self {
        Self { share, news: roster.news() }
    }

    /// Returns where the share stands.
    #[must_use]
    pub fn now(&self) -> Arc<TunnelStatus> {
        Arc::clone(&self.share.told().status)
    }

    /// Waits until the share stands as wanted. Cancel-safe.
    ///
    /// # Errors
    /// When nobody is left who could tell.
    pub async fn wait_for(
        &mut self,
        wanted: impl Fn(&TunnelStatus) -> bool,
    ) -> Result<Arc<TunnelStatus>, watch::error::RecvError> {
        loop {
            self.news.mark_unchanged();
            let now = self.now();
            if wanted(&now) {
                return Ok(now);
            }
            self.news.changed().await?;
        }
    }
}

impl Share {
    pub(super) fn new(
        wanted: Wanted,
        backend: Backend,
        gate: Gate,
        ticket: Option<Arc<str>>,
    ) -> Self {
        Self {
            wanted,
            backend,
            gate: Arc::new(gate),
            status: Mutex::new(Told {
                status: Arc::new(TunnelStatus::Connecting { attempt: 1 }),
                times: 1,
            }),
            ticket: Mutex::new(ticket),
            attempts: AtomicU32::new(0),
            was_up: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            over: AtomicBool::new(false),
        }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns where the share stands if that was told since the last time that this was asked with `seen`, which is zero
    /// before.
    pub(super) fn news_since(&self, seen: &mut u64) -> Option<Arc<TunnelStatus>> {
        let told = self.told();
        let before = std::mem::replace(seen, told.times);
        (before != told.times).then(|| Arc::clone(&told.status))
    }

    pub(super) fn ticket(&self) -> Option<Arc<str>> {
        self.ticket.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes that nobody wants the share any more; whoever serves it has to be woken.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Tells whether nothing may be served for it any more.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Tells whether it was tried for the first time.
    pub(super) fn is_tried(&self) -> bool {
        self.attempts.load(Ordering::Relaxed) > 0
    }

    /// Tells whether it was tried as often as it may be without ever coming up.
    fn is_exhausted(&self) -> bool {
        let attempts = self.attempts.load(Ordering::Relaxed);
        let may_end = !self.was_up.load(Ordering::Relaxed);
        may_end && self.wanted.retries.is_some_and(|retries| attempts > retries)
    }

    /// Returns how a share ends that the relay refuses for good: at the end it was given, where that
    /// has come.
    pub(super) fn refused(&self, error: TunnelError) -> TunnelStatus {
        let expired = self.wanted.expires_at.is_some_and(|end| end <= unix_now() + 1);
        match &error {
            TunnelError::Refused { refusal, .. } if expired && refusal.code == code::EXPIRED => {
                came_to_its_end()
            }
            _ => TunnelStatus::Refused(error),
        }
    }
}

fn came_to_its_end() -> TunnelStatus {
    TunnelStatus::Ended("the share came to its end".to_owned())
}

/// All shares that one session after the other serves. Whoever changes what is wanted wakes the
/// session, which compares it with what the relay was told.
#[derive(Debug)]
pub(super) struct Roster {
    shares: Mutex<Vec<Arc<Share>>>,
    wake: Notify,
    /// Changes with the status of any share.
    news: watch::Sender<()>,
    pub(super) load: Arc<Load>,
}

impl Roster {
    pub(super) fn new() -> Self {
        Self {
            shares: Mutex::default(),
            wake: Notify::new(),
            news: watch::Sender::new(()),
            load: Arc::default(),
        }
    }

    fn locked(&self) -> MutexGuard<'_, Vec<Arc<Share>>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, share: Arc<Share>) {
        self.locked().push(share);
        self.wake();
    }

    pub(super) fn all(&self) -> Vec<Arc<Share>> {
        self.locked().clone()
    }

    pub(super) fn len(&self) -> usize {
        self.locked().len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.locked().is_empty()
    }

    /// Tells whoever serves the shares that something about them has changed.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Waits for that. Cancel-safe; for one task at a time.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    pub(super) fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    fn say(&self, share: &Share, status: TunnelStatus) {
        let mut told = share.told();
        *told = Told { status: Arc::new(status), times: told.times + 1 };
        drop(told);
        self.news.send_replace(());
    }

    /// Tells that it is tried to bring the share up.
    pub(super) fn connecting(&self, share: &Share) {
        let attempt = share.attempts.fetch_add(1, Ordering::Relaxed) + 1;
        self.say(share, TunnelStatus::Connecting { attempt });
    }

    /// Tells that the share is up, and keeps its ticket.
    pub(super) fn up(&self, share: &Share, info: ShareInfo) {
        share.ticket.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&info.ticket);
        share.attempts.store(0, Ordering::Relaxed);
        share.was_up.store(true, Ordering::Relaxed);
        self.say(share, TunnelStatus::Up(info));
    }

    /// Tells that the share is not up, and when it is tried again; gives it up where that was tried
    /// often enough. Attempts are counted here, where they are made: whoever follows the status may
    /// miss some of them.
    pub(super) fn waiting(
        &self,
        share: &Share,
        error: &TunnelError,
        reason: String,
        retry_in: Duration,
    ) {
        use crate::hint::Hint as _;
        let hint = error.hint();
        if share.is_exhausted() {
            return self.end(share, TunnelStatus::GivenUp { reason, hint });
        }
        self.say(share, TunnelStatus::Reconnecting { reason, hint, retry_in });
    }

    /// Ends a share: nobody is admitted to it any more, and what is open is cut.
    pub(super) fn end(&self, share: &Share, status: TunnelStatus) {
        share.over.store(true, Ordering::Relaxed);
        share.gate.set_policy(AccessPolicy::default());
        self.locked().retain(|known| !std::ptr::eq(Arc::as_ptr(known), share));
        self.say(share, status);
    }

    /// Ends a share that nobody wants any more.
    pub(super) fn stopped(&self, share: &Share) {
        self.end(share, TunnelStatus::Ended("stopped".to_owned()));
    }

    /// Ends those that need no relay for it: given up, or at the end that they were given.
    pub(super) fn retire(&self) {
        for share in self.all() {
            if share.is_given_up() {
                self.stopped(&share);
            } else if share.wanted.expires_at.is_some_and(|end| end <= unix_now()) {
                self.end(&share, came_to_its_end());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::share;
    use super::*;

    #[tokio::test]
    async fn what_is_told_is_new_once_to_each_follower_also_when_it_is_the_same() {
        let (roster, share) = (Roster::new(), share("one"));
        let mut seen = 0;
        assert!(share.news_since(&mut seen).is_some(), "the first look");
        assert!(share.news_since(&mut seen).is_none());
        let error = TunnelError::Lost("gone".to_owned());
        for _ in 0..2 {
            roster.waiting(&share, &error, "gone".to_owned(), Duration::ZERO);
            let told = share.news_since(&mut seen).unwrap();
            assert!(
                matches!(&*told, TunnelStatus::Reconnecting { reason, .. } if reason == "gone")
            );
            assert!(share.news_since(&mut seen).is_none());
        }
        assert!(share.news_since(&mut 0).is_some(), "to another follower");
    }

    #[tokio::test]
    async fn who_waits_for_a_share_is_woken_by_what_is_told_of_it_and_by_the_end_of_all() {
        let (roster, one, other) = (Roster::new(), share("one"), share("other"));
        let mut follower = StatusWatch::new(Arc::clone(&one), &roster);
        let telling = async {
            tokio::task::yield_now().await;
            roster.stopped(&other);
            tokio::task::yield_now().await;
            roster.stopped(&one);
        };
        let (told, ()) = tokio::join!(follower.wait_for(TunnelStatus::is_over), telling);
        assert!(matches!(&*told.unwrap(), TunnelStatus::Ended(_)));
        drop(roster);
        assert!(follower.wait_for(|_| false).await.is_err());
    }
}
