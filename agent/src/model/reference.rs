//! Values of `servers.json` that say where a secret is instead of what it is: `${VAR}`,
//! `${VAR:-default}`, `file:PATH` and `keyring:SERVICE/NAME`; the last one also within other text,
//! as `${keyring:SERVICE/NAME}`. This module reads and shows them; whoever starts a server looks
//! them up.

use std::borrow::Cow;

/// Where a secret is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference<'a> {
    /// In a variable of our environment, or else the default.
    Variable {
        /// The name of the variable.
        name: &'a str,
        /// What to take when it is not set, or empty.
        default: Option<&'a str>,
    },
    /// In a file: an absolute path, or one below the home folder (`~/`).
    File(&'a str),
    /// In the keyring of the system.
    Keyring(Slot<'a>),
}

/// A place in the keyring of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot<'a> {
    /// Whose it is: the name of a program.
    pub service: &'a str,
    /// Its name there.
    pub name: &'a str,
}

/// What stands in front of a place in the keyring.
const KEYRING: &str = "keyring:";

impl<'a> Slot<'a> {
    /// Reads `SERVICE/NAME`; a name may have further slashes.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        let (service, name) = text.split_once('/')?;
        let fine = |part: &str| !part.trim().is_empty() && !part.contains(char::is_control);
        // `keyring://x` would be a URL.
        (fine(service) && fine(name) && !name.starts_with('/')).then_some(Self { service, name })
    }

    /// Reads a value that is a place in the keyring and nothing else.
    #[must_use]
    pub fn of_value(value: &'a str) -> Option<Self> {
        Self::parse(value.strip_prefix(KEYRING)?)
    }
}

impl std::fmt::Display for Slot<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{KEYRING}{}/{}", self.service, self.name)
    }
}

/// Tells whether a part of a value is looked up when a server is started.
#[must_use]
pub fn is_reference(value: &str) -> bool {
    parts(value).iter().any(|part| matches!(part, Part::Reference(_)))
}

/// Returns the places in the keyring that a value names.
pub fn slots(value: &str) -> impl Iterator<Item = Slot<'_>> {
    parts(value).into_iter().filter_map(|part| match part {
        Part::Reference(Reference::Keyring(slot)) => Some(slot),
        _ => None,
    })
}

/// One part of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part<'a> {
    Text(&'a str),
    Reference(Reference<'a>),
}

/// Replaces the references in a value. `$${VAR}` stands for the text `${VAR}`, and URLs
/// (`file:///x`) and relative paths (`file:x.db`), which many servers take, are no references.
///
/// # Errors
/// What `look_up` says about the first reference it cannot follow.
pub fn resolve<'a, E>(
    value: &'a str,
    mut look_up: impl FnMut(Reference<'a>) -> Result<String, E>,
) -> Result<Cow<'a, str>, E> {
    let parts = parts(value);
    if let [] | [Part::Text(_)] = parts.as_slice()
        && !value.contains("$${")
    {
        return Ok(Cow::Borrowed(value));
    }
    let mut resolved = String::new();
    for part in parts {
        match part {
            Part::Text(text) => resolved.push_str(text),
            Part::Reference(reference) => resolved.push_str(&look_up(reference)?),
        }
    }
    Ok(Cow::Owned(resolved))
}

/// Returns what may be shown of a value: where its secrets are, and not what they are.
#[must_use]
pub fn masked(value: &str) -> String {
    const MASK: &str = "***";
    let show = |part: Part<'_>| match part {
        // The scheme of an `Authorization` header tells nobody anything.
        Part::Text(text @ ("Bearer " | "bearer " | "Basic " | "token ")) => text.to_owned(),
        Part::Text(_) => MASK.to_owned(),
        Part::Reference(Reference::Variable { name, default: None }) => format!("${{{name}}}"),
        Part::Reference(Reference::Variable { name, default: Some(_) }) => {
            format!("${{{name}:-{MASK}}}")
        }
        Part::Reference(Reference::File(path)) => format!("file:{path}"),
        Part::Reference(Reference::Keyring(slot)) => format!("${{{slot}}}"),
    };
    match parts(value).as_slice() {
        [] => String::new(),
        [Part::Text(_)] => MASK.to_owned(),
        [Part::Reference(Reference::Keyring(_))] => value.to_owned(),
        parts => parts.iter().copied().map(show).collect(),
    }
}

fn parts(value: &str) -> Vec<Part<'_>> {
    if let Some(path) = value.strip_prefix("file:").filter(|path| is_path(path)) {
        return vec![Part::Reference(Reference::File(path))];
    }
    if let Some(slot) = Slot::of_value(value) {
        return vec![Part::Reference(Reference::Keyring(slot))];
    }
    let (mut parts, mut rest) = (Vec::new(), value);
    while let Some(at) = rest.find("${") {
        let escaped = rest[..at].ends_with('$');
        match variable(&rest[at + 2..]).filter(|_| !escaped) {
            Some((reference, length)) => {
                if at > 0 {
                    parts.push(Part::Text(&rest[..at]));
                }
                parts.push(Part::Reference(reference));
                rest = &rest[at + 2 + length..];
            }
            None => {
                // `$${` gives `${`: the first dollar goes.
                let kept = if escaped { at - 1 } else { at };
                if kept > 0 {
                    parts.push(Part::Text(&rest[..kept]));
                }
                parts.push(Part::Text(&rest[at..at + 2]));
                rest = &rest[at + 2..];
            }
        }
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest));
    }
    parts
}

/// Reads `NAME}`, `NAME:-default}` or `keyring:SERVICE/NAME}`; returns how long it is as well.
fn variable(text: &str) -> Option<(Reference<'_>, usize)> {
    let end = text.find('}')?;
    let inside = &text[..end];
    if let Some(slot) = Slot::of_value(inside) {
        return Some((Reference::Keyring(slot), end + 1));
    }
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let fine = starts && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    fine.then_some((Reference::Variable { name, default }, end + 1))
}

/// Tells an absolute path, or one below home, from a URL and from a relative path.
fn is_path(path: &str) -> bool {
    let drive = |path: &str| {
        let mut chars = path.chars();
        chars.next().is_some_and(|c| c.is_ascii_alphabetic())
            && chars.next() == Some(':')
            && chars.next().is_some_and(|c| c == '\\' || c == '/')
    };
    path.starts_with("~/") || (path.starts_with('/') && !path.starts_with("//")) || drive(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look_up(reference: Reference<'_>) -> Result<String, String> {
        match reference {
            Reference::Variable { name: "A", .. } => Ok("1".to_owned()),
            Reference::Variable { default: Some(default), .. } => Ok(default.to_owned()),
            Reference::Variable { name, .. } => Err(name.to_owned()),
            Reference::File(path) => Ok(format!("<{path}>")),
            Reference::Keyring(Slot { service, name }) => Ok(format!("<{service}|{name}>")),
        }
    }

    #[test]
    fn references_are_followed_wherever_they_stand() {
        let ok = |value: &str| resolve(value, look_up).unwrap().into_owned();
        assert_eq!(ok("${A}"), "1");
        assert_eq!(ok("Bearer ${A}, ${A}!"), "Bearer 1, 1!");
        assert_eq!(ok("${B:-x y}"), "x y");
        assert_eq!(ok("file:/run/secrets/key"), "</run/secrets/key>");
        assert_eq!(ok("file:~/key"), "<~/key>");
        assert_eq!(ok("file:C:\\key"), "<C:\\key>");
        assert_eq!(ok("keyring:mcpm/notes/KEY"), "<mcpm|notes/KEY>");
        assert_eq!(ok("Bearer ${keyring:mcpm/crm}"), "Bearer <mcpm|crm>");
        assert_eq!(resolve("x ${B}", look_up), Err("B".to_owned()));
    }

    #[test]
    fn what_only_looks_like_a_reference_stays() {
        for value in [
            "",
            "$A",
            "${",
            "${}",
            "${1}",
            "${a b}",
            "$",
            "file:",
            "file:x.db",
            "file:///x",
            "a$b",
            "keyring:",
            "keyring:x",
            "keyring:/x",
            "keyring:x/",
            "keyring://x/y",
            "${keyring:x}",
        ] {
            assert_eq!(resolve(value, look_up).unwrap(), value);
        }
        assert_eq!(resolve("$${A} ${A}", look_up).unwrap(), "${A} 1");
        assert_eq!(resolve("$${x", look_up).unwrap(), "${x");
    }

    #[test]
    fn only_where_a_secret_is_gets_shown() {
        assert_eq!(masked("s3cret"), "***");
        assert_eq!(masked(""), "");
        assert_eq!(masked("${KEY}"), "${KEY}");
        assert_eq!(masked("Bearer ${KEY}"), "Bearer ${KEY}");
        assert_eq!(masked("s3cret${KEY}"), "***${KEY}");
        assert_eq!(masked("${KEY:-s3cret}"), "${KEY:-***}");
        assert_eq!(masked("file:~/key"), "file:~/key");
        assert_eq!(masked("keyring:mcpm/x"), "keyring:mcpm/x");
        assert_eq!(masked("Bearer ${keyring:mcpm/x}"), "Bearer ${keyring:mcpm/x}");
        assert_eq!(slots("a ${keyring:b/c} ${D}").count(), 1);
        assert!(is_reference("a ${B}") && is_reference("file:~/k") && !is_reference("$${B}"));
        assert!(!masked("$${s3cret}").contains("s3cret"));
    }
}
