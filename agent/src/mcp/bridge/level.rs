//! Levels of log messages (RFC 5424 §6.2.1 by name), for `logging/setLevel` and `logLevel`.

use crate::mcp::message::{self, Message};
use crate::mcp::object::Object;

/// How grave a log message is; later is graver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Details for those who look for a fault.
    Debug,
    /// What goes on.
    Info,
    /// What is normal but worth a note.
    Notice,
    /// What may become a fault.
    Warning,
    /// A fault.
    Error,
    /// A fault of a vital part.
    Critical,
    /// Somebody must act now.
    Alert,
    /// Nothing works.
    Emergency,
}

const NAMES: [(&str, Level); 8] = [
    ("debug", Level::Debug),
    ("info", Level::Info),
    ("notice", Level::Notice),
    ("warning", Level::Warning),
    ("error", Level::Error),
    ("critical", Level::Critical),
    ("alert", Level::Alert),
    ("emergency", Level::Emergency),
];

impl Level {
    /// Reads the name of a level; `None` for what MCP does not know.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, level)| *level)
    }

    /// Returns the name of the level.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        NAMES[self as usize].0
    }

    /// Tells whether one who asked for this level wants a `notifications/message`; where its level
    /// is not known, yes.
    #[must_use]
    pub fn admits(self, notice: &Message<'_>) -> bool {
        level_of(notice).is_none_or(|level| level >= self)
    }
}

/// Returns the level that a message names: the `params.level` of `notifications/message` and of
/// `logging/setLevel`, or the `logLevel` of a modern request.
#[must_use]
pub fn level_of(message: &Message<'_>) -> Option<Level> {
    let params = Object::of(message.params()?)?;
    let named = match message.method() {
        "notifications/message" | "logging/setLevel" => {
            params.get("level").and_then(message::string)
        }
        _ => return Level::parse(&params.get_object(super::META)?.get_str(super::LOG_LEVEL)?),
    };
    Level::parse(&named?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_ordered_as_they_are_named() {
        for (at, (name, level)) in NAMES.iter().enumerate() {
            assert_eq!(Level::parse(name), Some(*level));
            assert_eq!(level.as_str(), *name);
            assert!(NAMES[at + 1..].iter().all(|(_, graver)| graver > level));
        }
        assert_eq!(Level::parse("trace"), None);
        assert_eq!(Level::parse("Info"), None);
    }

    #[test]
    fn a_level_admits_itself_and_what_is_graver() {
        let admits = |min: Level, level: &str| {
            let text =
                format!(r#"{{"method":"notifications/message","params":{{"level":"{level}"}}}}"#);
            min.admits(&Message::parse(&text).unwrap())
        };
        assert!(admits(Level::Warning, "warning"));
        assert!(admits(Level::Warning, "emergency"));
        assert!(!admits(Level::Warning, "notice"));
        assert!(admits(Level::Emergency, "unheard-of"));
    }

    #[test]
    fn a_request_names_its_level_in_either_era() {
        let level = |text: &str| level_of(&Message::parse(text).unwrap());
        let set = r#"{"id":1,"method":"logging/setLevel","params":{"level":"alert"}}"#;
        assert_eq!(level(set), Some(Level::Alert));
        let call = r#"{"id":1,"method":"tools/call","params":{"level":"alert","_meta":{"io.modelcontextprotocol/logLevel":"info"}}}"#;
        assert_eq!(level(call), Some(Level::Info));
        assert_eq!(level(r#"{"id":1,"method":"tools/call"}"#), None);
    }
}
