//! `mcpm tunnel`: an HTTP service through a relay, as it is.

use super::background::{self, DetachOptions};
use super::error::CliError;
use super::share::{AccessOptions, RelayOptions};
use super::{Context, JsonArg};
use crate::app::share::{ShareSpec, Source};
use crate::credentials::ShareTarget;
use crate::gateway::GatewayOptions;
use crate::tunnel::HttpTarget;

/// Share an HTTP server as it is, where the relay allows it
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A port on this machine, or a URL
    #[arg(value_name = "PORT|URL")]
    service: HttpTarget,
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
    let Args { service, access, relay, detach, json: _ } = args;
    let paths = context.paths()?;
    let spec = ShareSpec {
        target: ShareTarget::Http(service.to_string()),
        source: Source::Http(service),
        relay: Some(relay.spec(&paths)?),
        name: relay.subdomain.clone(),
        access: access.access(),
        expires: relay.expires,
        local: None,
        patience: relay.patience(),
        gateway: GatewayOptions::default(),
    };
    background::follow(spec, &detach, &paths, context)
}
