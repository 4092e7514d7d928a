//! The shares of all nodes: what operators see and close, whichever node they ask.
//!
//! Each node tells of its own shares over the connections between nodes. Of a node that does not
//! answer in time, the store tells what it knows. Where that fails too the list is short, which is
//! said.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use mcpm_shared::name::Name;
use mcpm_shared::proto::{Refusal, ShareMode, code};
use serde::{Deserialize, Serialize};

use super::Nodes;
use super::replay::HopBody;
use crate::admission::unix_now;
use crate::store::{Lease, StoreError};
use crate::tunnel::Tunnels;
use crate::tunnel::share::Share;
use crate::tunnel::table::Presence;

/// The field that carries what one node asks of another for an operator. The edge takes it out of
/// whatever visitors send.
const ASK: HeaderName = HeaderName::from_static("mcpm-node-ask");
/// How long another node may take to answer, and the longest answer that is read: the shares of a
/// full node.
const PATIENCE: Duration = Duration::from_secs(3);
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// The authority of requests between nodes, which nobody looks at.
const URL: &str = "http://node/";

/// A share that is up, at whichever node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareEntry {
    /// Its name.
    pub name: Name,
    /// Whose it is.
    pub owner: String,
    /// Thumbprint of the agent's key; absent where only the store tells of the share.
    pub agent: Option<String>,
    /// What travels.
    pub mode: ShareMode,
    /// The node that serves it.
    pub node: String,
    /// Where visitors reach it.
    pub url: String,
    /// The generation of its lease.
    pub generation: u64,
    /// When it ends unless it is renewed, in Unix seconds.
    pub expires_at: Option<u64>,
    /// Requests that are open; absent as `agent` is.
    pub requests_in_flight: Option<u64>,
    /// Requests that it was asked to serve since it is up; absent as `agent` is.
    pub requests_served: Option<u64>,
}

/// The shares of other nodes, as far as they are known.
#[derive(Debug, Default)]
pub struct Elsewhere {
    /// Those that are known.
    pub shares: Vec<ShareEntry>,
    /// Why some may be missing: a node does not answer, and neither does the store.
    pub missing: Option<StoreError>,
}

/// What one node asks of another for an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Ask {
    /// The shares that are up there.
    Shares,
    /// To close a share.
    Close {
        /// Its name.
        name: Name,
    },
}

/// Why a share was not closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// The node that serves it does not answer.
    #[error("the node `{0}`, which serves the share, does not answer")]
    Node(String),
    /// The store does not say which node serves it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Ask {
    /// Takes what another node asks out of the headers of its request; `None` when it asks nothing.
    #[must_use]
    pub fn take(headers: &mut HeaderMap) -> Option<Self> {
        let value = headers.remove(ASK)?;
        serde_json::from_slice(value.as_bytes()).ok()
    }

    fn request(&self) -> Request<HopBody> {
        let mut request = Request::new(HopBody::empty());
        *request.uri_mut() = http::Uri::from_static(URL);
        let text = serde_json::to_vec(self).unwrap_or_default();
        if let Ok(value) = HeaderValue::from_bytes(&text) {
            request.headers_mut().insert(ASK, value);
        }
        request
    }
}

/// Answers what another node asks.
#[must_use]
pub fn answer(tunnels: &Tunnels, ask: &Ask) -> Response<Bytes> {
    let (status, body) = match ask {
        Ask::Shares => {
            (StatusCode::OK, serde_json::to_vec(&shares_here(tunnels)).unwrap_or_default())
        }
        Ask::Close { name } if close_here(tunnels, name) => (StatusCode::NO_CONTENT, Vec::new()),
        Ask::Close { .. } => (StatusCode::NOT_FOUND, Vec::new()),
    };
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    response
}

/// Returns the shares that are up on this node.
#[must_use]
pub fn shares_here(tunnels: &Tunnels) -> Vec<ShareEntry> {
    let config = tunnels.config.load_full();
    let entry = |share: &Share| ShareEntry {
        name: share.facts.name.clone(),
        owner: share.facts.owner.clone(),
        agent: Some(share.session.admitted.subject.clone()),
        mode: share.facts.mode,
        node: config.node.clone(),
        url: config.share_url(tunnels.bound, &share.facts.name, share.facts.mode),
        generation: share.facts.generation,
        expires_at: share.expires_at(),
        requests_in_flight: Some(share.in_flight() as u64),
        requests_served: Some(share.served()),
    };
    tunnels.table.live().iter().map(|share| entry(share)).collect()
}

/// Returns the shares that are up on other nodes.
pub async fn shares_elsewhere(tunnels: &Tunnels, nodes: &Nodes) -> Elsewhere {
    let others: Vec<String> = nodes.others();
    let asked = others.iter().map(|node| async {
        let told = nodes.ask(node, &Ask::Shares).await;
        let told = told.filter(|(status, _)| *status == StatusCode::OK);
        told.and_then(|(_, body)| serde_json::from_slice::<Vec<ShareEntry>>(&body).ok())
    });
    let told = futures_util::future::join_all(asked).await;
    let silent: BTreeSet<&str> = others
        .iter()
        .zip(&told)
        .filter_map(|(node, told)| told.is_none().then_some(node.as_str()))
        .collect();
    let mut shares: Vec<ShareEntry> = told.into_iter().flatten().flatten().collect();
    if silent.is_empty() {
        return Elsewhere { shares, missing: None };
    }
    tracing::warn!(nodes = ?silent, "nodes do not tell of their shares");
    let leases = match tunnels.store.leases().await {
        Ok(leases) => leases,
        // That the store does not answer is said by those who guard it.
        Err(error) => return Elsewhere { shares, missing: Some(error) },
    };
    let now = unix_now();
    let theirs = |lease: &Lease| lease.is_live(now) && silent.contains(lease.node.as_str());
    let theirs = leases.into_iter().filter(theirs);
    shares.extend(theirs.map(|lease| by_lease(tunnels, lease)));
    Elsewhere { shares, missing: None }
}

fn by_lease(tunnels: &Tunnels, lease: Lease) -> ShareEntry {
    ShareEntry {
        url: tunnels.config.load().share_url(tunnels.bound, &lease.name, lease.mode),
        name: lease.name,
        owner: lease.owner,
        agent: None,
        mode: lease.mode,
        node: lease.node,
        generation: lease.generation,
        expires_at: lease.held_until,
        requests_in_flight: None,
        requests_served: None,
    }
}

/// Puts the shares of several nodes together, by name. One that moved while they were asked is
/// where it came last.
#[must_use]
pub fn together<S: Borrow<ShareEntry>>(shares: impl IntoIterator<Item = S>) -> Vec<S> {
    let mut by_name: BTreeMap<Name, S> = BTreeMap::new();
    for share in shares {
        let ShareEntry { name, generation, .. } = share.borrow();
        let newer = by_name.get(name).is_none_or(|it| it.borrow().generation < *generation);
        if newer {
            by_name.insert(name.clone(), share);
        }
    }
    by_name.into_values().collect()
}

/// Returns the shares that are up, on all nodes, by name.
///
/// # Errors
/// When a node does not answer and the store does not tell of its shares.
pub async fn all_shares(
    tunnels: &Tunnels,
    nodes: Option<&Nodes>,
) -> Result<Vec<ShareEntry>, StoreError> {
    let elsewhere = match nodes {
        Some(nodes) => shares_elsewhere(tunnels, nodes).await,
        None => Elsewhere::default(),
    };
    match elsewhere.missing {
        Some(error) => Err(error),
        None => Ok(together(shares_here(tunnels).into_iter().chain(elsewhere.shares))),
    }
}

/// Closes a share by the operator's will, at whichever node; `false` when none of this name is up.
///
/// # Errors
/// When the node that serves it does not answer, or the store does not say which that is.
pub async fn close(
    tunnels: &Tunnels,
    nodes: Option<&Nodes>,
    name: &Name,
) -> Result<bool, CloseError> {
    if close_here(tunnels, name) {
        return Ok(true);
    }
    let Some(nodes) = nodes else { return Ok(false) };
    let known = match tunnels.table.find(name).map(|entry| entry.presence()) {
        Some(Presence::Elsewhere(at)) => Some(at.node),
        _ => None,
    };
    if let Some(node) = &known {
        // What this node knows may be old by a moment: the share may have come here, or gone on.
        if nodes.close(node, name).await? || close_here(tunnels, name) {
            return Ok(true);
        }
    }
    let lease = tunnels.store.lease(name).await?;
    match lease.filter(|lease| lease.is_live(unix_now())) {
        Some(Lease { node, .. }) if node != nodes.id && known.as_deref() != Some(&*node) => {
            nodes.close(&node, name).await
        }
        _ => Ok(false),
    }
}

fn close_here(tunnels: &Tunnels, name: &Name) -> bool {
    let Some(share) = tunnels.live_share(name) else { return false };
    let message = format!("the operator of this relay closed the share `{name}`");
    tunnels.take_down(&share, Refusal::new(code::FORBIDDEN, message));
    tunnels.debts.audit("share.close", "operator", name.as_str(), share.facts.owner.clone());
    true
}

impl Nodes {
    /// Closes a share of another node; `false` when it has none of this name.
    async fn close(&self, node: &str, name: &Name) -> Result<bool, CloseError> {
        match self.ask(node, &Ask::Close { name: name.clone() }).await {
            Some((StatusCode::NO_CONTENT, _)) => Ok(true),
            Some((StatusCode::NOT_FOUND, _)) => Ok(false),
            _ => Err(CloseError::Node(node.to_owned())),
        }
    }

    /// Asks another node for something; `None` when it does not answer in time.
    async fn ask(&self, node: &str, ask: &Ask) -> Option<(StatusCode, Bytes)> {
        let peer = self.peer(node)?;
        let exchange = async {
            let sent = peer.send(ask.request(), &self.hello, &self.scope, &self.metrics).await;
            let (response, _held) = sent
                .inspect_err(|error| {
                    let error = error as &dyn std::error::Error;
                    tracing::debug!(error, node.id = node, "node not asked");
                })
                .ok()?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.ok()?;
            Some((status, body.to_bytes()))
        };
        tokio::time::timeout(PATIENCE, exchange).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, node: &str, generation: u64) -> ShareEntry {
        ShareEntry {
            name: name.parse().unwrap(),
            owner: "key:a".to_owned(),
            agent: None,
            mode: ShareMode::Mcp,
            node: node.to_owned(),
            url: String::new(),
            generation,
            expires_at: None,
            requests_in_flight: None,
            requests_served: None,
        }
    }

    #[test]
    fn a_share_that_moves_is_listed_once_and_where_it_came_last() {
        let (a, b, calc) = (entry("a", "x", 1), entry("b", "y", 5), entry("calc", "x", 7));
        let moved = entry("calc", "y", 8);
        let all = [b.clone(), moved.clone(), a.clone(), calc];
        assert_eq!(together(all), [a, b, moved]);
    }

    #[test]
    fn what_is_asked_is_read_and_a_hop_asks_nothing() {
        for ask in [Ask::Shares, Ask::Close { name: "calc".parse().unwrap() }] {
            let mut request = ask.request();
            assert_eq!(Ask::take(request.headers_mut()), Some(ask));
            assert!(request.headers().is_empty());
        }
        let mut headers = HeaderMap::new();
        assert_eq!(Ask::take(&mut headers), None);
        headers.insert(ASK, HeaderValue::from_static("{\"ask\":\"reboot\"}"));
        assert_eq!(Ask::take(&mut headers), None);
    }
}
