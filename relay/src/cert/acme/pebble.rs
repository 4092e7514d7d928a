//! Pebble, a small authority for tests, as a process; and a CA for its own server.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use tokio::process::{Child, Command};

/// How long things of a busy machine may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Pebble {
    dir: tempfile::TempDir,
    port: u16,
    /// Where it looks for proofs by TLS and HTTP.
    pub(super) tls_port: u16,
    pub(super) http_port: u16,
    dns: SocketAddr,
    process: Option<Child>,
}

impl Pebble {
    /// Starts one; `None`, with a line that says so, where it is not installed.
    pub(super) async fn start(dns: SocketAddr) -> Option<Self> {
        const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
        Self::issuing(dns, YEAR).await
    }

    /// The same, of which certificates are good for so long.
    pub(super) async fn issuing(dns: SocketAddr, life: Duration) -> Option<Self> {
        let [port, management, tls_port, http_port] = free_ports();
        let dir = tempfile::tempdir().unwrap();
        let (ca, cert, key) = server_certificate();
        let file = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        file("ca.pem", &ca);
        file("cert.pem", &cert);
        file("key.pem", &key);
        let config = serde_json::json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": dir.path().join("cert.pem"),
            "privateKey": dir.path().join("key.pem"),
            "httpPort": http_port,
            "tlsPort": tls_port,
            "certificateValidityPeriod": life.as_secs(),
        } });
        file("config.json", &config.to_string());
        let mut pebble = Self { dir, port, tls_port, http_port, dns, process: None };
        pebble.restart().await.then_some(pebble)
    }

    /// Starts it again: it remembers nothing.
    pub(super) async fn restart(&mut self) -> bool {
        self.stop().await;
        let started = Command::new("pebble")
            .arg("-config")
            .arg(self.dir.path().join("config.json"))
            .args(["-strict", "-dnsserver", &self.dns.to_string()])
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_WFE_NONCEREJECT", "0")
            .env("PEBBLE_AUTHZREUSE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let Ok(process) = started else {
            let promised = std::env::var_os("MCPM_PEERS").unwrap_or_default();
            assert!(
                !promised.to_string_lossy().split(',').any(|name| name == "pebble"),
                "pebble was promised"
            );
            let line = b"pebble is not installed: a test of ACME is skipped\n";
            std::io::stderr().write_all(line).unwrap();
            return false;
        };
        self.process = Some(process);
        let port = self.port;
        until("pebble listens", || async move {
            tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok()
        })
        .await;
        true
    }

    pub(super) async fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().await.unwrap();
        }
    }

    pub(super) fn directory(&self) -> String {
        format!("https://localhost:{}/dir", self.port)
    }

    pub(super) fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }
}

/// Asks again and again until it is so.
pub(super) async fn until<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    let asking = async {
        while !ask().await {
            ticks.tick().await;
        }
    };
    let done = tokio::time::timeout(PATIENCE, asking).await;
    assert!(done.is_ok(), "not within {PATIENCE:?}: {what}");
}

/// Returns ports that nobody listens on at present.
pub(super) fn free_ports<const N: usize>() -> [u16; N] {
    // All are held until all are known, so that no two are the same.
    let held = [(); N].map(|()| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

/// Makes a CA and a certificate of it for `localhost`: the CA, the certificate and its key.
fn server_certificate() -> (String, String, String) {
    let (ca, issuer) = authority();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let cert = params.signed_by(&key, &issuer).unwrap();
    (ca, cert.pem(), key.serialize_pem())
}

fn authority() -> (String, Issuer<'static, KeyPair>) {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    (pem, Issuer::new(params, key))
}

/// Makes a certificate that an authority signed, good for so long from now, and its key.
pub(super) fn signed(
    name: &str,
    not_before: u64,
    not_after: u64,
) -> (CertificateDer<'static>, KeyPair) {
    let at = |secs| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(secs);
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.use_authority_key_identifier_extension = true;
    params.not_before = at(not_before);
    params.not_after = at(not_after);
    let key = KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, &authority().1).unwrap();
    (cert.der().clone(), key)
}
