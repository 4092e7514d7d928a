//! Links of shares, and somebody else who uses them.

use harness::home::Home;
use harness::process::{Ended, Program};
use harness::{initialize, opened, soon, visitor};
use serde_json::{Value, json};

use super::world::{World, ended_well, only};

/// Runs `mcpm` in the home of somebody else, with a line on stdin.
async fn as_guest(guest: &Home, args: &[&str], line: &str) -> Ended {
    let mut program = Program::start(guest.command("mcpm", args));
    program.say(line).await;
    program.hang_up();
    program.ended().await
}

fn guest() -> Home {
    let guest = Home::new();
    // What shows that Cursor is installed.
    std::fs::create_dir(guest.path(".cursor")).unwrap();
    guest
}

fn entry(guest: &Home, server: &str) -> Value {
    let text = std::fs::read_to_string(guest.path("config/servers.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()[server].clone()
}

/// Asks for the tools of a server over stdio, as a client does.
async fn tools(guest: &Home, server: &str) -> usize {
    let mut program = Program::start(guest.command("mcpm", &["run", server]));
    program.say(&initialize().to_string()).await;
    program.say(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
    program.say(r#"{"jsonrpc":"2.0","id":2,"method":"tools/list"}"#).await;
    let answer = program.line("the tools", |line| {
        let answer: Value = serde_json::from_str(line).ok()?;
        (answer["id"] == 2).then_some(answer)
    });
    let answer = answer.await;
    program.hang_up();
    program.ended().await;
    answer["result"]["tools"].as_array().unwrap_or_else(|| panic!("{answer}")).len()
}

/// Opens a session at a bare address and asks there for its events, as clients do; a browser gets a page.
async fn events(link: &str) -> u16 {
    let page =
        soon("a page", visitor().get(link).header("accept", "text/html").send()).await.unwrap();
    assert!(page.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
    let both = "application/json, text/event-stream";
    let opening = visitor().post(link).header("accept", both).json(&initialize()).send();
    let opening = soon("a session", opening).await.unwrap();
    let session = opening.headers()["mcp-session-id"].clone();
    let events = visitor().get(link).header("accept", "text/event-stream");
    let events = soon("events", events.header("mcp-session-id", session).send()).await.unwrap();
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    events.status().as_u16()
}

#[tokio::test]
async fn the_link_of_a_router_share_opens_the_profile_for_clients_and_for_another_mcpm() {
    let world = World::start().await;
    let address = world.address();
    let ended = world.run(&["router", "share", "--profile", "work", "--address", &address]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let link = ended.stdout.trim().to_owned();
    let (place, query) = link.split_once('?').unwrap();
    assert!(place.starts_with(&address) && !place.ends_with("/mcp"), "{link}");
    assert!(query.starts_with("s=") && query.ends_with("&profile=work"), "{link}");
    assert_eq!(link.lines().count(), 1);

    // A client that is given the link as it is.
    assert_eq!(opened(&link, None).await, 200);
    assert_eq!(opened(&link.replace("s=", "s=x"), None).await, 401);
    assert_eq!(opened(&link.replace("profile=work", "profile=all"), None).await, 403);
    assert_eq!(events(&link).await, 200);
    let again = world.run(&["router", "share", "--address", &address, "--json"]).await;
    assert!(again.stdout.contains("already_shared"), "{again:?}");
    let status = ended_well(world.run(&["router", "status", "--json"]).await);
    assert_eq!((&status["shared"], &status["state"]), (&json!(true), &json!("connected")));

    // Another mcpm.
    let guest = guest();
    let args = ["connect", "-", "--json", "--client", "cursor"];
    let connected = ended_well(as_guest(&guest, &args, &link).await);
    assert_eq!((&connected["server"], &connected["replaced"]), (&json!("work"), &json!(false)));
    assert!(connected["tools"].as_u64().unwrap() > 0, "{connected}");
    assert_eq!(connected["clients"][0], json!({"client": "cursor", "changed": true}));
    let cursor = std::fs::read_to_string(guest.path(".cursor/mcp.json")).unwrap();
    assert!(cursor.contains("mcpm_work"), "{cursor}");
    let secret = query.trim_start_matches("s=").split('&').next().unwrap();
    let kept = entry(&guest, "work");
    assert_eq!(kept["headers"]["X-MCPM-SECRET"], secret);
    assert!(!only(&kept, "url").contains(secret), "{kept}");
    assert!(tools(&guest, "work").await > 0);
    let again = ended_well(as_guest(&guest, &["connect", &link, "--json"], "").await);
    assert_eq!((&again["server"], &again["replaced"]), (&json!("work"), &json!(true)));
    assert_eq!(again["clients"], json!([]));

    ended_well(world.run(&["router", "unshare", "--json"]).await);
    let status = ended_well(world.run(&["router", "status", "--json"]).await);
    assert_eq!(status["shared"], json!(false));
    world.nothing_is_left().await;
    let gone = as_guest(&guest, &["connect", &link, "--json", "--timeout", "20"], "").await;
    assert_eq!(gone.code, Some(1), "{gone:?}");
    assert!(!gone.stdout.contains(secret), "{gone:?}");
}

#[tokio::test]
async fn a_url_and_its_token_become_a_server_and_a_wrong_token_does_not() {
    let world = World::start().await;
    let up = world.detach(&["share", "x", "--link"]).await;
    let (url, token, link) = (only(&up, "url"), only(&up, "token"), only(&up, "link"));
    let guest = guest();
    let code = |ended: &Ended| {
        assert_eq!(ended.code, Some(1), "{ended:?}");
        only(&serde_json::from_str(&ended.stdout).unwrap(), "code")
    };
    let ended = as_guest(&guest, &["connect", &url, "--json"], "").await;
    assert_eq!(code(&ended), "unauthorized");
    assert!(ended.stdout.contains("--token-stdin"));
    let args = ["connect", &url, "--json", "--token-stdin", "--name", "friend"];
    assert_eq!(code(&as_guest(&guest, &args, "wrong").await), "unauthorized");
    assert!(!guest.path("config/servers.json").exists());

    let connected = ended_well(as_guest(&guest, &args, &token).await);
    assert_eq!(connected["server"], "friend");
    let kept = entry(&guest, "friend");
    assert_eq!(kept["headers"]["Authorization"], format!("Bearer {token}"));
    assert_eq!(kept["url"], url);
    assert!(tools(&guest, "friend").await > 0);
    assert!(!guest.path(".cursor/mcp.json").exists(), "a client was changed unasked");

    // The same share by its link; its secret stays out of the URL.
    let connected = ended_well(as_guest(&guest, &["connect", &link, "--json"], "").await);
    assert_eq!((&connected["server"], &connected["replaced"]), (&json!("friend"), &json!(true)));
    assert_eq!(entry(&guest, "friend")["url"], url);
    assert!(tools(&guest, "friend").await > 0);
}
