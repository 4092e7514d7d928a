//! Questions to the client: requests of the server in the legacy era, results that ask for a retry
//! in the modern one (2026-07-28 §Multi round-trip requests).

use serde_json::value::RawValue;

use super::META;
use super::request::edit_params;
use crate::mcp::message::{self, METHOD_NOT_FOUND, Message, error_response};
use crate::mcp::object::{Object, text};

const ELICIT: &str = "elicitation/create";

/// Tells whether the answer to a request may ask for input.
#[must_use]
pub fn may_ask(method: &str) -> bool {
    matches!(method, "tools/call" | "prompts/get" | "resources/read")
}

/// One question to the client.
#[derive(Clone, Debug)]
pub struct InputRequest {
    /// The name under which the answer comes back.
    pub key: String,
    /// The method of the question.
    pub method: String,
    /// Its parameters.
    pub params: Option<Box<RawValue>>,
}

/// A result that asks the client for something before the request can be answered.
#[derive(Clone, Debug, Default)]
pub struct InputRequired {
    /// The questions.
    pub requests: Vec<InputRequest>,
    /// What the client must give back with the answers.
    pub state: Option<String>,
}

impl InputRequired {
    /// Reads a result; `None` where it does not ask for input, or not in the form that the
    /// revision demands.
    #[must_use]
    pub fn parse(result: &RawValue) -> Option<Self> {
        let result = Object::of(result)?;
        if result.get_str("resultType")? != "input_required" {
            return None;
        }
        let state = match result.get("requestState") {
            Some(value) if value.get() != "null" => Some(message::string(value)?.into_owned()),
            _ => None,
        };
        let requests = match result.get("inputRequests") {
            Some(value) if value.get() != "null" => {
                let requests = Object::of(value)?;
                requests.into_iter().map(read).collect::<Option<Vec<_>>>()?
            }
            _ => Vec::new(),
        };
        (state.is_some() || !requests.is_empty()).then_some(Self { requests, state })
    }

    /// Writes the result.
    #[must_use]
    pub fn to_result(&self) -> String {
        let mut result = Object::new();
        result.set_str("resultType", "input_required");
        if !self.requests.is_empty() {
            let requests: Object = self
                .requests
                .iter()
                .map(|request| (request.key.as_str(), write(request)))
                .collect();
            result.set_object("inputRequests", &requests);
        }
        if let Some(state) = &self.state {
            result.set_str("requestState", state);
        }
        result.to_string()
    }

    /// Returns a result that asks for input with another state, and all else as it was.
    #[must_use]
    pub fn with_state(result: &RawValue, state: &str) -> String {
        let Some(mut members) = Object::of(result) else { return result.get().to_owned() };
        members.set_str("requestState", state);
        members.to_string()
    }

    /// Writes the retry of a request: with these answers, and with the state exactly as it came.
    ///
    /// The answers and the state of an earlier round go. The id is the caller's to change.
    #[must_use]
    pub fn retry(&self, request: &Message<'_>, answers: Vec<(String, Box<RawValue>)>) -> String {
        edit_params(request, |params| {
            drop(params.remove("inputResponses"));
            drop(params.remove("requestState"));
            if !self.requests.is_empty() {
                let answers: Object = answers.into_iter().collect();
                params.set_object("inputResponses", &answers);
            }
            if let Some(state) = &self.state {
                params.set_str("requestState", state);
            }
        })
    }
}

fn read((key, value): (String, Box<RawValue>)) -> Option<InputRequest> {
    let mut request = Object::of(&value)?;
    let method = request.get_str("method")?.into_owned();
    Some(InputRequest { key, method, params: request.remove("params") })
}

fn write(request: &InputRequest) -> Box<RawValue> {
    let mut members = Object::new();
    members.set_str("method", &request.method);
    if let Some(params) = &request.params {
        members.set("params", params.clone());
    }
    members.to_raw()
}

/// Makes a request of a legacy server a question of a modern result.
///
/// The modern era has no `elicitationId`, and no progress of a question.
#[must_use]
pub fn input_request(method: &str, params: Option<&RawValue>, key: &str) -> InputRequest {
    let edited = params.and_then(Object::of).map(|mut params| {
        if is_url(method, &params) {
            drop(params.remove("elicitationId"));
        }
        drop(params.edit_in(META, |meta| meta.remove("progressToken")));
        params.to_raw()
    });
    let params = edited.or_else(|| params.map(ToOwned::to_owned));
    InputRequest { key: key.to_owned(), method: method.to_owned(), params }
}

/// Returns the answers of a retry by key; empty where there are none.
#[must_use]
pub fn input_responses(params: &RawValue) -> Vec<(String, Box<RawValue>)> {
    let answers = Object::of(params).and_then(|params| params.get_object("inputResponses"));
    answers.into_iter().flatten().collect()
}

/// Returns the state that a retry gives back.
#[must_use]
pub fn request_state(params: &RawValue) -> Option<String> {
    Some(Object::of(params)?.get_str("requestState")?.into_owned())
}

/// Makes a question of a modern result a request to a legacy client.
///
/// `id` is JSON text; `elicitation_id` is given to a question with a URL, which needs one in
/// 2025-11-25.
#[must_use]
pub fn legacy_question(
    id: &str,
    method: &str,
    params: Option<&RawValue>,
    elicitation_id: &str,
) -> String {
    let method_text = text(method);
    let Some(params) = params else {
        return format!(r#"{{"jsonrpc":"2.0","id":{id},"method":{method_text}}}"#);
    };
    let edited = Object::of(params).filter(|params| is_url(method, params)).map(|mut params| {
        params.set_str("elicitationId", elicitation_id);
        params.to_string()
    });
    let params = edited.as_deref().unwrap_or(params.get());
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":{method_text},"params":{params}}}"#)
}

/// Writes what takes a question back that a legacy client was asked; `id` is JSON text.
#[must_use]
pub fn legacy_withdrawal(id: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id},"reason":"the answer is not needed any more"}}}}"#
    )
}

/// Writes the answer to a request of a legacy server; `id` is as the server wrote it.
#[must_use]
pub fn legacy_answer(id: &RawValue, answer: &RawValue) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{answer}}}"#)
}

/// Writes the answer to a request of a legacy server that no client can be asked.
#[must_use]
pub fn legacy_refusal(id: &RawValue, method: &str) -> String {
    if method == ELICIT {
        return format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"action":"decline"}}}}"#);
    }
    let line = error_response(Some(id.get()), METHOD_NOT_FOUND, "the client cannot do that", None);
    String::from_utf8(line).expect("an error response is text")
}

fn is_url(method: &str, params: &Object) -> bool {
    method == ELICIT && params.get_str("mode").is_some_and(|mode| mode == "url")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn a_result_that_asks_is_read_and_written_golden() {
        let text = concat!(
            r#"{"resultType":"input_required","inputRequests":{"#,
            r#""b":{"method":"elicitation/create","params":{ "mode":"form" }},"#,
            r#""a":{"method":"roots/list"}},"requestState":"é \" opaque"}"#
        );
        let asked = InputRequired::parse(&raw(text)).unwrap();
        assert_eq!(asked.requests[0].key, "b");
        assert_eq!(asked.requests[1].method, "roots/list");
        assert_eq!(asked.state.as_deref(), Some("é \" opaque"));
        assert_eq!(asked.to_result(), text);
        let bare = r#"{"resultType":"input_required","requestState":""}"#;
        assert_eq!(InputRequired::parse(&raw(bare)).unwrap().to_result(), bare);
    }

    #[test]
    fn what_asks_for_nothing_or_in_no_known_form_is_not_read() {
        for text in [
            r#"{"content":[]}"#,
            r#"{"resultType":"complete","requestState":"s"}"#,
            r#"{"resultType":"input_required"}"#,
            r#"{"resultType":"input_required","inputRequests":{}}"#,
            r#"{"resultType":"input_required","inputRequests":[]}"#,
            r#"{"resultType":"input_required","inputRequests":{"k":{"params":{}}}}"#,
            r#"{"resultType":"input_required","requestState":7}"#,
            "[]",
        ] {
            assert!(InputRequired::parse(&raw(text)).is_none(), "{text}");
        }
    }

    #[test]
    fn another_state_leaves_the_rest_of_the_result() {
        let text = r#"{"resultType":"input_required","x":1.0,"requestState":"a","_meta":{ }}"#;
        assert_eq!(
            InputRequired::with_state(&raw(text), "b"),
            r#"{"resultType":"input_required","x":1.0,"requestState":"b","_meta":{ }}"#
        );
    }

    #[test]
    fn a_retry_carries_the_answers_and_the_exact_state() {
        let text = r#"{"id":2,"method":"tools/call","params":{"name":"x","arguments":{ "n":1.0 },"requestState":"old","inputResponses":{"o":1}}}"#;
        let request = Message::parse(text).unwrap();
        let mut asked = InputRequired {
            requests: vec![input_request("roots/list", None, "k")],
            state: Some("s\u{0}\"".to_owned()),
        };
        assert_eq!(
            asked.retry(&request, vec![("k".to_owned(), raw(r#"{"roots":[ ]}"#))]),
            r#"{"id":2,"method":"tools/call","params":{"name":"x","arguments":{ "n":1.0 },"inputResponses":{"k":{"roots":[ ]}},"requestState":"s\u0000\""}}"#
        );
        asked.state = None;
        asked.requests.clear();
        assert_eq!(
            asked.retry(&request, Vec::new()),
            r#"{"id":2,"method":"tools/call","params":{"name":"x","arguments":{ "n":1.0 }}}"#
        );
    }

    #[test]
    fn the_answers_of_a_retry_are_read_as_they_are() {
        let params = raw(
            r#"{"inputResponses":{"b":{"action":"accept"},"a":{ "x":1e1 }},"requestState":"s"}"#,
        );
        let answers = input_responses(&params);
        assert_eq!(answers[0].0, "b");
        assert_eq!(answers[1].1.get(), r#"{ "x":1e1 }"#);
        assert_eq!(request_state(&params).as_deref(), Some("s"));
        for none in ["{}", "[]", r#"{"inputResponses":3,"requestState":4}"#] {
            assert!(input_responses(&raw(none)).is_empty());
            assert_eq!(request_state(&raw(none)), None);
        }
    }

    #[test]
    fn a_url_to_visit_has_an_id_in_the_legacy_era_only() {
        let modern = r#"{"mode":"url","url":"https://x.test/","message":"m"}"#;
        let line = legacy_question("7", ELICIT, Some(&raw(modern)), "e1");
        assert_eq!(
            line,
            r#"{"jsonrpc":"2.0","id":7,"method":"elicitation/create","params":{"mode":"url","url":"https://x.test/","message":"m","elicitationId":"e1"}}"#
        );
        let message = Message::parse(&line).unwrap();
        let back = input_request(message.method(), message.params(), "k");
        assert_eq!(back.params.unwrap().get(), modern);
    }

    #[test]
    fn other_questions_pass_with_their_parameters() {
        let form = r#"{"message":"m", "requestedSchema":{"type" : "object"}}"#;
        assert_eq!(
            legacy_question("\"q\"", ELICIT, Some(&raw(form)), "e"),
            format!(
                r#"{{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{form}}}"#
            )
        );
        assert_eq!(
            legacy_question("1", "roots/list", None, "e"),
            r#"{"jsonrpc":"2.0","id":1,"method":"roots/list"}"#
        );
        let sampling = raw(r#"{"elicitationId":"mine","_meta":{"progressToken":1,"a/b":2}}"#);
        assert_eq!(
            input_request("sampling/createMessage", Some(&sampling), "k").params.unwrap().get(),
            r#"{"elicitationId":"mine","_meta":{"a/b":2}}"#
        );
    }

    #[test]
    fn a_server_gets_its_answer_or_a_refusal_under_its_own_id() {
        let id = raw(r#""\u0061""#);
        assert_eq!(
            legacy_answer(&id, &raw(r#"{"roots":[]}"#)),
            r#"{"jsonrpc":"2.0","id":"\u0061","result":{"roots":[]}}"#
        );
        assert_eq!(
            legacy_refusal(&id, ELICIT),
            r#"{"jsonrpc":"2.0","id":"\u0061","result":{"action":"decline"}}"#
        );
        let refused = legacy_refusal(&id, "roots/list");
        assert_eq!(Message::parse(&refused).unwrap().error_code(), Some(METHOD_NOT_FOUND));
    }
}
