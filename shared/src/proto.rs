//! Tunnel protocol, version 1: constants and the order of things.
//!
//! 1. The agent sends `GET /v1/tunnel` to the relay's apex host: a WebSocket upgrade with
//!    subprotocol [`SUBPROTOCOL`] and `Authorization: Bearer <assertion>`
//!    (see [`crate::assertion`]). Every refusal is a plain HTTP answer before the upgrade, with a
//!    [`Refusal`] as JSON.
//! 2. Binary WebSocket messages of at most [`MAX_MESSAGE`] bytes carry one yamux session (the agent
//!    is the yamux client). The agent opens exactly one stream first: the control stream.
//! 3. On the control stream both sides write frames: `u32` big-endian length, then JSON
//!    ([`control`]). The agent says `hello`, the relay `welcome`; then the agent claims names.
//! 4. The relay opens data streams. Each begins with a [`head::StreamHead`]; the agent answers with
//!    one [`head::Verdict`] byte, and from then on both sides speak HTTP/1.1 on it, kept alive.

pub mod control;
pub mod head;
mod refusal;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::refusal::{Refusal, code};

/// The version of the protocol described here.
pub const PROTOCOL_VERSION: u8 = 1;
/// The WebSocket subprotocol that names the version.
pub const SUBPROTOCOL: &str = "mcpm.tunnel.v1";
/// Where on the relay's apex host a tunnel is opened.
pub const TUNNEL_PATH: &str = "/v1/tunnel";

/// The longest WebSocket message, in bytes: small enough that no stream waits long for another.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// The longest control frame, in bytes, without its length.
pub const MAX_CONTROL_FRAME: usize = 64 * 1024;
/// How many yamux streams a connection carries at most.
pub const MAX_STREAMS: usize = 4096;
/// How many connections a session may have.
pub const MAX_CONNECTIONS: u8 = 8;
/// How much the receive windows of one connection may grow beyond yamux's 256 KiB a stream, in
/// bytes: enough for one stream of 150 MB/s at 60 ms, too little to hurt a relay with many agents.
/// yamux gives a window back by halves, so that a stream has three quarters of it on average.
pub const WINDOW_BUDGET: usize = 12 * 1024 * 1024;

/// How often an agent pings on each connection.
pub const PING_INTERVAL: Duration = Duration::from_secs(10);
/// After how long without a byte a connection is dead: two pings and some grace.
pub const DEAD_AFTER: Duration = Duration::from_secs(25);
/// How long either side waits for the other's next step of the handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an agent waits for the answer to a claim: the relay asks its store meanwhile.
pub const CLAIM_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a relay holds requests for a share whose agent is away.
pub const HOLD_WINDOW: Duration = Duration::from_secs(15);

/// What travels through a share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShareMode {
    /// MCP only: other paths, methods and content types are refused at the edge.
    #[default]
    Mcp,
    /// Any HTTP, where the relay allows it.
    Http,
}
