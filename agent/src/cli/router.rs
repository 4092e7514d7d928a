//! `mcpm router`: the words of mcpm 1, whose daemon stood between clients and servers.
//!
//! Clients start `mcpm` themselves now, so most of it is answered in words. What still makes sense
//! is a share of a profile by one link.

use std::ffi::OsString;
use std::sync::Arc;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::background::{RunOption, be_background, start};
use super::error::CliError;
use super::profile::servers_of;
use super::share::RelayOptions;
use super::unshare::stop;
use super::{Context, JsonArg};
use crate::app::background::{self, LaunchError};
use crate::app::serving::Serving;
use crate::app::share::{Access, ShareEvent, ShareSpec, Source};
use crate::config::{DEFAULT_PROFILE, ProfileConfigManager, Settings};
use crate::credentials::ShareTarget;
use crate::fs::Paths;
use crate::gateway::{GatewayOptions, Isolation};
use crate::running::Seen;

/// Share a profile by one link; the other words of mcpm 1 say what replaced them
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Share(ShareArgs),
    /// Stop what `mcpm router share` started
    Unshare {
        #[command(flatten)]
        json: JsonArg,
    },
    /// Show what `mcpm router share` started
    Status {
        #[command(flatten)]
        json: JsonArg,
    },
    /// Say what replaced the daemon of mcpm 1
    On {
        #[command(flatten)]
        old: OldWords,
    },
    /// Stop what `mcpm router share` started; there is no daemon to stop
    Off {
        #[command(flatten)]
        json: JsonArg,
    },
    /// Say what replaced the settings of the daemon of mcpm 1
    Set {
        #[command(flatten)]
        old: OldWords,
    },
}

/// Share a profile in the background, and print the link that opens it
///
/// The link holds its secret: whoever has it can use the servers of the profile. It stays the same
/// until the file of the share is removed.
#[derive(Debug, clap::Args)]
struct ShareArgs {
    /// The profile [default: that of the setting `default_profile`, else the only one]
    #[arg(short, long)]
    profile: Option<String>,
    #[command(flatten)]
    relay: RelayOptions,
    #[command(flatten)]
    run: RunOption,
    #[command(flatten)]
    json: JsonArg,
}

/// Whatever mcpm 1 took here: it is answered, not read.
#[derive(Debug, clap::Args)]
struct OldWords {
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
    #[command(flatten)]
    json: JsonArg,
}

impl Args {
    pub(super) fn json(&self) -> bool {
        match &self.command {
            Command::Share(args) => args.json.json,
            Command::Unshare { json } | Command::Status { json } | Command::Off { json } => {
                json.json
            }
            Command::On { old } | Command::Set { old } => old.json.json,
        }
    }
}

pub(super) fn run(args: Args, context: &Context) -> Result<(), CliError> {
    match args.command {
        Command::Share(args) => share(args, context),
        Command::Unshare { .. } | Command::Off { .. } => unshare(context),
        Command::Status { .. } => status(context),
        Command::On { old: _ } => Err(replaced("mcpm needs no router: clients start it themselves")
            .with_hint(
                "Let a client use a profile with `mcpm client edit CLIENT --add-profile PROFILE`, or serve one over HTTP with `mcpm profile run PROFILE --http`",
            )),
        Command::Set { old: _ } => Err(replaced("there is no router to set up").with_hint(
            "Host and port are options of `mcpm profile run --http`, the address is MCPM_RELAY_ADDRESS, and secrets are made and revoked with `mcpm token`",
        )),
    }
}

fn replaced(message: &str) -> CliError {
    CliError::user("replaced", message)
}

fn share(args: ShareArgs, context: &Context) -> Result<(), CliError> {
    let ShareArgs { profile, relay, run, json: _ } = args;
    let paths = context.paths()?;
    let asked = profile.is_some();
    let profile = match profile {
        Some(profile) => profile,
        None => choose(&paths, context)?,
    };
    let spec = spec(&profile, &relay, &paths, context)?;
    if let Some(id) = run.id() {
        return be_background(spec, id, true, &paths, context);
    }
    if let Some(one) = ours(&paths)?.first() {
        return Err(one_at_a_time(one));
    }
    // The process in the background cannot ask which one.
    let more: Vec<OsString> =
        if asked { Vec::new() } else { vec![format!("--profile={profile}").into()] };
    let ui = context.ui;
    let show = |event| {
        if let ShareEvent::Reconnecting { reason, .. } = event {
            ui.note(format!("{reason}; trying again"));
        }
    };
    let started = start(&spec, &more, &paths, &CancellationToken::new(), show)?;
    let (_, up) = started.ok_or(LaunchError::Stopped)?;
    let link = background::router_link(&up, &profile)
        .ok_or_else(|| CliError::internal("the share has no link"))?;
    if ui.is_json() {
        ui.json(&json!({
            "event": "up",
            "link": link,
            "url": up.url,
            "token": up.token.as_ref().map(|token| token.expose()),
            "name": up.name,
            "profile": profile,
        }));
        return Ok(());
    }
    ui.result(&link);
    ui.note("Whoever has this link can use the servers of the profile.");
    ui.note("It is shared in the background. Stop it with `mcpm router unshare`; use it elsewhere with `mcpm connect`.");
    Ok(())
}

fn spec(
    profile: &str,
    relay: &RelayOptions,
    paths: &Paths,
    context: &Context,
) -> Result<ShareSpec, CliError> {
    let servers = servers_of(profile, context)?;
    Ok(ShareSpec {
        target: ShareTarget::Profile(profile.to_owned()),
        source: Source::Mcp(Serving::profile(profile, servers).into()),
        relay: Some(relay.spec(paths)?.into()),
        name: relay.name()?,
        access: Access::Link,
        expires: relay.expires,
        local: None,
        patience: relay.patience(),
        gateway: Arc::new(GatewayOptions {
            start_timeout: relay.timeout(),
            isolation: Isolation::Session,
            ..GatewayOptions::default()
        }),
    })
}

/// Chooses the profile where none is named: never everything, as mcpm 1 did.
fn choose(paths: &Paths, context: &Context) -> Result<String, CliError> {
    let profiles = ProfileConfigManager::open(paths)?;
    if let Some(name) = Settings::open(paths)?.get(DEFAULT_PROFILE)? {
        return Ok(profiles.profile(&name)?.name);
    }
    let profiles = profiles.list_profiles();
    let mut names: Vec<String> = profiles.into_iter().map(|profile| profile.name).collect();
    match names.len() {
        0 => {
            let error = CliError::user("unknown_profile", "there is no profile to share");
            Err(error.with_hint("Make one with `mcpm profile create NAME`"))
        }
        1 => Ok(names.remove(0)),
        _ if context.ui.may_ask() => {
            let items: Vec<&str> = names.iter().map(String::as_str).collect();
            let chosen = context.ui.choose("Which profile?", &items)?;
            Ok(names.swap_remove(chosen))
        }
        _ => {
            let error = CliError::usage("there are several profiles");
            let hint = format!("Name one with --profile: {}", names.join(", "));
            Err(error.with_hint(hint))
        }
    }
}

/// Returns the shares that `mcpm router share` made.
fn ours(paths: &Paths) -> Result<Vec<Seen>, CliError> {
    let running = background::look(paths)?.running.into_iter();
    Ok(running.filter(|seen| seen.record.as_ref().is_ok_and(|share| share.router)).collect())
}

fn one_at_a_time(seen: &Seen) -> CliError {
    let what =
        seen.record.as_ref().map_or_else(|_| "a profile".to_owned(), |s| s.target.to_string());
    CliError::user("already_shared", format!("{what} is shared by a link already")).with_hint(
        "Stop it with `mcpm router unshare`, or share more with `mcpm profile share PROFILE --link --detach`",
    )
}

fn unshare(context: &Context) -> Result<(), CliError> {
    let paths = context.paths()?;
    let ours = ours(&paths)?;
    if ours.is_empty() {
        let ui = context.ui;
        if ui.is_json() {
            ui.json(&json!({ "event": "unshared", "stopped": [] }));
        }
        ui.note("Nothing is shared by `mcpm router share`.");
        return Ok(());
    }
    stop(&ours.iter().collect::<Vec<_>>(), &paths, context)
}

fn status(context: &Context) -> Result<(), CliError> {
    let paths = context.paths()?;
    let ui = context.ui;
    let ours = ours(&paths)?;
    let one = ours.first().and_then(|seen| seen.record.as_ref().ok());
    if ui.is_json() {
        ui.json(&json!({
            "daemon": false,
            "shared": one.is_some(),
            "target": one.map(|share| &share.target),
            "state": one.map(|share| share.state.word()),
            "url": one.and_then(|share| share.url.as_deref()),
            "requests": one.map(|share| share.requests),
        }));
        return Ok(());
    }
    match one {
        Some(share) => {
            let url = share.url.as_deref().unwrap_or("no URL yet");
            ui.result(format!("{} is shared: {}, {url}", share.target, share.state.word()));
        }
        None => ui.result("Nothing is shared by `mcpm router share`."),
    }
    ui.note("There is no router any more: clients start mcpm themselves (`mcpm client ls`).");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::Home;

    const SERVERS: &str = r#"{
        "a": {"command": "x", "profile_tags": ["work"]},
        "b": {"command": "x", "profile_tags": ["home"]}
    }"#;

    #[test]
    fn the_words_of_mcpm_1_say_what_replaced_them() {
        let home = Home::new();
        for words in [
            &["router", "on"][..],
            &["router", "on", "--sse", "-v"],
            &["router", "set"],
            &["router", "set", "-H", "0.0.0.0", "-p", "6276", "--no-auth"],
        ] {
            let error = home.run(words).unwrap_err();
            assert_eq!((error.exit(), error.to_json()["code"].as_str()), (1, Some("replaced")));
            assert!(error.hint().unwrap().contains("mcpm"), "{words:?}");
        }
        for word in ["off", "unshare", "status"] {
            home.run(&["router", word]).unwrap();
        }
        assert!(!home.paths.shares().exists());
    }

    #[test]
    fn which_profile_is_never_guessed_where_there_are_several() {
        let home = Home::new();
        let error = home.run(&["router", "share"]).unwrap_err();
        assert_eq!(error.to_json()["code"], "unknown_profile");
        home.write("servers.json", SERVERS);
        let error = home.run(&["router", "share"]).unwrap_err();
        assert_eq!(error.exit(), 2);
        assert!(error.hint().unwrap().contains("home"), "{error:?}");
        let error = home.run(&["router", "share", "-p", "none"]).unwrap_err();
        assert_eq!(error.to_json()["code"], "unknown_profile");
        home.write("servers.json", r#"{"a": {"command": "x", "profile_tags": ["work"]}}"#);
        assert_eq!(choose(&home.paths, &home.context()).unwrap(), "work");
    }
}
