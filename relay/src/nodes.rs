//! The other nodes of this relay: who lives, who serves which name, and the way there.
//!
//! N processes over one database are one relay. Each keeps a row there that beats; each hears what
//! happens to leases anywhere, and notes it in its own table. So a request that lands here knows
//! where its share is without asking, also while the database is away, and takes one hop to it over
//! a kept connection ([`peer`]), which both sides have authenticated ([`hello`]).
//!
//! What fences a node that was cut off and given up: a name that was claimed elsewhere has a higher
//! generation, in the database and in every table, and a node that finds out tells its agents to
//! connect anew.

pub mod head;
pub mod hello;
mod keep;
pub mod peer;
pub mod replay;
pub mod shares;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use mcpm_shared::scope::Scope;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::hello::{Hello, HelloError};
use self::peer::{Held, HopError, Peer};
use self::replay::HopBody;
use crate::admission::unix_now;
use crate::config::NodeSettings;
use crate::metrics::Metrics;
use crate::store::{NewNode, Store, StoreError};

/// Why a process cannot be one node of several.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodesError {
    /// The database is of one process alone.
    #[error("this database cannot be shared by several nodes")]
    NotShared,
    /// The connections between nodes cannot be set up.
    #[error("cannot set up the connections between nodes")]
    Hello(#[from] HelloError),
    /// The database does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// This node, and the others as it knows them.
#[derive(Debug)]
pub struct Nodes {
    id: String,
    address: String,
    heartbeat: Duration,
    /// The generation of this process among those that had its name.
    generation: AtomicU64,
    hello: Hello,
    peers: RwLock<HashMap<String, Arc<Peer>>>,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    draining: AtomicBool,
    /// It took itself out, and does not come back.
    left: AtomicBool,
    /// Asks for all leases, and for all nodes, to be read anew.
    reread: Notify,
    beat_now: Notify,
    scope: Scope,
}

impl Nodes {
    /// Makes this process a node, under a name of which earlier holders have no leases any more.
    /// Connections to other nodes belong to `scope`.
    ///
    /// # Errors
    /// When the store cannot be shared or does not answer.
    pub async fn enter(
        id: &str,
        settings: &NodeSettings,
        bound: SocketAddr,
        store: Arc<dyn Store>,
        metrics: Arc<Metrics>,
        scope: Scope,
    ) -> Result<Self, NodesError> {
        if store.feed().await?.is_none() {
            return Err(NodesError::NotShared);
        }
        let nodes = Self {
            id: id.to_owned(),
            address: settings.advertise.clone().unwrap_or_else(|| bound.to_string()),
            heartbeat: settings.heartbeat,
            generation: AtomicU64::new(0),
            hello: Hello::new(id, &settings.secrets)?,
            peers: RwLock::default(),
            store,
            metrics,
            draining: AtomicBool::new(false),
            left: AtomicBool::new(false),
            reread: Notify::new(),
            beat_now: Notify::new(),
            scope,
        };
        nodes.register().await?;
        tracing::info!(node.id = nodes.id, node.address = nodes.address, "node up");
        Ok(nodes)
    }

    async fn register(&self) -> Result<(), StoreError> {
        let node = NewNode {
            id: self.id.clone(),
            address: self.address.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            now: unix_now(),
        };
        let generation = self.store.enter_node(node).await?;
        self.generation.store(generation, Ordering::Relaxed);
        Ok(())
    }

    /// Returns the name of this node.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns what makes and takes connections between nodes.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Says from now on that this node is about to stop.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.beat_now.notify_one();
    }

    /// Takes this node out, and frees what is left of its leases. The others hold the requests for
    /// these names until their agents are elsewhere.
    pub async fn leave(&self) {
        self.left.store(true, Ordering::Relaxed);
        let generation = self.generation.load(Ordering::Relaxed);
        let left = async {
            self.store.lose_node(&self.id, generation, None).await?;
            self.store.release_orphans(unix_now()).await
        };
        if let Err(error) = left.await {
            tracing::warn!(error = &error as &dyn std::error::Error, "node not taken out");
        }
    }

    /// Asks for everything to be read anew: another node did not agree with what is known here.
    pub fn doubt(&self) {
        self.reread.notify_one();
    }

    fn peer(&self, node: &str) -> Option<Arc<Peer>> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).get(node).cloned()
    }

    /// Returns the names of the other nodes, in their order.
    fn others(&self) -> Vec<String> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        let mut others: Vec<String> = peers.keys().cloned().collect();
        others.sort_unstable();
        others
    }

    /// Sends a request to a node; one that may switch protocols gets a connection of its own.
    /// Dropping the future cancels the request.
    ///
    /// # Errors
    /// When the node cannot be reached, or the connection breaks.
    pub async fn send(
        &self,
        node: &str,
        request: Request<HopBody>,
        switch: bool,
    ) -> Result<(Response<Incoming>, Held), HopError> {
        let Some(peer) = self.peer(node) else {
            self.beat_now.notify_one();
            let address = "an address that is not known".to_owned();
            return Err(HopError::Unreachable { node: node.to_owned(), address, source: None });
        };
        let started = Instant::now();
        let (hello, scope, metrics) = (&self.hello, &self.scope, &*self.metrics);
        let sent = match switch {
            true => peer.send_switch(request, hello, scope, metrics).await,
            false => peer.send(request, hello, scope, metrics).await,
        };
        self.metrics.hop(match &sent {
            Ok(_) => "answered",
            Err(HopError::Broken(_)) => "broken",
            Err(_) => "unreachable",
        });
        if sent.is_ok() {
            self.metrics.hop_seconds.observe(started.elapsed().as_secs_f64());
        }
        sent
    }
}
