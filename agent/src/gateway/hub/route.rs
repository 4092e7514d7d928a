//! Which server a request is for.

use std::sync::{Arc, MutexGuard};

use futures_util::future::join_all;
use serde_json::value::RawValue;

use super::kinds::List;
use super::member::Member;
use super::session::{Session, quoted};
use super::{filter, lists};
use crate::mcp::message::{Edit, Incoming, Message, string};
use crate::mcp::object::Object;
use crate::naming::{self, Names};

/// Where a request goes.
pub(super) enum Route {
    /// To this server, with these edits.
    To(Arc<Member>, Vec<Edit>),
    /// To the first of these that knows what is asked for.
    Ask(Vec<Arc<Member>>),
}

/// Why a request goes nowhere.
pub(super) enum Astray {
    /// What it names does not exist; says so.
    Unknown(String),
    /// The method is not known.
    Method,
}

impl Astray {
    /// Says that nothing in a list has this name.
    pub(super) fn unknown(list: List, name: &str) -> Self {
        Self::Unknown(format!("unknown {}: {name}", list.kind()))
    }
}

/// Finds the server of a request. A view with one server has all of its requests go there.
pub(super) async fn find(session: &Arc<Session>, request: &Message<'_>) -> Result<Route, Astray> {
    if let Some(only) = session.view.single() {
        filter::check(session, only, request)?;
        if request.method().starts_with("tasks/")
            && let Some(id) = task_of(request)
            && session.hub.task_is_of_another(&id, session, only)
        {
            return Err(unknown_task(&id));
        }
        return Ok(Route::To(only.clone(), Vec::new()));
    }
    match request.method() {
        "tools/call" => by_name(session, request, List::Tools, request.peek().name).await,
        "prompts/get" => by_name(session, request, List::Prompts, request.peek().name).await,
        "resources/read" => by_uri(session, request.peek().uri).await,
        "completion/complete" => by_reference(session, request).await,
        method if method.starts_with("tasks/") => by_task(session, request),
        _ => Err(Astray::Method),
    }
}

async fn by_name(
    session: &Arc<Session>,
    request: &Message<'_>,
    list: List,
    name: Option<&RawValue>,
) -> Result<Route, Astray> {
    let missing = || Astray::Unknown(format!("the {} has no name", list.kind()));
    let raw = name.ok_or_else(missing)?;
    let name = string(raw).ok_or_else(missing)?;
    let found = resolve(session, list, &name).await;
    let (member, original) = found.ok_or_else(|| Astray::unknown(list, &name))?;
    Ok(Route::To(member, vec![request.edit(raw, &quoted(&original))]))
}

/// Finds who advertises a name. A client may know names from an earlier run, so servers whose list
/// was never seen are asked before it is refused.
async fn resolve(session: &Arc<Session>, list: List, name: &str) -> Option<(Arc<Member>, String)> {
    if let Some(found) = known(session, list, name) {
        return Some(found);
    }
    for member in &session.view.members {
        let unseen = member.known().any_list(list).is_none();
        if unseen && name.starts_with(&naming::prefix(&member.name)) {
            drop(lists::items(session, member, list).await);
        }
    }
    known(session, list, name)
}

fn known(session: &Session, list: List, name: &str) -> Option<(Arc<Member>, String)> {
    let (index, original) = {
        let names: MutexGuard<'_, Names> = session.hub.names(list);
        let advertised = names.resolve(name);
        // MCP Apps and skills call tools by the server's own names.
        let (index, original) = advertised.or_else(|| names.resolve_bare(name))?;
        (index, original.to_owned())
    };
    let member = session.view.has(index)?;
    let passes = list != List::Tools || session.hub.admits(member, &original);
    passes.then(|| (member.clone(), original))
}

/// Returns a server's own name of what a request names.
pub(super) fn original(session: &Session, member: &Member, method: &str, name: &str) -> String {
    let list = match method {
        "tools/call" => List::Tools,
        "prompts/get" => List::Prompts,
        _ => return name.to_owned(),
    };
    if session.view.single().is_some() {
        return name.to_owned();
    }
    let known = known(session, list, name).filter(|(owner, _)| owner.index == member.index);
    known.map_or_else(|| name.to_owned(), |(_, original)| original)
}

async fn by_uri(session: &Arc<Session>, uri: Option<&RawValue>) -> Result<Route, Astray> {
    let missing = || Astray::Unknown("the resource has no URI".to_owned());
    let uri = uri.and_then(string).ok_or_else(missing)?;
    let mut owners = owners(session, &uri);
    if owners.len() != 1 {
        // Who never listed what it has may be the owner.
        let unseen = |list: List| {
            let members = session.view.members.iter();
            members.filter(move |member| member.known().any_list(list).is_none())
        };
        let resources = unseen(List::Resources).map(|m| lists::items(session, m, List::Resources));
        let templates = unseen(List::Templates).map(|m| lists::items(session, m, List::Templates));
        tokio::join!(join_all(resources), join_all(templates));
        owners = self::owners(session, &uri);
    }
    if let [only] = owners.as_slice() {
        return Ok(Route::To(only.clone(), Vec::new()));
    }
    // Nobody lists it: those that have resources at all are asked, the likeliest first.
    let mut asked = owners;
    asked.retain(|member| lists::offers(member, List::Resources));
    if asked.is_empty() {
        return Err(Astray::Unknown(format!("unknown resource: {uri}")));
    }
    Ok(Route::Ask(asked))
}

/// Returns who is known to own a resource, the likeliest first.
pub(super) fn owners(session: &Session, uri: &str) -> Vec<Arc<Member>> {
    let uris = session.hub.uris();
    let owners = uris.owner(uri);
    owners.into_iter().filter_map(|index| session.view.has(index).cloned()).collect()
}

async fn by_reference(session: &Arc<Session>, request: &Message<'_>) -> Result<Route, Astray> {
    let missing = || Astray::Unknown("the reference has neither name nor URI".to_owned());
    let params = request.params().and_then(Object::of).ok_or_else(missing)?;
    // Edits want the value where it stands in the message.
    let reference = crate::mcp::lists::member(request.params().ok_or_else(missing)?, "ref");
    let reference = reference.ok_or_else(missing)?;
    drop(params);
    if let Some(name) = crate::mcp::lists::member(reference, "name") {
        return by_name(session, request, List::Prompts, Some(name)).await;
    }
    let uri = crate::mcp::lists::member(reference, "uri").ok_or_else(missing)?;
    by_uri(session, Some(uri)).await
}

fn by_task(session: &Session, request: &Message<'_>) -> Result<Route, Astray> {
    let id = task_of(request).ok_or(Astray::Method)?;
    let owner = session.hub.task_owner(&id, &session.principal);
    let member = owner.and_then(|index| session.view.has(index).cloned());
    Ok(Route::To(member.ok_or_else(|| unknown_task(&id))?, Vec::new()))
}

fn unknown_task(id: &str) -> Astray {
    Astray::Unknown(format!("unknown task: {id}"))
}

/// Returns the task that a message is about.
pub(super) fn task_of<'a>(message: &Message<'a>) -> Option<std::borrow::Cow<'a, str>> {
    let params = message.params()?;
    string(crate::mcp::lists::member(params, "taskId")?)
}

/// Learns from an answer what later requests may name: tasks, which belong to who made them.
pub(super) fn learn(session: &Session, member: &Member, answer: &[u8]) {
    if memchr::memmem::find(answer, b"\"taskId\"").is_none() {
        return;
    }
    let Ok(Incoming::One(message)) = Incoming::parse(answer) else { return };
    let Some(result) = message.result().and_then(Object::of) else { return };
    let task = result.get_object("task").unwrap_or(result);
    if let Some(id) = task.get_str("taskId") {
        session.hub.learn_task(&id, &session.principal, member.index);
    }
}

/// Learns who answered for a resource.
pub(super) fn remember(session: &Session, member: &Member, request: &Message<'_>) {
    if let Some(uri) = request.peek().uri.and_then(string) {
        session.hub.uris().learn(member.index, &uri);
    }
}
