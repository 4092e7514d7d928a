//! The engine for several servers as one, and for servers and clients of different eras.
//!
//! A [`Session`] stands for one client; a `Member` for one server, with its conversations; a
//! request is driven from one to the other by `drive`. Nothing here knows how messages travel: the
//! faces hand them in, and `upstream` carries them out.

mod drive;
mod kinds;
mod listen;
mod lists;
mod member;
mod modern;
mod older;
mod outlet;
mod parked;
mod questions;
mod route;
mod seat;
mod session;
pub(super) mod stdio;
mod tasks;
mod watch;
mod welcome;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use mcpm_shared::access::Principal;
use mcpm_shared::scope::Scope;
use tokio::time::Instant;

use self::kinds::List;
pub use self::member::Isolation;
use self::member::{Items, Known, Member, Slot, SlotKey};
use self::parked::Parking;
pub(in crate::gateway) use self::seat::{Caller, Seat};
use self::session::Client;
pub(in crate::gateway) use self::session::{Session, View};
use self::tasks::Tasks;
use super::child::Nursery;
use super::upstream::{Conn, Limits, Opening, Target};
use super::{GatewayError, Probe};
use crate::catalog::{Catalog, Entry, Identity, Lists};
use crate::mcp::era::Era;
use crate::mcp::message::Message;
use crate::mcp::object::Object;
use crate::model::Server;
use crate::naming::{Names, Uris};
use crate::usage::{About, Recorder};

/// How long changes of lists gather before clients are told.
const GATHER: Duration = Duration::from_millis(100);
/// How often what is idle is looked for.
const SWEEP: Duration = Duration::from_secs(5);

/// How a hub behaves.
#[derive(Clone, Debug)]
pub(super) struct HubOptions {
    pub(super) isolation: Isolation,
    /// After how long without use a conversation with a server ends; never when absent.
    pub(super) idle: Option<Duration>,
    /// How many conversations with one server there may be.
    pub(super) max_conns: usize,
    pub(super) start_timeout: Duration,
    pub(super) max_line: usize,
    pub(super) catalog: Option<Catalog>,
    pub(super) usage: Option<(Recorder, About)>,
}

/// Several servers as one. It starts nothing by itself.
#[derive(Debug)]
pub(super) struct Hub {
    members: Vec<Arc<Member>>,
    identities: Vec<Identity>,
    views: HashMap<String, Arc<View>>,
    everything: Arc<View>,
    options: HubOptions,
    nursery: Nursery,
    names: [Mutex<Names>; 2],
    uris: Mutex<Uris>,
    tasks: Mutex<Tasks>,
    parking: Parking,
    sessions: Mutex<HashMap<u64, Weak<Session>>>,
    /// Those who speak the modern era, by whom and by what they see.
    callers: Mutex<Callers>,
    changes: Mutex<HashSet<(usize, List)>>,
    next: AtomicU64,
    /// How many catalogues are being written.
    saving: tokio::sync::watch::Sender<usize>,
    swept: std::sync::atomic::AtomicBool,
}

/// By whom, and by the profile they chose.
type Callers = HashMap<(Principal, Option<String>), Arc<Session>>;

/// What we say of ourselves.
fn our_info() -> String {
    format!(r#"{{"name":"mcpm","title":"mcpm","version":"{}"}}"#, env!("CARGO_PKG_VERSION"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    /// Makes a hub of these servers. `profiles` are the parts of it that a client may choose, by
    /// the names of their servers; without a choice it sees everything.
    ///
    /// # Errors
    /// A server's entry is not usable.
    pub(super) fn new(
        servers: &[Server],
        profiles: &[(String, Vec<String>)],
        options: HubOptions,
        nursery: Nursery,
    ) -> Result<Arc<Self>, GatewayError> {
        let mut members = Vec::new();
        let mut identities = Vec::new();
        for (index, server) in servers.iter().enumerate() {
            let target = Target::new(server)?;
            let identity = Identity::of(server);
            let entry = options.catalog.as_ref().and_then(|catalog| catalog.load(&identity));
            let known = entry.map(known).unwrap_or_default();
            let isolation = isolation_of(server).unwrap_or(options.isolation);
            members.push(Arc::new(Member::new(index, &server.name, target, isolation, known)));
            identities.push(identity);
        }
        let view =
            |members: Vec<Arc<Member>>| Arc::new(View { prefixed: members.len() > 1, members });
        let part = |names: &[String]| {
            view(members.iter().filter(|m| names.contains(&m.name)).cloned().collect())
        };
        let views = profiles.iter().map(|(name, part_of)| (name.clone(), part(part_of))).collect();
        let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
        let hub = Arc::new(Self {
            everything: view(members.clone()),
            views,
            identities,
            options,
            nursery,
            names: [Mutex::new(Names::new(&names)), Mutex::new(Names::new(&names))],
            uris: Mutex::new(Uris::new(&names)),
            tasks: Mutex::default(),
            parking: Parking::default(),
            sessions: Mutex::default(),
            callers: Mutex::default(),
            changes: Mutex::default(),
            next: AtomicU64::new(1),
            saving: tokio::sync::watch::Sender::new(0),
            swept: false.into(),
            members,
        });
        for list in List::ALL {
            hub.note(&hub.known_lists(list), list);
        }
        Ok(hub)
    }

    fn known_lists(&self, list: List) -> Vec<(Arc<Member>, Items)> {
        let known = |member: &Arc<Member>| {
            let items = member.known().lists[list.at()].clone()?;
            Some((member.clone(), items))
        };
        self.members.iter().filter_map(known).collect()
    }

    /// Returns what a client sees that chose this profile; `None` when there is no such choice.
    pub(super) fn view(&self, profile: Option<&str>) -> Option<Arc<View>> {
        match profile {
            None => Some(self.everything.clone()),
            Some(name) => self.views.get(name).cloned(),
        }
    }

    /// Returns what a client sees that chose nothing.
    pub(super) fn everything(&self) -> Arc<View> {
        self.everything.clone()
    }

    /// Notes the era of the only server, which somebody else has found out.
    pub(super) fn set_era(&self, era: Era) {
        if let Some(only) = self.everything.single() {
            only.known().era = Some(era);
        }
    }

    fn scope(&self) -> &Scope {
        &self.nursery.scope
    }

    fn names(&self, list: List) -> MutexGuard<'_, Names> {
        lock(&self.names[usize::from(list == List::Prompts)])
    }

    fn uris(&self) -> MutexGuard<'_, Uris> {
        lock(&self.uris)
    }

    /// Notes the names and URIs of lists.
    fn note(&self, parts: &[(Arc<Member>, Items)], list: List) {
        for (member, items) in parts {
            for item in items.iter() {
                match list {
                    List::Tools | List::Prompts => {
                        if let Some(name) = crate::mcp::lists::name_of(item) {
                            self.names(list).advertise(member.index, &name);
                        }
                    }
                    List::Resources | List::Templates => {
                        let Some(uri) = lists::uri_of(item, list) else { continue };
                        let mut uris = self.uris();
                        if list == List::Resources {
                            uris.claim(member.index, &uri);
                        } else {
                            uris.claim_template(member.index, &uri);
                        }
                    }
                }
            }
        }
    }

    /// Opens the session of a legacy client; returns it with the result of its `initialize`.
    ///
    /// # Errors
    /// The only server in view cannot be had; says why.
    pub(super) async fn open(
        self: &Arc<Self>,
        initialize: &Message<'_>,
        principal: &Principal,
        view: &Arc<View>,
    ) -> Result<(Arc<Session>, String), String> {
        self.keep_tidy();
        let client = welcome::client(initialize);
        let session = self.session(Era::Legacy, principal, view, client, true);
        let result = welcome::initialize(&session).await?;
        Ok((session, result))
    }

    /// Returns the modern requests of a principal as one client.
    pub(super) fn caller(
        self: &Arc<Self>,
        principal: &Principal,
        view: &Arc<View>,
        profile: Option<&str>,
    ) -> Arc<Session> {
        self.keep_tidy();
        let key = (principal.clone(), profile.map(str::to_owned));
        let mut callers = lock(&self.callers);
        let caller = callers.entry(key).or_insert_with(|| {
            // Over HTTP ids of the modern era are unique within one stream only.
            self.session(Era::Modern, principal, view, Client::ourselves(), false)
        });
        caller.clone()
    }

    /// Returns a modern client that nobody else is.
    fn own_caller(self: &Arc<Self>, view: &Arc<View>) -> Arc<Session> {
        self.session(Era::Modern, &Principal::Anonymous, view, Client::ourselves(), true)
    }

    /// Makes a session, of which the hub knows for as long as somebody holds it.
    fn session(
        self: &Arc<Self>,
        era: Era,
        principal: &Principal,
        view: &Arc<View>,
        client: Client,
        unique: bool,
    ) -> Arc<Session> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (hub, principal, view) = (self.clone(), principal.clone(), view.clone());
        let session = Session::new(hub, number, era, principal, view, client, unique);
        let session = Arc::new(session);
        lock(&self.sessions).insert(number, Arc::downgrade(&session));
        session
    }

    /// Looks whether the only server works, and who it is. Of several, one that does not work must
    /// not keep the others from being served.
    ///
    /// # Errors
    /// Says why the server cannot be used.
    pub(super) async fn probe(&self, name: &str) -> Result<Probe, GatewayError> {
        let ours = Probe {
            server_name: name.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            era: Era::Legacy,
        };
        let Some(only) = self.everything.single() else { return Ok(ours) };
        let limits = self.limits();
        let Client { info, capabilities, version } = Client::ourselves();
        let opening = Opening { client_info: info, capabilities, version };
        let conn = Conn::open(&only.target, &opening, None, &self.nursery, &limits).await?;
        let facts = conn.facts().clone();
        conn.stop();
        only.known().era = Some(facts.era);
        let info = facts.server_info.as_deref().and_then(Object::of).unwrap_or_default();
        let text = |key: &str| info.get_str(key).map(Cow::into_owned).unwrap_or_default();
        Ok(Probe { server_name: text("name"), version: text("version"), era: facts.era })
    }

    fn limits(&self) -> Limits {
        let HubOptions { start_timeout, max_line, .. } = self.options;
        Limits { start_timeout, max_line }
    }

    /// Starts a conversation; says in a few words why it cannot, for the visitor to read.
    async fn start(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
        member: &Arc<Member>,
        opening: &Opening,
    ) -> Result<Arc<Conn>, String> {
        if !member.make_room(self.options.max_conns) {
            return Err("too many clients use it at once; try again later".to_owned());
        }
        let limits = self.limits();
        let era = member.known().era;
        let opened = Conn::open(&member.target, opening, era, &self.nursery, &limits).await;
        let conn = opened.map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "cannot use a server");
            error.brief()
        })?;
        {
            let mut known = member.known();
            known.era = Some(conn.facts().era);
            known.facts = Some(Arc::new(conn.facts().clone()));
        }
        self.save(member);
        self.scope().spawn_until_cancelled(watch::run(
            Arc::downgrade(self),
            slot.clone(),
            member.clone(),
            conn.clone(),
        ));
        Ok(conn)
    }

    /// Writes down what is known of a server.
    fn save(&self, member: &Member) {
        let Some(catalog) = self.options.catalog.clone() else { return };
        let entry = {
            let known = member.known();
            let Some(facts) = known.facts.clone() else { return };
            let opened = String::from_utf8_lossy(&facts.opened).into_owned();
            let Ok(opened) = serde_json::value::RawValue::from_string(opened) else { return };
            let list = |list: List| known.lists[list.at()].as_deref().cloned();
            Entry {
                identity: self.identities[member.index].clone(),
                era: facts.era,
                opened,
                lists: Lists {
                    tools: list(List::Tools),
                    prompts: list(List::Prompts),
                    resources: list(List::Resources),
                    templates: list(List::Templates),
                },
                saved_at: 0,
            }
        };
        let saving = self.saving.clone();
        saving.send_modify(|saving| *saving += 1);
        self.scope().spawn(async move {
            let saved = tokio::task::spawn_blocking(move || catalog.save(&entry)).await;
            saving.send_modify(|saving| *saving -= 1);
            if let Ok(Err(error)) = saved {
                tracing::debug!(error = &error as &dyn std::error::Error, "catalogue not saved");
            }
        });
    }

    /// Returns the clients that a conversation serves and that see the server.
    fn clients(&self, key: &SlotKey, member: &Member) -> Vec<Arc<Session>> {
        let sessions = lock(&self.sessions);
        let all = sessions.values().filter_map(Weak::upgrade);
        let sees = |session: &Arc<Session>| session.view.has(member.index).is_some();
        all.filter(|session| session.is_served_by(key) && sees(session)).collect()
    }

    /// Returns the resources that clients of a conversation are subscribed to.
    fn wanted(&self, key: &SlotKey) -> HashSet<String> {
        let sessions: Vec<_> = lock(&self.sessions).values().filter_map(Weak::upgrade).collect();
        let mut wanted = HashSet::new();
        for session in sessions.iter().filter(|session| session.is_served_by(key)) {
            wanted.extend(session.subscribed().iter().cloned());
            wanted.extend(session.outlet.uris());
        }
        wanted
    }

    /// Tells the clients that a list of a server changed; changes that come together are told
    /// once.
    fn tell_changed(self: &Arc<Self>, member: &Member, list: List) {
        let first = {
            let mut changes = lock(&self.changes);
            let first = changes.is_empty();
            changes.insert((member.index, list));
            first
        };
        if !first {
            return;
        }
        let hub = self.clone();
        self.scope().spawn_until_cancelled(async move {
            tokio::time::sleep(GATHER).await;
            let changes = std::mem::take(&mut *lock(&hub.changes));
            let sessions: Vec<_> = lock(&hub.sessions).values().filter_map(Weak::upgrade).collect();
            for session in sessions {
                let mut told = HashSet::new();
                for (index, list) in &changes {
                    if session.view.has(*index).is_some() && told.insert(list.changed()) {
                        session.tell_changed(*list);
                    }
                }
            }
        });
    }

    /// Gives up subscriptions that nobody holds any more.
    fn release(self: &Arc<Self>, session: &Arc<Session>, uris: &[String]) {
        for member in &session.view.members {
            let slot = member.slot(session.slot_key(member));
            let Some(conn) = slot.current() else { continue };
            if conn.facts().era == Era::Modern {
                self.resubscribe(member);
                continue;
            }
            let wanted = self.wanted(&slot.key);
            let mut gone: Vec<String> = uris.to_vec();
            gone.retain(|uri| !wanted.contains(uri));
            self.scope().spawn_until_cancelled(async move {
                for uri in gone {
                    let mut params = crate::mcp::object::Object::new();
                    params.set_str("uri", &uri);
                    drop(lists::ask(&conn, "resources/unsubscribe", params).await);
                }
            });
        }
    }

    /// Has the conversations with a server of the modern era subscribe anew.
    fn resubscribe(&self, member: &Member) {
        member.known().resubscribe.notify_waiters();
    }

    /// Asks servers for as much log as their clients want.
    async fn set_levels(self: &Arc<Self>, session: &Arc<Session>) {
        for member in &session.view.members {
            let slot = member.slot(session.slot_key(member));
            if let Some(conn) = slot.current() {
                watch::set_level(self, member, &slot.key, &conn).await;
            }
        }
    }

    fn parking(&self) -> &Parking {
        &self.parking
    }

    fn task_owner(&self, id: &str, principal: &Principal) -> Option<usize> {
        lock(&self.tasks).owner(id, principal)
    }

    fn learn_task(&self, id: &str, principal: &Principal, member: usize) {
        lock(&self.tasks).learn(id, principal, member);
    }

    /// Forgets a session and ends its conversations.
    fn forget(&self, number: u64, view: &View) {
        lock(&self.sessions).remove(&number);
        for member in &view.members {
            member.forget(number);
        }
    }

    /// Keeps a task that ends what is idle, from the first client on.
    fn keep_tidy(self: &Arc<Self>) {
        if self.swept.swap(true, Ordering::Relaxed) {
            return;
        }
        let hub = Arc::downgrade(self);
        self.scope().spawn_until_cancelled(async move {
            let mut tick = tokio::time::interval(SWEEP);
            loop {
                tick.tick().await;
                let Some(hub) = hub.upgrade() else { return };
                hub.tidy();
            }
        });
    }

    fn tidy(&self) {
        let now = Instant::now();
        for member in &self.members {
            member.sweep(self.options.idle, now);
        }
        self.parking.sweep(now);
        let sessions: Vec<_> = lock(&self.sessions).values().filter_map(Weak::upgrade).collect();
        for session in sessions {
            session.questions.tidy();
        }
        if let Some(idle) = self.options.idle {
            let stale = |session: &Arc<Session>| {
                !session.is_busy() && now.duration_since(session.last_used()) >= idle
            };
            let mut callers = lock(&self.callers);
            let gone: Vec<_> = callers.extract_if(|_, session| stale(session)).collect();
            drop(callers);
            // Dropping a session takes locks of the hub.
            drop(gone);
        }
    }

    /// Returns how many legacy sessions are open.
    pub(super) fn count(&self) -> usize {
        let sessions = lock(&self.sessions);
        sessions.values().filter_map(Weak::upgrade).filter(|s| s.era == Era::Legacy).count()
    }

    /// Waits until what was learned is written down.
    pub(super) async fn saved(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        drop(self.saving.subscribe().wait_for(|saving| *saving == 0).await);
    }

    /// Ends everything.
    pub(super) fn stop(&self) {
        let callers = std::mem::take(&mut *lock(&self.callers));
        drop(callers);
        self.parking.clear();
        for member in &self.members {
            member.stop();
        }
    }
}

/// Reads what an entry of `servers.json` says of who shares its process.
fn isolation_of(server: &Server) -> Option<Isolation> {
    match server.extra.get("isolation")?.as_str()? {
        "shared" => Some(Isolation::Shared),
        "principal" => Some(Isolation::Principal),
        "session" => Some(Isolation::Session),
        other => {
            tracing::warn!(server = %server.name, isolation = other, "no such isolation");
            None
        }
    }
}

fn known(entry: Entry) -> Known {
    let Entry { era, opened, lists, .. } = entry;
    let facts = welcome::facts(era, &opened);
    let Lists { tools, prompts, resources, templates } = lists;
    let lists = [tools, prompts, resources, templates].map(|list| list.map(Arc::new));
    Known { era: Some(era), facts: Some(Arc::new(facts)), lists, ..Known::default() }
}

#[cfg(test)]
#[cfg(unix)]
mod tests;
