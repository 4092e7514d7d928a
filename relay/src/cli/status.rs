//! `mcpm-relay status`: asks a running relay how it is.

use std::fmt::Write as _;

use mcpm_relay::admission::unix_now;
use serde_json::Value;

use super::ask::AdminArgs;
use super::error::CliError;
use super::out::{say, say_json};
use super::table::date;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    admin: AdminArgs,
}

pub(super) fn run(args: Args) -> Result<(), CliError> {
    let status = args.admin.ask("GET", "/status")?;
    if args.json {
        return say_json(&status);
    }
    say(&lines(&status, unix_now()))
}

fn lines(status: &Value, now: u64) -> String {
    let mut out = String::new();
    let mut line = |label: &str, value: String| {
        let _ = writeln!(out, "{label:13}{value}");
    };
    let text = |key: &str| match &status[key] {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    line("relay", format!("{} {} at {}", text("version"), text("node"), text("domain")));
    let started = status["started_at"].as_u64().unwrap_or(now);
    let up = std::time::Duration::from_secs(now.saturating_sub(started));
    let up = humantime::format_duration(up);
    line("state", format!("{} since {} ({up})", text("phase"), date(started)));
    line("database", text("database"));
    line("agents", format!("{} with {} connections", text("sessions"), text("connections")));
    line("shares", text("shares"));
    line(
        "requests",
        format!("{} open, {} held", text("requests_in_flight"), text("held_requests")),
    );
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_is_a_few_lines() {
        let status = json!({"version": "3.0.0", "node": "main", "domain": "share.example.com",
            "phase": "serving", "database": "up", "started_at": 1_800_000_000_u64, "sessions": 3,
            "connections": 5, "shares": 4, "requests_in_flight": 7, "held_requests": 0});
        insta::assert_snapshot!(lines(&status, 1_800_003_661), @r"
        relay        3.0.0 main at share.example.com
        state        serving since 2027-01-15T08:00:00Z (1h 1m 1s)
        database     up
        agents       3 with 5 connections
        shares       4
        requests     7 open, 0 held
        ");
    }
}
