//! `tools/call`: the tools that answer at once or talk while they work; the others are in `asks`, `rounds` and `jobs`.
#![expect(deprecated, reason = "logging is deprecated by the protocol, not gone")]

use std::time::Duration;

use rmcp::ErrorData;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ClientCapabilities,
    LoggingMessageNotificationParam, ProgressNotificationParam,
};
use rmcp::service::{RequestContext, RoleServer};
use serde_json::{Value, json};

use crate::catalog::typed;
use crate::fixture::{Change, Fixture, may_log};
use crate::reads::{AUDIO, IMAGE};
use crate::{asks, jobs, rounds};

type Context = RequestContext<RoleServer>;

/// Lets time pass, as the suite wants it between two notifications and in tasks.
#[expect(clippy::disallowed_methods, reason = "a tool that takes time is what is asked for")]
pub(crate) async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}

const MOMENT: Duration = Duration::from_millis(50);

/// Calls a tool.
///
/// # Errors
/// When there is none of that name, or when the suite wants an error.
pub(crate) async fn call(
    fixture: &Fixture,
    params: CallToolRequestParams,
    context: Context,
) -> Result<CallToolResponse, ErrorData> {
    if params.name.starts_with("test_input_required_result_") {
        return rounds::call(&fixture.seal, &params, &context);
    }
    if jobs::knows(&params.name) {
        return jobs::call(fixture, &params, &context).await;
    }
    let content = match params.name.as_ref() {
        "test_error_handling" => {
            let text = "This tool intentionally returns an error for testing";
            return Ok(result(&json!([text_block(text)]), true).into());
        }
        "test_missing_capability" => {
            needs(&context, |client| client.sampling.is_some(), json!({ "sampling": {} }))?;
            json!([text_block("The client samples.")])
        }
        "test_streaming_elicitation" => return Ok(rounds::ask_for_name().into()),
        "test_trigger_tool_change" => change(fixture, Change::Tools, &context).await,
        "test_trigger_prompt_change" => change(fixture, Change::Prompts, &context).await,
        "test_tool_with_logging" | "test_logging_tool" => log(&context).await,
        "test_tool_with_progress" => tell_progress(&context).await,
        "test_reconnection" => {
            pause(2 * MOMENT).await;
            json!([text_block("Here it is.")])
        }
        name if asks::knows(name) => return asks::call(&params, &context).await,
        name => content(name, &params)?,
    };
    Ok(result(&content, false).into())
}

/// A finished call.
pub(crate) fn result(content: &Value, is_error: bool) -> CallToolResult {
    let mut result = json!({ "resultType": "complete", "content": content });
    if is_error {
        result["isError"] = json!(true);
    }
    typed(result)
}

/// A block of text.
pub(crate) fn text_block(text: impl AsRef<str>) -> Value {
    json!({ "type": "text", "text": text.as_ref() })
}

/// Refuses a client that did not declare a capability.
///
/// # Errors
/// When `declared` says so.
pub(crate) fn needs(
    context: &Context,
    declared: impl FnOnce(&ClientCapabilities) -> bool,
    capability: Value,
) -> Result<(), ErrorData> {
    if context.client_capabilities().is_some_and(|client| declared(&client)) {
        return Ok(());
    }
    Err(ErrorData::missing_required_client_capability(typed(capability)))
}

/// What the tools return that always return the same.
fn content(name: &str, params: &CallToolRequestParams) -> Result<Value, ErrorData> {
    let argument = |name: &str| params.arguments.as_ref().and_then(|all| all.get(name)?.as_str());
    let image = json!({ "type": "image", "data": IMAGE, "mimeType": "image/png" });
    Ok(match name {
        "test_simple_text" => json!([text_block("This is a simple text response for testing.")]),
        "test_image_content" => json!([image]),
        "test_audio_content" => {
            json!([{ "type": "audio", "data": AUDIO, "mimeType": "audio/wav" }])
        }
        "test_embedded_resource" => json!([{ "type": "resource", "resource": {
            "uri": "test://embedded-resource",
            "mimeType": "text/plain",
            "text": "This is an embedded resource content.",
        }}]),
        "test_multiple_content_types" => {
            json!([text_block("Multiple content types test:"), image, {
                "type": "resource",
                "resource": {
                    "uri": "test://mixed-content-resource",
                    "mimeType": "application/json",
                    "text": r#"{"test":"data","value":123}"#,
                },
            }])
        }
        "json_schema_2020_12_tool" => json!([text_block("The schema is what matters.")]),
        "test_mirrored_argument" => json!([text_block(argument("region").unwrap_or("nowhere"))]),
        "greet" => json!([text_block(format!("Hello, {}!", argument("name").unwrap_or("you")))]),
        name => return Err(ErrorData::invalid_params(format!("no tool named {name}"), None)),
    })
}

async fn change(fixture: &Fixture, change: Change, context: &Context) -> Value {
    // Nobody may be listening.
    fixture.changes.send(change).ok();
    if may_log(context) {
        let told = match change {
            Change::Tools => context.peer.notify_tool_list_changed().await,
            Change::Prompts => context.peer.notify_prompt_list_changed().await,
        };
        told.ok();
    }
    json!([text_block("Changed.")])
}

async fn log(context: &Context) -> Value {
    let messages = ["Tool execution started", "Tool processing data", "Tool execution completed"];
    for message in messages {
        if may_log(context) {
            let params: LoggingMessageNotificationParam =
                typed(json!({ "level": "info", "logger": "fixture", "data": message }));
            context.peer.notify_logging_message(params).await.ok();
        }
        pause(MOMENT).await;
    }
    json!([text_block("Logged.")])
}

async fn tell_progress(context: &Context) -> Value {
    for progress in [0.0, 50.0, 100.0] {
        if let Some(token) = context.meta.get_progress_token() {
            let params = ProgressNotificationParam::new(token, progress).with_total(100.0);
            context.peer.notify_progress(params).await.ok();
        }
        pause(MOMENT).await;
    }
    json!([text_block("Done.")])
}
