//! The configuration that users own: servers and profiles, in the files of the Python `mcpm` 2.x.
//!
//! Managers open with explicit [`Paths`](crate::fs::Paths). They keep what they do not
//! understand, entry by entry and byte for byte, and never replace a file that they cannot parse.

mod change;
mod document;
mod global;
mod profile;
mod settings;
mod sources;
mod text;
pub mod v1;

pub use self::change::ServerChange;
pub use self::global::{GlobalConfigManager, Listed};
pub use self::profile::{Profile, ProfileConfigManager, ServersChange};
pub use self::settings::{DEFAULT_PROFILE, Kind, SETTINGS, Setting, Settings};
pub use self::sources::Sources;

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
        /// What may have been meant.
        meant: Meant,
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
    /// A name that could not be typed, or would be taken for something else.
    #[error("`{name}` cannot be the name of a {what}")]
    BadName {
        /// `server` or `profile`.
        what: &'static str,
        /// What was given.
        name: String,
    },
    /// The server has no such keys.
    #[error("server `{name}` is {kind}, not {asked}")]
    OtherKind {
        /// The server.
        name: String,
        /// What it is.
        kind: &'static str,
        /// The kind that has them.
        asked: &'static str,
    },
    /// There is no such setting.
    #[error("no setting named `{key}`")]
    UnknownSetting {
        /// What was asked for.
        key: String,
        /// The known key that looks most like it.
        near: Option<String>,
    },
    /// The setting must not have this value.
    #[error("`{value}` is no value of `{key}`")]
    BadSetting {
        /// The setting.
        key: &'static str,
        /// What was given.
        value: String,
        /// What it may be; with none it is the address of a site.
        values: &'static [&'static str],
    },
}

/// What may have been meant by the name of a server that there is none of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Meant {
    /// The profile of this name.
    Profile,
    /// The server whose name looks most like it.
    Server(String),
    /// Something that is not known.
    Unknown,
    /// Something that was not installed yet: there is no server at all.
    NoneYet,
}

impl Hint for ConfigError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Fs(error) => error.hint(),
            Self::UnknownServer { name, meant } => Some(match meant {
                Meant::Profile => format!(
                    "`{name}` is a profile, and `mcpm profile` is for those: `mcpm profile share \
                     {name}`, or `run`, `inspect`, `edit` and `rm`"
                ),
                Meant::Server(near) => {
                    format!("Did you mean `{near}`? List servers with `mcpm ls`")
                }
                Meant::Unknown => "List servers with `mcpm ls`".to_owned(),
                Meant::NoneYet => {
                    "None is installed yet: install one with `mcpm install`, or add your own with \
                     `mcpm new`"
                        .to_owned()
                }
            }),
            Self::UnknownProfile { near: Some(near), .. } => {
                Some(format!("Did you mean `{near}`?"))
            }
            Self::UnknownProfile { .. } => Some("List profiles with `mcpm profile ls`".to_owned()),
            Self::InvalidServer { name, .. } => {
                Some(format!("Correct the entry `{name}` in servers.json"))
            }
            Self::Exists { .. } => Some("Choose another name".to_owned()),
            Self::BadName { .. } => Some(
                "Begin with a letter or digit; go on with those, `-`, `_`, `.` or `/`".to_owned(),
            ),
            Self::OtherKind { kind: "stdio", .. } => {
                Some("A stdio server has --command, --args and --env".to_owned())
            }
            Self::OtherKind { kind: "remote", .. } => {
                Some("A remote server has --url and --headers".to_owned())
            }
            Self::OtherKind { .. } => {
                Some("Edit the entry in servers.json with `mcpm edit -e`".to_owned())
            }
            Self::UnknownSetting { near: Some(near), .. } => {
                Some(format!("Did you mean `{near}`?"))
            }
            Self::UnknownSetting { .. } => Some("List settings with `mcpm config ls`".to_owned()),
            Self::BadSetting { values: [], .. } => {
                Some("Write an address such as https://mcp.example, without a password".to_owned())
            }
            Self::BadSetting { values, .. } => Some(format!("Choose one of {}", values.join(", "))),
        }
    }
}

/// Checks a new name. Those of others, that are in a file already, may be anything.
pub(crate) fn check_name(what: &'static str, name: &str) -> Result<(), ConfigError> {
    // `@client` and `%profile` were scopes in mcpm 1; `/` and a leading dash would be read as such.
    let fine = |c: char| c.is_alphanumeric() || "-_.@/ ".contains(c);
    let starts = name.chars().next().is_some_and(|c| c.is_alphanumeric() || c == '@');
    if starts && name.chars().all(fine) && !name.ends_with([' ', '/']) {
        return Ok(());
    }
    Err(ConfigError::BadName { what, name: name.to_owned() })
}

/// Makes the error for a server that is not among `known`: names, and the profiles of each.
fn unknown_server<'a>(
    name: &str,
    known: impl Iterator<Item = (&'a str, Vec<String>)>,
) -> ConfigError {
    let known: Vec<_> = known.collect();
    let meant = if known.is_empty() {
        Meant::NoneYet
    } else if known.iter().any(|(_, profiles)| profiles.iter().any(|profile| profile == name)) {
        Meant::Profile
    } else {
        let near = nearest(name, known.iter().map(|(known, _)| *known));
        near.map_or(Meant::Unknown, Meant::Server)
    };
    ConfigError::UnknownServer { name: name.to_owned(), meant }
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
