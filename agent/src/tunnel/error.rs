//! What goes wrong between an agent and its relay.

use std::sync::Arc;

use mcpm_shared::proto::{Refusal, code};

use crate::hint::Hint;

/// Why the relay could not be reached or did not take the share. Cheap to clone.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TunnelError {
    /// The relay's host cannot be resolved or connected to.
    #[error("cannot connect to the relay {relay}")]
    Connect {
        /// The relay's origin.
        relay: String,
        /// Why.
        source: Arc<std::io::Error>,
    },
    /// The relay did not answer in time.
    #[error("the relay {relay} did not answer in time")]
    Timeout {
        /// The relay's origin.
        relay: String,
    },
    /// The proxy on the way did not let us through.
    #[error("the proxy {proxy} refused the connection: {message}")]
    Proxy {
        /// The proxy, without its credentials.
        proxy: String,
        /// What it said.
        message: String,
    },
    /// TLS failed, most often because the certificate is not trusted.
    #[error("no secure connection to the relay {relay}")]
    Tls {
        /// The relay's origin.
        relay: String,
        /// Why.
        source: Arc<std::io::Error>,
        /// Whether trying again is pointless.
        untrusted: bool,
    },
    /// A setting of TLS cannot be used.
    #[error("{0}")]
    TlsSetting(String),
    /// The relay said no.
    #[error("the relay {relay} refused: {refusal}")]
    Refused {
        /// The relay's origin.
        relay: String,
        /// What it said.
        refusal: Box<Refusal>,
    },
    /// Something answered that is not a relay.
    #[error("{relay} is not an mcpm relay: it answered with HTTP {status}")]
    NotARelay {
        /// The address.
        relay: String,
        /// The status it answered with.
        status: u16,
    },
    /// The connection broke.
    #[error("the connection to the relay broke: {0}")]
    Lost(String),
}

impl TunnelError {
    /// Tells whether trying again without a change is pointless.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        match self {
            Self::Refused { refusal, .. } => {
                refusal.is_terminal()
                    || matches!(
                        refusal.code.as_ref(),
                        code::SUPERSEDED | code::REVOKED | code::EXPIRED
                    )
            }
            Self::TlsSetting(_) => true,
            Self::Tls { untrusted, .. } => *untrusted,
            Self::Connect { .. }
            | Self::Timeout { .. }
            | Self::Proxy { .. }
            | Self::NotARelay { .. }
            | Self::Lost(_) => false,
        }
    }

    /// Returns how long the relay asked us to stay away.
    #[must_use]
    pub fn retry_after(&self) -> Option<std::time::Duration> {
        match self {
            Self::Refused { refusal, .. } => {
                refusal.retry_after_secs.map(std::time::Duration::from_secs)
            }
            _ => None,
        }
    }

    /// Returns a stable code for machines.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Connect { .. } => "relay_unreachable",
            Self::Timeout { .. } => "relay_timeout",
            Self::Proxy { .. } => "proxy_refused",
            Self::Tls { .. } => "relay_tls",
            Self::TlsSetting(_) => "tls_setting",
            Self::Refused { refusal, .. } => &refusal.code,
            Self::NotARelay { .. } => "not_a_relay",
            Self::Lost(_) => "connection_lost",
        }
    }
}

impl Hint for TunnelError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Connect { relay, .. } | Self::Timeout { relay } => Some(format!(
                "Check the address with `curl {relay}/healthz`, and that the relay is running"
            )),
            Self::Proxy { .. } => Some("Check HTTPS_PROXY and NO_PROXY".to_owned()),
            Self::Tls { relay, untrusted: true, .. } => Some(format!(
                "If the relay has a certificate of its own, trust it with `mcpm relay login \
                 {relay} --fingerprint SHA256` or `--ca FILE`"
            )),
            Self::Tls { relay, .. } => Some(format!(
                "If the relay serves plain HTTP, write {}",
                relay.replace("https:", "http:")
            )),
            Self::Refused { refusal, .. } => refusal.hint.clone(),
            Self::NotARelay { .. } => {
                Some("Check --address: it must be the relay's own domain".to_owned())
            }
            Self::TlsSetting(_) | Self::Lost(_) => None,
        }
    }
}
