//! Tokens of a running share: wrong, missing, expired, revoked.

use harness::initialize;
use serde_json::Value;

use super::sdks::{node, node_ready, script};
use super::stage::{Share, Stage, until};
use super::visit::{self, Answer};

async fn visit(share: &Share, token: Option<&str>) -> Answer {
    visit::post(&share.url, token, &initialize()).await.unwrap()
}

async fn shared(stage: &mut Stage, relay: &super::stage::Relay) -> Share {
    stage.add("own", &node(), &[script("server.mjs").to_str().unwrap()]);
    stage.share(relay, &["own"]).await
}

#[tokio::test]
async fn wrong_and_missing_tokens_are_refused_in_the_way_of_bearer_tokens() {
    if !node_ready() {
        return;
    }
    let mut stage = Stage::new();
    let relay = stage.relay(&[]).await;
    let share = shared(&mut stage, &relay).await;
    assert_eq!(visit(&share, share.token.as_deref()).await.status, 200);
    for token in [None, Some("wrong")] {
        let answer = visit(&share, token).await;
        assert_eq!(answer.status, 401, "{answer:?}");
        let challenge = answer.header("www-authenticate");
        assert!(challenge.starts_with("Bearer"), "{challenge}");
        assert!(!challenge.contains("resource_metadata"), "{challenge}");
    }
    // Clients that look for OAuth learn that there is none.
    let (origin, path) = share.url.split_once("/s/").unwrap();
    for url in [
        format!("{origin}/.well-known/oauth-protected-resource/s/{path}"),
        format!("{origin}/.well-known/oauth-authorization-server"),
    ] {
        assert_eq!(visit::get(&url).await.unwrap().status, 404, "{url}");
    }
    share.stop().await;
    relay.stop().await;
    stage.nothing_is_left().await;
}

#[tokio::test]
async fn an_expired_and_a_revoked_token_stop_to_work_while_the_share_runs() {
    if !node_ready() {
        return;
    }
    let mut stage = Stage::new();
    let relay = stage.relay(&[]).await;
    let share = shared(&mut stage, &relay).await;
    let make = async |args: &[&str]| -> Value {
        let ended = stage.mcpm(&[&["token", "new", "own", "--json"], args].concat()).await;
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        serde_json::from_str(&ended.stdout).unwrap()
    };
    let friend = make(&["--label", "friend"]).await;
    let friend = friend["token"].as_str().unwrap();
    let becomes = async |token: &str, status: u16| {
        until(&format!("a visit is answered with {status}"), async || {
            (visit(&share, Some(token)).await.status == status).then_some(())
        })
        .await;
    };
    becomes(friend, 200).await;
    let ended = stage.mcpm(&["token", "revoke", "own", "friend"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    becomes(friend, 401).await;

    let guest = make(&["--label", "guest", "--expires", "15s"]).await;
    let guest = guest["token"].as_str().unwrap();
    becomes(guest, 200).await;
    becomes(guest, 401).await;

    assert_eq!(visit(&share, share.token.as_deref()).await.status, 200);
    share.stop().await;
    relay.stop().await;
    stage.nothing_is_left().await;
}
