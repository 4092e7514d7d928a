//! What the dashboard shows, before it is a page or JSON: tiles, a chart, tables. Both are made of
//! the same, so that a page and its refresh never differ.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::Inner;
use super::history::{Chart, Totals};
use super::tables;
use super::words::{bytes, count, moment, rate, seconds, short, span};
use crate::admin::STORE_TIMEOUT;
use crate::admission::unix_now;
use crate::metrics::Reading;
use crate::nodes::shares::{shares_elsewhere, shares_here, together};
use crate::operator::{self, NameEntry, OwnerEntry};
use crate::store::{AuditEvent, Lease, Store, StoreError};

/// How many events of the audit trail are shown.
const EVENTS: u32 = 20;
/// How old what comes from the database and from other nodes may be: they are asked no more often.
const KEPT_FOR: Duration = Duration::from_secs(5);
/// From when on a certificate's end is near, and from when on nearer.
const SOON: u64 = 21 * 24 * 3600;
const NEXT: u64 = 7 * 24 * 3600;

/// Everything that is shown.
#[derive(Debug, Serialize)]
pub(super) struct View {
    pub(super) domain: String,
    pub(super) node: String,
    pub(super) version: &'static str,
    pub(super) phase: &'static str,
    pub(super) uptime: String,
    pub(super) tiles: Vec<Tile>,
    pub(super) chart: Chart,
    pub(super) tables: Vec<Table>,
}

/// How good a value is, which is its colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Tone {
    #[default]
    Plain,
    Good,
    Warn,
    Bad,
}

impl Tone {
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Good => "good",
            Self::Warn => "warn",
            Self::Bad => "bad",
        }
    }
}

/// One number, large.
#[derive(Debug, Serialize)]
pub(super) struct Tile {
    pub(super) id: &'static str,
    pub(super) label: &'static str,
    pub(super) value: String,
    pub(super) note: String,
    pub(super) tone: Tone,
}

#[derive(Debug, Serialize)]
pub(super) struct Table {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    /// How many there are, or why none is shown.
    pub(super) note: String,
    /// What is said in place of rows.
    pub(super) empty: &'static str,
    pub(super) head: &'static [&'static str],
    pub(super) rows: Vec<Row>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Row {
    pub(super) cells: Vec<Cell>,
    pub(super) actions: Vec<Action>,
}

/// One field. Whatever its text is, it stays text.
#[derive(Debug, Default, Serialize)]
pub(super) struct Cell {
    pub(super) text: String,
    /// The whole text, where `text` is shortened.
    pub(super) title: Option<String>,
    /// An address of the relay's own making.
    pub(super) href: Option<String>,
    pub(super) tone: Tone,
    /// Whether it is a number, which stands to the right.
    pub(super) number: bool,
}

/// What can be done about a row: a button.
#[derive(Debug, Serialize)]
pub(super) struct Action {
    pub(super) label: &'static str,
    /// Where the form goes, relative to the page.
    pub(super) path: String,
    /// What the operator is asked before.
    pub(super) confirm: String,
}

impl Cell {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    pub(super) fn number(text: impl Into<String>) -> Self {
        Self { number: true, ..Self::text(text) }
    }

    pub(super) fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { tone, ..Self::text(text) }
    }

    /// Shortens what is long in the middle; the whole of it is the tooltip.
    pub(super) fn short(text: &str) -> Self {
        let shown = short(text);
        let title = (shown != text).then(|| text.to_owned());
        Self { title, ..Self::text(shown) }
    }
}

/// Something that was found, kept for a few seconds whoever looks.
#[derive(Debug)]
pub(super) struct Kept<T>(Mutex<Last<T>>);

#[derive(Debug)]
struct Last<T> {
    /// `None` inside where nobody answered.
    found: Option<(Instant, Option<Arc<T>>)>,
    /// How often it was forgotten: a look that began before must not bring it back.
    forgotten: u64,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(Mutex::new(Last { found: None, forgotten: 0 }))
    }
}

impl<T> Kept<T> {
    /// Makes the next look ask anew: something was just changed there.
    pub(super) fn forget(&self) {
        let mut last = self.locked();
        last.forgotten += 1;
        last.found = None;
    }

    async fn look(&self, find: impl Future<Output = Option<T>>) -> Option<Arc<T>> {
        let began = {
            let last = self.locked();
            if let Some((at, found)) = &last.found
                && at.elapsed() < KEPT_FOR
            {
                return found.clone();
            }
            last.forgotten
        };
        let found = find.await.map(Arc::new);
        let mut last = self.locked();
        if last.forgotten == began {
            last.found = Some((Instant::now(), found.clone()));
        }
        found
    }

    fn locked(&self) -> MutexGuard<'_, Last<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What came from the database.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) owners: Vec<OwnerEntry>,
    pub(super) names: Vec<NameEntry>,
    pub(super) leases: Vec<Lease>,
    pub(super) events: Vec<AuditEvent>,
}

/// Asks the database for everything; `None` where it does not answer.
async fn stored(store: &dyn Store) -> Option<Content> {
    tokio::time::timeout(STORE_TIMEOUT, content(store)).await.ok()?.ok()
}

async fn content(store: &dyn Store) -> Result<Content, StoreError> {
    let now = unix_now();
    Ok(Content {
        owners: operator::owners(store, now).await?,
        names: operator::names(store, now).await?,
        leases: store.leases().await?,
        events: store.audit_trail(EVENTS).await?,
    })
}

impl Inner {
    /// Looks at everything; `wanted` is part of the names and owners that are looked for.
    pub(super) async fn view(&self, wanted: &str) -> View {
        let stored = self.stored.look(stored(&*self.api.tunnels.store)).await;
        let wanted = wanted.trim().to_ascii_lowercase();
        let (reading, now) = (self.api.tunnels.metrics.read(), unix_now());
        let config = self.api.tunnels.config.load_full();
        let elsewhere = self.elsewhere.look(async {
            let nodes = self.api.nodes.as_ref()?;
            Some(shares_elsewhere(&self.api.tunnels, nodes).await)
        });
        let (here, elsewhere) = (shares_here(&self.api.tunnels), elsewhere.await);
        let (there, short) = match &elsewhere {
            Some(found) => (&*found.shares, found.missing.is_some()),
            None => (&[][..], false),
        };
        let shares = together(here.iter().chain(there));
        let mut shown = vec![tables::shares(shares, short, &wanted, now), self.troubles(&reading)];
        if let Some(stored) = &stored {
            let nodes = self.api.tunnels.nodes.load();
            shown.push(tables::owners(stored, &wanted));
            shown.push(tables::names(stored, &wanted));
            shown.push(tables::nodes(stored, &nodes, (&config.node, self.api.started_at), now));
            shown.push(tables::events(stored));
        }
        View {
            domain: config.domain.to_string(),
            node: config.node.clone(),
            version: env!("CARGO_PKG_VERSION"),
            phase: self.api.phase.borrow().name(),
            uptime: span(now.saturating_sub(self.api.started_at)),
            tiles: self.tiles(&reading, stored.is_some(), now),
            chart: self.history.chart(),
            tables: shown,
        }
    }

    fn tiles(&self, reading: &Reading, database: bool, now: u64) -> Vec<Tile> {
        let gauge = |name: &str| count(reading.sum(name));
        let totals = Totals::of(reading);
        let rates = self.history.rates(totals);
        let per_minute = rates.answers[2] * 60.0;
        let part = match rates.all_answers() {
            0.0 => 0.0,
            all => rates.answers[2] / all * 100.0,
        };
        let tile = |id, label, value: String, note: String| Tile {
            id,
            label,
            value,
            note,
            tone: Tone::Plain,
        };
        vec![
            tile(
                "shares",
                "Shares up",
                gauge("mcpm_relay_shares"),
                format!(
                    "{} agents, {} connections",
                    gauge("mcpm_relay_sessions"),
                    gauge("mcpm_relay_connections")
                ),
            ),
            tile(
                "requests",
                "Requests",
                format!("{}/s", rate(rates.all_answers())),
                format!(
                    "{} open, {} held",
                    gauge("mcpm_relay_requests_in_flight"),
                    gauge("mcpm_relay_held_requests")
                ),
            ),
            Tile {
                tone: match per_minute {
                    0.0 => Tone::Good,
                    _ if part < 5.0 => Tone::Warn,
                    _ => Tone::Bad,
                },
                ..tile(
                    "errors",
                    "Failed (5xx)",
                    format!("{}/min", rate(per_minute)),
                    format!("{part:.1} % of answers"),
                )
            },
            self.latency(reading),
            tile(
                "traffic",
                "To visitors",
                format!("{}/s", bytes(rates.bytes[1])),
                format!("{}/s from them", bytes(rates.bytes[0])),
            ),
            database_tile(database && reading.sum("mcpm_relay_store_up") > 0.0),
            certificate_tile(reading.sum("mcpm_relay_certificate_expiry_seconds"), now),
            tile(
                "process",
                "Memory",
                bytes(reading.sum("process_resident_memory_bytes")),
                format!("{} files and connections", gauge("process_open_fds")),
            ),
        ]
    }

    /// How long all but one of twenty visitors waited for an answer's head, of late.
    fn latency(&self, reading: &Reading) -> Tile {
        let before = self.history.before().unwrap_or_default();
        let bucket = "mcpm_relay_response_duration_seconds_bucket";
        let grown: Vec<(f64, f64)> = reading
            .all(bucket)
            .filter_map(|now| {
                let bound = now.label("le");
                let limit = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
                Some((limit, now.value - before.at(bucket, "le", bound)))
            })
            .collect();
        let all = grown.last().map_or(0.0, |(_, count)| *count);
        let limit = grown.iter().find(|(_, count)| *count >= all * 0.95).map(|(limit, _)| *limit);
        let value = match limit.filter(|_| all > 0.0) {
            None => "–".to_owned(),
            Some(limit) if limit.is_finite() => format!("≤ {}", seconds(limit)),
            Some(_) => "> 10 min".to_owned(),
        };
        let note = format!("95 % of {} answers", count(all));
        Tile { id: "latency", label: "Answered in", value, note, tone: Tone::Plain }
    }
}

fn database_tile(up: bool) -> Tile {
    let (value, note, tone) = match up {
        true => ("up", "answers", Tone::Good),
        false => ("down", "live shares go on", Tone::Bad),
    };
    let (value, note) = (value.to_owned(), note.to_owned());
    Tile { id: "database", label: "Database", value, note, tone }
}

#[expect(clippy::cast_possible_truncation, reason = "a gauge of whole Unix seconds")]
fn certificate_tile(expiry: f64, now: u64) -> Tile {
    let end = expiry.max(0.0) as u64;
    let left = end.saturating_sub(now);
    let (value, note, tone) = match (end, left) {
        (0, _) => ("none".to_owned(), "plain HTTP".to_owned(), Tone::Plain),
        (_, 0) => ("over".to_owned(), format!("since {}", moment(end)), Tone::Bad),
        (_, left) => {
            let tone = match left {
                0..NEXT => Tone::Bad,
                NEXT..SOON => Tone::Warn,
                _ => Tone::Good,
            };
            (span(left), format!("until {}", moment(end)), tone)
        }
    };
    Tile { id: "certificate", label: "Certificate", value, note, tone }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_found_before_it_was_forgotten_does_not_come_back() {
        let kept = Kept::default();
        assert_eq!(kept.look(async { Some(1) }).await.as_deref(), Some(&1));
        assert_eq!(kept.look(async { Some(2) }).await.as_deref(), Some(&1), "it is kept");
        tokio::time::advance(KEPT_FOR).await;
        let slow = kept.look(async {
            kept.forget();
            Some(3)
        });
        assert_eq!(slow.await.as_deref(), Some(&3));
        assert_eq!(kept.look(async { Some(4) }).await.as_deref(), Some(&4));
        // That nobody answered is kept too.
        kept.forget();
        assert_eq!(kept.look(async { None }).await, None);
        assert_eq!(kept.look(async { Some(5) }).await, None);
    }
}
