//! The options that say what a server is, which `new` and `edit` have in common, and the forms in
//! which people write lists and pairs.

use super::error::CliError;
use crate::model::Vars;

/// What a server is.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Fields {
    /// Command that starts a stdio server
    #[arg(long)]
    pub(super) command: Option<String>,
    /// Arguments of the command, split at spaces; quotes keep words together
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    pub(super) args: Option<String>,
    /// Variables for the command; may be given again [example: KEY=${KEY},MODE=fast]
    ///
    /// A value may say where a secret is instead of what it is: `${VARIABLE}` or `file:/its/path`.
    #[arg(long, value_name = "KEY=VALUE,…")]
    pub(super) env: Vec<String>,
    /// URL of a remote server
    #[arg(long)]
    pub(super) url: Option<String>,
    /// HTTP headers for a remote server; may be given again [example: X-Key=file:~/key]
    #[arg(long, value_name = "KEY=VALUE,…")]
    pub(super) headers: Vec<String>,
}

impl Fields {
    /// Tells whether nothing was said.
    pub(super) fn is_empty(&self) -> bool {
        let Self { command, args, env, url, headers } = self;
        command.is_none() && args.is_none() && env.is_empty() && url.is_none() && headers.is_empty()
    }

    /// Returns the arguments, if any were given.
    pub(super) fn words(&self) -> Result<Option<Vec<String>>, CliError> {
        self.args.as_deref().map(words).transpose()
    }

    /// Returns the variables.
    pub(super) fn env(&self) -> Result<Vars, CliError> {
        pairs(self.env.iter().map(String::as_str))
    }

    /// Returns the headers.
    pub(super) fn headers(&self) -> Result<Vars, CliError> {
        pairs(self.headers.iter().map(String::as_str))
    }
}

/// Splits text at spaces as a shell does. A backslash stands for itself unless a quote or a space
/// follows, so that paths of Windows survive.
pub(super) fn words(text: &str) -> Result<Vec<String>, CliError> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match (char, quote) {
            (_, Some(open)) if char == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(char);
                word.get_or_insert_default();
            }
            ('\\', None | Some('"'))
                if chars.peek().is_some_and(|next| {
                    matches!(next, '"' | '\'') || (quote.is_none() && next.is_whitespace())
                }) =>
            {
                word.get_or_insert_default().extend(chars.next());
            }
            (_, None) if char.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(char),
        }
    }
    if quote.is_some() {
        return Err(CliError::usage(format!("a quote in `{text}` is not closed")));
    }
    words.extend(word);
    Ok(words)
}

/// Reads `KEY=VALUE,KEY2=VALUE2`. A part without `=` belongs to the value before it.
pub(super) fn pairs<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Vars, CliError> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for text in texts {
        let first = pairs.len();
        for part in text.split(',') {
            match part.split_once('=') {
                Some((key, value)) if !key.trim().is_empty() => {
                    pairs.push((key.trim().to_owned(), value.trim().to_owned()));
                }
                _ if pairs.len() > first => {
                    if let Some((_, value)) = pairs.last_mut() {
                        value.push(',');
                        value.push_str(part);
                    }
                }
                _ if part.trim().is_empty() => {}
                // What it says may be a secret.
                _ => {
                    return Err(CliError::usage(
                        "a variable or header is not of the form KEY=VALUE",
                    )
                    .with_hint("Write KEY=VALUE, and several with commas between them"));
                }
            }
        }
    }
    Ok(pairs.into_iter().collect())
}

/// Splits lists at commas and leaves out what is empty.
pub(super) fn names(lists: &[String]) -> Vec<String> {
    let names = lists.iter().flat_map(|list| list.split(','));
    names.map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_a_shell_does() {
        let ok = |text: &str| words(text).unwrap();
        assert_eq!(ok("-y  @scope/pkg --port 1"), ["-y", "@scope/pkg", "--port", "1"]);
        assert_eq!(ok(r#"a "b c" 'd "e"' f" g"h """#), ["a", "b c", "d \"e\"", "f gh", ""]);
        assert_eq!(ok(r"C:\dir\x my\ file \\srv\x"), [r"C:\dir\x", "my file", r"\\srv\x"]);
        assert_eq!(ok(r#"\"x "a\"b""#), ["\"x", "a\"b"]);
        assert_eq!(ok("  "), [""; 0]);
        assert!(words("a 'b").is_err());
    }

    #[test]
    fn pairs_may_hold_commas_and_equal_signs() {
        let ok = |texts: &[&str]| {
            let vars = pairs(texts.iter().copied()).unwrap();
            vars.iter().map(|(key, value)| format!("{key}:{value}")).collect::<Vec<_>>()
        };
        assert_eq!(ok(&["A=1,B=x=y"]), ["A:1", "B:x=y"]);
        assert_eq!(ok(&["A=1,2,B=3", "C="]), ["A:1,2", "B:3", "C:"]);
        assert_eq!(ok(&[""]), [""; 0]);
        let error = pairs(["s3cret"]).unwrap_err();
        assert!(!error.to_string().contains("s3cret"));
        assert!(pairs(["A=1", "x"]).is_err());
        assert!(pairs(["=1"]).is_err());
    }

    #[test]
    fn lists_leave_out_what_is_empty() {
        assert_eq!(names(&[" a, b,,".to_owned(), "c".to_owned()]), ["a", "b", "c"]);
    }
}
