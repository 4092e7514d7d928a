//! A relay as a value: [`Relay::start`] gives one that accepts, [`Relay::shutdown`] ends it well,
//! dropping it ends it at once. The binary, the demo and every test start it the same way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mcpm_shared::proto::{Refusal, code};
use mcpm_shared::scope::Scope;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio_rustls::TlsAcceptor;

use crate::admin::api::Api;
use crate::admin::{self, Admin, Phase};
use crate::admission::{Admission, unix_now};
use crate::cert::{self, CertError};
use crate::config::Config;
use crate::http::{self, Apex, Edge, Routes, Server};
use crate::metrics::Metrics;
use crate::ports::Ports;
use crate::proxy::Proxy;
use crate::store::{Guarded, Health, Store, StoreError};
use crate::tunnel::rules;
use crate::tunnel::share::Share;
use crate::tunnel::table::{Left, Table};
use crate::tunnel::{TunnelParts, Tunnels};

/// How often the janitor looks around; a share ends at most this much late.
const JANITOR: Duration = Duration::from_secs(1);
/// How long a name whose agent is gone stays in memory, and its lease live.
const AWAY_KEPT: Duration = Duration::from_secs(300);
/// How often the store forgets, and for how long it remembers what nobody has a right to any more:
/// clocks of nodes differ, and operators ask what was.
const PRUNE_INTERVAL: Duration = Duration::from_secs(3600);
const PRUNE_MARGIN: Duration = Duration::from_secs(24 * 3600);
/// How long the last tasks get after everything was told to end.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// How many connections may wait to be accepted: a burst of visitors, or all agents after a restart.
const BACKLOG: u32 = 4096;

/// Why a relay cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {addr} ({setting})")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The setting it came from.
        setting: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The certificate cannot be used.
    #[error(transparent)]
    Cert(#[from] CertError),
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl StartError {
    /// Returns what an operator may do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Listen { source, setting, .. } => Some(match source.kind() {
                std::io::ErrorKind::AddrInUse => {
                    format!("Stop what listens there, or choose another address with {setting}")
                }
                std::io::ErrorKind::PermissionDenied => format!(
                    "Ports below 1024 need a privilege: choose another with {setting}, or give \
                     the service CAP_NET_BIND_SERVICE"
                ),
                _ => format!("Check {setting}"),
            }),
            Self::Cert(_) | Self::Store(_) => None,
        }
    }
}

/// A running relay.
#[derive(Debug)]
pub struct Relay {
    addr: SocketAddr,
    tunnel_addr: Option<SocketAddr>,
    http_addr: Option<SocketAddr>,
    admin_addr: Option<SocketAddr>,
    edge: Arc<Edge>,
    /// Wakes the task that looks for a newer certificate.
    recertify: Arc<Notify>,
    phase: watch::Sender<Phase>,
    /// Listeners and visitors: told to finish first.
    visitors: Scope,
    /// Agents, and what upgraded connections carry: ended after the visitors.
    agents: Scope,
    /// Janitor and admin listener: ended last.
    services: Scope,
}

struct Bound {
    listener: TcpListener,
    addr: SocketAddr,
}

impl Relay {
    /// Starts a relay. It accepts connections when this returns.
    ///
    /// # Errors
    /// When a listener, the certificate or the store fails.
    pub async fn start(config: Config, ports: Ports) -> Result<Self, StartError> {
        let config = Arc::new(config);
        let tls = match &ports.cert {
            Some(cert) => Some(TlsAcceptor::from(Arc::new(cert::server_config(cert.as_ref())?))),
            None => None,
        };
        let public = bind(config.listen, "--listen")?;
        let tunnel = config.tunnel_listen.map(|addr| bind(addr, "--tunnel-listen")).transpose()?;
        let http = config.http_listen.map(|addr| bind(addr, "--http-listen")).transpose()?;
        let admin = config.admin_listen.map(|addr| bind(addr, "--admin-listen")).transpose()?;
        let guarded = Arc::new(Guarded::new(Arc::clone(&ports.store)));
        let ports = Ports { store: Arc::clone(&guarded) as Arc<dyn Store>, ..ports };
        // Sessions of a process that died are over; their owners keep the names.
        ports.store.release_node(&config.node, unix_now()).await?;
        let (visitors, agents, services) = (Scope::new(), Scope::new(), Scope::new());
        let tunnel_addr = tunnel.as_ref().map(|bound| bound.addr);
        let edge = edge(&config, &ports, public.addr, tunnel_addr, (&visitors, &agents));
        let metrics = Arc::clone(&edge.tunnels.metrics);
        let relay = Self {
            addr: public.addr,
            tunnel_addr,
            http_addr: http.as_ref().map(|bound| bound.addr),
            admin_addr: admin.as_ref().map(|bound| bound.addr),
            phase: watch::Sender::new(Phase::Serving),
            edge: Arc::clone(&edge),
            recertify: Arc::default(),
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
        relay.serve_background(admin, metrics, ports);
        relay.serve_store(guarded);
        tracing::info!(addr = %relay.addr, domain = %config.domain, "relay up");
        Ok(relay)
    }

    fn listen(&self, bound: Bound, tls: Option<TlsAcceptor>, routes: Routes) {
        let (edge, scope) = (Arc::clone(&self.edge), self.visitors.clone());
        let accept = http::accept(edge, bound.listener, tls, routes, scope);
        self.visitors.spawn_essential(accept);
    }

    fn serve_background(&self, admin: Option<Bound>, metrics: Arc<Metrics>, ports: Ports) {
        let services = &self.services;
        if let Some(bound) = admin {
            let store = Arc::clone(&ports.store);
            let metrics = Arc::clone(&metrics);
            let api = ports.admin_token.as_ref().map(|token| Api {
                token: token.digest(),
                tunnels: Arc::clone(&self.edge.tunnels),
                phase: self.phase.subscribe(),
                started_at: unix_now(),
            });
            let router = admin::router(Admin {
                metrics: (*metrics).clone(),
                store,
                phase: self.phase.subscribe(),
                api,
            });
            let stop = services.clone();
            services.spawn_essential(async move {
                let served = axum::serve(bound.listener, router)
                    .with_graceful_shutdown(async move { stop.cancelled().await });
                if let Err(error) = served.await {
                    tracing::error!(%error, "admin listener failed");
                }
            });
        }
        if let Some(cert) = ports.cert {
            self.serve_always(cert::keep_fresh(cert, Arc::clone(&self.recertify), metrics));
        }
        let (edge, tunnels) = (&self.edge, &self.edge.tunnels);
        let (admission, store) = (Arc::clone(&tunnels.admission), Arc::clone(&tunnels.store));
        let keep = edge.config.timing.keep_name;
        self.serve_always(async move { admission.follow_revocations().await });
        self.serve_always(end_revoked_sessions(Arc::clone(tunnels)));
        self.serve_always(janitor(Arc::clone(edge)));
        self.serve_always(prune(store, keep));
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
    }

    /// Runs a task until the services end; that it ends before, even by panic, ends the relay.
    fn serve_always(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.services.token().clone();
        self.services.spawn_essential(async move {
            // At the end of all, a task may end because another one has.
            if stop.run_until_cancelled(task).await.is_some() && !stop.is_cancelled() {
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

    /// Looks for a newer certificate now, and says in the log what it found.
    pub fn reload_certificate(&self) {
        self.recertify.notify_one();
    }

    /// Returns the address of the admin listener.
    #[must_use]
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin_addr
    }

    /// Waits until a part of the relay that the rest needs has ended by itself. Cancel-safe.
    pub async fn closed(&self) {
        tokio::select! {
            () = self.visitors.cancelled() => {}
            () = self.services.cancelled() => {}
        }
    }

    /// Ends the relay well: accepts nothing new, asks agents to go elsewhere, lets requests end
    /// within the grace period, then closes everything. Returns how many requests were cut.
    pub async fn shutdown(self) -> usize {
        let grace = self.edge.config.timing.grace;
        self.edge.draining.store(true, Ordering::Relaxed);
        self.phase.send_replace(Phase::Draining);
        for session in self.edge.tunnels.sessions() {
            session.go_away("the relay is restarting", grace);
        }
        let cut = self.visitors.clone().drain(grace).await;
        if cut > 0 {
            tracing::warn!(requests = cut, "grace period over; requests cut");
        }
        self.edge.abort.cancel();
        let told = tokio::time::timeout(LAST_WORDS, self.edge.tunnels.debts.settled()).await;
        if told.is_err() {
            tracing::warn!("the store was not told everything");
        }
        let tasks = self.agents.clone().drain(LAST_WORDS).await
            + self.services.clone().drain(LAST_WORDS).await;
        tracing::info!(tasks.left = tasks, "relay down");
        cut
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
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
    let table = Arc::new(Table::default());
    let metrics = Arc::new(Metrics::new());
    let (key, store) = (ports.key.clone(), Arc::clone(&ports.store));
    let admission = Admission::new(config.auth.clone(), key.clone(), Arc::clone(&store));
    let parts = TunnelParts {
        config: Arc::clone(config),
        admission: Arc::new(admission),
        store: Arc::clone(&store),
        table: Arc::clone(&table),
        key,
        metrics: Arc::clone(&metrics),
        bound,
        tunnel_bound,
    };
    Arc::new(Edge {
        config: Arc::clone(config),
        public: config.public(bound),
        cert: ports.cert.clone(),
        apex: Apex::new(&config.domain),
        proxy: Proxy::new(
            Arc::clone(config),
            table,
            store,
            metrics,
            visitors.token().clone(),
            agents.child(),
        ),
        tunnels: Arc::new(Tunnels::new(parts, agents.child())),
        draining: false.into(),
        server: Server::new(config),
        abort: Scope::new(),
    })
}

fn bind(addr: SocketAddr, setting: &'static str) -> Result<Bound, StartError> {
    let fail = |source| StartError::Listen { addr, setting, source };
    let socket = if addr.is_ipv4() {
        tokio::net::TcpSocket::new_v4()
    } else {
        tokio::net::TcpSocket::new_v6()
    };
    let socket = socket.map_err(fail)?;
    // Connections of a process that just ended must not keep its successor from the port.
    #[cfg(unix)]
    socket.set_reuseaddr(true).map_err(fail)?;
    // Linux hands this down to the accepted sockets, which saves a call for each.
    socket.set_nodelay(true).map_err(fail)?;
    socket.bind(addr).map_err(fail)?;
    let listener = socket.listen(BACKLOG).map_err(fail)?;
    let addr = listener.local_addr().map_err(fail)?;
    Ok(Bound { listener, addr })
}

/// Ends sessions whose token was revoked, as soon as that is known.
async fn end_revoked_sessions(tunnels: Arc<Tunnels>) {
    let mut revoked = tunnels.admission.revoked();
    while revoked.changed().await.is_ok() {
        end_sessions_without_right(&tunnels);
    }
}

fn end_sessions_without_right(tunnels: &Tunnels) {
    let now = unix_now();
    for session in tunnels.sessions().iter().filter(|session| !session.scope.is_cancelled()) {
        if let Err(refusal) = tunnels.admission.recheck(&session.admitted, now) {
            tracing::info!(agent.id = %session.admitted.subject, code = %refusal.code, "session ended");
            let owner = session.admitted.owner.as_str();
            let (agent, code) = (&session.admitted.subject, refusal.code.clone());
            tunnels.debts.audit("session.end", owner, agent, code);
            session.end(&refusal);
        }
    }
}

/// Does what time brings: ends shares and sessions, forgets names and addresses at rest. All of it
/// in memory: that leases ended the store learns when it has time.
async fn janitor(edge: Arc<Edge>) {
    let mut ticks = tokio::time::interval(JANITOR);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let tunnels = &edge.tunnels;
    loop {
        ticks.tick().await;
        end_sessions_without_right(tunnels);
        let now = unix_now();
        let mut left = Vec::new();
        for share in tunnels.table.live() {
            if share.is_expired(now) {
                left.push(expire(tunnels, &share));
            } else {
                share.tidy_lanes();
            }
        }
        left.extend(tunnels.table.sweep(AWAY_KEPT));
        for left in left {
            tunnels.debts.ended(left);
        }
        edge.proxy.tidy();
        tunnels.tidy();
    }
}

fn expire(tunnels: &Tunnels, share: &Arc<Share>) -> Left {
    let facts = &share.facts;
    tracing::info!(share.name = %facts.name, "share expired");
    let message = format!("the share `{}` has come to its end", facts.name);
    share.session.revoke(facts.id, Refusal::new(code::EXPIRED, message));
    tunnels.table.away(share, false);
    tunnels.debts.audit("share.expire", &facts.owner, facts.name.as_str(), "");
    Left { name: facts.name.clone(), owner: facts.owner.clone(), generation: facts.generation }
}

/// Shows in the metrics whether the store answers.
async fn show_health(mut health: watch::Receiver<Health>, metrics: Arc<Metrics>) {
    loop {
        let up = *health.borrow_and_update() == Health::Up;
        metrics.store_up.set(i64::from(up));
        if health.changed().await.is_err() {
            return;
        }
    }
}

/// Makes the store forget what ended so long ago that nobody has a right to it, from time to time.
async fn prune(store: Arc<dyn Store>, keep_name: Duration) {
    let mut ticks = tokio::time::interval(PRUNE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let age = keep_name.saturating_add(PRUNE_MARGIN).as_secs();
    loop {
        ticks.tick().await;
        match store.prune(unix_now().saturating_sub(age)).await {
            Ok(0) => {}
            Ok(forgotten) => tracing::info!(forgotten, "store pruned"),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "store not pruned");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use mcpm_shared::proto::ShareMode;

    use super::*;
    use crate::store::{Claim, MemoryStore};

    fn claim(name: &str) -> Claim {
        Claim {
            name: name.parse().unwrap(),
            owner: "key:a".to_owned(),
            node: "n".to_owned(),
            mode: ShareMode::Mcp,
            floor_generation: 0,
            now: unix_now(),
            expires_at: None,
            keep_secs: 60,
            max_live: 9,
        }
    }

    #[tokio::test]
    async fn the_store_forgets_what_nobody_has_a_right_to() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let keep = Duration::from_secs(60);
        let old = unix_now() - keep.as_secs() - PRUNE_MARGIN.as_secs() - 10;
        store.claim(Claim { now: old, expires_at: Some(old + 5), ..claim("old") }).await.unwrap();
        store.claim(claim("live")).await.unwrap();
        let scope = Scope::new();
        scope.spawn_until_cancelled(prune(Arc::clone(&store), keep));
        while store.leases().await.unwrap().len() > 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(store.leases().await.unwrap()[0].name.as_str(), "live");
    }

    #[tokio::test]
    async fn a_service_that_ends_ends_the_relay() {
        let mut config = Config::local();
        config.listen.set_port(0);
        let relay = Relay::start(config, Ports::in_memory()).await.unwrap();
        relay.serve_always(std::future::ready(()));
        relay.closed().await;
    }
}
