//! Agents that were turned away, as the audit trail tells of them.
//!
//! Whoever is refused may try again a thousand times a second, from a thousand addresses, and must
//! not fill the database. So what one address is refused for, for one reason, is one row at once and
//! one more at the end of the minute, with how often it went on. Rows of addresses are few in an
//! hour; what goes beyond is one row a minute for each reason.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use super::Tunnels;
use super::session::Session;
use super::share::rate_address;
use crate::admission::{Refused, unix_now};

/// How long refusals are gathered, in seconds.
const WINDOW_SECS: u64 = 60;
/// How many rows there may be for addresses at once, and in how many seconds there is room for one
/// more: 5,760 a day.
const MAX_ROWS: u64 = 256;
const ROW_SECS: u64 = 15;
/// How many rows an address may make of one reason in a minute: the first, and how often it went on.
const ROWS_EACH: u64 = 2;
/// How much of a message is kept: agents choose part of it.
const MAX_MESSAGE: usize = 200;

/// What is done where an agent is turned away at the door, and where it claims too often.
const REFUSE: &str = "agent.refuse";
const LIMIT: &str = "name.refuse";

/// Counts refusals for the audit trail.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<State>);

/// One refusal.
#[derive(Clone, Debug)]
pub struct Refusal<'a> {
    /// Who was refused: an address, or the network of one.
    pub address: IpAddr,
    /// What was refused.
    pub action: &'static str,
    /// Why, as one of few words.
    pub code: &'static str,
    /// Why, in a sentence.
    pub message: &'a str,
}

/// A row of the audit trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What was refused.
    pub action: &'static str,
    /// Who, as `address:ADDRESS` or `address:NETWORK/64`.
    pub actor: String,
    /// Why, in a word.
    pub object: &'static str,
    /// Why, or how often.
    pub detail: String,
}

type Reason = (&'static str, &'static str);

#[derive(Debug, Default)]
struct State {
    /// When the first of those below came.
    since: Option<u64>,
    /// How often each went on after its row.
    seen: HashMap<(IpAddr, Reason), u64>,
    /// What there was no row for.
    others: BTreeMap<Reason, u64>,
    /// For how many rows the last addresses have used up the room, and when that was true.
    used: u64,
    at: u64,
}

impl State {
    /// Takes room for the rows of one more address.
    fn take_room(&mut self, now: u64) -> bool {
        let free = now.saturating_sub(self.at) / ROW_SECS;
        if free > 0 {
            self.used = self.used.saturating_sub(free);
            self.at = now;
        }
        let room = self.used + ROWS_EACH <= MAX_ROWS;
        if room {
            self.used += ROWS_EACH;
        }
        room
    }
}

impl Refusals {
    /// Counts a refusal; returns the row that is to be written now, if any.
    pub fn note(&self, refusal: &Refusal<'_>, now: u64) -> Option<Row> {
        let Refusal { address, action, code, message } = *refusal;
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.since.get_or_insert(now);
        let reason = (action, code);
        if let Some(more) = state.seen.get_mut(&(address, reason)) {
            *more += 1;
            return None;
        }
        if !state.take_room(now) {
            *state.others.entry(reason).or_default() += 1;
            return None;
        }
        state.seen.insert((address, reason), 0);
        let detail = message.chars().filter(|c| !c.is_control()).take(MAX_MESSAGE).collect();
        Some(Row { action, actor: actor(address), object: code, detail })
    }

    /// Returns what went on, once it was gathered for long enough; with `all`, at once.
    pub fn due(&self, now: u64, all: bool) -> Vec<Row> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = state.since.is_some_and(|since| all || now >= since + WINDOW_SECS);
        if !due {
            return Vec::new();
        }
        state.since = None;
        let seen = std::mem::take(&mut state.seen);
        let others = std::mem::take(&mut state.others);
        let went_on = seen.into_iter().filter(|(_, more)| *more > 0);
        let went_on = went_on.map(|((address, (action, object)), more)| {
            let detail = format!("{more} more within a minute");
            Row { action, actor: actor(address), object, detail }
        });
        let others = others.into_iter().map(|((action, object), count)| {
            let detail = format!("{count} from other addresses within a minute");
            Row { action, actor: "address:*".to_owned(), object, detail }
        });
        went_on.chain(others).collect()
    }
}

fn actor(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => format!("address:{v4}"),
        IpAddr::V6(v6) => format!("address:{v6}/64"),
    }
}

impl Tunnels {
    /// Notes that an agent was turned away at the door. That the relay is full or cannot tell is no
    /// decision over the agent.
    pub(super) fn note_refused(&self, peer: IpAddr, code: &'static str, refused: &Refused) {
        if refused.status.is_server_error() {
            return;
        }
        let message = match &refused.owner {
            Some(owner) => format!("{owner}: {}", refused.refusal.message),
            None => refused.refusal.message.clone(),
        };
        self.note_refusal(peer, REFUSE, code, &message);
    }

    /// Notes that an agent claims names too often.
    pub(super) fn note_limited(&self, session: &Session, peer: IpAddr) {
        let message = format!("{}: too many names claimed", session.admitted.owner);
        self.note_refusal(peer, LIMIT, "rate_limited", &message);
    }

    fn note_refusal(&self, peer: IpAddr, action: &'static str, code: &'static str, message: &str) {
        let refusal = Refusal { address: rate_address(peer), action, code, message };
        if let Some(row) = self.refusals.note(&refusal, unix_now()) {
            self.write_row(row);
        }
    }

    /// Tells the audit trail of refusals that went on; called by the janitor.
    pub(super) fn note_refusals(&self, now: u64) {
        self.refusals.due(now, false).into_iter().for_each(|row| self.write_row(row));
    }

    /// Tells the audit trail of all refusals at once: the relay ends.
    pub fn note_last_refusals(&self) {
        self.refusals.due(unix_now(), true).into_iter().for_each(|row| self.write_row(row));
    }

    fn write_row(&self, Row { action, actor, object, detail }: Row) {
        self.debts.audit(action, &actor, object, detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn refusal(n: u32, code: &'static str) -> Refusal<'static> {
        let address = IpAddr::from(n.to_be_bytes());
        Refusal { address, action: REFUSE, code, message: "the secret is wrong" }
    }

    fn text(rows: Vec<Row>) -> Vec<String> {
        let line = |row: Row| format!("{} {} {} {}", row.action, row.actor, row.object, row.detail);
        let mut lines: Vec<_> = rows.into_iter().map(line).collect();
        lines.sort_unstable();
        lines
    }

    #[test]
    fn who_is_refused_again_and_again_is_two_rows_a_minute() {
        let refusals = Refusals::default();
        let (bad, late) = (refusal(1, "bad_credential"), refusal(1, "clock_skew"));
        let first = refusals.note(&bad, NOW).unwrap();
        assert_eq!(
            text(vec![first]),
            ["agent.refuse address:0.0.0.1 bad_credential the secret is wrong"]
        );
        for n in 0..500 {
            assert_eq!(refusals.note(&bad, NOW + n / 10), None);
        }
        assert!(refusals.note(&late, NOW + 50).is_some(), "another reason is another row");
        assert_eq!(refusals.due(NOW + 59, false), []);
        let due = text(refusals.due(NOW + 60, false));
        let expected = "agent.refuse address:0.0.0.1 bad_credential 500 more within a minute";
        assert_eq!(due, [expected]);
        assert_eq!(refusals.due(NOW + 200, false), []);
        assert!(refusals.note(&bad, NOW + 201).is_some(), "a new minute");
    }

    #[test]
    fn a_flood_from_everywhere_fills_neither_memory_nor_the_trail() {
        let (refusals, mut rows) = (Refusals::default(), 0);
        // For an hour, a thousand addresses a minute, each of them twice.
        for minute in 0..60 {
            for n in (0..1000).chain(0..1000) {
                let refusal = refusal(minute * 1000 + n, "bad_credential");
                rows += u64::from(refusals.note(&refusal, NOW + u64::from(minute) * 60).is_some());
            }
            rows += refusals.due(NOW + u64::from(minute) * 60 + 60, false).len() as u64;
            assert!(refusals.0.lock().unwrap().seen.is_empty());
        }
        assert_eq!(rows, MAX_ROWS + 59 * 60 / ROW_SECS + 60, "and one of all others a minute");
        // In the last minute room came back for two addresses.
        let noted = (7_000_000..7_000_003)
            .filter_map(|n| refusals.note(&refusal(n, "replayed"), NOW + 3600));
        assert_eq!(noted.count(), 2);
        let others = refusals.0.lock().unwrap().others.values().sum::<u64>();
        assert_eq!(others, 1);
        // When it is over, there is room again.
        assert!(refusals.note(&refusal(8_000_000, "replayed"), NOW + 7200).is_some());
    }

    #[test]
    fn what_an_agent_says_of_itself_is_cut_and_stays_on_its_line() {
        let refusals = Refusals::default();
        let message = format!("made for `a\nb{}`", "x".repeat(5000));
        let address = "2001:db8::".parse().unwrap();
        let refusal = Refusal { address, action: REFUSE, code: "other", message: &message };
        let row = refusals.note(&refusal, NOW).unwrap();
        assert_eq!(row.actor, "address:2001:db8::/64");
        assert!(
            row.detail.len() == MAX_MESSAGE && row.detail.starts_with("made for `abx"),
            "{row:?}"
        );
    }
}
