//! Making servers by hand and changing them.

use url::Url;

use crate::config::{self, ConfigError, GlobalConfigManager, ServerChange, Sources};
use crate::fs::Paths;
use crate::hint::Hint;
use crate::model::{Server, Transport, Vars};
use crate::oauth::Store;

/// What a person says of a new server.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// The command of a stdio server.
    pub command: Option<String>,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its variables.
    pub env: Vars,
    /// The URL of a remote server.
    pub url: Option<String>,
    /// The headers that are sent to it.
    pub headers: Vars,
}

/// Why a draft is no server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DraftError {
    /// A stdio server needs a command.
    #[error("a stdio server needs a command")]
    NoCommand,
    /// A remote server needs a URL.
    #[error("a remote server needs a URL")]
    NoUrl,
    /// What only servers of the other kind have.
    #[error("a {kind} server has no {what}")]
    OtherKind {
        /// The kind of the draft.
        kind: &'static str,
        /// What it does not have.
        what: &'static str,
    },
    /// The URL is none that a server can be reached by.
    #[error("`{0}` is not an http or https URL")]
    Url(String),
}

impl Hint for DraftError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoCommand => "Give it with --command".to_owned(),
            Self::NoUrl => "Give it with --url".to_owned(),
            Self::OtherKind { kind: "stdio", .. } => {
                "Leave it out, or say --type remote".to_owned()
            }
            Self::OtherKind { .. } => "Leave it out, or say --type stdio".to_owned(),
            Self::Url(_) => "Write it as https://HOST/PATH".to_owned(),
        })
    }
}

impl Draft {
    /// Makes a stdio server.
    ///
    /// # Errors
    /// When something is missing, or belongs to remote servers.
    pub fn stdio(self, name: &str) -> Result<Server, DraftError> {
        let Self { command, args, env, url, headers } = self;
        let other = |what| DraftError::OtherKind { kind: "stdio", what };
        if url.is_some() {
            return Err(other("URL"));
        }
        if !headers.is_empty() {
            return Err(other("headers"));
        }
        let command = command.filter(|command| !command.trim().is_empty());
        let command = command.ok_or(DraftError::NoCommand)?;
        Ok(Server::new(name, Transport::Stdio { command, args, env, cwd: None }))
    }

    /// Makes a remote server.
    ///
    /// # Errors
    /// When something is missing, or belongs to stdio servers.
    pub fn remote(self, name: &str) -> Result<Server, DraftError> {
        let Self { command, args, env, url, headers } = self;
        let other = |what| DraftError::OtherKind { kind: "remote", what };
        if command.is_some() {
            return Err(other("command"));
        }
        if !args.is_empty() {
            return Err(other("arguments"));
        }
        if !env.is_empty() {
            return Err(other("environment"));
        }
        let url = url.filter(|url| !url.trim().is_empty()).ok_or(DraftError::NoUrl)?;
        check_url(&url)?;
        Ok(Server::new(name, Transport::Remote { url, headers }))
    }
}

/// Checks a URL, unless a part of it is looked up when the server is started.
///
/// # Errors
/// When no server can be reached by it.
pub fn check_url(url: &str) -> Result<(), DraftError> {
    let fine = Url::parse(url)
        .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some());
    if fine || url.contains("${") { Ok(()) } else { Err(DraftError::Url(url.to_owned())) }
}

/// Adds a server; one that is replaced hands on its profiles.
///
/// # Errors
/// When the name is taken or not good, or a file cannot be written.
pub fn create(paths: &Paths, mut server: Server, replace: bool) -> Result<(), ConfigError> {
    config::check_name("server", &server.name)?;
    let mut global = GlobalConfigManager::open(paths)?;
    // Read before anything is written: a file that we must not replace should change nothing.
    let mut sources = Sources::open(paths)?;
    if replace {
        server.profile_tags = global.profiles_of(&server.name);
    }
    global.add_server(&server, replace)?;
    sources.record(&server)
}

/// Changes a server; tells whether anything changed.
///
/// # Errors
/// When there is no such server, the change does not fit it, or a file cannot be written.
pub fn change(paths: &Paths, name: &str, change: &ServerChange) -> Result<bool, ConfigError> {
    if let Some(new) = &change.name {
        config::check_name("server", new)?;
    }
    // Read before anything is written: a file that we must not replace should change nothing.
    Sources::open(paths)?;
    let changed = GlobalConfigManager::open(paths)?.edit_server(name, change)?;
    if let Some(new) = change.name.as_deref().filter(|new| *new != name) {
        bring_along(paths, name, new)?;
    }
    Ok(changed)
}

/// Lets what a server has beside its entry follow it to its new name; what did so already stays.
///
/// # Errors
/// When a file cannot be read or written.
pub fn bring_along(paths: &Paths, old: &str, new: &str) -> Result<(), ConfigError> {
    Store::open(paths).rename(old, new)?;
    Sources::open(paths)?.rename(old, new)
}

/// Does the same for a rename that was interrupted; what the new name has already is its own.
///
/// # Errors
/// When a file cannot be read or written.
pub fn bring_rest(paths: &Paths, old: &str, new: &str) -> Result<(), ConfigError> {
    let (store, mut sources) = (Store::open(paths), Sources::open(paths)?);
    if !store.has(new)? {
        store.rename(old, new)?;
    }
    match sources.get(new) {
        Some(_) => Ok(()),
        None => sources.rename(old, new),
    }
}

/// Tells whether a server that is gone, or has another name, left something beside its entry.
///
/// # Errors
/// When a file cannot be read.
pub fn left_behind(paths: &Paths, name: &str) -> Result<bool, ConfigError> {
    let has_source = Sources::open(paths)?.get(name).is_some();
    Ok(has_source || Store::open(paths).has(name)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> (tempfile::TempDir, Paths) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        (dir, paths)
    }

    /// Defect 21 of the Python `mcpm`: `new --force` dropped the profiles of a server, and with
    /// `MCPM_FORCE` it printed success and kept the old entry.
    #[test]
    fn a_replaced_server_keeps_its_profiles_and_is_really_replaced() {
        let (_dir, paths) = home();
        std::fs::write(paths.servers(), r#"{"a": {"command": "x", "profile_tags": ["work"]}}"#)
            .unwrap();
        let server = Server::stdio("a", "uvx", ["new"]);
        assert!(matches!(create(&paths, server.clone(), false), Err(ConfigError::Exists { .. })));
        create(&paths, server, true).unwrap();
        let kept = GlobalConfigManager::open(&paths).unwrap().server("a").unwrap();
        assert_eq!(kept.profile_tags, ["work"]);
        assert!(matches!(kept.transport, Transport::Stdio { command, .. } if command == "uvx"));
    }

    /// Defect 20 of the Python `mcpm`: a broken file was taken for an empty one and replaced.
    #[test]
    fn an_invalid_servers_json_is_never_replaced() {
        let (_dir, paths) = home();
        std::fs::write(paths.servers(), "{\"a\": {\"command\": \"x\"},}").unwrap();
        assert!(create(&paths, Server::stdio("b", "x", [""; 0]), true).is_err());
        let rename = ServerChange { name: Some("c".to_owned()), ..ServerChange::default() };
        assert!(change(&paths, "a", &rename).is_err());
        let text = std::fs::read_to_string(paths.servers()).unwrap();
        assert_eq!(text, "{\"a\": {\"command\": \"x\"},}");
    }

    /// Defect 25 of the Python `mcpm`: a renamed server left its source behind.
    #[test]
    fn a_renamed_server_takes_its_source_along() {
        let (_dir, paths) = home();
        create(&paths, Server::stdio("a", "npx", ["-y", "pkg"]), false).unwrap();
        let rename = ServerChange { name: Some("b".to_owned()), ..ServerChange::default() };
        assert!(change(&paths, "a", &rename).unwrap());
        let sources = std::fs::read_to_string(paths.sources()).unwrap();
        assert!(sources.starts_with("{\n  \"b\": {"), "{sources}");
    }

    #[test]
    fn a_renamed_server_takes_its_login_along() {
        let (_dir, paths) = home();
        let url = "https://far.example/mcp";
        create(&paths, Server::remote("far", url), false).unwrap();
        let store = Store::open(&paths);
        store.keep(&crate::oauth::testing::record("far", url)).unwrap();
        let rename = ServerChange { name: Some("near".to_owned()), ..ServerChange::default() };
        assert!(change(&paths, "far", &rename).unwrap());
        assert!(store.read("near", url).unwrap().is_some());
        assert!(store.read("far", url).unwrap().is_none());
    }

    #[test]
    fn names_that_could_not_be_typed_are_refused() {
        let (_dir, paths) = home();
        for name in ["", "-x", "a\nb", " a", "a ", "..", "%work"] {
            let made = create(&paths, Server::stdio(name, "x", [""; 0]), false);
            assert!(matches!(made, Err(ConfigError::BadName { .. })), "{name:?}");
        }
        for name in ["a", "@scope/a", "io.github.x/y", "größe"] {
            create(&paths, Server::stdio(name, "x", [""; 0]), false).unwrap();
        }
    }

    #[test]
    fn a_draft_says_what_is_missing_or_too_much() {
        let url = Draft { url: Some("ftp://x".to_owned()), ..Draft::default() };
        assert_eq!(
            url.clone().stdio("a"),
            Err(DraftError::OtherKind { kind: "stdio", what: "URL" })
        );
        assert_eq!(url.remote("a"), Err(DraftError::Url("ftp://x".to_owned())));
        assert_eq!(Draft::default().stdio("a"), Err(DraftError::NoCommand));
        assert_eq!(Draft::default().remote("a"), Err(DraftError::NoUrl));
        let env = Vars::default().with("K", "v");
        let url = Some("https://x.example/mcp".to_owned());
        let remote = Draft { url, env, ..Draft::default() };
        let kind = "remote";
        assert_eq!(remote.remote("a"), Err(DraftError::OtherKind { kind, what: "environment" }));
    }
}
