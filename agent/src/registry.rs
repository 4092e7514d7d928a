//! The registries of installable servers, behind one port: the mcpm.sh catalogue, the official MCP
//! Registry, and a small list in this program.
//!
//! Each remote registry has a last good copy on disk. What goes wrong on the way is told beside the
//! answer, not instead of it. This module installs nothing.

mod builtin;
pub mod bundle;
mod catalogue;
pub mod fill;
pub mod folder;
pub mod manifest;
mod official;
pub mod reference;
mod server_json;
mod template;
pub mod unfill;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use url::Url;

pub use self::manifest::{Manifest, Method, Origin};
use self::reference::is_reverse_dns;
use crate::fs::{FsError, Paths};
use crate::hint::Hint;
use crate::web::{Web, WebError};

/// Where the catalogue is.
const CATALOGUE: &str = "https://mcpm.sh/api/servers.json";
/// Where the official registry is.
const OFFICIAL: &str = "https://registry.modelcontextprotocol.io/";
/// How old a copy may be before it is asked about: what the registries themselves suggest.
const MAX_AGE: Duration = Duration::from_secs(3_600);

/// A registry of servers.
#[async_trait]
pub trait Source: std::fmt::Debug + Send + Sync {
    /// Says which one it is.
    fn origin(&self) -> Origin;

    /// Returns the servers that match `query`, all without one.
    async fn list(&self, query: Option<&str>) -> Listing;

    /// Returns the server of this name, if there is one.
    async fn find(&self, name: &str, version: Option<&str>) -> Listing;
}

/// What a registry answers: as much as it knows, and what went wrong.
#[derive(Debug, Default)]
pub struct Listing {
    /// The servers.
    pub manifests: Vec<Manifest>,
    /// Why there may be more, or newer ones.
    pub problem: Option<RegistryError>,
}

/// Which servers were found, in all registries.
#[derive(Debug, Default)]
pub struct Found {
    /// The servers, by name.
    pub manifests: Vec<Manifest>,
    /// Why there may be more, or newer ones.
    pub problems: Vec<RegistryError>,
}

/// How current an answer shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Copies are used for an hour.
    Usual,
    /// Copies are checked, and read to their end.
    Refresh,
    /// Nobody is asked.
    Offline,
}

impl Policy {
    fn is_offline(self) -> bool {
        self == Self::Offline
    }

    fn is_thorough(self) -> bool {
        self == Self::Refresh
    }

    fn is_fresh(self, checked_at: u64) -> bool {
        // A copy from the future tells of a clock that was set back.
        let age = unix_now().checked_sub(checked_at);
        self == Self::Usual && age.is_some_and(|age| age < MAX_AGE.as_secs())
    }
}

/// Where the registries are.
#[derive(Clone, Debug)]
pub struct Places {
    /// The file of the catalogue.
    pub catalogue: Url,
    /// The root of the official registry.
    pub official: Url,
}

impl Places {
    /// Uses these addresses, and the usual ones where there is none. The address of a catalogue is
    /// that of its file or of the site that has it at `/api/servers.json`.
    #[must_use]
    pub fn new(catalogue: Option<Url>, official: Option<Url>) -> Self {
        let usual = |text: &str| Url::parse(text).expect("our own address is one");
        let catalogue = catalogue.map_or_else(|| usual(CATALOGUE), |url| file_of(&url));
        Self { catalogue, official: official.unwrap_or_else(|| usual(OFFICIAL)) }
    }
}

fn file_of(url: &Url) -> Url {
    let mut url = url.clone();
    let path = url.path().trim_end_matches('/').to_owned();
    if path.ends_with(".json") {
        return url;
    }
    let rest = if path.ends_with("/api") { "servers.json" } else { "api/servers.json" };
    url.set_path(&format!("{path}/{rest}"));
    url
}

/// Why a registry has no answer, or none that is current.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// It was not reached, or refused.
    #[error("cannot ask {}", at(*origin))]
    Web {
        /// Which one.
        origin: Origin,
        /// What went wrong.
        source: WebError,
    },
    /// It answered nonsense.
    #[error("{} answered with something that cannot be used: {reason}", at(*origin))]
    Broken {
        /// Which one.
        origin: Origin,
        /// What is wrong with it.
        reason: String,
    },
    /// It was not read to its end.
    #[error("only {known} servers of the official registry are known so far")]
    Partial {
        /// How many are known.
        known: usize,
    },
    /// Nobody may be asked, and nobody was before.
    #[error("there is no copy of {}", at(*.0))]
    NoCopy(Origin),
    /// The copy cannot be kept.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// There is no such server.
    #[error("no registry has a server named `{name}`")]
    Unknown {
        /// What was asked for.
        name: String,
        /// Names that look like it.
        near: Vec<String>,
    },
    /// A registry that was not reached may have the server.
    #[error("cannot find `{name}`")]
    Unsure {
        /// What was asked for.
        name: String,
        /// Names that look like it.
        near: Vec<String>,
        /// Why it is not known.
        source: Box<Self>,
    },
}

fn at(origin: Origin) -> &'static str {
    match origin {
        Origin::Catalogue => "the catalogue",
        Origin::Official => "the official registry",
        Origin::BuiltIn | Origin::Reference => "the built-in list",
    }
}

impl Hint for RegistryError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Web { source, .. } => source.hint(),
            Self::Broken { .. } => Some("Try again later, or name another registry".to_owned()),
            Self::Partial { .. } => Some("Read the rest with `mcpm search --refresh`".to_owned()),
            Self::NoCopy(_) => Some("Try again without --offline".to_owned()),
            Self::Fs(error) => error.hint(),
            Self::Unknown { near, .. } if near.is_empty() => Some(
                "Look for it with `mcpm search`, or give a package, a URL or a folder".to_owned(),
            ),
            Self::Unsure { near, source, .. } if near.is_empty() => source.hint(),
            Self::Unknown { near, .. } | Self::Unsure { near, .. } => {
                Some(format!("Did you mean `{}`?", near.join("`, `")))
            }
        }
    }
}

/// All registries, in the order in which they are believed.
#[derive(Clone, Debug)]
pub struct Registry {
    sources: Vec<Arc<dyn Source>>,
}

impl Registry {
    /// Uses the catalogue, the official registry and the built-in list.
    #[must_use]
    pub fn new(places: Places, paths: &Paths, web: &Arc<Web>, policy: Policy) -> Self {
        let Places { catalogue, official } = places;
        let python = (catalogue.as_str() == CATALOGUE).then(|| paths.servers_cache());
        let file = |name: &str| paths.registry().join(name);
        let catalogue = catalogue::Catalogue::new(
            catalogue,
            file("catalogue.json"),
            python,
            Arc::clone(web),
            policy,
        );
        let official =
            official::Official::new(official, file("official.json"), Arc::clone(web), policy);
        Self::of(vec![Arc::new(catalogue), Arc::new(builtin::BuiltIn), Arc::new(official)])
    }

    /// Uses these, the first ones before the last ones.
    #[must_use]
    pub fn of(sources: Vec<Arc<dyn Source>>) -> Self {
        Self { sources }
    }

    /// Returns the servers that match `query` (all without one) of one origin (all without one), by
    /// name. Where several registries have a name, the first one is believed.
    pub async fn search(&self, query: Option<&str>, origin: Option<Origin>) -> Found {
        let wanted = |source: &&Arc<dyn Source>| origin.is_none_or(|o| o == source.origin());
        let asked = self.sources.iter().filter(wanted).map(|source| source.list(query));
        let mut found = Found::default();
        let mut names = HashSet::new();
        for Listing { manifests, problem } in futures_util::future::join_all(asked).await {
            let new = manifests.into_iter().filter(|manifest| names.insert(manifest.name.clone()));
            found.manifests.extend(new);
            found.problems.extend(problem);
        }
        found.manifests.sort_by(|a, b| a.name.cmp(&b.name));
        found
    }

    /// Returns one server, and why it may not be current.
    ///
    /// # Errors
    /// When no registry has it, or one that might was not reached.
    pub async fn find(
        &self,
        name: &str,
        version: Option<&str>,
    ) -> Result<(Manifest, Vec<RegistryError>), RegistryError> {
        let mut problems = Vec::new();
        for source in &self.sources {
            // Names of the official registry are told by their form; the others have none of it.
            if (source.origin() == Origin::Official) != is_reverse_dns(name) {
                continue;
            }
            let Listing { mut manifests, problem } = source.find(name, version).await;
            problems.extend(problem);
            if let Some(manifest) = manifests.pop() {
                // What was found elsewhere needs no copy.
                problems.retain(|problem| !matches!(problem, RegistryError::NoCopy(_)));
                return Ok((manifest, problems));
            }
        }
        match problems.into_iter().next() {
            Some(problem) => {
                // Who was not reached a moment ago is not asked again.
                let near = self.near(name, |origin| origin == Origin::BuiltIn).await;
                let (name, source) = (name.to_owned(), Box::new(problem));
                Err(RegistryError::Unsure { name, near, source })
            }
            None => {
                let near = self.near(name, |origin| origin != Origin::Official).await;
                Err(RegistryError::Unknown { name: name.to_owned(), near })
            }
        }
    }

    /// Returns the names that look most like this one, in the registries that are `of_use`.
    async fn near(&self, name: &str, of_use: impl Fn(Origin) -> bool) -> Vec<String> {
        let mut near: Vec<(f64, String)> = Vec::new();
        for source in self.sources.iter().filter(|source| of_use(source.origin())) {
            let names = source.list(None).await.manifests.into_iter().map(|manifest| manifest.name);
            near.extend(names.map(|known| (strsim::jaro_winkler(name, &known), known)));
        }
        near.retain(|(score, _)| *score > 0.85);
        near.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        near.dedup_by(|a, b| a.1 == b.1);
        near.into_iter().take(3).map(|(_, known)| known).collect()
    }
}

/// Returns the time of day in Unix seconds.
fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
