//! `cargo xtask dist`: the programs as they are to be given to others, in `target/dist`.
//!
//! They are built twice. The first ones count what they run while they are played with (`scene`); the compiler lays out the
//! second ones by that: what is common is inlined and stands in line, what is rare is built for size and stands apart. What a
//! start runs is laid side by side, beside what `link/order.ld` names: of functions in the libraries of C and of Rust nothing
//! is counted here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::scene::{self, Stage, Watcher};
use crate::step::{self, Failed};
use crate::tree::Tree;

/// Which package has which program.
const PROGRAMS: [(&str, &str); 2] = [("relay", "mcpm-relay"), ("agent", "mcpm")];
/// Nothing is optimised across crates where it is only counted what runs.
const COUNTING: &str = "-Clto=off -Clinker-plugin-lto=no";
/// So that a linker script finds functions by their names alone.
const BY_NAME: &str = "-Cllvm-args=-profile-guided-section-prefix=false";

/// Returns where the programs are that were made last.
pub(crate) fn made(tree: &Tree) -> Result<PathBuf, Failed> {
    let folder = folder(tree);
    match PROGRAMS.iter().all(|(_, program)| folder.join(program).is_file()) {
        true => Ok(folder),
        false => Err(Failed("no programs in target/dist: run `cargo xtask dist` first".to_owned())),
    }
}

fn folder(tree: &Tree) -> PathBuf {
    tree.target.join("dist")
}

/// Makes both programs.
pub(crate) fn run(tree: &Tree) -> Result<(), Failed> {
    let profdata = profdata(tree)?;
    let work = tree.target.join("xtask").join("dist");
    drop(fs::remove_dir_all(&work));
    let builds = folder(tree).join("build");
    let counting = Builds {
        tree,
        target: builds.join("counting"),
        flags: format!("-Cprofile-generate={} {COUNTING}", work.join("rest").display()),
        order: None,
    };
    for (_, program) in PROGRAMS {
        counting.build(program, "that counts")?;
    }
    step::run(tree, "upstream", tree.cargo(&["build", "-p", "mcpm-upstream", "--bins"]))?;
    let (start, load) = (work.join("start"), work.join("load"));
    let bins = || counting.target.join("release");
    println!("playing");
    scene::play(&Stage::prepare(tree, bins(), &start, Watcher::Program)?)?;
    scene::load::play(&Stage::prepare(tree, bins(), &load, Watcher::Program)?)?;
    let started = merge(tree, &profdata, &[&start], &work.join("start.profdata"))?;
    let all = merge(tree, &profdata, &[&start, &load], &work.join("all.profdata"))?;
    let names = names(tree, &profdata, &started)?;
    let made = Builds {
        tree,
        target: builds.join("made"),
        flags: format!("-Cprofile-use={} {BY_NAME}", all.display()),
        order: Some(&work),
    };
    for (package, program) in PROGRAMS {
        let recorded = tree.root.join(package).join("link/order.ld");
        let text = fs::read_to_string(&recorded)
            .map_err(|error| Failed::new(format!("read {}", recorded.display()), error))?;
        let script = work.join(format!("{program}.ld"));
        write(&script, &with_names(&text, &names))?;
        made.build(program, "as it is given to others")?;
        let (from, to) = (made.target.join("release").join(program), folder(tree).join(program));
        fs::copy(&from, &to)
            .map_err(|error| Failed::new(format!("write {}", to.display()), error))?;
        println!("{}", to.display());
    }
    Ok(())
}

/// How programs are built.
struct Builds<'a> {
    tree: &'a Tree,
    /// A folder of their own: flags for one kind would have the other built anew.
    target: PathBuf,
    flags: String,
    /// Where the scripts for the linker are, each by its program.
    order: Option<&'a Path>,
}

impl Builds<'_> {
    fn build(&self, program: &str, what: &str) -> Result<(), Failed> {
        let build = ["build", "--release", "--locked", "-p", program, "--bin", program];
        let mut cargo = self.tree.cargo(&build);
        cargo.env("CARGO_TARGET_DIR", &self.target).env("RUSTFLAGS", &self.flags);
        cargo.env_remove("CARGO_ENCODED_RUSTFLAGS");
        if let Some(folder) = self.order {
            cargo.env("MCPM_LINK_ORDER", folder.join(format!("{program}.ld")));
        }
        step::run(self.tree, &format!("{program} {what}"), cargo)
    }
}

/// The tool of the toolchain that reads what programs counted.
fn profdata(tree: &Tree) -> Result<PathBuf, Failed> {
    let told = |args: &[&str]| {
        let output = tree.command("rustc", args).output();
        let output = output.map_err(|error| Failed::new("run rustc", error))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let sysroot = told(&["--print", "sysroot"])?;
    let version = told(&["-vV"])?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
    let bin = Path::new(sysroot.trim()).join("lib/rustlib").join(host).join("bin");
    let tool = bin.join(format!("llvm-profdata{}", std::env::consts::EXE_SUFFIX));
    if tool.is_file() {
        return Ok(tool);
    }
    Err(Failed("dist: llvm-profdata not found: run `rustup component add llvm-tools`".to_owned()))
}

/// Makes one file of all that was counted in these folders.
fn merge(tree: &Tree, profdata: &Path, from: &[&Path], to: &Path) -> Result<PathBuf, Failed> {
    let mut merge = tree.command(profdata, &["merge", "--output"]);
    merge.arg(to);
    for folder in from {
        let files = fs::read_dir(folder)
            .map_err(|error| Failed::new(format!("read {}", folder.display()), error))?;
        let files = files.flatten().map(|file| file.path());
        merge.args(files.filter(|path| path.extension().is_some_and(|it| it == "profraw")));
    }
    let name = to.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    step::run(tree, &format!("profile {name}"), merge)?;
    Ok(to.to_owned())
}

/// The functions that ran.
fn names(tree: &Tree, profdata: &Path, profile: &Path) -> Result<Vec<String>, Failed> {
    let mut show: Command = tree.command(profdata, &["show", "--all-functions"]);
    let output = show.arg(profile).output();
    let output = output.map_err(|error| Failed::new("run llvm-profdata", error))?;
    Ok(ran(&String::from_utf8_lossy(&output.stdout)))
}

/// Reads the functions that ran out of what llvm-profdata shows: a name that ends in a colon, further in its counts.
fn ran(shown: &str) -> Vec<String> {
    let mut name = "";
    let mut found = Vec::new();
    for line in shown.lines() {
        let inner = line.trim();
        if let Some(function) = inner.strip_suffix(':') {
            // What is known to one file alone has that before its name.
            name = function.rsplit([':', ';']).next().unwrap_or(function);
        } else if let Some(count) = inner.strip_prefix("Function count: ")
            && count != "0"
        {
            found.push(name.to_owned());
        }
    }
    found.sort();
    found.dedup();
    found
}

/// Adds functions to a script of `cargo xtask order`, behind those it has.
fn with_names(script: &str, names: &[String]) -> String {
    let Some((head, tail)) = script.split_once("  }\n}\n") else { return script.to_owned() };
    let lines: String = names.iter().map(|name| format!("    *(.text.{name})\n")).collect();
    format!("{head}{lines}  }}\n}}\n{tail}")
}

fn write(path: &Path, text: &str) -> Result<(), Failed> {
    fs::write(path, text).map_err(|error| Failed::new(format!("write {}", path.display()), error))
}

#[cfg(test)]
mod tests {
    use super::{ran, with_names};

    #[test]
    fn functions_that_ran_are_laid_behind_those_of_the_record() {
        let shown = "Counters:\n  _ZN4mcpm4main17h0123456789abcdefE:\n    Hash: 0x01\n    Counters: 2\n\
                     \x20   Function count: 1\n  one.rs:_ZN4mcpm3one17h0123456789abcdefE:\n    Hash: 0x02\n\
                     \x20   Function count: 0\n  a.1;_ZN4mcpm3two17h0123456789abcdefE:\n    Hash: 0x03\n\
                     \x20   Function count: 7\nInstrumentation level: IR\n";
        let names = ran(shown);
        assert_eq!(
            names,
            ["_ZN4mcpm3two17h0123456789abcdefE", "_ZN4mcpm4main17h0123456789abcdefE"]
        );
        let script = "SECTIONS\n{\n  .text.order :\n  {\n    *(.text*.malloc)\n  }\n}\nINSERT BEFORE .text;\n";
        let text = with_names(script, &names[..1]);
        assert_eq!(
            text,
            "SECTIONS\n{\n  .text.order :\n  {\n    *(.text*.malloc)\n    \
             *(.text._ZN4mcpm3two17h0123456789abcdefE)\n  }\n}\nINSERT BEFORE .text;\n"
        );
    }
}
