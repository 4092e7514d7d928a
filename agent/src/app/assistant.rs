//! mcpm itself as an MCP server: what an assistant may look at and change.
//!
//! No secret leaves here: of a server one sees its name, its program or host and the names of its
//! variables, and never an argument, a value or what it wrote. With a profile, that one alone is
//! looked into and changed.

mod server;
#[cfg(test)]
mod tests;
mod view;

use std::time::Duration;

use url::Url;

pub use self::server::{AssistantError, serve, serve_stdio};
use self::view::{Catalogue, Change, Check, Details, ProfileList, ServerList, ServerView, Usage};
use super::doctor;
use crate::config::{GlobalConfigManager, Listed, ProfileConfigManager};
use crate::fs::Paths;
use crate::hint::Hint;
use crate::model::{Server, Transport, Vars};
use crate::registry::Registry;
use crate::usage::{Filter, Reader, Report};

/// How many servers a search returns when nobody says otherwise, and at most.
const FOUND: (usize, usize) = (10, 50);
/// How many days of use are looked at when nobody says otherwise, and at most.
const DAYS: (u32, u32) = (30, 36_500);

/// What the tools work on.
#[derive(Debug)]
pub struct Desk {
    /// The places of our files.
    pub paths: Paths,
    /// Where servers are looked up.
    pub registry: Registry,
    /// The only profile that may be looked into and changed; all without one.
    pub profile: Option<String>,
    /// How long a server may take to start.
    pub patience: Duration,
}

/// Why a tool does not do what it was asked for, in words for an assistant.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}{}", hint.as_deref().map(|hint| format!(". {hint}")).unwrap_or_default())]
struct Refusal {
    message: String,
    hint: Option<String>,
}

impl Refusal {
    fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()) }
    }
}

impl<E: Hint> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self { message: error.to_string(), hint: error.hint() }
    }
}

impl Desk {
    fn servers(&self) -> Result<ServerList, Refusal> {
        let listed = GlobalConfigManager::open(&self.paths)?.list_servers();
        let servers = listed.iter().map(|listed| self.view(listed)).collect();
        Ok(ServerList { profile: self.profile.clone(), servers })
    }

    fn view(&self, Listed { name, server }: &Listed) -> ServerView {
        let mut view = ServerView { name: name.clone(), ..ServerView::default() };
        let server = match server {
            Ok(server) => server,
            Err(error) => {
                "faulty".clone_into(&mut view.kind);
                view.problem = Some(error.to_string());
                return view;
            }
        };
        server.transport.kind().clone_into(&mut view.kind);
        let enabled = self.profile.as_ref().map(|profile| server.profile_tags.contains(profile));
        view.enabled = enabled;
        if enabled == Some(false) {
            // It can be enabled; what it is concerns other profiles.
            return view;
        }
        view.profiles = match &self.profile {
            Some(profile) => vec![profile.clone()],
            None => server.profile_tags.clone(),
        };
        describe(server, &mut view);
        view
    }

    fn profiles(&self) -> Result<ProfileList, Refusal> {
        let mut profiles = ProfileConfigManager::open(&self.paths)?.list_profiles();
        if let Some(only) = &self.profile {
            profiles.retain(|profile| profile.name == *only);
        }
        Ok(ProfileList { profiles: profiles.into_iter().map(Into::into).collect() })
    }

    /// Puts a server into a profile, or takes it out.
    fn enable(&self, server: &str, asked: Option<&str>, on: bool) -> Result<Change, Refusal> {
        let profile = self.profile_for(asked)?;
        let mut profiles = ProfileConfigManager::open(&self.paths)?;
        let before = profiles.profile(&profile)?;
        let global = GlobalConfigManager::open(&self.paths)?;
        if on {
            // A profile with a server that cannot run is not served at all.
            let found = global.server(server)?;
            if matches!(found.transport, Transport::Custom { .. }) {
                let message = format!("`{server}` is for one client application alone");
                return Err(Refusal::new(message, "Choose another server"));
            }
            profiles.add_server_to_profile(&profile, server)?;
        } else {
            if !global.has(server) {
                global.server(server)?;
            }
            profiles.remove_server_from_profile(&profile, server)?;
        }
        let changed = before.servers.iter().any(|name| name == server) != on;
        let note = changed.then(|| {
            format!("Whoever has profile `{profile}` running sees it after the next start")
        });
        Ok(Change { server: server.to_owned(), profile, enabled: on, changed, note })
    }

    /// Returns the profile that is to be changed.
    fn profile_for(&self, asked: Option<&str>) -> Result<String, Refusal> {
        match (&self.profile, asked) {
            (Some(only), Some(asked)) if only != asked => Err(Refusal::new(
                format!("only profile `{only}` may be changed here"),
                "Leave `profile` out",
            )),
            (Some(only), _) => Ok(only.clone()),
            (None, Some(asked)) => Ok(asked.to_owned()),
            (None, None) => Err(Refusal::new(
                "a server is enabled or disabled in a profile, and none was named",
                "Name one of those that `list_profiles` shows",
            )),
        }
    }

    async fn search(&self, query: &str, limit: Option<usize>) -> Result<Catalogue, Refusal> {
        let query = query.trim();
        if query.is_empty() {
            return Err(Refusal::new("the query is empty", "Name what the server should do"));
        }
        let found = self.registry.search(Some(query), None).await;
        let limit = limit.unwrap_or(FOUND.0).clamp(1, FOUND.1);
        let installed = GlobalConfigManager::open(&self.paths)?;
        Ok(Catalogue::of(&found, limit, |name| installed.has(name)))
    }

    async fn details(&self, name: &str) -> Result<Details, Refusal> {
        let (manifest, problems) = self.registry.find(name.trim(), None).await?;
        Ok(Details::of(&manifest, &problems))
    }

    /// Starts a server, asks what it has, and stops it.
    async fn check(&self, name: &str) -> Result<Check, Refusal> {
        let server = GlobalConfigManager::open(&self.paths)?.server(name)?;
        self.must_show(&server)?;
        let outcome = doctor::probe(server, self.patience, &self.paths).await;
        let check = Check { server: name.to_owned(), ..Check::default() };
        Ok(match outcome {
            Ok(probe) => Check {
                works: true,
                title: Some(probe.server_name).filter(|title| !title.is_empty()),
                version: Some(probe.version).filter(|version| !version.is_empty()),
                tools: probe.tools.and_then(|count| u32::try_from(count).ok()),
                ..check
            },
            // What it wrote itself may hold secrets.
            Err(error) => Check { problem: Some(error.brief()), hint: error.hint(), ..check },
        })
    }

    fn must_show(&self, server: &Server) -> Result<(), Refusal> {
        match &self.profile {
            Some(only) if !server.profile_tags.contains(only) => Err(Refusal::new(
                format!("`{}` is not in profile `{only}`", server.name),
                "Enable it first with `enable_server`",
            )),
            _ => Ok(()),
        }
    }

    async fn usage(&self, days: Option<u32>, server: Option<String>) -> Result<Usage, Refusal> {
        if let Some(name) = &server {
            self.must_show(&GlobalConfigManager::open(&self.paths)?.server(name)?)?;
        }
        let days = days.unwrap_or(DAYS.0).clamp(1, DAYS.1);
        let filter = Filter { days, server, profile: self.profile.clone() };
        let report = match Reader::open(&self.paths).await? {
            Some(reader) => reader.report(&filter).await?,
            None => Report::empty(days),
        };
        Ok(Usage::of(report))
    }
}

/// Says what a server is, without what it is told.
fn describe(server: &Server, view: &mut ServerView) {
    let names = |vars: &Vars| vars.iter().map(|(name, _)| name.to_owned()).collect();
    match &server.transport {
        Transport::Stdio { command, env, .. } => {
            view.program = Some(command.rsplit(['/', '\\']).next().unwrap_or(command).to_owned());
            view.variables = names(env);
        }
        Transport::Remote { url, headers } => {
            // Some services put the key of their customer into the path.
            view.host = Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned));
            view.headers = names(headers);
        }
        Transport::Custom { .. } => {}
    }
}
