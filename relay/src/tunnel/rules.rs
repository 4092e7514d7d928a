//! Operators' rules over names, as this node last saw them: they end shares that are up, and hold
//! while the store does not answer.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use mcpm_shared::name::Name;
use mcpm_shared::proto::{Refusal, code};

use super::Tunnels;
use super::share::Share;
use super::table::{Left, Presence};
use crate::store::{NameRule, NameState};

/// How often new rules are looked for: a share that is blocked ends within a second.
const INTERVAL: Duration = Duration::from_millis(500);

/// The rules that are in force. As many as the operator made.
#[derive(Debug, Default)]
pub struct Rules(RwLock<HashMap<Name, NameState>>);

impl Rules {
    /// Tells whether `owner` may have a name, as far as is known here.
    #[must_use]
    pub fn allow(&self, name: &Name, owner: &str, now: u64) -> bool {
        let rules = self.0.read().unwrap_or_else(PoisonError::into_inner);
        rules.get(name).is_none_or(|rule| rule.allows(owner, now))
    }

    /// Tells whether an operator reserved a name for `owner`: then no list keeps it.
    #[must_use]
    pub fn grant(&self, name: &Name, owner: &str) -> bool {
        let rules = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let wanted = |rule: &NameState| match rule {
            NameState::Reserved { owner: wanted } => wanted.as_deref() == Some(owner),
            _ => false,
        };
        rules.get(name).is_some_and(wanted)
    }

    /// Tells whether an operator blocked a name.
    #[must_use]
    pub fn is_blocked(&self, name: &Name) -> bool {
        let rules = self.0.read().unwrap_or_else(PoisonError::into_inner);
        matches!(rules.get(name), Some(NameState::Blocked))
    }

    fn note(&self, rule: &NameRule) {
        let mut rules = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match &rule.state {
            NameState::Open => drop(rules.remove(&rule.name)),
            state => drop(rules.insert(rule.name.clone(), state.clone())),
        }
    }
}

/// Follows the rules that operators make, here or by another process, until dropped.
pub async fn follow(tunnels: &Tunnels) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = 0;
    loop {
        ticks.tick().await;
        // That the store does not answer is said by those who guard it.
        let Ok(rules) = tunnels.store.name_rules(last).await else { continue };
        for rule in rules {
            last = last.max(rule.revision);
            tunnels.rules.note(&rule);
            obey(tunnels, &rule);
        }
    }
}

fn obey(tunnels: &Tunnels, rule: &NameRule) {
    let Some(share) = tunnels.live_share(&rule.name) else { return };
    if rule.state.ends_share_of(&share.facts.owner) {
        let message = format!("the operator of this relay took the name `{}` away", rule.name);
        tunnels.take_down(&share, Refusal::new(code::NAME_RESERVED, message));
        tunnels.debts.audit("share.end", "operator", rule.name.as_str(), "name_rule");
    }
}

impl Tunnels {
    /// Returns the share that serves a name now.
    #[must_use]
    pub fn live_share(&self, name: &Name) -> Option<std::sync::Arc<Share>> {
        match self.table.find(name)?.presence() {
            Presence::Live(share) => Some(share),
            Presence::Elsewhere(_) | Presence::Away { .. } => None,
        }
    }

    /// Ends a share by the operator's will, with everything that is open on it: tells its agent, and
    /// the store later. The agent's session ends with it, because only that resets the streams of an
    /// agent that does not listen; its other shares come back by themselves.
    pub fn take_down(&self, share: &std::sync::Arc<Share>, refusal: Refusal) {
        let facts = &share.facts;
        tracing::info!(share.name = %facts.name, code = %refusal.code, "share taken down");
        self.end_exchanges(share);
        share.session.revoke(facts.id, refusal);
        share.session.scope.cancel();
    }

    /// Ends a share for its visitors: not one byte more goes to them or comes from them.
    pub(super) fn end_exchanges(&self, share: &std::sync::Arc<Share>) {
        let facts = &share.facts;
        share.cut();
        self.table.away(share, false);
        let (name, owner) = (facts.name.clone(), facts.owner.clone());
        self.debts.ended(Left { name, owner, generation: facts.generation });
    }
}
