//! `cargo xtask bench`: the release binaries beside the peers that `docs/performance.md` compares them with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::dist;
use crate::peers;
use crate::step::{self, Failed};
use crate::tree::{Tree, has};

/// Builds, installs the contenders and runs one bench, the tunnel's unless another is named; its tables go to standard
/// output. With `--dist` it measures what `cargo xtask dist` made last.
pub(crate) fn run(tree: &Tree, args: &[&str]) -> Result<(), Failed> {
    let (bench, args) = match args {
        ["cli", rest @ ..] => ("cli-bench", rest),
        ["gateway", rest @ ..] => ("gateway-bench", rest),
        ["tunnel", rest @ ..] => ("tunnel-bench", rest),
        rest => ("tunnel-bench", rest),
    };
    let (made, args): (Vec<&str>, Vec<&str>) = args.iter().partition(|arg| **arg == "--dist");
    let bins = if made.is_empty() { release(tree)? } else { dist::made(tree)? };
    let peers = match bench {
        "cli-bench" => Vec::new(),
        "gateway-bench" => {
            let peers::Gateways { fastmcp, mcp_proxy, supergateway } = peers::gateways(tree)?;
            vec![
                ("--fastmcp", fastmcp),
                ("--mcp-proxy", mcp_proxy),
                ("--supergateway", supergateway),
            ]
        }
        _ => {
            // For itself: what it needs of mcpm must not change the programs that are measured.
            let build = ["build", "--release", "-p", "mcpm-bench", "--bin", "bench-agents"];
            step::run(tree, "bench-agents", tree.cargo(&build))?;
            beside(&tree.target.join("release"), &bins, "bench-agents")?;
            vec![("--rathole", rathole(tree)), ("--nginx", nginx(tree))]
        }
    };
    let run = ["run", "--quiet", "--release", "-p", "mcpm-bench", "--bin", bench, "--"];
    let mut bench = tree.cargo(&run);
    bench.arg("--bins").arg(&bins);
    for (flag, program) in peers {
        bench.arg(flag).arg(program);
    }
    bench.args(args);
    let status = bench.status().map_err(|error| Failed::new("start the bench", error))?;
    if status.success() { Ok(()) } else { Err(Failed(format!("the bench ended with {status}"))) }
}

/// Builds the programs for release, and returns where they are.
fn release(tree: &Tree) -> Result<PathBuf, Failed> {
    // One by one, as they are shipped: together the agent would get the features of a whole relay.
    for package in ["mcpm", "mcpm-relay"] {
        let build = ["build", "--release", "-p", package, "--bin", package];
        step::run(tree, &format!("release {package}"), tree.cargo(&build))?;
    }
    Ok(tree.target.join("release"))
}

/// Copies a program to where the others are, unless it is there.
fn beside(from: &Path, to: &Path, program: &str) -> Result<(), Failed> {
    if from == to {
        return Ok(());
    }
    let copied = fs::copy(from.join(program), to.join(program));
    copied
        .map(drop)
        .map_err(|error| Failed::new(format!("copy {program} to {}", to.display()), error))
}

/// rathole from crates.io, in `target/peers`.
fn rathole(tree: &Tree) -> PathBuf {
    let program = tree.peers().join("cargo/bin/rathole");
    if !has(&program) {
        peers::debian(tree, &["pkg-config", "libssl-dev"]);
        let features = ["--no-default-features", "--features", "server,client,websocket"];
        // Not `--locked`: its lock file holds a release of `time` that today's compilers refuse.
        let mut install = tree.cargo(&["install", "rathole", "--version", "^0.5"]);
        install.args(features).arg("--root").arg(tree.peers().join("cargo"));
        if step::run(tree, "peers rathole", install).is_err() {
            println!("peers: rathole could not be built: its rows are left out");
        }
    }
    program
}

/// nginx of the system, or else Debian's unpacked below `target/peers`: installing the package would start a server.
fn nginx(tree: &Tree) -> PathBuf {
    let folder = tree.peers().join("nginx");
    let unpacked = folder.join("usr/sbin/nginx");
    for program in [PathBuf::from("nginx"), unpacked.clone()] {
        if runs(&program) {
            return program;
        }
    }
    if fs::create_dir_all(&folder).is_ok() && unpack(tree, &folder).is_ok() && runs(&unpacked) {
        return unpacked;
    }
    println!("peers: nginx not found: its row is left out");
    unpacked
}

fn unpack(tree: &Tree, folder: &Path) -> Result<(), Failed> {
    let mut download = tree.command("apt-get", &["download", "nginx"]);
    download.current_dir(folder);
    step::run(tree, "peers nginx", download)?;
    let listed = fs::read_dir(folder).map_err(|error| Failed::new("list the download", error))?;
    let packages = listed.filter_map(|entry| Some(entry.ok()?.path()));
    for package in packages.filter(|path| path.extension().is_some_and(|e| e == "deb")) {
        let mut extract = tree.command("dpkg", &["-x"]);
        extract.arg(package).arg(folder);
        step::run(tree, "unpack nginx", extract)?;
    }
    Ok(())
}

/// nginx knows `-v`, not `--version`.
fn runs(nginx: &Path) -> bool {
    let mut command = Command::new(nginx);
    command.arg("-v").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
