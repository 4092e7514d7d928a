//! The command line of the relay: 0 done, 1 it could not be done, 2 wrong usage, 70 a bug.
//!
//! stdout carries results, stderr everything else.

mod argv;
mod ask;
mod audit;
mod config;
mod domain;
mod error;
mod health;
mod manager;
mod name;
mod out;
mod owner;
mod reload;
mod serve;
mod settings;
mod share;
mod span;
mod status;
mod storage;
mod table;
mod takeover;
mod token;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use self::error::CliError;
use self::out::say;

/// Gives local MCP servers a public URL
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve agents and visitors until told to stop
    Serve(Box<serve::Args>),
    /// Issue, list and revoke the tokens of agents (with --auth token)
    #[command(subcommand)]
    Token(token::Command),
    /// Reserve, block, release and list names
    #[command(subcommand)]
    Name(name::Command),
    /// List owners, grant them more or less, and shut them out
    #[command(subcommand)]
    Owner(owner::Command),
    /// Add, verify, remove and list the domains of owners
    #[command(subcommand)]
    Domain(domain::Command),
    /// List and close the shares of a running relay
    #[command(subcommand)]
    Share(share::Command),
    /// Make a running relay read its settings again
    Reload(reload::Args),
    /// Ask a running relay how it is
    Status(status::Args),
    /// Show what was decided over names, owners, shares and tokens
    Audit(audit::Args),
    /// Show or check the settings that `serve` would obey
    #[command(subcommand)]
    Config(config::Command),
    /// Ask a running relay whether it is ready, for health checks of containers
    Health(health::Args),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Runs the command that was asked for.
pub(crate) fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let checked = argv::check(&matches).and_then(|()| {
        let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        run(cli.command)
    });
    match checked {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}

fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::Serve(args) => serve::run(*args),
        Command::Token(command) => token::run(command),
        Command::Name(command) => name::run(command),
        Command::Owner(command) => owner::run(command),
        Command::Domain(command) => domain::run(command),
        Command::Share(command) => share::run(command),
        Command::Reload(args) => reload::run(args),
        Command::Status(args) => status::run(args),
        Command::Audit(args) => audit::run(args),
        Command::Config(command) => config::run(command),
        Command::Health(args) => health::run(&args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "mcpm-relay", &mut script);
            say(&String::from_utf8_lossy(&script))
        }
    }
}

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
