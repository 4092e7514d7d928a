//! `mcpm migrate`: from mcpm 1 to this one.

use serde_json::{Value, json};

use super::error::CliError;
use super::{Context, ForceArg, JsonArg};
use crate::app::migrate::Migration;
use crate::config::v1::{Migrated, Moved};

/// Move profiles and servers of mcpm 1 here; its files are kept below `backups`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Bring stashed servers back, without a profile
    #[arg(long)]
    restore_stashed: bool,
    #[command(flatten)]
    force: ForceArg,
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
    let ui = context.ui;
    let Some(migration) = Migration::find(&paths, args.restore_stashed)? else {
        if ui.is_json() {
            ui.json(&json!({ "event": "nothing" }));
        }
        ui.note("There is nothing of mcpm 1 here.");
        return Ok(());
    };
    if args.dry_run || !args.force.force {
        show(&migration.plan, context);
    }
    if args.dry_run {
        if ui.is_json() {
            ui.json(&to_json("planned", &migration.plan));
        }
        return Ok(());
    }
    if !args.force.force {
        if !ui.may_ask() {
            return Err(CliError::usage("there is nobody to ask whether to migrate")
                .with_hint("Look with --dry-run, and say yes with --force"));
        }
        if !ui.confirm("Move all this now?")? {
            ui.note("Nothing has changed.");
            return Ok(());
        }
    }
    let (done, backup) = migration.run(&paths, args.restore_stashed)?;
    if ui.is_json() {
        let mut value = to_json("migrated", &done);
        value["backup"] = backup.display().to_string().into();
        ui.json(&value);
    }
    done.notes.iter().for_each(|note| ui.note(format!("Note: {note}.")));
    ui.note(format!("Done. The files of mcpm 1 are in {}.", backup.display()));
    Ok(())
}

fn show(plan: &Migrated, context: &Context) {
    let ui = context.ui;
    for profile in &plan.profiles {
        ui.note(format!("profile {profile}"));
        for moved in plan.servers.iter().filter(|moved| moved.profile.as_ref() == Some(profile)) {
            ui.note(format!("    {}", in_words(moved)));
        }
    }
    for moved in plan.servers.iter().filter(|moved| moved.profile.is_none()) {
        ui.note(format!("stashed {}", in_words(moved)));
    }
    for stashed in &plan.stashed {
        ui.note(format!("stashed {stashed}: kept in a file of its own"));
    }
}

fn in_words(Moved { was, name, .. }: &Moved) -> String {
    if was == name {
        name.clone()
    } else {
        format!("{was}, as {name}: another server has its name")
    }
}

fn to_json(event: &str, done: &Migrated) -> Value {
    let server = |Moved { was, name, profile }: &Moved| json!({ "name": name, "was": was, "profile": profile });
    json!({
        "event": event,
        "servers": done.servers.iter().map(server).collect::<Value>(),
        "profiles": done.profiles,
        "stashed": done.stashed,
        "notes": done.notes,
    })
}

#[cfg(test)]
mod tests {
    use crate::cli::testing::Home;

    #[test]
    fn a_migration_is_shown_first_and_done_when_told_to() {
        let home = Home::new();
        home.run(&["migrate"]).unwrap();
        home.write(
            "profiles.json",
            r#"{"work": [{"name": "far", "url": "https://x.example/mcp"}]}"#,
        );
        home.run(&["migrate", "--dry-run"]).unwrap();
        assert_eq!(home.run(&["migrate"]).unwrap_err().exit(), 2);
        assert!(!home.paths.servers().exists());
        home.run(&["migrate", "--force", "--json"]).unwrap();
        assert!(home.read("servers.json").contains("https://x.example/mcp"));
        assert!(!home.paths.v1_profiles().exists());
    }
}
