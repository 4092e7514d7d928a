//! Settings of `--auth oidc`: whose tokens are good, and what their claims mean here.

use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::values::{ValueError, invalid};

/// The claim that names the owner, unless another one is set: the only one that an issuer may never
/// give to somebody else (`OpenID` Connect Core 1.0 §5.7).
const OWNER_CLAIM: &str = "sub";

/// Settings of an identity provider as written in one place.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "bin", derive(clap::Args))]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct OidcLayer {
    /// URL of the issuer, whose /.well-known/openid-configuration is read; implies --auth oidc
    #[cfg_attr(
        feature = "bin",
        arg(
            id = "oidc_issuer",
            long = "oidc-issuer",
            env = "MCPM_RELAY_OIDC_ISSUER",
            value_name = "URL"
        )
    )]
    pub issuer: Option<String>,

    /// Audience that tokens must be meant for; several with commas between them
    #[cfg_attr(
        feature = "bin",
        arg(
            id = "oidc_audience",
            long = "oidc-audience",
            env = "MCPM_RELAY_OIDC_AUDIENCE",
            value_name = "AUD"
        )
    )]
    pub audience: Option<String>,

    /// Claim that names the owner of shares [default: sub]
    #[cfg_attr(
        feature = "bin",
        arg(
            id = "oidc_owner_claim",
            long = "oidc-owner-claim",
            env = "MCPM_RELAY_OIDC_OWNER_CLAIM",
            value_name = "CLAIM"
        )
    )]
    pub owner_claim: Option<String>,

    /// Claim with the names that the owner may take, as patterns [default: none, all names]
    #[cfg_attr(
        feature = "bin",
        arg(
            id = "oidc_names_claim",
            long = "oidc-names-claim",
            env = "MCPM_RELAY_OIDC_NAMES_CLAIM",
            value_name = "CLAIM"
        )
    )]
    pub names_claim: Option<String>,

    /// What claims must say, such as groups=mcp; several with commas between them [default: nothing]
    #[cfg_attr(
        feature = "bin",
        arg(
            id = "oidc_require",
            long = "oidc-require",
            env = "MCPM_RELAY_OIDC_REQUIRE",
            value_name = "CLAIM=VALUE"
        )
    )]
    pub require: Option<String>,

    /// PEM file with the root by which the issuer's server is trusted
    /// [default: what the system trusts]
    #[cfg_attr(
        feature = "bin",
        arg(id = "oidc_ca", long = "oidc-ca", env = "MCPM_RELAY_OIDC_CA", value_name = "FILE")
    )]
    pub ca: Option<PathBuf>,
}

/// An identity provider, and what its tokens mean here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oidc {
    /// The issuer, as `iss` of its tokens has it.
    pub issuer: String,
    /// The audiences of which a token must name one.
    pub audiences: Vec<String>,
    /// The claim that names the owner.
    pub owner_claim: String,
    /// The claim with the names that the owner may take; absent for all names.
    pub names_claim: Option<String>,
    /// What other claims must say.
    pub require: Vec<OidcRequirement>,
    /// The root by which the issuer's server is trusted, in place of the system's.
    pub ca: Option<PathBuf>,
}

impl Oidc {
    /// Tells whether URLs of the issuer may be plain HTTP: it runs on this machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        is_loopback_url(&self.issuer)
    }
}

/// A claim that must have a value, or hold it in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidcRequirement {
    /// The claim.
    pub claim: String,
    /// The value.
    pub value: String,
}

impl FromStr for OidcRequirement {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.trim().split_once('=') {
            Some((claim, value)) if !claim.is_empty() && !value.is_empty() => {
                Ok(Self { claim: claim.to_owned(), value: value.to_owned() })
            }
            _ => Err(invalid(format!("`{text}` is not of the form CLAIM=VALUE"))),
        }
    }
}

impl OidcLayer {
    /// Tells whether anything is set.
    pub(super) fn is_given(&self) -> bool {
        let Self { issuer, audience, owner_claim, names_claim, require, ca } = self;
        let texts = [issuer, audience, owner_claim, names_claim, require];
        ca.is_some() || texts.iter().any(|text| text.is_some())
    }

    /// Returns this layer, with what it lacks taken from `lower`.
    #[must_use]
    pub fn or(self, lower: Self) -> Self {
        let Self { issuer, audience, owner_claim, names_claim, require, ca } = self;
        Self {
            issuer: issuer.or(lower.issuer),
            audience: audience.or(lower.audience),
            owner_claim: owner_claim.or(lower.owner_claim),
            names_claim: names_claim.or(lower.names_claim),
            require: require.or(lower.require),
            ca: ca.or(lower.ca),
        }
    }

    /// Resolves the settings; `wrong` hears of each that cannot be obeyed.
    pub(super) fn resolve(&self, mut wrong: impl FnMut(&'static str, String)) -> Oidc {
        let issuer = self.issuer.clone().unwrap_or_default();
        if self.issuer.is_none() {
            wrong("oidc.issuer", "is needed with auth = oidc".to_owned());
        } else if !is_issuer(&issuer) {
            let message = "must be a URL that begins with https://, without query and fragment";
            wrong("oidc.issuer", message.to_owned());
        }
        let listed = |text: &Option<String>| -> Vec<String> {
            let parts = text.iter().flat_map(|text| text.split(','));
            parts.map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
        };
        let audiences = listed(&self.audience);
        if audiences.is_empty() {
            let message = "is needed with auth = oidc: without it, tokens that the issuer made for \
                           other programs would do";
            wrong("oidc.audience", message.to_owned());
        }
        let parsed = listed(&self.require).into_iter().map(|text| text.parse());
        let require = parsed.filter_map(|parsed: Result<OidcRequirement, ValueError>| {
            parsed.map_err(|error| wrong("oidc.require", error.to_string())).ok()
        });
        let require = require.collect();
        if let Some(ca) = &self.ca
            && let Err(error) = std::fs::File::open(ca)
        {
            wrong("oidc.ca", format!("cannot read {}: {error}", ca.display()));
        }
        Oidc {
            issuer,
            audiences,
            owner_claim: self.owner_claim.clone().unwrap_or_else(|| OWNER_CLAIM.to_owned()),
            names_claim: self.names_claim.clone(),
            require,
            ca: self.ca.clone(),
        }
    }
}

impl From<&Oidc> for OidcLayer {
    fn from(oidc: &Oidc) -> Self {
        let require: Vec<String> =
            oidc.require.iter().map(|it| format!("{}={}", it.claim, it.value)).collect();
        Self {
            issuer: Some(oidc.issuer.clone()),
            audience: Some(oidc.audiences.join(",")),
            owner_claim: Some(oidc.owner_claim.clone()),
            names_claim: oidc.names_claim.clone(),
            require: Some(require.join(",")).filter(|text| !text.is_empty()),
            ca: oidc.ca.clone(),
        }
    }
}

/// An issuer is an https URL without query and fragment (`OpenID` Connect Discovery 1.0 §3); plain
/// HTTP is for one on this machine.
fn is_issuer(text: &str) -> bool {
    let has_host = text.parse::<http::Uri>().is_ok_and(|uri| uri.host().is_some());
    let plain = !text.contains(['?', '#']);
    has_host && plain && (text.starts_with("https://") || is_loopback_url(text))
}

/// Tells whether a URL is plain HTTP to this machine.
pub(crate) fn is_loopback_url(text: &str) -> bool {
    let Ok(uri) = text.parse::<http::Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let address = host.parse::<std::net::IpAddr>();
    uri.scheme_str() == Some("http")
        && (host == "localhost" || address.is_ok_and(|address| address.is_loopback()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(layer: &OidcLayer) -> (Oidc, Vec<&'static str>) {
        let mut wrong = Vec::new();
        let oidc = layer.resolve(|setting, _| wrong.push(setting));
        (oidc, wrong)
    }

    fn layer(issuer: &str) -> OidcLayer {
        let text = |text: &str| Some(text.to_owned());
        OidcLayer { issuer: text(issuer), audience: text("mcpm"), ..OidcLayer::default() }
    }

    #[test]
    fn an_issuer_is_reached_by_https_unless_it_is_on_this_machine() {
        for issuer in [
            "https://idp.example",
            "https://idp.example/realms/a",
            "http://127.0.0.1:8080",
            "http://[::1]:1",
        ] {
            assert_eq!(resolve(&layer(issuer)).1, [""; 0], "{issuer}");
        }
        for issuer in
            ["http://idp.example", "idp.example", "https://", "https://a?b", "https://a#b"]
        {
            assert_eq!(resolve(&layer(issuer)).1, ["oidc.issuer"], "{issuer}");
        }
    }

    #[test]
    fn what_is_missing_is_asked_for_and_lists_are_split() {
        assert_eq!(resolve(&OidcLayer::default()).1, ["oidc.issuer", "oidc.audience"]);
        let bad = OidcLayer { require: Some("groups".to_owned()), ..layer("https://a") };
        assert_eq!(resolve(&bad).1, ["oidc.require"]);
        let given = OidcLayer {
            audience: Some("a, b".to_owned()),
            require: Some("groups=mcp,hd=example.com".to_owned()),
            ..layer("https://a")
        };
        let (oidc, _) = resolve(&given);
        assert_eq!((oidc.audiences.len(), oidc.require.len()), (2, 2));
        assert_eq!(oidc.owner_claim, "sub");
        assert_eq!(resolve(&OidcLayer::from(&oidc)).0, oidc);
    }
}
