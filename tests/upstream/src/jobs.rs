//! Tools that become tasks when the client knows the tasks extension (SEP-2663).

use std::time::Duration;

use rmcp::ErrorData;
use rmcp::model::{CallToolRequestParams, CallToolResponse, CallToolResult, CreateTaskResult};
use rmcp::service::{RequestContext, RoleServer};
use rmcp::task_manager::{TaskContext, TaskExit, TaskOptions};
use serde_json::json;

use crate::calls::{needs, pause, result, text_block};
use crate::catalog::typed;
use crate::fixture::Fixture;
use crate::rounds;

/// Tells whether a tool is one of these.
pub(crate) fn knows(tool: &str) -> bool {
    Job::of(tool).is_some()
}

/// Calls a tool: as a task if the client can have one, else to its end.
///
/// # Errors
/// When the client knows no tasks and the tool is nothing else.
pub(crate) async fn call(
    fixture: &Fixture,
    params: &CallToolRequestParams,
    context: &RequestContext<RoleServer>,
) -> Result<CallToolResponse, ErrorData> {
    let unknown = || ErrorData::invalid_params(format!("no tool named {}", params.name), None);
    let job = Job::of(&params.name).ok_or_else(unknown)?;
    let tasks = json!({ "extensions": { "io.modelcontextprotocol/tasks": {} } });
    let declared = needs(context, |client| client.supports_tasks(), tasks);
    match (job, declared) {
        (Job::Compute, Err(_)) => {
            pause(seconds(params)).await;
            return Ok(told("Computed.").into());
        }
        (Job::Delete | Job::Twice, Err(_)) => return Ok(told("Nobody was asked.").into()),
        (_, Err(refused)) => return Err(refused),
        (_, Ok(())) => {}
    }
    let name = rounds::given_name(params.input_responses.as_ref());
    if matches!(job, Job::Escalate) && name.is_none() {
        return Ok(rounds::ask_for_name().into());
    }
    let seconds = seconds(params);
    let options = TaskOptions::new().with_poll_interval_ms(100);
    let task = fixture.tasks.spawn(options, move |task| {
        Box::pin(async move { job.run(task, seconds, name.unwrap_or_default()).await })
    });
    Ok(CreateTaskResult::new(task).into())
}

/// What a task does.
#[derive(Clone, Copy)]
enum Job {
    Compute,
    Fail,
    Break,
    Delete,
    Twice,
    Escalate,
}

impl Job {
    fn of(tool: &str) -> Option<Self> {
        Some(match tool {
            "slow_compute" => Self::Compute,
            "failing_job" => Self::Fail,
            "protocol_error_job" => Self::Break,
            "confirm_delete" => Self::Delete,
            "multi_input" => Self::Twice,
            "test_tool_with_task" => Self::Escalate,
            _ => return None,
        })
    }

    async fn run(
        self,
        task: TaskContext,
        time: Duration,
        name: String,
    ) -> Result<CallToolResult, TaskExit> {
        let question = |message: &str| typed(rounds::elicitation(message, "name"));
        match self {
            Self::Compute => tokio::select! {
                () = task.cancelled() => Err(TaskExit::Cancelled),
                () = pause(time) => Ok(told("Computed.")),
            },
            Self::Fail => {
                pause(Duration::from_millis(500)).await;
                Ok(result(&json!([text_block("The job failed.")]), true))
            }
            Self::Break => Err(ErrorData::internal_error("the job broke", None).into()),
            Self::Delete => {
                task.request_input("confirm", question("Delete it?")).await?;
                Ok(told("Deleted."))
            }
            Self::Twice => {
                tokio::try_join!(
                    task.request_input("first", question("The first?")),
                    task.request_input("second", question("The second?")),
                )?;
                Ok(told("Both."))
            }
            Self::Escalate => Ok(told(&format!("Done for {name}."))),
        }
    }
}

fn seconds(params: &CallToolRequestParams) -> Duration {
    let seconds = params.arguments.as_ref().and_then(|all| all.get("seconds")?.as_u64());
    Duration::from_secs(seconds.unwrap_or_default())
}

fn told(text: &str) -> CallToolResult {
    result(&json!([text_block(text)]), false)
}
