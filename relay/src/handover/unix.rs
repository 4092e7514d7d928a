//! The two ends of the Unix socket over which listeners pass.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::cmsg_space;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recv, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Interest};
use tokio::net::{UnixListener, UnixStream};

use super::{DatabaseLock, Inherited, Socket};

/// Version of what is said here. A successor of another version ends, and who runs goes on.
const VERSION: u32 = 2;
/// What a successor says first.
const WISH: &[u8] = b"take over\n";
/// How many listeners a relay has at most, with room to grow; and one more descriptor, the lock.
const MAX_SOCKETS: usize = 16;
const MAX_DESCRIPTORS: usize = MAX_SOCKETS + 1;
/// Longest line that is read.
const MAX_LINE: usize = 8 * 1024;
/// How long a step takes that needs no waiting for anybody.
const STEP: Duration = Duration::from_secs(5);
/// How long a successor may take to start: longer than it waits for its database.
const START: Duration = Duration::from_secs(60);

/// Why listeners did not pass.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandoverError {
    /// The Unix socket failed.
    #[error("the hand-over at {} failed", path.display())]
    Io {
        /// The Unix socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another relay offers its listeners there.
    #[error("another relay offers its listeners at {}", .0.display())]
    InUse(PathBuf),
    /// The relay there says something else.
    #[error("what offers listeners at {} is no relay of this version", .0.display())]
    Foreign(PathBuf),
    /// The relay there waits no longer, and serves.
    #[error("the relay that offers its listeners at {} did not wait, and goes on", .0.display())]
    Late(PathBuf),
}

/// What a predecessor says.
#[derive(Debug, Serialize, Deserialize)]
struct Offered {
    version: u32,
    sockets: Vec<Meant>,
    /// Whether the last descriptor is the right to the database.
    #[serde(default)]
    lock: bool,
}

/// What one of the sockets that come along is for.
#[derive(Debug, Serialize, Deserialize)]
struct Meant {
    setting: String,
    asked: SocketAddr,
}

/// The listeners of this process, offered to a successor. Dropping it takes the offer back.
#[derive(Debug)]
pub struct Offer {
    path: PathBuf,
    listener: UnixListener,
    sockets: Vec<Socket>,
    lock: Option<DatabaseLock>,
}

/// A successor that serves, and waits for the word that all is its own now.
#[derive(Debug)]
pub struct Taken {
    /// The successor's process.
    pub pid: u32,
    stream: UnixStream,
}

impl Offer {
    /// Offers `sockets` and the right to the database at `path`, which gets mode 0600; what a dead
    /// process left there is removed.
    ///
    /// # Errors
    /// When another relay offers its own there, or the path cannot be used.
    pub fn make(
        path: &Path,
        sockets: Vec<Socket>,
        lock: Option<DatabaseLock>,
    ) -> Result<Self, HandoverError> {
        let fail = |source| HandoverError::Io { path: path.to_owned(), source };
        match StdStream::connect(path) {
            Ok(_) => return Err(HandoverError::InUse(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(fail)?;
            }
            Err(_) => {}
        }
        let listener = UnixListener::bind(path).map_err(fail)?;
        // Made before: dropping it removes the path when the rest fails.
        let offer = Self { path: path.to_owned(), listener, sockets, lock };
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).map_err(fail)?;
        Ok(offer)
    }

    /// Waits until a successor has the listeners and serves. Cancel-safe: a successor that is at it
    /// then starts on its own, and fails.
    pub async fn taken(&self) -> Taken {
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a successor could not be heard");
                    tokio::time::sleep(STEP).await;
                    continue;
                }
            };
            match tokio::time::timeout(START, self.pass_to(stream)).await {
                Ok(Ok(Some(taken))) => return taken,
                // Another relay that would like to offer its own here, and sees that it cannot.
                Ok(Ok(None)) => tracing::debug!("somebody looked who offers listeners"),
                Ok(Err(error)) => tracing::warn!(%error, "a successor did not come up; going on"),
                Err(_) => tracing::warn!("a successor took too long to come up; going on"),
            }
        }
    }

    /// Passes everything to who asks for it; `None` when nobody asked.
    async fn pass_to(&self, mut stream: UnixStream) -> io::Result<Option<Taken>> {
        let mut said = [0; WISH.len()];
        let asked = tokio::time::timeout(STEP, stream.read_exact(&mut said)).await;
        if !matches!(asked, Ok(Ok(_))) || said != *WISH {
            return Ok(None);
        }
        let meant =
            |socket: &Socket| Meant { setting: socket.setting.clone(), asked: socket.asked };
        let sockets = self.sockets.iter().take(MAX_SOCKETS).map(meant).collect();
        let offered = Offered { version: VERSION, sockets, lock: self.lock.is_some() };
        let mut line = serde_json::to_vec(&offered)?;
        line.push(b'\n');
        let sockets = self.sockets.iter().take(MAX_SOCKETS).map(|socket| socket.listener.as_fd());
        let lock = self.lock.iter().map(|lock| lock.file().as_fd());
        let descriptors: Vec<BorrowedFd<'_>> = sockets.chain(lock).collect();
        stream.writable().await?;
        let sent = stream.try_io(Interest::WRITABLE, || send_with(&stream, &line, &descriptors))?;
        if sent != line.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let mut stream = BufReader::new(stream);
        let mut answer = String::new();
        (&mut stream).take(MAX_LINE as u64).read_line(&mut answer).await?;
        let pid = answer.trim_end().strip_prefix("ready ").and_then(|pid| pid.parse().ok());
        let pid = pid.ok_or(io::ErrorKind::UnexpectedEof)?;
        let stream = stream.into_inner();
        // One that said so and waited in vain for the answer has ended since.
        if hung_up(&stream) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Some(Taken { pid, stream }))
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        // A path that is gone is as good.
        drop(std::fs::remove_file(&self.path));
    }
}

impl Taken {
    /// Tells the successor that the path is free and this process accepts nothing more.
    pub async fn release(mut self) {
        let said = tokio::time::timeout(STEP, self.stream.write_all(b"yours\n")).await;
        if !matches!(said, Ok(Ok(()))) {
            tracing::debug!("the successor does not listen");
        }
    }
}

/// Tells whether who is at the other end, and has said all it had to, is gone.
fn hung_up(stream: &UnixStream) -> bool {
    let looked = recv(stream, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    matches!(looked, Ok((_, 0)) | Err(rustix::io::Errno::CONNRESET))
}

fn send_with(stream: &UnixStream, line: &[u8], passed: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(passed)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    Ok(sendmsg(stream, &[IoSlice::new(line)], &mut control, SendFlags::empty())?)
}

/// The process whose listeners this one has got.
#[derive(Debug)]
pub struct Predecessor {
    path: PathBuf,
    stream: StdStream,
    left: Inherited,
}

/// Takes over what a running relay offers at `path`; `None` where none does. Waits for a few seconds
/// at most, without a runtime.
///
/// # Errors
/// When the relay there fails, or is of a version that says it otherwise.
pub fn take_over(path: &Path) -> Result<Option<Predecessor>, HandoverError> {
    let fail = |source| HandoverError::Io { path: path.to_owned(), source };
    let mut stream = match StdStream::connect(path) {
        Ok(stream) => stream,
        Err(error)
            if [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused]
                .contains(&error.kind()) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(fail(error)),
    };
    stream.set_read_timeout(Some(STEP)).map_err(fail)?;
    stream.write_all(WISH).map_err(fail)?;
    let (line, mut descriptors) = receive(&stream).map_err(fail)?;
    let foreign = || HandoverError::Foreign(path.to_owned());
    let offered: Offered = serde_json::from_slice(&line).map_err(|_| foreign())?;
    let told = offered.sockets.len() + usize::from(offered.lock);
    if offered.version != VERSION || told != descriptors.len() {
        return Err(foreign());
    }
    let lock = if offered.lock { descriptors.pop() } else { None };
    let lock = lock.map(|lock| DatabaseLock::inherited(lock.into()));
    let socket = |(meant, descriptor): (Meant, OwnedFd)| Socket {
        setting: meant.setting,
        asked: meant.asked,
        listener: TcpListener::from(descriptor),
    };
    let sockets = offered.sockets.into_iter().zip(descriptors).map(socket).collect();
    let left = Inherited::new(sockets, lock);
    Ok(Some(Predecessor { path: path.to_owned(), stream, left }))
}

/// Reads one line and the descriptors that come with it.
fn receive(mut stream: &StdStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut line = vec![0; MAX_LINE];
    let parts = &mut [IoSliceMut::new(&mut line)];
    let received = recvmsg(stream, parts, &mut control, RecvFlags::empty())?;
    line.truncate(received.bytes);
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            descriptors.extend(passed);
        }
    }
    for descriptor in &descriptors {
        // Programs that the relay runs must not hold its listeners open.
        fcntl_setfd(descriptor, FdFlags::CLOEXEC)?;
    }
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
        if line.len() > MAX_LINE {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok((line, descriptors))
}

impl Predecessor {
    /// Returns what it leaves.
    #[must_use]
    pub fn left(&self) -> Inherited {
        self.left.clone()
    }

    /// Tells the predecessor that this process serves, and waits until it has given up the path.
    ///
    /// # Errors
    /// [`HandoverError::Late`] when it goes on, so that this process must end; any other when it is
    /// gone, and its listeners are ours all the same.
    pub async fn ready(self) -> Result<(), HandoverError> {
        let Self { path, stream, .. } = self;
        let say = async {
            stream.set_nonblocking(true)?;
            let mut stream = UnixStream::from_std(stream)?;
            let ready = format!("ready {}\n", std::process::id());
            stream.write_all(ready.as_bytes()).await?;
            let mut answer = String::new();
            BufReader::new(stream).take(16).read_line(&mut answer).await?;
            match answer.as_str() {
                "yours\n" => Ok(()),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            }
        };
        let said = tokio::time::timeout(STEP, say).await;
        let said = said.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let Err(source) = said else { return Ok(()) };
        let asked = path.clone();
        // Who cannot be asked may still be there: two relays over one database are worse than none.
        match tokio::task::spawn_blocking(move || goes_on(&asked)).await.unwrap_or(true) {
            true => Err(HandoverError::Late(path)),
            false => Err(HandoverError::Io { path, source }),
        }
    }
}

/// Tells whether a predecessor that did not answer offers its listeners again. One that hands over
/// after all lets go of who asks meanwhile; one that is silent finds out later that nobody is left.
fn goes_on(path: &Path) -> bool {
    match take_over(path) {
        Ok(again) => again.is_some(),
        Err(HandoverError::Io { source, .. }) => {
            [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&source.kind())
        }
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(setting: &str) -> Socket {
        let asked = SocketAddr::from(([127, 0, 0, 1], 0));
        Socket { setting: setting.to_owned(), asked, listener: TcpListener::bind(asked).unwrap() }
    }

    async fn taken_over(path: &Path) -> Option<Predecessor> {
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || take_over(&path)).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn a_successor_gets_the_very_sockets_and_what_waits_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("takeover.sock");
        let sockets = vec![socket("--listen"), socket("--admin-listen")];
        let (asked, addr) = (sockets[0].asked, sockets[0].listener.local_addr().unwrap());
        let database = dir.path().join("relay.db");
        let lock = DatabaseLock::take(&database, None).unwrap();
        let offer = Offer::make(&path, sockets, lock).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut waiting = std::net::TcpStream::connect(addr).unwrap();
        waiting.write_all(b"hello").unwrap();
        let successor = async {
            let predecessor = taken_over(&path).await.unwrap();
            let left = predecessor.left();
            predecessor.ready().await.unwrap();
            assert!(!path.exists(), "the path is free for the successor's own offer");
            left
        };
        let predecessor = async {
            let taken = offer.taken().await;
            assert_eq!(taken.pid, std::process::id());
            drop(offer);
            taken.release().await;
        };
        let (left, ()) = tokio::join!(successor, predecessor);
        assert!(DatabaseLock::take(&database, None).is_err(), "the lock has passed, too");
        assert!(DatabaseLock::take(&database, left.lock()).unwrap().is_some());
        assert!(left.find("--tunnel-listen", asked).unwrap().is_none());
        let listener = left.find("--listen", asked).unwrap().unwrap();
        assert_eq!(listener.local_addr().unwrap(), addr);
        let mut text = [0; 5];
        listener.accept().unwrap().0.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"hello");
    }

    #[tokio::test]
    async fn a_successor_that_does_not_come_up_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("takeover.sock");
        let offer = Offer::make(&path, vec![socket("--listen")], None).unwrap();
        let tries = async {
            drop(taken_over(&path).await.unwrap());
            // It serves, and has given up waiting before anybody heard so.
            let mut impatient = taken_over(&path).await.unwrap();
            impatient.stream.write_all(b"ready 1\n").unwrap();
            drop(impatient);
            taken_over(&path).await.unwrap().ready().await
        };
        let taken = async {
            let pid = offer.taken().await.pid;
            drop(offer);
            pid
        };
        let (pid, failed) = tokio::join!(taken, tries);
        assert_eq!(pid, std::process::id(), "the third one came up");
        let failed = failed.unwrap_err();
        assert!(matches!(failed, HandoverError::Io { .. }), "all is its own, untold: {failed}");
    }

    #[tokio::test]
    async fn a_relay_that_says_it_otherwise_is_not_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("takeover.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let old = std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            stream.write_all(b"{\"version\":1,\"sockets\":[]}\n").unwrap();
            // Until the successor has left.
            drop(stream.read_to_end(&mut Vec::new()));
        });
        assert!(matches!(take_over(&path), Err(HandoverError::Foreign(_))));
        old.join().unwrap();
    }

    #[tokio::test]
    async fn nobody_offers_where_there_is_no_socket_or_a_dead_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("takeover.sock");
        assert!(take_over(&path).unwrap().is_none());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists() && take_over(&path).unwrap().is_none());
        let offer = Offer::make(&path, Vec::new(), None).unwrap();
        let second = Offer::make(&path, Vec::new(), None);
        assert!(matches!(second, Err(HandoverError::InUse(_))));
        // That is no successor which did not come up: nobody asked.
        let (looked, _) = offer.listener.accept().await.unwrap();
        assert!(offer.pass_to(looked).await.unwrap().is_none());
        drop(offer);
        assert!(!path.exists());
    }
}
