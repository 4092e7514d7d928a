//! `mcpm completions`: a script that completes our commands in a shell.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Cli, Context};

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The shell
    shell: Shell,
}

pub(super) fn run(args: &Args, context: &Context) {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "mcpm", &mut script);
    context.ui.raw(&script);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_know_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::PowerShell] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "mcpm", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("share") && script.contains("relay"), "{shell}");
        }
    }
}
