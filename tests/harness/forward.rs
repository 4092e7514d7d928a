//! An HTTP proxy as companies have them: it knows `CONNECT`, and notes who asked it for what.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use mcpm_shared::scope::Scope;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// The longest request that it reads.
const MAX_HEAD: usize = 16 * 1024;

/// A proxy that connects to whatever it is asked for (RFC 9110 §9.3.6).
#[derive(Debug)]
pub struct ForwardProxy {
    addr: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    scope: Scope,
}

impl ForwardProxy {
    /// Starts one on this machine.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (scope, asked) = (Scope::new(), Arc::<Mutex<Vec<String>>>::default());
        let (tasks, noted) = (scope.clone(), Arc::clone(&asked));
        scope.spawn_until_cancelled(async move {
            while let Ok((client, _)) = listener.accept().await {
                tasks.spawn_until_cancelled(pass(client, Arc::clone(&noted)));
            }
        });
        Self { addr, asked, scope }
    }

    /// Returns its URL, with a name and a password to show it.
    #[must_use]
    pub fn url(&self, user: &str) -> String {
        format!("http://{user}@{}", self.addr)
    }

    /// Returns the heads of all requests so far.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for ForwardProxy {
    fn drop(&mut self) {
        self.scope.cancel();
    }
}

async fn pass(mut client: TcpStream, asked: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < MAX_HEAD {
        // Byte by byte: what follows the head is for the other end.
        let Ok(byte) = client.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let connects = head.starts_with("CONNECT ");
    asked.lock().unwrap().push(head);
    let server = if connects { TcpStream::connect(target).await.ok() } else { None };
    let Some(mut server) = server else {
        let _told = client.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await;
        return;
    };
    if client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.is_ok() {
        let _ended = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    }
}
