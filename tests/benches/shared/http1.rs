//! As little of an HTTP/1.1 server as a load generator needs.

use std::future::Future;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::process::local;

/// Listens on any port of this machine.
///
/// # Errors
/// When there is none.
pub fn listen() -> anyhow::Result<TcpListener> {
    // The usual queue of 128 overflows when a tunnel dials for 256 visitors at once; whoever it
    // overflows for then waits a second for the retransmission, which is no tunnel's figure.
    let socket = TcpSocket::new_v4()?;
    socket.bind(local(0))?;
    Ok(socket.listen(4096)?)
}

/// Serves every connection until killed. How one ends does not matter.
///
/// # Errors
/// When the listener breaks.
pub async fn serve<F>(
    listener: TcpListener,
    connection: impl Fn(TcpStream) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let stream = accepted?.0;
                stream.set_nodelay(true)?;
                connections.spawn(connection(stream));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Reads up to the blank line; what came after it stays in `buffer`. `None` at the end of the
/// connection.
///
/// # Errors
/// When reading fails.
pub async fn head(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
) -> std::io::Result<Option<String>> {
    loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = buffer.split_off(end + 4);
            let head = std::mem::replace(buffer, rest);
            return Ok(Some(String::from_utf8_lossy(&head).into_owned()));
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

/// The value of a header field, if it is there.
#[must_use]
pub fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (field, value) = line.split_once(':')?;
        field.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
