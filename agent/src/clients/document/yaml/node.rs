//! The nodes of a YAML document and where they stand in its text.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::{Map, Value};

use crate::clients::document::Fault;

/// How deep nodes may nest; configuration files stay far below it.
const DEEPEST: usize = 100;

/// One node.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) kind: Kind,
    /// Where its text begins, in bytes.
    pub(super) start: usize,
    /// Where its text ends, in bytes; for block collections only roughly.
    pub(super) end: usize,
    /// Its first line, counted from 0.
    pub(super) line: usize,
    /// The column of its first character, in characters; of a block list, of its dashes.
    pub(super) column: usize,
    /// The line of its dash, where it is an item of a block list.
    dash_line: usize,
    flow: bool,
    one_line: bool,
}

/// What a node is.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// Text, and whether it is plain: without quotes, so that it may mean a number.
    Scalar(String, bool),
    /// Keys and values.
    Map(Vec<(Node, Node)>),
    /// Items.
    List(Vec<Node>),
    /// What another node says.
    Alias(Value),
}

/// Where a child of a collection stands: a field from its key to the end of its value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Child<'a> {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) line: usize,
    column: usize,
    value: &'a Node,
}

impl Child<'_> {
    /// Returns how far the fields of a block entry are indented below its key.
    pub(super) fn step(&self) -> Option<usize> {
        let first = self.value.children().first().map(|child| child.column)?;
        (!self.value.flow).then(|| first.saturating_sub(self.column)).filter(|step| *step > 0)
    }
}

impl Node {
    /// Returns a field of a map: its key and its value.
    pub(super) fn field(&self, name: &str) -> Option<(&Self, &Self)> {
        match &self.kind {
            Kind::Map(fields) => fields
                .iter()
                .find(|(key, _)| key.text() == Some(name))
                .map(|(key, value)| (key, value)),
            _ => None,
        }
    }

    /// Returns the text of a scalar.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar(text, _) => Some(text),
            _ => None,
        }
    }

    /// Tells whether this is `{…}` or `[…]`.
    pub(super) fn is_flow(&self) -> bool {
        self.flow
    }

    /// Tells whether the text of this node is known to the byte and on one line.
    pub(super) fn is_inline(&self) -> bool {
        match self.kind {
            Kind::Scalar(..) => self.one_line && self.end > self.start,
            Kind::Map(_) | Kind::List(_) => self.flow && self.one_line,
            Kind::Alias(_) => false,
        }
    }

    /// Tells whether this has no child.
    pub(super) fn is_empty(&self) -> bool {
        self.children().is_empty()
    }

    /// Returns where the children stand.
    pub(super) fn children(&self) -> Vec<Child<'_>> {
        match &self.kind {
            Kind::Map(fields) => fields
                .iter()
                .map(|(key, value)| Child {
                    start: key.start,
                    end: value.end.max(key.end),
                    line: key.line,
                    column: key.column,
                    value,
                })
                .collect(),
            Kind::List(items) => items
                .iter()
                .map(|item| Child {
                    start: item.start,
                    end: item.end,
                    line: item.dash_line,
                    column: self.column,
                    value: item,
                })
                .collect(),
            Kind::Scalar(..) | Kind::Alias(_) => Vec::new(),
        }
    }

    /// Returns the column of the keys or dashes of a block collection.
    pub(super) fn item_column(&self) -> usize {
        self.children().first().map_or(self.column, |first| first.column)
    }

    /// Returns what the node says, as JSON.
    pub(super) fn to_value(&self) -> Value {
        match &self.kind {
            Kind::Scalar(text, plain) => resolve(text, *plain),
            Kind::Alias(value) => value.clone(),
            Kind::List(items) => items.iter().map(Self::to_value).collect(),
            Kind::Map(fields) => Value::Object(
                fields.iter().map(|(key, value)| (key.name(), value.to_value())).collect(),
            ),
        }
    }

    fn name(&self) -> String {
        self.text().map_or_else(|| self.to_value().to_string(), str::to_owned)
    }
}

/// Parses a text of at most one document.
pub(super) fn parse(text: &str) -> Result<Node, Fault> {
    let offsets: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let lines = text.lines().collect();
    let (anchors, open) = (HashMap::new(), Vec::new());
    let mut builder = Builder { text, lines, offsets, anchors, open, root: None };
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| Fault::Syntax(error.to_string()))?;
        builder.take(event, span)?;
    }
    let nothing = Map::new();
    Ok(builder.root.unwrap_or(Node {
        kind: Kind::Alias(Value::Object(nothing)),
        start: text.len(),
        end: text.len(),
        line: 0,
        column: 0,
        dash_line: 0,
        flow: false,
        one_line: false,
    }))
}

/// A collection whose end was not yet seen.
struct Open {
    node: Node,
    anchor: usize,
    key: Option<Node>,
}

struct Builder<'a> {
    text: &'a str,
    lines: Vec<&'a str>,
    /// Where each character begins, in bytes: the parser counts characters.
    offsets: Vec<usize>,
    anchors: HashMap<usize, Value>,
    open: Vec<Open>,
    root: Option<Node>,
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Fault> {
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let plain = style == ScalarStyle::Plain;
                let node = self.node(Kind::Scalar(text.into_owned(), plain), span);
                self.finish(node, anchor)
            }
            Event::Alias(anchor) => {
                let value = self.anchors.get(&anchor).cloned().unwrap_or_default();
                let node = self.node(Kind::Alias(value), span);
                self.finish(node, 0)
            }
            Event::SequenceStart(anchor, _) => self.begin(Kind::List(Vec::new()), anchor, span),
            Event::MappingStart(anchor, _) => self.begin(Kind::Map(Vec::new()), anchor, span),
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(Open { mut node, anchor, .. }) = self.open.pop() else { return Ok(()) };
                let last = self.offset(span.start.index());
                let bracket = self.text[last..].starts_with(['}', ']']);
                node.end = if bracket { last + 1 } else { self.offset(span.end.index()) };
                node.one_line = !self.text[node.start..node.end.max(node.start)].contains('\n');
                self.finish(node, anchor)
            }
            _ => Ok(()),
        }
    }

    fn begin(&mut self, kind: Kind, anchor: usize, span: Span) -> Result<(), Fault> {
        if self.open.len() >= DEEPEST {
            return Err(Fault::Syntax("nested too deeply".to_owned()));
        }
        let mut node = self.node(kind, span);
        node.flow = self.text[node.start..].starts_with(['{', '[']);
        self.open.push(Open { node, anchor, key: None });
        Ok(())
    }

    fn node(&self, kind: Kind, span: Span) -> Node {
        let (start, end) = (self.offset(span.start.index()), self.offset(span.end.index()));
        let end = end.max(start);
        Node {
            kind,
            start,
            end,
            line: span.start.line().saturating_sub(1),
            column: span.start.col(),
            dash_line: span.start.line().saturating_sub(1),
            flow: false,
            one_line: !self.text[start..end].contains('\n'),
        }
    }

    fn offset(&self, index: usize) -> usize {
        self.offsets.get(index).copied().unwrap_or(self.text.len())
    }

    /// Puts a whole node where it belongs.
    fn finish(&mut self, node: Node, anchor: usize) -> Result<(), Fault> {
        if anchor != 0 {
            self.anchors.insert(anchor, node.to_value());
        }
        let Some(Open { node: above, key, .. }) = self.open.last_mut() else {
            if self.root.replace(node).is_some() {
                return Err(Fault::Syntax("the file has more than one document".to_owned()));
            }
            return Ok(());
        };
        match &mut above.kind {
            Kind::List(items) => {
                let mut node = node;
                if !above.flow {
                    (node.dash_line, above.column) = dash(&self.lines, above.column, node.line);
                }
                items.push(node);
            }
            Kind::Map(fields) => match key.take() {
                None => *key = Some(node),
                Some(name) => {
                    if fields.iter().any(|(other, _)| other.name() == name.name()) {
                        return Err(Fault::Syntax(format!("`{}` occurs twice", name.name())));
                    }
                    fields.push((name, node));
                }
            },
            Kind::Scalar(..) | Kind::Alias(_) => {}
        }
        Ok(())
    }
}

/// Returns line and column of the dash before an item, which may begin below it. The parser says
/// where a list begins, unless its dashes are not indented below their key.
fn dash(lines: &[&str], column: usize, line: usize) -> (usize, usize) {
    let at = |line: &usize, column: usize| {
        lines.get(*line).and_then(|text| text.chars().nth(column)) == Some('-')
    };
    let indent =
        |line: usize| lines.get(line).map_or(0, |text| text.len() - text.trim_start().len());
    let known = (0..=line).rev().find(|line| at(line, column)).map(|line| (line, column));
    let first = || (0..=line).rev().find(|line| at(line, indent(*line)));
    known.or_else(|| first().map(|line| (line, indent(line)))).unwrap_or((line, column))
}

/// Reads a plain scalar by the core schema of YAML 1.2.
fn resolve(text: &str, plain: bool) -> Value {
    if !plain {
        return text.into();
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return true.into(),
        "false" | "False" | "FALSE" => return false.into(),
        _ => {}
    }
    let looks_like_number = text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
    if let (true, Ok(number)) = (looks_like_number, text.parse::<i64>()) {
        return number.into();
    }
    match text.parse::<f64>().ok().and_then(serde_json::Number::from_f64) {
        Some(number) if looks_like_number => Value::Number(number),
        _ => text.into(),
    }
}
