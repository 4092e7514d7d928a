//! What the tests of all transports have in common.

use std::time::Duration;

use mcpm_shared::scope::Scope;
use serde_json::value::RawValue;

use super::*;
use crate::gateway::guard::Guard;

pub(super) const LIMITS: Limits =
    Limits { start_timeout: Duration::from_secs(10), max_line: 1_000_000 };

pub(super) fn opening() -> Opening {
    Opening {
        client_info: r#"{"name":"test","version":"1"}"#.to_owned(),
        capabilities: "{}".to_owned(),
        version: "2025-11-25".to_owned(),
        era: crate::mcp::era::Era::Legacy,
        params: None,
        sole: false,
    }
}

pub(super) fn nursery() -> Nursery {
    Nursery::new(Scope::new(), Guard::off(), None)
}

pub(super) fn remote(url: &str) -> Target {
    Target::new(&Server::remote("far", url), None).unwrap()
}

pub(super) async fn ask(conn: &Arc<Conn>, text: &str) -> (Claim, Receiver) {
    let message = Message::parse(text).unwrap();
    conn.request(&message, Vec::new(), 1).await.unwrap()
}

pub(super) async fn next(queue: &mut Receiver) -> (String, bool) {
    let packet = tokio::time::timeout(Duration::from_secs(20), queue.recv()).await;
    let packet = packet.expect("in time").expect("a packet");
    (String::from_utf8(packet.message.to_vec()).unwrap(), packet.last)
}

/// The text of a message's id.
pub(super) fn id_of(text: &str) -> String {
    Message::parse(text).unwrap().id().map_or("null", RawValue::get).to_owned()
}
