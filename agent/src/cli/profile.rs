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
    let global = GlobalConfigManager::open(&paths)?;
    // A faulty entry is told before anything is counted: without it, another server of the profile
    // would be shared as if it were the only one.
    let servers: Result<Vec<Server>, _> =
        profile.servers.iter().map(|server| global.server(server)).collect();
    let mut servers = servers?;
    match servers.as_slice() {
        [] => {
            let error = CliError::user("empty_profile", format!("profile `{name}` has no server"));
            Err(error.with_hint(format!(
                "Add `{name}` to the `profile_tags` of a server in {}",
                paths.servers().display()
            )))
        }
        [_] => Ok(servers.swap_remove(0)),
        [first, ..] => {
            let count = servers.len();
            let message = format!(
                "profile `{name}` has {count} servers; sharing several as one comes with the next release"
            );
            let hint = format!("Share one of them, such as `mcpm share {}`", first.name);
            Err(CliError::user("several_servers", message).with_hint(hint))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ui::Ui;
    use crate::fs::Paths;

    /// Tells what sharing the profile `work` of these servers fails with.
    fn failure(servers: &str) -> CliError {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        std::fs::write(paths.servers(), servers).unwrap();
        std::fs::write(paths.profiles_metadata(), r#"{"work":{}}"#).unwrap();
        let context = Context { ui: Ui::new(true, false), config_dir: Some(dir.path().to_owned()) };
        only_server("work", &context).unwrap_err()
    }

    #[test]
    fn a_profile_with_a_faulty_entry_is_not_shared_without_it() {
        let bad = r#""bad":{"profile_tags":["work"]}"#;
        let good = r#""good":{"command":"x","profile_tags":["work"]}"#;
        for servers in [format!("{{{bad}}}"), format!("{{{good},{bad}}}")] {
            let error = failure(&servers);
            assert_eq!(error.to_json()["code"], "invalid_server", "{servers}");
            assert!(error.to_string().contains("`bad`"), "{error}");
        }
    }

    #[test]
    fn an_empty_profile_says_how_a_server_gets_into_it() {
        assert!(failure("{}").hint().unwrap().contains("profile_tags"));
    }
}
