//! `mcpm-relay config print|check`.

use clap::Subcommand;
use mcpm_relay::cert::{CertFiles, CertSource as _, Uncovered, has_ended};
use mcpm_relay::config::{Config, Layer, Tls};
use mcpm_relay::ports::PortsError;

use super::error::CliError;
use super::out::{note, say};
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
            check_certificate(&config)?;
            say(&format!("settings are fine: {} on {}", config.domain, config.listen))
        }
    }
}

/// Reads the certificate where it is in files, and says what clients would find wrong with it.
fn check_certificate(config: &Config) -> Result<(), CliError> {
    let Tls::Files { cert, key } = &config.tls else { return Ok(()) };
    let files = CertFiles::open(cert, key).map_err(PortsError::Cert)?;
    let Some(leaf) = files.leaf() else { return Ok(()) };
    if has_ended(&leaf) {
        note("warning: the certificate has ended: clients refuse it");
    }
    if let Some(lacks) = Uncovered::find(&leaf, &config.domain, config.paths) {
        note(&format!("warning: {lacks}: clients refuse it there"));
    }
    Ok(())
}
