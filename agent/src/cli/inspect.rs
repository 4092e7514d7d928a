//! `mcpm inspect`: the MCP Inspector on a server, or on a profile.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use serde_json::json;

use super::error::CliError;
use super::run::PORT;
use super::{Context, JsonArg, env};
use crate::app::inspect::{Face, Invocation, Subject, find, inspector, inspector_at, server};
use crate::config::GlobalConfigManager;
use crate::gateway::listen;

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
    /// Serve it over Streamable HTTP meanwhile, and let the Inspector connect to that
    #[arg(long, group = "face")]
    http: bool,
    /// The same over HTTP+SSE
    #[arg(long, group = "face")]
    sse: bool,
    /// Port to serve it on, with --http or --sse [default: 6276, or the next that is free up to
    /// 6285]
    #[arg(long, requires = "face")]
    port: Option<u16>,
    /// Address to serve it on, with --http or --sse
    #[arg(long, default_value = "127.0.0.1", requires = "face")]
    host: String,
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

    fn face(&self) -> Face {
        match (self.http, self.sse) {
            (false, false) => Face::Stdio,
            (true, _) => Face::Http,
            (_, true) => Face::Sse,
        }
    }

    /// Returns how to serve the subject; none where the Inspector starts it itself.
    fn server(&self, subject: &Subject, mcpm: &Path, dir: Option<&Path>) -> Option<Invocation> {
        let face = self.face();
        if face == Face::Stdio {
            return None;
        }
        let mut made = server(subject, mcpm, dir, face);
        made.args.push(format!("--host={}", self.host).into());
        made.args.extend(self.port.map(|port| format!("--port={port}").into()));
        Some(made)
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
    let server = options.server(subject, &mcpm, dir.as_deref());
    if server.is_some() && *subject == Subject::Nothing {
        return Err(CliError::usage("there is nothing to serve over HTTP")
            .with_hint("Name a server; without one the Inspector starts empty"));
    }
    let invocation = match &server {
        None => inspector(subject, &mcpm, dir.as_deref()),
        Some(_) => inspector_at(&options.expected_url(), options.face()),
    };
    let ui = context.ui;
    if ui.is_json() {
        let json = |it: &Invocation| {
            let words = it.words();
            json!({ "command": words[0], "args": words[1..] })
        };
        let mut told = json(&invocation);
        if let Some(server) = &server {
            told["server"] = json(server);
        }
        ui.json(&told);
        return Ok(ExitCode::SUCCESS);
    }
    if options.dry_run {
        for invocation in server.iter().chain([&invocation]) {
            ui.result(invocation.words().join(" "));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let npx = find(&invocation.program, &env::path()).ok_or_else(|| {
        CliError::user("no_npx", "the Inspector needs `npx`, which is not there")
            .with_hint("Install Node.js, which brings `npx`, from https://nodejs.org")
    })?;
    let Some(server) = server else {
        ui.note("Starting the MCP Inspector; press Ctrl-C to stop.");
        return start(npx, &invocation);
    };
    let (served, url) = Served::start(&server)?;
    ui.note(format!("Serving {url}, and starting the MCP Inspector; press Ctrl-C to stop."));
    let code = wait_for(npx, &inspector_at(&url, options.face()));
    drop(served);
    code
}

impl Options {
    /// Returns the URL of what is served, where nothing else is in the way.
    fn expected_url(&self) -> String {
        let path = if self.sse { listen::SSE_PATH } else { listen::PATH };
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("http://{host}:{}{path}", self.port.unwrap_or(PORT))
    }
}

/// A server that is served for as long as this is held, and no longer than this process lives: it
/// ends with its stdin.
struct Served(Child);

impl Served {
    /// Starts it and waits for its URL.
    fn start(server: &Invocation) -> Result<(Self, String), CliError> {
        let failed = |text: String| CliError::user("inspector", text);
        let mut command = Command::new(&server.program);
        command.args(&server.args).arg("--until-stdin-ends");
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let child = child.map_err(|error| failed(format!("cannot start the server: {error}")))?;
        let mut served = Self(child);
        let mut url = String::new();
        if let Some(stdout) = served.0.stdout.take() {
            // A read that fails is one that brings nothing.
            drop(BufReader::new(stdout).read_line(&mut url));
        }
        match url.trim() {
            // It said why on stderr, which is ours too.
            "" => Err(failed("the server could not be served".to_owned())),
            url => Ok((served, url.to_owned())),
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Waiting closes its stdin first.
        drop(self.0.wait());
    }
}

/// Runs the Inspector to its end.
fn wait_for(npx: PathBuf, invocation: &Invocation) -> Result<ExitCode, CliError> {
    let status = Command::new(npx).args(&invocation.args).status();
    let status = status.map_err(|error| {
        CliError::user("inspector", format!("cannot start the Inspector: {error}"))
    })?;
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(ExitCode::from(code))
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
    wait_for(npx, invocation)
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
        home.run(&["profile", "inspect", "work", "--http", "--port", "1", "--dry-run"]).unwrap();
        home.run(&["profile", "inspect", "work", "--server", "a", "--sse", "--json"]).unwrap();
        let exit = |args: &[&str]| home.run(args).unwrap_err().exit();
        assert_eq!(exit(&["profile", "inspect", "work", "--server", "b", "--json"]), 1);
        assert_eq!(exit(&["inspect", "--http", "--json"]), 2);
        for ignored in [
            &["inspect", "a", "--port", "7000", "--dry-run"][..],
            &["profile", "inspect", "work", "--host", "::1", "--dry-run"],
            &["run", "a", "--port", "7000"],
            &["profile", "run", "work", "--host", "0.0.0.0"],
            &["profile", "run", "work", "--isolation", "shared"],
        ] {
            assert_eq!(exit(ignored), 2, "{ignored:?}");
        }
        assert_eq!(home.run(&["inspect", "b", "--dry-run"]).unwrap_err().exit(), 1);
        assert_eq!(home.run(&["profile", "inspect", "b", "--json"]).unwrap_err().exit(), 1);
    }
}
