//! The last minutes of a relay in a few numbers each: what the chart and the rates are made of.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::metrics::Reading;

/// How many moments are kept: ten minutes of them.
const KEPT: usize = 121;
const SPAN: &str = "10 min";
/// How often, and how often at most, all counters are kept.
const DETAIL: Duration = Duration::from_secs(60);
const DETAILS: usize = 11;
/// How far back rates look, in moments.
const RECENT: usize = 5;
/// The chart's box, in its own units.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 120.0;

/// Answers are counted and drawn in these groups: id, label, classes of status.
const GROUPS: [(&str, &str, &[&str]); 3] = [
    ("good", "answered", &["1xx", "2xx", "3xx"]),
    ("warn", "refused (4xx)", &["4xx"]),
    ("bad", "failed (5xx)", &["5xx"]),
];

/// What is counted all the time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Totals {
    /// By group: answered, refused, failed.
    pub(super) answers: [f64; 3],
    /// Bytes from visitors and to them.
    pub(super) bytes: [f64; 2],
}

impl Totals {
    pub(super) fn of(reading: &Reading) -> Self {
        let class = |class: &&str| reading.at("mcpm_relay_responses_total", "class", class);
        Self {
            answers: GROUPS.map(|(_, _, classes)| classes.iter().map(class).sum()),
            bytes: ["in", "out"]
                .map(|way| reading.sum(&format!("mcpm_relay_body_{way}_bytes_total"))),
        }
    }

    pub(super) fn all_answers(self) -> f64 {
        self.answers.iter().sum()
    }
}

/// The counters at some moments.
#[derive(Debug, Default)]
pub(super) struct History(Mutex<Past>);

#[derive(Debug, Default)]
struct Past {
    moments: VecDeque<(Instant, Totals)>,
    /// All counters, from time to time: they take more room.
    details: VecDeque<(Instant, Reading)>,
}

/// The chart: one line for each group of answers, as the `d` of SVG paths.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Chart {
    /// What the top of the chart stands for, in words.
    pub(super) top: String,
    /// How far back it reaches, in words.
    pub(super) span: &'static str,
    pub(super) lines: Vec<Line>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Line {
    pub(super) id: &'static str,
    pub(super) label: &'static str,
    pub(super) path: String,
}

impl History {
    pub(super) fn add(&self, reading: &Reading) {
        let (mut past, now) = (self.lock(), Instant::now());
        if past.moments.len() == KEPT {
            past.moments.pop_front();
        }
        past.moments.push_back((now, Totals::of(reading)));
        if past.details.back().is_none_or(|(at, _)| at.elapsed() >= DETAIL) {
            if past.details.len() == DETAILS {
                past.details.pop_front();
            }
            past.details.push_back((now, reading.clone()));
        }
    }

    /// Returns all counters of some minutes ago; none right after the start.
    pub(super) fn before(&self) -> Option<Reading> {
        self.lock().details.front().map(|(_, reading)| reading.clone())
    }

    /// Returns how much is counted in a second of late.
    pub(super) fn rates(&self, now: Totals) -> Totals {
        let past = self.lock();
        let Some((at, then)) = past.moments.iter().rev().nth(RECENT).or(past.moments.front())
        else {
            return Totals::default();
        };
        per_second(*then, now, at.elapsed())
    }

    /// Draws the rate of answers over the time that is known.
    pub(super) fn chart(&self) -> Chart {
        let past = self.lock();
        let (earlier, later) = (past.moments.iter(), past.moments.iter().skip(1));
        let rates: Vec<Totals> = earlier
            .zip(later)
            .map(|((start, a), (end, b))| per_second(*a, *b, end.duration_since(*start)))
            .collect();
        let highest = rates.iter().flat_map(|rates| rates.answers).fold(0.0, f64::max);
        let top = round_up(highest);
        let line = |(n, (id, label, _)): (usize, &(&'static str, &'static str, _))| {
            let rates: Vec<f64> = rates.iter().map(|rates| rates.answers[n]).collect();
            Line { id, label, path: path(&rates, top) }
        };
        Chart {
            top: format!("{top}/s"),
            span: SPAN,
            lines: GROUPS.iter().enumerate().map(line).collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Past> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Two looks right after each other say nothing about a rate.
fn per_second(then: Totals, now: Totals, between: Duration) -> Totals {
    let seconds = between.as_secs_f64();
    if seconds < 0.5 {
        return Totals::default();
    }
    let rate = |then: f64, now: f64| (now - then).max(0.0) / seconds;
    Totals {
        answers: std::array::from_fn(|n| rate(then.answers[n], now.answers[n])),
        bytes: std::array::from_fn(|n| rate(then.bytes[n], now.bytes[n])),
    }
}

/// The next round number.
fn round_up(value: f64) -> f64 {
    let mut step = 1.0;
    while value > step * 10.0 {
        step *= 10.0;
    }
    let mut tops = [1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0].into_iter().map(|factor| factor * step);
    tops.find(|top| value <= *top).unwrap_or(value)
}

/// The latest value is at the right end; a short history begins where it began.
fn path(rates: &[f64], top: f64) -> String {
    let step = WIDTH / (KEPT - 2) as f64;
    let start = WIDTH - step * rates.len().saturating_sub(1) as f64;
    let mut out = String::new();
    for (n, rate) in rates.iter().enumerate() {
        let (x, y) = (start + step * n as f64, HEIGHT - 1.0 - rate / top * (HEIGHT - 2.0));
        // Writing to a string cannot fail.
        let _written = write!(out, "{}{x:.1} {y:.1}", if n == 0 { "M" } else { "L" });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(good: u32, bad: u32) -> Reading {
        Reading::parse(&format!(
            "mcpm_relay_responses_total{{class=\"2xx\"}} {good}\n\
             mcpm_relay_responses_total{{class=\"5xx\"}} {bad}\n"
        ))
    }

    #[tokio::test(start_paused = true)]
    async fn rates_come_from_what_was_counted_of_late() {
        let history = History::default();
        let rates = |good, bad| history.rates(Totals::of(&reading(good, bad))).answers;
        assert_eq!(rates(9, 9), [0.0; 3]);
        history.add(&reading(100, 0));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(rates(150, 10), [5.0, 0.0, 1.0]);
        assert_eq!(rates(0, 0), [0.0; 3], "a counter that began anew");
        assert_eq!(history.before().unwrap().sum("mcpm_relay_responses_total"), 100.0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_chart_is_drawn_to_its_highest_rate() {
        let history = History::default();
        for good in [0, 10, 25] {
            history.add(&reading(good, 0));
            tokio::time::advance(Duration::from_secs(5)).await;
        }
        let chart = history.chart();
        assert_eq!((chart.top.as_str(), chart.span), ("3/s", "10 min"));
        assert_eq!(chart.lines[0].path, "M595.0 40.3L600.0 1.0");
        assert_eq!(chart.lines[2].path, "M595.0 119.0L600.0 119.0");
    }

    #[tokio::test(start_paused = true)]
    async fn the_past_is_bounded() {
        let history = History::default();
        for n in 0..500 {
            history.add(&reading(n, 0));
            tokio::time::advance(Duration::from_secs(5)).await;
        }
        let past = history.lock();
        assert_eq!((past.moments.len(), past.details.len()), (KEPT, DETAILS));
        let age = past.details.front().unwrap().0.elapsed();
        assert!(age >= DETAIL * 10 && age <= DETAIL * 12, "{age:?}");
    }

    #[test]
    fn the_top_is_a_round_number() {
        for (value, top) in [(0.0, 1.0), (1.0, 1.0), (1.1, 1.5), (4.0, 5.0), (51.0, 75.0)] {
            assert_eq!(round_up(value), top, "{value}");
        }
    }
}
