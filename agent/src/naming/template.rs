//! URI templates (RFC 6570) read backwards: may this URI have come from this template?
//!
//! The answer only orders whom to ask, so a template beyond the bounds simply matches nothing. The
//! work is linear in the URI for each part: all ends that a part can reach are followed at once.

/// How long a template may be to be matched.
const MAX_TEMPLATE: usize = 1024;
/// How many literals and expressions a template may have to be matched.
const MAX_PARTS: usize = 32;
/// How long a URI may be to be matched.
const MAX_URI: usize = 4096;

/// A template, taken apart.
#[derive(Debug)]
pub(super) struct Template {
    parts: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    Literal(Box<str>),
    Expression { operator: Operator, names: Vec<Box<str>>, explode: bool },
}

/// The operators of RFC 6570 §2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    /// `{var}`: within one segment; with `*`, as servers use it, across segments.
    Simple,
    /// `{+var}`: anything.
    Reserved,
    /// `{#var}`: a fragment, or nothing.
    Fragment,
    /// `{.var}`, `{/var}`, `{;var}`: the character and what follows it, or nothing.
    Led(u8),
    /// `{?x,y}`, `{&x,y}`: some of the parameters, in any order, or nothing.
    Query(u8),
}

impl Template {
    /// Takes a template apart; `None` when it is faulty or beyond the bounds.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_TEMPLATE {
            return None;
        }
        let (mut parts, mut rest) = (Vec::new(), text);
        while !rest.is_empty() {
            let (literal, after) = rest.split_once('{').unwrap_or((rest, ""));
            if literal.contains('}') || parts.len() + 2 > MAX_PARTS {
                return None;
            }
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.into()));
            }
            if literal.len() == rest.len() {
                break;
            }
            let (expression, after) = after.split_once('}')?;
            parts.push(parse_expression(expression)?);
            rest = after;
        }
        Some(Self { parts })
    }

    /// Returns how many bytes of the template are literal: the more, the less it matches by chance.
    pub(super) fn weight(&self) -> usize {
        let weight = |part: &Part| match part {
            Part::Literal(text) => text.len(),
            Part::Expression { .. } => 0,
        };
        self.parts.iter().map(weight).sum()
    }

    /// Tells whether the template can expand to this URI.
    pub(super) fn matches(&self, uri: &str) -> bool {
        let uri = uri.as_bytes();
        if uri.len() > MAX_URI {
            return false;
        }
        // `ends[i]`: the parts so far can make up the first `i` bytes.
        let mut ends = vec![false; uri.len() + 1];
        ends[0] = true;
        for part in &self.parts {
            ends = part.follow(uri, &ends);
            if !ends.contains(&true) {
                return false;
            }
        }
        ends[uri.len()]
    }
}

fn parse_expression(text: &str) -> Option<Part> {
    let operator = match *text.as_bytes().first()? {
        b'+' => Operator::Reserved,
        b'#' => Operator::Fragment,
        byte @ (b'.' | b'/' | b';') => Operator::Led(byte),
        byte @ (b'?' | b'&') => Operator::Query(byte),
        _ => Operator::Simple,
    };
    let list = if operator == Operator::Simple { text } else { &text[1..] };
    let (mut names, mut explode) = (Vec::new(), false);
    for variable in list.split(',') {
        explode |= variable.ends_with('*');
        let name = variable.trim_end_matches('*').split(':').next()?;
        let valid = |b: u8| b.is_ascii_alphanumeric() || b"_.-%".contains(&b);
        if name.is_empty() || !name.bytes().all(valid) {
            return None;
        }
        names.push(name.into());
    }
    Some(Part::Expression { operator, names, explode })
}

impl Part {
    /// Returns where this part can end when it starts at one of `starts`.
    fn follow(&self, uri: &[u8], starts: &[bool]) -> Vec<bool> {
        let mut ends = vec![false; starts.len()];
        match self {
            Self::Literal(text) => {
                let text = text.as_bytes();
                for at in (0..uri.len()).filter(|at| starts[*at]) {
                    if uri[at..].starts_with(text) {
                        ends[at + text.len()] = true;
                    }
                }
            }
            Self::Expression { operator, names, explode } => {
                let across = *explode || names.len() > 1;
                let segment = |byte| !b"/?#".contains(&byte);
                match *operator {
                    Operator::Simple => {
                        let allowed = |byte| segment(byte) || (*explode && byte == b'/');
                        run(uri, starts, &mut ends, None, allowed);
                    }
                    Operator::Reserved => run(uri, starts, &mut ends, None, |_| true),
                    Operator::Fragment => {
                        ends.copy_from_slice(starts);
                        run(uri, starts, &mut ends, Some(b'#'), |_| true);
                    }
                    Operator::Led(lead) => {
                        ends.copy_from_slice(starts);
                        let allowed = |byte| segment(byte) || (across && byte == lead);
                        run(uri, starts, &mut ends, Some(lead), allowed);
                    }
                    Operator::Query(lead) => {
                        ends.copy_from_slice(starts);
                        let known =
                            |key: &[u8]| *explode || names.iter().any(|n| n.as_bytes() == key);
                        query(uri, starts, &mut ends, lead, known);
                    }
                }
            }
        }
        ends
    }
}

/// Follows runs of allowed bytes, at least one after the leading one if there must be one.
fn run(
    uri: &[u8],
    starts: &[bool],
    ends: &mut [bool],
    lead: Option<u8>,
    allowed: impl Fn(u8) -> bool,
) {
    let mut running = false;
    for (at, byte) in uri.iter().copied().enumerate() {
        let begins = match lead {
            None => starts[at],
            Some(lead) => at > 0 && starts[at - 1] && uri[at - 1] == lead,
        };
        running = (running || begins) && allowed(byte);
        ends[at + 1] |= running;
    }
}

/// Follows parameters `key=value` of known keys, the first behind `lead` and the others behind `&`.
fn query(uri: &[u8], starts: &[bool], ends: &mut [bool], lead: u8, known: impl Fn(&[u8]) -> bool) {
    let mut goes_on = false;
    // A query begins at the first `?` (RFC 3986 §3.4); later ones belong to values.
    let Some(mut at) = uri.iter().position(|byte| *byte == b'?' || *byte == b'&') else { return };
    while at < uri.len() && uri[at] != b'#' {
        let rest = &uri[at + 1..];
        let len = rest.iter().position(|byte| matches!(byte, b'&' | b'#')).unwrap_or(rest.len());
        let begins = (starts[at] && uri[at] == lead) || (goes_on && uri[at] == b'&');
        let key = rest[..len].split(|byte| *byte == b'=').next().unwrap_or_default();
        let end = at + 1 + len;
        goes_on = begins && known(key);
        ends[end] |= goes_on;
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(template: &str, uri: &str) -> bool {
        Template::parse(template).unwrap().matches(uri)
    }

    #[test]
    fn a_variable_stays_within_its_segment() {
        assert!(matches("note://{id}", "note://7"));
        assert!(matches("repo://{owner}/{name}/issues", "repo://a/b/issues"));
        assert!(!matches("note://{id}", "note://7/8"));
        assert!(!matches("note://{id}", "note://"));
        assert!(!matches("note://{id}", "other://7"));
        assert!(matches("log-{day}-{hour}.txt", "log-2026-01-02-03.txt"));
    }

    #[test]
    fn a_reserved_or_exploded_variable_crosses_segments() {
        assert!(matches("file:///{+path}", "file:///a/b.txt"));
        assert!(matches("file:///{path*}", "file:///a/b.txt"));
        assert!(!matches("file:///{path*}", "file:///a?b"));
        assert!(matches("x:{+a}/end", "x:1/2/end"));
        assert!(!matches("x:{+a}/end", "x:/end2"));
    }

    #[test]
    fn an_expression_with_a_leading_character_may_be_absent() {
        for uri in ["x:a", "x:a/b"] {
            assert!(matches("x:a{/b}", uri), "{uri}");
        }
        assert!(!matches("x:a{/b}", "x:a/b/c"));
        assert!(matches("x:a{/b,c}", "x:a/b/c"));
        assert!(matches("x:a{/b*}", "x:a/b/c"));
        assert!(matches("x:a{.ext}", "x:a.txt"));
        assert!(matches("x:a{#part}", "x:a#b/c?d"));
    }

    #[test]
    fn a_query_has_known_keys_only_and_in_any_order() {
        for uri in ["s://q", "s://q?a=1", "s://q?b=2&a=1", "s://q?a"] {
            assert!(matches("s://q{?a,b}", uri), "{uri}");
        }
        assert!(!matches("s://q{?a,b}", "s://q?c=1"));
        assert!(!matches("s://q{?a,b}", "s://q?a=1&c=1"));
        assert!(matches("s://q{?all*}", "s://q?c=1&d=2"));
        assert!(matches("s://q?fixed=1{&a}", "s://q?fixed=1&a=2"));
        assert!(matches("s://q{?a}{&b}", "s://q?a=1&b=2"));
        assert!(matches("s://q{?a}{#f}", "s://q?a=1#x"));
    }

    #[test]
    fn a_faulty_template_is_refused() {
        for text in ["x{", "x}", "{}", "{a b}", "{a,,b}", "{+}", "a{b{c}}"] {
            assert!(Template::parse(text).is_none(), "{text}");
        }
        assert!(Template::parse(&"{a}".repeat(MAX_PARTS + 1)).is_none());
        assert!(!matches("x:{a}", &format!("x:{}", "y".repeat(MAX_URI))));
    }

    proptest! {
        #[test]
        fn what_a_template_expands_to_matches_it(
            values in proptest::collection::vec("[a-z0-9%.-]{1,5}", 3), path in "[a-z/]{1,8}"
        ) {
            let [a, b, c] = [&values[0], &values[1], &values[2]];
            let uri = format!("x://{a}/{path}/f-{b}?q={c}");
            let found = matches("x://{a}/{+path}/f-{b}{?q,z}", &uri);
            prop_assert!(found, "{}", uri);
        }

        #[test]
        fn no_template_and_uri_make_it_panic(template in "[a/{}+?&#.;,*:=]{0,20}", uri in "[a/?&#=.;é]{0,20}") {
            if let Some(template) = Template::parse(&template) {
                template.matches(&uri);
            }
        }
    }
}
