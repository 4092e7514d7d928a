//! `mcpm ls`: what is installed. Reads one file and starts nothing.

use serde_json::{Value, json};
use url::Url;

use super::Context;
use super::edit::quoted;
use super::error::CliError;
use crate::config::{GlobalConfigManager, Listed};
use crate::model::reference::masked;
use crate::model::{Server, Transport, Vars};
use crate::registry::manifest::is_secret_name;

/// List installed servers
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Show commands and URLs too; values of variables and headers, and arguments that look like
    /// secrets, are never shown
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
        ui.note(
            "No servers are installed. Install one with `mcpm install`, or add your own with `mcpm new`.",
        );
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

/// Describes a server in one line, or in several.
pub(super) fn line(server: &Server, width: usize, verbose: bool) -> String {
    let mut line = format!("{:width$}  {:6}", server.name, server.transport.kind());
    if !server.profile_tags.is_empty() {
        line.push_str(&format!("  [{}]", server.profile_tags.join(", ")));
    }
    line.truncate(line.trim_end().len());
    if verbose {
        match &server.transport {
            Transport::Stdio { command, args, env, cwd } => {
                let words = std::iter::once(command.clone()).chain(shown_words(args));
                let words = words.map(|word| quoted(&word));
                line.push_str(&format!("\n    {}", words.collect::<Vec<_>>().join(" ")));
                if let Some(cwd) = cwd {
                    line.push_str(&format!("\n    cwd: {}", cwd.display()));
                }
                line.push_str(&shown("env", env));
            }
            Transport::Remote { url, headers } => {
                line.push_str(&format!("\n    {}", shown_url(url)));
                line.push_str(&shown("headers", headers));
            }
            Transport::Custom { .. } => line.push_str("\n    for its client alone"),
        }
    }
    line
}

/// Shows names, and where secrets are; never a value.
fn shown(what: &str, vars: &Vars) -> String {
    if vars.is_empty() {
        return String::new();
    }
    let pairs = vars.iter().map(|(name, value)| format!("{name}={}", masked(&value)));
    format!("\n    {what}: {}", pairs.collect::<Vec<_>>().join(", "))
}

/// Shows arguments but for those that are secrets, as far as their names tell: `--token X`,
/// `API_KEY=X`, `Authorization: X`, and what URLs may hold.
fn shown_words(args: &[String]) -> Vec<String> {
    let mut hides_next = false;
    let show = |arg: &String| {
        let is_value = std::mem::take(&mut hides_next) && !arg.starts_with('-');
        if is_value {
            return masked(arg);
        }
        let named = arg.split_once('=').map(|(name, value)| (name, "=", value));
        let named = named.or(arg.split_once(": ").map(|(name, value)| (name, ": ", value)));
        match named {
            Some((name, sign, value)) if is_secret_name(name) => {
                format!("{name}{sign}{}", masked(value))
            }
            Some((name, sign, value)) if value.contains("://") => {
                format!("{name}{sign}{}", shown_url(value))
            }
            _ if arg.contains("://") => shown_url(arg),
            _ => {
                hides_next = arg.starts_with('-') && is_secret_name(arg);
                arg.clone()
            }
        }
    };
    args.iter().map(show).collect()
}

/// Leaves out what may be a secret: user names, passwords and the values of a query.
fn shown_url(text: &str) -> String {
    let Ok(mut url) = Url::parse(text) else { return text.to_owned() };
    if url.query().is_none() && url.username().is_empty() && url.password().is_none() {
        return text.to_owned();
    }
    // Only URLs without a host have neither, and those had none to begin with.
    let user = url.username().is_empty() || url.set_username("***").is_ok();
    let password = url.password().is_none() || url.set_password(Some("***")).is_ok();
    if !user || !password {
        return "***".to_owned();
    }
    let names: Vec<String> = url.query_pairs().map(|(name, _)| format!("{name}=***")).collect();
    url.set_query(Some(names.join("&").as_str()).filter(|query| !query.is_empty()));
    url.into()
}

/// Describes a server for machines: names of variables and headers only.
pub(super) fn to_json(Listed { name, server }: &Listed) -> Value {
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
        Transport::Stdio { command, args, env, cwd } => {
            value["command"] = command.as_str().into();
            value["args"] = shown_words(args).into();
            if let Some(cwd) = cwd {
                value["cwd"] = cwd.to_string_lossy().into();
            }
            value["env"] = keys(env);
        }
        Transport::Remote { url, headers } => {
            value["url"] = shown_url(url).into();
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
        assert_eq!(text, "notes  stdio   [work]\n    uvx x\n    env: KEY=***");
        let listed = Listed { name: "notes".to_owned(), server: Ok(server) };
        let value = to_json(&listed);
        assert_eq!(value["env"], json!(["KEY"]));
        assert!(!value.to_string().contains("s3cret"));
    }

    #[test]
    fn arguments_that_are_secrets_by_their_names_are_not_shown() {
        let words = |args: &[&str]| {
            shown_words(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>()).join(" ")
        };
        assert_eq!(words(&["-y", "pkg@1", "--dir", "/x"]), "-y pkg@1 --dir /x");
        assert_eq!(words(&["--api-key", "s3cret", "--dir"]), "--api-key *** --dir");
        assert_eq!(words(&["--token=s3cret", "KEY=s3cret"]), "--token=*** KEY=***");
        assert_eq!(words(&["--header", "Authorization: Bearer x"]), "--header Authorization: ***");
        assert_eq!(words(&["https://x.example/sse?k=s3cret"]), "https://x.example/sse?k=***");
        assert_eq!(words(&["--at=https://x.example/?k=s3cret"]), "--at=https://x.example/?k=***");
        assert_eq!(words(&["--token", "--verbose"]), "--token --verbose");
        assert_eq!(words(&["run", "-e", "API_KEY", "image"]), "run -e API_KEY image");
    }

    #[test]
    fn references_are_shown_and_secrets_in_urls_are_not() {
        let entry = json!({"url":"https://me:pw@x.example/mcp?key=s3cret&x","headers":{"A":"Bearer ${KEY}","B":"file:~/k"}});
        let server = Server::from_entry("far", &entry).unwrap();
        let expected = "far  remote\n    https://***:***@x.example/mcp?key=***&x=***\n    headers: A=Bearer ${KEY}, B=file:~/k";
        assert_eq!(line(&server, 3, true), expected);
        let listed = Listed { name: "far".to_owned(), server: Ok(server) };
        assert!(!to_json(&listed).to_string().contains("s3cret"));
        assert_eq!(shown_url("https://x.example"), "https://x.example");
    }
}
