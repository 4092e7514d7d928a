//! The engine for several servers as one, and for servers and clients of different eras.
//!
//! A [`Session`] stands for one client; a `Member` for one server, with its conversations; a
//! request is driven from one to the other by `drive`. Nothing here knows how messages travel: the
//! faces hand them in, and `upstream` carries them out.

mod claims;
mod drive;
mod entry;
mod fetch;
mod filter;
mod kinds;
mod known;
mod lanes;
mod ledger;
mod listen;
mod lists;
mod member;
mod merged;
mod mirrored;
mod modern;
mod older;
mod outlet;
mod parked;
mod probe;
mod questions;
mod route;
mod seat;
mod session;
pub(super) mod stdio;
mod tasks;
mod turn;
mod warm;
mod watch;
mod welcome;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use mcpm_shared::access::Principal;
use mcpm_shared::scope::Scope;
use tokio::time::Instant;

use self::filter::Filters;
use self::kinds::List;
use self::known::Known;
pub use self::member::Isolation;
use self::member::{Failure, Member, Slot, SlotKey, Unavailable};
use self::mirrored::Mirrored;
use self::parked::Parking;
pub use self::probe::Probe;
pub(in crate::gateway) use self::seat::{Caller, Seat};
use self::session::Client;
pub(in crate::gateway) use self::session::{Session, View};
use self::tasks::Tasks;
use super::child::Nursery;
use super::upstream::{Conn, Limits, Opening, Target};
use super::{GatewayError, ToolFilter};
use crate::catalog::{Catalog, Identity};
use crate::mcp::era::Era;
use crate::mcp::message::Message;
use crate::model::Server;
use crate::naming::{Names, Uris};
use crate::oauth::Credentials;
use crate::usage::{About, Recorder};

/// How long changes of lists gather before clients are told.
const GATHER: Duration = Duration::from_millis(100);
/// How often what is idle is looked for.
const SWEEP: Duration = Duration::from_secs(5);

/// How a hub behaves.
#[derive(Clone, Debug)]
pub(super) struct HubOptions {
    pub(super) isolation: Isolation,
    /// Which tools pass, by the names they are advertised by.
    pub(super) tools: ToolFilter,
    pub(super) warm: bool,
    /// After how long without use a conversation with a server ends; never when absent.
    pub(super) idle: Option<Duration>,
    /// How many conversations with one server there may be.
    pub(super) max_conns: usize,
    pub(super) start_timeout: Duration,
    pub(super) first_list: Duration,
    pub(super) max_line: usize,
    pub(super) catalog: Option<Catalog>,
    pub(super) usage: Option<(Recorder, About)>,
    pub(super) credentials: Option<Credentials>,
}

/// Several servers as one. It starts nothing by itself.
#[derive(Debug)]
pub(super) struct Hub {
    members: Vec<Arc<Member>>,
    identities: Vec<Identity>,
    filters: Filters,
    /// Which servers are started before they are used.
    warm: Vec<bool>,
    mirrored: Mirrored,
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
        let (mut filters, mut warm) = (Vec::new(), Vec::new());
        for (index, server) in servers.iter().enumerate() {
            let target = Target::new(server, options.credentials.as_ref())?;
            let identity = Identity::of(server);
            let entry = options.catalog.as_ref().and_then(|catalog| catalog.load(&identity));
            let known = entry.map(Known::of).unwrap_or_default();
            let isolation = entry::isolation(server)?.unwrap_or(options.isolation);
            filters.push(ToolFilter::of(server)?);
            warm.push(entry::warm(server)?.unwrap_or(options.warm));
            members.push(Arc::new(Member::new(index, &server.name, target, isolation, known)));
            identities.push(identity);
        }
        let view = |members: Vec<Arc<Member>>| {
            let (merged, params) = Default::default();
            Arc::new(View { prefixed: members.len() > 1, members, merged, params })
        };
        let part = |names: &[String]| {
            view(members.iter().filter(|m| names.contains(&m.name)).cloned().collect())
        };
        let views = profiles.iter().map(|(name, part_of)| (name.clone(), part(part_of))).collect();
        let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
        let hub = Arc::new(Self {
            everything: view(members.clone()),
            filters: Filters::new(filters, options.tools.clone()),
            warm,
            mirrored: Mirrored::new(members.len()),
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
        for member in &hub.members {
            for list in List::ALL {
                let known = member.known().any_list(list);
                if let Some(items) = known {
                    hub.note(member, &items, list);
                }
            }
        }
        Ok(hub)
    }

    /// Returns what a client sees that chose this profile; `None` when there is no such choice.
    pub(super) fn view(&self, profile: Option<&str>) -> Option<Arc<View>> {
        match profile {
            None => Some(self.everything.clone()),
            Some(name) => self.views.get(name).cloned(),
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

    /// Opens the session of a legacy client; returns it with the result of its `initialize`.
    ///
    /// # Errors
    /// The only server in view cannot be had; says why.
    async fn open(
        self: &Arc<Self>,
        initialize: &Message<'_>,
        principal: &Principal,
        view: &Arc<View>,
    ) -> Result<(Arc<Session>, String), Unavailable> {
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
        self.warm_for(&session);
        session
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
    ) -> Result<Arc<Conn>, Failure> {
        if !member.make_room(self.options.max_conns) {
            return Err("too many clients use it at once; try again later".into());
        }
        let limits = self.limits();
        let (first, sure) = member.known().first(opening.era);
        // What it was not asked yet, it may not understand.
        let era = Some(first).filter(|era| sure || *era == Era::Legacy);
        let opened = Conn::open(&member.target, opening, era, &self.nursery, &limits).await;
        let conn = opened
            .map_err(|error| Failure { reason: error.brief(), cause: Some(Arc::new(error)) })?;
        member.known().opened(first, opening, conn.facts().clone());
        member.rehome(slot, conn.facts().era);
        self.save(member);
        self.scope().spawn_until_cancelled(watch::run(
            Arc::downgrade(self),
            slot.clone(),
            member.clone(),
            conn.clone(),
        ));
        Ok(conn)
    }

    /// Writes down what is known of a server: one write at a time, of what is known when it begins.
    fn save(&self, member: &Arc<Member>) {
        let Some(catalog) = self.options.catalog.clone() else { return };
        let (member, identity) = (member.clone(), self.identities[member.index].clone());
        let saving = self.saving.clone();
        saving.send_modify(|saving| *saving += 1);
        self.scope().spawn(async move {
            let saved = tokio::task::spawn_blocking(move || {
                let _turn = lock(&member.saving);
                let entry = member.known().entry(&identity);
                entry.map_or(Ok(false), |entry| catalog.save(&entry))
            });
            let saved = saved.await;
            saving.send_modify(|saving| *saving -= 1);
            if let Ok(Err(error)) = saved {
                tracing::debug!(error = &error as &dyn std::error::Error, "catalogue not saved");
            }
        });
    }

    /// Returns all clients. Dropping one may take the lock, so it is not held any more.
    fn all(&self) -> Vec<Arc<Session>> {
        lock(&self.sessions).values().filter_map(Weak::upgrade).collect()
    }

    /// Returns the clients that a conversation serves and that see the server.
    fn clients(&self, key: &SlotKey, member: &Member) -> Vec<Arc<Session>> {
        let all = self.all();
        let sees = |session: &Arc<Session>| session.view.has(member.index).is_some();
        all.into_iter()
            .filter(|session| sees(session) && session.is_served_by(key, member))
            .collect()
    }

    /// Returns the resources of a server that clients of a conversation are subscribed to.
    fn wanted(&self, key: &SlotKey, member: &Member) -> HashSet<String> {
        let sessions = self.all();
        let mut wanted = HashSet::new();
        let sees = |session: &Session| session.view.has(member.index).is_some();
        for session in sessions.iter().filter(|s| s.is_served_by(key, member) && sees(s)) {
            let mut uris = session.outlet.uris();
            uris.extend(session.subscribed().iter().cloned());
            // As the client sees the servers, and so as it was asked when the client came.
            let its =
                |uri: &String| listen::owner(session, uri).is_some_and(|o| o.index == member.index);
            wanted.extend(uris.into_iter().filter(its));
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
            let sessions = hub.all();
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

    /// Has the conversations with a server of the modern era subscribe anew.
    fn resubscribe(&self, member: &Member) {
        member.known().resubscribe.notify_waiters();
    }

    fn parking(&self) -> &Parking {
        &self.parking
    }

    fn task_owner(&self, id: &str, principal: &Principal) -> Option<usize> {
        lock(&self.tasks).owner(id, principal)
    }

    fn task_is_of_another(&self, id: &str, session: &Session, member: &Member) -> bool {
        lock(&self.tasks).is_of_another(id, &session.principal, member.index)
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
        let sessions = self.all();
        for session in sessions {
            session.tidy(now);
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
        self.all().iter().filter(|session| session.era == Era::Legacy).count()
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

#[cfg(test)]
#[cfg(unix)]
mod tests;
