//! `mcpm-relay share ls|close`: asks a running relay.

use clap::{Args, Subcommand};
use mcpm_shared::name::Name;
use serde_json::Value;

use super::ask::AdminArgs;
use super::error::CliError;
use super::out::{note, say, say_json};
use super::table::{date, table};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the shares that are up on a running relay, on all of its nodes
    Ls(LsArgs),
    /// Close a share: its agent is told to stop. To keep it closed, block its name
    Close(CloseArgs),
}

#[derive(Debug, Args)]
pub(super) struct LsArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, Args)]
pub(super) struct CloseArgs {
    /// The name of the share
    #[arg(value_name = "NAME")]
    name: Name,

    #[command(flatten)]
    admin: AdminArgs,
}

pub(super) fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::Ls(args) => list(args),
        Command::Close(CloseArgs { name, admin }) => {
            admin.ask("DELETE", &format!("/shares/{name}"))?;
            note(&format!("the share {name} is closed"));
            Ok(())
        }
    }
}

fn list(args: LsArgs) -> Result<(), CliError> {
    let shares = args.admin.ask("GET", "/shares")?;
    if args.json {
        return say_json(&shares);
    }
    match shares.as_array().map(Vec::as_slice).unwrap_or_default() {
        [] => {
            note("no share is up");
            Ok(())
        }
        shares => say(&rows(shares)),
    }
}

fn rows(shares: &[Value]) -> String {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        value => value.to_string(),
    };
    let rows = shares.iter().map(|share| {
        [
            text(&share["name"]),
            text(&share["owner"]),
            text(&share["node"]),
            text(&share["requests_in_flight"]),
            share["expires_at"].as_u64().map_or("-".to_owned(), date),
            text(&share["url"]),
        ]
    });
    table(["NAME", "OWNER", "NODE", "REQUESTS", "EXPIRES", "URL"], rows.collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_table_of_shares_lines_up() {
        let shares = [
            json!({"name": "calc", "owner": "sub:ada", "node": "main", "requests_in_flight": 3,
                "expires_at": null, "url": "https://calc.example.com/mcp"}),
            json!({"name": "a", "owner": "key:xyz", "node": "r2", "requests_in_flight": null,
                "expires_at": 1_800_000_000_u64, "url": "https://a.example.com/mcp"}),
        ];
        insta::assert_snapshot!(rows(&shares), @r"
        NAME  OWNER    NODE  REQUESTS  EXPIRES               URL
        calc  sub:ada  main  3         -                     https://calc.example.com/mcp
        a     key:xyz  r2    -         2027-01-15T08:00:00Z  https://a.example.com/mcp
        ");
    }
}
