//! What can go wrong at the boundary of the gateway.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::secrets::SecretError;
use crate::hint::Hint;
use crate::keyring::KeyringError;
use crate::oauth::OauthError;

/// A failure of the gateway or of the server behind it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// The entry is for one client application only.
    #[error("server `{0}` is a custom entry, which only its client application can run")]
    Custom(String),
    /// A key of a server's entry holds what it must not.
    #[error("`{key}` of server `{server}` must be {expected}")]
    Entry {
        /// The server's name.
        server: String,
        /// The key at fault.
        key: &'static str,
        /// What it must hold, with its article.
        expected: &'static str,
    },
    /// A value of a server's entry refers to a secret that cannot be had.
    #[error("cannot follow `{key}` of server `{server}`")]
    Secret {
        /// The server's name.
        server: String,
        /// The key whose value refers to it.
        key: String,
        /// Why it cannot be had.
        source: Box<SecretError>,
    },
    /// The working directory of a server does not exist.
    #[error("the working directory `{}` of server `{server}` does not exist", cwd.display())]
    WorkingDirectory {
        /// The server's name.
        server: String,
        /// The directory.
        cwd: PathBuf,
    },
    /// The command of a server could not be started.
    #[error("cannot start `{command}` for server `{server}`")]
    Spawn {
        /// The server's name.
        server: String,
        /// The command as configured.
        command: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The server ended by itself.
    #[error("server `{server}` stopped ({status}){}", after(stderr))]
    ChildExited {
        /// The server's name.
        server: String,
        /// How it ended.
        status: String,
        /// The last lines it wrote to stderr.
        stderr: String,
    },
    /// The server did not answer its first request in time.
    #[error("server `{server}` did not answer within {} s{}", after.as_secs(), self::after(stderr))]
    StartTimeout {
        /// The server's name.
        server: String,
        /// How long we waited.
        after: Duration,
        /// The last lines it wrote to stderr.
        stderr: String,
    },
    /// The server answered its first request with an error, or with something that is not MCP.
    #[error("server `{server}` refused to start a session: {message}")]
    Refused {
        /// The server's name.
        server: String,
        /// What it said.
        message: String,
    },
    /// The URL of a remote server cannot be used.
    #[error("the URL `{url}` of server `{server}` is not usable: {reason}")]
    Url {
        /// The server's name.
        server: String,
        /// The URL, without its query.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A configured header of a remote server is not a valid header.
    #[error("header `{header}` of server `{server}` is not a valid HTTP header")]
    Header {
        /// The server's name.
        server: String,
        /// The header's name.
        header: String,
    },
    /// A remote server could not be reached.
    #[error("cannot reach server `{server}`")]
    Unreachable {
        /// The server's name.
        server: String,
        /// What the HTTP client said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A remote server refused our credentials, or wants some.
    #[error("server `{server}` {remedy} (HTTP {status})")]
    Unauthorized {
        /// The server's name.
        server: String,
        /// The status it answered with.
        status: u16,
        /// What may help.
        remedy: Remedy,
    },
    /// The login to a remote server cannot be used.
    #[error("cannot use the login to server `{server}`")]
    Login {
        /// The server's name.
        server: String,
        /// What is wrong with it.
        source: Arc<OauthError>,
    },
    /// A server could not be opened for a client that waited for it.
    #[error(transparent)]
    Open(Arc<Self>),
    /// The trust store of the platform could not be set up.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    /// Our own standard input or output failed.
    #[error("cannot talk to the client over standard input and output")]
    Stdio(#[source] std::io::Error),
    /// The gateway is shutting down.
    #[error("the gateway is shutting down")]
    Stopped,
}

/// What may help against a server that refuses us. Its text says what the server did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Other headers in the entry of the server.
    Headers,
    /// A login: there is none.
    Login,
    /// Another login: this one has ended, or is not good enough.
    LoginAgain,
    /// A login for all these scopes.
    Scope(String),
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Headers => "refused our credentials",
            Self::Login => "asks for a login",
            Self::LoginAgain => "takes our login no more",
            Self::Scope(_) => "asks for a login with more rights",
        })
    }
}

impl Remedy {
    fn hint(&self, server: &str) -> String {
        match self {
            Self::Headers => format!("Check the `headers` of `{server}` in servers.json"),
            Self::Login => format!("Log in with `mcpm login {server}`"),
            Self::LoginAgain => format!("Log in again with `mcpm login {server}`"),
            Self::Scope(scopes) => {
                format!("Log in again with `mcpm login {server} --scope '{scopes}'`")
            }
        }
    }
}

fn after(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!("; it last wrote:\n{stderr}") }
}

impl GatewayError {
    /// Says in a few words why a server cannot be used, for strangers to read: what it wrote and how
    /// it is configured is its owner's business.
    #[must_use]
    pub fn brief(&self) -> String {
        match self {
            Self::ChildExited { status, .. } => format!("it stopped ({status})"),
            Self::StartTimeout { after, .. } => {
                format!("it did not answer within {} s", after.as_secs())
            }
            Self::Unreachable { .. } => "it cannot be reached".to_owned(),
            Self::Unauthorized { .. } | Self::Login { .. } => {
                "it refuses our credentials".to_owned()
            }
            Self::Open(error) => error.brief(),
            _ => "it cannot be started".to_owned(),
        }
    }
}

impl Hint for GatewayError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Custom(_) => Some("Run it from the client that it was made for".to_owned()),
            Self::Entry { server, key, .. } => {
                Some(format!("Correct `{key}` of `{server}` in servers.json"))
            }
            Self::Secret { server, key, source } => Some(match &**source {
                // Applications that were not started from a shell have none of its variables.
                SecretError::Unset(name) => format!(
                    "Set `{name}` where mcpm is started, or keep the secret in a file and write `file:/its/path` into servers.json"
                ),
                SecretError::Keyring(KeyringError::NoEntry(_)) => {
                    let key = key.rsplit('.').next().unwrap_or(key);
                    format!("Put it there with `mcpm edit {server} --secret {key}`")
                }
                SecretError::Keyring(error) => error.hint().unwrap_or_default(),
                _ => format!("Correct `{server}` in servers.json"),
            }),
            Self::WorkingDirectory { server, .. } => {
                Some(format!("Correct `cwd` of `{server}` in servers.json"))
            }
            Self::Spawn { server, command, source, .. } => {
                Some(spawn_hint(server, command, source))
            }
            Self::ChildExited { server, .. } | Self::StartTimeout { server, .. } => Some(format!(
                "Run the command of `{server}` by hand to see why, and check it in servers.json"
            )),
            Self::Refused { server, .. } => {
                Some(format!("Check that the command or URL of `{server}` is an MCP server"))
            }
            Self::Url { server, .. } | Self::Header { server, .. } => {
                Some(format!("Correct `{server}` in servers.json"))
            }
            Self::Unreachable { .. } => Some("Check the URL and your network".to_owned()),
            Self::Unauthorized { server, remedy, .. } => Some(remedy.hint(server)),
            Self::Login { source, .. } => source.hint(),
            Self::Open(error) => error.hint(),
            Self::Tls(_) | Self::Stdio(_) | Self::Stopped => None,
        }
    }
}

fn spawn_hint(server: &str, command: &str, source: &std::io::Error) -> String {
    if source.kind() == std::io::ErrorKind::PermissionDenied {
        return format!("Make `{command}` executable, or correct it in servers.json");
    }
    let program = command.rsplit(['/', '\\']).next().unwrap_or(command);
    match program.split('.').next().unwrap_or(program) {
        "npx" | "npm" | "node" => "Install Node.js, which brings `npx`".to_owned(),
        "uvx" | "uv" => "Install uv, which brings `uvx`".to_owned(),
        "bunx" | "bun" => "Install Bun, which brings `bunx`".to_owned(),
        "docker" | "podman" => format!("Install `{program}`"),
        _ => format!("Install `{command}`, or correct the command of `{server}` in servers.json"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_runtime_is_named_in_the_hint() {
        let error = |command: &str, kind: std::io::ErrorKind| GatewayError::Spawn {
            server: "s".to_owned(),
            command: command.to_owned(),
            source: kind.into(),
        };
        let missing = std::io::ErrorKind::NotFound;
        assert!(error("npx", missing).hint().unwrap().contains("Node.js"));
        assert!(error("/opt/bin/uvx", missing).hint().unwrap().contains("uv"));
        assert!(error("C:\\x\\npx.cmd", missing).hint().unwrap().contains("Node.js"));
        assert!(error("my-server", missing).hint().unwrap().contains("servers.json"));
        let denied = error("my-server", std::io::ErrorKind::PermissionDenied);
        assert!(denied.hint().unwrap().contains("executable"));
    }

    #[test]
    fn the_last_words_of_a_server_are_part_of_the_error() {
        let error = GatewayError::ChildExited {
            server: "s".to_owned(),
            status: "exit status: 1".to_owned(),
            stderr: "no such file".to_owned(),
        };
        assert_eq!(
            error.to_string(),
            "server `s` stopped (exit status: 1); it last wrote:\nno such file"
        );
    }
}
