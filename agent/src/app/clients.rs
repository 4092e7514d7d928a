//! The use cases around client applications: which are here, what they start, and bringing their
//! own servers to us.

pub mod follow;

use std::path::{Path, PathBuf};

use super::servers;
use crate::clients::{
    ALL, Client, ClientConfigManager, ClientError, Edit, Entry, Foreign, Launch, NotImportable,
    Outcome, Places, Target,
};
use crate::config::{ConfigError, GlobalConfigManager, ProfileConfigManager};
use crate::fs::Paths;
use crate::hint::Hint;
use crate::model::Server;

/// Why a client cannot be edited or imported from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientsError {
    /// The file of the client.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Our own files.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The client has no such entry of its own.
    #[error("{client} has no server `{name}` of its own")]
    NoEntry {
        /// The client.
        client: &'static str,
        /// What was asked for.
        name: String,
    },
    /// The entry cannot become a server of ours.
    #[error("cannot import `{name}`")]
    NotImportable {
        /// The entry.
        name: String,
        /// Why not.
        source: NotImportable,
    },
    /// There is a server of this name, and it is another one.
    #[error("another server named `{name}` exists already")]
    Exists {
        /// The name.
        name: String,
    },
}

impl Hint for ClientsError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Client(error) => error.hint(),
            Self::Config(error) => error.hint(),
            Self::NoEntry { .. } => Some("See what it has with `mcpm client ls -v`".to_owned()),
            Self::NotImportable { .. } => None,
            Self::Exists { .. } => Some("Replace it with --force, or leave it out".to_owned()),
        }
    }
}

/// One client, as it is on this machine.
#[derive(Debug)]
pub struct Status {
    /// The client.
    pub client: &'static Client,
    /// Its file.
    pub file: PathBuf,
    /// Whether it seems to be installed.
    pub installed: bool,
    /// What is in the file, or why it cannot be read.
    pub entries: Result<Vec<Entry>, ClientError>,
}

impl Status {
    /// Returns the names of the servers that the client starts through mcpm.
    pub fn servers(&self) -> impl Iterator<Item = &str> {
        self.targets().filter_map(|target| match target {
            Target::Server(name) => Some(name.as_str()),
            Target::Profile(_) => None,
        })
    }

    /// Returns the names of the profiles that the client starts through mcpm.
    pub fn profiles(&self) -> impl Iterator<Item = &str> {
        self.targets().filter_map(|target| match target {
            Target::Profile(name) => Some(name.as_str()),
            Target::Server(_) => None,
        })
    }

    /// Returns the names of the entries that are not mcpm's.
    pub fn others(&self) -> impl Iterator<Item = &str> {
        let own = |entry: &&Entry| entry.target.is_none();
        self.entries.iter().flatten().filter(own).map(|entry| entry.key.as_str())
    }

    fn targets(&self) -> impl Iterator<Item = &Target> {
        self.entries.iter().flatten().filter_map(|entry| entry.target.as_ref())
    }
}

/// Looks at all clients.
///
/// # Errors
/// Never for a file: that one cannot be read is part of the answer.
pub fn list(places: &Places) -> Result<Vec<Status>, ClientError> {
    let status = |client: &'static Client| {
        let manager = ClientConfigManager::open(client.id, places)?;
        Ok(Status {
            client,
            file: manager.file().to_owned(),
            installed: client.is_installed(places),
            entries: manager.entries(),
        })
    };
    ALL.iter().map(status).collect()
}

/// How clients start mcpm.
#[derive(Clone, Debug)]
pub struct Launcher {
    /// The program.
    pub program: PathBuf,
    /// The folder of our files, where it is not the usual one: a client would not know.
    pub config_dir: Option<PathBuf>,
}

impl Launcher {
    fn launch(&self, target: &Target) -> Launch {
        let dir = self.config_dir.as_ref().map(|dir| {
            let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.clone());
            ("MCPM_CONFIG_DIR".to_owned(), dir.display().to_string())
        });
        Launch {
            program: self.program.display().to_string(),
            args: target.args(),
            env: dir.into_iter().collect(),
        }
    }
}

/// What shall become of the servers, or the profiles, of a client.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// These shall be there.
    pub add: Vec<String>,
    /// These shall not.
    pub remove: Vec<String>,
    /// These and no others of mcpm shall be there.
    pub set: Option<Vec<String>>,
    /// Those that shall be there are switched off there.
    pub off: bool,
}

impl Wish {
    fn wants(&self) -> impl Iterator<Item = &String> {
        self.add.iter().chain(self.set.iter().flatten())
    }

    fn drops(&self, name: &String) -> bool {
        let unset = self.set.as_ref().is_some_and(|set| !set.contains(name));
        (unset && !self.add.contains(name)) || self.remove.contains(name)
    }
}

/// What an edit did.
#[derive(Debug)]
pub struct Edited {
    /// What the client starts now and did not before.
    pub added: Vec<Target>,
    /// What it starts no longer.
    pub removed: Vec<Target>,
    /// What happened to the file.
    pub outcome: Outcome,
}

/// Changes what a client starts through mcpm. Its other entries stay.
///
/// # Errors
/// When a name is unknown, or the file cannot be edited; nothing is changed then.
pub fn edit(
    paths: &Paths,
    manager: &ClientConfigManager,
    servers: &Wish,
    profiles: &Wish,
    launcher: &Launcher,
    force: bool,
) -> Result<Edited, ClientsError> {
    let entries = manager.entries()?;
    let has = |target: &Target| entries.iter().any(|entry| entry.target.as_ref() == Some(target));
    check_names(paths, servers, profiles, &has)?;
    let wanted: Vec<Target> = unique(
        servers
            .wants()
            .map(|name| Target::Server(name.clone()))
            .chain(profiles.wants().map(|name| Target::Profile(name.clone()))),
    );
    let (mut removed, mut edits) = (Vec::new(), Vec::new());
    for entry in &entries {
        let dropped = match &entry.target {
            Some(Target::Server(name)) => servers.drops(name),
            Some(Target::Profile(name)) => profiles.drops(name),
            None => false,
        };
        if let (true, Some(target)) = (dropped, &entry.target) {
            removed.push(target.clone());
            edits.push(Edit::Remove(entry.key.clone()));
        }
    }
    let added = wanted.iter().filter(|target| !has(target)).cloned().collect();
    edits.extend(wanted.iter().map(|target| Edit::Put(target.clone(), launcher.launch(target))));
    if servers.off {
        let named = servers.wants().map(|name| Target::Server(name.clone()));
        edits.extend(unique(named).into_iter().map(Edit::SwitchOff));
    }
    let outcome = manager.edit(paths, &edits, force)?;
    Ok(Edited { added, removed: unique(removed), outcome })
}

/// Refuses names that nobody knows. What is in the client may be taken out, known or not.
fn check_names(
    paths: &Paths,
    servers: &Wish,
    profiles: &Wish,
    has: &dyn Fn(&Target) -> bool,
) -> Result<(), ClientsError> {
    let global = GlobalConfigManager::open(paths)?;
    for name in servers.wants() {
        global.server(name)?;
    }
    for name in &servers.remove {
        if !has(&Target::Server(name.clone())) {
            global.server(name)?;
        }
    }
    let known = ProfileConfigManager::open(paths)?;
    for name in profiles.wants() {
        known.profile(name)?;
    }
    for name in &profiles.remove {
        if !has(&Target::Profile(name.clone())) {
            known.profile(name)?;
        }
    }
    Ok(())
}

fn unique(targets: impl IntoIterator<Item = Target>) -> Vec<Target> {
    let mut seen = Vec::new();
    for target in targets {
        if !seen.contains(&target) {
            seen.push(target);
        }
    }
    seen
}

/// Which entries of a client to import.
#[derive(Clone, Debug)]
pub enum Selection {
    /// All that can be; those that are there already are left as they are.
    All,
    /// These; each must be possible.
    Names(Vec<String>),
}

/// How to import.
#[derive(Clone, Debug)]
pub struct Import {
    /// Which entries.
    pub selection: Selection,
    /// Replace servers that have the names of others.
    pub force: bool,
    /// A profile that gets them; made when there is none.
    pub profile: Option<String>,
    /// Let the client start them through mcpm from now on, in place of its own entries.
    pub replace: bool,
}

/// What became of one entry.
#[derive(Debug)]
pub enum Fate {
    /// It is a server of ours now.
    Imported,
    /// It took the place of another server.
    Replaced,
    /// The same server was there already.
    Same,
    /// Another server has its name, and stays.
    Kept,
    /// It cannot be a server of ours.
    Refused(String),
}

/// One entry, after the import.
#[derive(Debug)]
pub struct Imported {
    /// Its name.
    pub name: String,
    /// What became of it.
    pub fate: Fate,
    /// Keys of it that mcpm has no use for.
    pub left_out: Vec<String>,
    /// Placeholders in it that only the client can fill in.
    pub unanswered: Vec<String>,
}

impl Imported {
    /// Tells whether `servers.json` has it now.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        matches!(self.fate, Fate::Imported | Fate::Replaced | Fate::Same)
    }
}

/// Returns the entries of a client that are its own, leaving out parts of the client itself.
///
/// # Errors
/// When its file cannot be read.
pub fn own_entries(manager: &ClientConfigManager) -> Result<Vec<Foreign>, ClientError> {
    let entries = manager.entries()?.into_iter().filter(|entry| entry.target.is_none());
    let foreign = entries.map(|entry| entry.to_foreign());
    Ok(foreign.filter(|foreign| !matches!(foreign.server, Err(NotImportable::BuiltIn))).collect())
}

/// Imports entries of a client.
///
/// # Errors
/// When an entry that was named cannot be imported; nothing is written then. When a file cannot be
/// written.
pub fn import(
    paths: &Paths,
    manager: &ClientConfigManager,
    import: &Import,
    launcher: &Launcher,
) -> Result<(Vec<Imported>, Outcome), ClientsError> {
    let chosen = choose(own_entries(manager)?, &import.selection, manager)?;
    let global = GlobalConfigManager::open(paths)?;
    let mut plan = Vec::new();
    for Foreign { name, server, left_out, unanswered } in chosen {
        let (fate, server) = judge(&global, &name, server, import)?;
        plan.push((server, Imported { name, fate, left_out, unanswered }));
    }
    for (server, imported) in &plan {
        if let (Fate::Imported | Fate::Replaced, Some(server)) = (&imported.fate, server) {
            servers::create(paths, server.clone(), true)?;
        }
    }
    let results: Vec<Imported> = plan.into_iter().map(|(_, imported)| imported).collect();
    let ours: Vec<&str> =
        results.iter().filter(|one| one.is_ours()).map(|one| one.name.as_str()).collect();
    if let Some(profile) = import.profile.as_deref().filter(|_| !ours.is_empty()) {
        join(paths, profile, &ours)?;
    }
    let outcome = match import.replace && !ours.is_empty() {
        true => hand_over(paths, manager, import, &ours, launcher)?,
        false => Outcome::default(),
    };
    Ok((results, outcome))
}

fn choose(
    entries: Vec<Foreign>,
    selection: &Selection,
    manager: &ClientConfigManager,
) -> Result<Vec<Foreign>, ClientsError> {
    let Selection::Names(names) = selection else { return Ok(entries) };
    for name in names {
        if !entries.iter().any(|entry| entry.name == *name) {
            let client = manager.client().name;
            return Err(ClientsError::NoEntry { client, name: name.clone() });
        }
    }
    Ok(entries.into_iter().filter(|entry| names.contains(&entry.name)).collect())
}

/// Decides what becomes of an entry, before anything is written.
fn judge(
    global: &GlobalConfigManager,
    name: &str,
    server: Result<Server, NotImportable>,
    import: &Import,
) -> Result<(Fate, Option<Server>), ClientsError> {
    let all = matches!(import.selection, Selection::All);
    let server = match server {
        Ok(server) => server,
        Err(reason) if all => return Ok((Fate::Refused(reason.to_string()), None)),
        Err(source) => {
            return Err(ClientsError::NotImportable { name: name.to_owned(), source });
        }
    };
    if let Err(error) = crate::config::check_name("server", name) {
        return match all {
            true => Ok((Fate::Refused(error.to_string()), None)),
            false => Err(error.into()),
        };
    }
    let fate = match global.server(name) {
        Err(ConfigError::UnknownServer { .. }) => Fate::Imported,
        Ok(there) if there.transport == server.transport => Fate::Same,
        _ if import.force => Fate::Replaced,
        _ if all => Fate::Kept,
        _ => return Err(ClientsError::Exists { name: name.to_owned() }),
    };
    Ok((fate, Some(server)))
}

/// Puts servers into a profile.
fn join(paths: &Paths, profile: &str, servers: &[&str]) -> Result<(), ConfigError> {
    let mut profiles = ProfileConfigManager::open(paths)?;
    if profiles.profile(profile).is_err() {
        crate::config::check_name("profile", profile)?;
        profiles.create_profile(profile, None)?;
    }
    for server in servers {
        profiles.add_server_to_profile(profile, server)?;
    }
    Ok(())
}

/// Replaces entries of the client by ours: one for the profile, or one for each server. What was
/// not imported stays.
fn hand_over(
    paths: &Paths,
    manager: &ClientConfigManager,
    import: &Import,
    ours: &[&str],
    launcher: &Launcher,
) -> Result<Outcome, ClientError> {
    let targets: Vec<Target> = match &import.profile {
        Some(profile) => vec![Target::Profile(profile.clone())],
        None => ours.iter().map(|name| Target::Server((*name).to_owned())).collect(),
    };
    let mut edits: Vec<Edit> = ours.iter().map(|name| Edit::Remove((*name).to_owned())).collect();
    edits.extend(targets.into_iter().map(|target| {
        let launch = launcher.launch(&target);
        Edit::Put(target, launch)
    }));
    manager.edit(paths, &edits, import.force)
}

/// Returns a server that would be there twice: by itself, and in one of the profiles.
///
/// # Errors
/// When the profiles cannot be read.
pub fn doubled(
    paths: &Paths,
    servers: &[String],
    profiles: &[String],
) -> Result<Option<(String, String)>, ConfigError> {
    let known = ProfileConfigManager::open(paths)?;
    for profile in profiles {
        let Ok(profile) = known.profile(profile) else { continue };
        if let Some(server) = servers.iter().find(|server| profile.servers.contains(server)) {
            return Ok(Some((server.clone(), profile.name)));
        }
    }
    Ok(None)
}

/// Opens a client, with another file than the usual one where one is named.
///
/// # Errors
/// When there is no such client.
pub fn open(
    id: &str,
    file: Option<&Path>,
    places: &Places,
) -> Result<ClientConfigManager, ClientError> {
    let manager = ClientConfigManager::open(id, places)?;
    Ok(match file {
        Some(file) => manager.with_file(file.to_owned()),
        None => manager,
    })
}

#[cfg(test)]
mod tests;
