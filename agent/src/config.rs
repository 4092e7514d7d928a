//! The configuration that users own: servers and profiles, in the files of the Python `mcpm` 2.x.
//!
//! Managers open with explicit [`Paths`](crate::fs::Paths). They keep what they do not
//! understand, entry by entry and byte for byte, and never replace a file that they cannot parse.

mod document;
mod global;
mod profile;

pub use self::global::{GlobalConfigManager, Listed};
pub use self::profile::{Profile, ProfileConfigManager};

use crate::fs::FsError;
use crate::hint::Hint;
use crate::model::EntryError;

/// Why the configuration cannot answer or change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A file cannot be read or written.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// There is no such server.
    #[error("no server named `{name}`")]
    UnknownServer {
        /// What was asked for.
        name: String,
        /// The known name that looks most like it.
        near: Option<String>,
    },
    /// There is no such profile.
    #[error("no profile named `{name}`")]
    UnknownProfile {
        /// What was asked for.
        name: String,
        /// The known name that looks most like it.
        near: Option<String>,
    },
    /// The entry of the server cannot be used.
    #[error("the entry of server `{name}` is not valid")]
    InvalidServer {
        /// The server.
        name: String,
        /// What is wrong with its entry.
        source: EntryError,
    },
    /// Something of this name is there already.
    #[error("a {what} named `{name}` exists already")]
    Exists {
        /// `server` or `profile`.
        what: &'static str,
        /// The name that is taken.
        name: String,
    },
}

impl Hint for ConfigError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Fs(error) => error.hint(),
            Self::UnknownServer { near, .. } => Some(match near {
                Some(near) => format!("Did you mean `{near}`? List servers with `mcpm ls`"),
                None => "List servers with `mcpm ls`".to_owned(),
            }),
            Self::UnknownProfile { near: Some(near), .. } => {
                Some(format!("Did you mean `{near}`?"))
            }
            Self::UnknownProfile { .. } => {
                Some("See which server has which profile with `mcpm ls`".to_owned())
            }
            Self::InvalidServer { name, .. } => {
                Some(format!("Correct the entry `{name}` in servers.json"))
            }
            Self::Exists { .. } => Some("Choose another name".to_owned()),
        }
    }
}

/// Returns the candidate that looks most like `name`, if any is near enough to be a slip.
fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<String> {
    let score =
        |candidate: &str| strsim::jaro_winkler(&name.to_lowercase(), &candidate.to_lowercase());
    candidates
        .map(|candidate| (score(candidate), candidate))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate.to_owned())
}
