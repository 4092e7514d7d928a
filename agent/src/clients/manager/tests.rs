use std::path::Path;

use super::*;
use crate::clients::{Format, Os};
use crate::hint::Hint as _;

fn places(home: &Path) -> Places {
    Places {
        os: Os::Linux,
        home: home.join("home"),
        app_data: None,
        xdg_config: None,
        project: home.join("project"),
        path: Vec::new(),
    }
}

fn launch(target: &Target) -> Launch {
    Launch { program: "/opt/bin/mcpm".to_owned(), args: target.args(), env: Vec::new() }
}

fn put(target: &Target) -> Edit {
    Edit::Put(target.clone(), launch(target))
}

fn server(name: &str) -> Target {
    Target::Server(name.to_owned())
}

/// A client whose file says this, in a home of its own.
struct Home {
    _dir: tempfile::TempDir,
    paths: Paths,
    manager: ClientConfigManager,
}

impl Home {
    fn new(id: &str, text: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let manager = ClientConfigManager::open(id, &places(dir.path())).unwrap();
        if let Some(text) = text {
            std::fs::create_dir_all(manager.file().parent().unwrap()).unwrap();
            std::fs::write(manager.file(), text).unwrap();
        }
        let paths = Paths::new(dir.path().join("ours"));
        Self { _dir: dir, paths, manager }
    }

    fn edit(&self, edits: &[Edit]) -> Result<Outcome, ClientError> {
        self.manager.edit(&self.paths, edits, false)
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.manager.file()).unwrap()
    }
}

/// The samples: what people have in the files of each client.
fn sample(id: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/clients/samples");
    let found = ["json", "jsonc", "yaml", "toml"]
        .map(|ending| folder.join(format!("{id}.{ending}")))
        .into_iter()
        .find(|path| path.exists());
    std::fs::read_to_string(found.unwrap_or_else(|| panic!("no sample for {id}"))).unwrap()
}

/// Asserts that all lines of `before` are still there, in order; one may have gained a comma.
fn assert_kept(id: &str, before: &str, after: &str) {
    let mut lines = after.lines();
    for line in before.lines() {
        let comma = line.trim_end_matches('\r').replacen(" //", ", //", 1);
        let same = |new: &str| {
            let (new, line) = (new.trim_end_matches('\r'), line.trim_end_matches('\r'));
            new == line || new == format!("{line},") || new == comma
        };
        assert!(lines.any(same), "{id}: lost {line:?} of\n{after}");
    }
}

#[test]
fn every_client_keeps_what_was_there_and_gets_it_back_when_ours_goes() {
    for client in ALL {
        let before = sample(client.id);
        let home = Home::new(client.id, Some(&before));
        let (time, work) = (server("time"), Target::Profile("work".to_owned()));
        let outcome = home.edit(&[put(&time), put(&work)]).unwrap_or_else(|error| {
            panic!("{}: {error} {:?}", client.id, error.hint());
        });
        let after = home.text();
        assert!(outcome.changed, "{}", client.id);
        assert_eq!(std::fs::read_to_string(outcome.backup.unwrap()).unwrap(), before);
        insta::assert_snapshot!(format!("edited-{}", client.id), after);
        // Files on one line or with nothing in them change their layout; the rest may not.
        if !["roo-code", "trae"].contains(&client.id) {
            assert_kept(client.id, &before, &after);
        }
        assert!(!home.edit(&[put(&time), put(&work)]).unwrap().changed, "{}", client.id);

        let entries = home.manager.entries().unwrap();
        let ours: Vec<_> = entries.iter().filter_map(|entry| entry.target.clone()).collect();
        assert_eq!(ours, [time.clone(), work.clone()], "{}", client.id);
        home.edit(&[Edit::Remove(time.key()), Edit::Remove(work.key())]).unwrap();
        if !["roo-code", "trae", "qwen-cli"].contains(&client.id) {
            assert_eq!(home.text(), before, "{}", client.id);
        }
    }
}

/// The sample of a client with a comment before every line and one behind it; also their texts.
fn commented(client: &Client) -> (String, Vec<String>) {
    let (mut text, mut comments) = (String::new(), Vec::new());
    // The lines of a text of YAML are deeper than its key, and no place for comments.
    let mut inside_of = None;
    for (number, line) in sample(client.id).lines().enumerate() {
        let (note, tail) = (format!("note {number}"), format!("tail {number}"));
        let indent = &line[..line.len() - line.trim_start().len()];
        if inside_of.is_some_and(|depth| indent.len() > depth) {
            text.push_str(&format!("{line}\n"));
            continue;
        }
        let begins = client.format == Format::Yaml && line.ends_with('|');
        inside_of = begins.then_some(indent.len());
        let behind = !begins && !line.trim().is_empty() && !line.contains(['#', '/']);
        let lines = match client.format {
            Format::Json if behind => format!("{indent}// {note}\n{line} /* {tail} */\n"),
            Format::Json => format!("{indent}/* {note} */\n{line}\n"),
            _ if behind => format!("{indent}# {note}\n{line} # {tail}\n"),
            _ => format!("{indent}# {note}\n{line}\n"),
        };
        text.push_str(&lines);
        comments.push(note);
        comments.extend(behind.then_some(tail));
    }
    (text, comments)
}

/// Request 313 of the users of the Python `mcpm`: a file with comments was a broken file.
#[test]
fn every_client_keeps_comments_wherever_they_stand() {
    for client in ALL {
        let (before, comments) = commented(client);
        let home = Home::new(client.id, Some(&before));
        let own = |home: &Home| -> Vec<String> {
            let entries = home.manager.entries().unwrap().into_iter();
            entries.filter(|it| it.target.is_none()).map(|it| it.value.to_string()).collect()
        };
        let others = own(&home);
        let work = Target::Profile("work".to_owned());
        let changed = home.edit(&[put(&server("time")), put(&work)]);
        changed.unwrap_or_else(|error| panic!("{}: {error}\n{before}", client.id));
        let with = home.text();
        let edits = [Edit::Remove(server("time").key()), Edit::Remove(work.key())];
        home.edit(&edits).unwrap_or_else(|error| panic!("{}: {error}\n{with}", client.id));
        for text in [&with, &home.text()] {
            let mut rest = text.as_str();
            for comment in &comments {
                let found = rest.find(comment.as_str());
                let at = found.unwrap_or_else(|| panic!("{}: lost {comment}\n{text}", client.id));
                rest = &rest[at + comment.len()..];
            }
        }
        assert_eq!(own(&home), others, "{}", client.id);
    }
}

/// Defect 22 of the Python `mcpm`: URL entries became local servers without a command, and folders
/// were lost.
#[test]
fn defect_22_every_client_hands_over_its_urls_headers_and_folders() {
    let mut imported = String::new();
    for client in ALL {
        let home = Home::new(client.id, Some(&sample(client.id)));
        for entry in home.manager.entries().unwrap() {
            let foreign = entry.to_foreign();
            let ours = match foreign.server {
                Ok(server) => server.to_entry().to_string(),
                Err(error) => error.to_string(),
            };
            imported.push_str(&format!("{} {}: {ours}", client.id, foreign.name));
            for (what, names) in [("without", foreign.left_out), ("asks", foreign.unanswered)] {
                if !names.is_empty() {
                    imported.push_str(&format!("\n    {what} {}", names.join(", ")));
                }
            }
            imported.push('\n');
        }
    }
    insta::assert_snapshot!("imported", imported);
}

#[test]
fn a_file_that_does_not_exist_is_made_and_a_second_edit_changes_nothing() {
    for client in ALL {
        let home = Home::new(client.id, None);
        let outcome = home.edit(&[put(&server("time"))]).unwrap();
        assert!(outcome.changed && outcome.backup.is_none(), "{}", client.id);
        assert!(home.text().ends_with('\n'), "{}: {:?}", client.id, home.text());
        assert!(!home.edit(&[put(&server("time"))]).unwrap().changed, "{}", client.id);
        let entries = home.manager.entries().unwrap();
        assert_eq!(entries[0].target, Some(server("time")), "{}", client.id);
        home.edit(&[Edit::Remove("mcpm_time".to_owned())]).unwrap();
        assert!(home.manager.entries().unwrap().is_empty(), "{}", client.id);
    }
}

/// Defect of the Python version: a file of VS Code or Codex that did not parse was written anew with
/// our entry only.
#[test]
fn a_file_that_does_not_parse_is_refused_with_a_hint_and_never_replaced() {
    for client in ALL {
        let broken: &[&str] = match client.format {
            super::super::Format::Json => {
                &["{\"mcpServers\": {", "{} {}", "[]", "\"x\"", "{'a': 1}", "{\"a\" 1}", "nonsense"]
            }
            super::super::Format::Yaml => {
                &["a: [", "a: b: c", "- 1\n- 2\n", "a: 1\na: 2\n", "a: 1\n---\nb: 2\n", "a: 'x\n"]
            }
            super::super::Format::Toml => &["[mcp_servers", "a = ", "a = 1\na = 2\n"],
        };
        for text in broken {
            let home = Home::new(client.id, Some(text));
            let error = home.edit(&[put(&server("time"))]).expect_err(text);
            assert!(
                matches!(error, ClientError::Corrupt { .. }),
                "{}: {text:?}: {error}",
                client.id
            );
            assert!(error.hint().unwrap().contains("Repair"), "{error}");
            assert_eq!(home.text(), *text, "{}", client.id);
            assert!(home.manager.entries().is_err(), "{}", client.id);
            let files = std::fs::read_dir(home.manager.file().parent().unwrap()).unwrap().count();
            assert_eq!(files, 1, "{}: something was left beside the file", client.id);
        }
    }
}

#[test]
fn servers_in_the_wrong_form_are_refused() {
    for (id, text) in [
        ("cursor", "{\"mcpServers\": [1]}"),
        ("cursor", "{\"mcpServers\": 5}"),
        ("continue", "mcpServers:\n  a: {}\n"),
        ("goose-cli", "extensions:\n- a\n"),
        ("codex-cli", "mcp_servers = 5\n"),
    ] {
        let home = Home::new(id, Some(text));
        assert!(home.edit(&[put(&server("time"))]).is_err(), "{id}: {text}");
        assert_eq!(home.text(), text);
    }
}

#[test]
fn an_entry_of_the_python_version_is_brought_up_to_date_and_what_the_user_added_stays() {
    let before = r#"{"mcpServers": {
  "mcpm_time": {
    // switched off for now
    "command": "mcpm",
    "args": ["run", "time", "--warm"],
    "disabled": true
  }
}}
"#;
    let home = Home::new("cursor", Some(before));
    home.edit(&[put(&server("time"))]).unwrap();
    assert_eq!(home.text(), before.replace("\"mcpm\"", "\"/opt/bin/mcpm\""));
    assert!(!home.edit(&[put(&server("time"))]).unwrap().changed);

    let before = "mcp_servers.x.command = \"y\"\n[mcp_servers.mcpm_time]\ncommand = \"mcpm\" # bare\nargs = [\"run\", \"time\"]\n";
    let home = Home::new("codex-cli", Some(before));
    home.edit(&[put(&server("time"))]).unwrap();
    assert_eq!(home.text(), before.replace("\"mcpm\"", "\"/opt/bin/mcpm\""));

    let before = "extensions:\n  mcpm_time: # mine\n    enabled: false\n    cmd: mcpm # bare\n    args: [run, time]\n    type: stdio\n    name: mcpm_time\n    description: mcpm_time\n";
    let home = Home::new("goose-cli", Some(before));
    home.edit(&[put(&server("time"))]).unwrap();
    assert_eq!(home.text(), before.replace("cmd: mcpm", "cmd: /opt/bin/mcpm"));
}

#[test]
fn an_entry_that_the_user_renamed_is_not_added_a_second_time() {
    let before = "{\"mcpServers\": {\"clock\": {\"command\": \"/opt/bin/mcpm\", \"args\": [\"run\", \"time\"]}}}";
    let home = Home::new("cursor", Some(before));
    assert!(!home.edit(&[put(&server("time"))]).unwrap().changed);
}

#[test]
fn an_entry_of_somebody_else_is_replaced_only_by_force() {
    let before = "{\"mcpServers\": {\"mcpm_time\": {\"command\": \"uvx\"}}}";
    let home = Home::new("cursor", Some(before));
    let error = home.edit(&[put(&server("time"))]).unwrap_err();
    assert!(matches!(error, ClientError::Taken { .. }), "{error}");
    assert!(error.hint().unwrap().contains("--force"));
    assert_eq!(home.text(), before);
    assert!(home.manager.edit(&home.paths, &[put(&server("time"))], true).unwrap().changed);
    assert_eq!(home.manager.entries().unwrap()[0].target, Some(server("time")));
}

#[test]
fn the_second_version_of_opencode_has_its_servers_one_level_down() {
    let home = Home::new("opencode", Some("{\n  \"mcp\": {\n    \"servers\": {}\n  }\n}\n"));
    home.edit(&[put(&server("time"))]).unwrap();
    let value: Value = serde_json::from_str(&home.text()).unwrap();
    assert_eq!(value["mcp"]["servers"]["mcpm_time"]["command"][1], "run", "{value}");
    // A server of the first version that is called so is a server.
    let first = r#"{"mcp": {"servers": {"type": "local", "command": ["x"]}}}"#;
    let home = Home::new("opencode", Some(first));
    home.edit(&[put(&server("time"))]).unwrap();
    let value: Value = serde_json::from_str(&home.text()).unwrap();
    assert!(value["mcp"]["mcpm_time"].is_object(), "{value}");
}

#[cfg(unix)]
#[test]
fn mode_and_symbolic_link_stay() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = Home::new("cursor", Some("{}"));
    let (file, real) = (home.manager.file(), home.manager.file().with_file_name("real.json"));
    std::fs::rename(file, &real).unwrap();
    std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink("real.json", file).unwrap();
    let outcome = home.edit(&[put(&server("time"))]).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert!(std::fs::symlink_metadata(file).unwrap().is_symlink());
    assert_eq!(mode(&real), 0o640);
    assert_eq!(mode(&outcome.backup.unwrap()), 0o640);
    assert!(std::fs::read_to_string(&real).unwrap().contains("mcpm_time"));

    let home = Home::new("cursor", None);
    home.edit(&[put(&server("time"))]).unwrap();
    assert_eq!(mode(home.manager.file()), 0o600);
}

#[test]
fn a_client_that_writes_meanwhile_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.json");
    std::fs::write(&path, "theirs").unwrap();
    assert!(file::replace(&path, Some("old"), "new", Audience::Owner).unwrap().is_none());
    assert!(file::replace(&path, None, "new", Audience::Owner).unwrap().is_none());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "theirs");
}

#[test]
fn an_unknown_client_suggests_the_nearest_name() {
    let error = ClientConfigManager::open("cursr", &places(Path::new("/x"))).unwrap_err();
    assert_eq!(error.to_string(), "no client named `cursr`");
    assert_eq!(error.hint().unwrap(), "Did you mean `cursor`?");
}

#[test]
fn every_client_has_its_file_where_it_is_on_every_system() {
    let at = |os| Places {
        os,
        home: "/home/ada".into(),
        app_data: (os == Os::Windows).then(|| "/app".into()),
        xdg_config: None,
        project: "/home/ada/code".into(),
        path: Vec::new(),
    };
    let mut table = String::new();
    for client in ALL {
        for os in [Os::Linux, Os::MacOs, Os::Windows] {
            let file = client.file(&at(os)).display().to_string().replace('\\', "/");
            table.push_str(&format!("{:20} {:8} {file}\n", client.id, format!("{os:?}")));
        }
    }
    insta::assert_snapshot!("files-of-clients", table);
    let moved = Places { xdg_config: Some("/xdg".into()), ..at(Os::Linux) };
    let file = |id: &str| Client::find(id).unwrap().file(&moved).display().to_string();
    assert_eq!(file("zed"), "/xdg/zed/settings.json");
    assert_eq!(file("vscode"), "/xdg/Code/User/mcp.json");
    assert_eq!(file("cursor"), "/home/ada/.cursor/mcp.json");
}

#[test]
fn names_of_clients_are_unique() {
    let names: std::collections::HashSet<_> = ALL.iter().map(|client| client.id).collect();
    assert_eq!(names.len(), ALL.len());
    assert_eq!(ALL.len(), 19);
}

#[cfg(unix)]
#[test]
fn the_launcher_is_absolute_and_prefers_a_name_that_outlives_an_update() {
    let dir = tempfile::tempdir().unwrap();
    let root = std::fs::canonicalize(dir.path()).unwrap();
    let (cellar, bin) = (root.join("cellar/3.0/mcpm"), root.join("bin"));
    std::fs::create_dir_all(cellar.parent().unwrap()).unwrap();
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::write(&cellar, "").unwrap();
    let with = |path: &Path| Places { path: vec![path.to_owned()], ..places(&root) };
    assert_eq!(with(&bin).launcher(&cellar), cellar);
    std::fs::write(bin.join("mcpm"), "another program").unwrap();
    assert_eq!(with(&bin).launcher(&cellar), cellar);
    std::fs::remove_file(bin.join("mcpm")).unwrap();
    std::os::unix::fs::symlink(&cellar, bin.join("mcpm")).unwrap();
    assert_eq!(with(&bin).launcher(&cellar), bin.join("mcpm"));
}
