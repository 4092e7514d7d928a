//! The mcpm agent: installs, runs, aggregates and shares MCP servers.
pub mod app;
pub mod backoff;
pub mod catalog;
pub mod cli;
pub mod clients;
pub mod config;
pub mod credentials;
pub mod demo;
pub mod fs;
pub mod gateway;
pub mod hint;
pub mod keyring;
pub mod logs;
pub mod mcp;
pub mod model;
pub mod naming;
pub mod oauth;
pub mod registry;
pub mod running;
pub mod tunnel;
pub mod usage;
pub mod web;

pub use self::clients::ClientConfigManager;
pub use self::config::{GlobalConfigManager, ProfileConfigManager};
