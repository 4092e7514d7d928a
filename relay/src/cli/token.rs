//! `mcpm-relay token issue|ls|revoke`: works on the database that a running relay reads.

use std::time::Duration;

use clap::{Args, Subcommand};
use mcpm_relay::admission::{issue_token, revoke_token, unix_now};
use mcpm_relay::grants::{GrantRequest, NamePattern, NamePatterns};
use mcpm_relay::store::TokenRecord;
use serde::Serialize;

use super::error::CliError;
use super::out::{note, say, say_json};
use super::settings::{StorageArgs, StoreArgs};
use super::span;
use super::storage::{block_on, open, open_or_make};
use super::table::{date, or_dash, table};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Issue a token and print it, this once
    Issue(IssueArgs),
    /// List tokens
    Ls(StoreArgs),
    /// Revoke a token: sessions that use it end within a second
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
pub(super) struct IssueArgs {
    /// Whom the token is for; owns the names claimed with it
    #[arg(long, value_name = "SUBJECT")]
    sub: String,

    /// Names it allows: a name, a prefix such as `ada-*`, or `*`
    #[arg(long, value_name = "PATTERN", num_args = 1.., default_value = "*")]
    names: Vec<NamePattern>,

    /// How many shares may be up at once [default: the relay's limit]
    #[arg(long, value_name = "N")]
    max_shares: Option<u32>,

    /// How long it is good for, such as 90d or 12h
    #[arg(long, value_name = "TIME", default_value = "90d", value_parser = span::parse)]
    expires: Duration,

    /// Thumbprint of the only agent key that may use it
    #[arg(long, value_name = "THUMBPRINT")]
    bind: Option<String>,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    storage: StorageArgs,
}

#[derive(Debug, Args)]
pub(super) struct RevokeArgs {
    /// Id of the token, as in `token ls`
    #[arg(value_name = "ID")]
    jti: String,

    #[command(flatten)]
    storage: StorageArgs,
}

#[derive(Serialize)]
struct Issued<'a> {
    token: &'a str,
    #[serde(flatten)]
    record: &'a TokenRecord,
}

pub(super) fn run(command: Command) -> Result<(), CliError> {
    block_on(async {
        match command {
            Command::Issue(args) => issue(args).await,
            Command::Ls(args) => list(args).await,
            Command::Revoke(args) => revoke(args).await,
        }
    })
}

async fn issue(args: IssueArgs) -> Result<(), CliError> {
    let (store, key) = open_or_make(args.storage).await?;
    let now = unix_now();
    let request = GrantRequest {
        subject: args.sub,
        names: NamePatterns::new(args.names),
        max_shares: args.max_shares,
        bound_to: args.bind,
        expires_at: now.saturating_add(args.expires.as_secs()),
    };
    let (token, record) = issue_token(&key, &*store, request, now).await?;
    if args.json {
        return say_json(&Issued { token: token.expose(), record: &record });
    }
    note(&format!(
        "token {} for {}, names {}, until {}; it is not shown again",
        record.jti,
        record.subject,
        record.names.join(" "),
        date(record.expires_at)
    ));
    say(token.expose())
}

async fn list(args: StoreArgs) -> Result<(), CliError> {
    let (store, _key) = open(args.storage).await?;
    let tokens = store.tokens().await?;
    if args.json {
        return say_json(&tokens);
    }
    if tokens.is_empty() {
        note("no tokens yet: issue one with `mcpm-relay token issue --sub SUBJECT`");
        return Ok(());
    }
    say(&rows(&tokens, unix_now()))
}

async fn revoke(args: RevokeArgs) -> Result<(), CliError> {
    let (store, _key) = open(args.storage).await?;
    if !revoke_token(&*store, &args.jti, unix_now()).await? {
        return Err(CliError::UnknownToken(args.jti));
    }
    note(&format!("token {} is revoked", args.jti));
    Ok(())
}

fn rows(tokens: &[TokenRecord], now: u64) -> String {
    let row = |token: &TokenRecord| {
        let state = match token.revoked_at {
            Some(_) => "revoked",
            None if token.expires_at <= now => "expired",
            None if token.bound_to.is_some() => "good, bound to a key",
            None => "good",
        };
        [
            token.jti.clone(),
            token.subject.clone(),
            token.names.join(" "),
            or_dash(token.max_shares),
            date(token.expires_at),
            state.to_owned(),
        ]
    };
    let head = ["ID", "SUBJECT", "NAMES", "SHARES", "EXPIRES", "STATE"];
    table(head, tokens.iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(jti: &str, expires_at: u64) -> TokenRecord {
        TokenRecord {
            jti: jti.to_owned(),
            subject: "ada@example.com".to_owned(),
            names: vec!["ada-*".to_owned(), "calc".to_owned()],
            max_shares: Some(4),
            bound_to: None,
            issued_at: 1,
            expires_at,
            revoked_at: None,
        }
    }

    #[test]
    fn the_table_of_tokens_lines_up() {
        let tokens = [
            token("0a1b2c3d4e5f", 1_900_000_000),
            TokenRecord {
                subject: "bob".to_owned(),
                max_shares: None,
                ..token("b", 1_800_000_000)
            },
            TokenRecord { revoked_at: Some(5), ..token("c", u64::MAX) },
            TokenRecord { bound_to: Some("x".to_owned()), ..token("d", 1_900_000_000) },
        ];
        insta::assert_snapshot!(rows(&tokens, 1_800_000_000));
    }
}
