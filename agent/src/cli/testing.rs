//! A home of its own for tests of whole command lines, where nobody can be asked.

use std::process::ExitCode;

use clap::Parser as _;

use super::error::CliError;
use super::ui::Ui;
use super::{Cli, Context, execute};
use crate::fs::Paths;

/// A folder of mcpm's files that goes with the test.
pub(super) struct Home {
    pub(super) paths: Paths,
    _dir: tempfile::TempDir,
}

impl Home {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { paths: Paths::new(dir.path()), _dir: dir }
    }

    pub(super) fn context(&self) -> Context {
        Context { ui: Ui::new(true, false), config_dir: Some(self.paths.dir().to_owned()) }
    }

    /// Runs one command line; what it does not understand is a usage error, as for users.
    pub(super) fn run(&self, args: &[&str]) -> Result<ExitCode, CliError> {
        let cli = Cli::try_parse_from([&["mcpm"], args].concat());
        let cli = cli.map_err(|error| CliError::usage(error.to_string()))?;
        execute(cli.command.unwrap(), &self.context())
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.paths.dir().join(name), text).unwrap();
    }

    pub(super) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.paths.dir().join(name)).unwrap()
    }
}
