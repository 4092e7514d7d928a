//! `mcpm mcp`: mcpm itself as an MCP server, so that an assistant can manage servers.

use std::time::Duration;

use super::error::CliError;
use super::registry::RegistryOptions;
use super::{Context, Threads, block_on};
use crate::app::assistant::{AssistantError, Desk, serve_stdio};
use crate::config::ProfileConfigManager;

/// Serve mcpm itself over stdio, so that an assistant can list, search, enable and check servers
///
/// It shows no secret, installs nothing, and changes nothing but which servers are in a profile.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Show and change this profile only
    #[arg(long, value_name = "PROFILE")]
    profile: Option<String>,
    /// How long a server may take to start when its status is asked for, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
    #[command(flatten)]
    options: RegistryOptions,
}

impl From<AssistantError> for CliError {
    fn from(error: AssistantError) -> Self {
        match &error {
            AssistantError::Opening(_) => Self::new("no_session", &error),
            error => Self::internal(error.to_string()),
        }
    }
}

pub(super) fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let Args { profile, timeout, options } = args;
    let paths = context.paths()?;
    if let Some(profile) = &profile {
        ProfileConfigManager::open(&paths)?.profile(profile)?;
    }
    let (registry, _) = options.open(&paths, false)?;
    let desk = Desk { paths, registry, profile, patience: Duration::from_secs(timeout) };
    // Files are small and there is one client: a thread of its own for each call would be waste.
    block_on(Threads::One, async { Ok(serve_stdio(desk).await?) })
}

#[cfg(test)]
mod tests {
    use crate::cli::testing::Home;

    #[test]
    fn a_profile_that_nobody_has_is_an_error_before_anything_is_served() {
        let error = Home::new().run(&["mcp", "--profile", "none"]).unwrap_err();
        assert_eq!((error.to_json()["code"].as_str(), error.exit()), (Some("unknown_profile"), 1));
    }
}
