//! What one party may use in a day, an hour or at once, as written in settings.

use serde::{Deserialize, Serialize};

use super::values::AuthKind;
use super::{Limits, OPEN_PER_ADDRESS, OPEN_PER_OWNER};
use crate::quota::Allowance;

/// Quotas of parties as written in one place; 0 for no limit.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "bin", derive(clap::Args))]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct QuotasLayer {
    /// New names of one owner in an hour, 0 for no limit [default: 60 with --auth open, else 0]
    #[cfg_attr(
        feature = "bin",
        arg(long, env = "MCPM_RELAY_NAMES_PER_HOUR_PER_OWNER", value_name = "N")
    )]
    pub names_per_hour_per_owner: Option<u64>,

    /// Requests to all shares of one owner in a day (UTC), 0 for no limit
    /// [default: 200000 with --auth open, else 0]
    #[cfg_attr(
        feature = "bin",
        arg(long, env = "MCPM_RELAY_REQUESTS_PER_DAY_PER_OWNER", value_name = "N")
    )]
    pub requests_per_day_per_owner: Option<u64>,

    /// Bytes of bodies to and from all shares of one owner in a day, 0 for no limit
    /// [default: 20 GiB with --auth open, else 0]
    #[cfg_attr(
        feature = "bin",
        arg(long, env = "MCPM_RELAY_BYTES_PER_DAY_PER_OWNER", value_name = "N")
    )]
    pub bytes_per_day_per_owner: Option<u64>,

    /// Requests open at once on all shares of one owner, 0 for no limit
    /// [default: 4096 with --auth open, else 0]
    #[cfg_attr(
        feature = "bin",
        arg(long, env = "MCPM_RELAY_MAX_STREAMS_PER_OWNER", value_name = "N")
    )]
    pub max_streams_per_owner: Option<u64>,

    /// New names claimed from one address in an hour, 0 for no limit
    /// [default: 240 with --auth open, else 0]
    #[cfg_attr(
        feature = "bin",
        arg(long, env = "MCPM_RELAY_NAMES_PER_HOUR_PER_ADDRESS", value_name = "N")
    )]
    pub names_per_hour_per_address: Option<u64>,

    /// Requests of one visitor address in a day, 0 for no limit
    /// [default: 2000000 with --auth open, else 0]
    #[cfg_attr(
        feature = "bin",
        arg(long, env = "MCPM_RELAY_REQUESTS_PER_DAY_PER_ADDRESS", value_name = "N")
    )]
    pub requests_per_day_per_address: Option<u64>,

    /// Bytes of bodies to and from one visitor address in a day, 0 for no limit
    /// [default: 200 GiB with --auth open, else 0]
    #[cfg_attr(
        feature = "bin",
        arg(long, env = "MCPM_RELAY_BYTES_PER_DAY_PER_ADDRESS", value_name = "N")
    )]
    pub bytes_per_day_per_address: Option<u64>,

    /// Requests of one visitor address open at once, 0 for no limit
    /// [default: 8192 with --auth open, else 0]
    #[cfg_attr(
        feature = "bin",
        arg(long, env = "MCPM_RELAY_MAX_STREAMS_PER_ADDRESS", value_name = "N")
    )]
    pub max_streams_per_address: Option<u64>,
}

impl QuotasLayer {
    /// Returns this layer, with what it lacks taken from `lower`.
    #[must_use]
    pub fn or(self, lower: Self) -> Self {
        // Destructured, so that a new field cannot be missed.
        let Self {
            names_per_hour_per_owner,
            requests_per_day_per_owner,
            bytes_per_day_per_owner,
            max_streams_per_owner,
            names_per_hour_per_address,
            requests_per_day_per_address,
            bytes_per_day_per_address,
            max_streams_per_address,
        } = self;
        Self {
            names_per_hour_per_owner: names_per_hour_per_owner.or(lower.names_per_hour_per_owner),
            requests_per_day_per_owner: requests_per_day_per_owner
                .or(lower.requests_per_day_per_owner),
            bytes_per_day_per_owner: bytes_per_day_per_owner.or(lower.bytes_per_day_per_owner),
            max_streams_per_owner: max_streams_per_owner.or(lower.max_streams_per_owner),
            names_per_hour_per_address: names_per_hour_per_address
                .or(lower.names_per_hour_per_address),
            requests_per_day_per_address: requests_per_day_per_address
                .or(lower.requests_per_day_per_address),
            bytes_per_day_per_address: bytes_per_day_per_address
                .or(lower.bytes_per_day_per_address),
            max_streams_per_address: max_streams_per_address.or(lower.max_streams_per_address),
        }
    }

    /// Returns what an owner and what an address may use, where agents show `auth`.
    pub(super) fn resolve(&self, auth: AuthKind) -> (Allowance, Allowance) {
        let (owner, address) = match auth {
            AuthKind::Open => (OPEN_PER_OWNER, OPEN_PER_ADDRESS),
            _ => (Allowance::default(), Allowance::default()),
        };
        let pick = |written: Option<u64>, default: Option<u64>| match written {
            Some(limit) => Some(limit).filter(|limit| *limit > 0),
            None => default,
        };
        let owner = Allowance {
            names_per_hour: pick(self.names_per_hour_per_owner, owner.names_per_hour),
            requests_per_day: pick(self.requests_per_day_per_owner, owner.requests_per_day),
            bytes_per_day: pick(self.bytes_per_day_per_owner, owner.bytes_per_day),
            max_streams: pick(self.max_streams_per_owner, owner.max_streams),
        };
        let address = Allowance {
            names_per_hour: pick(self.names_per_hour_per_address, address.names_per_hour),
            requests_per_day: pick(self.requests_per_day_per_address, address.requests_per_day),
            bytes_per_day: pick(self.bytes_per_day_per_address, address.bytes_per_day),
            max_streams: pick(self.max_streams_per_address, address.max_streams),
        };
        (owner, address)
    }
}

impl From<&Limits> for QuotasLayer {
    fn from(Limits { per_owner, per_address, .. }: &Limits) -> Self {
        let written = |limit: Option<u64>| Some(limit.unwrap_or(0));
        Self {
            names_per_hour_per_owner: written(per_owner.names_per_hour),
            requests_per_day_per_owner: written(per_owner.requests_per_day),
            bytes_per_day_per_owner: written(per_owner.bytes_per_day),
            max_streams_per_owner: written(per_owner.max_streams),
            names_per_hour_per_address: written(per_address.names_per_hour),
            requests_per_day_per_address: written(per_address.requests_per_day),
            bytes_per_day_per_address: written(per_address.bytes_per_day),
            max_streams_per_address: written(per_address.max_streams),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_for_everybody_has_quotas_unless_they_are_lifted() {
        let none = QuotasLayer::default();
        assert_eq!(none.resolve(AuthKind::Open), (OPEN_PER_OWNER, OPEN_PER_ADDRESS));
        assert_eq!(none.resolve(AuthKind::Token), Default::default());
        let lifted = QuotasLayer { requests_per_day_per_owner: Some(0), ..QuotasLayer::default() };
        let (owner, _) = lifted.resolve(AuthKind::Open);
        let rest = Allowance { requests_per_day: None, ..OPEN_PER_OWNER };
        assert_eq!(owner, rest);
    }
}
