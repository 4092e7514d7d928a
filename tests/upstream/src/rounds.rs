//! Tools and prompts that ask by way of their result: `InputRequiredResult` of 2026-07-28 (SEP-2322).

use rmcp::ErrorData;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, GetPromptRequestParams, InputRequiredResult,
    InputResponses, RequestStateCodec,
};
use rmcp::service::{RequestContext, RoleServer};
use serde_json::{Value, json};

use crate::calls::{result, text_block};
use crate::catalog::typed;

/// Makes request states that only this server could have made.
pub(crate) struct Seal(RequestStateCodec);

impl Default for Seal {
    fn default() -> Self {
        // What it protects is a test; several instances of the server want the same key.
        let key = b"the key of the conformance upstream".to_vec();
        Self(RequestStateCodec::try_new(key).expect("it is longer than 32 bytes"))
    }
}

impl Seal {
    fn sealed(&self, state: &str) -> Option<String> {
        Some(self.0.seal(state.as_bytes()))
    }

    /// Reads the state that a client gave back.
    fn opened(&self, state: Option<&String>) -> Result<Option<String>, ErrorData> {
        let Some(state) = state else { return Ok(None) };
        let opened = self.0.open(state).ok().and_then(|state| String::from_utf8(state).ok());
        let foreign =
            || ErrorData::invalid_params("requestState is not what this server gave", None);
        opened.map(Some).ok_or_else(foreign)
    }
}

/// Calls one of the tools that ask.
///
/// # Errors
/// When the request state is not ours, or when there is no such tool.
pub(crate) fn call(
    seal: &Seal,
    params: &CallToolRequestParams,
    context: &RequestContext<RoleServer>,
) -> Result<CallToolResponse, ErrorData> {
    let state = seal.opened(params.request_state.as_ref())?;
    let answers = params.input_responses.as_ref();
    let name = params.name.trim_start_matches("test_input_required_result_");
    let turn = match name {
        "elicitation" => one(answers, "user_name", NAME, ask_for_name),
        "sampling" => {
            let question = || sampling("What is the capital of France?");
            one(answers, "capital_question", "/content/text", || {
                asking("capital_question", question())
            })
        }
        "list_roots" => {
            one(answers, "client_roots", "/roots/0/uri", || asking("client_roots", roots()))
        }
        "request_state" | "tampered_state" => {
            let confirmed = answer(answers, "confirm", "/content/ok").filter(|_| state.is_some());
            match confirmed {
                Some(_) => Turn::Over("state-ok".to_owned()),
                None => Turn::Ask(asking("confirm", confirm()).sealed(seal, "confirm")),
            }
        }
        "multiple_inputs" => several(answers, seal),
        "multi_round" => round(answers, state.as_deref(), seal),
        "capabilities" => Turn::Ask(what_it_can(context)),
        _ => return Err(ErrorData::invalid_params(format!("no tool named {name}"), None)),
    };
    Ok(match turn {
        Turn::Over(text) => result(&json!([text_block(text)]), false).into(),
        Turn::Ask(asked) => asked.into(),
    })
}

/// The name that a client gave when [`ask_for_name`] asked for it.
pub(crate) fn given_name(answers: Option<&InputResponses>) -> Option<String> {
    answer(answers, "user_name", NAME)
}

/// Asks for the user's name.
pub(crate) fn ask_for_name() -> InputRequiredResult {
    asking("user_name", elicitation("What is your name?", "name"))
}

/// What the prompt that asks was told, or its question.
///
/// # Errors
/// The question, when it was not answered.
pub(crate) fn prompt(params: &GetPromptRequestParams) -> Result<String, Box<InputRequiredResult>> {
    let told = answer(params.input_responses.as_ref(), "user_context", "/content/context");
    let question = || elicitation("What context should the prompt use?", "context");
    told.ok_or_else(|| Box::new(asking("user_context", question())))
}

/// What comes of one call.
enum Turn {
    Over(String),
    Ask(InputRequiredResult),
}

/// Where an elicitation's answer holds a name.
const NAME: &str = "/content/name";

/// The answer to `key` at a JSON pointer, if it has the shape that it must have.
fn answer(answers: Option<&InputResponses>, key: &str, at: &str) -> Option<String> {
    match answers?.get(key)?.pointer(at)? {
        Value::String(text) => Some(text.clone()),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

fn one(
    answers: Option<&InputResponses>,
    key: &str,
    at: &str,
    question: impl FnOnce() -> InputRequiredResult,
) -> Turn {
    match answer(answers, key, at) {
        Some(text) => Turn::Over(format!("Hello, {text}!")),
        None => Turn::Ask(question()),
    }
}

fn several(answers: Option<&InputResponses>, seal: &Seal) -> Turn {
    let name = answer(answers, "user_name", NAME);
    let greeting = answer(answers, "greeting", "/content/text");
    let root = answer(answers, "client_roots", "/roots/0/uri");
    if let (Some(name), Some(greeting), Some(root)) = (name, greeting, root) {
        return Turn::Over(format!("{greeting} {name} of {root}"));
    }
    let asked = json!({
        "user_name": elicitation("What is your name?", "name"),
        "greeting": sampling("Generate a greeting"),
        "client_roots": roots(),
    });
    Turn::Ask(InputRequiredResult::new(Some(typed(asked)), seal.sealed("several")))
}

fn round(answers: Option<&InputResponses>, state: Option<&str>, seal: &Seal) -> Turn {
    let colour = answer(answers, "step2", "/content/color");
    if let (Some(name), Some(colour)) = (state.and_then(|state| state.strip_prefix("2 ")), colour) {
        return Turn::Over(format!("{name} likes {colour}."));
    }
    let name = answer(answers, "step1", NAME);
    if let (Some("1"), Some(name)) = (state, name) {
        let question = elicitation("Step 2: What is your favorite color?", "color");
        return Turn::Ask(asking("step2", question).sealed(seal, &format!("2 {name}")));
    }
    Turn::Ask(asking("step1", elicitation("Step 1: What is your name?", "name")).sealed(seal, "1"))
}

/// Asks for no more than the client declared for this request.
fn what_it_can(context: &RequestContext<RoleServer>) -> InputRequiredResult {
    let client = context.client_capabilities().unwrap_or_default();
    let mut asked = json!({});
    if client.sampling.is_some() {
        asked["thought"] = sampling("Think of something.");
    }
    if client.elicitation.is_some() {
        asked["user_name"] = elicitation("What is your name?", "name");
    }
    InputRequiredResult::from_input_requests(typed(asked))
}

/// Gives a state along with a question.
trait Sealed {
    fn sealed(self, seal: &Seal, state: &str) -> Self;
}

impl Sealed for InputRequiredResult {
    fn sealed(mut self, seal: &Seal, state: &str) -> Self {
        self.request_state = seal.sealed(state);
        self
    }
}

/// Asks one thing.
pub(crate) fn asking(key: &str, request: Value) -> InputRequiredResult {
    InputRequiredResult::from_input_requests(typed(json!({ key: request })))
}

/// The question for one field of text.
pub(crate) fn elicitation(message: &str, field: &str) -> Value {
    question(message, field, "string")
}

fn confirm() -> Value {
    question("Please confirm", "ok", "boolean")
}

fn question(message: &str, field: &str, kind: &str) -> Value {
    json!({ "method": "elicitation/create", "params": {
        "mode": "form",
        "message": message,
        "requestedSchema": {
            "type": "object",
            "properties": { field: { "type": kind } },
            "required": [field],
        },
    }})
}

fn sampling(text: &str) -> Value {
    let message = json!({ "role": "user", "content": text_block(text) });
    let params = json!({ "messages": [message], "maxTokens": 100 });
    json!({ "method": "sampling/createMessage", "params": params })
}

fn roots() -> Value {
    json!({ "method": "roots/list", "params": {} })
}
