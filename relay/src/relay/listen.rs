//! The sockets that a relay listens on: made, or taken over from a process that it replaces.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::StartError;
use crate::handover::{Inherited, Socket};

/// How many connections may wait to be accepted: a burst of visitors, or all agents after a restart.
const BACKLOG: u32 = 4096;

/// A listening socket, and where it came from.
pub(super) struct Bound {
    pub(super) listener: TcpListener,
    /// Where it listens.
    pub(super) addr: SocketAddr,
    /// Where it was asked to listen; the port may be 0.
    #[cfg_attr(not(unix), expect(dead_code, reason = "nothing passes to a successor there"))]
    asked: SocketAddr,
    /// The setting that asked, as a flag.
    #[cfg_attr(not(unix), expect(dead_code, reason = "nothing passes to a successor there"))]
    setting: &'static str,
}

/// Takes over the socket that a predecessor has left for this, or makes one.
pub(super) fn listen_on(
    addr: SocketAddr,
    setting: &'static str,
    inherited: &Inherited,
) -> Result<Bound, StartError> {
    let fail = |source| StartError::Listen { addr, setting, source };
    let Some(listener) = inherited.find(setting, addr).map_err(fail)? else {
        return bind(addr, setting);
    };
    listener.set_nonblocking(true).map_err(fail)?;
    let listener = TcpListener::from_std(listener).map_err(fail)?;
    let bound = listener.local_addr().map_err(fail)?;
    Ok(Bound { listener, addr: bound, asked: addr, setting })
}

/// Copies listening sockets for a successor; none where they cannot pass to one.
#[cfg(unix)]
pub(super) fn copies<'a>(
    bound: impl Iterator<Item = &'a Bound>,
) -> Result<Vec<Socket>, StartError> {
    use std::os::fd::AsFd as _;
    let copy = |bound: &Bound| {
        let listener = bound.listener.as_fd().try_clone_to_owned().map_err(|source| {
            StartError::Listen { addr: bound.asked, setting: bound.setting, source }
        })?;
        Ok(Socket {
            setting: bound.setting.to_owned(),
            asked: bound.asked,
            listener: listener.into(),
        })
    };
    bound.map(copy).collect()
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "the other systems' signature")]
pub(super) fn copies<'a>(_: impl Iterator<Item = &'a Bound>) -> Result<Vec<Socket>, StartError> {
    Ok(Vec::new())
}

fn bind(addr: SocketAddr, setting: &'static str) -> Result<Bound, StartError> {
    let asked = addr;
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
    // Likewise: of a visitor that was switched off while there was nothing to say, nothing else tells.
    socket.set_keepalive(true).map_err(fail)?;
    socket.bind(addr).map_err(fail)?;
    let listener = socket.listen(BACKLOG).map_err(fail)?;
    let addr = listener.local_addr().map_err(fail)?;
    Ok(Bound { listener, addr, asked, setting })
}
