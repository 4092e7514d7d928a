//! Bundles (`.mcpb`, `.dxt`): a ZIP file with a server and a `manifest.json` that tells how it is
//! started. MCPB manifest versions 0.1 to 0.3.

mod unpack;

use std::path::Path;

use serde_json::{Map, Value};

pub use self::unpack::{BundleError, check_sha256, read_manifest, sha256_of, unpack};
use super::catalogue::{scalar, text};
use super::manifest::{Arg, Input, Launch, Manifest, Method, Origin, Var, is_secret_name};
use super::template::rewrite;

/// What stands in front of the names of inputs.
const CONFIG: &str = "user_config.";

/// Tells whether a `manifest.json` is one of a bundle; other trades have files of this name.
pub(super) fn is_manifest(value: &Value) -> bool {
    let version = value.get("manifest_version").or_else(|| value.get("dxt_version"));
    version.is_some_and(Value::is_string) && value["server"].is_object()
}

/// Describes the server of a bundle that is, or will be, unpacked at `folder`.
///
/// # Errors
/// Says what is wrong with the manifest.
pub fn manifest(value: &Value, folder: &Path, home: Option<&Path>) -> Result<Manifest, String> {
    if !is_manifest(value) {
        return Err("it is not the manifest of a bundle".to_owned());
    }
    let name = text(&value["name"]).ok_or("it has no `name`")?;
    fits_here(&value["compatibility"]["platforms"])?;
    let known = |name: &str| variable(name, folder, home);
    let config = &value["user_config"];
    let (command, args, env) = start(&value["server"], folder)?;
    let launch = Launch::Stdio {
        command: rewrite(&command, known),
        args: args.iter().map(|arg| argument(arg, config, known)).collect(),
        env: env
            .iter()
            .filter_map(|(name, value)| {
                Some(Var { name: name.clone(), value: rewrite(&scalar(value)?, known) })
            })
            .collect(),
        cwd: None,
    };
    let method = Method {
        id: "mcpb".to_owned(),
        kind: text(&value["server"]["type"]).unwrap_or_else(|| "mcpb".to_owned()),
        description: None,
        recommended: false,
        inputs: inputs(config, &launch, known),
        launch,
        notes: Vec::new(),
    };
    let bare = Manifest::named(&name, Origin::Reference);
    Ok(Manifest {
        title: text(&value["display_name"]).unwrap_or_else(|| name.clone()),
        description: text(&value["description"]).unwrap_or_default(),
        version: text(&value["version"]),
        homepage: text(&value["homepage"]),
        repository: text(&value["repository"]["url"]),
        author: text(&value["author"]["name"]),
        license: text(&value["license"]),
        methods: vec![method],
        ..bare
    })
}

/// The word of bundles for this system.
fn platform() -> &'static str {
    match std::env::consts::OS {
        "macos" => "darwin",
        "windows" => "win32",
        other => other,
    }
}

fn fits_here(platforms: &Value) -> Result<(), String> {
    let platforms = super::catalogue::strings(platforms);
    if platforms.is_empty() || platforms.iter().any(|name| name == platform()) {
        return Ok(());
    }
    Err(format!("it is for {} only", platforms.join(", ")))
}

type Start = (String, Vec<String>, Map<String, Value>);

/// Returns how the server is started on this system.
fn start(server: &Value, folder: &Path) -> Result<Start, String> {
    let config = &server["mcp_config"];
    let here = &config["platform_overrides"][platform()];
    let words = |value: &Value| -> Option<Vec<String>> {
        Some(value.as_array()?.iter().filter_map(scalar).collect())
    };
    let mut env = config["env"].as_object().cloned().unwrap_or_default();
    env.extend(here["env"].as_object().cloned().unwrap_or_default());
    if let Some(command) = text(&here["command"]).or_else(|| text(&config["command"])) {
        let args = words(&here["args"]).or_else(|| words(&config["args"])).unwrap_or_default();
        return Ok((command, args, env));
    }
    let entry = text(&server["entry_point"]).ok_or("it does not tell how it is started")?;
    let path = format!("${{__dirname}}/{entry}");
    let folder = folder.display().to_string();
    let (command, args) = match server["type"].as_str() {
        Some("node") => ("node".to_owned(), vec![path]),
        Some("python") => ("python3".to_owned(), vec![path]),
        Some("uv") => {
            ("uv".to_owned(), vec!["run".to_owned(), "--directory".to_owned(), folder, entry])
        }
        Some("binary") => (path, Vec::new()),
        _ => return Err("it does not tell how it is started".to_owned()),
    };
    Ok((command, args, env))
}

/// Returns what a name of a manifest stands for: a place, or the placeholder of an input.
fn variable(name: &str, folder: &Path, home: Option<&Path>) -> Option<String> {
    if let Some(input) = name.strip_prefix(CONFIG) {
        return Some(format!("${{{input}}}"));
    }
    let below = |part: &str| home.map(|home| home.join(part).display().to_string());
    match name {
        "__dirname" => Some(folder.display().to_string()),
        "HOME" => below("").map(|home| home.trim_end_matches(std::path::MAIN_SEPARATOR).to_owned()),
        "DESKTOP" => below("Desktop"),
        "DOCUMENTS" => below("Documents"),
        "DOWNLOADS" => below("Downloads"),
        "/" | "pathSeparator" => Some(std::path::MAIN_SEPARATOR_STR.to_owned()),
        _ => None,
    }
}

fn argument(arg: &str, config: &Value, known: impl Fn(&str) -> Option<String>) -> Arg {
    let whole = arg.strip_prefix("${").and_then(|arg| arg.strip_suffix('}'));
    let input = whole.and_then(|name| name.trim().strip_prefix(CONFIG));
    match input.filter(|input| config[*input]["multiple"] == true) {
        Some(input) => Arg::Spread(input.to_owned()),
        None => Arg::Words(vec![rewrite(arg, known)]),
    }
}

fn inputs(config: &Value, launch: &Launch, known: impl Fn(&str) -> Option<String>) -> Vec<Input> {
    let declared = config.as_object().into_iter().flatten();
    let mut inputs: Vec<Input> = declared
        .map(|(name, value)| {
            let parts = value["default"].as_array().into_iter().flatten().filter_map(scalar);
            let list = parts.collect::<Vec<_>>().join(",");
            let default = scalar(&value["default"]).or(Some(list).filter(|list| !list.is_empty()));
            Input {
                name: name.clone(),
                description: text(&value["description"]).or_else(|| text(&value["title"])),
                required: value["required"] == true,
                secret: value["sensitive"] == true || is_secret_name(name),
                default: default.map(|default| rewrite(&default, &known)),
                example: None,
                choices: Vec::new(),
            }
        })
        .collect();
    for name in launch.placeholders() {
        if !inputs.iter().any(|input| input.name == name) {
            let secret = is_secret_name(&name);
            inputs.push(Input { name, required: true, secret, ..Input::default() });
        }
    }
    inputs
}

#[cfg(test)]
mod tests;
