//! The names under which agents come and go, which whoever visits them knows too.

/// How many agents come and go.
pub const AGENTS: usize = 8;
/// How many names each of them has, one after the other.
pub const NAMES: usize = 4;

/// The name that an agent has when it comes for the `round`th time.
#[must_use]
pub fn name(agent: usize, round: usize) -> String {
    format!("soak-{}-{}", agent % AGENTS, round % NAMES)
}
