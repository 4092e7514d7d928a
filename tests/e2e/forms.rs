//! Forms at a real terminal: what a person sees, the keys that they press, and what has become of their files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use harness::home::Home;
use harness::process::{Program, built};
use harness::terminal::{Left, Terminal};
use serde_json::{Value, json};
use tokio::process::Command;

const DOWN: &str = "\x1b[B";
const ENTER: &str = "\r";
const ESCAPE: &str = "\x1b";
const CTRL_C: &str = "\x03";
const CTRL_U: &str = "\x15";

/// Three servers, two of them in a profile, and a client with a server of its own.
fn home() -> Home {
    let mut home = Home::new();
    for (name, profiles) in
        [("alpha", json!(["work"])), ("beta", json!(["work"])), ("gamma", json!([]))]
    {
        let entry =
            json!({ "command": built("mcpm"), "args": ["demo-server"], "profile_tags": profiles });
        home.add(name, entry);
    }
    fs::create_dir(home.path(".cursor")).unwrap();
    let own = json!({ "mcpServers": { "crm": { "url": "https://crm.example/mcp" } } });
    fs::write(home.path(".cursor/mcp.json"), own.to_string()).unwrap();
    home
}

fn mcpm(home: &Home, args: &[&str]) -> Command {
    let mut command = home.command("mcpm", args);
    command.current_dir(home.folder());
    command
}

/// Starts `mcpm` at a terminal.
fn at_terminal(home: &Home, args: &[&str]) -> Terminal {
    Terminal::start(mcpm(home, args))
}

fn servers(home: &Home) -> Value {
    serde_json::from_slice(&fs::read(home.config().join("servers.json")).unwrap()).unwrap()
}

/// The servers of the profile `work`.
fn of_work(home: &Home) -> Vec<String> {
    let servers = servers(home);
    let servers = servers.as_object().unwrap().iter();
    let servers = servers
        .filter(|(_, entry)| entry["profile_tags"].as_array().unwrap().contains(&"work".into()));
    servers.map(|(name, _)| name.clone()).collect()
}

/// All files of a home, but for the locks, which hold nothing.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_none_or(|ending| ending != "lock") {
                found.insert(path.clone(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

async fn is_done(terminal: Terminal) -> Left {
    let left = terminal.left().await;
    assert_eq!(left.code, Some(0), "{}", left.screen);
    left
}

#[tokio::test]
async fn two_of_three_servers_are_chosen_from_a_list() {
    let home = home();
    let mut form = at_terminal(&home, &["profile", "edit", "work"]);
    form.shows("Name [work]:").await;
    form.press(ENTER).await;
    form.shows("> [x] alpha\n  [x] beta\n  [ ] gamma").await;
    form.press(" ").await;
    form.shows("> [ ] alpha").await;
    form.press(DOWN).await;
    form.shows("> [x] beta").await;
    form.press(DOWN).await;
    form.press(" ").await;
    form.shows("> [x] gamma").await;
    form.press(ENTER).await;
    let left = is_done(form).await;
    assert_eq!(of_work(&home), ["beta", "gamma"]);
    // The list is gone, and what was chosen stands in its place.
    let expected =
        "Name [work]: work\nServers of the profile: beta, gamma\nProfile `work` has beta, gamma.";
    assert_eq!(left.screen.trim_end(), expected);
}

#[tokio::test]
async fn a_client_starts_what_is_chosen_from_a_list() {
    let home = home();
    let mut form = at_terminal(&home, &["client", "edit", "cursor"]);
    form.shows("> [ ] work (profile)\n  [ ] alpha").await;
    // One server cannot be chosen twice: alone, and with its profile.
    form.press("a").await;
    form.shows("> [x] work (profile)").await;
    form.press(ENTER).await;
    form.shows("`alpha` is in profile `work` already").await;
    form.press("a\x1b[F").await;
    form.shows("> [ ] gamma").await;
    form.press(" ").await;
    form.shows("> [x] gamma").await;
    form.press(ENTER).await;
    is_done(form).await;
    let file = fs::read(home.path(".cursor/mcp.json")).unwrap();
    let entries = serde_json::from_slice::<Value>(&file).unwrap()["mcpServers"].clone();
    let names: Vec<&String> = entries.as_object().unwrap().keys().collect();
    assert_eq!(names, ["crm", "mcpm_gamma"]);
}

#[tokio::test]
async fn a_form_makes_a_server_and_another_one_changes_it() {
    let home = home();
    let mut form = at_terminal(&home, &["new"]);
    form.shows("Name of the server:").await;
    // An empty line is no name.
    form.press(&format!("{ENTER}delta{ENTER}")).await;
    form.shows("> a command on this machine\n  a URL").await;
    form.press(ENTER).await;
    form.shows("Command:").await;
    form.press(&format!("uvx{ENTER}")).await;
    form.shows("Arguments:").await;
    form.press(&format!("-q 'my server'{ENTER}")).await;
    form.shows("Variables").await;
    form.press(&format!("A=1,B=2{ENTER}")).await;
    is_done(form).await;
    let expected =
        json!({ "command": "uvx", "args": ["-q", "my server"], "env": { "A": "1", "B": "2" } });
    let has = |key: &str| servers(&home)["delta"][key].clone();
    for key in ["command", "args", "env"] {
        assert_eq!(has(key), expected[key]);
    }

    let mut form = at_terminal(&home, &["edit", "delta"]);
    form.shows("Name [delta]:").await;
    form.press(ENTER).await;
    form.shows("Command [uvx]:").await;
    form.press(ENTER).await;
    // What is there can be changed where it stands.
    form.shows("Arguments: -q 'my server'").await;
    form.press("\x1b[D\x7f\x7frs").await;
    form.shows("Arguments: -q 'my servrs'").await;
    form.press(ENTER).await;
    form.shows("there are: A, B").await;
    form.press(&format!("C=3{ENTER}")).await;
    form.shows("Remove variables").await;
    form.press(&format!("A{ENTER}")).await;
    form.shows("Change `delta`? [y/N]").await;
    form.press("y").await;
    is_done(form).await;
    assert_eq!(has("args"), json!(["-q", "my servrs"]));
    assert_eq!(has("env"), json!({ "B": "2", "C": "3" }));
}

#[tokio::test]
async fn a_question_that_is_answered_with_no_leaves_everything_as_it_was() {
    let home = home();
    fs::write(home.config().join("profiles.json"), r#"{"old": [{"name": "x", "command": "y"}]}"#)
        .unwrap();
    let before = files(home.folder());
    for (args, question) in [
        (&["uninstall", "alpha"][..], "Remove server `alpha`? [y/N]"),
        (&["profile", "rm", "work"], "Forget profile `work`? Its 2 servers stay. [y/N]"),
        (&["migrate"], "Move all this now? [y/N]"),
        (&["config", "reset"], "Forget all settings? [y/N]"),
        (&["new", "alpha"], "There is a server `alpha`. Replace it? [y/N]"),
        (&["install", "deepwiki", "--offline"], "Install it as `deepwiki`? [y/N]"),
    ] {
        for no in ["n", ENTER] {
            let mut form = at_terminal(&home, args);
            form.shows(question).await;
            form.press(no).await;
            let left = is_done(form).await;
            assert!(left.screen.contains(&format!("{question} no")), "{args:?}: {}", left.screen);
            assert!(files(home.folder()) == before, "{args:?} has changed a file: {}", left.screen);
        }
    }
}

/// The words of a command, and for each question of its form what it shows and what answers it.
type Form = (&'static [&'static str], &'static [(&'static str, &'static str)]);

/// Goes through a form up to each of its questions, and stops there.
#[tokio::test]
async fn ctrl_c_and_escape_leave_every_file_and_the_terminal_as_they_were() {
    let home = home();
    fs::write(home.config().join("profiles.json"), r#"{"old": [{"name": "x", "command": "y"}]}"#)
        .unwrap();
    let before = files(home.folder());
    let forms: &[Form] = &[
        (
            &["new"],
            &[
                ("Name of the server:", "delta\r"),
                ("What is it?", "\r"),
                ("Command:", "uvx\r"),
                ("Arguments:", "-q\r"),
                ("Variables (KEY", ""),
            ],
        ),
        (
            &["new", "delta", "--type", "remote"],
            &[("URL:", "https://x.example/mcp\r"), ("Headers (KEY", "")],
        ),
        (
            &["edit", "alpha"],
            &[
                ("Name [alpha]:", "delta\r"),
                ("Command [", "uvx\r"),
                ("Arguments:", "\r"),
                ("Set variables", "A=1\r"),
                ("Change `alpha`?", ""),
            ],
        ),
        (
            &["profile", "edit", "work"],
            &[("Name [work]:", "play\r"), ("Servers of the profile", "")],
        ),
        (&["profile", "rm", "work"], &[("Forget profile", "")]),
        (&["client", "edit", "cursor"], &[("What shall Cursor start?", "")]),
        (
            &["client", "import", "cursor"],
            &[("Which servers of Cursor?", "\r"), ("Let Cursor start them", "")],
        ),
        (
            &["install", "time", "--offline"],
            &[("How shall it be installed?", "\r"), ("Install it as", "y"), ("TIMEZONE: ", "")],
        ),
        (&["uninstall", "alpha"], &[("Remove server", "")]),
        (&["migrate"], &[("Move all this now?", "")]),
        (&["config", "set"], &[("Which setting?", "\r"), ("Which value?", "")]),
        (&["config", "reset"], &[("Forget all settings?", "")]),
        (&["relay", "login", "https://relay.example"], &[("Secret or token for", "")]),
    ];
    for (args, questions) in forms {
        for at in 0..questions.len() {
            for key in [CTRL_C, ESCAPE] {
                let mut form = at_terminal(&home, args);
                for (question, answer) in &questions[..at] {
                    form.shows(question).await;
                    form.press(answer).await;
                }
                form.shows(questions[at].0).await;
                form.press(key).await;
                let left = form.left().await;
                assert_eq!(left.code, Some(130), "{args:?} {at} {key:?}: {}", left.screen);
                assert!(left.screen.trim_end().ends_with("stopped"), "{args:?}: {}", left.screen);
                assert!(files(home.folder()) == before, "{args:?} {at}: {}", left.screen);
            }
        }
    }
    assert_eq!(home.processes(), Vec::<String>::new());
}

#[tokio::test]
async fn nothing_of_a_secret_is_ever_shown_however_fast_it_comes() {
    let home = home();
    let mut form = at_terminal(&home, &["relay", "login", "https://relay.example"]);
    form.shows("Secret or token for").await;
    // As a paste comes, with something mistyped before.
    form.press(&format!("wrong{CTRL_U}s3cret-{}{ENTER}", "0123456789".repeat(20))).await;
    let left = is_done(form).await;
    assert!(!left.all.contains("s3cret") && !left.all.contains("wrong"), "{}", left.all);
    let kept = fs::read_to_string(home.config().join("relays.json")).unwrap();
    assert!(kept.contains(&format!("\"s3cret-{}\"", "0123456789".repeat(20))), "{kept}");
}

#[tokio::test]
async fn a_line_longer_than_the_terminal_is_typed_and_changed_on_one_line() {
    let home = home();
    let mut form = at_terminal(&home, &["new", "delta", "--type", "stdio"]);
    form.shows("Command:").await;
    let long = "0123456789".repeat(15);
    form.press(&long).await;
    // Its end, and not its beginning.
    form.shows(&long[60..]).await;
    form.press("\x1b[H").await;
    form.shows("Command: 0123456789").await;
    form.press(&format!("日{ENTER}")).await;
    form.shows("Arguments:").await;
    // Ctrl-Right is no text.
    form.press(&format!("\x1b[1;5Cx{ENTER}")).await;
    form.shows("Variables (KEY").await;
    form.press(ENTER).await;
    let left = is_done(form).await;
    assert_eq!(left.screen.matches("Command:").count(), 1, "{}", left.screen);
    assert_eq!(servers(&home)["delta"]["command"], format!("日{long}"));
    assert_eq!(servers(&home)["delta"]["args"], json!(["x"]));
}

/// What asks at a terminal, and a word that is said where there is none.
const REFUSED: &[(&[&str], &str)] = &[
    (&["new"], "mcpm new NAME --command COMMAND"),
    (&["new", "delta"], "--command"),
    (&["edit", "alpha"], "mcpm edit --help"),
    (&["profile", "edit", "work"], "mcpm profile edit --help"),
    (&["profile", "rm", "work"], "--force"),
    (&["client", "edit", "cursor"], "--add-server"),
    (&["client", "import", "cursor"], "--all"),
    (&["install", "brave-search", "--offline"], "MCPM_ARG_BRAVE_API_KEY"),
    (&["migrate"], "--force"),
    (&["config", "set"], "mcpm config set KEY VALUE"),
    (&["config", "reset"], "--force"),
    (&["relay", "login", "https://relay.example"], "--secret-stdin"),
];

#[tokio::test]
async fn where_nobody_can_be_asked_the_words_that_say_it_are_named() {
    let home = home();
    fs::write(home.config().join("profiles.json"), r#"{"old": [{"name": "x", "command": "y"}]}"#)
        .unwrap();
    let before = files(home.folder());
    // What was said to ask nothing removes it without a question, as with the Python `mcpm`.
    let uninstall = |said: &str, kind: &str| {
        let mut command = mcpm(&home, &["uninstall", "alpha"]);
        command.env(said, "true");
        Terminal::start_as(command, kind)
    };
    for (said, kind) in [("CI", "xterm-256color"), ("UNHEARD", "dumb")] {
        let left = uninstall(said, kind).left().await;
        assert!(left.code == Some(2) && left.all.contains("--force"), "{}", left.all);
    }
    for (args, words) in REFUSED {
        let check = |how: &str, code: Option<i32>, told: &str| {
            assert_eq!(code, Some(2), "{how} {args:?}: {told}");
            assert!(told.contains("error: ") && told.contains(words), "{how} {args:?}: {told}");
            assert!(files(home.folder()) == before, "{how} {args:?}: {told}");
        };
        // A terminal that cannot draw, one whose user wants no question, and none.
        let left = Terminal::start_as(mcpm(&home, args), "dumb").left().await;
        check("dumb", left.code, &left.all);
        assert!(!left.all.contains('\x1b'), "{args:?}: {:?}", left.all);
        for variable in ["MCPM_NON_INTERACTIVE", "CI"] {
            let mut command = mcpm(&home, args);
            command.env(variable, "true");
            let left = Terminal::start(command).left().await;
            check(variable, left.code, &left.all);
        }
        let mut program = Program::start(mcpm(&home, args));
        program.hang_up();
        let ended = program.ended().await;
        check("no terminal", ended.code, &ended.stderr);
        assert_eq!(ended.stdout, "", "{args:?}");
    }
    is_done(uninstall("MCPM_NON_INTERACTIVE", "xterm-256color")).await;
    assert!(servers(&home)["alpha"].is_null());
}
