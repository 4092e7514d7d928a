//! Tests of the persisted catalogue.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::model::{Server, Transport, Vars};

struct Here {
    _dir: tempfile::TempDir,
    catalog: Catalog,
}

fn here() -> Here {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(&Paths::new(dir.path()));
    Here { _dir: dir, catalog }
}

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

fn entry(server: &str) -> Entry {
    let env = Vars::default().with("KEY", "s3cret");
    let transport = Transport::Stdio { command: "x".to_owned(), args: Vec::new(), env, cwd: None };
    Entry {
        identity: Identity::of(&Server::new(server, transport)),
        legacy: None,
        modern: Some(Side {
            opened: raw(r#"{"capabilities" : {"tools":{}},"n":12345678901234567890123}"#),
            asked: Some("2025-11-25".to_owned()),
            told: None,
            lists: Lists {
                tools: Some(vec![raw(r#"{"name": "a", "x":1e400}"#), raw(r#"{"name":"b"}"#)]),
                prompts: Some(Vec::new()),
                ..Lists::default()
            },
        }),
        only: Some(Era::Modern),
        saved_at: 0,
    }
}

fn side(entry: &mut Entry) -> &mut Side {
    entry.modern.as_mut().unwrap()
}

fn path(here: &Here, entry: &Entry) -> PathBuf {
    here.catalog.path(&entry.identity)
}

#[test]
fn what_is_saved_is_loaded_byte_for_byte() {
    let here = here();
    let entry = entry("s");
    assert!(here.catalog.load(&entry.identity).is_none());
    assert!(here.catalog.save(&entry).unwrap());
    let loaded = here.catalog.load(&entry.identity).unwrap();
    assert_eq!(loaded.identity, entry.identity);
    assert_eq!(loaded.only, Some(Era::Modern));
    assert!(loaded.legacy.is_none());
    let (modern, before) = (loaded.modern.unwrap(), entry.modern.unwrap());
    assert_eq!(modern.opened.get(), before.opened.get());
    let texts = |lists: &Lists| -> Vec<String> {
        lists.tools.iter().flatten().map(|item| item.get().to_owned()).collect()
    };
    assert_eq!(texts(&modern.lists), texts(&before.lists));
    assert!(modern.lists.prompts.unwrap().is_empty(), "asked, and empty");
    assert!(modern.lists.resources.is_none(), "never asked");
    assert!(loaded.saved_at > 1_600_000_000);
}

#[test]
fn looking_makes_no_folder() {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::new(dir.path().join("none"));
    assert!(Catalog::open(&paths).load(&entry("s").identity).is_none());
    assert!(!paths.dir().exists());
}

#[test]
fn the_file_has_a_shape_that_the_next_release_reads() {
    let here = here();
    let entry = entry("s");
    here.catalog.save(&entry).unwrap();
    let text = fs::read_to_string(path(&here, &entry)).unwrap();
    let start = concat!(
        r#"{"version":2,"server":"s","modern":{"#,
        r#""opened":{"capabilities" : {"tools":{}},"n":12345678901234567890123},"#,
        r#""asked":"2025-11-25","lists":{"tools":[{"name": "a", "x":1e400},{"name":"b"}],"prompts":[]}},"only":"modern","saved_at":"#
    );
    assert!(text.starts_with(start), "{text}");
}

#[test]
fn that_a_server_speaks_one_era_only_is_tried_again_after_a_day() {
    let here = here();
    let entry = entry("s");
    here.catalog.save(&entry).unwrap();
    let path = path(&here, &entry);
    let text = fs::read_to_string(&path).unwrap();
    let (start, _) = text.split_once(r#""saved_at":"#).unwrap();
    fs::write(&path, format!("{start}\"saved_at\":{}}}", now() - ONLY_FOR - 1)).unwrap();
    let loaded = here.catalog.load(&entry.identity).unwrap();
    assert_eq!(loaded.only, None);
    assert!(loaded.modern.is_some());
    assert!(here.catalog.save(&entry).unwrap());
    assert_eq!(here.catalog.load(&entry.identity).unwrap().only, Some(Era::Modern));
}

#[cfg(unix)]
#[test]
fn the_file_is_its_owners_alone_and_holds_no_value_of_a_variable() {
    use std::os::unix::fs::PermissionsExt as _;
    let here = here();
    let entry = entry("s");
    here.catalog.save(&entry).unwrap();
    let path = path(&here, &entry);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!fs::read_to_string(&path).unwrap().contains("s3cret"));
}

#[test]
fn only_a_real_difference_is_written() {
    let here = here();
    let mut entry = entry("s");
    assert!(here.catalog.save(&entry).unwrap());
    side(&mut entry).opened = raw(r#"{"n":12345678901234567890123,"capabilities":{"tools":{}}}"#);
    assert!(!here.catalog.save(&entry).unwrap(), "the order of members is none");
    side(&mut entry).opened = raw(r#"{"n":12345678901234567890124,"capabilities":{"tools":{}}}"#);
    assert!(here.catalog.save(&entry).unwrap(), "a number beyond a float is one");
    side(&mut entry).lists.tools.as_mut().unwrap().reverse();
    assert!(here.catalog.save(&entry).unwrap(), "the order of items is one");
    side(&mut entry).lists.resources = Some(Vec::new());
    assert!(here.catalog.save(&entry).unwrap(), "having asked is one");
    entry.only = None;
    assert!(here.catalog.save(&entry).unwrap(), "what it does not speak is one");
    entry.legacy = entry.modern.take();
    assert!(here.catalog.save(&entry).unwrap(), "the era is one");
    assert!(!here.catalog.save(&entry).unwrap());
}

#[test]
fn a_file_that_cannot_be_used_counts_as_absent_and_is_written_anew() {
    let here = here();
    let entry = entry("s");
    here.catalog.save(&entry).unwrap();
    let path = path(&here, &entry);
    let good = fs::read_to_string(&path).unwrap();
    let bad = [
        String::new(),
        "{,".to_owned(),
        good[..good.len() / 2].to_owned(),
        good.replace("\"version\":2", "\"version\":3"),
        good.replace("\"server\":\"s\"", "\"server\":\"t\""),
        good.replace("\"only\":\"modern", "\"only\":\"future"),
    ];
    for text in bad {
        fs::write(&path, &text).unwrap();
        assert!(here.catalog.load(&entry.identity).is_none(), "{text}");
        assert!(here.catalog.save(&entry).unwrap());
        assert!(here.catalog.load(&entry.identity).is_some());
    }
}

#[test]
fn a_catalogue_beyond_the_bound_is_neither_kept_nor_read() {
    let here = here();
    let mut entry = entry("s");
    let huge = "x".repeat(usize::try_from(MAX_BYTES).unwrap());
    side(&mut entry).lists.tools = Some(vec![raw(&json!({"name": "a", "x": huge}).to_string())]);
    assert!(!here.catalog.save(&entry).unwrap());
    let path = path(&here, &entry);
    assert!(!path.exists());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, " ".repeat(usize::try_from(MAX_BYTES).unwrap() + 1)).unwrap();
    assert!(here.catalog.load(&entry.identity).is_none());
}

#[test]
fn the_oldest_files_go_and_what_is_not_ours_stays() {
    let here = here();
    let entries: Vec<Entry> = (0..5).map(|n| entry(&format!("s{n}"))).collect();
    for (age, entry) in entries.iter().enumerate() {
        here.catalog.save(entry).unwrap();
        let file = fs::File::options().write(true).open(path(&here, entry)).unwrap();
        let modified = SystemTime::now() - Duration::from_secs(60 * (10 - age as u64));
        file.set_modified(modified).unwrap();
    }
    let other = here.catalog.dir.join("notes.json");
    fs::write(&other, "{}").unwrap();
    // The first one is the oldest, but it is the one that was just written.
    here.catalog.prune(&path(&here, &entries[0]), 3);
    let kept: Vec<bool> = entries.iter().map(|entry| path(&here, entry).exists()).collect();
    assert_eq!(kept, [true, false, false, true, true]);
    assert!(other.exists());
}
