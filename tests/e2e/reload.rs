//! Settings that are read again while a relay runs.
#![cfg(unix)]

use std::path::PathBuf;

use harness::process::{Program, built, command};
use harness::{Service, TestShare, eventually, request, visitor};
use mcpm::tunnel::{Tunnel, TunnelConfig};
use mcpm_shared::access::AccessPolicy;
use mcpm_shared::assertion::Proof;
use mcpm_shared::identity::AgentKey;
use mcpm_shared::proto::ShareMode;
use mcpm_shared::scope::Scope;
use mcpm_shared::token::Token;
use serde_json::{Value, json};

/// A relay process with a settings file.
struct Bench {
    dir: tempfile::TempDir,
    program: Program,
    url: String,
    admin: String,
}

impl Bench {
    async fn start(settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("relay.toml"), settings).unwrap();
        std::fs::write(dir.path().join("secret"), "the first of two secrets\n").unwrap();
        let mut command = command(built("mcpm-relay"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        command
            .arg("--data-dir")
            .arg(dir.path())
            .arg("--config")
            .arg(dir.path().join("relay.toml"));
        command.arg("--secret-file").arg(dir.path().join("secret"));
        let mut program = Program::start(command);
        let (url, admin) = program
            .line("where it listens", |line| {
                let (url, rest) =
                    line.strip_prefix("listening on ")?.split_once(" (admin http://")?;
                Some((url.to_owned(), rest.trim_end_matches(')').to_owned()))
            })
            .await;
        Self { dir, program, url, admin }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("relay.toml")
    }

    fn write(&self, settings: &str) {
        std::fs::write(self.file(), settings).unwrap();
    }

    /// Runs `mcpm-relay reload --json`; gives what it printed, or the error.
    async fn reload(&self) -> Result<Value, String> {
        let mut command = command(built("mcpm-relay"));
        command.args(["reload", "--json", "--admin-listen", &self.admin, "--data-dir"]);
        command.arg(self.dir.path());
        let ended = Program::start(command).ended().await;
        match ended.code {
            Some(0) => Ok(serde_json::from_str(&ended.stdout).unwrap()),
            code => Err(format!("{code:?} {}", ended.stderr)),
        }
    }

    fn share(&self, service: &Service, secret: &str, scope: &Scope) -> TestShare {
        let config = TunnelConfig {
            relay: self.url.parse().unwrap(),
            key: AgentKey::generate(),
            proof: Proof::Secret(Token::new(secret)).into(),
            tls: Default::default(),
            connections: 1,
            proxy: Default::default(),
            agent_version: "test".to_owned(),
        };
        let asked = request("kept", ShareMode::Http, AccessPolicy::public());
        TestShare { tunnel: Tunnel::start(config, asked, service.backend(), scope.clone()) }
    }
}

async fn status(url: &str, bytes: usize) -> u16 {
    visitor().post(url).body(vec![b'x'; bytes]).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn settings_change_under_a_tunnel_that_stays() {
    let bench = Bench::start("http-mode = true\n[limits]\nmax-body-bytes = 100\n").await;
    let (service, scope) = (Service::echo().await, Scope::new());
    let share = bench.share(&service, "the first of two secrets", &scope);
    let info = share.up().await;
    assert_eq!(status(&info.url, 200).await, 413);

    bench.write("http-mode = true\nnode-id = \"other\"\n[limits]\nmax-body-bytes = 300\n");
    let done = bench.reload().await.unwrap();
    let expected = json!({ "changed": ["limits.max-body-bytes"], "needs_restart": ["node-id"] });
    assert_eq!(done, expected);
    assert_eq!(status(&info.url, 200).await, 200);

    bench.write("http-mode = true\nidle-secs = 0\n[limits]\nmax-body-bytes = 9\n");
    let error = bench.reload().await.unwrap_err();
    assert!(error.contains("Some(1)") && error.contains("idle-secs"), "{error}");
    bench.program.signal("HUP");
    eventually("the log names it", || async {
        let said = bench.program.stderr();
        (said.contains("settings not read again") && said.contains("idle-secs")).then_some(())
    })
    .await;
    assert_eq!(status(&info.url, 200).await, 200, "a bad file changes nothing");

    bench.write("http-mode = true\nlog = \"debug\"\n[limits]\nmax-body-bytes = 150\n");
    bench.program.signal("HUP");
    eventually("the new limit counts", || async {
        (status(&info.url, 200).await == 413).then_some(())
    })
    .await;
    eventually("the log tells more", || async {
        bench.program.stderr().contains("DEBUG").then_some(())
    })
    .await;
    assert_eq!(share.up().await.generation, info.generation, "the tunnel was never down");
    scope.cancel();
}

#[tokio::test]
async fn an_access_log_begins_changes_and_ends_without_a_restart() {
    let mut bench = Bench::start("http-mode = true\n").await;
    let (service, scope) = (Service::echo().await, Scope::new());
    let share = bench.share(&service, "the first of two secrets", &scope);
    let info = share.up().await;
    assert_eq!(status(&info.url, 1).await, 200);
    let (one, two) = (bench.dir.path().join("one.log"), bench.dir.path().join("two.log"));
    let lines = |file: &PathBuf| std::fs::read_to_string(file).map_or(0, |it| it.lines().count());
    let log = |kind: &str, file: &PathBuf| {
        let file = file.display();
        format!("http-mode = true\naccess-log = \"{kind}\"\naccess-log-file = \"{file}\"\n")
    };
    bench.write(&log("text", &one));
    let done = bench.reload().await.unwrap();
    let expected = json!({ "changed": ["access-log", "access-log-file"], "needs_restart": [] });
    assert_eq!(done, expected);
    assert_eq!(status(&info.url, 1).await, 200);
    eventually("it is written", || async { (lines(&one) == 1).then_some(()) }).await;

    bench.write(&log("json", &bench.dir.path().join("missing/two.log")));
    let error = bench.reload().await.unwrap_err();
    assert!(error.contains("cannot write the access log") && error.contains("missing"), "{error}");
    assert_eq!(status(&info.url, 1).await, 200);
    eventually("the old one goes on", || async { (lines(&one) == 2).then_some(()) }).await;

    bench.write(&log("json", &two));
    bench.reload().await.unwrap();
    assert_eq!(status(&info.url, 1).await, 200);
    eventually("the new one is written", || async { (lines(&two) == 1).then_some(()) }).await;
    let line = std::fs::read_to_string(&two).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["share"], "kept");
    // Whoever moves the file away has it made again, though no setting has changed.
    std::fs::rename(&two, bench.dir.path().join("two.log.1")).unwrap();
    assert_eq!(bench.reload().await.unwrap()["changed"], json!([]));
    eventually("it is there again", || async { two.exists().then_some(()) }).await;

    bench.write("http-mode = true\n");
    bench.reload().await.unwrap();
    assert_eq!(status(&info.url, 1).await, 200);
    scope.cancel();
    // The log is written beside the answers: when the relay has ended, all of it is.
    bench.program.signal("TERM");
    let ended = bench.program.ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!((lines(&one), lines(&two)), (2, 0), "nobody looks any more");
}

#[tokio::test]
async fn a_secret_and_the_admin_token_are_rotated_without_a_restart() {
    let bench = Bench::start("http-mode = true\n").await;
    let (service, scope) = (Service::echo().await, Scope::new());
    let share = bench.share(&service, "the first of two secrets", &scope);
    let info = share.up().await;
    std::fs::write(bench.dir.path().join("secret"), "the second of two secrets\n").unwrap();
    assert_eq!(bench.reload().await.unwrap()["changed"], json!(["secret"]));
    let late = bench.share(&service, "the first of two secrets", &scope);
    assert_eq!(late.refused().await.code(), "bad_credential");
    let other = bench.share(&service, "the second of two secrets", &scope);
    let said = other.refused().await;
    assert_eq!(said.code(), "name_taken", "it is let in; the name is the first one's");
    assert_eq!(status(&info.url, 1).await, 200, "who is in stays");

    // The relay asks for the old token until it has read the new one.
    let file = bench.dir.path().join("admin.token");
    let old = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, "another token of the operator\n").unwrap();
    let error = bench.reload().await.unwrap_err();
    assert!(error.contains("does not take this admin token"), "{error}");
    bench.program.signal("HUP");
    eventually("the new token counts", || async { bench.reload().await.ok() }).await;
    std::fs::write(&file, old).unwrap();
    assert!(bench.reload().await.is_err());
    scope.cancel();
}
