//! `mcpm token`: the tokens of one share. A running share sees a change within a second.

use std::time::Duration;

use serde_json::{Value, json};

use super::error::{CliError, with_sources};
use super::time::{ago_or_in, lifetime, unix_now};
use super::{Context, JsonArg};
use crate::credentials::{
    self, CredentialError, ListedShare, NewToken, ShareFile, ShareRecord, ShareToken,
};

/// List, add and revoke the tokens of a share
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List shares, or the tokens of one share
    Ls {
        /// The share: its name, NAME@RELAY, or its server or profile
        share: Option<String>,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Make another token and print it
    New {
        /// The share: its name, NAME@RELAY, or its server or profile
        share: String,
        /// What to call it, such as the person or device it is for
        #[arg(long)]
        label: Option<String>,
        /// How long it works, such as 8h or 7days [default: until it is revoked]
        #[arg(long, value_name = "DURATION", value_parser = lifetime)]
        expires: Option<Duration>,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Revoke a token; visitors who hold it are locked out at once
    Revoke {
        /// The share: its name, NAME@RELAY, or its server or profile
        share: String,
        /// The id or label of the token, as `mcpm token ls` shows it
        token: String,
        #[command(flatten)]
        json: JsonArg,
    },
}

impl Args {
    pub(super) fn json(&self) -> bool {
        match &self.command {
            Command::Ls { json, .. } | Command::New { json, .. } | Command::Revoke { json, .. } => {
                json.json
            }
        }
    }
}

pub(super) fn run(args: Args, context: &Context) -> Result<(), CliError> {
    match args.command {
        Command::Ls { share: None, .. } => list_shares(context),
        Command::Ls { share: Some(share), .. } => list_tokens(context, &share),
        Command::New { share, label, expires, .. } => {
            let expires_at = expires.map(|expires| unix_now().saturating_add(expires.as_secs()));
            new(context, &share, NewToken { label, expires_at })
        }
        Command::Revoke { share, token, .. } => revoke(context, &share, &token),
    }
}

fn list_shares(context: &Context) -> Result<(), CliError> {
    let shares = credentials::list(&context.paths()?)?;
    let ui = context.ui;
    if ui.is_json() {
        ui.json(&shares.iter().map(share_to_json).collect::<Value>());
        return Ok(());
    }
    if shares.is_empty() {
        ui.note("Nothing was shared yet.");
    }
    for ListedShare { file, record } in &shares {
        match record {
            Ok(record) => ui.result(line(file, record)),
            Err(error) => ui.warning(unreadable(file, error)),
        }
    }
    Ok(())
}

fn line(file: &ShareFile, record: &ShareRecord) -> String {
    let tokens = match record.tokens.len() {
        1 => "1 token".to_owned(),
        count => format!("{count} tokens"),
    };
    format!("{}  {}, {tokens}", file.full_name(), record.target)
}

fn unreadable(file: &ShareFile, error: &CredentialError) -> String {
    format!("share `{}` cannot be used: {}", file.full_name(), with_sources(error))
}

fn share_to_json(ListedShare { file, record }: &ListedShare) -> Value {
    match record {
        Ok(record) => json!({
            "share": file.full_name(),
            "name": record.name,
            "relay": record.relay,
            "target": record.target,
            "url": record.url,
            "tokens": record.tokens.len(),
        }),
        Err(error) => json!({ "share": file.full_name(), "error": with_sources(error) }),
    }
}

/// Finds a share, telling of those that could not be looked at.
fn find(context: &Context, share: &str) -> Result<(ShareFile, ShareRecord), CliError> {
    let ui = context.ui;
    let skipped = |file: &ShareFile, error| ui.warning(unreadable(file, &error));
    Ok(credentials::find(&context.paths()?, share, skipped)?)
}

fn list_tokens(context: &Context, share: &str) -> Result<(), CliError> {
    let (_, record) = find(context, share)?;
    let ui = context.ui;
    if ui.is_json() {
        ui.json(&record.tokens.iter().map(to_json).collect::<Value>());
        return Ok(());
    }
    if record.tokens.is_empty() {
        ui.note(format!("Share `{}` has no token, so nobody can visit it.", record.name));
    }
    let now = unix_now();
    for token in &record.tokens {
        let label = token.label.as_deref().unwrap_or("-");
        let made = ago_or_in(token.created_at, now);
        let mut line = format!("{}  {label}  made {made}", token.id);
        if let Some(end) = token.expires_at {
            let word = if end > now { "expires" } else { "expired" };
            line.push_str(&format!(", {word} {}", ago_or_in(end, now)));
        }
        ui.result(line);
    }
    Ok(())
}

fn new(context: &Context, share: &str, new: NewToken) -> Result<(), CliError> {
    let (file, _) = find(context, share)?;
    let token = file.update(|record| Ok(record.add_token(new, unix_now()).clone()))?;
    if context.ui.is_json() {
        let mut value = to_json(&token);
        value["token"] = token.token.expose().into();
        context.ui.json(&value);
    } else {
        context.ui.note(format!("Token {} of share `{}`:", token.id, file.full_name()));
        context.ui.result(token.token.expose());
    }
    Ok(())
}

fn revoke(context: &Context, share: &str, asked: &str) -> Result<(), CliError> {
    let (file, _) = find(context, share)?;
    let (token, left) = file.update(|record| {
        let token = record.revoke_token(asked)?;
        Ok((token, record.tokens.len()))
    })?;
    let ui = context.ui;
    if ui.is_json() {
        ui.json(&to_json(&token));
    } else {
        ui.note(format!("Revoked token {} of share `{}`.", token.id, file.full_name()));
        if left == 0 {
            ui.note(format!("It has no token left; add one with `mcpm token new {share}`."));
        }
    }
    Ok(())
}

/// The form for machines, without the secret.
fn to_json(token: &ShareToken) -> Value {
    json!({
        "id": token.id,
        "label": token.label,
        "created_at": token.created_at,
        "expires_at": token.expires_at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Paths;

    #[test]
    fn a_share_that_cannot_be_read_is_listed_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        std::fs::create_dir(paths.shares()).unwrap();
        std::fs::write(paths.shares().join("time-abc@r.example.json"), "{").unwrap();
        let listed = credentials::list(&paths).unwrap();
        let value = share_to_json(&listed[0]);
        assert_eq!(value["share"], "time-abc@r.example");
        assert!(value["error"].as_str().unwrap().contains("EOF"), "{value}");
    }
}
