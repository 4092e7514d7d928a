//! `mcpm usage`: what was used, how often, how fast, and what failed.

mod resources;

use std::path::PathBuf;

use serde_json::{Value, json};

use super::error::CliError;
use super::table::{Column, clean, table};
use super::time::{ago_or_in, rough, unix_now};
use super::{Context, JsonArg, Threads, block_on};
use crate::app::processes::{RunningMcpm, running};
use crate::config::{ConfigError, GlobalConfigManager, ProfileConfigManager};
use crate::fs::{self, Paths};
use crate::usage::{Filter, Reader, Report};

/// How many rows of what has no natural end are shown to people; `--json` has more.
const ROWS: usize = 10;

/// Show how servers and profiles were used
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Look at the last so many days
    #[arg(short, long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
    /// Look at this server only
    #[arg(short, long, value_name = "NAME")]
    server: Option<String>,
    /// Look at this profile only
    #[arg(short, long, value_name = "NAME")]
    profile: Option<String>,
    /// Show what servers took: time, bytes, and the memory of those that run now
    #[arg(long)]
    resources: bool,
    /// Write the whole report to this file too, as JSON
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,
    #[command(flatten)]
    json: JsonArg,
}

impl Args {
    pub(super) fn json(&self) -> bool {
        self.json.json
    }
}

pub(super) fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let Args { days, server, profile, resources, export, json: _ } = args;
    let paths = context.paths()?;
    let filter = Filter { days, server, profile };
    let report = block_on(Threads::One, report(&paths, &filter))?;
    let running = if resources { running(&names(&paths)) } else { None };
    let ui = context.ui;
    if let Some(file) = &export {
        let file = std::path::absolute(file).unwrap_or_else(|_| file.clone());
        fs::write_json(&file, &whole(&report, running.as_deref()))?;
        ui.note(format!("The report is in {}.", file.display()));
    }
    if ui.is_json() {
        ui.json(&whole(&report, running.as_deref()));
    } else if resources {
        for line in resources::lines(&report, running.as_deref()) {
            ui.result(line);
        }
    } else if report.is_empty() {
        ui.note(format!("Nothing was used in the last {}.", count(days.into(), "day")));
        ui.note(
            "Sessions are counted when clients use servers through mcpm, such as by `mcpm run`.",
        );
    } else {
        for line in lines(&report, &filter, unix_now()) {
            ui.result(line);
        }
    }
    Ok(())
}

/// Returns the report, with what runs now where that was asked for.
fn whole(report: &Report, running: Option<&[RunningMcpm]>) -> Value {
    let mut value = json!(report);
    if let Some(running) = running {
        value["running"] = json!(running);
    }
    value
}

/// Returns the names of servers and profiles, as far as our files tell.
fn names(paths: &Paths) -> Vec<String> {
    let servers = GlobalConfigManager::open(paths).map(|global| global.list_servers());
    let profiles = ProfileConfigManager::open(paths).map(|profiles| profiles.list_profiles());
    let servers = servers.unwrap_or_default().into_iter().map(|listed| listed.name);
    servers.chain(profiles.unwrap_or_default().into_iter().map(|profile| profile.name)).collect()
}

async fn report(paths: &Paths, filter: &Filter) -> Result<Report, CliError> {
    let mut reader = Reader::open(paths).await?;
    if let Some(server) = &filter.server {
        let used = match &mut reader {
            Some(reader) => reader.knows_server(server).await?,
            None => false,
        };
        if !used {
            must_exist(GlobalConfigManager::open(paths)?.server(server))?;
        }
    }
    if let Some(profile) = &filter.profile {
        let used = match &mut reader {
            Some(reader) => reader.knows_profile(profile).await?,
            None => false,
        };
        if !used {
            must_exist(ProfileConfigManager::open(paths)?.profile(profile))?;
        }
    }
    match reader {
        Some(reader) => Ok(reader.report(filter).await?),
        None => Ok(Report::empty(filter.days)),
    }
}

/// Passes on that something is not there; that it is faulty does not matter here.
fn must_exist<T>(found: Result<T, ConfigError>) -> Result<(), ConfigError> {
    match found {
        Err(error @ (ConfigError::UnknownServer { .. } | ConfigError::UnknownProfile { .. })) => {
            Err(error)
        }
        _ => Ok(()),
    }
}

fn lines(report: &Report, filter: &Filter, now: u64) -> Vec<String> {
    let totals = &report.totals;
    let mut lines = vec![format!(
        "Last {}: {}, {}, {}, {}, {}",
        count(report.days.into(), "day"),
        count(totals.servers, "server"),
        count(totals.profiles, "profile"),
        count(totals.sessions, "session"),
        count(totals.calls, "call"),
        count(totals.errors, "error"),
    )];
    // With one of them chosen there is room for all that was called.
    let chosen = filter.server.is_some() || filter.profile.is_some();
    let rows = if chosen { report.calls.len() } else { ROWS };
    let parts = [
        servers(report, now),
        profiles(report, now),
        calls(report, rows),
        days(report),
        sessions(report, now),
        errors(report, now),
    ];
    for part in parts.into_iter().filter(|part| part.len() > 1) {
        lines.push(String::new());
        lines.extend(part);
    }
    lines
}

fn servers(report: &Report, now: u64) -> Vec<String> {
    let rows = report.servers.iter().map(|row| {
        [
            row.server.clone(),
            row.sessions.to_string(),
            row.calls.to_string(),
            row.errors.to_string(),
            latency(row.p50_ms),
            latency(row.p95_ms),
            span(Some(row.runtime_ms).filter(|ms| *ms > 0)),
            row.transport.clone().unwrap_or_else(|| "-".to_owned()),
            ago(row.last_used, now),
        ]
    });
    table(
        [
            Column::Left("SERVER"),
            Column::Right("SESSIONS"),
            Column::Right("CALLS"),
            Column::Right("ERRORS"),
            Column::Right("P50"),
            Column::Right("P95"),
            Column::Right("RUNTIME"),
            Column::Left("VIA"),
            Column::Left("LAST USED"),
        ],
        &rows.collect::<Vec<_>>(),
    )
}

fn profiles(report: &Report, now: u64) -> Vec<String> {
    let rows = report.profiles.iter().map(|row| {
        [
            row.profile.clone(),
            row.sessions.to_string(),
            row.calls.to_string(),
            row.errors.to_string(),
            row.servers.to_string(),
            ago(row.last_used, now),
        ]
    });
    table(
        [
            Column::Left("PROFILE"),
            Column::Right("SESSIONS"),
            Column::Right("CALLS"),
            Column::Right("ERRORS"),
            Column::Right("SERVERS"),
            Column::Left("LAST USED"),
        ],
        &rows.collect::<Vec<_>>(),
    )
}

fn calls(report: &Report, count: usize) -> Vec<String> {
    let rows = report.calls.iter().take(count).map(|row| {
        [
            row.name.clone(),
            row.kind.clone(),
            row.server.clone().unwrap_or_else(|| "-".to_owned()),
            row.calls.to_string(),
            row.errors.to_string(),
            latency(row.p50_ms),
            latency(row.p95_ms),
            latency(row.max_ms),
        ]
    });
    table(
        [
            Column::Left("CALLED"),
            Column::Left("KIND"),
            Column::Left("SERVER"),
            Column::Right("CALLS"),
            Column::Right("ERRORS"),
            Column::Right("P50"),
            Column::Right("P95"),
            Column::Right("MAX"),
        ],
        &rows.collect::<Vec<_>>(),
    )
}

fn days(report: &Report) -> Vec<String> {
    let rows = report.per_day.iter().take(ROWS).map(|row| {
        [row.day.clone(), row.sessions.to_string(), row.calls.to_string(), row.errors.to_string()]
    });
    table(
        [
            Column::Left("DAY"),
            Column::Right("SESSIONS"),
            Column::Right("CALLS"),
            Column::Right("ERRORS"),
        ],
        &rows.collect::<Vec<_>>(),
    )
}

fn sessions(report: &Report, now: u64) -> Vec<String> {
    let rows = report.sessions.iter().take(ROWS).map(|row| {
        let target = row.profile.as_ref().or(row.server.as_ref());
        [
            ago(row.began_at, now),
            target.cloned().unwrap_or_else(|| "-".to_owned()),
            row.action.clone().unwrap_or_else(|| "-".to_owned()),
            row.client.clone().unwrap_or_else(|| "-".to_owned()),
            row.calls.to_string(),
            row.errors.to_string(),
            span(row.duration_ms),
            row.error.clone().unwrap_or_default(),
        ]
    });
    table(
        [
            Column::Left("SESSION"),
            Column::Left("TARGET"),
            Column::Left("ACTION"),
            Column::Left("CLIENT"),
            Column::Right("CALLS"),
            Column::Right("ERRORS"),
            Column::Right("LASTED"),
            Column::Left(""),
        ],
        &rows.collect::<Vec<_>>(),
    )
}

fn errors(report: &Report, now: u64) -> Vec<String> {
    let rows = report.errors.iter().take(ROWS).map(|row| {
        [
            ago(row.at, now),
            row.server.clone().unwrap_or_else(|| "-".to_owned()),
            row.name.clone(),
            short(row.error.as_deref().unwrap_or("-")),
        ]
    });
    table(
        [
            Column::Left("ERROR"),
            Column::Left("SERVER"),
            Column::Left("CALLED"),
            Column::Left("MESSAGE"),
        ],
        &rows.collect::<Vec<_>>(),
    )
}

/// Returns the first line of an error, for a table.
fn short(error: &str) -> String {
    let line = clean(error.lines().next().unwrap_or_default());
    if line.chars().count() <= 80 {
        return line;
    }
    line.chars().take(79).chain(['…']).collect()
}

fn count(count: i64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn ago(at: Option<i64>, now: u64) -> String {
    at.and_then(|at| u64::try_from(at).ok()).map_or_else(|| "-".to_owned(), |at| ago_or_in(at, now))
}

fn span(ms: Option<i64>) -> String {
    match ms.and_then(|ms| u64::try_from(ms).ok()) {
        None => "-".to_owned(),
        Some(ms) if ms < 1000 => format!("{ms}ms"),
        Some(ms) => rough(ms / 1000),
    }
}

fn latency(ms: Option<f64>) -> String {
    match ms {
        None => "-".to_owned(),
        Some(ms) if ms < 10.0 => format!("{ms:.1}ms"),
        Some(ms) if ms < 10_000.0 => format!("{ms:.0}ms"),
        Some(ms) => format!("{:.0}s", ms / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::Home;
    use crate::cli::ui::Ui;

    fn failure(server: Option<&str>, profile: Option<&str>) -> Result<(), CliError> {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        std::fs::write(paths.servers(), r#"{"time":{"command":"x","profile_tags":["work"]}}"#)
            .unwrap();
        let context = Context { ui: Ui::new(true, false), config_dir: Some(dir.path().to_owned()) };
        let [server, profile] = [server, profile].map(|name| name.map(str::to_owned));
        let (resources, export, json) = (false, None, JsonArg { json: true });
        let args = Args { days: 30, server, profile, resources, export, json };
        let result = run(args, &context);
        assert!(!paths.monitor_db().exists(), "reading made the file");
        result
    }

    #[test]
    fn an_unknown_name_is_an_error_and_an_unused_one_is_not() {
        failure(Some("time"), Some("work")).unwrap();
        failure(None, None).unwrap();
        let error = failure(Some("tiem"), None).unwrap_err();
        assert_eq!(error.to_json()["code"], "unknown_server");
        assert!(error.hint().unwrap().contains("`time`"), "{error}");
        let error = failure(None, Some("wrok")).unwrap_err();
        assert_eq!(error.to_json()["code"], "unknown_profile");
        assert!(error.hint().unwrap().contains("`work`"), "{error}");
    }

    #[test]
    fn a_report_is_exported_with_what_runs_and_nothing_else_is_written() {
        let home = Home::new();
        home.run(&["usage", "--resources"]).unwrap();
        assert_eq!(std::fs::read_dir(home.paths.dir()).unwrap().count(), 0);
        let file = home.paths.dir().join("metrics.json");
        home.run(&["usage", "--resources", "--export", file.to_str().unwrap()]).unwrap();
        let report: Value = serde_json::from_str(&home.read("metrics.json")).unwrap();
        assert_eq!((report["days"].as_u64(), &report["totals"]["calls"]), (Some(30), &json!(0)));
        assert_eq!(report["running"].is_array(), cfg!(unix));
        home.run(&["usage", "--export", file.to_str().unwrap()]).unwrap();
        assert!(!home.read("metrics.json").contains("running"));
    }

    #[test]
    fn a_report_is_told_in_tables_and_empty_ones_are_left_out() {
        let report: Report = serde_json::from_value(json!({
            "days": 7,
            "totals": {"servers": 1, "profiles": 0, "sessions": 1, "calls": 2, "errors": 1},
            "servers": [{
                "server": "time", "sessions": 1, "calls": 2, "errors": 1, "p50_ms": 0.42,
                "p95_ms": 31.0, "max_ms": 31.0, "runtime_ms": 90_000, "transport": "stdio",
                "first_used": 1000, "last_used": 2000,
            }],
            "profiles": [],
            "calls": [{
                "server": "time", "kind": "tool", "name": "now", "calls": 2, "errors": 1,
                "p50_ms": 0.42, "p95_ms": 31.0, "max_ms": 12_345.0, "last_used": 2000,
            }],
            "per_day": [{"day": "1970-01-01", "sessions": 1, "calls": 2, "errors": 1}],
            "sessions": [{
                "session": "s", "server": "time", "profile": null, "action": "run",
                "transport": "stdio", "source": "local", "client": "c 1", "began_at": 1000,
                "duration_ms": null, "calls": 2, "errors": 1, "error": null,
            }],
            "errors": [{
                "at": 2000, "server": "time", "kind": "tool", "name": "now",
                "error": "no \u{1b}[1msuch zone\nat line 1",
            }],
        }))
        .unwrap();
        let filter = Filter { days: 7, server: None, profile: None };
        insta::assert_snapshot!(lines(&report, &filter, 5600).join("\n"));
    }
}
