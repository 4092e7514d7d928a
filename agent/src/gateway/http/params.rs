//! What the tools of one gateway want mirrored in headers, as far as lists of them have passed by:
//! calls over HTTP are checked against that.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderMap;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::mcp::lists::member;
use crate::mcp::message::{Incoming, Message, string};
use crate::mcp::mirror::{Mirrors, may_ask};

/// See the module.
#[derive(Debug, Default)]
pub(in crate::gateway) struct Params(Mutex<Mirrors>);

/// Reads the answer to one `tools/list`.
#[derive(Clone, Debug)]
pub(in crate::gateway) struct Learner(Arc<Params>);

impl Learner {
    /// Returns what reads the answer to a request, when there is something to learn from it.
    pub(super) fn of(request: &Message<'_>, params: &Arc<Params>) -> Option<Self> {
        (request.method() == "tools/list").then(|| Self(params.clone()))
    }

    /// Remembers what the tools of an answer ask for.
    pub(in crate::gateway) fn learn(&self, answer: &[u8]) {
        self.0.learn(answer);
    }
}

impl Params {
    fn lock(&self) -> MutexGuard<'_, Mirrors> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn learn(&self, answer: &[u8]) {
        #[derive(Deserialize)]
        struct List<'a> {
            #[serde(borrow)]
            tools: Vec<&'a RawValue>,
        }
        // Nearly all lists are without, and are not read at all.
        if !may_ask(answer) && self.lock().is_empty() {
            return;
        }
        let Ok(Incoming::One(answer)) = Incoming::parse(answer) else { return };
        let list = answer.result().map(|result| serde_json::from_str::<List<'_>>(result.get()));
        let Some(Ok(list)) = list else { return };
        for tool in list.tools {
            self.lock().learn(tool);
        }
    }

    /// Checks the headers of a call.
    ///
    /// # Errors
    /// Says which header is missing or contradicts the body; the answer is HTTP 400 and -32020.
    pub(super) fn check(&self, headers: &HeaderMap, call: &Message<'_>) -> Result<(), String> {
        if call.method() != "tools/call" {
            return Ok(());
        }
        let name = call.peek().name.and_then(string);
        let mirrors = name.and_then(|name| self.lock().of(&name));
        let (Some(mirrors), Some(params)) = (mirrors, call.params()) else { return Ok(()) };
        let arguments = member(params, "arguments");
        mirrors.iter().try_for_each(|mirror| mirror.check(headers, arguments))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_list_that_passed_by_asks_for_is_checked_until_it_asks_no_more() {
        let params = Arc::new(Params::default());
        let request = Message::parse(r#"{"id":1,"method":"tools/list"}"#).unwrap();
        let learner = Learner::of(&request, &params).unwrap();
        let call = r#"{"id":1,"method":"tools/call","params":{"name":"t","arguments":{"n":"x"}}}"#;
        let check = || params.check(&HeaderMap::new(), &Message::parse(call).unwrap());
        assert_eq!(check(), Ok(()));
        learner.learn(
            br#"{"id":1,"result":{"tools":[{"name":"t","inputSchema":{"properties":{"n":{"type":"string","x-mcp-header":"N"}}}}]}}"#,
        );
        assert!(check().unwrap_err().contains("missing"));
        learner.learn(br#"{"id":1,"result":{"tools":[{"name":"t","inputSchema":{}}]}}"#);
        assert_eq!(check(), Ok(()));
    }
}
