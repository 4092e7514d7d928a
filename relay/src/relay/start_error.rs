//! Why a relay cannot start, and what an operator may do about it.

use std::net::SocketAddr;

use crate::cert::CertError;
use crate::nodes::NodesError;
use crate::observe::ObserveError;
use crate::store::StoreError;

/// Why a relay cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {addr} ({setting})")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The setting it came from.
        setting: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The certificate cannot be used.
    #[error(transparent)]
    Cert(#[from] CertError),
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Requests cannot be looked at as asked.
    #[error(transparent)]
    Observe(#[from] ObserveError),
    /// The process cannot be one node of several.
    #[error(transparent)]
    Nodes(#[from] NodesError),
}

impl StartError {
    /// Returns what an operator may do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Listen { source, setting, .. } => Some(match source.kind() {
                std::io::ErrorKind::AddrInUse => {
                    format!("Stop what listens there, or choose another address with {setting}")
                }
                std::io::ErrorKind::PermissionDenied => format!(
                    "Ports below 1024 need a privilege: choose another with {setting}, or give \
                     the service CAP_NET_BIND_SERVICE"
                ),
                _ => format!("Check {setting}"),
            }),
            Self::Observe(ObserveError::AccessLog { .. }) => Some(
                "Make its directory, writable for the relay, or change --access-log-file".into(),
            ),
            Self::Observe(_) => Some("Check --otlp-endpoint".to_owned()),
            Self::Nodes(NodesError::NotShared) => {
                Some("Give all nodes one PostgreSQL with --database-file".to_owned())
            }
            Self::Cert(_) | Self::Store(_) | Self::Nodes(_) => None,
        }
    }
}
