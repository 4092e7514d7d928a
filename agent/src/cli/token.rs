//! `mcpm token`: the tokens of one share. A running share sees a change within a second.

use std::time::Duration;

use serde_json::{Value, json};

use super::error::CliError;
use super::time::{ago_or_in, unix_now};
use super::{Context, JsonArg};
use crate::credentials::{self, NewToken, ShareRecord, ShareToken};

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
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
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
        let value = |(file, record): &(credentials::ShareFile, ShareRecord)| {
            json!({
                "share": file.full_name(),
                "name": record.name,
                "relay": record.relay,
                "target": record.target,
                "url": record.url,
                "tokens": record.tokens.len(),
            })
        };
        ui.json(&shares.iter().map(value).collect::<Value>());
        return Ok(());
    }
    if shares.is_empty() {
        ui.note("Nothing was shared yet.");
    }
    for (file, record) in &shares {
        let tokens = match record.tokens.len() {
            1 => "1 token".to_owned(),
            count => format!("{count} tokens"),
        };
        ui.result(format!("{}  {}, {tokens}", file.full_name(), record.target));
    }
    Ok(())
}

fn list_tokens(context: &Context, share: &str) -> Result<(), CliError> {
    let (_, record) = credentials::find(&context.paths()?, share)?;
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
    let (file, _) = credentials::find(&context.paths()?, share)?;
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
    let (file, _) = credentials::find(&context.paths()?, share)?;
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
