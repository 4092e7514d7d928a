//! The headers that calls over HTTP must have because a tool asks for them.

use std::sync::Mutex;

use http::HeaderMap;

use super::known::Items;
use super::lock;
use super::member::Member;
use crate::gateway::upstream::{Conn, Target};
use crate::mcp::era::Era;
use crate::mcp::lists::member;
use crate::mcp::message::{HEADER_MISMATCH, Incoming, Message};
use crate::mcp::mirror::{self, Mirrors};

/// How long a refusal is at most.
const SHORT: usize = 8 * 1024;

/// What the tools of each server ask for.
#[derive(Debug)]
pub(super) struct Mirrored(Vec<Mutex<Mirrors>>);

impl Mirrored {
    pub(super) fn new(servers: usize) -> Self {
        Self((0..servers).map(|_| Mutex::default()).collect())
    }

    /// Remembers what the tools of a server ask for. Only HTTP has headers.
    pub(super) fn learn(&self, server: &Member, tools: &Items) {
        if let (Target::Remote(_), Some(known)) = (&server.target, self.0.get(server.index)) {
            let mut known = lock(known);
            tools.iter().for_each(|tool| known.learn(tool));
        }
    }

    /// Returns the headers of a call of this tool, which is the server's own name for it.
    pub(super) fn headers(
        &self,
        server: &Member,
        conn: &Conn,
        tool: impl FnOnce() -> Option<String>,
        request: &Message<'_>,
    ) -> HeaderMap {
        let none = HeaderMap::new();
        if request.method() != "tools/call" || conn.facts().era != Era::Modern {
            return none;
        }
        let Some(known) = self.0.get(server.index).filter(|known| !lock(known).is_empty()) else {
            return none;
        };
        let asked = tool().and_then(|tool| lock(known).of(&tool));
        let arguments = request.params().and_then(|params| member(params, "arguments"));
        asked.map_or(none, |asked| mirror::headers(&asked, arguments))
    }
}

/// Tells whether a server refuses a call for its headers: then its tools ask for others than is known.
pub(super) fn is_outdated(conn: &Conn, request: &Message<'_>, answer: &[u8]) -> bool {
    let told =
        request.method() == "tools/call" && conn.facts().era == Era::Modern && answer.len() < SHORT;
    let Some(Incoming::One(answer)) = told.then(|| Incoming::parse(answer).ok()).flatten() else {
        return false;
    };
    let code = answer.error().and_then(|error| member(error, "code"));
    code.is_some_and(|code| code.get().parse() == Ok(HEADER_MISMATCH))
}
