//! `mcpm edit`: changes to a server, or to the whole file in an editor.

use serde_json::json;

use super::error::CliError;
use super::fields::{self, Fields};
use super::follow::{Change, Followed, follow, keep_shares, lags};
use super::secret::SecretOptions;
use super::{Context, ForceArg, JsonArg, editor, env, new, secret};
use crate::app::install::belongings::orphaned;
use crate::app::servers::{bring_rest, change, check_url, left_behind};
use crate::clients::Target;
use crate::config::{ConfigError, GlobalConfigManager, ServerChange, check_name};
use crate::credentials::ShareTarget;
use crate::fs::Paths;
use crate::model::{Server, Transport, Vars};

/// Change a server
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The server, as `mcpm ls` shows it
    #[arg(required_unless_present_any = ["editor", "new"])]
    server: Option<String>,
    /// Open servers.json in $VISUAL or $EDITOR; what does not parse is not taken
    #[arg(short, long, conflicts_with_all = ["server", "new", "name", "Fields", "SecretOptions"])]
    editor: bool,
    /// Add a server, as `mcpm new` does
    #[arg(short = 'N', long, conflicts_with_all = ["server", "name", "Fields", "SecretOptions"])]
    new: bool,
    /// New name of the server; clients that start it are changed if you agree, or with --force
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    fields: Fields,
    #[command(flatten)]
    secrets: SecretOptions,
    /// Variables to take away
    #[arg(long, value_name = "KEY,…")]
    remove_env: Vec<String>,
    /// Headers to take away
    #[arg(long, value_name = "KEY,…")]
    remove_headers: Vec<String>,
    #[command(flatten)]
    force: ForceArg,
    #[command(flatten)]
    json: JsonArg,
}

impl Args {
    pub(super) fn json(&self) -> bool {
        self.json.json
    }
}

pub(super) fn run(args: Args, context: &Context) -> Result<(), CliError> {
    if args.editor {
        return editor::edit(&context.paths()?.servers(), check, context);
    }
    let Some(name) = &args.server else {
        return new::run(new::Args::asking(args.force, args.json), context);
    };
    let paths = context.paths()?;
    let mut wanted = given(&args)?;
    let server = match &wanted {
        // Nothing else is asked of what may be another server.
        ServerChange { name: Some(new), .. } if args.secrets.is_empty() && wanted.is_rename() => {
            find(name, new, &paths)?
        }
        _ => GlobalConfigManager::open(&paths)?.server(name)?,
    };
    let is_resumed = server.name != *name;
    let ui = context.ui;
    // Who forces does not want to be asked.
    let is_idle = wanted.is_empty() && args.secrets.is_empty();
    if is_idle && ui.may_ask() && !args.force.force {
        wanted = ask(&server, context)?;
        if !wanted.is_empty() && !ui.confirm(&format!("Change `{name}`?"))? {
            wanted = ServerChange::default();
        }
    } else if is_idle {
        return Err(CliError::usage("nothing to change was named")
            .with_hint("See `mcpm edit --help`, or open the file with `mcpm edit -e`"));
    }
    if let Some(url) = &wanted.url {
        check_url(url)?;
    }
    if !args.secrets.is_empty() {
        keep_secrets(&args.secrets, &server, &mut wanted, &paths, context)?;
    }
    let mut changed = change(&paths, &server.name, &wanted)?;
    if is_resumed {
        bring_rest(&paths, name, &server.name)?;
        changed = true;
    }
    // What the entry referred to before and nobody does now.
    secret::forget(&orphaned(&server, &GlobalConfigManager::open(&paths)?), context);
    let now = wanted.name.as_deref().unwrap_or(name);
    ui.note(if changed {
        format!("Server `{now}` is changed.")
    } else {
        "Nothing has changed.".to_owned()
    });
    let mut shares = Vec::new();
    let followed = if now == name {
        Followed::default()
    } else {
        let [old, new] = [name.as_str(), now].map(|name| ShareTarget::Server(name.to_owned()));
        shares = keep_shares(&old, &new, &paths, context)?;
        let (before, now) = (Target::Server(name.clone()), Target::Server(now.to_owned()));
        let change = Change { before: &before, now: Some(&now) };
        follow(change, args.force.force, &paths, &env::places()?, context)?
    };
    if ui.is_json() {
        let event = if changed { "changed" } else { "unchanged" };
        let Followed { changed, left } = followed;
        ui.json(&json!({
            "event": event, "server": now, "clients": left, "clients_changed": changed,
            "shares": shares,
        }));
    }
    Ok(())
}

/// Returns the server. One that has its new name while others know it by the old one is what an
/// interruption left; then the same command brings them along.
fn find(name: &str, new: &str, paths: &Paths) -> Result<Server, CliError> {
    let global = GlobalConfigManager::open(paths)?;
    let is_resumed = !global.has(name)
        && global.has(new)
        && (left_behind(paths, name)?
            || lags(&Target::Server(name.to_owned()), paths, &env::places()?)?);
    Ok(global.server(if is_resumed { new } else { name })?)
}

/// Asks for secrets, and lets the entry refer to them.
fn keep_secrets(
    secrets: &SecretOptions,
    server: &Server,
    wanted: &mut ServerChange,
    paths: &Paths,
    context: &Context,
) -> Result<(), CliError> {
    let now = wanted.name.as_deref().unwrap_or(&server.name);
    if now != server.name {
        // What cannot be done should leave nothing in the keyring.
        check_name("server", now)?;
        if GlobalConfigManager::open(paths)?.has(now) {
            return Err(ConfigError::Exists { what: "server", name: now.to_owned() }.into());
        }
    }
    let vars = match &server.transport {
        Transport::Stdio { .. } => &mut wanted.env,
        Transport::Remote { .. } => &mut wanted.headers,
        Transport::Custom { .. } => {
            return Err(CliError::usage("a custom entry has no variables and no headers"));
        }
    };
    for (key, place) in secrets.keep(now, context)?.iter() {
        *vars = std::mem::take(vars).with(key, place);
    }
    Ok(())
}

fn given(args: &Args) -> Result<ServerChange, CliError> {
    Ok(ServerChange {
        name: args.name.clone(),
        command: args.fields.command.clone(),
        args: args.fields.words()?,
        env: args.fields.env()?,
        remove_env: fields::names(&args.remove_env),
        url: args.fields.url.clone(),
        headers: args.fields.headers()?,
        remove_headers: fields::names(&args.remove_headers),
    })
}

/// Asks a person, showing what is there but for the values that may be secrets.
fn ask(server: &Server, context: &Context) -> Result<ServerChange, CliError> {
    let ui = context.ui;
    let same = |new: String, old: &str| Some(new).filter(|new| new != old);
    let mut change = ServerChange {
        name: same(ui.ask("Name", Some(&server.name))?, &server.name),
        ..ServerChange::default()
    };
    match &server.transport {
        Transport::Stdio { command, args, env, .. } => {
            change.command = same(ui.ask("Command", Some(command))?, command);
            let line = args.iter().map(|arg| quoted(arg)).collect::<Vec<_>>().join(" ");
            let words = fields::words(&ui.ask_with("Arguments", &line)?)?;
            change.args = Some(words).filter(|words| words != args);
            (change.env, change.remove_env) = ask_vars("variables", env, context)?;
        }
        Transport::Remote { url, headers } => {
            change.url = same(ui.ask("URL", Some(url))?, url);
            (change.headers, change.remove_headers) = ask_vars("headers", headers, context)?;
        }
        Transport::Custom { .. } => {
            ui.note("Its other keys are for its client alone; see `mcpm edit -e`.");
        }
    }
    Ok(change)
}

fn ask_vars(what: &str, old: &Vars, context: &Context) -> Result<(Vars, Vec<String>), CliError> {
    let ui = context.ui;
    let names: Vec<&str> = old.iter().map(|(name, _)| name).collect();
    let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let set = ui.ask_or_nothing(&format!("Set {what} (KEY=VALUE,…; there are: {there})"))?;
    let set = fields::pairs([set.as_str()])?;
    if names.is_empty() {
        return Ok((set, Vec::new()));
    }
    let remove = ui.ask_or_nothing(&format!("Remove {what} (KEY,…)"))?;
    Ok((set, fields::names(&[remove])))
}

/// Writes an argument so that reading it gives the same again.
pub(super) fn quoted(arg: &str) -> String {
    let plain =
        !arg.is_empty() && !arg.contains(|c: char| c.is_whitespace() || c == '"' || c == '\'');
    if plain {
        return arg.to_owned();
    }
    match arg.contains('\'') {
        false => format!("'{arg}'"),
        true => format!("\"{}\"", arg.replace('"', "\\\"")),
    }
}

/// Tells what is wrong with the text of `servers.json`, and of entries that cannot be used.
fn check(text: &str, context: &Context) -> Result<(), String> {
    if text.trim().is_empty() {
        return Ok(());
    }
    let entries: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(text).map_err(|error| error.to_string())?;
    for (name, entry) in &entries {
        if let Err(error) = Server::from_entry(name, entry) {
            context.ui.warning(format!("server `{name}` cannot be used: {error}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::Home;
    use crate::credentials::{ShareFile, ShareRecord};

    #[test]
    fn options_change_what_they_name_and_merge_variables() {
        let home = Home::new();
        home.write(
            "servers.json",
            r#"{"a": {"command": "x", "env": {"K": "1", "L": "2"}, "cwd": "/"}}"#,
        );
        home.run(&["edit", "a", "--env", "K=3", "--remove-env", "L", "--args", "--flag v"])
            .unwrap();
        let expected =
            r#"{"a": {"command": "x", "env": {"K": "3"}, "cwd": "/", "args": ["--flag", "v"]}}"#;
        assert_eq!(home.read("servers.json"), expected);
        home.run(&["edit", "a", "--name", "b", "--remove-env", "none"]).unwrap();
        assert_eq!(home.read("servers.json"), expected.replace("\"a\"", "\"b\""));
    }

    #[test]
    fn a_rename_goes_on_when_it_is_said_again_after_its_last_steps_failed() {
        let home = Home::new();
        home.write("servers.json", r#"{"time": {"command": "x"}}"#);
        home.write("shares", "no folder");
        let rename = ["edit", "time", "--name", "clock"];
        assert_eq!(home.run(&rename).unwrap_err().exit(), 1);
        assert!(home.read("servers.json").contains("clock"));
        std::fs::remove_file(home.paths.shares()).unwrap();
        let name = "time-x".parse().unwrap();
        let file = ShareFile::new(&home.paths, &name, "local");
        let record = ShareRecord::new(name, "local", ShareTarget::Server("time".to_owned()));
        file.edit(|_| Ok((record, ()))).unwrap();
        home.write("sources.json", r#"{"time": {"type": "npx"}}"#);
        home.run(&rename).unwrap();
        assert_eq!(file.read().unwrap().unwrap().target.name(), "clock");
        assert!(home.read("sources.json").contains("clock"));
        // Now that nothing is left to do, there is no such server.
        assert_eq!(home.run(&rename).unwrap_err().exit(), 1);
    }

    #[test]
    fn what_a_removed_server_left_is_no_interrupted_rename() {
        let home = Home::new();
        let servers = r#"{"time": {"command": "x"}, "clock": {"command": "y"}}"#;
        home.write("servers.json", servers);
        let name = "time-x".parse().unwrap();
        let file = ShareFile::new(&home.paths, &name, "local");
        let mut record = ShareRecord::new(name, "local", ShareTarget::Server("time".to_owned()));
        record.add_token(Default::default(), 1);
        file.edit(|_| Ok((record, ()))).unwrap();
        home.run(&["uninstall", "time", "--force"]).unwrap();
        let rename = ["edit", "time", "--name", "clock"];
        assert_eq!(home.run(&rename).unwrap_err().exit(), 1);
        assert_eq!(file.read().unwrap().unwrap().target.name(), "time");
        // And what is left of one whose files are broken goes to nobody who is asked for more.
        home.write("sources.json", r#"{"time": {"type": "npx"}, "clock": {"type": "uvx"}}"#);
        let change = [&rename[..], &["--command", "z"]].concat();
        assert_eq!(home.run(&change).unwrap_err().exit(), 1);
        home.run(&rename).unwrap();
        assert!(home.read("sources.json").contains("uvx"));
        assert!(home.read("servers.json").contains(r#""command": "y""#));
    }

    #[test]
    fn what_cannot_be_done_is_said_with_the_right_exit_code() {
        let home = Home::new();
        home.write(
            "servers.json",
            r#"{"a": {"command": "x"}, "far": {"url": "https://x.example"}}"#,
        );
        let before = home.read("servers.json");
        let exit = |args: &[&str]| home.run(args).unwrap_err().exit();
        assert_eq!(exit(&["edit", "none", "--command", "y"]), 1);
        assert_eq!(exit(&["edit", "a", "--url", "https://y.example"]), 1);
        assert_eq!(exit(&["edit", "a", "--name", "far"]), 1);
        assert_eq!(exit(&["edit", "far", "--url", "nowhere"]), 2);
        assert_eq!(exit(&["edit", "a"]), 2);
        assert_eq!(exit(&["edit"]), 2);
        assert_eq!(exit(&["edit", "a", "-e"]), 2);
        assert_eq!(home.read("servers.json"), before);
    }

    #[test]
    fn arguments_survive_a_form_that_nobody_touches() {
        for arg in ["a", "", "a b", "it's", "say \"x\"", "it's \"x\"", r"C:\dir\x", "--k='v'"] {
            assert_eq!(fields::words(&quoted(arg)).unwrap(), [arg], "{arg}");
        }
    }
}
