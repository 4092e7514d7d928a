//! The client applications: where each keeps its list of MCP servers, how an entry looks there, and
//! editing that list in place. Nothing here knows `servers.json`; that is the business of `app`.
//!
//! Adding a client is one entry of the table in `table.rs`, and a shape in `shape.rs` where its
//! entries look like nobody else's.

mod document;
mod entry;
mod file;
mod foreign;
mod manager;
mod places;
mod shape;
mod table;

use std::io;
use std::path::PathBuf;

pub use self::document::Format;
pub use self::entry::{Launch, Target};
pub use self::foreign::{Foreign, NotImportable};
pub use self::manager::{ClientConfigManager, Edit, Entry, Outcome};
pub use self::places::{Os, Places};
pub use self::table::{ALL, Client};

use crate::hint::Hint;

/// Why the configuration of a client cannot be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// mcpm knows no such client.
    #[error("no client named `{name}`")]
    Unknown {
        /// What was asked for.
        name: String,
        /// The known name that looks most like it.
        near: Option<&'static str>,
    },
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file cannot be written; it is as it was.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is not what it should be; it is as it was.
    #[error("cannot parse {}: {reason}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// The file cannot be edited without a loss; it is as it was.
    #[error("cannot edit {} without changing more than was asked for", path.display())]
    Unfaithful {
        /// The file.
        path: PathBuf,
    },
    /// The client itself wrote the file again and again while we edited it.
    #[error("cannot edit {}: the client keeps changing it", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// An entry that is not mcpm's has the name that ours needs.
    #[error("{} has another entry named `{key}`", path.display())]
    Taken {
        /// The file.
        path: PathBuf,
        /// The name.
        key: String,
    },
    /// The client has no way to say that an entry is switched off.
    #[error("{client} cannot have servers that are switched off")]
    NoSwitch {
        /// The client.
        client: &'static str,
    },
    /// Our own file cannot be locked.
    #[error(transparent)]
    Fs(#[from] crate::fs::FsError),
}

impl Hint for ClientError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unknown { near: Some(near), .. } => format!("Did you mean `{near}`?"),
            Self::Unknown { near: None, .. } => "List clients with `mcpm client ls -v`".to_owned(),
            Self::Corrupt { path, .. } => format!(
                "Repair or move away {}; mcpm changes nothing in a file it cannot read",
                path.display()
            ),
            Self::Unfaithful { path } => {
                format!("Write the entry by hand, or lay {} out more plainly", path.display())
            }
            Self::Busy { .. } => "Close the client and try again".to_owned(),
            Self::NoSwitch { .. } => "Add the server without --disabled".to_owned(),
            Self::Taken { .. } => "Replace it with --force, or rename it".to_owned(),
            Self::Read { path, .. } | Self::Write { path, .. } => {
                format!("Check who owns {} and its permissions", path.display())
            }
            Self::Fs(error) => return error.hint(),
        })
    }
}
