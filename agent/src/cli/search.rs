//! `mcpm search`: servers that can be installed.

use serde_json::Value;

use super::error::CliError;
use super::registry::{RegistryOptions, show, tell_problems, to_json};
use super::table::{Column, clean, table};
use super::{Context, JsonArg, Threads, block_on};
use crate::registry::{Manifest, Origin};

/// The longest description in a table, in characters.
const MAX_DESCRIPTION: usize = 70;

/// Search the registries for servers
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to look for in names, descriptions, tags and categories [default: everything]
    query: Option<String>,
    /// Show a table with descriptions
    #[arg(long, conflicts_with = "detailed")]
    table: bool,
    /// Show everything that is known
    #[arg(long)]
    detailed: bool,
    /// Look in one registry only
    #[arg(long, value_name = "REGISTRY")]
    registry: Option<Which>,
    /// Ask the registries for everything that is new
    #[arg(long, conflicts_with = "offline")]
    refresh: bool,
    #[command(flatten)]
    options: RegistryOptions,
    #[command(flatten)]
    json: JsonArg,
}

/// A registry.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Which {
    /// The mcpm.sh catalogue, or the one that is used instead
    Catalogue,
    /// The official MCP Registry
    Official,
    /// The list in this program
    BuiltIn,
}

impl From<Which> for Origin {
    fn from(which: Which) -> Self {
        match which {
            Which::Catalogue => Self::Catalogue,
            Which::Official => Self::Official,
            Which::BuiltIn => Self::BuiltIn,
        }
    }
}

impl Args {
    pub(super) fn json(&self) -> bool {
        self.json.json
    }
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    let ui = context.ui;
    let (registry, _) = args.options.open(&context.paths()?, args.refresh)?;
    let query = args.query.as_deref().map(str::trim).filter(|query| !query.is_empty());
    let search = registry.search(query, args.registry.map(Into::into));
    let found = block_on(Threads::One, async { Ok(search.await) })?;
    tell_problems(&found.problems, context);
    if ui.is_json() {
        ui.json(&found.manifests.iter().map(to_json).collect::<Value>());
        return Ok(());
    }
    if args.table {
        table_of(&found.manifests).iter().for_each(|line| ui.result(line));
    } else if args.detailed {
        found.manifests.iter().for_each(|manifest| show(manifest, ui));
    } else {
        found.manifests.iter().for_each(|manifest| ui.result(clean(&manifest.name)));
    }
    match found.manifests.len() {
        0 => ui.note("No server was found."),
        1 => ui.note("1 server. Show it with `mcpm info NAME`."),
        many => ui.note(format!("{many} servers. Show one with `mcpm info NAME`.")),
    }
    Ok(())
}

fn table_of(manifests: &[Manifest]) -> Vec<String> {
    let row = |manifest: &Manifest| {
        let mut about: String = manifest.description.chars().take(MAX_DESCRIPTION).collect();
        if about.len() < manifest.description.len() {
            about.push('…');
        }
        let about = if manifest.archived { format!("(archived) {about}") } else { about };
        [manifest.name.clone(), about, manifest.origin.word().to_owned()]
    };
    let rows: Vec<_> = manifests.iter().map(row).collect();
    table([Column::Left("NAME"), Column::Left("DESCRIPTION"), Column::Left("REGISTRY")], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::reference;

    #[test]
    fn a_table_has_one_line_for_each_server_and_cuts_long_descriptions() {
        let mut manifest = reference::package("npm", "notes", None).unwrap();
        manifest.description = "é".repeat(MAX_DESCRIPTION + 1);
        manifest.archived = true;
        let lines = table_of(&[manifest]);
        assert_eq!(lines.len(), 2);
        let about = format!("(archived) {}…", "é".repeat(MAX_DESCRIPTION));
        assert!(lines[1].starts_with("notes") && lines[1].contains(&about), "{lines:?}");
    }
}
