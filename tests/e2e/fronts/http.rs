//! Proxies that end TLS and pass HTTP on.

use std::fmt::Write as _;

use harness::peers::{peer, programs};
use tokio::process::Command;

use super::world::{Place, VISITOR, World, documented, put};

/// nginx as the documentation has it, with what it wants around that.
fn nginx(place: &Place<'_>) -> Command {
    let [snippet] = documented("nginx").try_into().unwrap();
    let pem = place.pem.display().to_string();
    let snippet = put(&snippet, "listen 443", &format!("listen 127.0.0.1:{}", place.port));
    let snippet = put(&snippet, "server 127.0.0.1:8080", &format!("server {}", place.relay));
    let snippet = put(&snippet, "share.example.com", "localhost");
    let snippet = put(&snippet, "/etc/mcpm-relay/fullchain.pem", &pem);
    let snippet = put(&snippet, "/etc/mcpm-relay/privkey.pem", &pem);
    let folder = place.folder.display();
    // One process, so that nothing is left when it is killed.
    let mut config = format!(
        "daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log stderr warn;\n\
         events {{ worker_connections 512; }}\nhttp {{\naccess_log off;\n"
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        writeln!(config, "{kind}_temp_path {folder}/{kind};").unwrap();
    }
    let file = place.folder.join("nginx.conf");
    std::fs::write(&file, format!("{config}{snippet}\n}}\n")).unwrap();
    let mut nginx = peer("nginx").expect("asked for before");
    nginx.args(["-e", "stderr", "-p"]).arg(place.folder).arg("-c").arg(file);
    nginx
}

/// `HAProxy` as the documentation has it.
fn haproxy(place: &Place<'_>) -> Command {
    let snippet = documented("haproxy").swap_remove(0);
    let snippet = put(&snippet, "bind :443", &format!("bind 127.0.0.1:{}", place.port));
    let snippet = put(&snippet, "127.0.0.1:8080", &place.relay.to_string());
    let pem = place.pem.display().to_string();
    let snippet = put(&snippet, "/etc/haproxy/share.example.com.pem", &pem);
    let file = place.folder.join("haproxy.cfg");
    std::fs::write(&file, format!("global\n    maxconn 512\n\n{snippet}\n")).unwrap();
    let mut haproxy = peer("haproxy").expect("asked for before");
    haproxy.args(["-db", "-f"]).arg(file);
    haproxy
}

async fn visitors_are_served_and_known(front: impl FnOnce(&Place<'_>) -> Command, leaves: bool) {
    let settings = documented("toml").swap_remove(0);
    let mut world = World::start(&settings, &[], front).await;
    let url = world.url();
    let forged = ["--header", "X-Forwarded-For: 192.0.2.66", "--header", "X-Forwarded-Proto: http"];
    let list = ["--header", "X-Forwarded-For: 192.0.2.66, 127.0.0.1"];
    let forwarded = ["--header", "Forwarded: for=192.0.2.66", "--header", "X-Real-IP: 192.0.2.66"];
    for version in ["--http1.1", "--http2"] {
        for lie in [&forged[..], &list, &forwarded, &[]] {
            let seen = world.seen(VISITOR, &url, &[&[version][..], lie].concat(), 10).await;
            assert_eq!(seen["x-forwarded-for"], VISITOR, "{version} {lie:?}");
            assert_eq!(seen["x-forwarded-proto"], "https", "{version} {lie:?}");
            assert_eq!(seen["forwarded"], serde_json::Value::Null, "{seen}");
        }
        // More than proxies take by default, as a picture for a tool may be.
        world.seen(VISITOR, &url, &[version], 3 << 20).await;
    }
    world.streams_pass(leaves).await;
    // Whoever comes to the relay itself is who it is, whatever it says.
    for lie in [&forged[..], &list, &forwarded] {
        let seen = world.seen("127.0.0.9", &world.direct("http"), lie, 10).await;
        assert_eq!(seen["x-forwarded-for"], "127.0.0.9", "{lie:?}");
        assert_eq!(seen["x-forwarded-proto"], "http", "{lie:?}");
    }
    let other = format!("https://other.example:{}/mcp", world.port);
    assert_eq!(world.status(VISITOR, &other, &[]).await, Ok(421));
}

#[tokio::test]
async fn nginx_passes_streams_as_they_come_and_says_who_asks() {
    if programs(&["nginx", "curl"]) {
        visitors_are_served_and_known(nginx, true).await;
    }
}

#[tokio::test]
async fn haproxy_passes_streams_as_they_come_and_says_who_asks() {
    if programs(&["haproxy", "curl"]) {
        // It may say late that a visitor left, as the documentation says.
        visitors_are_served_and_known(haproxy, false).await;
    }
}
