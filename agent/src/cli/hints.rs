//! Whatever tells people to type a command names one that exists: hints and help texts in the sources, and the
//! documents.

use std::path::{Path, PathBuf};

use clap::CommandFactory as _;

use super::Cli;

/// Commands of mcpm 1 that documents speak of, and that are answered in words only.
const GONE: &[&str] = &["target"];

/// Request 71 of the users of the Python `mcpm`: a hint named an option that did not exist.
#[test]
fn every_command_that_is_named_in_a_hint_or_a_document_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut cli = Cli::command();
    cli.build();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for path in texts(root) {
        let text = std::fs::read_to_string(&path).unwrap();
        for line in commands_of(&text) {
            seen += 1;
            if let Err(word) = check(&cli, line) {
                wrong.push(format!("{}: `mcpm {line}`: {word}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 100, "only {seen} were found");
}

/// The sources of this crate, and all documents.
fn texts(root: &Path) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![root.join("agent/src"), root.join("docs")]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let ending = path.extension().and_then(|ending| ending.to_str());
            match ending {
                _ if path.is_dir() => folders.push(path),
                Some("rs" | "md") if !path.ends_with("cli/hints.rs") => found.push(path),
                _ => {}
            }
        }
    }
    found.push(root.join("README.md"));
    found
}

/// What stands behind `mcpm` in inline code, on one line.
fn commands_of(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| {
        line.match_indices("`mcpm ").filter_map(move |(at, start)| {
            let rest = &line[at + start.len()..];
            Some(&rest[..rest.find('`')?])
        })
    })
}

/// Goes down the tree of commands; tells the first word that is not in it.
fn check(cli: &clap::Command, line: &str) -> Result<(), String> {
    let mut command = cli;
    for word in line.split_whitespace() {
        let word = word.trim_matches(['[', ']', '(', ')', ',', '.', '\'', '"']);
        // What follows is for another program.
        if matches!(word, "--" | "|") {
            return Ok(());
        }
        if word.is_empty() || word == "…" {
            continue;
        }
        if word.starts_with('-') {
            for option in word.split('|') {
                has_option(cli, command, option)?;
            }
            continue;
        }
        if command.has_subcommands() {
            let mut names = word.split('|');
            // In place of a name: `COMMAND`, `{command}`.
            if names.all(|name| name.starts_with('{') || is_placeholder(name)) {
                return Ok(());
            }
            let mut next = None;
            for name in word.split('|') {
                match command.find_subcommand(name) {
                    Some(found) => next = Some(found),
                    None if GONE.contains(&name) => return Ok(()),
                    None if is_placeholder(name) => {}
                    None => return Err(format!("there is no `{name}`")),
                }
            }
            command = next.unwrap_or(command);
        }
    }
    Ok(())
}

fn is_placeholder(word: &str) -> bool {
    word.chars().all(|char| char.is_ascii_uppercase() || "_-…<>".contains(char))
}

fn has_option(cli: &clap::Command, command: &clap::Command, option: &str) -> Result<(), String> {
    let name = option.split('=').next().unwrap_or(option);
    let mut options =
        command.get_arguments().chain(cli.get_arguments().filter(|it| it.is_global_set()));
    let found = match name.strip_prefix("--") {
        Some(long) => options.any(|it| {
            let aliases = it.get_all_aliases().unwrap_or_default();
            it.get_long() == Some(long) || aliases.contains(&long)
        }),
        None => name.trim_start_matches('-').chars().all(|short| {
            let aliases = |it: &clap::Arg| it.get_all_short_aliases().unwrap_or_default();
            let options = command.get_arguments();
            let mut options = options.chain(cli.get_arguments());
            options.any(|it| it.get_short() == Some(short) || aliases(it).contains(&short))
        }),
    };
    if found { Ok(()) } else { Err(format!("there is no `{name}`")) }
}
