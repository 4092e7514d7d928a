//! The MCP Inspector, a program from npm, on a server or a profile of ours.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The package of the Inspector.
const PACKAGE: &str = "@modelcontextprotocol/inspector";

/// What starts programs of npm packages.
const NPX: &str = if cfg!(windows) { "npx.cmd" } else { "npx" };

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// One server.
    Server(String),
    /// The servers of a profile as one, or only those of them that are named.
    Profile(String, Vec<String>),
    /// Whatever its user types in.
    Nothing,
}

impl Subject {
    /// Returns the words by which mcpm runs it; none for nothing.
    fn words(&self) -> Vec<String> {
        match self {
            Self::Server(name) => vec!["run".to_owned(), name.clone()],
            Self::Profile(name, only) => {
                let mut words = vec!["profile".to_owned(), "run".to_owned(), name.clone()];
                if !only.is_empty() {
                    words.push(format!("--server={}", only.join(",")));
                }
                words
            }
            Self::Nothing => Vec::new(),
        }
    }
}

/// How the Inspector reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    /// It starts `mcpm run` and talks to it over stdio.
    Stdio,
    /// Over Streamable HTTP.
    Http,
    /// Over HTTP+SSE.
    Sse,
}

impl Face {
    /// Returns the word that both mcpm and the Inspector have for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Stdio => "stdio",
            Self::Http => "http",
            Self::Sse => "sse",
        }
    }
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
    let mut args: Vec<OsString> = vec!["-y".into(), PACKAGE.into()];
    let words = subject.words();
    if !words.is_empty() {
        if let Some(dir) = config_dir {
            let mut setting = OsString::from("MCPM_CONFIG_DIR=");
            setting.push(dir);
            args.extend(["-e".into(), setting]);
        }
        args.extend(["--".into(), mcpm.into()]);
        args.extend(words.iter().map(OsString::from));
    }
    Invocation { program: NPX.to_owned(), args }
}

/// Returns how to start the Inspector on what is served at a URL.
#[must_use]
pub fn inspector_at(url: &str, face: Face) -> Invocation {
    let args = ["-y", PACKAGE, "--transport", face.word(), "--server-url", url];
    Invocation { program: NPX.to_owned(), args: args.map(OsString::from).to_vec() }
}

/// Returns how to serve the subject over HTTP, for the Inspector.
#[must_use]
pub fn server(subject: &Subject, mcpm: &Path, config_dir: Option<&Path>, face: Face) -> Invocation {
    let mut args: Vec<OsString> = Vec::new();
    if let Some(dir) = config_dir {
        args.extend(["--config-dir".into(), dir.into()]);
    }
    args.extend(subject.words().into_iter().map(OsString::from));
    args.push(format!("--{}", face.word()).into());
    Invocation { program: mcpm.display().to_string(), args }
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
        let profile = Subject::Profile("work".to_owned(), Vec::new());
        assert_eq!(words(&profile, None), format!("{start} -- /opt/mcpm profile run work"));
        let some = Subject::Profile("work".to_owned(), vec!["a".to_owned(), "b".to_owned()]);
        let with = format!("{start} -- /opt/mcpm profile run work --server=a,b");
        assert_eq!(words(&some, None), with);
        assert_eq!(words(&Subject::Nothing, Some("/x")), start);
    }

    #[test]
    fn over_http_the_server_is_started_beside_the_inspector() {
        let subject = Subject::Profile("work".to_owned(), Vec::new());
        let made = server(&subject, Path::new("/opt/mcpm"), Some(Path::new("/x")), Face::Sse);
        let expected = "/opt/mcpm --config-dir /x profile run work --sse";
        assert_eq!(made.words().join(" "), expected);
        let made = inspector_at("http://127.0.0.1:6276/mcp", Face::Http).words().join(" ");
        assert!(
            made.ends_with(" --transport http --server-url http://127.0.0.1:6276/mcp"),
            "{made}"
        );
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
