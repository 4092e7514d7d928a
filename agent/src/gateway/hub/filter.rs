//! Keeps clients from tools that they must not have, in lists and in calls.

use std::collections::HashMap;
use std::sync::Arc;

use serde::de::IgnoredAny;

use super::Hub;
use super::kinds::List;
use super::known::Items;
use super::member::Member;
use super::route::Astray;
use super::session::Session;
use crate::gateway::ToolFilter;
use crate::mcp::lists::name_of;
use crate::mcp::message::{Kind, Message, string};
use crate::naming::advertised;

/// The method that calls a tool.
const CALL: &str = "tools/call";

/// What passes in one hub.
#[derive(Debug)]
pub(super) struct Filters {
    /// By the servers' own names, one for each.
    servers: Vec<ToolFilter>,
    /// By advertised names.
    all: ToolFilter,
    open: bool,
}

impl Filters {
    pub(super) fn new(servers: Vec<ToolFilter>, all: ToolFilter) -> Self {
        let open = all.is_open() && servers.iter().all(ToolFilter::is_open);
        Self { servers, all, open }
    }

    /// Tells whether the entry of a server lets a tool pass.
    pub(super) fn entry_admits(&self, member: &Member, own: &str) -> bool {
        self.servers[member.index].admits(own)
    }
}

impl Hub {
    /// Tells whether clients may see and call a tool, by the server's own name for it.
    ///
    /// Names of the whole hub count, also where a client sees one server and its own names: what is
    /// denied must not depend on what else is in view.
    pub(super) fn admits(&self, member: &Member, own: &str) -> bool {
        let Filters { all, open, .. } = &self.filters;
        if *open {
            return true;
        }
        if !self.filters.entry_admits(member, own) {
            return false;
        }
        if all.is_open() || !self.everything.prefixed {
            return all.admits(own);
        }
        // A tool that lost its name to another is denied by the name it should have had, too.
        let first = advertised(&member.name, own);
        let names = self.names(List::Tools);
        let given = names.name_of(member.index, own).unwrap_or(&first);
        all.admits(given) && !all.denies(&first)
    }

    /// Tells whether clients may see less of a list than servers say.
    pub(super) fn hides(&self, list: List) -> bool {
        list == List::Tools && !self.filters.open
    }

    /// Returns what clients may know of a server's list.
    pub(super) fn shown(&self, member: &Member, list: List, items: &Items) -> Items {
        if !self.hides(list) {
            return items.clone();
        }
        let admitted = items.iter().filter(|item| {
            let name = name_of(item);
            name.is_some_and(|name| self.admits(member, &name))
        });
        Arc::new(admitted.cloned().collect())
    }
}

/// Refuses the call of a tool of the one server in view, if clients must not have it.
pub(super) fn check(session: &Session, only: &Member, request: &Message<'_>) -> Result<(), Astray> {
    if session.hub.filters.open || request.method() != CALL {
        return Ok(());
    }
    let missing = || Astray::Unknown("the tool has no name".to_owned());
    let name = request.peek().name.and_then(string).ok_or_else(missing)?;
    if session.hub.admits(only, &name) { Ok(()) } else { Err(Astray::unknown(List::Tools, &name)) }
}

/// Tells whether a server may find the call of another tool in a message than we do.
///
/// There are servers that do not mind the case of names in JSON, and such that run whatever has a
/// method. It matters only where something is to be kept from clients.
pub(super) fn is_shady(session: &Session, message: &Message<'_>) -> bool {
    if session.hub.filters.open {
        return false;
    }
    let said = message.kind() == Kind::Notification;
    if said && !message.method().starts_with("notifications/") {
        return true;
    }
    let params = message.params().filter(|_| message.method() == CALL);
    has_alike(message.text(), &["method", "params"])
        || params.is_some_and(|params| has_alike(params.get(), &["name"]))
}

/// Tells whether an object has a member that differs from one of these by case alone. What is no
/// object has none.
fn has_alike(object: &str, names: &[&str]) -> bool {
    let Ok(members) = serde_json::from_str::<HashMap<String, IgnoredAny>>(object) else {
        return object.trim_start().starts_with('{');
    };
    members
        .keys()
        .any(|key| names.iter().any(|name| key != name && key.trim().eq_ignore_ascii_case(name)))
}
