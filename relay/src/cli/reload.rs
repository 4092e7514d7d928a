//! `mcpm-relay reload`: a running relay reads its settings again.

use std::fmt::Write as _;

use serde_json::Value;

use super::ask::AdminArgs;
use super::error::CliError;
use super::out::{say, say_json};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    admin: AdminArgs,
}

pub(super) fn run(args: Args) -> Result<(), CliError> {
    let reloaded = args.admin.ask("POST", "/reload")?;
    if args.json {
        return say_json(&reloaded);
    }
    say(&lines(&reloaded))
}

fn lines(reloaded: &Value) -> String {
    let names = |key: &str| -> String {
        let names = reloaded[key].as_array().into_iter().flatten().filter_map(Value::as_str);
        names.collect::<Vec<_>>().join(", ")
    };
    let (changed, left) = (names("changed"), names("needs_restart"));
    let mut out = String::new();
    let _ = match changed.as_str() {
        "" => writeln!(out, "no setting has changed"),
        names => writeln!(out, "changed: {names}"),
    };
    if !left.is_empty() {
        let _ = writeln!(out, "as before until a restart: {left}");
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_changed_and_what_did_not_are_a_line_each() {
        let both =
            json!({ "changed": ["log", "limits.max-sessions"], "needs_restart": ["listen"] });
        assert_eq!(
            lines(&both),
            "changed: log, limits.max-sessions\nas before until a restart: listen\n"
        );
        assert_eq!(lines(&json!({ "changed": [] })), "no setting has changed\n");
    }
}
