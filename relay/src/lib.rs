//! The mcpm relay: gives MCP servers on people's own machines a public URL.
//!
//! A library first: [`Relay::start`] serves the binary, the demo in the agent, and every test.

pub mod admin;
pub mod admission;
pub mod cert;
pub mod config;
pub mod domains;
pub mod error;
pub mod grants;
pub mod handover;
pub mod headers;
pub mod host;
pub mod http;
pub mod keys;
pub mod metrics;
pub mod nodes;
pub mod observe;
pub mod operator;
pub mod ports;
pub mod proxy;
pub mod quota;
pub mod relay;
pub mod store;
pub mod tunnel;

pub use self::config::Config;
pub use self::ports::Ports;
pub use self::relay::{Relay, StartError};
