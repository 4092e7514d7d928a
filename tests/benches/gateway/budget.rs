//! Whether the budget is met: what is measured beside what must be, and beside the peers.

use std::fmt::Write as _;

use mcpm_bench::table::{Column, Table, shown};

use crate::contender::row;
use crate::measure::{Http, Stdio};

/// One promise.
struct Promise<C> {
    row: &'static str,
    figure: C,
    bound: Bound,
    /// What it must be, and what it shall be.
    must: f64,
    aim: f64,
    /// What the limit was on the machine where this was written down. The ratio to it holds on
    /// other machines too.
    limit: Option<f64>,
    /// The peers in the same place.
    peers: &'static [&'static str],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bound {
    AtMost,
    AtLeast,
}

use Bound::{AtLeast, AtMost};

const fn promise<C: Copy>(
    row: &'static str,
    figure: C,
    bound: Bound,
    goals: [f64; 2],
) -> Promise<C> {
    Promise { row, figure, bound, must: goals[0], aim: goals[1], limit: None, peers: &[] }
}

impl<C: Copy> Promise<C> {
    const fn beside(self, limit: f64) -> Self {
        let Self { row, figure, bound, must, aim, peers, .. } = self;
        Self { row, figure, bound, must, aim, limit: Some(limit), peers }
    }

    const fn against(self, peers: &'static [&'static str]) -> Self {
        let Self { row, figure, bound, must, aim, limit, .. } = self;
        Self { row, figure, bound, must, aim, limit, peers }
    }
}

/// The peers with one server, and with five.
const ONE: &[&str] = &[row::FASTMCP, row::MCP_PROXY];
const FIVE: &[&str] = &[row::FASTMCP_5];

const STDIO: [Promise<Stdio>; 8] = [
    promise(row::RUN, Stdio::StartCold, AtMost, [15.0, 8.0]).beside(2.4).against(ONE),
    promise(row::RUN, Stdio::StartKnown, AtMost, [15.0, 8.0]).beside(2.4).against(ONE),
    promise(row::PROFILE_20, Stdio::StartKnown, AtMost, [15.0, 8.0]).beside(2.4).against(FIVE),
    promise(row::RUN, Stdio::CallP50, AtMost, [0.16, 0.11]).beside(0.053).against(ONE),
    promise(row::PROFILE_5, Stdio::CallP50, AtMost, [0.18, 0.12]).beside(0.053).against(FIVE),
    promise(row::RUN, Stdio::Requests, AtMost, [1.0, 1.0]).against(ONE),
    promise(row::PROFILE_5, Stdio::Requests, AtMost, [1.0, 1.0]).against(FIVE),
    promise(row::PROFILE_20, Stdio::Requests, AtMost, [1.0, 1.0]),
];

const HTTP: [Promise<Http>; 11] = [
    promise(row::RUN, Http::C1P50, AtMost, [0.30, 0.18]).beside(0.09).against(ONE),
    promise(row::RUN, Http::C1Rate, AtLeast, [3_500.0, 6_000.0]).beside(10_600.0).against(ONE),
    promise(row::RUN, Http::C64Rate, AtLeast, [7_000.0, 11_000.0]).beside(14_000.0).against(ONE),
    promise(row::RUN, Http::C64P99, AtMost, [30.0, 30.0]).against(ONE),
    promise(row::PROFILE_5, Http::C1Rate, AtLeast, [3_000.0, 5_500.0])
        .beside(10_600.0)
        .against(FIVE),
    promise(row::RUN, Http::MegabytesAtStart, AtMost, [12.0, 9.0]).against(ONE),
    promise(row::RUN, Http::MegabytesAfter, AtMost, [20.0, 14.0]).against(ONE),
    promise(row::RUN, Http::SessionKilobytes, AtMost, [30.0, 30.0]).against(ONE),
    promise(row::RUN, Http::Requests, AtMost, [1.0, 1.0]).against(ONE),
    promise(row::PROFILE_5, Http::Requests, AtMost, [1.0, 1.0]).against(FIVE),
    promise(row::SHARE, Http::Requests, AtMost, [1.0, 1.0]),
];

/// How many milliseconds a call may take longer when it comes through a relay.
const RELAY_MS: f64 = 0.15;

/// Ours against each promise, a row a promise.
pub(crate) fn verdicts(stdio: &Table<Stdio>, http: &Table<Http>) -> String {
    let mut text = String::from(
        "\n| | is | must be | aim | | × the limit | must be | | better than peers |\
         \n|---|---|---|---|---|---|---|---|---|",
    );
    for promise in &STDIO {
        text.push_str(&promise.line("stdio", stdio).unwrap_or_default());
    }
    for promise in &HTTP {
        text.push_str(&promise.line("HTTP", http).unwrap_or_default());
    }
    if let (Some(far), Some(near)) =
        (http.median(row::SHARE, Http::C1P50), http.median(row::RUN, Http::C1P50))
    {
        let more = far - near;
        let met = verdict(AtMost, more, RELAY_MS, RELAY_MS);
        let (more, most) = (shown(more), shown(RELAY_MS));
        write!(
            text,
            "\n| through a relay: c1 p50, ms more | {more} | ≤ {most} | – | {met} | | | | |"
        )
        .expect("a string takes all");
    }
    text
}

impl<C: Column> Promise<C> {
    /// Its row in the table; `None` when ours was not measured.
    fn line(&self, face: &str, table: &Table<C>) -> Option<String> {
        let Self { row, figure, bound, must, aim, .. } = self;
        let ours = table.median(row, *figure)?;
        let sign = match bound {
            AtMost => "≤",
            AtLeast => "≥",
        };
        Some(format!(
            "\n| {row}, {face}: {} | {} | {sign} {} | {sign} {} | {} | {} | {} |",
            figure.heading(),
            shown(ours),
            shown(*must),
            shown(*aim),
            verdict(*bound, ours, *must, *aim),
            self.ratio(table, ours).unwrap_or_else(|| "– | – |".to_owned()),
            self.peers(table, ours),
        ))
    }

    /// Ours and what must be, each as a multiple of the limit of its own run.
    fn ratio(&self, table: &Table<C>, ours: f64) -> Option<String> {
        let (then, now) = (self.limit?, table.median(row::DIRECT, self.figure)?);
        let (is, must, aim) = (ours / now, self.must / then, self.aim / then);
        let verdict = verdict(self.bound, is, must, aim);
        Some(format!("{} | {} | {verdict}", shown(is), shown(must)))
    }

    /// By which factor ours is better than each peer.
    fn peers(&self, table: &Table<C>, ours: f64) -> String {
        let factors = self.peers.iter().filter_map(|peer| {
            let theirs = table.median(peer, self.figure)?;
            let factor = match self.bound {
                AtMost => theirs / ours,
                AtLeast => ours / theirs,
            };
            Some(format!("{peer} {} ×", shown(factor)))
        });
        factors.collect::<Vec<_>>().join(", ")
    }
}

fn verdict(bound: Bound, is: f64, must: f64, aim: f64) -> &'static str {
    let meets = |goal: f64| match bound {
        AtMost => is <= goal,
        AtLeast => is >= goal,
    };
    match (meets(aim), meets(must)) {
        (true, _) => "aim reached",
        (false, true) => "must reached",
        (false, false) => "**missed**",
    }
}
