//! The part of `mcpm update` that is about servers in Git checkouts.

use serde_json::{Value, json};

use super::{Told, failed};
use crate::app::update::git::{self, Checkout, GitError};
use crate::cli::error::{CliError, with_sources};
use crate::cli::table::clean;
use crate::cli::{Context, Threads, block_on};
use crate::config::{GlobalConfigManager, Sources};
use crate::fs::Paths;

/// A server, and what sources.json says of its checkout.
type Source = (String, Value);
/// A server, its checkout, and the word for how that is.
type Found = (String, Result<Checkout, GitError>, &'static str);

/// Servers that run from checkouts, and how those are.
pub(super) struct Checkouts {
    found: Vec<Found>,
}

/// Parts the servers that run from checkouts, as sources.json notes, from the others.
pub(super) fn split(
    names: Vec<String>,
    paths: &Paths,
) -> Result<(Vec<Source>, Vec<String>), CliError> {
    let sources = Sources::open(paths)?;
    let (mut checkouts, mut others) = (Vec::new(), Vec::new());
    for name in names {
        match sources.get(&name).filter(|source| source["type"] == "git") {
            Some(source) => checkouts.push((name, source)),
            None => others.push(name),
        }
    }
    Ok((checkouts, others))
}

/// Fetches all of them, and tells which are behind.
pub(super) fn look(sources: Vec<Source>, context: &Context) -> Result<Checkouts, CliError> {
    let ui = context.ui;
    if sources.is_empty() {
        return Ok(Checkouts { found: Vec::new() });
    }
    let found = block_on(Threads::One, async {
        let mut found = Vec::new();
        for (name, source) in sources {
            found.push((name, git::look(&source).await));
        }
        Ok(found)
    })?;
    let judge = |(name, looked): (String, Result<Checkout, GitError>)| {
        let status = match &looked {
            Ok(checkout) if checkout.behind == 0 => "current",
            Ok(checkout) => {
                if !ui.is_json() {
                    let (behind, folder) = (checkout.behind, checkout.folder.display());
                    ui.result(clean(&format!("{name}  {behind} commits behind in {folder}")));
                }
                "newer"
            }
            Err(error) => {
                ui.warning(clean(&format!("`{name}`: {}", with_sources(error))));
                "failed"
            }
        };
        (name, looked, status)
    };
    Ok(Checkouts { found: found.into_iter().map(judge).collect() })
}

impl Checkouts {
    /// Returns how many can be updated.
    pub(super) fn behind(&self) -> usize {
        self.found.iter().filter(|(_, _, status)| *status == "newer").count()
    }

    /// Brings forward those that are behind. What is to run afterwards runs only if a person agrees,
    /// or `run_afterwards` says so: it is a command that fresh code from elsewhere obeys.
    pub(super) fn update(
        &mut self,
        rebase: bool,
        run_afterwards: bool,
        context: &Context,
    ) -> Result<(), CliError> {
        let ui = context.ui;
        for (name, looked, status) in &mut self.found {
            let Ok(checkout) = looked else { continue };
            if *status != "newer" {
                continue;
            }
            let pulled = block_on(Threads::One, async { Ok(git::pull(checkout, rebase).await) })?;
            if let Err(error) = pulled {
                ui.warning(clean(&format!("`{name}` is not updated: {}", with_sources(&error))));
                (*status, *looked) = ("failed", Err(error));
                continue;
            }
            *status = "updated";
            ui.note(format!("Server `{name}` is updated."));
            let Some(line) = &checkout.afterwards else { continue };
            let agreed = run_afterwards
                || (ui.may_ask() && ui.confirm(&clean(&format!("Run `{line}` there now?")))?);
            if !agreed {
                let folder = checkout.folder.display();
                ui.warning(clean(&format!("`{line}` was not run in {folder}")));
                continue;
            }
            let finished = block_on(Threads::One, async { Ok(git::finish(checkout).await) })?;
            if let Err(error) = finished {
                ui.warning(clean(&with_sources(&error)));
                (*status, *looked) = ("failed", Err(error));
            }
        }
        Ok(())
    }

    /// Says what became of them.
    pub(super) fn told(&self) -> Vec<Told> {
        let tell = |(name, looked, status): &Found| match looked {
            Ok(checkout) => Told {
                server: name.clone(),
                status,
                details: json!({
                    "registry": "git",
                    "path": checkout.folder.display().to_string(),
                    "behind": checkout.behind,
                }),
            },
            Err(error) => failed(name, error),
        };
        self.found.iter().map(tell).collect()
    }
}

/// Notes the checkouts that servers run from. What to run after an update is asked for, and never
/// noted by itself.
pub(super) fn init(names: &[String], paths: &Paths, context: &Context) -> Result<(), CliError> {
    let ui = context.ui;
    let global = GlobalConfigManager::open(paths)?;
    let mut sources = Sources::open(paths)?;
    let mut noted: Vec<Value> = Vec::new();
    for name in names {
        if sources.get(name).is_some_and(|source| source["type"] == "git") {
            continue;
        }
        let server = global.server(name)?;
        let found = block_on(Threads::One, async { Ok(git::describe(&server).await) })?;
        let Some(mut source) = found else { continue };
        let folder = source["path"].as_str().unwrap_or_default().to_owned();
        if ui.may_ask() {
            let usual = git::usual(std::path::Path::new(&folder)).unwrap_or_default();
            let line = ui.ask_with(
                &clean(&format!(
                    "`{name}`: what to run in {folder} after an update (may be empty)"
                )),
                usual,
            )?;
            if !line.trim().is_empty() {
                source["post_update"] = line.trim().into();
            }
        }
        sources.put(name, &source)?;
        ui.note(clean(&format!("Server `{name}` runs from {folder}.")));
        noted.push(json!({ "server": name, "source": source }));
    }
    if ui.is_json() {
        ui.json(&json!({ "event": "noted", "servers": noted }));
    } else if noted.is_empty() {
        ui.note("No other server runs from a Git checkout.");
    }
    Ok(())
}
