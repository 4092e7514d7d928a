//! `mcpm-relay name reserve|block|release|ls`: works on the database that a running relay follows.

use std::time::Duration;

use clap::{Args, Subcommand};
use mcpm_relay::admission::unix_now;
use mcpm_relay::operator::{self, NameEntry, Released};
use mcpm_relay::store::NameState;
use mcpm_shared::name::Name;

use super::error::CliError;
use super::out::{note, say, say_json};
use super::settings::{StorageArgs, StoreArgs};
use super::span;
use super::storage::{block_on, open, open_or_make};
use super::table::{date, or_dash, table};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Keep a name for one owner, or for nobody; a share of somebody else under it ends
    Reserve(ReserveArgs),
    /// Keep everybody from a name; a share under it ends within a second
    Block(BlockArgs),
    /// Lift a reservation or a block; where there is none, take the name from its owner
    Release(ReleaseArgs),
    /// List the names that somebody has or that are kept
    Ls(StoreArgs),
}

#[derive(Debug, Args)]
pub(super) struct ReserveArgs {
    /// The name
    #[arg(value_name = "NAME")]
    name: Name,

    /// Whom it is for: a token's subject, or key:THUMBPRINT [default: nobody]
    #[arg(long = "for", value_name = "OWNER")]
    owner: Option<String>,

    #[command(flatten)]
    rule: RuleArgs,
}

#[derive(Debug, Args)]
pub(super) struct BlockArgs {
    /// The name
    #[arg(value_name = "NAME")]
    name: Name,

    #[command(flatten)]
    rule: RuleArgs,
}

#[derive(Debug, Args)]
struct RuleArgs {
    /// Why, for other operators
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    storage: StorageArgs,
}

#[derive(Debug, Args)]
pub(super) struct ReleaseArgs {
    /// The name
    #[arg(value_name = "NAME")]
    name: Name,

    /// For how long nobody gets a name that is taken from its owner, such as 7d or 0s
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = span::parse)]
    cooling: Duration,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    storage: StorageArgs,
}

pub(super) fn run(command: Command) -> Result<(), CliError> {
    block_on(async {
        match command {
            Command::Reserve(args) => reserve(args).await,
            Command::Block(args) => block(args).await,
            Command::Release(args) => release(args).await,
            Command::Ls(args) => list(args).await,
        }
    })
}

async fn reserve(args: ReserveArgs) -> Result<(), CliError> {
    let owner = args.owner.as_deref().map(operator::parse_owner).transpose()?;
    let RuleArgs { note: why, json, storage } = args.rule;
    let (store, _key) = open_or_make(storage).await?;
    let whom = owner.as_ref().map_or("nobody".to_owned(), ToString::to_string);
    let rule = operator::reserve_name(&*store, args.name, owner, why, unix_now()).await?;
    if json {
        return say_json(&rule);
    }
    note(&format!("the name {} is for {whom}", rule.name));
    Ok(())
}

async fn block(args: BlockArgs) -> Result<(), CliError> {
    let RuleArgs { note: why, json, storage } = args.rule;
    let (store, _key) = open_or_make(storage).await?;
    let rule = operator::block_name(&*store, args.name, why, unix_now()).await?;
    if json {
        return say_json(&rule);
    }
    note(&format!("the name {} is blocked", rule.name));
    Ok(())
}

async fn release(args: ReleaseArgs) -> Result<(), CliError> {
    let (store, _key) = open(args.storage).await?;
    let name = args.name.clone();
    let released = operator::release_name(&*store, name, args.cooling, unix_now()).await?;
    if args.json {
        return say_json(&released);
    }
    note(&match released {
        Released::Rule => format!("nothing keeps the name {} any more", args.name),
        Released::Owner { owner, cooling_until } => format!(
            "the name {} was taken from {owner}; nobody gets it until {}",
            args.name,
            date(cooling_until)
        ),
    });
    Ok(())
}

async fn list(args: StoreArgs) -> Result<(), CliError> {
    let (store, _key) = open(args.storage).await?;
    let names = operator::names(&*store, unix_now()).await?;
    if args.json {
        return say_json(&names);
    }
    if names.is_empty() {
        note("nobody has a name yet");
        return Ok(());
    }
    say(&rows(&names))
}

fn rows(names: &[NameEntry]) -> String {
    let row = |entry: &NameEntry| {
        let (rule, lease) = (entry.rule.as_ref(), entry.lease.as_ref());
        let wanted = rule.and_then(|rule| match &rule.state {
            NameState::Reserved { owner } => owner.clone(),
            _ => None,
        });
        let until = rule.and_then(|rule| match rule.state {
            NameState::Cooling { until } => Some(date(until)),
            _ => None,
        });
        [
            entry.name.to_string(),
            entry.state.to_owned(),
            or_dash(wanted.or_else(|| lease.map(|lease| lease.owner.clone()))),
            until.unwrap_or_else(|| or_dash(lease.map(|lease| date(lease.claimed_at)))),
            or_dash(lease.map(|lease| lease.node.clone())),
            rule.map(|rule| rule.note.clone()).unwrap_or_default(),
        ]
    };
    let head = ["NAME", "STATE", "OWNER", "SINCE/UNTIL", "NODE", "NOTE"];
    table(head, names.iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use mcpm_relay::store::{Lease, NameRule};
    use mcpm_shared::proto::ShareMode;

    use super::*;

    #[test]
    fn the_table_of_names_says_who_and_until_when() {
        let name = |text: &str| text.parse::<Name>().unwrap();
        let lease = Lease {
            name: name("calc"),
            owner: "sub:ada".to_owned(),
            generation: 3,
            node: "main".to_owned(),
            mode: ShareMode::Mcp,
            claimed_at: 1_800_000_000,
            held_until: None,
            released_at: None,
        };
        let rule = |text: &str, state, note: &str| {
            let (name, note) = (name(text), note.to_owned());
            Some(NameRule { name, state, note, changed_at: 1, revision: 1 })
        };
        let entry =
            |text: &str, state, rule, lease| NameEntry { name: name(text), state, rule, lease };
        let until = 1_800_600_000;
        let blocked = rule("evil", NameState::Blocked, "phishing");
        let reserved = NameState::Reserved { owner: Some("sub:bob".to_owned()) };
        let names = [
            entry("calc", "live", None, Some(lease.clone())),
            entry("evil", "blocked", blocked, Some(Lease { name: name("evil"), ..lease })),
            entry("old", "cooling", rule("old", NameState::Cooling { until }, ""), None),
            entry("ours", "reserved", rule("ours", reserved, "launch"), None),
        ];
        insta::assert_snapshot!(rows(&names), @r"
        NAME  STATE     OWNER    SINCE/UNTIL           NODE  NOTE
        calc  live      sub:ada  2027-01-15T08:00:00Z  main
        evil  blocked   sub:ada  2027-01-15T08:00:00Z  main  phishing
        old   cooling   -        2027-01-22T06:40:00Z  -
        ours  reserved  sub:bob  -                     -     launch
        ");
    }
}
