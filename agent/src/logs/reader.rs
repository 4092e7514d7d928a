//! Reading logs: the last lines, and what comes.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{path, previous};
use crate::fs::{FsError, Paths};

/// How much of a log is read in one go, in bytes.
const CHUNK: u64 = 1024 * 1024;

/// One line of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogLine {
    /// When the server wrote it (RFC 3339); none for a line that is not ours.
    pub at: Option<String>,
    /// What it wrote.
    pub text: String,
}

impl LogLine {
    fn parse(line: &str) -> Self {
        match line.split_once(' ') {
            Some((at, text)) if humantime::parse_rfc3339(at).is_ok() => {
                Self { at: Some(at.to_owned()), text: text.to_owned() }
            }
            _ => Self { at: None, text: line.to_owned() },
        }
    }
}

/// Returns the last lines of a server; none when it has no log.
///
/// # Errors
/// When a log exists that cannot be read.
pub fn last(paths: &Paths, server: &str, count: usize) -> Result<Option<Vec<LogLine>>, FsError> {
    let log = path(paths, server);
    let mut found = false;
    let mut lines = VecDeque::new();
    for file in [previous(&log), log] {
        let bytes = match fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(FsError::Read { path: file, source }),
        };
        found = true;
        for line in String::from_utf8_lossy(&bytes).lines() {
            if lines.len() == count {
                lines.pop_front();
            }
            if count > 0 {
                lines.push_back(LogLine::parse(line));
            }
        }
    }
    Ok(found.then(|| lines.into()))
}

/// Returns what reads the lines that come from now on.
#[must_use]
pub fn follow(paths: &Paths, server: &str) -> Follower {
    let log = path(paths, server);
    let offset = fs::metadata(&log).map_or(0, |file| file.len());
    Follower { log, offset, partial: Vec::new() }
}

/// Reads the lines that came since the last look, over rotations too.
#[derive(Debug)]
pub struct Follower {
    log: PathBuf,
    offset: u64,
    partial: Vec<u8>,
}

impl Follower {
    /// Returns the lines that came since the last look.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn look(&mut self) -> Result<Vec<LogLine>, FsError> {
        let failed = |source| FsError::Read { path: self.log.clone(), source };
        let size = match fs::metadata(&self.log) {
            Ok(file) => file.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(source) => return Err(failed(source)),
        };
        let mut bytes = std::mem::take(&mut self.partial);
        if size < self.offset {
            // The log that we read has become the previous one.
            read_from(&previous(&self.log), &mut self.offset, &mut bytes).map_err(failed)?;
            self.offset = 0;
        }
        read_from(&self.log, &mut self.offset, &mut bytes).map_err(failed)?;
        let end = memchr::memrchr(b'\n', &bytes).map_or(0, |end| end + 1);
        self.partial = bytes.split_off(end);
        Ok(String::from_utf8_lossy(&bytes).lines().map(LogLine::parse).collect())
    }
}

/// Reads on from an offset; a file that is gone has nothing more.
fn read_from(file: &Path, offset: &mut u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    let mut file = match File::open(file) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    file.seek(SeekFrom::Start(*offset))?;
    *offset += u64::try_from(file.take(CHUNK).read_to_end(bytes)?).unwrap_or(0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, Paths, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        fs::create_dir(paths.logs()).unwrap();
        let log = path(&paths, "x");
        (dir, paths, log)
    }

    fn texts(lines: &[LogLine]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn the_last_lines_reach_into_the_previous_log() {
        let (_dir, paths, log) = place();
        assert_eq!(last(&paths, "x", 5).unwrap(), None);
        fs::write(previous(&log), "2026-11-21T05:00:00.000Z a\nold b\n").unwrap();
        fs::write(&log, "2026-11-21T05:00:01.000Z c d\n").unwrap();
        let lines = last(&paths, "x", 2).unwrap().unwrap();
        assert_eq!(texts(&lines), ["old b", "c d"]);
        assert_eq!(lines[0].at, None);
        assert_eq!(lines[1].at.as_deref(), Some("2026-11-21T05:00:01.000Z"));
        assert_eq!(last(&paths, "x", 0).unwrap(), Some(Vec::new()));
    }

    #[test]
    fn a_follower_sees_whole_lines_across_a_rotation() {
        let (_dir, paths, log) = place();
        fs::write(&log, "old line that was there\n").unwrap();
        let mut follower = follow(&paths, "x");
        assert_eq!(follower.look().unwrap(), []);
        fs::write(&log, "old line that was there\none\ntw").unwrap();
        assert_eq!(texts(&follower.look().unwrap()), ["one"]);
        fs::write(&log, "old line that was there\none\ntwo\nthree\n").unwrap();
        fs::rename(&log, previous(&log)).unwrap();
        fs::write(&log, "four\n").unwrap();
        assert_eq!(texts(&follower.look().unwrap()), ["two", "three", "four"]);
        assert_eq!(follower.look().unwrap(), []);
    }

    #[test]
    fn a_follower_waits_for_a_log_that_is_not_there_yet() {
        let (_dir, paths, log) = place();
        let mut follower = follow(&paths, "x");
        assert_eq!(follower.look().unwrap(), []);
        fs::write(&log, "first\n").unwrap();
        assert_eq!(texts(&follower.look().unwrap()), ["first"]);
    }
}
