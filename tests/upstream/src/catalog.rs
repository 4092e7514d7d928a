//! What the server lists, written down as it goes over the wire.

use rmcp::model::{Prompt, Resource, ResourceTemplate, Tool};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// All tools, in the order of the file.
pub(crate) fn tools() -> Vec<Tool> {
    listed("tools")
}

/// All resources.
pub(crate) fn resources() -> Vec<Resource> {
    listed("resources")
}

/// All resource templates.
pub(crate) fn templates() -> Vec<ResourceTemplate> {
    listed("resourceTemplates")
}

/// All prompts.
pub(crate) fn prompts() -> Vec<Prompt> {
    listed("prompts")
}

/// Reads a fixture into the SDK's type.
pub(crate) fn typed<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a fixture has the shape of its type")
}

fn listed<T: DeserializeOwned>(list: &str) -> Vec<T> {
    let mut all: Value = serde_json::from_str(include_str!("catalog.json")).expect("it is JSON");
    typed(all[list].take())
}
