//! `HAProxy` that passes bytes on to a relay that ends TLS itself.

use harness::peers::{peer, programs};
use tokio::process::Command;

use super::world::{Place, VISITOR, World, documented, put};

/// curl's codes for an answer that never came, a TLS handshake that broke, and a connection that was reset.
const CUT: [i32; 3] = [52, 35, 56];

fn haproxy(place: &Place<'_>, snippet: &str) -> Command {
    let snippet = put(snippet, "bind :443", &format!("bind 127.0.0.1:{}", place.port));
    let snippet = put(&snippet, "127.0.0.1:8443", &place.relay.to_string());
    let file = place.folder.join("haproxy.cfg");
    std::fs::write(&file, format!("global\n    maxconn 512\n\n{snippet}\n")).unwrap();
    let mut haproxy = peer("haproxy").expect("asked for before");
    haproxy.args(["-db", "-f"]).arg(file);
    haproxy
}

#[tokio::test]
async fn by_the_proxy_protocol_the_relay_knows_who_comes() {
    if !programs(&["haproxy", "curl"]) {
        return;
    }
    let settings = documented("toml").swap_remove(1);
    let snippet = documented("haproxy").swap_remove(1);
    let mut world = World::start(&settings, &[], |place| haproxy(place, &snippet)).await;
    let (url, direct) = (world.url(), world.direct("https"));
    let lie = ["--header", "X-Forwarded-For: 192.0.2.66"];
    for version in ["--http1.1", "--http2"] {
        let seen = world.seen(VISITOR, &url, &[&[version][..], &lie].concat(), 3 << 20).await;
        assert_eq!(seen["x-forwarded-for"], VISITOR);
        assert_eq!(seen["x-forwarded-proto"], "https");
    }
    world.streams_pass(true).await;
    // Beside the proxy: whoever is not it comes without a header, and must not send one.
    let seen = world.seen("127.0.0.9", &direct, &lie, 10).await;
    assert_eq!(seen["x-forwarded-for"], "127.0.0.9");
    let refused = world.status("127.0.0.9", &direct, &["--haproxy-protocol"]).await;
    assert!(refused.is_err_and(|code| CUT.contains(&code)), "{refused:?}");
    // From the proxy's address nothing but version 2 is believed.
    for args in [&[][..], &["--haproxy-protocol"]] {
        let refused = world.status("127.0.0.1", &direct, args).await;
        assert!(refused.is_err_and(|code| CUT.contains(&code)), "{args:?}: {refused:?}");
    }
}

#[tokio::test]
async fn without_the_proxy_protocol_all_visitors_are_the_proxy() {
    if !programs(&["haproxy", "curl"]) {
        return;
    }
    let settings = documented("toml").swap_remove(1);
    let settings = put(&settings, "proxy-protocol = \"127.0.0.1\"\n", "");
    let snippet = put(&documented("haproxy").swap_remove(1), " check send-proxy-v2", "");
    let mut world = World::start(&settings, &[], |place| haproxy(place, &snippet)).await;
    let seen = world.seen(VISITOR, &world.url(), &[], 10).await;
    assert_eq!(seen["x-forwarded-for"], "127.0.0.1");
    world.streams_pass(true).await;
}
