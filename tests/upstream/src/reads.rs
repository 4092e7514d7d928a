//! What `resources/read`, `prompts/get` and `completion/complete` answer.

use rmcp::ErrorData;
use rmcp::model::{
    CompleteRequestParams, CompleteResult, GetPromptRequestParams, GetPromptResponse,
    ReadResourceResult,
};
use serde_json::{Value, json};

use crate::catalog::typed;
use crate::rounds;

/// A red pixel.
pub(crate) const IMAGE: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mP4z8AAAAMBAQD3A0FDAAAAAElFTkSuQmCC";
/// A wave file with nothing to hear.
pub(crate) const AUDIO: &str = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQIAAAAAAA==";

/// The contents of a resource.
///
/// # Errors
/// When there is none at `uri`.
pub(crate) fn resource(uri: &str) -> Result<ReadResourceResult, ErrorData> {
    let text = |mime: &str, text: String| json!({ "uri": uri, "mimeType": mime, "text": text });
    let id = uri.strip_prefix("test://template/").and_then(|rest| rest.strip_suffix("/data"));
    let contents = match (uri, id) {
        ("test://static-text", _) => {
            text("text/plain", "This is the content of the static text resource.".to_owned())
        }
        ("test://static-binary", _) => {
            json!({ "uri": uri, "mimeType": "image/png", "blob": IMAGE })
        }
        ("test://watched-resource", _) => text("text/plain", "Watch me.".to_owned()),
        (_, Some(id)) => {
            let data =
                json!({ "id": id, "templateTest": true, "data": format!("Data for ID: {id}") });
            text("application/json", data.to_string())
        }
        _ => {
            let message = format!("no resource at {uri}");
            return Err(ErrorData::resource_not_found(message, Some(json!({ "uri": uri }))));
        }
    };
    Ok(typed(json!({ "resultType": "complete", "contents": [contents] })))
}

/// A prompt, or what is asked of the client first.
///
/// # Errors
/// When there is none of that name.
pub(crate) fn prompt(params: &GetPromptRequestParams) -> Result<GetPromptResponse, ErrorData> {
    let argument = |name: &str| {
        let value = params.arguments.as_ref().and_then(|all| all.get(name)?.as_str());
        value.unwrap_or_default().to_owned()
    };
    let content = match params.name.as_str() {
        "test_simple_prompt" => text("This is a simple prompt for testing."),
        "test_prompt_with_arguments" => text(&format!(
            "Prompt with arguments: arg1='{}', arg2='{}'",
            argument("arg1"),
            argument("arg2")
        )),
        "test_prompt_with_embedded_resource" => json!({ "type": "resource", "resource": {
            "uri": argument("resourceUri"),
            "mimeType": "text/plain",
            "text": "Embedded resource content for testing.",
        }}),
        "test_prompt_with_image" => {
            json!({ "type": "image", "data": IMAGE, "mimeType": "image/png" })
        }
        "test_input_required_result_prompt" => match rounds::prompt(params) {
            Ok(context) => text(&format!("Work in this context: {context}")),
            Err(asked) => return Ok((*asked).into()),
        },
        name => return Err(ErrorData::invalid_params(format!("no prompt named {name}"), None)),
    };
    let messages = json!([{ "role": "user", "content": content }]);
    Ok(GetPromptResponse::Complete(typed(
        json!({ "resultType": "complete", "messages": messages }),
    )))
}

fn text(text: &str) -> Value {
    json!({ "type": "text", "text": text })
}

/// Completes every argument with the same words.
///
/// # Errors
/// Never: the signature is the SDK's.
pub(crate) fn completion(params: &CompleteRequestParams) -> Result<CompleteResult, ErrorData> {
    let words = ["paris", "park", "party"];
    let values: Vec<_> =
        words.into_iter().filter(|word| word.starts_with(&params.argument.value)).collect();
    let total = values.len();
    Ok(typed(json!({ "resultType": "complete",
        "completion": { "values": values, "total": total, "hasMore": false } })))
}
