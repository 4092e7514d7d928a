//! What `deploy/` holds, checked without the engines that would run it: names of settings, YAML, the
//! templates of the chart, the unit; by Compose and by Helm's library where they can be had. The images themselves are
//! built and run by `cargo xtask images`, with which `cargo xtask test` ends.

mod chart;
mod compose;
mod settings;
mod yaml;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::peers::{peer, programs};
use saphyr_parser::{Event, Parser};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All files below a folder of `deploy/`.
fn files(folder: &str) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![root().join("deploy").join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            // What an operator keeps there is not ours.
            match path.is_dir() {
                true if path.ends_with("secrets") => {}
                true => folders.push(path),
                false => found.push(path),
            }
        }
    }
    found.sort();
    found
}

/// The words of a text that look like variables of the relay.
fn variables(text: &str) -> BTreeSet<&str> {
    let part = |c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    let named = |word: &&str| word.starts_with("MCPM_RELAY_") && word.len() > "MCPM_RELAY_".len();
    text.split(part).filter(named).collect()
}

#[test]
fn every_variable_that_is_named_in_deploy_is_one_of_the_relay() {
    let reference = read(&root().join("docs/environment.md"));
    let known = variables(&reference);
    assert!(known.len() > 40, "{known:?}");
    for path in files("") {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for variable in variables(&text) {
            // A compose file may ask for one of its own, which begins with RELAY_ there.
            assert!(known.contains(variable), "{}: {variable}", path.display());
        }
    }
}

/// Reads YAML to its end, and returns how many documents it holds.
fn documents(name: &str, text: &str) -> usize {
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        match event.unwrap_or_else(|error| panic!("{name}: {error}\n{text}")).0 {
            Event::DocumentStart(_) => documents += 1,
            Event::Nothing => panic!("{name}"),
            _ => {}
        }
    }
    documents
}

#[test]
fn compose_files_and_charts_are_yaml() {
    let is_yaml = |path: &PathBuf| {
        let template = path.components().any(|part| part.as_os_str() == "templates");
        path.extension().is_some_and(|ext| ext == "yaml" || ext == "yml") && !template
    };
    let mut seen = 0;
    for path in files("").into_iter().filter(is_yaml) {
        assert_eq!(documents(&path.display().to_string(), &read(&path)), 1, "{}", path.display());
        seen += 1;
    }
    assert!(seen >= 5, "{seen}");
}

/// One template without its actions: what stands alone on a line is left out, what is part of a line
/// becomes a word.
fn bare(template: &str) -> String {
    let mut text = String::new();
    for line in template.lines() {
        let plain = line.trim();
        if plain.starts_with("{{") && plain.ends_with("}}") && plain.matches("{{").count() == 1 {
            continue;
        }
        let mut rest = line;
        while let Some((before, action)) = rest.split_once("{{") {
            let (_, after) = action.split_once("}}").expect("an action ends on its line");
            // What is quoted already stays so.
            text.push_str(before);
            text.push_str("word");
            rest = after;
        }
        text.push_str(rest);
        text.push('\n');
    }
    text
}

/// The actions of a template, without braces and trimming.
fn actions(template: &str) -> Vec<&str> {
    let inner = template.split("{{").skip(1).filter_map(|rest| rest.split("}}").next());
    inner.map(|action| action.trim_matches('-').trim()).collect()
}

#[test]
fn the_templates_of_the_chart_are_balanced_and_leave_yaml() {
    for path in files("helm/mcpm-relay/templates") {
        let (text, name) = (read(&path), path.display());
        assert_eq!(text.matches("{{").count(), text.matches("}}").count(), "{name}");
        let mut open = 0_i32;
        for action in actions(&text) {
            let word = action.split_whitespace().next().unwrap_or_default();
            match word {
                "if" | "range" | "with" | "define" => open += 1,
                "end" => open -= 1,
                _ => {}
            }
            assert!(open >= 0, "{name}: {action}");
            assert_eq!(
                action.matches('(').count(),
                action.matches(')').count(),
                "{name}: {action}"
            );
        }
        assert_eq!(open, 0, "{name}");
        if path.extension().is_some_and(|ext| ext == "yaml") {
            documents(&name.to_string(), &bare(&text));
        }
    }
}

/// The paths of values that a YAML text of plain nested maps has, such as `image.tag`.
fn values(text: &str) -> BTreeSet<String> {
    let (mut found, mut path) = (BTreeSet::new(), Vec::<(usize, String)>::new());
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let indent = line.len() - line.trim_start().len();
        let Some((key, _)) = line.trim_start().split_once(':') else { continue };
        while path.last().is_some_and(|(at, _)| *at >= indent) {
            path.pop();
        }
        path.push((indent, key.to_owned()));
        found.insert(path.iter().map(|(_, key)| key.as_str()).collect::<Vec<_>>().join("."));
    }
    found
}

#[test]
fn the_chart_uses_the_values_that_it_has_and_no_others() {
    let values = values(&read(&root().join("deploy/helm/mcpm-relay/values.yaml")));
    let mut used = BTreeSet::new();
    for path in files("helm/mcpm-relay/templates") {
        let text = read(&path);
        for rest in text.split(".Values.").skip(1) {
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '.')).unwrap_or(0);
            let name = rest[..end].trim_end_matches('.').to_owned();
            assert!(values.contains(&name), "{}: .Values.{name}", path.display());
            used.insert(name);
        }
    }
    for value in values {
        let has = |used: &String| {
            *used == value
                || value.starts_with(&format!("{used}."))
                || used.starts_with(&format!("{value}."))
        };
        assert!(used.iter().any(has), "{value} is used nowhere");
    }
}

#[test]
fn images_run_as_nobody_check_their_health_and_are_made_of_stages_that_exist() {
    for file in ["relay", "agent"] {
        let text = read(&root().join(format!("deploy/docker/{file}.Dockerfile")));
        let mut stages = vec!["scratch".to_owned(), "rust:1-alpine".to_owned()];
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["FROM", base, "AS", name] => {
                    let known = base.starts_with("${") || stages.iter().any(|stage| stage == base);
                    assert!(known, "{file}: {base}");
                    stages.push((*name).to_owned());
                }
                ["COPY", from, ..] if from.starts_with("--from=") => {
                    let stage = from.trim_start_matches("--from=");
                    assert!(stages.iter().any(|known| known == stage), "{file}: {stage}");
                }
                _ => {}
            }
        }
        assert!(stages.contains(&"prebuilt".to_owned()), "{file}");
        assert!(text.contains("USER 65532:65532"), "{file}");
    }
    let relay = read(&root().join("deploy/docker/relay.Dockerfile"));
    assert!(relay.contains("CMD [\"/usr/local/bin/mcpm-relay\", \"health\"]"));
}

#[cfg(target_os = "linux")]
#[test]
fn systemd_understands_the_unit_and_finds_it_well_shut_off() {
    if !programs(&["systemd-analyze"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let unit = dir.path().join("mcpm-relay.service");
    let text = read(&root().join("deploy/systemd/mcpm-relay.service"));
    // The program is not installed here.
    let relay = harness::process::built("mcpm-relay");
    std::fs::write(&unit, text.replace("/usr/bin/mcpm-relay", relay.to_str().unwrap())).unwrap();
    let verified =
        Command::new("systemd-analyze").arg("verify").arg("--man=no").arg(&unit).output();
    let verified = verified.unwrap();
    let said = String::from_utf8_lossy(&verified.stderr);
    let about = said.lines().filter(|line| line.contains("mcpm-relay.service"));
    let about: Vec<&str> = about.collect();
    assert!(about.is_empty(), "{about:#?}");
    let judged = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=20", "--no-pager"])
        .arg(&unit)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&judged.stdout).into_owned();
    let last = said.lines().last().unwrap_or_default();
    assert!(
        judged.status.success(),
        "exposed: {last}\n{}",
        String::from_utf8_lossy(&judged.stderr)
    );
}

#[cfg(unix)]
#[test]
fn haproxy_understands_its_configuration() {
    let config = root().join("deploy/compose/haproxy.cfg");
    if !programs(&["haproxy"]) {
        return;
    }
    let haproxy = peer("haproxy").expect("asked for before");
    let checked = haproxy.into_std().arg("-c").arg("-f").arg(&config).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}
