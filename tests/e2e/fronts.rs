//! What operators put in front of a relay, with the settings that `docs/relay.md` shows: nginx and `HAProxy`, with real
//! visitors (curl) through them; and an agent in another network.
//!
//! Whatever is not there is skipped with a line that says so; `cargo xtask peers` gets what Debian has.
#![cfg(target_os = "linux")]

mod apart;
mod bytes;
mod http;
mod world;
