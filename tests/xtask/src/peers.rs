//! `cargo xtask peers`: the programs of other people that the peer suites talk to, below `target/peers`.
//!
//! What is there already is left alone: a stamp keeps the list of packages that a folder was made from. A machine
//! without Node.js or Python still passes: one line says what is skipped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::step::{self, Failed};
use crate::tree::{Tree, has};
use crate::unpacked;

/// What the relay's own suites want. They do not tell what they skip.
pub(crate) const OF_RELAY: [&str; 2] = ["pebble", "postgresql"];

/// Installs what is missing and returns what is ready: `node`, `python`, `mcpm`, `helm`, and programs.
pub(crate) fn install(tree: &Tree, fresh: bool) -> Result<Vec<&'static str>, Failed> {
    let folder = tree.peers();
    fs::create_dir_all(&folder)
        .map_err(|e| Failed::new(format!("make {}", folder.display()), e))?;
    // The authority that the relay's tests order certificates from; without it they skip themselves.
    if !has("pebble") {
        debian(tree, &["pebble"]);
    }
    // The browser that looks at the dashboard, with what steers it.
    if !has("chromedriver") {
        debian(tree, &["chromium", "chromium-driver"]);
    }
    let mut ready = Vec::new();
    for kind in [NODE, PYTHON, MCPM, HELM] {
        match kind.ensure(tree, fresh) {
            Ok(()) => ready.push(kind.name),
            Err(Failed(why)) => {
                let first = why.lines().next().unwrap_or_default();
                println!("peers: {first}: the {} suites are skipped", kind.language);
            }
        }
    }
    ready.extend(has("pebble").then_some("pebble"));
    match has("chromedriver") {
        true => ready.push("chromedriver"),
        false => println!("peers: chromedriver not found: the suites with a browser are skipped"),
    }
    ready.extend(postgres(tree).then_some("postgresql"));
    ready.extend(unpacked::ensure(tree));
    Ok(ready)
}

/// Installs the server that the suites of the relay's store start for themselves; tells whether it is there.
fn postgres(tree: &Tree) -> bool {
    // Debian keeps it off the path.
    let found = || {
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        has("initdb") || versions.map(|it| it.path()).any(|it| it.join("bin/initdb").exists())
    };
    if !found() {
        debian(tree, &["postgresql"]);
    }
    let found = found();
    if !found {
        println!("peers: initdb not found: the PostgreSQL suites are skipped");
    }
    found
}

/// Installs the conformance suite and returns its folder and the Node.js that can run it.
pub(crate) fn conformance(tree: &Tree) -> Result<(PathBuf, PathBuf), Failed> {
    let kind = Kind {
        name: "conformance",
        language: "conformance",
        manifest: "tests/conformance/package.json",
        ..NODE
    };
    let folder = tree.peers().join(kind.name);
    fs::create_dir_all(tree.peers()).map_err(|e| Failed::new("make the folder of peers", e))?;
    kind.ensure(tree, false)?;
    let own = folder.join("node_modules/.bin/node");
    let node = if own.exists() { own } else { PathBuf::from("node") };
    Ok((folder.join("node_modules"), node))
}

/// Where the programs are that the gateway bench compares us with. Those that could not be installed are not there.
pub(crate) struct Gateways {
    /// The Python that has `fastmcp`.
    pub(crate) fastmcp: PathBuf,
    pub(crate) mcp_proxy: PathBuf,
    pub(crate) supergateway: PathBuf,
}

/// Installs the peers of the gateway bench.
pub(crate) fn gateways(tree: &Tree) -> Result<Gateways, Failed> {
    // It wants an older SDK than FastMCP, so it has a folder of its own.
    let mcp_proxy = Kind { name: "mcp-proxy", manifest: "tests/peers/mcp-proxy.txt", ..PYTHON };
    let supergateway = Kind {
        name: "supergateway",
        manifest: "tests/peers/supergateway.json",
        install: install_node,
        ..NODE
    };
    let folder = |kind: &Kind| tree.peers().join(kind.name);
    let found = Gateways {
        fastmcp: folder(&PYTHON).join("bin/python"),
        mcp_proxy: folder(&mcp_proxy).join("bin/mcp-proxy"),
        supergateway: folder(&supergateway).join("node_modules/.bin/supergateway"),
    };
    fs::create_dir_all(tree.peers()).map_err(|e| Failed::new("make the folder of peers", e))?;
    for kind in [PYTHON, mcp_proxy, supergateway] {
        if let Err(Failed(why)) = kind.ensure(tree, false) {
            let first = why.lines().next().unwrap_or_default();
            println!("peers: {first}: the rows of {} are left out", kind.name);
        }
    }
    Ok(found)
}

const NODE: Kind = Kind {
    name: "node",
    language: "TypeScript",
    manifest: "tests/peers/package.json",
    programs: &["node", "npm"],
    debian: &["nodejs", "npm"],
    install: install_node_22,
};

const PYTHON: Kind = Kind {
    name: "python",
    language: "Python",
    manifest: "tests/peers/requirements.txt",
    programs: &["python3"],
    debian: &["python3", "python3-venv"],
    install: install_python,
};

/// It wants an older SDK and an older `FastMCP` than the other Python peers, so it has a folder of its own.
const MCPM: Kind =
    Kind { name: "mcpm", language: "Python mcpm", manifest: "tests/peers/mcpm.txt", ..PYTHON };

/// Helm's library, which renders the chart in `deploy/`.
const HELM: Kind =
    Kind { name: "helm", language: "Helm", manifest: "tests/peers/helm.txt", ..PYTHON };

/// One ecosystem that peers come from.
struct Kind {
    name: &'static str,
    language: &'static str,
    manifest: &'static str,
    programs: &'static [&'static str],
    debian: &'static [&'static str],
    install: fn(&Self, &Tree, &Path) -> Result<(), Failed>,
}

impl Kind {
    fn ensure(&self, tree: &Tree, fresh: bool) -> Result<(), Failed> {
        let folder = tree.peers().join(self.name);
        let stamp = tree.peers().join(format!("{}.stamp", self.name));
        let wanted = fs::read_to_string(tree.root.join(self.manifest))
            .map_err(|error| Failed::new(format!("read {}", self.manifest), error))?;
        if !fresh && fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
            return Ok(());
        }
        for program in self.programs {
            if !has(program) {
                debian(tree, self.debian);
            }
            if !has(program) {
                return Err(Failed(format!("{program} not found")));
            }
        }
        // Anything may have stopped an earlier attempt half-way. What its stamp says is not so from here on.
        fs::remove_file(&stamp).ok();
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(|e| Failed::new("clear the old peers", e))?;
        }
        (self.install)(self, tree, &folder)?;
        fs::write(&stamp, wanted).map_err(|error| Failed::new("write the stamp", error))
    }
}

fn install_node(kind: &Kind, tree: &Tree, folder: &Path) -> Result<(), Failed> {
    let copied = fs::create_dir_all(folder)
        .and_then(|()| fs::copy(tree.root.join(kind.manifest), folder.join("package.json")));
    copied.map_err(|error| Failed::new("copy package.json", error))?;
    npm(tree, &format!("peers {}", kind.name), folder, &[])
}

/// The conformance suite and MCP Inspector want Node.js 22.19; npm has that too, where the system's is older.
fn install_node_22(kind: &Kind, tree: &Tree, folder: &Path) -> Result<(), Failed> {
    install_node(kind, tree, folder)?;
    let version = Command::new("node").arg("--version").stdin(Stdio::null()).output();
    let version = version.map(|output| output.stdout).unwrap_or_default();
    let version = String::from_utf8_lossy(&version);
    let numbers = version.trim_start_matches('v').split('.');
    let numbers: Vec<u32> = numbers.map_while(|number| number.parse().ok()).take(2).collect();
    if numbers >= vec![22, 19] {
        return Ok(());
    }
    npm(tree, "peers node 22", folder, &["--no-save", "node@22"])
}

fn npm(tree: &Tree, name: &str, folder: &Path, packages: &[&str]) -> Result<(), Failed> {
    let flags = ["install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"];
    let mut npm = tree.command("npm", &flags);
    npm.args(packages).current_dir(folder);
    step::run(tree, name, npm)
}

fn install_python(kind: &Kind, tree: &Tree, folder: &Path) -> Result<(), Failed> {
    let mut venv = tree.command("python3", &["-m", "venv"]);
    venv.arg(folder);
    step::run(tree, "peers venv", venv)?;
    let flags = ["-m", "pip", "install", "--quiet", "-r", kind.manifest];
    step::run(tree, "peers python", tree.command(folder.join("bin/python"), &flags))
}

/// Tries to install Debian packages; only where that needs no password. What comes of it shows in what is there after.
pub(crate) fn debian(tree: &Tree, packages: &[&str]) {
    let root = Command::new("id").arg("-u").stdin(Stdio::null()).output();
    if !root.is_ok_and(|id| id.stdout == b"0\n") || !has("apt-get") {
        return;
    }
    let install = || {
        let mut apt = tree.command("apt-get", &["install", "-y", "--no-install-recommends"]);
        apt.args(packages).env("DEBIAN_FRONTEND", "noninteractive");
        apt
    };
    let name = format!("apt {}", packages.join(" "));
    // A fresh machine or image has no package lists yet.
    if step::run(tree, &name, install()).is_err()
        && step::run(tree, "apt update", tree.command("apt-get", &["update"])).is_ok()
    {
        step::run(tree, &name, install()).ok();
    }
}
