//! What a child inherits: a short list of harmless variables, never our whole environment, which
//! may hold secrets of other programs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Variables that children inherit; the list of the MCP SDKs for both families of systems, plus
/// locale, time zone and the place for temporary files.
const INHERITED: [&str; 25] = [
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
    let name = if cfg!(windows) { name.to_ascii_uppercase() } else { name.to_owned() };
    name.starts_with("LC_") || INHERITED.contains(&name.as_str())
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
