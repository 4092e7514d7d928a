//! What servers write to stderr, kept in one bounded log per server below `logs/`.
//!
//! Lines come from the hot path through a bounded queue and are written beside it. A log has a
//! size limit and one predecessor. Reading never writes.

pub mod raw;
mod reader;
mod writer;

use std::fmt::Write as _;
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

pub use self::reader::{Follower, LogLine, follow, last};
pub use self::writer::{LogWriter, Logs, channel};
use crate::fs::Paths;

/// Longest name of a server that is a file's name as it is; with its ending it fits everywhere.
const MAX_NAME: usize = 100;

/// Returns the log of a server.
#[must_use]
pub fn path(paths: &Paths, server: &str) -> PathBuf {
    paths.logs().join(format!("{}.log", file_name(server)))
}

/// Returns the log before the current one.
fn previous(log: &std::path::Path) -> PathBuf {
    log.with_extension("log.1")
}

/// Makes a file's name of a server's: what could mean something to a file system is `%XX`.
fn file_name(server: &str) -> String {
    let mut name = String::new();
    for byte in server.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(byte.into()),
            b'.' if !name.is_empty() => name.push('.'),
            byte => {
                let _fits = write!(name, "%{byte:02X}");
            }
        }
    }
    if name.len() <= MAX_NAME {
        return name;
    }
    name.truncate(MAX_NAME - 17);
    let hash = Sha256::digest(server.as_bytes());
    name.push('-');
    for byte in &hash[..8] {
        let _fits = write!(name, "{byte:02x}");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_name_cannot_leave_the_folder() {
        assert_eq!(file_name("time"), "time");
        assert_eq!(file_name("@scope/server.js"), "%40scope%2Fserver.js");
        assert_eq!(file_name("../../x"), "%2E.%2F..%2Fx");
        assert_eq!(file_name("é"), "%C3%A9");
        let (a, b) = (file_name(&"a".repeat(300)), file_name(&"a".repeat(301)));
        assert!(a.len() == MAX_NAME && b.len() == MAX_NAME && a != b);
    }
}
