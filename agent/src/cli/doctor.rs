//! `mcpm doctor`: what is well, what is not, and what to do.

mod cleanup;

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::error::CliError;
use super::share::RelayOptions;
use super::table::clean;
use super::{Context, ForceArg, JsonArg, Threads, block_on, env, ls};
use crate::app::doctor::{Area, Examination, Finding, Health, RelayCheck, examine};
use crate::clients::Places;
use crate::config::{GlobalConfigManager, ProfileConfigManager};
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
    /// Look at the servers of this profile alone; may be given again
    #[arg(long, value_name = "PROFILE", value_delimiter = ',')]
    profile: Vec<String>,
    /// Show more: files, commands, and how long each server took
    #[arg(short, long)]
    verbose: bool,
    /// Look for servers that nobody uses, and for what servers left behind, and remove them if you
    /// agree
    #[arg(long, conflicts_with_all = ["server", "profile", "timeout", "offline"])]
    cleanup: bool,
    /// Only show what --cleanup would remove
    #[arg(long, requires = "cleanup")]
    dry_run: bool,
    #[command(flatten)]
    force: ForceArg,
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
    if args.cleanup {
        let consent = match (args.dry_run, args.force.force) {
            (true, _) => cleanup::Consent::None,
            (_, true) => cleanup::Consent::All,
            _ => cleanup::Consent::Ask,
        };
        return cleanup::run(consent, &env::places()?, context).map(|()| ExitCode::SUCCESS);
    }
    // Who asks about some servers does not ask about clients.
    let alone = !args.server.is_empty() || !args.profile.is_empty();
    let places = if alone { None } else { env::places().ok() };
    run_at(args, context, places)
}

/// Returns the servers that are asked about, each once; none for all. A faulty entry is looked at;
/// a name that nobody knows is a slip.
fn servers(args: &Args, paths: &Paths) -> Result<Vec<String>, CliError> {
    let mut servers = args.server.clone();
    if !servers.is_empty() {
        let global = GlobalConfigManager::open(paths)?;
        if let Some(name) = servers.iter().find(|name| !global.has(name)) {
            global.server(name)?;
        }
    }
    for name in &args.profile {
        let profile = ProfileConfigManager::open(paths)?.profile(name)?;
        if profile.servers.is_empty() {
            let error = CliError::user("empty_profile", format!("profile `{name}` has no server"));
            let hint = format!("Put one in with `mcpm profile edit {name} --add-server SERVER`");
            return Err(error.with_hint(hint));
        }
        servers.extend(profile.servers);
    }
    let mut seen = std::collections::BTreeSet::new();
    servers.retain(|name| seen.insert(name.clone()));
    Ok(servers)
}

/// The same on a machine whose folders are given.
fn run_at(args: Args, context: &Context, places: Option<Places>) -> Result<ExitCode, CliError> {
    let paths = context.paths()?;
    let ui = context.ui;
    let servers = servers(&args, &paths)?;
    let Args { verbose, timeout, offline, relay, .. } = args;
    if verbose && !ui.is_json() {
        about(&paths).into_iter().for_each(|line| ui.result(line));
    }
    let relay = if offline { None } else { Some(relay.check(&paths)?) };
    // That it cannot be read is a finding of its own.
    let global = if verbose { GlobalConfigManager::open(&paths).ok() } else { None };
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
                    let more = if verbose { more(&finding, global.as_ref()) } else { Vec::new() };
                    lines(&finding, &more).into_iter().for_each(|line| ui.result(line));
                }
            }
        };
        tokio::join!(examine(what, &paths, tell), show);
        Ok(())
    })?;
    if ui.is_json() {
        let about = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "os": std::env::consts::OS,
            "arch": std::env::consts::ARCH,
            "config_dir": paths.dir(),
        });
        ui.json(&json!({ "health": worst.word(), "mcpm": about, "findings": all }));
    }
    ui.note(match worst {
        Health::Ok => "All is well.",
        Health::Warning => "It works, but something should be done.",
        Health::Broken => "Something is broken.",
    });
    Ok(if worst == Health::Broken { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

/// Tells of mcpm itself.
fn about(paths: &Paths) -> [String; 2] {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let version = env!("CARGO_PKG_VERSION");
    [format!("mcpm {version} for {os} on {arch}"), format!("files: {}", paths.dir().display())]
}

/// Returns what else is known: for a server, how it is started.
fn more(finding: &Finding, global: Option<&GlobalConfigManager>) -> Vec<String> {
    let mut more = Vec::new();
    if finding.area == Area::Server
        && let Some(Ok(server)) = global.map(|global| global.server(&finding.subject))
    {
        let line = ls::line(&server, 0, true);
        more.extend(line.lines().skip(1).map(|line| line.trim().to_owned()));
    }
    more.extend(finding.more.iter().cloned());
    more
}

fn lines(finding: &Finding, more: &[String]) -> Vec<String> {
    let Finding { area, subject, health, detail, hint, .. } = finding;
    let mut parts = detail.lines();
    let first = clean(parts.next().unwrap_or_default());
    let mut lines =
        vec![format!("{:8} {:8} {}: {first}", health.word(), area.word(), clean(subject))];
    lines.extend(parts.map(|line| format!("{:18}{}", "", clean(line))));
    lines.extend(more.iter().map(|line| format!("{:18}{}", "", clean(line))));
    lines.extend(hint.iter().map(|hint| format!("{:18}hint: {}", "", clean(hint))));
    lines
}

fn to_json(finding: &Finding) -> Value {
    let Finding { area, subject, health, detail, hint, more } = finding;
    json!({
        "area": area.word(),
        "subject": subject,
        "health": health.word(),
        "detail": detail,
        "hint": hint,
        "more": more,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::Home;

    #[test]
    fn a_finding_is_told_in_lines_without_control_characters() {
        let finding = Finding {
            area: Area::Server,
            subject: "time".to_owned(),
            health: Health::Broken,
            detail: "it stopped\nwhy \u{1b}[1m".to_owned(),
            hint: Some("Do this".to_owned()),
            more: Vec::new(),
        };
        let expected = [
            "broken   server   time: it stopped",
            "                  why [1m",
            "                  one more",
            "                  hint: Do this",
        ];
        assert_eq!(lines(&finding, &["one\u{7} more".to_owned()]), expected);
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
        let args = Args {
            server: Vec::new(),
            profile: Vec::new(),
            verbose: true,
            cleanup: false,
            dry_run: false,
            force: ForceArg::default(),
            timeout: 5,
            offline: true,
            relay,
            json,
        };
        // The clients of whoever runs this test may be ill.
        let code = run_at(args, &home.context(), None).unwrap();
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::SUCCESS));
        home.write("servers.json", r#"{"a": {"command": "mcpm-no-such-command"}}"#);
        let code = home.run(&["doctor", "--offline", "--json", "--server", "a"]).unwrap();
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(1)));
        assert_eq!(home.run(&["doctor", "--offline", "--server", "b"]).unwrap_err().exit(), 1);
        home.write(
            "servers.json",
            r#"{"a": {"command": "mcpm-no-such-command", "profile_tags": ["work"]}}"#,
        );
        let code = home.run(&["doctor", "--offline", "-v", "--profile", "work"]).unwrap();
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(1)));
        assert_eq!(home.run(&["doctor", "--offline", "--profile", "none"]).unwrap_err().exit(), 1);
        assert_eq!(home.run(&["doctor", "--dry-run"]).unwrap_err().exit(), 2);
        assert_eq!(home.run(&["doctor", "--cleanup", "--offline"]).unwrap_err().exit(), 2);
    }
}
