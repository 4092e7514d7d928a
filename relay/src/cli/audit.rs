//! `mcpm-relay audit`: shows what was decided, from the database of a relay.

use std::time::Duration;

use mcpm_relay::admission::unix_now;
use mcpm_relay::operator;
use mcpm_relay::store::AuditFilter;

use super::error::CliError;
use super::out::{note, say, say_json};
use super::settings::StorageArgs;
use super::span;
use super::storage::{block_on, open};
use super::table::{date, table};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How many of the newest events to show
    #[arg(long, value_name = "N", default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,

    /// Only what was done: such as name.claim, or name for all that begins with name.
    #[arg(long, value_name = "ACTION")]
    action: Option<String>,

    /// Only what this owner did (a token's subject or key:THUMBPRINT), or `operator`; or what was
    /// refused to address:ADDRESS
    #[arg(long, value_name = "OWNER")]
    by: Option<String>,

    /// Only what was done to this name, owner, domain or token id
    #[arg(long, value_name = "OBJECT")]
    object: Option<String>,

    /// Only of the last time, such as 24h or 7d
    #[arg(long, value_name = "TIME", value_parser = span::parse)]
    since: Option<Duration>,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    storage: StorageArgs,
}

impl Args {
    fn filter(&self, now: u64) -> Result<AuditFilter, CliError> {
        let actor = match self.by.as_deref() {
            None | Some("operator") => self.by.clone(),
            Some(address) if address.starts_with("address:") => self.by.clone(),
            Some(owner) => Some(operator::parse_owner(owner)?.as_str().to_owned()),
        };
        Ok(AuditFilter {
            limit: self.limit,
            since: self.since.map(|age| now.saturating_sub(age.as_secs())),
            until: None,
            action: self.action.as_deref().map(|text| text.trim_end_matches(['.', '*']).to_owned()),
            actor,
            object: self.object.clone(),
        })
    }
}

pub(super) fn run(args: Args) -> Result<(), CliError> {
    block_on(async {
        let filter = args.filter(unix_now())?;
        let (store, _key) = open(args.storage).await?;
        let events = store.audit_events(filter).await?;
        if args.json {
            return say_json(&events);
        }
        if events.is_empty() {
            note("nothing of that was decided");
            return Ok(());
        }
        let rows =
            events.into_iter().map(|it| [date(it.at), it.action, it.actor, it.object, it.detail]);
        say(&table(["AT", "ACTION", "BY", "OBJECT", "DETAIL"], rows.collect()))
    })
}
