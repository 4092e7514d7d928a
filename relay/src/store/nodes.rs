//! The processes that are one relay together, and what they hear of each other by their store.

use std::fmt;

use async_trait::async_trait;
use mcpm_shared::name::Name;
use serde::Serialize;

use super::StoreError;

/// One process of a relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeRecord {
    /// Its name, which leases carry.
    pub id: String,
    /// Where other nodes reach it, as `HOST:PORT`.
    pub address: String,
    /// Rises with each start under this name.
    pub generation: u64,
    /// Rises while the node lives: others look whether it does, and never compare clocks.
    pub beats: u64,
    /// The version of its program.
    pub version: String,
    /// Whether it was told to stop.
    pub draining: bool,
    /// When it started.
    pub started_at: u64,
    /// When it last beat, by its own clock.
    pub seen_at: u64,
}

/// A process that becomes a node.
#[derive(Clone, Debug)]
pub struct NewNode {
    /// The name that it takes.
    pub id: String,
    /// Where other nodes reach it, as `HOST:PORT`.
    pub address: String,
    /// The version of its program.
    pub version: String,
    /// The present.
    pub now: u64,
}

/// What a node learns when it beats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Whether the node is still one: others may have given it up, or another process has its name.
    pub known: bool,
    /// All nodes.
    pub nodes: Vec<NodeRecord>,
}

/// Something that happened in a store, at whichever node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A lease was given or ended.
    Lease {
        /// The name.
        name: Name,
        /// The generation it has now.
        generation: u64,
        /// The node that holds the session.
        node: String,
        /// Whether it ended.
        ended: bool,
    },
    /// A node came, or came anew.
    Entered(String),
    /// A node went or was given up.
    Lost(String),
    /// Something may have been missed: everything must be read anew.
    Gap,
}

/// Hears what happens in a store.
#[async_trait]
pub trait Feed: fmt::Debug + Send {
    /// Waits for the next news. Not cancel-safe: news may be lost with the future.
    async fn next(&mut self) -> Result<News, StoreError>;
}
