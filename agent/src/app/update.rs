//! Bringing installed servers up to what their registry says now: three-way, so that what the user
//! answered or changed stays, and what nobody touched follows.

pub mod git;
mod merge;
#[cfg(test)]
mod tests;

use super::install::provenance::{Provenance, Registered};
use super::install::{InstallError, Installer, Offer};
use super::servers;
use crate::config::{GlobalConfigManager, Sources};
use crate::fs;
use crate::model::{Server, Transport};
use crate::registry::fill::Answers;
use crate::registry::manifest::{Arg, Input, Launch, Manifest, Method};
use crate::registry::reference::Reference;
use crate::registry::unfill::Recovered;

pub use self::merge::Difference;

/// How a server stands to its registry.
#[derive(Debug)]
pub enum Standing {
    /// It is as the registry says.
    Current {
        /// The version, where there is one.
        version: Option<String>,
        /// What to keep of this, when it is not kept yet.
        found: Option<Box<Provenance>>,
    },
    /// The registry says something else by now.
    Newer(Box<Plan>),
    /// The user asked for its version.
    Pinned {
        /// That version.
        version: Option<String>,
        /// What the registry offers.
        newest: Option<String>,
    },
    /// It is updated by others, or by hand.
    Unmanaged(String),
    /// It cannot be updated without losing something; says why.
    Conflict(String),
}

/// What an update would do.
#[derive(Debug)]
pub struct Plan {
    /// The server.
    pub server: String,
    /// The word of the registry.
    pub registry: String,
    /// The installed version.
    pub from: Option<String>,
    /// The one that the registry offers.
    pub to: Option<String>,
    /// What changes; nothing is known of it while a bundle is not fetched.
    pub differences: Vec<Difference>,
    /// What the user should know.
    pub warnings: Vec<String>,
    old: Launch,
    recovered: Recovered,
    offer: Offer,
    method: Method,
}

/// What an update did.
#[derive(Debug, PartialEq, Eq)]
pub struct Updated {
    /// What the user had changed, and which therefore stays as it is.
    pub kept: Vec<String>,
}

impl Plan {
    /// Returns what has to be answered first: what is asked for now and was not before.
    #[must_use]
    pub fn questions(&self) -> Vec<Input> {
        let before = self.old.inputs();
        let unknown = |input: &&Input| !self.recovered.answers.contains_key(&input.name);
        let new = |input: &&Input| !before.contains(&input.name) || input.required;
        let open = |input: &&Input| input.default.is_none() || !before.contains(&input.name);
        self.method.inputs.iter().filter(unknown).filter(new).filter(open).cloned().collect()
    }
}

impl Installer {
    /// Compares a server with what its registry says. One whose version the user asked for is
    /// compared only when it was named.
    ///
    /// # Errors
    /// When there is no such server, or the registry cannot be asked.
    pub async fn standing(&self, name: &str, named: bool) -> Result<Standing, InstallError> {
        let server = GlobalConfigManager::open(&self.paths)?.server(name)?;
        let sources = Sources::open(&self.paths)?;
        let Some(known) = Provenance::of(name, &sources) else {
            return self.unrecorded(&server, &sources).await;
        };
        let what = Reference::Name { name: known.name.clone(), version: None };
        let offer = self.look_up(&what, Some(name), None).await?;
        let newest = offer.manifest.version.clone();
        if known.pinned && !named {
            return Ok(Standing::Pinned { version: known.version, newest });
        }
        let Some(method) = offer.manifest.methods.iter().find(|m| m.id == known.method).cloned()
        else {
            return Ok(Standing::Conflict(format!(
                "the registry has no installation method `{}` any more",
                known.method
            )));
        };
        self.compare(&server, known, offer, method)
    }

    fn compare(
        &self,
        server: &Server,
        known: Provenance,
        offer: Offer,
        mut method: Method,
    ) -> Result<Standing, InstallError> {
        let is_bundle = matches!(method.launch, Launch::Bundle { .. });
        self.prefer(&mut method.launch)?;
        add_own_words(&mut method.launch, &known.launch);
        let to = offer.manifest.version.clone();
        let same = match is_bundle {
            // Only the bundle itself says how it is started.
            true => to == known.version,
            false => method.launch == known.launch,
        };
        if same {
            let newer = to.is_some() && to != known.version;
            let found = Provenance { version: to.clone(), ..known };
            return Ok(Standing::Current { version: to, found: newer.then(|| Box::new(found)) });
        }
        let Some(recovered) = known.launch.unfill(&server.transport) else {
            return Ok(Standing::Conflict("its command line was changed by hand".to_owned()));
        };
        if !is_bundle && kind(&method.launch) != kind(&known.launch) {
            return Ok(Standing::Conflict(format!("it is {} now", kind(&method.launch))));
        }
        let differences = match is_bundle {
            true => Vec::new(),
            false => merge::differences(&known.launch, &method.launch),
        };
        Ok(Standing::Newer(Box::new(Plan {
            server: server.name.clone(),
            registry: known.registry,
            from: known.version,
            to,
            differences,
            warnings: offer.warnings.clone(),
            old: known.launch,
            recovered,
            offer,
            method,
        })))
    }

    /// Finds out where a server comes from that nobody took a note of, such as those that other
    /// versions of mcpm installed: it is one of the registry if it is what the registry would make.
    async fn unrecorded(
        &self,
        server: &Server,
        sources: &Sources,
    ) -> Result<Standing, InstallError> {
        let found = match self.registry.find(&server.name, None).await {
            Ok((manifest, _)) => self.made_of(&manifest, &server.transport)?,
            // That a name is not found says nothing of a server that may never have been there.
            Err(_) => None,
        };
        Ok(match found {
            Some(found) => {
                Standing::Current { version: found.version.clone(), found: Some(Box::new(found)) }
            }
            None => Standing::Unmanaged(unmanaged(server, sources)),
        })
    }

    fn made_of(
        &self,
        manifest: &Manifest,
        transport: &Transport,
    ) -> Result<Option<Provenance>, InstallError> {
        for method in &manifest.methods {
            let mut launch = method.launch.clone();
            self.prefer(&mut launch)?;
            let made = launch.unfill(transport);
            if made.is_some_and(|made| made.more.is_empty())
                && let Some(registered) = Registered::of(manifest, false)
            {
                return Ok(Some(registered.with(&method.id, &launch)));
            }
        }
        Ok(None)
    }

    /// Fetches what has to be fetched before questions can be asked.
    ///
    /// # Errors
    /// When it cannot be fetched, or is not what the registry says.
    pub async fn prepare(&self, mut plan: Plan) -> Result<Plan, InstallError> {
        if !matches!(plan.method.launch, Launch::Bundle { .. }) {
            return Ok(plan);
        }
        let id = plan.method.id.clone();
        plan.offer = self.fetch(plan.offer, Some(&id), Some(&plan.server)).await?;
        plan.method = plan.offer.method(None)?.clone();
        self.prefer(&mut plan.method.launch)?;
        add_own_words(&mut plan.method.launch, &plan.old);
        plan.differences = merge::differences(&plan.old, &plan.method.launch);
        plan.warnings.clone_from(&plan.offer.warnings);
        Ok(plan)
    }

    /// Does what was planned, with the answers to its questions. Only what differs is touched.
    ///
    /// # Errors
    /// When an answer is missing, or a file cannot be written.
    pub fn update(&self, plan: Plan, more: &Answers) -> Result<Updated, InstallError> {
        let Plan { server: name, old, recovered, offer, method, .. } = plan;
        let server = GlobalConfigManager::open(&self.paths)?.server(&name)?;
        let mut answers = recovered.answers.clone();
        answers.extend(more.iter().map(|(name, answer)| (name.clone(), answer.clone())));
        let new = method.fill(&answers)?.transport;
        let old_launch = old;
        let old = old_launch.refill(&recovered.answers)?.transport;
        let merged = merge::merge(&server.transport, &old, &new, &old_launch, &recovered.more);
        let folder = old_folder(&server, &offer);
        offer.unpack()?;
        servers::change(&self.paths, &name, &merged.change)?;
        if let Some(registered) = offer.registered {
            registered.with(&method.id, &method.launch).keep(&name, &self.paths)?;
        }
        // A bundle that was renamed has its files under its old name.
        fs::clear(folder.as_slice())?;
        Ok(Updated { kept: merged.kept })
    }
}

/// Words that the user put behind the arguments stay there.
fn add_own_words(launch: &mut Launch, old: &Launch) {
    let (Launch::Stdio { args, .. }, Launch::Stdio { args: old, .. }) = (launch, old) else {
        return;
    };
    args.extend(old.iter().filter(|arg| matches!(arg, Arg::Literal(_))).cloned());
}

fn kind(launch: &Launch) -> &'static str {
    match launch {
        Launch::Remote { .. } => "a remote server",
        Launch::Stdio { .. } => "a command",
        Launch::Bundle { .. } => "a bundle",
    }
}

/// Returns the folder that a bundle leaves when it goes to another one.
fn old_folder(server: &Server, offer: &Offer) -> Option<std::path::PathBuf> {
    let new = offer.folder()?;
    let bundles = new.parent()?;
    let Transport::Stdio { command, args, .. } = &server.transport else { return None };
    let first = std::iter::once(command).chain(args).find_map(|word| {
        let inside = std::path::Path::new(word).strip_prefix(bundles).ok()?;
        Some(bundles.join(inside.components().next()?))
    });
    first.filter(|old| old != new)
}

/// Tells whether a package of npm or `PyPI` is named with a version; the scope of one of npm has the
/// same sign.
fn has_version(package: &str) -> bool {
    package.get(1..).is_some_and(|rest| rest.contains(['@', '=']))
}

/// Says who updates a server that no registry knows.
fn unmanaged(server: &Server, sources: &Sources) -> String {
    let source = sources.get(&server.name).unwrap_or_default();
    let package = source["package"].as_str();
    match (source["type"].as_str(), package) {
        _ if matches!(server.transport, Transport::Remote { .. }) => {
            "a remote server is updated by who runs it".to_owned()
        }
        (Some("npx" | "uvx"), Some(package)) if has_version(package) => {
            format!("`{package}` names its version; install another one, or change it by hand")
        }
        (Some("npx" | "uvx"), Some(package)) => {
            format!("`{package}` is fetched by its runner; write a version behind it to choose one")
        }
        (Some("github-release"), _) => "it was taken from a release; take the next one".to_owned(),
        _ => "nobody noted which registry it comes from".to_owned(),
    }
}
