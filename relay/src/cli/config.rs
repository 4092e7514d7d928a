//! `mcpm-relay config print|check`.

use clap::Subcommand;
use mcpm_relay::config::Layer;

use super::error::CliError;
use super::out::say;
use super::settings::ServeArgs;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print all settings as TOML, defaults included and secrets left out
    Print(Box<ServeArgs>),
    /// Say whether the settings can be obeyed, and everything that is wrong with them
    Check(Box<ServeArgs>),
}

pub(super) fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::Print(args) => {
            let layer = Layer::from(&args.resolve()?);
            say(&toml::to_string(&layer).expect("settings are plain TOML"))
        }
        Command::Check(args) => {
            let config = args.resolve()?;
            say(&format!("settings are fine: {} on {}", config.domain, config.listen))
        }
    }
}
