//! A relay of ours between visitors and contenders.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;

use crate::process::Process;

/// A relay that is up.
#[derive(Debug)]
pub struct Relay {
    /// The program.
    pub process: Process,
    /// Where visitors and agents come.
    pub addr: SocketAddr,
    /// Where its metrics are, when it was told to show them.
    pub admin: Option<SocketAddr>,
}

/// Further arguments of a relay that keeps nothing, and that nobody asks how it is.
pub const BARE: [&str; 4] = ["--database", "memory:", "--admin-listen", "none"];

/// No rates: they would be measured instead of the path.
const ALWAYS: &str = "serve --domain localhost --listen 127.0.0.1:0 --auth open --http-mode \
                      --requests-per-second 0 --handshakes-per-minute 0 --log warn \
                      --claims-per-minute-per-key 0 --claims-per-minute-per-address 0";
/// What an open relay counts of each owner and each address. It does so here too, which is part of
/// the path, but nobody comes to the end of it.
const QUOTAS: [&str; 4] = ["names-per-hour", "requests-per-day", "bytes-per-day", "max-streams"];
const UNREACHED: &str = "1000000000000";

/// Starts an open relay on loopback with further arguments, and tells where it listens.
///
/// # Errors
/// When it does not come up.
pub async fn start(bins: &Path, further: &[OsString]) -> anyhow::Result<Relay> {
    let mut args: Vec<OsString> = ALWAYS.split_whitespace().map(Into::into).collect();
    for quota in QUOTAS {
        for party in ["owner", "address"] {
            args.extend([format!("--{quota}-per-{party}").into(), UNREACHED.into()]);
        }
    }
    args.extend_from_slice(further);
    let mut process = Process::start("mcpm-relay", &bins.join("mcpm-relay"), &args)?;
    let (addr, admin) = process.line(addresses).await?;
    Ok(Relay { process, addr, admin })
}

/// What the line tells with which a relay says that it is up.
fn addresses(line: &str) -> Option<(SocketAddr, Option<SocketAddr>)> {
    let rest = line.split_once("listening on http")?.1.split_once("://")?.1;
    let addr = rest.split_whitespace().next()?.parse().ok()?;
    let admin = rest.split_once("(admin http://").and_then(|(_, admin)| admin.strip_suffix(')'));
    Some((addr, admin.and_then(|admin| admin.parse().ok())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_tells_where_it_listens_and_where_its_metrics_are() {
        let (addr, admin) = addresses("listening on https://127.0.0.1:81").unwrap();
        assert_eq!((addr.port(), admin), (81, None));
        let line = "mcpm-relay: listening on http://127.0.0.1:81 (admin http://127.0.0.1:82)";
        let (addr, admin) = addresses(line).unwrap();
        assert_eq!((addr.port(), admin.unwrap().port()), (81, 82));
        assert_eq!(addresses("certificate SHA-256 00"), None);
    }
}
