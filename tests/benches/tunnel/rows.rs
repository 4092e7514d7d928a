//! What a run measures: parts of the tables, and figures beside them.

pub(crate) mod connect;
pub(crate) mod distance;
pub(crate) mod handshakes;
pub(crate) mod idle;
pub(crate) mod soak;

use std::time::Duration;

use anyhow::Context as _;

/// How long all rest until what was begun is done.
const SHORT_REST: Duration = Duration::from_secs(3);

/// One part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    /// The tunnel beside its peers, without TLS.
    Tunnel,
    /// A share whose answers the agent makes itself.
    InProcess,
    /// The tunnel and rathole with TLS.
    Tls,
    /// How long it takes from the start of an agent to the first answer.
    Connect,
    /// One bulk stream between a relay and an agent far away.
    Rtt,
    /// What shares cost that nobody visits.
    IdleServices,
    /// How many agents a second one relay takes in.
    Handshakes,
    /// Whether memory stays flat under mixed load.
    Soak,
}

impl Row {
    /// All rows, by the names of the command line.
    pub(crate) const ALL: [(Self, &'static str); 8] = [
        (Self::Tunnel, "tunnel"),
        (Self::InProcess, "in-process"),
        (Self::Tls, "tls"),
        (Self::Connect, "connect"),
        (Self::Rtt, "rtt"),
        (Self::IdleServices, "idle-services"),
        (Self::Handshakes, "handshakes"),
        (Self::Soak, "soak"),
    ];

    /// Returns the rows of a run that names none: all but the soak, which is as long as the rest
    /// together.
    pub(crate) fn usual() -> Vec<Self> {
        Self::ALL.into_iter().map(|(row, _)| row).filter(|row| *row != Self::Soak).collect()
    }

    /// Reads names of rows with commas between them.
    ///
    /// # Errors
    /// When there is no row of a name.
    pub(crate) fn parse(list: &str) -> anyhow::Result<Vec<Self>> {
        let find = |name: &str| {
            let found = Self::ALL.iter().find(|(_, known)| *known == name);
            let known = Self::ALL.map(|(_, name)| name).join(", ");
            found.map(|(row, _)| *row).with_context(|| format!("no row {name}; there are {known}"))
        };
        list.split(',').map(find).collect()
    }
}

/// One figure beside the tables, and its budget.
pub(crate) struct Finding {
    /// What was measured, with its unit.
    pub(crate) what: String,
    /// What it is.
    pub(crate) is: f64,
    /// What it must be.
    pub(crate) must: Must,
    /// What else of the same run tells something about it.
    pub(crate) beside: String,
}

/// A budget in the unit of its figure.
#[derive(Clone, Copy)]
pub(crate) enum Must {
    AtMost(f64),
    AtLeast(f64),
    /// Nothing is promised.
    Open,
}

/// Lets all rest for a while.
async fn rest(time: Duration) {
    let mut tick = tokio::time::interval(time);
    tick.tick().await;
    tick.tick().await;
}

/// Raises the limit of open descriptors as far as it goes, for this program and those that it
/// starts, and returns it.
fn room() -> anyhow::Result<usize> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    Ok(limit.maximum.map_or(Ok(usize::MAX), usize::try_from)?)
}
