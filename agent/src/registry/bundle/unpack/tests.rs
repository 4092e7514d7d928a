use std::io::Cursor;

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::*;

const MANIFEST: &str = r#"{"manifest_version": "0.3", "name": "x"}"#;

/// Writes a bundle with these files, as a stranger might: names and modes are not checked.
fn bundle(files: &[(&str, &[u8], u32)]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.mcpb");
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes, mode) in files {
        let options = SimpleFileOptions::default().unix_permissions(*mode);
        zip.start_file(*name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    std::fs::write(&path, zip.finish().unwrap().into_inner()).unwrap();
    (dir, path)
}

/// Names in the file are of the same length as what they become: the writer would not write these.
fn renamed(files: &[(&str, &[u8], u32)], from: &str, to: &str) -> (tempfile::TempDir, PathBuf) {
    assert_eq!(from.len(), to.len());
    let (dir, path) = bundle(files);
    let mut bytes = std::fs::read(&path).unwrap();
    let places: Vec<usize> = (0..bytes.len() - from.len())
        .filter(|at| bytes[*at..].starts_with(from.as_bytes()))
        .collect();
    assert!(places.len() >= 2, "the name stands at the file and in the directory");
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

fn refused(dir: &Path, path: &Path) -> String {
    let into = dir.join("bundles").join("x");
    let error = unpack(path, &into).unwrap_err();
    assert!(matches!(error, BundleError::Unsafe { .. }), "{error}");
    assert!(!into.exists());
    // Not even a draft is left, and nothing landed beside it.
    assert_eq!(std::fs::read_dir(dir.join("bundles")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 2);
    error.to_string()
}

#[test]
fn a_bundle_is_unpacked_as_a_whole_and_programs_stay_programs() {
    let files: &[(&str, &[u8], u32)] = &[
        ("manifest.json", MANIFEST.as_bytes(), 0o644),
        ("bin/run", b"#!", 0o755),
        ("a/b/c.js", b"1", 0o666),
    ];
    let (dir, path) = bundle(files);
    let into = dir.path().join("bundles").join("x");
    unpack(&path, &into).unwrap();
    assert_eq!(std::fs::read(into.join("a/b/c.js")).unwrap(), b"1");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode =
            |name: &str| std::fs::metadata(into.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("bin/run"), mode("a/b/c.js"), mode("a")), (0o700, 0o600, 0o700));
    }
    assert_eq!(read_manifest(&path).unwrap()["name"], "x");
}

#[test]
fn an_older_bundle_is_replaced_only_by_a_good_one() {
    let (dir, good) = bundle(&[("new.js", b"2", 0o644)]);
    let into = dir.path().join("bundles").join("x");
    std::fs::create_dir_all(&into).unwrap();
    std::fs::write(into.join("old.js"), "1").unwrap();
    let (_bad_dir, bad) = renamed(&[("new.js", b"2", 0o644)], "new.js", "../x.j");
    assert!(unpack(&bad, &into).is_err());
    assert!(into.join("old.js").exists());
    unpack(&good, &into).unwrap();
    assert!(into.join("new.js").exists() && !into.join("old.js").exists());
    assert_eq!(std::fs::read_dir(into.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn names_that_lead_out_of_the_folder_are_refused() {
    for (from, to) in [
        ("aaaaaaaaa", "../escape"),
        ("aaa/bbbbb", "a/../../b"),
        ("aaaaaaaaa", "/etc/cron"),
        ("aaaaaaaaa", "..\\escape"),
        ("aaaaaaaaa", "C:\\x\\y.js"),
        ("aaaaaaaaa", "c:escape."),
    ] {
        let from = &from[..to.len().min(from.len())];
        let to = &to[..from.len()];
        let (dir, path) = renamed(&[("ok.js", b"1", 0o644), (from, b"2", 0o644)], from, to);
        refused(dir.path(), &path);
    }
    for name in ["", "..", "./..", "a\0b", "a\nb", &"a/".repeat(600)] {
        assert!(inside(name).is_err(), "{name:?}");
    }
    assert_eq!(inside("a/./b").unwrap(), Path::new("a/b"));
}

#[test]
fn links_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.mcpb");
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    zip.add_symlink("out", "/etc", SimpleFileOptions::default()).unwrap();
    zip.start_file("out/passwd", SimpleFileOptions::default()).unwrap();
    zip.write_all(b"x").unwrap();
    std::fs::write(&path, zip.finish().unwrap().into_inner()).unwrap();
    assert!(refused(dir.path(), &path).contains("neither"));
}

#[test]
fn names_that_are_one_file_on_some_systems_are_refused() {
    let (dir, path) = bundle(&[("a.js", b"1", 0o644), ("A.js", b"2", 0o644)]);
    assert!(refused(dir.path(), &path).contains("twice"));
}

#[test]
fn a_bundle_that_would_fill_the_disk_is_refused() {
    // A few bytes that unpack to a million.
    let (dir, path) = bundle(&[("bomb", &vec![0; 1_000_000], 0o644)]);
    assert!(std::fs::metadata(&path).unwrap().len() < 10_000);
    let into = dir.path().join("bundles").join("x");
    let error = unpack_within(&path, &into, 999_999).unwrap_err();
    assert!(matches!(error, BundleError::Unsafe { reason: "is too long", .. }), "{error}");
    assert_eq!(std::fs::read_dir(into.parent().unwrap()).unwrap().count(), 0);
    unpack_within(&path, &into, 1_000_000).unwrap();
}

#[test]
fn what_is_damaged_or_no_bundle_is_said_to_be_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.mcpb");
    assert!(matches!(read_manifest(&path), Err(BundleError::Read { .. })));
    std::fs::write(&path, "not a zip").unwrap();
    assert!(matches!(read_manifest(&path), Err(BundleError::Damaged { .. })));
    let (_dir, path) = bundle(&[("other.json", b"{}", 0o644)]);
    assert!(read_manifest(&path).unwrap_err().to_string().contains("no manifest.json"));
    let (_dir, path) = bundle(&[("manifest.json", b"{,", 0o644)]);
    assert!(read_manifest(&path).is_err());
    let long = vec![b' '; 1024 * 1024 + 1];
    let (_dir, path) = bundle(&[("manifest.json", &long, 0o644)]);
    assert!(read_manifest(&path).unwrap_err().to_string().contains("too long"));
}

#[test]
fn a_checksum_is_compared_in_any_case_of_letters() {
    let (_dir, path) = bundle(&[("manifest.json", b"{}", 0o644)]);
    let found = sha256_of(&path).unwrap();
    let hex: String = found.iter().map(|byte| format!("{byte:02X}")).collect();
    check_sha256(&found, &hex).unwrap();
    assert!(matches!(check_sha256(&found, "00"), Err(BundleError::Checksum { .. })));
}
