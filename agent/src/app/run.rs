//! Running a server, or several as one, for a local client, over stdio or over HTTP on this machine.

mod stdio;

use std::time::Duration;

use mcpm_shared::scope::Scope;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::serving::{Serving, Way};
use super::share::Local;
use crate::fs::Paths;
use crate::gateway::listen::{ListenError, ListenOptions, listen};
use crate::gateway::{Gateway, GatewayError, GatewayOptions, Isolation};
use crate::hint::Hint;
use crate::usage::Recorder;

/// How long open connections, and what is to be written, may take to end.
const GRACE: Duration = Duration::from_secs(3);

/// Why a server cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The server does not work.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// The address cannot be served.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

impl Hint for RunError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Gateway(error) => error.hint(),
            Self::Listen(error) => error.hint(),
        }
    }
}

/// Serves one client over our own stdin and stdout, until its input ends or `stop` is cancelled.
///
/// # Errors
/// When the server cannot be started or dies.
pub async fn run_stdio(
    serving: &Serving,
    options: GatewayOptions,
    paths: &Paths,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let (scope, books) = (Scope::new(), Scope::new());
    let recorder = Recorder::start(paths, &books);
    // One client: all servers are its own, and as long-lived as it is.
    let options = GatewayOptions { isolation: Isolation::Session, idle_servers: None, ..options };
    let gateway = serving.gateway(Way::Stdio, options, recorder, paths, scope.child())?;
    gateway.warm();
    let streams = stdio::streams();
    let (input, output) = (streams.input, streams.output);
    let (serving, (done, served)) = (gateway.clone(), oneshot::channel());
    // A task like those it talks to: who waits for the runtime itself is reached by a detour.
    scope.spawn_until_cancelled(async move {
        drop(done.send(serving.serve_stdio(input, output).await));
    });
    let served = async { served.await.unwrap_or(Err(GatewayError::Stopped)) };
    let result = stop.run_until_cancelled(served).await.unwrap_or(Ok(()));
    end(gateway, scope, books).await;
    Ok(result?)
}

/// Where to serve over HTTP, and what to tell of it.
#[derive(Clone, Debug)]
pub struct Place {
    /// The host and the port.
    pub local: Local,
    /// How many ports behind that one will do as well, where it is taken.
    pub spare: u16,
    /// The path of the URL that is told; all faces are served, whichever it is.
    pub path: &'static str,
}

/// Serves clients on this machine over HTTP until `stop` is cancelled.
///
/// A single server is tried first; `ready` is told the URL once clients can come, and what the user
/// may want to know.
///
/// # Errors
/// When the server does not work or the address cannot be bound.
pub async fn run_http(
    serving: &Serving,
    options: GatewayOptions,
    paths: &Paths,
    place: Place,
    ready: impl FnOnce(&str, &[String]),
    stop: CancellationToken,
) -> Result<(), RunError> {
    let (scope, books) = (Scope::new(), Scope::new());
    let recorder = Recorder::start(paths, &books);
    let gateway = serving.gateway(Way::Http, options, recorder, paths, scope.child())?;
    let result = serve_http(&gateway, place, ready, &scope, &stop).await;
    end(gateway, scope, books).await;
    result
}

/// Ends everything, and the recorder of usage after whatever it records.
async fn end(gateway: Gateway, scope: Scope, books: Scope) {
    gateway.shutdown().await;
    drop(gateway);
    scope.drain(GRACE).await;
    books.drain(GRACE).await;
}

async fn serve_http(
    gateway: &Gateway,
    place: Place,
    ready: impl FnOnce(&str, &[String]),
    scope: &Scope,
    stop: &CancellationToken,
) -> Result<(), RunError> {
    match stop.run_until_cancelled(gateway.probe()).await {
        None => return Ok(()),
        Some(probed) => probed?,
    };
    let path = place.path;
    let address = bind(gateway, place, scope).await?;
    gateway.warm();
    ready(&format!("http://{address}{path}"), &gateway.notes());
    stop.cancelled().await;
    Ok(())
}

/// Takes the first port that is free.
async fn bind(
    gateway: &Gateway,
    place: Place,
    scope: &Scope,
) -> Result<std::net::SocketAddr, ListenError> {
    let Place { local: Local { host, port }, spare, path: _ } = place;
    let mut taken = None;
    for port in port..=port.saturating_add(spare) {
        let options = ListenOptions { host: host.clone(), port, ..ListenOptions::default() };
        match listen(gateway.clone(), options, scope).await {
            Err(error @ ListenError::Busy { .. }) => taken = taken.or(Some(error)),
            done => return done,
        }
    }
    // The range has the port itself in it, so something was taken.
    Err(taken.unwrap_or(ListenError::Busy { host, port }))
}
