//! `mcpm profile create|edit|rm`: profiles come, change and go.

use serde_json::json;

use crate::cli::error::CliError;
use crate::cli::follow::{Change, Followed, end_shares, follow, keep_shares, lags, starting};
use crate::cli::{Context, ForceArg, JsonArg, env, fields};
use crate::clients::Target;
use crate::config::{
    self, DEFAULT_PROFILE, GlobalConfigManager, Profile, ProfileConfigManager, ServersChange,
    Settings,
};
use crate::credentials::ShareTarget;
use crate::fs::Paths;

/// Make an empty profile
#[derive(Debug, clap::Args)]
pub(super) struct Create {
    /// The name of the new profile
    profile: String,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Be content with a profile of this name that exists
    #[arg(long, env = "MCPM_FORCE", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    force: bool,
    #[command(flatten)]
    pub(super) json: JsonArg,
}

/// Rename a profile, or change which servers are in it
///
/// Clients that start a renamed profile are changed if you agree, or with --force.
#[derive(Debug, clap::Args)]
pub(super) struct Edit {
    /// The profile
    profile: String,
    /// New name of the profile
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    servers: Servers,
    #[command(flatten)]
    force: ForceArg,
    #[command(flatten)]
    pub(super) json: JsonArg,
}

/// Which servers.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct Servers {
    /// Put these servers in
    #[arg(long, value_name = "SERVER,…")]
    add_server: Vec<String>,
    /// Take these servers out
    #[arg(long, value_name = "SERVER,…")]
    remove_server: Vec<String>,
    /// Put exactly these servers in; an empty list takes all out
    #[arg(long, visible_alias = "servers", value_name = "SERVER,…")]
    set_servers: Option<String>,
}

/// Forget a profile; its servers stay
///
/// Clients that start it are named, and changed if you agree, or with --force.
#[derive(Debug, clap::Args)]
pub(super) struct Rm {
    /// The profile
    profile: String,
    /// Do not ask
    #[arg(short, long, env = "MCPM_FORCE", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    force: bool,
    #[command(flatten)]
    pub(super) json: JsonArg,
}

pub(super) fn create(args: &Create, context: &Context) -> Result<(), CliError> {
    let mut profiles = ProfileConfigManager::open(&context.paths()?)?;
    let name = &args.profile;
    if args.force && profiles.profile(name).is_ok() {
        return tell("unchanged", name, format!("Profile `{name}` exists already."), context);
    }
    config::check_name("profile", name)?;
    profiles.create_profile(name, args.description.as_deref())?;
    let next = format!("Put servers in with `mcpm profile edit {name} --add-server SERVER`.");
    tell("created", name, format!("Profile `{name}` is created. {next}"), context)
}

pub(super) fn edit(args: &Edit, context: &Context) -> Result<(), CliError> {
    let paths = context.paths()?;
    let mut profiles = ProfileConfigManager::open(&paths)?;
    // Read before anything is written: a file that we must not replace should change nothing.
    let mut settings = Settings::open(&paths)?;
    let before = find(args, &profiles, &settings, &paths)?;
    let (mut name, mut change) = (args.name.clone(), args.servers.change());
    if name.is_none() && change.is_none() {
        let ui = context.ui;
        if !ui.may_ask() || args.force.force {
            return Err(CliError::usage("nothing to change was named")
                .with_hint("See `mcpm profile edit --help`"));
        }
        name = Some(ui.ask("Name", Some(&before.name))?);
        change = ask(&before.servers, &GlobalConfigManager::open(&paths)?, context)?;
    }
    let new = name.filter(|name| *name != args.profile);
    if let Some(new) = &new {
        config::check_name("profile", new)?;
    }
    // Servers first: an unknown one should not leave half of the change behind.
    if let Some(change) = &change {
        profiles.change_servers(&before.name, change)?;
    }
    if let Some(new) = &new {
        profiles.rename_profile(&before.name, new)?;
    }
    let now = new.clone().unwrap_or_else(|| before.name.clone());
    let after = profiles.profile(&now).map(|profile| profile.servers).unwrap_or_default();
    if after == before.servers && new.is_none() {
        return tell("unchanged", &now, "Nothing has changed.".to_owned(), context);
    }
    let servers = if after.is_empty() { "no servers".to_owned() } else { after.join(", ") };
    context.ui.note(format!("Profile `{now}` has {servers}."));
    let mut clients = Followed::default();
    let mut shares = Vec::new();
    if let Some(new) = new {
        let old = &args.profile;
        let [was, now] = [old, &new].map(|name| ShareTarget::Profile(name.clone()));
        shares = keep_shares(&was, &now, &paths, context)?;
        if settings.get(DEFAULT_PROFILE)?.as_ref() == Some(old) {
            settings.set(DEFAULT_PROFILE, &new)?;
        }
        let (old, new) = (Target::Profile(old.clone()), Target::Profile(new));
        let change = Change { before: &old, now: Some(&new) };
        clients = follow(change, args.force.force, &paths, &env::places()?, context)?;
    }
    tell_clients("changed", &now, &clients, &shares, context);
    Ok(())
}

/// Returns the profile. One that has its new name while others know it by the old one is what an
/// interruption left; then the same command brings them along.
fn find(
    args: &Edit,
    profiles: &ProfileConfigManager,
    settings: &Settings,
    paths: &Paths,
) -> Result<Profile, CliError> {
    let old = &args.profile;
    let (unknown, new) = match (profiles.profile(old), &args.name) {
        // Where more is asked for, it is of a profile that may be another.
        (Err(error), Some(new)) if args.servers.change().is_none() => (error, new),
        (found, _) => return Ok(found?),
    };
    let is_default = settings.get(DEFAULT_PROFILE)?.as_ref() == Some(old);
    match profiles.profile(new) {
        Ok(renamed)
            if is_default || lags(&Target::Profile(old.clone()), paths, &env::places()?)? =>
        {
            Ok(renamed)
        }
        _ => Err(unknown.into()),
    }
}

fn tell_clients(
    event: &str,
    profile: &str,
    clients: &Followed,
    shares: &[String],
    context: &Context,
) {
    if context.ui.is_json() {
        context.ui.json(&json!({
            "event": event,
            "profile": profile,
            "clients": clients.left,
            "clients_changed": clients.changed,
            "shares": shares,
        }));
    }
}

impl Servers {
    fn change(&self) -> Option<ServersChange> {
        let add = fields::names(&self.add_server);
        let remove = fields::names(&self.remove_server);
        match &self.set_servers {
            Some(list) => Some(ServersChange::Set(fields::names(std::slice::from_ref(list)))),
            None if !add.is_empty() => Some(ServersChange::Add(add)),
            None if !remove.is_empty() => Some(ServersChange::Remove(remove)),
            None => None,
        }
    }
}

fn ask(
    servers: &[String],
    global: &GlobalConfigManager,
    context: &Context,
) -> Result<Option<ServersChange>, CliError> {
    let names: Vec<String> = global.list_servers().into_iter().map(|entry| entry.name).collect();
    if names.is_empty() {
        context.ui.note("There are no servers to put in.");
        return Ok(None);
    }
    let chosen: Vec<bool> = names.iter().map(|name| servers.contains(name)).collect();
    let chosen = context.ui.choose_many("Servers of the profile", &names, &chosen)?;
    Ok(Some(ServersChange::Set(chosen.into_iter().map(|at| names[at].clone()).collect())))
}

pub(super) fn rm(args: &Rm, context: &Context) -> Result<(), CliError> {
    let ui = context.ui;
    let (paths, places) = (context.paths()?, env::places()?);
    let mut profiles = ProfileConfigManager::open(&paths)?;
    let mut settings = Settings::open(&paths)?;
    let name = &args.profile;
    let profile = profiles.profile(name)?;
    let target = Target::Profile(name.clone());
    if !args.force {
        if !ui.may_ask() {
            return Err(CliError::usage("there is nobody to ask whether to forget the profile")
                .with_hint("Say so with --force"));
        }
        let clients = starting(&target, &paths, &places);
        if !clients.is_empty() {
            ui.note(format!("Clients start it: {}.", clients.join(", ")));
        }
        let stay = match profile.servers.len() {
            0 => String::new(),
            1 => " Its server stays.".to_owned(),
            many => format!(" Its {many} servers stay."),
        };
        if !ui.confirm(&format!("Forget profile `{name}`?{stay}"))? {
            return tell("unchanged", name, "Nothing has changed.".to_owned(), context);
        }
    }
    // First, since a failure in the midst should leave nothing that opens.
    let shares = end_shares(&ShareTarget::Profile(name.clone()), &paths, context)?;
    profiles.remove_profile(name)?;
    ui.note(format!("Profile `{name}` is forgotten."));
    let change = Change { before: &target, now: None };
    let clients = follow(change, args.force, &paths, &places, context)?;
    if settings.get(DEFAULT_PROFILE)?.as_ref() == Some(name) {
        settings.unset(DEFAULT_PROFILE)?;
    }
    tell_clients("removed", name, &clients, &shares, context);
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "it is the last word of each command")]
fn tell(event: &str, profile: &str, text: String, context: &Context) -> Result<(), CliError> {
    if context.ui.is_json() {
        context.ui.json(&json!({ "event": event, "profile": profile }));
    }
    context.ui.note(text);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::Home;
    use crate::credentials::{ShareFile, ShareRecord};

    fn servers(home: &Home, profile: &str) -> Vec<String> {
        ProfileConfigManager::open(&home.paths).unwrap().profile(profile).unwrap().servers
    }

    fn home() -> Home {
        let home = Home::new();
        home.write(
            "servers.json",
            r#"{"a": {"command": "x"}, "b": {"command": "y"}, "c": {"command": "z"}}"#,
        );
        home.run(&["profile", "create", "work"]).unwrap();
        home
    }

    #[test]
    fn servers_come_and_go_by_options() {
        let home = home();
        home.run(&["profile", "edit", "work", "--add-server", "a, c", "--add-server", "b"])
            .unwrap();
        assert_eq!(servers(&home, "work"), ["a", "b", "c"]);
        home.run(&["profile", "edit", "work", "--remove-server", "b"]).unwrap();
        assert_eq!(servers(&home, "work"), ["a", "c"]);
        home.run(&["profile", "edit", "work", "--servers", "b", "--name", "job"]).unwrap();
        assert_eq!(servers(&home, "job"), ["b"]);
        home.run(&["profile", "edit", "job", "--set-servers", ""]).unwrap();
        assert_eq!(servers(&home, "job"), [""; 0]);
        home.run(&["profile", "rm", "job", "-f"]).unwrap();
        assert!(ProfileConfigManager::open(&home.paths).unwrap().list_profiles().is_empty());
    }

    #[test]
    fn what_cannot_be_done_is_said_with_the_right_exit_code() {
        let home = home();
        let exit = |args: &[&str]| home.run(args).unwrap_err().exit();
        assert_eq!(exit(&["profile", "create", "work"]), 1);
        assert_eq!(exit(&["profile", "create", "%x"]), 1);
        home.run(&["profile", "create", "work", "--force"]).unwrap();
        assert_eq!(exit(&["profile", "edit", "none", "--add-server", "a"]), 1);
        assert_eq!(exit(&["profile", "edit", "work", "--add-server", "none"]), 1);
        assert_eq!(
            exit(&["profile", "edit", "work", "--add-server", "a", "--set-servers", "b"]),
            2
        );
        assert_eq!(exit(&["profile", "edit", "work"]), 2);
        assert_eq!(exit(&["profile", "rm", "work"]), 2);
        assert_eq!(exit(&["profile", "rm", "none", "--force"]), 1);
    }

    #[test]
    fn a_rename_goes_on_when_it_is_said_again_after_its_last_steps_failed() {
        let home = home();
        let rename = ["profile", "edit", "work", "--name", "job"];
        let default = || Settings::open(&home.paths).unwrap().get(DEFAULT_PROFILE).unwrap();
        // What cannot be read is found before anything is written.
        home.write("config.json", "{,");
        assert_eq!(home.run(&rename).unwrap_err().exit(), 1);
        assert_eq!(servers(&home, "work"), [""; 0]);
        home.write("config.json", r#"{"default_profile": "work"}"#);
        home.write("shares", "no folder");
        assert_eq!(home.run(&rename).unwrap_err().exit(), 1);
        assert_eq!(servers(&home, "job"), [""; 0]);
        std::fs::remove_file(home.paths.shares()).unwrap();
        let name = "work-x".parse().unwrap();
        let file = ShareFile::new(&home.paths, &name, "local");
        let record = ShareRecord::new(name, "local", ShareTarget::Profile("work".to_owned()));
        file.edit(|_| Ok((record, ()))).unwrap();
        home.run(&rename).unwrap();
        assert_eq!(file.read().unwrap().unwrap().target.name(), "job");
        assert_eq!(default().as_deref(), Some("job"));
        // Now that nothing is left to do, there is no such profile.
        assert_eq!(home.run(&rename).unwrap_err().exit(), 1);
    }

    /// Defect 28 of the Python `mcpm`: `profile rm` ignored `MCPM_FORCE`, and without a terminal it
    /// asked nobody and exited 0.
    #[test]
    fn rm_never_asks_where_nobody_is_and_fails_instead() {
        let home = home();
        assert_eq!(home.run(&["profile", "rm", "work"]).unwrap_err().exit(), 2);
        assert_eq!(servers(&home, "work"), [""; 0]);
        home.run(&["profile", "rm", "work", "--force"]).unwrap();
    }
}
