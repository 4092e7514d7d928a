//! `mcpm ls`: what is installed. Reads one file and starts nothing.

use serde_json::{Value, json};

use super::Context;
use super::error::CliError;
use crate::config::{GlobalConfigManager, Listed};
use crate::model::{Server, Transport, Vars};

/// List installed servers
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Show commands and URLs too; values of variables and headers are never shown
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    json: super::JsonArg,
}

impl Args {
    pub(super) fn json(&self) -> bool {
        self.json.json
    }
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    let listed = GlobalConfigManager::open(&context.paths()?)?.list_servers();
    let ui = context.ui;
    if ui.is_json() {
        ui.json(&listed.iter().map(to_json).collect::<Value>());
        return Ok(());
    }
    if listed.is_empty() {
        ui.note("No servers are installed.");
    }
    let width = listed.iter().map(|entry| entry.name.chars().count()).max().unwrap_or(0);
    for Listed { name, server } in &listed {
        match server {
            Ok(server) => ui.result(line(server, width, args.verbose)),
            Err(error) => ui.warning(format!("server `{name}` cannot be used: {error}")),
        }
    }
    Ok(())
}

fn line(server: &Server, width: usize, verbose: bool) -> String {
    let mut line = format!("{:width$}  {:6}", server.name, server.transport.kind());
    if !server.profile_tags.is_empty() {
        line.push_str(&format!("  [{}]", server.profile_tags.join(", ")));
    }
    if verbose {
        match &server.transport {
            Transport::Stdio { command, args, env, .. } => {
                let words = std::iter::once(command).chain(args);
                line.push_str(&format!("\n    {}", words.cloned().collect::<Vec<_>>().join(" ")));
                line.push_str(&names("env", env));
            }
            Transport::Remote { url, headers } => {
                line.push_str(&format!("\n    {url}"));
                line.push_str(&names("headers", headers));
            }
            Transport::Custom { .. } => {}
        }
    }
    line.trim_end().to_owned()
}

fn names(what: &str, vars: &Vars) -> String {
    if vars.is_empty() {
        return String::new();
    }
    format!("\n    {what}: {}", vars.iter().map(|(name, _)| name).collect::<Vec<_>>().join(", "))
}

fn to_json(Listed { name, server }: &Listed) -> Value {
    let server = match server {
        Ok(server) => server,
        Err(error) => return json!({ "name": name, "error": error.to_string() }),
    };
    let mut value = json!({
        "name": name,
        "type": server.transport.kind(),
        "profiles": server.profile_tags,
    });
    let keys = |vars: &Vars| vars.iter().map(|(name, _)| Value::from(name)).collect::<Value>();
    match &server.transport {
        Transport::Stdio { command, args, env, .. } => {
            value["command"] = command.as_str().into();
            value["args"] = args.clone().into();
            value["env"] = keys(env);
        }
        Transport::Remote { url, headers } => {
            value["url"] = url.as_str().into();
            value["headers"] = keys(headers);
        }
        Transport::Custom { .. } => {}
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_variables_and_headers_are_never_shown() {
        let entry =
            json!({"command":"uvx","args":["x"],"env":{"KEY":"s3cret"},"profile_tags":["work"]});
        let server = Server::from_entry("notes", &entry).unwrap();
        let text = line(&server, 5, true);
        assert_eq!(text, "notes  stdio   [work]\n    uvx x\n    env: KEY");
        let listed = Listed { name: "notes".to_owned(), server: Ok(server) };
        let value = to_json(&listed);
        assert_eq!(value["env"], json!(["KEY"]));
        assert!(!value.to_string().contains("s3cret"));
    }
}
