//! Shares in the background, and what other people do with their links: real programs, a real relay.
#![cfg(target_os = "linux")]

mod connect;
mod world;

use harness::process::Program;
use harness::{eventually, opened};
use serde_json::{Value, json};

use self::world::{World, ended_well, only};

#[tokio::test]
async fn a_detached_share_is_up_when_the_command_returns_and_ends_without_a_trace() {
    let world = World::start().await;
    let up = world.detach(&["share", "x"]).await;
    let (url, token) = (only(&up, "url"), only(&up, "token"));
    assert_eq!(opened(&url, Some(&token)).await, 200);
    assert_eq!(opened(&url, None).await, 401);

    let listed = world.shares().await;
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    let share = &listed[0];
    assert_eq!((&share["state"], &share["mode"]), (&json!("connected"), &json!("background")));
    assert_eq!((&share["target"], &share["url"]), (&json!({"server": "x"}), &json!(url)));
    eventually("requests are counted", || async {
        (world.shares().await[0]["requests"].as_u64()? >= 1).then_some(())
    })
    .await;

    // Neither another one in the background nor one in a terminal takes its name away.
    for more in [&["--detach"][..], &[]] {
        let again = ["share", "x", "--json", "--address", &world.address()];
        let again = world.run(&[&again[..], more].concat()).await;
        assert_eq!(again.code, Some(1), "{again:?}");
        assert!(again.stdout.contains("already_shared") && again.stdout.contains(&url));
    }

    // No secret is where other processes or logs could show it.
    let seen = world.home.processes().join("\n");
    assert!(seen.contains("--run-id=") && !seen.contains(&token), "{seen}");
    for folder in ["config/shares/live", "config/logs"] {
        for entry in std::fs::read_dir(world.home.path(folder)).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(!text.contains(&token), "{}", path.display());
        }
    }

    let stopped = ended_well(world.run(&["unshare", "x", "--json"]).await);
    assert_eq!(stopped["stopped"][0]["how"], "stopped");
    assert_eq!(world.shares().await, json!([]));
    world.nothing_is_left().await;
    assert_ne!(opened(&url, Some(&token)).await, 200);
    let stopped = ended_well(world.run(&["unshare", "x", "--json"]).await);
    assert_eq!(stopped["stopped"], json!([]));
}

#[tokio::test]
async fn a_detached_share_survives_the_hangup_of_its_terminal() {
    let world = World::start().await;
    let script = r#""$0" share x --detach --json --address "$1" && kill -s HUP 0"#;
    let mut shell = harness::process::command("setsid");
    let mcpm = harness::process::built("mcpm");
    shell.args(["sh", "-c", script]).arg(mcpm).arg(world.address());
    shell.env("HOME", world.home.folder()).env("MCPM_CONFIG_DIR", world.home.config());
    let mut shell = Program::start(shell);
    let up = shell.event("up").await;
    let ended = shell.ended().await;
    assert_eq!(ended.signal, Some(1), "the shell was not hung up: {ended:?}");
    assert_eq!(opened(&only(&up, "url"), up["token"].as_str()).await, 200);
    assert_eq!(world.shares().await[0]["state"], "connected");
    ended_well(world.run(&["unshare", "--all", "--json"]).await);
    world.nothing_is_left().await;
}

#[tokio::test]
async fn a_detached_share_that_fails_says_why_as_in_a_terminal_and_leaves_nothing_behind() {
    let world = World::start().await;
    let nobody = "http://127.0.0.1:9";
    for (args, code) in [
        (["share", "broken", "--address", world.address().as_str()], "server"),
        (["share", "x", "--retry=0", &format!("--address={nobody}")], "relay_unreachable"),
    ] {
        let here = world.run(&[&args[..], &["--json"]].concat()).await;
        let away = world.run(&[&args[..], &["--json", "-d"]].concat()).await;
        let error = |text: &str| {
            let last = text.lines().last().unwrap_or_default();
            serde_json::from_str::<Value>(last).unwrap_or_else(|_| panic!("{text}"))
        };
        assert_eq!(error(&away.stdout)["code"], code, "{away:?}");
        assert_eq!(error(&here.stdout), error(&away.stdout));
        assert_eq!(here.code, away.code);
        assert_eq!(world.shares().await, json!([]));
        world.nothing_is_left().await;
    }
    let usage = world.run(&["share", "none", "-d", "--json"]).await;
    assert!(usage.stdout.contains("unknown_server"), "{usage:?}");
}

#[tokio::test]
async fn a_share_that_was_killed_is_told_of_once_and_its_servers_end_with_it() {
    let world = World::start().await;
    let up = world.detach(&["share", "x"]).await;
    assert_eq!(opened(&only(&up, "url"), up["token"].as_str()).await, 200);
    let pid = world.shares().await[0]["pid"].as_u64().unwrap();
    world::signal(pid, "KILL").await;
    world.nothing_is_left().await;
    let told = world.shares().await;
    assert_eq!(
        (&told[0]["state"], &told[0]["code"]),
        (&json!("ended"), &json!("crashed")),
        "{told}"
    );
    assert_eq!(world.shares().await, json!([]));
    ended_well(world.run(&["unshare", "x", "--json"]).await);
    // The name comes back to the next one.
    let next = world.detach(&["share", "x"]).await;
    assert_eq!(next["url"], up["url"]);
    assert_eq!(next["token"], up["token"]);
}

#[tokio::test]
async fn a_file_that_names_the_process_of_a_stranger_harms_nobody() {
    let world = World::start().await;
    world.detach(&["share", "x"]).await;
    let live = world.home.path("config/shares/live");
    let record = std::fs::read_dir(&live).unwrap().map(|entry| entry.unwrap().path());
    let record = record.into_iter().find(|path| path.extension().is_some_and(|e| e == "json"));
    let text = std::fs::read_to_string(record.unwrap()).unwrap();
    ended_well(world.run(&["unshare", "x", "--json"]).await);

    let mut stranger =
        tokio::process::Command::new("sleep").arg("600").kill_on_drop(true).spawn().unwrap();
    let mut record: Value = serde_json::from_str(&text).unwrap();
    record["process"]["pid"] = stranger.id().unwrap().into();
    for name in ["0123456789abcdef", "fedcba9876543210"] {
        std::fs::write(live.join(format!("{name}.json")), record.to_string()).unwrap();
        // With a lock file that nobody holds, or with none.
        if name.starts_with('0') {
            std::fs::write(live.join(format!("{name}.lock")), "").unwrap();
        }
    }
    let stopped = ended_well(world.run(&["unshare", "--all", "--json"]).await);
    assert_eq!(stopped["stopped"], json!([]));
    assert_eq!(std::fs::read_dir(&live).unwrap().count(), 0);
    assert!(stranger.try_wait().unwrap().is_none(), "the stranger was ended");
}

#[tokio::test]
async fn a_share_in_a_terminal_is_listed_and_stopped_too() {
    let world = World::start().await;
    let args = ["share", "x", "--json", "--address", &world.address()];
    let mut program = Program::start(world.home.command("mcpm", &args));
    program.event("up").await;
    let share = eventually("it is listed", || async { world.shares().await.get(0).cloned() }).await;
    assert_eq!((&share["mode"], &share["state"]), (&json!("foreground"), &json!("connected")));
    let stopped = ended_well(world.run(&["unshare", "x", "--json"]).await);
    assert_eq!(stopped["stopped"][0]["how"], "stopped");
    program.event("stopped").await;
    assert_eq!(program.ended().await.code, Some(0));
    world.nothing_is_left().await;
}

#[tokio::test]
async fn a_profile_a_local_share_and_an_http_service_run_in_the_background_too() {
    let world = World::start().await;
    let echo = harness::Service::echo().await;
    let profile = world.detach(&["profile", "share", "work", "--no-auth"]).await;
    assert_eq!(profile["token"], Value::Null);
    assert_eq!(opened(&only(&profile, "url"), None).await, 200);
    let args = ["share", "x", "--local-only", "--port", "0", "--detach", "--json"];
    let local = ended_well(world.run(&args).await);
    assert_eq!(opened(&only(&local, "url"), local["token"].as_str()).await, 200);
    eventually("requests without a relay are counted", || async {
        let shares = world.shares().await;
        let local = shares.as_array()?.iter().find(|share| share["relay"] == "local")?;
        (local["requests"].as_u64()? >= 1).then_some(())
    })
    .await;
    let (service, address) = (echo.url(), world.address());
    let refused = ["tunnel", &service, "-d", "--json", "--address", &address];
    let refused = world.run(&refused).await;
    assert!(refused.code == Some(0) || refused.stdout.contains("mode_forbidden"), "{refused:?}");
    let ambiguous = world.run(&["unshare", "nothing", "--json"]).await;
    assert_eq!(ambiguous.code, Some(1), "{ambiguous:?}");
    let stopped = ended_well(world.run(&["unshare", "--all", "--json"]).await);
    assert!(stopped["stopped"].as_array().unwrap().len() >= 2, "{stopped}");
    world.nothing_is_left().await;
}
