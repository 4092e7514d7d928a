//! What the suite says at the end of a run.

use std::collections::{BTreeMap, BTreeSet};

/// Checks passed and failed, by scenario.
#[derive(Debug, Default)]
pub(crate) struct Score(BTreeMap<String, (u32, u32)>);

impl Score {
    /// Reads the suite's summary: `✓ SCENARIO: N passed, M failed`.
    pub(crate) fn read(text: &str) -> Self {
        let scenario = |line: &str| {
            let line = line.strip_prefix(['✓', '✗'])?;
            let (name, counts) = line.trim().split_once(": ")?;
            let (passed, rest) = counts.split_once(" passed, ")?;
            let failed = rest.split_once(" failed")?.0;
            Some((name.to_owned(), (passed.parse().ok()?, failed.parse().ok()?)))
        };
        Self(text.lines().filter_map(scenario).collect())
    }

    /// Checks passed in all scenarios.
    pub(crate) fn passed(&self) -> u32 {
        self.0.values().map(|(passed, _)| passed).sum()
    }

    /// Checks failed in all scenarios.
    pub(crate) fn failed(&self) -> u32 {
        self.0.values().map(|(_, failed)| failed).sum()
    }

    /// The scenarios with a failed check.
    pub(crate) fn failing(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|(_, (_, failed))| *failed > 0).map(|(name, _)| name.as_str())
    }

    /// The scenarios that fail more or pass less than they do in `other`.
    pub(crate) fn lost(&self, other: &Self) -> BTreeSet<String> {
        let kept = |name: &String, (passed, failed): &(u32, u32)| {
            self.0.get(name).is_some_and(|(p, f)| p >= passed && f <= failed)
        };
        other.0.iter().filter(|(name, score)| !kept(name, score)).map(|(n, _)| n.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_read_and_compared() {
        let alone = Score::read(
            "noise\n✓ ping: 2 passed, 0 failed\n✗ tools-list: 1 passed, 1 failed\nTotal: 3 passed, 1 failed\n",
        );
        assert_eq!((alone.passed(), alone.failed()), (3, 1));
        assert_eq!(alone.failing().collect::<Vec<_>>(), ["tools-list"]);
        let fewer = Score::read("✓ ping: 1 passed, 0 failed\n✗ tools-list: 1 passed, 1 failed\n");
        assert_eq!(fewer.lost(&alone), BTreeSet::from(["ping".to_owned()]));
        assert!(alone.lost(&alone).is_empty());
    }
}
