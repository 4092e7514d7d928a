//! A scripted life: commands one after the other on one home, and every byte they leave behind.

use super::testing::Home;

/// What the Python `mcpm` left behind: its layout, and keys that we do not know.
const PYTHON: &str = r#"{
  "notes": {
    "name": "notes",
    "profile_tags": [
      "work"
    ],
    "command": "uvx",
    "args": [
      "notes-mcp"
    ],
    "env": {
      "NOTES_KEY": "k1"
    },
    "timeout": 1.50
  },
  "builtin": {
    "name": "builtin",
    "profile_tags": [],
    "config": {"type":"builtin"}
  }
}"#;

const SERVERS: &str = r#"{
  "memo": {
    "name": "memo",
    "profile_tags": [
      "work",
      "home"
    ],
    "command": "uvx",
    "args": [
      "notes-mcp",
      "--dir",
      "my notes"
    ],
    "env": {
      "NOTES_KEY": "${NOTES_KEY}"
    },
    "timeout": 1.50
  },
  "builtin": {
    "name": "builtin",
    "profile_tags": [],
    "config": {"type":"builtin"}
  },
  "time": {
    "name": "time",
    "profile_tags": [
      "home"
    ],
    "command": "npx",
    "args": [
      "-y",
      "time-mcp"
    ],
    "env": {}
  },
  "crm": {
    "name": "crm",
    "profile_tags": [],
    "url": "https://crm.example/mcp",
    "headers": {
      "Authorization": "file:/run/secrets/crm"
    }
  }
}"#;

const PROFILES: &str = r#"{
  "home": {
    "name": "home",
    "api_key": null,
    "description": "evenings"
  }
}
"#;

const SOURCES: &str = r#"{
  "time": {
    "type": "npx",
    "package": "time-mcp"
  },
  "crm": {
    "type": "remote"
  }
}
"#;

#[test]
fn a_scripted_life_leaves_exactly_the_expected_files_behind() {
    let home = Home::new();
    home.write("servers.json", PYTHON);
    let life: &[&[&str]] = &[
        &["new", "time", "--command", "npx", "--args", "-y time-mcp"],
        &["new", "crm", "--url", "https://crm.example/sse", "--headers", "Authorization=x"],
        &["edit", "crm", "--url", "https://crm.example/mcp"],
        &["edit", "crm", "--headers", "authorization=file:/run/secrets/crm"],
        &["profile", "create", "evening", "--description", "evenings"],
        &["profile", "edit", "evening", "--add-server", "notes,time"],
        &["edit", "notes", "--name", "memo", "--args", "notes-mcp --dir 'my notes'"],
        &["edit", "memo", "--env", "NOTES_KEY=${NOTES_KEY}"],
        &["profile", "edit", "evening", "--name", "home"],
        &["profile", "create", "gone"],
        &["profile", "edit", "gone", "--set-servers", "crm"],
        &["profile", "rm", "gone", "--force"],
        &["config", "set", "node_executable", "bunx"],
        &["ls", "-v"],
        &["profile", "ls", "home"],
        &["inspect", "memo", "--dry-run"],
        &["migrate"],
    ];
    for args in life {
        home.run(args).unwrap_or_else(|error| panic!("{args:?}: {error}"));
    }
    assert_eq!(home.read("servers.json"), SERVERS);
    assert_eq!(home.read("profiles_metadata.json"), PROFILES);
    assert_eq!(home.read("sources.json"), SOURCES);
    assert_eq!(home.read("config.json"), "{\n  \"node_executable\": \"bunx\"\n}\n");
    let mut names: Vec<String> = std::fs::read_dir(home.paths.dir())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".lock"))
        .collect();
    names.sort();
    assert_eq!(names, ["config.json", "profiles_metadata.json", "servers.json", "sources.json"]);
    #[cfg(unix)]
    for name in names {
        use std::os::unix::fs::PermissionsExt as _;
        let metadata = std::fs::metadata(home.paths.dir().join(&name)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{name}");
    }
}

/// Defect 33 of the Python `mcpm`: any command created files.
#[test]
fn commands_that_only_look_create_no_file() {
    let home = Home::new();
    let looks: &[&[&str]] = &[
        &["ls", "-v"],
        &["profile", "ls"],
        &["config", "ls"],
        &["config", "unset", "node_executable"],
        &["config", "clear-cache"],
        &["inspect", "--dry-run"],
        &["doctor", "--offline"],
        &["migrate", "--dry-run"],
    ];
    for args in looks {
        home.run(args).unwrap_or_else(|error| panic!("{args:?}: {error}"));
    }
    assert_eq!(std::fs::read_dir(home.paths.dir()).unwrap().count(), 0);
}

#[test]
fn a_file_that_does_not_parse_stops_every_change_and_stays_as_it_is() {
    let home = Home::new();
    home.write("servers.json", "{\"a\": {\"command\": \"x\"},}");
    let changes: &[&[&str]] = &[
        &["new", "b", "--command", "x", "--force"],
        &["edit", "a", "--command", "y"],
        &["profile", "create", "work"],
        &["profile", "edit", "work", "--add-server", "a"],
        &["profile", "rm", "work", "--force"],
    ];
    for args in changes {
        let error = home.run(args).unwrap_err();
        assert_eq!(error.exit(), 1, "{args:?}");
        assert!(error.hint().unwrap().contains("changes nothing"), "{args:?}: {error}");
    }
    assert_eq!(home.read("servers.json"), "{\"a\": {\"command\": \"x\"},}");
}
