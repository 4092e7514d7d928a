use serde_json::json;

use super::*;
use crate::model::Transport;
use crate::registry::fill::{Answers, FillError};

fn manifest_of(arguments: Value, installation: Value) -> Manifest {
    let value = json!({
        "name": "x", "display_name": "X", "description": "Does x.",
        "arguments": arguments, "installations": { "only": installation },
    });
    manifest("x", &value, Origin::Catalogue).unwrap()
}

fn answers(pairs: &[(&str, &str)]) -> Answers {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn stdio(manifest: &Manifest, pairs: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
    let filled = manifest.methods[0].fill(&answers(pairs)).unwrap();
    let Transport::Stdio { args, env, .. } = filled.transport else { panic!("not stdio") };
    (args, env.iter().map(|(name, value)| format!("{name}={value}")).collect())
}

/// Defect 29 of the Python `mcpm`.
#[test]
fn defect_29_no_placeholder_is_kept_literally_or_substituted_by_half() {
    let manifest = manifest_of(
        json!({"USER": {"description": "u", "required": true}, "PASS": {"description": "p", "required": true},
               "DB": {"description": "d", "required": false}}),
        json!({"type": "npm", "command": "npx", "args": ["-y", "pg", "pg://${USER}:${PASS}@h/${USER}", "--db", "${DB}"],
               "env": {"LOGIN": "${USER}:${PASS}", "TOKEN": "${UNDECLARED}"}}),
    );
    let method = &manifest.methods[0];
    let Err(FillError::Missing(missing)) = method.fill(&answers(&[("USER", "u")])) else {
        panic!("filled by half")
    };
    assert_eq!(
        missing.iter().map(|input| input.name.as_str()).collect::<Vec<_>>(),
        ["PASS", "UNDECLARED"]
    );
    let all = [("USER", "u"), ("PASS", "p"), ("UNDECLARED", "t")];
    let (args, env) = stdio(&manifest, &all);
    assert_eq!(args, ["-y", "pg", "pg://u:p@h/u"]);
    assert_eq!(env, ["LOGIN=u:p", "TOKEN=t"]);
}

#[test]
fn defect_29_the_url_is_substituted() {
    let manifest = manifest_of(
        json!({"TENANT": {"description": "t", "required": true}, "API_KEY": {"description": "k", "required": true}}),
        json!({"type": "http", "url": "https://${TENANT}.example/mcp", "headers": {"X-Key": "${API_KEY}"}}),
    );
    let pairs = answers(&[("TENANT", "acme"), ("API_KEY", "k")]);
    let filled = manifest.methods[0].fill(&pairs).unwrap();
    let Transport::Remote { url, headers } = filled.transport else { panic!("not remote") };
    assert_eq!(url, "https://acme.example/mcp");
    assert_eq!(headers.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>(), ["X-Key=k"]);
}

#[test]
fn defect_29_required_arguments_that_no_text_names_are_asked_and_reach_the_server() {
    let arguments =
        json!({"API_KEY": {"description": "k", "required": true, "example": "sk-example"}});
    let bare = json!({"type": "uvx", "command": "uvx", "args": ["notes"]});
    let manifest = manifest_of(arguments.clone(), bare);
    assert_eq!(manifest.methods[0].missing(&Answers::new())[0].name, "API_KEY");
    assert_eq!(stdio(&manifest, &[("API_KEY", "k")]).1, ["API_KEY=k"]);

    let docker =
        json!({"type": "docker", "command": "docker", "args": ["run", "-i", "--rm", "img"]});
    let (args, env) = stdio(&manifest_of(arguments, docker), &[("API_KEY", "k")]);
    assert_eq!(args, ["run", "-e", "API_KEY", "-i", "--rm", "img"]);
    assert_eq!(env, ["API_KEY=k"]);

    let nowhere = json!({"type": "uvx", "command": "uvx", "args": ["notes"]});
    let manifest = manifest_of(json!({"path": {"description": "p", "required": true}}), nowhere);
    assert!(manifest.methods[0].notes[0].contains("`path`"));
}

#[test]
fn defect_29_examples_are_shown_and_never_stored() {
    let arguments = json!({
        "API_KEY": {"description": "k", "required": true, "example": "sk-example"},
        "REGION": {"description": "r", "required": false, "example": "eu"},
        "LEVEL": {"description": "l", "required": false, "example": "debug"},
    });
    let installation = json!({"type": "npm", "command": "npx", "args": ["x"],
        "env": {"API_KEY": "your-key-here", "REGION": "eu", "LEVEL": "info", "FIXED": "1"}});
    let manifest = manifest_of(arguments, installation);
    assert!(manifest.methods[0].fill(&Answers::new()).is_err());
    assert_eq!(stdio(&manifest, &[("API_KEY", "k")]).1, ["API_KEY=k", "LEVEL=info", "FIXED=1"]);
    let (_, env) = stdio(&manifest, &[("API_KEY", "k"), ("LEVEL", "warn")]);
    assert!(env.contains(&"LEVEL=warn".to_owned()));
}

#[test]
fn inputs_without_dollar_signs_are_found_by_the_word_or_the_option_in_front() {
    let arguments = json!({
        "TZ": {"description": "t", "required": true},
        "api_key": {"description": "k", "required": true},
    });
    let installation = json!({"type": "docker", "command": "docker",
        "args": ["run", "-e", "TZ=Europe/Berlin", "img", "--api-key", "YOUR_KEY", "--verbose", "x"]});
    let (args, _) =
        stdio(&manifest_of(arguments, installation), &[("TZ", "UTC"), ("api_key", "k")]);
    assert_eq!(args, ["run", "-e", "TZ=UTC", "img", "--api-key", "k", "--verbose", "x"]);
}

#[test]
fn an_option_goes_with_its_unanswered_value_and_a_switch_stays() {
    let arguments = json!({"A": {"description": "a", "required": false}, "B": {"description": "b", "required": false}});
    let installation = json!({"type": "docker", "command": "docker",
        "args": ["run", "-i", "--rm", "${A}", "-e", "B=${B}", "--tz=${B}", "-y", "${A}"]});
    let manifest = manifest_of(arguments, installation);
    assert_eq!(stdio(&manifest, &[]).0, ["run", "-i", "--rm", "-y"]);
}

/// Defect 30 of the Python `mcpm`.
#[test]
fn defect_30_what_search_shows_is_what_install_takes() {
    let value = json!({"name": "@inner/name", "display_name": "N", "description": "d",
        "installations": {"a": {"type": "cli", "command": "x", "args": []}}});
    let manifest = manifest("file-stem", &value, Origin::Catalogue).unwrap();
    assert_eq!(manifest.name, "file-stem");
    assert!(manifest.matches("inner/name"));
}

#[test]
fn the_preferred_method_is_the_first_recommended_one_else_the_first() {
    let value = |second: bool| {
        json!({"installations": {
            "a": {"type": "npm", "command": "npx", "args": []},
            "b": {"type": "uvx", "command": "uvx", "args": [], "recommended": second},
            "c": {"type": "http"},
        }})
    };
    let preferred = |second| {
        let manifest = manifest("x", &value(second), Origin::Catalogue).unwrap();
        assert_eq!(manifest.unusable[0].id, "c");
        manifest.preferred().unwrap().id.clone()
    };
    assert_eq!(preferred(false), "a");
    assert_eq!(preferred(true), "b");
}

#[test]
fn a_manifest_that_makes_no_sense_hides_no_other() {
    let servers = json!({"bad": 5, "worse": {"installations": []}, "good": {"installations": {}}});
    let parsed = parse(servers.as_object().unwrap(), Origin::Catalogue);
    assert_eq!(parsed.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["good"]);
}
