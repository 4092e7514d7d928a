//! The end-to-end suites: a real relay and real agents, mostly in this process.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access;
mod edge;
mod embed;
mod fidelity;
mod leaks;
mod limits;
mod peers;
mod reconnect;
mod share;
mod shutdown;
mod tidy;
