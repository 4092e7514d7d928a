//! The defects of the Python `mcpm`, and that they are not here: a table of which tests show it (`table.md`), and those
//! tests that need the real program and belong nowhere else.

use std::path::Path;

use harness::home::Home;
use harness::process::{Ended, Program, built};
use harness::{Service, full};
use serde_json::{Value, json};

/// What must never be seen outside of the files of `mcpm`.
const SECRET: &str = "s3cret-0123456789";

/// What was wrong or asked for, and tests about it.
const TABLE: &str = include_str!("defects/table.md");

#[test]
fn every_test_that_the_table_names_exists_and_every_defect_is_in_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let (mut numbers, mut shown) = (Vec::new(), true);
    for line in TABLE.lines() {
        if let Some((number, _)) = line.split_once(". ").filter(|(n, _)| n.parse::<u16>().is_ok()) {
            assert!(shown, "no test is named before {line:?}");
            numbers.push(number);
            shown = false;
        }
        if let Some((file, name)) = line.strip_prefix("   - ").and_then(|it| it.split_once(": ")) {
            let text = std::fs::read_to_string(root.join(file)).unwrap_or_default();
            assert!(text.contains(&format!("fn {name}(")), "{file} has no test `{name}`");
            shown = true;
        }
    }
    assert!(shown, "no test is named at the end");
    let all: Vec<String> = (1..=34).map(|number| number.to_string()).collect();
    assert!(numbers.starts_with(&all.iter().map(String::as_str).collect::<Vec<_>>()));
}

/// Runs `mcpm` to its end.
async fn mcpm(home: &Home, args: &[&str], env: &[(&str, &str)]) -> Ended {
    let mut command = home.command("mcpm", args);
    command.envs(env.iter().copied()).current_dir(home.folder());
    let mut program = Program::start(command);
    program.hang_up();
    program.ended().await
}

/// Runs `mcpm` and expects that it does what it was told; returns its stdout.
async fn done(home: &Home, args: &[&str], env: &[(&str, &str)]) -> String {
    let ended = mcpm(home, args, env).await;
    assert_eq!(ended.code, Some(0), "{args:?}\n{}\n{}", ended.stdout, ended.stderr);
    ended.stdout
}

/// A home with a server that works, a remote one that nobody answers for, and secrets in both.
fn home() -> Home {
    let mut home = Home::new();
    home.add(
        "demo",
        json!({
            "command": built("mcpm"), "args": ["demo-server"], "profile_tags": ["work"],
            "env": { "TOKEN": SECRET },
        }),
    );
    let url = format!("http://127.0.0.1:1/mcp?key={SECRET}");
    let headers = json!({ "Authorization": format!("Bearer {SECRET}") });
    home.add("far", json!({ "url": url, "headers": headers, "profile_tags": ["work"] }));
    home
}

/// Lets a client open, list and hang up; returns what the program said.
async fn visit(program: Program) -> Ended {
    program.visited("defects").await.1
}

#[tokio::test]
async fn defect_08_no_program_is_downloaded_to_share() {
    let home = home();
    let share = ["share", "demo", "--address", "http://127.0.0.1:1", "--retry", "0"];
    let ended = mcpm(&home, &share, &[]).await;
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let mut folders = vec![home.folder().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let mode = std::os::unix::fs::PermissionsExt::mode(
                &std::fs::metadata(&path).unwrap().permissions(),
            );
            assert_eq!(mode & 0o111, 0, "{} is a program", path.display());
        }
    }
}

#[tokio::test]
async fn defect_11_addresses_without_a_port_or_of_ipv6_are_understood() {
    let home = home();
    for address in ["127.0.0.1", "[::1]", "[::1]:1", "localhost:1", "http://[::1]:1"] {
        let share = ["share", "demo", "--address", address, "--retry", "0"];
        let ended = mcpm(&home, &share, &[]).await;
        assert_eq!(ended.code, Some(1), "{address}: {}", ended.stderr);
        assert!(ended.stderr.contains("hint: "), "{address}: {}", ended.stderr);
        assert!(!ended.stderr.contains("panicked"), "{address}: {}", ended.stderr);
    }
    for address in ["", "host:port", "http://", "::1", "host:99999"] {
        let ended = mcpm(&home, &["share", "demo", "--address", address], &[]).await;
        assert_eq!(ended.code, Some(2), "{address}: {}", ended.stderr);
    }
}

#[tokio::test]
async fn defect_15_every_failure_has_its_exit_code() {
    let home = home();
    let relay = "--address=http://127.0.0.1:1";
    for (code, args) in [
        (1, &["run", "none"][..]),
        (1, &["share", "none"]),
        (1, &["share", "demo", relay, "--retry", "0"]),
        (1, &["profile", "run", "none"]),
        (1, &["profile", "share", "none"]),
        (1, &["profile", "share", "work", relay, "--retry", "0"]),
        (1, &["profile", "edit", "none", "--add-server", "demo"]),
        (1, &["profile", "rm", "none", "--force"]),
        (1, &["profile", "create", "work"]),
        (1, &["info", "no-such-server", "--offline"]),
        (1, &["install", "no-such-server", "--offline"]),
        (1, &["uninstall", "none", "--force"]),
        (1, &["client", "edit", "no-such-client", "--add-server", "demo"]),
        (1, &["client", "edit", "cursor", "--add-server", "none"]),
        (1, &["config", "get", "node_executable"]),
        (2, &["config", "set", "node_executable"]),
        (2, &["run"]),
        (2, &["no-such-command"]),
    ] {
        let ended = mcpm(&home, args, &[]).await;
        assert_eq!(ended.code, Some(code), "{args:?}\n{}\n{}", ended.stdout, ended.stderr);
        assert!(ended.stderr.contains("error: "), "{args:?}: {}", ended.stderr);
    }
}

#[tokio::test]
async fn defect_16_no_secret_is_logged_even_at_the_finest_level() {
    let home = home();
    let program = home.command("mcpm", &["--log", "trace", "profile", "run", "work"]);
    let served = visit(Program::start(program)).await;
    let mut ends = vec![("profile run", served)];
    let relay = "--address=http://127.0.0.1:1";
    for args in [
        &["doctor", "--offline", "--timeout", "10"][..],
        &["ls", "-v"],
        &["profile", "ls", "-v"],
        &["share", "demo", relay, "--retry", "0"],
        &["run", "far"],
    ] {
        ends.push((args[0], mcpm(&home, &[&["--log", "trace"], args].concat(), &[]).await));
    }
    for (what, ended) in ends {
        let told = format!("{}\n{}", ended.stdout, ended.stderr);
        assert!(!told.contains(SECRET), "{what}: {told}");
        // Else the finest level would prove nothing.
        assert!(what != "profile run" || ended.stderr.contains("DEBUG"), "{what}: {told}");
    }
}

#[tokio::test]
async fn defect_18_a_broken_database_says_nothing_on_stdout() {
    let home = home();
    std::fs::write(home.config().join("monitor.db"), "this is no database\n".repeat(100)).unwrap();
    for args in [&["run", "demo"][..], &["profile", "run", "work"]] {
        let ended = visit(Program::start(home.command("mcpm", args))).await;
        assert!(!ended.stdout.is_empty());
        for line in ended.stdout.lines() {
            let message: Value = serde_json::from_str(line).unwrap_or_else(|error| {
                panic!("{args:?}: {error}: {line}");
            });
            assert_eq!(message["jsonrpc"], "2.0", "{args:?}: {line}");
        }
    }
}

#[tokio::test]
async fn defect_26_every_documented_variable_is_read() {
    let home = Home::new();
    let elsewhere = home.path("elsewhere").display().to_string();
    // The folder of the files.
    let new = ["new", "a", "--command", "x"];
    done(&home, &new, &[("MCPM_CONFIG_DIR", &elsewhere)]).await;
    assert!(home.path("elsewhere/servers.json").exists() && !home.config().exists());
    // JSON, on demand of the environment.
    let env = [("MCPM_CONFIG_DIR", elsewhere.as_str()), ("MCPM_JSON_OUTPUT", "1")];
    let listed: Value = serde_json::from_str(&done(&home, &["ls"], &env).await).unwrap();
    assert_eq!(listed[0]["name"], "a");
    // Another catalogue.
    let manifest = json!({
        "name": "tide", "display_name": "Tide", "description": "Tells the tide.",
        "repository": { "type": "git", "url": "https://git.example/tide" }, "license": "MIT",
        "arguments": { "PORT_NAME": { "description": "A port", "required": true } },
        "installations": {
            "npm": { "type": "npm", "command": "npx", "args": ["-y", "tide-mcp", "${PORT_NAME}"] },
        },
    });
    let catalogue = json!({ "tide": manifest }).to_string();
    let site = Service::start(move |request| {
        let known = request.uri().path() == "/api/servers.json";
        let (status, body) = if known { (200, catalogue.clone()) } else { (404, String::new()) };
        async move { http::Response::builder().status(status).body(full(body)).unwrap() }
    })
    .await;
    let url = site.url();
    let site = ("MCPM_REGISTRY_URL", url.as_str());
    let of_any = ("MCPM_ARG_PORT_NAME", "Kiel");
    done(&home, &["install", "tide"], &[site, of_any]).await;
    // What is said for one server counts before what is said for all.
    let of_one = ("MCPM_SERVER_EBB_PORT_NAME", "Husum");
    done(&home, &["install", "tide", "--alias", "ebb"], &[site, of_any, of_one]).await;
    let listed: Value = serde_json::from_str(&done(&home, &["ls", "--json"], &[]).await).unwrap();
    assert_eq!(listed[0]["args"][2], "Kiel", "{listed}");
    assert_eq!(listed[1]["args"][2], "Husum", "{listed}");
}

#[tokio::test]
async fn the_level_to_log_at_comes_from_the_variable_of_the_python_version_too() {
    let (level, debug) = (("MCPM_LOG_LEVEL", "DEBUG"), ("MCPM_DEBUG", "1"));
    let (quiet, filter) = (("MCPM_LOG_LEVEL", "ERROR"), ("MCPM_LOG", "error"));
    for (env, is_told) in [
        (vec![], false),
        (vec![level], true),
        // Our own words for it go before it.
        (vec![quiet, debug], true),
        (vec![level, filter], false),
    ] {
        // A home of its own: what was listed before is not started again to be listed.
        let home = home();
        let mut command = home.command("mcpm", &["profile", "run", "work"]);
        command.envs(env.iter().copied());
        let told = visit(Program::start(command)).await.stderr;
        assert_eq!(told.contains("DEBUG"), is_told, "{env:?}: {told}");
    }
}

#[tokio::test]
async fn defect_26_every_documented_option_exists() {
    let home = Home::new();
    for (command, options) in [
        (&["share"][..], &["--subdomain", "--auth", "--local-only", "--port"][..]),
        (&["profile", "share"], &["--subdomain", "--auth", "--local-only", "--port"]),
        (&["client", "import"], &["--profile"]),
        (&["doctor"], &["--server", "--profile", "--verbose", "--cleanup"]),
        (&["usage"], &["--server", "--profile", "--resources", "--export"]),
        (&["run"], &["--http", "--sse", "--port"]),
        (&["profile", "run"], &["--http", "--sse", "--port"]),
        (&["profile", "inspect"], &["--server", "--http", "--sse"]),
        (&["client", "edit"], &["--disabled"]),
        (&["config"], &["edit", "reset", "get"]),
    ] {
        let help = done(&home, &[command, &["--help"]].concat(), &[]).await;
        for option in options {
            assert!(help.contains(option), "{command:?} has no {option}:\n{help}");
        }
    }
}

/// What the documents show is done, not only listed in the help.
#[tokio::test]
async fn defect_26_every_documented_command_line_does_what_it_says() {
    let home = home();
    done(&home, &["config", "set", "node_executable", "bunx"], &[]).await;
    assert!(done(&home, &["config"], &[]).await.contains("bunx"));
    done(&home, &["usage", "--profile", "work", "--export", "metrics.json"], &[]).await;
    let report = std::fs::read_to_string(home.path("metrics.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&report).unwrap()["days"], 30);
    done(&home, &["usage", "--resources"], &[]).await;
    // One of the two servers of the profile is reached by nobody.
    let profile = ["doctor", "--profile", "work", "--verbose", "--offline", "--timeout", "20"];
    let ended = mcpm(&home, &profile, &[]).await;
    assert_eq!(ended.code, Some(1), "{}{}", ended.stdout, ended.stderr);
    assert!(
        ended.stdout.contains("demo-server") && !ended.stdout.contains(SECRET),
        "{}",
        ended.stdout
    );
    let told = done(&home, &["doctor", "--cleanup", "--dry-run", "--json"], &[]).await;
    let unused: Value = serde_json::from_str(told.lines().next().unwrap()).unwrap();
    assert_eq!(unused["servers"], json!([]), "{told}");
    done(&home, &["new", "spare", "--command", "x"], &[]).await;
    std::fs::create_dir_all(home.config().join("logs")).unwrap();
    std::fs::write(home.config().join("logs/gone.log"), "").unwrap();
    done(&home, &["doctor", "--cleanup", "--force"], &[]).await;
    assert!(!home.config().join("logs/gone.log").exists());
    // Who was here for a moment only cannot know that nobody uses a server.
    let listed: Value = serde_json::from_str(&done(&home, &["ls", "--json"], &[]).await).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 3, "{listed}");
}

/// Two of them at once get two ports, and each tells the URL it was asked for.
#[tokio::test]
async fn run_over_http_finds_a_port_and_ends_with_who_started_it() {
    let home = home();
    let mut served = Vec::new();
    for args in [
        &["run", "demo", "--http", "--until-stdin-ends"][..],
        &["profile", "run", "work", "--sse", "--server", "demo", "--until-stdin-ends"],
    ] {
        let mut program = Program::start(home.command("mcpm", args));
        let url = program
            .line("a URL", |line| line.starts_with("http://127.0.0.1:").then(|| line.to_owned()));
        served.push((url.await, program));
    }
    assert!(served[0].0.ends_with("/mcp") && served[1].0.ends_with("/sse"), "{served:?}");
    let port = |url: &str| url.rsplit(':').next().unwrap().split('/').next().unwrap().to_owned();
    assert_ne!(port(&served[0].0), port(&served[1].0));
    for (url, mut program) in served {
        program.hang_up();
        assert_eq!(program.ended().await.code, Some(0), "{url}");
    }
}

#[tokio::test]
async fn the_warning_of_a_server_that_is_open_to_everybody_names_where_it_is() {
    let home = home();
    let open = ["--host", "0.0.0.0", "--port", "0", "--until-stdin-ends"];
    let args = [&["run", "demo", "--http"][..], &open].concat();
    let mut program = Program::start(home.command("mcpm", &args));
    let url = program.line("a URL", |line| Some(line.to_owned())).await;
    program.hang_up();
    let ended = program.ended().await;
    assert!(ended.stderr.contains(&format!("everybody who reaches {url} can use")), "{ended:?}");
}

#[tokio::test]
async fn words_of_mcpm_1_say_what_replaced_them() {
    let home = home();
    for word in ["add", "rm", "target", "stash", "inspector"] {
        let ended = mcpm(&home, &[word, "x"], &[]).await;
        assert_eq!(ended.code, Some(2), "{word}: {}", ended.stderr);
        assert!(ended.stderr.contains("hint: "), "{word}: {}", ended.stderr);
    }
}

#[tokio::test]
async fn defect_27_no_command_prints_an_escape_that_it_meant() {
    let home = home();
    for args in [
        &["--help"][..],
        &["ls", "-v"],
        &["profile", "ls", "-v"],
        &["profile", "create", "new"],
        &["profile", "inspect", "work", "--dry-run"],
        &["client", "ls", "-v"],
        &["config", "ls"],
        &["search", "--offline"],
        &["info", "time", "--offline"],
        &["usage"],
    ] {
        let ended = mcpm(&home, args, &[]).await;
        let told = format!("{}{}", ended.stdout, ended.stderr);
        assert!(!told.contains("\\n") && !told.contains('\u{1b}'), "{args:?}: {told}");
    }
}

#[tokio::test]
async fn defect_28_an_editor_opens_and_force_counts_without_a_terminal() {
    let home = home();
    std::fs::create_dir(home.path(".cursor")).unwrap();
    std::fs::write(home.path(".cursor/mcp.json"), "{}\n").unwrap();
    let ci = ("CI", "1");
    let told = done(&home, &["client", "edit", "cursor", "-e"], &[ci, ("BROWSER", "true")]).await;
    assert!(told.contains("mcp.json"), "{told}");
    done(&home, &["profile", "rm", "work"], &[ci, ("MCPM_FORCE", "true")]).await;
    let profiles = done(&home, &["profile", "ls", "--json"], &[]).await;
    assert_eq!(profiles.trim(), "[]");
}

#[tokio::test]
async fn defect_31_an_entry_of_a_project_starts_mcpm_without_a_path() {
    let home = home();
    for (client, file, key) in [
        ("claude-code-project", ".mcp.json", "mcpServers"),
        ("vscode-workspace", ".vscode/mcp.json", "servers"),
        ("claude-desktop", ".config/Claude/claude_desktop_config.json", "mcpServers"),
    ] {
        done(&home, &["client", "edit", client, "--add-server", "demo"], &[]).await;
        let text = std::fs::read_to_string(home.path(file)).unwrap();
        let entry = serde_json::from_str::<Value>(&text).unwrap()[key]["mcpm_demo"].clone();
        let program = entry["command"].as_str().unwrap();
        assert!(Path::new(program).is_absolute(), "{client}: {text}");
        // As a desktop starts it: without a PATH, and in a folder of its own.
        let mut command = harness::process::command(program);
        command.args(entry["args"].as_array().unwrap().iter().filter_map(Value::as_str));
        command.env_remove("PATH").env("HOME", home.folder()).current_dir("/");
        command.env("MCPM_CONFIG_DIR", home.config());
        let ended = visit(Program::start(command)).await;
        assert_eq!(ended.code, Some(0), "{client}: {}", ended.stderr);
    }
}

#[tokio::test]
async fn defect_33_a_command_that_looks_makes_no_file() {
    let home = Home::new();
    for args in [&["--version"][..], &["--help"], &["ls"], &["profile", "ls"], &["config", "ls"]] {
        done(&home, args, &[]).await;
    }
    assert_eq!(std::fs::read_dir(home.folder()).unwrap().count(), 0);
}
