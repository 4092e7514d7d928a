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
use crate::tree::{Tree, has};

/// Which package has which program.
const PROGRAMS: [(&str, &str); 2] = [("relay", "mcpm-relay"), ("agent", "mcpm")];
/// Nothing is optimised across crates where it is only counted what runs.
const COUNTING: [&str; 2] = ["-Clto=off", "-Clinker-plugin-lto=no"];
/// What stands between flags: they may hold spaces.
const SEPARATOR: &str = "\u{1f}";
/// How much more than it counts what a start runs counts, beside what is common. It is little of it all, but what shares a
/// function with what is common shall not pass for what never runs.
const OF_START: u32 = 100;
/// How much everything counts more than it does: a compiler that divides counts among the parts of a function drops fractions.
const OF_ALL: u32 = 100;
/// So that a linker script finds functions by their names alone.
const BY_NAME: &str = "-Cllvm-args=-profile-guided-section-prefix=false";
/// What never ran in a function stands apart from the rest of it, in `.text.split.NAME`.
/// Compilers do that for ELF.
const APART: &[&str] = if cfg!(target_os = "linux") {
    &["-Cllvm-args=-enable-split-machine-functions", "-Cllvm-args=-mfs-psi-cutoff=0"]
} else {
    &[]
};

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
    let lacks = |what: &str| Err(Failed(format!("dist: {what}")));
    if !cfg!(unix) {
        return lacks("programs are asked to end by signals: not on this system");
    }
    if !has("curl") {
        return lacks("curl not found: install it, it is the visitor by TLS");
    }
    let profdata = profdata(tree)?;
    let work = tree.target.join("xtask").join("dist");
    clear(&work)?;
    let (start, load) = play(tree, &work)?;
    for (package, program) in PROGRAMS {
        let started = merge(tree, &profdata, (&[(&start, 1)], Some(program)), &work)?;
        let names = names(tree, &profdata, &started)?;
        write_script(&tree.root.join(package), &names, &work.join(format!("{program}.ld")))?;
    }
    let weighed: [(&Path, u32); 2] = [(&start, OF_ALL * OF_START), (&load, OF_ALL)];
    let all = merge(tree, &profdata, (&weighed, None), &work)?;
    make(tree, &all, &work)
}

/// Removes a folder, so that nothing of an earlier run is in this one.
fn clear(folder: &Path) -> Result<(), Failed> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failed::new(format!("remove {}", folder.display()), error))
        }
        _ => Ok(()),
    }
}

/// Builds programs that count what they run, and plays with them; returns where they wrote it, of what all starts run and of
/// what is common.
fn play(tree: &Tree, work: &Path) -> Result<(PathBuf, PathBuf), Failed> {
    let rest = format!("-Cprofile-generate={}", work.join("rest").display());
    let counting = Builds {
        tree,
        target: folder(tree).join("build/counting"),
        flags: [&[&*rest], &COUNTING[..]].concat().join(SEPARATOR),
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
    Ok((start, load))
}

/// Builds the programs by a profile, and puts them where they are looked for.
fn make(tree: &Tree, profile: &Path, work: &Path) -> Result<(), Failed> {
    // Cargo sees no change of the profile, which is in the same place as the last.
    clear(&folder(tree).join("build/made"))?;
    let by_profile = format!("-Cprofile-use={}", profile.display());
    let made = Builds {
        tree,
        target: folder(tree).join("build/made"),
        flags: [&[&*by_profile, BY_NAME], APART].concat().join(SEPARATOR),
        order: Some(work),
    };
    for (_, program) in PROGRAMS {
        made.build(program, "laid out by that")?;
    }
    // Only now: the two belong together.
    for (_, program) in PROGRAMS {
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
        cargo.env("CARGO_TARGET_DIR", &self.target).env("CARGO_ENCODED_RUSTFLAGS", &self.flags);
        if let Some(folder) = self.order {
            cargo.env("MCPM_LINK_ORDER", folder.join(format!("{program}.ld")));
        }
        step::run(self.tree, &format!("{program} {what}"), cargo)
    }
}

/// The tool of the toolchain that reads what programs counted.
fn profdata(tree: &Tree) -> Result<PathBuf, Failed> {
    let sysroot = told(tree.command("rustc", &["--print", "sysroot"]))?;
    let version = told(tree.command("rustc", &["-vV"]))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
    let bin = Path::new(sysroot.trim()).join("lib/rustlib").join(host).join("bin");
    let tool = bin.join("llvm-profdata");
    if tool.is_file() {
        return Ok(tool);
    }
    Err(Failed("dist: llvm-profdata not found: run `rustup component add llvm-tools`".to_owned()))
}

/// Makes one file of what was counted in these folders by a program, or by all, each with its weight.
fn merge(
    tree: &Tree,
    profdata: &Path,
    (from, program): (&[(&Path, u32)], Option<&str>),
    work: &Path,
) -> Result<PathBuf, Failed> {
    let name = program.unwrap_or("all");
    let to = work.join(format!("{name}.profdata"));
    let mut merge = tree.command(profdata, &["merge", "--output"]);
    merge.arg(&to);
    for (folder, weight) in from {
        let files = fs::read_dir(folder)
            .map_err(|error| Failed::new(format!("read {}", folder.display()), error))?;
        let files = files.flatten().map(|file| file.path());
        for file in files.filter(|path| scene::is_record(path, program)) {
            merge.arg(format!("--weighted-input={weight},{}", file.display()));
        }
    }
    step::run(tree, &format!("profile {name}"), merge)?;
    Ok(to)
}

/// The functions that ran.
fn names(tree: &Tree, profdata: &Path, profile: &Path) -> Result<Vec<String>, Failed> {
    let mut show = tree.command(profdata, &["show", "--covered"]);
    show.arg(profile);
    let names = ran(&told(show)?);
    if names.is_empty() {
        return Err(Failed(format!("{}: nothing ran", profile.display())));
    }
    Ok(names)
}

/// Reads the functions that ran out of what llvm-profdata shows: one a line. What is known to one module alone has that
/// before its name.
fn ran(shown: &str) -> Vec<String> {
    let name = |line: &str| line.rsplit([';', ':']).next().unwrap_or(line).trim().to_owned();
    let mut names: Vec<String> = shown.lines().map(name).filter(|name| !name.is_empty()).collect();
    names.sort();
    names.dedup();
    names
}

/// What a command prints.
fn told(mut command: Command) -> Result<String, Failed> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| Failed::new(format!("run {program}"), error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Failed(format!("{program} ended with {}: {}", output.status, said.trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Writes the script of `cargo xtask order` for a package with further functions.
fn write_script(package: &Path, names: &[String], to: &Path) -> Result<(), Failed> {
    let recorded = package.join("link/order.ld");
    let text = fs::read_to_string(&recorded)
        .map_err(|error| Failed::new(format!("read {}", recorded.display()), error))?;
    let text = with_names(&text, names).ok_or_else(|| {
        Failed(format!("{}: not a script of `cargo xtask order`", recorded.display()))
    })?;
    fs::write(to, text).map_err(|error| Failed::new(format!("write {}", to.display()), error))
}

/// Adds functions to a script of `cargo xtask order`, behind those it has of libraries that came compiled. Of all others it is
/// known here which ran, and the script's patterns would match what stands apart of them too.
fn with_names(script: &str, names: &[String]) -> Option<String> {
    let (head, tail) = script.split_once("  }\n}\n")?;
    let head: String = head.lines().filter(|line| !was_compiled_here(line)).map(any_copy).collect();
    let lines: String = names.iter().map(|name| format!("    *(.text.{name})\n")).collect();
    Some(format!("{head}{lines}  }}\n}}\n{tail}"))
}

/// Tells whether a line of a script names a function by its hash, `_ZN…17h0123456789abcdefE`, or by any. Rust's own libraries
/// come with names of another kind.
fn was_compiled_here(line: &str) -> bool {
    let Some((_, hash)) = line.rsplit_once("17h") else { return false };
    let end = hash.find(|c: char| !matches!(c, '0'..='9' | 'a'..='f')).unwrap_or(0);
    hash[end..].starts_with('E') || hash[end..].starts_with("*E")
}

/// Makes a line of a script name a function whatever the number that a linker gave this copy of it: `NAME.1234`.
fn any_copy(line: &str) -> String {
    let name = line.strip_suffix(')').unwrap_or(line);
    let digits = |number: &str| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    match name.rsplit_once('.') {
        Some((name, number)) if digits(number) => format!("{name}.*)\n"),
        _ => format!("{line}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::{ran, with_names};

    #[test]
    fn functions_that_ran_are_laid_behind_those_of_the_record() {
        let shown = "_ZN4mcpm4main17h0123456789abcdefE\nmcpm.d44a-cgu.0;_ZN4mcpm3two17h0123456789abcdefE\n\
                     _ZN4mcpm4main17h0123456789abcdefE\n\n";
        let names = ran(shown);
        assert_eq!(
            names,
            ["_ZN4mcpm3two17h0123456789abcdefE", "_ZN4mcpm4main17h0123456789abcdefE"]
        );
        let script = "SECTIONS\n{\n  .text.order :\n  {\n    *(.text*.read_addr.4711)\n    *(.text*._ZN9hashbrown3map17h*E)\n    \
                      *(.text*._ZN9hashbrown3raw17h0123456789abcdefE.6206)\n    *(.text*._RNvMNtCs17h_3std7now)\n  }\n}\n\
                      INSERT BEFORE .text;\n";
        let text = with_names(script, &names[..1]).unwrap();
        assert_eq!(
            text,
            "SECTIONS\n{\n  .text.order :\n  {\n    *(.text*.read_addr.*)\n    *(.text*._RNvMNtCs17h_3std7now)\n    \
             *(.text._ZN4mcpm3two17h0123456789abcdefE)\n  }\n}\nINSERT BEFORE .text;\n"
        );
    }
}
