//! Whether the budgets are met.

use std::fmt::Write as _;

use mcpm_bench::table::{Column as _, Table, shown};

use crate::contender::Contender;
use crate::measure::Figure;
use crate::rows::{Finding, Must};

/// One promise: our figure against a factor of a peer's, or against a fixed bound.
struct Budget {
    figure: Figure,
    bound: Bound,
}

#[derive(Clone, Copy)]
enum Bound {
    AtMost(f64, Contender),
    AtLeast(f64, Contender),
    Fixed(f64),
}

use Bound::{AtLeast, AtMost, Fixed};

const fn must(figure: Figure, bound: Bound) -> Budget {
    Budget { figure, bound }
}

/// What each of ours must reach.
const MUST: [(Contender, &[Budget]); 3] = {
    use Contender::{NginxRathole, RatholeTls, RatholeWebSocket};
    [
        (
            Contender::Mcpm,
            &[
                must(Figure::C1P50, AtMost(1.2, NginxRathole)),
                must(Figure::C32Rate, AtLeast(1.0, NginxRathole)),
                must(Figure::C256Rate, AtLeast(1.0, NginxRathole)),
                must(Figure::C256P99, AtMost(1.0, RatholeWebSocket)),
                must(Figure::Close32Rate, AtLeast(1.0, NginxRathole)),
                must(Figure::Cpu, AtMost(1.0, NginxRathole)),
                must(Figure::Bulk1, AtLeast(1.0, RatholeWebSocket)),
                must(Figure::Bulk8, AtLeast(1.0, RatholeWebSocket)),
                must(Figure::IdleRelay, Fixed(12.0)),
                must(Figure::IdleClient, Fixed(12.0)),
                must(Figure::PeakRelay, Fixed(40.0)),
                must(Figure::PeakClient, Fixed(40.0)),
            ],
        ),
        (
            Contender::InProcess,
            &[
                must(Figure::C1P50, AtMost(1.2, RatholeWebSocket)),
                must(Figure::C32Rate, AtLeast(1.0, RatholeWebSocket)),
                must(Figure::C256Rate, AtLeast(1.2, RatholeWebSocket)),
                must(Figure::C256P99, AtMost(1.0, RatholeWebSocket)),
                must(Figure::Close32Rate, AtLeast(2.0, RatholeWebSocket)),
                must(Figure::Cpu, AtMost(1.3, RatholeWebSocket)),
                must(Figure::IdleRelay, Fixed(12.0)),
                must(Figure::IdleClient, Fixed(12.0)),
                must(Figure::PeakRelay, Fixed(40.0)),
                must(Figure::PeakClient, Fixed(25.0)),
            ],
        ),
        (
            Contender::McpmTls,
            &[
                must(Figure::C32Rate, AtLeast(1.0, RatholeTls)),
                must(Figure::C256Rate, AtLeast(1.0, RatholeTls)),
                must(Figure::C256P99, Fixed(50.0)),
                must(Figure::Close32Rate, AtLeast(10.0, RatholeTls)),
            ],
        ),
    ]
};

/// Each of ours that was measured against its budgets, a row a promise.
pub(crate) fn verdicts(table: &Table<Figure>) -> String {
    let mut text = String::new();
    for (ours, budgets) in &MUST {
        if table.median(ours.name(), Figure::C1P50).is_none() {
            continue;
        }
        let name = ours.name();
        write!(text, "\n| {name} | is | must be | |\n|---|---|---|---|").expect("a string");
        for Budget { figure, bound } in *budgets {
            let Some(is) = table.median(name, *figure) else { continue };
            let heading = figure.heading();
            let line = match limit(table, *figure, *bound) {
                Some((must, from)) => {
                    let must_be = format!("{} ({from})", bounded(must));
                    format!("{} | {must_be} | {}", shown(is), verdict(is, must))
                }
                None => format!("{} | peer not measured | ", shown(is)),
            };
            write!(text, "\n| {heading} | {line} |").expect("a string");
        }
        text.push('\n');
    }
    text
}

/// The figures beside the tables, a row each.
pub(crate) fn findings(findings: &[Finding]) -> String {
    let mut text =
        String::from("\n| beside the tables | is | must be | | |\n|---|---|---|---|---|");
    for Finding { what, is, must, beside } in findings {
        let (is, verdict, must) = (shown(*is), verdict(*is, *must), bounded(*must));
        write!(text, "\n| {what} | {is} | {must} | {verdict} | {beside} |").expect("a string");
    }
    text
}

/// The bound in the unit of the figure, and where it is from.
fn limit(table: &Table<Figure>, figure: Figure, bound: Bound) -> Option<(Must, String)> {
    match bound {
        Fixed(most) => Some((Must::AtMost(most), "fixed".to_owned())),
        AtMost(factor, peer) | AtLeast(factor, peer) => {
            let limit = table.median(peer.name(), figure)? * factor;
            let must = match bound {
                AtLeast(..) => Must::AtLeast(limit),
                AtMost(..) | Fixed(_) => Must::AtMost(limit),
            };
            Some((must, format!("{factor} × {}", peer.name())))
        }
    }
}

fn bounded(must: Must) -> String {
    match must {
        Must::AtMost(limit) => format!("≤ {}", shown(limit)),
        Must::AtLeast(limit) => format!("≥ {}", shown(limit)),
        Must::Open => "–".to_owned(),
    }
}

fn verdict(is: f64, must: Must) -> String {
    let (met, limit) = match must {
        Must::AtMost(limit) => (is <= limit, limit),
        Must::AtLeast(limit) => (is >= limit, limit),
        Must::Open => return String::new(),
    };
    let word = if met { "reached" } else { "**missed**" };
    // There is no multiple of nothing.
    if limit == 0.0 { word.to_owned() } else { format!("{word}, {:.2} ×", is / limit) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_tells_what_was_promised_and_how_far_it_is() {
        assert_eq!(verdict(5.0, Must::AtMost(10.0)), "reached, 0.50 ×");
        assert_eq!(verdict(5.0, Must::AtLeast(10.0)), "**missed**, 0.50 ×");
        assert_eq!(verdict(0.0, Must::AtMost(0.0)), "reached");
        assert_eq!(verdict(1.0, Must::AtMost(0.0)), "**missed**");
        assert_eq!(
            (bounded(Must::Open), verdict(5.0, Must::Open)),
            ("–".to_owned(), String::new())
        );
    }
}
