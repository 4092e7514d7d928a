//! Several shares of one process: one session at the relay, and each share lives and ends by itself.
#![cfg(target_os = "linux")]

use std::net::SocketAddr;

use harness::home::Home;
use harness::process::{Program, built};
use harness::{Service, eventually, opened, visitor};
use serde_json::{Value, json};

/// A home with the servers `a` and `b`, which work, and `broken`, which does not, and a relay with its
/// files there.
struct World {
    home: Home,
    relay: Program,
    listens: SocketAddr,
    admin: SocketAddr,
}

impl World {
    async fn start() -> Self {
        let mut home = Home::new();
        for name in ["a", "b", "c"] {
            home.add(
                name,
                json!({ "command": built("conformance-upstream"), "args": ["--stdio"] }),
            );
        }
        home.add("broken", json!({ "command": "sh", "args": ["-c", "exit 3"] }));
        let (relay, listens, admin) = relay(&home, "127.0.0.1:0", "127.0.0.1:0").await;
        Self { home, relay, listens, admin }
    }

    /// Kills the relay and starts another one where it was.
    async fn kill_relay(&mut self) {
        self.relay.signal("KILL");
        assert_eq!(self.relay.ended().await.signal, Some(9));
        let (listens, admin) = (self.listens.to_string(), self.admin.to_string());
        (self.relay, ..) = relay(&self.home, &listens, &admin).await;
    }

    fn mcpm(&self, args: &[&str]) -> Program {
        let address = format!("http://{}", self.listens);
        let args = [args, &["--json", "--address", &address]].concat();
        Program::start(self.home.command("mcpm", &args))
    }

    async fn run(&self, args: &[&str]) -> harness::process::Ended {
        Program::start(self.home.command("mcpm", args)).ended().await
    }

    /// A figure of the relay's metrics.
    async fn figure(&self, name: &str) -> Option<f64> {
        let metrics = format!("http://{}/metrics", self.admin);
        let text = visitor().get(metrics).send().await.ok()?.text().await.ok()?;
        let line = text.lines().find(|line| line.split(' ').next() == Some(name))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    async fn nothing_is_left(&self) {
        self.home.nothing_is_left(&[self.relay.id()]).await;
    }
}

async fn relay(home: &Home, listen: &str, admin: &str) -> (Program, SocketAddr, SocketAddr) {
    let args = ["serve", "--domain", "localhost", "--auth", "open", "--http-mode"];
    let mut command = home.command("mcpm-relay", &args);
    command.args(["--listen", listen, "--admin-listen", admin]);
    command.arg("--data-dir").arg(home.path("relay"));
    let mut program = Program::start(command);
    let (listens, admin) = program
        .line("where it listens", |line| {
            let (listens, admin) =
                line.strip_prefix("listening on http://")?.split_once(" (admin http://")?;
            Some((listens.parse().ok()?, admin.strip_suffix(')')?.parse().ok()?))
        })
        .await;
    (program, listens, admin)
}

/// What an `up` says: what is shared, where, and what opens it.
#[derive(Clone, Debug, PartialEq)]
struct Up {
    target: Value,
    url: String,
    token: String,
}

async fn up(program: &mut Program) -> Up {
    let up = program.event("up").await;
    let text = |key: &str| up[key].as_str().unwrap().to_owned();
    Up { target: up["target"].clone(), url: text("url"), token: text("token") }
}

/// As many `up` as there are shares, ordered by what is shared.
async fn ups(program: &mut Program, shares: usize) -> Vec<Up> {
    let mut all = Vec::new();
    for _ in 0..shares {
        all.push(up(program).await);
    }
    all.sort_by_key(|up| up.target.to_string());
    all
}

#[tokio::test]
async fn three_shares_of_one_process_have_one_session_and_all_come_back_after_a_kill_of_the_relay()
{
    let mut world = World::start().await;
    let mut program = world.mcpm(&["share", "a", "b", "c"]);
    let before = ups(&mut program, 3).await;
    let targets: Vec<_> = before.iter().map(|up| up.target["server"].as_str().unwrap()).collect();
    assert_eq!(targets, ["a", "b", "c"]);
    assert_eq!(world.figure("mcpm_relay_sessions").await, Some(1.0));
    assert_eq!(world.figure("mcpm_relay_shares").await, Some(3.0));
    for at in 0..3 {
        assert_eq!(opened(&before[at].url, Some(&before[at].token)).await, 200);
        // A token opens its own share alone.
        assert_eq!(opened(&before[at].url, Some(&before[(at + 1) % 3].token)).await, 401);
    }
    world.kill_relay().await;
    assert_eq!(ups(&mut program, 3).await, before);
    assert_eq!(world.figure("mcpm_relay_sessions").await, Some(1.0));
    for up in &before {
        assert_eq!(opened(&up.url, Some(&up.token)).await, 200);
    }
    program.signal("INT");
    let ended = program.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.ends_with("{\"event\":\"stopped\"}"), "{ended:?}");
    world.nothing_is_left().await;
    eventually("the relay has forgotten the session", || async {
        (world.figure("mcpm_relay_sessions").await? == 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_share_that_fails_or_is_stopped_leaves_the_others_as_they_are() {
    let world = World::start().await;
    // Somebody else has this name.
    let other = Home::new();
    let service = Service::echo().await;
    let port = service.url().rsplit(':').next().unwrap().to_owned();
    let address = format!("http://{}", world.listens);
    let args = ["tunnel", &port, "--subdomain", "theirs", "--json", "--address", &address];
    let mut theirs = Program::start(other.command("mcpm", &args));
    theirs.event("up").await;

    let names = "mine,theirs,third,fourth";
    let mut program = world.mcpm(&["share", "a", "b", "broken", "c", "--subdomain", names]);
    let (mut failed, mut ups) = (Vec::new(), Vec::new());
    while failed.len() + ups.len() < 4 {
        let event: Value = program.line("an event", |line| serde_json::from_str(line).ok()).await;
        match event["event"].as_str() {
            Some("error") => failed.push(event),
            Some("up") => ups.push(event),
            _ => {}
        }
    }
    let code = |server: &str| {
        let found = failed.iter().find(|error| error["target"]["server"] == server);
        found.and_then(|error| error["code"].as_str())
    };
    assert_eq!((code("b"), code("broken")), (Some("name_taken"), Some("server")), "{failed:?}");
    let of = |server: &str| ups.iter().find(|up| up["target"]["server"] == server).unwrap();
    let open = async |server: &str| {
        let up = of(server);
        opened(up["url"].as_str().unwrap(), up["token"].as_str()).await
    };
    assert_eq!((open("a").await, open("c").await), (200, 200));

    let listed = world.run(&["token", "ls", "mine", "--json"]).await;
    let tokens: Value = serde_json::from_str(&listed.stdout).unwrap();
    let id = tokens[0]["id"].as_str().unwrap();
    assert_eq!(world.run(&["token", "revoke", "mine", id]).await.code, Some(0));
    eventually("the token opens nothing", || async { (open("a").await == 401).then_some(()) })
        .await;
    assert_eq!(open("c").await, 200);

    let shares = world.run(&["shares", "--json"]).await;
    let shares: Value = serde_json::from_str(&shares.stdout).unwrap();
    assert_eq!(shares.as_array().unwrap().len(), 2, "{shares}");
    let stopped = world.run(&["unshare", "a", "--json"]).await;
    assert_eq!(stopped.code, Some(0), "{stopped:?}");
    assert_eq!(program.event("stopped").await["target"], json!({ "server": "a" }));
    assert_eq!(open("c").await, 200);
    let shares = world.run(&["shares", "--json"]).await;
    let shares: Value = serde_json::from_str(&shares.stdout).unwrap();
    assert_eq!(shares[0]["target"], json!({ "server": "c" }), "{shares}");

    program.signal("TERM");
    let ended = program.ended().await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.contains("shares_failed"), "{ended:?}");
    world.nothing_is_left().await;
    theirs.signal("INT");
    assert_eq!(theirs.ended().await.code, Some(0));
}

#[tokio::test]
async fn several_http_servers_are_shared_as_they_are_each_at_its_own_url() {
    let world = World::start().await;
    let (one, two) = (Service::echo().await, Service::echo().await);
    let port = |service: &Service| service.url().rsplit(':').next().unwrap().to_owned();
    let ports = [port(&one), port(&two)];
    let mut program = world.mcpm(&["tunnel", &ports[0], &ports[1]]);
    for up in ups(&mut program, 2).await {
        let asked = visitor().get(format!("{}/x", up.url)).bearer_auth(&up.token).send().await;
        let said: Value = asked.unwrap().json().await.unwrap();
        let host = said["headers"].as_array().unwrap().iter().find(|pair| pair[0] == "host");
        let target = up.target["http"].as_str().unwrap();
        assert!(target.ends_with(host.unwrap()[1].as_str().unwrap()), "{target} {said}");
    }
    assert_eq!(world.figure("mcpm_relay_sessions").await, Some(1.0));
    program.signal("INT");
    assert_eq!(program.ended().await.code, Some(0));
    world.nothing_is_left().await;
}

#[tokio::test]
async fn several_shares_in_the_background_are_a_process_each() {
    let world = World::start().await;
    let ended = world.mcpm(&["share", "a", "broken", "b", "--detach"]).ended().await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let lines: Vec<Value> =
        ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let events: Vec<_> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["up", "error", "up", "error"], "{ended:?}");
    assert_eq!(lines[1]["target"], json!({ "server": "broken" }));
    let open =
        async |line: &Value| opened(line["url"].as_str().unwrap(), line["token"].as_str()).await;
    assert_eq!((open(&lines[0]).await, open(&lines[2]).await), (200, 200));
    assert_eq!(world.run(&["unshare", "a"]).await.code, Some(0));
    assert_eq!(open(&lines[2]).await, 200);
    assert_eq!(world.run(&["unshare", "--all"]).await.code, Some(0));
    world.nothing_is_left().await;
}

#[tokio::test]
async fn a_share_that_runs_already_is_refused_and_the_others_are_shared() {
    let world = World::start().await;
    let mut first = world.mcpm(&["share", "b"]);
    let theirs = up(&mut first).await;
    let mut program = world.mcpm(&["share", "a", "b", "c"]);
    let refused = program.event("error").await;
    assert_eq!(refused["code"], "already_shared", "{refused}");
    assert_eq!(refused["target"], json!({ "server": "b" }));
    let both = ups(&mut program, 2).await;
    let targets: Vec<_> = both.iter().map(|up| up.target["server"].as_str().unwrap()).collect();
    assert_eq!(targets, ["a", "c"]);
    for up in both.iter().chain([&theirs]) {
        assert_eq!(opened(&up.url, Some(&up.token)).await, 200);
    }
    assert_eq!(world.run(&["unshare", "c"]).await.code, Some(0));
    assert_eq!(program.event("stopped").await["target"], json!({ "server": "c" }));
    assert_eq!(opened(&both[0].url, Some(&both[0].token)).await, 200);
    program.signal("INT");
    let ended = program.ended().await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.ends_with("1 of 3 shares failed: server `b`\"}"), "{ended:?}");
    assert_eq!(opened(&theirs.url, Some(&theirs.token)).await, 200);
    first.signal("INT");
    assert_eq!(first.ended().await.code, Some(0));
    world.nothing_is_left().await;
}

/// Waits until a share in the background has begun.
async fn begun(world: &World, server: &str) {
    eventually("the share begins", || async {
        let shares = world.run(&["shares", "--json"]).await;
        let shares: Value = serde_json::from_str(&shares.stdout).ok()?;
        let mut shares = shares.as_array()?.iter();
        shares.any(|share| share["target"]["server"] == server).then_some(())
    })
    .await;
}

#[tokio::test]
async fn of_several_shares_in_the_background_one_that_somebody_stops_leaves_the_rest_to_start() {
    let mut world = World::start().await;
    world.home.add("slow", json!({ "command": "sleep", "args": ["600"] }));
    let mut program = world.mcpm(&["share", "a", "slow", "b", "--detach"]);
    program.event("up").await;
    begun(&world, "slow").await;
    assert_eq!(world.run(&["unshare", "slow"]).await.code, Some(0));
    assert_eq!(program.event("stopped").await["target"], json!({ "server": "slow" }));
    let b = up(&mut program).await;
    assert_eq!(program.ended().await.code, Some(0));
    assert_eq!(opened(&b.url, Some(&b.token)).await, 200);
    assert_eq!(world.run(&["unshare", "--all"]).await.code, Some(0));
    world.nothing_is_left().await;
}

#[tokio::test]
async fn who_stops_the_start_of_several_shares_learns_of_those_that_go_on() {
    let mut world = World::start().await;
    world.home.add("slow", json!({ "command": "sleep", "args": ["600"] }));
    let address = format!("http://{}", world.listens);
    let args = ["share", "a", "slow", "b", "--detach", "--address", &address];
    let mut program = Program::start(world.home.command("mcpm", &args));
    begun(&world, "slow").await;
    program.signal("INT");
    let ended = program.ended().await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("stopped before the share was up"), "{ended:?}");
    for told in ["They run in the background", "claude mcp add"] {
        assert!(ended.stderr.contains(told), "{ended:?}");
    }
    let shares = world.run(&["shares", "--json"]).await;
    let shares: Value = serde_json::from_str(&shares.stdout).unwrap();
    let targets: Vec<_> =
        shares.as_array().unwrap().iter().map(|share| &share["target"]["server"]).collect();
    assert_eq!(targets, ["a"], "{shares}");
    assert_eq!(world.run(&["unshare", "--all"]).await.code, Some(0));
    world.nothing_is_left().await;
}
