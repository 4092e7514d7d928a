//! The handler: what it says of itself, and which part answers which method.
#![expect(deprecated, reason = "logging is deprecated by the protocol, not gone")]

use std::borrow::Cow;
use std::sync::Arc;

use rmcp::model::*;
use rmcp::service::{RequestContext, RoleServer, SubscriptionContext};
use rmcp::task_manager::TaskManager;
use rmcp::{ErrorData, ServerHandler};
use tokio::sync::broadcast;

use crate::rounds::Seal;
use crate::{calls, catalog, reads};

/// A list that changed, as the tools that change one tell the subscribers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    Tools,
    Prompts,
}

/// The server; clones share its state, as HTTP without sessions makes one per request.
#[derive(Clone)]
pub(crate) struct Fixture {
    pub(crate) tasks: TaskManager,
    pub(crate) seal: Arc<Seal>,
    pub(crate) changes: broadcast::Sender<Change>,
    eras: Eras,
}

/// Which revisions it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Eras {
    /// All there are.
    Both,
    /// Those up to 2025-11-25.
    Legacy,
    /// 2026-07-28.
    Modern,
}

impl std::fmt::Debug for Fixture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fixture").field("eras", &self.eras).finish_non_exhaustive()
    }
}

impl Fixture {
    /// A server that knows these revisions.
    pub(crate) fn new(eras: Eras) -> Self {
        let (changes, _) = broadcast::channel(16);
        Self { tasks: TaskManager::new(), seal: Arc::default(), changes, eras }
    }
}

/// Tells whether the request may be answered with log messages: since 2026-07-28 it says so itself.
pub(crate) fn may_log(context: &RequestContext<RoleServer>) -> bool {
    let modern = context.protocol_version() >= Some(ProtocolVersion::V_2026_07_28);
    !modern || context.meta.log_level().is_some()
}

impl ServerHandler for Fixture {
    fn get_info(&self) -> ServerConfig {
        let all = ServerCapabilities::builder()
            .enable_tools()
            .enable_tool_list_changed()
            .enable_prompts()
            .enable_prompts_list_changed()
            .enable_resources()
            .enable_resources_subscribe()
            .enable_logging()
            .enable_completions();
        let capabilities =
            if self.eras == Eras::Legacy { all.build() } else { all.enable_tasks().build() };
        ServerConfig::new(capabilities)
            .with_server_info(Implementation::new("conformance-upstream", "1.0.0"))
            .with_instructions("Holds what the conformance suite asks for.")
    }

    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        const MODERN: &[ProtocolVersion] = &[ProtocolVersion::V_2026_07_28];
        Cow::Borrowed(match self.eras {
            Eras::Both => ProtocolVersion::known_up_to(&ProtocolVersion::V_2026_07_28),
            Eras::Legacy => ProtocolVersion::known_up_to(&ProtocolVersion::V_2025_11_25),
            Eras::Modern => MODERN,
        })
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(catalog::tools()))
    }

    /// The SDK compares `Mcp-Param-*` headers with the schema that it finds here.
    fn get_tool(&self, name: &str) -> Option<Tool> {
        catalog::tools().into_iter().find(|tool| tool.name == name)
    }

    async fn call_tool(
        &self,
        params: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        calls::call(self, params, context).await
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        Ok(ListResourcesResult::with_all_items(catalog::resources()))
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        Ok(ListResourceTemplatesResult::with_all_items(catalog::templates()))
    }

    async fn read_resource(
        &self,
        params: ReadResourceRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        reads::resource(&params.uri).map(Into::into)
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        Ok(ListPromptsResult::with_all_items(catalog::prompts()))
    }

    async fn get_prompt(
        &self,
        params: GetPromptRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        reads::prompt(&params)
    }

    async fn complete(
        &self,
        params: CompleteRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        reads::completion(&params)
    }

    async fn set_level(
        &self,
        _: SetLevelRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        Ok(())
    }

    async fn subscribe(
        &self,
        _: SubscribeRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        Ok(())
    }

    async fn unsubscribe(
        &self,
        _: UnsubscribeRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        Ok(())
    }

    fn accepted_subscription_filter(
        &self,
        requested: &SubscriptionFilter,
    ) -> Option<SubscriptionFilter> {
        Some(requested.clone())
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        let mut changes = self.changes.subscribe();
        loop {
            let change = tokio::select! {
                () = context.cancelled() => return Ok(()),
                change = changes.recv() => change,
            };
            // What the subscriber did not ask for is refused by the sink.
            match change {
                Ok(Change::Tools) => context.sink().notify_tool_list_changed().await.ok(),
                Ok(Change::Prompts) => context.sink().notify_prompt_list_changed().await.ok(),
                Err(_) => None,
            };
        }
    }

    async fn get_task(
        &self,
        params: GetTaskParams,
        _: RequestContext<RoleServer>,
    ) -> Result<GetTaskResult, ErrorData> {
        self.tasks.get_task(&params.task_id).map(GetTaskResult::new)
    }

    async fn update_task(
        &self,
        params: UpdateTaskParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.tasks.update_task(&params.task_id, params.input_responses)
    }

    async fn cancel_task(
        &self,
        params: CancelTaskParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.tasks.cancel_task(&params.task_id)
    }
}
