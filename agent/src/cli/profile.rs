//! `mcpm profile`: groups of servers.

use super::error::CliError;
use super::{Context, share};
use crate::config::{GlobalConfigManager, ProfileConfigManager};
use crate::credentials::ShareTarget;
use crate::model::Server;

/// Work with profiles
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Share the server of a profile through a relay
    Share {
        /// The profile
        profile: String,
        #[command(flatten)]
        options: share::Options,
    },
}

impl Args {
    pub(super) fn json(&self) -> bool {
        let Command::Share { options, .. } = &self.command;
        options.json()
    }
}

pub(super) fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let Command::Share { profile, options } = args.command;
    let server = only_server(&profile, context)?;
    share::serve(ShareTarget::Profile(profile), server, options, context)
}

fn only_server(name: &str, context: &Context) -> Result<Server, CliError> {
    let paths = context.paths()?;
    let profile = ProfileConfigManager::open(&paths)?.profile(name)?;
    match profile.servers.as_slice() {
        [server] => Ok(GlobalConfigManager::open(&paths)?.server(server)?),
        [] => Err(CliError::user("empty_profile", format!("profile `{name}` has no server"))),
        [first, ..] => {
            let count = profile.servers.len();
            let message = format!(
                "profile `{name}` has {count} servers; sharing several as one comes with the next release"
            );
            let hint = format!("Share one of them, such as `mcpm share {first}`");
            Err(CliError::user("several_servers", message).with_hint(hint))
        }
    }
}
