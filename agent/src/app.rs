//! The use cases: what users hire mcpm for, composed of the layers below. Nothing here prints or
//! reads a terminal; what happens is told as events on a bounded channel.

pub mod assistant;
pub mod background;
pub mod clients;
pub mod connect;
#[cfg(feature = "embedded-relay")]
pub mod demo;
pub mod doctor;
pub mod inspect;
pub mod install;
pub mod login;
pub mod migrate;
pub mod processes;
pub mod run;
pub mod servers;
pub mod serving;
pub mod share;
pub mod update;
