//! `mcpm unshare`: ends shares that run on this machine.

use serde_json::{Value, json};

use super::error::CliError;
use super::{Context, JsonArg, Threads, block_on};
use crate::app::background::{self, Shares, StopError, Stopped};
use crate::config::{GlobalConfigManager, ProfileConfigManager};
use crate::credentials;
use crate::fs::Paths;
use crate::running::{RunningShare, Seen};

/// Stop shares that run on this machine, in the background or in a terminal
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The share: its server or profile, its name, or NAME@RELAY
    #[arg(required_unless_present = "all")]
    share: Option<String>,
    /// Stop all shares
    #[arg(long, conflicts_with = "share")]
    all: bool,
    #[command(flatten)]
    json: JsonArg,
}

impl Args {
    pub(super) fn json(&self) -> bool {
        self.json.json
    }
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    let paths = context.paths()?;
    let shares = background::look(&paths)?;
    let chosen: Vec<&Seen> = match &args.share {
        Some(asked) => choose(&shares.running, asked)?.into_iter().collect(),
        None => shares.running.iter().collect(),
    };
    if chosen.is_empty() {
        return nothing_to_stop(args.share.as_deref(), &shares, &paths, context);
    }
    stop(&chosen, &paths, context)
}

/// Stops shares at the same time, and tells what became of each.
pub(super) fn stop(chosen: &[&Seen], paths: &Paths, context: &Context) -> Result<(), CliError> {
    let ui = context.ui;
    let ended = block_on(Threads::One, async {
        let stops = chosen.iter().map(|seen| background::stop(paths, seen));
        Ok(futures_util::future::join_all(stops).await)
    })?;
    let (mut values, mut failed) = (Vec::new(), None);
    for (seen, ended) in chosen.iter().zip(ended) {
        match ended {
            Ok(how) => {
                values.push(stopped_json(seen, how));
                let name = called(seen);
                match how {
                    Stopped::Orderly => ui.note(format!("Stopped sharing {name}.")),
                    Stopped::Forced => {
                        ui.note(format!("Stopped sharing {name}, by force: it did not hear."));
                    }
                }
            }
            Err(error) => {
                let error = CliError::from(error);
                if failed.is_some() || chosen.len() > 1 {
                    ui.warning(format!("{}: {error}", called(seen)));
                }
                failed.get_or_insert(error);
            }
        }
    }
    if ui.is_json() && (!values.is_empty() || failed.is_none()) {
        ui.json(&json!({ "event": "unshared", "stopped": values }));
    }
    failed.map_or(Ok(()), Err)
}

fn called(seen: &Seen) -> String {
    seen.record.as_ref().map_or_else(|_| seen.id.to_string(), |share| share.target.to_string())
}

fn stopped_json(seen: &Seen, how: Stopped) -> Value {
    let share = seen.record.as_ref().ok();
    json!({
        "share": share.and_then(RunningShare::full_name),
        "target": share.map(|share| &share.target),
        "url": share.and_then(|share| share.url.as_deref()),
        "requests": share.map(|share| share.requests),
        "how": how.word(),
    })
}

/// Finds the share that is meant: by the name of its run or its full name, by its name, or by its
/// server or profile.
fn choose<'a>(running: &'a [Seen], asked: &str) -> Result<Option<&'a Seen>, CliError> {
    let record = |seen: &'a Seen| seen.record.as_ref().ok();
    let full = |seen: &'a Seen| record(seen).and_then(RunningShare::full_name);
    let tests: [&dyn Fn(&'a Seen) -> bool; 4] = [
        &|seen| seen.id.to_string() == asked || full(seen).is_some_and(|name| name == asked),
        &|seen| record(seen).is_some_and(|share| share.is_fully_named(asked)),
        &|seen| {
            let name = record(seen).and_then(|share| share.name.as_ref());
            name.is_some_and(|name| name.as_str() == asked)
        },
        &|seen| record(seen).is_some_and(|share| share.target.name() == asked),
    ];
    for is_meant in tests {
        let found: Vec<&Seen> = running.iter().filter(|&seen| is_meant(seen)).collect();
        match found.as_slice() {
            [] => {}
            [only] => return Ok(Some(*only)),
            several => {
                let name = |seen: &'a Seen| full(seen).unwrap_or_else(|| seen.id.to_string());
                let names: Vec<String> = several.iter().copied().map(name).collect();
                let message = format!("`{asked}` may mean several shares: {}", names.join(", "));
                let error = CliError::user("ambiguous_share", message);
                return Err(error.with_hint("Use one of these names, or --all"));
            }
        }
    }
    Ok(None)
}

/// What is not shared needs no end. Only a name that nobody knows is a slip.
fn nothing_to_stop(
    asked: Option<&str>,
    shares: &Shares,
    paths: &Paths,
    context: &Context,
) -> Result<(), CliError> {
    let ui = context.ui;
    match asked {
        None => ui.note("Nothing is shared."),
        Some(name) => {
            let ended = shares.ended.iter().any(|share| share.is_called(name));
            if !ended && !is_known(name, paths)? {
                let message = format!("nothing named `{name}` is shared");
                let error = CliError::user("not_shared", message);
                return Err(error.with_hint("List what is shared with `mcpm shares`"));
            }
            ui.note(format!("`{name}` is not shared."));
        }
    }
    if ui.is_json() {
        ui.json(&json!({ "event": "unshared", "stopped": [] }));
    }
    Ok(())
}

fn is_known(name: &str, paths: &Paths) -> Result<bool, CliError> {
    let was_shared = credentials::find(paths, name, |_, _| {}).is_ok();
    Ok(was_shared
        || GlobalConfigManager::open(paths)?.has(name)
        || ProfileConfigManager::open(paths)?.profile(name).is_ok())
}

impl From<StopError> for CliError {
    fn from(error: StopError) -> Self {
        match error {
            StopError::Fs(error) => error.into(),
            error => Self::new("still_shared", &error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::shares::tests::share;
    use crate::cli::testing::Home;
    use crate::running::RunId;

    fn seen(share: RunningShare) -> Seen {
        Seen { id: RunId::generate(), alive: true, record: Ok(share) }
    }

    #[test]
    fn the_share_that_is_meant_is_found_or_told_apart() {
        let running = [
            seen(share("time", "time-abc", "https://a.example")),
            seen(share("time", "time-abc", "https://b.example")),
            seen(share("notes", "time", "https://a.example")),
            seen(share("far", "far", "https://c.example")),
            seen(share("far", "far", "http://c.example")),
            seen(share("near", "near", "http://127.0.0.1:80")),
        ];
        let find = |asked: &str| choose(&running, asked).map(|found| found.map(|seen| &seen.id));
        assert_eq!(find("time-abc@b.example").unwrap(), Some(&running[1].id));
        for (asked, at) in [
            ("far@c.example", 3),
            ("far@http://c.example", 4),
            ("near@http://127.0.0.1:80", 5),
            ("near@127.0.0.1:80", 5),
            ("near@http+127.0.0.1%3a80", 5),
        ] {
            assert_eq!(find(asked).unwrap(), Some(&running[at].id), "{asked}");
        }
        // A name of a share counts more than that of a server.
        assert_eq!(find("time").unwrap(), Some(&running[2].id));
        assert_eq!(find("notes").unwrap(), Some(&running[2].id));
        assert_eq!(find(&running[0].id.to_string()).unwrap(), Some(&running[0].id));
        assert_eq!(find("none").unwrap(), None);
        let error = find("time-abc").unwrap_err();
        assert_eq!(error.to_json()["code"], "ambiguous_share");
        assert!(error.to_string().contains("time-abc@a.example, time-abc@b.example"));
    }

    #[test]
    fn to_stop_what_is_not_shared_is_done_already_and_a_slip_is_an_error() {
        let home = Home::new();
        home.write("servers.json", r#"{"time": {"command": "x"}}"#);
        home.run(&["unshare", "time"]).unwrap();
        home.run(&["unshare", "--all"]).unwrap();
        let error = home.run(&["unshare", "tiem"]).unwrap_err();
        assert_eq!((error.exit(), error.to_json()["code"].as_str()), (1, Some("not_shared")));
        assert_eq!(home.run(&["unshare"]).unwrap_err().exit(), 2);
        assert_eq!(home.run(&["unshare", "time", "--all"]).unwrap_err().exit(), 2);
        assert!(!home.paths.shares().exists(), "looking made a folder");
    }
}
