//! How two nodes make sure of each other, once for each connection between them.
//!
//! The connection is TLS 1.3 with a certificate that says nothing: each process makes one. What
//! counts comes right behind the handshake. Both sides prove that they know the nodes' secret, by an
//! HMAC over their names, their parts and keying material that TLS exports (RFC 8446 §7.5), which no
//! other connection has. So a proof is of no use anywhere else or later, nobody can stand between,
//! and no clock is compared. What a node says on such a connection is believed: all of it is
//! encrypted and authenticated.
//!
//! ```text
//! dialer:   what it speaks (1) ‖ its name (1 + n) ‖ the name it means (1 + n) ‖ HMAC (32)
//! accepter: HMAC (32)
//! ```

use std::fmt;
use std::io;
use std::sync::Arc;

use hmac::{Hmac, KeyInit as _, Mac as _};
use mcpm_shared::token::Token;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{ClientConfig, ConnectionCommon, ServerConfig};
use sha2::Sha256;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use zeroize::Zeroizing;

use crate::cert::AnyCert;

/// What the connection is for, said in TLS: nothing else ever gets further.
const ALPN: &[u8] = b"mcpm-hop/1";
/// The name in the certificate, which nobody looks at.
const CERTIFICATE_NAME: &str = "mcpm-relay-node";
/// Label of the keying material.
const EXPORTER: &[u8] = b"EXPORTER-mcpm-hop";
/// What the proofs' key is derived for.
const PURPOSE: &[u8] = b"mcpm-relay/1/hop";
const PROOF_BYTES: usize = 32;

type Material = Zeroizing<[u8; 32]>;

/// What is spoken on a connection between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/2: any number of requests.
    Requests,
    /// HTTP/1.1: one request that may switch protocols.
    Switch,
}

impl Speaks {
    fn code(self) -> u8 {
        match self {
            Self::Requests => 2,
            Self::Switch => 1,
        }
    }

    fn of(code: u8) -> Option<Self> {
        [Self::Requests, Self::Switch].into_iter().find(|it| it.code() == code)
    }
}

/// Why two nodes have no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HelloError {
    /// Nobody answered, or the connection broke.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The other side does not know the secret, or takes us for somebody else.
    #[error("the other side did not prove that it is a node of this relay")]
    Unproved,
    /// The other side means another node: it has an old address.
    #[error("the other side means the node `{0}`")]
    Misaddressed(String),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Makes and takes connections between nodes.
#[derive(Clone)]
pub struct Hello {
    id: String,
    keys: Arc<[Zeroizing<[u8; 32]>]>,
    connector: TlsConnector,
    acceptor: TlsAcceptor,
}

impl fmt::Debug for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hello").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Hello {
    /// Prepares the connections of a node: it shows the first secret that the other side knows, and
    /// accepts all.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(id: &str, secrets: &[Token]) -> Result<Self, HelloError> {
        let provider = Arc::new(ring::default_provider());
        let keys = secrets.iter().map(|secret| {
            let secret = secret.expose().as_bytes();
            let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes any key");
            mac.update(PURPOSE);
            Zeroizing::new(mac.finalize().into_bytes().into())
        });
        Ok(Self {
            id: id.to_owned(),
            keys: keys.collect(),
            connector: TlsConnector::from(Arc::new(client(&provider)?)),
            acceptor: TlsAcceptor::from(Arc::new(server(&provider)?)),
        })
    }

    /// Connects to the node `to` at an address. Not cancel-safe, and without a time limit.
    ///
    /// # Errors
    /// When nobody answers there, or not that node.
    pub async fn dial(
        &self,
        address: &str,
        to: &str,
        speaks: Speaks,
    ) -> Result<TlsStream<TcpStream>, HelloError> {
        for key in self.keys.iter() {
            match self.dial_with(address, to, speaks, key).await {
                // A node that knows this secret no more, or not yet, closes without a word.
                Err(HelloError::Unproved) => {}
                done => return done,
            }
        }
        Err(HelloError::Unproved)
    }

    async fn dial_with(
        &self,
        address: &str,
        to: &str,
        speaks: Speaks,
        key: &[u8; 32],
    ) -> Result<TlsStream<TcpStream>, HelloError> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(CERTIFICATE_NAME).expect("it is a name");
        let mut stream = self.connector.connect(name, tcp).await?;
        let material = exported(stream.get_ref().1)?;
        let greeting = greeting(speaks, &self.id, to);
        let proof = prove(key, b"dialer", &greeting, &material).finalize().into_bytes();
        stream.write_all(&[greeting.as_slice(), proof.as_slice()].concat()).await?;
        stream.flush().await?;
        let mut answer = [0; PROOF_BYTES];
        // Whoever does not believe us says nothing.
        stream.read_exact(&mut answer).await.map_err(|_| HelloError::Unproved)?;
        let expected = prove(key, b"accepter", &greeting, &material);
        expected.verify_slice(&answer).map_err(|_| HelloError::Unproved)?;
        Ok(stream.into())
    }

    /// Takes a connection, and returns it with what is spoken on it and the name of the other node.
    /// Not cancel-safe, and without a time limit.
    ///
    /// # Errors
    /// When the other side is no node of this relay, or means another one.
    pub async fn accept(
        &self,
        tcp: TcpStream,
    ) -> Result<(TlsStream<TcpStream>, Speaks, String), HelloError> {
        tcp.set_nodelay(true)?;
        let mut stream = self.acceptor.accept(tcp).await?;
        let material = exported(stream.get_ref().1)?;
        let code = stream.read_u8().await?;
        let (from, to) = (read_name(&mut stream).await?, read_name(&mut stream).await?);
        let mut proof = [0; PROOF_BYTES];
        stream.read_exact(&mut proof).await?;
        let greeting = [&[code], named(&from).as_slice(), named(&to).as_slice()].concat();
        let proved = |key: &&Zeroizing<[u8; 32]>| {
            prove(key, b"dialer", &greeting, &material).verify_slice(&proof).is_ok()
        };
        let key = self.keys.iter().find(proved).ok_or(HelloError::Unproved)?;
        let speaks = Speaks::of(code).ok_or(HelloError::Unproved)?;
        let to = String::from_utf8_lossy(&to).into_owned();
        if to != self.id {
            return Err(HelloError::Misaddressed(to));
        }
        let answer = prove(key, b"accepter", &greeting, &material).finalize().into_bytes();
        stream.write_all(&answer).await?;
        stream.flush().await?;
        Ok((stream.into(), speaks, String::from_utf8_lossy(&from).into_owned()))
    }
}

fn greeting(speaks: Speaks, from: &str, to: &str) -> Vec<u8> {
    [&[speaks.code()], named(from.as_bytes()).as_slice(), named(to.as_bytes()).as_slice()].concat()
}

/// Puts its length before a name, which has 64 bytes at most.
fn named(name: &[u8]) -> Vec<u8> {
    let length = u8::try_from(name.len()).unwrap_or(u8::MAX);
    let name = &name[..usize::from(length)];
    [&[length], name].concat()
}

async fn read_name(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut name = vec![0; usize::from(stream.read_u8().await?)];
    stream.read_exact(&mut name).await?;
    Ok(name)
}

fn exported<D>(connection: &ConnectionCommon<D>) -> Result<Material, HelloError> {
    let exported = connection.export_keying_material([0; 32], EXPORTER, None);
    exported.map(Zeroizing::new).map_err(|error| HelloError::Tls(Box::new(error)))
}

/// Of fixed length, but for the greeting in the middle, which says its own: nothing else gives the
/// same bytes.
fn prove(key: &[u8; 32], part: &[u8], greeting: &[u8], material: &Material) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes any key");
    for piece in [&named(part), greeting, material.as_slice()] {
        mac.update(piece);
    }
    mac
}

fn client(provider: &Arc<CryptoProvider>) -> Result<ClientConfig, HelloError> {
    let tls = |error: rustls::Error| HelloError::Tls(Box::new(error));
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(tls)?
        .dangerous()
        // Who the other side is shows in its proof, not in its certificate.
        .with_custom_certificate_verifier(Arc::new(AnyCert::new(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn server(provider: &Arc<CryptoProvider>) -> Result<ServerConfig, HelloError> {
    let tls = |error: rustls::Error| HelloError::Tls(Box::new(error));
    let made = rcgen::generate_simple_self_signed(vec![CERTIFICATE_NAME.to_owned()])
        .map_err(|error| HelloError::Tls(Box::new(error)))?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(tls)?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], PrivateKeyDer::Pkcs8(key))
        .map_err(tls)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;

    fn hello(id: &str, secrets: &[&str]) -> Hello {
        let secrets: Vec<Token> = secrets.iter().map(|secret| Token::new(*secret)).collect();
        Hello::new(id, &secrets).unwrap()
    }

    /// Lets `a` dial a node at which `b` answers, and returns what both make of it.
    async fn meet(
        a: &Hello,
        b: &Hello,
        to: &str,
    ) -> (Result<(), HelloError>, Result<(Speaks, String), HelloError>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let accept = async {
            let mut last = Err(HelloError::Unproved);
            // A dialer with several secrets comes several times.
            for _ in 0..a.keys.len() {
                let (tcp, _) = listener.accept().await.unwrap();
                last = b.accept(tcp).await.map(|(_, speaks, from)| (speaks, from));
                if last.is_ok() {
                    break;
                }
            }
            last
        };
        let (dialled, accepted) = tokio::join!(a.dial(&address, to, Speaks::Requests), accept);
        (dialled.map(drop), accepted)
    }

    #[tokio::test]
    async fn nodes_that_know_the_secret_find_each_other() {
        let (a, b) = (hello("a", &["secret"]), hello("b", &["secret"]));
        let (dialled, accepted) = meet(&a, &b, "b").await;
        dialled.unwrap();
        assert_eq!(accepted.unwrap(), (Speaks::Requests, "a".to_owned()));
    }

    #[tokio::test]
    async fn a_stranger_is_refused_on_either_side() {
        let (a, b) = (hello("a", &["secret"]), hello("b", &["another"]));
        let (dialled, accepted) = meet(&a, &b, "b").await;
        assert!(matches!(dialled, Err(HelloError::Unproved)), "{dialled:?}");
        assert!(matches!(accepted, Err(HelloError::Unproved)), "{accepted:?}");
    }

    #[tokio::test]
    async fn a_node_at_an_address_that_was_anothers_says_so() {
        let (a, b) = (hello("a", &["secret"]), hello("b", &["secret"]));
        let (dialled, accepted) = meet(&a, &b, "c").await;
        assert!(matches!(dialled, Err(HelloError::Unproved)), "{dialled:?}");
        assert!(matches!(accepted, Err(HelloError::Misaddressed(to)) if to == "c"));
    }

    #[tokio::test]
    async fn while_a_secret_is_rotated_old_and_new_nodes_agree() {
        let (new, old) = (hello("new", &["second", "first"]), hello("old", &["first"]));
        let (dialled, accepted) = meet(&new, &old, "old").await;
        dialled.unwrap();
        accepted.unwrap();
        let (dialled, accepted) = meet(&old, &new, "new").await;
        dialled.unwrap();
        accepted.unwrap();
    }

    /// What a dialer said on one connection, said again on another.
    #[tokio::test]
    async fn a_proof_that_was_overheard_is_of_no_use_on_another_connection() {
        let (a, b) = (hello("a", &["secret"]), hello("b", &["secret"]));
        let greeting = greeting(Speaks::Requests, "a", "b");
        let elsewhere: Material = Zeroizing::new([7; 32]);
        let proof = prove(&a.keys[0], b"dialer", &greeting, &elsewhere).finalize().into_bytes();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let replay = async {
            let tcp = TcpStream::connect(address).await.unwrap();
            let name = ServerName::try_from(CERTIFICATE_NAME).unwrap();
            let mut stream = a.connector.connect(name, tcp).await.unwrap();
            stream.write_all(&[greeting.as_slice(), &proof].concat()).await.unwrap();
            let mut answer = Vec::new();
            let _ended = stream.read_to_end(&mut answer).await;
            answer
        };
        let accept = async {
            let (tcp, _) = listener.accept().await.unwrap();
            b.accept(tcp).await.map(|(_, speaks, from)| (speaks, from))
        };
        let (answer, accepted) = tokio::join!(replay, accept);
        assert!(matches!(accepted, Err(HelloError::Unproved)), "{accepted:?}");
        assert!(answer.is_empty());
    }

    #[tokio::test]
    async fn what_is_no_tls_gets_nowhere() {
        let b = hello("b", &["secret"]);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let plain = async {
            let mut tcp = TcpStream::connect(address).await.unwrap();
            tcp.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
            tcp
        };
        let accept = async {
            let (tcp, _) = listener.accept().await.unwrap();
            b.accept(tcp).await.map(|(_, speaks, from)| (speaks, from))
        };
        let (_open, accepted) = tokio::join!(plain, accept);
        assert!(matches!(accepted, Err(HelloError::Io(_))), "{accepted:?}");
    }
}
