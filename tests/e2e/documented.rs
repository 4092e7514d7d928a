//! The commands that the documents show, held against the programs: what is written there can be typed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use harness::process::{built, command};

/// Words of the documents that stand for something that a program would not take as it is.
const STAND_INS: [(&str, &str); 4] = [
    ("SHA256", "0000000000000000000000000000000000000000000000000000000000000000"),
    ("PORT", "8080"),
    ("PORT|URL", "8080"),
    ("CLIENT", "cursor"),
];

fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut found = vec![root.join("README.md"), root.join("deploy/README.md")];
    let docs = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    found.extend(docs.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    found
}

/// What a document tells to type: the lines of its shell blocks, and the commands within its text.
fn shown(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (n, part) in text.split("```").enumerate() {
        let block = n % 2 == 1;
        match part.split_once('\n') {
            Some(("sh", lines)) if block => {
                found.extend(lines.replace("\\\n", " ").lines().map(str::to_owned));
            }
            _ if block => {}
            _ => {
                // Cells of tables have no bare bar.
                let text = part.replace('\n', " ").replace("\\|", "|");
                let spans = text.split('`').skip(1).step_by(2);
                let ours = spans
                    .filter(|span| ["mcpm ", "mcpm-relay "].iter().any(|it| span.starts_with(it)));
                found.extend(ours.map(str::to_owned));
            }
        }
    }
    found
}

/// The words of each command on a line, without what a shell does with their output; `#` begins a comment.
fn commands(line: &str) -> Vec<Vec<String>> {
    let (mut all, mut words, mut word, mut quote) = (Vec::new(), Vec::new(), String::new(), None);
    // A word may be two quotes with nothing between them.
    let mut quoted = false;
    for sign in line.chars().chain(" ;".chars()) {
        match (quote, sign) {
            (Some(open), _) if sign == open => (quote, quoted) = (None, true),
            (Some(_), _) => word.push(sign),
            (None, '\'' | '"') => quote = Some(sign),
            (None, '#') if word.is_empty() => break,
            // One that stands between words separates what may be typed; one within a word is part of it.
            (None, '|' | '&' | ';' | '<' | '>') if word.is_empty() => {
                all.push(std::mem::take(&mut words));
            }
            (None, ' ') if quoted || !word.is_empty() => {
                words.push(std::mem::take(&mut word));
                quoted = false;
            }
            (None, ' ') => {}
            (None, _) => word.push(sign),
        }
    }
    all.push(words);
    all
}

/// One of our programs with its arguments, where the words have it as the command.
fn ours(words: &[String]) -> Option<(&'static str, Vec<&str>)> {
    let at = words.iter().position(|word| word == "mcpm" || word == "mcpm-relay")?;
    // What stands before may only run it: `docker run … mcpm` names the image. `docker build` does not.
    let runs = ["docker", "kubectl"].contains(&words[0].as_str()) && words[1] != "build";
    if at > 0 && !runs {
        return None;
    }
    let program = if words[at] == "mcpm" { "mcpm" } else { "mcpm-relay" };
    let arguments = words[at + 1..].iter().map(String::as_str).take_while(|word| *word != "--");
    let plain = arguments.filter(|word| !word.contains('…'));
    // Brackets say that something may be left out.
    let plain = plain.map(|word| word.trim_matches(['[', ']']));
    let filled = plain.map(|word| {
        STAND_INS.iter().find(|(stand_in, _)| *stand_in == word).map_or(word, |(_, value)| *value)
    });
    Some((program, filled.collect()))
}

#[test]
fn the_commands_in_the_documents_are_ones_that_the_programs_take() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for document in documents() {
        let text = std::fs::read_to_string(&document).unwrap();
        for line in shown(&text) {
            for words in commands(&line) {
                let Some((program, arguments)) = ours(&words) else { continue };
                // A flag whose value was left out, and one that stands for any command, say nothing.
                let open = line.contains("-cert …") || line.ends_with("--token-command");
                if open || arguments.contains(&"COMMAND") {
                    continue;
                }
                seen += 1;
                // With a request for help nothing is done, but everything before it is understood.
                let mut asked: Command = command(built(program)).into_std();
                asked.args(&arguments).arg("--help").stdin(Stdio::null());
                let answer = asked.output().unwrap();
                if !answer.status.success() {
                    let said = String::from_utf8_lossy(&answer.stderr).into_owned();
                    let said = said.lines().next().unwrap_or_default();
                    wrong.push(format!("{}: `{line}`: {said}", document.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(seen > 150, "only {seen} were found");
}

#[test]
fn commands_are_found_as_a_shell_would() {
    let line = "a 'b c' '' | mcpm x --y=\"1 2\" > f && mcpm-relay z   # mcpm not this";
    let found = commands(line);
    assert_eq!(found[0], ["a", "b c", ""]);
    assert_eq!(found[1], ["mcpm", "x", "--y=1 2"]);
    assert_eq!(ours(&found[1]), Some(("mcpm", vec!["x", "--y=1 2"])));
    assert!(found.iter().any(|words| words == &["mcpm-relay", "z"]), "{found:?}");
    assert_eq!(ours(&["install".to_owned(), "mcpm-relay".to_owned()]), None);
    let docker = ["docker", "run", "mcpm", "install", "time"].map(str::to_owned);
    assert_eq!(ours(&docker), Some(("mcpm", vec!["install", "time"])));
}
