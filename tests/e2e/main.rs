//! The end-to-end suites: a real relay and real agents, mostly in this process.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access;
mod background;
mod crash;
mod defects;
mod edge;
mod embed;
mod fidelity;
mod leaks;
mod limits;
mod peers;
mod reconnect;
mod replay;
mod share;
mod shutdown;
mod tidy;
