//! The end-to-end suites: a real relay and real agents, mostly in this process.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod abuse;
mod access;
mod audited;
mod background;
mod backup;
mod crash;
mod dashboard;
mod defects;
mod deploy;
mod documented;
mod domains;
mod edge;
mod embed;
mod fidelity;
mod forms;
mod fronts;
mod leaks;
mod limits;
mod nodes;
mod observed;
mod oidc;
mod peers;
mod proxied;
mod reconnect;
mod reload;
mod replay;
mod several;
mod share;
mod shutdown;
mod takeover;
mod tidy;
