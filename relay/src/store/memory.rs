//! A store that forgets everything at the end of the process: for tests and embedded relays.

mod nodes;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use mcpm_shared::name::Name;

use self::nodes::Herald;
use super::{
    AuditEvent, AuditFilter, Beat, Claim, ClaimError, DomainRecord, DomainState, Feed, Lease,
    NameRule, NameState, NewNode, NodeRecord, OwnerQuota, SealedRow, Store, StoreError, Tally,
    TokenRecord, Usage,
};
use crate::quota::{Amounts, DAY_SECS};

/// How many audit events are kept: enough to look at, too few to matter.
const MAX_EVENTS: usize = 10_000;

/// A [`Store`] in the memory of the process.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<State>,
    herald: Herald,
}

#[derive(Debug, Default)]
struct State {
    leases: BTreeMap<Name, Lease>,
    nodes: BTreeMap<String, NodeRecord>,
    rules: BTreeMap<Name, NameRule>,
    quotas: BTreeMap<String, OwnerQuota>,
    /// By owner and day.
    usage: BTreeMap<(String, u64), Amounts>,
    domains: BTreeMap<String, DomainRecord>,
    /// With the time of the change.
    sealed: BTreeMap<String, (SealedRow, u64)>,
    /// Who has a turn, until when.
    turns: BTreeMap<String, (String, u64)>,
    /// When the latest window began, and what was counted in it.
    tallies: BTreeMap<String, (u64, u64)>,
    tokens: BTreeMap<String, TokenRecord>,
    events: VecDeque<AuditEvent>,
}

impl MemoryStore {
    /// Makes an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic between two field writes cannot happen: every change is one insert or remove.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl State {
    fn claim(&mut self, claim: Claim) -> Result<Lease, ClaimError> {
        let now = claim.now;
        let rule = self.rules.get(&claim.name).map(|rule| &rule.state);
        if let Some(rule) = rule
            && !rule.allows(&claim.owner, now)
        {
            return Err(super::refused_by(rule, claim.name));
        }
        let reserved = matches!(rule, Some(NameState::Reserved { .. }));
        let held = self.leases.get(&claim.name);
        if let Some(held) = held
            && held.owner != claim.owner
            && !held.owner.is_empty()
            && !reserved
            && (claim.floor_generation == 0 || held.generation > claim.floor_generation)
            && held.ended_at(now).is_none_or(|ended| now < ended.saturating_add(claim.keep_secs))
        {
            return Err(ClaimError::Taken(claim.name));
        }
        let others = self
            .leases
            .values()
            .filter(|lease| lease.owner == claim.owner && lease.name != claim.name)
            .filter(|lease| lease.is_live(now))
            .count();
        let quota = self.quotas.get(&claim.owner).and_then(|quota| quota.max_shares);
        let max = quota.unwrap_or(claim.max_live);
        if others >= max as usize {
            return Err(ClaimError::TooMany { max });
        }
        let last = held.map_or(0, |held| held.generation).max(claim.floor_generation);
        let lease = Lease {
            name: claim.name.clone(),
            owner: claim.owner,
            generation: last + 1,
            node: claim.node,
            mode: claim.mode,
            claimed_at: now,
            held_until: claim.expires_at,
            released_at: None,
        };
        self.leases.insert(claim.name, lease.clone());
        Ok(lease)
    }

    fn restore(&mut self, lease: Lease) -> bool {
        let rule = self.rules.get(&lease.name);
        if rule.is_some_and(|rule| !rule.state.allows(&lease.owner, lease.claimed_at)) {
            return false;
        }
        let mut lease = lease;
        if let Some(held) = self.leases.get(&lease.name) {
            let same = held.owner == lease.owner;
            let newer = held.generation < lease.generation && (same || held.owner.is_empty());
            let renewed = held.generation == lease.generation
                && same
                && held.node == lease.node
                && held.released_at.is_none();
            if !newer && !renewed {
                return false;
            }
            if renewed {
                lease.claimed_at = held.claimed_at;
            }
        }
        self.leases.insert(lease.name.clone(), lease);
        true
    }

    /// Forgets what only tells others that something is gone, but for the latest revisions.
    fn forget_removed(&mut self, before: u64) {
        let last = self.domains.values().map(|record| record.revision).max().unwrap_or(0);
        self.domains.retain(|_, record| {
            let gone = record.state == DomainState::Removed && record.changed_at < before;
            !gone || record.revision == last
        });
        let last = self.sealed.values().map(|(row, _)| row.revision).max().unwrap_or(0);
        self.sealed.retain(|_, (row, changed_at)| {
            !row.sealed.is_empty() || *changed_at >= before || row.revision == last
        });
        self.turns.retain(|_, (_, ends_at)| *ends_at >= before);
    }

    fn live(&mut self, name: &Name, generation: u64, now: u64) -> Option<&mut Lease> {
        self.leases
            .get_mut(name)
            .filter(|lease| lease.generation == generation && lease.is_live(now))
    }
}

fn used(owner: &str, day: u64, amounts: Amounts) -> Usage {
    Usage { day, owner: owner.to_owned(), amounts }
}

#[async_trait]
impl Store for MemoryStore {
    async fn claim(&self, claim: Claim) -> Result<Lease, ClaimError> {
        let lease = self.state().claim(claim)?;
        self.herald.tell_of(&lease);
        Ok(lease)
    }

    async fn restore(&self, lease: Lease) -> Result<bool, StoreError> {
        let restored = self.state().restore(lease.clone());
        if restored {
            self.herald.tell_of(&lease);
        }
        Ok(restored)
    }

    async fn renew(
        &self,
        name: &Name,
        generation: u64,
        now: u64,
        expires_at: Option<u64>,
    ) -> Result<bool, StoreError> {
        let mut state = self.state();
        let lease = state.live(name, generation, now);
        Ok(lease.map(|lease| lease.held_until = expires_at).is_some())
    }

    async fn release(
        &self,
        name: &Name,
        owner: &str,
        generation: u64,
        now: u64,
    ) -> Result<bool, StoreError> {
        let mut state = self.state();
        let lease = state.live(name, generation, now).filter(|lease| lease.owner == owner);
        let released = lease.map(|lease| {
            lease.released_at = Some(now);
            self.herald.tell_of(lease);
        });
        Ok(released.is_some())
    }

    async fn release_node(&self, node: &str, now: u64) -> Result<u64, StoreError> {
        let released = self.state().release_all(|lease| lease.node == node, now);
        released.iter().for_each(|lease| self.herald.tell_of(lease));
        Ok(released.len() as u64)
    }

    async fn enter_node(&self, node: NewNode) -> Result<u64, StoreError> {
        Ok(self.enter(node))
    }

    async fn beat_node(
        &self,
        id: &str,
        generation: u64,
        draining: bool,
        now: u64,
    ) -> Result<Beat, StoreError> {
        Ok(self.beat(id, generation, draining, now))
    }

    async fn lose_node(
        &self,
        id: &str,
        generation: u64,
        beats: Option<u64>,
    ) -> Result<bool, StoreError> {
        Ok(self.lose(id, generation, beats))
    }

    async fn release_orphans(&self, now: u64) -> Result<u64, StoreError> {
        Ok(self.free_orphans(now))
    }

    async fn feed(&self) -> Result<Option<Box<dyn Feed>>, StoreError> {
        Ok(Some(Box::new(self.herald.listen())))
    }

    async fn lease(&self, name: &Name) -> Result<Option<Lease>, StoreError> {
        Ok(self.state().leases.get(name).cloned())
    }

    async fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        Ok(self.state().leases.values().cloned().collect())
    }

    async fn live_names(&self, owner: &str, now: u64) -> Result<u64, StoreError> {
        let state = self.state();
        let live = state.leases.values().filter(|lease| lease.owner == owner && lease.is_live(now));
        Ok(live.count() as u64)
    }

    async fn vacate(&self, name: &Name, now: u64) -> Result<Option<String>, StoreError> {
        let mut state = self.state();
        let lease = state.leases.get_mut(name).filter(|lease| !lease.owner.is_empty());
        Ok(lease.map(|lease| {
            lease.released_at.get_or_insert(now);
            self.herald.tell_of(lease);
            std::mem::take(&mut lease.owner)
        }))
    }

    async fn set_name_rule(&self, rule: NameRule) -> Result<(), StoreError> {
        let mut state = self.state();
        let last = state.rules.values().map(|rule| rule.revision).max().unwrap_or(0);
        state.rules.insert(rule.name.clone(), NameRule { revision: last + 1, ..rule });
        Ok(())
    }

    async fn name_rule(&self, name: &Name) -> Result<Option<NameRule>, StoreError> {
        Ok(self.state().rules.get(name).cloned())
    }

    async fn name_rules(&self, after: u64) -> Result<Vec<NameRule>, StoreError> {
        let state = self.state();
        let rules = state.rules.values().filter(|rule| rule.revision > after);
        let mut rules: Vec<_> = rules.cloned().collect();
        rules.sort_by_key(|rule| rule.revision);
        Ok(rules)
    }

    async fn set_owner_quota(&self, quota: OwnerQuota) -> Result<(), StoreError> {
        let mut state = self.state();
        let last = state.quotas.values().map(|quota| quota.revision).max().unwrap_or(0);
        state.quotas.insert(quota.owner.clone(), OwnerQuota { revision: last + 1, ..quota });
        Ok(())
    }

    async fn owner_quota(&self, owner: &str) -> Result<Option<OwnerQuota>, StoreError> {
        Ok(self.state().quotas.get(owner).cloned())
    }

    async fn owner_quotas_after(&self, revision: u64) -> Result<Vec<OwnerQuota>, StoreError> {
        let state = self.state();
        let later = state.quotas.values().filter(|quota| quota.revision > revision);
        let mut later: Vec<_> = later.cloned().collect();
        later.sort_by_key(|quota| quota.revision);
        Ok(later)
    }

    async fn add_usage(&self, used: Vec<Usage>) -> Result<Vec<Usage>, StoreError> {
        let mut state = self.state();
        let add = |Usage { day, owner, amounts }| {
            let sum = state.usage.entry((owner.clone(), day)).or_default();
            *sum = sum.plus(amounts);
            Usage { day, owner, amounts: *sum }
        };
        Ok(used.into_iter().map(add).collect())
    }

    async fn usage(&self, day: u64, limit: u32) -> Result<Vec<Usage>, StoreError> {
        let state = self.state();
        let of_day = state.usage.iter().filter(|((_, of), _)| *of == day);
        let mut used: Vec<Usage> =
            of_day.map(|((owner, day), amounts)| used(owner, *day, *amounts)).collect();
        used.sort_by_key(|used| std::cmp::Reverse(used.amounts.requests));
        used.truncate(limit as usize);
        Ok(used)
    }

    async fn usage_of(&self, owner: &str, since_day: u64) -> Result<Vec<Usage>, StoreError> {
        let state = self.state();
        let days = state.usage.range((owner.to_owned(), since_day)..);
        let own = days.take_while(|((of, _), _)| of == owner);
        Ok(own.map(|((owner, day), amounts)| used(owner, *day, *amounts)).collect())
    }

    async fn owner_quotas(&self) -> Result<Vec<OwnerQuota>, StoreError> {
        Ok(self.state().quotas.values().cloned().collect())
    }

    async fn set_domain(&self, record: DomainRecord, seen: u64) -> Result<bool, StoreError> {
        let mut state = self.state();
        let held = state.domains.get(record.domain.as_str()).map_or(0, |held| held.revision);
        if held != seen {
            return Ok(false);
        }
        let last = state.domains.values().map(|held| held.revision).max().unwrap_or(0);
        let record = DomainRecord { revision: last + 1, ..record };
        state.domains.insert(record.domain.as_str().to_owned(), record);
        Ok(true)
    }

    async fn domain(&self, domain: &str) -> Result<Option<DomainRecord>, StoreError> {
        Ok(self.state().domains.get(domain).cloned())
    }

    async fn domains(&self, after: u64) -> Result<Vec<DomainRecord>, StoreError> {
        let state = self.state();
        let found = state.domains.values().filter(|record| record.revision > after);
        let mut found: Vec<_> = found.cloned().collect();
        found.sort_by_key(|record| record.revision);
        Ok(found)
    }

    async fn keep_sealed(&self, name: &str, sealed: &str, now: u64) -> Result<(), StoreError> {
        let mut state = self.state();
        let last = state.sealed.values().map(|(row, _)| row.revision).max().unwrap_or(0);
        let (name, sealed) = (name.to_owned(), sealed.to_owned());
        let row = SealedRow { name: name.clone(), sealed, revision: last + 1 };
        state.sealed.insert(name, (row, now));
        Ok(())
    }

    async fn sealed(&self, name: &str) -> Result<Option<SealedRow>, StoreError> {
        let state = self.state();
        let row = state.sealed.get(name).map(|(row, _)| row);
        Ok(row.filter(|row| !row.sealed.is_empty()).cloned())
    }

    async fn sealed_after(&self, revision: u64) -> Result<Vec<SealedRow>, StoreError> {
        let state = self.state();
        let found = state.sealed.values().map(|(row, _)| row).filter(|row| row.revision > revision);
        let mut found: Vec<_> = found.cloned().collect();
        found.sort_by_key(|row| row.revision);
        Ok(found)
    }

    async fn take_turn(
        &self,
        what: &str,
        holder: &str,
        now: u64,
        ends_at: u64,
    ) -> Result<bool, StoreError> {
        let mut state = self.state();
        let held = state.turns.get(what);
        if held.is_some_and(|(whose, until)| whose != holder && now < *until) {
            return Ok(false);
        }
        state.turns.insert(what.to_owned(), (holder.to_owned(), ends_at));
        Ok(true)
    }

    async fn end_turn(&self, what: &str, holder: &str) -> Result<(), StoreError> {
        let mut state = self.state();
        if state.turns.get(what).is_some_and(|(whose, _)| whose == holder) {
            state.turns.remove(what);
        }
        Ok(())
    }

    async fn count(&self, tally: Tally) -> Result<bool, StoreError> {
        let mut state = self.state();
        let (began, counted) = state.tallies.get(&tally.what).copied().unwrap_or_default();
        let (began, counted) =
            if began < tally.began { (tally.began, 0) } else { (began, counted) };
        let room = counted < tally.limit;
        if room {
            state.tallies.insert(tally.what, (began, counted + 1));
        }
        Ok(room)
    }

    async fn take_back(&self, what: &str, began: u64) -> Result<(), StoreError> {
        if let Some((latest, counted)) = self.state().tallies.get_mut(what)
            && *latest == began
        {
            *counted = counted.saturating_sub(1);
        }
        Ok(())
    }

    async fn forget_tallies(&self, before: u64) -> Result<u64, StoreError> {
        let mut state = self.state();
        let all = state.tallies.len();
        state.tallies.retain(|_, (began, _)| *began >= before);
        Ok((all - state.tallies.len()) as u64)
    }

    async fn insert_token(&self, token: TokenRecord) -> Result<(), StoreError> {
        let mut state = self.state();
        if state.tokens.contains_key(&token.jti) {
            return Err(StoreError::new("keep a token", "its id is in use"));
        }
        state.tokens.insert(token.jti.clone(), token);
        Ok(())
    }

    async fn token(&self, jti: &str) -> Result<Option<TokenRecord>, StoreError> {
        Ok(self.state().tokens.get(jti).cloned())
    }

    async fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        let mut tokens: Vec<_> = self.state().tokens.values().cloned().collect();
        tokens.sort_by_key(|token| token.issued_at);
        Ok(tokens)
    }

    async fn revoke_token(&self, jti: &str, now: u64) -> Result<bool, StoreError> {
        let mut state = self.state();
        let token = state.tokens.get_mut(jti);
        Ok(token.map(|token| token.revoked_at.get_or_insert(now)).is_some())
    }

    async fn revoked(&self, now: u64) -> Result<Vec<String>, StoreError> {
        let state = self.state();
        let revoked = state
            .tokens
            .values()
            .filter(|token| token.revoked_at.is_some() && now < token.expires_at);
        Ok(revoked.map(|token| token.jti.clone()).collect())
    }

    async fn audit(&self, event: AuditEvent) -> Result<(), StoreError> {
        let mut state = self.state();
        if state.events.len() == MAX_EVENTS {
            state.events.pop_front();
        }
        state.events.push_back(event);
        Ok(())
    }

    async fn audit_events(&self, filter: AuditFilter) -> Result<Vec<AuditEvent>, StoreError> {
        let state = self.state();
        let asked = state.events.iter().rev().filter(|event| filter.lets_pass(event));
        Ok(asked.take(filter.limit as usize).cloned().collect())
    }

    async fn prune(&self, before: u64) -> Result<u64, StoreError> {
        let mut state = self.state();
        let count = |state: &State| state.leases.len() + state.tokens.len() + state.events.len();
        let old = count(&state);
        state.forget_removed(before);
        state.leases.retain(|_, lease| lease.ended_at(before).is_none_or(|ended| ended >= before));
        state.tokens.retain(|_, token| token.expires_at >= before);
        state.events.retain(|event| event.at >= before);
        state.usage.retain(|(_, day), _| *day >= before / DAY_SECS);
        Ok((old - count(&state)) as u64)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_memory_store_keeps_the_contract() {
        super::super::contract::check(|| async { MemoryStore::new() }).await;
    }
}
