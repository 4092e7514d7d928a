//! What users give `install`: a name of a registry, a package, an address or a place.

use std::path::PathBuf;

use serde_json::{Value, json};
use url::Url;

use super::manifest::{Launch, Manifest, Method, Origin};
use super::server_json;
use crate::hint::Hint;

/// What to install.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// A server of a registry.
    Name {
        /// Its name.
        name: String,
        /// Its version, where the registry has several.
        version: Option<String>,
    },
    /// A package.
    Package {
        /// The kind, in the words of `server.json`.
        kind: &'static str,
        /// Its name.
        identifier: String,
        /// Its version.
        version: Option<String>,
    },
    /// A remote server.
    Remote(Url),
    /// A bundle on the web.
    RemoteBundle(Url),
    /// A bundle on this machine.
    Bundle(PathBuf),
    /// A folder of this machine.
    Folder(PathBuf),
}

/// Why a reference makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// It is empty, or has what no name has.
    #[error("`{0}` is no name of a server")]
    Name(String),
    /// The address is not one.
    #[error("`{0}` is not a usable address")]
    Address(String),
    /// The package cannot be run.
    #[error("cannot run that package: {0}")]
    Package(String),
}

impl Hint for ReferenceError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Name(_) => {
                "Give a name, npm:PACKAGE, pypi:PACKAGE, oci:IMAGE, a URL, ./FOLDER or FILE.mcpb"
                    .to_owned()
            }
            Self::Address(_) => {
                "Give an http:// or https:// address; credentials go into `headers`".to_owned()
            }
            Self::Package(_) => "Check the name of the package".to_owned(),
        })
    }
}

/// What a user may write in front of a package, and the registry's word for it.
const KINDS: [(&str, &str); 7] = [
    ("npm:", "npm"),
    ("pypi:", "pypi"),
    ("uvx:", "pypi"),
    ("oci:", "oci"),
    ("docker:", "oci"),
    ("nuget:", "nuget"),
    ("cargo:", "cargo"),
];

impl std::str::FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        for (prefix, kind) in KINDS {
            if let Some(package) = text.strip_prefix(prefix) {
                return Ok(package_of(kind, package));
            }
        }
        if text.starts_with("http://") || text.starts_with("https://") {
            return address(text);
        }
        if is_bundle(text) {
            return Ok(Self::Bundle(text.into()));
        }
        if is_path(text) {
            return Ok(Self::Folder(text.into()));
        }
        named(text)
    }
}

fn package_of(kind: &'static str, package: &str) -> Reference {
    // The tag of an image is a part of its reference; a scope begins with the sign of a version.
    let version = match kind {
        "oci" => None,
        "pypi" => package.split_once("==").or_else(|| package.split_once('@')),
        _ => package.rsplit_once('@').filter(|(name, _)| !name.is_empty()),
    };
    let (identifier, version) = match version {
        Some((identifier, version)) => (identifier, Some(version.to_owned())),
        None => (package, None),
    };
    Reference::Package { kind, identifier: identifier.to_owned(), version }
}

fn address(text: &str) -> Result<Reference, ReferenceError> {
    let shown = || text.split('?').next().unwrap_or_default().to_owned();
    let url = Url::parse(text).map_err(|_| ReferenceError::Address(shown()))?;
    if !url.username().is_empty() || url.password().is_some() {
        // Not shown: it has a password in it.
        let host = url.host_str().unwrap_or_default().to_owned();
        return Err(ReferenceError::Address(host));
    }
    Ok(if is_bundle(url.path()) { Reference::RemoteBundle(url) } else { Reference::Remote(url) })
}

fn is_bundle(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.ends_with(".mcpb") || text.ends_with(".dxt")
}

fn is_path(text: &str) -> bool {
    let drive = text.as_bytes().get(1) == Some(&b':') && text.as_bytes()[0].is_ascii_alphabetic();
    text.starts_with(['.', '/', '~', '\\']) || drive
}

fn named(text: &str) -> Result<Reference, ReferenceError> {
    let strange = |c: char| c.is_whitespace() || c.is_control() || c == '\\' || c == ':';
    if text.is_empty() || text.starts_with('-') || text.contains(strange) {
        return Err(ReferenceError::Name(text.to_owned()));
    }
    let version = text.rsplit_once('@').filter(|(name, _)| is_reverse_dns(name));
    let (name, version) = version.map_or((text, None), |(name, v)| (name, Some(v.to_owned())));
    Ok(Reference::Name { name: name.to_owned(), version })
}

/// Tells whether a name is one of the official registry: `io.github.user/weather`.
#[must_use]
pub fn is_reverse_dns(name: &str) -> bool {
    let space = name.split_once('/').map(|(space, _)| space);
    space.is_some_and(|space| space.contains('.') && !space.starts_with('@'))
}

/// Describes a package that a user named.
///
/// # Errors
/// When it has a name that cannot be run.
pub fn package(
    kind: &str,
    identifier: &str,
    version: Option<&str>,
) -> Result<Manifest, ReferenceError> {
    let mut package = json!({ "registryType": kind, "identifier": identifier });
    if let Some(version) = version {
        package["version"] = version.into();
    }
    let server = json!({ "name": identifier, "packages": [package] });
    let manifest = server_json::manifest(&server, &Value::Null, Origin::Reference);
    let manifest = manifest.ok_or_else(|| ReferenceError::Package("it has no name".to_owned()))?;
    match manifest.unusable.first() {
        Some(unusable) => Err(ReferenceError::Package(unusable.reason.clone())),
        None => Ok(Manifest {
            alias: short(identifier),
            version: version.map(str::to_owned),
            ..manifest
        }),
    }
}

/// Returns the telling part of the name of a package or an image.
fn short(identifier: &str) -> String {
    let last = identifier.rsplit('/').next().unwrap_or_default();
    let name = last.split(['@', ':', '[']).next().unwrap_or_default();
    let fine = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    name.chars().map(fine).collect()
}

/// Describes a remote server that a user named.
#[must_use]
pub fn remote(url: &Url) -> Manifest {
    let host = url.host_str().unwrap_or_default();
    let launch = Launch::Remote { url: literal(url.as_str()), headers: Vec::new() };
    let method = Method {
        id: "remote".to_owned(),
        kind: "remote".to_owned(),
        description: None,
        recommended: false,
        inputs: Vec::new(),
        launch,
        notes: Vec::new(),
    };
    let manifest = Manifest::named(url.as_str(), Origin::Reference);
    Manifest { alias: label(host), title: host.to_owned(), methods: vec![method], ..manifest }
}

/// Describes a bundle on the web.
#[must_use]
pub fn remote_bundle(url: &Url, sha256: Option<String>) -> Manifest {
    let name = url.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or("bundle");
    let alias = name.rsplit_once('.').map_or(name, |(stem, _)| stem).to_owned();
    let method = Method {
        id: "mcpb".to_owned(),
        kind: "mcpb".to_owned(),
        description: None,
        recommended: false,
        inputs: Vec::new(),
        launch: Launch::Bundle { url: url.to_string(), sha256 },
        notes: Vec::new(),
    };
    let manifest = Manifest::named(name, Origin::Reference);
    Manifest { alias, methods: vec![method], ..manifest }
}

/// A parsed address has no `{`, so that it has no placeholder either.
fn literal(url: &str) -> String {
    url.replace("${", "$%7B")
}

/// Returns the label of a host that tells whose it is: `crm` of `mcp.crm.example`.
fn label(host: &str) -> String {
    let labels: Vec<&str> = host.split('.').collect();
    let is_address = host.parse::<std::net::IpAddr>().is_ok() || host.starts_with('[');
    let label = match labels.as_slice() {
        _ if is_address => "remote",
        [] | [""] => "remote",
        [one] => one,
        [.., label, _] => label,
    };
    label.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Reference {
        text.parse().unwrap()
    }

    fn package(kind: &'static str, identifier: &str, version: Option<&str>) -> Reference {
        let version = version.map(str::to_owned);
        Reference::Package { kind, identifier: identifier.to_owned(), version }
    }

    #[test]
    fn each_form_is_told_by_its_beginning_or_its_end() {
        let name = |name: &str, version: Option<&str>| Reference::Name {
            name: name.to_owned(),
            version: version.map(str::to_owned),
        };
        assert_eq!(parse("time"), name("time", None));
        assert_eq!(parse("@acme/time"), name("@acme/time", None));
        assert_eq!(parse("io.github.a/b"), name("io.github.a/b", None));
        assert_eq!(parse("io.github.a/b@1.0.0"), name("io.github.a/b", Some("1.0.0")));
        assert_eq!(parse("npm:@a/b@1.2"), package("npm", "@a/b", Some("1.2")));
        assert_eq!(parse("npm:@a/b"), package("npm", "@a/b", None));
        assert_eq!(parse("pypi:x==1"), package("pypi", "x", Some("1")));
        assert_eq!(parse("uvx:x@1"), package("pypi", "x", Some("1")));
        assert_eq!(
            parse("oci:ghcr.io/a/b:1@sha256:00"),
            package("oci", "ghcr.io/a/b:1@sha256:00", None)
        );
        assert!(matches!(parse("https://x.example/mcp"), Reference::Remote(_)));
        assert!(matches!(parse("https://x.example/a.mcpb?t=1"), Reference::RemoteBundle(_)));
        assert!(matches!(parse("./a.MCPB"), Reference::Bundle(_)));
        for path in ["./x", "/x", "..", "~/x", "C:\\x", "."] {
            assert!(matches!(parse(path), Reference::Folder(_)), "{path}");
        }
    }

    #[test]
    fn what_is_no_reference_is_refused_and_secrets_are_not_repeated() {
        for text in ["", "--force", "a b", "gopher://x"] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
        let error = "https://me:s3cret@x.example/".parse::<Reference>().unwrap_err();
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }

    #[test]
    fn a_package_becomes_a_manifest_of_one_method() {
        let manifest = super::package("npm", "@acme/notes-mcp", Some("1.0")).unwrap();
        assert_eq!((manifest.alias.as_str(), manifest.methods.len()), ("notes-mcp", 1));
        assert!(super::package("npm", "--eval", None).is_err());
        assert!(super::package("npm", "", None).is_err());
        assert_eq!(super::package("oci", "ghcr.io/a/notes:1", None).unwrap().alias, "notes");
    }

    #[test]
    fn a_remote_server_is_called_as_its_host_is() {
        let alias = |url: &str| remote(&Url::parse(url).unwrap()).alias;
        assert_eq!(alias("https://mcp.crm.example/mcp"), "crm");
        assert_eq!(alias("http://localhost:8080/mcp"), "localhost");
        assert_eq!(alias("http://127.0.0.1/mcp"), "remote");
    }
}
