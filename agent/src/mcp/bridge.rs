//! Translation of single messages between the eras of MCP.
//!
//! Pure functions from text to text: what a modern message becomes for a legacy server or client,
//! and the other way. Only members that belong to one era are added or removed; everything else,
//! known or not, passes. Who asks whom, when, and what is waited for is the gateway's.

mod error;
mod input;
mod level;
mod opening;
mod question;
mod request;
mod result;
#[cfg(test)]
mod tests;

pub use self::error::{Failure, URL_REQUIRED, legacy_error, modern_error};
pub use self::input::{
    InputRequest, InputRequired, input_request, input_responses, legacy_answer, legacy_question,
    legacy_refusal, legacy_withdrawal, may_ask, request_state,
};
pub use self::level::{Level, level_of};
pub use self::opening::{
    discover_result, initialize_result, legacy_client_capabilities, modern_client_capabilities,
    server_capabilities,
};
pub use self::question::{Question, declares};
pub use self::request::{Stamp, legacy_notice, legacy_request, modern_notice, modern_request};
pub use self::result::{Untranslatable, legacy_result, modern_result};

/// The member for what is about a message and not of it.
pub const META: &str = "_meta";
/// `_meta` key: the version that a modern request speaks.
pub const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// `_meta` key: what the client of a modern request can do.
pub const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// `_meta` key: who sends a modern request.
pub const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
/// `_meta` key: which log messages the sender of a modern request wants.
pub const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
/// `_meta` key: who gives a modern result.
pub const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
/// The extension by which modern servers run calls as tasks.
pub const TASKS: &str = "io.modelcontextprotocol/tasks";
/// `_meta` key: the `subscriptions/listen` request that a notification belongs to.
pub const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";
