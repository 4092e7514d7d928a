//! The form of the official MCP Registry: `server.json`, schema 2025-12-11, and those before it
//! that the registry still serves.

mod inputs;
mod packages;

use serde_json::Value;

use self::inputs::Inputs;
use super::catalogue::text;
use super::manifest::{Launch, Manifest, Method, Origin, Unusable, Var};
use super::template::from_braces;

/// Where the registry puts what it says itself of a server.
pub(super) const META: &str = "io.modelcontextprotocol.registry/official";

/// Reads one server; `None` when it makes no sense.
pub(super) fn manifest(server: &Value, meta: &Value, origin: Origin) -> Option<Manifest> {
    let name = text(&server["name"])?;
    let status = meta["status"].as_str().or_else(|| server["status"].as_str());
    let mut manifest = Manifest {
        alias: alias(&name),
        title: text(&server["title"]).unwrap_or_else(|| name.clone()),
        description: text(&server["description"]).unwrap_or_default(),
        version: text(&server["version"]),
        homepage: text(&server["websiteUrl"]),
        repository: text(&server["repository"]["url"]),
        archived: matches!(status, Some("deprecated" | "deleted")),
        ..Manifest::named(&name, origin)
    };
    let packages = server["packages"].as_array().into_iter().flatten();
    for package in packages {
        let kind = text(&package["registryType"]).unwrap_or_else(|| "package".to_owned());
        add(&mut manifest, kind, |id| packages::method(id, package));
    }
    for remote in server["remotes"].as_array().into_iter().flatten() {
        add(&mut manifest, "remote".to_owned(), |id| self::remote(id, remote));
    }
    Some(manifest)
}

/// Adds a method, under a name of its own, or why there is none.
fn add(manifest: &mut Manifest, kind: String, method: impl FnOnce(&str) -> Result<Method, String>) {
    let taken = manifest.methods.iter().map(|method| &method.kind).filter(|k| **k == kind).count();
    let id = if taken == 0 { kind } else { format!("{kind}-{}", taken + 1) };
    match method(&id) {
        Ok(method) => manifest.methods.push(method),
        Err(reason) => manifest.unusable.push(Unusable { id, reason }),
    }
}

fn remote(id: &str, remote: &Value) -> Result<Method, String> {
    let kind = remote["type"].as_str().unwrap_or("streamable-http");
    if !matches!(kind, "streamable-http" | "sse") {
        return Err(format!("`{kind}` is no transport that mcpm speaks"));
    }
    let url = text(&remote["url"]).ok_or("it has no `url`")?;
    if !url.starts_with("https://") && !url.starts_with("http://") {
        return Err("its `url` is not on the web".to_owned());
    }
    let mut inputs = Inputs::default();
    // An address cannot be left out, so all of it is required.
    inputs.add_variables(&url, remote, Some(true));
    let headers: Vec<Var> = inputs.vars(&remote["headers"]);
    Ok(Method {
        id: id.to_owned(),
        kind: "remote".to_owned(),
        description: None,
        recommended: false,
        inputs: inputs.done(),
        launch: Launch::Remote { url: from_braces(&url), headers },
        notes: Vec::new(),
    })
}

/// Returns what people call a server whose full name is `io.github.user/weather`.
pub(super) fn alias(name: &str) -> String {
    let (space, short) = name.rsplit_once('/').unwrap_or(("", name));
    let generic = matches!(short, "mcp" | "server" | "mcp-server" | "mcp_server");
    let label = space.rsplit('.').next().filter(|label| generic && !label.is_empty());
    label.unwrap_or(short).to_owned()
}

#[cfg(test)]
mod tests;
