//! Where each share stands in one session: what was asked of the relay for it, what the relay said,
//! and what is to be said next. It compares what is wanted with what the relay was told, so that no
//! change can be lost, and does no I/O.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use mcpm_shared::access::AccessPolicy;
use mcpm_shared::proto::control::{
    AgentMessage, Claim, Claimed, Refused, Release, Revoked, Update,
};
use mcpm_shared::proto::{CLAIM_TIMEOUT, Refusal};
use tokio::time::Instant;

use super::super::renewal::Renewal;
use super::super::share::{Roster, Share};
use super::super::table::Table;
use super::super::{ShareInfo, TunnelError, unix_now, with_causes};
use crate::backoff::{Backoff, system_random};

/// How many claims may wait for their answers: the relay has so many of them decided one after the
/// other, and neither side has more than it reads.
const WINDOW: usize = 32;
/// How long a relay's wish to be left alone counts at most.
pub(in crate::tunnel) const MAX_REST: Duration = Duration::from_secs(60);

/// The shares of one session.
pub(super) struct Claims<'a> {
    roster: &'a Roster,
    table: Arc<Table>,
    /// The relay's origin, for people.
    relay: Arc<str>,
    standings: Vec<Standing>,
    next_request: u32,
    /// Since when a share was up.
    up_since: Option<Instant>,
    /// Why the last share that waits was refused.
    refused: Option<TunnelError>,
    /// When it was looked last whether there is something to say.
    looked: Instant,
}

/// The waiting times of one share.
type Waits = Backoff<fn() -> f64>;

/// One share and where it stands.
struct Standing {
    share: Arc<Share>,
    /// The policy that the relay was told.
    told: Arc<AccessPolicy>,
    state: State,
    /// The waiting times of a share that was refused.
    backoff: Option<Box<Waits>>,
}

enum State {
    /// To be claimed then.
    Wanted(Instant),
    /// Claimed by this request; to be answered until then.
    Asked(u32, Instant),
    /// The relay serves it.
    Up(Up),
    /// Given up, which the relay was told. Streams may still name it.
    Released(u32),
}

struct Up {
    id: u32,
    renewal: Option<Box<Renewal>>,
    renew_at: Option<Instant>,
}

/// What a refusal means for the session.
pub(super) enum Verdict {
    /// It is about the one share alone.
    OfShare,
    /// The session may not go on: it needs another credential.
    OfSession(TunnelError),
}

impl<'a> Claims<'a> {
    pub(super) fn new(roster: &'a Roster, table: Arc<Table>, relay: &str) -> Self {
        Self {
            roster,
            table,
            relay: relay.into(),
            standings: Vec::new(),
            next_request: 0,
            up_since: None,
            refused: None,
            looked: Instant::now(),
        }
    }

    /// Returns since when a share was up, if one was.
    pub(super) fn up_since(&self) -> Option<Instant> {
        self.up_since
    }

    /// Returns what the relay is to be told next, if anything.
    pub(super) fn next_message(&mut self) -> Option<AgentMessage> {
        self.meet();
        let now = Instant::now();
        self.looked = now;
        let asked = self.standings.iter().filter(|s| matches!(s.state, State::Asked(..))).count();
        let (roster, request) = (self.roster, self.next_request);
        let message = self.standings.iter_mut().find_map(|standing| {
            if asked < WINDOW && standing.is_due(now) {
                return Some(standing.claim(request, now, roster));
            }
            standing.next_message(request)
        });
        if message.is_some() {
            self.next_request = request.wrapping_add(1);
        }
        message
    }

    /// Takes up shares that came, and lets go of those that are given up.
    fn meet(&mut self) {
        let (roster, table) = (self.roster, &self.table);
        self.standings.retain(|Standing { share, state, .. }| {
            match state {
                State::Wanted(_) if share.is_given_up() => roster.stopped(share),
                State::Released(id) => {
                    roster.stopped(share);
                    table.remove(*id);
                }
                _ => {}
            }
            !share.is_over()
        });
        // All that are known here are on the roster.
        if self.standings.len() == roster.len() {
            return;
        }
        for share in roster.all() {
            if !self.standings.iter().any(|known| Arc::ptr_eq(&known.share, &share)) {
                let (told, state) = (share.gate.policy(), State::Wanted(Instant::now()));
                self.standings.push(Standing { share, told, state, backoff: None });
            }
        }
    }

    /// Tells whether nothing is left to share.
    pub(super) fn is_empty(&self) -> bool {
        // One that is given up while it is asked for is not worth a wait, unless others are.
        let leaving = |s: &Standing| matches!(s.state, State::Asked(..)) && s.share.is_given_up();
        self.standings.iter().all(leaving)
    }

    /// Returns why the session has no use now: each of its shares was refused, and waits.
    pub(super) fn idle(&self) -> Option<TunnelError> {
        let waits = |s: &Standing| matches!(s.state, State::Wanted(at) if at > self.looked);
        let idle = !self.standings.is_empty() && self.standings.iter().all(waits);
        self.refused.clone().filter(|_| idle)
    }

    /// Returns when to look again, if nothing happens before.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let deadlines = self.standings.iter().filter_map(|standing| match &standing.state {
            // One that is due already waits for the answers to others.
            State::Wanted(at) => Some(*at).filter(|at| *at > self.looked),
            State::Asked(_, until) => Some(*until),
            State::Up(up) => up.renew_at,
            State::Released(_) => None,
        });
        deadlines.min()
    }

    /// Returns the error of a relay that left a claim without an answer.
    pub(super) fn overdue(&self) -> Option<TunnelError> {
        let now = Instant::now();
        let late = |s: &Standing| matches!(s.state, State::Asked(_, until) if until <= now);
        let late = self.standings.iter().any(late);
        late.then(|| TunnelError::Timeout { relay: self.relay.to_string() })
    }

    /// Takes a share that the relay gave.
    pub(super) fn claimed(&mut self, claimed: &Claimed) {
        let asked = self.standings.iter_mut().find(
            |standing| matches!(standing.state, State::Asked(request, _) if request == claimed.request),
        );
        let Some(standing) = asked else {
            return tracing::warn!(share.name = %claimed.name, "the relay gave what nobody asked for");
        };
        let share = &standing.share;
        self.table.add(claimed.share, claimed.generation, Arc::clone(share));
        let now = unix_now();
        let ends = claimed.expires_at;
        let renewal = ends.and_then(|ends| Renewal::plan(ends, share.wanted.expires_at, now));
        let wait = renewal.as_ref().and_then(|renewal| renewal.wait(now));
        let mut up = Up { id: claimed.share, renewal: renewal.map(Box::new), renew_at: None };
        up.renew_in(wait);
        standing.state = State::Up(up);
        standing.backoff = None;
        self.up_since.get_or_insert_with(Instant::now);
        self.roster.up(share, info(claimed, share, &self.relay));
    }

    /// Takes the refusal of a claim or of a change.
    pub(super) fn refused(
        &mut self,
        answer: Refused,
        of_session: impl Fn(&TunnelError) -> bool,
    ) -> Verdict {
        let is_asked =
            |s: &Standing| matches!(s.state, State::Asked(request, _) if request == answer.request);
        if let Some(at) = self.standings.iter().position(is_asked) {
            return self.refuse(at, answer.refusal, of_session);
        }
        tracing::warn!(code = %answer.refusal.code, "the relay refused a change");
        for standing in &mut self.standings {
            if let State::Up(up) = &mut standing.state {
                up.refused(&answer);
            }
        }
        Verdict::OfShare
    }

    /// Takes the end of a share at the relay.
    pub(super) fn revoked(
        &mut self,
        revoked: Revoked,
        of_session: impl Fn(&TunnelError) -> bool,
    ) -> Verdict {
        let is_it = |s: &Standing| matches!(&s.state, State::Up(up) if up.id == revoked.share);
        let Some(at) = self.standings.iter().position(is_it) else { return Verdict::OfShare };
        self.table.remove(revoked.share);
        self.refuse(at, revoked.refusal, of_session)
    }

    /// Ends a share that is refused for good, and has any other wait.
    fn refuse(
        &mut self,
        at: usize,
        refusal: Refusal,
        of_session: impl Fn(&TunnelError) -> bool,
    ) -> Verdict {
        let error =
            TunnelError::Refused { relay: self.relay.to_string(), refusal: Box::new(refusal) };
        if of_session(&error) {
            return Verdict::OfSession(error);
        }
        if error.is_terminal(true) {
            let Standing { share, .. } = self.standings.swap_remove(at);
            self.roster.end(&share, share.refused(error));
            return Verdict::OfShare;
        }
        let Standing { share, state, backoff, .. } = &mut self.standings[at];
        let backoff =
            backoff.get_or_insert_with(|| Box::new(Backoff::new(system_random as fn() -> f64)));
        let asked = error.retry_after().unwrap_or_default().min(MAX_REST);
        let wait = backoff.next().unwrap_or_default().max(asked);
        *state = State::Wanted(Instant::now() + wait);
        let share = Arc::clone(share);
        self.refused = Some(error.clone());
        // Where no other share goes on, whoever keeps the session tells how it goes on.
        if self.idle().is_none() {
            self.roster.waiting(&share, &error, with_causes(&error), wait);
        }
        Verdict::OfShare
    }
}

impl Standing {
    /// Tells whether the share is to be claimed now.
    fn is_due(&self, now: Instant) -> bool {
        matches!(self.state, State::Wanted(at) if at <= now)
    }

    /// Makes the message that asks for the share.
    fn claim(&mut self, request: u32, now: Instant, roster: &Roster) -> AgentMessage {
        let share = &self.share;
        // The first attempt of those that were there before the session is counted with its dialling.
        if self.backoff.is_some() || !share.is_tried() {
            roster.connecting(share);
        }
        self.state = State::Asked(request, now + CLAIM_TIMEOUT);
        self.told = share.gate.policy();
        let left = |at: u64| at.saturating_sub(unix_now());
        AgentMessage::Claim(Claim {
            request,
            name: share.wanted.name.clone(),
            mode: share.wanted.mode,
            access: (*self.told).clone(),
            ticket: share.ticket().map(|ticket| ticket.to_string()),
            expires_in_secs: share.wanted.expires_at.map(left),
        })
    }

    /// Makes the message that tells of a change, or asks for more time.
    fn next_message(&mut self, request: u32) -> Option<AgentMessage> {
        let State::Up(up) = &mut self.state else { return None };
        let share = up.id;
        if self.share.is_given_up() {
            self.state = State::Released(share);
            return Some(AgentMessage::Release(Release { request, share }));
        }
        let policy = self.share.gate.policy();
        // As shared pointers: most are the very same, and need no look inside.
        if policy == self.told {
            return up.renew(request);
        }
        let access = Some((*policy).clone());
        self.told = policy;
        Some(AgentMessage::Update(Update { request, share, access, expires_in_secs: None }))
    }
}

impl Up {
    /// Makes the message that asks for more time, when it is time.
    fn renew(&mut self, request: u32) -> Option<AgentMessage> {
        self.renew_at.take_if(|at| *at <= Instant::now())?;
        let (share, now) = (self.id, unix_now());
        let renewal = self.renewal.as_mut()?;
        let expires_in_secs = Some(renewal.ask(request, now));
        let wait = renewal.wait(now);
        self.renew_in(wait);
        Some(AgentMessage::Update(Update { request, share, access: None, expires_in_secs }))
    }

    fn refused(&mut self, answer: &Refused) {
        let after = answer.refusal.retry_after_secs;
        let refused =
            |renewal: &mut Box<Renewal>| renewal.refused(answer.request, after, unix_now());
        if let Some(wait) = self.renewal.as_mut().and_then(refused) {
            self.renew_in(Some(wait));
        }
    }

    fn renew_in(&mut self, wait: Option<Duration>) {
        self.renew_at = wait.map(|wait| Instant::now() + wait);
    }
}

fn info(claimed: &Claimed, share: &Share, relay: &Arc<str>) -> ShareInfo {
    // One of the two is enough where they are the same, as they nearly always are.
    let wanted = &share.wanted.name;
    let name = if claimed.name == *wanted { wanted } else { &claimed.name };
    ShareInfo {
        name: name.clone(),
        url: claimed.url.clone(),
        generation: claimed.generation,
        ticket: Some(claimed.ticket.as_str().into()),
        expires_at: claimed.expires_at.and_then(NonZeroU64::new),
        relay: Arc::clone(relay),
    }
}
