//! `cargo xtask order`: which functions the programs run when they start and idle, as the scripts that lay them side by side.
//!
//! The system maps a program 64 KiB around each page that is touched. Functions that are needed lie scattered over twenty
//! megabytes of those that are not, so most of an idle program's memory was neighbours. This runs a relay, a share and a
//! local gateway under callgrind, with one call each, and writes what ran to `link/order.ld` of each package; their build
//! scripts hand it to the linker. Most names lose their hashes, so a script outlives changes of versions; what it does not
//! name is only laid elsewhere.

use std::collections::{BTreeSet, HashMap};
use std::fs;

use crate::scene::{self, Stage, Watcher};
use crate::step::{self, Failed};
use crate::tree::{Tree, has};

/// What a pattern may match beyond half as much again as what ran, in bytes.
const SLACK: u64 = 64;
/// Which package has which program, and in which scenes it is recorded.
const PROGRAMS: [(&str, &str, &[&str]); 2] =
    [("agent", "mcpm", &["run", "tunnel", "home"]), ("relay", "mcpm-relay", &["relay"])];

/// Builds the programs with their symbols, runs them under callgrind, and writes both scripts.
pub(crate) fn run(tree: &Tree) -> Result<(), Failed> {
    for (program, package) in [("valgrind", "valgrind"), ("nm", "binutils")] {
        if !has(program) {
            return Err(Failed(format!("order: {program} not found: install {package}")));
        }
    }
    for package in ["mcpm", "mcpm-relay"] {
        // Not by the profile: what it says goes into the hashes of names, and the script is for a stripped build.
        let build = ["rustc", "--release", "-p", package, "--bin", package, "--", "-Cstrip=none"];
        let mut cargo = tree.cargo(&build);
        // Valgrind reads no names of functions that a script has moved out of `.text`.
        cargo.env("MCPM_LINK_ORDER", "0");
        step::run(tree, &format!("{package} with symbols"), cargo)?;
    }
    step::run(tree, "upstream", tree.cargo(&["build", "-p", "mcpm-upstream", "--bins"]))?;
    let work = tree.target.join("xtask").join("order");
    drop(fs::remove_dir_all(&work));
    let bins = tree.target.join("release");
    scene::play(&Stage::prepare(tree, bins, &work, Watcher::Callgrind)?)?;
    for (package, program, scenes) in PROGRAMS {
        let mut ran = BTreeSet::new();
        for scene in scenes {
            let path = work.join(format!("callgrind.{scene}"));
            let text = fs::read_to_string(&path)
                .map_err(|error| Failed::new(format!("read {}", path.display()), error))?;
            ran.extend(functions(&text, &format!("/{program}")));
        }
        let sizes = sizes(tree, program)?;
        let path = tree.root.join(package).join("link").join("order.ld");
        let script = Script::of(&ran, &sizes);
        let folder = path.parent().map_or(Ok(()), fs::create_dir_all);
        folder
            .and_then(|()| fs::write(&path, script.text()))
            .map_err(|error| Failed::new(format!("write {}", path.display()), error))?;
        println!("{}: {} functions", path.display(), ran.len());
    }
    Ok(())
}

/// The bytes of each function of a program, by name.
fn sizes(tree: &Tree, program: &str) -> Result<HashMap<String, u64>, Failed> {
    let mut nm = tree.command("nm", &["--print-size"]);
    nm.arg(tree.target.join("release").join(program));
    let output = nm.output().map_err(|error| Failed::new("run nm", error))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let function = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let size = u64::from_str_radix(words.next()?, 16).ok()?;
        let kind = words.next()?;
        kind.eq_ignore_ascii_case("t").then_some(())?;
        Some((words.next()?.to_owned(), size))
    };
    Ok(text.lines().filter_map(function).collect())
}

/// The functions of `program` that a record of callgrind lists.
///
/// A record says `ob=(ID) PATH` and then `fn=(ID) NAME` for each function of that object; names are given once and referred
/// to by number then, also where they come first as what is called (`cob=`, `cfn=`). Recursions have `'2` behind them.
fn functions(text: &str, program: &str) -> BTreeSet<String> {
    let (mut objects, mut names) = (HashMap::new(), HashMap::new());
    let mut ours = false;
    let mut found = BTreeSet::new();
    for line in text.lines() {
        let Some((key, rest)) = line.split_once("=(") else { continue };
        let Some((id, name)) = rest.split_once(')') else { continue };
        let known = match key {
            "ob" | "cob" => &mut objects,
            "fn" | "cfn" => &mut names,
            _ => continue,
        };
        if let Some(name) = name.strip_prefix(' ') {
            known.insert(id, name.split('\'').next().unwrap_or(name));
        }
        match key {
            "ob" => ours = objects.get(id).is_some_and(|path| path.ends_with(program)),
            "fn" if ours => {
                found.extend(names.get(id).filter(|name| plain(name)).map(ToString::to_string));
            }
            _ => {}
        }
    }
    found
}

/// Whether a name can stand in a linker script as it is.
fn plain(name: &str) -> bool {
    let mut chars = name.chars();
    // What has no symbol goes by its address.
    chars.next().is_some_and(|first| first == '_' || first.is_ascii_alphabetic())
        && chars.all(|c| c.is_ascii_alphanumeric() || "_.$".contains(c))
}

/// What a linker script names, in this order.
#[derive(Default)]
struct Script {
    /// Names without their hash, where all that goes by them ran.
    dense: BTreeSet<String>,
    /// Names with their hash: generic functions of which few instances ran.
    exact: BTreeSet<String>,
    /// The same without, for builds with other hashes.
    sparse: BTreeSet<String>,
}

impl Script {
    fn of(ran: &BTreeSet<String>, sizes: &HashMap<String, u64>) -> Self {
        let mut all: HashMap<String, u64> = HashMap::new();
        for (name, size) in sizes {
            *all.entry(pattern(name)).or_default() += size;
        }
        let mut needed: HashMap<String, u64> = HashMap::new();
        for name in ran {
            *needed.entry(pattern(name)).or_default() += sizes.get(name).copied().unwrap_or(0);
        }
        let mut script = Self::default();
        for name in ran {
            let pattern = pattern(name);
            if all.get(&pattern).copied().unwrap_or(0) <= needed[&pattern] * 3 / 2 + SLACK {
                script.dense.insert(pattern);
            } else {
                script.exact.insert(name.clone());
                script.sparse.insert(pattern);
            }
        }
        script
    }

    /// The fragment, for GNU ld and LLD; cold functions are in `.text.unlikely.NAME`.
    fn text(&self) -> String {
        let mut text = String::from(
            "/* Made by `cargo xtask order`, do not edit: what runs at the start and in idle programs, side by side. */\n\
             SECTIONS\n{\n  .text.order :\n  {\n",
        );
        for name in self.dense.iter().chain(&self.exact).chain(&self.sparse) {
            text.push_str(&format!("    *(.text*.{name})\n"));
        }
        text.push_str("  }\n}\nINSERT BEFORE .text;\n");
        text
    }
}

/// A name whatever its hash: `_ZN…17h*E`.
fn pattern(name: &str) -> String {
    const HASH: usize = 16;
    let stem = name.strip_suffix('E').and_then(|rest| rest.get(..rest.len().checked_sub(HASH)?));
    match stem {
        Some(stem) if stem.ends_with("17h") => format!("{stem}*E"),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use super::{Script, functions, pattern};

    #[test]
    fn functions_of_the_program_are_read_where_it_runs_them() {
        let text = "version: 1\nob=(1) /lib/libc.so.6\nfn=(1) malloc\n+3 4\ncob=(2) /bin/mcpm\n\
                    cfn=(2) _ZN4mcpm4main17hef0123456789abcdE\ncalls=1 2\nob=(2)\nfn=(2)\n1 2\n\
                    fn=(3) sqlite3VdbeExec'2\nfn=(4) (below main)\n";
        let names: Vec<String> =
            functions(text, "/mcpm").iter().map(|name| pattern(name)).collect();
        assert_eq!(names, ["_ZN4mcpm4main17h*E", "sqlite3VdbeExec"]);
    }

    #[test]
    fn generic_functions_of_which_few_ran_are_named_with_their_hash_first() {
        let name = |what: &str, hash: u32| format!("_ZN{what}17h{hash:016x}E");
        let sizes = HashMap::from([
            (name("4main", 1), 100),
            (name("4grow", 1), 1000),
            (name("4grow", 2), 9000),
        ]);
        let ran = BTreeSet::from([name("4main", 1), name("4grow", 1)]);
        let text = Script::of(&ran, &sizes).text();
        let order = ["_ZN4main17h*E", &name("4grow", 1), "_ZN4grow17h*E"];
        let found: Vec<_> =
            order.iter().map(|name| text.find(&format!("(.text*.{name})"))).collect();
        assert!(found.is_sorted() && found.iter().all(Option::is_some), "{text}");
        assert!(!text.contains(&name("4grow", 2)));
    }
}
