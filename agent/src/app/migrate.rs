//! Moving from mcpm 1: looks first, keeps everything, then moves.

use std::path::PathBuf;
use std::time::SystemTime;

use crate::config::ConfigError;
use crate::config::v1::{Migrated, V1};
use crate::fs::Paths;

/// What there is to move.
#[derive(Debug)]
pub struct Migration {
    found: V1,
    /// What would become of it.
    pub plan: Migrated,
}

impl Migration {
    /// Looks for files of mcpm 1, and changes nothing.
    ///
    /// # Errors
    /// When a file cannot be read or parsed.
    pub fn find(paths: &Paths, restore: bool) -> Result<Option<Self>, ConfigError> {
        let Some(found) = V1::find(paths)? else { return Ok(None) };
        let plan = found.plan(paths, restore)?;
        Ok(Some(Self { found, plan }))
    }

    /// Moves everything; returns what was done and where the old files are.
    ///
    /// # Errors
    /// When a file cannot be read or written; the next run goes on then.
    pub fn run(self, paths: &Paths, restore: bool) -> Result<(Migrated, PathBuf), ConfigError> {
        let backup = paths.backups().join(format!("v1_migration_{}", stamp(SystemTime::now())));
        Ok((self.found.migrate(paths, &backup, restore)?, backup))
    }
}

/// Returns `YYYYmmdd_HHMMSS`, in UTC.
fn stamp(now: SystemTime) -> String {
    let text = humantime::format_rfc3339_seconds(now).to_string();
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    format!("{}_{}", &digits[..8], &digits[8..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backups_are_called_after_their_time() {
        assert_eq!(stamp(SystemTime::UNIX_EPOCH), "19700101_000000");
    }

    #[test]
    fn a_home_of_mcpm_2_has_nothing_to_move() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        std::fs::write(paths.settings(), r#"{"node_executable": "bunx"}"#).unwrap();
        assert!(Migration::find(&paths, false).unwrap().is_none());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
