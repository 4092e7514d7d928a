//! `mcpm share`, and what all commands that share have in common.

mod here;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mcpm_shared::name::Name;

pub(super) use self::here::{run_here, some_failed};
use super::background::{self, DetachOptions};
use super::error::CliError;
use super::run::PORT;
use super::servers::ServerOptions;
use super::time::lifetime;
use super::{Context, JsonArg};
use crate::app::serving::Serving;
use crate::app::share::{Access, Local, Patience, RelaySpec, ShareSpec, Source};
use crate::config::GlobalConfigManager;
use crate::credentials::{Change, RelayChange, RelayStore, ShareTarget};
use crate::fs::Paths;
use crate::gateway::{GatewayOptions, Isolation};
use crate::tunnel::RelayAddress;

/// Share servers through a relay
///
/// Each server is a share with a URL and tokens of its own; all of them have one connection to the
/// relay. To share several servers as one, share a profile.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The servers, as `mcpm ls` shows them
    #[arg(value_name = "SERVER", required = true)]
    servers: Vec<String>,
    #[command(flatten)]
    options: Options,
}

/// The options of sharing MCP servers.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Serve this port of this machine as well; 0 takes any free one
    #[arg(long)]
    port: Option<u16>,
    /// Use no relay: serve this machine only, with the same tokens
    #[arg(long, conflicts_with_all = ["subdomain", "expires", "http", "ca"])]
    local_only: bool,
    #[command(flatten)]
    access: AccessOptions,
    #[command(flatten)]
    servers: ServerOptions,
    #[command(flatten)]
    relay: RelayOptions,
    #[command(flatten)]
    detach: DetachOptions,
    #[command(flatten)]
    json: JsonArg,
}

/// Who may visit.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
pub(super) struct AccessOptions {
    /// Ask visitors for a token (the default)
    #[arg(long)]
    auth: bool,
    /// Let everybody in who knows the URL
    #[arg(long)]
    no_auth: bool,
    /// Make a link that needs no token too, for clients that cannot send headers
    #[arg(long)]
    link: bool,
}

/// Which relay, and what is asked of it.
#[derive(Debug, clap::Args)]
pub(super) struct RelayOptions {
    /// The relay: HOST, HOST:PORT or a URL
    #[arg(
        long,
        short_alias = 'a',
        env = "MCPM_RELAY_ADDRESS",
        hide_env_values = true,
        default_value = "share.mcpm.sh"
    )]
    address: String,
    /// Speak plain HTTP to a relay that is not given as a URL
    #[arg(long)]
    http: bool,
    /// The name of the share [default: made from the server's name and this agent's key]; of
    /// several shares one each, in the same order
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    subdomain: Vec<Name>,
    /// Give up after so many retries of the first connection, instead of after --timeout
    #[arg(long, value_name = "N")]
    retry: Option<u32>,
    /// Give up when the share is not up after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// End the share after this time, such as 8h
    #[arg(long, value_name = "DURATION", value_parser = lifetime)]
    pub(super) expires: Option<Duration>,
    /// Trust the certificates in this PEM file as well
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// How many connections to the relay to open under load
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=8))]
    connections: u8,
}

impl Args {
    pub(super) fn json(&self) -> bool {
        self.options.json()
    }
}

impl Options {
    pub(super) fn json(&self) -> bool {
        self.json.json
    }
}

impl AccessOptions {
    pub(super) fn access(&self) -> Access {
        match self {
            Self { no_auth: true, .. } => Access::Public,
            Self { link: true, .. } => Access::Link,
            Self { .. } => Access::Token,
        }
    }
}

impl RelayOptions {
    /// Returns the relay with what we keep for it.
    pub(super) fn spec(&self, paths: &Paths) -> Result<RelaySpec, CliError> {
        let address = self.address()?;
        let kept = RelayStore::open(paths)?.get(&address.origin()).cloned();
        let mut credential = kept.unwrap_or_default();
        if let Some(ca) = &self.ca {
            super::relay::needs_tls("--ca", &address)?;
            // What is said now counts more than a certificate that was pinned once.
            let (ca, fingerprint) = (Change::Set(ca.clone()), Change::Clear);
            let change = RelayChange { ca, fingerprint, ..RelayChange::default() };
            credential = change.apply(&address.origin(), credential)?;
        }
        let proxy = super::env::proxy();
        Ok(RelaySpec { address, credential, proxy, connections: self.connections })
    }

    /// Returns a relay that was named without further options.
    pub(super) fn spec_of(address: &str, paths: &Paths) -> Result<RelaySpec, CliError> {
        let address: RelayAddress = address.parse().map_err(|error| {
            CliError::usage(format!("`{address}` is not the address of a relay: {error}"))
        })?;
        let credential = RelayStore::open(paths)?.get(&address.origin()).cloned();
        let (credential, proxy) = (credential.unwrap_or_default(), super::env::proxy());
        Ok(RelaySpec { address, credential, proxy, connections: 1 })
    }

    /// Returns the name that was asked for, of the only share.
    pub(super) fn name(&self) -> Result<Option<Name>, CliError> {
        Ok(self.names(1)?.pop().flatten())
    }

    /// Returns the names that were asked for, of so many shares.
    pub(super) fn names(&self, shares: usize) -> Result<Vec<Option<Name>>, CliError> {
        let names = &self.subdomain;
        if names.is_empty() {
            return Ok(vec![None; shares]);
        }
        if names.len() != shares {
            let counts = match (names.len(), shares) {
                (1, shares) => format!("there is one --subdomain for {shares} shares"),
                (names, 1) => format!("there are {names} names in --subdomain for one share"),
                (names, shares) => {
                    format!("there are {names} names in --subdomain for {shares} shares")
                }
            };
            let hint = "Name each share, in the same order, as in `--subdomain ONE,TWO`, or leave it out for names of your own";
            return Err(CliError::usage(counts).with_hint(hint));
        }
        if let Some(twin) = twin(names) {
            return Err(CliError::usage(format!("--subdomain names `{twin}` twice"))
                .with_hint("Each share needs a name of its own"));
        }
        Ok(names.iter().cloned().map(Some).collect())
    }

    fn address(&self) -> Result<RelayAddress, CliError> {
        let bare = !self.address.contains("://");
        let text = match &self.address {
            address if self.http && bare => format!("http://{address}"),
            address => address.clone(),
        };
        text.parse().map_err(|error| {
            CliError::usage(format!("`{}` is not the address of a relay: {error}", self.address))
        })
    }

    /// Returns how long a server may take to start.
    pub(super) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }

    /// Returns when to give up on the first connection.
    pub(super) fn patience(&self) -> Patience {
        match self.retry {
            None => Patience::Time(Duration::from_secs(self.timeout)),
            Some(retries) => Patience::Retries(retries),
        }
    }
}

pub(super) fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let Args { servers, options } = args;
    let global = GlobalConfigManager::open(&context.paths()?)?;
    // A slip of the pen is told before anything is shared.
    let found: Result<Vec<_>, CliError> = servers
        .into_iter()
        .map(|name| {
            let server = global.server(&name)?;
            Ok((ShareTarget::Server(name), Serving::server(server)))
        })
        .collect();
    serve_all(found?, options, Isolation::Session, context)
}

/// Shares MCP servers as one until a signal comes, or in the background.
pub(super) fn serve(
    target: ShareTarget,
    serving: Serving,
    options: Options,
    isolation: Isolation,
    context: &Context,
) -> Result<(), CliError> {
    serve_all(vec![(target, serving)], options, isolation, context)
}

/// Shares MCP servers, each for itself.
fn serve_all(
    found: Vec<(ShareTarget, Serving)>,
    options: Options,
    isolation: Isolation,
    context: &Context,
) -> Result<(), CliError> {
    let Options { port, local_only, access, servers, relay, detach, json: _ } = options;
    let paths = context.paths()?;
    let targets: Vec<_> = found.iter().map(|(target, _)| target.clone()).collect();
    no_twins(&targets)?;
    let several = found.len() > 1;
    if let Some(port) = port.filter(|port| several && *port != 0) {
        let message = format!("{} shares cannot have one port {port} of this machine", found.len());
        let hint = "Let each have a free port with --port 0, or share them as one with `mcpm profile share`";
        return Err(CliError::usage(message).with_hint(hint));
    }
    let names = relay.names(found.len())?;
    let port = port.or(local_only.then_some(if several { 0 } else { PORT }));
    let place = if local_only { None } else { Some(Arc::new(relay.spec(&paths)?)) };
    let gateway = Arc::new(servers.apply(GatewayOptions {
        start_timeout: relay.timeout(),
        isolation,
        ..GatewayOptions::default()
    }));
    let specs = found.into_iter().zip(names).map(|((target, serving), name)| ShareSpec {
        target,
        source: Source::Mcp(serving.into()),
        relay: place.clone(),
        name,
        access: access.access(),
        expires: relay.expires,
        local: port.map(|port| Box::new(Local { host: "127.0.0.1".to_owned(), port })),
        patience: relay.patience(),
        gateway: Arc::clone(&gateway),
    });
    background::follow(specs.collect(), &detach, &paths, context)
}

/// Refuses to share the same thing twice at once: both would want one name.
pub(super) fn no_twins(targets: &[ShareTarget]) -> Result<(), CliError> {
    match twin(targets) {
        Some(target) => Err(CliError::usage(format!("{target} is named twice")).with_hint(
            "Name each once; a second share of it needs a process and a --subdomain of its own",
        )),
        None => Ok(()),
    }
}

fn twin<T: PartialEq>(items: &[T]) -> Option<&T> {
    items.iter().enumerate().find(|(at, item)| items[..*at].contains(item)).map(|(_, item)| item)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::testing::Home;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(words: &str) -> Result<Args, clap::Error> {
        Line::try_parse_from(format!("share {words}").split(' ')).map(|line| line.args)
    }

    #[test]
    fn an_address_without_scheme_is_https_unless_asked_otherwise() {
        let origin = |words: &str| parse(words).unwrap().options.relay.address().unwrap().origin();
        assert_eq!(origin("time"), "https://share.mcpm.sh");
        assert_eq!(origin("time --address relay.example:6276"), "https://relay.example:6276");
        assert_eq!(origin("time --address relay.example --http"), "http://relay.example");
        assert_eq!(origin("time --address https://relay.example --http"), "https://relay.example");
        assert_eq!(origin("time --address http://127.0.0.1:8080"), "http://127.0.0.1:8080");
    }

    #[test]
    fn a_bad_address_is_a_usage_error() {
        let args = parse("time --address ftp://x").unwrap();
        assert_eq!(args.options.relay.address().unwrap_err().exit(), 2);
    }

    #[test]
    fn a_ca_file_that_could_not_be_checked_is_a_usage_error() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let spec = |words: &str| parse(words).unwrap().options.relay.spec(&paths);
        let error = spec("time --address http://relay.example --ca x.pem").unwrap_err();
        assert_eq!(error.exit(), 2);
        assert!(error.hint().unwrap().contains("https://relay.example"));
        assert!(spec("time --address relay.example --ca x.pem").unwrap().credential.ca.is_some());
    }

    #[test]
    fn a_ca_file_beats_a_certificate_that_was_pinned_at_login() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let fingerprint = Change::Set("ab".repeat(32));
        let pin = RelayChange { fingerprint, ..RelayChange::default() };
        RelayStore::open(&paths).unwrap().login("https://relay.example", pin).unwrap();
        let trust = |words: &str| {
            let credential = parse(words).unwrap().options.relay.spec(&paths).unwrap().credential;
            (credential.ca, credential.fingerprint)
        };
        assert!(trust("time --address relay.example").1.is_some());
        let said = trust("time --address relay.example --ca x.pem");
        assert_eq!(said, (Some("x.pem".into()), None));
        assert!(trust("time --address relay.example").1.is_some());
    }

    #[test]
    fn visitors_need_a_token_unless_asked_otherwise() {
        let access = |words: &str| parse(words).unwrap().options.access.access();
        assert_eq!(access("time"), Access::Token);
        assert_eq!(access("time --auth"), Access::Token);
        assert_eq!(access("time --link"), Access::Link);
        assert_eq!(access("time --no-auth"), Access::Public);
        assert!(parse("time --auth --no-auth").is_err());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for words in [
            "time --local-only --subdomain x",
            "time --subdomain Upper",
            "time --expires soon",
            "time --expires 0s",
            "time --expires 500ms",
            "time --port 65536",
            "time --connections 9",
            "time --timeout 0",
        ] {
            assert!(parse(words).is_err(), "{words}");
        }
    }

    #[test]
    fn retries_take_the_place_of_the_time_out() {
        let patience = |words: &str| parse(words).unwrap().options.relay.patience();
        assert!(matches!(patience("time"), Patience::Time(time) if time.as_secs() == 30));
        assert!(matches!(patience("time --retry 3"), Patience::Retries(3)));
        assert!(matches!(patience("time --retry 0"), Patience::Retries(0)));
    }

    #[test]
    fn several_shares_have_a_name_each_or_none() {
        let names = |words: &str, shares| {
            let names = parse(words).unwrap().options.relay.names(shares)?;
            Ok::<_, CliError>(names.iter().flatten().map(Name::to_string).collect::<Vec<_>>())
        };
        assert_eq!(names("a b", 2).unwrap(), [""; 0]);
        assert_eq!(names("a b --subdomain x,y", 2).unwrap(), ["x", "y"]);
        assert_eq!(names("a b --subdomain x --subdomain y", 2).unwrap(), ["x", "y"]);
        for words in ["a b --subdomain x", "a b --subdomain x,y,z", "a b --subdomain x,x"] {
            let error = names(words, 2).unwrap_err();
            assert_eq!(error.exit(), 2, "{words}");
            assert!(error.hint().is_some(), "{words}");
        }
        assert!(names("a --subdomain x,y", 1).is_err());
    }

    #[test]
    fn what_several_shares_cannot_have_is_refused_before_anything_is_shared() {
        let home = Home::new();
        home.write("servers.json", r#"{"a": {"command": "x"}, "b": {"command": "x"}}"#);
        for words in [&["share", "a", "a"][..], &["share", "a", "b", "--port", "9"]] {
            let error = home.run(words).unwrap_err();
            assert_eq!((error.exit(), error.hint().is_some()), (2, true), "{words:?}");
        }
        let error = home.run(&["share", "a", "c"]).unwrap_err();
        assert_eq!(error.to_json()["code"], "unknown_server");
        assert_eq!(home.run(&["tunnel", "80", "80"]).unwrap_err().exit(), 2);
        assert!(!home.paths.shares().exists());
    }
}
