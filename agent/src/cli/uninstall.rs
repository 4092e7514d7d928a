//! `mcpm uninstall`: takes a server away.

use serde_json::json;

use super::error::CliError;
use super::{Context, JsonArg, env};
use crate::app::clients;
use crate::app::install::uninstall;
use crate::clients::Places;
use crate::config::GlobalConfigManager;

/// Remove an installed server
///
/// It leaves its profiles with it, and its login is forgotten.
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
    let paths = context.paths()?;
    let ui = context.ui;
    let name = &args.name;
    let global = GlobalConfigManager::open(&paths)?;
    if global.has(name) && !args.force && ui.may_ask() {
        let profiles = global.profiles_of(name);
        if !profiles.is_empty() {
            ui.note(format!("`{name}` is in {}.", profiles.join(", ")));
        }
        if !ui.confirm(&format!("Remove server `{name}`?"))? {
            ui.note("Nothing has changed.");
            return Ok(());
        }
    }
    let removed = uninstall(&paths, name)?;
    let clients = env::places().map(|places| starting(name, &places)).unwrap_or_default();
    if ui.is_json() {
        ui.json(&json!({
            "event": "removed",
            "server": name,
            "profiles": removed.profiles,
            "login": removed.login,
            "clients": clients,
        }));
        return Ok(());
    }
    ui.note(format!("Server `{name}` is removed."));
    if !removed.profiles.is_empty() {
        ui.note(format!("It was in {}.", removed.profiles.join(", ")));
    }
    if removed.login {
        ui.note("The login to it is forgotten.");
    }
    for client in clients {
        let command = format!("mcpm client edit {client} --remove-server {name}");
        ui.warning(format!("{client} still starts it; take it out with `{command}`"));
    }
    Ok(())
}

/// Returns the clients that start a server through mcpm. What they would start may be the server of
/// this name in another folder of mcpm's files, so they are told of and not changed.
fn starting(server: &str, places: &Places) -> Vec<&'static str> {
    let clients = clients::list(places).unwrap_or_default();
    let starts = clients.iter().filter(|status| status.servers().any(|name| name == server));
    starts.map(|status| status.client.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::Home;
    use crate::clients::Os;

    /// Defect 25 of the Python `mcpm`: nobody heard of the clients that went on starting a server
    /// which was gone.
    #[test]
    fn defect_25_clients_that_still_start_an_uninstalled_server_are_named() {
        let home = Home::new();
        let folder = home.paths.dir().join(".cursor");
        std::fs::create_dir(&folder).unwrap();
        let entry =
            r#"{"mcpServers": {"mcpm_time": {"command": "mcpm", "args": ["run", "time"]}}}"#;
        std::fs::write(folder.join("mcp.json"), entry).unwrap();
        let places = Places {
            os: Os::Linux,
            home: home.paths.dir().to_owned(),
            app_data: None,
            xdg_config: None,
            project: home.paths.dir().join("project"),
            path: Vec::new(),
        };
        assert_eq!(starting("time", &places), ["cursor"]);
        assert_eq!(starting("other", &places), [""; 0]);
    }
}
