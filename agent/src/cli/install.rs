//! `mcpm install`: from a registry, a package, an address, a folder or a bundle.

pub(super) mod answers;

use serde_json::{Value, json};

use super::edit::quoted;
use super::error::CliError;
use super::registry::{RegistryOptions, line};
use super::table::clean;
use super::{Context, ForceArg, JsonArg, Threads, block_on, env};
use crate::app::install::{InstallError, Installed, Installer, Offer, Order};
use crate::model::{Transport, Vars};
use crate::registry::reference::Reference;

/// Install a server
///
/// What it asks for comes from --set, from the variables `MCPM_SERVER_NAME_ARGUMENT` and
/// `MCPM_ARG_ARGUMENT`, from a variable of the argument's own name if it is required, or from you.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A name of a registry (time, io.github.user/weather), a package (npm:…, pypi:…, oci:…, nuget:…,
    /// cargo:…), the URL of a remote server, a folder (./notes), or an .mcpb file or URL
    #[arg(value_name = "SERVER")]
    reference: String,
    /// Name of the new entry [default: that of the server]
    #[arg(long, visible_alias = "name", value_name = "NAME")]
    alias: Option<String>,
    /// Installation method, as `mcpm info` shows it [default: the preferred one]
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// Say what the server asks for; may be given again. A secret is never given here, but where it
    /// is: `--set 'TOKEN=${VARIABLE}'` or `--set TOKEN=file:~/token`
    #[arg(long, value_name = "ARGUMENT=VALUE")]
    set: Vec<String>,
    /// SHA-256 that the bundle must have
    #[arg(long, value_name = "HEX")]
    sha256: Option<String>,
    #[command(flatten)]
    force: ForceArg,
    #[command(flatten)]
    options: RegistryOptions,
    #[command(flatten)]
    json: JsonArg,
    /// More arguments for the command of the server
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,
}

impl Args {
    pub(super) fn json(&self) -> bool {
        self.json.json
    }
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    let paths = context.paths()?;
    let reference: Reference = args.reference.parse().map_err(InstallError::from)?;
    let is_bundle = matches!(reference, Reference::Bundle(_) | Reference::RemoteBundle(_));
    if args.sha256.is_some() && !is_bundle {
        return Err(CliError::usage("--sha256 is for bundles only"));
    }
    let given = answers::given(&args.set)?;
    let (registry, web) = args.options.open(&paths, false)?;
    let home = std::env::home_dir();
    let installer = Installer { paths, registry, web, home, folders: env::path() };
    let Some((offer, method, name)) = prepare(args, &reference, &installer, context)? else {
        context.ui.note("Nothing has changed.");
        return Ok(());
    };
    let method = offer.method(method.as_deref())?;
    if matches!(method.launch, crate::registry::manifest::Launch::Remote { .. })
        && !args.args.is_empty()
    {
        return Err(CliError::usage("a remote server has no command to give arguments to"));
    }
    let answers = answers::gather(&name, &method.inputs, given, context)?;
    let order =
        Order { name: &name, answers: &answers, args: &args.args, replace: args.force.force };
    let installed = installer.install(&offer, method, &order)?;
    tell(&installed, &offer, &method.id, context);
    Ok(())
}

type Prepared = (Offer, Option<String>, String);

/// Finds the server and the method, and agrees on both; `None` when the user would rather not.
fn prepare(
    args: &Args,
    reference: &Reference,
    installer: &Installer,
    context: &Context,
) -> Result<Option<Prepared>, CliError> {
    let ui = context.ui;
    let (alias, sha256) = (args.alias.as_deref(), args.sha256.as_deref());
    let look_up = async { Ok(installer.look_up(reference, alias, sha256).await?) };
    let offer = block_on(Threads::One, look_up)?;
    // Asked before anything else is: a name that is taken must not cost a form or a download.
    let name = alias.unwrap_or(&offer.manifest.alias).to_owned();
    installer.admit(&name, args.force.force)?;
    let asks = ui.may_ask() && !args.force.force;
    let mut id = args.method.clone();
    if asks && id.is_none() && offer.manifest.methods.len() > 1 {
        id = Some(choose(&offer, context)?);
    }
    if asks {
        let method = offer.method(id.as_deref())?;
        ui.note(clean(&format!("{}: {}", offer.manifest.title, offer.manifest.description)));
        ui.note(clean(&format!("It is started as: {}", line(&method.launch))));
        if !ui.confirm(&format!("Install it as `{name}`?"))? {
            return Ok(None);
        }
    }
    offer.method(id.as_deref())?;
    let was_bundle = matches!(
        offer.method(id.as_deref())?.launch,
        crate::registry::manifest::Launch::Bundle { .. }
    );
    let fetch = async { Ok(installer.fetch(offer, id.as_deref(), Some(&name)).await?) };
    let offer = block_on(Threads::One, fetch)?;
    // What was fetched has methods of its own.
    Ok(Some((offer, id.filter(|_| !was_bundle), name)))
}

fn choose(offer: &Offer, context: &Context) -> Result<String, CliError> {
    let preferred = offer.method(None)?;
    let others = offer.manifest.methods.iter().filter(|method| method.id != preferred.id);
    let methods: Vec<_> = std::iter::once(preferred).chain(others).collect();
    let items: Vec<String> =
        methods.iter().map(|m| clean(&format!("{}: {}", m.id, line(&m.launch)))).collect();
    let items: Vec<&str> = items.iter().map(String::as_str).collect();
    let chosen = context.ui.choose("How shall it be installed?", &items)?;
    Ok(methods.get(chosen).unwrap_or(&preferred).id.clone())
}

fn tell(installed: &Installed, offer: &Offer, method: &str, context: &Context) {
    let ui = context.ui;
    let Installed { server, secrets, replaced, warnings } = installed;
    let done = if *replaced { "replaced" } else { "installed" };
    if ui.is_json() {
        let mut value = json!({
            "event": done,
            "server": server.name,
            "type": server.transport.kind(),
            "registry": offer.manifest.origin.word(),
            "method": method,
            "warnings": warnings,
        });
        describe(&server.transport, secrets, &mut value);
        ui.json(&value);
        return;
    }
    for warning in warnings {
        ui.warning(clean(warning));
    }
    let name = &server.name;
    ui.note(format!("Server `{name}` is {done}. Try it with `mcpm inspect {}`.", quoted(name)));
}

/// Adds what the entry has become, without its secrets.
fn describe(transport: &Transport, secrets: &[String], value: &mut Value) {
    let names = |vars: &Vars| vars.iter().map(|(name, _)| Value::from(name)).collect::<Value>();
    match transport {
        Transport::Stdio { command, args, env, .. } => {
            value["command"] = command.as_str().into();
            value["args"] = args.iter().map(|arg| Value::from(masked(arg, secrets))).collect();
            value["env"] = names(env);
        }
        Transport::Remote { url, headers } => {
            value["url"] = masked(url, secrets).into();
            value["headers"] = names(headers);
        }
        Transport::Custom { .. } => {}
    }
}

fn masked(text: &str, secrets: &[String]) -> String {
    secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
}

#[cfg(test)]
mod tests;
