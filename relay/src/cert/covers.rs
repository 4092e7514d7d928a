//! For which hosts a certificate is good. Pure.

use std::net::IpAddr;

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::config::Domain;

/// What a certificate lacks for a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uncovered {
    /// Hosts of the relay that clients would refuse.
    pub missing: Vec<String>,
    /// What it is good for.
    pub covered: Vec<String>,
}

impl Uncovered {
    /// Finds the hosts of a relay that a certificate is not good for: its domain and, unless shares
    /// are served by `paths`, what is below it. `None` when there are none, or it is not X.509.
    #[must_use]
    pub fn find(leaf: &[u8], domain: &Domain, paths: bool) -> Option<Self> {
        let covered = hosts(leaf)?;
        let good_for = |host: &str| {
            let parent = host.split_once('.').map_or("", |(_, parent)| parent);
            covered.iter().any(|name| {
                name == host || name.strip_prefix("*.").is_some_and(|above| above == parent)
            })
        };
        let apex = domain.address().map_or_else(|| domain.as_str().to_owned(), |ip| ip.to_string());
        let below = (!paths && domain.address().is_none()).then(|| format!("*.{domain}"));
        let wanted = std::iter::once(apex).chain(below);
        let missing: Vec<String> = wanted.filter(|host| !good_for(host)).collect();
        (!missing.is_empty()).then_some(Self { missing, covered })
    }
}

impl std::fmt::Display for Uncovered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the certificate does not cover {}", self.missing.join(" and "))?;
        match self.covered.as_slice() {
            [] => write!(f, ", nor any other host: it has no subject alternative names"),
            covered => write!(f, ", but {}", covered.join(", ")),
        }
    }
}

/// Reads which hosts a certificate is good for; `None` when it is not X.509.
pub(super) fn hosts(leaf: &[u8]) -> Option<Vec<String>> {
    let (_, cert) = X509Certificate::from_der(leaf).ok()?;
    let names = cert.subject_alternative_name().ok()?;
    let names = names.map_or(&[][..], |names| &names.value.general_names);
    Some(names.iter().filter_map(text).collect())
}

fn text(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let ip = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            ip.ok().map(|ip| ip.to_string())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lacks(names: &[&str], domain: &str, paths: bool) -> Option<String> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let found = Uncovered::find(made.cert.der(), &domain.parse().unwrap(), paths)?;
        Some(found.to_string())
    }

    #[test]
    fn a_relay_needs_its_domain_and_what_is_below() {
        let both = ["Share.example.com", "*.share.example.com"];
        assert_eq!(lacks(&both, "share.example.com", false), None);
        assert_eq!(
            lacks(&both[..1], "share.example.com", false).unwrap(),
            "the certificate does not cover *.share.example.com, but share.example.com"
        );
        assert_eq!(
            lacks(&both[..1], "share.example.com", true),
            None,
            "by paths there is one host"
        );
        assert_eq!(
            lacks(&["other.example"], "share.example.com", false).unwrap(),
            "the certificate does not cover share.example.com and *.share.example.com, but \
             other.example"
        );
    }

    #[test]
    fn a_wildcard_is_good_for_one_label() {
        assert_eq!(lacks(&["*.example.com"], "share.example.com", true), None);
        let missing = lacks(&["*.example.com"], "share.example.com", false).unwrap();
        assert!(missing.starts_with("the certificate does not cover *.share.example.com, but"));
        assert!(lacks(&["*.example.com"], "a.share.example.com", true).is_some());
    }

    #[test]
    fn addresses_count_and_what_is_no_certificate_is_passed_over() {
        assert_eq!(lacks(&["192.0.2.7"], "192.0.2.7", true), None);
        assert!(lacks(&["192.0.2.8"], "192.0.2.7", true).is_some());
        let none = lacks(&[], "share.example.com", true).unwrap();
        assert!(
            none.ends_with("nor any other host: it has no subject alternative names"),
            "{none}"
        );
        assert_eq!(Uncovered::find(b"nothing", &"a.example".parse().unwrap(), true), None);
    }
}
