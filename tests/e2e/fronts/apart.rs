//! `mcpm share` on another machine, as far as networks go: a namespace of its own, with one cable to the relay.

use std::path::Path;

use harness::peers::{peer, programs, skipped};
use harness::process::{Program, built, command};
use harness::{eventually, initialize, soon};
use serde_json::{Value, json};
use tokio::process::Command;

/// A network namespace whose only way out is a pair of interfaces. Dropping it takes both away.
struct Apart {
    namespace: String,
    ours: String,
    theirs: String,
    /// The first three numbers of the addresses at both ends: of a network that is for trials (RFC 2544).
    network: String,
}

fn ip(args: &[&str]) -> Result<(), String> {
    let mut ip = peer("ip").ok_or("there is no ip")?.into_std();
    let done = ip.args(args).output().map_err(|error| error.to_string())?;
    match done.status.success() {
        true => Ok(()),
        false => Err(format!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&done.stderr))),
    }
}

impl Apart {
    /// Makes one. An error is for a machine where this is not allowed.
    fn make() -> Result<Self, String> {
        let id = std::process::id();
        let apart = Self {
            namespace: format!("mcpm-{id}"),
            // Interfaces have 15 characters.
            ours: format!("mcpm{id}a"),
            theirs: format!("mcpm{id}b"),
            network: format!("198.{}.{}", 18 + (id / 256) % 2, id % 256),
        };
        let Self { namespace, ours, theirs, network } = &apart;
        ip(&["netns", "add", namespace])?;
        ip(&["link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", namespace])?;
        ip(&["address", "add", &format!("{network}.1/24"), "dev", ours])?;
        ip(&["link", "set", ours, "up"])?;
        for args in [
            &["link", "set", "lo", "up"][..],
            &["address", "add", &format!("{network}.2/24"), "dev", theirs],
            &["link", "set", theirs, "up"],
        ] {
            ip(&[&["-n", namespace][..], args].concat())?;
        }
        Ok(apart)
    }

    fn here(&self) -> String {
        format!("{}.1", self.network)
    }

    /// A command that runs over there.
    fn command(&self, program: &Path) -> Command {
        let mut command = peer("ip").expect("it made the namespace");
        command.args(["netns", "exec", &self.namespace]).arg(program);
        command
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        // One without the other where making them went wrong.
        let _there = ip(&["link", "delete", &self.ours]);
        let _there = ip(&["netns", "delete", &self.namespace]);
    }
}

/// The whole way of a team: its secret, a pinned certificate, an agent over there, a visitor here.
#[tokio::test]
async fn a_share_from_another_network_is_served_and_survives_an_unplugged_cable() {
    if !programs(&["ip", "curl"]) {
        return;
    }
    let apart = match Apart::make() {
        Ok(apart) => apart,
        Err(why) => return skipped(&format!("no network namespace: {why}")),
    };
    let (dir, here) = (tempfile::tempdir().unwrap(), apart.here());
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "a secret of the whole team\n").unwrap();
    let mut serve = command(built("mcpm-relay"));
    serve.args(["serve", "--domain", &here, "--listen", &format!("{here}:0")]);
    serve.args(["--tls", "self-signed", "--auth", "secret", "--admin-listen", "none"]);
    serve.arg("--secret-file").arg(&secret).arg("--data-dir").arg(dir.path().join("relay"));
    let mut relay = Program::start(serve);
    let url = relay.line("its URL", |line| Some(line.strip_prefix("listening on ")?.to_owned()));
    let url = url.await;
    let pin =
        relay.line("its pin", |line| Some(line.strip_prefix("certificate SHA-256 ")?.to_owned()));
    let pin = pin.await;

    let config = dir.path().join("config");
    let mcpm = |args: &[&str]| {
        let mut mcpm = apart.command(&built("mcpm"));
        mcpm.env("HOME", dir.path()).env("MCPM_CONFIG_DIR", &config).args(args);
        mcpm
    };
    std::fs::create_dir_all(&config).unwrap();
    let server =
        json!({ "name": "fixture", "command": built("conformance-upstream"), "args": ["--stdio"] });
    std::fs::write(config.join("servers.json"), json!({ "fixture": server }).to_string()).unwrap();
    let secret = secret.display().to_string();
    let login = ["relay", "login", &url, "--fingerprint", &pin, "--secret-file", &secret];
    let mut login = Program::start(mcpm(&login));
    login.hang_up();
    let login = login.ended().await;
    assert_eq!(login.code, Some(0), "{login:?}");
    let mut share = Program::start(mcpm(&["share", "fixture", "--json", "--address", &url]));
    let up = share.event("up").await;
    let initialized = visit(&up).await.unwrap();
    assert!(initialized.contains("protocolVersion"), "{initialized}");

    // Nobody closes anything: packets just stop.
    ip(&["link", "set", &apart.ours, "down"]).unwrap();
    share.event("reconnecting").await;
    ip(&["link", "set", &apart.ours, "up"]).unwrap();
    let again = share.event("up").await;
    assert_eq!((&again["url"], &again["token"]), (&up["url"], &up["token"]));
    eventually("visitors are served again", || async { visit(&up).await }).await;

    share.signal("INT");
    assert_eq!(soon("the agent ends", share.ended()).await.code, Some(0), "{}", share.transcript());
    relay.signal("TERM");
    assert_eq!(soon("the relay ends", relay.ended()).await.code, Some(0), "{}", relay.transcript());
}

/// Initializes a session at a share, and returns the answer.
async fn visit(up: &Value) -> Option<String> {
    let mut curl = peer("curl").expect("asked for before");
    curl.args(["--silent", "--show-error", "--fail", "--insecure", "--max-time", "20"]);
    curl.args(["--noproxy", "*", "--header", "content-type: application/json"]);
    curl.args(["--header", "accept: application/json, text/event-stream"]);
    curl.args(["--header", &format!("authorization: Bearer {}", up["token"].as_str().unwrap())]);
    curl.args(["--data", &initialize().to_string(), up["url"].as_str().unwrap()]);
    let ended = Program::start(curl).ended().await;
    (ended.code == Some(0)).then_some(ended.stdout)
}
