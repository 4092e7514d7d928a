//! What tells one launch of a server from another.

use std::ffi::OsStr;
use std::fmt;
use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::model::{Server, Transport, Vars};
use crate::naming::sanitised;

/// How many characters of the server's name are in the name of its file, which a person may read.
const NAME_LEN: usize = 64;
/// How many hexadecimal digits of the digest are in the name of the file.
const DIGEST_LEN: usize = 16;
const EXTENSION: &str = ".json";

/// The launch identity of a server: its name and a digest over how it is started or reached.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    server: String,
    digest: [u8; 32],
}

impl Identity {
    /// Returns the identity of a server as it is configured.
    ///
    /// It changes with the command, its arguments and folder, the URL, and names and values of
    /// variables and headers, but not with the order of those.
    #[must_use]
    pub fn of(server: &Server) -> Self {
        let mut input = Input(Sha256::new());
        input.text(&server.name);
        input.text(server.transport.kind());
        match &server.transport {
            Transport::Stdio { command, args, env, cwd } => {
                input.text(command);
                input.count(args.len());
                args.iter().for_each(|arg| input.text(arg));
                input.count(usize::from(cwd.is_some()));
                if let Some(cwd) = cwd {
                    input.bytes(cwd.as_os_str().as_encoded_bytes());
                }
                input.vars(env);
            }
            Transport::Remote { url, headers } => {
                input.text(url);
                input.vars(headers);
            }
            Transport::Custom { config } => {
                input.text(&serde_json::Value::from(config.clone()).to_string());
            }
        }
        Self { server: server.name.clone(), digest: input.0.finalize().into() }
    }

    /// Returns the name of the server.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Returns the name of the file of this identity.
    pub(super) fn file_name(&self) -> String {
        let mut name: String = sanitised(&self.server).chars().take(NAME_LEN).collect();
        name.push('-');
        for byte in &self.digest[..DIGEST_LEN / 2] {
            // Writing to a string does not fail.
            let _ = write!(name, "{byte:02x}");
        }
        name + EXTENSION
    }

    /// Tells whether a file may be one of ours by its name.
    pub(super) fn is_file_name(name: &OsStr) -> bool {
        let stem = name.to_str().and_then(|name| name.strip_suffix(EXTENSION));
        let digest = stem.and_then(|stem| stem.rsplit_once('-')).map(|(_, digest)| digest);
        digest.is_some_and(|digest| {
            digest.len() == DIGEST_LEN && digest.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.file_name()).finish()
    }
}

/// What is hashed; every part is preceded by its length, so that no two launches read alike.
struct Input(Sha256);

impl Input {
    fn count(&mut self, count: usize) {
        self.0.update((count as u64).to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.update(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn vars(&mut self, vars: &Vars) {
        let mut pairs: Vec<_> = vars.iter().collect();
        pairs.sort();
        self.count(pairs.len());
        for (name, value) in pairs {
            self.text(name);
            self.text(&value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::PathBuf;

    use super::*;

    fn stdio(args: &[&str], env: &[(&str, &str)], cwd: Option<&str>) -> Identity {
        let transport = Transport::Stdio {
            command: "x".to_owned(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: env.iter().copied().collect(),
            cwd: cwd.map(PathBuf::from),
        };
        Identity::of(&Server::new("s", transport))
    }

    #[test]
    fn whatever_decides_who_answers_makes_another_identity() {
        let remote = |url: &str, value: &str| {
            let headers = Vars::default().with("Authorization", value);
            Identity::of(&Server::new("s", Transport::Remote { url: url.to_owned(), headers }))
        };
        let all = [
            stdio(&[], &[], None),
            stdio(&["a", "b"], &[], None),
            stdio(&["b", "a"], &[], None),
            stdio(&["ab"], &[], None),
            stdio(&[], &[("a", "b")], None),
            stdio(&[], &[("a", "c")], None),
            stdio(&[], &[("b", "a")], None),
            stdio(&[], &[], Some("/")),
            stdio(&[], &[], Some("")),
            Identity::of(&Server::stdio("other", "x", [""; 0])),
            remote("https://a.example/mcp", "1"),
            remote("https://a.example/mcp", "2"),
            remote("https://b.example/mcp", "1"),
        ];
        let files: HashSet<String> = all.iter().map(Identity::file_name).collect();
        assert_eq!(files.len(), all.len());
    }

    #[test]
    fn the_order_of_variables_profiles_and_notes_does_not_matter() {
        let vars = [("a", "1"), ("b", "2")];
        assert_eq!(stdio(&[], &vars, None), stdio(&[], &[vars[1], vars[0]], None));
        let mut server = Server::stdio("s", "x", [""; 0]);
        server.profile_tags.push("work".to_owned());
        assert_eq!(Identity::of(&server), stdio(&[], &[], None));
    }

    #[test]
    fn the_name_of_the_file_is_the_same_in_the_next_release() {
        let identity = Identity::of(&Server::remote("my/srv", "https://a.example/mcp"));
        assert_eq!(identity.file_name(), "my_srv-a00b3d8787fdce3e.json");
    }

    #[test]
    fn no_value_is_shown_and_no_name_leaves_the_folder() {
        let identity = stdio(&[], &[("KEY", "s3cret")], None);
        assert!(!format!("{identity:?}").contains("s3cret"));
        let name = Identity::of(&Server::stdio("../../x\0".repeat(50), "x", [""; 0])).file_name();
        assert!(!name.contains(['/', '\\', '.', '\0']) || name.matches('.').count() == 1, "{name}");
        assert!(name.len() < 100);
        assert!(Identity::is_file_name(OsStr::new(&name)));
        for other in ["notes.json", ".tmpAbC", "a-0123456789abcdeg.json", "a-0123456789abcdef"] {
            assert!(!Identity::is_file_name(OsStr::new(other)), "{other}");
        }
    }
}
