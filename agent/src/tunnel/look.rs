//! A look at a relay from outside, as `mcpm doctor` takes: is it there, and what is its time?

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use mcpm_shared::identity::AgentKey;
use mcpm_shared::scope::Scope;
use tokio_rustls::TlsConnector;

use super::address::RelayAddress;
use super::dial::{Dialer, ProxySettings, Socket};
use super::error::TunnelError;
use super::tls::{self, TlsOptions};
use crate::credentials::ProofSource;

/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a relay answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// The status of its answer; 200 when it is well.
    pub status: u16,
    /// How far its clock is ahead of ours, in seconds, when it told the time.
    pub ahead_secs: Option<i64>,
}

/// Asks a relay how it is, and for the time. It is shown no key and no secret.
///
/// # Errors
/// When it cannot be reached, or is not trusted.
pub async fn look(
    relay: &RelayAddress,
    trust: &TlsOptions,
    proxy: &ProxySettings,
) -> Result<Look, TunnelError> {
    let scope = Scope::new();
    let asked = tokio::time::timeout(PATIENCE, ask(relay, trust, proxy, &scope)).await;
    scope.drain(Duration::ZERO).await;
    asked.map_err(|_| TunnelError::Timeout { relay: relay.origin() })?
}

async fn ask(
    relay: &RelayAddress,
    trust: &TlsOptions,
    proxy: &ProxySettings,
    scope: &Scope,
) -> Result<Look, TunnelError> {
    let dialer = Dialer {
        relay: relay.clone(),
        key: AgentKey::generate(),
        proof: ProofSource::default(),
        proxy: proxy.towards(relay)?,
        tls: None,
    };
    let tcp = dialer.connect().await?;
    let stream: Box<dyn Socket> = if relay.is_https() {
        let connector = TlsConnector::from(Arc::new(tls::client(trust)?));
        Box::new(dialer.secure(&connector, tcp).await?)
    } else {
        Box::new(tcp)
    };
    let lost = |error: hyper::Error| TunnelError::Lost(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
    scope.spawn_until_cancelled(async move {
        drop(connection.await);
    });
    let request = Request::get("/healthz")
        .header(header::HOST, relay.authority())
        .header(header::USER_AGENT, concat!("mcpm/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|error| TunnelError::Lost(error.to_string()))?;
    let answer = sender.send_request(request).await.map_err(lost)?;
    let date = answer.headers().get(header::DATE).and_then(|date| date.to_str().ok());
    let ahead_secs = date.and_then(http_date).map(|its| ahead(its, SystemTime::now()));
    Ok(Look { status: answer.status().as_u16(), ahead_secs })
}

fn ahead(its: SystemTime, ours: SystemTime) -> i64 {
    let secs = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    match its.duration_since(ours) {
        Ok(ahead) => secs(ahead),
        Err(behind) => -secs(behind.duration()),
    }
}

/// Reads an IMF-fixdate (RFC 9110 §5.6.7): `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let [_, day, month, year, time, "GMT"] = words.as_slice() else { return None };
    let month = MONTHS.iter().position(|known| known == month)? + 1;
    humantime::parse_rfc3339(&format!("{year}-{month:02}-{day}T{time}Z")).ok()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[test]
    fn the_date_of_an_answer_is_read() {
        let date = http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(date, UNIX_EPOCH + Duration::from_secs(784_111_777));
        for text in ["", "now", "Sun, 06 Foo 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37 CET"] {
            assert_eq!(http_date(text), None, "{text}");
        }
        assert_eq!(ahead(date, date + Duration::from_secs(90)), -90);
        assert_eq!(ahead(date + Duration::from_secs(5), date), 5);
    }

    #[tokio::test]
    async fn a_relay_is_asked_for_its_health_and_time_without_a_key() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let relay: RelayAddress = address.to_string().parse().unwrap();
        let serve = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 4096];
            let length = socket.read(&mut head).await.unwrap();
            let answer = "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 0\r\n\r\n";
            socket.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(head[..length].to_vec()).unwrap()
        };
        let (trust, proxy) = (TlsOptions::default(), ProxySettings::default());
        let (asked, seen) = tokio::join!(serve, look(&relay, &trust, &proxy));
        assert!(asked.starts_with("GET /healthz HTTP/1.1\r\n"), "{asked}");
        assert!(!asked.to_ascii_lowercase().contains("authorization"), "{asked}");
        let seen = seen.unwrap();
        assert_eq!(seen.status, 200);
        assert!(seen.ahead_secs.unwrap() < -900_000_000);
        drop(listener);
        assert!(look(&relay, &trust, &proxy).await.is_err());
    }
}
