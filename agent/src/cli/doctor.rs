//! `mcpm doctor`: what is well, what is not, and what to do.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::error::CliError;
use super::share::RelayOptions;
use super::table::clean;
use super::{Context, JsonArg, Threads, block_on};
use crate::app::doctor::{Examination, Finding, Health, examine};
use crate::config::GlobalConfigManager;

/// How many findings may wait for the terminal.
const FINDINGS: usize = 16;

/// Look at files, runtimes, servers and the relay, and say what to do; exit 1 when something is broken
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Look at this server alone; may be given again
    #[arg(long, value_name = "SERVER", value_delimiter = ',')]
    server: Vec<String>,
    /// How long a server may take to start, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
    /// Do not look at the relay
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    relay: RelayAddressOptions,
    #[command(flatten)]
    json: JsonArg,
}

/// Which relay.
#[derive(Debug, clap::Args)]
struct RelayAddressOptions {
    /// The relay: HOST, HOST:PORT or a URL
    #[arg(
        long,
        env = "MCPM_RELAY_ADDRESS",
        hide_env_values = true,
        default_value = "share.mcpm.sh"
    )]
    address: String,
}

impl Args {
    pub(super) fn json(&self) -> bool {
        self.json.json
    }
}

pub(super) fn run(args: Args, context: &Context) -> Result<ExitCode, CliError> {
    let paths = context.paths()?;
    let ui = context.ui;
    let Args { server: servers, timeout, offline, relay, json: _ } = args;
    for name in &servers {
        // A faulty entry is looked at; a name that nobody knows is a slip.
        let global = GlobalConfigManager::open(&paths)?;
        if !global.has(name) {
            global.server(name)?;
        }
    }
    let relay = if offline { None } else { Some(RelayOptions::spec_of(&relay.address, &paths)?) };
    let what = Examination { servers, patience: Duration::from_secs(timeout), relay };
    let mut worst = Health::Ok;
    let mut all: Vec<Value> = Vec::new();
    block_on(Threads::Many, async {
        let (tell, mut told) = mpsc::channel::<Finding>(FINDINGS);
        let show = async {
            while let Some(finding) = told.recv().await {
                worst = worst.max(finding.health);
                if ui.is_json() {
                    all.push(to_json(&finding));
                } else {
                    lines(&finding).into_iter().for_each(|line| ui.result(line));
                }
            }
        };
        tokio::join!(examine(what, &paths, tell), show);
        Ok(())
    })?;
    if ui.is_json() {
        ui.json(&json!({ "health": worst.word(), "findings": all }));
    }
    ui.note(match worst {
        Health::Ok => "All is well.",
        Health::Warning => "It works, but something should be done.",
        Health::Broken => "Something is broken.",
    });
    Ok(if worst == Health::Broken { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

fn lines(finding: &Finding) -> Vec<String> {
    let Finding { area, subject, health, detail, hint } = finding;
    let mut parts = detail.lines();
    let first = clean(parts.next().unwrap_or_default());
    let mut lines =
        vec![format!("{:8} {:8} {}: {first}", health.word(), area.word(), clean(subject))];
    lines.extend(parts.map(|line| format!("{:18}{}", "", clean(line))));
    lines.extend(hint.iter().map(|hint| format!("{:18}hint: {}", "", clean(hint))));
    lines
}

fn to_json(finding: &Finding) -> Value {
    let Finding { area, subject, health, detail, hint } = finding;
    json!({
        "area": area.word(),
        "subject": subject,
        "health": health.word(),
        "detail": detail,
        "hint": hint,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::doctor::Area;
    use crate::cli::testing::Home;

    #[test]
    fn a_finding_is_told_in_lines_without_control_characters() {
        let finding = Finding {
            area: Area::Server,
            subject: "time".to_owned(),
            health: Health::Broken,
            detail: "it stopped\nwhy \u{1b}[1m".to_owned(),
            hint: Some("Do this".to_owned()),
        };
        let expected = [
            "broken   server   time: it stopped",
            "                  why [1m",
            "                  hint: Do this",
        ];
        assert_eq!(lines(&finding), expected);
    }

    #[test]
    fn what_is_broken_makes_exit_1_and_a_healthy_home_exit_0() {
        let home = Home::new();
        let code = home.run(&["doctor", "--offline", "--json"]).unwrap();
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::SUCCESS));
        home.write("servers.json", r#"{"a": {"command": "mcpm-no-such-command"}}"#);
        let code = home.run(&["doctor", "--offline", "--json", "--server", "a"]).unwrap();
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(1)));
        assert_eq!(home.run(&["doctor", "--offline", "--server", "b"]).unwrap_err().exit(), 1);
    }
}
