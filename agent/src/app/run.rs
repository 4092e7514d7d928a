//! Running a server, or several as one, for a local client, over stdio or over HTTP on this machine.

use std::time::Duration;

use mcpm_shared::scope::Scope;
use tokio_util::sync::CancellationToken;

use super::serving::{Serving, Way};
use super::share::Local;
use crate::fs::Paths;
use crate::gateway::listen::{self, ListenError, ListenOptions, listen};
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
    let served = gateway.serve_stdio(tokio::io::stdin(), tokio::io::stdout());
    let result = stop.run_until_cancelled(served).await.unwrap_or(Ok(()));
    end(gateway, scope, books).await;
    Ok(result?)
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
    local: Local,
    ready: impl FnOnce(&str, &[String]),
    stop: CancellationToken,
) -> Result<(), RunError> {
    let (scope, books) = (Scope::new(), Scope::new());
    let recorder = Recorder::start(paths, &books);
    let gateway = serving.gateway(Way::Http, options, recorder, paths, scope.child())?;
    let result = serve_http(&gateway, local, ready, &scope, &stop).await;
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
    local: Local,
    ready: impl FnOnce(&str, &[String]),
    scope: &Scope,
    stop: &CancellationToken,
) -> Result<(), RunError> {
    match stop.run_until_cancelled(gateway.probe()).await {
        None => return Ok(()),
        Some(probed) => probed?,
    };
    let Local { host, port } = local;
    let options = ListenOptions { host, port, ..ListenOptions::default() };
    let address = listen(gateway.clone(), options, scope).await?;
    gateway.warm();
    ready(&format!("http://{address}{}", listen::PATH), &gateway.notes());
    stop.cancelled().await;
    Ok(())
}
