//! `mcpm tunnel`: HTTP services through a relay, as they are.

use std::sync::Arc;

use super::background::{self, DetachOptions};
use super::error::CliError;
use super::share::{AccessOptions, RelayOptions, no_twins};
use super::{Context, JsonArg};
use crate::app::share::{ShareSpec, Source};
use crate::credentials::ShareTarget;
use crate::tunnel::HttpTarget;

/// Share HTTP servers as they are, where the relay allows it
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A port on this machine, HOST:PORT or a URL; of several, each is a share of its own
    #[arg(value_name = "PORT|URL", required = true)]
    services: Vec<HttpTarget>,
    #[command(flatten)]
    access: AccessOptions,
    #[command(flatten)]
    relay: RelayOptions,
    #[command(flatten)]
    detach: DetachOptions,
    #[command(flatten)]
    json: JsonArg,
}

impl Args {
    pub(super) fn json(&self) -> bool {
        self.json.json
    }
}

pub(super) fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let Args { services, access, relay, detach, json: _ } = args;
    let paths = context.paths()?;
    let targets: Vec<_> =
        services.iter().map(|service| ShareTarget::Http(service.to_string())).collect();
    no_twins(&targets)?;
    let names = relay.names(services.len())?;
    let (place, gateway) = (Arc::new(relay.spec(&paths)?), Arc::default());
    let specs = services.into_iter().zip(targets).zip(names);
    let specs = specs.map(|((service, target), name)| ShareSpec {
        target,
        source: Source::Http(service),
        relay: Some(Arc::clone(&place)),
        name,
        access: access.access(),
        expires: relay.expires,
        local: None,
        patience: relay.patience(),
        gateway: Arc::clone(&gateway),
    });
    background::follow(specs.collect(), &detach, &paths, context)
}
