//! What is said about one event, in the words of the Python `mcpm` where it has them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

/// Longest name, URI or error that is kept, in bytes: they come from strangers.
const MAX_TEXT: usize = 500;

/// What an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// `tools/call`.
    Tool,
    /// `resources/read`.
    Resource,
    /// `prompts/get`.
    Prompt,
    /// A client came.
    SessionStart,
    /// A client went.
    SessionEnd,
}

impl Kind {
    /// Returns the kind of call that a method is; none for methods that are not counted.
    #[must_use]
    pub fn of_method(method: &str) -> Option<Self> {
        match method {
            "tools/call" => Some(Self::Tool),
            "resources/read" => Some(Self::Resource),
            "prompts/get" => Some(Self::Prompt),
            _ => None,
        }
    }

    /// Returns the value of the column `event_type`.
    pub(super) fn column(self) -> &'static str {
        match self {
            Self::Tool => "TOOL_INVOCATION",
            Self::Resource => "RESOURCE_ACCESS",
            Self::Prompt => "PROMPT_EXECUTION",
            Self::SessionStart => "SESSION_START",
            Self::SessionEnd => "SESSION_END",
        }
    }
}

/// The command that serves a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// `mcpm run` over stdio.
    Run,
    /// `mcpm run --http`.
    RunHttp,
    /// `mcpm profile run` over stdio.
    ProfileRun,
    /// `mcpm profile run --http`.
    ProfileRunHttp,
    /// `mcpm share`.
    Share,
    /// `mcpm profile share`.
    ProfileShare,
}

impl Action {
    fn column(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::RunHttp => "run_http",
            Self::ProfileRun => "profile_run",
            Self::ProfileRunHttp => "profile_run_http",
            Self::Share => "share",
            Self::ProfileShare => "profile_share",
        }
    }
}

/// Which way the client came. Addresses of visitors are not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Our own stdin and stdout.
    Stdio,
    /// HTTP from this machine or its network.
    LocalHttp,
    /// Through a relay.
    Relay,
}

impl Origin {
    fn transport(self) -> &'static str {
        match self {
            Self::Stdio => "stdio",
            Self::LocalHttp | Self::Relay => "http",
        }
    }

    fn source(self) -> &'static str {
        match self {
            Self::Stdio | Self::LocalHttp => "local",
            Self::Relay => "remote",
        }
    }

    fn column(self) -> &'static str {
        match self {
            Self::Stdio => "local_stdio",
            Self::LocalHttp => "local",
            Self::Relay => "public_internet",
        }
    }
}

/// What all events of a session have in common.
#[derive(Clone, Debug)]
pub struct About {
    /// The server; none for an aggregate of several.
    pub server: Option<String>,
    /// The profile, when one is served.
    pub profile: Option<String>,
    /// The command that serves.
    pub action: Action,
    /// Which way the client came.
    pub origin: Origin,
    /// What the client calls itself.
    pub client: Option<String>,
}

/// How a call or a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Done,
    /// With this error; the `isError` of a tool's result is one as well.
    Failed(String),
}

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    /// What it is.
    pub kind: Kind,
    /// The id of its session.
    pub session: Arc<str>,
    /// What is known of the session.
    pub about: Arc<About>,
    /// The server that answered, by its name in `servers.json`; none for a session of several.
    pub server: Option<Arc<str>>,
    /// The tool, prompt or URI, as the server knows it.
    pub resource: String,
    /// When it began.
    pub at: SystemTime,
    /// How long it took.
    pub took: Option<Duration>,
    /// Size of the request, in bytes.
    pub request_size: Option<u64>,
    /// Size of the response, in bytes.
    pub response_size: Option<u64>,
    /// How it ended.
    pub outcome: Outcome,
}

impl Event {
    /// Returns the value of the column `resource_id`.
    pub(super) fn resource_column(&self) -> String {
        match self.kind {
            Kind::Resource => clip(&without_secrets(&self.resource)),
            _ => clip(&self.resource),
        }
    }

    /// Returns the value of the column `error_message`.
    pub(super) fn error_column(&self) -> Option<String> {
        match &self.outcome {
            Outcome::Done => None,
            Outcome::Failed(error) => Some(clip(error)),
        }
    }

    /// Returns the value of the column `metadata`.
    pub(super) fn metadata_column(&self) -> String {
        let About { profile, action, origin, .. } = self.about.as_ref();
        let took = self.took.map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        let metadata: Value = match self.kind {
            Kind::SessionStart => json!({
                "middleware": "mcpm",
                "action": action.column(),
                "profile_name": profile,
                "transport": origin.transport(),
                "source": origin.source(),
                "server_info": { "transport": origin.transport() },
                "client_info": { "origin": origin.column() },
            }),
            Kind::SessionEnd => json!({
                "middleware": "mcpm",
                "action": action.column(),
                "profile_name": profile,
                "transport": origin.transport(),
                "session_duration_ms": took.map(|took| took / 1000),
            }),
            _ => json!({
                "middleware": "mcpm",
                "session_action": action.column(),
                // The column counts whole milliseconds, which is too coarse for a local server.
                "duration_us": took,
            }),
        };
        metadata.to_string()
    }
}

/// Returns the text, cut where it gets too long.
pub(super) fn clip(text: &str) -> String {
    if text.len() <= MAX_TEXT {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(MAX_TEXT)])
}

/// Returns a URI without what may be secret in it: user information, query and fragment.
fn without_secrets(uri: &str) -> String {
    let uri = uri.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = uri.split_once("://") else { return uri.to_owned() };
    let end = rest.find('/').unwrap_or(rest.len());
    let start = rest[..end].rfind('@').map_or(0, |at| at + 1);
    format!("{scheme}://{}", &rest[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_is_kept_without_its_secrets() {
        assert_eq!(without_secrets("file:///a/b@c"), "file:///a/b@c");
        assert_eq!(without_secrets("db://me:pass@host/t?key=1#x"), "db://host/t");
        assert_eq!(without_secrets("db://me:p@ss@host"), "db://host");
        assert_eq!(without_secrets("urn:x?y"), "urn:x");
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let text = clip(&"é".repeat(400));
        assert_eq!(text.len(), MAX_TEXT + '…'.len_utf8());
        assert_eq!(clip("short"), "short");
    }
}
