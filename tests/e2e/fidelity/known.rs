//! Methods that `mcpm` knows itself: it may listen in on them, but to a client of one server they are as any other.
//!
//! Three are about one hop, and answered by it: `ping`, `logging/setLevel` (a server may have several clients, and logs
//! as much as the most curious of them wants), and `server/discover`, with what the server said of itself.

use super::case::plain;
use super::raw::{PARAMS, cut, flat};
use super::world::{Over, Pair, World};
use super::{legacy, modern};

/// Whatever is in a request or an answer besides what its method asks for.
const ODD: &str = r#"{"b":[1e400 ,-0.0,"\ud83d"],"a":18446744073709551616,"a":1.0}"#;

/// All pairs of an era.
fn pairs(pair: fn(Over, Over) -> Pair) -> impl Iterator<Item = Pair> {
    let ways = [Over::Stdio, Over::Http];
    ways.into_iter().flat_map(move |client| ways.map(|server| pair(client, server)))
}

/// Sends requests of these methods, and tells what became of those that did not pass.
async fn failures(pair: Pair, methods: &[&str]) -> Vec<String> {
    let mut failures = Vec::new();
    let mut world = World::start(pair).await;
    for method in methods {
        let mut case = plain(pair.era, method, "x", ODD, PARAMS);
        // What each of them must have.
        let own = r#""name":"x","uri":"x:y","taskId":"t""#;
        case.replace(r#""name":"x""#, own);
        if let Err(error) = world.exchange(&case).await {
            failures.push(format!("{method} over {pair:?}: {error}"));
            world = World::start(pair).await;
        }
    }
    failures
}

#[tokio::test]
async fn methods_of_the_legacy_era_pass_as_they_are() {
    let methods = [
        "completion/complete",
        "prompts/get",
        "prompts/list",
        "resources/list",
        "resources/read",
        "resources/subscribe",
        "resources/templates/list",
        "resources/unsubscribe",
        "tasks/cancel",
        "tasks/get",
        "tasks/list",
        "tasks/result",
        "tools/list",
    ];
    let mut all = Vec::new();
    for pair in pairs(legacy) {
        all.extend(failures(pair, &methods).await);
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
}

#[tokio::test]
async fn methods_of_the_modern_era_pass_as_they_are() {
    let methods = [
        "completion/complete",
        "prompts/get",
        "prompts/list",
        "resources/list",
        "resources/read",
        "resources/templates/list",
        "tasks/cancel",
        "tasks/get",
        "tasks/update",
        "tools/list",
    ];
    let mut all = Vec::new();
    for pair in pairs(modern) {
        all.extend(failures(pair, &methods).await);
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
}

#[tokio::test]
async fn a_cancellation_is_about_the_same_request_and_passes_else_as_it_is() {
    for pair in pairs(legacy) {
        let mut world = World::start(pair).await;
        drop(world.journal.fresh());
        let call = r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"x","say":["@never@"]}}"#;
        world.client.ask(call).await;
        let called = world.arrived(1).await;
        let id = cut(&called[0]).id.unwrap();
        let cancel = |id: &str| {
            format!(
                r#"{{ "x":1e400,"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"reason":"\ud83d","requestId": {id} ,"x":{ODD}}}}}"#
            )
        };
        world.client.tell(&cancel("\"a\"")).await;
        let got = world.arrived(1).await;
        assert_eq!(
            got.iter().map(|text| flat(text)).collect::<Vec<_>>(),
            [cancel(&id)],
            "{pair:?}"
        );
    }
}
