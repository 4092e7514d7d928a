//! `mcpm uninstall`: takes a server away.

use serde_json::json;

use super::error::CliError;
use super::follow::{Change, end_shares, follow, starting};
use super::{Context, JsonArg, env, secret};
use crate::app::install::uninstall;
use crate::clients::{Places, Target};
use crate::config::GlobalConfigManager;
use crate::credentials::ShareTarget;

/// Remove an installed server
///
/// It leaves its profiles with it; its login, its bundle and what only it has in the keyring are
/// forgotten, and the tokens of its shares revoked. Clients that start it are named, and changed if you agree, or with --force.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The server, as `mcpm ls` shows it
    name: String,
    /// Do not ask
    #[arg(short, long, env = "MCPM_FORCE", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    force: bool,
    #[command(flatten)]
    json: JsonArg,
}

impl Args {
    pub(super) fn json(&self) -> bool {
        self.json.json
    }
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    run_at(args, context, &env::places()?)
}

/// The same on a machine whose folders are given.
fn run_at(args: &Args, context: &Context, places: &Places) -> Result<(), CliError> {
    let paths = context.paths()?;
    let ui = context.ui;
    let name = &args.name;
    let target = Target::Server(name.clone());
    let global = GlobalConfigManager::open(&paths)?;
    if global.has(name) && !args.force && !ui.may_ask() && !ui.must_not_ask() {
        return Err(CliError::usage("there is nobody to ask whether to remove the server")
            .with_hint("Say so with --force"));
    }
    if global.has(name) && !args.force && ui.may_ask() {
        let profiles = global.profiles_of(name);
        if !profiles.is_empty() {
            ui.note(format!("`{name}` is in {}.", profiles.join(", ")));
        }
        let clients = starting(&target, &paths, places);
        if !clients.is_empty() {
            ui.note(format!("Clients start it: {}.", clients.join(", ")));
        }
        if !ui.confirm(&format!("Remove server `{name}`?"))? {
            ui.note("Nothing has changed.");
            return Ok(());
        }
    }
    // First, since a failure in the midst should leave nothing that opens.
    let shares = match global.has(name) {
        true => end_shares(&ShareTarget::Server(name.clone()), &paths, context)?,
        false => Vec::new(),
    };
    let removed = uninstall(&paths, name)?;
    ui.note(format!("Server `{name}` is removed."));
    if !removed.profiles.is_empty() {
        ui.note(format!("It was in {}.", removed.profiles.join(", ")));
    }
    if removed.login {
        ui.note("The login to it is forgotten.");
    }
    let secrets = secret::forget(&removed.secrets, context);
    if !secrets.is_empty() {
        ui.note("What it had in the keyring is forgotten.");
    }
    let change = Change { before: &target, now: None };
    let clients = follow(change, args.force, &paths, places, context)?;
    if ui.is_json() {
        ui.json(&json!({
            "event": "removed",
            "server": name,
            "profiles": removed.profiles,
            "login": removed.login,
            "secrets": secrets,
            "shares": shares,
            "clients": clients.left,
            "clients_changed": clients.changed,
        }));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::Home;
    use crate::cli::ui::Ui;
    use crate::clients::Os;

    /// A home with one server, and two clients that start a server of this name: one the server of
    /// this home, and one perhaps that of another.
    fn desk() -> (Home, Places) {
        let home = Home::new();
        home.write("servers.json", r#"{"time": {"command": "x"}}"#);
        let dir = home.paths.dir();
        let entry = |env: serde_json::Value| {
            json!({"mcpServers": {
                "own": {"command": "y"},
                "mcpm_time": {"command": "mcpm", "args": ["run", "time", "--warm"], "env": env},
            }})
        };
        for (folder, file, env) in [
            (".cursor", "mcp.json", json!({"MCPM_CONFIG_DIR": dir})),
            (".kiro/settings", "mcp.json", json!({})),
        ] {
            std::fs::create_dir_all(dir.join(folder)).unwrap();
            std::fs::write(dir.join(folder).join(file), entry(env).to_string()).unwrap();
        }
        let places = Places {
            os: Os::Linux,
            home: dir.to_owned(),
            app_data: None,
            xdg_config: None,
            project: dir.join("project"),
            path: Vec::new(),
        };
        (home, places)
    }

    fn uninstall_with(force: bool) -> (Home, Places) {
        let (home, places) = desk();
        let args = Args { name: "time".to_owned(), force, json: JsonArg::default() };
        let context = Context { ui: Ui::new(true, true).never_asking(), ..home.context() };
        run_at(&args, &context, &places).unwrap();
        assert_eq!(home.read("servers.json"), "{}");
        (home, places)
    }

    /// Defect 25 of the Python `mcpm`: nobody heard of the clients that went on starting a server
    /// which was gone.
    #[test]
    fn defect_25_force_takes_an_uninstalled_server_out_of_the_clients_that_start_it() {
        let (home, places) = uninstall_with(true);
        assert!(!home.read(".cursor/mcp.json").contains("mcpm_time"));
        assert!(home.read(".cursor/mcp.json").contains("own"));
        // What may be a server of another home is told of, and left alone.
        let target = Target::Server("time".to_owned());
        assert_eq!(starting(&target, &home.paths, &places), ["kiro"]);
    }

    #[test]
    fn where_nobody_can_be_asked_nothing_goes_unless_that_was_said() {
        let (home, places) = desk();
        let args = Args { name: "time".to_owned(), force: false, json: JsonArg::default() };
        assert_eq!(run_at(&args, &home.context(), &places).unwrap_err().exit(), 2);
        assert!(home.read("servers.json").contains("time"));
    }

    #[test]
    fn clients_that_nobody_spoke_of_are_told_of_and_not_changed() {
        let (home, places) = uninstall_with(false);
        let target = Target::Server("time".to_owned());
        assert_eq!(starting(&target, &home.paths, &places), ["cursor", "kiro"]);
    }

    #[test]
    fn a_renamed_server_is_started_under_its_new_name_with_all_that_was_said() {
        let (home, places) = desk();
        let (before, now) = (Target::Server("time".to_owned()), Target::Server("t".to_owned()));
        let change = Change { before: &before, now: Some(&now) };
        let followed = follow(change, true, &home.paths, &places, &home.context()).unwrap();
        assert_eq!((followed.changed, followed.left), (vec!["cursor"], vec!["kiro"]));
        let text = home.read(".cursor/mcp.json");
        let entries: serde_json::Value = serde_json::from_str(&text).unwrap();
        let entry = &entries["mcpServers"]["mcpm_t"];
        assert_eq!(entry["args"], json!(["run", "t", "--warm"]), "{text}");
        assert_eq!(entry["env"]["MCPM_CONFIG_DIR"], json!(home.paths.dir()));
        assert!(entries["mcpServers"]["mcpm_time"].is_null(), "{text}");
    }
}
