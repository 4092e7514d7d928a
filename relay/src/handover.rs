//! How one process takes the listeners of another over, so that a relay is replaced without a
//! refused connection.
//!
//! The successor gets the very sockets of its predecessor, accept queue included: two sockets on
//! one port (`SO_REUSEPORT`) would lose what waits in the queue of the one that closes. They pass
//! over a Unix socket with mode 0600 in the data directory (`SCM_RIGHTS`, unix(7)):
//!
//! 1. the successor connects and says `take over`; the predecessor sends one line of JSON, and with
//!    it the listeners and the right to its database ([`DatabaseLock`]);
//! 2. the successor starts, serves, and says `ready`;
//! 3. the predecessor gives up the path of the Unix socket, says `yours`, and drains.
//!
//! A successor that ends before it hears `yours` changes nothing, and who connects without a word
//! only looks whether anybody offers. One whose `ready` comes too late asks anew: is it offered the
//! listeners again, then the predecessor goes on, and the successor ends.

mod lock;
#[cfg(unix)]
mod unix;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

pub use lock::{DatabaseLock, LockError};
#[cfg(unix)]
pub use unix::{HandoverError, Offer, Predecessor, Taken, take_over};

/// A listening socket, and what it was made for.
#[derive(Debug)]
pub struct Socket {
    /// The setting that asked for it, as a flag.
    pub setting: String,
    /// The address that was asked for; its port may be 0.
    pub asked: SocketAddr,
    /// The socket itself.
    pub listener: TcpListener,
}

/// What a predecessor has left: its listening sockets, and the right to its database where that
/// goes by a lock. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Inherited {
    sockets: Arc<Vec<Socket>>,
    lock: Option<DatabaseLock>,
}

impl Inherited {
    /// Wraps what came from elsewhere.
    #[must_use]
    pub fn new(sockets: Vec<Socket>, lock: Option<DatabaseLock>) -> Self {
        Self { sockets: Arc::new(sockets), lock }
    }

    /// Returns the right to the predecessor's database.
    #[must_use]
    pub fn lock(&self) -> Option<&DatabaseLock> {
        self.lock.as_ref()
    }

    /// Returns the socket that was made for this setting and address, if there is one.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub fn find(&self, setting: &str, asked: SocketAddr) -> io::Result<Option<TcpListener>> {
        let fits = |socket: &&Socket| socket.setting == setting && socket.asked == asked;
        self.sockets.iter().find(fits).map(|socket| socket.listener.try_clone()).transpose()
    }

    /// Tells whether there are any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }
}
