//! `mcpm-relay owner quota set|show`.

use std::str::FromStr;

use clap::{Args, Subcommand};
use mcpm_relay::admission::unix_now;
use mcpm_relay::operator::{self, Change, QuotaChange};
use mcpm_relay::store::OwnerQuota;

use super::super::error::CliError;
use super::super::out::{note, say, say_json};
use super::super::settings::StorageArgs;
use super::super::storage::{open, open_or_make};
use super::OneArgs;

#[derive(Debug, Subcommand)]
pub(in super::super) enum Command {
    /// Change what an owner is granted; what no option speaks of stays
    Set(SetArgs),
    /// Show what an owner is granted
    Show(OneArgs),
}

#[derive(Debug, Args)]
pub(in super::super) struct SetArgs {
    /// The owner: a token's subject, or key:THUMBPRINT, as in `owner ls`
    #[arg(value_name = "OWNER")]
    owner: String,

    #[command(flatten)]
    parts: Parts,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    storage: StorageArgs,
}

/// What to grant.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Parts {
    /// Shares that may be up at once, or `default`; shares that are up stay
    #[arg(long, value_name = "N")]
    max_shares: Option<Amount<u32>>,

    /// New names in an hour; 0 for no limit, or `default`
    #[arg(long, value_name = "N")]
    names_per_hour: Option<Amount<u64>>,

    /// Requests in a day (UTC); 0 for no limit, or `default`
    #[arg(long, value_name = "N")]
    requests_per_day: Option<Amount<u64>>,

    /// Bytes of bodies in a day, in both directions; 0 for no limit, or `default`
    #[arg(long, value_name = "N")]
    bytes_per_day: Option<Amount<u64>>,

    /// Requests open at once; 0 for no limit, or `default`
    #[arg(long, value_name = "N")]
    max_streams: Option<Amount<u64>>,

    /// Go back to what the token and the relay say, in everything
    #[arg(long, conflicts_with_all = ["max_shares", "names_per_hour", "requests_per_day",
        "bytes_per_day", "max_streams"])]
    default: bool,
}

/// A number, or `default`.
#[derive(Clone, Copy, Debug)]
struct Amount<T>(Option<T>);

impl<T: FromStr> FromStr for Amount<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        match text {
            "default" => Ok(Self(None)),
            number => number.parse().map(|number| Self(Some(number))),
        }
    }
}

impl Parts {
    fn change(&self) -> QuotaChange {
        fn part<T: Copy>(given: Option<Amount<T>>, default: bool) -> Change<T> {
            match given {
                Some(Amount(value)) => Change::replacing(value),
                None if default => Change::Reset,
                None => Change::Keep,
            }
        }
        QuotaChange {
            max_shares: part(self.max_shares, self.default),
            names_per_hour: part(self.names_per_hour, self.default),
            requests_per_day: part(self.requests_per_day, self.default),
            bytes_per_day: part(self.bytes_per_day, self.default),
            max_streams: part(self.max_streams, self.default),
        }
    }
}

pub(super) async fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::Set(args) => set(args).await,
        Command::Show(args) => show(args).await,
    }
}

async fn set(args: SetArgs) -> Result<(), CliError> {
    let owner = operator::parse_owner(&args.owner)?;
    let (store, _key) = open_or_make(args.storage).await?;
    let quota = operator::set_quota(&*store, &owner, args.parts.change(), unix_now()).await?;
    if args.json {
        return say_json(&quota);
    }
    note(&format!("granted to {owner}:\n{}", in_words(&quota)));
    Ok(())
}

async fn show(args: OneArgs) -> Result<(), CliError> {
    let owner = operator::parse_owner(&args.owner)?;
    let (store, _key) = open(args.storage).await?;
    let none = || OwnerQuota { owner: owner.as_str().to_owned(), ..OwnerQuota::default() };
    let quota = store.owner_quota(owner.as_str()).await?.unwrap_or_else(none);
    if args.json {
        return say_json(&quota);
    }
    say(&in_words(&quota))
}

/// Says what is granted, a line each.
pub(super) fn in_words(quota: &OwnerQuota) -> String {
    let said = |value: Option<u64>| match value {
        None => "what the relay says".to_owned(),
        Some(0) => "no limit".to_owned(),
        Some(value) => value.to_string(),
    };
    let shares = quota
        .max_shares
        .map_or("what the token or the relay says".to_owned(), |max| max.to_string());
    let mut lines = vec![
        format!("shares:            {shares}"),
        format!("names an hour:     {}", said(quota.names_per_hour)),
        format!("requests a day:    {}", said(quota.requests_per_day)),
        format!("bytes a day:       {}", said(quota.bytes_per_day)),
        format!("open requests:     {}", said(quota.max_streams)),
    ];
    if quota.blocked_at.is_some() {
        let why = if quota.note.is_empty() { "no reason given" } else { &quota.note };
        lines.push(format!("blocked:           {why}"));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_told_in_words() {
        let quota = OwnerQuota {
            owner: "sub:ada".to_owned(),
            requests_per_day: Some(500),
            bytes_per_day: Some(0),
            blocked_at: Some(1),
            note: "spam".to_owned(),
            ..OwnerQuota::default()
        };
        insta::assert_snapshot!(in_words(&quota), @r"
        shares:            what the token or the relay says
        names an hour:     what the relay says
        requests a day:    500
        bytes a day:       no limit
        open requests:     what the relay says
        blocked:           spam
        ");
    }

    #[test]
    fn an_amount_is_a_number_or_the_default() {
        assert_eq!("default".parse::<Amount<u32>>().unwrap().0, None);
        assert_eq!("7".parse::<Amount<u32>>().unwrap().0, Some(7));
        assert!("x".parse::<Amount<u32>>().is_err());
    }
}
