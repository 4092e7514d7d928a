use crate::cli::testing::Home;

fn code(home: &Home, args: &[&str]) -> String {
    format!("{:?}", home.run(args).unwrap())
}

const DONE: &str = "ExitCode(unix_exit_status(0))";

#[test]
fn what_is_installed_offline_is_as_the_built_in_list_says() {
    let home = Home::new();
    home.run(&["install", "time", "--offline"]).unwrap();
    home.run(&["new", "own", "--command", "x"]).unwrap();
    let before = home.read("servers.json");
    for args in [
        &["update", "--offline", "--check"][..],
        &["update", "--offline"],
        &["update", "--offline", "--all", "--verbose"],
        &["update", "--offline", "time"],
    ] {
        if cfg!(unix) {
            assert_eq!(code(&home, args), DONE, "{args:?}");
        }
    }
    assert_eq!(home.read("servers.json"), before);
}

/// Exits with 1 where there is something to do and nobody said that it shall be done.
#[test]
fn what_is_out_of_date_is_told_by_check_and_mended_when_it_was_asked_for() {
    let home = Home::new();
    home.run(&["install", "time", "--offline", "--set", "TIMEZONE=Europe/Berlin"]).unwrap();
    let today = home.read("servers.json");
    // As if an older list had said so.
    let old = |text: String| text.replace("mcp-server-time", "mcp-server-time-of-old");
    home.write("servers.json", &old(home.read("servers.json")));
    home.write("sources.json", &old(home.read("sources.json")));
    let stale = home.read("servers.json");
    assert_ne!(stale, today);
    for args in [&["update", "--offline", "--check"][..], &["update", "--offline"]] {
        assert_ne!(code(&home, args), DONE, "{args:?}");
        assert_eq!(home.read("servers.json"), stale, "{args:?}");
    }
    home.run(&["update", "--offline", "--all"]).unwrap();
    assert_eq!(home.read("servers.json"), today);
}

/// Defect 32 of the Python `mcpm`: `update --init` stored commands of its own invention, which ran
/// after new code had come.
#[test]
fn defect_32_no_command_is_noted_that_nobody_wrote() {
    let home = Home::new();
    let folder = home.paths.dir().join("checkout");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("package.json"), "{}").unwrap();
    let git = |args: &[&str]| {
        let status = std::process::Command::new("git").arg("-C").arg(&folder).args(args).status();
        assert!(status.unwrap().success());
    };
    git(&["init", "--quiet", "-b", "main"]);
    git(&["remote", "add", "origin", "https://x.example/r"]);
    let script = folder.join("x.js").display().to_string();
    home.run(&["new", "mine", "--command", "node", "--args", &script]).unwrap();
    home.run(&["update", "--init"]).unwrap();
    let sources: serde_json::Value = serde_json::from_str(&home.read("sources.json")).unwrap();
    assert_eq!(sources["mine"]["type"], "git");
    assert_eq!(sources["mine"]["post_update"], serde_json::Value::Null);
}

#[test]
fn what_cannot_be_updated_is_said_with_the_right_exit_code() {
    let home = Home::new();
    assert_eq!(home.run(&["update", "none"]).unwrap_err().exit(), 1);
    assert_eq!(home.run(&["update", "a", "--all"]).unwrap_err().exit(), 2);
    assert_eq!(home.run(&["update", "--set", "x"]).unwrap_err().exit(), 2);
}
