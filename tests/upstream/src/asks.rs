//! Tools of the older suites that ask the user: by a request of their own, as servers did before 2026-07-28, or by way of
//! their result, as they do since.
#![expect(deprecated, reason = "sampling is deprecated by the protocol, not gone")]

use rmcp::ErrorData;
use rmcp::model::{CallToolRequestParams, CallToolResponse, ProtocolVersion};
use rmcp::service::{RequestContext, RoleServer, ServiceError};
use serde_json::{Value, json};

use crate::calls::{result, text_block};
use crate::catalog::typed;
use crate::rounds;

/// The key of the one question.
const KEY: &str = "question";

/// Tells whether a tool is one of these.
pub(crate) fn knows(name: &str) -> bool {
    let names = [
        "test_sampling",
        "test_elicitation",
        "test_elicitation_sep1034_defaults",
        "test_elicitation_sep1330_enums",
    ];
    names.contains(&name)
}

/// Calls one of them.
///
/// # Errors
/// When the client refuses the question.
pub(crate) async fn call(
    params: &CallToolRequestParams,
    context: &RequestContext<RoleServer>,
) -> Result<CallToolResponse, ErrorData> {
    let sampling = params.name == "test_sampling";
    let asked = if sampling { prompt(params) } else { form(params) };
    let answer = if context.protocol_version() >= Some(ProtocolVersion::V_2026_07_28) {
        let method = if sampling { "sampling/createMessage" } else { "elicitation/create" };
        let given = params.input_responses.as_ref().and_then(|answers| answers.get(KEY));
        match given {
            Some(answer) => serde_json::to_value(answer).unwrap_or_default(),
            None => {
                let asked = json!({ "method": method, "params": asked });
                return Ok(rounds::asking(KEY, asked).into());
            }
        }
    } else if sampling {
        let sampled = context.peer.create_message(typed(asked)).await.map_err(refused)?;
        serde_json::to_value(sampled).unwrap_or_default()
    } else {
        let answer = context.peer.create_elicitation(typed(asked)).await.map_err(refused)?;
        serde_json::to_value(answer).unwrap_or_default()
    };
    let text = if sampling {
        let content = &answer["content"];
        let text = content["text"].as_str().or_else(|| content[0]["text"].as_str());
        format!("LLM response: {}", text.unwrap_or("nothing"))
    } else {
        let action = answer["action"].as_str().unwrap_or_default();
        format!("Elicitation completed: action={action}, content={}", answer["content"])
    };
    Ok(result(&json!([text_block(text)]), false).into())
}

fn refused(error: ServiceError) -> ErrorData {
    ErrorData::invalid_request(error.to_string(), None)
}

fn argument<'a>(params: &'a CallToolRequestParams, name: &str) -> Option<&'a str> {
    params.arguments.as_ref().and_then(|all| all.get(name)?.as_str())
}

fn prompt(params: &CallToolRequestParams) -> Value {
    let message = text_block(argument(params, "prompt").unwrap_or("Hello"));
    json!({ "messages": [{ "role": "user", "content": message }], "maxTokens": 100 })
}

fn form(params: &CallToolRequestParams) -> Value {
    let schema = match params.name.as_ref() {
        "test_elicitation" => person(),
        "test_elicitation_sep1034_defaults" => defaults(),
        _ => choices(),
    };
    let message = argument(params, "message").unwrap_or("Please tell me.");
    json!({ "mode": "form", "message": message, "requestedSchema": schema })
}

fn person() -> Value {
    json!({
        "type": "object",
        "properties": {
            "username": { "type": "string", "description": "The user's name" },
            "email": { "type": "string", "description": "The user's address" },
        },
        "required": ["username", "email"],
    })
}

fn defaults() -> Value {
    json!({ "type": "object", "properties": {
        "name": { "type": "string", "default": "John Doe" },
        "age": { "type": "integer", "default": 30 },
        "score": { "type": "number", "default": 95.5 },
        "status": { "type": "string", "enum": ["active", "inactive", "pending"], "default": "active" },
        "verified": { "type": "boolean", "default": true },
    }})
}

fn choices() -> Value {
    let titled = |word: &str| {
        let one = |value: &str, title: &str| json!({ "const": value, "title": format!("{title} {word}") });
        json!([one("value1", "First"), one("value2", "Second"), one("value3", "Third")])
    };
    let plain = json!(["option1", "option2", "option3"]);
    json!({ "type": "object", "properties": {
        "untitledSingle": { "type": "string", "enum": plain },
        "titledSingle": { "type": "string", "oneOf": titled("Option") },
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": { "type": "array", "items": { "type": "string", "enum": plain } },
        "titledMulti": { "type": "array", "items": { "anyOf": titled("Choice") } },
    }})
}
