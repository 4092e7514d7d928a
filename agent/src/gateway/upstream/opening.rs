//! The first request of a conversation and what its answer says; pure.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Facts, Opening};
use crate::mcp::era::{self, Era, LATEST_LEGACY, LEGACY_VERSIONS, MODERN};
use crate::mcp::message::{Incoming, METHOD_NOT_FOUND, Message, UNSUPPORTED_VERSION};

/// What is said when `initialize` was answered.
pub(super) const INITIALIZED: Bytes =
    Bytes::from_static(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);

/// What the answer to a first request shows.
#[derive(Debug)]
pub(super) enum Answer {
    /// The conversation is open.
    Open(Box<Facts>),
    /// The server speaks the other era.
    OtherEra(String),
    /// The server wants another legacy version.
    Version(&'static str),
    /// The server does not want to, or says nothing that is MCP.
    Refused(String),
}

/// Returns the request that opens a modern conversation.
pub(super) fn discover(opening: &Opening) -> String {
    let Opening { client_info, capabilities, .. } = opening;
    format!(
        r#"{{"jsonrpc":"2.0","id":0,"method":"server/discover","params":{{"_meta":{{"io.modelcontextprotocol/protocolVersion":"{MODERN}","io.modelcontextprotocol/clientInfo":{client_info},"io.modelcontextprotocol/clientCapabilities":{capabilities}}}}}}}"#
    )
}

/// Returns the request that opens a legacy conversation.
pub(super) fn initialize(opening: &Opening, version: &str) -> String {
    let Opening { client_info, capabilities, params, .. } = opening;
    if let Some(params) = params.as_ref().filter(|_| version == opening.version) {
        return format!(r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{params}}}"#);
    }
    let version = serde_json::Value::from(version);
    format!(
        r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":{version},"capabilities":{capabilities},"clientInfo":{client_info}}}}}"#
    )
}

#[derive(Default, Deserialize)]
struct Said<'a> {
    #[serde(borrow, default, rename = "protocolVersion")]
    version: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "supportedVersions")]
    versions: Option<Vec<Cow<'a, str>>>,
    #[serde(borrow, default)]
    capabilities: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "serverInfo")]
    info: Option<&'a RawValue>,
    #[serde(borrow, default)]
    instructions: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "_meta")]
    meta: Option<&'a RawValue>,
}

impl Said<'_> {
    fn facts(&self, era: Era, version: &str, result: &RawValue) -> Facts {
        let info = match era {
            Era::Legacy => self.info,
            Era::Modern => self.meta.and_then(info_of).or(self.info),
        };
        let instructions = self.instructions.and_then(crate::mcp::message::string);
        Facts {
            era,
            version: version.to_owned(),
            capabilities: self.capabilities.filter(|it| is_object(it)).map_or_else(
                || RawValue::from_string("{}".to_owned()).expect("it is JSON"),
                ToOwned::to_owned,
            ),
            server_info: info.filter(|it| is_object(it)).map(ToOwned::to_owned),
            instructions: instructions.map(Cow::into_owned),
            opened: Bytes::copy_from_slice(result.get().as_bytes()),
        }
    }
}

fn is_object(value: &RawValue) -> bool {
    value.get().starts_with('{')
}

fn info_of(meta: &RawValue) -> Option<&RawValue> {
    #[derive(Deserialize)]
    struct Meta<'a> {
        #[serde(borrow, default, rename = "io.modelcontextprotocol/serverInfo")]
        info: Option<&'a RawValue>,
    }
    serde_json::from_str::<Meta<'_>>(meta.get()).ok().and_then(|meta| meta.info)
}

const NO_MCP: &str = "its answer is not MCP";

/// Reads the answer to `server/discover`: any error that is not a modern one shows a legacy server
/// (2026-07-28 §Versioning).
pub(super) fn read_discover(text: &[u8]) -> Answer {
    let Ok(Incoming::One(answer)) = Incoming::parse(text) else {
        return Answer::OtherEra(NO_MCP.to_owned());
    };
    if let Some(error) = answer.error() {
        let modern = answer.error_code().is_some_and(era::is_modern_error);
        let (versions, text) = (supported(&answer), cut(error.get()));
        let only_legacy = !versions.is_empty()
            && versions.iter().all(|version| LEGACY_VERSIONS.contains(&version.as_ref()));
        return if modern && !only_legacy { Answer::Refused(text) } else { Answer::OtherEra(text) };
    }
    let (Some(result), Some(said)) = (answer.result(), said(&answer)) else {
        return Answer::OtherEra(NO_MCP.to_owned());
    };
    let versions = said.versions.as_deref().unwrap_or_default();
    if versions.is_empty() && said.capabilities.is_none() {
        // Servers exist that answer any method with some result.
        return Answer::OtherEra(NO_MCP.to_owned());
    }
    if versions.is_empty() || versions.iter().any(|version| version == MODERN) {
        return Answer::Open(Box::new(said.facts(Era::Modern, MODERN, result)));
    }
    let text = format!("it speaks {} only", cut(&versions.join(", ")));
    if versions.iter().any(|version| LEGACY_VERSIONS.contains(&version.as_ref())) {
        Answer::OtherEra(text)
    } else {
        Answer::Refused(text)
    }
}

/// Reads the answer to an `initialize` that asked for a version.
pub(super) fn read_initialize(text: &[u8], asked: &str) -> Answer {
    let Ok(Incoming::One(answer)) = Incoming::parse(text) else {
        return Answer::Refused(NO_MCP.to_owned());
    };
    if let Some(error) = answer.error() {
        let versions = supported(&answer);
        let common = LEGACY_VERSIONS.iter().rev();
        let common =
            common.copied().find(|&ours| ours != asked && versions.iter().any(|its| its == ours));
        return match (common, answer.error_code()) {
            (Some(version), _) => Answer::Version(version),
            // A server of the modern era need not know what `initialize` is.
            (None, Some(code)) if era::is_modern_error(code) || code == METHOD_NOT_FOUND => {
                Answer::OtherEra(cut(error.get()))
            }
            _ => Answer::Refused(cut(error.get())),
        };
    }
    let (Some(result), Some(said)) = (answer.result(), said(&answer)) else {
        return Answer::Refused(NO_MCP.to_owned());
    };
    match said.version.as_deref() {
        None => Answer::Open(Box::new(said.facts(Era::Legacy, fallback(asked), result))),
        Some(version) if LEGACY_VERSIONS.contains(&version) => {
            Answer::Open(Box::new(said.facts(Era::Legacy, version, result)))
        }
        Some(version) if era::is_modern(version) => Answer::OtherEra(cut(version)),
        Some(version) => Answer::Refused(format!("it speaks revision {}", cut(version))),
    }
}

fn fallback(asked: &str) -> &str {
    if LEGACY_VERSIONS.contains(&asked) { asked } else { LATEST_LEGACY }
}

fn said<'a>(answer: &Message<'a>) -> Option<Said<'a>> {
    let result = answer.result().filter(|result| is_object(result))?;
    serde_json::from_str(result.get()).ok()
}

/// Returns the versions that an error offers.
fn supported<'a>(answer: &Message<'a>) -> Vec<Cow<'a, str>> {
    #[derive(Deserialize)]
    struct Failed<'a> {
        #[serde(default)]
        code: i64,
        #[serde(borrow, default)]
        data: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Data<'a> {
        #[serde(borrow, default)]
        supported: Vec<Cow<'a, str>>,
    }
    let error =
        answer.error().and_then(|error| serde_json::from_str::<Failed<'a>>(error.get()).ok());
    // 2024-11-05 §Lifecycle shows -32602 for a version that is not served.
    let error = error.filter(|error| {
        matches!(error.code, UNSUPPORTED_VERSION | crate::mcp::message::INVALID_PARAMS)
    });
    let data = error.and_then(|error| serde_json::from_str::<Data<'a>>(error.data?.get()).ok());
    data.map(|data| data.supported).unwrap_or_default()
}

fn cut(text: &str) -> String {
    text.chars().take(400).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn discovered(text: &str) -> Answer {
        read_discover(text.as_bytes())
    }

    fn initialized(text: &str) -> Answer {
        read_initialize(text.as_bytes(), LATEST_LEGACY)
    }

    #[test]
    fn both_openings_are_messages_and_carry_what_the_client_said() {
        let opening = Opening {
            client_info: r#"{"name":"c","x":1e999}"#.to_owned(),
            capabilities: r#"{"roots":{}}"#.to_owned(),
            version: "2025-06-18".to_owned(),
            era: Era::Legacy,
            params: None,
            sole: false,
        };
        for text in [discover(&opening), initialize(&opening, &opening.version)] {
            assert!(Message::parse(&text).is_ok(), "{text}");
            assert!(text.contains(r#"{"name":"c","x":1e999}"#), "{text}");
            assert!(text.contains(r#"{"roots":{}}"#), "{text}");
        }
    }

    #[test]
    fn a_modern_server_tells_its_facts() {
        let text = r#"{"id":0,"result":{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{"x":1.0}},"instructions":"be \"nice\"","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"m"}}}}"#;
        let Answer::Open(facts) = discovered(text) else { panic!("not open") };
        assert_eq!((facts.era, facts.version.as_str()), (Era::Modern, MODERN));
        assert_eq!(facts.capabilities.get(), r#"{"tools":{"x":1.0}}"#);
        assert_eq!(facts.server_info.unwrap().get(), r#"{"name":"m"}"#);
        assert_eq!(facts.instructions.as_deref(), Some("be \"nice\""));
        assert!(facts.opened.starts_with(br#"{"supportedVersions""#));
    }

    #[test]
    fn any_error_but_a_modern_one_shows_a_legacy_server() {
        for code in [-32601, -32602, -32600, -32000, 1] {
            let text = format!(r#"{{"id":0,"error":{{"code":{code},"message":"no"}}}}"#);
            assert!(matches!(discovered(&text), Answer::OtherEra(_)), "{text}");
        }
        for text in ["", "{}", r#"{"id":0,"result":{}}"#, r#"{"id":0,"result":{"ok":true}}"#] {
            assert!(matches!(discovered(text), Answer::OtherEra(_)), "{text}");
        }
        let header = r#"{"id":0,"error":{"code":-32020,"message":"no"}}"#;
        assert!(matches!(discovered(header), Answer::Refused(_)));
    }

    #[test]
    fn the_versions_of_a_server_decide_too() {
        let discover = |versions: &str| {
            discovered(&format!(r#"{{"id":0,"result":{{"supportedVersions":{versions}}}}}"#))
        };
        assert!(matches!(discover(r#"["2025-11-25","2026-07-28"]"#), Answer::Open(_)));
        assert!(matches!(discover(r#"["2025-11-25"]"#), Answer::OtherEra(_)));
        assert!(matches!(discover(r#"["2031-01-01"]"#), Answer::Refused(_)));
        let refuse = |versions: &str| {
            format!(
                r#"{{"id":0,"error":{{"code":-32022,"message":"no","data":{{"supported":{versions}}}}}}}"#
            )
        };
        assert!(matches!(discovered(&refuse(r#"["2025-06-18"]"#)), Answer::OtherEra(_)));
        assert!(matches!(discovered(&refuse(r#"["2031-01-01"]"#)), Answer::Refused(_)));
        assert!(matches!(initialized(&refuse(r#"["2026-07-28"]"#)), Answer::OtherEra(_)));
        let older = refuse(r#"["2024-11-05","2025-06-18","2031-01-01"]"#);
        assert!(matches!(initialized(&older), Answer::Version("2025-06-18")));
    }

    #[test]
    fn a_legacy_server_may_choose_any_legacy_version() {
        for version in LEGACY_VERSIONS {
            let text = format!(
                r#"{{"id":0,"result":{{"protocolVersion":"{version}","capabilities":null,"serverInfo":{{"name":"l"}},"instructions":null}}}}"#
            );
            let Answer::Open(facts) = initialized(&text) else { panic!("not open") };
            assert_eq!((facts.era, facts.version.as_str()), (Era::Legacy, version));
            assert_eq!(facts.capabilities.get(), "{}");
            assert_eq!(facts.server_info.unwrap().get(), r#"{"name":"l"}"#);
            assert_eq!(facts.instructions, None);
        }
        let text = r#"{"id":0,"result":{"protocolVersion":"2023-01-01","capabilities":{}}}"#;
        assert!(matches!(initialized(text), Answer::Refused(_)));
        assert!(matches!(initialized(r#"{"id":0,"result":"hi"}"#), Answer::Refused(_)));
        let key = r#"{"id":0,"error":{"code":-1,"message":"no key"}}"#;
        assert!(matches!(initialized(key), Answer::Refused(why) if why.contains("no key")));
    }
}
