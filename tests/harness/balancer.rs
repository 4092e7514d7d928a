//! A balancer that knows nothing of HTTP, in front of several relays.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use mcpm_shared::scope::Scope;
use tokio::net::{TcpListener, TcpStream};

/// Passes each connection to the next of its backends that takes it.
#[derive(Debug)]
pub struct Balancer {
    addr: SocketAddr,
    backends: Arc<Mutex<Vec<SocketAddr>>>,
    /// What passes at present.
    open: Arc<Mutex<Scope>>,
    scope: Scope,
}

impl Balancer {
    /// Starts a balancer without backends: it closes what comes.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (scope, backends) = (Scope::new(), Arc::<Mutex<Vec<SocketAddr>>>::default());
        let open = Arc::new(Mutex::new(scope.child()));
        let (tasks, known) = (Arc::clone(&open), Arc::clone(&backends));
        scope.spawn_until_cancelled(async move {
            for turn in 0.. {
                let Ok((client, _)) = listener.accept().await else { return };
                let mut backends = known.lock().unwrap().clone();
                if !backends.is_empty() {
                    let first = turn % backends.len();
                    backends.rotate_left(first);
                }
                tasks.lock().unwrap().spawn_until_cancelled(pass(client, backends));
            }
        });
        Self { addr, backends, open, scope }
    }

    /// Returns the port that it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Returns a URL at the balancer.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://localhost:{}{path}", self.port())
    }

    /// Gives connections to these backends from now on.
    pub fn set(&self, backends: impl IntoIterator<Item = SocketAddr>) {
        *self.backends.lock().unwrap() = backends.into_iter().collect();
    }
}

impl Balancer {
    /// Breaks every connection that passes.
    pub fn cut(&self) {
        let mut open = self.open.lock().unwrap();
        open.cancel();
        *open = self.scope.child();
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.scope.cancel();
    }
}

async fn pass(mut client: TcpStream, backends: Vec<SocketAddr>) {
    for backend in backends {
        if let Ok(mut server) = TcpStream::connect(backend).await {
            let _set = client.set_nodelay(true).and(server.set_nodelay(true));
            let _ended = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            return;
        }
    }
}
