//! What `promtool check metrics` would say, for `OpenMetrics` text: names, units, help, labels.

use std::collections::BTreeMap;

use http::StatusCode;

use super::*;

/// Everything that can be counted, counted once.
fn busy() -> Metrics {
    let metrics = Metrics::new();
    for status in 100..600 {
        metrics.response(StatusCode::from_u16(status).unwrap());
    }
    metrics.claim(ClaimResult::Given);
    metrics.edge_error("offline");
    metrics.refusal("rate_limited");
    metrics.order(true);
    for result in [SpanResult::Sent, SpanResult::Failed, SpanResult::Dropped] {
        metrics.spans(result).inc();
    }
    metrics
}

fn is_snake(name: &str) -> bool {
    let word = |word: &str| {
        !word.is_empty() && word.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
    };
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.split('_').all(word)
}

/// Comment lines of one kind: metric → what it says.
fn comments<'a>(text: &'a str, kind: &str) -> BTreeMap<&'a str, &'a str> {
    let start = format!("# {kind} ");
    let mut found = BTreeMap::new();
    for line in text.lines() {
        // Twice the same start: the borrow of a formatted prefix ends here.
        let Some(rest) = line.strip_prefix(start.as_str()) else { continue };
        let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        assert!(found.insert(name, rest).is_none(), "two lines of {kind} for {name}");
    }
    found
}

#[test]
fn names_units_and_help_are_as_prometheus_wants_them() {
    let text = busy().encode();
    let (types, help, units) =
        (comments(&text, "TYPE"), comments(&text, "HELP"), comments(&text, "UNIT"));
    for (name, kind) in &types {
        assert!(is_snake(name), "{name}");
        assert!(name.starts_with("mcpm_relay_") || name.starts_with("process_"), "{name}");
        assert!(help.get(name).is_some_and(|help| help.len() > 5), "{name} has no help");
        for wrong in ["_ms", "_millis", "_milliseconds", "_minutes", "_kb", "_mb", "_percent"] {
            assert!(!name.ends_with(wrong), "{name}: base units are seconds and bytes");
        }
        for kept in ["_total", "_count", "_sum", "_bucket", "_info", "_created"] {
            assert!(!name.ends_with(kept), "{name}: the format adds {kept} itself");
        }
        assert!(!name.contains(kind), "{name}: the type does not belong into the name");
        for unit in ["seconds", "bytes"] {
            let named = name.ends_with(&format!("_{unit}"));
            assert_eq!(named, units.get(name) == Some(&unit), "{name}: unit {unit}");
        }
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn samples_belong_to_a_metric_and_stay_few() {
    let metrics = busy();
    let text = metrics.encode();
    let types = comments(&text, "TYPE");
    let reading = metrics.read();
    for sample in reading.samples() {
        let (name, kind) = types
            .iter()
            .find(|(name, kind)| {
                let ends: &[&str] = match **kind {
                    "counter" => &["_total"],
                    "histogram" => &["_bucket", "_sum", "_count"],
                    "info" => &["_info"],
                    _ => &[""],
                };
                ends.iter().any(|end| sample.name == format!("{name}{end}"))
            })
            .unwrap_or_else(|| panic!("{} belongs to no metric", sample.name));
        for (label, value) in &sample.labels {
            assert!(is_snake(label), "{name}: label {label}");
            assert!(value.len() <= 32, "{name}: {label}={value} is no word of a fixed list");
            assert!(label != "le" || *kind == "histogram", "{name}: `le` is for histograms");
        }
    }
    // A bound that a label with visitors' words in it would pass at once.
    assert!(reading.samples().len() < 300, "{} series", reading.samples().len());
}
