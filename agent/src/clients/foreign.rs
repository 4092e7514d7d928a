//! Entries that others wrote, read for `servers.json`. People paste entries from one client into
//! another, so that every shape is read wherever it is found.

use serde_json::{Map, Value};

use crate::model::{EntryError, Server};

/// Keys that say nothing which `servers.json` would have to keep.
const SILENT: &[&str] = &[
    "command",
    "cmd",
    "args",
    "env",
    "envs",
    "environment",
    "cwd",
    "url",
    "serverUrl",
    "httpUrl",
    "uri",
    "headers",
    "http_headers",
    "env_http_headers",
    "bearer_token_env_var",
    "requestOptions",
    "type",
    "transport",
    "name",
    "key",
    "source",
    "description",
    "display_name",
    "bundled",
    "isActive",
    "transportType",
];

/// An entry of a client, as a server of ours.
#[derive(Debug)]
pub struct Foreign {
    /// Its name in the client.
    pub name: String,
    /// The server, or why it is none.
    pub server: Result<Server, NotImportable>,
    /// Keys of the entry that mcpm has no use for.
    pub left_out: Vec<String>,
    /// Placeholders in it that only its client can fill in.
    pub unanswered: Vec<String>,
}

/// Why an entry cannot become a server of ours.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotImportable {
    /// It is a part of the client.
    #[error("it is a part of the client")]
    BuiltIn,
    /// It does not say how the server is reached.
    #[error(transparent)]
    Entry(#[from] EntryError),
}

impl Foreign {
    /// Reads an entry of any client.
    #[must_use]
    pub fn read(name: &str, entry: &Value) -> Self {
        let mut unanswered = Vec::new();
        let server = read(name, entry).map(|mut ours| {
            translate(&mut ours, &mut unanswered);
            Server::from_entry(name, &Value::Object(ours)).map_err(NotImportable::from)
        });
        let left_out =
            entry.as_object().into_iter().flatten().filter(|(key, value)| says(key, value));
        Self {
            name: name.to_owned(),
            server: server.and_then(|server| server),
            left_out: left_out.map(|(key, _)| key.clone()).collect(),
            unanswered,
        }
    }
}

/// Tells whether a key says something that is lost without it.
fn says(key: &str, value: &Value) -> bool {
    let usual = match key {
        "disabled" => *value == false,
        "enabled" => *value == true,
        _ => false,
    };
    let empty = match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    !usual && !empty && !SILENT.contains(&key)
}

/// Returns the program and the arguments of an entry, in any shape.
pub(super) fn command_line(entry: &Value) -> Option<(String, Vec<String>)> {
    let args = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().map(text_of).collect()
    };
    match entry.get("command").or_else(|| entry.get("cmd"))? {
        Value::String(program) => Some((program.clone(), args(&entry["args"]))),
        // OpenCode: all words in one list.
        Value::Array(words) => {
            let mut words = words.iter().map(text_of);
            let program = words.next()?;
            Some((program, words.chain(args(&entry["args"])).collect()))
        }
        // Zed, as it was: an object inside.
        Value::Object(inner) => {
            let program = inner.get("path")?.as_str()?.to_owned();
            Some((program, inner.get("args").map(args).unwrap_or_default()))
        }
        _ => None,
    }
}

/// Brings an entry of any shape into that of `servers.json`.
fn read(name: &str, entry: &Value) -> Result<Map<String, Value>, NotImportable> {
    let keys = entry.as_object().ok_or(EntryError::NotAnObject)?;
    if ["builtin", "platform", "frontend"].iter().any(|kind| entry["type"] == *kind) {
        return Err(NotImportable::BuiltIn);
    }
    let mut ours = Map::from_iter([("name".to_owned(), Value::from(name))]);
    let first = |names: &[&str]| {
        names.iter().find_map(|name| keys.get(*name)).filter(|value| !value.is_null()).cloned()
    };
    if let Some((program, args)) = command_line(entry) {
        ours.insert("command".to_owned(), program.into());
        ours.insert("args".to_owned(), args.into());
        let inner = keys.get("command").and_then(|command| command.get("env")).cloned();
        if let Some(env) = first(&["env", "envs", "environment"]).or(inner) {
            ours.insert("env".to_owned(), env);
        }
        if let Some(cwd) = first(&["cwd"]) {
            ours.insert("cwd".to_owned(), cwd);
        }
    } else if let Some(url) = first(&["httpUrl", "url", "serverUrl", "uri"]) {
        ours.insert("url".to_owned(), url);
        let nested = keys.get("requestOptions").and_then(|options| options.get("headers"));
        let headers = first(&["headers", "http_headers"]).or(nested.cloned());
        let mut headers = match headers {
            Some(Value::Object(headers)) => headers,
            Some(_) => {
                let wrong = EntryError::WrongType { key: "headers", expected: "an object" };
                return Err(wrong.into());
            }
            None => Map::new(),
        };
        // Codex names variables in place of values.
        for (header, variable) in
            keys.get("env_http_headers").and_then(Value::as_object).into_iter().flatten()
        {
            headers.insert(header.clone(), format!("${{{}}}", text_of(variable)).into());
        }
        if let Some(variable) = keys.get("bearer_token_env_var").and_then(Value::as_str) {
            headers.insert("Authorization".to_owned(), format!("Bearer ${{{variable}}}").into());
        }
        ours.insert("headers".to_owned(), headers.into());
    }
    Ok(ours)
}

/// Turns references to variables into ours, and notes placeholders of other kinds.
fn translate(map: &mut Map<String, Value>, unanswered: &mut Vec<String>) {
    fn walk(value: &mut Value, unanswered: &mut Vec<String>) {
        match value {
            Value::String(text) => *text = translated(text, unanswered),
            Value::Array(items) => items.iter_mut().for_each(|item| walk(item, unanswered)),
            Value::Object(map) => map.values_mut().for_each(|value| walk(value, unanswered)),
            _ => {}
        }
    }
    for (key, value) in map.iter_mut() {
        if key != "name" {
            walk(value, unanswered);
        }
        if let ("env" | "headers", Value::Object(pairs)) = (key.as_str(), value) {
            pairs.values_mut().for_each(braced);
        }
    }
}

/// Writes `$NAME`, which Gemini CLI and Qwen CLI know, as `${NAME}`. It is read as a whole word of a
/// variable or header only: elsewhere it may be meant for a shell.
fn braced(value: &mut Value) {
    let Value::String(text) = value else { return };
    let named = |word: &str| {
        let name = word.strip_prefix('$').filter(|name| is_variable(name))?;
        let shouted = !name.contains(|c: char| c.is_ascii_lowercase())
            && !name.starts_with(|c: char| c.is_ascii_digit());
        shouted.then(|| format!("${{{name}}}"))
    };
    let words = text.split(' ').map(|word| named(word).unwrap_or_else(|| word.to_owned()));
    *text = words.collect::<Vec<_>>().join(" ");
}

/// `${env:X}` and `{env:X}` become `${X}`; `${input:x}` and the like stay and are noted.
fn translated(text: &str, unanswered: &mut Vec<String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        let dollar = rest[..open].ends_with('$');
        let Some(length) = rest[open..].find('}') else { break };
        let inside = &rest[open + 1..open + length];
        let head = &rest[..open - usize::from(dollar)];
        let whole = &rest[head.len()..=open + length];
        out.push_str(head);
        match inside.split_once(':') {
            Some(("env", name)) if is_variable(name) => out.push_str(&format!("${{{name}}}")),
            Some(("input" | "command" | "config", _)) if dollar => {
                note(whole, unanswered, &mut out);
            }
            Some(("file", _)) if !dollar => note(whole, unanswered, &mut out),
            None if dollar
                && ["workspaceFolder", "userHome", "workspaceFolderBasename"].contains(&inside) =>
            {
                note(whole, unanswered, &mut out);
            }
            _ => out.push_str(whole),
        }
        rest = &rest[open + length + 1..];
    }
    out.push_str(rest);
    out
}

fn note(placeholder: &str, unanswered: &mut Vec<String>, out: &mut String) {
    if !unanswered.iter().any(|known| known == placeholder) {
        unanswered.push(placeholder.to_owned());
    }
    out.push_str(placeholder);
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|char| char.is_ascii_alphanumeric() || char == '_')
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests;
