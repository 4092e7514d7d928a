//! What the mcpm agent and relay must agree on.
//!
//! Pure parts first (names, tokens, access policy, identity, protocol messages), then those
//! that touch tasks and sockets (`ahead`, `mux`, `scope`, `settle`, `workers`). Nothing here knows MCP.

pub mod access;
pub mod ahead;
pub mod assertion;
pub mod http1;
pub mod identity;
pub mod mux;
pub mod name;
pub mod proto;
pub mod scope;
pub mod settle;
pub mod signal;
#[cfg(feature = "telemetry")]
pub mod telemetry;
pub mod token;
pub mod workers;
