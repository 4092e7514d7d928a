//! The demo: a relay, an agent and a server on one machine, and a client that proves that the
//! whole path works. It leaves nothing behind.

mod visitor;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mcpm_relay::{Config, Ports, Relay, StartError};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use self::visitor::{Proof, ProofError};
use super::serving::Serving;
use super::share::{
    Access, Patience, RelaySpec, ShareError, ShareEvent, ShareSpec, Source, Up, share,
};
use crate::credentials::{RelayCredential, ShareTarget};
use crate::fs::Paths;
use crate::hint::Hint;
use crate::model::Server;
use crate::tunnel::{ProxySettings, RelayAddress};

/// What the demo server is called.
const NAME: &str = "demo";
/// How long each step may take: everything is on this machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// How many events may wait to be looked at.
const EVENTS: usize = 64;

/// What happened in the demo.
#[derive(Debug)]
#[non_exhaustive]
pub enum DemoEvent {
    /// The relay accepts.
    Relay {
        /// Its origin.
        origin: String,
    },
    /// Something happened to the share.
    Share(ShareEvent),
    /// A client called a tool over the public URL.
    Proof(Proof),
}

/// Why the demo failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// No temporary folder can be made.
    #[error("cannot make a temporary folder")]
    Folder(#[source] std::io::Error),
    /// The embedded relay does not start.
    #[error("cannot start the embedded relay")]
    Relay(#[source] Box<StartError>),
    /// The relay's address does not parse.
    #[error("the embedded relay has an address that the agent cannot use: {0}")]
    Address(String),
    /// Sharing failed.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// The proof failed.
    #[error("the shared server did not answer as it should")]
    Proof(#[from] ProofError),
}

impl Hint for DemoError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Folder(_) => Some("Set TMPDIR to a folder that can be written".to_owned()),
            Self::Share(error) => error.hint(),
            Self::Relay(error) => error.hint(),
            Self::Address(_) | Self::Proof(_) => None,
        }
    }
}

/// Runs the demo until `stop` is cancelled; with `once`, until the proof.
///
/// `program` is the `mcpm` binary, whose `demo-server` is shared.
///
/// # Errors
/// When any part of the path does not work.
pub async fn demo(
    program: PathBuf,
    once: bool,
    events: mpsc::Sender<DemoEvent>,
    stop: CancellationToken,
) -> Result<(), DemoError> {
    let home = tempfile::tempdir().map_err(DemoError::Folder)?;
    let relay = Relay::start(Config::local(), Ports::in_memory())
        .await
        .map_err(|error| DemoError::Relay(Box::new(error)))?;
    let origin = format!("http://{}", relay.addr());
    let _nobody = events.send(DemoEvent::Relay { origin: origin.clone() }).await;
    let paths = Paths::new(home.path());
    let result = share_and_prove(&origin, program, &paths, once, &events, stop).await;
    relay.shutdown().await;
    result
}

async fn share_and_prove(
    origin: &str,
    program: PathBuf,
    paths: &Paths,
    once: bool,
    events: &mpsc::Sender<DemoEvent>,
    stop: CancellationToken,
) -> Result<(), DemoError> {
    let spec = spec(origin, program)?;
    let (sender, inbox) = mpsc::channel(EVENTS);
    let sharing = share(spec, paths, sender, stop.clone());
    let (shared, proved) = tokio::join!(sharing, follow(inbox, once, events, &stop));
    proved?;
    Ok(shared?)
}

/// Passes events on until the share has ended; visits it as soon as it is up.
async fn follow(
    mut inbox: mpsc::Receiver<ShareEvent>,
    once: bool,
    events: &mpsc::Sender<DemoEvent>,
    stop: &CancellationToken,
) -> Result<(), ProofError> {
    let stop_at_error = stop.clone().drop_guard();
    while let Some(event) = inbox.recv().await {
        let address = match &event {
            ShareEvent::Up(up) if !up.again => Some(address(up)),
            _ => None,
        };
        let _nobody = events.send(DemoEvent::Share(event)).await;
        if let Some((url, token)) = address
            && let Some(proof) = stop.run_until_cancelled(visitor::visit(url, token)).await
        {
            let _nobody = events.send(DemoEvent::Proof(proof?)).await;
            if once {
                stop.cancel();
            }
        }
    }
    drop(stop_at_error);
    Ok(())
}

fn address(up: &Up) -> (String, String) {
    let token = up.token.as_ref().map(|token| token.expose().to_owned());
    (up.url.clone(), token.unwrap_or_default())
}

fn spec(origin: &str, program: PathBuf) -> Result<ShareSpec, DemoError> {
    let address: RelayAddress =
        origin.parse().map_err(|_| DemoError::Address(origin.to_owned()))?;
    let program = program.to_string_lossy().into_owned();
    let relay = RelaySpec {
        address,
        credential: RelayCredential::default(),
        // Never a proxy: the relay is on this machine.
        proxy: ProxySettings::default(),
        connections: 1,
    };
    let server = Server::stdio(NAME, program, [crate::demo::SUBCOMMAND]);
    Ok(ShareSpec {
        target: ShareTarget::Server(NAME.to_owned()),
        source: Source::Mcp(Serving::server(server).into()),
        relay: Some(relay.into()),
        name: None,
        access: Access::Token,
        expires: None,
        local: None,
        patience: Patience::Time(PATIENCE),
        gateway: Arc::default(),
    })
}
