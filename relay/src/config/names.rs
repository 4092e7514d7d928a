//! Which names are not given: the operator's own list, read from its file.

use std::path::Path;

use super::layer::Layer;
use super::values::AuthKind;
use crate::host::{LabelPattern, Labels, MAX_PATTERNS};

/// Resolves the lists; `wrong` hears of what cannot be used.
pub(super) fn labels(
    layer: &Layer,
    auth: AuthKind,
    mut wrong: impl FnMut(&'static str, String),
) -> Labels {
    let listed = layer.reserved_names_file.as_deref().map(|path| {
        read(path).unwrap_or_else(|message| {
            wrong("reserved-names-file", message);
            Vec::new()
        })
    });
    Labels {
        // Where you know who takes a name, a team's `github` is no trap.
        brands: layer.protect_brands.unwrap_or(auth == AuthKind::Open),
        listed: listed.unwrap_or_default(),
    }
}

fn read(path: &Path) -> Result<Vec<LabelPattern>, String> {
    let shown = path.display();
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    let lines = text.lines().enumerate().map(|(n, line)| (n + 1, uncommented(line)));
    let parsed = lines
        .filter(|(_, line)| !line.is_empty())
        .map(|(n, line)| line.parse().map_err(|error| format!("{shown}, line {n}: {error}")));
    let listed = parsed.collect::<Result<Vec<LabelPattern>, String>>()?;
    match listed.len() <= MAX_PATTERNS {
        true => Ok(listed),
        false => Err(format!("{shown} has more than {MAX_PATTERNS} names")),
    }
}

fn uncommented(line: &str) -> &str {
    line.split('#').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Kept;

    fn resolve(text: &str) -> (Labels, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("names");
        std::fs::write(&path, text).unwrap();
        let layer = Layer { reserved_names_file: Some(path), ..Layer::default() };
        let mut wrong = Vec::new();
        let labels = labels(&layer, AuthKind::Open, |_, message| wrong.push(message));
        (labels, wrong)
    }

    #[test]
    fn a_list_has_comments_and_patterns() {
        let (labels, wrong) = resolve("# ours\n\ncontoso  # the firm\ncorp-*\n");
        assert_eq!((labels.listed.len(), wrong.len(), labels.brands), (2, 0, true));
        assert_eq!(labels.keep(&"corp-x".parse().unwrap()), Some(Kept::Listed));
    }

    #[test]
    fn a_line_that_is_no_name_is_named() {
        let (_, wrong) = resolve("contoso\na.b\n");
        assert!(wrong[0].contains("line 2") && wrong[0].contains("a.b"), "{wrong:?}");
        let layer =
            Layer { reserved_names_file: Some("/nowhere/names".into()), ..Layer::default() };
        let mut wrong = Vec::new();
        labels(&layer, AuthKind::Token, |setting, _| wrong.push(setting));
        assert_eq!(wrong, ["reserved-names-file"]);
    }
}
