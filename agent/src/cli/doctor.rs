//! `mcpm doctor`: what is well, what is not, and what to do.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::error::CliError;
use super::share::RelayOptions;
use super::table::clean;
use super::{Context, JsonArg, Threads, block_on, env};
use crate::app::doctor::{Examination, Finding, Health, RelayCheck, examine};
use crate::clients::Places;
use crate::config::GlobalConfigManager;
use crate::credentials;
use crate::fs::Paths;

/// The relay that is looked at when none is named.
const RELAY: &str = "share.mcpm.sh";
/// How many findings may wait for the terminal.
const FINDINGS: usize = 16;

/// Look at files, runtimes, servers, clients and the relay, and say what to do; exit 1 when something is broken
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
    /// The relay: HOST, HOST:PORT or a URL [default: share.mcpm.sh, which is no fault to be without
    /// unless a share uses it]
    #[arg(long, env = "MCPM_RELAY_ADDRESS", hide_env_values = true)]
    address: Option<String>,
}

impl RelayAddressOptions {
    /// Returns the relay to look at. Who names one needs it, and so do those who share there.
    fn check(&self, paths: &Paths) -> Result<RelayCheck, CliError> {
        let spec = RelayOptions::spec_of(self.address.as_deref().unwrap_or(RELAY), paths)?;
        let origin = spec.address.origin();
        let shares = credentials::list(paths).unwrap_or_default();
        let mut records = shares.iter().filter_map(|share| share.record.as_ref().ok());
        let needed = self.address.is_some() || records.any(|record| record.relay == origin);
        Ok(RelayCheck { spec, needed })
    }
}

impl Args {
    pub(super) fn json(&self) -> bool {
        self.json.json
    }
}

pub(super) fn run(args: Args, context: &Context) -> Result<ExitCode, CliError> {
    // Who asks about some servers does not ask about clients.
    let places = if args.server.is_empty() { env::places().ok() } else { None };
    run_at(args, context, places)
}

/// The same on a machine whose folders are given.
fn run_at(args: Args, context: &Context, places: Option<Places>) -> Result<ExitCode, CliError> {
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
    let relay = if offline { None } else { Some(relay.check(&paths)?) };
    let what = Examination { servers, patience: Duration::from_secs(timeout), places, relay };
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
    fn a_relay_is_needed_by_who_names_it_or_shares_there() {
        let home = Home::new();
        let needed = |address: Option<&str>| {
            let options = RelayAddressOptions { address: address.map(str::to_owned) };
            options.check(&home.paths).unwrap().needed
        };
        assert!(!needed(None));
        assert!(needed(Some("relay.example")));
        let name = "time-x".parse().unwrap();
        let origin = format!("https://{RELAY}");
        let file = credentials::ShareFile::new(&home.paths, &name, &origin);
        let target = credentials::ShareTarget::Server("time".to_owned());
        let record = credentials::ShareRecord::new(name, origin, target);
        file.edit(|_| Ok((record, ()))).unwrap();
        assert!(needed(None));
    }

    #[test]
    fn what_is_broken_makes_exit_1_and_a_healthy_home_exit_0() {
        let home = Home::new();
        let json = JsonArg { json: true };
        let relay = RelayAddressOptions { address: None };
        let args = Args { server: Vec::new(), timeout: 5, offline: true, relay, json };
        // The clients of whoever runs this test may be ill.
        let code = run_at(args, &home.context(), None).unwrap();
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::SUCCESS));
        home.write("servers.json", r#"{"a": {"command": "mcpm-no-such-command"}}"#);
        let code = home.run(&["doctor", "--offline", "--json", "--server", "a"]).unwrap();
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(1)));
        assert_eq!(home.run(&["doctor", "--offline", "--server", "b"]).unwrap_err().exit(), 1);
    }
}
