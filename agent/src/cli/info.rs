//! `mcpm info`: what a registry says of one server.

use super::error::CliError;
use super::registry::{RegistryOptions, show, tell_problems, to_json};
use super::{Context, JsonArg, Threads, block_on};
use crate::app::install::InstallError;
use crate::registry::reference::Reference;

/// Show what a registry says of a server
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The server, as `mcpm search` shows it
    name: String,
    #[command(flatten)]
    options: RegistryOptions,
    #[command(flatten)]
    json: JsonArg,
}

impl Args {
    pub(super) fn json(&self) -> bool {
        self.json.json
    }
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    let ui = context.ui;
    let reference: Reference = args.name.parse().map_err(InstallError::from)?;
    let Reference::Name { name, version } = reference else {
        return Err(CliError::usage(format!("`{}` is not the name of a server", args.name))
            .with_hint("Look for names with `mcpm search`"));
    };
    let (registry, _) = args.options.open(&context.paths()?, false)?;
    let find = registry.find(&name, version.as_deref());
    let (manifest, problems) = block_on(Threads::One, async { Ok(find.await?) })?;
    tell_problems(&problems, context);
    if ui.is_json() {
        ui.json(&to_json(&manifest));
    } else {
        show(&manifest, ui);
        ui.note(format!("Install it with `mcpm install {}`.", manifest.name));
    }
    Ok(())
}
