//! Where servers came from: `sources.json`, which tells `mcpm update` what to look at.

use serde_json::{Value, json};

use super::ConfigError;
use super::document::Document;
use crate::fs::Paths;
use crate::model::{Server, Transport};

/// Reads and edits where servers came from.
#[derive(Debug)]
pub struct Sources {
    document: Document,
}

impl Sources {
    /// Reads the file; a missing one knows nothing.
    ///
    /// # Errors
    /// When the file cannot be read or parsed.
    pub fn open(paths: &Paths) -> Result<Self, ConfigError> {
        Ok(Self { document: Document::open(paths.sources())? })
    }

    /// Notes where a server comes from, as far as its entry tells.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn record(&mut self, server: &Server) -> Result<(), ConfigError> {
        Ok(self.document.set(&server.name, Some(&source_of(server)))?)
    }

    /// Iterates over the servers that something is known of, in file order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.document.names()
    }

    /// Returns what is known of where a server came from.
    #[must_use]
    pub fn get(&self, server: &str) -> Option<Value> {
        self.document.get(server)
    }

    /// Notes one more thing about where a server came from, and leaves the others alone.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn note(&mut self, server: &str, key: &str, value: &Value) -> Result<(), ConfigError> {
        self.document.edit(|text| {
            let is_object = text.get(&[server]).is_some_and(|source| source.is_object());
            match is_object {
                true => text.set(&[server, key], value),
                false => text.set(&[server], &json!({ key: value })),
            }
            Ok(())
        })
    }

    /// Puts a source in place of what was known.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn put(&mut self, server: &str, source: &Value) -> Result<(), ConfigError> {
        Ok(self.document.set(server, Some(source))?)
    }

    /// Follows a server to its new name.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn rename(&mut self, old: &str, new: &str) -> Result<(), ConfigError> {
        if self.document.get(old).is_none() {
            return Ok(());
        }
        self.document.edit(|text| {
            text.remove(&[new]);
            text.rename(&[old], new);
            Ok(())
        })
    }

    /// Forgets a server.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn forget(&mut self, server: &str) -> Result<(), ConfigError> {
        if self.document.get(server).is_none() {
            return Ok(());
        }
        Ok(self.document.set(server, None)?)
    }
}

fn source_of(server: &Server) -> Value {
    let Transport::Stdio { command, args, .. } = &server.transport else {
        return json!({ "type": "remote" });
    };
    let program = command.rsplit(['/', '\\']).next().unwrap_or(command);
    let kind = match program.split('.').next().unwrap_or(program) {
        "npx" | "bunx" => "npx",
        "uvx" => "uvx",
        _ => return json!({ "type": "unknown", "reason": "made by hand" }),
    };
    match args.iter().find(|arg| !arg.starts_with('-')) {
        Some(package) => json!({ "type": kind, "package": package }),
        None => json!({ "type": "unknown", "reason": "its arguments name no package" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_follow_their_servers() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let mut sources = Sources::open(&paths).unwrap();
        sources.rename("a", "b").unwrap();
        sources.forget("a").unwrap();
        assert!(!paths.sources().exists());
        sources.record(&Server::stdio("a", "/usr/bin/npx", ["-y", "@scope/a"])).unwrap();
        sources.record(&Server::remote("r", "https://r.example/mcp")).unwrap();
        sources.rename("a", "b").unwrap();
        sources.forget("r").unwrap();
        let text = std::fs::read_to_string(paths.sources()).unwrap();
        let expected =
            "{\n  \"b\": {\n    \"type\": \"npx\",\n    \"package\": \"@scope/a\"\n  }\n}\n";
        assert_eq!(text, expected);
    }
}
