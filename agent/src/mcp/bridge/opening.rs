//! What servers and clients say of themselves: once in the legacy era, with `server/discover` and
//! each request in the modern one.

use serde_json::value::RawValue;

use super::result::uncached;
use super::{META, SERVER_INFO};
use crate::mcp::object::{Object, array, text};

/// The extensions that pass between the eras.
///
/// An extension may be declared only if every hop handles it (2026-07-28 §Extensions). MCP Apps
/// is nothing but resources and `_meta`, declared in the same place by clients of both eras. Tasks
/// differ between the eras, authorization is of one hop, and of the others we know nothing.
const CARRIED: [&str; 1] = ["io.modelcontextprotocol/ui"];

/// Makes the `DiscoverResult` of a server out of its `InitializeResult`.
///
/// What we do not know of the latter is kept.
#[must_use]
pub fn discover_result(initialize: &RawValue, versions: &[&str]) -> String {
    let mut members = Object::of(initialize).unwrap_or_default();
    drop(members.remove("protocolVersion"));
    let info = members.remove("serverInfo");
    let capabilities = members.remove("capabilities");
    let versions: Vec<Box<RawValue>> = versions.iter().map(|version| text(version)).collect();

    let mut result = Object::new();
    result.set_str("resultType", "complete");
    result.set("supportedVersions", array(&versions));
    result.set_object("capabilities", &across(capabilities.as_deref()));
    for (name, value) in members {
        if !result.contains(&name) {
            result.set(&name, value);
        }
    }
    uncached(&mut result);
    result.edit_in(META, |meta| match info {
        Some(info) => meta.set(SERVER_INFO, info),
        None => drop(meta.remove(SERVER_INFO)),
    });
    result.to_string()
}

/// Makes the `InitializeResult` of a server out of its `DiscoverResult`, for a client that opened
/// with this version.
///
/// What we do not know of the latter is kept. A server that does not say who it is, which only the
/// modern era permits, goes by our name.
#[must_use]
pub fn initialize_result(discover: &RawValue, version: &str) -> String {
    let mut members = Object::of(discover).unwrap_or_default();
    for gone in ["resultType", "supportedVersions", "ttlMs", "cacheScope"] {
        drop(members.remove(gone));
    }
    let info = members.edit_in(META, |meta| meta.remove(SERVER_INFO));
    let capabilities = members.remove("capabilities");

    let mut result = Object::new();
    result.set_str("protocolVersion", version);
    result.set_object("capabilities", &across(capabilities.as_deref()));
    result.set("serverInfo", info.unwrap_or_else(ours));
    for (name, value) in members {
        if !result.contains(&name) {
            result.set(&name, value);
        }
    }
    result.to_string()
}

fn ours() -> Box<RawValue> {
    let mut info = Object::new();
    info.set_str("name", env!("CARGO_PKG_NAME"));
    info.set_str("version", env!("CARGO_PKG_VERSION"));
    info.to_raw()
}

/// Returns the capabilities of a server as the other era may know them.
#[must_use]
pub fn server_capabilities(capabilities: &RawValue) -> String {
    across(Some(capabilities)).to_string()
}

/// Returns the capabilities of a legacy client as it declares them in a modern request.
///
/// The modern era does not tell of changed roots.
#[must_use]
pub fn modern_client_capabilities(capabilities: &RawValue) -> String {
    let mut capabilities = across(Some(capabilities));
    if let Some(mut roots) = capabilities.get_object("roots") {
        drop(roots.remove("listChanged"));
        capabilities.set_object("roots", &roots);
    }
    capabilities.to_string()
}

/// Returns the capabilities of a modern client as a legacy server may hear them.
#[must_use]
pub fn legacy_client_capabilities(capabilities: &RawValue) -> String {
    across(Some(capabilities)).to_string()
}

/// Capabilities without what does not pass between the eras.
fn across(capabilities: Option<&RawValue>) -> Object {
    let mut capabilities = capabilities.and_then(Object::of).unwrap_or_default();
    drop(capabilities.remove("tasks"));
    capabilities.edit_in("extensions", |extensions| {
        extensions.retain(|name, _| CARRIED.contains(&name));
    });
    capabilities
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    const INITIALIZE: &str = concat!(
        r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true},"#,
        r#""resources":{"subscribe":true,"x":1.0},"tasks":{"list":{}},"future":{ },"#,
        r#""extensions":{"io.modelcontextprotocol/ui":{"a":1},"v/x":{}}},"#,
        r#""serverInfo":{"name":"s","version":"1","icons":[ ]},"instructions":"do","more":[1.0]}"#
    );

    #[test]
    fn a_server_that_was_initialized_can_be_discovered_golden() {
        assert_eq!(
            discover_result(&raw(INITIALIZE), &["2026-07-28"]),
            concat!(
                r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"#,
                r#""capabilities":{"tools":{"listChanged":true},"resources":{"subscribe":true,"x":1.0},"#,
                r#""future":{ },"extensions":{"io.modelcontextprotocol/ui":{"a":1}}},"#,
                r#""instructions":"do","more":[1.0],"ttlMs":0,"cacheScope":"private","#,
                r#""_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s","version":"1","icons":[ ]}}}"#
            )
        );
    }

    #[test]
    fn a_server_that_was_discovered_can_be_initialized_golden() {
        let discover = discover_result(&raw(INITIALIZE), &["2026-07-28"]);
        assert_eq!(
            initialize_result(&raw(&discover), "2025-06-18"),
            concat!(
                r#"{"protocolVersion":"2025-06-18","capabilities":{"tools":{"listChanged":true},"#,
                r#""resources":{"subscribe":true,"x":1.0},"future":{ },"#,
                r#""extensions":{"io.modelcontextprotocol/ui":{"a":1}}},"#,
                r#""serverInfo":{"name":"s","version":"1","icons":[ ]},"instructions":"do","more":[1.0]}"#
            )
        );
    }

    #[test]
    fn what_a_server_left_out_is_made_up_for() {
        let initialize = initialize_result(&raw(r#"{"supportedVersions":[]}"#), "2025-11-25");
        assert!(
            initialize.starts_with(
                r#"{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"mcpm","#
            ),
            "{initialize}"
        );
        assert_eq!(
            discover_result(&raw("[]"), &["2026-07-28"]),
            r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{},"ttlMs":0,"cacheScope":"private"}"#
        );
    }

    #[test]
    fn a_server_cannot_speak_for_the_bridge() {
        let told = raw(r#"{"supportedVersions":["1"],"resultType":"task"}"#);
        let discover = discover_result(&told, &["2026-07-28"]);
        assert!(discover.starts_with(
            r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{}"#
        ));
    }

    #[test]
    fn clients_do_not_declare_tasks_across_the_eras() {
        let client = raw(
            r#"{"roots":{"listChanged":true},"tasks":{},"elicitation":{ },"extensions":{"io.modelcontextprotocol/tasks":{}}}"#,
        );
        assert_eq!(modern_client_capabilities(&client), r#"{"roots":{},"elicitation":{ }}"#);
        assert_eq!(
            legacy_client_capabilities(&client),
            r#"{"roots":{"listChanged":true},"elicitation":{ }}"#
        );
        assert_eq!(server_capabilities(&raw(r#"{"tasks":{},"logging":{}}"#)), r#"{"logging":{}}"#);
    }
}
