//! What this agent holds: its own key, its credentials for relays, and the tokens of its shares.
//!
//! All of it rests in files of mode 0600. The tokens of a share are kept in clear, and nowhere
//! else, so that `mcpm share` can print the same token again tomorrow; relays get digests only.

mod key;
mod proof;
mod relays;
mod shares;

pub use self::key::agent_key;
pub use self::proof::{ProofSource, TokenCommand};
pub use self::relays::{Change, RelayChange, RelayCredential, RelayStore, Trust};
pub use self::shares::{
    Inherited, ListedShare, NO_RELAY, NewToken, ShareFile, ShareFolder, ShareRecord, ShareTarget,
    ShareToken, Version, find, inherited, list, lock_out, retarget,
};

use std::path::PathBuf;

use mcpm_shared::identity::KeyError;

use crate::fs::FsError;
use crate::hint::Hint;

/// Why credentials cannot be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// A file cannot be read or written.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The key file holds no key.
    #[error("cannot use {}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KeyError,
    },
    /// No share was ever made under this name.
    #[error("no share named `{0}`")]
    UnknownShare(String),
    /// Several shares match.
    #[error("`{asked}` may mean several shares: {}", found.join(", "))]
    AmbiguousShare {
        /// What was asked for.
        asked: String,
        /// The full names of all that match.
        found: Vec<String>,
    },
    /// The share has no such token.
    #[error("share `{share}` has no token `{id}`")]
    UnknownToken {
        /// The share.
        share: String,
        /// The id or label that was asked for.
        id: String,
    },
    /// Several tokens of the share have this label.
    #[error("share `{share}` has several tokens labelled `{label}`: {}", ids.join(", "))]
    AmbiguousToken {
        /// The share.
        share: String,
        /// The label that was asked for.
        label: String,
        /// The ids of all that have it.
        ids: Vec<String>,
    },
    /// There is no credential for this relay.
    #[error("no credential for relay {0}")]
    UnknownRelay(String),
    /// A CA file and a fingerprint were to count for one relay; only one of them could be checked.
    #[error("relay {relay} is already trusted by {kept}")]
    TwoTrusts {
        /// The relay.
        relay: String,
        /// What is kept for it.
        kept: Trust,
    },
    /// The name is in use for something else that we share.
    #[error("the name `{name}` already belongs to {target} on this machine")]
    NameInUse {
        /// The name of the share.
        name: String,
        /// What it belongs to.
        target: ShareTarget,
    },
}

impl Hint for CredentialError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Fs(error) => return error.hint(),
            Self::Key { path, .. } => format!(
                "Restore {0} from a backup, or move it away to get a new identity (names of shares change then)",
                path.display()
            ),
            Self::UnknownShare(_) => {
                "A share has tokens once it was started with `mcpm share`; see `mcpm token ls`"
                    .to_owned()
            }
            Self::AmbiguousShare { .. } => "Use one of these full names".to_owned(),
            Self::UnknownToken { share, .. } => format!("List tokens with `mcpm token ls {share}`"),
            Self::AmbiguousToken { .. } => "Name the token by one of these ids".to_owned(),
            Self::TwoTrusts { relay, kept } => {
                let option = match kept {
                    Trust::Ca => "--no-ca",
                    Trust::Fingerprint => "--no-fingerprint",
                };
                format!("Drop that with {option} of `mcpm relay login {relay}`")
            }
            Self::UnknownRelay(_) => "List relays with `mcpm relay ls`".to_owned(),
            Self::NameInUse { .. } => "Choose another name with --subdomain".to_owned(),
        })
    }
}
