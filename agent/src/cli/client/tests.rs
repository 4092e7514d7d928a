use clap::Parser as _;

use super::*;
use crate::cli::testing::Home;
use crate::clients::Os;

#[derive(Debug, clap::Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

/// Runs `mcpm client …` on a machine of its own.
fn client(home: &Home, words: &[&str]) -> Result<(), CliError> {
    let line = Line::try_parse_from([&["client"], words].concat());
    let line = line.map_err(|error| CliError::usage(error.to_string()))?;
    run_at(line.args, &home.context(), &places(home))
}

fn places(home: &Home) -> Places {
    Places {
        os: Os::Linux,
        home: home.paths.dir().join("home"),
        app_data: None,
        xdg_config: None,
        project: home.paths.dir().join("project"),
        path: Vec::new(),
    }
}

fn home() -> Home {
    let home = Home::new();
    home.write(
        "servers.json",
        r#"{"time": {"command": "uvx", "profile_tags": ["work"]}, "a": {"command": "x"}}"#,
    );
    home
}

#[test]
fn a_server_is_added_switched_off_where_the_client_knows_what_that_is() {
    let home = home();
    for (id, file, expected) in [
        ("goose-cli", "home/.config/goose/config.yaml", "enabled: false"),
        ("opencode", "home/.config/opencode/opencode.json", "\"enabled\": false"),
        ("codex-cli", "home/.codex/config.toml", "enabled = false"),
        ("kiro", "home/.kiro/settings/mcp.json", "\"disabled\": true"),
        ("5ire", "home/.config/5ire/mcp.json", "\"isActive\": false"),
    ] {
        client(&home, &["edit", id, "--add-server", "time", "--disabled"]).unwrap();
        let before = home.read(file);
        assert!(before.contains(expected), "{id}: {before}");
        // What is switched off stays so until somebody switches it on.
        client(&home, &["edit", id, "--add-server", "time"]).unwrap();
        assert_eq!(home.read(file), before, "{id}");
    }
    let error = client(&home, &["edit", "cursor", "--add-server", "a", "--disabled"]).unwrap_err();
    assert_eq!(error.exit(), 1);
    assert!(!home.paths.dir().join("home/.cursor/mcp.json").exists());
    let error =
        client(&home, &["edit", "kiro", "--add-profile", "work", "--disabled"]).unwrap_err();
    assert_eq!(error.exit(), 2);
}

#[test]
fn a_life_of_edits_lists_and_imports() {
    let home = home();
    client(&home, &["edit", "cursor", "--add-server", "time, a", "--add-profile", "work"]).unwrap();
    client(&home, &["ls"]).unwrap();
    client(&home, &["ls", "-v"]).unwrap();
    let text = home.read("home/.cursor/mcp.json");
    for key in ["mcpm_time", "mcpm_a", "mcpm_profile_work"] {
        assert!(text.contains(key), "{text}");
    }
    client(&home, &["edit", "cursor", "--set-servers", "", "--remove-profile", "work"]).unwrap();
    assert!(!home.read("home/.cursor/mcp.json").contains("mcpm_"));
    home.write("other.json", r#"{"mcpServers": {"crm": {"url": "https://crm.example/mcp"}}}"#);
    let other = home.paths.dir().join("other.json");
    let other = other.to_str().unwrap();
    client(&home, &["import", "cursor", "-f", other, "--all", "--profile", "p", "--replace"])
        .unwrap();
    assert!(home.read("servers.json").contains("https://crm.example/mcp"));
    assert!(home.read("other.json").contains("mcpm_profile_p"));
}

#[test]
fn mistakes_have_their_codes_and_hints() {
    let home = home();
    home.write("bad.json", "{,");
    let bad = home.paths.dir().join("bad.json");
    let bad = bad.to_str().unwrap();
    for (words, code, exit) in [
        (&["edit", "cursr", "--add-server", "a"][..], "unknown_client", 1),
        (&["edit", "cursor", "--add-server", "zz"], "unknown_server", 1),
        (&["edit", "cursor", "--add-profile", "zz"], "unknown_profile", 1),
        (&["edit", "cursor"], "usage", 2),
        (&["edit", "cursor", "--add-server", "a", "--set-servers", "a"], "usage", 2),
        (&["edit", "cursor", "--add-server", "a", "--remove-server", "a"], "usage", 2),
        (&["edit", "cursor", "-f", bad, "--add-server", "a"], "client_file", 1),
        (&["edit", "cursor", "-e"], "no_file", 1),
        (&["import", "cursor"], "usage", 2),
        (&["import", "cursor", "--server", "zz"], "unknown_server", 1),
        (&["import", "cursor", "-f", bad, "--all"], "client_file", 1),
    ] {
        let error = client(&home, words).unwrap_err();
        assert_eq!(error.to_json()["code"], code, "{words:?}: {error}");
        assert_eq!(error.exit(), exit, "{words:?}");
    }
    assert_eq!(home.read("bad.json"), "{,");
    client(&home, &["import", "cursor", "--all"]).unwrap();
}

#[test]
fn a_list_of_names_is_split_at_commas() {
    assert_eq!(names(" a, b ,,c"), ["a", "b", "c"]);
    assert!(names("").is_empty());
}

#[test]
fn a_status_says_what_a_client_starts() {
    let home = home();
    client(&home, &["edit", "cursor", "--add-server", "a"]).unwrap();
    let all = clients::list(&places(&home)).unwrap();
    let cursor = all.iter().find(|status| status.client.id == "cursor").unwrap();
    let value = status_json(cursor);
    assert_eq!(value["servers"], json!(["a"]));
    assert_eq!(value["installed"], true);
    assert_eq!(row(cursor, false), ["cursor", "-", "a", "-"]);
}
