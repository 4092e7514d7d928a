//! How connections are served, and what tells them to end: made once, used by all.

use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use mcpm_shared::scope::Scope;

use super::patience::HEAD_TIMEOUT;
use crate::config::Config;

/// The most header fields of a request (hyper's own default, which is nginx's order of magnitude).
pub(super) const MAX_HEADERS: usize = 100;
/// HTTP/2: concurrent requests of one connection, and its windows.
const H2_STREAMS: u32 = 256;
const H2_STREAM_WINDOW: u32 = 256 * 1024;
const H2_CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;
/// How much of each answer waits here for a visitor who reads slowly, in bytes: with all streams of
/// a connection, hyper's own 400 KiB would make 100 MiB.
const H2_SEND_BUFFER: usize = 64 * 1024;

/// How connections are served: made once, used by all.
///
/// Which protocol a connection speaks is known before its first byte: a plain one has nothing to
/// agree on HTTP/2 with, and TLS has ALPN (RFC 9113 §3).
#[derive(Debug)]
pub struct Server {
    pub(super) http1: http1::Builder,
    pub(super) http2: http2::Builder<TokioExecutor>,
}

impl Server {
    /// Makes the server of these settings.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let max_head = config.limits.max_header_bytes;
        let mut http1 = http1::Builder::new();
        // The timer comes with each connection.
        http1
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(max_head.max(8 * 1024))
            .max_headers(MAX_HEADERS);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(H2_STREAMS)
            .initial_stream_window_size(H2_STREAM_WINDOW)
            .initial_connection_window_size(H2_CONNECTION_WINDOW)
            .max_send_buf_size(H2_SEND_BUFFER)
            .max_header_list_size(u32::try_from(max_head).unwrap_or(u32::MAX))
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20));
        Self { http1, http2 }
    }
}

/// What tells a connection to end.
#[derive(Clone, Debug)]
pub struct Stop {
    /// Nothing more is accepted here, so that whoever connects anew gets elsewhere: where visitors
    /// are told which requests were heard, it may end already. Before, a visitor who obeys such a
    /// word could get here once more.
    pub goaways: Scope,
    /// It must end after the request it is at.
    pub visitors: Scope,
}
