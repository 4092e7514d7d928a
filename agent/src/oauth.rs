//! Logins to remote MCP servers: OAuth 2.1 as 2026-07-28 §Authorization asks of clients.
//!
//! rmcp's client does discovery, registration, PKCE and the exchange of codes and tokens. This
//! module gives it a network that goes no further than it should, waits for the browser, keeps what
//! comes of it in files of mode 0600, and renews it. The gateway gets [`Credentials`]: tokens
//! without files. Nothing here reads configuration or talks to a person.

mod challenge;
mod credentials;
mod error;
mod flow;
mod given;
mod reach;
mod record;
mod redirect;
mod renewal;
mod store;
mod web;

pub use self::challenge::missing_scope;
pub use self::credentials::{Bearer, Credentials, TokenError};
pub use self::error::OauthError;
pub use self::flow::{Ask, Flow};
pub use self::record::{Client, Record};
pub use self::redirect::{Hit, Page, Redirect};
pub use self::store::Store;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
