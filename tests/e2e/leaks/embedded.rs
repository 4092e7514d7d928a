//! A gateway in this process, behind a relay and by itself.

use std::cell::Cell;
use std::time::Duration;

use harness::home::Home;
use harness::{TestAgent, TestRelay, eventually, request, soon};
use mcpm::gateway::listen::{ListenOptions, listen};
use mcpm::gateway::{Gateway, GatewayOptions};
use mcpm::tunnel::Backend;
use mcpm_shared::access::AccessPolicy;
use mcpm_shared::proto::ShareMode;
use mcpm_shared::scope::Scope;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::time::timeout;

use super::count::{descriptors, settled, targets};
use super::visitor::{Door, hang, initialize, who};
use super::{PATIENCE, Visit, each, home, visit};

/// What happens to a gateway in this process.
#[derive(Clone, Copy, Debug)]
enum Round {
    /// A visitor comes through the relay.
    Visit(Visit),
    /// Another share of it comes and goes.
    Share,
    /// A client over a pair of streams comes and goes.
    Streams,
}

#[tokio::test]
async fn a_gateway_and_its_relay_hold_nothing_for_clients_that_are_gone() {
    let home = home();
    let gateway = gateway(&home);
    let relay = TestRelay::start().await;
    let agent = TestAgent::new();
    let open = |name: &str| {
        let asked = request(name, ShareMode::Mcp, AccessPolicy::public());
        agent.open(&relay, asked, Backend::Gateway(gateway.clone()))
    };
    let share = open("leaks");
    let door = Door { url: share.up().await.url, token: None };
    let next = Cell::new(0);
    let round = async |round: Round| match round {
        Round::Visit(kind) => visit(&door, kind).await,
        Round::Share => {
            next.set(next.get() + 1);
            let share = open(&format!("leaks-{}", next.get()));
            let door = Door { url: share.up().await.url, token: None };
            visit(&door, Visit::Whole).await;
            soon("the share ends", share.tunnel.shutdown()).await;
        }
        Round::Streams => streams(&gateway, &[initialize(), who(1)], true).await,
    };
    let rounds = [
        Round::Visit(Visit::Whole),
        Round::Visit(Visit::Dropped),
        Round::Visit(Visit::Gone),
        Round::Visit(Visit::Killed),
        Round::Visit(Visit::Modern),
        Round::Visit(Visit::ModernDropped),
        Round::Share,
        Round::Streams,
    ];
    let idle = async || {
        let none = eventually("nobody holds anything", || async {
            let stats = gateway.stats();
            let none = stats.sessions == 0 && stats.children == 0;
            (none && share.tunnel.stats().active == 0 && home.processes().is_empty()).then_some(())
        });
        if timeout(PATIENCE, none).await.is_err() {
            let (gateway, tunnel) = (gateway.stats(), share.tunnel.stats());
            panic!("{gateway:?} {tunnel:?} {:#?}", home.processes());
        }
    };
    // Other tests may run in this process too, unless the runner gives each test one of its own.
    let alone = std::env::var_os("NEXTEST").is_some();
    let own = std::process::id();

    each(&rounds, 2, round).await;
    idle().await;
    let (before, held) = (settled(|| descriptors(own)).await, targets(own));
    each(&rounds, 10, round).await;
    idle().await;
    let after = settled(|| descriptors(own)).await;
    let told = || format!("{before} descriptors became {after}: {held:#?}\n{:#?}", targets(own));
    assert!(!alone || after <= before, "{}", told());

    gateway.shutdown().await;
}

/// A gateway that soon gives up whoever says nothing.
fn gateway(home: &Home) -> Gateway {
    let paths = mcpm::fs::Paths::new(home.config());
    let server = mcpm::GlobalConfigManager::open(&paths).unwrap().server("x").unwrap();
    let idle = Duration::from_millis(500);
    let options = GatewayOptions { idle, idle_servers: Some(idle), ..GatewayOptions::default() };
    Gateway::new(&server, options, Scope::new()).unwrap()
}

/// A client on a pair of streams, which says this and goes; it may take the future along.
async fn streams(gateway: &Gateway, says: &[Value], whole: bool) {
    let ((mut input, theirs), (output, answers)) =
        (tokio::io::duplex(65536), tokio::io::duplex(65536));
    let serve = gateway.serve_stdio(theirs, output);
    let client = async move {
        let mut answers = BufReader::new(answers).lines();
        for message in says {
            input.write_all(format!("{message}\n").as_bytes()).await.unwrap();
            answers.next_line().await.unwrap().expect("something is said");
        }
    };
    if whole {
        let (end, ()) = soon("the client is served", async { tokio::join!(serve, client) }).await;
        end.unwrap();
        return;
    }
    let both = async {
        tokio::select! { _ = serve => panic!("it has a client"), () = client => {} }
    };
    soon("the client has called", both).await;
}

/// Waits until a gateway holds nothing for anybody.
async fn holds_nothing(gateway: &Gateway) {
    let none = eventually("nothing is held", || async {
        let stats = gateway.stats();
        (stats.sessions == 0 && stats.children == 0).then_some(())
    });
    assert!(timeout(PATIENCE, none).await.is_ok(), "{:?}", gateway.stats());
}

#[tokio::test]
async fn who_serves_streams_no_longer_holds_nothing_for_their_client() {
    let home = home();
    let gateway = gateway(&home);
    streams(&gateway, &[initialize(), hang(1)], false).await;
    holds_nothing(&gateway).await;
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_client_that_died_in_a_call_without_an_answer_is_given_up_in_time() {
    let home = home();
    let gateway = gateway(&home);
    let scope = Scope::new();
    let options = ListenOptions::default();
    let address = listen(gateway.clone(), options, &scope).await.unwrap();
    let door = Door { url: format!("http://{address}/mcp"), token: None };
    let session = door.open().await;
    drop(session.hang(1).await);
    // It is long gone by now: no stream of it is open, and it asks for nothing.
    holds_nothing(&gateway).await;
    gateway.shutdown().await;
    scope.cancel();
}
