//! What owners used, and what of the audit trail is asked for.

use serde::Serialize;

use super::AuditEvent;
use crate::quota::Amounts;

/// What one owner used in one day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Days since 1970-01-01, in UTC.
    pub day: u64,
    /// The owner: see [`crate::admission::Owner`].
    pub owner: String,
    /// How much.
    #[serde(flatten)]
    pub amounts: Amounts,
}

/// Which events of the audit trail are asked for: those to which everything applies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// How many of the newest at most.
    pub limit: u32,
    /// From this time on, in Unix seconds.
    pub since: Option<u64>,
    /// Before this time, in Unix seconds.
    pub until: Option<u64>,
    /// What was done: `name.claim`, or `name` for all that begins with `name.`.
    pub action: Option<String>,
    /// Who did it.
    pub actor: Option<String>,
    /// To what.
    pub object: Option<String>,
}

impl AuditFilter {
    /// Asks for the newest events, whatever they say.
    #[must_use]
    pub fn newest(limit: u32) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Tells whether the filter lets an event pass, leaving aside how many.
    #[must_use]
    pub fn lets_pass(&self, event: &AuditEvent) -> bool {
        let Self { limit: _, since, until, action, actor, object } = self;
        let is_of = |action: &String| {
            let rest = event.action.strip_prefix(action.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        since.is_none_or(|since| event.at >= since)
            && until.is_none_or(|until| event.at < until)
            && action.as_ref().is_none_or(is_of)
            && actor.as_ref().is_none_or(|actor| *actor == event.actor)
            && object.as_ref().is_none_or(|object| *object == event.object)
    }
}
