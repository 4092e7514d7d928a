//! The messages of the load generator: as much of MCP as a client needs to make calls.

use std::sync::LazyLock;

use anyhow::{Context as _, bail};
use memchr::memmem;
use serde_json::Value;

/// What every call says and hears: 1 KB.
static TEXT: LazyLock<String> = LazyLock::new(|| "x".repeat(1024));

/// How a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Era {
    /// With `initialize` and sessions.
    Legacy,
    /// Every request for itself.
    Modern,
}

impl Era {
    /// The era of a name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Legacy, Self::Modern].into_iter().find(|era| era.name() == name)
    }

    /// Its name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Modern => "modern",
        }
    }

    /// Its latest revision.
    pub(crate) const fn version(self) -> &'static str {
        match self {
            Self::Legacy => "2025-11-25",
            Self::Modern => "2026-07-28",
        }
    }

    /// A request, with these members in its `params`.
    pub(crate) fn request(self, id: u64, method: &str, params: &str) -> String {
        let meta = match (self, params) {
            (Self::Legacy, _) => "",
            (Self::Modern, "") => META,
            (Self::Modern, _) => {
                return format!(
                    r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{params},{META}}}}}"#
                );
            }
        };
        format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{params}{meta}}}}}"#)
    }
}

/// What a modern request says of the client.
const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1.0.0"}}"#;

/// The first request of a legacy session, but for its head.
pub(crate) const INITIALIZE: &str = r#""protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1.0.0"}"#;

/// What follows its answer.
pub(crate) const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

/// The params of a call that is answered with what it says.
pub(crate) fn call(tool: &str) -> String {
    format!(r#""name":"{tool}","arguments":{{"message":"{}"}}"#, *TEXT)
}

/// Tells whether an answer holds what the call said.
pub(crate) fn echoes(answer: &[u8]) -> bool {
    memmem::find(answer, TEXT.as_bytes()).is_some()
}

/// The result that an answer holds: JSON, or events of which one is the answer.
pub(crate) fn result(answer: &[u8]) -> anyhow::Result<Value> {
    let text = std::str::from_utf8(answer).context("an answer that is text")?;
    let lines = text.lines().map(|line| line.strip_prefix("data:").unwrap_or(line));
    for mut message in lines.filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        if let Some(error) = message.get("error") {
            bail!("the answer is the error {error}");
        }
        if let Some(result) = message.get_mut("result") {
            return Ok(result.take());
        }
    }
    bail!("no answer in {text:?}")
}

/// The names of the tools in the result of `tools/list`.
pub(crate) fn tools(result: &Value) -> anyhow::Result<Vec<String>> {
    let listed = result["tools"].as_array().context("a list of tools")?;
    let names: Vec<String> =
        listed.iter().filter_map(|tool| Some(tool["name"].as_str()?.to_owned())).collect();
    if names.is_empty() {
        bail!("the list of tools is empty");
    }
    Ok(names)
}
