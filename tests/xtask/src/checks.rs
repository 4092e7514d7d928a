//! `cargo xtask test`: every check of the workspace, in the order in which they fail fastest.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Instant;

use crate::peers::OF_RELAY;
use crate::step::{self, Failed};
use crate::tree::{Tree, has};
use crate::{conformance, fuzz, images, peers};

/// Feature sets that must build: additive features hide a missing `cfg` until somebody turns one off.
const FEATURE_SETS: [(&str, &[&str]); 4] = [
    ("features mcpm none", &["check", "-p", "mcpm", "--no-default-features"]),
    ("features mcpm all", &["check", "-p", "mcpm", "--all-features"]),
    ("features relay none", &["check", "-p", "mcpm-relay", "--no-default-features"]),
    ("features relay all", &["check", "-p", "mcpm-relay", "--all-features"]),
];

/// Installs the peers and runs all checks; stops at the first that fails.
pub(crate) fn run(tree: &Tree) -> Result<(), Failed> {
    let started = Instant::now();
    let peers = peers::install(tree, false)?;
    step::run(tree, "fmt", tree.cargo(&["fmt", "--all", "--check"]))?;
    let strict = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    step::run(tree, "clippy", tree.cargo(&strict))?;
    let mut doc = tree.cargo(&["doc", "--workspace", "--no-deps"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    step::run(tree, "doc", doc)?;
    for (name, args) in FEATURE_SETS {
        step::run(tree, name, tree.cargo(args))?;
    }
    step::run(tree, "fuzz targets", fuzz::check(tree))?;
    // The peer suites start these as processes.
    step::run(
        tree,
        "bins",
        tree.cargo(&["build", "-p", "mcpm", "-p", "mcpm-relay", "-p", "mcpm-upstream", "--bins"]),
    )?;
    let mut tests = tests(tree);
    let skipped = tree.target.join("xtask/skipped.txt");
    fs::remove_file(&skipped).ok();
    tests.env("MCPM_PEERS", peers.join(",")).env("MCPM_SKIPPED", &skipped);
    step::run(tree, "test", tests)?;
    conformance::check(tree)?;
    step::run(tree, "doctest", tree.cargo(&["test", "--workspace", "--doc"]))?;
    // Before the images, so that it is said also where those fail.
    for line in lines(&fs::read_to_string(&skipped).unwrap_or_default(), &peers) {
        println!("skipped: {line}");
    }
    if let Some(why) = images::check(tree)? {
        println!("skipped: images of deploy/docker: {why}");
    }
    println!("every check passed in {:.0}s", started.elapsed().as_secs_f32());
    Ok(())
}

/// What tests have skipped, from the words that they noted; and what those skip that note nothing.
fn lines(noted: &str, peers: &[&str]) -> Vec<String> {
    let mut counts = BTreeMap::<&str, usize>::new();
    for why in noted.lines() {
        *counts.entry(why).or_default() += 1;
    }
    let noted = counts.into_iter().map(|(why, times)| format!("{why}: {times} ×"));
    let missing = OF_RELAY.into_iter().filter(|name| !peers.contains(name));
    noted.chain(missing.map(|name| format!("no {name}: suites of the relay"))).collect()
}

/// The test runner that is there: nextest runs each test in a process of its own, which is closer to the truth.
fn tests(tree: &Tree) -> Command {
    if has("cargo-nextest") {
        tree.cargo(&["nextest", "run", "--workspace", "--no-fail-fast"])
    } else {
        tree.cargo(&["test", "--workspace", "--no-fail-fast", "--lib", "--bins", "--tests"])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_skipped_is_told_once_with_how_often() {
        let noted = "no promtool\nno helm\nno helm\n";
        let told = lines(noted, &["node", "pebble"]);
        assert_eq!(
            told,
            ["no helm: 2 ×", "no promtool: 1 ×", "no postgresql: suites of the relay"]
        );
        assert!(lines("", &OF_RELAY).is_empty());
    }
}
