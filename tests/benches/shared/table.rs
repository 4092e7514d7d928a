//! Figures of several repetitions, as medians in a table.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The columns of a table.
pub trait Column: Copy + Ord + 'static {
    /// All of them with their headings, in order.
    const ALL: &'static [(Self, &'static str)];

    /// The heading of this one.
    #[must_use]
    fn heading(self) -> &'static str {
        let found = Self::ALL.iter().find(|(known, _)| *known == self);
        found.map_or("", |(_, heading)| heading)
    }
}

/// All figures of all repetitions.
#[derive(Debug)]
pub struct Table<C> {
    /// Rows in the order of their first turn.
    rows: Vec<(&'static str, BTreeMap<C, Vec<f64>>)>,
}

impl<C> Default for Table<C> {
    fn default() -> Self {
        Self { rows: Vec::new() }
    }
}

impl<C: Column> Table<C> {
    /// Takes one repetition of one contender.
    pub fn add(&mut self, name: &'static str, figures: Vec<(C, f64)>) {
        let at = self.rows.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
            self.rows.push((name, BTreeMap::new()));
            self.rows.len() - 1
        });
        for (figure, value) in figures {
            self.rows[at].1.entry(figure).or_default().push(value);
        }
    }

    /// The median of a contender's figure.
    #[must_use]
    pub fn median(&self, name: &str, figure: C) -> Option<f64> {
        let (_, row) = self.rows.iter().find(|(known, _)| *known == name)?;
        row.get(&figure).map(|values| median(values.clone()))
    }

    /// The medians, a row a contender.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = String::from("\n| contender |");
        for (_, heading) in C::ALL {
            write!(text, " {heading} |").expect("a string takes all");
        }
        text.push_str("\n|---|");
        text.push_str(&"---|".repeat(C::ALL.len()));
        for (name, _) in &self.rows {
            write!(text, "\n| {name} |").expect("a string takes all");
            for (figure, _) in C::ALL {
                let cell = self.median(name, *figure).map_or_else(|| "–".to_owned(), shown);
                write!(text, " {cell} |").expect("a string takes all");
            }
        }
        text
    }
}

/// The one in the middle of several repetitions; not a number where there is none.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// As many digits as mean something.
#[must_use]
pub fn shown(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{:.0}", (value / 10.0).round() * 10.0),
        size if size >= 10.0 => format!("{value:.0}"),
        size if size >= 1.0 => format!("{value:.1}"),
        size if size > 0.0 => format!("{value:.3}"),
        size if size.is_nan() => "–".to_owned(),
        _ => "0".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_as_many_digits_as_mean_something() {
        let all = [12_345.0, 99.6, 9.96, 0.9996, -395.3, 0.0];
        assert_eq!(all.map(shown), ["12350", "100", "10.0", "1.000", "-395", "0"]);
    }

    #[test]
    fn the_median_is_the_one_in_the_middle() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!(median(Vec::new()).is_nan());
    }
}
