//! The tables of the dashboard: what is live here, what failed, and what the database knows.

use std::collections::BTreeMap;

use mcpm_shared::proto::ShareMode;

use super::Inner;
use super::view::{Action, Cell, Content, Row, Table, Tone};
use super::words::{bytes, count, moment, span};
use crate::metrics::Reading;
use crate::nodes::shares::ShareEntry;
use crate::operator::{NameEntry, OwnerEntry};
use crate::store::{AuditEvent, NodeRecord};

/// How many rows a table has at most: more is for `mcpm-relay`'s commands and the API.
const ROWS: usize = 200;

/// The shares that are up; with `short`, those of a node are missing.
pub(super) fn shares(all: Vec<&ShareEntry>, short: bool, wanted: &str, now: u64) -> Table {
    let (all, mut found) = (all.len(), all);
    found.retain(|share| {
        is_wanted(wanted, [share.name.as_str(), share.owner.as_str(), share.node.as_str()])
    });
    found.sort_by_cached_key(|share| {
        (std::cmp::Reverse(share.requests_in_flight), share.name.clone())
    });
    Table {
        id: "shares",
        title: "Shares",
        note: match short {
            true => format!(
                "{}; more on a node that does not answer, and neither does the database",
                how_many(found.len(), all)
            ),
            false => how_many(found.len(), all),
        },
        empty: if short { "No share is known to be up." } else { "No share is up." },
        head: &["Name", "Owner", "Agent", "Node", "Mode", "Requests", "Open", "Ends"],
        rows: found.iter().take(ROWS).map(|share| share_row(share, now)).collect(),
    }
}

fn share_row(share: &ShareEntry, now: u64) -> Row {
    let name = &share.name;
    let mode = match share.mode {
        ShareMode::Mcp => "MCP",
        ShareMode::Http => "HTTP",
    };
    // Of a node that does not answer nobody knows.
    let number = |value: Option<u64>| {
        Cell::number(value.map_or("–".to_owned(), |value| count(value as f64)))
    };
    let ends = share.expires_at.map(|end| span(end.saturating_sub(now)));
    Row {
        cells: vec![
            Cell { href: Some(share.url.clone()), ..Cell::text(name.as_str()) },
            Cell::short(&share.owner),
            Cell::short(share.agent.as_deref().unwrap_or("–")),
            Cell::short(&share.node),
            Cell::text(mode),
            number(share.requests_served),
            number(share.requests_in_flight),
            Cell::text(ends.map_or("–".to_owned(), |ends| format!("in {ends}"))),
        ],
        actions: vec![
            Action {
                label: "Close",
                path: format!("shares/{name}/close"),
                confirm: format!(
                    "Close the share {name}? Its agent is told to stop. It may be shared again."
                ),
            },
            Action {
                label: "Block",
                path: format!("names/{name}/block"),
                confirm: format!(
                    "Block the name {name}? The share ends, and nobody may use the name."
                ),
            },
        ],
    }
}

impl Inner {
    /// What was refused or failed, by the relay's own codes.
    pub(super) fn troubles(&self, reading: &Reading) -> Table {
        let before = self.history.before();
        let groups = [
            ("Request failed", "mcpm_relay_edge_errors_total", "code"),
            ("Agent turned away", "mcpm_relay_refusals_total", "code"),
            ("Claim refused", "mcpm_relay_claims_total", "result"),
        ];
        let mut rows = Vec::new();
        for (what, metric, label) in groups {
            for sample in reading.all(metric).filter(|sample| sample.value > 0.0) {
                let code = sample.label(label);
                if code == "given" {
                    continue;
                }
                let then = before.as_ref().map_or(0.0, |then| then.at(metric, label, code));
                let of_late = (sample.value - then).max(0.0);
                let tone = if of_late > 0.0 { Tone::Warn } else { Tone::Plain };
                rows.push((
                    of_late,
                    sample.value,
                    Row {
                        cells: vec![
                            Cell::text(what),
                            Cell::text(code),
                            Cell { tone, ..Cell::number(count(of_late)) },
                            Cell::number(count(sample.value)),
                        ],
                        actions: Vec::new(),
                    },
                ));
            }
        }
        rows.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1)));
        Table {
            id: "troubles",
            title: "Refused and failed",
            note: String::new(),
            empty: "Nothing was refused and nothing failed since the start.",
            head: &["What", "Code", "Last 10 min", "Since start"],
            rows: rows.into_iter().map(|(.., row)| row).collect(),
        }
    }
}

pub(super) fn owners(stored: &Content, wanted: &str) -> Table {
    let mut owners: Vec<_> =
        stored.owners.iter().filter(|owner| is_wanted(wanted, [&*owner.owner])).collect();
    owners.sort_by_key(|owner| (std::cmp::Reverse(owner.live), owner.owner.clone()));
    let row = |owner: &&OwnerEntry| {
        let state = match owner.blocked_at {
            Some(at) => Cell::toned(format!("blocked {}", moment(at)), Tone::Bad),
            None => Cell::default(),
        };
        let today = owner.today;
        let granted = owner.max_shares.map_or("default".to_owned(), |max| max.to_string());
        Row {
            cells: vec![
                Cell::short(&owner.owner),
                Cell::number(owner.live.to_string()),
                Cell::number(owner.names.to_string()),
                Cell::number(owner.tokens.to_string()),
                Cell::number(count(today.requests as f64)),
                Cell::number(bytes(today.bytes_in as f64 + today.bytes_out as f64)),
                Cell::number(granted),
                state,
            ],
            actions: Vec::new(),
        }
    };
    Table {
        id: "owners",
        title: "Owners",
        note: how_many(owners.len(), stored.owners.len()),
        empty: "Nobody has a name or a token.",
        head: &[
            "Owner",
            "Live",
            "Names",
            "Tokens",
            "Requests today",
            "Bytes today",
            "Shares granted",
            "",
        ],
        rows: owners.iter().take(ROWS).map(row).collect(),
    }
}

/// The names that a rule keeps: live ones are among the shares.
pub(super) fn names(stored: &Content, wanted: &str) -> Table {
    let ruled = stored.names.iter().filter(|name| name.rule.is_some());
    let all = ruled.clone().count();
    let found: Vec<_> = ruled.filter(|name| is_wanted(wanted, [name.name.as_str()])).collect();
    let row = |entry: &&NameEntry| {
        let tone = if entry.state == "blocked" { Tone::Bad } else { Tone::Warn };
        let rule = entry.rule.as_ref();
        Row {
            cells: vec![
                Cell::text(entry.name.as_str()),
                Cell::toned(entry.state, tone),
                Cell::short(entry.lease.as_ref().map_or("–", |lease| &lease.owner)),
                Cell::text(rule.map_or("", |rule| &rule.note)),
                Cell::text(rule.map_or(String::new(), |rule| moment(rule.changed_at))),
            ],
            actions: vec![Action {
                label: "Release",
                path: format!("names/{}/release", entry.name),
                confirm: format!("Release the name {}? Others may claim it then.", entry.name),
            }],
        }
    };
    Table {
        id: "names",
        title: "Names kept by rule",
        note: how_many(found.len(), all),
        empty: "No name is reserved, blocked or cooling off.",
        head: &["Name", "State", "Last owner", "Note", "Since"],
        rows: found.iter().take(ROWS).map(row).collect(),
    }
}

/// The nodes of this relay, and how many live leases each holds.
pub(super) fn nodes(
    stored: &Content,
    known: &[NodeRecord],
    (own, started_at): (&str, u64),
    now: u64,
) -> Table {
    let mut live = BTreeMap::from([(own.to_owned(), 0_u64)]);
    for lease in stored.leases.iter().filter(|lease| lease.is_live(now)) {
        *live.entry(lease.node.clone()).or_default() += 1;
    }
    let known: BTreeMap<&str, &NodeRecord> =
        known.iter().map(|node| (node.id.as_str(), node)).collect();
    for id in known.keys() {
        live.entry((*id).to_owned()).or_default();
    }
    let row = |(id, shares): (&String, &u64)| {
        let state = match (id == own, known.get(id.as_str())) {
            (true, _) => Cell::text("this node"),
            (_, Some(node)) if node.draining => Cell::toned("draining", Tone::Warn),
            (_, Some(_)) => Cell::toned("serving", Tone::Good),
            (_, None) => Cell::toned("gone", Tone::Bad),
        };
        // A relay that is one process has no record of itself.
        let (address, version, started_at) = match known.get(id.as_str()) {
            Some(node) => (&*node.address, &*node.version, Some(node.started_at)),
            None if id == own => ("–", env!("CARGO_PKG_VERSION"), Some(started_at)),
            None => ("–", "–", None),
        };
        let up = started_at.map_or("–".to_owned(), |at| span(now.saturating_sub(at)));
        Row {
            cells: vec![
                Cell::short(id),
                state,
                Cell::number(shares.to_string()),
                Cell::text(address),
                Cell::text(version),
                Cell::text(up),
            ],
            actions: Vec::new(),
        }
    };
    Table {
        id: "nodes",
        title: "Nodes",
        note: String::new(),
        empty: "",
        head: &["Node", "State", "Live shares", "Address", "Version", "Up"],
        rows: live.iter().take(ROWS).map(row).collect(),
    }
}

pub(super) fn events(stored: &Content) -> Table {
    let row = |event: &AuditEvent| Row {
        cells: vec![
            Cell::text(moment(event.at)),
            Cell::text(event.action.as_str()),
            Cell::short(&event.actor),
            Cell::short(&event.object),
            Cell::short(&event.detail),
        ],
        actions: Vec::new(),
    };
    Table {
        id: "events",
        title: "Latest decisions",
        note: String::new(),
        empty: "Nothing was decided yet.",
        head: &["When", "What", "Who", "About", ""],
        rows: stored.events.iter().map(row).collect(),
    }
}

fn is_wanted<const N: usize>(wanted: &str, texts: [&str; N]) -> bool {
    wanted.is_empty() || texts.iter().any(|text| text.to_ascii_lowercase().contains(wanted))
}

/// Says how many of a list are there, and how many of them are shown.
fn how_many(found: usize, all: usize) -> String {
    match (found, all) {
        (found, all) if found > ROWS => format!("first {ROWS} of {found}, {all} in all"),
        (found, all) if found < all => format!("{found} of {all}"),
        (found, _) => found.to_string(),
    }
}
