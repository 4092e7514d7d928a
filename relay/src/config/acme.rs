//! Settings of certificates that are ordered from an authority (ACME, RFC 8555), and of networks.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use mcpm_shared::token::Token;
use serde::{Deserialize, Serialize};

use super::values::{ValueError, invalid};

/// The directory of Let's Encrypt, which most relays will use.
pub(super) const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// The port of DNS (RFC 1035 §4.2).
const DNS_PORT: u16 = 53;

/// How the relay gets its certificate from an authority.
#[derive(Clone, Debug)]
pub struct Acme {
    /// URL of the authority's directory.
    pub directory: String,
    /// Whom the authority may write to.
    pub email: Option<String>,
    /// PEM file with the root that the authority's own server is trusted by, where it is private.
    pub ca: Option<PathBuf>,
    /// How the relay proves that the domain is its own.
    pub proof: AcmeProof,
    /// How custom domains get certificates.
    pub customs: AcmeCustoms,
}

/// How custom domains get certificates from the same authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcmeCustoms {
    /// How the relay proves that they lead to it: by TLS or by HTTP.
    pub challenge: AcmeChallenge,
    /// How many may be ordered in an hour; with 0 they get none.
    pub orders_per_hour: u32,
}

impl Default for AcmeCustoms {
    fn default() -> Self {
        // Let's Encrypt takes 300 orders of an account in three hours; this leaves room for the
        // relay's own, and for a second node.
        Self { challenge: AcmeChallenge::TlsAlpn, orders_per_hour: 40 }
    }
}

/// How the relay proves to an authority that the domain is its own.
#[derive(Clone, Debug)]
pub enum AcmeProof {
    /// By a record in the DNS: the only one that wildcards are given for.
    Dns {
        /// Who writes the record.
        provider: DnsProvider,
        /// What the provider asks for, unless it asks for nothing.
        token: Option<Token>,
        /// The file that the token came from, for `config print`.
        token_file: Option<PathBuf>,
        /// How long a record takes to be seen; `None` for what is usual with the provider.
        wait: Option<Duration>,
    },
    /// By a certificate that the public listener shows (RFC 8737): it must be port 443 outside.
    Tls,
    /// By a page of the `--http-listen` listener: it must be port 80 outside.
    Http,
}

/// How the relay proves that the domain is its own, as written in settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "bin", derive(clap::ValueEnum))]
pub enum AcmeChallenge {
    /// A record in the DNS, by --acme-dns
    #[serde(rename = "dns-01")]
    #[cfg_attr(feature = "bin", value(name = "dns-01"))]
    Dns,
    /// A certificate on the public listener, which must be port 443 outside
    #[serde(rename = "tls-alpn-01")]
    #[cfg_attr(feature = "bin", value(name = "tls-alpn-01"))]
    TlsAlpn,
    /// A page on --http-listen, which must be port 80 outside
    #[serde(rename = "http-01")]
    #[cfg_attr(feature = "bin", value(name = "http-01"))]
    Http,
}

/// Reads how custom domains are proved: not by records in a DNS that is their owners' alone.
#[cfg(feature = "bin")]
pub(super) fn challenges_of_domains() -> impl clap::builder::TypedValueParser<Value = AcmeChallenge>
{
    use clap::ValueEnum as _;
    use clap::builder::{PossibleValuesParser, TypedValueParser as _};
    let kinds = AcmeChallenge::value_variants().iter().filter(|kind| **kind != AcmeChallenge::Dns);
    let names = kinds.filter_map(clap::ValueEnum::to_possible_value);
    PossibleValuesParser::new(names.collect::<Vec<_>>())
        .try_map(|name| AcmeChallenge::from_str(&name, false))
}

impl AcmeProof {
    /// Returns the kind, without its details.
    pub fn challenge(&self) -> AcmeChallenge {
        match self {
            Self::Dns { .. } => AcmeChallenge::Dns,
            Self::Tls => AcmeChallenge::TlsAlpn,
            Self::Http => AcmeChallenge::Http,
        }
    }
}

/// Who writes the records of DNS challenges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DnsProvider {
    /// A program of the operator.
    Exec(PathBuf),
    /// A name server that takes signed updates (RFC 2136, RFC 8945).
    Rfc2136(Rfc2136),
    /// The API of Cloudflare.
    Cloudflare,
    /// The API of deSEC.
    Desec,
}

/// A name server that takes signed updates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rfc2136 {
    /// Name of the key that signs.
    pub key: String,
    /// Host name or address of the server.
    pub server: String,
    /// Port of the server.
    pub port: u16,
    /// The zone that is updated.
    pub zone: String,
}

impl DnsProvider {
    /// Tells whether the provider wants a token.
    pub fn wants_token(&self) -> bool {
        !matches!(self, Self::Exec(_))
    }
}

impl FromStr for DnsProvider {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.split_once(':') {
            Some(("exec", program)) if !program.is_empty() => Ok(Self::Exec(program.into())),
            Some(("rfc2136", rest)) => rest.parse().map(Self::Rfc2136),
            None if text == "cloudflare" => Ok(Self::Cloudflare),
            None if text == "desec" => Ok(Self::Desec),
            _ => Err(invalid(format!(
                "`{text}` is not a DNS provider: give exec:PROGRAM, \
                 rfc2136:KEY@SERVER[:PORT]/ZONE, cloudflare or desec"
            ))),
        }
    }
}

impl FromStr for Rfc2136 {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = || invalid(format!("`{text}` is not KEY@SERVER[:PORT]/ZONE"));
        let (key, rest) = text.split_once('@').ok_or_else(wrong)?;
        let (server, zone) = rest.rsplit_once('/').ok_or_else(wrong)?;
        let authority: http::uri::Authority = server.parse().map_err(|_| wrong())?;
        let host = authority.host().trim_matches(['[', ']']);
        if key.is_empty() || zone.is_empty() || host.is_empty() {
            return Err(wrong());
        }
        Ok(Self {
            key: key.to_owned(),
            server: host.to_owned(),
            port: authority.port_u16().unwrap_or(DNS_PORT),
            zone: zone.to_owned(),
        })
    }
}

impl fmt::Display for DnsProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exec(program) => write!(f, "exec:{}", program.display()),
            Self::Rfc2136(Rfc2136 { key, server, port, zone }) if server.contains(':') => {
                write!(f, "rfc2136:{key}@[{server}]:{port}/{zone}")
            }
            Self::Rfc2136(Rfc2136 { key, server, port, zone }) => {
                write!(f, "rfc2136:{key}@{server}:{port}/{zone}")
            }
            Self::Cloudflare => f.write_str("cloudflare"),
            Self::Desec => f.write_str("desec"),
        }
    }
}

impl TryFrom<String> for DnsProvider {
    type Error = ValueError;

    fn try_from(text: String) -> Result<Self, ValueError> {
        text.parse()
    }
}

impl From<DnsProvider> for String {
    fn from(provider: DnsProvider) -> Self {
        provider.to_string()
    }
}

/// Name servers; those of the system unless said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DnsServers(Vec<SocketAddr>);

impl DnsServers {
    /// Returns the servers; none for those of the system.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.0
    }
}

impl FromStr for DnsServers {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text == "system" {
            return Ok(Self::default());
        }
        let server = |text: &str| {
            let text = text.trim();
            let address = |_| text.parse().map(|address| SocketAddr::new(address, DNS_PORT));
            text.parse::<SocketAddr>().or_else(address).map_err(|_| {
                invalid(format!("`{text}` is not an address such as 192.0.2.53, nor `system`"))
            })
        };
        text.split(',').map(server).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for DnsServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("system");
        }
        for (at, server) in self.0.iter().enumerate() {
            write!(f, "{}{server}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl TryFrom<String> for DnsServers {
    type Error = ValueError;

    fn try_from(text: String) -> Result<Self, ValueError> {
        text.parse()
    }
}

impl From<DnsServers> for String {
    fn from(servers: DnsServers) -> Self {
        servers.to_string()
    }
}

/// Networks that something is believed from; none unless said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Nets(Vec<IpNet>);

impl Nets {
    /// Tells whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells whether an address is in one of them. IPv4 addresses in IPv6 dress count as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|net| net.contains(&address))
    }
}

impl FromStr for Nets {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text == "none" {
            return Ok(Self::default());
        }
        let net = |text: &str| {
            let text = text.trim();
            let address = |_| text.parse::<IpAddr>().map(IpNet::from);
            text.parse::<IpNet>().or_else(address).map_err(|_| {
                invalid(format!("`{text}` is not a network such as 10.0.0.0/8, nor `none`"))
            })
        };
        text.split(',').map(net).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Nets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (at, net) in self.0.iter().enumerate() {
            write!(f, "{}{net}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl TryFrom<String> for Nets {
    type Error = ValueError;

    fn try_from(text: String) -> Result<Self, ValueError> {
        text.parse()
    }
}

impl From<Nets> for String {
    fn from(nets: Nets) -> Self {
        nets.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_providers_survive_a_round_trip() {
        for text in [
            "exec:/etc/mcpm-relay/dns.sh",
            "rfc2136:relay-key@ns1.example.com:53/example.com",
            "rfc2136:relay-key@[2001:db8::1]:5353/example.com",
            "cloudflare",
            "desec",
        ] {
            assert_eq!(text.parse::<DnsProvider>().unwrap().to_string(), text);
        }
        let short: DnsProvider = "rfc2136:k@192.0.2.1/example.com".parse().unwrap();
        assert_eq!(short.to_string(), "rfc2136:k@192.0.2.1:53/example.com");
        for text in ["", "exec:", "route66", "rfc2136:ns1/zone", "rfc2136:k@ns1", "rfc2136:@ns/z"] {
            assert!(text.parse::<DnsProvider>().is_err(), "{text}");
        }
    }

    #[test]
    fn name_servers_are_addresses_with_or_without_a_port() {
        let servers: DnsServers = "192.0.2.53, [2001:db8::1]:5353,::1".parse().unwrap();
        assert_eq!(servers.to_string(), "192.0.2.53:53,[2001:db8::1]:5353,[::1]:53");
        assert_eq!(servers.to_string().parse(), Ok(servers));
        assert!("system".parse::<DnsServers>().unwrap().addresses().is_empty());
        for text in ["", "ns1.example.com", "192.0.2.53:dns"] {
            assert!(text.parse::<DnsServers>().is_err(), "{text}");
        }
    }

    #[test]
    fn networks_are_lists_of_prefixes_and_addresses() {
        let nets: Nets = "10.0.0.0/8, 192.0.2.7,2001:db8::/32".parse().unwrap();
        for inside in ["10.1.2.3", "::ffff:10.1.2.3", "192.0.2.7", "2001:db8::9"] {
            assert!(nets.contains(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["11.0.0.1", "192.0.2.8", "::1"] {
            assert!(!nets.contains(outside.parse().unwrap()), "{outside}");
        }
        assert_eq!(nets.to_string().parse(), Ok(nets));
        assert!("none".parse::<Nets>().unwrap().is_empty());
        for text in ["", "10.0.0.0/33", "lan"] {
            assert!(text.parse::<Nets>().is_err(), "{text}");
        }
    }
}
