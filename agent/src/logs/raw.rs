//! Logs that a process writes to by itself, as its stderr. It cannot change files, so what is too
//! much is copied away and cut off.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use super::previous;
use crate::fs::create_private_dir;

/// Largest log, in bytes; with its predecessor it is twice that.
const MAX_SIZE: u64 = 1024 * 1024;

/// Opens a log for a process to write to. Each write goes to the end, wherever that is by then.
///
/// # Errors
/// When it cannot be made.
pub fn open(log: &Path) -> io::Result<File> {
    if let Some(dir) = log.parent() {
        create_private_dir(dir)?;
    }
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(log)
}

/// Makes a log that has grown too large the previous one. To be called now and then; a line that is
/// written meanwhile may be lost.
///
/// # Errors
/// When it cannot be copied or cut off.
pub fn trim(log: &Path) -> io::Result<()> {
    trim_to(log, MAX_SIZE)
}

fn trim_to(log: &Path, max_size: u64) -> io::Result<()> {
    match fs::metadata(log) {
        Ok(file) if file.len() > max_size => {}
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    // The copy gets the permissions too.
    fs::copy(log, previous(log))?;
    OpenOptions::new().write(true).open(log)?.set_len(0)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_log_that_is_written_to_is_cut_off_under_its_writer() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("logs").join("x.log");
        let mut writer = open(&log).unwrap();
        writer.write_all(b"one\ntwo\n").unwrap();
        trim_to(&log, 8).unwrap();
        assert!(!previous(&log).exists());
        writer.write_all(b"three\n").unwrap();
        trim_to(&log, 8).unwrap();
        writer.write_all(b"four\n").unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), "four\n");
        assert_eq!(fs::read_to_string(previous(&log)).unwrap(), "one\ntwo\nthree\n");
        trim(&dir.path().join("none.log")).unwrap();
        #[cfg(unix)]
        for file in [previous(&log), log] {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }
}
