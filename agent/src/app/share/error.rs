//! Why sharing ended without being asked to.

use crate::credentials::CredentialError;
use crate::gateway::GatewayError;
use crate::gateway::listen::ListenError;
use crate::hint::Hint;
use crate::tunnel::TunnelError;

/// Why a share could not be made or could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShareError {
    /// Our own credentials cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// The server does not work.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// The local address cannot be served.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The relay said no.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// The relay could not be reached for the first time.
    #[error("cannot reach relay {relay} ({tried}){}", reason.as_deref().map(|r| format!(": {r}")).unwrap_or_default())]
    Unreachable {
        /// Where it should be.
        relay: String,
        /// How long or how often we tried.
        tried: String,
        /// What went wrong last.
        reason: Option<String>,
        /// What the user may do about that.
        hint: Option<String>,
    },
    /// The share ended: superseded, expired or revoked.
    #[error("the share ended: {0}")]
    Ended(String),
    /// A task that the share needs is gone.
    #[error("the share stopped by itself")]
    Stopped,
}

impl Hint for ShareError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Credentials(error) => error.hint(),
            Self::Gateway(error) => error.hint(),
            Self::Listen(error) => error.hint(),
            Self::Tunnel(error) => error.hint(),
            Self::Unreachable { hint: Some(hint), .. } => Some(hint.clone()),
            Self::Unreachable { relay, .. } => Some(format!(
                "Check your network and that {relay} is a relay; name another with --address"
            )),
            Self::Ended(_) => Some("Start `mcpm share` again to take the name back".to_owned()),
            Self::Stopped => None,
        }
    }
}

/// Says an error, what is behind it and what to do about it, on one line.
pub(super) fn in_full(error: &dyn Hint) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    match error.hint() {
        Some(hint) => format!("{text}. {hint}"),
        None => text,
    }
}
