//! `mcpm-relay owner ls|show|quota|block|unblock`: works on the database of a relay.

mod quota;

use clap::{Args, Subcommand};
use mcpm_relay::admission::unix_now;
use mcpm_relay::operator::{self, OwnerEntry};
use mcpm_relay::quota::Amounts;

use super::error::CliError;
use super::out::{note, say, say_json};
use super::settings::{StorageArgs, StoreArgs};
use super::storage::{block_on, open, open_or_make};
use super::table::{date, or_dash, table};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List all who have a name, a token or a quota, or used something today
    Ls(StoreArgs),
    /// Show what an owner has, may use, and used in the last days
    Show(OneArgs),
    /// Grant an owner more or less than the token and the relay say
    #[command(subcommand)]
    Quota(quota::Command),
    /// Shut an owner out: everything of theirs ends within a second, and nothing begins
    Block(BlockArgs),
    /// Let a blocked owner in again
    Unblock(OneArgs),
}

#[derive(Debug, Args)]
pub(super) struct OneArgs {
    /// The owner: a token's subject, or key:THUMBPRINT, as in `owner ls`
    #[arg(value_name = "OWNER")]
    owner: String,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    storage: StorageArgs,
}

#[derive(Debug, Args)]
pub(super) struct BlockArgs {
    /// Why, for other operators
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,

    #[command(flatten)]
    one: OneArgs,
}

pub(super) fn run(command: Command) -> Result<(), CliError> {
    block_on(async {
        match command {
            Command::Ls(args) => list(args).await,
            Command::Show(args) => show(args).await,
            Command::Quota(command) => quota::run(command).await,
            Command::Block(args) => block(args).await,
            Command::Unblock(args) => unblock(args).await,
        }
    })
}

async fn list(args: StoreArgs) -> Result<(), CliError> {
    let (store, _key) = open(args.storage).await?;
    let owners = operator::owners(&*store, unix_now()).await?;
    if args.json {
        return say_json(&owners);
    }
    if owners.is_empty() {
        note("nobody has a name, a token or a quota yet");
        return Ok(());
    }
    say(&rows(&owners))
}

fn rows(owners: &[OwnerEntry]) -> String {
    let rows = owners.iter().map(|it| {
        let counts = [it.live, it.names, it.tokens, it.today.requests];
        let [live, names, tokens, requests] = counts.map(|count| count.to_string());
        let state = it.blocked_at.map_or("", |_| "blocked");
        let bytes = size(it.today.bytes_in.saturating_add(it.today.bytes_out));
        let shares = or_dash(it.max_shares);
        [it.owner.clone(), live, names, tokens, shares, requests, bytes, state.to_owned()]
    });
    let head = ["OWNER", "LIVE", "NAMES", "TOKENS", "SHARES", "REQUESTS", "BYTES", "STATE"];
    table(head, rows.collect())
}

async fn show(args: OneArgs) -> Result<(), CliError> {
    let owner = operator::parse_owner(&args.owner)?;
    let (store, _key) = open(args.storage).await?;
    let detail = operator::owner(&*store, &owner, unix_now()).await?;
    if args.json {
        return say_json(&detail);
    }
    let mut text = rows(std::slice::from_ref(&detail.entry));
    if let Some(granted) = &detail.quota {
        text.push_str(&format!("\n{}", quota::in_words(granted)));
    }
    let days = detail.usage.iter().map(|used| {
        let Amounts { requests, bytes_in, bytes_out } = used.amounts;
        let day = date(used.day.saturating_mul(24 * 3600));
        let day = day.split('T').next().unwrap_or_default().to_owned();
        [day, requests.to_string(), size(bytes_in), size(bytes_out)]
    });
    text.push_str(&format!("\n{}", table(["DAY", "REQUESTS", "IN", "OUT"], days.collect())));
    say(&text)
}

async fn block(BlockArgs { note: why, one }: BlockArgs) -> Result<(), CliError> {
    let owner = operator::parse_owner(&one.owner)?;
    let (store, _key) = open_or_make(one.storage).await?;
    let quota = operator::block_owner(&*store, &owner, why, unix_now()).await?;
    if one.json {
        return say_json(&quota);
    }
    note(&format!("{owner} is shut out"));
    Ok(())
}

async fn unblock(args: OneArgs) -> Result<(), CliError> {
    let owner = operator::parse_owner(&args.owner)?;
    let (store, _key) = open(args.storage).await?;
    let was = operator::unblock_owner(&*store, &owner, unix_now()).await?;
    if args.json {
        return say_json(&serde_json::json!({ "owner": owner.as_str(), "was_blocked": was }));
    }
    note(&match was {
        true => format!("{owner} may come back"),
        false => format!("{owner} was not blocked"),
    });
    Ok(())
}

/// Writes a number of bytes with three digits or four.
fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes;
    let mut unit = 0;
    while value >= 10_000 && unit + 1 < units.len() {
        value /= 1024;
        unit += 1;
    }
    format!("{value} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_owners_says_what_they_used_today() {
        let today = Amounts { requests: 1200, bytes_in: 9_999, bytes_out: 52_428_800 };
        let owners = [
            OwnerEntry {
                owner: "sub:ada".to_owned(),
                live: 2,
                names: 3,
                tokens: 1,
                today,
                ..OwnerEntry::default()
            },
            OwnerEntry {
                owner: "key:xyz".to_owned(),
                max_shares: Some(0),
                blocked_at: Some(1),
                ..OwnerEntry::default()
            },
        ];
        insta::assert_snapshot!(rows(&owners), @r"
        OWNER    LIVE  NAMES  TOKENS  SHARES  REQUESTS  BYTES   STATE
        sub:ada  2     3      1       -       1200      50 MiB
        key:xyz  0     0      0       0       0         0 B     blocked
        ");
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(size(9_999), "9999 B");
        assert_eq!(size(10_000), "9 KiB");
        assert_eq!(size(20 * 1024 * 1024 * 1024), "20 GiB");
        assert_eq!(size(u64::MAX), "15 EiB");
    }
}
