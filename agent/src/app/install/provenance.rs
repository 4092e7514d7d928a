//! Which registry a server came from, and what it said then: kept beside the source of the server,
//! for `mcpm update`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{ConfigError, Sources};
use crate::fs::Paths;
use crate::registry::manifest::{Launch, Manifest, Origin};

/// The key of `sources.json`.
const KEY: &str = "registry";

/// What a registry said of a server when it was installed. There is no answer in it, and so no
/// secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The registry's word for itself.
    pub registry: String,
    /// The name that the registry knows it by.
    pub name: String,
    /// The version that was installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The method.
    pub method: String,
    /// Whether the user asked for this version.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
    /// What it was made of, as it was filled.
    pub launch: Launch,
}

/// What is known of a server before a method is chosen.
#[derive(Clone, Debug)]
pub(in crate::app) struct Registered {
    registry: &'static str,
    name: String,
    version: Option<String>,
    pinned: bool,
    /// The method, where what was fetched has others.
    method: Option<String>,
}

impl Registered {
    /// Says where a manifest comes from; nothing for what the user named himself.
    pub(in crate::app) fn of(manifest: &Manifest, pinned: bool) -> Option<Self> {
        (manifest.origin != Origin::Reference).then(|| Self {
            registry: manifest.origin.word(),
            name: manifest.name.clone(),
            version: manifest.version.clone(),
            pinned,
            method: None,
        })
    }

    /// Notes the method before it is replaced by those of what was fetched.
    pub(in crate::app) fn by(self, method: &str) -> Self {
        Self { method: Some(method.to_owned()), ..self }
    }

    /// Completes it with what was installed.
    pub(in crate::app) fn with(self, method: &str, launch: &Launch) -> Provenance {
        let Self { registry, name, version, pinned, method: own } = self;
        let method = own.unwrap_or_else(|| method.to_owned());
        Provenance {
            registry: registry.to_owned(),
            name,
            version,
            method,
            pinned,
            launch: launch.clone(),
        }
    }
}

impl Provenance {
    /// Reads what is kept of a server.
    #[must_use]
    pub fn of(server: &str, sources: &Sources) -> Option<Self> {
        let kept = sources.get(server)?;
        // What another version wrote, and we cannot read, is as good as nothing.
        serde_json::from_value(kept.get(KEY)?.clone()).ok()
    }

    /// Keeps it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep(&self, server: &str, paths: &Paths) -> Result<(), ConfigError> {
        let value = serde_json::to_value(self).unwrap_or(Value::Null);
        Sources::open(paths)?.note(server, KEY, &value)
    }
}
