//! The programs that most servers are started with.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::{Area, Finding, Health};
use crate::model::{Server, Transport};

/// How long a program may take to say its version.
const PATIENCE: Duration = Duration::from_secs(10);

/// One family of programs.
struct Runtime {
    name: &'static str,
    /// The one that is asked for its version.
    program: &'static str,
    /// The commands that come with it.
    brings: &'static [&'static str],
    install: &'static str,
}

const RUNTIMES: [Runtime; 3] = [
    Runtime {
        name: "Node.js",
        program: "node",
        brings: &["node", "npx", "npm"],
        install: "Install Node.js, from https://nodejs.org or your package manager",
    },
    Runtime {
        name: "uv",
        program: "uv",
        brings: &["uv", "uvx"],
        install: "Install uv: https://docs.astral.sh/uv/getting-started/installation/",
    },
    Runtime {
        name: "Docker",
        program: "docker",
        brings: &["docker"],
        install: "Install Docker: https://docs.docker.com/get-docker/",
    },
];

/// Asks each runtime for its version.
pub(super) async fn look(servers: &[&Server]) -> Vec<Finding> {
    let ask = RUNTIMES.iter().map(|runtime| async {
        let version = version(runtime.program).await;
        finding(runtime, version, &needed_by(runtime, servers))
    });
    futures_util::future::join_all(ask).await
}

fn finding(runtime: &Runtime, version: Option<String>, needed_by: &[&str]) -> Finding {
    match version {
        Some(version) => {
            let finding = Finding::ok(Area::Runtime, runtime.name, version);
            match needed_by {
                [] => finding,
                servers => finding.more(format!("needed by {}", servers.join(", "))),
            }
        }
        None if needed_by.is_empty() => {
            Finding::ok(Area::Runtime, runtime.name, "not installed, and not needed")
        }
        None => {
            let detail = format!("not installed, but needed by {}", needed_by.join(", "));
            Finding::new(Area::Runtime, runtime.name, Health::Broken, detail).hint(runtime.install)
        }
    }
}

fn needed_by<'a>(runtime: &Runtime, servers: &[&'a Server]) -> Vec<&'a str> {
    let needs = |server: &&&Server| match &server.transport {
        // A path of its own need not lead to what is found by name.
        Transport::Stdio { command, .. } => {
            let name = command.strip_suffix(".cmd").or(command.strip_suffix(".exe"));
            runtime.brings.contains(&name.unwrap_or(command))
        }
        _ => false,
    };
    servers.iter().filter(needs).map(|server| server.name.as_str()).collect()
}

async fn version(program: &str) -> Option<String> {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.ok()?.ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap_or_default().trim();
    let short: String = line.chars().take(80).collect();
    output.status.success().then_some(short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_runtime_is_broken_only_when_a_server_needs_it() {
        let (a, b) = (Server::stdio("a", "npx", ["x"]), Server::stdio("b", "uvx", ["y"]));
        let servers = [&a, &b];
        let node = &RUNTIMES[0];
        assert_eq!(needed_by(node, &servers), ["a"]);
        let missing = finding(node, None, &needed_by(node, &servers));
        assert_eq!(missing.health, Health::Broken);
        assert!(missing.detail.ends_with("needed by a") && missing.hint.is_some());
        assert_eq!(finding(node, None, &[]).health, Health::Ok);
        let found = finding(node, Some("v24".to_owned()), &["a"]);
        assert_eq!((found.detail.as_str(), found.more), ("v24", vec!["needed by a".to_owned()]));
        let own = Server::stdio("c", "/opt/x/npx", ["x"]);
        assert!(needed_by(node, &[&own]).is_empty());
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_has_no_version() {
        assert_eq!(version("mcpm-no-such-program").await, None);
    }
}
