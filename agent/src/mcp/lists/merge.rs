//! What an aggregate says of itself: the union of what its servers say.

use serde_json::value::{RawValue, to_raw_value};

use super::same_value;
use crate::mcp::object::Object;
use crate::naming;

/// How many bytes the instructions of an aggregate may have.
pub const MAX_INSTRUCTIONS: usize = 16 * 1024;
/// How many bytes the line that maps prefixes to servers may have: hosts that read little of the
/// instructions read this.
const MAX_MAP: usize = 2 * 1024;
/// How deep settings of several servers are joined; below that, the first server's count.
const MAX_DEPTH: usize = 8;

/// The capabilities that an aggregate serves by asking whom it concerns.
const SERVED: [&str; 4] = ["completions", "logging", "extensions", "experimental"];
/// The capability of running calls as tasks (2025-11-25 §Tasks).
const TASKS: &str = "tasks";
/// The capabilities that are lists; of their settings only those that we serve are joined.
const LISTS: [&str; 3] = ["tools", "prompts", "resources"];

/// Joins the `capabilities` of servers.
///
/// Whoever has lists may see them change, since a server can come, go or be restarted: `listChanged`
/// is always true. `resources.subscribe` is true if it is anywhere. Extensions and experimental
/// capabilities are joined by their id. Tasks are reached one by one, by their ids, and are not
/// listed. What is unknown stays only when there is a single server.
///
/// The servers must be of one era, or what does not pass between the eras be left out before.
#[must_use]
pub fn merge_capabilities(all: &[&RawValue]) -> String {
    let single = all.len() == 1;
    let mut union = Object::new();
    for capabilities in all {
        for (key, value) in Object::of(capabilities).unwrap_or_default() {
            if single {
                union.set(&key, value);
            } else if LISTS.contains(&&*key) {
                if let Some(own) = Object::of(&value) {
                    union.edit_in(&key, |list| note_list(list, &key, &own));
                }
            } else if SERVED.contains(&&*key) && value.get().starts_with('{') {
                add(&mut union, &key, &value, MAX_DEPTH);
            } else if key == TASKS
                && let Some(mut own) = Object::of(&value)
            {
                drop(own.remove("list"));
                if !own.is_empty() {
                    add(&mut union, &key, &own.to_raw(), MAX_DEPTH);
                }
            }
        }
    }
    if single {
        for key in LISTS {
            if union.get(key).is_some_and(|value| value.get() != "null") {
                let own = union.get_object(key).unwrap_or_default();
                union.edit_in(key, |list| note_list(list, key, &own));
            }
        }
    }
    union.to_string()
}

/// Notes in the capability of a list what one server says of its own.
fn note_list(list: &mut Object, key: &str, own: &Object) {
    list.set("listChanged", flag());
    if key == "resources" && own.get("subscribe").is_some_and(|value| value.get() == "true") {
        list.set("subscribe", flag());
    }
}

fn flag() -> Box<RawValue> {
    to_raw_value(&true).expect("a flag is JSON")
}

/// Adds a member to those that are there, or joins it with the one of its name.
fn add(object: &mut Object, key: &str, value: &RawValue, depth: usize) {
    let joined = object.get(key).map(|held| union(held, value, depth));
    object.set(key, joined.unwrap_or_else(|| value.to_owned()));
}

/// Joins two settings: objects by member, arrays by item, flags to what holds for both; of anything
/// else the first counts.
fn union(a: &RawValue, b: &RawValue, depth: usize) -> Box<RawValue> {
    let first = a.to_owned();
    if a.get() == b.get() || depth == 0 {
        return first;
    }
    if let (Some(mut object), Some(other)) = (Object::of(a), Object::of(b)) {
        for (key, value) in other.iter() {
            add(&mut object, key, value, depth - 1);
        }
        return object.to_raw();
    }
    if a.get().starts_with('[') && b.get().starts_with('[') {
        return union_of_lists(a, b).unwrap_or(first);
    }
    if (a.get(), b.get()) == ("true", "false") { b.to_owned() } else { first }
}

fn union_of_lists(a: &RawValue, b: &RawValue) -> Option<Box<RawValue>> {
    let mut items: Vec<&RawValue> = serde_json::from_str(a.get()).ok()?;
    for item in serde_json::from_str::<Vec<&RawValue>>(b.get()).ok()? {
        if !items.iter().any(|held| same_value(held, item)) {
            items.push(item);
        }
    }
    to_raw_value(&items).ok()
}

/// Joins the instructions of servers, given as pairs of name and text; `None` when nobody has any.
///
/// The first line says which names belong to which server, for hosts that read no further. Then
/// each text follows under its server's name. Long texts are cut alike, to at most 16 KiB in all.
#[must_use]
pub fn merge_instructions(all: &[(&str, &str)]) -> Option<String> {
    let texts: Vec<(String, &str)> = all
        .iter()
        .filter(|(_, text)| !text.trim().is_empty())
        .map(|(server, text)| (format!("\n\n# {}\n\n", one_line(server)), text.trim()))
        .collect();
    if texts.is_empty() {
        return None;
    }
    let mut out = prefixes(all.iter().map(|(server, _)| *server));
    let headings: usize = texts.iter().map(|(heading, _)| heading.len()).sum();
    let room = MAX_INSTRUCTIONS.saturating_sub(out.len() + headings);
    let share = fair_share(texts.iter().map(|(_, text)| text.len()).collect(), room);
    for (heading, text) in &texts {
        let text = cut(text, share);
        // With very many servers not even the headings fit.
        if out.len() + heading.len() + text.len() <= MAX_INSTRUCTIONS && !text.is_empty() {
            out.push_str(heading);
            out.push_str(&text);
        }
    }
    Some(out)
}

/// Returns the line that maps prefixes to servers.
fn prefixes<'a>(servers: impl Iterator<Item = &'a str>) -> String {
    let list: Vec<String> = servers
        .map(|server| match naming::prefix(server) {
            prefix if prefix.strip_suffix('_') == Some(server) => format!("`{prefix}`"),
            prefix => format!("`{prefix}` ({})", one_line(server)),
        })
        .collect();
    let list = list.join(", ");
    let list = cut(&list, MAX_MAP);
    format!(
        "Several servers in one; tools and prompts are named after theirs: {list}. \
         The texts below use the servers' own names, without these prefixes."
    )
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns the length to which all must be cut so that together they fit.
fn fair_share(mut lengths: Vec<usize>, mut room: usize) -> usize {
    lengths.sort_unstable();
    let count = lengths.len();
    for (at, length) in lengths.into_iter().enumerate() {
        let share = room / (count - at);
        if length > share {
            return share;
        }
        room -= length;
    }
    usize::MAX
}

/// Cuts a text to this many bytes, and shows that it was cut.
fn cut(text: &str, limit: usize) -> std::borrow::Cow<'_, str> {
    const MARK: &str = "…";
    if text.len() <= limit {
        return text.into();
    }
    match limit.checked_sub(MARK.len()) {
        Some(limit) => (text[..text.floor_char_boundary(limit)].to_owned() + MARK).into(),
        None => "".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(all: &[&str]) -> String {
        let all: Vec<Box<RawValue>> =
            all.iter().map(|text| RawValue::from_string((*text).to_owned()).unwrap()).collect();
        merge_capabilities(&all.iter().map(|raw| &**raw).collect::<Vec<_>>())
    }

    #[test]
    fn an_aggregate_has_what_any_server_has() {
        assert_eq!(
            merged(&[
                r#"{"logging":{},"tools":{"listChanged":false,"x":1},"tasks":{"list":{}}}"#,
                r#"{"resources":{"subscribe":true},"prompts":{},"vendor":{}}"#,
                r#"{"resources":{"subscribe":false},"completions":{}}"#,
            ]),
            concat!(
                r#"{"logging":{},"tools":{"listChanged":true},"#,
                r#""resources":{"listChanged":true,"subscribe":true},"#,
                r#""prompts":{"listChanged":true},"completions":{}}"#
            )
        );
        assert_eq!(merged(&[]), "{}");
    }

    #[test]
    fn a_single_server_keeps_what_we_do_not_know() {
        assert_eq!(
            merged(&[r#"{"tools":{"x":1e400},"tasks":{"list":{}},"vendor":[1],"resources":{}}"#]),
            concat!(
                r#"{"tools":{"x":1e400,"listChanged":true},"tasks":{"list":{}},"vendor":[1],"#,
                r#""resources":{"listChanged":true}}"#
            )
        );
    }

    #[test]
    fn an_aggregate_runs_tasks_where_a_server_does_and_lists_none() {
        assert_eq!(
            merged(&[
                r#"{"tools":{}}"#,
                r#"{"tasks":{"list":{},"cancel":{},"requests":{"tools":{"call":{}}}}}"#,
                r#"{"tasks":{"requests":{"other":{}}}}"#,
            ]),
            concat!(
                r#"{"tools":{"listChanged":true},"#,
                r#""tasks":{"cancel":{},"requests":{"tools":{"call":{}},"other":{}}}}"#
            )
        );
    }

    #[test]
    fn extensions_are_joined_by_their_id() {
        assert_eq!(
            merged(&[
                r#"{"extensions":{"io.x/ui":{"mimeTypes":["a","b"],"on":true,"n":1},"p/q":{}}}"#,
                r#"{"extensions":{"io.x/ui":{"mimeTypes":["b","c"],"on":false,"n":2}},"experimental":{"e":{}}}"#,
            ]),
            concat!(
                r#"{"extensions":{"io.x/ui":{"mimeTypes":["a","b","c"],"on":false,"n":1},"p/q":{}},"#,
                r#""experimental":{"e":{}}}"#
            )
        );
    }

    #[test]
    fn capabilities_of_the_wrong_shape_are_in_nobodys_way() {
        assert_eq!(
            merged(&["null", r#"{"tools":true,"prompts":null}"#, r#"{"tools":{}}"#]),
            r#"{"tools":{"listChanged":true}}"#
        );
        assert_eq!(merged(&[r#"{"tools":true}"#]), r#"{"tools":{"listChanged":true}}"#);
    }

    #[test]
    fn instructions_begin_with_the_prefixes() {
        let merged =
            merge_instructions(&[("git", "Use it.\n"), ("my fs", ""), ("time", "Now.")]).unwrap();
        assert_eq!(
            merged,
            "Several servers in one; tools and prompts are named after theirs: `git_`, `my_fs_` (my fs), `time_`. \
             The texts below use the servers' own names, without these prefixes.\
             \n\n# git\n\nUse it.\n\n# time\n\nNow."
        );
        assert_eq!(merge_instructions(&[("a", " "), ("b", "")]), None);
    }

    #[test]
    fn long_instructions_are_cut_and_short_ones_are_not() {
        let long = "é".repeat(40_000);
        let merged = merge_instructions(&[("a", &long), ("b", "short."), ("c", &long)]).unwrap();
        assert!(merged.len() <= MAX_INSTRUCTIONS && merged.len() > MAX_INSTRUCTIONS - 10);
        assert!(merged.contains("# b\n\nshort.\n\n# c"), "a short text must stay whole");
        assert!(merged.ends_with("é…"));
    }

    #[test]
    fn very_many_servers_stay_within_the_bound() {
        let names: Vec<String> = (0..5000).map(|n| format!("a rather long name {n}")).collect();
        let all: Vec<_> = names.iter().map(|name| (name.as_str(), "text")).collect();
        assert!(merge_instructions(&all).unwrap().len() <= MAX_INSTRUCTIONS);
    }
}
