//! The tools, as MCP has them.

use std::sync::Arc;

use rmcp::handler::server::router::tool::ToolRouter;
use rmcp::handler::server::tool::IntoCallToolResult;
use rmcp::handler::server::wrapper::{Json, Parameters};
use rmcp::model::{
    CallToolResponse, CallToolResult, ContentBlock, Implementation, ServerCapabilities,
    ServerConfig,
};
use rmcp::schemars::{self, JsonSchema};
use rmcp::service::ServerInitializeError;
use rmcp::{ErrorData, ServerHandler, ServiceExt as _, tool, tool_handler, tool_router};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};

use super::view::{Catalogue, Change, Check, Details, ProfileList, ServerList, Usage};
use super::{Desk, Refusal};

/// Why the server stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AssistantError {
    /// The client did not open a session.
    #[error("the client did not open a session")]
    Opening(#[source] Box<ServerInitializeError>),
    /// The server's own task failed.
    #[error("the server failed")]
    Task(#[from] tokio::task::JoinError),
}

impl crate::hint::Hint for AssistantError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Opening(_) => Some("Start it from an MCP client, not by hand".to_owned()),
            Self::Task(_) => None,
        }
    }
}

/// Serves the tools on standard input and output until the input ends.
///
/// # Errors
/// The client never opened a session, or the server failed.
pub async fn serve_stdio(desk: Desk) -> Result<(), AssistantError> {
    serve(desk, rmcp::transport::stdio_pipes()).await
}

/// Serves the tools over a pair of streams until the input ends.
///
/// # Errors
/// The client never opened a session, or the server failed.
pub async fn serve(
    desk: Desk,
    pipes: (impl AsyncRead + Send + Unpin + 'static, impl AsyncWrite + Send + Unpin + 'static),
) -> Result<(), AssistantError> {
    match Assistant::new(desk).serve(pipes).await {
        Ok(running) => {
            running.waiting().await?;
            Ok(())
        }
        // Somebody looked and left.
        Err(ServerInitializeError::ConnectionClosed(_)) => Ok(()),
        Err(error) => Err(AssistantError::Opening(Box::new(error))),
    }
}

impl IntoCallToolResult for Refusal {
    fn into_call_tool_result(self) -> Result<CallToolResponse, ErrorData> {
        Ok(CallToolResult::error(vec![ContentBlock::text(self.to_string())]).into())
    }
}

#[derive(Clone, Debug)]
struct Assistant {
    desk: Arc<Desk>,
    tool_router: ToolRouter<Self>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Query {
    /// What to look for in names, descriptions, tags and categories.
    query: String,
    /// How many servers to return; 10 unless said, at most 50.
    #[serde(default)]
    limit: Option<usize>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Which {
    /// The name of the server.
    server: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Membership {
    /// The name of an installed server.
    server: String,
    /// The profile; needed unless mcpm was started for one.
    #[serde(default)]
    profile: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Period {
    /// How many days to look back; 30 unless said.
    #[serde(default)]
    days: Option<u32>,
    /// Look at this server only.
    #[serde(default)]
    server: Option<String>,
}

#[tool_router]
impl Assistant {
    fn new(desk: Desk) -> Self {
        Self { desk: Arc::new(desk), tool_router: Self::tool_router() }
    }

    #[tool(
        description = "Lists the MCP servers that are installed, and which of them are enabled",
        annotations(title = "Installed servers", read_only_hint = true, open_world_hint = false)
    )]
    fn list_servers(&self) -> Result<Json<ServerList>, Refusal> {
        self.desk.servers().map(Json)
    }

    #[tool(
        description = "Lists profiles: groups of servers that clients get as one",
        annotations(title = "Profiles", read_only_hint = true, open_world_hint = false)
    )]
    fn list_profiles(&self) -> Result<Json<ProfileList>, Refusal> {
        self.desk.profiles().map(Json)
    }

    #[tool(
        description = "Searches the registries for MCP servers that can be installed",
        annotations(title = "Search the catalogue", read_only_hint = true, open_world_hint = true)
    )]
    async fn search_catalogue(
        &self,
        Parameters(Query { query, limit }): Parameters<Query>,
    ) -> Result<Json<Catalogue>, Refusal> {
        self.desk.search(&query, limit).await.map(Json)
    }

    #[tool(
        description = "Shows what a registry says of one server: what it does, how it is installed and what it asks for",
        annotations(title = "Details of a server", read_only_hint = true, open_world_hint = true)
    )]
    async fn show_details(
        &self,
        Parameters(Which { server }): Parameters<Which>,
    ) -> Result<Json<Details>, Refusal> {
        self.desk.details(&server).await.map(Json)
    }

    #[tool(
        description = "Puts an installed server into a profile",
        annotations(
            title = "Enable a server",
            read_only_hint = false,
            destructive_hint = false,
            idempotent_hint = true,
            open_world_hint = false
        )
    )]
    fn enable_server(
        &self,
        Parameters(Membership { server, profile }): Parameters<Membership>,
    ) -> Result<Json<Change>, Refusal> {
        self.desk.enable(&server, profile.as_deref(), true).map(Json)
    }

    #[tool(
        description = "Takes a server out of a profile; it stays installed",
        annotations(
            title = "Disable a server",
            read_only_hint = false,
            destructive_hint = true,
            idempotent_hint = true,
            open_world_hint = false
        )
    )]
    fn disable_server(
        &self,
        Parameters(Membership { server, profile }): Parameters<Membership>,
    ) -> Result<Json<Change>, Refusal> {
        self.desk.enable(&server, profile.as_deref(), false).map(Json)
    }

    #[tool(
        description = "Starts an installed server for a moment and tells whether it works and how many tools it has",
        annotations(
            title = "Status of a server",
            read_only_hint = true,
            idempotent_hint = true,
            open_world_hint = true
        )
    )]
    async fn server_status(
        &self,
        Parameters(Which { server }): Parameters<Which>,
    ) -> Result<Json<Check>, Refusal> {
        self.desk.check(&server).await.map(Json)
    }

    #[tool(
        description = "Tells how servers and tools were used: calls, errors and how long they took",
        annotations(title = "Usage", read_only_hint = true, open_world_hint = false)
    )]
    async fn usage(
        &self,
        Parameters(Period { days, server }): Parameters<Period>,
    ) -> Result<Json<Usage>, Refusal> {
        self.desk.usage(days, server).await.map(Json)
    }
}

#[tool_handler(router = self.tool_router)]
impl ServerHandler for Assistant {
    fn get_info(&self) -> ServerConfig {
        let about = match &self.desk.profile {
            Some(profile) => format!(
                "Manages the MCP servers of profile `{profile}`: list, search, enable, disable, status, usage."
            ),
            None => "Manages the MCP servers of this machine: list, search, enable and disable in profiles, status, usage.".to_owned(),
        };
        let rules = "Servers are installed by people, with the command that `show_details` names. Values of variables and headers are never shown.";
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(
                Implementation::new("mcpm", env!("CARGO_PKG_VERSION")).with_title("mcpm"),
            )
            .with_instructions(format!("{about} {rules}"))
    }
}
