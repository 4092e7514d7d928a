//! `mcpm-relay audit`: shows what was decided, from the database of a relay.

use super::error::CliError;
use super::out::{note, say, say_json};
use super::settings::StorageArgs;
use super::storage::{block_on, open};
use super::table::{date, table};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How many of the newest events to show
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u32,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    storage: StorageArgs,
}

pub(super) fn run(args: Args) -> Result<(), CliError> {
    block_on(async {
        let (store, _key) = open(args.storage).await?;
        let events = store.audit_trail(args.limit).await?;
        if args.json {
            return say_json(&events);
        }
        if events.is_empty() {
            note("nothing was decided yet");
            return Ok(());
        }
        let rows =
            events.into_iter().map(|it| [date(it.at), it.action, it.actor, it.object, it.detail]);
        say(&table(["AT", "ACTION", "BY", "OBJECT", "DETAIL"], rows.collect()))
    })
}
