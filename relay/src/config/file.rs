//! Settings from the text of a file; every value that cannot be used is found in one go.

use serde::Deserialize as _;
use toml::de::{DeTable, DeValue, Deserializer};

use super::layer::Layer;

/// One thing in a settings file that cannot be understood. The line itself is not part of it: any
/// may hold a secret, such as one that belongs into a file of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileProblem {
    /// The setting, as `limits.NAME` in a table; absent where the file is no TOML.
    pub setting: Option<String>,
    /// The number of the line it stands in, where there is one.
    pub line: Option<usize>,
    /// What is wrong.
    pub message: String,
}

impl FileProblem {
    fn new(text: &str, setting: Option<String>, error: &toml::de::Error) -> Self {
        let before = error.span().and_then(|place| text.get(..place.start));
        let line = before.map(|before| before.matches('\n').count() + 1);
        Self { setting, line, message: error.message().to_owned() }
    }

    /// Returns what is wrong and where.
    #[must_use]
    pub fn in_words(&self) -> String {
        let line = self.line.map(|line| format!("line {line}"));
        let setting = self.setting.as_ref().map(|setting| format!("`{setting}`"));
        let place: Vec<_> = line.into_iter().chain(setting).collect();
        match place.is_empty() {
            true => self.message.clone(),
            false => format!("{}: {}", place.join(", "), self.message),
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
            .map_err(|error| FileError { problems: vec![FileProblem::new(text, None, &error)] })?;
        let mut problems = Vec::new();
        // What was refused is taken out, to see what else would be.
        loop {
            let error = match Self::deserialize(Deserializer::from(table.clone())) {
                Ok(layer) if problems.is_empty() => return Ok(layer),
                Ok(_) => break,
                Err(error) => error,
            };
            let place = error.span();
            let setting = place.and_then(|place| take_out(table.get_mut(), place.start));
            let last = setting.is_none();
            problems.push(FileProblem::new(text, setting, &error));
            if last {
                break;
            }
        }
        problems.sort_by_key(|problem| problem.line);
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
            assert!(said.contains(&format!("line {line}, `")) && said.contains(what), "{said}");
        }
    }

    #[test]
    fn no_line_is_shown_as_any_may_hold_a_secret() {
        for text in [
            "domain = \"a.example\"\nsecret = \"hunter2\"\n",
            "domain = \"a.example\"\nacme-dns-token = \"hunter2\n",
            "domain = \"a.example\"\noidc = { issuer = 1, client-secret = \"hunter2\" }\n",
            "domain = \"a.example\"\ndatabase = \"pg://ada:hunter2@db/relay\"\n",
            "domain = \"a.example\"\ndatabase = \"postgres://ada:hunter2@db/relay\n",
        ] {
            let error = Layer::from_toml(text).unwrap_err();
            let said = error.to_string();
            assert!(said.contains("line 2") && !said.contains("hunter2"), "{said}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
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
