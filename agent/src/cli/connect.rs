//! `mcpm connect`: somebody's share as a server of ours.

use std::path::PathBuf;
use std::time::Duration;

use mcpm_shared::token::Token;
use serde_json::{Value, json};

use super::error::{CliError, with_sources};
use super::table::clean;
use super::{Context, ForceArg, JsonArg, Threads, block_on, client, env, relay};
use crate::app::clients::{self, Wish};
use crate::app::connect::{
    ConnectError, Connected, Credential, Invitation, LinkError, Place, keep, place, try_out,
};
use crate::clients::{ClientConfigManager, Places};
use crate::fs::Paths;
use crate::hint::Hint as _;
use crate::model::Transport;

/// What stands for the link where it is read from stdin.
const STDIN: &str = "-";

/// Use a share of somebody else as a server
///
/// It is tried first, and kept only when it answers. Clients get it when --client says so, or when
/// you choose them.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The link or the URL that you were given; `-` reads it from stdin
    #[arg(value_name = "LINK|URL")]
    link: String,
    /// Name of the new server [default: the profile or the name of the share]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    token: TokenSource,
    /// Let this client use it, as `mcpm client ls` names it; may be given again
    #[arg(long, value_name = "CLIENT", value_delimiter = ',')]
    client: Vec<String>,
    /// How long it may take to answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
    #[command(flatten)]
    force: ForceArg,
    #[command(flatten)]
    json: JsonArg,
}

/// Where the token comes from.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct TokenSource {
    /// Read the token of the share from stdin
    #[arg(long)]
    token_stdin: bool,
    /// Read the token of the share from a file
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl Args {
    pub(super) fn json(&self) -> bool {
        self.json.json
    }
}

pub(super) fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    run_at(args, context, &env::places()?)
}

/// The same on a machine whose folders are given.
fn run_at(args: &Args, context: &Context, places: &Places) -> Result<(), CliError> {
    let paths = context.paths()?;
    let ui = context.ui;
    // Looked at first: a slip must not cost a connection.
    let managers = open(&args.client, places)?;
    let mut invitation = read(args)?;
    let place = place(&paths, &invitation, args.name.as_deref(), args.force.force)
        .map_err(ConnectError::from)?;
    warn(&invitation, context);
    let patience = Duration::from_secs(args.timeout);
    let attempt = |invitation: &Invitation| {
        let work = async { Ok(try_out(invitation, &place.name, patience, &paths).await) };
        block_on(Threads::One, work)
    };
    let mut tried = attempt(&invitation)?;
    if let Err(ConnectError::Unauthorized { shown: Credential::Nothing, host, .. }) = &tried
        && ui.may_ask()
    {
        let token = ui.ask_secret(&format!("Token for {host}"), false)?;
        invitation = invitation.with_token(&token)?;
        warn(&invitation, context);
        tried = attempt(&invitation)?;
    }
    let connected = tried?;
    keep(&paths, &connected, &place)?;
    tell(&connected, &place, context);
    let managers = match managers.is_empty() && ui.may_ask() && !ui.is_json() {
        true => offer(&place.name, places, context)?,
        false => managers,
    };
    let (handed, failed) = hand_over(&place.name, &managers, &paths, places, context)?;
    if ui.is_json() {
        ui.json(&to_json(&connected, &place, &handed));
    }
    failed.map_or(Ok(()), Err)
}

fn open(names: &[String], places: &Places) -> Result<Vec<ClientConfigManager>, CliError> {
    let names = names.iter().map(|name| name.trim()).filter(|name| !name.is_empty());
    names.map(|name| Ok(clients::open(name, None, places)?)).collect()
}

/// Reads the link, and the token if an option says where it is.
fn read(args: &Args) -> Result<Invitation, CliError> {
    let TokenSource { token_stdin, token_file } = &args.token;
    let link = match args.link.as_str() {
        STDIN if *token_stdin => {
            return Err(CliError::usage("stdin cannot be both the link and the token"));
        }
        STDIN => relay::from_stdin()?,
        link => Token::new(link),
    };
    let invitation: Invitation = link.expose().parse()?;
    let token = match token_file {
        Some(file) => Some(relay::from_file(file)?),
        None if *token_stdin => Some(relay::from_stdin()?),
        None => None,
    };
    Ok(match token {
        Some(token) => invitation.with_token(&token)?,
        None => invitation,
    })
}

fn warn(invitation: &Invitation, context: &Context) {
    if invitation.is_in_clear() {
        context.ui.warning(format!(
            "{} is spoken to without TLS: everybody on the way can read the secret",
            invitation.host()
        ));
    }
}

fn tell(connected: &Connected, place: &Place, context: &Context) {
    let ui = context.ui;
    let name = &place.name;
    let probe = &connected.probe;
    let tools = match probe.tools {
        Some(1) => "1 tool".to_owned(),
        Some(count) => format!("{count} tools"),
        None => {
            ui.warning("it answers, but does not list its tools in time");
            "its tools are not known yet".to_owned()
        }
    };
    let who = [probe.server_name.as_str(), probe.version.as_str()];
    let who: Vec<&str> = who.into_iter().filter(|word| !word.is_empty()).collect();
    let who = if who.is_empty() { "It".to_owned() } else { clean(&who.join(" ")) };
    ui.note(format!("{who} answers: {tools}."));
    let done = if place.replaces { "replaced" } else { "added" };
    ui.note(format!("Server `{name}` is {done}. Try it with `mcpm inspect {name}`."));
}

/// Asks which of the installed clients shall use it.
fn offer(
    name: &str,
    places: &Places,
    context: &Context,
) -> Result<Vec<ClientConfigManager>, CliError> {
    let all = clients::list(places)?;
    let usable = |one: &&clients::Status| {
        let has_it = one.servers().any(|server| server == name);
        one.installed && one.entries.is_ok() && !has_it && !one.client.is_of_project()
    };
    let here: Vec<&clients::Status> = all.iter().filter(usable).collect();
    if here.is_empty() {
        return Ok(Vec::new());
    }
    let labels: Vec<String> = here.iter().map(|one| one.client.name.to_owned()).collect();
    let prompt = format!("Which clients shall use `{name}`?");
    let chosen = context.ui.choose_many(&prompt, &labels, &vec![false; labels.len()])?;
    let ids = chosen.into_iter().filter_map(|index| here.get(index).map(|one| one.client.id));
    ids.map(|id| Ok(clients::open(id, None, places)?)).collect()
}

/// Gives the server to clients; one that cannot be edited is not in the way of the others.
fn hand_over(
    name: &str,
    managers: &[ClientConfigManager],
    paths: &Paths,
    places: &Places,
    context: &Context,
) -> Result<(Vec<Value>, Option<CliError>), CliError> {
    let ui = context.ui;
    let (mut handed, mut failed) = (Vec::new(), None);
    if managers.is_empty() {
        return Ok((handed, failed));
    }
    let launcher = client::launcher(context, places)?;
    let wish = Wish { add: vec![name.to_owned()], ..Wish::default() };
    for manager in managers {
        let client = manager.client();
        match clients::edit(paths, manager, &wish, &Wish::default(), &launcher, false) {
            Ok(edited) => {
                let changed = edited.outcome.changed;
                handed.push(json!({ "client": client.id, "changed": changed }));
                ui.note(format!(
                    "{} uses it; restart {} to let it see the change.",
                    client.name, client.name
                ));
            }
            Err(error) => {
                handed.push(json!({ "client": client.id, "error": with_sources(&error) }));
                ui.warning(format!("{}: {}", client.name, with_sources(&error)));
                failed.get_or_insert(error.into());
            }
        }
    }
    Ok((handed, failed))
}

fn to_json(connected: &Connected, place: &Place, handed: &[Value]) -> Value {
    let Connected { server, probe } = connected;
    // A secret that had to stay in the URL is not shown.
    let url = match &server.transport {
        Transport::Remote { url, .. } => mcpm_shared::access::strip_link_secret(url).into_owned(),
        Transport::Stdio { .. } | Transport::Custom { .. } => String::new(),
    };
    json!({
        "event": "connected",
        "server": place.name,
        "replaced": place.replaces,
        "url": url,
        "answers_as": probe.server_name,
        "version": probe.version,
        "tools": probe.tools,
        "clients": handed,
    })
}

impl From<LinkError> for CliError {
    fn from(error: LinkError) -> Self {
        let usage = Self::usage(error.to_string());
        match error.hint() {
            Some(hint) => usage.with_hint(hint),
            None => usage,
        }
    }
}

impl From<ConnectError> for CliError {
    fn from(error: ConnectError) -> Self {
        use crate::config::ConfigError;
        let code = match error {
            ConnectError::Config(ConfigError::Exists { .. }) => "exists",
            ConnectError::Config(error) => return error.into(),
            ConnectError::Unauthorized { .. } => "unauthorized",
            _ => "unreachable",
        };
        Self::new(code, &error)
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::testing::Home;

    #[test]
    fn what_is_no_link_or_contradicts_itself_is_a_usage_error() {
        let home = Home::new();
        for args in [
            &["connect"][..],
            &["connect", "time"],
            &["connect", "https://x.example/mcp?s=${HOME}"],
            &["connect", "-", "--token-stdin"],
            &["connect", "https://x.example/mcp", "--token", "T"],
            &["connect", "https://x.example/mcp", "--token-stdin", "--token-file", "x"],
        ] {
            assert_eq!(home.run(args).unwrap_err().exit(), 2, "{args:?}");
        }
        let error = home.run(&["connect", "https://x.example", "--client", "cursr"]).unwrap_err();
        assert_eq!(error.to_json()["code"], "unknown_client");
        assert!(!home.paths.servers().exists());
    }

    #[test]
    fn a_name_that_is_taken_is_told_before_anybody_is_called() {
        let home = Home::new();
        home.write("servers.json", r#"{"work": {"command": "x"}}"#);
        let error = home.run(&["connect", "https://x.invalid/mcp", "--name", "work"]).unwrap_err();
        assert_eq!((error.exit(), error.to_json()["code"].as_str()), (1, Some("exists")));
        assert!(error.hint().unwrap().contains("--force"));
    }
}
