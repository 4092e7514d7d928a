//! Programs of other people that suites want, and what is said when they are not there.

use std::io::Write as _;
use std::path::PathBuf;

use tokio::process::Command;

use crate::process::{command, target_folder};

/// Names what `cargo xtask test` has found, separated by commas: a suite that misses one of these fails.
const PROMISED: &str = "MCPM_PEERS";
/// Names the file in which `cargo xtask test` looks afterwards for what was skipped: test runners hide what a test that
/// passes has said.
const SKIPPED: &str = "MCPM_SKIPPED";

/// The folder of what `cargo xtask peers` installs.
#[must_use]
pub fn peers_folder() -> PathBuf {
    target_folder("../..").join("peers")
}

/// A program of other people: the system's, or that which `cargo xtask peers` has unpacked; `None` where there is neither.
#[must_use]
pub fn peer(program: &str) -> Option<Command> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Servers are not on everybody's path.
    let system = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from);
    let found = std::env::split_paths(&path).chain(system).map(|folder| folder.join(program));
    if let Some(found) = found.into_iter().find(|path| path.is_file()) {
        return Some(command(found));
    }
    let folder = peers_folder().join(program);
    // Before usr was merged, some packages had theirs beside it.
    let places = ["usr/sbin", "usr/bin", "sbin", "bin"];
    let places = places.map(|place| folder.join(place).join(program));
    let mut command = command(places.into_iter().find(|path| path.is_file())?);
    // What it needs and the system lacks was unpacked beside it.
    let libraries = ["usr/lib", "lib"].map(|place| std::fs::read_dir(folder.join(place)));
    let libraries = libraries.into_iter().flatten().flatten().flatten();
    let libraries = libraries.map(|entry| entry.path()).filter(|path| path.is_dir());
    command.env("LD_LIBRARY_PATH", std::env::join_paths(libraries).ok()?);
    Some(command)
}

/// Tells whether all of these programs are there, as [`there`] does for each.
///
/// # Panics
/// As [`there`].
#[must_use]
pub fn programs(wanted: &[&str]) -> bool {
    wanted.iter().all(|program| there(program, peer(program).is_some()))
}

/// Tells whether `cargo xtask peers` has installed the packages of this kind, as [`there`] does.
///
/// # Panics
/// As [`there`].
#[must_use]
pub fn packages(kind: &str) -> bool {
    there(kind, peers_folder().join(format!("{kind}.stamp")).exists())
}

/// Tells whether what a suite wants `is_there`, under the name by which `cargo xtask test` promises it. Where it is not, it
/// is said that something is skipped.
///
/// # Panics
/// When it was promised.
#[must_use]
pub fn there(name: &str, is_there: bool) -> bool {
    let promised = std::env::var_os(PROMISED).unwrap_or_default();
    let is_promised = is_promised(&promised.to_string_lossy(), name);
    assert!(is_there || !is_promised, "`cargo xtask test` has found {name}, and it is not there");
    if !is_there {
        skipped(&format!("no {name} (`cargo xtask peers` may get it)"));
    }
    is_there
}

fn is_promised(promised: &str, name: &str) -> bool {
    promised.split(',').any(|promised| promised == name)
}

/// Says that the running test, or a part of it, is skipped.
#[expect(clippy::print_stderr, reason = "a skipped suite says so")]
pub fn skipped(why: &str) {
    eprintln!("skipped: {why}");
    let Some(file) = std::env::var_os(SKIPPED) else { return };
    let file = std::fs::OpenOptions::new().create(true).append(true).open(file);
    // In one piece, for many tests write at once.
    let written = file.and_then(|mut file| file.write_all(format!("{why}\n").as_bytes()));
    written.expect("what is skipped can be noted");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_names_are_promised() {
        for (promised, name, expected) in [
            ("node,docker-compose", "node", true),
            ("node,docker-compose", "docker-compose", true),
            ("node,docker-compose", "docker", false),
            ("", "node", false),
        ] {
            assert_eq!(is_promised(promised, name), expected, "{name} of {promised:?}");
        }
    }
}
