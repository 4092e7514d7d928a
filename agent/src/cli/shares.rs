//! `mcpm shares`: the shares that run on this machine.

use serde_json::{Value, json};

use super::error::{CliError, with_sources};
use super::table::{Column, table};
use super::time::{rough, unix_now};
use super::ui::Ui;
use super::{Context, JsonArg};
use crate::app::background::{self, Shares};
use crate::fs::Paths;
use crate::running::{Ending, Mode, RunningShare, Seen, State};

/// List the shares that run on this machine
///
/// Those in the background, and those in terminals. One that ended by itself is told of once.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    json: JsonArg,
}

impl Args {
    pub(super) fn json(&self) -> bool {
        self.json.json
    }
}

pub(super) fn run(context: &Context) -> Result<(), CliError> {
    let paths = context.paths()?;
    let shares = background::look(&paths)?;
    let ui = context.ui;
    if ui.is_json() {
        let running = shares.running.iter().map(|seen| seen_json(seen, &paths));
        let ended = shares.ended.iter().map(|share| ended_json(share, &paths));
        ui.json(&running.chain(ended).collect::<Value>());
        return Ok(());
    }
    if shares.running.is_empty() {
        ui.note("Nothing is shared.");
    } else {
        let columns = [
            Column::Left("SHARE"),
            Column::Left("OF"),
            Column::Left("STATE"),
            Column::Right("UPTIME"),
            Column::Right("REQUESTS"),
            Column::Left("URL"),
        ];
        let rows: Vec<[String; 6]> = shares.running.iter().map(row).collect();
        table(columns, &rows).iter().for_each(|line| ui.result(line));
    }
    tell_troubles(ui, &shares);
    Ok(())
}

/// Says why shares are not as they should be, below the table.
fn tell_troubles(ui: Ui, shares: &Shares) {
    for seen in &shares.running {
        match &seen.record {
            Ok(RunningShare {
                target, state: State::Reconnecting { reason, hint, .. }, ..
            }) => {
                let hint = hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
                ui.note(format!("{target}: {reason}{hint}"));
            }
            Ok(_) => {}
            Err(error) => ui.warning(with_sources(error)),
        }
    }
    for share in &shares.ended {
        ui.warning(ended_in_words(share));
    }
}

fn ended_in_words(share: &RunningShare) -> String {
    let target = &share.target;
    match &share.state {
        State::Ended(Ending { message, hint, .. }) => {
            let hint = hint.as_ref().map(|hint| format!(". {hint}")).unwrap_or_default();
            format!("{target} is not shared any more: {message}{hint}")
        }
        _ if share.mode == Mode::Background => {
            let log = background::log_name(target);
            format!("{target} is not shared any more: its process is gone; see `mcpm logs {log}`")
        }
        _ => format!("{target} is not shared any more: its process is gone"),
    }
}

fn row(seen: &Seen) -> [String; 6] {
    let Ok(share) = &seen.record else {
        let unknown = || "?".to_owned();
        return [seen.id.to_string(), unknown(), unknown(), unknown(), unknown(), unknown()];
    };
    let name = share.name.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
    let url = share.url.clone().unwrap_or_else(|| "-".to_owned());
    [
        name,
        share.target.to_string(),
        share.state.word().to_owned(),
        rough(unix_now().saturating_sub(share.since)),
        share.requests.to_string(),
        url,
    ]
}

fn seen_json(seen: &Seen, paths: &Paths) -> Value {
    match &seen.record {
        Ok(share) => share_json(share, paths),
        Err(error) => json!({ "run": seen.id.to_string(), "error": with_sources(error) }),
    }
}

fn ended_json(share: &RunningShare, paths: &Paths) -> Value {
    let mut value = share_json(share, paths);
    value["state"] = "ended".into();
    if !matches!(share.state, State::Ended(_)) {
        value["code"] = "crashed".into();
    }
    value
}

/// The form for machines.
fn share_json(share: &RunningShare, paths: &Paths) -> Value {
    let mut value = json!({
        "share": share.full_name(),
        "name": share.name,
        "target": share.target,
        "relay": share.relay,
        "state": share.state.word(),
        "url": share.url,
        "visitors": share.visitors,
        "mode": share.mode,
        "router": share.router,
        "pid": share.process.pid,
        "since": share.since,
        "uptime_secs": unix_now().saturating_sub(share.since),
        "requests": share.requests,
        "active": share.active,
    });
    match &share.state {
        State::Reconnecting { reason, hint, retry_in_ms } => {
            value["reason"] = reason.as_str().into();
            value["hint"] = hint.as_deref().into();
            value["retry_in_ms"] = (*retry_in_ms).into();
        }
        State::Ended(Ending { code, message, hint, .. }) => {
            value["code"] = code.as_str().into();
            value["message"] = message.as_str().into();
            value["hint"] = hint.as_deref().into();
        }
        State::Starting | State::Connected => {}
    }
    let log = background::log(paths, &share.target).display().to_string();
    let optional = [
        ("local", share.local.as_deref().map(Value::from)),
        ("expires_at", share.expires_at.map(Value::from)),
        ("log", (share.mode == Mode::Background).then(|| log.into())),
    ];
    for (key, present) in optional {
        if let Some(present) = present {
            value[key] = present;
        }
    }
    value
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cli::testing::Home;
    use crate::credentials::ShareTarget;
    use crate::running::{Process, Registration, RunId, Visitors};

    pub(in crate::cli) fn share(target: &str, name: &str, relay: &str) -> RunningShare {
        RunningShare {
            process: Process::this(),
            since: unix_now(),
            mode: Mode::Background,
            router: false,
            target: ShareTarget::Server(target.to_owned()),
            relay: relay.to_owned(),
            wanted: None,
            visitors: Visitors::Token,
            name: Some(name.parse().unwrap()),
            url: Some(format!("https://{name}.example/mcp")),
            local: None,
            expires_at: None,
            requests: 3,
            active: 0,
            state: State::Connected,
        }
    }

    #[test]
    fn a_share_whose_process_is_gone_is_told_of_once_and_cleaned() {
        let home = Home::new();
        let id = RunId::generate();
        Registration::new(&home.paths, &id, &share("time", "time-abc", "local")).unwrap().leave();
        home.run(&["shares"]).unwrap();
        assert_eq!(std::fs::read_dir(home.paths.live_shares()).unwrap().count(), 0);
        home.run(&["shares"]).unwrap();
    }

    #[test]
    fn machines_learn_all_of_a_share_but_its_secrets() {
        let home = Home::new();
        let mut told = share("time", "time-abc", "https://a.example");
        told.state = State::Reconnecting { reason: "r".to_owned(), hint: None, retry_in_ms: 9 };
        let value = share_json(&told, &home.paths);
        assert_eq!(value["share"], "time-abc@a.example");
        assert_eq!(value["target"], json!({"server": "time"}));
        assert_eq!((&value["state"], &value["requests"]), (&json!("reconnecting"), &json!(3)));
        assert_eq!((&value["reason"], &value["mode"]), (&json!("r"), &json!("background")));
        assert!(value["log"].as_str().unwrap().contains("time"));
        assert!(value.get("local").is_none());
        assert_eq!(ended_json(&told, &home.paths)["code"], "crashed");
        assert!(ended_in_words(&told).contains("mcpm logs share:time"));
    }
}
