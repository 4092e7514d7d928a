//! A look at the only server before anything is published: does it start, who is it, what has it?

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::kinds::List;
use super::session::Client;
use super::{Hub, fetch, known};
use crate::gateway::GatewayError;
use crate::gateway::upstream::Conn;
use crate::mcp::era::Era;
use crate::mcp::object::Object;

/// How long a server may take to list what it has.
const LISTS: Duration = Duration::from_secs(10);

/// How long it may take to end.
const GONE: Duration = Duration::from_secs(5);

/// Who a server says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The name it gives itself; may be empty.
    pub server_name: String,
    /// Its version; may be empty.
    pub version: String,
    /// The era it answered in; a server of both eras counts as legacy.
    pub era: Era,
    /// How many tools it has, when it said so in time.
    pub tools: Option<usize>,
}

impl Hub {
    /// Looks whether the only server works, and who it is. Of several, one that does not work must
    /// not keep the others from being served.
    ///
    /// # Errors
    /// Says why the server cannot be used.
    pub(in crate::gateway) async fn probe(
        self: &Arc<Self>,
        name: &str,
    ) -> Result<Probe, GatewayError> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let server_name = name.to_owned();
        let ours = Probe { server_name, version, era: Era::Legacy, tools: None };
        let Some(only) = self.everything.single() else { return Ok(ours) };
        let (first, sure) = only.known().first(Era::Legacy);
        let era = Some(first).filter(|era| sure || *era == Era::Legacy);
        let (opening, limits) = (Client::ourselves().opening(Era::Legacy), self.limits());
        let conn = Conn::open(&only.target, &opening, era, &self.nursery, &limits).await?;
        let facts = conn.facts().clone();
        only.known().opened(first, &opening, facts.clone());
        // So that clients are answered before a server of theirs runs.
        let offered = List::ALL.into_iter().filter(|list| known::offers(&facts, *list));
        let lists = offered.map(|list| {
            let fetched = fetch::fetch(self, only, conn.clone(), list, false);
            async move { (list, fetched.get().await) }
        });
        let tools = match tokio::time::timeout(LISTS, join_all(lists)).await {
            Ok(lists) => {
                let tools = lists.into_iter().find(|(list, _)| *list == List::Tools);
                tools.map_or(Some(0), |(_, items)| items.map(|items| items.len()))
            }
            Err(_) => {
                tracing::warn!(server = %only.name, "its lists are late");
                None
            }
        };
        self.save(only);
        conn.stop();
        // Two processes at a time might want the same thing.
        drop(tokio::time::timeout(GONE, conn.over()).await);
        let info = facts.server_info.as_deref().and_then(Object::of).unwrap_or_default();
        let text = |key: &str| info.get_str(key).map(Cow::into_owned).unwrap_or_default();
        Ok(Probe { server_name: text("name"), version: text("version"), era: facts.era, tools })
    }
}
