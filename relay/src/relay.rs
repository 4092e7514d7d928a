//! A relay as a value: [`Relay::start`] gives one that accepts, [`Relay::shutdown`] ends it well,
//! dropping it ends it at once. The binary, the demo and every test start it the same way.

mod chores;
mod listen;
mod reload;
mod several;
mod start_error;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use mcpm_shared::scope::Scope;
use mcpm_shared::token::Token;
use tokio::sync::{Notify, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::future::FutureExt as _;

use self::chores::{end_revoked_sessions, janitor, prune, show_health};
use self::listen::{Bound, copies, listen_on};
use self::reload::reloadable;
pub use self::start_error::StartError;
use crate::admin::api::{AdminToken, Api};
use crate::admin::dashboard::Dashboard;
use crate::admin::{self, Admin, Phase};
use crate::admission::{Admission, unix_now};
use crate::cert;
use crate::config::{Config, Live, ReloadError, Reloaded, Reloader};
use crate::domains::{Checker, keep_checked};
use crate::handover::{DatabaseLock, Socket};
use crate::http::{self, Apex, Edge, Routes, Server, Stop};
use crate::metrics::Metrics;
use crate::observe::Observers;
use crate::ports::Ports;
use crate::proxy::Proxy;
use crate::store::{Guarded, Store};
use crate::tunnel::owners::{self, Owners};
use crate::tunnel::rules::{self, Rules};
use crate::tunnel::table::Table;
use crate::tunnel::{TunnelParts, Tunnels};

/// How long the last tasks get after everything was told to end.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// How long connections that rest are left open once others accept: their next answer says that it
/// is the last one, so that no request meets a connection that is just being closed. Agents stay
/// for longer than this.
const PARTING: Duration = Duration::from_secs(5);

/// A running relay.
#[derive(Debug)]
pub struct Relay {
    addr: SocketAddr,
    tunnel_addr: Option<SocketAddr>,
    http_addr: Option<SocketAddr>,
    admin_addr: Option<SocketAddr>,
    edge: Arc<Edge>,
    reloader: Arc<Reloader>,
    phase: watch::Sender<Phase>,
    /// Copies of the listening sockets, until a successor is offered them.
    sockets: Mutex<Vec<Socket>>,
    /// Keeps other relays from the database, where only one may use it.
    lock: Option<DatabaseLock>,
    /// What accepts visitors and agents: ends first.
    listeners: Scope,
    /// The admin listener.
    admin: Scope,
    /// Tells visitors on HTTP/2 which of their requests were heard: when nothing more is accepted.
    goaways: Scope,
    /// Visitors: told to finish after that.
    visitors: Scope,
    /// Agents, and what upgraded connections carry: ended after the visitors.
    agents: Scope,
    /// Janitor and the like: ended last.
    services: Scope,
}

impl Relay {
    /// Starts a relay. It accepts connections when this returns.
    ///
    /// # Errors
    /// When a listener, the certificate or the store fails.
    pub async fn start(config: Config, ports: Ports) -> Result<Self, StartError> {
        let mut config = config;
        config.name_node();
        let config = Arc::new(config);
        let tls = match &ports.cert {
            Some(cert) => Some(TlsAcceptor::from(Arc::new(cert::server_config(cert.as_ref())?))),
            None => None,
        };
        let bind = |addr, setting| listen_on(addr, setting, &ports.inherited);
        let public = bind(config.listen, "--listen")?;
        let tunnel = config.tunnel_listen.map(|addr| bind(addr, "--tunnel-listen")).transpose()?;
        let http = config.http_listen.map(|addr| bind(addr, "--http-listen")).transpose()?;
        let admin = config.admin_listen.map(|addr| bind(addr, "--admin-listen")).transpose()?;
        let nodes = config.nodes.as_ref().map(|nodes| bind(nodes.listen, "--node-listen"));
        let nodes = nodes.transpose()?;
        let bound = [Some(&public), tunnel.as_ref(), http.as_ref(), admin.as_ref(), nodes.as_ref()];
        let sockets = copies(bound.into_iter().flatten())?;
        let guarded = Arc::new(Guarded::new(Arc::clone(&ports.store)));
        let ports = Ports { store: Arc::clone(&guarded) as Arc<dyn Store>, ..ports };
        // Before the first visitor.
        ports.domains.refresh(&*ports.store).await?;
        let (visitors, agents, services) = (Scope::new(), Scope::new(), Scope::new());
        let tunnel_addr = tunnel.as_ref().map(|bound| bound.addr);
        let edge = edge(&config, &ports, public.addr, tunnel_addr, (&visitors, &agents));
        owners::load(&edge.tunnels).await?;
        let node = several::enter(&config, nodes, &edge, &services).await?;
        let metrics = Arc::clone(&edge.tunnels.metrics);
        edge.observers.store(Observers::open(&config, &metrics, &services)?);
        // Sessions of a process that died are over; their owners keep the names. Last of what may
        // fail: of a process that lives and is replaced, they are not over before.
        if config.nodes.is_none() {
            ports.store.release_node(&config.node, unix_now()).await?;
        }
        let (recertify, admin_token) = (Arc::<Notify>::default(), ports.admin_token.as_ref());
        let admin_token = admin_token.map(|token| AdminToken::new(token.digest()));
        let parts = reloadable(&edge, &recertify, admin_token.clone(), &services);
        let reloader = Reloader::new(edge.config.clone(), ports.settings.clone(), parts);
        let relay = Self {
            addr: public.addr,
            tunnel_addr,
            http_addr: http.as_ref().map(|bound| bound.addr),
            admin_addr: admin.as_ref().map(|bound| bound.addr),
            phase: watch::Sender::new(Phase::Serving),
            edge: Arc::clone(&edge),
            reloader: Arc::new(reloader),
            sockets: Mutex::new(sockets),
            lock: ports.lock.clone(),
            listeners: Scope::new(),
            admin: Scope::new(),
            goaways: Scope::new(),
            visitors,
            agents,
            services,
        };
        relay.listen(public, tls.clone(), Routes::Public);
        if let Some(tunnel) = tunnel {
            relay.listen(tunnel, tls, Routes::Tunnel);
        }
        if let Some(http) = http {
            relay.listen(http, None, Routes::Redirect);
        }
        relay.serve_admin(admin, admin_token, &metrics, &ports);
        relay.serve_background(recertify, metrics, ports);
        relay.serve_store(guarded);
        relay.serve_node(node);
        tracing::info!(addr = %relay.addr, domain = %config.domain, "relay up");
        Ok(relay)
    }

    fn listen(&self, bound: Bound, tls: Option<TlsAcceptor>, routes: Routes) {
        let (edge, listening) = (Arc::clone(&self.edge), self.listeners.clone());
        let accept = http::accept(edge, bound.listener, tls, routes, listening, self.stop());
        self.listeners.spawn_essential(accept);
    }

    fn stop(&self) -> Stop {
        Stop { goaways: self.goaways.clone(), visitors: self.visitors.clone() }
    }

    fn serve_admin(
        &self,
        bound: Option<Bound>,
        token: Option<AdminToken>,
        metrics: &Metrics,
        ports: &Ports,
    ) {
        let Some(bound) = bound else { return };
        let api = token.map(|token| Api {
            token,
            tunnels: Arc::clone(&self.edge.tunnels),
            nodes: self.edge.proxy.nodes.get().cloned(),
            reloader: Arc::clone(&self.reloader),
            cert: ports.cert.clone(),
            phase: self.phase.subscribe(),
            started_at: unix_now(),
        });
        let dashboard = api.clone().map(Dashboard::new);
        if let Some(dashboard) = dashboard.clone() {
            self.serve_always(async move { dashboard.sample().await });
        }
        let router = admin::router(Admin {
            metrics: metrics.clone(),
            store: Arc::clone(&ports.store),
            cert: ports.cert.clone(),
            config: self.edge.config.clone(),
            phase: self.phase.subscribe(),
            api,
            dashboard,
        });
        let stop = self.admin.clone();
        self.admin.spawn_essential(async move {
            let served = axum::serve(bound.listener, router)
                .with_graceful_shutdown(async move { stop.cancelled().await });
            if let Err(error) = served.await {
                tracing::error!(%error, "admin listener failed");
            }
        });
    }

    fn serve_background(&self, recertify: Arc<Notify>, metrics: Arc<Metrics>, ports: Ports) {
        self.serve_domains(&ports);
        if let Some(cert) = ports.cert {
            self.serve_always(cert::keep_fresh(cert, recertify, metrics));
        }
        let (edge, tunnels) = (&self.edge, &self.edge.tunnels);
        let (admission, store) = (Arc::clone(&tunnels.admission), Arc::clone(&tunnels.store));
        let config = edge.config.clone();
        let issuing = Arc::clone(&admission);
        self.serve_always(async move { admission.follow_revocations().await });
        self.serve_always(async move { issuing.follow_issuer().await });
        self.serve_always(end_revoked_sessions(Arc::clone(tunnels)));
        self.serve_always(janitor(Arc::clone(edge)));
        self.serve_always(prune(store, config));
    }

    /// Serves what stands between the relay and its store, and follows what operators write there.
    fn serve_store(&self, guarded: Arc<Guarded>) {
        let tunnels = &self.edge.tunnels;
        let (settling, ruled) = (Arc::clone(tunnels), Arc::clone(tunnels));
        let health = guarded.health();
        self.serve_always(show_health(guarded.health(), Arc::clone(&tunnels.metrics)));
        self.serve_always(async move { guarded.recover().await });
        self.serve_always(async move { settling.debts.settle(&settling, health).await });
        self.serve_always(async move { rules::follow(&ruled).await });
        let (counted, kept) = (Arc::clone(tunnels), Arc::clone(tunnels));
        self.serve_always(async move { owners::follow(&counted).await });
        self.serve_always(async move { owners::keep_usage(&kept).await });
    }

    /// Follows which custom domains there are, and asks the DNS whose they are.
    fn serve_domains(&self, ports: &Ports) {
        let (domains, store) = (Arc::clone(&ports.domains), Arc::clone(&ports.store));
        self.serve_always(async move { domains.follow(&*store).await });
        let (domains, metrics) =
            (Arc::clone(&ports.domains), Arc::clone(&self.edge.tunnels.metrics));
        self.serve_always(async move {
            let mut changed = domains.changed();
            loop {
                let served = domains.verified().len();
                metrics.domains.set(i64::try_from(served).unwrap_or(i64::MAX));
                // Never fails: the sender lives as long as the table.
                let _open = changed.changed().await;
            }
        });
        let config = self.edge.config.load_full();
        // One process at a time, also of two that are one node while one replaces the other.
        let holder = format!("{}/{}", config.node, Token::generate().expose());
        let (domains, store) = (Arc::clone(&ports.domains), Arc::clone(&ports.store));
        self.serve_always(keep_checked(domains, Checker::new(&config), store, holder));
    }

    /// Runs a task until the services end; that it ends before, even by panic, ends the relay.
    fn serve_always(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.services.token().clone();
        self.services.spawn_essential(async move {
            // At the end of all, a task may end because another one has.
            if task.with_cancellation_token(&stop).await.is_some() && !stop.is_cancelled() {
                tracing::error!("a task that the relay needs has ended");
            }
        });
    }

    /// Returns the address of the public listener.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the address of the extra tunnel listener.
    #[must_use]
    pub fn tunnel_addr(&self) -> Option<SocketAddr> {
        self.tunnel_addr
    }

    /// Returns the address of the listener that sends visitors to HTTPS.
    #[must_use]
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http_addr
    }

    /// Reads the settings again where they came from, obeys those that may change while the relay
    /// runs, and looks for a newer certificate. No tunnel and no request notices.
    ///
    /// # Errors
    /// When they cannot be read or obeyed; then nothing has changed.
    pub async fn reload(&self) -> Result<Reloaded, ReloadError> {
        self.edge.tunnels.reload(&self.reloader).await
    }

    /// Returns copies of the listening sockets, to be offered to a successor; none a second time.
    /// Whoever has them drops them before the relay is told to end, or they take in connections
    /// that nobody serves.
    pub fn take_sockets(&self) -> Vec<Socket> {
        std::mem::take(&mut *self.sockets.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the right to the database, to be left to a successor.
    #[must_use]
    pub fn database_lock(&self) -> Option<DatabaseLock> {
        self.lock.clone()
    }

    /// Opens the file of the access log again, for whoever has moved it away.
    pub fn reopen_access_log(&self) {
        if let Some(observers) = &*self.edge.observers.load() {
            observers.reopen();
        }
    }

    /// Returns the address of the admin listener.
    #[must_use]
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin_addr
    }

    /// Waits until a part of the relay that the rest needs has ended by itself. Cancel-safe.
    pub async fn closed(&self) {
        tokio::select! {
            () = self.listeners.cancelled() => {}
            () = self.admin.cancelled() => {}
            () = self.services.cancelled() => {}
        }
    }

    /// Ends the relay well: asks agents to go elsewhere, accepts nothing new once balancers could
    /// notice, lets requests end within the grace period, then closes everything. Returns how many
    /// requests were cut.
    pub async fn shutdown(self) -> usize {
        let drain = self.edge.config.load().timing.drain;
        self.part(drain);
        if !drain.is_zero() {
            tokio::time::sleep(drain).await;
        }
        self.accept_no_more().await;
        self.finish(if drain.is_zero() { Duration::ZERO } else { PARTING }).await
    }

    /// Ends the relay well after a successor has taken its listeners: as [`Relay::shutdown`], and
    /// connections that rest are closed only when their visitors had a chance to hear of it.
    pub async fn hand_over(mut self) -> usize {
        // Only the successor's from now on: what this process still ends takes as long as it takes.
        self.lock = None;
        // First of all, so that agents and visitors that are asked to go meet the successor.
        self.accept_no_more().await;
        self.admin.cancel();
        self.part(Duration::ZERO);
        self.finish(PARTING).await
    }

    async fn accept_no_more(&self) {
        self.listeners.clone().drain(LAST_WORDS).await;
        self.goaways.cancel();
    }

    /// Tells everybody that the relay is about to end: agents now, visitors with each answer.
    fn part(&self, drain: Duration) {
        drop(self.take_sockets());
        self.edge.draining.store(true, Ordering::Relaxed);
        self.phase.send_replace(Phase::Draining);
        if let Some(nodes) = self.edge.proxy.nodes.get() {
            nodes.drain();
        }
        let grace = drain.saturating_add(self.edge.config.load().timing.grace);
        for session in self.edge.tunnels.sessions() {
            session.go_away("the relay is restarting", grace);
        }
    }

    /// Lets requests end after `parting`, within the grace period, and ends the rest.
    async fn finish(self, parting: Duration) -> usize {
        let grace = self.edge.config.load().timing.grace;
        let parting = parting.min(grace);
        if !parting.is_zero() {
            self.visitors.settled(parting).await;
        }
        let cut = self.visitors.clone().drain(grace - parting).await;
        if cut > 0 {
            tracing::warn!(requests = cut, "grace period over; requests cut");
        }
        self.edge.abort.cancel();
        let tunnels = &self.edge.tunnels;
        let told = tokio::time::timeout(LAST_WORDS, async {
            tunnels.note_last_refusals();
            tunnels.debts.settled().await;
            owners::write_usage(tunnels, unix_now()).await;
        });
        let told = told.await;
        if told.is_err() {
            tracing::warn!("the store was not told everything");
        }
        let left = tokio::time::timeout(LAST_WORDS, self.leave_nodes()).await;
        if left.is_err() {
            tracing::warn!("the other nodes were not told");
        }
        let tasks = self.agents.clone().drain(LAST_WORDS).await
            + self.admin.clone().drain(LAST_WORDS).await
            + self.services.clone().drain(LAST_WORDS).await;
        tracing::info!(tasks.left = tasks, "relay down");
        cut
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.listeners.cancel();
        self.admin.cancel();
        self.goaways.cancel();
        self.visitors.cancel();
        self.edge.abort.cancel();
        self.agents.cancel();
        self.services.cancel();
    }
}

pub(crate) fn edge(
    config: &Arc<Config>,
    ports: &Ports,
    bound: SocketAddr,
    tunnel_bound: Option<SocketAddr>,
    (visitors, agents): (&Scope, &Scope),
) -> Arc<Edge> {
    let live = Live::new(Arc::clone(config));
    let table = Arc::new(Table::default());
    let metrics = Arc::new(Metrics::new());
    let (key, store) = (ports.key.clone(), Arc::clone(&ports.store));
    let admission = Admission::new(config.auth.clone(), key.clone(), Arc::clone(&store));
    let (rules, owners) = (Arc::<Rules>::default(), Arc::new(Owners::new(&config.limits)));
    let parts = TunnelParts {
        config: live.clone(),
        admission: Arc::new(admission),
        store: Arc::clone(&store),
        table: Arc::clone(&table),
        rules: Arc::clone(&rules),
        owners: Arc::clone(&owners),
        key,
        metrics: Arc::clone(&metrics),
        bound,
        tunnel_bound,
    };
    Arc::new(Edge {
        config: live.clone(),
        public: config.public(bound),
        cert: ports.cert.clone(),
        apex: Apex::new(&config.domain, Arc::clone(&ports.domains)),
        proxy: Proxy::new(
            live,
            table,
            store,
            metrics,
            (rules, owners),
            visitors.token().clone(),
            agents.child(),
        ),
        tunnels: Arc::new(Tunnels::new(parts, agents.child())),
        draining: false.into(),
        server: Arc::new(Server::new(config)).into(),
        observers: ArcSwapOption::empty(),
        abort: Scope::new(),
    })
}

#[cfg(test)]
mod tests;
