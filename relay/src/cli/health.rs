//! `mcpm-relay health`: one request to `/readyz`, without a runtime or an HTTP library.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use mcpm_relay::config::{Layer, Listen};

use super::error::CliError;
use super::out::say;
use super::settings::layered;

/// Longest wait for a step: Docker gives a health check thirty seconds, Kubernetes one.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Longest answer that is read.
const MAX_ANSWER: u64 = 4096;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Settings file of the relay
    #[arg(long, env = "MCPM_RELAY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    /// The relay's admin listener [default: 127.0.0.1:6277]
    #[arg(long, env = "MCPM_RELAY_ADMIN_LISTEN", value_name = "ADDR")]
    admin_listen: Option<Listen>,
}

pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let flags = Layer { admin_listen: args.admin_listen, ..Layer::default() };
    let layer = layered(flags, None, args.config.as_deref())?;
    let default = SocketAddr::from((Ipv4Addr::LOCALHOST, 6277));
    let listen = layer.admin_listen.unwrap_or(Listen::At(default));
    let addr = listen.addr().filter(|addr| addr.port() != 0).ok_or(CliError::NoAdminListener)?;
    let addr = reachable(addr);
    let answer = ask(addr).map_err(|source| CliError::Unreachable { addr, source })?;
    match verdict(&answer) {
        Ok(ready) => say(ready),
        Err(why) => Err(CliError::NotReady(why.to_owned())),
    }
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

fn ask(addr: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&addr, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(stream, "GET /readyz HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Returns the body of a 200; of anything else, why it is none.
fn verdict(answer: &str) -> Result<&str, &str> {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let mut status = head.split(' ');
    match (status.next(), status.next()) {
        (Some("HTTP/1.1" | "HTTP/1.0"), Some("200")) => Ok(body.trim()),
        (Some("HTTP/1.1" | "HTTP/1.0"), Some(_)) => Err(body.trim()),
        _ => Err("what answers there is not HTTP"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_200_is_ready() {
        assert_eq!(verdict("HTTP/1.1 200 OK\r\na: b\r\n\r\nready\n"), Ok("ready"));
        assert_eq!(verdict("HTTP/1.1 503 Service Unavailable\r\n\r\ndraining\n"), Err("draining"));
        assert_eq!(verdict("SSH-2.0"), Err("what answers there is not HTTP"));
        assert_eq!(verdict(""), Err("what answers there is not HTTP"));
    }

    #[test]
    fn a_listener_on_all_addresses_is_asked_on_loopback() {
        let asked = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(asked("0.0.0.0:6277"), "127.0.0.1:6277");
        assert_eq!(asked("[::]:6277"), "[::1]:6277");
        assert_eq!(asked("192.0.2.7:1"), "192.0.2.7:1");
    }
}
