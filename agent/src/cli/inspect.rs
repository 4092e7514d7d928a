//! `mcpm inspect`: the MCP Inspector on a server, or on a profile.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use serde_json::json;

use super::error::CliError;
use super::{Context, JsonArg, env};
use crate::app::inspect::{Invocation, Subject, find, inspector};
use crate::config::GlobalConfigManager;

/// Look at a server with the MCP Inspector, a program from npm
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The server, as `mcpm ls` shows it; without one the Inspector starts empty
    server: Option<String>,
    #[command(flatten)]
    options: Options,
}

/// How to start the Inspector.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Print the command instead of running it; --json prints it as JSON
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    json: JsonArg,
}

impl Args {
    pub(super) fn json(&self) -> bool {
        self.options.json()
    }
}

impl Options {
    pub(super) fn json(&self) -> bool {
        self.json.json
    }
}

pub(super) fn run(args: Args, context: &Context) -> Result<ExitCode, CliError> {
    let subject = match args.server {
        Some(name) => {
            GlobalConfigManager::open(&context.paths()?)?.server(&name)?;
            Subject::Server(name)
        }
        None => Subject::Nothing,
    };
    inspect(&subject, &args.options, context)
}

/// Starts the Inspector, or tells how to.
pub(super) fn inspect(
    subject: &Subject,
    options: &Options,
    context: &Context,
) -> Result<ExitCode, CliError> {
    let mcpm = std::env::current_exe()
        .map_err(|error| CliError::internal(format!("cannot find this program: {error}")))?;
    let dir = context.config_dir.as_deref().map(std::path::absolute).transpose();
    let dir =
        dir.map_err(|error| CliError::user("file", format!("cannot use the folder: {error}")))?;
    let invocation = inspector(subject, &mcpm, dir.as_deref());
    let ui = context.ui;
    if ui.is_json() {
        let words = invocation.words();
        ui.json(&json!({ "command": words[0], "args": words[1..] }));
        return Ok(ExitCode::SUCCESS);
    }
    if options.dry_run {
        ui.result(invocation.words().join(" "));
        return Ok(ExitCode::SUCCESS);
    }
    let npx = find(&invocation.program, &env::path()).ok_or_else(|| {
        CliError::user("no_npx", "the Inspector needs `npx`, which is not there")
            .with_hint("Install Node.js, which brings `npx`, from https://nodejs.org")
    })?;
    ui.note("Starting the MCP Inspector; press Ctrl-C to stop.");
    start(npx, &invocation)
}

/// Becomes the Inspector: its terminal, its signals and its exit code.
#[cfg(unix)]
fn start(npx: PathBuf, invocation: &Invocation) -> Result<ExitCode, CliError> {
    use std::os::unix::process::CommandExt as _;
    let error = Command::new(npx).args(&invocation.args).exec();
    Err(CliError::user("inspector", format!("cannot start the Inspector: {error}")))
}

#[cfg(not(unix))]
fn start(npx: PathBuf, invocation: &Invocation) -> Result<ExitCode, CliError> {
    let status = Command::new(npx).args(&invocation.args).status();
    let status = status.map_err(|error| {
        CliError::user("inspector", format!("cannot start the Inspector: {error}"))
    })?;
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(ExitCode::from(code))
}

#[cfg(test)]
mod tests {
    use crate::cli::testing::Home;

    #[test]
    fn the_command_is_shown_for_servers_and_profiles_that_exist() {
        let home = Home::new();
        home.write("servers.json", r#"{"a": {"command": "x", "profile_tags": ["work"]}}"#);
        home.run(&["inspect", "a", "--dry-run"]).unwrap();
        home.run(&["inspect", "--json"]).unwrap();
        home.run(&["profile", "inspect", "work", "--dry-run"]).unwrap();
        assert_eq!(home.run(&["inspect", "b", "--dry-run"]).unwrap_err().exit(), 1);
        assert_eq!(home.run(&["profile", "inspect", "b", "--json"]).unwrap_err().exit(), 1);
    }
}
