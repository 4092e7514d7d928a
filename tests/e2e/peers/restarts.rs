//! Relays that die or restart while clients are connected, and agents that come back.

use std::cell::Cell;

use harness::initialize;
use serde_json::json;

use super::sdks::{Sdk, everything, node, node_ready, script};
use super::stage::{Relay, Share, Stage, until};
use super::visit;

/// How many calls are answered between two replacements of the relay.
const CALLS: usize = 40;

/// The call that the connected client makes now and then.
fn echo(message: &str) -> String {
    json!({ "tool": "echo", "args": { "message": message } }).to_string()
}

/// Asks as a fresh visitor until the share answers, and expects nothing else than waiting meanwhile: held, or a 503
/// that says when to come back. A client reads 404 as "session gone".
async fn answered_without_a_404(share: &Share) {
    until("the share answers again", async || {
        let answer = visit::post(&share.url, share.token.as_deref(), &initialize()).await.ok()?;
        match answer.status {
            200 => Some(()),
            503 => {
                assert!(!answer.header("retry-after").is_empty(), "{answer:?}");
                None
            }
            _ => panic!("a visitor gets {answer:?}"),
        }
    })
    .await;
}

async fn a_connected_client_survives(stage: &mut Stage, stop: impl AsyncFnOnce(Relay)) {
    let program = everything();
    stage.add("everything", &node(), &[program.to_str().unwrap(), "stdio"]);
    // The client's own event stream stays open as long as it may.
    let relay = stage.relay(&["--grace-secs", "1"]).await;
    let mut share = stage.share(&relay, &["everything"]).await;
    let client = Sdk::TypeScript1;
    let mut client = client.start("interactive", &share.url, share.token.as_deref(), &json!({}));
    client.say(&echo("before")).await;
    assert_eq!(client.event("result").await["text"], "Echo: before");

    let addr = relay.addr.to_string();
    stop(relay).await;
    share.program.event("reconnecting").await;
    let relay = stage.relay_at(&addr, &[]).await;
    answered_without_a_404(&share).await;
    let again = share.program.event("up").await;
    assert_eq!((&again["url"], &again["token"]), (&share.up["url"], &share.up["token"]));

    // The MCP session lives in the agent, so it goes on.
    client.say(&echo("after")).await;
    assert_eq!(client.event("result").await["text"], "Echo: after");
    client.hang_up();
    assert_eq!(client.ended().await.code, Some(0), "{}", client.transcript());
    share.stop().await;
    relay.stop().await;
    stage.nothing_is_left().await;
}

#[tokio::test]
async fn after_kill_9_of_the_relay_the_share_is_back_at_its_url() {
    if !node_ready() {
        return;
    }
    let killed = async |mut relay: Relay| {
        relay.program.signal("KILL");
        relay.program.ended().await;
    };
    a_connected_client_survives(&mut Stage::new(), killed).await;
}

#[tokio::test]
async fn after_an_orderly_restart_of_the_relay_the_share_is_back_at_its_url() {
    if !node_ready() {
        return;
    }
    a_connected_client_survives(&mut Stage::new(), Relay::stop).await;
}

#[tokio::test]
async fn a_relay_that_is_replaced_three_times_loses_no_call_of_a_connected_client() {
    if !node_ready() {
        return;
    }
    let program = everything();
    let mut stage = Stage::new();
    stage.add("everything", &node(), &[program.to_str().unwrap(), "stdio"]);
    let settings = ["--grace-secs", "2"];
    let mut relay = stage.relay(&settings).await;
    let mut share = stage.share(&relay, &["everything"]).await;
    let client = Sdk::TypeScript1;
    let mut client = client.start("interactive", &share.url, share.token.as_deref(), &json!({}));
    // The first call starts the server, which takes longer than the grace period on a busy machine.
    client.say(&echo("before")).await;
    assert_eq!(client.event("result").await["text"], "Echo: before");
    let (replaced, answered) = (Cell::new(0), Cell::new(0));
    let replacing = async {
        for _ in 0..3 {
            let next = stage.relay(&[&settings[..], &["--take-over"]].concat()).await;
            assert_eq!(next.addr, relay.addr, "the very socket");
            let again = share.program.event("up").await;
            assert_eq!(again["url"], share.up["url"]);
            // The client's own event stream is cut at the end of the grace period.
            let mut before = std::mem::replace(&mut relay, next);
            let ended = before.program.ended().await;
            assert_eq!(ended.code, Some(0), "{}", ended.stderr);
            let enough = answered.get() + CALLS;
            until("calls go on", async || (answered.get() >= enough).then_some(())).await;
            replaced.set(replaced.get() + 1);
        }
        Ok(())
    };
    let calling = async {
        while replaced.get() < 3 {
            let call = format!("call {}", answered.get());
            client.say(&echo(&call)).await;
            let answer = client.line("an answer", |line| Some(line.to_owned())).await;
            if !answer.contains(&format!("Echo: {call}")) {
                return Err(format!("{call}: {answer}"));
            }
            answered.set(answered.get() + 1);
        }
        Ok(())
    };
    if let Err(lost) = tokio::try_join!(replacing, calling) {
        let said = [share.program.transcript(), relay.program.transcript()].join("\n");
        panic!("after {} replacements {lost}\n{said}", replaced.get());
    }
    client.hang_up();
    assert_eq!(client.ended().await.code, Some(0), "{}", client.transcript());
    share.stop().await;
    relay.stop().await;
    stage.nothing_is_left().await;
}

#[tokio::test]
async fn a_relay_that_forgot_everything_gives_the_name_back_for_the_ticket() {
    if !node_ready() {
        return;
    }
    let mut stage = Stage::new();
    stage.add("own", &node(), &[script("server.mjs").to_str().unwrap()]);
    let in_memory = ["--database", "memory:"];
    let relay = stage.relay(&in_memory).await;
    let mut share = stage.share(&relay, &["own"]).await;
    let addr = relay.addr.to_string();
    relay.stop().await;
    let relay = stage.relay_at(&addr, &in_memory).await;
    let again = share.program.event("up").await;
    assert_eq!(again["url"], share.up["url"]);
    share.stop().await;
    relay.stop().await;
    stage.nothing_is_left().await;
}

#[tokio::test]
async fn a_share_has_the_same_url_and_token_after_a_restart_of_the_agent() {
    if !node_ready() {
        return;
    }
    let mut stage = Stage::new();
    stage.add("own", &node(), &[script("server.mjs").to_str().unwrap()]);
    let relay = stage.relay(&[]).await;
    let first = stage.share(&relay, &["own"]).await;
    let (url, token) = (first.url.clone(), first.token.clone());
    first.stop().await;
    let second = stage.share(&relay, &["own"]).await;
    assert_eq!((&second.url, &second.token), (&url, &token));

    // Even when the first died without a word: its successor displaces it.
    second.program.signal("KILL");
    let third = stage.share(&relay, &["own"]).await;
    assert_eq!((&third.url, &third.token), (&url, &token));
    third.stop().await;
    drop(second);
    relay.stop().await;
    stage.nothing_is_left().await;
}
