//! The mcpm.sh catalogue: one JSON map of manifests, and what we make of each of them.
//!
//! Its manifests name what they ask for in three ways; all become placeholders here, so that
//! nothing that is required goes unasked and nothing is substituted by half.

mod arguments;
mod http;

use serde_json::{Map, Value};

pub(super) use self::http::Catalogue;
use super::manifest::{Input, Launch, Manifest, Method, Origin, Unusable, Var};

/// Reads a map of manifests; those that make no sense are left out.
pub(super) fn parse(servers: &Map<String, Value>, origin: Origin) -> Vec<Manifest> {
    servers.iter().filter_map(|(key, value)| manifest(key, value, origin)).collect()
}

/// Reads one manifest. Its name is its key in the map, since that is unique; the `name` inside may
/// differ.
pub(super) fn manifest(key: &str, value: &Value, origin: Origin) -> Option<Manifest> {
    let keys = value.as_object()?;
    let installations = keys.get("installations")?.as_object()?;
    let declared = declared(keys.get("arguments"));
    let (mut methods, mut unusable) = (Vec::new(), Vec::new());
    for (id, installation) in installations {
        match method(id, installation, &declared) {
            Ok(method) => methods.push(method),
            Err(reason) => unusable.push(Unusable { id: id.clone(), reason: reason.to_owned() }),
        }
    }
    let author = &value["author"];
    let mut tags = strings(&value["tags"]);
    // The differing name inside can be searched for, and what is shown is what `install` takes.
    tags.extend(text(&value["name"]).filter(|name| name != key));
    Some(Manifest {
        title: text(&value["display_name"]).unwrap_or_else(|| key.to_owned()),
        description: text(&value["description"]).unwrap_or_default(),
        homepage: text(&value["homepage"]),
        repository: text(&value["repository"]["url"]).or_else(|| text(&value["repository"])),
        author: text(&author["name"]).or_else(|| text(author)),
        license: text(&value["license"]),
        categories: strings(&value["categories"]),
        tags,
        official: value["is_official"] == true,
        archived: value["is_archived"] == true,
        methods,
        unusable,
        examples: examples(&value["examples"]),
        ..Manifest::named(key, origin)
    })
}

fn declared(arguments: Option<&Value>) -> Vec<Input> {
    let Some(arguments) = arguments.and_then(Value::as_object) else { return Vec::new() };
    let input = |(name, value): (&String, &Value)| Input {
        name: name.clone(),
        description: text(&value["description"]),
        required: value["required"] == true,
        secret: value["secret"] == true || super::manifest::is_secret_name(name),
        default: None,
        example: scalar(&value["example"]),
        choices: Vec::new(),
    };
    arguments.iter().map(input).collect()
}

fn method(id: &str, value: &Value, declared: &[Input]) -> Result<Method, &'static str> {
    let kind = text(&value["type"]).unwrap_or_else(|| id.to_owned());
    let launch = if kind == "http" {
        let url = text(&value["url"]).ok_or("it has no `url`")?;
        Launch::Remote { url, headers: vars(&value["headers"]) }
    } else {
        let command = text(&value["command"]).ok_or("it has no `command`")?;
        let args = value["args"].as_array().into_iter().flatten().filter_map(scalar);
        let args = arguments::named(args.collect(), declared);
        Launch::Stdio {
            args: arguments::grouped(args),
            command,
            env: vars(&value["env"]),
            cwd: None,
        }
    };
    let method = Method {
        id: id.to_owned(),
        kind,
        description: text(&value["description"]),
        recommended: value["recommended"] == true,
        inputs: Vec::new(),
        launch,
        notes: Vec::new(),
    };
    Ok(arguments::linked(method, declared))
}

fn vars(value: &Value) -> Vec<Var> {
    let pairs = value.as_object().into_iter().flatten();
    pairs
        .filter_map(|(name, value)| Some(Var { name: name.clone(), value: scalar(value)? }))
        .collect()
}

fn examples(value: &Value) -> Vec<String> {
    let examples = value.as_array().into_iter().flatten();
    examples
        .filter_map(|example| text(&example["prompt"]).or_else(|| text(&example["title"])))
        .collect()
}

/// Returns a text that says something.
pub(super) fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
}

/// Returns what stands for one word: a text, also an empty one, a number or a truth.
pub(super) fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

pub(super) fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(text).collect()
}

#[cfg(test)]
mod tests;
