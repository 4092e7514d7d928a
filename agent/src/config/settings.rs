//! What users prefer: `config.json`. Keys that we do not know, such as those of mcpm 1, stay.

use serde_json::Value;
use url::Url;

use super::document::Document;
use super::{ConfigError, check_name, nearest};
use crate::fs::{FsError, Paths};

/// One thing that can be set.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its key in the file.
    pub key: &'static str,
    /// What it is for, in a few words.
    pub about: &'static str,
    /// What values it may have.
    pub kind: Kind,
}

/// What values a setting may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// These.
    OneOf(&'static [&'static str]),
    /// The address of a site.
    Address,
    /// The name of a profile.
    Profile,
}

/// The setting that names a profile.
pub const DEFAULT_PROFILE: &str = "default_profile";

/// All settings.
pub const SETTINGS: [Setting; 4] = [
    Setting {
        key: "node_executable",
        about: "the program that starts servers from npm packages",
        kind: Kind::OneOf(&["npx", "bunx", "pnpm dlx", "yarn dlx"]),
    },
    Setting {
        key: "registry_url",
        about: "the catalogue to use in place of mcpm.sh",
        kind: Kind::Address,
    },
    Setting {
        key: "official_registry_url",
        about: "the registry to use in place of the official one",
        kind: Kind::Address,
    },
    Setting {
        key: DEFAULT_PROFILE,
        about: "the profile that `mcpm router share` shares where none is named",
        kind: Kind::Profile,
    },
];

impl Setting {
    /// Returns the form that a value is kept in.
    fn accept(&self, value: &str) -> Result<String, ConfigError> {
        let accepted = match self.kind {
            Kind::OneOf(values) => values.contains(&value).then_some(value),
            Kind::Address => Some(value.trim()).filter(|value| is_site(value)),
            Kind::Profile => return check_name("profile", value).map(|()| value.to_owned()),
        };
        accepted.map(str::to_owned).ok_or_else(|| ConfigError::BadSetting {
            key: self.key,
            // What stands before the sign may be a password.
            value: value.rsplit('@').next().unwrap_or_default().to_owned(),
            values: self.values(),
        })
    }

    /// Returns the values that it may have, where they can be counted.
    #[must_use]
    pub const fn values(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::OneOf(values) => values,
            Kind::Address | Kind::Profile => &[],
        }
    }

    /// Says which values it may have.
    #[must_use]
    pub fn choices(&self) -> String {
        match self.kind {
            Kind::OneOf(values) => values.join(", "),
            Kind::Address => "an http or https address".to_owned(),
            Kind::Profile => "the name of a profile".to_owned(),
        }
    }
}

/// Tells whether a text is the address of a site, without a password: whoever may read the settings
/// could read it.
fn is_site(value: &str) -> bool {
    Url::parse(value).is_ok_and(|url| {
        let is_site = matches!(url.scheme(), "http" | "https") && url.host().is_some();
        is_site && url.username().is_empty() && url.password().is_none()
    })
}

/// Reads and edits the settings.
#[derive(Debug)]
pub struct Settings {
    document: Document,
}

impl Settings {
    /// Reads the file; a missing one sets nothing.
    ///
    /// # Errors
    /// When the file cannot be read or parsed.
    pub fn open(paths: &Paths) -> Result<Self, ConfigError> {
        Ok(Self { document: Document::open(paths.settings())? })
    }

    /// Returns the value of a setting, when it is set.
    ///
    /// # Errors
    /// When there is no such setting.
    pub fn get(&self, key: &str) -> Result<Option<String>, ConfigError> {
        let value = self.document.get(setting(key)?.key);
        Ok(value.and_then(|value| match value {
            Value::Null => None,
            Value::String(text) => Some(text),
            other => Some(other.to_string()),
        }))
    }

    /// Returns all settings with their values.
    #[must_use]
    pub fn list(&self) -> Vec<(Setting, Option<String>)> {
        let value = |setting: &Setting| self.get(setting.key).ok().flatten();
        SETTINGS.iter().map(|setting| (*setting, value(setting))).collect()
    }

    /// Sets a value.
    ///
    /// # Errors
    /// When there is no such setting, it must not have this value, or the file cannot be written.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
        let setting = setting(key)?;
        let accepted = setting.accept(value)?;
        Ok(self.document.set(setting.key, Some(&accepted.into()))?)
    }

    /// Forgets a value; tells whether there was one.
    ///
    /// # Errors
    /// When there is no such setting or the file cannot be written.
    pub fn unset(&mut self, key: &str) -> Result<bool, ConfigError> {
        let key = setting(key)?.key;
        let was_set = self.document.get(key).is_some();
        if was_set {
            self.document.set(key, None)?;
        }
        Ok(was_set)
    }

    /// Forgets all values; returns the keys of those that were set.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn reset(&mut self) -> Result<Vec<&'static str>, ConfigError> {
        let keys = SETTINGS.map(|setting| setting.key);
        let set = keys.into_iter().filter(|key| self.document.get(key).is_some());
        let set: Vec<_> = set.collect();
        self.drop_keys(&set)?;
        Ok(set)
    }

    /// Takes keys that need not be settings out of the file.
    pub(super) fn drop_keys(&mut self, keys: &[&str]) -> Result<(), FsError> {
        self.document.edit(|text| {
            keys.iter().for_each(|key| text.remove(&[key]));
            Ok(())
        })
    }

    /// Returns an address that is set; a file that was written by hand may hold any text.
    #[must_use]
    pub fn address(&self, key: &str) -> Option<String> {
        self.document.get(key)?.as_str().map(str::to_owned)
    }

    /// Returns the value of a key that need not be a setting.
    pub(super) fn raw(&self, key: &str) -> Option<Value> {
        self.document.get(key)
    }
}

fn setting(key: &str) -> Result<&'static Setting, ConfigError> {
    const ALL: &[Setting] = &SETTINGS;
    ALL.iter().find(|setting| setting.key == key).ok_or_else(|| ConfigError::UnknownSetting {
        key: key.to_owned(),
        near: nearest(key, ALL.iter().map(|setting| setting.key)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hint::Hint as _;

    #[test]
    fn settings_are_checked_and_strange_keys_stay() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        std::fs::write(paths.settings(), "{\n  \"router\": {\"port\": 1},\n  \"x\": 1.50\n}")
            .unwrap();
        let mut settings = Settings::open(&paths).unwrap();
        settings.set("node_executable", "pnpm dlx").unwrap();
        assert_eq!(settings.get("node_executable").unwrap().as_deref(), Some("pnpm dlx"));
        let written = std::fs::read_to_string(paths.settings()).unwrap();
        let expected = "{\n  \"router\": {\"port\": 1},\n  \"x\": 1.50,\n  \"node_executable\": \"pnpm dlx\"\n}";
        assert_eq!(written, expected);
        assert!(
            settings.set("node_executable", "rm").unwrap_err().hint().unwrap().contains("bunx")
        );
        assert!(matches!(settings.set("node", "npx"), Err(ConfigError::UnknownSetting { .. })));
        let url = "https://mcp.example/api";
        settings.set("registry_url", url).unwrap();
        assert_eq!(settings.get("registry_url").unwrap().as_deref(), Some(url));
        for wrong in ["", "mcp.example", "ftp://x", "https://", "https://me:pw@x.example"] {
            let error = settings.set("official_registry_url", wrong).unwrap_err();
            assert!(error.hint().unwrap().contains("http"), "{wrong}");
        }
        assert!(settings.unset("registry_url").unwrap());
        assert_eq!(settings.reset().unwrap(), ["node_executable"]);
        assert!(!settings.unset("node_executable").unwrap());
        let written = std::fs::read_to_string(paths.settings()).unwrap();
        assert_eq!(written, "{\n  \"router\": {\"port\": 1},\n  \"x\": 1.50\n}");
    }

    #[test]
    fn looking_at_settings_creates_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        assert_eq!(Settings::open(&paths).unwrap().get("node_executable").unwrap(), None);
        assert_eq!(Settings::open(&paths).unwrap().reset().unwrap(), [""; 0]);
        assert!(!paths.settings().exists());
    }
}
