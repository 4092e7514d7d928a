//! `mcpm profile`: groups of servers, each served as one.

mod change;
mod ls;

use std::process::ExitCode;

use super::error::CliError;
use super::{Context, fields, inspect, run, share};
use crate::app::inspect::Subject;
use crate::app::serving::Serving;
use crate::config::{GlobalConfigManager, ProfileConfigManager};
use crate::credentials::ShareTarget;
use crate::gateway::Isolation;
use crate::model::Server;

/// Work with profiles
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Ls(ls::Args),
    Create(change::Create),
    Edit(change::Edit),
    Rm(change::Rm),
    /// Look at a profile with the MCP Inspector, a program from npm
    Inspect {
        /// The profile
        profile: String,
        /// Look at these servers of it alone
        #[arg(long, value_name = "SERVER,…", value_delimiter = ',')]
        server: Vec<String>,
        #[command(flatten)]
        options: inspect::Options,
    },
    /// Run the servers of a profile as one, over stdio, or over HTTP on this machine
    Run {
        /// The profile
        profile: String,
        #[command(flatten)]
        options: run::Options,
        /// Run these servers of it alone
        #[arg(long, value_name = "SERVER,…", value_delimiter = ',')]
        server: Vec<String>,
        /// Who shares the process of a server, with --http or --sse [default: shared]
        #[arg(long, requires = "face")]
        isolation: Option<Share>,
    },
    /// Share the servers of a profile as one, through a relay
    Share {
        /// The profile
        profile: String,
        #[command(flatten)]
        options: share::Options,
        /// Who shares the process of a server [default: session]
        #[arg(long)]
        isolation: Option<Share>,
    },
}

/// Who shares the process of a server of several.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Share {
    /// Everybody
    Shared,
    /// All sessions of one token
    Principal,
    /// Nobody: each session has its own
    Session,
}

impl From<Share> for Isolation {
    fn from(share: Share) -> Self {
        match share {
            Share::Shared => Self::Shared,
            Share::Principal => Self::Principal,
            Share::Session => Self::Session,
        }
    }
}

impl Args {
    pub(super) fn json(&self) -> bool {
        match &self.command {
            Command::Ls(args) => args.json(),
            Command::Create(args) => args.json.json,
            Command::Edit(args) => args.json.json,
            Command::Rm(args) => args.json.json,
            Command::Inspect { options, .. } => options.json(),
            Command::Run { .. } => false,
            Command::Share { options, .. } => options.json(),
        }
    }
}

pub(super) fn run(args: Args, context: &Context) -> Result<ExitCode, CliError> {
    let done = |()| ExitCode::SUCCESS;
    match args.command {
        Command::Ls(args) => ls::run(&args, context).map(done),
        Command::Create(args) => change::create(&args, context).map(done),
        Command::Edit(args) => change::edit(&args, context).map(done),
        Command::Rm(args) => change::rm(&args, context).map(done),
        Command::Inspect { profile, server, options } => {
            let only = fields::names(&server);
            of_these(servers_of(&profile, context)?, &only, &profile)?;
            inspect::inspect(&Subject::Profile(profile, only), &options, context)
        }
        Command::Run { profile, options, server, isolation } => {
            let serving = serving(profile, &server, isolation, context)?;
            let isolation = isolation.map_or(Isolation::Shared, Into::into);
            run::serve(serving, options, isolation, context)
        }
        Command::Share { profile, options, isolation } => {
            let serving = serving(profile.clone(), &[], isolation, context)?;
            let isolation = isolation.map_or(Isolation::Session, Into::into);
            share::serve(ShareTarget::Profile(profile), serving, options, isolation, context)
                .map(done)
        }
    }
}

/// Returns what a profile serves: all of its servers, or those that are named.
fn serving(
    name: String,
    only: &[String],
    isolation: Option<Share>,
    context: &Context,
) -> Result<Serving, CliError> {
    let servers = of_these(servers_of(&name, context)?, &fields::names(only), &name)?;
    let serving = Serving::profile(name, servers);
    if isolation.is_some() && !serving.is_aggregate() {
        context.ui.warning("--isolation says nothing here: the profile has one server");
    }
    Ok(serving)
}

/// Returns those servers of a profile that are named; all where none is.
fn of_these(servers: Vec<Server>, only: &[String], profile: &str) -> Result<Vec<Server>, CliError> {
    let stranger = only.iter().find(|name| !servers.iter().any(|server| server.name == **name));
    if let Some(name) = stranger {
        let message = format!("server `{name}` is not in profile `{profile}`");
        let hint = format!("See what is in it with `mcpm profile ls {profile}`");
        return Err(CliError::user("unknown_server", message).with_hint(hint));
    }
    let mut servers = servers;
    servers.retain(|server| only.is_empty() || only.contains(&server.name));
    Ok(servers)
}

/// Returns the servers of a profile: at least one, and all of them. A faulty entry is an error:
/// what is left without it is not what was asked for.
pub(super) fn servers_of(name: &str, context: &Context) -> Result<Vec<Server>, CliError> {
    let paths = context.paths()?;
    let profile = ProfileConfigManager::open(&paths)?.profile(name)?;
    let global = GlobalConfigManager::open(&paths)?;
    if profile.servers.is_empty() {
        let error = CliError::user("empty_profile", format!("profile `{name}` has no server"));
        let hint = format!("Put one in with `mcpm profile edit {name} --add-server SERVER`");
        return Err(error.with_hint(hint));
    }
    let servers: Result<Vec<Server>, _> =
        profile.servers.iter().map(|server| global.server(server)).collect();
    Ok(servers?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ui::Ui;
    use crate::fs::Paths;

    /// Tells what serving the profile `work` of these servers fails with.
    fn failure(servers: &str) -> CliError {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        std::fs::write(paths.servers(), servers).unwrap();
        std::fs::write(paths.profiles_metadata(), r#"{"work":{}}"#).unwrap();
        let context = Context { ui: Ui::new(true, false), config_dir: Some(dir.path().to_owned()) };
        servers_of("work", &context).unwrap_err()
    }

    #[test]
    fn a_profile_with_a_faulty_entry_is_not_served_without_it() {
        let bad = r#""bad":{"profile_tags":["work"]}"#;
        let good = r#""good":{"command":"x","profile_tags":["work"]}"#;
        for servers in [format!("{{{bad}}}"), format!("{{{good},{bad}}}")] {
            let error = failure(&servers);
            assert_eq!(error.to_json()["code"], "invalid_server", "{servers}");
            assert!(error.to_string().contains("`bad`"), "{error}");
        }
    }

    #[test]
    fn some_servers_of_a_profile_can_be_named_and_no_others() {
        let servers = || ["a", "b"].map(|name| Server::stdio(name, "x", [""; 0])).to_vec();
        let names = |only: &[&str]| {
            let only: Vec<String> = only.iter().map(|name| (*name).to_owned()).collect();
            let found = of_these(servers(), &only, "work")?;
            Ok::<_, CliError>(found.into_iter().map(|server| server.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&[]).unwrap(), ["a", "b"]);
        assert_eq!(names(&["b"]).unwrap(), ["b"]);
        assert_eq!(names(&["b", "c"]).unwrap_err().to_json()["code"], "unknown_server");
    }

    #[test]
    fn an_empty_profile_says_how_a_server_gets_into_it() {
        assert!(failure("{}").hint().unwrap().contains("--add-server"));
    }
}
