//! `mcpm config`: settings.

use serde_json::{Map, Value, json};

use super::error::CliError;
use super::table::{Column, table};
use super::{Context, ForceArg, JsonArg, editor};
use crate::config::{SETTINGS, Setting, Settings};
use crate::fs;

/// Keep settings; alone it lists them
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    json: JsonArg,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Set(Set),
    /// Print one setting; exit 1 when it is not set
    Get {
        /// The setting, as `mcpm config ls` shows it
        key: String,
        #[command(flatten)]
        json: JsonArg,
    },
    /// List all settings
    Ls {
        #[command(flatten)]
        json: JsonArg,
    },
    /// Forget one setting
    Unset {
        /// The setting, as `mcpm config ls` shows it
        key: String,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Open config.json in $VISUAL or $EDITOR; what does not parse is not taken
    Edit,
    /// Forget all settings
    Reset {
        #[command(flatten)]
        force: ForceArg,
        #[command(flatten)]
        json: JsonArg,
    },
    /// Forget what was fetched from registries
    ClearCache {
        #[command(flatten)]
        json: JsonArg,
    },
}

/// Change one setting
#[derive(Debug, clap::Args)]
struct Set {
    /// The setting, as `mcpm config ls` shows it; asked for when it is missing
    #[arg(value_name = "KEY", conflicts_with = "key")]
    positional_key: Option<String>,
    /// Its value; asked for when it is missing
    #[arg(value_name = "VALUE", conflicts_with = "value")]
    positional_value: Option<String>,
    /// The setting, as an option
    #[arg(long)]
    key: Option<String>,
    /// Its value, as an option
    #[arg(long)]
    value: Option<String>,
    /// Taken for compatibility: setting a value never asks
    #[arg(long, hide = true)]
    force: bool,
    #[command(flatten)]
    json: JsonArg,
}

impl Args {
    pub(super) fn json(&self) -> bool {
        let of_command = match &self.command {
            None | Some(Command::Edit) => false,
            Some(Command::Set(set)) => set.json.json,
            Some(
                Command::Get { json, .. }
                | Command::Ls { json }
                | Command::Unset { json, .. }
                | Command::Reset { json, .. }
                | Command::ClearCache { json },
            ) => json.json,
        };
        of_command || self.json.json
    }
}

pub(super) fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let Some(command) = args.command else { return list(context) };
    match command {
        Command::Set(set) => self::set(set, context),
        Command::Get { key, .. } => get(&key, context),
        Command::Ls { .. } => list(context),
        Command::Unset { key, .. } => {
            let was_set = Settings::open(&context.paths()?)?.unset(&key)?;
            let done = if was_set { "is forgotten" } else { "was not set" };
            context.ui.note(format!("`{key}` {done}."));
            let event = if was_set { "unset" } else { "unchanged" };
            tell(&json!({ "event": event, "key": key }), context);
            Ok(())
        }
        Command::Edit => editor::edit(&context.paths()?.settings(), check, context),
        Command::Reset { force, .. } => reset(force.force, context),
        Command::ClearCache { .. } => clear_cache(context),
    }
}

/// Tells machines what was done.
fn tell(event: &Value, context: &Context) {
    if context.ui.is_json() {
        context.ui.json(event);
    }
}

fn set(set: Set, context: &Context) -> Result<(), CliError> {
    let ui = context.ui;
    let mut settings = Settings::open(&context.paths()?)?;
    let missing = |what: &str| {
        CliError::usage(format!("the {what} is missing"))
            .with_hint("Write `mcpm config set KEY VALUE`; `mcpm config ls` shows the keys")
    };
    // `--key K V` and `K --value V` leave one word without a name.
    let (key, rest) = match (set.key, set.positional_key) {
        (Some(key), rest) => (Some(key), rest),
        (None, key) => (key, None),
    };
    let key = match key {
        Some(key) => key,
        None if ui.may_ask() => {
            let keys = SETTINGS.map(|setting| setting.key);
            keys[ui.choose("Which setting?", &keys)?].to_owned()
        }
        None => return Err(missing("key")),
    };
    let value = match set.value.or(set.positional_value).or(rest) {
        Some(value) => value,
        None if ui.may_ask() => {
            let known = SETTINGS.iter().find(|setting| setting.key == key);
            let values = known.map_or(&[] as &[&str], Setting::values);
            match values {
                [] => ui.ask("Value", None)?,
                values => values[ui.choose("Which value?", values)?].to_owned(),
            }
        }
        None => return Err(missing("value")),
    };
    settings.set(&key, &value)?;
    ui.note(format!("`{key}` is now `{value}`."));
    tell(&json!({ "event": "set", "key": key, "value": value }), context);
    Ok(())
}

fn get(key: &str, context: &Context) -> Result<(), CliError> {
    let value = Settings::open(&context.paths()?)?.get(key)?;
    let value = value.ok_or_else(|| {
        let hint = format!("Set it with `mcpm config set {key} VALUE`");
        CliError::user("unset", format!("`{key}` is not set")).with_hint(hint)
    })?;
    let ui = context.ui;
    if ui.is_json() {
        ui.json(&json!({ "key": key, "value": value }));
    } else {
        ui.result(value);
    }
    Ok(())
}

fn list(context: &Context) -> Result<(), CliError> {
    let settings = Settings::open(&context.paths()?)?.list();
    let ui = context.ui;
    if ui.is_json() {
        let value = |(setting, value): &(Setting, Option<String>)| json!({ "key": setting.key, "value": value, "about": setting.about, "values": setting.values() });
        ui.json(&settings.iter().map(value).collect::<Value>());
        return Ok(());
    }
    let rows: Vec<[String; 3]> = settings
        .into_iter()
        .map(|(setting, value)| {
            let about = format!("{}: {}", setting.about, setting.choices());
            [setting.key.to_owned(), value.unwrap_or_else(|| "-".to_owned()), about]
        })
        .collect();
    let columns = [Column::Left("SETTING"), Column::Left("VALUE"), Column::Left("ABOUT")];
    table(columns, &rows).into_iter().for_each(|line| ui.result(line));
    Ok(())
}

fn reset(force: bool, context: &Context) -> Result<(), CliError> {
    let ui = context.ui;
    let mut settings = Settings::open(&context.paths()?)?;
    if !force {
        if !ui.may_ask() {
            return Err(CliError::usage("there is nobody to ask whether to forget all settings")
                .with_hint("Say so with --force"));
        }
        if !ui.confirm("Forget all settings?")? {
            ui.note("Nothing has changed.");
            tell(&json!({ "event": "unchanged" }), context);
            return Ok(());
        }
    }
    let keys = settings.reset()?;
    let done = if keys.is_empty() {
        "Nothing was set.".to_owned()
    } else {
        format!("Forgot {}.", keys.join(", "))
    };
    ui.note(done);
    tell(&json!({ "event": "reset", "keys": keys }), context);
    Ok(())
}

fn clear_cache(context: &Context) -> Result<(), CliError> {
    let cleared = fs::clear(&context.paths()?.caches())?;
    let done = if cleared { "The cache is cleared." } else { "There was nothing in the cache." };
    context.ui.note(done);
    tell(&json!({ "event": if cleared { "cleared" } else { "unchanged" } }), context);
    Ok(())
}

fn check(text: &str, _: &Context) -> Result<(), String> {
    if text.trim().is_empty() {
        return Ok(());
    }
    serde_json::from_str::<Map<String, Value>>(text).map(drop).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use crate::cli::testing::Home;

    #[test]
    fn settings_are_set_read_and_forgotten() {
        let home = Home::new();
        home.run(&["config", "set", "node_executable", "bunx"]).unwrap();
        assert_eq!(home.read("config.json"), "{\n  \"node_executable\": \"bunx\"\n}\n");
        home.run(&["config", "set", "--key", "node_executable", "--value", "npx", "--force"])
            .unwrap();
        home.run(&["config", "get", "node_executable"]).unwrap();
        home.run(&["config", "ls"]).unwrap();
        home.run(&["config"]).unwrap();
        home.run(&["config", "--json"]).unwrap();
        home.run(&["config", "set", "default_profile", "work", "--json"]).unwrap();
        home.run(&["config", "unset", "default_profile", "--json"]).unwrap();
        home.run(&["config", "unset", "node_executable"]).unwrap();
        home.run(&["config", "unset", "node_executable"]).unwrap();
        assert_eq!(home.read("config.json"), "{}\n");
        assert_eq!(home.run(&["config", "get", "node_executable"]).unwrap_err().exit(), 1);
        home.run(&["config", "set", "registry_url", "https://mcp.example"]).unwrap();
        home.run(&["config", "unset", "registry_url"]).unwrap();
        let exit = |args: &[&str]| home.run(args).unwrap_err().exit();
        assert_eq!(exit(&["config", "set", "node_executable", "rm"]), 1);
        assert_eq!(exit(&["config", "set", "registry_url", "nowhere"]), 1);
        assert_eq!(exit(&["config", "set", "other", "x"]), 1);
        assert_eq!(exit(&["config", "set", "node_executable"]), 2);
        assert_eq!(exit(&["config", "reset"]), 2);
        home.run(&["config", "reset", "--force"]).unwrap();
    }

    /// Defect 26 of the Python `mcpm`: `config edit` and `config reset` were documented and missing.
    #[test]
    fn config_edit_and_reset_exist() {
        let home = Home::new();
        home.run(&["config", "set", "node_executable", "bunx"]).unwrap();
        home.run(&["config", "reset", "--force"]).unwrap();
        assert_eq!(home.read("config.json"), "{}\n");
    }

    #[test]
    fn clearing_the_cache_removes_what_can_be_fetched_again_and_nothing_else() {
        let home = Home::new();
        home.write("servers.json", "{}");
        home.write("servers_cache.json", "{}");
        home.run(&["config", "clear-cache"]).unwrap();
        home.run(&["config", "clear-cache"]).unwrap();
        assert!(!home.paths.dir().join("servers_cache.json").exists());
        assert_eq!(home.read("servers.json"), "{}");
    }
}
