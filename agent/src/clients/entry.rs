//! The entries that mcpm writes: their names, what they start, and how they are known again. Names
//! and arguments are those of the Python `mcpm`, so that each version finds what the other wrote.

use std::fmt;

use serde_json::Value;

use super::foreign;

const SERVER_PREFIX: &str = "mcpm_";
const PROFILE_PREFIX: &str = "mcpm_profile_";

/// What an entry of ours serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// One server.
    Server(String),
    /// The servers of a profile.
    Profile(String),
}

/// How an entry of ours starts mcpm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The program.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Variables it needs.
    pub env: Vec<(String, String)>,
}

impl Target {
    /// Returns the name of the server or profile.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Server(name) | Self::Profile(name) => name,
        }
    }

    /// Returns the name of its entry in a client.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::Server(name) => format!("{SERVER_PREFIX}{name}"),
            Self::Profile(name) => format!("{PROFILE_PREFIX}{name}"),
        }
    }

    /// Returns the arguments that serve it.
    #[must_use]
    pub fn args(&self) -> Vec<String> {
        match self {
            Self::Server(name) => vec!["run".to_owned(), name.clone()],
            Self::Profile(name) => vec!["profile".to_owned(), "run".to_owned(), name.clone()],
        }
    }

    /// Tells what an entry of a client serves, when it starts mcpm: by its program, whatever the
    /// entry is called, or by its name, whatever the program is called.
    #[must_use]
    pub fn of_entry(key: &str, entry: &Value) -> Option<Self> {
        let (program, args) = foreign::command_line(entry)?;
        let words: Vec<&str> = args.iter().map(String::as_str).collect();
        let target = match words.as_slice() {
            ["run", name, ..] => Self::Server((*name).to_owned()),
            ["profile", "run", name, ..] => Self::Profile((*name).to_owned()),
            _ => return None,
        };
        (is_mcpm(&program) || key == target.key()).then_some(target)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(name) => write!(f, "server `{name}`"),
            Self::Profile(name) => write!(f, "profile `{name}`"),
        }
    }
}

/// Tells whether a command, written on any system, is mcpm.
fn is_mcpm(program: &str) -> bool {
    let file = program.rsplit(['/', '\\']).next().unwrap_or(program).to_ascii_lowercase();
    let stem = [".exe", ".cmd", ".bat"].iter().find_map(|ending| file.strip_suffix(ending));
    stem.unwrap_or(&file) == "mcpm"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_entry_is_known_by_what_it_starts_in_every_shape() {
        let server = Some(Target::Server("time".to_owned()));
        for entry in [
            json!({"command": "mcpm", "args": ["run", "time"]}),
            json!({"command": "/opt/bin/mcpm", "args": ["run", "time", "--warm"]}),
            json!({"command": "C:\\Tools\\MCPM.EXE", "args": ["run", "time"]}),
            json!({"type": "local", "command": ["/x/mcpm", "run", "time"]}),
            json!({"cmd": "mcpm", "args": ["run", "time"], "type": "stdio"}),
        ] {
            assert_eq!(Target::of_entry("x", &entry), server, "{entry}");
        }
        let profile = json!({"command": "mcpm", "args": ["profile", "run", "work"]});
        assert_eq!(Target::of_entry("x", &profile), Some(Target::Profile("work".to_owned())));
        for entry in [
            json!({"command": "uvx", "args": ["mcpm", "run", "time"]}),
            json!({"command": "mcpm", "args": ["ls"]}),
            json!({"command": "/x/mcpm-relay", "args": ["run", "time"]}),
            json!({"url": "https://x.example/mcp"}),
        ] {
            assert_eq!(Target::of_entry("x", &entry), None, "{entry}");
        }
    }

    #[test]
    fn an_entry_is_known_by_its_name_when_the_program_was_renamed() {
        let entry = json!({"command": "/opt/bin/mcpm-3", "args": ["run", "time"]});
        let server = Some(Target::Server("time".to_owned()));
        assert_eq!(Target::of_entry("mcpm_time", &entry), server);
        assert_eq!(Target::of_entry("time", &entry), None);
    }

    #[test]
    fn names_are_those_of_the_python_version() {
        assert_eq!(Target::Server("time".to_owned()).key(), "mcpm_time");
        assert_eq!(Target::Profile("work".to_owned()).key(), "mcpm_profile_work");
    }
}
