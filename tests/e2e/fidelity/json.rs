//! Any JSON, as text: whatever a parser could be tempted to write down again in another way.

use proptest::collection::vec;
use proptest::prelude::*;

/// A member of an object: its key and its value, both as they are written.
pub(super) type Member = (String, String);

/// Numbers that do not survive a float, or whose spelling does not survive a parser.
const NUMBERS: [&str; 20] = [
    "1e400",
    "-1e400",
    "1e-400",
    "-0",
    "-0.0",
    "0e0",
    "0.10",
    "1E+2",
    "1e+2",
    "1.0",
    "1.0000000000000000000001",
    "100000000000000000000000000.000",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775809",
    "9007199254740993",
    "340282366920938463463374607431768211456",
    "123456789012345678901234567890123456789012345678901234567890",
    "3.141592653589793238462643383279502884197",
    "5e-324",
];

/// Pieces of strings: what must be escaped, what may be, and what is easily broken.
const PIECES: [&str; 28] = [
    "a",
    "é",
    "ß",
    "€",
    "🙂",
    "日本",
    "\u{2028}",
    "\u{feff}",
    "\u{7f}",
    " ",
    "/",
    "\\/",
    "\\\"",
    "\\\\",
    "\\b",
    "\\f",
    "\\n",
    "\\r",
    "\\t",
    "\\u0000",
    "\\u001F",
    "\\u0041",
    "\\u00e9",
    "\\u00E9",
    "\\ud83d\\ude42",
    "\\uD83D\\uDE42",
    "\\u2028",
    "\\uFEFF",
];

/// Halves of characters: JSON by its grammar, and what becomes of text that is cut in the middle of an emoji.
const HALVES: [&str; 3] = ["\\ud83d", "\\uDE42", "\\ude42\\ud83d"];

/// White space between two tokens.
pub(super) fn space() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => Just(""),
        2 => Just(" "),
        1 => Just("\t "),
        1 => Just("\n"),
        1 => Just("\r\n  "),
    ]
    .prop_map(str::to_owned)
}

/// The inside of a string that any reader can make text of.
fn inside() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z0-9 .:;,{}\\[\\]_-]{0,12}",
        vec(prop::sample::select(&PIECES[..]), 0..8).prop_map(|pieces| pieces.concat()),
    ]
}

/// A string that any reader can make text of.
pub(super) fn text() -> impl Strategy<Value = String> {
    inside().prop_map(|inside| format!("\"{inside}\""))
}

/// A string with this at its beginning, for names that must mean nothing.
pub(super) fn named(prefix: &'static str) -> impl Strategy<Value = String> {
    inside().prop_map(move |inside| format!("\"{prefix}{inside}\""))
}

/// Any string of JSON.
fn string() -> impl Strategy<Value = String> {
    let halves = (inside(), prop::sample::select(&HALVES[..]), inside());
    prop_oneof![
        4 => text(),
        1 => halves.prop_map(|(before, half, after)| format!("\"{before}{half}{after}\"")),
    ]
}

/// Any number of JSON.
pub(super) fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(&NUMBERS[..]).prop_map(str::to_owned),
        any::<i64>().prop_map(|number| number.to_string()),
        "-?(0|[1-9][0-9]{0,40})",
        "-?(0|[1-9][0-9]{0,20})\\.[0-9]{1,30}([eE][+-]?[0-9]{1,4})?",
    ]
}

/// Any value of JSON.
pub(super) fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        1 => prop::sample::select(&["null", "true", "false", "{}", "[]"][..]).prop_map(str::to_owned),
        3 => string(),
        3 => number(),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        // Some keys are those that the gateway reads elsewhere, and some come twice.
        let known = prop::sample::select(
            &["\"id\"", "\"_meta\"", "\"method\"", "\"progressToken\"", "\"a\""][..],
        );
        let key = prop_oneof![2 => string(), 1 => known.prop_map(str::to_owned)];
        let members = vec((key, inner.clone()), 0..5);
        prop_oneof![
            (vec(inner, 0..5), vec(space(), 1..4)).prop_map(|(items, spaces)| {
                let spaces = Spaces::new(&spaces);
                let items: Vec<_> = items.iter().map(|item| spaces.around(item)).collect();
                format!("[{}]", items.join(","))
            }),
            (members, vec(space(), 1..4)).prop_map(|(members, spaces)| object(&members, &spaces)),
        ]
    })
}

/// An object of any members.
pub(super) fn any_object() -> impl Strategy<Value = String> {
    (vec((named("x"), value()), 0..4), vec(space(), 1..4))
        .prop_map(|(members, spaces)| object(&members, &spaces))
}

/// Members that nobody reads, for where the gateway reads others: unknown, and now and then twice the same.
pub(super) fn unknown_members() -> impl Strategy<Value = Vec<Member>> {
    let twice = prop::bool::weighted(0.2);
    (vec((named("x"), value()), 0..4), value(), twice).prop_map(|(mut members, again, twice)| {
        if let (true, Some((key, _))) = (twice, members.first().cloned()) {
            members.push((key, again));
        }
        members
    })
}

/// Writes an object, with this white space in turn around its tokens.
pub(super) fn object(members: &[Member], spaces: &[String]) -> String {
    let spaces = Spaces::new(spaces);
    let members = members
        .iter()
        .map(|(key, value)| format!("{}:{}", spaces.around(key), spaces.around(value)));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

/// White space, piece by piece, for ever.
struct Spaces<'a>(std::cell::RefCell<std::iter::Cycle<std::slice::Iter<'a, String>>>);

impl<'a> Spaces<'a> {
    fn new(spaces: &'a [String]) -> Self {
        Self(std::cell::RefCell::new(spaces.iter().cycle()))
    }

    fn around(&self, token: &str) -> String {
        let mut spaces = self.0.borrow_mut();
        let mut next = || spaces.next().map_or("", String::as_str);
        format!("{}{token}{}", next(), next())
    }
}
