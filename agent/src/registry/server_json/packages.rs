//! The packages of `server.json`, and the command that runs each kind of them.

use serde_json::Value;

use super::super::catalogue::text;
use super::super::manifest::{Arg, Launch, Method, Var};
use super::inputs::Inputs;

/// Words that `docker run` gets from us already.
const OURS: [&str; 4] = ["run", "-i", "--interactive", "--rm"];

/// Reads one package.
pub(super) fn method(id: &str, package: &Value) -> Result<Method, String> {
    let kind = text(&package["registryType"]).ok_or("it has no `registryType`")?;
    let identifier = text(&package["identifier"]).ok_or("it has no `identifier`")?;
    let transport = package["transport"]["type"].as_str().unwrap_or("stdio");
    if transport != "stdio" {
        return Err(format!("it serves `{transport}` by itself; mcpm starts packages over stdio"));
    }
    let mut inputs = Inputs::default();
    let launch = if kind == "mcpb" {
        let sha256 = text(&package["fileSha256"]);
        Launch::Bundle { url: identifier.clone(), sha256 }
    } else {
        fit(&identifier)?;
        launch(&kind, &identifier, package, &mut inputs)?
    };
    let notes = match kind.as_str() {
        "cargo" => vec![format!("install the program first: `cargo install {identifier}`")],
        _ => Vec::new(),
    };
    Ok(Method {
        id: id.to_owned(),
        kind,
        description: None,
        recommended: false,
        inputs: inputs.done(),
        launch,
        notes,
    })
}

/// Refuses names that a runner would take for an option or for several words.
fn fit(identifier: &str) -> Result<(), String> {
    let strange =
        |c: char| c.is_whitespace() || c.is_control() || "\"'`$;&|<>(){}*?!\\".contains(c);
    if identifier.starts_with('-') || identifier.contains(strange) {
        return Err(format!("`{identifier}` is no name of a package"));
    }
    Ok(())
}

fn launch(
    kind: &str,
    identifier: &str,
    package: &Value,
    inputs: &mut Inputs,
) -> Result<Launch, String> {
    let version = text(&package["version"]).filter(|version| version != "latest");
    version.as_deref().map_or(Ok(()), fit)?;
    let at_version = || match &version {
        Some(version) => format!("{identifier}@{version}"),
        None => identifier.to_owned(),
    };
    let hint = package["runtimeHint"].as_str().unwrap_or_default();
    let env = inputs.vars(&package["environmentVariables"]);
    let runtime = inputs.args(&package["runtimeArguments"], true);
    let own = inputs.args(&package["packageArguments"], false);
    let (command, args) = match kind {
        "npm" => {
            index(package, "registry.npmjs.org")?;
            let command = if hint == "bunx" { "bunx" } else { "npx" };
            (command, runner(&["-y"], runtime, at_version(), &[], own))
        }
        "pypi" => {
            index(package, "pypi.org")?;
            ("uvx", runner(&[], runtime, at_version(), &[], own))
        }
        "nuget" => {
            index(package, "api.nuget.org")?;
            ("dnx", runner(&[], runtime, at_version(), &["--yes", "--"], own))
        }
        "oci" => {
            let command = if hint == "podman" { "podman" } else { "docker" };
            (command, container(runtime, image(identifier, version.as_deref(), package), &env, own))
        }
        // Cargo runs no package; what it installed is a program of its own.
        "cargo" => (identifier, own),
        other => return Err(format!("mcpm cannot run packages of kind `{other}`")),
    };
    Ok(Launch::Stdio { command: command.to_owned(), args, env, cwd: None })
}

/// Refuses other indexes than the public one: a runner would look into that one instead.
fn index(package: &Value, public: &str) -> Result<(), String> {
    let Some(base) = text(&package["registryBaseUrl"]) else { return Ok(()) };
    let host = base.split("://").last().unwrap_or_default().split('/').next().unwrap_or_default();
    if host == public { Ok(()) } else { Err(format!("its index {host} is not {public}")) }
}

fn runner(
    ours: &[&str],
    runtime: Vec<Arg>,
    package: String,
    after: &[&str],
    own: Vec<Arg>,
) -> Vec<Arg> {
    let words = |words: &[&str]| -> Vec<Arg> {
        words.iter().map(|word| Arg::Words(vec![(*word).to_owned()])).collect()
    };
    let is_ours = |arg: &Arg| words(ours).contains(arg) || *arg == word("--yes");
    // Publishers sometimes name the package among the words of the runner as well.
    let again = |arg: &Arg| *arg == Arg::Words(vec![package.clone()]);
    let runtime: Vec<Arg> =
        runtime.into_iter().filter(|arg| !is_ours(arg) && !again(arg)).collect();
    let mut args = words(ours);
    args.extend(runtime);
    args.push(Arg::Words(vec![package]));
    args.extend(words(after));
    args.extend(own);
    args
}

fn container(runtime: Vec<Arg>, image: String, env: &[Var], own: Vec<Arg>) -> Vec<Arg> {
    let is_ours = |arg: &Arg| OURS.iter().any(|ours| *arg == word(ours));
    let mut args = vec![word("run"), word("-i"), word("--rm")];
    args.extend(env.iter().map(|var| Arg::PassEnv(var.name.clone())));
    args.extend(runtime.into_iter().filter(|arg| !is_ours(arg)));
    args.push(Arg::Words(vec![image]));
    args.extend(own);
    args
}

fn word(word: &str) -> Arg {
    Arg::Words(vec![word.to_owned()])
}

/// Returns the full reference of an image. Since 2025-10-17 the identifier is one; before, host and
/// tag stood beside it.
fn image(identifier: &str, version: Option<&str>, package: &Value) -> String {
    let first = identifier.split('/').next().unwrap_or_default();
    let has_host = identifier.contains('/') && (first.contains(['.', ':']) || first == "localhost");
    let base = text(&package["registryBaseUrl"]).unwrap_or_default();
    let host = base.trim_end_matches('/').split("://").last().unwrap_or_default();
    let mut image = match host {
        "" | "docker.io" | "index.docker.io" | "registry-1.docker.io" => identifier.to_owned(),
        _ if has_host => identifier.to_owned(),
        host => format!("{host}/{identifier}"),
    };
    let name = image.rsplit('/').next().unwrap_or_default();
    if let Some(version) = version.filter(|_| !name.contains([':', '@'])) {
        image.push_str(&format!(":{version}"));
    }
    image
}
