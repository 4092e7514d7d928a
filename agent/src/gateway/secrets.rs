//! Follows the references in the entry of a server, when it is started and not before: what they
//! refer to is never written anywhere.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

use super::error::GatewayError;
use crate::keyring::{self, KeyringError};
use crate::model::reference::{self, Reference, Slot};
use crate::model::{Server, Transport};

/// The longest secret in a file, in bytes.
const MAX_SECRET: u64 = 64 * 1024;

/// Why a reference leads nowhere.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The variable is not set.
    #[error("the variable `{0}` is not set")]
    Unset(String),
    /// The variable holds no text.
    #[error("the variable `{0}` is not UTF-8")]
    NotText(String),
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The keyring does not have it, or there is none.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
}

/// Returns the server as it is to be started: with the values that `env`, `headers` and `url` refer
/// to. Arguments are left alone, since every process of the machine can read those.
///
/// # Errors
/// Names the key and the reference that leads nowhere.
pub fn resolve(server: &Server) -> Result<Cow<'_, Server>, GatewayError> {
    let keyring = |slot: Slot<'_>| Ok(keyring::read(slot)?.expose().to_owned());
    resolve_in(server, |name| std::env::var_os(name), keyring)
}

fn resolve_in(
    server: &Server,
    environment: impl Fn(&str) -> Option<OsString>,
    keyring: impl Fn(Slot<'_>) -> Result<String, KeyringError>,
) -> Result<Cow<'_, Server>, GatewayError> {
    let value = |key: String, value: &str| {
        let look_up = |reference: Reference<'_>| look_up(reference, &environment, &keyring);
        let found = reference::resolve(value, look_up);
        found.map(Cow::into_owned).map_err(|source| GatewayError::Secret {
            server: server.name.clone(),
            key,
            source: Box::new(source),
        })
    };
    let transport = match &server.transport {
        Transport::Stdio { command, args, env, cwd } => Transport::Stdio {
            command: command.clone(),
            args: args.clone(),
            env: env.try_map(|name, text| value(format!("env.{name}"), text))?,
            cwd: cwd.clone(),
        },
        Transport::Remote { url, headers } => Transport::Remote {
            // A URL of `file:` is no server, and its error says so.
            url: if url.contains("${") { value("url".to_owned(), url)? } else { url.clone() },
            headers: headers.try_map(|name, text| value(format!("headers.{name}"), text))?,
        },
        Transport::Custom { .. } => return Ok(Cow::Borrowed(server)),
    };
    Ok(Cow::Owned(Server { transport, ..server.clone() }))
}

fn look_up(
    reference: Reference<'_>,
    environment: impl Fn(&str) -> Option<OsString>,
    keyring: impl Fn(Slot<'_>) -> Result<String, KeyringError>,
) -> Result<String, SecretError> {
    match reference {
        Reference::Variable { name, default } => {
            let set = environment(name).filter(|value| default.is_none() || !value.is_empty());
            match (set, default) {
                (Some(value), _) => {
                    value.into_string().map_err(|_| SecretError::NotText(name.to_owned()))
                }
                (None, Some(default)) => Ok(default.to_owned()),
                (None, None) => Err(SecretError::Unset(name.to_owned())),
            }
        }
        Reference::File(path) => {
            let home = std::env::home_dir();
            let path = match (path.strip_prefix("~/"), home) {
                (Some(below), Some(home)) => home.join(below),
                _ => PathBuf::from(path),
            };
            read(&path).map_err(|source| SecretError::File { path, source })
        }
        Reference::Keyring(slot) => Ok(keyring(slot)?),
    }
}

/// Reads a secret without the line end that editors put behind it.
fn read(path: &std::path::Path) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_SECRET).read_to_string(&mut text)?;
    let kept = text.trim_end_matches(['\r', '\n']).len();
    text.truncate(kept);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::hint::Hint as _;

    fn resolved(entry: &serde_json::Value) -> Result<serde_json::Value, GatewayError> {
        let server = Server::from_entry("s", entry).unwrap();
        let environment = |name: &str| (name == "KEY").then(|| OsString::from("s3cret"));
        let keyring = |slot: Slot<'_>| match slot.name {
            "s/KEY" => Ok("from keyring".to_owned()),
            _ => Err(KeyringError::NoEntry(slot.to_string())),
        };
        resolve_in(&server, environment, keyring).map(|server| server.to_entry())
    }

    #[test]
    fn references_are_followed_in_env_headers_and_url_but_not_in_arguments() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "from file\r\n").unwrap();
        let file = format!("file:{}", path.display());
        let stdio = json!({"command": "x", "args": ["${KEY}"], "env": {"A": "${KEY}", "B": file, "C": "${NONE:-d}", "D": "keyring:mcpm/s/KEY"}});
        let found = resolved(&stdio).unwrap();
        let expected = json!({"A": "s3cret", "B": "from file", "C": "d", "D": "from keyring"});
        assert_eq!(found["env"], expected);
        assert_eq!(found["args"], json!(["${KEY}"]));
        let remote = json!({"url": "https://${KEY}.example/", "headers": {"A": "Bearer ${KEY}"}});
        let found = resolved(&remote).unwrap();
        assert_eq!(found["url"], "https://s3cret.example/");
        assert_eq!(found["headers"]["A"], "Bearer s3cret");
    }

    /// Defect 29 of the Python `mcpm`: a placeholder was passed to the server as it stood.
    #[test]
    fn a_reference_that_leads_nowhere_is_an_error_that_names_it() {
        let error = resolved(&json!({"command": "x", "env": {"TOKEN": "${NONE}"}})).unwrap_err();
        assert_eq!(error.to_string(), "cannot follow `env.TOKEN` of server `s`");
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(source, "the variable `NONE` is not set");
        assert!(error.hint().unwrap().contains("NONE"));
        let error = resolved(&json!({"url": "https://x", "headers": {"A": "file:/none"}}));
        assert!(error.unwrap_err().hint().unwrap().contains("servers.json"));
        let missing = json!({"command": "x", "env": {"A": "${keyring:mcpm/none}"}});
        let hint = resolved(&missing).unwrap_err().hint().unwrap();
        assert!(hint.contains("mcpm edit s --secret A"), "{hint}");
    }
}
