//! What is noted of the use that a client makes of servers.

use std::sync::OnceLock;

use super::HubOptions;
use super::drive::Drive;
use super::member::Member;
use super::session::Session;
use super::welcome::name_of;
use crate::mcp::bridge::CLIENT_INFO;
use crate::mcp::era::Era;
use crate::mcp::lists::member;
use crate::mcp::message::{Incoming, Message, string};
use crate::mcp::object::Object;
use crate::usage::{self, About, Call, Kind, Outcome, Recorder};

/// How much of the message of an error is kept, in characters.
const MAX_ERROR: usize = 200;

/// The notes of one client. They begin when it is known who the client is: at once in the legacy
/// era, with the first request in the modern one.
#[derive(Debug)]
pub(super) struct Ledger {
    recorder: Recorder,
    about: About,
    session: OnceLock<usage::Session>,
}

impl Ledger {
    /// Begins the notes of a client that said who it is; none when nothing is to be noted.
    pub(super) fn of(options: &HubOptions, era: Era, info: &str) -> Option<Self> {
        let (recorder, about) = options.usage.clone()?;
        let ledger = Self { recorder, about, session: OnceLock::new() };
        if era == Era::Legacy {
            ledger.begin(|| name_of(info));
        }
        Some(ledger)
    }

    fn begin(&self, client: impl FnOnce() -> Option<String>) -> &usage::Session {
        self.session
            .get_or_init(|| self.recorder.begin(About { client: client(), ..self.about.clone() }))
    }

    /// Notes a request of the modern era, the first of which tells who the client is.
    pub(super) fn saw(&self, session: &Session, request: &Message<'_>) {
        if session.era == Era::Modern {
            self.begin(|| client_of(request));
        }
    }
}

/// Returns what the client of a modern request calls itself.
fn client_of(request: &Message<'_>) -> Option<String> {
    name_of(member(request.peek().meta?, CLIENT_INFO)?.get())
}

impl Drive<'_> {
    /// Begins a note of the call; dropped before its end it says that the call was given up.
    pub(super) fn noted(&self, server: &Member, request: &Message<'_>) -> Option<Call> {
        let ledger = self.session.usage.as_ref()?;
        let kind = Kind::of_method(request.method())?;
        let params = request.peek();
        let name = params.name.or(params.uri).and_then(string).unwrap_or_default();
        // Our names begin with the server's; what is noted is its own.
        let own = super::route::original(self.session, server, request.method(), &name);
        let size = Some(self.text.len() as u64);
        let call = ledger.begin(|| client_of(request)).call(kind, &server.name, own, size);
        // The requests of one principal may come from several clients.
        let modern = self.session.era == Era::Modern;
        Some(if modern { call.by(client_of(request)) } else { call })
    }

    /// Ends a note with what the client was answered; an answer that was not given was given up.
    pub(super) fn note_end(&self, call: Option<Call>) {
        let (Some(call), Some(answer)) = (call, self.answered.get()) else { return };
        let trouble = self.trouble.get().cloned().map(Outcome::Failed);
        call.end(trouble.unwrap_or_else(|| outcome(answer)), Some(answer.len() as u64));
    }
}

/// Tells how a call ended by its answer: an error of the protocol, or a tool that failed, are
/// failures. What a tool says is not kept.
fn outcome(answer: &[u8]) -> Outcome {
    let Ok(Incoming::One(message)) = Incoming::parse(answer) else {
        return Outcome::Failed("the answer is not JSON-RPC".to_owned());
    };
    if let Some(error) = message.error() {
        let object = Object::of(error).unwrap_or_default();
        let text = object.get_str("message").unwrap_or_default();
        let text: String = text.chars().take(MAX_ERROR).map(plain).collect();
        let code = message.error_code().map_or_else(|| "?".to_owned(), |code| code.to_string());
        return Outcome::Failed(format!("{code}: {text}"));
    }
    if super::drive::is_error(answer) {
        return Outcome::Failed("the tool failed".to_owned());
    }
    Outcome::Done
}

fn plain(c: char) -> char {
    if c.is_control() { ' ' } else { c }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_kept_by_its_code_and_the_beginning_of_its_message() {
        let failed = |text: &str| Outcome::Failed(text.to_owned());
        let of = |text: &str| outcome(text.as_bytes());
        assert_eq!(of(r#"{"id":1,"result":{"content":[]}}"#), Outcome::Done);
        assert_eq!(of(r#"{"id":1,"result":{"isError":false}}"#), Outcome::Done);
        let secret = r#"{"id":1,"result":{"isError":true,"content":[{"text":"password"}]}}"#;
        assert_eq!(of(secret), failed("the tool failed"));
        let error = r#"{"id":1,"error":{"code":-32602,"message":"no\nzone","data":"password"}}"#;
        assert_eq!(of(error), failed("-32602: no zone"));
        assert_eq!(of(r#"{"id":1,"error":{}}"#), failed("?: "));
        let long = format!(r#"{{"id":1,"error":{{"code":1,"message":"{}"}}}}"#, "é".repeat(300));
        assert_eq!(of(&long), failed(&format!("1: {}", "é".repeat(200))));
        assert_eq!(of("nonsense"), failed("the answer is not JSON-RPC"));
    }
}
