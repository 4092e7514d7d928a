//! How far a login may go: a server on the internet must not send us into a private network.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// Where an address is; what may be called from there is it and all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    /// On the internet.
    Public,
    /// In a private network.
    Private,
    /// On this machine.
    Loopback,
}

impl Reach {
    /// Returns where an address is; `None` for what is never called, such as the link-local
    /// addresses at which clouds give out credentials.
    pub(super) fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => of_v4(address),
            IpAddr::V6(address) => match embedded(address) {
                Some(inner) => of_v4(inner),
                None => of_v6(address),
            },
        }
    }

    /// Tells whether an address may be called.
    pub(super) fn admits(self, address: IpAddr) -> bool {
        Self::of(address).is_some_and(|at| at <= self)
    }

    /// Looks where a URL leads; the furthest counts when there are several addresses.
    ///
    /// # Errors
    /// When the name of the host is not found.
    pub(super) async fn to(url: &Url) -> io::Result<Self> {
        let port = url.port_or_known_default().unwrap_or_default();
        let addresses: Vec<IpAddr> = match url.host() {
            Some(Host::Ipv4(address)) => vec![address.into()],
            Some(Host::Ipv6(address)) => vec![address.into()],
            Some(Host::Domain(name)) => {
                tokio::net::lookup_host((name, port)).await?.map(|found| found.ip()).collect()
            }
            None => Vec::new(),
        };
        let found = addresses.into_iter().filter_map(Self::of).max();
        found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "its host has no address"))
    }
}

fn of_v4(address: Ipv4Addr) -> Option<Reach> {
    let [a, b, ..] = address.octets();
    if address.is_loopback() {
        return Some(Reach::Loopback);
    }
    // RFC 6890: carriers' (100.64/10) and benchmarks' (198.18/15) networks are private ones too.
    if address.is_private() || (a == 100 && b & 0xc0 == 64) || (a == 198 && b & 0xfe == 18) {
        return Some(Reach::Private);
    }
    let never = a == 0 || a >= 224 || address.is_link_local();
    (!never).then_some(Reach::Public)
}

fn of_v6(address: Ipv6Addr) -> Option<Reach> {
    if address.is_loopback() {
        return Some(Reach::Loopback);
    }
    if address.is_unique_local() {
        return Some(Reach::Private);
    }
    let never =
        address.is_unspecified() || address.is_multicast() || address.is_unicast_link_local();
    (!never).then_some(Reach::Public)
}

/// Returns the IPv4 address inside one of IPv6: mapped, NAT64 (RFC 6052) or 6to4 (RFC 3056).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let join = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match [a, b, c, d, e, f] {
        [0, 0, 0, 0, 0, 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0] => Some(join(g, h)),
        [0x2002, ..] => Some(join(b, c)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<Reach> {
        Reach::of(text.parse().unwrap())
    }

    #[test]
    fn addresses_are_told_apart_in_every_form() {
        for public in ["1.1.1.1", "100.128.0.1", "198.20.0.1", "2606:4700::1111"] {
            assert_eq!(of(public), Some(Reach::Public), "{public}");
        }
        for private in ["10.0.0.1", "192.168.1.1", "172.31.0.1", "100.64.0.1", "198.19.0.1"] {
            assert_eq!(of(private), Some(Reach::Private), "{private}");
        }
        for private in ["fd00::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::"] {
            assert_eq!(of(private), Some(Reach::Private), "{private}");
        }
        for loopback in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(of(loopback), Some(Reach::Loopback), "{loopback}");
        }
        for never in ["169.254.169.254", "0.0.0.0", "224.0.0.1", "255.255.255.255", "fe80::1"] {
            assert_eq!(of(never), None, "{never}");
        }
        assert_eq!(of("::ffff:169.254.169.254"), None);
    }

    #[test]
    fn what_is_nearer_than_the_server_is_not_called() {
        let private = "10.0.0.1".parse().unwrap();
        assert!(!Reach::Public.admits(private));
        assert!(Reach::Private.admits(private) && Reach::Loopback.admits(private));
        assert!(!Reach::Private.admits("127.0.0.1".parse().unwrap()));
        assert!(!Reach::Loopback.admits("169.254.169.254".parse().unwrap()));
    }

    #[tokio::test]
    async fn a_url_leads_where_its_host_is() {
        let to = |text: &str| Url::parse(text).unwrap();
        assert_eq!(Reach::to(&to("http://127.0.0.1:1/x")).await.unwrap(), Reach::Loopback);
        assert_eq!(Reach::to(&to("http://localhost/")).await.unwrap(), Reach::Loopback);
        assert_eq!(Reach::to(&to("https://[fd00::1]/")).await.unwrap(), Reach::Private);
        assert!(Reach::to(&to("http://169.254.169.254/")).await.is_err());
    }
}
