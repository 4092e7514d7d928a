//! A store that forgets everything at the end of the process: for tests and embedded relays.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use mcpm_shared::name::Name;

use super::{
    AuditEvent, Claim, ClaimError, Lease, NameRule, NameState, OwnerQuota, Store, StoreError,
    TokenRecord,
};

/// How many audit events are kept: enough to look at, too few to matter.
const MAX_EVENTS: usize = 10_000;

/// A [`Store`] in the memory of the process.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    leases: BTreeMap<Name, Lease>,
    rules: BTreeMap<Name, NameRule>,
    quotas: BTreeMap<String, OwnerQuota>,
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

    fn live(&mut self, name: &Name, generation: u64, now: u64) -> Option<&mut Lease> {
        self.leases
            .get_mut(name)
            .filter(|lease| lease.generation == generation && lease.is_live(now))
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn claim(&self, claim: Claim) -> Result<Lease, ClaimError> {
        self.state().claim(claim)
    }

    async fn restore(&self, lease: Lease) -> Result<bool, StoreError> {
        Ok(self.state().restore(lease))
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
        Ok(lease.map(|lease| lease.released_at = Some(now)).is_some())
    }

    async fn release_node(&self, node: &str, now: u64) -> Result<u64, StoreError> {
        let mut released = 0;
        for lease in self.state().leases.values_mut() {
            if lease.node == node && lease.is_live(now) {
                lease.released_at = Some(now);
                released += 1;
            }
        }
        Ok(released)
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
        self.state().quotas.insert(quota.owner.clone(), quota);
        Ok(())
    }

    async fn owner_quotas(&self) -> Result<Vec<OwnerQuota>, StoreError> {
        Ok(self.state().quotas.values().cloned().collect())
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

    async fn audit_trail(&self, limit: u32) -> Result<Vec<AuditEvent>, StoreError> {
        Ok(self.state().events.iter().rev().take(limit as usize).cloned().collect())
    }

    async fn prune(&self, before: u64) -> Result<u64, StoreError> {
        let mut state = self.state();
        let count = |state: &State| state.leases.len() + state.tokens.len() + state.events.len();
        let old = count(&state);
        state.leases.retain(|_, lease| lease.ended_at(before).is_none_or(|ended| ended >= before));
        state.tokens.retain(|_, token| token.expires_at >= before);
        state.events.retain(|event| event.at >= before);
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
