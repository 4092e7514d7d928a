//! What goes wrong for users: each gives an error with a hint, the right exit code, and leaves nothing behind.

use std::net::SocketAddr;
use std::path::Path;

use harness::process::Program;
use harness::{free_port, initialize};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::sdks::{node_ready, script};
use super::stage::{Share, Stage};

/// A world with a server that works, without any peer installed: the demo server of our own binary.
fn working() -> Stage {
    let mut stage = Stage::new();
    let mcpm = harness::process::built("mcpm");
    stage.add("demo", &mcpm, &["demo-server"]);
    stage
}

/// A world with a server that is this shell script.
fn scripted(script: &str) -> Stage {
    let mut stage = Stage::new();
    stage.add("odd", Path::new("sh"), &["-c", script]);
    stage
}

/// A relay that gives every agent the same answer.
struct StubbornRelay {
    addr: SocketAddr,
    _task: JoinSet<()>,
}

impl StubbornRelay {
    async fn start(status: &str, headers: &str, body: &Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let body = body.to_string();
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\
             connection: close\r\n\r\n{body}",
            body.len()
        );
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n")
                    && stream.read_buf(&mut head).await.is_ok_and(|n| n > 0)
                {}
                stream.write_all(answer.as_bytes()).await.ok();
                stream.shutdown().await.ok();
            }
        });
        Self { addr, _task: task }
    }

    fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

#[tokio::test]
async fn a_relay_that_is_down_is_told_after_the_time_out() {
    let stage = working();
    let address = format!("http://127.0.0.1:{}", free_port());
    let ended = stage.mcpm_fails(&["share", "demo", "--address", &address, "--timeout", "5"]).await;
    assert!(ended.stderr.contains(&address), "{}", ended.stderr);
}

#[tokio::test]
async fn a_relay_that_refuses_the_credential_ends_the_attempt_at_once() {
    let stage = working();
    let body = json!({ "code": "bad_credential", "message": "the secret is wrong", "hint": "Ask the operator" });
    let relay = StubbornRelay::start("401 Unauthorized", "", &body).await;
    let ended = stage.mcpm_fails(&["share", "demo", "--address", &relay.url()]).await;
    assert!(ended.stderr.contains("the secret is wrong"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_relay_of_another_version_ends_the_attempt_at_once() {
    let stage = working();
    let body = json!({
        "code": "unsupported_version", "message": "this relay speaks version 7", "hint": "Update mcpm",
    });
    let relay =
        StubbornRelay::start("426 Upgrade Required", "upgrade: mcpm.tunnel.v7\r\n", &body).await;
    let ended = stage.mcpm_fails(&["share", "demo", "--address", &relay.url()]).await;
    assert!(ended.stderr.contains("version 7"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_relay_that_is_too_busy_is_tried_again_until_the_time_out() {
    let stage = working();
    let body = json!({ "code": "rate_limited", "message": "too many agents", "hint": "Try later" });
    let relay = StubbornRelay::start("429 Too Many Requests", "retry-after: 1\r\n", &body).await;
    let args = ["share", "demo", "--address", &relay.url(), "--timeout", "5"];
    let ended = stage.mcpm_fails(&args).await;
    assert!(ended.stderr.contains("too many agents"), "{}", ended.stderr);
}

#[tokio::test]
async fn who_comes_too_often_is_told_how_long_to_wait() {
    let stage = working();
    let relay = stage.relay(&["--handshakes-per-minute", "1"]).await;
    let address = relay.url();
    // Whatever asks there is counted.
    let first = super::visit::get(&format!("{address}/v1/tunnel")).await.unwrap();
    assert_eq!(first.status, 426);
    let ended = stage.mcpm(&["share", "demo", "--address", &address, "--retry", "0"]).await;
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let hint = ended.stderr.lines().find_map(|line| line.strip_prefix("hint: ")).unwrap();
    assert!(hint.contains(" s; ") && hint.contains("--timeout"), "{hint}");
    assert!(!ended.stderr.contains("trying again"), "{}", ended.stderr);
    relay.stop().await;
    stage.nothing_is_left().await;
}

#[tokio::test]
async fn a_share_that_never_came_up_is_in_nobodys_way() {
    let stage = working();
    // Bound, so that the relay does not get this port, and nobody listens.
    let nobody = tokio::net::TcpSocket::new_v4().unwrap();
    nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = format!("http://{}", nobody.local_addr().unwrap());
    stage.mcpm_fails(&["share", "demo", "--address", &address, "--retry", "0"]).await;
    let relay = stage.relay(&[]).await;
    let (addr, first) = (relay.addr.to_string(), stage.share(&relay, &["demo"]).await);
    let (url, token) = (first.url.clone(), first.token.clone());
    for args in [&["token", "ls"][..], &["token", "ls", "demo"], &["token", "new", "demo"]] {
        let ended = stage.mcpm(args).await;
        assert_eq!(ended.code, Some(0), "{args:?}: {}", ended.stderr);
        assert!(!ended.stdout.contains(&address), "{args:?}: {}", ended.stdout);
    }
    first.stop().await;
    // What was up once keeps its name and token, whatever fails later.
    let down = relay.url();
    relay.stop().await;
    stage.mcpm_fails(&["share", "demo", "--address", &down, "--retry", "0"]).await;
    let relay = stage.relay_at(&addr, &[]).await;
    let again = stage.share(&relay, &["demo"]).await;
    assert_eq!((&again.url, &again.token), (&url, &token));
    again.stop().await;
    relay.stop().await;
    stage.nothing_is_left().await;
}

#[tokio::test]
async fn a_relay_with_a_secret_refuses_agents_without_it_and_takes_those_with_it() {
    let stage = working();
    let secret = stage.path("secret");
    std::fs::write(&secret, "a shared secret of some length\n").unwrap();
    let file = secret.to_str().unwrap();
    let relay = stage.relay(&["--auth", "secret", "--secret-file", file]).await;
    let address = relay.url();
    let ended = stage.mcpm(&["share", "demo", "--address", &address]).await;
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("hint: "), "{}", ended.stderr);

    let ended = stage.mcpm(&["relay", "login", &address, "--secret-file", file]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let share = stage.share(&relay, &["demo"]).await;
    share.stop().await;

    // The secret was seen by nobody: not by the relay's log, nor by the agent's.
    let log = relay.program.stderr();
    assert!(!log.contains("a shared secret"), "{log}");
    relay.stop().await;
    stage.nothing_is_left().await;
}

#[tokio::test]
async fn a_token_of_the_relay_opens_it_until_it_is_revoked() {
    let stage = working();
    let relay = stage.relay(&["--auth", "token"]).await;
    let data = stage.path("relay");
    let data = data.to_str().unwrap();
    let mut issue = Program::start(stage.command(
        "mcpm-relay",
        &["token", "issue", "--sub", "alice", "--json", "--data-dir", data],
    ));
    issue.hang_up();
    let issued = issue.ended().await;
    assert_eq!(issued.code, Some(0), "{}", issued.stderr);
    let issued: Value = serde_json::from_str(&issued.stdout).unwrap();
    let token = stage.path("token");
    std::fs::write(&token, issued["token"].as_str().unwrap()).unwrap();
    let address = relay.url();
    let login = ["relay", "login", &address, "--token-file", token.to_str().unwrap()];
    let ended = stage.mcpm(&login).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let mut share = stage.share(&relay, &["demo"]).await;

    let id = issued["jti"].as_str().unwrap();
    let revoke = stage.command("mcpm-relay", &["token", "revoke", id, "--data-dir", data]);
    let mut revoke = Program::start(revoke);
    revoke.hang_up();
    let revoked = revoke.ended().await;
    assert_eq!(revoked.code, Some(0), "{}", revoked.stderr);
    let ended = share.program.ended().await;
    assert_eq!(ended.code, Some(1), "{}", share.program.transcript());
    let ended = stage.mcpm(&["share", "demo", "--address", &address]).await;
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    relay.stop().await;
    stage.nothing_is_left().await;
}

#[tokio::test]
async fn a_name_that_somebody_else_has_is_refused() {
    let (owner, other) = (working(), working());
    let relay = owner.relay(&[]).await;
    let share: Share = owner.share(&relay, &["demo", "--subdomain", "wanted"]).await;
    assert!(share.url.contains("wanted"), "{}", share.url);
    let address = relay.url();
    let args = ["share", "demo", "--address", &address, "--subdomain", "wanted"];
    let ended = other.mcpm_fails(&args).await;
    assert!(ended.stderr.contains("wanted"), "{}", ended.stderr);
    let args = [&args[..], &["--json"]].concat();
    let ended = other.mcpm(&args).await;
    let error: Value = serde_json::from_str(ended.stdout.lines().last().unwrap()).unwrap();
    assert_eq!((&error["event"], &error["code"]), (&json!("error"), &json!("name_taken")));
    share.stop().await;
    relay.stop().await;
    owner.nothing_is_left().await;
}

#[tokio::test]
async fn a_server_that_cannot_be_started_or_does_not_speak_mcp_is_never_published() {
    let mut missing = Stage::new();
    missing.add("odd", Path::new("no-such-command-anywhere"), &[]);
    let worlds = [
        ("no-such-command-anywhere", missing),
        ("odd", scripted("echo cannot read my settings >&2; exit 3")),
        ("odd", scripted("while :; do echo this is not JSON; done")),
        ("odd", scripted("exec cat > /dev/null")),
    ];
    for (named, stage) in worlds {
        // The relay would be asked last: it must not come to that.
        let address = format!("http://127.0.0.1:{}", free_port());
        let args = ["share", "odd", "--address", &address, "--timeout", "2"];
        let ended = stage.mcpm_fails(&args).await;
        assert!(ended.stderr.contains(named), "{}", ended.stderr);
        assert!(!ended.stderr.contains(&address), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn what_a_dying_server_said_on_stderr_is_shown() {
    let stage = scripted("echo cannot read my settings >&2; exit 3");
    let address = format!("http://127.0.0.1:{}", free_port());
    let ended = stage.mcpm_fails(&["share", "odd", "--address", &address]).await;
    assert!(ended.stderr.contains("cannot read my settings"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_server_that_mixes_garbage_into_its_answers_is_served_all_the_same() {
    if !node_ready() {
        return;
    }
    let server = script("server.mjs");
    let mut stage = Stage::new();
    stage.add_entry(
        "odd",
        json!({
            "command": "sh",
            "args": ["-c", format!("echo welcome; exec node '{}'", server.display())],
            "env": { "PEER_NODE": harness::peers::peers_folder().join("node") },
        }),
    );
    let relay = stage.relay(&[]).await;
    let share = stage.share(&relay, &["odd"]).await;
    let token = share.token.as_deref();
    let answer = super::visit::post(&share.url, token, &initialize()).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(!String::from_utf8_lossy(&answer.body).contains("welcome"), "{answer:?}");
    share.stop().await;
    relay.stop().await;
    stage.nothing_is_left().await;
}

#[tokio::test]
async fn an_unknown_server_is_told_with_what_there_is() {
    let ended = working().mcpm_fails(&["share", "dmeo"]).await;
    assert!(ended.stderr.contains("dmeo") && ended.stderr.contains("demo"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_corrupt_servers_json_is_told_and_stays_as_it_is() {
    let stage = working();
    let file = stage.config().join("servers.json");
    std::fs::write(&file, "{ \"demo\": {").unwrap();
    for args in [&["share", "demo"][..], &["run", "demo"], &["ls"]] {
        let ended = stage.mcpm_fails(args).await;
        assert!(ended.stderr.contains("servers.json"), "{}", ended.stderr);
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "{ \"demo\": {");
}

#[tokio::test]
async fn a_port_in_use_is_told_by_agent_and_relay() {
    let stage = working();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for args in [
        &["run", "demo", "--http", "--port", &port][..],
        &["share", "demo", "--local-only", "--port", &port],
    ] {
        let ended = stage.mcpm_fails(args).await;
        assert!(ended.stderr.contains(&port), "{}", ended.stderr);
    }
    let listen = format!("127.0.0.1:{port}");
    let args = ["serve", "--listen", &listen, "--database", "memory:", "--admin-listen", "none"];
    let mut relay = Program::start(stage.command("mcpm-relay", &args));
    let ended = relay.ended().await;
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains(&port) && ended.stderr.contains("hint: "), "{}", ended.stderr);
}

#[tokio::test]
async fn a_share_of_this_machine_only_asks_for_the_token_too() {
    let stage = working();
    let port = free_port().to_string();
    let args = ["share", "demo", "--json", "--local-only", "--port", &port];
    let mut program = Program::start(stage.command("mcpm", &args));
    let up = program.event("up").await;
    let url = up["url"].as_str().unwrap();
    assert_eq!(url, format!("http://127.0.0.1:{port}/mcp"));
    let hello = initialize();
    let visit = async |token| super::visit::post(url, token, &hello).await.unwrap().status;
    assert_eq!(visit(None).await, 401);
    assert_eq!(visit(up["token"].as_str()).await, 200);
    program.signal("INT");
    assert_eq!(program.ended().await.code, Some(0));
    stage.nothing_is_left().await;
}
