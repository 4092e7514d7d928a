//! `cargo xtask fuzz`: each fuzz target for a bounded time, on a stable toolchain.
//!
//! The layout is cargo-fuzz's, so `cargo fuzz run TARGET` works too where it and a nightly toolchain are installed. The
//! flags below are what it passes with `--sanitizer none`: coverage feedback without the address sanitizer, which the
//! workspace (it forbids unsafe code) can do without.

use std::fs;
use std::process::Command;

use crate::step::{self, Failed};
use crate::tree::Tree;

const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module -Cdebug-assertions -Ccodegen-units=1 \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Builds the targets and runs each, or the one that is named.
pub(crate) fn run(tree: &Tree, args: &[&str]) -> Result<(), Failed> {
    let (seconds, only) = match args {
        [] => (30, None),
        ["--seconds", count] => (parse(count)?, None),
        ["--seconds", count, target] => (parse(count)?, Some(*target)),
        [target] => (30, Some(*target)),
        _ => return Err(Failed("usage: cargo xtask fuzz [--seconds N] [TARGET]".to_owned())),
    };
    let targets = targets(tree)?;
    if let Some(target) = only.filter(|target| !targets.iter().any(|known| known == target)) {
        return Err(Failed(format!(
            "no fuzz target `{target}`; there are: {}",
            targets.join(", ")
        )));
    }
    let host = host(tree)?;
    let build = ["build", "--manifest-path", "fuzz/Cargo.toml", "--release", "--target", &host];
    let mut build = tree.cargo(&build);
    build.env("RUSTFLAGS", COVERAGE).env("CARGO_TARGET_DIR", tree.target.join("fuzz"));
    step::run(tree, "fuzz build", build)?;
    for target in targets.iter().filter(|target| only.is_none_or(|only| only == *target)) {
        step::run(tree, &format!("fuzz {target}"), one(tree, &host, target, seconds)?)?;
    }
    Ok(())
}

/// A check that the targets still build, without the instrumentation; in the workspace's own target
/// folder, because most of what they depend on is there.
pub(crate) fn check(tree: &Tree) -> Command {
    let mut check = tree.cargo(&["check", "--manifest-path", "fuzz/Cargo.toml"]);
    check.env("CARGO_TARGET_DIR", &tree.target);
    check
}

fn parse(count: &str) -> Result<u32, Failed> {
    count.parse().map_err(|error| Failed::new(format!("--seconds {count}"), error))
}

/// The targets are the files in `fuzz/fuzz_targets`.
fn targets(tree: &Tree) -> Result<Vec<String>, Failed> {
    let listed = fs::read_dir(tree.root.join("fuzz/fuzz_targets"))
        .map_err(|error| Failed::new("list fuzz/fuzz_targets", error))?;
    let mut names: Vec<String> = listed
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".rs").map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}

fn one(tree: &Tree, host: &str, target: &str, seconds: u32) -> Result<Command, Failed> {
    let corpus = tree.root.join("fuzz/corpus").join(target);
    let crashes = tree.root.join("fuzz/artifacts").join(target);
    for folder in [&corpus, &crashes] {
        fs::create_dir_all(folder).map_err(|error| Failed::new("make the corpus", error))?;
    }
    let program = tree.target.join("fuzz").join(host).join("release").join(target);
    let mut command = tree.command(program, &["-timeout=10", "-rss_limit_mb=2048"]);
    command.arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-artifact_prefix={}/", crashes.display()));
    command.arg(corpus);
    let seeds = tree.root.join("fuzz/seeds").join(target);
    if seeds.exists() {
        command.arg(seeds);
    }
    Ok(command)
}

/// Naming the host as target keeps the flags away from build scripts.
fn host(tree: &Tree) -> Result<String, Failed> {
    let output = tree
        .command("rustc", &["-vV"])
        .output()
        .map_err(|error| Failed::new("ask rustc for the host", error))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| Failed("rustc -vV names no host".to_owned()))
}
