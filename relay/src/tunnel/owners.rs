//! Owners and visitors: what operators decided over owners, and what each uses of the relay.
//!
//! Requests count in memory alone. Every few seconds one write adds what was counted to the store,
//! and brings back what other nodes counted; while the store is away the counts wait here.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use mcpm_shared::proto::{Refusal, code};

use super::Tunnels;
use super::session::Session;
use crate::admission::unix_now;
use crate::config::Limits;
use crate::quota::{Allowance, Amounts, DAY_SECS, Meter, Meters};
use crate::store::{OwnerQuota, StoreError, Usage};

/// How often decisions over owners are looked for: who is blocked is out within a second.
const INTERVAL: Duration = Duration::from_millis(500);
/// How often what was used is written: a relay that dies forgets no more than this.
const WRITE_INTERVAL: Duration = Duration::from_secs(10);
/// How many owners are counted at once, and how many amounts of days that are over wait for a store
/// that is away.
const MAX_OWNERS: usize = 64 * 1024;
const MAX_LATE: usize = 64 * 1024;
/// How many visitors' addresses are counted at once.
const MAX_VISITORS: usize = 256 * 1024;
/// How many owners a relay that starts reads back: those with the most requests.
const READ_BACK: u32 = 64 * 1024;

/// What is known of owners and visitors.
#[derive(Debug)]
pub struct Owners {
    visitors: ArcSwap<Meters<IpAddr>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    default: Allowance,
    /// What operators decided. As many as they made.
    decided: HashMap<String, OwnerQuota>,
    used: HashMap<String, Used>,
    day: u64,
    /// What was used on days that are over, and is not written yet: by day and owner.
    late: HashMap<(u64, String), Amounts>,
}

/// What one owner uses.
#[derive(Debug)]
struct Used {
    meter: Arc<Meter>,
    /// What of it the store knows.
    written: Amounts,
}

impl State {
    fn allowance(&self, owner: &str) -> Allowance {
        self.decided.get(owner).map_or(self.default, |quota| quota.allowance(self.default))
    }

    fn used(&mut self, owner: &str) -> Option<&mut Used> {
        if !self.used.contains_key(owner) {
            if self.used.len() >= MAX_OWNERS {
                self.make_room();
            }
            if self.used.len() >= MAX_OWNERS {
                return None;
            }
            let meter = Arc::new(Meter::new(self.allowance(owner)));
            let used = Used { meter, written: Amounts::default() };
            self.used.insert(owner.to_owned(), used);
        }
        self.used.get_mut(owner)
    }

    /// Forgets owners that share nothing and of whom the store knows everything.
    fn make_room(&mut self) {
        self.used.retain(|_, used| {
            Arc::strong_count(&used.meter) > 1 || used.meter.amounts() != used.written
        });
    }

    fn turn_day(&mut self, day: u64) {
        if self.day == day {
            return;
        }
        let ended = std::mem::replace(&mut self.day, day);
        // What was counted before the first look at a clock is of today.
        if ended == 0 {
            return;
        }
        for (owner, used) in &mut self.used {
            let written = std::mem::take(&mut used.written);
            let left = used.meter.turn_day().minus(written);
            if !left.is_zero() && self.late.len() < MAX_LATE {
                let late = self.late.entry((ended, owner.clone())).or_default();
                *late = late.plus(left);
            }
        }
        self.make_room();
    }
}

impl Owners {
    /// Makes the counts of a relay that starts.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let state = State { default: limits.per_owner, ..State::default() };
        Self { visitors: ArcSwap::from_pointee(visitors(limits)), state: Mutex::new(state) }
    }

    /// Counts by changed settings from now on. Visitors begin anew where theirs have changed.
    pub fn obey(&self, limits: &Limits) {
        if self.visitors.load().allowance() != limits.per_address {
            self.visitors.store(Arc::new(visitors(limits)));
        }
        let mut state = self.locked();
        state.default = limits.per_owner;
        for (owner, used) in &state.used {
            used.meter.allow(state.allowance(owner));
        }
    }

    /// Returns the meter of an owner. One for whom there is no room is not counted.
    #[must_use]
    pub fn meter(&self, owner: &str) -> Arc<Meter> {
        let mut state = self.locked();
        match state.used(owner) {
            Some(used) => Arc::clone(&used.meter),
            None => Arc::new(Meter::new(state.allowance(owner))),
        }
    }

    /// Returns the meter of an address, where addresses are limited.
    #[must_use]
    pub fn visitor(&self, address: IpAddr) -> Option<Arc<Meter>> {
        let visitors = self.visitors.load();
        visitors.allowance().limits_requests().then(|| visitors.meter(&address)).flatten()
    }

    /// Returns how many new names an address may claim in an hour, where these are limited.
    #[must_use]
    pub fn names_per_address(&self) -> Option<u64> {
        self.visitors.load().allowance().names_per_hour
    }

    /// Tells whether an operator shut the owner out.
    #[must_use]
    pub fn is_blocked(&self, owner: &str) -> bool {
        self.locked().decided.get(owner).is_some_and(|quota| quota.blocked_at.is_some())
    }

    /// Takes note of a decision.
    fn note(&self, quota: &OwnerQuota) {
        let mut state = self.locked();
        if quota.is_default() {
            state.decided.remove(&quota.owner);
        } else {
            state.decided.insert(quota.owner.clone(), quota.clone());
        }
        let allowance = state.allowance(&quota.owner);
        if let Some(used) = state.used.get(&quota.owner) {
            used.meter.allow(allowance);
        }
    }

    /// Forgets addresses that use little; called by the janitor.
    pub fn tidy(&self, now: u64) {
        self.visitors.load().tidy(now);
    }

    /// Returns what the store is to be told, in the day of `now`.
    fn due(&self, now: u64) -> Vec<Usage> {
        let mut state = self.locked();
        let day = now / DAY_SECS;
        state.turn_day(day);
        let late = state.late.iter().map(|((day, owner), amounts)| Usage {
            day: *day,
            owner: owner.clone(),
            amounts: *amounts,
        });
        let today = state.used.iter().filter_map(|(owner, used)| {
            let amounts = used.meter.amounts().minus(used.written);
            (!amounts.is_zero()).then(|| Usage { day, owner: owner.clone(), amounts })
        });
        late.chain(today).collect()
    }

    /// Notes that the store was told, and what it knows now.
    fn wrote(&self, told: &[Usage], known: &[Usage]) {
        let mut state = self.locked();
        for Usage { day, owner, amounts } in told {
            if *day == state.day {
                if let Some(used) = state.used.get_mut(owner) {
                    used.written = used.written.plus(*amounts);
                }
            } else {
                state.late.remove(&(*day, owner.clone()));
            }
        }
        let day = state.day;
        for Usage { owner, amounts, .. } in known.iter().filter(|known| known.day == day) {
            if let Some(used) = state.used.get(owner) {
                used.meter.set_elsewhere(amounts.minus(used.written));
            }
        }
    }

    /// Takes up what was used today before this relay started.
    fn read_back(&self, day: u64, known: &[Usage]) {
        let mut state = self.locked();
        state.turn_day(day);
        for Usage { owner, amounts, .. } in known {
            if let Some(used) = state.used(owner) {
                used.meter.set_elsewhere(*amounts);
            }
        }
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn visitors(limits: &Limits) -> Meters<IpAddr> {
    Meters::new(limits.per_address, MAX_VISITORS)
}

/// Reads what was decided and used before; called before anything is served.
///
/// # Errors
/// When the store fails.
pub async fn load(tunnels: &Tunnels) -> Result<(), StoreError> {
    let (owners, store) = (&tunnels.owners, &tunnels.store);
    for quota in store.owner_quotas().await? {
        owners.note(&quota);
    }
    let day = unix_now() / DAY_SECS;
    owners.read_back(day, &store.usage(day, READ_BACK).await?);
    Ok(())
}

/// Follows what operators decide over owners, here or by another process, until dropped.
pub async fn follow(tunnels: &Tunnels) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = 0;
    loop {
        ticks.tick().await;
        // That the store does not answer is said by those who guard it.
        let Ok(quotas) = tunnels.store.owner_quotas_after(last).await else { continue };
        for quota in quotas {
            last = last.max(quota.revision);
            tunnels.owners.note(&quota);
            if quota.blocked_at.is_some() {
                tunnels.shut_out(&quota.owner);
            }
        }
    }
}

/// Writes what was used from time to time, until dropped.
pub async fn keep_usage(tunnels: &Tunnels) {
    let mut ticks = tokio::time::interval(WRITE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        write_usage(tunnels, unix_now()).await;
    }
}

/// Writes what was used and is not written yet. What the store does not take stays for the next
/// time; when a write got there whose answer was lost, some is counted twice.
pub async fn write_usage(tunnels: &Tunnels, now: u64) {
    let due = tunnels.owners.due(now);
    if due.is_empty() {
        return;
    }
    match tunnels.store.add_usage(due.clone()).await {
        Ok(known) => tunnels.owners.wrote(&due, &known),
        Err(error) if error.is_unreachable() => {}
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "usage not written");
        }
    }
}

impl Tunnels {
    /// Returns what a blocked owner's agents are told.
    #[must_use]
    pub fn blocked(&self) -> Refusal {
        let refusal = Refusal::new(code::FORBIDDEN, "the operator of this relay has shut you out");
        match &self.config.load().abuse_contact {
            Some(contact) => refusal.hint(format!("Write to {}", contact.in_words())),
            None => refusal.hint("Ask the relay's operator"),
        }
    }

    /// Ends everything that an owner has open here, at once.
    fn shut_out(&self, owner: &str) {
        let theirs = |session: &Arc<Session>| {
            session.admitted.owner.as_str() == owner && !session.scope.is_cancelled()
        };
        let refusal = self.blocked();
        for session in self.sessions().into_iter().filter(theirs) {
            tracing::info!(agent.id = %session.admitted.subject, "owner shut out");
            for share in session.shares() {
                self.end_exchanges(&share);
            }
            self.debts.audit("session.end", "operator", owner, "owner_blocked");
            session.end(&refusal);
        }
    }
}

#[cfg(test)]
mod tests;
