//! `mcpm update`: installed servers, compared with what their registries say now.

mod checkouts;
mod own;

use std::process::ExitCode;

use serde_json::{Value, json};

use super::error::CliError;
use super::install::answers;
use super::registry::RegistryOptions;
use super::table::clean;
use super::{Context, ForceArg, JsonArg, Threads, block_on, env};
use crate::app::install::Installer;
use crate::app::update::{Plan, Standing};
use crate::config::GlobalConfigManager;
use crate::hint::Hint;
use crate::registry::fill::Answers;

/// Bring servers up to what their registry says now
///
/// Shows what differs and asks before it changes anything. Your answers and your own changes stay.
/// Servers that run from a Git checkout noted in sources.json are fetched and brought forward.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The servers [default: all, and a word about mcpm itself]
    #[arg(value_name = "SERVER")]
    servers: Vec<String>,
    /// All servers, also where nobody can be asked
    #[arg(long, conflicts_with = "servers")]
    all: bool,
    /// Only tell; exit 1 when something can be updated, or cannot be told
    #[arg(short, long, visible_alias = "dry-run")]
    check: bool,
    /// Say what a new version asks for; may be given again. A secret is never given here, but where
    /// it is, as for `mcpm install`
    #[arg(long, value_name = "ARGUMENT=VALUE")]
    set: Vec<String>,
    /// Put commits of your own on top of what was fetched, for Git checkouts
    #[arg(long)]
    rebase: bool,
    /// Run what sources.json notes to be run after an update of a checkout, where nobody can be asked
    #[arg(long)]
    run_post_update: bool,
    /// Note the Git checkouts that servers run from
    #[arg(long, conflicts_with_all = ["all", "check"])]
    init: bool,
    /// Tell of servers that others update, too
    #[arg(short = 'V', long)]
    verbose: bool,
    #[command(flatten)]
    force: ForceArg,
    #[command(flatten)]
    options: RegistryOptions,
    #[command(flatten)]
    json: JsonArg,
}

impl Args {
    pub(super) fn json(&self) -> bool {
        self.json.json
    }

    /// Tells whether it was said what to update, so that nobody needs to be asked.
    fn is_explicit(&self) -> bool {
        !self.servers.is_empty() || self.all || self.force.force
    }
}

/// What was found out about one server.
struct Found {
    server: String,
    standing: Result<Standing, CliError>,
}

/// What became of one server.
struct Told {
    server: String,
    /// `current`, `newer`, `updated`, `pinned`, `unmanaged`, `conflict` or `failed`.
    status: &'static str,
    details: Value,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<ExitCode, CliError> {
    let paths = context.paths()?;
    let given = answers::given(&args.set)?;
    let names = names(args, &GlobalConfigManager::open(&paths)?)?;
    if args.init {
        return checkouts::init(&names, &paths, context).map(|()| ExitCode::SUCCESS);
    }
    let (registry, web) = args.options.open(&paths, false)?;
    let home = std::env::home_dir();
    let installer = Installer { paths, registry, web, home, folders: env::path() };
    let (checkouts, names) = checkouts::split(names, &installer.paths)?;
    let found = look(&installer, &names, !args.servers.is_empty())?;
    let (plans, mut told) = sort(found, &installer, args, context)?;
    let mut checkouts = checkouts::look(checkouts, context)?;
    tell_plans(&plans, context);
    let newer = plans.len() + checkouts.behind();
    if !agreed(newer, args, context)? {
        told.extend(plans.iter().map(|plan| planned("newer", plan)));
        told.extend(checkouts.told());
        finish(&told, args, context);
        // Who was asked and does not want it has nothing left to mend.
        let declined = newer > 0 && !args.check && context.ui.may_ask();
        let open = |one: &Told| matches!(one.status, "newer" | "failed" | "conflict");
        if declined {
            context.ui.note("Nothing has changed.");
        }
        let left = !declined && told.iter().any(open);
        return Ok(if left { ExitCode::from(1) } else { ExitCode::SUCCESS });
    }
    for plan in plans {
        told.push(apply(plan, &given, &installer, context));
    }
    checkouts.update(args.rebase, args.run_post_update, context)?;
    told.extend(checkouts.told());
    finish(&told, args, context);
    let failed = told.iter().any(|one| one.status == "failed");
    Ok(if failed { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

fn names(args: &Args, global: &GlobalConfigManager) -> Result<Vec<String>, CliError> {
    if args.servers.is_empty() {
        let valid = global.list_servers().into_iter().filter(|listed| listed.server.is_ok());
        return Ok(valid.map(|listed| listed.name).collect());
    }
    for name in &args.servers {
        global.server(name)?;
    }
    Ok(args.servers.clone())
}

fn look(installer: &Installer, names: &[String], named: bool) -> Result<Vec<Found>, CliError> {
    block_on(Threads::One, async {
        let mut found = Vec::new();
        for name in names {
            let standing = installer.standing(name, named).await.map_err(CliError::from);
            found.push(Found { server: name.clone(), standing });
        }
        Ok(found)
    })
}

/// Parts what can be updated from what cannot; tells of the latter.
fn sort(
    found: Vec<Found>,
    installer: &Installer,
    args: &Args,
    context: &Context,
) -> Result<(Vec<Plan>, Vec<Told>), CliError> {
    let ui = context.ui;
    let (mut plans, mut told) = (Vec::new(), Vec::new());
    for Found { server, standing } in found {
        let (status, details) = match standing {
            Ok(Standing::Newer(plan)) => {
                plans.push(*plan);
                continue;
            }
            Ok(Standing::Current { version, found }) => {
                if let Some(found) = found.filter(|_| !args.check) {
                    found.keep(&server, &installer.paths)?;
                }
                ("current", json!({ "version": version }))
            }
            Ok(Standing::Pinned { version, newest }) => {
                ("pinned", json!({ "version": version, "newest": newest }))
            }
            Ok(Standing::Unmanaged(why)) => ("unmanaged", json!({ "reason": why })),
            Ok(Standing::Conflict(why)) => {
                let again = format!("`mcpm install SERVER --alias {server} --force`");
                ui.warning(clean(&format!(
                    "`{server}` cannot be updated: {why}; install it anew with {again}"
                )));
                ("conflict", json!({ "reason": why }))
            }
            Err(error) => {
                ui.warning(clean(&format!("`{server}`: {error}")));
                ("failed", json!({ "reason": error.to_string(), "hint": error.hint() }))
            }
        };
        told.push(Told { server, status, details });
    }
    Ok((plans, told))
}

fn tell_plans(plans: &[Plan], context: &Context) {
    let ui = context.ui;
    for plan in plans {
        if ui.is_json() {
            continue;
        }
        let version = |version: &Option<String>| version.clone().unwrap_or_else(|| "?".to_owned());
        let versions = match (&plan.from, &plan.to) {
            (None, None) => String::new(),
            (from, to) => format!("  {} -> {}", version(from), version(to)),
        };
        ui.result(clean(&format!("{}{versions}  ({})", plan.server, plan.registry)));
        difference_lines(plan).iter().for_each(|line| ui.result(clean(line)));
        plan.warnings.iter().for_each(|warning| ui.warning(clean(warning)));
    }
}

fn difference_lines(plan: &Plan) -> Vec<String> {
    let mut lines = Vec::new();
    for difference in &plan.differences {
        lines.push(format!("    {}", difference.what));
        lines.extend(difference.before.iter().map(|text| format!("      - {text}")));
        lines.extend(difference.after.iter().map(|text| format!("      + {text}")));
    }
    lines
}

/// Tells whether updates shall be made.
fn agreed(newer: usize, args: &Args, context: &Context) -> Result<bool, CliError> {
    let ui = context.ui;
    if args.check || newer == 0 {
        return Ok(false);
    }
    if ui.may_ask() && !args.force.force {
        return ui.confirm(&format!("Update {}?", count(newer)));
    }
    if !args.is_explicit() {
        ui.note("Nothing was changed. Update them with `mcpm update --all`.");
    }
    Ok(args.is_explicit())
}

fn count(servers: usize) -> String {
    if servers == 1 { "1 server".to_owned() } else { format!("{servers} servers") }
}

/// Updates one server. What goes wrong with it does not keep the others from theirs.
fn apply(plan: Plan, given: &Answers, installer: &Installer, context: &Context) -> Told {
    let told = planned("updated", &plan);
    let server = plan.server.clone();
    match update(plan, given, installer, context) {
        Ok(kept) => {
            context.ui.note(format!("Server `{server}` is updated."));
            if !kept.is_empty() {
                context.ui.note(format!("  What you changed stays: {}.", kept.join(", ")));
            }
            let mut told = told;
            told.details["kept"] = kept.into();
            told
        }
        Err(error) => {
            context.ui.warning(clean(&format!("`{server}` is not updated: {error}")));
            if let Some(hint) = error.hint() {
                context.ui.note(format!("  hint: {hint}"));
            }
            let details = json!({ "reason": error.to_string(), "hint": error.hint() });
            Told { server, status: "failed", details }
        }
    }
}

fn update(
    plan: Plan,
    given: &Answers,
    installer: &Installer,
    context: &Context,
) -> Result<Vec<String>, CliError> {
    let fetch = async { Ok(installer.prepare(plan).await?) };
    let plan = block_on(Threads::One, fetch)?;
    let questions = plan.questions();
    let wanted = |name: &String| questions.iter().any(|input| input.name == *name);
    let given = given.iter().filter(|(name, _)| wanted(name));
    let given = given.map(|(name, answer)| (name.clone(), answer.clone())).collect();
    let answers = answers::gather(&plan.server, &questions, given, context)?;
    Ok(installer.update(plan, &answers)?.kept)
}

fn planned(status: &'static str, plan: &Plan) -> Told {
    let changes = plan
        .differences
        .iter()
        .map(|one| json!({ "what": one.what, "before": one.before, "after": one.after }));
    let details = json!({
        "registry": plan.registry,
        "version": plan.from,
        "newest": plan.to,
        "changes": changes.collect::<Value>(),
        "warnings": plan.warnings,
    });
    Told { server: plan.server.clone(), status, details }
}

/// Tells the rest, and of mcpm itself when it was asked for nothing else.
fn finish(told: &[Told], args: &Args, context: &Context) {
    let ui = context.ui;
    let own = args.servers.is_empty().then(own::advice);
    if ui.is_json() {
        let server = |one: &Told| {
            let mut value = json!({ "server": one.server, "status": one.status });
            if let (Value::Object(value), Value::Object(details)) = (&mut value, &one.details) {
                value.extend(details.clone());
            }
            value
        };
        let servers: Value = told.iter().map(server).collect();
        ui.json(&json!({ "servers": servers, "mcpm": own.map(|own| own.to_json()) }));
        return;
    }
    let of = |status: &str| told.iter().filter(move |one| one.status == status).count();
    for one in told {
        let quiet = matches!(one.status, "current" | "unmanaged") && !args.verbose;
        let shown = matches!(one.status, "pinned" | "current" | "unmanaged");
        if shown && (!quiet || !args.servers.is_empty()) {
            ui.result(clean(&line(one)));
        }
    }
    let (current, unmanaged) = (of("current"), of("unmanaged"));
    if args.servers.is_empty() {
        if current > 0 {
            ui.note(format!("Up to date: {}.", count(current)));
        }
        if unmanaged > 0 && !args.verbose {
            ui.note(format!("Updated by others: {}; --verbose names them.", count(unmanaged)));
        }
    }
    if let Some(own) = own {
        ui.note(own.text());
    }
}

fn line(one: &Told) -> String {
    let text = |key: &str| one.details[key].as_str();
    let rest = match one.status {
        "pinned" => {
            let version = text("version").unwrap_or("?");
            let newest = text("newest").unwrap_or("?");
            format!("you asked for {version}; {newest} is there. Name the server to update it")
        }
        "current" => text("version").unwrap_or_default().to_owned(),
        _ => text("reason").unwrap_or_default().to_owned(),
    };
    format!("{}  {}  {rest}", one.server, one.status).trim_end().to_owned()
}

/// Says that something of ours went wrong with one server.
fn failed(server: &str, error: &dyn Hint) -> Told {
    let details = json!({ "reason": super::error::with_sources(error), "hint": error.hint() });
    Told { server: server.to_owned(), status: "failed", details }
}

#[cfg(test)]
mod tests;
