//! The use cases: what users hire mcpm for, composed of the layers below. Nothing here prints or
//! reads a terminal; what happens is told as events on a bounded channel.

#[cfg(feature = "embedded-relay")]
pub mod demo;
pub mod login;
pub mod run;
pub mod serving;
pub mod share;
