//! Servers and tools of Debian's, unpacked below `target/peers` and not installed: to install them would start services.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::step::{self, Failed};
use crate::tree::Tree;

/// The programs that the suites around the relay want, and the packages that have them.
const WANTED: [(&str, &str); 7] = [
    ("nginx", "nginx"),
    ("haproxy", "haproxy"),
    ("slowhttptest", "slowhttptest"),
    ("ip", "iproute2"),
    ("sqlite3", "sqlite3"),
    ("docker-compose", "docker-compose"),
    ("promtool", "prometheus"),
];

/// Unpacks what the system lacks, and says which suites are skipped where that does not work. Returns what is there.
pub(crate) fn ensure(tree: &Tree) -> impl Iterator<Item = &'static str> {
    let is_there = move |(program, package): (&'static str, &str)| {
        if fetch(tree, program, package).is_ok() {
            return Some(program);
        }
        println!("peers: {program} not found: the suites with {program} are skipped");
        None
    };
    WANTED.into_iter().filter_map(is_there)
}

/// Unpacks the package of a program that the system lacks. Returns the folder, or `None` where the system has its own.
///
/// # Errors
/// When the package cannot be had, or has no such program.
pub(crate) fn fetch(tree: &Tree, program: &str, package: &str) -> Result<Option<PathBuf>, Failed> {
    if is_installed(program) {
        return Ok(None);
    }
    let folder = tree.peers().join(program);
    if !has(&folder, program) {
        unpack(tree, package, &folder)?;
    }
    match has(&folder, program) {
        true => Ok(Some(folder)),
        false => Err(Failed(format!("{package} has no {program}"))),
    }
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from);
    let mut folders = std::env::split_paths(&path).chain(system);
    folders.any(|folder| folder.join(program).is_file())
}

/// Tells whether a program was unpacked into this folder. The harness looks in the same places.
pub(crate) fn has(folder: &Path, program: &str) -> bool {
    // Before usr was merged, some packages had theirs beside it.
    let places = ["usr/sbin", "usr/bin", "sbin", "bin"];
    places.iter().any(|place| folder.join(place).join(program).is_file())
}

/// Downloads a package and what it needs beyond this system, and unpacks them into one folder.
fn unpack(tree: &Tree, package: &str, folder: &Path) -> Result<(), Failed> {
    let fail = |error| Failed::new(format!("unpack {package}"), error);
    let ask = ["--simulate", "install", "--no-install-recommends", package];
    let planned = tree.command("apt-get", &ask).output().map_err(fail)?;
    let planned = String::from_utf8_lossy(&planned.stdout).into_owned();
    let packages = planned.lines().filter_map(|line| line.strip_prefix("Inst "));
    let packages: Vec<&str> = packages.filter_map(|line| line.split(' ').next()).collect();
    if packages.is_empty() {
        return Err(Failed(format!("apt-get knows no {package}")));
    }
    fs::create_dir_all(folder).map_err(fail)?;
    let mut download = Command::new("apt-get");
    download.arg("download").args(&packages).current_dir(folder);
    step::run(tree, &format!("peers {package}"), download)?;
    for entry in fs::read_dir(folder).map_err(fail)?.flatten() {
        let archive = entry.path();
        if archive.extension().is_some_and(|extension| extension == "deb") {
            let mut extract = Command::new("dpkg");
            extract.arg("-x").arg(&archive).arg(folder);
            // One may come with others, each of which is a step: `NAME_VERSION_ARCHITECTURE.deb`.
            let file = entry.file_name().to_string_lossy().into_owned();
            let name = file.split('_').next().unwrap_or(package);
            step::run(tree, &format!("unpack {name}"), extract)?;
            fs::remove_file(&archive).map_err(fail)?;
        }
    }
    Ok(())
}
