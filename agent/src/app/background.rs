//! Shares as other processes see them: told while they run, started in processes of their own,
//! listed, and stopped.

mod beacon;
mod launch;
mod stop;

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use self::beacon::{Beacon, BeaconTask, Run};
pub use self::launch::{LaunchError, Order, launch, leave_terminal};
pub use self::stop::{StopError, Stopped, stop};
use super::share::{Access, Patience, ShareSpec, Up};
use crate::credentials::{CredentialError, NO_RELAY, ShareFile, ShareTarget, inherited};
use crate::fs::{FsError, Paths};
use crate::logs;
use crate::running::{self, RunningShare, Seen, State, Visitors};

/// How long a share may take over what has no limit of its own.
const MARGIN: Duration = Duration::from_secs(20);
/// How long one attempt to reach a relay may take, with the pause before it.
const ATTEMPT: Duration = Duration::from_secs(30);

/// The shares of this machine.
#[derive(Debug, Default)]
pub struct Shares {
    /// Those whose process lives, the oldest first.
    pub running: Vec<Seen>,
    /// Those that ended by themselves since somebody looked, and why if they said so.
    pub ended: Vec<RunningShare>,
}

/// Looks at the shares of this machine, and cleans up behind those whose process is gone.
///
/// # Errors
/// When the folder cannot be read.
pub fn look(paths: &Paths) -> Result<Shares, FsError> {
    let mut shares = Shares::default();
    for seen in running::list(paths)? {
        if seen.alive {
            shares.running.push(seen);
            continue;
        }
        running::clean(paths, &seen.id);
        shares.ended.extend(seen.record.ok());
    }
    Ok(shares)
}

/// Returns the share that would lose its name to this one: one of the same thing, or, where what is
/// shared had another name when that share started, one of the same name.
///
/// # Errors
/// When a folder of shares cannot be read.
pub fn rival(paths: &Paths, spec: &ShareSpec) -> Result<Option<RunningShare>, CredentialError> {
    let (relay, wanted) = (relay_of(spec), spec.name.as_ref());
    let name = match wanted {
        Some(name) => Some(name.clone()),
        None => inherited(paths)?.name(&spec.target, &relay),
    };
    let has_name =
        |share: &RunningShare| name.is_some() && share.relay == relay && share.name == name;
    let running = look(paths)?.running.into_iter().filter_map(|seen| seen.record.ok());
    let mut running = running.filter(|share| !matches!(share.state, State::Ended(_)));
    Ok(running.find(|share| share.would_yield_to(&spec.target, &relay, wanted) || has_name(share)))
}

/// Returns how long a share may take to be up or to fail.
#[must_use]
pub fn limit(spec: &ShareSpec) -> Duration {
    let connects = match spec.patience {
        Patience::Time(time) => time,
        Patience::Retries(retries) => ATTEMPT.saturating_mul(retries.saturating_add(1)),
    };
    spec.gateway.start_timeout.saturating_add(connects).saturating_add(MARGIN)
}

/// Returns the file that a share in the background writes to.
#[must_use]
pub fn log(paths: &Paths, target: &ShareTarget) -> PathBuf {
    logs::path(paths, &log_name(target))
}

/// Returns what `mcpm logs` calls it. No server has a colon in its name.
#[must_use]
pub fn log_name(target: &ShareTarget) -> String {
    format!("share:{}", target.base())
}

/// Returns what a visitor needs of a share that is up in another process.
///
/// # Errors
/// When the file of the share cannot be read.
pub fn up(paths: &Paths, share: &RunningShare) -> Result<Option<Up>, CredentialError> {
    let (Some(name), Some(url)) = (&share.name, &share.url) else { return Ok(None) };
    let file = ShareFile::new(paths, name, &share.relay);
    let record = file.read()?;
    let record = record.as_ref().filter(|_| share.visitors != Visitors::Public);
    let token = record.and_then(|record| record.own_token()).map(|own| own.token.clone());
    let link = record.filter(|_| share.visitors == Visitors::Link);
    let link = link.and_then(|record| record.link.as_ref());
    Ok(Some(Up {
        name: name.to_string(),
        url: url.clone(),
        token,
        link: link.map(|secret| format!("{url}?s={}", secret.expose())),
        local: share.local.clone(),
        expires_at: share.expires_at,
        again: false,
    }))
}

/// Returns the link of mcpm 1 to a profile: `http(s)://ADDRESS?s=SECRET&profile=PROFILE`, where
/// ADDRESS is the URL of the share without the path of MCP.
#[must_use]
pub fn router_link(up: &Up, profile: &str) -> Option<String> {
    let (url, secret) = up.link.as_deref()?.split_once("?s=")?;
    let address = url.trim_end_matches('/').strip_suffix("/mcp").unwrap_or(url);
    let profile: String = url::form_urlencoded::byte_serialize(profile.as_bytes()).collect();
    Some(format!("{address}?s={secret}&profile={profile}"))
}

fn relay_of(spec: &ShareSpec) -> String {
    spec.relay.as_ref().map_or_else(|| NO_RELAY.to_owned(), |relay| relay.address.origin())
}

fn visitors(access: Access) -> Visitors {
    match access {
        Access::Token => Visitors::Token,
        Access::Link => Visitors::Link,
        Access::Public => Visitors::Public,
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
