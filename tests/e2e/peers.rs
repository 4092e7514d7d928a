//! The real programs as processes, and the official clients and servers of MCP as their peers.
//!
//! `cargo xtask peers` installs the peers; a suite whose peers are missing says so and passes, unless `MCPM_PEERS` (set
//! by `cargo xtask test`) says that they were installed.

mod assistant;
mod clients;
mod failures;
mod logs;
mod profiles;
mod published;
mod restarts;
mod rolling;
mod sdk;
mod sdks;
mod stage;
mod stops;
mod tokens;
mod tours;
mod turns;
mod visit;
