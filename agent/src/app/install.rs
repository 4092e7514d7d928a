//! Installing servers: from what a user names to an entry of `servers.json`, and back.

pub mod belongings;
pub mod provenance;
mod runtime;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;
use url::Url;

use self::provenance::Registered;
use super::servers;
use crate::config::{self, ConfigError, GlobalConfigManager, Settings, Sources};
use crate::fs::{self, FsError, Paths};
use crate::hint::Hint;
use crate::model::Server;
use crate::oauth::{OauthError, Store};
use crate::registry::bundle::{self, BundleError};
use crate::registry::fill::{Answers, FillError};
use crate::registry::folder::{self, FolderError};
use crate::registry::manifest::{Arg, Launch, Manifest, Method};
use crate::registry::reference::{self, Reference, ReferenceError};
use crate::registry::{Registry, RegistryError};
use crate::web::{Web, WebError};

/// The largest bundle, in bytes: those with a whole Python inside have about 100 MB.
const MAX_BUNDLE: usize = 512 * 1024 * 1024;
/// The setting that says who runs npm packages.
const NODE: &str = "node_executable";

/// What installs servers.
#[derive(Debug)]
pub struct Installer {
    /// The places of our files.
    pub paths: Paths,
    /// Where servers are looked up.
    pub registry: Registry,
    /// What fetches bundles.
    pub web: Arc<Web>,
    /// Where the user lives.
    pub home: Option<PathBuf>,
    /// The folders that commands are looked for in.
    pub folders: OsString,
}

/// A server that can be installed.
#[derive(Debug)]
pub struct Offer {
    /// What it is.
    pub manifest: Manifest,
    /// What the user should know.
    pub warnings: Vec<String>,
    bundle: Option<Bundle>,
    /// Where it comes from, when that is a registry.
    pub(super) registered: Option<Registered>,
}

/// A bundle that was opened.
#[derive(Debug)]
struct Bundle {
    file: Source,
    folder: PathBuf,
}

#[derive(Debug)]
enum Source {
    Local(PathBuf),
    Downloaded(NamedTempFile),
}

impl Source {
    fn path(&self) -> &Path {
        match self {
            Self::Local(path) => path,
            Self::Downloaded(file) => file.path(),
        }
    }
}

/// How a server shall be installed.
#[derive(Debug)]
pub struct Order<'a> {
    /// Under which name.
    pub name: &'a str,
    /// What was answered.
    pub answers: &'a Answers,
    /// Words to put behind the arguments.
    pub args: &'a [String],
    /// Whether to replace a server of this name.
    pub replace: bool,
}

/// What was installed.
#[derive(Debug)]
pub struct Installed {
    /// The server.
    pub server: Server,
    /// Its values that must not be shown.
    pub secrets: Vec<String>,
    /// Whether it has replaced one.
    pub replaced: bool,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// What went with a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// The profiles that it was in.
    pub profiles: Vec<String>,
    /// Whether its login was forgotten.
    pub login: bool,
    /// Whether its bundle was removed.
    pub bundle: bool,
    /// Where its secrets are that nobody else refers to, in our part of the keyring. They are still
    /// there.
    pub secrets: Vec<String>,
}

/// Why a server is not installed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// It was not found.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// What was named makes no sense.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The folder cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The bundle cannot be used.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The manifest of the bundle makes no sense here.
    #[error("the bundle cannot be used: {0}")]
    Manifest(String),
    /// The bundle cannot be fetched.
    #[error("cannot fetch the bundle")]
    Fetch(#[from] WebError),
    /// The registry knows no way that we can go.
    #[error("`{name}` cannot be installed{}", joined(reasons))]
    NoMethod {
        /// The server.
        name: String,
        /// Why not, for each way.
        reasons: Vec<String>,
    },
    /// There is no such way.
    #[error("`{name}` has no installation method `{method}`")]
    UnknownMethod {
        /// The server.
        name: String,
        /// What was asked for.
        method: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// Something is missing.
    #[error(transparent)]
    Fill(#[from] FillError),
    /// The user's files are in the way.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file cannot be used.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The login cannot be forgotten.
    #[error(transparent)]
    Login(#[from] OauthError),
}

fn joined(reasons: &[String]) -> String {
    match reasons {
        [] => ": its registry names no way to do it".to_owned(),
        reasons => format!(": {}", reasons.join("; ")),
    }
}

impl Hint for InstallError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Registry(error) => error.hint(),
            Self::Reference(error) => error.hint(),
            Self::Folder(error) => error.hint(),
            Self::Bundle(error) => error.hint(),
            Self::Manifest(_) => Some("Ask who made the bundle".to_owned()),
            Self::Fetch(error) => error.hint(),
            Self::NoMethod { .. } => Some("Add it by hand with `mcpm new`".to_owned()),
            Self::UnknownMethod { known, .. } => {
                Some(format!("Choose one of {}", known.join(", ")))
            }
            Self::Fill(error) => error.hint(),
            Self::Config(ConfigError::Exists { .. }) => {
                Some("Choose another name with --alias, or replace it with --force".to_owned())
            }
            Self::Config(error) => error.hint(),
            Self::Fs(error) => error.hint(),
            Self::Login(error) => error.hint(),
        }
    }
}

impl Offer {
    fn of(manifest: Manifest) -> Self {
        Self { manifest, warnings: Vec::new(), bundle: None, registered: None }
    }

    /// Returns the folder that its bundle goes to, if it is one.
    pub(super) fn folder(&self) -> Option<&Path> {
        self.bundle.as_ref().map(|bundle| bundle.folder.as_path())
    }

    /// Unpacks its bundle, if it is one.
    pub(super) fn unpack(&self) -> Result<(), InstallError> {
        match &self.bundle {
            Some(Bundle { file, folder }) => Ok(bundle::unpack(file.path(), folder)?),
            None => Ok(()),
        }
    }

    /// Returns the method of this name, or the one to take when none is named.
    ///
    /// # Errors
    /// When there is none.
    pub fn method(&self, id: Option<&str>) -> Result<&Method, InstallError> {
        let Manifest { name, methods, unusable, .. } = &self.manifest;
        let Some(preferred) = self.manifest.preferred() else {
            let reasons =
                unusable.iter().map(|way| format!("{}: {}", way.id, way.reason)).collect();
            return Err(InstallError::NoMethod { name: name.clone(), reasons });
        };
        let Some(id) = id else { return Ok(preferred) };
        methods.iter().find(|method| method.id == id).ok_or_else(|| InstallError::UnknownMethod {
            name: name.clone(),
            method: id.to_owned(),
            known: methods.iter().map(|method| method.id.clone()).collect(),
        })
    }
}

impl Installer {
    /// Looks up what a user named. `alias` is the name that the server shall have, and `sha256` the
    /// checksum that its bundle must have.
    ///
    /// # Errors
    /// When it is not found or makes no sense.
    pub async fn look_up(
        &self,
        what: &Reference,
        alias: Option<&str>,
        sha256: Option<&str>,
    ) -> Result<Offer, InstallError> {
        match what {
            Reference::Name { name, version } => {
                let (manifest, problems) = self.registry.find(name, version.as_deref()).await?;
                let warnings = problems.iter().map(ToString::to_string).collect();
                let registered = Registered::of(&manifest, version.is_some());
                Ok(Offer { warnings, registered, ..Offer::of(manifest) })
            }
            Reference::Package { kind, identifier, version } => {
                Ok(Offer::of(reference::package(kind, identifier, version.as_deref())?))
            }
            Reference::Remote(url) => Ok(Offer::of(reference::remote(url))),
            Reference::RemoteBundle(url) => {
                Ok(Offer::of(reference::remote_bundle(url, sha256.map(str::to_owned))))
            }
            Reference::Folder(folder) => {
                let folder = self.absolute(folder)?;
                Ok(Offer::of(folder::describe(&folder, self.home.as_deref())?))
            }
            Reference::Bundle(file) => {
                let file = self.absolute(file)?;
                let found = bundle::sha256_of(&file)?;
                sha256.map_or(Ok(()), |expected| bundle::check_sha256(&found, expected))?;
                self.open(Source::Local(file), alias)
            }
        }
    }

    /// Fetches and opens the bundle of a method, when it is one: only the bundle says the rest.
    ///
    /// # Errors
    /// When it cannot be fetched, or is not what the registry says.
    pub async fn fetch(
        &self,
        offer: Offer,
        method: Option<&str>,
        alias: Option<&str>,
    ) -> Result<Offer, InstallError> {
        let chosen = offer.method(method)?;
        let Launch::Bundle { url, sha256 } = &chosen.launch else {
            return Ok(offer);
        };
        let registered = offer.registered.clone().map(|known| known.by(&chosen.id));
        let address = Url::parse(url).map_err(|_| WebError::Address(url.clone()))?;
        let mut file = self.draft()?;
        let found = self.web.download(&address, &mut file, MAX_BUNDLE).await?;
        let mut warnings = offer.warnings.clone();
        match sha256 {
            Some(expected) => bundle::check_sha256(&found, expected)?,
            None => warnings.push("nobody says which checksum the bundle must have".to_owned()),
        }
        let opened = self.open(Source::Downloaded(file), alias.or(Some(&offer.manifest.alias)))?;
        Ok(Offer { warnings, registered, ..opened })
    }

    /// Writes the entry of a server, and unpacks its bundle.
    ///
    /// # Errors
    /// When something is missing, the name is taken, or a file cannot be written.
    pub fn install(
        &self,
        offer: &Offer,
        method: &Method,
        order: &Order<'_>,
    ) -> Result<Installed, InstallError> {
        let replaced = self.admit(order.name, order.replace)?;
        let mut method = method.clone();
        self.prefer(&mut method.launch)?;
        if let Launch::Stdio { args, .. } = &mut method.launch {
            args.extend(order.args.iter().cloned().map(Arg::Literal));
        }
        let filled = method.fill(order.answers)?;
        let transport = filled.transport;
        let mut warnings = offer.warnings.clone();
        warnings.extend(method.notes);
        warnings.extend(runtime::lacking(&transport, &self.folders));
        offer.unpack()?;
        let server = Server::new(order.name, transport);
        servers::create(&self.paths, server.clone(), order.replace)?;
        if let Some(registered) = offer.registered.clone() {
            registered.with(&method.id, &method.launch).keep(order.name, &self.paths)?;
        }
        Ok(Installed { server, secrets: filled.secrets, replaced, warnings })
    }

    /// Tells whether a server of this name would be replaced.
    ///
    /// # Errors
    /// When it must not be, or nothing can have this name.
    pub fn admit(&self, name: &str, replace: bool) -> Result<bool, InstallError> {
        config::check_name("server", name)?;
        let exists = GlobalConfigManager::open(&self.paths)?.has(name);
        if exists && !replace {
            let name = name.to_owned();
            return Err(ConfigError::Exists { what: "server", name }.into());
        }
        Ok(exists)
    }

    fn open(&self, file: Source, alias: Option<&str>) -> Result<Offer, InstallError> {
        let json: Value = bundle::read_manifest(file.path())?;
        let name = alias.or_else(|| json["name"].as_str()).unwrap_or("bundle").to_owned();
        let folder = bundle_folder(&self.paths, &name);
        let manifest = bundle::manifest(&json, &folder, self.home.as_deref());
        let manifest = Manifest { alias: name, ..manifest.map_err(InstallError::Manifest)? };
        Ok(Offer { bundle: Some(Bundle { file, folder }), ..Offer::of(manifest) })
    }

    /// Makes a file to download into, on the disk that the bundle will be unpacked to.
    fn draft(&self) -> Result<NamedTempFile, InstallError> {
        let folder = self.paths.bundles();
        let failed = |source| FsError::Write { path: folder.clone(), source };
        fs::create_private_dir(&folder).map_err(failed)?;
        Ok(fs::draft_in(&folder).map_err(failed)?)
    }

    fn absolute(&self, path: &Path) -> Result<PathBuf, InstallError> {
        let path = match (path.strip_prefix("~"), &self.home) {
            (Ok(below), Some(home)) => home.join(below),
            _ => path.to_owned(),
        };
        let failed = |source: io::Error| FsError::Read { path: path.clone(), source };
        let full = std::path::absolute(&path).map_err(failed)?;
        // Servers are started from anywhere, so what is kept must not depend on links to here.
        Ok(full.canonicalize().unwrap_or(full))
    }

    /// Runs npm packages with what the user prefers.
    pub(super) fn prefer(&self, launch: &mut Launch) -> Result<(), InstallError> {
        let Launch::Stdio { command, args, .. } = launch else { return Ok(()) };
        let preferred = Settings::open(&self.paths)?.get(NODE)?;
        let Some(preferred) = preferred.filter(|_| matches!(command.as_str(), "npx" | "bunx"))
        else {
            return Ok(());
        };
        let mut words = preferred.split_whitespace().map(str::to_owned);
        let Some(program) = words.next() else { return Ok(()) };
        if program != "npx" {
            // Only npx asks before it fetches a package.
            let agrees = |words: &[String]| matches!(words, [it] if it == "-y" || it == "--yes");
            args.retain(|arg| !matches!(arg, Arg::Words(words) if agrees(words)));
        }
        args.splice(0..0, words.map(|word| Arg::Words(vec![word])));
        *command = program;
        Ok(())
    }
}

/// Returns the folder of the bundle of a server.
fn bundle_folder(paths: &Paths, name: &str) -> PathBuf {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let mut folder: String = name.chars().map(|c| if fine(c) { c } else { '_' }).collect();
    if folder != name || folder.starts_with('.') {
        // Two names must not share a folder.
        let hash = Sha256::digest(name.as_bytes());
        let hash: String = hash[..4].iter().map(|byte| format!("{byte:02x}")).collect();
        folder = format!("{}-{hash}", folder.trim_start_matches('.'));
    }
    paths.bundles().join(folder)
}

/// Removes a server with all that belongs to it alone: its entry and with it its place in profiles,
/// its source, its login and its bundle.
///
/// # Errors
/// When there is no such server, or a file cannot be written.
pub fn uninstall(paths: &Paths, name: &str) -> Result<Removed, InstallError> {
    let mut global = GlobalConfigManager::open(paths)?;
    // Read before anything is written: a file that we must not replace should change nothing.
    let mut sources = Sources::open(paths)?;
    let profiles = global.profiles_of(name);
    let left = belongings::of(name, &global, paths);
    global.remove_server(name)?;
    sources.forget(name)?;
    let login = Store::open(paths).forget(name)?.is_some();
    let bundle = fs::clear(&left.folders)?;
    Ok(Removed { profiles, login, bundle, secrets: left.secrets })
}

#[cfg(test)]
mod tests;
