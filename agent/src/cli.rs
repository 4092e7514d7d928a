//! The command line: what users type, and the way from there to the use cases of `app`.
//!
//! Only `ui` prints. Commands that need no network start no runtime.

mod background;
mod browser;
mod client;
mod completions;
mod config;
mod connect;
mod demo;
mod doctor;
mod edit;
mod editor;
mod env;
mod error;
mod fields;
mod follow;
mod info;
mod inspect;
mod install;
mod keys;
mod line;
mod live;
mod login;
mod logs;
mod ls;
mod mcp;
mod migrate;
mod new;
mod older;
mod panel;
mod pick;
mod profile;
mod registry;
mod relay;
mod router;
mod run;
mod search;
mod secret;
mod servers;
mod share;
mod shares;
mod shown;
mod snippets;
mod table;
mod time;
mod token;
mod tunnel;
mod ui;
mod uninstall;
mod unshare;
mod update;
mod usage;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::{FalseyValueParser, OsStringValueParser, TypedValueParser as _};
use clap::{Args as _, CommandFactory as _, Parser};
use mcpm_shared::telemetry::{self, LogFormat};
use mcpm_shared::workers::Workers;

use self::error::CliError;
use self::ui::Ui;
use crate::fs::Paths;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "mcpm", version, about, disable_version_flag = true, max_term_width = 100)]
struct Cli {
    /// Print version
    #[arg(short = 'V', short_alias = 'v', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Options of every command.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// Folder of mcpm's files [default: ~/.config/mcpm]
    #[arg(
        long,
        global = true,
        env = "MCPM_CONFIG_DIR",
        value_name = "DIR",
        hide_env_values = true,
        value_parser = OsStringValueParser::new().try_map(folder)
    )]
    config_dir: Option<PathBuf>,
    /// What to log to stderr, as tracing directives [default: warn]
    #[arg(long, global = true, env = "MCPM_LOG", value_name = "FILTER", hide_env_values = true)]
    log: Option<String>,
    /// Log at level debug
    #[arg(long, global = true, env = "MCPM_DEBUG", hide = true, value_parser = FalseyValueParser::new())]
    debug: bool,
    /// Never ask anything
    #[arg(long, global = true, env = "MCPM_NON_INTERACTIVE", hide_env_values = true, value_parser = FalseyValueParser::new())]
    non_interactive: bool,
}

/// Takes the name of a folder. An empty one is likelier a variable that is not set than a wish.
fn folder(name: OsString) -> Result<PathBuf, &'static str> {
    match name.is_empty() {
        true => Err("it is empty; name a folder, or leave out the option and MCPM_CONFIG_DIR"),
        false => Ok(name.into()),
    }
}

/// The switch of commands that can speak to machines.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
struct JsonArg {
    /// Print JSON instead of text
    #[arg(long, env = "MCPM_JSON_OUTPUT", hide_env_values = true, value_parser = FalseyValueParser::new())]
    json: bool,
}

/// The switch of commands that would ask or refuse without it.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
struct ForceArg {
    /// Go ahead without asking, also where something is replaced or forgotten
    #[arg(long, env = "MCPM_FORCE", hide_env_values = true, value_parser = FalseyValueParser::new())]
    force: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Run(run::Args),
    Share(share::Args),
    Tunnel(tunnel::Args),
    Shares(shares::Args),
    Unshare(unshare::Args),
    Connect(connect::Args),
    Router(router::Args),
    Search(search::Args),
    Info(info::Args),
    Install(install::Args),
    Uninstall(uninstall::Args),
    Update(update::Args),
    Ls(ls::Args),
    Client(client::Args),
    New(new::Args),
    Edit(edit::Args),
    Inspect(inspect::Args),
    Login(login::Args),
    Logout(login::LogoutArgs),
    Profile(profile::Args),
    Logs(logs::Args),
    Usage(usage::Args),
    Token(token::Args),
    Relay(relay::Args),
    Mcp(mcp::Args),
    Config(config::Args),
    Doctor(doctor::Args),
    Migrate(migrate::Args),
    Demo(demo::Args),
    Completions(completions::Args),
    /// Kill the child processes of an agent that died (started by the agent itself)
    #[command(hide = true)]
    Guard,
    /// Serve the built-in demo MCP server over stdio
    #[command(hide = true)]
    DemoServer,
}

impl Command {
    fn json(&self) -> bool {
        match self {
            Self::Share(args) => args.json(),
            Self::Tunnel(args) => args.json(),
            Self::Shares(args) => args.json(),
            Self::Unshare(args) => args.json(),
            Self::Connect(args) => args.json(),
            Self::Router(args) => args.json(),
            Self::Search(args) => args.json(),
            Self::Info(args) => args.json(),
            Self::Install(args) => args.json(),
            Self::Uninstall(args) => args.json(),
            Self::Update(args) => args.json(),
            Self::Ls(args) => args.json(),
            Self::Client(args) => args.json(),
            Self::New(args) => args.json(),
            Self::Edit(args) => args.json(),
            Self::Inspect(args) => args.json(),
            Self::Config(args) => args.json(),
            Self::Doctor(args) => args.json(),
            Self::Migrate(args) => args.json(),
            Self::Login(args) => args.json(),
            Self::Logout(args) => args.json(),
            Self::Profile(args) => args.json(),
            Self::Logs(args) => args.json(),
            Self::Usage(args) => args.json(),
            Self::Token(args) => args.json(),
            Self::Relay(args) => args.json(),
            Self::Demo(args) => args.json(),
            Self::Mcp(_) | Self::Run(_) | Self::Completions(_) | Self::Guard | Self::DemoServer => {
                false
            }
        }
    }
}

/// What every command gets.
#[derive(Debug)]
struct Context {
    ui: Ui,
    config_dir: Option<PathBuf>,
}

impl Context {
    /// Returns the places of our files.
    fn paths(&self) -> Result<Paths, CliError> {
        match &self.config_dir {
            Some(dir) => Ok(Paths::new(dir)),
            None => Ok(Paths::of_user()?),
        }
    }
}

/// Runs one command line and returns its exit code: 0 done, 1 the user can mend it, 2 usage,
/// 70 our fault, 128 + N for `run` ended by signal N.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => {
            if let Some(error) = older(&error, &args) {
                Ui::new(false, false).error(&error);
                return ExitCode::from(error.exit());
            }
            // `--help` and `--version` come this way too; clap knows where each belongs.
            let _gone = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let Some(command) = cli.command else {
        let _gone = Cli::command().print_help();
        return ExitCode::SUCCESS;
    };
    let ui = Ui::new(command.json(), !env::is_ci());
    let ui = if cli.global.non_interactive { ui.never_asking() } else { ui };
    match dispatch(command, cli.global, ui) {
        Ok(code) => code,
        Err(error) => {
            ui.error(&error);
            ExitCode::from(error.exit())
        }
    }
}

/// Returns what to say of a command that only mcpm 1 had. A word below a command of ours is none of
/// them.
fn older(error: &clap::Error, args: &[OsString]) -> Option<CliError> {
    if error.kind() != clap::error::ErrorKind::InvalidSubcommand {
        return None;
    }
    let any = Global::augment_args(clap::Command::new("mcpm")).allow_external_subcommands(true);
    older::replaced(any.try_get_matches_from(args).ok()?.subcommand_name()?)
}

fn dispatch(command: Command, global: Global, ui: Ui) -> Result<ExitCode, CliError> {
    let default = match env::log_level() {
        _ if global.debug => "warn,mcpm=debug,mcpm_shared=debug",
        Some(level) => level,
        None => "warn",
    };
    let filter = global.log.as_deref().unwrap_or(default);
    telemetry::init(LogFormat::Text, filter)
        .map_err(|error| CliError::usage(error.to_string()).with_hint("Try `--log debug`"))?;
    execute(command, &Context { ui, config_dir: global.config_dir })
}

fn execute(command: Command, context: &Context) -> Result<ExitCode, CliError> {
    let done = |()| ExitCode::SUCCESS;
    match command {
        Command::Run(args) => run::run(args, context),
        Command::Share(args) => share::run(args, context).map(done),
        Command::Tunnel(args) => tunnel::run(args, context).map(done),
        Command::Shares(_) => shares::run(context).map(done),
        Command::Unshare(args) => unshare::run(&args, context).map(done),
        Command::Connect(args) => connect::run(&args, context).map(done),
        Command::Router(args) => router::run(args, context).map(done),
        Command::Search(args) => search::run(&args, context).map(done),
        Command::Info(args) => info::run(&args, context).map(done),
        Command::Install(args) => install::run(&args, context).map(done),
        Command::Uninstall(args) => uninstall::run(&args, context).map(done),
        Command::Update(args) => update::run(&args, context),
        Command::Ls(args) => ls::run(&args, context).map(done),
        Command::Client(args) => client::run(args, context).map(done),
        Command::New(args) => new::run(args, context).map(done),
        Command::Edit(args) => edit::run(args, context).map(done),
        Command::Inspect(args) => inspect::run(args, context),
        Command::Mcp(args) => mcp::run(args, context).map(done),
        Command::Config(args) => config::run(args, context).map(done),
        Command::Doctor(args) => doctor::run(args, context),
        Command::Migrate(args) => migrate::run(&args, context).map(done),
        Command::Login(args) => login::run(args, context),
        Command::Logout(args) => login::logout(&args, context).map(done),
        Command::Profile(args) => profile::run(args, context),
        Command::Logs(args) => logs::run(&args, context).map(done),
        Command::Usage(args) => usage::run(args, context).map(done),
        Command::Token(args) => token::run(args, context).map(done),
        Command::Relay(args) => relay::run(args, context).map(done),
        Command::Demo(args) => demo::run(args, context).map(done),
        Command::Completions(args) => {
            completions::run(&args, context);
            Ok(ExitCode::SUCCESS)
        }
        Command::Guard => Ok(crate::gateway::guard::run_guard()),
        Command::DemoServer => run::demo_server().map(done),
    }
}

/// How long a thread that reads and writes files waits for more of it.
const IDLE_THREAD: Duration = Duration::from_secs(1);
/// Less where there may be shares: a thread that has nothing to do keeps a heap. Those that look at files
/// stay by themselves (`app/share/clerks.rs`).
const IDLE_BESIDE_SHARES: Duration = Duration::from_millis(100);

/// How many threads a command deserves.
#[derive(Clone, Copy, Debug)]
enum Threads {
    /// One: a pipe between two processes.
    One,
    /// As many as there are processors, those that the load does not need asleep.
    Many,
}

/// Runs a command that waits for something.
///
/// The end does not wait for a thread that still reads stdin: nobody may ever write there.
fn block_on<T>(
    threads: Threads,
    work: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    let (mut builder, idle) = match threads {
        Threads::One => (tokio::runtime::Builder::new_current_thread(), IDLE_THREAD),
        Threads::Many => (tokio::runtime::Builder::new_multi_thread(), IDLE_BESIDE_SHARES),
    };
    let runtime = builder
        .enable_all()
        .thread_keep_alive(idle)
        .build()
        .map_err(|error| CliError::internal(format!("cannot start the runtime: {error}")))?;
    let workers = Workers::govern(runtime.handle());
    // Boxed: on the stack of the main thread each function that it is handed to would keep room for it.
    let result = runtime.block_on(Box::pin(work));
    drop(workers);
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod hints;
#[cfg(test)]
mod life;
#[cfg(test)]
mod parity;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod testing;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_of_every_command_is_as_agreed() {
        let mut root = Cli::command().term_width(100);
        root.build();
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path("cli/snapshots");
        settings.set_prepend_module_to_snapshot(false);
        settings.bind(|| snapshot(&root, "help"));
    }

    fn snapshot(command: &clap::Command, name: &str) {
        let help = command.clone().term_width(100).render_long_help().to_string();
        insta::assert_snapshot!(name, help);
        for child in command.get_subcommands().filter(|child| child.get_name() != "help") {
            snapshot(child, &format!("{name}-{}", child.get_name()));
        }
    }

    #[test]
    fn a_word_of_mcpm_1_is_explained_only_where_a_command_stands() {
        let said = |words: &[&str]| {
            let args: Vec<OsString> =
                ["mcpm"].iter().chain(words).map(|word| OsString::from(*word)).collect();
            let error = Cli::try_parse_from(&args).unwrap_err();
            older(&error, &args).map(|error| error.to_string())
        };
        for words in [&["list"] as &[_], &["--config-dir", "x", "list"], &["list", "--all"]] {
            assert!(said(words).unwrap().contains("mcpm list"), "{words:?}");
        }
        for words in [&["profile", "list"] as &[_], &["profile", "remove", "work"], &["lst"]] {
            assert_eq!(said(words), None, "{words:?}");
        }
    }

    #[test]
    fn version_is_one_line() {
        for flag in ["--version", "-V", "-v"] {
            let error = Cli::try_parse_from(["mcpm", flag]).unwrap_err();
            assert_eq!(error.to_string(), format!("mcpm {}\n", env!("CARGO_PKG_VERSION")));
            assert_eq!(error.exit_code(), 0);
        }
    }

    #[test]
    fn secrets_cannot_be_given_on_the_command_line() {
        let parse = |args: &[&str]| Cli::try_parse_from([&["mcpm"], args].concat());
        assert!(parse(&["relay", "login", "relay.example", "--secret", "x"]).is_err());
        assert!(parse(&["relay", "login", "relay.example", "--token", "x"]).is_err());
        assert!(parse(&["share", "time", "--token", "x"]).is_err());
        assert!(parse(&["login", "far", "--client-id", "a", "--client-secret", "x"]).is_err());
    }
}
