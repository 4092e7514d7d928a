//! What a child inherits: variables that say who and where it is, and how it reaches the network;
//! never our whole environment, which may hold secrets of other programs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Variables that children inherit; the list of the MCP SDKs for both families of systems, plus
/// locale, time zone, and the places for temporary and other files.
const INHERITED: [&str; 32] = [
    "HOME",
    "LANG",
    "LANGUAGE",
    "LOGNAME",
    "PATH",
    "SHELL",
    "TERM",
    "TMPDIR",
    "TZ",
    "USER",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
    "APPDATA",
    "COMSPEC",
    "HOMEDRIVE",
    "HOMEPATH",
    "LOCALAPPDATA",
    "PATHEXT",
    "PROCESSOR_ARCHITECTURE",
    "PROGRAMDATA",
    "PROGRAMFILES",
    "SYSTEMDRIVE",
    "SYSTEMROOT",
    "TEMP",
    "TMP",
    "USERNAME",
    "USERPROFILE",
    // Where the daemon of `docker run` is, when it is not at its usual place.
    "DOCKER_CONFIG",
    "DOCKER_HOST",
];

/// The way through a proxy, in either case. Without it no package runner and no server behind one
/// reaches anything. A password in such a URL is meant for every program that goes through it.
const PROXIES: [&str; 4] = ["ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];

/// What TLS trusts, where somebody between here and the world has an authority of their own: files
/// and folders of certificates, and switches to use those of the system. By who reads them.
const TRUST: [&str; 14] = [
    // OpenSSL, and with it Python, Ruby, curl; uv and Go too.
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    // Node.js, which also has to be told to obey the variables of proxies.
    "NODE_EXTRA_CA_CERTS",
    "NODE_USE_ENV_PROXY",
    "NODE_USE_SYSTEM_CA",
    // Python: requests, pip.
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    // uv, by its older and its newer name.
    "UV_NATIVE_TLS",
    "UV_SYSTEM_CERTS",
    // curl, Git, Deno, the SDKs of AWS.
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "DENO_CERT",
    "DENO_TLS_CA_STORE",
    "AWS_CA_BUNDLE",
];

/// Tells servers that they were started by mcpm.
pub(super) const MARK: (&str, &str) = ("MCPM_STDIO_SERVER", "true");

/// Picks from an environment what a child inherits.
pub(super) fn inherited(
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Vec<(OsString, OsString)> {
    environment.filter(|(name, _)| name.to_str().is_some_and(is_inherited)).collect()
}

fn is_inherited(name: &str) -> bool {
    // Names are case-insensitive on Windows, where `Path` is the usual spelling.
    let upper = name.to_ascii_uppercase();
    let exact = if cfg!(windows) { upper.as_str() } else { name };
    exact.starts_with("LC_")
        || INHERITED.contains(&exact)
        || TRUST.contains(&exact)
        || (PROXIES.contains(&upper.as_str()) && (exact == upper || is_lower(name)))
        // npm reads its settings from the environment in any case.
        || upper == "NPM_CONFIG_CAFILE"
}

/// Tells whether a name is written the way of curl.
fn is_lower(name: &str) -> bool {
    !name.contains(|char: char| char.is_ascii_uppercase())
}

/// Finds the file that a command names. Only Windows needs this: there a bare name finds `.exe`
/// files alone, while `npx` and most npm commands are `.cmd` files.
pub(super) fn program(command: &str, environment: &[(OsString, OsString)]) -> PathBuf {
    let plain = PathBuf::from(command);
    if !cfg!(windows) || plain.components().count() != 1 || plain.extension().is_some() {
        return plain;
    }
    let variable = |wanted: &str| {
        environment
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value.clone())
    };
    let folders = variable("PATH").unwrap_or_default();
    let endings = variable("PATHEXT").unwrap_or_else(|| ".EXE;.CMD;.BAT".into());
    let endings = endings.to_string_lossy().into_owned();
    find(command, std::env::split_paths(&folders), endings.split(';'), Path::is_file)
        .unwrap_or(plain)
}

/// Tells whether the file that a command names may be there; where the system has rules of its own,
/// only the system can tell.
pub(super) fn may_exist(
    command: &str,
    cwd: Option<&Path>,
    environment: &[(OsString, OsString)],
) -> bool {
    if cfg!(not(unix)) || command.is_empty() {
        return true;
    }
    if command.contains('/') {
        return cwd.unwrap_or(Path::new("")).join(command).exists();
    }
    // The last one counts, as it does for the process.
    let folders = environment.iter().rev().find(|(name, _)| name == "PATH");
    folders.is_none_or(|(_, folders)| {
        std::env::split_paths(folders).any(|folder| folder.join(command).exists())
    })
}

fn find<'a>(
    command: &str,
    folders: impl Iterator<Item = PathBuf>,
    endings: impl Iterator<Item = &'a str> + Clone,
    exists: impl Fn(&Path) -> bool,
) -> Option<PathBuf> {
    folders
        .flat_map(|folder| {
            endings.clone().map(move |ending| folder.join(format!("{command}{ending}")))
        })
        .find(|path| exists(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_other_programs_are_not_inherited() {
        let environment = [("PATH", "/bin"), ("AWS_SECRET_ACCESS_KEY", "x"), ("LC_ALL", "C")]
            .map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let names: Vec<_> =
            inherited(environment.into_iter()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["PATH", "LC_ALL"]);
    }

    #[test]
    fn what_leads_through_a_companys_proxy_is_inherited() {
        for name in [
            "HTTPS_PROXY",
            "https_proxy",
            "no_proxy",
            "ALL_PROXY",
            "SSL_CERT_FILE",
            "SSL_CERT_DIR",
            "NODE_EXTRA_CA_CERTS",
            "REQUESTS_CA_BUNDLE",
            "UV_SYSTEM_CERTS",
            "npm_config_cafile",
            "XDG_RUNTIME_DIR",
            "DOCKER_HOST",
        ] {
            assert!(is_inherited(name), "{name}");
        }
        for name in ["GITHUB_TOKEN", "npm_config_registry", "PIP_INDEX_URL", "MY_PROXY", "CI"] {
            assert!(!is_inherited(name), "{name}");
        }
    }

    #[test]
    fn a_bare_name_is_found_with_its_ending() {
        let there = PathBuf::from("b").join("npx.CMD");
        let found = find(
            "npx",
            ["a", "b"].map(PathBuf::from).into_iter(),
            [".EXE", ".CMD"].into_iter(),
            |path| path == there,
        );
        assert_eq!(found, Some(there));
    }
}
