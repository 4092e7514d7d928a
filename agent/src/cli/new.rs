//! `mcpm new`: a server that no registry knows.

use serde_json::json;

use super::edit::quoted;
use super::error::CliError;
use super::fields::{self, Fields};
use super::secret::SecretOptions;
use super::{Context, ForceArg, JsonArg};
use crate::app::servers::{Draft, create};
use crate::config::{ConfigError, GlobalConfigManager, check_name};
use crate::model::{Server, Transport, Vars};

/// Add a server by hand
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The name of the new server; asked for when it is missing
    name: Option<String>,
    /// What kind of server [default: what the other options are about]
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<Kind>,
    #[command(flatten)]
    fields: Fields,
    #[command(flatten)]
    secrets: SecretOptions,
    #[command(flatten)]
    force: ForceArg,
    #[command(flatten)]
    json: JsonArg,
}

/// How a server is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// A command on this machine
    Stdio,
    /// A URL
    Remote,
}

impl Args {
    /// Returns those that say nothing, so that everything is asked for.
    pub(super) fn asking(force: ForceArg, json: JsonArg) -> Self {
        let (fields, secrets) = (Fields::default(), SecretOptions::default());
        Self { name: None, kind: None, fields, secrets, force, json }
    }

    pub(super) fn json(&self) -> bool {
        self.json.json
    }
}

pub(super) fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let paths = context.paths()?;
    let ui = context.ui;
    // Opened first: a file that we cannot read must not cost the user a form.
    let global = GlobalConfigManager::open(&paths)?;
    let asks = ui.may_ask() && args.fields.is_empty();
    let Args { name, kind, fields, secrets, force, json: _ } = args;
    let name = match name {
        Some(name) => name,
        None if ui.may_ask() => ui.ask("Name of the server", None)?,
        None => {
            return Err(CliError::usage("the new server needs a name").with_hint(
                "Write `mcpm new NAME --command COMMAND` or `mcpm new NAME --url URL`",
            ));
        }
    };
    let exists = global.has(&name);
    let mut replace = force.force;
    if exists && !replace && ui.may_ask() {
        replace = ui.confirm(&format!("There is a server `{name}`. Replace it?"))?;
        if !replace {
            ui.note("Nothing has changed.");
            return Ok(());
        }
    }
    let mut server = if asks { ask(&name, kind, context)? } else { given(&name, kind, &fields)? };
    if !secrets.is_empty() {
        // Before anything is kept: a name that cannot be, or is taken, should leave nothing behind.
        check_name("server", &name)?;
        if exists && !replace {
            return Err(ConfigError::Exists { what: "server", name }.into());
        }
        add(&mut server.transport, &secrets.keep(&name, context)?);
    }
    create(&paths, server, replace)?;
    let done = if exists { "replaced" } else { "created" };
    if ui.is_json() {
        ui.json(&json!({ "event": done, "server": name }));
    }
    ui.note(format!("Server `{name}` is {done}. Try it with `mcpm inspect {}`.", quoted(&name)));
    Ok(())
}

/// Puts values where servers of this kind have them.
fn add(transport: &mut Transport, more: &Vars) {
    let vars = match transport {
        Transport::Stdio { env, .. } => env,
        Transport::Remote { headers, .. } => headers,
        Transport::Custom { .. } => return,
    };
    for (name, value) in more.iter() {
        *vars = std::mem::take(vars).with(name, value);
    }
}

/// Makes a server of the options alone.
fn given(name: &str, kind: Option<Kind>, fields: &Fields) -> Result<Server, CliError> {
    let kind = kind.unwrap_or(match (&fields.command, &fields.url) {
        (None, Some(_)) => Kind::Remote,
        _ => Kind::Stdio,
    });
    let draft = Draft {
        command: fields.command.clone(),
        args: fields.words()?.unwrap_or_default(),
        env: fields.env()?,
        url: fields.url.clone(),
        headers: fields.headers()?,
    };
    Ok(match kind {
        Kind::Stdio => draft.stdio(name),
        Kind::Remote => draft.remote(name),
    }?)
}

/// Asks a person for all that makes a server.
fn ask(name: &str, kind: Option<Kind>, context: &Context) -> Result<Server, CliError> {
    let ui = context.ui;
    let kind = match kind {
        Some(kind) => kind,
        None => match ui.choose("What is it?", &["a command on this machine", "a URL"])? {
            0 => Kind::Stdio,
            _ => Kind::Remote,
        },
    };
    let mut draft = Draft::default();
    Ok(match kind {
        Kind::Stdio => {
            draft.command = Some(ui.ask("Command", None)?);
            draft.args = fields::words(&ui.ask_or_nothing("Arguments")?)?;
            draft.env = ask_pairs("Variables (KEY=VALUE,…)", context)?;
            draft.stdio(name)
        }
        Kind::Remote => {
            draft.url = Some(ui.ask("URL", None)?);
            draft.headers = ask_pairs("Headers (KEY=VALUE,…)", context)?;
            draft.remote(name)
        }
    }?)
}

fn ask_pairs(prompt: &str, context: &Context) -> Result<Vars, CliError> {
    context.ui.note(
        "A value may say where a secret is: ${VARIABLE}, file:/its/path or keyring:SERVICE/NAME.",
    );
    fields::pairs([context.ui.ask_or_nothing(prompt)?.as_str()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::Home;

    #[test]
    fn a_server_is_made_of_options_alone() {
        let home = Home::new();
        home.run(&[
            "new",
            "time",
            "--command",
            "uvx",
            "--args",
            "-q 'my server'",
            "--env",
            "A=1,B=2",
        ])
        .unwrap();
        home.run(&[
            "new",
            "far",
            "--type",
            "remote",
            "--url",
            "https://x.example/mcp",
            "--headers",
            "X-Key=${K}",
        ])
        .unwrap();
        let global = GlobalConfigManager::open(&home.paths).unwrap();
        let Transport::Stdio { args, env, .. } = global.server("time").unwrap().transport else {
            panic!("not stdio")
        };
        assert_eq!((args, env.len()), (vec!["-q".to_owned(), "my server".to_owned()], 2));
        let entry = global.server("far").unwrap().to_entry();
        assert_eq!(entry["headers"]["X-Key"], "${K}");
    }

    #[test]
    fn what_is_missing_or_wrong_is_said_with_the_right_exit_code() {
        let home = Home::new();
        let exit = |args: &[&str]| home.run(args).unwrap_err().exit();
        assert_eq!(exit(&["new"]), 2);
        assert_eq!(exit(&["new", "a"]), 2);
        assert_eq!(exit(&["new", "a", "--type", "remote", "--url", "x"]), 2);
        assert_eq!(exit(&["new", "a", "--url", "https://x", "--env", "A=1"]), 2);
        assert_eq!(exit(&["new", "-x", "--command", "y"]), 2);
        assert_eq!(exit(&["new", "%x", "--command", "y"]), 1);
        home.run(&["new", "a", "--command", "y"]).unwrap();
        assert_eq!(exit(&["new", "a", "--command", "z"]), 1);
        home.run(&["new", "a", "--command", "z", "--force"]).unwrap();
    }
}
