//! One request to the admin API of a running relay, without a runtime or an HTTP library.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use mcpm_relay::admin::api::BASE;
use mcpm_relay::config::{Layer, Listen};
use mcpm_relay::keys::{KeyFileError, read_admin_token};
use serde_json::Value;

use super::error::CliError;
use super::settings::layered;

/// Longest wait for a step: Docker gives a health check thirty seconds, Kubernetes one.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Longest answer that is read: ten thousand shares, and then some.
const MAX_ANSWER: u64 = 16 * 1024 * 1024;

/// Where the admin API of a relay is, and what it asks for.
#[derive(Debug, clap::Args)]
pub(super) struct AdminArgs {
    /// Settings file of the relay
    #[arg(long, env = "MCPM_RELAY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    /// The relay's admin listener [default: 127.0.0.1:6277]
    #[arg(long, env = "MCPM_RELAY_ADMIN_LISTEN", value_name = "ADDR")]
    admin_listen: Option<Listen>,

    /// File with the token of the admin API [default: admin.token in the data directory]
    #[arg(long, env = "MCPM_RELAY_ADMIN_TOKEN_FILE", value_name = "FILE")]
    admin_token_file: Option<PathBuf>,

    /// Directory of the relay's data
    #[arg(long, env = "MCPM_RELAY_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl AdminArgs {
    /// Asks the relay; `path` begins with a slash. Returns the body of the answer.
    pub(super) fn ask(self, method: &str, path: &str) -> Result<Value, CliError> {
        let flags = Layer {
            admin_listen: self.admin_listen,
            admin_token_file: self.admin_token_file,
            data_dir: self.data_dir,
            ..Layer::default()
        };
        let layer = layered(flags, Layer::default(), self.config.as_deref())?;
        let addr = admin_addr(&layer)?;
        let in_data_dir = || layer.data_dir.as_ref().map(|dir| dir.join("admin.token"));
        let file = layer.admin_token_file.clone().or_else(in_data_dir);
        let token = read_admin_token(&file.ok_or(CliError::NoAdminListener)?);
        let token = token.map_err(|error| match error {
            KeyFileError::Read { path, source } => CliError::AdminToken { path, source },
            error => CliError::Key(error),
        })?;
        let bearer = format!("Authorization: Bearer {}\r\n", token.expose());
        let answer = send(addr, method, &format!("{BASE}{path}"), &bearer)
            .map_err(|source| CliError::Unreachable { addr, source })?;
        let (status, body) = split(&answer).ok_or(CliError::NotHttp(addr))?;
        let body: Value = serde_json::from_str(body).unwrap_or(Value::Null);
        match status {
            200..300 => Ok(body),
            401 => Err(CliError::WrongAdminToken),
            _ => {
                let message = body["message"].as_str().map(str::to_owned);
                Err(CliError::Answer(message.unwrap_or_else(|| format!("status {status}"))))
            }
        }
    }
}

/// Returns where the admin listener of a relay can be asked.
pub(super) fn admin_addr(layer: &Layer) -> Result<SocketAddr, CliError> {
    let default = SocketAddr::from((Ipv4Addr::LOCALHOST, 6277));
    let listen = layer.admin_listen.unwrap_or(Listen::At(default));
    let addr = listen.addr().filter(|addr| addr.port() != 0).ok_or(CliError::NoAdminListener)?;
    Ok(reachable(addr))
}

/// A relay that listens everywhere is asked on loopback.
fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

/// Sends a request without a body and returns the whole answer. `headers` end in a new line each.
pub(super) fn send(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&addr, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n");
    write!(stream, "{head}{headers}\r\n")?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Returns status and body of an answer.
pub(super) fn split(answer: &str) -> Option<(u16, &str)> {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let mut line = head.split(' ');
    let version = line.next()?;
    let status = line.next()?.parse().ok()?;
    matches!(version, "HTTP/1.1" | "HTTP/1.0").then_some((status, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_status_and_a_body() {
        assert_eq!(split("HTTP/1.1 200 OK\r\na: b\r\n\r\n[]"), Some((200, "[]")));
        assert_eq!(split("HTTP/1.1 204 No Content\r\n\r\n"), Some((204, "")));
        assert_eq!(split("SSH-2.0"), None);
        assert_eq!(split(""), None);
    }

    #[test]
    fn a_listener_on_all_addresses_is_asked_on_loopback() {
        let asked = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(asked("0.0.0.0:6277"), "127.0.0.1:6277");
        assert_eq!(asked("[::]:6277"), "[::1]:6277");
        assert_eq!(asked("192.0.2.7:1"), "192.0.2.7:1");
    }
}
