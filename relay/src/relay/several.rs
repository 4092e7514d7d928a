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
        let (listening, stop) = (self.listeners.clone(), self.stop());
        let accept = http::node::accept(edge, nodes, bound.listener, listening, stop);
        self.listeners.spawn_essential(accept);
    }

    /// Takes the node out, when its visitors are served.
    pub(super) async fn leave_nodes(&self) {
        if let Some(nodes) = self.edge.proxy.nodes.get() {
            nodes.leave().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use mcpm_shared::token::Token;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::time::Instant;

    use super::*;
    use crate::Ports;
    use crate::config::NodeSettings;
    use crate::nodes::shares;
    use crate::store::moody::Moody;
    use crate::store::{NewNode, Store as _};
    use crate::tunnel::Tunnels;
    use crate::tunnel::table::Elsewhere;
    use crate::tunnel::tests::Agent;

    async fn node(id: &str, store: &Arc<Moody>) -> Relay {
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let secret = Token::new("a secret that the nodes of this test have in common");
        let config = Config {
            node: id.to_owned(),
            listen: local,
            nodes: Some(NodeSettings::new(local, vec![secret])),
            ..Config::local()
        };
        let ports = Ports { store: Arc::clone(store) as _, ..Ports::in_memory() };
        Relay::start(config, ports).await.unwrap()
    }

    fn parts(relay: &Relay) -> (&Arc<Tunnels>, &Nodes) {
        (&relay.edge.tunnels, relay.edge.proxy.nodes.get().unwrap())
    }

    /// Waits until a node knows so many, itself too.
    async fn knows(relay: &Relay, count: usize) {
        while relay.edge.tunnels.nodes.load().len() < count {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_share_that_has_just_moved_is_closed_where_it_is() {
        let store = Arc::<Moody>::default();
        let (asked, has, had) =
            (node("asked", &store).await, node("has", &store).await, node("had", &store).await);
        knows(&asked, 3).await;
        let (scope, (tunnels, nodes)) = (Scope::new(), parts(&asked));
        let calc = "calc".parse().unwrap();
        let mut agent = Agent::connect(parts(&has).0, &scope, None).await;
        agent.claim("calc").await;
        // What the asked node knows of it is old.
        tunnels.table.elsewhere(&calc, Elsewhere { node: "had".into(), generation: 99 });
        assert!(shares::close(tunnels, Some(nodes), &calc).await.unwrap());
        assert!(!shares::close(tunnels, Some(nodes), &calc).await.unwrap());
        drop((has, had));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_was_held_and_then_follows_its_share_is_not_held_twice_as_long() {
        let relay = node("alone", &Arc::default()).await;
        let tunnels = &relay.edge.tunnels;
        let hold = tunnels.config.load().timing.hold;
        let (name, started) = ("calc".parse().unwrap(), Instant::now());
        let mut visitor = TcpStream::connect(relay.addr()).await.unwrap();
        let request = b"GET /s/calc/mcp HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        visitor.write_all(request).await.unwrap();
        let moves = async {
            // Right after a start any name may be that of an agent that comes back.
            tokio::time::sleep(hold / 2).await;
            let gone = Elsewhere { node: "gone".into(), generation: 1 };
            tunnels.table.elsewhere(&name, gone);
        };
        let mut answer = String::new();
        let (read, ()) = tokio::join!(visitor.read_to_string(&mut answer), moves);
        read.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        let held = started.elapsed();
        assert!(held >= hold && held < hold + hold / 4, "{held:?}");
    }

    #[tokio::test]
    async fn a_list_that_is_short_is_none() {
        let store = Arc::<Moody>::default();
        let (asked, other) = (node("asked", &store).await, node("other", &store).await);
        let (scope, (tunnels, nodes)) = (Scope::new(), parts(&asked));
        let mut agent = Agent::connect(parts(&other).0, &scope, None).await;
        agent.claim("calc").await;
        let silent = NewNode {
            id: "silent".to_owned(),
            // Nobody listens there.
            address: "127.0.0.1:1".to_owned(),
            version: "1".to_owned(),
            now: crate::admission::unix_now(),
        };
        store.enter_node(silent).await.unwrap();
        knows(&asked, 3).await;
        assert_eq!(shares::all_shares(tunnels, Some(nodes)).await.unwrap().len(), 1);
        store.set_away(true);
        let error = shares::all_shares(tunnels, Some(nodes)).await.unwrap_err();
        assert!(error.is_unreachable(), "{error}");
        let known = shares::shares_elsewhere(tunnels, nodes).await;
        assert_eq!((known.shares.len(), known.missing.is_some()), (1, true));
    }
}
