//! The MCP Inspector, a program from npm, on a server or a profile of ours.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The package of the Inspector.
const PACKAGE: &str = "@modelcontextprotocol/inspector";

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// One server.
    Server(String),
    /// The servers of a profile as one.
    Profile(String),
    /// Whatever its user types in.
    Nothing,
}

/// A program and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// The program.
    pub program: String,
    /// Its arguments.
    pub args: Vec<OsString>,
}

impl Invocation {
    /// Returns program and arguments as text.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let args = self.args.iter().map(|arg| arg.to_string_lossy().into_owned());
        std::iter::once(self.program.clone()).chain(args).collect()
    }
}

/// Returns how to start the Inspector on `mcpm run`, where `mcpm` is this program: another one of
/// the name may come first in `PATH`, or none. The folder of our files goes along when it is not
/// the usual one.
#[must_use]
pub fn inspector(subject: &Subject, mcpm: &Path, config_dir: Option<&Path>) -> Invocation {
    let npx = if cfg!(windows) { "npx.cmd" } else { "npx" };
    let mut args: Vec<OsString> = vec!["-y".into(), PACKAGE.into()];
    let words: &[&str] = match subject {
        Subject::Server(name) => &["run", name],
        Subject::Profile(name) => &["profile", "run", name],
        Subject::Nothing => &[],
    };
    if !words.is_empty() {
        if let Some(dir) = config_dir {
            let mut setting = OsString::from("MCPM_CONFIG_DIR=");
            setting.push(dir);
            args.extend(["-e".into(), setting]);
        }
        args.extend(["--".into(), mcpm.into()]);
        args.extend(words.iter().map(OsString::from));
    }
    Invocation { program: npx.to_owned(), args }
}

/// Finds a program the way a shell does.
#[must_use]
pub fn find(program: &str, folders: &std::ffi::OsStr) -> Option<PathBuf> {
    std::env::split_paths(folders).map(|folder| folder.join(program)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(subject: &Subject, dir: Option<&str>) -> String {
        let made = inspector(subject, Path::new("/opt/mcpm"), dir.map(Path::new));
        made.words()[1..].join(" ")
    }

    #[test]
    fn the_inspector_runs_this_mcpm_with_its_files() {
        let server = Subject::Server("time".to_owned());
        let start = "-y @modelcontextprotocol/inspector";
        assert_eq!(words(&server, None), format!("{start} -- /opt/mcpm run time"));
        let with = format!("{start} -e MCPM_CONFIG_DIR=/x -- /opt/mcpm run time");
        assert_eq!(words(&server, Some("/x")), with);
        let profile = Subject::Profile("work".to_owned());
        assert_eq!(words(&profile, None), format!("{start} -- /opt/mcpm profile run work"));
        assert_eq!(words(&Subject::Nothing, Some("/x")), start);
    }

    #[test]
    fn programs_are_found_on_the_path_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("npx"), "").unwrap();
        let path = std::env::join_paths([Path::new("/none"), dir.path()]).unwrap();
        assert_eq!(find("npx", &path), Some(dir.path().join("npx")));
        assert_eq!(find("uvx", &path), None);
    }
}
