//! The built-in demo MCP server: what `mcpm demo` shares, over stdio like any other server.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rmcp::handler::server::router::prompt::PromptRouter;
use rmcp::handler::server::router::tool::ToolRouter;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{
    Implementation, ListResourcesResult, PaginatedRequestParams, ProgressNotificationParam,
    PromptMessage, ReadResourceRequestParams, ReadResourceResponse, ReadResourceResult, Resource,
    ResourceContents, Role, ServerCapabilities, ServerConfig,
};
use rmcp::schemars::{self, JsonSchema};
use rmcp::service::{RequestContext, ServerInitializeError};
use rmcp::{
    ErrorData, RoleServer, ServerHandler, ServiceExt as _, prompt, prompt_handler, prompt_router,
    tool, tool_handler, tool_router,
};
use serde::Deserialize;

/// The hidden subcommand of `mcpm` that runs [`serve_stdio`].
pub const SUBCOMMAND: &str = "demo-server";

const WELCOME_URI: &str = "demo://welcome";
const WELCOME: &str = "This text came from a demo server on the sharer's machine to you.";

/// The most steps that `countdown` takes.
const MAX_STEPS: u32 = 1000;

/// Why the demo server stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// The client did not open a session.
    #[error("the client did not open a session")]
    Opening(#[source] Box<ServerInitializeError>),
    /// The server's own task failed.
    #[error("the demo server failed")]
    Task(#[from] tokio::task::JoinError),
}

/// Serves the demo server on standard input and output until the input ends.
///
/// # Errors
/// The client never opened a session, or the server failed.
pub async fn serve_stdio() -> Result<(), DemoError> {
    serve(rmcp::transport::stdio_pipes()).await
}

async fn serve(
    pipes: (
        impl tokio::io::AsyncRead + Send + Unpin + 'static,
        impl tokio::io::AsyncWrite + Send + Unpin + 'static,
    ),
) -> Result<(), DemoError> {
    match Demo::new().serve(pipes).await {
        Ok(running) => {
            running.waiting().await?;
            Ok(())
        }
        // Somebody looked and left.
        Err(ServerInitializeError::ConnectionClosed(_)) => Ok(()),
        Err(error) => Err(DemoError::Opening(Box::new(error))),
    }
}

#[derive(Clone, Debug)]
struct Demo {
    tool_router: ToolRouter<Self>,
    prompt_router: PromptRouter<Self>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct Echo {
    /// What to say back.
    message: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct Add {
    /// The first number.
    a: f64,
    /// The second number.
    b: f64,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct Countdown {
    /// Where to start; at most 1000.
    #[serde(default = "ten")]
    from: u32,
    /// How long one step takes, in milliseconds; at most 10000.
    #[serde(default)]
    step_ms: u32,
}

fn ten() -> u32 {
    10
}

#[derive(Debug, Deserialize, JsonSchema)]
struct Greeting {
    /// Whom to greet.
    name: String,
}

#[tool_router]
impl Demo {
    fn new() -> Self {
        Self { tool_router: Self::tool_router(), prompt_router: Self::prompt_router() }
    }

    #[tool(description = "Says back what it is told")]
    fn echo(&self, Parameters(Echo { message }): Parameters<Echo>) -> String {
        message
    }

    #[tool(description = "Adds two numbers")]
    fn add(&self, Parameters(Add { a, b }): Parameters<Add>) -> String {
        (a + b).to_string()
    }

    #[tool(description = "Counts down to zero and reports its progress")]
    async fn countdown(
        &self,
        Parameters(Countdown { from, step_ms }): Parameters<Countdown>,
        context: RequestContext<RoleServer>,
    ) -> Result<String, ErrorData> {
        if from > MAX_STEPS {
            return Err(ErrorData::invalid_params("`from` is at most 1000", None));
        }
        let step = Duration::from_millis(step_ms.min(10_000).into());
        let token = context.meta.get_progress_token();
        for done in 1..=from {
            tokio::select! {
                () = tokio::time::sleep(step) => {}
                () = context.ct.cancelled() => {
                    return Err(ErrorData::internal_error("cancelled", None));
                }
            }
            let Some(token) = token.clone() else { continue };
            let progress = ProgressNotificationParam::new(token, done.into())
                .with_total(from.into())
                .with_message(format!("{} to go", from - done));
            // A client that is gone is noticed by the session.
            drop(context.peer.notify_progress(progress).await);
        }
        Ok("liftoff".to_owned())
    }

    #[tool(description = "Tells the time of the sharer's machine, in seconds since 1970 (UTC)")]
    fn time_now(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.as_secs().to_string()
    }
}

#[prompt_router]
impl Demo {
    #[prompt(description = "Asks for a greeting")]
    async fn greet(
        &self,
        Parameters(Greeting { name }): Parameters<Greeting>,
    ) -> Vec<PromptMessage> {
        std::future::ready(()).await;
        let text = format!("Greet {name} and say that this prompt came through mcpm.");
        vec![PromptMessage::new_text(Role::User, text)]
    }
}

#[tool_handler(router = self.tool_router)]
#[prompt_handler(router = self.prompt_router)]
impl ServerHandler for Demo {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_prompts()
            .enable_resources()
            .build();
        ServerConfig::new(capabilities)
            .with_server_info(Implementation::new("mcpm-demo", env!("CARGO_PKG_VERSION")))
            .with_instructions("A demo: call `echo`, `add`, `countdown` or `time_now`.")
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        std::future::ready(()).await;
        let welcome = Resource::new(WELCOME_URI, "welcome").with_mime_type("text/plain");
        Ok(ListResourcesResult::with_all_items(vec![welcome]))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        std::future::ready(()).await;
        if request.uri != WELCOME_URI {
            return Err(ErrorData::resource_not_found("there is only demo://welcome", None));
        }
        let contents = ResourceContents::text(WELCOME, WELCOME_URI);
        Ok(ReadResourceResult::new(vec![contents]).into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, duplex, split};

    use super::*;

    #[tokio::test]
    async fn the_demo_answers_and_reports_its_progress_before_the_result() {
        let (ours, theirs) = duplex(4096);
        let server = serve(split(theirs));
        let talk = async move {
            let (reader, mut writer) = split(ours);
            let mut lines = BufReader::new(reader).lines();
            let initialize = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
                "protocolVersion": "2025-11-25", "capabilities": {},
                "clientInfo": {"name": "test", "version": "0"}}});
            let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
            let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
                "name": "countdown", "arguments": {"from": 3},
                "_meta": {"progressToken": "p"}}});
            for message in [initialize, initialized, call] {
                writer.write_all(format!("{message}\n").as_bytes()).await.unwrap();
            }
            let mut next = async || -> Value {
                serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap()
            };
            assert_eq!(next().await["result"]["serverInfo"]["name"], "mcpm-demo");
            for n in 1..=3 {
                assert_eq!(next().await["params"]["progress"], f64::from(n));
            }
            assert_eq!(next().await["result"]["content"][0]["text"], "liftoff");
        };
        let (served, ()) = tokio::join!(server, talk);
        served.unwrap();
    }
}
