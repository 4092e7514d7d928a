//! The lines of a YAML text, and how values of ours are written into them.

use serde_json::Value;

/// A text as lines. Changes by bytes come before changes by lines.
#[derive(Debug)]
pub(super) struct Lines {
    lines: Vec<String>,
    starts: Vec<usize>,
    ends_with_break: bool,
}

impl Lines {
    pub(super) fn new(text: &str) -> Self {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let starts = lines
            .iter()
            .scan(0, |at, line| {
                let start = *at;
                *at += line.len() + 1;
                Some(start)
            })
            .collect();
        // A new file, too, ends with a line break.
        Self { lines, starts, ends_with_break: text.is_empty() || text.ends_with('\n') }
    }

    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    /// Returns where the block that begins on `line` in `column` ends: behind its last line that
    /// is not blank. `limit` is the end of the search.
    pub(super) fn end_of(&self, line: usize, column: usize, limit: usize) -> usize {
        let mut end = line + 1;
        for (number, text) in self.lines.iter().enumerate().take(limit).skip(line + 1) {
            let content = text.trim_start();
            if content.is_empty() {
                continue;
            }
            let indent = text.chars().take_while(|char| *char == ' ').count();
            let own_dash = self.is_key(line, column) && indent == column && is_item(content);
            if indent <= column && !own_dash {
                break;
            }
            end = number + 1;
        }
        end
    }

    /// Tells whether a key stands there, whose list may have its dashes in the same column.
    fn is_key(&self, line: usize, column: usize) -> bool {
        let rest: String = self
            .lines
            .get(line)
            .map(|text| text.chars().skip(column).collect())
            .unwrap_or_default();
        !is_item(&rest)
    }

    pub(super) fn insert(&mut self, at: usize, new: &[String]) {
        let at = at.min(self.lines.len());
        self.lines.splice(at..at, new.iter().cloned());
    }

    pub(super) fn remove(&mut self, from: usize, to: usize) {
        self.lines.drain(from..to.min(self.lines.len()));
    }

    /// Replaces bytes of the text.
    pub(super) fn replace(&mut self, start: usize, end: usize, new: &str) {
        let line = |at: usize| self.starts.partition_point(|start| *start <= at).saturating_sub(1);
        let (first, last) = (line(start), line(end));
        let (Some(head), Some(tail)) = (self.lines.get(first), self.lines.get(last)) else {
            return;
        };
        let head = &head[..(start - self.starts[first]).min(head.len())];
        let tail = &tail[(end - self.starts[last]).min(tail.len())..];
        let joined = format!("{head}{new}{tail}");
        self.lines.splice(first..=last, [joined]);
    }

    /// Cuts bytes from the text.
    pub(super) fn cut(&mut self, start: usize, end: usize) {
        self.replace(start, end, "");
    }

    /// Takes spaces from the end of a line.
    pub(super) fn trim_end(&mut self, line: usize) {
        if let Some(line) = self.lines.get_mut(line) {
            line.truncate(line.trim_end().len());
        }
    }

    /// Writes behind the colon of the key that ends at `key_end`.
    pub(super) fn append_behind_colon(&mut self, line: usize, key_end: usize, new: &str) {
        let Some(start) = self.starts.get(line).copied() else { return };
        let Some(text) = self.lines.get_mut(line) else { return };
        let key_end = key_end.saturating_sub(start).min(text.len());
        if let Some(colon) = text[key_end..].find(':') {
            text.insert_str(key_end + colon + 1, new);
        }
    }

    pub(super) fn join(self) -> String {
        let mut text = self.lines.join("\n");
        if self.ends_with_break && !text.is_empty() {
            text.push('\n');
        }
        text
    }
}

fn is_item(content: &str) -> bool {
    content == "-" || content.starts_with("- ")
}

/// Writes a map in block style, each line indented by `column`.
pub(super) fn block(value: &Value, column: usize) -> Vec<String> {
    let indent = " ".repeat(column);
    let Some(map) = value.as_object() else { return vec![format!("{indent}{}", flow(value))] };
    let mut lines = Vec::new();
    for (key, value) in map {
        match value {
            Value::Array(items) if !items.is_empty() => {
                lines.push(format!("{indent}{}:", scalar(key)));
                lines.extend(items.iter().map(|item| format!("{indent}  - {}", flow(item))));
            }
            Value::Object(map) if !map.is_empty() => {
                lines.push(format!("{indent}{}:", scalar(key)));
                lines.extend(block(value, column + 2));
            }
            value => lines.push(format!("{indent}{}: {}", scalar(key), flow(value))),
        }
    }
    lines
}

/// Writes a value on one line.
pub(super) fn flow(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", "))
        }
        Value::Object(map) => {
            let fields = map.iter().map(|(key, value)| format!("{}: {}", scalar(key), flow(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// Writes a text plain where every reader takes it for a text, and else in double quotes, whose
/// escapes are those of JSON.
pub(super) fn scalar(text: &str) -> String {
    const WORDS: [&str; 9] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    let begins = text.starts_with(|char: char| char.is_ascii_alphabetic() || "/_".contains(char));
    let plain = text.chars().all(|char| char.is_ascii_alphanumeric() || "/_.-".contains(char));
    if begins && plain && !WORDS.contains(&text.to_ascii_lowercase().as_str()) {
        return text.to_owned();
    }
    Value::from(text).to_string()
}
