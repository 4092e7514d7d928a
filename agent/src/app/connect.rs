//! Somebody else's share as a server of ours: read the link, see that it answers, keep it.
//!
//! A link comes from a stranger. So nothing of it may mean more to us than it says: what looks like
//! a reference to a secret of ours (`${VAR}`, `file:…`) is refused, or it would be sent to them.

mod invitation;

use std::time::Duration;

use mcpm_shared::scope::Scope;

pub use self::invitation::{Credential, Invitation, LinkError};
use super::servers;
use super::serving::{Serving, Way};
use crate::config::{self, ConfigError, GlobalConfigManager};
use crate::fs::Paths;
use crate::gateway::{GatewayError, GatewayOptions, Probe, StderrSink};
use crate::hint::Hint;
use crate::model::{Server, Transport};
use crate::usage::Recorder;

/// How long what was opened may take to end.
const GRACE: Duration = Duration::from_secs(3);
/// How many names are tried where the first is taken.
const NAMES: u32 = 99;

/// Why a share cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// It wants to know who we are, or does not believe us.
    #[error("{host} {} (HTTP {status})", shown.refused())]
    Unauthorized {
        /// Where it is.
        host: String,
        /// What it answered.
        status: u16,
        /// What it was shown.
        shown: Credential,
    },
    /// It does not answer as an MCP server does.
    #[error("cannot connect to {url}")]
    NoAnswer {
        /// Where it should be, without any secret.
        url: String,
        /// What happened.
        source: GatewayError,
    },
    /// Our own files.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl Hint for ConnectError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unauthorized { shown: Credential::Nothing, .. } => {
                "Give the token that you were given with --token-stdin; where there is a login instead, use `mcpm new NAME --url URL` and `mcpm login NAME`".to_owned()
            }
            Self::Unauthorized { .. } => {
                "It may be mistyped, or was revoked; ask whoever shares for a new one".to_owned()
            }
            Self::NoAnswer { .. } => {
                "Check the address, and that whoever shares has the share running".to_owned()
            }
            Self::Config(ConfigError::Exists { .. }) => {
                "Choose another name with --name, or replace it with --force".to_owned()
            }
            Self::Config(error) => return error.hint(),
        })
    }
}

/// A share that answered.
#[derive(Debug)]
pub struct Connected {
    /// The server that it becomes.
    pub server: Server,
    /// What it says of itself.
    pub probe: Probe,
}

/// The name that a share gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The name.
    pub name: String,
    /// Whether a server of that name is replaced.
    pub replaces: bool,
}

/// Finds the name for a share: the one that is asked for, that of a server which is this share
/// already, or a free one.
///
/// # Errors
/// When the name that is asked for is none, or is taken and not to be replaced.
pub fn place(
    paths: &Paths,
    invitation: &Invitation,
    asked: Option<&str>,
    force: bool,
) -> Result<Place, ConfigError> {
    let global = GlobalConfigManager::open(paths)?;
    let is_it = |name: &str| match global.server(name).map(|server| server.transport) {
        Ok(Transport::Remote { url, .. }) => invitation.is_at(&url),
        _ => false,
    };
    if let Some(name) = asked {
        config::check_name("server", name)?;
        let taken = global.has(name);
        if taken && !force && !is_it(name) {
            return Err(ConfigError::Exists { what: "server", name: name.to_owned() });
        }
        return Ok(Place { name: name.to_owned(), replaces: taken });
    }
    let known = global.list_servers().into_iter().find(|listed| is_it(&listed.name));
    if let Some(listed) = known {
        return Ok(Place { name: listed.name, replaces: true });
    }
    let base = invitation.called();
    let more = (2..=NAMES).map(|number| format!("{base}-{number}"));
    let mut names = std::iter::once(base.to_owned()).chain(more);
    match names.find(|name| !global.has(name)) {
        Some(name) => Ok(Place { name, replaces: false }),
        None => Err(ConfigError::Exists { what: "server", name: base.to_owned() }),
    }
}

/// Tries the ways to a share until one answers.
///
/// # Errors
/// Says why the most promising one did not.
pub async fn try_out(
    invitation: &Invitation,
    name: &str,
    patience: Duration,
    paths: &Paths,
) -> Result<Connected, ConnectError> {
    let mut telling: Option<ConnectError> = None;
    for (url, headers) in invitation.ways() {
        let transport = Transport::Remote { url: url.clone(), headers: headers.clone() };
        let server = Server::new(name, transport);
        let source = match probe(server.clone(), patience, paths).await {
            Ok(probe) => return Ok(Connected { server, probe }),
            Err(source) => source,
        };
        // Another path of the same host may answer, unless the host itself does not.
        let final_word =
            !matches!(source, GatewayError::Refused { .. } | GatewayError::Unauthorized { .. });
        let error = match source {
            GatewayError::Unauthorized { status, .. } => ConnectError::Unauthorized {
                host: invitation.host().to_owned(),
                status,
                shown: invitation.credential(),
            },
            source => {
                let url = url.split('?').next().unwrap_or(url).to_owned();
                ConnectError::NoAnswer { url, source }
            }
        };
        let tells_more = matches!(error, ConnectError::Unauthorized { .. })
            && !matches!(telling, Some(ConnectError::Unauthorized { .. }));
        if telling.is_none() || tells_more {
            telling = Some(error);
        }
        if final_word {
            break;
        }
    }
    Err(telling.unwrap_or_else(|| unreachable!("an invitation has a way")))
}

/// Opens a conversation, asks what there is, and ends it.
async fn probe(server: Server, patience: Duration, paths: &Paths) -> Result<Probe, GatewayError> {
    let scope = Scope::new();
    let stderr = Some(StderrSink::new(|_, _| {}));
    let options = GatewayOptions { start_timeout: patience, stderr, ..GatewayOptions::default() };
    let serving = Serving::server(server);
    let gateway = serving.gateway(Way::Http, options, Recorder::off(), paths, scope.child())?;
    let outcome = gateway.probe().await;
    gateway.shutdown().await;
    drop(gateway);
    scope.drain(GRACE).await;
    outcome
}

/// Keeps a share that answered as a server.
///
/// # Errors
/// When the name is taken by now, or a file cannot be written.
pub fn keep(paths: &Paths, connected: &Connected, place: &Place) -> Result<(), ConnectError> {
    Ok(servers::create(paths, connected.server.clone(), place.replaces)?)
}

#[cfg(test)]
mod tests;
