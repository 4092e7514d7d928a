//! Bringing clients along when what they start gets another name, or goes.

use super::Context;
use super::error::with_sources;
use crate::app::background;
use crate::app::clients::follow::{Named, mend, naming};
use crate::cli::error::CliError;
use crate::clients::{Places, Target};
use crate::credentials::{self, ShareTarget, lock_out, retarget};
use crate::fs::Paths;

/// What became of the clients that start a thing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Followed {
    /// Those that know of the change.
    pub(super) changed: Vec<&'static str>,
    /// Those that still start what is not there.
    pub(super) left: Vec<&'static str>,
}

/// A thing that is gone, or has another name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change<'a> {
    pub(super) before: &'a Target,
    pub(super) now: Option<&'a Target>,
}

/// Returns the clients that start a thing, each once.
pub(super) fn starting(target: &Target, paths: &Paths, places: &Places) -> Vec<&'static str> {
    let mut ids: Vec<_> =
        naming(target, paths, places).into_iter().map(|named| named.client.id).collect();
    ids.dedup();
    ids
}

/// Changes the clients, if that was asked for or a person agrees; names those that stay as they are.
pub(super) fn follow(
    change: Change<'_>,
    force: bool,
    paths: &Paths,
    places: &Places,
    context: &Context,
) -> Result<Followed, CliError> {
    let named = naming(change.before, paths, places);
    // What another folder of files has under this name is somebody else's business.
    let ours: Vec<&Named> = named.iter().filter(|named| named.ours).collect();
    let agreed = !ours.is_empty() && (force || agree(change, &ours, context)?);
    let mut followed = Followed::default();
    for named in &named {
        let id = named.client.id;
        if !(named.ours && agreed) {
            followed.left.push(id);
            continue;
        }
        match mend(named, change.now, paths, places) {
            Ok(()) => followed.changed.push(id),
            Err(error) => {
                context.ui.warning(with_sources(&error));
                followed.left.push(id);
            }
        }
    }
    followed.changed.dedup();
    followed.left.dedup();
    tell(change, &followed, context);
    Ok(followed)
}

/// Tells whether shares or clients of ours know a thing by the name it had: then it is being renamed,
/// and something interrupted that. What was removed leaves shares behind too, which nobody can visit.
pub(super) fn lags(before: &Target, paths: &Paths, places: &Places) -> Result<bool, CliError> {
    let target = match before {
        Target::Server(name) => ShareTarget::Server(name.clone()),
        Target::Profile(name) => ShareTarget::Profile(name.clone()),
    };
    let shares = credentials::list(paths)?;
    let mut records = shares.iter().filter_map(|share| share.record.as_ref().ok());
    let is_shared = records.any(|record| record.target == target && record.is_open());
    Ok(is_shared || naming(before, paths, places).iter().any(|named| named.ours))
}

/// Lets the shares of a thing that got another name keep their URLs and tokens, and tells of it.
pub(super) fn keep_shares(
    before: &ShareTarget,
    now: &ShareTarget,
    paths: &Paths,
    context: &Context,
) -> Result<Vec<String>, CliError> {
    let kept = retarget(paths, before, now)?;
    let ui = context.ui;
    if !kept.is_empty() {
        ui.note(format!("Shares that keep their URL and tokens: {}.", kept.join(", ")));
    }
    if is_shared(before, paths)? {
        ui.note(format!("{before} is shared right now, and is listed so until that share ends."));
    }
    Ok(kept)
}

/// Lets nobody visit the shares of a thing that is gone, and tells of it.
pub(super) fn end_shares(
    gone: &ShareTarget,
    paths: &Paths,
    context: &Context,
) -> Result<Vec<String>, CliError> {
    let locked = lock_out(paths, gone)?;
    let ui = context.ui;
    if !locked.is_empty() {
        ui.note(format!("The tokens of its shares are revoked: {}.", locked.join(", ")));
    }
    if is_shared(gone, paths)? {
        let name = gone.name();
        ui.note(format!("It is shared right now; end that with `mcpm unshare {name}`."));
    }
    Ok(locked)
}

/// Tells whether a share of a thing runs.
fn is_shared(target: &ShareTarget, paths: &Paths) -> Result<bool, CliError> {
    let running = background::look(paths)?.running;
    let mut targets = running.iter().filter_map(|seen| Some(&seen.record.as_ref().ok()?.target));
    Ok(targets.any(|shared| shared == target))
}

fn agree(change: Change<'_>, named: &[&Named], context: &Context) -> Result<bool, CliError> {
    if !context.ui.may_ask() {
        return Ok(false);
    }
    let mut names: Vec<&str> = named.iter().map(|named| named.client.name).collect();
    names.dedup();
    let names = names.join(", ");
    context.ui.confirm(&match change.now {
        Some(now) => format!("These clients start it: {names}. Let them start {now}?"),
        None => format!("These clients start it: {names}. Take it out of them?"),
    })
}

fn tell(change: Change<'_>, followed: &Followed, context: &Context) {
    let ui = context.ui;
    if !followed.changed.is_empty() {
        let done = match change.now {
            Some(now) => format!("start {now} now"),
            None => "start it no longer".to_owned(),
        };
        let names = followed.changed.join(", ");
        ui.note(format!("Clients that {done}: {names}. Restart them to let them see it."));
    }
    let word = |target: &Target| match target {
        Target::Server(_) => "server",
        Target::Profile(_) => "profile",
    };
    let (kind, name) = (word(change.before), change.before.name());
    for client in &followed.left {
        let mut command = format!("mcpm client edit {client} --remove-{kind} {name}");
        if let Some(now) = change.now {
            command.push_str(&format!(" --add-{kind} {}", now.name()));
        }
        ui.warning(format!("{client} still starts {}; mend it with `{command}`", change.before));
    }
}
