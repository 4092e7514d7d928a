//! The habits of the tree that no compiler checks: layers, purity, size, who prints.
//!
//! Each table below is the place to change when the tree changes; each exception says why.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// One crate of the product.
struct Crate {
    folder: &'static str,
    /// Its modules by layer, lowest first: a module uses lower layers only, never a sibling of its own.
    layers: &'static [&'static [&'static str]],
    /// How many layers, from the lowest, are pure: no clock, no I/O, no tasks.
    pure: usize,
}

const CRATES: [Crate; 3] = [
    Crate {
        folder: "shared",
        layers: &[
            &["token", "name", "http1"],
            &["access", "identity"],
            &["assertion", "proto"],
            &["ahead", "scope", "settle", "signal", "telemetry", "workers"],
            &["mux"],
        ],
        pure: 3,
    },
    Crate {
        folder: "relay",
        layers: &[
            &["quota", "host", "headers", "grants"],
            &["error"],
            &["config", "keys", "metrics"],
            &["store", "handover", "observe"],
            &["domains"],
            &["cert"],
            &["admission"],
            &["ports", "tunnel", "operator"],
            &["nodes"],
            &["proxy", "admin"],
            &["http"],
            &["relay"],
            &["cli"],
        ],
        pure: 2,
    },
    Crate {
        folder: "agent",
        layers: &[
            &["model", "hint", "backoff", "naming"],
            &["mcp", "fs", "web", "keyring"],
            &["config", "credentials", "oauth", "catalog", "logs", "usage"],
            &["gateway", "demo", "registry", "clients", "running"],
            &["tunnel"],
            &["app"],
            &["cli"],
        ],
        pure: 1,
    },
];

/// Files of the pure layers that may hold `async`: (path, why).
const IMPURE: &[(&str, &str)] = &[
    ("shared/src/proto/control.rs", "reads and writes frames on any stream, by no clock or socket"),
    ("shared/src/proto/head.rs", "reads and writes heads on any stream, by no clock or socket"),
];

/// Files over 600 lines: (path, why it is not split).
const LONG: &[(&str, &str)] = &[];

/// The only places that print.
const PRINTERS: &[&str] = &["agent/src/cli", "relay/src/cli", "relay/src/main.rs", "tests/"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// All Rust files below `folder`, as paths relative to the root with `/`, and their text.
fn sources(folder: &str) -> Vec<(String, String)> {
    let root = root();
    let mut found = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let relative = path.strip_prefix(&root).unwrap().to_str().unwrap();
                found.push((relative.replace('\\', "/"), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn everything() -> Vec<(String, String)> {
    ["shared/src", "relay/src", "agent/src", "tests"].iter().flat_map(|f| sources(f)).collect()
}

/// The code that ships: without the tests at the end of a file, and without comments.
fn shipped(text: &str) -> String {
    let end = text.find("\n#[cfg(test)]\nmod ").unwrap_or(text.len());
    let lines = text[..end].lines();
    lines.map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The top-level module that a file belongs to, or `None` for the files that wire (`lib.rs`, `main.rs`) and for tests.
fn module_of<'a>(path: &'a str, krate: &str) -> Option<&'a str> {
    let inside = path.strip_prefix(krate)?.strip_prefix("/src/")?;
    let module = inside.split('/').next()?.trim_end_matches(".rs");
    let wires = ["lib", "main"].contains(&module) || path.ends_with("/tests.rs");
    (!wires).then_some(module)
}

/// The top-level modules that `code` names as `crate::x`, also inside `crate::{x::y, z}`.
fn used_modules(code: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => used.extend(heads_of_group(group)),
            None => used.extend(leading_word(rest)),
        }
    }
    used
}

fn leading_word(text: &str) -> Option<String> {
    let text = text.trim_start();
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_owned())
}

/// The first word of each element of a braced group whose opening brace was read.
fn heads_of_group(text: &str) -> Vec<String> {
    let (mut depth, mut start, mut heads) = (0, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                heads.extend(leading_word(&text[start..at]));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    heads
}

#[test]
fn imports_of_every_form_are_seen() {
    let code =
        "use crate::a;\nuse crate::{b::{x, y}, c};\nlet d = crate::d::f($crate::e, mycrate::f);";
    assert_eq!(used_modules(code), ["a", "b", "c", "d"].map(str::to_owned).into());
}

#[test]
fn a_module_uses_lower_layers_only() {
    for Crate { folder, layers, .. } in &CRATES {
        let rank = |module: &str| layers.iter().position(|layer| layer.contains(&module));
        for (path, text) in sources(&format!("{folder}/src")) {
            let Some(own) = module_of(&path, folder) else { continue };
            let own_rank = rank(own).unwrap_or_else(|| panic!("{path}: give `{own}` a layer here"));
            for used in used_modules(&shipped(&text)) {
                // What is no module is an item that lib.rs re-exports; its module has a rank.
                let ok = used == own || rank(&used).is_none_or(|used_rank| used_rank < own_rank);
                assert!(ok, "{path}: `{own}` must not use `{used}`");
            }
        }
    }
}

#[test]
fn the_lowest_layers_are_pure() {
    for Crate { folder, layers, pure } in &CRATES {
        let pure = layers[..*pure].concat();
        for (path, text) in sources(&format!("{folder}/src")) {
            let lowest = module_of(&path, folder).is_some_and(|module| pure.contains(&module));
            if !lowest || IMPURE.iter().any(|(exempt, _)| *exempt == path) {
                continue;
            }
            for banned in ["tokio", "async ", "::now(", "std::fs", "std::env", "std::net::Tcp"] {
                assert!(!shipped(&text).contains(banned), "{path}: `{banned}` in a pure layer");
            }
        }
    }
}

#[test]
fn every_suite_is_part_of_a_test_binary() {
    for (path, _) in sources("tests/e2e") {
        let file = Path::new(&path);
        let name = file.file_stem().unwrap().to_str().unwrap();
        let parent = file.parent().unwrap();
        let owner = match (name, parent == Path::new("tests/e2e")) {
            ("main", true) => continue,
            (_, true) => parent.join("main.rs"),
            (_, false) => parent.with_extension("rs"),
        };
        let text = fs::read_to_string(root().join(&owner)).unwrap();
        assert!(text.contains(&format!("mod {name};")), "{path} is not named in {owner:?}");
    }
}

#[test]
fn a_file_stays_readable_or_says_why_not() {
    for (path, text) in everything() {
        let lines = text.lines().count();
        let excused = LONG.iter().any(|(long, _)| *long == path);
        assert!(lines <= 600 || excused, "{path}: {lines} lines; split it by meaning");
        assert!(lines > 600 || !excused, "{path} is short again: take it out of the list");
    }
}

#[test]
fn only_the_command_lines_print() {
    for (path, text) in everything() {
        if PRINTERS.iter().any(|printer| path.starts_with(printer)) {
            continue;
        }
        for banned in ["println!(", "print!(", "eprintln!(", "eprint!(", "clippy::print_std"] {
            assert!(!shipped(&text).contains(banned), "{path}: `{banned}` outside of cli");
        }
    }
}

#[test]
fn no_file_is_named_after_nothing() {
    for (path, _) in everything() {
        let name = path.rsplit('/').next().unwrap();
        let vague = ["mod.rs", "utils.rs", "util.rs", "helpers.rs", "common.rs", "types.rs"];
        assert!(!vague.contains(&name), "{path}: name the file after what it holds");
    }
}

#[test]
fn every_fuzz_target_is_declared() {
    let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
    for (path, _) in sources("fuzz/fuzz_targets") {
        let inside = path.strip_prefix("fuzz/").unwrap();
        assert!(manifest.contains(inside), "{path} is not in fuzz/Cargo.toml");
    }
}
