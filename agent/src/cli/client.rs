//! `mcpm client`: what the client applications of this machine start.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::error::CliError;
use super::table::{Column, table};
use super::{Context, ForceArg, JsonArg, browser, editor, env};
use crate::app::clients::{
    self, Edited, Fate, Import, Imported, Launcher, Selection, Status, Wish,
};
use crate::clients::{ClientConfigManager, Foreign, Outcome, Places, Target};
use crate::config::{GlobalConfigManager, ProfileConfigManager};
use crate::fs::Paths;

/// Let client applications start servers through mcpm
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the clients of this machine and what they start through mcpm
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Choose the servers and profiles that a client starts through mcpm
    Edit(EditArgs),
    /// Bring the servers that a client has of its own to mcpm
    Import(ImportArgs),
}

/// What to list.
#[derive(Debug, clap::Args)]
struct LsArgs {
    /// Show files, names of other entries, and clients that are not installed
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    json: JsonArg,
}

/// What to change.
#[derive(Debug, clap::Args)]
struct EditArgs {
    /// The client, as `mcpm client ls` names it
    client: String,
    /// Open the file in an editor
    #[arg(short, long, conflicts_with_all = ["add_server", "remove_server", "set_servers", "add_profile", "remove_profile", "set_profiles"])]
    external: bool,
    /// Use this file, this time
    #[arg(short, long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Add these servers, separated by commas
    #[arg(long, value_name = "SERVERS", conflicts_with = "set_servers")]
    add_server: Vec<String>,
    /// Take out these servers
    #[arg(long, value_name = "SERVERS", conflicts_with = "set_servers")]
    remove_server: Vec<String>,
    /// Have these servers and no others of mcpm; none with an empty text
    #[arg(long, value_name = "SERVERS")]
    set_servers: Option<String>,
    /// Add these profiles, separated by commas
    #[arg(long, value_name = "PROFILES", conflicts_with = "set_profiles")]
    add_profile: Vec<String>,
    /// Take out these profiles
    #[arg(long, value_name = "PROFILES", conflicts_with = "set_profiles")]
    remove_profile: Vec<String>,
    /// Have these profiles and no others; none with an empty text
    #[arg(long, value_name = "PROFILES")]
    set_profiles: Option<String>,
    /// Switch off, in the client, the servers that --add-server names
    #[arg(long, requires = "add_server")]
    disabled: bool,
    #[command(flatten)]
    force: ForceArg,
    #[command(flatten)]
    json: JsonArg,
}

/// What to import.
#[derive(Debug, clap::Args)]
struct ImportArgs {
    /// The client, as `mcpm client ls` names it
    client: String,
    /// Use this file, this time
    #[arg(short, long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Import these servers, separated by commas
    #[arg(long, value_name = "SERVERS", conflicts_with = "all")]
    server: Vec<String>,
    /// Import all servers; those that are there already stay as they are
    #[arg(long)]
    all: bool,
    /// Put them into this profile, made when there is none
    #[arg(long, value_name = "PROFILE")]
    profile: Option<String>,
    /// Let the client start them through mcpm from now on, in place of its own entries
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    force: ForceArg,
    #[command(flatten)]
    json: JsonArg,
}

impl Args {
    pub(super) fn json(&self) -> bool {
        match &self.command {
            Command::Ls(args) => args.json.json,
            Command::Edit(args) => args.json.json,
            Command::Import(args) => args.json.json,
        }
    }
}

pub(super) fn run(args: Args, context: &Context) -> Result<(), CliError> {
    run_at(args, context, &env::places()?)
}

/// The same on a machine whose folders are given.
fn run_at(args: Args, context: &Context, places: &Places) -> Result<(), CliError> {
    match args.command {
        Command::Ls(args) => ls(&args, context, places),
        Command::Edit(args) => edit(&args, context, places),
        Command::Import(args) => import(&args, context, places),
    }
}

fn ls(args: &LsArgs, context: &Context, places: &Places) -> Result<(), CliError> {
    let all = clients::list(places)?;
    let ui = context.ui;
    if ui.is_json() {
        ui.json(&all.iter().map(status_json).collect::<Value>());
        return Ok(());
    }
    let (here, away): (Vec<&Status>, Vec<&Status>) = all.iter().partition(|one| one.installed);
    if here.is_empty() {
        ui.note("No client application was found.");
    } else {
        let columns = ["CLIENT", "PROFILES", "SERVERS", "OTHERS"].map(Column::Left);
        let rows: Vec<[String; 4]> = here.iter().map(|one| row(one, args.verbose)).collect();
        table(columns, &rows).iter().for_each(|line| ui.result(line));
    }
    if args.verbose {
        for one in &here {
            ui.result(format!("{}: {}", one.client.id, one.file.display()));
        }
        let names: Vec<&str> = away.iter().map(|one| one.client.id).collect();
        ui.result(format!("not found: {}", names.join(", ")));
    }
    for one in &here {
        if let Err(error) = &one.entries {
            ui.warning(super::error::with_sources(error));
        }
    }
    Ok(())
}

fn row(status: &Status, verbose: bool) -> [String; 4] {
    let others: Vec<&str> = status.others().collect();
    let others = match (&status.entries, others.len()) {
        (Err(_), _) => "?".to_owned(),
        (_, 0) => "-".to_owned(),
        (_, count) if !verbose => count.to_string(),
        _ => others.join(", "),
    };
    [status.client.id.to_owned(), joined(status.profiles()), joined(status.servers()), others]
}

fn joined<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    if names.is_empty() { "-".to_owned() } else { names.join(", ") }
}

fn status_json(status: &Status) -> Value {
    let mut value = json!({
        "client": status.client.id,
        "name": status.client.name,
        "installed": status.installed,
        "file": status.file.display().to_string(),
        "exists": status.file.is_file(),
        "profiles": status.profiles().collect::<Vec<_>>(),
        "servers": status.servers().collect::<Vec<_>>(),
        "others": status.others().collect::<Vec<_>>(),
    });
    if let Err(error) = &status.entries {
        value["error"] = error.to_string().into();
    }
    value
}

fn edit(args: &EditArgs, context: &Context, places: &Places) -> Result<(), CliError> {
    let manager = clients::open(&args.client, args.file.as_deref(), places)?;
    if args.external {
        return open_file(&manager, context);
    }
    let paths = context.paths()?;
    let mut servers = wish(&args.add_server, &args.remove_server, args.set_servers.as_deref())?;
    servers.off = args.disabled;
    let mut profiles = wish(&args.add_profile, &args.remove_profile, args.set_profiles.as_deref())?;
    if is_idle(&servers) && is_idle(&profiles) {
        if !context.ui.may_ask() {
            let error = CliError::usage("nothing to do: no option says what to change");
            return Err(error.with_hint("Try `--add-server NAME` or `--add-profile NAME`"));
        }
        let chosen = choose(&paths, &manager, context)?;
        (servers.set, profiles.set) = (Some(chosen.0), Some(chosen.1));
    }
    warn_absent(&manager, places, context);
    let launcher = launcher(context, places)?;
    let edited = clients::edit(&paths, &manager, &servers, &profiles, &launcher, args.force.force)?;
    tell_edit(&manager, &edited, context);
    Ok(())
}

fn is_idle(wish: &Wish) -> bool {
    wish.add.is_empty() && wish.remove.is_empty() && wish.set.is_none()
}

fn wish(add: &[String], remove: &[String], set: Option<&str>) -> Result<Wish, CliError> {
    let split = |lists: &[String]| lists.iter().flat_map(|list| names(list)).collect();
    let set = set.map(names);
    let wish = Wish { add: split(add), remove: split(remove), set, off: false };
    match wish.add.iter().find(|name| wish.remove.contains(name)) {
        Some(name) => Err(CliError::usage(format!("`{name}` cannot be both added and removed"))),
        None => Ok(wish),
    }
}

/// Splits at commas; spaces around names and empty names go.
fn names(list: &str) -> Vec<String> {
    list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Returns how clients start this mcpm.
pub(super) fn launcher(context: &Context, places: &Places) -> Result<Launcher, CliError> {
    let exe = std::env::current_exe()
        .map_err(|error| CliError::internal(format!("cannot find this program: {error}")))?;
    Ok(Launcher { program: places.launcher(&exe), config_dir: context.config_dir.clone() })
}

fn warn_absent(manager: &ClientConfigManager, places: &Places, context: &Context) {
    let client = manager.client();
    let usual = manager.file() == client.file(places);
    if usual && !client.is_installed(places) && !client.is_of_project() {
        context.ui.note(format!("{} does not seem to be installed here.", client.name));
    }
}

/// Asks which servers and profiles the client shall start.
fn choose(
    paths: &Paths,
    manager: &ClientConfigManager,
    context: &Context,
) -> Result<(Vec<String>, Vec<String>), CliError> {
    let entries = manager.entries()?;
    let has = |target: &Target| entries.iter().any(|entry| entry.target.as_ref() == Some(target));
    let servers = GlobalConfigManager::open(paths)?.list_servers().into_iter();
    let servers = servers.filter(|listed| listed.server.is_ok());
    let servers = servers.map(|listed| Target::Server(listed.name));
    let profiles = ProfileConfigManager::open(paths)?.list_profiles().into_iter();
    let profiles = profiles.map(|profile| Target::Profile(profile.name));
    let mut items: Vec<(Target, bool)> =
        profiles.chain(servers).map(|target| (target.clone(), has(&target))).collect();
    if items.is_empty() {
        let error = CliError::user("no_servers", "no server is installed");
        return Err(error.with_hint("Install one with `mcpm install NAME` or `mcpm new`"));
    }
    loop {
        let labels: Vec<String> = items
            .iter()
            .map(|(target, _)| match target {
                Target::Server(name) => name.clone(),
                Target::Profile(name) => format!("{name} (profile)"),
            })
            .collect();
        let on: Vec<bool> = items.iter().map(|(_, on)| *on).collect();
        let prompt = format!("What shall {} start?", manager.client().name);
        let chosen = context.ui.choose_many(&prompt, &labels, &on)?;
        for (index, item) in items.iter_mut().enumerate() {
            item.1 = chosen.contains(&index);
        }
        let (mut servers, mut profiles) = (Vec::new(), Vec::new());
        for (target, _) in items.iter().filter(|(_, on)| *on) {
            match target {
                Target::Server(name) => servers.push(name.clone()),
                Target::Profile(name) => profiles.push(name.clone()),
            }
        }
        match clients::doubled(paths, &servers, &profiles)? {
            None => return Ok((servers, profiles)),
            Some((server, profile)) => context.ui.note(format!(
                "`{server}` is in profile `{profile}` already: select only one of them."
            )),
        }
    }
}

fn tell_edit(manager: &ClientConfigManager, edited: &Edited, context: &Context) {
    let ui = context.ui;
    let name = manager.client().name;
    if ui.is_json() {
        let of = |targets: &[Target]| targets.iter().map(target_json).collect::<Value>();
        ui.json(&json!({
            "client": manager.client().id,
            "file": manager.file().display().to_string(),
            "changed": edited.outcome.changed,
            "added": of(&edited.added),
            "removed": of(&edited.removed),
            "backup": backup(&edited.outcome),
        }));
        return;
    }
    for target in &edited.added {
        ui.result(format!("added {target} to {name}"));
    }
    for target in &edited.removed {
        ui.result(format!("took {target} out of {name}"));
    }
    if !edited.outcome.changed {
        ui.note(format!("{name} is as it should be; nothing was changed."));
        return;
    }
    if edited.added.is_empty() && edited.removed.is_empty() {
        ui.result(format!("brought the entries of {name} up to date"));
    }
    ui.note(format!("Restart {name} to let it see the change."));
}

fn target_json(target: &Target) -> Value {
    match target {
        Target::Server(name) => json!({ "server": name }),
        Target::Profile(name) => json!({ "profile": name }),
    }
}

fn backup(outcome: &Outcome) -> Option<String> {
    outcome.backup.as_ref().map(|path| path.display().to_string())
}

/// Opens the file in the editor of the user, or in what the desktop has for it.
fn open_file(manager: &ClientConfigManager, context: &Context) -> Result<(), CliError> {
    let file = manager.file();
    if !file.is_file() {
        let error = CliError::user("no_file", format!("{} does not exist", file.display()));
        return Err(
            error.with_hint("Add a server first: `mcpm client edit CLIENT --add-server NAME`")
        );
    }
    match env::editor().filter(|_| context.ui.may_ask()) {
        Some(editor) => editor::open(&editor, file),
        None => {
            browser::open(&file.display().to_string());
            context.ui.result(file.display().to_string());
            Ok(())
        }
    }
}

fn import(args: &ImportArgs, context: &Context, places: &Places) -> Result<(), CliError> {
    let manager = clients::open(&args.client, args.file.as_deref(), places)?;
    let paths = context.paths()?;
    let named: Vec<String> = args.server.iter().flat_map(|list| names(list)).collect();
    let mut replace = args.replace;
    let selection = if args.all {
        Selection::All
    } else if !named.is_empty() {
        Selection::Names(named)
    } else if context.ui.may_ask() {
        let Some(names) = choose_entries(&manager, context)? else {
            context.ui.note("Nothing was imported.");
            return Ok(());
        };
        let question =
            format!("Let {} start them through mcpm from now on?", manager.client().name);
        replace = replace || context.ui.confirm(&question)?;
        Selection::Names(names)
    } else {
        let error = CliError::usage("no option says what to import");
        return Err(error.with_hint("Add `--all`, or `--server NAME`"));
    };
    let import =
        Import { selection, force: args.force.force, profile: args.profile.clone(), replace };
    let launcher = launcher(context, places)?;
    let (imported, outcome) = clients::import(&paths, &manager, &import, &launcher)?;
    tell_import(&manager, &imported, &outcome, context);
    Ok(())
}

/// Asks which entries to import; `None` when there is none, or none was chosen.
fn choose_entries(
    manager: &ClientConfigManager,
    context: &Context,
) -> Result<Option<Vec<String>>, CliError> {
    let mut entries: Vec<Foreign> = clients::own_entries(manager)?;
    entries.retain(|entry| entry.server.is_ok());
    if entries.is_empty() {
        context.ui.note(format!("{} has no server of its own.", manager.client().name));
        return Ok(None);
    }
    let labels: Vec<String> = entries.iter().map(|entry| entry.name.clone()).collect();
    let prompt = format!("Which servers of {}?", manager.client().name);
    let chosen = context.ui.choose_many(&prompt, &labels, &vec![true; labels.len()])?;
    let names: Vec<String> = chosen
        .into_iter()
        .filter_map(|index| entries.get(index).map(|entry| entry.name.clone()))
        .collect();
    Ok((!names.is_empty()).then_some(names))
}

fn tell_import(
    manager: &ClientConfigManager,
    imported: &[Imported],
    outcome: &Outcome,
    context: &Context,
) {
    let ui = context.ui;
    if ui.is_json() {
        ui.json(&json!({
            "client": manager.client().id,
            "file": manager.file().display().to_string(),
            "servers": imported.iter().map(imported_json).collect::<Value>(),
            "changed": outcome.changed,
            "backup": backup(outcome),
        }));
        return;
    }
    if imported.is_empty() {
        ui.note(format!("{} has no server of its own.", manager.client().name));
    }
    for Imported { name, fate, left_out, unanswered } in imported {
        match fate {
            Fate::Imported => ui.result(format!("imported `{name}`")),
            Fate::Replaced => ui.result(format!("replaced `{name}`")),
            Fate::Same => ui.result(format!("`{name}` is there already")),
            Fate::Kept => ui.warning(format!(
                "left out `{name}`: another server has this name; --force replaces it"
            )),
            Fate::Refused(why) => ui.warning(format!("left out `{name}`: {why}")),
        }
        if matches!(fate, Fate::Imported | Fate::Replaced) && !left_out.is_empty() {
            ui.note(format!("  without {}, which only the client knows", left_out.join(", ")));
        }
        if matches!(fate, Fate::Imported | Fate::Replaced) && !unanswered.is_empty() {
            ui.warning(format!(
                "`{name}` needs values that only the client fills in: {}; change it with `mcpm edit {name}`",
                unanswered.join(", ")
            ));
        }
    }
    if outcome.changed {
        ui.result(format!("{} starts them through mcpm now", manager.client().name));
    }
}

fn imported_json(imported: &Imported) -> Value {
    let (status, reason) = match &imported.fate {
        Fate::Imported => ("imported", None),
        Fate::Replaced => ("replaced", None),
        Fate::Same => ("same", None),
        Fate::Kept => ("exists", None),
        Fate::Refused(why) => ("refused", Some(why)),
    };
    let mut value = json!({
        "name": imported.name,
        "status": status,
        "left_out": imported.left_out,
        "unanswered": imported.unanswered,
    });
    if let Some(reason) = reason {
        value["reason"] = reason.as_str().into();
    }
    value
}

#[cfg(test)]
mod tests;
