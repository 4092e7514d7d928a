//! Raw MCP: JSON-RPC messages as bytes, the two eras, and the stdio and SSE framings.
//!
//! Nothing here does I/O or re-models a message. A message is looked at through borrowed views and,
//! where an id has to change, spliced; every byte that is not ours to change survives.

pub mod bridge;
pub mod era;
pub mod line;
pub mod lists;
pub mod message;
pub mod mirror;
pub mod object;
pub mod sse;
