//! A relay that is one node of several.

use std::sync::Arc;

use mcpm_shared::scope::Scope;

use super::listen::Bound;
use super::{Relay, StartError};
use crate::config::Config;
use crate::http::{self, Edge};
use crate::nodes::Nodes;

/// A node, and where it hears the others.
pub(super) struct Node {
    nodes: Arc<Nodes>,
    bound: Bound,
}

/// Makes the process a node, where it is one of several, and reads who serves what before the first
/// visitor comes.
pub(super) async fn enter(
    config: &Config,
    bound: Option<Bound>,
    edge: &Edge,
    services: &Scope,
) -> Result<Option<Node>, StartError> {
    let (Some(settings), Some(bound)) = (&config.nodes, bound) else { return Ok(None) };
    let tunnels = &edge.tunnels;
    let (store, metrics) = (Arc::clone(&tunnels.store), Arc::clone(&tunnels.metrics));
    let scope = services.child();
    let nodes = Nodes::enter(&config.node, settings, bound.addr, store, metrics, scope).await?;
    nodes.warm(tunnels).await?;
    let nodes = Arc::new(nodes);
    edge.proxy.nodes.get_or_init(|| Arc::clone(&nodes));
    Ok(Some(Node { nodes, bound }))
}

impl Relay {
    /// Serves the other nodes, and follows what happens there.
    pub(super) fn serve_node(&self, node: Option<Node>) {
        let Some(Node { nodes, bound }) = node else { return };
        let (edge, kept) = (Arc::clone(&self.edge), Arc::clone(&nodes));
        let tunnels = Arc::clone(&edge.tunnels);
        self.serve_always(async move { kept.keep(&tunnels).await });
        let (listening, visitors) = (self.listeners.clone(), self.visitors.clone());
        let accept = http::node::accept(edge, nodes, bound.listener, listening, visitors);
        self.listeners.spawn_essential(accept);
    }

    /// Takes the node out, when its visitors are served.
    pub(super) async fn leave_nodes(&self) {
        if let Some(nodes) = self.edge.proxy.nodes.get() {
            nodes.leave().await;
        }
    }
}
