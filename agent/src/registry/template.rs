//! Placeholders: `${NAME}` in text. A text is substituted as a whole or not at all.

/// Returns the names of the placeholders of a text, in order and with repetitions.
#[must_use]
pub(super) fn placeholders(text: &str) -> Vec<&str> {
    pieces(text)
        .filter_map(|piece| match piece {
            Piece::Placeholder(name) => Some(name),
            Piece::Literal(_) => None,
        })
        .collect()
}

/// Substitutes every placeholder, or none: `None` when one of them has no value. What a value
/// says is never looked at again.
#[must_use]
pub(super) fn substitute(text: &str, value: impl Fn(&str) -> Option<String>) -> Option<String> {
    let mut done = String::new();
    for piece in pieces(text) {
        match piece {
            Piece::Literal(text) => done.push_str(text),
            Piece::Placeholder(name) => done.push_str(&value(name)?),
        }
    }
    Some(done)
}

/// Finds what stands in place of each placeholder of `template` in `text`, in order; none when it
/// was not made of the template, or nothing tells where one value ends and the next begins.
#[must_use]
pub(super) fn capture<'t>(template: &'t str, text: &str) -> Option<Vec<(&'t str, String)>> {
    let pieces: Vec<Piece<'t>> = pieces(template).collect();
    let (mut found, mut rest) = (Vec::new(), text);
    for (at, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Literal(literal) => rest = rest.strip_prefix(literal)?,
            Piece::Placeholder(name) => {
                let end = match &pieces[at + 1..] {
                    [] => rest.len(),
                    [Piece::Literal(last)] => rest.strip_suffix(last)?.len(),
                    [Piece::Literal(next), ..] => rest.find(next)?,
                    [Piece::Placeholder(_), ..] => return None,
                };
                let (value, after) = rest.split_at(end);
                if value.is_empty() {
                    // What is empty was never an answer.
                    return None;
                }
                found.push((*name, value.to_owned()));
                rest = after;
            }
        }
    }
    rest.is_empty().then_some(found)
}

/// Rewrites placeholders that `text` knows; the others stay as they are.
#[must_use]
pub(super) fn rewrite(text: &str, known: impl Fn(&str) -> Option<String>) -> String {
    let keep = |name: &str| known(name).or_else(|| Some(format!("${{{name}}}")));
    substitute(text, keep).unwrap_or_else(|| text.to_owned())
}

/// Turns `{name}`, as `server.json` writes placeholders, into `${name}`. Braces around anything
/// but a name stay, since values may be JSON.
#[must_use]
pub(super) fn from_braces(text: &str) -> String {
    let mut done = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        let (before, brace) = rest.split_at(at);
        done.push_str(before);
        let end = brace.find('}').filter(|end| is_name(&brace[1..*end]));
        match end {
            Some(end) => {
                let dollar = if before.ends_with('$') { "" } else { "$" };
                done.push_str(&format!("{dollar}{}", &brace[..=end]));
                rest = &brace[end + 1..];
            }
            None => {
                done.push('{');
                rest = &brace[1..];
            }
        }
    }
    done.push_str(rest);
    done
}

fn is_name(text: &str) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    !text.is_empty() && text.chars().all(fine)
}

enum Piece<'a> {
    Literal(&'a str),
    Placeholder(&'a str),
}

fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        if let Some((name, after)) = leading(rest) {
            rest = after;
            return Some(Piece::Placeholder(name));
        }
        // The first byte is literal, whatever it is; the next placeholder ends the literal.
        let start = rest.char_indices().skip(1).map(|(at, _)| at);
        let end = start.into_iter().find(|at| leading(&rest[*at..]).is_some());
        let (literal, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after;
        Some(Piece::Literal(literal))
    })
}

/// Splits a placeholder off the beginning of a text.
fn leading(text: &str) -> Option<(&str, &str)> {
    let (name, rest) = text.strip_prefix("${")?.split_once('}')?;
    let name = name.trim();
    (!name.is_empty() && !name.contains(['{', '$'])).then_some((name, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(name: &str) -> Option<String> {
        match name {
            "A" => Some("1".to_owned()),
            "B" => Some("${A}".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn every_placeholder_of_a_text_is_substituted_or_none() {
        assert_eq!(substitute("a=${A},b=${A}é${B}", known).unwrap(), "a=1,b=1é${A}");
        assert_eq!(substitute("a=${A},c=${C}", known), None);
        assert_eq!(substitute("plain ${ } $A {A} ${A", known).unwrap(), "plain ${ } $A {A} ${A");
        assert_eq!(substitute("", known).unwrap(), "");
        assert_eq!(placeholders("${X}/${ Y }:${X}"), ["X", "Y", "X"]);
    }

    #[test]
    fn what_is_not_known_yet_can_stay() {
        assert_eq!(rewrite("${A}/${C}", known), "1/${C}");
    }

    #[test]
    fn braces_of_server_json_become_placeholders_and_json_stays_json() {
        assert_eq!(from_braces("https://{tenant}.x/{a-b}"), "https://${tenant}.x/${a-b}");
        assert_eq!(from_braces("Bearer ${token}"), "Bearer ${token}");
        assert_eq!(from_braces(r#"{"a": {"b": 1}}"#), r#"{"a": {"b": 1}}"#);
        assert_eq!(from_braces("{} {"), "{} {");
    }
}
