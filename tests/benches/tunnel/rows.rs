//! What a run measures: parts of the tables, and figures beside them.

pub(crate) mod connect;
pub(crate) mod distance;
pub(crate) mod idle;

use anyhow::Context as _;

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
}

impl Row {
    /// All rows, by the names of the command line.
    pub(crate) const ALL: [(Self, &'static str); 6] = [
        (Self::Tunnel, "tunnel"),
        (Self::InProcess, "in-process"),
        (Self::Tls, "tls"),
        (Self::Connect, "connect"),
        (Self::Rtt, "rtt"),
        (Self::IdleServices, "idle-services"),
    ];

    /// Returns all rows.
    pub(crate) fn all() -> Vec<Self> {
        Self::ALL.into_iter().map(|(row, _)| row).collect()
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
}
