//! Metrics read back from their own text: for the dashboard, which shows what Prometheus would see,
//! and for tests.

/// One value of a metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The metric's full name, with `_total`, `_bucket`, …
    pub name: String,
    /// Its labels, in the order they were written.
    pub labels: Vec<(String, String)>,
    /// The value.
    pub value: f64,
}

impl Sample {
    /// Returns the value of a label, or nothing.
    #[must_use]
    pub fn label(&self, name: &str) -> &str {
        let found = self.labels.iter().find(|(label, _)| label == name);
        found.map_or("", |(_, value)| value)
    }
}

/// All metrics at one moment.
#[derive(Clone, Debug, Default)]
pub struct Reading(Vec<Sample>);

impl Reading {
    /// Reads `OpenMetrics` text. What is no sample is passed over.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self(lines.filter_map(sample).collect())
    }

    /// Returns all samples.
    #[must_use]
    pub fn samples(&self) -> &[Sample] {
        &self.0
    }

    /// Returns the samples of one metric.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.0.iter().filter(move |sample| sample.name == name)
    }

    /// Returns the sum over the labels of one metric; 0 when there is none.
    #[must_use]
    pub fn sum(&self, name: &str) -> f64 {
        self.all(name).map(|sample| sample.value).sum()
    }

    /// Returns the value of the one sample whose label has this value; 0 when there is none.
    #[must_use]
    pub fn at(&self, name: &str, label: &str, value: &str) -> f64 {
        let with = |sample: &&Sample| sample.label(label) == value;
        self.all(name).filter(with).map(|sample| sample.value).sum()
    }
}

/// Our own labels hold neither quotes nor commas: they come from fixed lists.
fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    let label = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        Some((name.to_owned(), value.trim_matches('"').to_owned()))
    };
    let labels = labels.split(',').filter(|pair| !pair.is_empty()).map(label);
    Some(Sample {
        name: name.to_owned(),
        labels: labels.collect::<Option<_>>()?,
        value: value.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_name_and_label() {
        let reading = Reading::parse(
            "# TYPE a counter\na_total{code=\"x\",node=\"n\"} 2\na_total{code=\"y\"} 0.5\nb -1\n# EOF\n",
        );
        assert_eq!(reading.samples().len(), 3);
        assert_eq!(reading.sum("a_total"), 2.5);
        assert_eq!(reading.at("a_total", "code", "x"), 2.0);
        assert_eq!(reading.sum("b"), -1.0);
        assert_eq!(reading.sum("c"), 0.0);
    }
}
