//! The table, and whether the budget is met.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::contender::Contender;
use crate::measure::Figure;

/// All figures of all repetitions.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// Rows in the order of their first turn.
    rows: Vec<(&'static str, BTreeMap<Figure, Vec<f64>>)>,
}

/// One promise: our figure against a factor of a peer's, or against a fixed bound.
struct Budget {
    figure: Figure,
    bound: Bound,
}

enum Bound {
    AtMost(f64, Contender),
    AtLeast(f64, Contender),
    Megabytes(f64),
}

/// What `mcpm tunnel` must reach.
const MUST: [Budget; 12] = {
    use Bound::{AtLeast, AtMost, Megabytes};
    use Contender::{NginxRathole, RatholeWebSocket};
    [
        Budget { figure: Figure::C1P50, bound: AtMost(1.2, NginxRathole) },
        Budget { figure: Figure::C32Rate, bound: AtLeast(1.0, NginxRathole) },
        Budget { figure: Figure::C256Rate, bound: AtLeast(1.0, NginxRathole) },
        Budget { figure: Figure::C256P99, bound: AtMost(1.0, RatholeWebSocket) },
        Budget { figure: Figure::Close32Rate, bound: AtLeast(1.0, NginxRathole) },
        Budget { figure: Figure::Cpu, bound: AtMost(1.0, NginxRathole) },
        Budget { figure: Figure::Bulk1, bound: AtLeast(1.0, RatholeWebSocket) },
        Budget { figure: Figure::Bulk8, bound: AtLeast(1.0, RatholeWebSocket) },
        Budget { figure: Figure::IdleRelay, bound: Megabytes(12.0) },
        Budget { figure: Figure::IdleClient, bound: Megabytes(12.0) },
        Budget { figure: Figure::PeakRelay, bound: Megabytes(40.0) },
        Budget { figure: Figure::PeakClient, bound: Megabytes(40.0) },
    ]
};

impl Table {
    /// Takes one repetition of one contender.
    pub(crate) fn add(&mut self, name: &'static str, figures: Vec<(Figure, f64)>) {
        let at = self.rows.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
            self.rows.push((name, BTreeMap::new()));
            self.rows.len() - 1
        });
        for (figure, value) in figures {
            self.rows[at].1.entry(figure).or_default().push(value);
        }
    }

    fn median(&self, name: &str, figure: Figure) -> Option<f64> {
        let (_, row) = self.rows.iter().find(|(known, _)| *known == name)?;
        let mut values = row.get(&figure)?.clone();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }

    /// The medians, a row a contender.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::from("\n| contender |");
        for (_, heading) in Figure::ALL {
            write!(text, " {heading} |").expect("a string takes all");
        }
        text.push_str("\n|---|");
        text.push_str(&"---|".repeat(Figure::ALL.len()));
        for (name, _) in &self.rows {
            write!(text, "\n| {name} |").expect("a string takes all");
            for (figure, _) in Figure::ALL {
                let cell = self.median(name, figure).map_or_else(|| "–".to_owned(), shown);
                write!(text, " {cell} |").expect("a string takes all");
            }
        }
        text
    }

    /// Ours against each budget, a row a promise.
    pub(crate) fn verdicts(&self) -> String {
        let mut text = String::from("\n| mcpm tunnel | is | must be | |\n|---|---|---|---|");
        for Budget { figure, bound } in &MUST {
            let heading = Figure::ALL.iter().find(|(known, _)| known == figure);
            let heading = heading.map_or("", |(_, heading)| heading);
            let Some(ours) = self.median(Contender::Mcpm.name(), *figure) else { continue };
            let Some((limit, most, from)) = self.limit(*figure, bound) else {
                write!(text, "\n| {heading} | {} | peer not measured | |", shown(ours))
                    .expect("a string takes all");
                continue;
            };
            let met = if most { ours <= limit } else { ours >= limit };
            let sign = if most { "≤" } else { "≥" };
            let verdict = if met { "reached" } else { "**missed**" };
            let factor = ours / limit;
            write!(
                text,
                "\n| {heading} | {} | {sign} {} ({from}) | {verdict}, {factor:.2} × |",
                shown(ours),
                shown(limit)
            )
            .expect("a string takes all");
        }
        text
    }

    /// The bound in the unit of the figure, whether it is an upper one, and where it is from.
    fn limit(&self, figure: Figure, bound: &Bound) -> Option<(f64, bool, String)> {
        match bound {
            Bound::Megabytes(most) => Some((*most, true, "fixed".to_owned())),
            Bound::AtMost(factor, peer) | Bound::AtLeast(factor, peer) => {
                let most = matches!(bound, Bound::AtMost(..));
                let theirs = self.median(peer.name(), figure)?;
                Some((theirs * factor, most, format!("{factor} × {}", peer.name())))
            }
        }
    }
}

/// As many digits as mean something.
fn shown(value: f64) -> String {
    match value {
        v if v >= 1000.0 => format!("{:.0}", (v / 10.0).round() * 10.0),
        v if v >= 10.0 => format!("{v:.0}"),
        v if v >= 1.0 => format!("{v:.1}"),
        v => format!("{v:.3}"),
    }
}
