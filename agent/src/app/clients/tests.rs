use super::*;
use crate::clients::Os;
use crate::model::Transport;

struct Home {
    _dir: tempfile::TempDir,
    paths: Paths,
    places: Places,
}

const SERVERS: &str = r#"{
  "time": {"command": "uvx", "args": ["mcp-server-time"], "profile_tags": ["work"]},
  "notes": {"command": "uvx", "args": ["notes"]}
}"#;

impl Home {
    fn new(servers: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("ours"));
        std::fs::create_dir_all(paths.dir()).unwrap();
        std::fs::write(paths.servers(), servers).unwrap();
        let places = Places {
            os: Os::Linux,
            home: dir.path().join("home"),
            app_data: None,
            xdg_config: None,
            project: dir.path().join("project"),
            path: Vec::new(),
        };
        Self { _dir: dir, paths, places }
    }

    fn client(&self, id: &str, text: Option<&str>) -> ClientConfigManager {
        let manager = open(id, None, &self.places).unwrap();
        if let Some(text) = text {
            std::fs::create_dir_all(manager.file().parent().unwrap()).unwrap();
            std::fs::write(manager.file(), text).unwrap();
        }
        manager
    }

    fn edit(&self, manager: &ClientConfigManager, servers: Wish, profiles: Wish) -> Edited {
        edit(&self.paths, manager, &servers, &profiles, &launcher(), false).unwrap()
    }

    fn server(&self, name: &str) -> Server {
        GlobalConfigManager::open(&self.paths).unwrap().server(name).unwrap()
    }
}

fn launcher() -> Launcher {
    Launcher { program: "/opt/bin/mcpm".into(), config_dir: None }
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn add(names: &[&str]) -> Wish {
    Wish { add: strings(names), ..Wish::default() }
}

fn remove(names: &[&str]) -> Wish {
    Wish { remove: strings(names), ..Wish::default() }
}

fn set(names: &[&str]) -> Wish {
    Wish { set: Some(strings(names)), ..Wish::default() }
}

fn of_client(manager: &ClientConfigManager) -> Vec<String> {
    manager.entries().unwrap().into_iter().map(|entry| entry.key).collect()
}

const CURSOR: &str = r#"{
  "mcpServers": {
    "crm": {"url": "https://crm.example/mcp", "headers": {"K": "v"}},
    "files": {"command": "npx", "args": ["files"], "cwd": "/srv", "timeout": 5},
    "time": {"command": "other"}
  }
}
"#;

#[test]
fn servers_and_profiles_are_added_set_and_removed_and_others_stay() {
    let home = Home::new(SERVERS);
    let cursor = home.client("cursor", Some(CURSOR));
    let edited = home.edit(&cursor, add(&["time"]), add(&["work"]));
    assert_eq!(edited.added.len(), 2);
    assert_eq!(of_client(&cursor), ["crm", "files", "time", "mcpm_time", "mcpm_profile_work"]);
    assert!(!home.edit(&cursor, add(&["time"]), Wish::default()).outcome.changed);

    let edited = home.edit(&cursor, set(&["notes"]), Wish::default());
    assert_eq!(edited.removed, [Target::Server("time".to_owned())]);
    assert_eq!(of_client(&cursor), ["crm", "files", "time", "mcpm_profile_work", "mcpm_notes"]);

    home.edit(&cursor, remove(&["notes"]), set(&[]));
    assert_eq!(std::fs::read_to_string(cursor.file()).unwrap(), CURSOR);
}

/// Defect of the Python version: an uninstalled server stayed in clients for ever.
#[test]
fn an_entry_whose_server_is_gone_can_be_taken_out() {
    let home = Home::new("{}");
    let text = r#"{"mcpServers": {"mcpm_gone": {"command": "mcpm", "args": ["run", "gone"]}}}"#;
    let cursor = home.client("cursor", Some(text));
    assert_eq!(home.edit(&cursor, remove(&["gone"]), Wish::default()).removed.len(), 1);
    assert!(of_client(&cursor).is_empty());
}

#[test]
fn an_unknown_name_changes_nothing() {
    let home = Home::new(SERVERS);
    let cursor = home.client("cursor", Some(CURSOR));
    for (servers, profiles) in [
        (add(&["time", "tmie"]), Wish::default()),
        (remove(&["zzz"]), Wish::default()),
        (Wish::default(), set(&["zzz"])),
    ] {
        assert!(edit(&home.paths, &cursor, &servers, &profiles, &launcher(), false).is_err());
        assert_eq!(std::fs::read_to_string(cursor.file()).unwrap(), CURSOR);
    }
}

#[test]
fn a_folder_of_our_own_is_told_to_the_client() {
    let home = Home::new(SERVERS);
    let cursor = home.client("cursor", None);
    let launcher = Launcher { config_dir: Some("/etc/mcpm".into()), ..launcher() };
    edit(&home.paths, &cursor, &add(&["time"]), &Wish::default(), &launcher, false).unwrap();
    let text = std::fs::read_to_string(cursor.file()).unwrap();
    assert!(text.contains("\"MCPM_CONFIG_DIR\": \"/etc/mcpm\""), "{text}");
}

fn importing(selection: Selection) -> Import {
    Import { selection, force: false, profile: None, replace: false }
}

/// Defects of the Python version: URL entries became local servers without a command, `cwd` was
/// lost, and names that existed counted as imported.
#[test]
fn import_keeps_urls_headers_and_folders_and_never_overwrites() {
    let home = Home::new(SERVERS);
    let cursor = home.client("cursor", Some(CURSOR));
    let (results, outcome) =
        import(&home.paths, &cursor, &importing(Selection::All), &launcher()).unwrap();
    assert!(!outcome.changed);
    assert!(matches!(results[0].fate, Fate::Imported));
    assert_eq!(results[1].left_out, ["timeout"]);
    assert!(matches!(results[2].fate, Fate::Kept));
    let Transport::Remote { url, headers } = home.server("crm").transport else { panic!() };
    assert_eq!((url.as_str(), headers.len()), ("https://crm.example/mcp", 1));
    let Transport::Stdio { cwd, .. } = home.server("files").transport else { panic!() };
    assert_eq!(cwd, Some("/srv".into()));
    let Transport::Stdio { command, .. } = home.server("time").transport else { panic!() };
    assert_eq!(command, "uvx");
    let (results, _) =
        import(&home.paths, &cursor, &importing(Selection::All), &launcher()).unwrap();
    assert!(matches!(results[0].fate, Fate::Same));
}

#[test]
fn a_named_entry_that_cannot_be_imported_stops_everything() {
    let home = Home::new(SERVERS);
    let cursor = home.client("cursor", Some(CURSOR));
    let before = std::fs::read_to_string(home.paths.servers()).unwrap();
    for names in [&["crm", "time"][..], &["crm", "nobody"]] {
        let wanted = importing(Selection::Names(strings(names)));
        assert!(import(&home.paths, &cursor, &wanted, &launcher()).is_err());
        assert_eq!(std::fs::read_to_string(home.paths.servers()).unwrap(), before);
    }
    let forced = Import { force: true, ..importing(Selection::Names(strings(&["time"]))) };
    import(&home.paths, &cursor, &forced, &launcher()).unwrap();
    // The replaced server hands on its profiles.
    assert_eq!(home.server("time").profile_tags, ["work"]);
}

/// Defect of the Python version: all entries of the client were replaced, also those not chosen.
#[test]
fn only_what_was_imported_is_replaced_in_the_client() {
    let home = Home::new(SERVERS);
    let cursor = home.client("cursor", Some(CURSOR));
    let wanted = Import {
        profile: Some("mine".to_owned()),
        replace: true,
        ..importing(Selection::Names(strings(&["crm"])))
    };
    let (_, outcome) = import(&home.paths, &cursor, &wanted, &launcher()).unwrap();
    assert_eq!(std::fs::read_to_string(outcome.backup.unwrap()).unwrap(), CURSOR);
    assert_eq!(of_client(&cursor), ["files", "time", "mcpm_profile_mine"]);
    assert_eq!(home.server("crm").profile_tags, ["mine"]);

    let wanted = Import { replace: true, ..importing(Selection::Names(strings(&["files"]))) };
    import(&home.paths, &cursor, &wanted, &launcher()).unwrap();
    assert_eq!(of_client(&cursor), ["time", "mcpm_profile_mine", "mcpm_files"]);
}

#[test]
fn parts_of_a_client_are_not_offered_for_import() {
    let home = Home::new("{}");
    let text =
        "extensions:\n  developer:\n    type: builtin\n  x:\n    cmd: uvx\n    type: stdio\n";
    let goose = home.client("goose-cli", Some(text));
    let names: Vec<String> =
        own_entries(&goose).unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, ["x"]);
}

#[test]
fn a_client_that_cannot_be_read_does_not_hide_the_others() {
    let home = Home::new("{}");
    home.client("cursor", Some("{,"));
    home.client("windsurf", Some("{\"mcpServers\": {\"a\": {\"command\": \"x\"}}}"));
    let all = list(&home.places).unwrap();
    let of = |id: &str| all.iter().find(|status| status.client.id == id).unwrap();
    assert!(of("cursor").installed && of("cursor").entries.is_err());
    assert_eq!(of("windsurf").others().collect::<Vec<_>>(), ["a"]);
    assert!(!of("zed").installed && of("zed").entries.is_ok());
}

#[test]
fn a_server_that_a_chosen_profile_has_too_is_found() {
    let home = Home::new(SERVERS);
    let of = |servers: &[&str], profiles: &[&str]| {
        doubled(&home.paths, &strings(servers), &strings(profiles)).unwrap()
    };
    assert_eq!(of(&["notes", "time"], &["work"]), Some(("time".to_owned(), "work".to_owned())));
    assert_eq!(of(&["notes"], &["work"]), None);
}
