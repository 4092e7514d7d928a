//! Where things are in the working tree.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The workspace on disk.
pub(crate) struct Tree {
    /// The folder of the workspace's `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Where cargo puts what it builds; the peers and logs live below it too.
    pub(crate) target: PathBuf,
}

impl Tree {
    /// Finds the workspace that this program was built from.
    pub(crate) fn locate() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .nth(2)
            .expect("the crate lies two folders below the root")
            .to_path_buf();
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => root.join(dir),
            None => root.join("target"),
        };
        Self { root, target }
    }

    /// The folder that holds what `cargo xtask peers` installs.
    pub(crate) fn peers(&self) -> PathBuf {
        self.target.join("peers")
    }

    /// A command that runs at the root, with no standard input.
    pub(crate) fn command(&self, program: impl Into<OsString>, args: &[&str]) -> Command {
        let mut command = Command::new(program.into());
        command.args(args).current_dir(&self.root).stdin(Stdio::null());
        command
    }

    /// A cargo command that sees the environment as if it was started by hand.
    ///
    /// `cargo run` tells this program about its own package; build scripts that watch those variables (ring does) would
    /// be run again at every change between `cargo xtask` and a plain `cargo`. In CI nothing is built twice, so what
    /// makes a second build fast is left out: it is gigabytes.
    pub(crate) fn cargo(&self, args: &[&str]) -> Command {
        let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = self.command(program, args);
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
                command.env_remove(&name);
            }
        }
        if env::var_os("CI").is_some() && env::var_os("CARGO_INCREMENTAL").is_none() {
            command.env("CARGO_INCREMENTAL", "0");
        }
        command
    }
}

/// Tells whether a program can be started at all, by asking for its version; some do not know that word and say so.
pub(crate) fn has(program: impl Into<OsString>) -> bool {
    let mut command = Command::new(program.into());
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // What lacks a library of its own ends as what is not there.
    command.status().is_ok_and(|status| status.code().is_some_and(|code| code != 127))
}
