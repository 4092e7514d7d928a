//! What the entry of a server in `servers.json` says of how the hub treats it. A key that holds
//! something else is an error: to go on would share, or start, what was not asked for.

use super::member::Isolation;
use crate::gateway::GatewayError;
use crate::model::Server;

const ISOLATION: &str = "isolation";
const WARM: &str = "warm";

/// Reads who shares the process of a server.
pub(super) fn isolation(server: &Server) -> Result<Option<Isolation>, GatewayError> {
    let Some(value) = server.extra.get(ISOLATION) else { return Ok(None) };
    match value.as_str() {
        Some("shared") => Ok(Some(Isolation::Shared)),
        Some("principal") => Ok(Some(Isolation::Principal)),
        Some("session") => Ok(Some(Isolation::Session)),
        _ => Err(wrong(server, ISOLATION, "one of `shared`, `principal` and `session`")),
    }
}

/// Reads whether a server is started before it is used.
pub(super) fn warm(server: &Server) -> Result<Option<bool>, GatewayError> {
    let Some(value) = server.extra.get(WARM) else { return Ok(None) };
    value.as_bool().map(Some).ok_or_else(|| wrong(server, WARM, "true or false"))
}

fn wrong(server: &Server, key: &'static str, expected: &'static str) -> GatewayError {
    GatewayError::Entry { server: server.name.clone(), key, expected }
}
