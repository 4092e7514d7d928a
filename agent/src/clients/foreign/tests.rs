use serde_json::json;

use super::*;
use crate::model::Transport;

/// Returns the entry of `servers.json` that an entry of a client becomes.
fn imported(entry: Value) -> Value {
    Foreign::read("x", &entry).server.unwrap().to_entry()
}

#[test]
fn each_shape_of_a_local_server_keeps_command_arguments_variables_and_folder() {
    let ours = json!({
        "name": "x", "profile_tags": [], "command": "npx", "args": ["-y", "pkg"],
        "env": {"A": "1"}, "cwd": "/srv",
    });
    for entry in [
        json!({"command": "npx", "args": ["-y", "pkg"], "env": {"A": "1"}, "cwd": "/srv"}),
        json!({"type": "stdio", "command": "npx", "args": ["-y", "pkg"], "env": {"A": "1"}, "cwd": "/srv"}),
        json!({"cmd": "npx", "args": ["-y", "pkg"], "envs": {"A": "1"}, "cwd": "/srv", "type": "stdio"}),
        json!({"type": "local", "command": ["npx", "-y", "pkg"], "environment": {"A": "1"}, "cwd": "/srv"}),
        json!({"command": {"path": "npx", "args": ["-y", "pkg"], "env": {"A": "1"}}, "cwd": "/srv"}),
    ] {
        assert_eq!(imported(entry.clone()).to_string(), ours.to_string(), "{entry}");
    }
}

/// Defect of the Python version: such an entry became a local server without a command.
#[test]
fn each_shape_of_a_remote_server_keeps_url_and_headers() {
    for (entry, headers) in [
        (json!({"url": "https://a.example/mcp", "headers": {"K": "v"}}), json!({"K": "v"})),
        (json!({"type": "http", "url": "https://a.example/mcp"}), json!({})),
        (json!({"serverUrl": "https://a.example/mcp"}), json!({})),
        (json!({"httpUrl": "https://a.example/mcp", "headers": {"K": "v"}}), json!({"K": "v"})),
        (json!({"type": "streamable_http", "uri": "https://a.example/mcp"}), json!({})),
        (json!({"type": "remote", "url": "https://a.example/mcp", "enabled": true}), json!({})),
        (
            json!({"url": "https://a.example/mcp", "requestOptions": {"headers": {"K": "v"}}}),
            json!({"K": "v"}),
        ),
        (
            json!({"url": "https://a.example/mcp", "bearer_token_env_var": "T", "http_headers": {"K": "v"}, "env_http_headers": {"E": "V"}}),
            json!({"K": "v", "E": "${V}", "Authorization": "Bearer ${T}"}),
        ),
    ] {
        let ours = imported(entry);
        assert_eq!(ours["url"], "https://a.example/mcp");
        assert_eq!(ours["headers"], headers);
        assert!(ours.get("command").is_none());
    }
}

#[test]
fn references_become_ours_and_placeholders_of_the_client_are_named() {
    let entry = json!({
        "command": "${workspaceFolder}/x", "args": ["{env:A}", "${env:B}/c", "{\"json\": 1}"],
        "env": {"K": "${input:key}", "P": "${HOME}", "D": "${A:-b}"},
    });
    let foreign = Foreign::read("x", &entry);
    assert_eq!(foreign.unanswered, ["${workspaceFolder}", "${input:key}"]);
    let ours = foreign.server.unwrap().to_entry();
    assert_eq!(ours["args"], json!(["${A}", "${B}/c", "{\"json\": 1}"]));
    assert_eq!(ours["env"], json!({"K": "${input:key}", "P": "${HOME}", "D": "${A:-b}"}));
}

#[test]
fn a_bare_variable_is_a_reference_in_variables_and_headers_and_nowhere_else() {
    let entry = json!({
        "command": "sh", "args": ["-c", "echo $HOME"],
        "env": {"A": "$KEY", "B": "a$KEY", "C": "$5 $key", "D": "$1"},
    });
    let ours = Foreign::read("x", &entry).server.unwrap().to_entry();
    assert_eq!(ours["args"][1], "echo $HOME");
    assert_eq!(ours["env"], json!({"A": "${KEY}", "B": "a$KEY", "C": "$5 $key", "D": "$1"}));
    let entry = json!({"httpUrl": "https://x.example", "headers": {"A": "Bearer $TOKEN"}});
    let ours = Foreign::read("x", &entry).server.unwrap().to_entry();
    assert_eq!(ours["headers"]["A"], "Bearer ${TOKEN}");
}

#[test]
fn what_is_left_out_is_told_and_usual_values_are_not() {
    let entry = json!({
        "command": "x", "disabled": true, "timeout": 60, "autoApprove": ["a"], "alwaysAllow": [],
        "type": "stdio", "enabled": true, "isActive": true,
    });
    assert_eq!(Foreign::read("x", &entry).left_out, ["disabled", "timeout", "autoApprove"]);
}

#[test]
fn what_is_no_server_says_why() {
    let why = |entry: Value| Foreign::read("x", &entry).server.unwrap_err().to_string();
    assert_eq!(why(json!({"type": "builtin", "name": "x"})), "it is a part of the client");
    assert!(why(json!({"source": "extension"})).contains("none of `command`"));
    assert!(why(json!([])).contains("not an object"));
    assert!(why(json!({"url": "https://x.example", "headers": 5})).contains("`headers`"));
}

#[test]
fn values_that_are_not_texts_stay_what_they_are() {
    let server = Foreign::read("x", &json!({"command": "x", "args": [5], "env": {"N": 5}}));
    let Transport::Stdio { args, env, .. } = server.server.unwrap().transport else { panic!() };
    assert_eq!(args, ["5"]);
    assert_eq!(env.iter().next().unwrap().1, "5");
}
