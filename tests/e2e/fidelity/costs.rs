//! What `mcpm` says to servers of its own accord: how they are opened, how their lists come, what a call costs them.

use std::collections::BTreeMap;

use mcpm::mcp::era::Era;
use serde_json::json;

use super::case::plain;
use super::client::{Client, Pipes};
use super::world::{Journal, OPENED, Over, Pair, TOOL, World, add_server, initialize};
use super::{legacy, modern, raw};

const WAYS: [Over; 2] = [Over::Stdio, Over::Http];

/// How often each method was asked for.
type Counts = BTreeMap<String, usize>;

/// Counts the requests that have come to a server.
fn counts(journal: &mut Journal) -> Counts {
    let mut counts = Counts::new();
    for text in journal.fresh() {
        if let (Some(_), Some(method)) = (raw::member(&text, "id"), raw::member(&text, "method")) {
            *counts.entry(serde_json::from_str(&method).unwrap()).or_default() += 1;
        }
    }
    counts
}

fn of(counts: &Counts, method: &str) -> usize {
    counts.get(method).copied().unwrap_or_default()
}

async fn call(client: &mut Client, era: Era, method: &str, name: &str) -> String {
    client.ask(&plain(era, method, name, "0", "{}").request).await;
    client.next().await.expect("the request is answered")
}

#[tokio::test]
async fn a_call_costs_a_server_one_request_ever() {
    for pair in WAYS.into_iter().flat_map(|server| {
        WAYS.into_iter().flat_map(move |client| [legacy(client, server), modern(client, server)])
    }) {
        // It has made one call by then.
        let mut world = World::start(pair).await;
        let before = counts(&mut world.journal);
        assert_eq!(of(&before, "tools/call"), 1, "{pair:?}: {before:?}");
        // Over HTTP the server is tried, and asked what it has, before it is served.
        let tried = usize::from(pair.client == Over::Http);
        assert!(of(&before, "tools/list") <= tried, "{pair:?}: {before:?}");
        for opening in ["initialize", "server/discover"] {
            assert!(of(&before, opening) <= 1 + tried, "{pair:?}: {before:?}");
        }
        for _ in 0..3 {
            let answer = call(&mut world.client, pair.era, "tools/call", "echo").await;
            assert!(answer.contains("\"result\""), "{pair:?}: {answer}");
        }
        let cost = counts(&mut world.journal);
        assert_eq!(cost, Counts::from([("tools/call".to_owned(), 3)]), "{pair:?}");
    }
}

#[tokio::test]
async fn a_call_costs_one_of_two_servers_one_request_ever() {
    for (era, version) in [(Era::Legacy, "2025-11-25"), (Era::Modern, "2026-07-28")] {
        for over in WAYS {
            let mut home = harness::home::Home::new();
            let entry = json!({ "profile_tags": ["work"] });
            let (mut a, _a) = add_server(&mut home, "a", over, era, version, entry.clone()).await;
            let (mut b, _b) = add_server(&mut home, "b", over, era, version, entry).await;
            let run = async |lists: bool| {
                let log = std::fs::File::create(home.path("log")).unwrap();
                let command = home.command("mcpm", &["profile", "run", "work"]);
                let mut client = Client::Stdio(Pipes::start(command, log));
                if era == Era::Legacy {
                    client.ask(&initialize(version)).await;
                    client.next().await.expect("`initialize` is answered");
                }
                if lists {
                    let tools = call(&mut client, era, "tools/list", "").await;
                    assert!(tools.contains("a_echo") && tools.contains("b_echo"), "{tools}");
                }
                let answer = call(&mut client, era, "tools/call", "a_echo").await;
                assert!(answer.contains("\"result\""), "{answer}");
                let Client::Stdio(pipes) = client else { unreachable!("it is one") };
                pipes.end().await;
            };
            run(true).await;
            for (journal, calls) in [(&mut a, 1), (&mut b, 0)] {
                let counts = counts(journal);
                let told = format!("{era:?} over {over:?}: {counts:?}");
                assert_eq!(of(&counts, "tools/call"), calls, "{told}");
                for method in ["initialize", "server/discover", "tools/list"] {
                    assert!(of(&counts, method) <= 1, "{told}");
                }
            }
            // The second time all is known: who is not called is not even started.
            run(false).await;
            let opening = if era == Era::Legacy { "initialize" } else { "server/discover" };
            let once = [opening, "tools/call"].map(|method| (method.to_owned(), 1));
            assert_eq!(counts(&mut a), Counts::from(once), "{era:?} over {over:?}");
            assert_eq!(counts(&mut b), Counts::new(), "{era:?} over {over:?}");
        }
    }
}

#[tokio::test]
async fn what_a_server_says_of_itself_is_what_its_client_hears() {
    for (client, server) in WAYS.into_iter().flat_map(|c| WAYS.map(|s| (c, s))) {
        let pair = legacy(client, server);
        let mut world = World::start(pair).await;
        let result = raw::member(&world.opened[0], "result").unwrap();
        let wanted = format!(r#"{{"protocolVersion":"{}",{OPENED}}}"#, pair.version);
        assert_eq!(raw::members(&result), raw::members(&wanted), "{pair:?}");
        if client == Over::Stdio {
            // The only client there is: the server learns who it is.
            let got = world.journal.fresh();
            let got = got.iter().find(|text| text.contains("\"initialize\"")).unwrap();
            let params = |text: &str| raw::member(text, "params").unwrap();
            for about in ["clientInfo", "capabilities"] {
                let wanted = raw::member(&params(&initialize(pair.version)), about);
                let got = raw::member(&params(got), about);
                // White space between the members of these is not kept.
                let members = |value: Option<String>| value.map(|value| raw::members(&value));
                assert_eq!(members(got), members(wanted), "{pair:?}");
            }
        }
    }
}

#[tokio::test]
async fn the_list_of_a_server_is_what_its_client_gets() {
    for pair in WAYS.into_iter().flat_map(|server| {
        WAYS.into_iter().flat_map(move |client| [legacy(client, server), modern(client, server)])
    }) {
        let mut world = World::start(Pair { ..pair }).await;
        // Without `say`, for whoever asks the server asks in words of its own.
        let request =
            plain(pair.era, "tools/list", "", "0", "{}").request.replace("\"say\"", "\"x\"");
        world.client.ask(&request).await;
        let answer = world.client.next().await.expect("the list comes");
        let result = raw::member(&answer, "result").unwrap_or_else(|| panic!("{pair:?}: {answer}"));
        let tools = raw::member(&result, "tools").unwrap();
        let tools = raw::parts(&tools);
        assert_eq!(tools, [TOOL], "{pair:?}");
        assert_eq!(raw::member(&result, "x-odd").as_deref(), Some("1E+2"), "{pair:?}: {result}");
    }
}
