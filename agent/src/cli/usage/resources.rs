//! `mcpm usage --resources`: what servers took, and what those take that run now.

use super::{count, latency, span};
use crate::app::processes::RunningMcpm;
use crate::cli::table::{Column, table};
use crate::usage::Report;

/// Lays out what runs now, and what each server took.
pub(super) fn lines(report: &Report, running: Option<&[RunningMcpm]>) -> Vec<String> {
    let mut lines = match running {
        Some([]) => vec!["mcpm runs nothing right now.".to_owned()],
        Some(running) => {
            let rows = running.iter().map(|one| {
                [
                    one.command.clone(),
                    one.pid.to_string(),
                    one.processes.to_string(),
                    bytes(one.memory_bytes),
                    span(i64::try_from(one.cpu_ms).ok()),
                ]
            });
            let columns = [
                Column::Left("RUNNING"),
                Column::Right("PID"),
                Column::Right("PROCESSES"),
                Column::Right("MEMORY"),
                Column::Right("CPU"),
            ];
            table(columns, &rows.collect::<Vec<_>>())
        }
        None => vec!["What runs right now cannot be told on this system.".to_owned()],
    };
    let size = |size: i64| bytes(u64::try_from(size).unwrap_or_default());
    let rows: Vec<_> = report
        .servers
        .iter()
        .map(|row| {
            [
                row.server.clone(),
                row.calls.to_string(),
                latency(row.busy_ms),
                size(row.request_bytes),
                size(row.response_bytes),
                span(Some(row.runtime_ms).filter(|ms| *ms > 0)),
            ]
        })
        .collect();
    if !rows.is_empty() {
        lines.extend([String::new(), format!("Last {}:", count(report.days.into(), "day"))]);
        let columns = [
            Column::Left("SERVER"),
            Column::Right("CALLS"),
            Column::Right("BUSY"),
            Column::Right("SENT"),
            Column::Right("RECEIVED"),
            Column::Right("RUNTIME"),
        ];
        lines.extend(table(columns, &rows));
    }
    lines
}

/// Says a size in its largest unit.
fn bytes(size: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| size >= *unit) {
        Some((unit, name)) => format!("{}.{} {name}", size / unit, size % unit * 10 / unit),
        None => format!("{size} B"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sizes_are_said_in_their_largest_unit() {
        let told = [0, 1023, 1024, 1_572_864, 3 << 30].map(bytes);
        assert_eq!(told, ["0 B", "1023 B", "1.0 KiB", "1.5 MiB", "3.0 GiB"]);
    }

    #[test]
    fn what_runs_is_told_before_what_ran() {
        let server = json!({
            "server": "time", "sessions": 1, "calls": 2, "errors": 0, "p50_ms": 1.0, "p95_ms": 1.0,
            "max_ms": 1.0, "runtime_ms": 90_000, "busy_ms": 12.5, "request_bytes": 100,
            "response_bytes": 2048, "transport": "stdio", "first_used": 1, "last_used": 2,
        });
        let report: Report = serde_json::from_value(json!({
            "days": 7, "totals": {"servers": 1, "profiles": 0, "sessions": 1, "calls": 2, "errors": 0},
            "servers": [server], "profiles": [], "calls": [], "per_day": [], "sessions": [],
            "errors": [],
        }))
        .unwrap();
        let told = lines(&report, Some(&[]));
        assert_eq!(told[0], "mcpm runs nothing right now.");
        assert!(told[4].starts_with("time") && told[4].contains("2.0 KiB"), "{told:?}");
        assert!(lines(&Report::empty(7), None)[0].contains("cannot be told"));
    }
}
