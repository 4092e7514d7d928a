//! Keeps secrets out of the command line, which everybody on the machine can read.

use clap::ArgMatches;
use clap::parser::ValueSource;
use mcpm_relay::config::Database;

use super::error::CliError;

/// Refuses a database URL with a password that was given as a flag.
pub(super) fn check(matches: &ArgMatches) -> Result<(), CliError> {
    if let Some((_, matches)) = matches.subcommand() {
        return check(matches);
    }
    // Commands without the flag have no such value.
    let database = matches.try_get_one::<Database>("database").ok().flatten();
    let secret = matches!(database, Some(Database::Postgres(url)) if url.has_password());
    if secret && matches.value_source("database") == Some(ValueSource::CommandLine) {
        return Err(CliError::PasswordInArgv);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn a_password_is_not_for_the_command_line() {
        let check = |args: &[&str]| {
            let args = ["mcpm-relay"].iter().chain(args);
            check(&Cli::command().get_matches_from(args))
        };
        let url = "--database=postgres://relay:hunter2@db/relay";
        for command in [&["serve", url][..], &["token", "ls", url], &["config", "print", url]] {
            let error = check(command).unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        check(&["serve", "--database=postgres://relay@db/relay"]).unwrap();
        check(&["serve", "--database-file=url"]).unwrap();
        check(&["health"]).unwrap();
    }
}
