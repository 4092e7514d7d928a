//! `mcpm-relay owner ls|quota`: works on the database of a relay.

use clap::{Args, Subcommand};
use mcpm_relay::admission::unix_now;
use mcpm_relay::operator;

use super::error::CliError;
use super::out::{note, say, say_json};
use super::settings::StorageArgs;
use super::storage::{block_on, open};
use super::table::{or_dash, table};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List all who have a name, a token or a quota
    Ls(LsArgs),
    /// Grant an owner a number of live shares, whatever the token and the relay say
    Quota(QuotaArgs),
}

#[derive(Debug, Args)]
pub(super) struct LsArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    storage: StorageArgs,
}

#[derive(Debug, Args)]
pub(super) struct QuotaArgs {
    /// The owner: a token's subject, or key:THUMBPRINT, as in `owner ls`
    #[arg(value_name = "OWNER")]
    owner: String,

    /// How many shares may be up at once; shares that are up stay
    #[arg(long, value_name = "N", required_unless_present = "default")]
    max_shares: Option<u32>,

    /// Go back to what the token or the relay says
    #[arg(long, conflicts_with = "max_shares")]
    default: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    storage: StorageArgs,
}

pub(super) fn run(command: Command) -> Result<(), CliError> {
    block_on(async {
        match command {
            Command::Ls(args) => list(args).await,
            Command::Quota(args) => set_quota(args).await,
        }
    })
}

async fn list(args: LsArgs) -> Result<(), CliError> {
    let (store, _key) = open(args.storage).await?;
    let owners = operator::owners(&*store, unix_now()).await?;
    if args.json {
        return say_json(&owners);
    }
    if owners.is_empty() {
        note("nobody has a name, a token or a quota yet");
        return Ok(());
    }
    let rows = owners.into_iter().map(|it| {
        let counts = [it.live, it.names, it.tokens].map(|count| count.to_string());
        let [live, names, tokens] = counts;
        [it.owner, live, names, tokens, or_dash(it.max_shares)]
    });
    say(&table(["OWNER", "LIVE", "NAMES", "TOKENS", "QUOTA"], rows.collect()))
}

async fn set_quota(args: QuotaArgs) -> Result<(), CliError> {
    let owner = operator::parse_owner(&args.owner)?;
    let (store, _key) = open(args.storage).await?;
    let quota = operator::set_quota(&*store, &owner, args.max_shares, unix_now()).await?;
    if args.json {
        return say_json(&quota);
    }
    note(&match quota.max_shares {
        Some(max) => format!("{owner} may have {max} shares up at once"),
        None => format!("{owner} may have as many shares up as the token or the relay says"),
    });
    Ok(())
}
