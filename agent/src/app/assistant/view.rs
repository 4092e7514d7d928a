//! What the tools answer. Each type is the schema of an answer too.

use rmcp::schemars::{self, JsonSchema};
use serde::Serialize;

use crate::config::Profile;
use crate::registry::manifest::{Input, Launch, Method};
use crate::registry::{Found, Manifest, RegistryError};
use crate::usage::{CallUsage, Report, ServerUsage};

/// How many tools and prompts a report of use names.
const CALLS: usize = 20;

/// Declares answers: texts, lists and options that are left out when there is nothing to say.
macro_rules! answers {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)+ })+) => {$(
        $(#[$doc])*
        #[derive(Debug, Default, Serialize, JsonSchema)]
        pub(super) struct $name { $($(#[$field_doc])* pub(super) $field: $type,)+ }
    )+};
}

answers! {
    /// The servers that are installed.
    ServerList {
        /// The profile that `enabled` is about, when mcpm was started for one.
        #[serde(skip_serializing_if = "Option::is_none")]
        profile: Option<String>,
        /// The servers.
        servers: Vec<ServerView>,
    }
    /// One installed server.
    ServerView {
        /// Its name.
        name: String,
        /// `stdio`, `remote`, `custom` (for one client alone) or `faulty`.
        kind: String,
        /// Whether it is in the profile.
        #[serde(skip_serializing_if = "Option::is_none")]
        enabled: Option<bool>,
        /// The profiles it is in.
        profiles: Vec<String>,
        /// The program that runs it.
        #[serde(skip_serializing_if = "Option::is_none")]
        program: Option<String>,
        /// The host that has it.
        #[serde(skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// The names of its variables; their values are never shown.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        variables: Vec<String>,
        /// The names of its headers; their values are never shown.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        headers: Vec<String>,
        /// What is wrong with its entry.
        #[serde(skip_serializing_if = "Option::is_none")]
        problem: Option<String>,
    }
    /// The profiles.
    ProfileList {
        /// The profiles.
        profiles: Vec<ProfileView>,
    }
    /// One profile.
    ProfileView {
        /// Its name.
        name: String,
        /// What it is for.
        #[serde(skip_serializing_if = "Option::is_none")]
        description: Option<String>,
        /// The servers in it.
        servers: Vec<String>,
    }
    /// What became of a server in a profile.
    Change {
        /// The server.
        server: String,
        /// The profile.
        profile: String,
        /// Whether it is in the profile now.
        enabled: bool,
        /// Whether that is new.
        changed: bool,
        /// What is worth knowing.
        #[serde(skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    }
    /// Servers that can be installed.
    Catalogue {
        /// The servers.
        servers: Vec<CatalogueEntry>,
        /// How many more there are.
        more: usize,
        /// Why there may be others, or newer ones.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        problems: Vec<String>,
    }
    /// A server that can be installed.
    CatalogueEntry {
        /// The name that `mcpm install` takes.
        name: String,
        /// Its name for people.
        title: String,
        /// What it does.
        description: String,
        /// Its version.
        #[serde(skip_serializing_if = "Option::is_none")]
        version: Option<String>,
        /// The registry that says so.
        registry: String,
        /// Whether who makes the service also makes the server.
        official: bool,
        /// Whether a server of its name is installed.
        installed: bool,
    }
    /// What a registry says of one server.
    Details {
        /// The name that `mcpm install` takes.
        name: String,
        /// Its name for people.
        title: String,
        /// What it does.
        description: String,
        /// Its version.
        #[serde(skip_serializing_if = "Option::is_none")]
        version: Option<String>,
        /// The registry that says so.
        registry: String,
        /// Where people read about it.
        #[serde(skip_serializing_if = "Option::is_none")]
        homepage: Option<String>,
        /// Where its source is.
        #[serde(skip_serializing_if = "Option::is_none")]
        repository: Option<String>,
        /// Who made it.
        #[serde(skip_serializing_if = "Option::is_none")]
        author: Option<String>,
        /// Its license.
        #[serde(skip_serializing_if = "Option::is_none")]
        license: Option<String>,
        /// Whether nobody maintains it any more.
        archived: bool,
        /// The ways to install it.
        installations: Vec<Installation>,
        /// The command with which a person installs it.
        install: String,
        /// Why this may not be current.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        problems: Vec<String>,
    }
    /// One way to install a server.
    Installation {
        /// Its name.
        id: String,
        /// What kind it is.
        kind: String,
        /// The program that runs the server, or the host that has it.
        runs: String,
        /// What it asks for.
        arguments: Vec<Argument>,
    }
    /// What an installation asks for.
    Argument {
        /// Its name.
        name: String,
        /// What it is.
        #[serde(skip_serializing_if = "Option::is_none")]
        description: Option<String>,
        /// Whether nothing works without it.
        required: bool,
        /// Whether only a person may know it.
        secret: bool,
        /// The only values it may have, if there are any.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        choices: Vec<String>,
    }
    /// Whether a server works.
    Check {
        /// The server.
        server: String,
        /// Whether it starts and speaks MCP.
        works: bool,
        /// What it calls itself.
        #[serde(skip_serializing_if = "Option::is_none")]
        title: Option<String>,
        /// Its version.
        #[serde(skip_serializing_if = "Option::is_none")]
        version: Option<String>,
        /// How many tools it has.
        #[serde(skip_serializing_if = "Option::is_none")]
        tools: Option<u32>,
        /// Why it does not work.
        #[serde(skip_serializing_if = "Option::is_none")]
        problem: Option<String>,
        /// What a person may do about it.
        #[serde(skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
    }
    /// What was used.
    Usage {
        /// How many days this is about.
        days: u32,
        /// Sessions of clients.
        sessions: i64,
        /// Calls of tools, prompts and resources.
        calls: i64,
        /// Calls that failed.
        errors: i64,
        /// The servers, most used first.
        servers: Vec<ServerUse>,
        /// The tools and prompts, most used first.
        tools: Vec<ToolUse>,
    }
    /// How one server was used.
    ServerUse {
        /// Its name.
        server: String,
        /// Calls.
        calls: i64,
        /// Calls that failed.
        errors: i64,
        /// Half of the calls took no longer, in milliseconds.
        #[serde(skip_serializing_if = "Option::is_none")]
        p50_ms: Option<f64>,
        /// 19 of 20 calls took no longer, in milliseconds.
        #[serde(skip_serializing_if = "Option::is_none")]
        p95_ms: Option<f64>,
        /// When it was last used, in Unix seconds.
        #[serde(skip_serializing_if = "Option::is_none")]
        last_used: Option<i64>,
    }
    /// How one tool or prompt was used.
    ToolUse {
        /// Its server.
        #[serde(skip_serializing_if = "Option::is_none")]
        server: Option<String>,
        /// `tool` or `prompt`.
        kind: String,
        /// Its name.
        name: String,
        /// Calls.
        calls: i64,
        /// Calls that failed.
        errors: i64,
    }
}

impl From<Profile> for ProfileView {
    fn from(profile: Profile) -> Self {
        let Profile { name, description, servers } = profile;
        Self { name, description, servers }
    }
}

fn told(problems: &[RegistryError]) -> Vec<String> {
    let worth = problems.iter().filter(|problem| !matches!(problem, RegistryError::NoCopy(_)));
    worth.map(ToString::to_string).collect()
}

impl Catalogue {
    pub(super) fn of(found: &Found, limit: usize, installed: impl Fn(&str) -> bool) -> Self {
        let entry = |manifest: &Manifest| CatalogueEntry {
            name: manifest.name.clone(),
            title: manifest.title.clone(),
            description: manifest.description.clone(),
            version: manifest.version.clone(),
            registry: manifest.origin.word().to_owned(),
            official: manifest.official,
            installed: installed(&manifest.alias),
        };
        Self {
            servers: found.manifests.iter().take(limit).map(entry).collect(),
            more: found.manifests.len().saturating_sub(limit),
            problems: told(&found.problems),
        }
    }
}

impl Details {
    pub(super) fn of(manifest: &Manifest, problems: &[RegistryError]) -> Self {
        Self {
            name: manifest.name.clone(),
            title: manifest.title.clone(),
            description: manifest.description.clone(),
            version: manifest.version.clone(),
            registry: manifest.origin.word().to_owned(),
            homepage: manifest.homepage.clone(),
            repository: manifest.repository.clone(),
            author: manifest.author.clone(),
            license: manifest.license.clone(),
            archived: manifest.archived,
            installations: manifest.methods.iter().map(Into::into).collect(),
            install: format!("mcpm install {}", manifest.name),
            problems: told(problems),
        }
    }
}

impl From<&Method> for Installation {
    fn from(method: &Method) -> Self {
        let runs = match &method.launch {
            Launch::Stdio { command, .. } => command.clone(),
            Launch::Remote { url, .. } | Launch::Bundle { url, .. } => {
                let rest = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
                rest.split('/').next().unwrap_or_default().to_owned()
            }
        };
        Self {
            id: method.id.clone(),
            kind: method.kind.clone(),
            runs,
            arguments: method.inputs.iter().map(Into::into).collect(),
        }
    }
}

impl From<&Input> for Argument {
    fn from(input: &Input) -> Self {
        Self {
            name: input.name.clone(),
            description: input.description.clone(),
            required: input.required && input.default.is_none(),
            secret: input.secret,
            choices: input.choices.clone(),
        }
    }
}

impl Usage {
    pub(super) fn of(report: Report) -> Self {
        // The URI of a resource may say too much.
        let calls = report.calls.into_iter().filter(|call| call.kind != "resource");
        Self {
            days: report.days,
            sessions: report.totals.sessions,
            calls: report.totals.calls,
            errors: report.totals.errors,
            servers: report.servers.into_iter().map(Into::into).collect(),
            tools: calls.take(CALLS).map(Into::into).collect(),
        }
    }
}

impl From<ServerUsage> for ServerUse {
    fn from(row: ServerUsage) -> Self {
        let ServerUsage { server, calls, errors, p50_ms, p95_ms, last_used, .. } = row;
        Self { server, calls, errors, p50_ms, p95_ms, last_used }
    }
}

impl From<CallUsage> for ToolUse {
    fn from(row: CallUsage) -> Self {
        let CallUsage { server, kind, name, calls, errors, .. } = row;
        Self { server, kind, name, calls, errors }
    }
}
