//! Settings of a relay that is several nodes over one database.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mcpm_shared::token::Token;

use super::database::Database;
use super::layer::Layer;
use super::values::Listen;
use super::{Config, DEFAULT_NODE};

/// Shortest accepted secret of the nodes. Nobody can search for it offline, yet whoever guesses it
/// speaks for every visitor.
const MIN_SECRET_BYTES: usize = 32;
/// Longest name of a node and longest `HOST:PORT`.
const MAX_ID: usize = 64;
const MAX_ADDRESS: usize = 255;
/// How often a node says that it lives: a handful of small writes a second for a large relay.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// What makes a process one node of several.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// The listener for other nodes.
    pub listen: SocketAddr,
    /// Where other nodes reach it, as `HOST:PORT`; without it, where it listens.
    pub advertise: Option<String>,
    /// What nodes prove to each other that they know: the first is shown, each is accepted.
    pub secrets: Vec<Token>,
    /// The file that they came from, for `config print`.
    pub secret_file: Option<PathBuf>,
    /// How often the node says that it lives; one that is silent five times as long is given up.
    pub heartbeat: Duration,
}

impl NodeSettings {
    /// Makes settings with the usual heartbeat.
    #[must_use]
    pub fn new(listen: SocketAddr, secrets: Vec<Token>) -> Self {
        Self { listen, advertise: None, secrets, secret_file: None, heartbeat: HEARTBEAT }
    }
}

impl Config {
    /// Gives the node a random name, if nobody gave it one.
    pub fn name_node(&mut self) {
        if self.node.is_empty() {
            let random = Token::generate();
            let letters = random.expose().chars().filter(char::is_ascii_alphanumeric);
            self.node = letters.take(12).collect::<String>().to_ascii_lowercase();
        }
    }
}

/// Settings that cannot be obeyed, and why.
pub(super) type Wrong = Vec<(&'static str, String)>;

/// Returns the settings of a node, where it is one of several, its name, and what is wrong. The name
/// is empty where one is to be made.
pub(super) fn nodes(layer: &Layer, database: &Database) -> (Option<NodeSettings>, String, Wrong) {
    let mut wrong = Wrong::new();
    if let Some(id) = &layer.node_id
        && !is_id(id)
    {
        let message = format!("must be 1 to {MAX_ID} letters, digits, dots, `_` and `-`");
        wrong.push(("node-id", message));
    }
    let Some(listen) = layer.node_listen.and_then(Listen::addr) else {
        for (setting, given) in [
            ("node-advertise", layer.node_advertise.is_some()),
            ("node-secret-file", layer.node_secret_file.is_some()),
        ] {
            if given {
                wrong.push((setting, "needs node-listen: this is the only node".to_owned()));
            }
        }
        let id = layer.node_id.clone().unwrap_or_else(|| DEFAULT_NODE.to_owned());
        return (None, id, wrong);
    };
    if !matches!(database, Database::Postgres(_)) {
        let message = "needs database = postgres://…: SQLite and memory are of one process alone";
        wrong.push(("node-listen", message.to_owned()));
    }
    match &layer.node_advertise {
        Some(address) if !is_address(address) => {
            wrong.push(("node-advertise", format!("`{address}` is not HOST:PORT")));
        }
        None if listen.ip().is_unspecified() => {
            let message = format!("is needed: other nodes cannot connect to {}", listen.ip());
            wrong.push(("node-advertise", message));
        }
        _ => {}
    }
    let secret_file = layer.node_secret_file.clone();
    let secrets = match &secret_file {
        Some(path) => read_secrets(path, &mut wrong),
        None => {
            let message = "is needed with node-listen; make one with `openssl rand -hex 32`";
            wrong.push(("node-secret-file", message.to_owned()));
            Vec::new()
        }
    };
    let advertise = layer.node_advertise.clone();
    let settings = NodeSettings { advertise, secret_file, ..NodeSettings::new(listen, secrets) };
    (Some(settings), layer.node_id.clone().unwrap_or_default(), wrong)
}

fn is_id(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=MAX_ID).contains(&text.len()) && text.bytes().all(plain)
}

fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-[]:".contains(&byte);
    let one_host = !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
    let port = port.parse::<u16>().is_ok_and(|port| port > 0);
    !host.is_empty() && one_host && port && text.len() <= MAX_ADDRESS && text.bytes().all(plain)
}

/// Reads the secrets of the nodes, one a line.
fn read_secrets(path: &Path, wrong: &mut Wrong) -> Vec<Token> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => zeroize::Zeroizing::new(text),
        Err(error) => {
            let message = format!("cannot read {}: {error}", path.display());
            wrong.push(("node-secret-file", message));
            return Vec::new();
        }
    };
    let secrets: Vec<Token> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(Token::new).collect();
    if secrets.is_empty() || secrets.iter().any(|secret| secret.expose().len() < MIN_SECRET_BYTES) {
        let message = format!(
            "{} needs {MIN_SECRET_BYTES} characters or more on each line; make one with \
             `openssl rand -hex 32`",
            path.display()
        );
        wrong.push(("node-secret-file", message));
    }
    secrets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(dir: &tempfile::TempDir) -> Layer {
        let file = dir.path().join("nodes.secret");
        std::fs::write(&file, format!("{}\n{}\n", "a".repeat(32), "b".repeat(32))).unwrap();
        Layer {
            node_listen: Some("127.0.0.1:6278".parse().unwrap()),
            node_secret_file: Some(file),
            database: Some("postgres:///relay".parse().unwrap()),
            data_dir: Some(dir.path().to_owned()),
            ..Layer::default()
        }
    }

    fn wrong_with(change: impl FnOnce(&mut Layer)) -> String {
        let dir = tempfile::tempdir().unwrap();
        let mut layer = layer(&dir);
        change(&mut layer);
        layer.resolve().unwrap_err().to_string()
    }

    #[test]
    fn a_node_of_several_gets_a_random_name_that_stays() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = layer(&dir).resolve().unwrap();
        config.name_node();
        let first = config.node.clone();
        assert_eq!(first.len(), 12, "{first}");
        config.name_node();
        assert_eq!(config.node, first);
        assert_eq!(config.nodes.unwrap().secrets.len(), 2);
        assert_eq!(Layer::default().node_id, None);
    }

    #[test]
    fn a_file_of_one_machine_cannot_be_shared_by_nodes() {
        let error = wrong_with(|layer| layer.database = None);
        assert!(error.contains("node-listen") && error.contains("postgres://"), "{error}");
    }

    #[test]
    fn what_nodes_need_is_asked_for() {
        let error = wrong_with(|layer| layer.node_listen = Some("0.0.0.0:6278".parse().unwrap()));
        assert!(error.contains("node-advertise"), "{error}");
        let error = wrong_with(|layer| layer.node_secret_file = None);
        assert!(error.contains("node-secret-file") && error.contains("openssl"), "{error}");
        let error = wrong_with(|layer| layer.node_id = Some("two words".to_owned()));
        assert!(error.contains("node-id"), "{error}");
        let error = wrong_with(|layer| layer.node_listen = None);
        assert!(error.contains("only node"), "{error}");
        let error = wrong_with(|layer| {
            std::fs::write(layer.node_secret_file.as_ref().unwrap(), "short\n").unwrap();
        });
        assert!(error.contains("32 characters"), "{error}");
    }

    #[test]
    fn addresses_are_hosts_with_ports() {
        for good in ["relay-1:6278", "10.0.0.7:6278", "[2001:db8::1]:6278", "a.b:1"] {
            assert!(is_address(good), "{good}");
        }
        for bad in ["relay-1", "2001:db8::1:6278", "a:0", ":1", "http://a:1", "a b:1", "a:70000"] {
            assert!(!is_address(bad), "{bad}");
        }
    }
}
