use serde_json::json;

use super::*;
use crate::model::Transport;
use crate::registry::fill::Answers;

fn value() -> Value {
    json!({
        "manifest_version": "0.3", "name": "notes", "display_name": "Notes", "version": "1.0.0",
        "description": "Keeps notes.", "author": {"name": "Me"},
        "server": {"type": "node", "entry_point": "server/index.js", "mcp_config": {
            "command": "node",
            "args": ["${__dirname}/server/index.js", "--level=${user_config.level}", "${user_config.dirs}"],
            "env": {"API_KEY": "${user_config.api_key}", "HOME_DIR": "${HOME}/x"}}},
        "user_config": {
            "api_key": {"type": "string", "title": "Key", "sensitive": true, "required": true},
            "level": {"type": "string", "default": "info"},
            "dirs": {"type": "directory", "multiple": true, "default": ["${DOCUMENTS}", "/data"]}}
    })
}

fn filled(value: &Value, pairs: &[(&str, &str)]) -> (String, Vec<String>) {
    let manifest = manifest(value, Path::new("/b"), Some(Path::new("/home/me"))).unwrap();
    let answers: Answers = pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    let filled = manifest.methods[0].fill(&answers).unwrap();
    let Transport::Stdio { command, args, env, .. } = filled.transport else { panic!("not stdio") };
    let line = std::iter::once(command).chain(args).collect::<Vec<_>>().join(" ");
    (line, env.iter().map(|(name, value)| format!("{name}={value}")).collect())
}

#[cfg(unix)]
#[test]
fn places_answers_and_lists_are_put_where_they_belong() {
    let (line, env) = filled(&value(), &[("api_key", "k")]);
    assert_eq!(line, "node /b/server/index.js --level=info /home/me/Documents /data");
    assert_eq!(env, ["API_KEY=k", "HOME_DIR=/home/me/x"]);
    let (line, _) = filled(&value(), &[("api_key", "k"), ("dirs", "/x,/y"), ("level", "debug")]);
    assert_eq!(line, "node /b/server/index.js --level=debug /x /y");
}

#[test]
fn required_inputs_are_asked_and_sensitive_ones_are_secret() {
    let manifest = manifest(&value(), Path::new("/b"), None).unwrap();
    let missing = manifest.methods[0].missing(&Answers::new());
    // Without a home, what lies in it must be said.
    assert!(missing.iter().any(|input| input.name == "api_key" && input.secret));
    assert!(missing.iter().any(|input| input.name == "HOME"));
}

#[test]
fn a_system_has_its_own_command_or_none() {
    let mut value = value();
    let overrides =
        json!({platform(): {"command": "deno", "env": {"X": "1"}}, "other": {"command": "no"}});
    value["server"]["mcp_config"]["platform_overrides"] = overrides;
    let (line, env) = filled(&value, &[("api_key", "k")]);
    assert!(line.starts_with("deno "), "{line}");
    assert!(env.contains(&"X=1".to_owned()));
    value["compatibility"] = json!({"platforms": ["plan9"]});
    assert!(manifest(&value, Path::new("/b"), None).unwrap_err().contains("plan9"));
}

#[cfg(unix)]
#[test]
fn a_manifest_without_a_command_is_started_by_its_type() {
    let line = |kind: &str| {
        let value = json!({"dxt_version": "0.1", "name": "x", "server": {"type": kind, "entry_point": "main"}});
        filled(&value, &[]).0
    };
    assert_eq!(line("node"), "node /b/main");
    assert_eq!(line("python"), "python3 /b/main");
    assert_eq!(line("uv"), "uv run --directory /b main");
    assert_eq!(line("binary"), "/b/main");
    let value = json!({"manifest_version": "0.3", "name": "x", "server": {"type": "node"}});
    assert!(manifest(&value, Path::new("/b"), None).is_err());
    assert!(manifest(&json!({"name": "a web page"}), Path::new("/b"), None).is_err());
}
