//! `mcpm-relay status`: asks a running relay how it is.

use std::fmt::Write as _;

use mcpm_relay::admission::unix_now;
use serde_json::Value;

use super::ask::AdminArgs;
use super::error::CliError;
use super::out::{say, say_json};
use super::table::date;

/// After how many seconds a node is said to be silent: several of its beats.
const SILENT_SECS: u64 = 5;

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
    if status["certificate"].is_object() {
        line("certificate", certificate(&status["certificate"]));
    }
    line("agents", format!("{} with {} connections", text("sessions"), text("connections")));
    line("shares", text("shares"));
    line(
        "requests",
        format!("{} open, {} held", text("requests_in_flight"), text("held_requests")),
    );
    for (n, node) in status["nodes"].as_array().into_iter().flatten().enumerate() {
        line(if n == 0 { "nodes" } else { "" }, in_words(node, &status["node"], now));
    }
    out
}

/// Says of a certificate what it is for and until when, or why there is none.
fn certificate(cert: &Value) -> String {
    let hosts: Vec<_> =
        cert["hosts"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let problem = cert["problem"].as_str();
    let Some(ends_at) = cert["ends_at"].as_u64() else {
        return format!("none: {}", problem.unwrap_or("nobody knows why"));
    };
    let problem = problem.map(|problem| format!("; {problem}")).unwrap_or_default();
    format!("{} until {}{problem}", hosts.join(", "), date(ends_at))
}

/// Says of a node where it is and how it is.
fn in_words(node: &Value, this: &Value, now: u64) -> String {
    let (id, address) = (node["id"].as_str(), node["address"].as_str());
    let mut words = format!("{} at {}", id.unwrap_or("?"), address.unwrap_or("?"));
    if node["id"] == *this {
        words.push_str(", this one");
    }
    if node["draining"] == true {
        words.push_str(", draining");
    }
    let silent = now.saturating_sub(node["seen_at"].as_u64().unwrap_or(now));
    if silent > SILENT_SECS {
        let _ = write!(words, ", silent for {silent}s");
    }
    words
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

    #[test]
    fn a_certificate_is_told_of_or_why_there_is_none() {
        let said = |cert: Value| {
            let said = lines(&json!({"started_at": 100_u64, "certificate": cert}), 100);
            said.lines().find_map(|line| line.strip_prefix("certificate  ").map(str::to_owned))
        };
        let mut cert = json!({"hosts": ["share.example.com", "*.share.example.com"],
            "ends_at": 1_800_000_000_u64, "fingerprint": "ab", "problem": null});
        let until = "share.example.com, *.share.example.com until 2027-01-15T08:00:00Z";
        assert_eq!(said(cert.clone()).unwrap(), until);
        cert["problem"] = "the authority refused".into();
        assert_eq!(said(cert).unwrap(), format!("{until}; the authority refused"));
        let none = json!({"hosts": [], "ends_at": null, "fingerprint": null,
            "problem": "the authority cannot be reached"});
        assert_eq!(said(none).unwrap(), "none: the authority cannot be reached");
        assert_eq!(said(Value::Null), None, "without TLS");
    }

    #[test]
    fn the_nodes_are_told_of_where_there_are_several() {
        let node = |id: &str, draining: bool, seen_at: u64| {
            json!({"id": id, "address": format!("{id}:6278"), "draining": draining,
                "seen_at": seen_at})
        };
        let status = json!({"node": "a", "started_at": 100_u64,
            "nodes": [node("a", false, 100), node("b", true, 99), node("c", false, 70)]});
        let said = lines(&status, 100);
        let nodes: Vec<_> = said.lines().rev().take(3).collect();
        assert_eq!(nodes[2], "nodes        a at a:6278, this one");
        assert_eq!(nodes[1], "             b at b:6278, draining");
        assert_eq!(nodes[0], "             c at c:6278, silent for 30s");
    }
}
