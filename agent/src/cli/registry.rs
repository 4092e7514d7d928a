//! What `search`, `info` and `install` have in common: which registries, and how servers of theirs
//! are shown.

use std::sync::Arc;

use serde_json::{Value, json};
use url::Url;

use super::Context;
use super::error::{CliError, with_sources};
use super::table::clean;
use super::ui::Ui;
use crate::config::Settings;
use crate::fs::Paths;
use crate::registry::manifest::{Arg, Input, Launch, Manifest, Method, Var};
use crate::registry::{Places, Policy, Registry, RegistryError};
use crate::web::Web;

/// Which registries, and how current.
#[derive(Debug, Default, clap::Args)]
pub(super) struct RegistryOptions {
    /// Catalogue to use: the address of its file, or of the site that has it [default: mcpm.sh]
    #[arg(long, env = "MCPM_REGISTRY_URL", value_name = "URL", hide_env_values = true)]
    registry_url: Option<Url>,
    /// Registry to use instead of the official one
    #[arg(long, env = "MCPM_OFFICIAL_REGISTRY_URL", value_name = "URL", hide_env_values = true)]
    official_registry_url: Option<Url>,
    /// Ask no registry; use what was read before, and the built-in list
    #[arg(long)]
    offline: bool,
}

impl RegistryOptions {
    /// Returns all registries, and what reaches them.
    pub(super) fn open(
        &self,
        paths: &Paths,
        refresh: bool,
    ) -> Result<(Registry, Arc<Web>), CliError> {
        let settings = Settings::open(paths)?;
        let place = |given: &Option<Url>, key: &str| match (given, settings.address(key)) {
            (Some(url), _) => Ok(Some(url.clone())),
            (None, Some(text)) => Url::parse(&text).map(Some).map_err(|_| {
                CliError::user("config", format!("`{key}` in config.json is not an address"))
                    .with_hint("Correct it with `mcpm config edit`")
            }),
            (None, None) => Ok(None),
        };
        let places = Places::new(
            place(&self.registry_url, "registry_url")?,
            place(&self.official_registry_url, "official_registry_url")?,
        );
        let policy = match (self.offline, refresh) {
            (true, _) => Policy::Offline,
            (false, true) => Policy::Refresh,
            (false, false) => Policy::Usual,
        };
        let web = Web::new().map_err(|error| CliError::new("tls", &error))?;
        let web = Arc::new(web);
        Ok((Registry::new(places, paths, &web, policy), web))
    }
}

/// Says what went wrong beside an answer.
pub(super) fn tell_problems(problems: &[RegistryError], context: &Context) {
    for problem in problems {
        // Who asks nobody knows that this is not all there is.
        if !matches!(problem, RegistryError::NoCopy(_)) {
            context.ui.warning(clean(&with_sources(problem)));
        }
    }
}

/// Returns what machines get to know of a server.
pub(super) fn to_json(manifest: &Manifest) -> Value {
    let Manifest { methods, unusable, .. } = manifest;
    json!({
        "name": manifest.name,
        "alias": manifest.alias,
        "display_name": manifest.title,
        "description": manifest.description,
        "version": manifest.version,
        "registry": manifest.origin.word(),
        "homepage": manifest.homepage,
        "repository": manifest.repository,
        "author": manifest.author,
        "license": manifest.license,
        "categories": manifest.categories,
        "tags": manifest.tags,
        "official": manifest.official,
        "archived": manifest.archived,
        "installations": methods.iter().map(method_json).collect::<Value>(),
        "unusable": unusable.iter().map(|way| json!({ "id": way.id, "reason": way.reason })).collect::<Value>(),
        "examples": manifest.examples,
    })
}

fn method_json(method: &Method) -> Value {
    let mut value = json!({
        "id": method.id,
        "type": method.kind,
        "description": method.description,
        "recommended": method.recommended,
        "arguments": method.inputs.iter().map(input_json).collect::<Value>(),
    });
    let pairs = |vars: &[Var]| -> Value {
        let pairs = vars.iter().map(|var| (var.name.clone(), var.value.clone().into()));
        Value::Object(pairs.collect())
    };
    match &method.launch {
        Launch::Stdio { command, args, env, .. } => {
            value["command"] = command.as_str().into();
            value["args"] = args.iter().flat_map(words).collect::<Value>();
            value["env"] = pairs(env);
        }
        Launch::Remote { url, headers } => {
            value["url"] = url.as_str().into();
            value["headers"] = pairs(headers);
        }
        Launch::Bundle { url, sha256 } => {
            value["bundle"] = url.as_str().into();
            value["sha256"] = sha256.clone().into();
        }
    }
    value
}

fn input_json(input: &Input) -> Value {
    json!({
        "name": input.name,
        "description": input.description,
        "required": input.required,
        "secret": input.secret,
        "default": input.default,
        "example": input.example,
        "choices": input.choices,
    })
}

fn words(arg: &Arg) -> Vec<String> {
    match arg {
        Arg::Words(words) => words.clone(),
        Arg::Switch { word, .. } => vec![format!("[{word}]")],
        Arg::Spread(input) => vec![format!("${{{input}}}…")],
        Arg::PassEnv(name) => vec!["-e".to_owned(), name.clone()],
        Arg::Literal(word) => vec![word.clone()],
    }
}

/// Returns the line that a method becomes, with its placeholders.
pub(super) fn line(launch: &Launch) -> String {
    match launch {
        Launch::Stdio { command, args, .. } => {
            let words = args.iter().flat_map(words);
            std::iter::once(command.clone()).chain(words).collect::<Vec<_>>().join(" ")
        }
        Launch::Remote { url, .. } => url.clone(),
        Launch::Bundle { url, .. } => url.clone(),
    }
}

/// Prints all there is to say of a server.
pub(super) fn show(manifest: &Manifest, ui: Ui) {
    // All of it comes from strangers.
    lines_of(manifest).iter().for_each(|line| ui.result(clean(line)));
}

fn lines_of(manifest: &Manifest) -> Vec<String> {
    let mut lines = vec![format!("{} ({})", manifest.title, manifest.name)];
    if !manifest.description.is_empty() {
        lines.push(format!("  {}", manifest.description));
    }
    let list = |words: &[String]| (!words.is_empty()).then(|| words.join(", "));
    let yes = |truth: bool| truth.then(|| "yes".to_owned());
    let fields = [
        ("registry", Some(manifest.origin.word().to_owned())),
        ("version", manifest.version.clone()),
        ("categories", list(&manifest.categories)),
        ("tags", list(&manifest.tags)),
        ("author", manifest.author.clone()),
        ("license", manifest.license.clone()),
        ("official", yes(manifest.official)),
        ("archived", yes(manifest.archived)),
        ("repository", manifest.repository.clone()),
        ("homepage", manifest.homepage.clone()),
    ];
    for (name, value) in fields {
        lines.extend(value.map(|value| format!("  {:12}{value}", format!("{name}:"))));
    }
    let preferred = manifest.preferred().map(|method| method.id.as_str());
    for method in &manifest.methods {
        lines.extend(method_lines(method, preferred == Some(&method.id)));
    }
    for way in &manifest.unusable {
        lines.push(format!("  {} cannot be used: {}", way.id, way.reason));
    }
    for example in &manifest.examples {
        lines.push(format!("  example: {example}"));
    }
    lines
}

fn method_lines(method: &Method, preferred: bool) -> Vec<String> {
    let mark = if preferred { " (preferred)" } else { "" };
    let mut lines = vec![format!("  {}{mark}: {}", method.id, line(&method.launch))];
    lines.extend(method.description.iter().map(|text| format!("    {text}")));
    for input in &method.inputs {
        let need = if input.required { "required" } else { "optional" };
        let secret = if input.secret { ", secret" } else { "" };
        let about =
            input.description.as_deref().map(|text| format!(": {text}")).unwrap_or_default();
        let example = input.example.as_deref().filter(|_| !input.secret);
        let example = example.map(|text| format!(" (for example {text})")).unwrap_or_default();
        lines.push(format!("    {} ({need}{secret}){about}{example}", input.name));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn github() -> Manifest {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let web = Arc::new(Web::new().unwrap());
        let registry = Registry::new(Places::new(None, None), &paths, &web, Policy::Offline);
        let find = async { Ok(registry.find("github", None).await?.0) };
        super::super::block_on(super::super::Threads::One, find).unwrap()
    }

    #[test]
    fn a_server_is_shown_with_its_methods_and_what_they_ask_for() {
        let lines = lines_of(&github());
        assert_eq!(lines[0], "GitHub (github)");
        for expected in [
            "  registry:   built-in",
            "  remote (preferred): https://api.githubcopilot.com/mcp/",
            "    GITHUB_PERSONAL_ACCESS_TOKEN (required, secret): Personal access token of GitHub",
        ] {
            assert!(lines.iter().any(|line| line == expected), "{expected}: {lines:#?}");
        }
    }

    #[test]
    fn machines_get_every_method_with_its_placeholders() {
        let value = to_json(&github());
        assert_eq!(value["registry"], "built-in");
        let docker = &value["installations"][1];
        assert_eq!(docker["args"][3], "-e");
        assert_eq!(
            docker["env"]["GITHUB_PERSONAL_ACCESS_TOKEN"],
            "${GITHUB_PERSONAL_ACCESS_TOKEN}"
        );
        assert_eq!(docker["arguments"][0]["secret"], true);
    }
}
