//! The command line of the relay: 0 done, 1 it could not be done, 2 wrong usage, 70 a bug.
//!
//! stdout carries results, stderr everything else.

mod config;
mod error;
mod health;
mod out;
mod serve;
mod settings;
mod token;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

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
    Serve(Box<settings::ServeArgs>),
    /// Issue, list and revoke the tokens of agents (with --auth token)
    #[command(subcommand)]
    Token(token::Command),
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
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}

fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::Serve(args) => serve::run(*args),
        Command::Token(command) => token::run(command),
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
mod tests;
