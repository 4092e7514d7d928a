//! How a request fails, with the id that its answer echoes.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body::Body;
use http_body_util::{BodyExt as _, Limited};
use mcpm_shared::mux::MuxError;
use mcpm_shared::proto::ShareMode;
use mcpm_shared::proto::head::Verdict;

use super::{Exchange, mcp};
use crate::error::EdgeError;
use crate::tunnel::lane::LaneError;
use crate::tunnel::share::Share;
use crate::tunnel::visitor_body::VisitorBodyError;

/// How long the body of a request that failed before it was sent is read for its id.
const ID_TIMEOUT: Duration = Duration::from_secs(1);
/// How much of it is read.
const ID_LIMIT: usize = 64 * 1024;

/// A failure, and the id of the request where it is known.
pub(super) struct Failure {
    pub(super) error: EdgeError,
    pub(super) rpc: bool,
    pub(super) body: Bytes,
}

impl Failure {
    pub(super) fn plain(error: EdgeError) -> Self {
        Self { error, rpc: false, body: Bytes::new() }
    }

    /// Fails a request whose body nobody has read: reads a little of it, for the id. Without a
    /// `mode`, what looks like JSON-RPC is taken for it.
    pub(super) async fn unsent<B: Body>(
        error: EdgeError,
        request: Request<B>,
        mode: Option<ShareMode>,
    ) -> Self
    where
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let json = mcp::media_type(request.headers())
            .is_some_and(|media| media.eq_ignore_ascii_case("application/json"));
        if request.method() != Method::POST || !json || mode == Some(ShareMode::Http) {
            return Self::plain(error);
        }
        let read = Limited::new(request.into_body(), ID_LIMIT).collect();
        let body = match tokio::time::timeout(ID_TIMEOUT, read).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_)) | Err(_) => Bytes::new(),
        };
        Self { error, rpc: true, body }
    }

    pub(super) fn after(error: EdgeError, exchange: &Exchange) -> Self {
        Self { error, rpc: exchange.rpc, body: exchange.first.take() }
    }
}

/// Says how a request failed whose lane did.
pub(super) fn lane_failure(share: &Share, error: &LaneError) -> EdgeError {
    let edge = match error {
        LaneError::Visitor(VisitorBodyError::TooLarge) => return EdgeError::TooLarge,
        // The visitor went, or its chunks are none: no agent has failed.
        LaneError::Visitor(_) => return EdgeError::Malformed,
        LaneError::Open(MuxError::TooManyStreams) => EdgeError::Busy,
        LaneError::Open(_) => EdgeError::Offline,
        // The agent has not looked at the request: its share has just ended, or it is full.
        LaneError::Refused(Verdict::Busy) => EdgeError::Busy,
        LaneError::Refused(_) => EdgeError::Offline,
        LaneError::Idle => EdgeError::Idle,
        _ => EdgeError::AgentFailed,
    };
    let error: &dyn std::error::Error = error;
    tracing::debug!(share.name = %share.facts.name, error, "exchange failed");
    edge
}
