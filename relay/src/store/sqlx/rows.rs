//! Columns to records and back.

use mcpm_shared::proto::ShareMode;

use crate::store::{
    AuditEvent, DomainRecord, DomainState, Lease, NameRule, NameState, OwnerQuota, SealedRow,
    StoreError, TokenRecord,
};

/// Times and counts beyond the range of the column mean "never" and "no limit" alike.
pub(super) fn to_column(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn from_column(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

pub(super) fn mode_to_column(mode: ShareMode) -> &'static str {
    match mode {
        ShareMode::Mcp => "mcp",
        ShareMode::Http => "http",
    }
}

pub(super) type LeaseRow = (String, String, i64, String, String, i64, Option<i64>, Option<i64>);

pub(super) fn lease(row: LeaseRow) -> Result<Lease, StoreError> {
    let (name, owner, generation, node, mode, claimed_at, held_until, released_at) = row;
    Ok(Lease {
        name: name.parse().map_err(|error| StoreError::new("read a name", error))?,
        owner,
        generation: from_column(generation),
        node,
        mode: if mode == "http" { ShareMode::Http } else { ShareMode::Mcp },
        claimed_at: from_column(claimed_at),
        held_until: held_until.map(from_column),
        released_at: released_at.map(from_column),
    })
}

pub(super) type TokenRow =
    (String, String, String, Option<i64>, Option<String>, i64, i64, Option<i64>);

pub(super) fn token(row: TokenRow) -> TokenRecord {
    let (jti, subject, names, max_shares, bound_to, issued_at, expires_at, revoked_at) = row;
    TokenRecord {
        jti,
        subject,
        names: names.split_whitespace().map(str::to_owned).collect(),
        max_shares: max_shares.map(|max| u32::try_from(max).unwrap_or(u32::MAX)),
        bound_to,
        issued_at: from_column(issued_at),
        expires_at: from_column(expires_at),
        revoked_at: revoked_at.map(from_column),
    }
}

pub(super) type RuleRow = (String, String, Option<String>, Option<i64>, String, i64, i64);

pub(super) fn rule(row: RuleRow) -> Result<NameRule, StoreError> {
    let (name, state, owner, ends_at, note, changed_at, revision) = row;
    let state = match state.as_str() {
        "open" => NameState::Open,
        "reserved" => NameState::Reserved { owner },
        "cooling" => NameState::Cooling { until: ends_at.map_or(u64::MAX, from_column) },
        // Of what a later version may write, nobody gets the name.
        _ => NameState::Blocked,
    };
    Ok(NameRule {
        name: name.parse().map_err(|error| StoreError::new("read a name", error))?,
        state,
        note,
        changed_at: from_column(changed_at),
        revision: from_column(revision),
    })
}

/// Returns the columns `state`, `owner` and `ends_at`.
pub(super) fn state_to_columns(state: &NameState) -> (&'static str, Option<&str>, Option<i64>) {
    match state {
        NameState::Open => ("open", None, None),
        NameState::Reserved { owner } => ("reserved", owner.as_deref(), None),
        NameState::Blocked => ("blocked", None, None),
        NameState::Cooling { until } => ("cooling", None, Some(to_column(*until))),
    }
}

pub(super) type QuotaRow = (
    String,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    String,
    i64,
    i64,
);

pub(super) fn quota(row: QuotaRow) -> OwnerQuota {
    let (owner, shares, names, requests, bytes, streams, blocked_at, note, changed_at, revision) =
        row;
    OwnerQuota {
        owner,
        max_shares: shares.map(|max| u32::try_from(max).unwrap_or(u32::MAX)),
        names_per_hour: names.map(from_column),
        requests_per_day: requests.map(from_column),
        bytes_per_day: bytes.map(from_column),
        max_streams: streams.map(from_column),
        blocked_at: blocked_at.map(from_column),
        note,
        changed_at: from_column(changed_at),
        revision: from_column(revision),
    }
}

/// `domain` to `problem` of the table, then its last two columns.
pub(super) type DomainRow = (
    String,
    String,
    String,
    String,
    String,
    i64,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    String,
    i64,
    i64,
);

pub(super) fn domain(row: DomainRow) -> Result<DomainRecord, StoreError> {
    let (domain, owner, name, token, state, added, checked, proved, failing, problem, at, revision) =
        row;
    Ok(DomainRecord {
        domain: domain.parse().map_err(|error| StoreError::new("read a domain", error))?,
        owner,
        name: name.parse().map_err(|error| StoreError::new("read a name", error))?,
        token,
        state: match state.as_str() {
            "verified" => DomainState::Verified,
            "removed" => DomainState::Removed,
            // What a later version may write is not served.
            _ => DomainState::Pending,
        },
        added_at: from_column(added),
        checked_at: checked.map(from_column),
        proved_at: proved.map(from_column),
        failing_since: failing.map(from_column),
        problem,
        changed_at: from_column(at),
        revision: from_column(revision),
    })
}

pub(super) type SealedColumns = (String, String, i64);

pub(super) fn sealed((name, sealed, revision): SealedColumns) -> SealedRow {
    SealedRow { name, sealed, revision: from_column(revision) }
}

pub(super) type EventRow = (i64, String, String, String, String);

pub(super) fn event((at, action, actor, object, detail): EventRow) -> AuditEvent {
    AuditEvent { at: from_column(at), action, actor, object, detail }
}
