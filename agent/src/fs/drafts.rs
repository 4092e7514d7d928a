//! Files and folders that are not finished yet, and those that nobody will ever finish.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

/// How the names of files begin that are not finished yet.
pub(crate) const DRAFT: &str = ".mcpm-";
/// How old such a file is when nobody will ever finish it. To write one takes milliseconds; who
/// downloads one writes to it all the time.
const ABANDONED: Duration = Duration::from_secs(60);
/// The same for a folder: nothing shows that somebody works deep inside of it.
const ABANDONED_FOLDER: Duration = Duration::from_secs(24 * 60 * 60);

/// Makes a file for its owner alone that gets its name when it is finished, and removes those that
/// a process began and did not live to finish.
pub(crate) fn draft_in(dir: &Path) -> io::Result<tempfile::NamedTempFile> {
    sweep(dir);
    tempfile::Builder::new().prefix(DRAFT).tempfile_in(dir)
}

/// Removes files and folders that nobody will ever finish. What cannot be removed stays: the next
/// one who writes there tries again.
pub(crate) fn sweep(dir: &Path) {
    for draft in drafts(dir) {
        // Of a link itself: where it leads is not ours.
        let Ok(about) = fs::symlink_metadata(&draft) else { continue };
        let age = about.modified().ok().and_then(|time| time.elapsed().ok()).unwrap_or_default();
        let _stays = match about.is_dir() {
            true if age > ABANDONED_FOLDER => fs::remove_dir_all(&draft),
            false if age > ABANDONED => fs::remove_file(&draft),
            _ => Ok(()),
        };
    }
}

/// Returns what is not finished in a folder; nothing where it cannot be listed.
///
/// Without a buffer on the heap: whoever begins a file lists its folder, and each thread that ever does
/// would leave 32 KiB by glibc, and half as much again as the whole list where there are hundreds.
#[cfg(target_os = "linux")]
fn drafts(dir: &Path) -> Vec<PathBuf> {
    use rustix::fs::{Mode, OFlags, RawDir, open};
    use std::ffi::OsStr;
    use std::mem::MaybeUninit;
    use std::os::unix::ffi::OsStrExt as _;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(folder) = open(dir, flags, Mode::empty()) else { return Vec::new() };
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let (mut listed, mut drafts) = (RawDir::new(folder, &mut buffer), Vec::new());
    while let Some(Ok(entry)) = listed.next() {
        let name = entry.file_name().to_bytes();
        if name.starts_with(DRAFT.as_bytes()) {
            drafts.push(dir.join(OsStr::from_bytes(name)));
        }
    }
    drafts
}

#[cfg(not(target_os = "linux"))]
fn drafts(dir: &Path) -> Vec<PathBuf> {
    let Ok(listed) = fs::read_dir(dir) else { return Vec::new() };
    let is_draft =
        |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(DRAFT.as_bytes());
    listed.flatten().filter(is_draft).map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::super::write_private;
    use super::*;

    #[test]
    fn what_a_dead_process_began_is_removed_by_the_next_one_who_writes() {
        let dir = tempfile::tempdir().unwrap();
        let begun = |name: &str, age: Duration| {
            let path = dir.path().join(name);
            let file = File::create(&path).unwrap();
            file.set_modified(std::time::SystemTime::now() - age).unwrap();
            path
        };
        let old = begun(".mcpm-old", ABANDONED * 2);
        let young = begun(".mcpm-young", Duration::ZERO);
        let other = begun("mine.tmp", ABANDONED * 2);
        write_private(&dir.path().join("x.json"), b"{}").unwrap();
        assert!(!old.exists() && young.exists() && other.exists());
    }

    #[test]
    fn drafts_are_found_among_more_than_is_listed_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        for index in 0..500 {
            let prefix = if index % 100 == 99 { DRAFT } else { "share-" };
            File::create(dir.path().join(format!("{prefix}{index}"))).unwrap();
        }
        let mut found = drafts(dir.path());
        found.sort();
        let expected = [199, 299, 399, 499, 99].map(|at| dir.path().join(format!(".mcpm-{at}")));
        assert_eq!(found, expected);
        assert!(drafts(&dir.path().join("none")).is_empty());
    }
}
