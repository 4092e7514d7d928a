//! Messages as the bytes that they are, and the few bytes of them that may change on the way.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// Where an id stood, or stands for the one of the request.
pub(super) const ID: &str = "@id@";
/// Where a progress token stood, or stands for the one of the request.
pub(super) const TOKEN: &str = "@token@";
/// Where the parameters of the request go in what the server says.
pub(super) const PARAMS: &str = "@params@";
/// No case but the plain ones is as long.
const LONG: usize = 1024 * 1024;
/// How a plain message begins; it has no progress token.
pub(super) const PLAIN: &str = r#"{"jsonrpc":"2.0","id":"#;

/// A message without what a gateway may replace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Its text, with [`ID`] and [`TOKEN`] for the values that were cut out.
    pub(super) rest: String,
    /// The id as it is written.
    pub(super) id: Option<String>,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct Params<'a> {
    #[serde(borrow, default, rename = "_meta")]
    meta: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "progressToken")]
    token: Option<&'a RawValue>,
}

/// Cuts a message.
pub(super) fn cut(text: &str) -> Cut {
    // Plain ones need not be read, which takes long where they are.
    if let Some((id, tail)) = text.strip_prefix(PLAIN).and_then(|rest| rest.split_once(','))
        && id.bytes().all(|byte| byte.is_ascii_digit())
        && (tail.len() > LONG || !tail.contains("progressToken"))
    {
        return Cut { rest: flat(&format!("{PLAIN}{ID},{tail}")), id: Some(id.to_owned()) };
    }
    let Ok(seen) = serde_json::from_str::<Envelope<'_>>(text) else {
        return Cut { rest: text.to_owned(), id: None };
    };
    let params: Params<'_> = read(seen.params);
    let token = match seen.method.as_deref() {
        Some("notifications/progress") => params.token,
        Some(_) => read::<Params<'_>>(params.meta).token,
        None => None,
    };
    let mut cuts: Vec<_> =
        seen.id.map(|id| (id, ID)).into_iter().chain(token.map(|t| (t, TOKEN))).collect();
    cuts.sort_by_key(|(value, _)| value.get().as_ptr() as usize);
    let (mut rest, mut done) = (String::new(), 0);
    for (value, mark) in cuts {
        let at = value.get().as_ptr() as usize - text.as_ptr() as usize;
        rest.push_str(&text[done..at]);
        rest.push_str(mark);
        done = at + value.get().len();
    }
    rest.push_str(&text[done..]);
    Cut { rest: flat(&rest), id: seen.id.map(|id| id.get().to_owned()) }
}

/// Reads an object; what is none is an empty one.
fn read<'a, T: Default + Deserialize<'a>>(value: Option<&'a RawValue>) -> T {
    let object = value.map(RawValue::get).filter(|text| text.starts_with('{'));
    object.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// Returns the text with a space for each raw line break, and without white space around it. A raw line break is always
/// white space between tokens; lines and events cannot carry it.
pub(super) fn flat(text: &str) -> String {
    // One after the other: long texts are searched fast for one character only.
    let text = text.trim_ascii().replace('\n', " ");
    text.replace('\r', " ")
}

/// Returns the messages of a batch, or the one that is none.
pub(super) fn parts(text: &str) -> Vec<String> {
    if text.trim_start().starts_with('[')
        && let Ok(parts) = serde_json::from_str::<Vec<&RawValue>>(text)
    {
        return parts.into_iter().map(|part| part.get().to_owned()).collect();
    }
    vec![text.to_owned()]
}

/// Returns the members of an object in their order: their names, and their values as they are written.
pub(super) fn members(text: &str) -> Vec<(String, String)> {
    struct Members(Vec<(String, String)>);
    impl<'de> Deserialize<'de> for Members {
        fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
            input.deserialize_map(Reader)
        }
    }
    struct Reader;
    impl<'de> serde::de::Visitor<'de> for Reader {
        type Value = Members;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
            let mut members = Vec::new();
            while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
                members.push((key, value.get().to_owned()));
            }
            Ok(Members(members))
        }
    }
    serde_json::from_str::<Members>(text).unwrap().0
}

/// Returns a member of an object as it is written.
pub(super) fn member(text: &str, key: &str) -> Option<String> {
    members(text).into_iter().find(|(name, _)| name == key).map(|(_, value)| value)
}

/// Tells where two texts part, with a little of both: they may be long.
pub(super) fn parting(wanted: &str, got: &str) -> String {
    let at = wanted.bytes().zip(got.bytes()).take_while(|(a, b)| a == b).count();
    let near = |text: &str| {
        let bytes = text.as_bytes();
        let part = &bytes[at.saturating_sub(60).min(bytes.len())..(at + 120).min(bytes.len())];
        String::from_utf8_lossy(part).into_owned()
    };
    format!("from byte {at} on:\n  wanted …{}…\n  got    …{}…", near(wanted), near(got))
}
