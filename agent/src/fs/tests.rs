use super::*;

#[test]
fn reading_creates_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::new(dir.path().join("none"));
    assert!(read(&paths.servers()).unwrap().is_none());
    assert!(!paths.dir().exists());
}

#[test]
fn a_corrupt_file_is_an_error_that_names_it_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.json");
    fs::write(&path, "{,").unwrap();
    let error = read_json::<serde_json::Value>(&path).unwrap_err();
    assert!(error.to_string().contains("x.json"));
    assert!(error.hint().unwrap().contains("Repair"));
}

#[cfg(unix)]
#[test]
fn written_files_belong_to_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep").join("secret.json");
    write_json(&path, &serde_json::json!({"a": 1})).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    assert_eq!(fs::read_to_string(&path).unwrap(), "{\n  \"a\": 1\n}\n");
}

#[cfg(unix)]
#[test]
fn a_symbolic_link_survives_a_write() {
    let dir = tempfile::tempdir().unwrap();
    let (real, link) = (dir.path().join("real"), dir.path().join("link"));
    fs::write(&real, "old").unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    write_private(&link, b"new").unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(&real).unwrap(), "new");
}

#[test]
fn a_lock_excludes_until_it_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.json");
    let held = lock(&path).unwrap();
    let other = File::open(dir.path().join(".x.json.lock")).unwrap();
    assert!(other.try_lock().is_err());
    drop(held);
    assert!(other.try_lock().is_ok());
}

#[test]
fn a_lock_that_is_never_let_go_is_an_error_with_a_hint_and_not_a_wait_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.json");
    let _held = lock(&path).unwrap();
    let error = lock_within(&path, Duration::from_millis(30)).unwrap_err();
    assert!(matches!(error, FsError::Lock { .. }), "{error}");
    assert!(error.hint().unwrap().contains("other mcpm"));
}

#[test]
fn a_byte_order_mark_is_read_over_and_not_written_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.json");
    fs::write(&path, "\u{feff}{\"a\": 1}").unwrap();
    let value: serde_json::Value = read_json(&path).unwrap().unwrap();
    write_json(&path, &value).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"{\n  \"a\": 1\n}\n");
}

#[test]
fn text_that_is_not_utf_8_is_an_error_that_says_how_to_save_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.json");
    // What PowerShell 5 writes: UTF-16, little end first.
    let utf16: Vec<u8> = "\u{feff}{}".encode_utf16().flat_map(|unit| unit.to_le_bytes()).collect();
    fs::write(&path, &utf16).unwrap();
    let error = read_json::<serde_json::Value>(&path).unwrap_err();
    assert!(error.hint().unwrap().contains("as UTF-8"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), utf16);
}

#[test]
fn every_error_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::new(dir.path());
    fs::create_dir(paths.servers()).unwrap();
    assert!(read(&paths.servers()).unwrap_err().hint().is_some());
    assert!(write_private(&paths.servers(), b"x").unwrap_err().hint().is_some());
    fs::write(paths.relays(), "").unwrap();
    let below_a_file = paths.relays().join("x.json");
    assert!(lock(&below_a_file).unwrap_err().hint().is_some());
}
