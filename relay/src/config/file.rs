//! Settings from the text of a file; every value that cannot be used is found in one go.

use serde::Deserialize as _;
use toml::de::{DeTable, DeValue, Deserializer};

use super::layer::Layer;

/// One thing in a settings file that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileProblem {
    /// The setting, as `limits.NAME` in a table; absent where the file is no TOML.
    pub setting: Option<String>,
    /// What is wrong, with the line it stands in; that may hold a password.
    pub error: toml::de::Error,
    /// The number of that line, where it must not be shown.
    secret_line: Option<usize>,
}

impl FileProblem {
    fn new(text: &str, setting: Option<String>, error: toml::de::Error) -> Self {
        let secret_line = error.span().and_then(|place| {
            let before = text.get(..place.start)?;
            let begins = before.rfind('\n').map_or(0, |at| at + 1);
            let line = text[begins..].lines().next().unwrap_or_default();
            // The one setting whose value may hold a password (`database-file` is for those).
            let secret = line.trim_start().starts_with("database") || line.contains("://");
            secret.then(|| before.matches('\n').count() + 1)
        });
        Self { setting, error, secret_line }
    }

    /// Returns what is wrong and where, with the line itself unless it may hold a password.
    #[must_use]
    pub fn in_words(&self) -> String {
        match self.secret_line {
            Some(line) => format!("TOML error at line {line}\n{}", self.error.message()),
            None => self.error.to_string().trim_end().to_owned(),
        }
    }
}

/// A settings file that cannot be understood, with all that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", one_below_the_other(.problems))]
pub struct FileError {
    /// What is wrong, in the order of the file.
    pub problems: Vec<FileProblem>,
}

fn one_below_the_other(problems: &[FileProblem]) -> String {
    let texts = problems.iter().map(FileProblem::in_words);
    texts.collect::<Vec<_>>().join("\n")
}

impl Layer {
    /// Reads a layer from the text of a TOML file.
    ///
    /// # Errors
    /// Fails on what is not TOML, and with all unknown keys and values of the wrong kind.
    pub fn from_toml(text: &str) -> Result<Self, FileError> {
        let parsed = DeTable::parse(text);
        let mut table = parsed
            .map_err(|error| FileError { problems: vec![FileProblem::new(text, None, error)] })?;
        let mut problems = Vec::new();
        // What was refused is taken out, to see what else would be.
        loop {
            let mut error = match Self::deserialize(Deserializer::from(table.clone())) {
                Ok(layer) if problems.is_empty() => return Ok(layer),
                Ok(_) => break,
                Err(error) => error,
            };
            error.set_input(Some(text));
            let place = error.span();
            let setting = place.and_then(|place| take_out(table.get_mut(), place.start));
            let last = setting.is_none();
            problems.push(FileProblem::new(text, setting, error));
            if last {
                break;
            }
        }
        problems.sort_by_key(|problem| problem.error.span().map(|place| place.start));
        Err(FileError { problems })
    }
}

/// Takes out the setting that stands at a place in the text, and returns its name.
fn take_out(table: &mut DeTable<'_>, place: usize) -> Option<String> {
    let mut found = None;
    for (key, value) in table.iter_mut() {
        if let DeValue::Table(inner) = value.get_mut()
            && let Some(name) = take_out(inner, place)
        {
            return Some(format!("{}.{name}", key.get_ref()));
        }
        if key.span().contains(&place) || value.span().contains(&place) {
            found = Some(key.clone());
            break;
        }
    }
    let key = found?;
    table.remove(&key);
    Some(key.into_inner().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_value_of_a_file_is_reported_at_once_with_its_line() {
        let text = "auth = \"nobody\"\nlisten = 8080\ntls-cert = [1]\ndomian = \"x\"\nhold-secs = 3\n\
                    [limits]\nmax-sessions = \"many\"\nmax-body-bytes = 9\n[oidc]\nclaims = 1\n";
        let error = Layer::from_toml(text).unwrap_err();
        let settings: Vec<_> =
            error.problems.iter().map(|it| it.setting.as_deref().unwrap()).collect();
        let bad = ["auth", "listen", "tls-cert", "domian", "limits.max-sessions", "oidc.claims"];
        assert_eq!(settings, bad);
        let said = error.to_string();
        for (line, what) in [(1, "nobody"), (2, "8080"), (4, "domian"), (7, "many"), (10, "claims")]
        {
            assert!(said.contains(&format!("at line {line}, ")) && said.contains(what), "{said}");
        }
    }

    #[test]
    fn a_line_that_may_hold_a_password_is_not_shown() {
        for text in [
            "domain = \"a.example\"\ndatabase = \"pg://ada:hunter2@db/relay\"\n",
            "domain = \"a.example\"\ndatabase = \"postgres://ada:hunter2@db/relay\n",
        ] {
            let said = Layer::from_toml(text).unwrap_err().to_string();
            assert!(said.contains("line 2") && !said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn a_table_in_the_wrong_place_and_text_that_is_no_toml_are_one_problem_each() {
        let error = Layer::from_toml("log = { level = 1 }\nlimits = 3\n").unwrap_err();
        let settings: Vec<_> = error.problems.iter().map(|it| it.setting.as_deref()).collect();
        assert_eq!(settings.len(), 2, "{settings:?}");
        assert!(settings.contains(&Some("limits")), "{settings:?}");
        let error = Layer::from_toml("auth = \nlisten =\n").unwrap_err();
        assert_eq!(error.problems[0].setting, None);
    }
}
