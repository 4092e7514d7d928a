//! `mcpm login` and `mcpm logout`: logins to remote servers. Secrets never come from the command line.

use std::path::PathBuf;
use std::process::ExitCode;

use mcpm_shared::signal::Signal;
use mcpm_shared::token::Token;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _};
use tokio_util::sync::CancellationToken;
use url::{Host, Url};

use super::error::CliError;
use super::time::{ago_or_in, unix_now};
use super::ui::Ui;
use super::{Context, JsonArg, Threads, block_on, browser, relay, run};
use crate::app::login::{LoginError, LoginSpec, login};
use crate::config::GlobalConfigManager;
use crate::oauth::{OauthError, Record, Store};

/// The longest input that is looked through for a URL, in bytes.
const MAX_PASTED: u64 = 64 * 1024;

/// Log in to a remote server with a browser
///
/// The tokens are kept in the folder of mcpm's files, and are renewed by themselves for as long as
/// the server allows.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The server, as `mcpm ls` shows it
    server: String,
    /// Ask for these scopes instead of those that the server suggests
    #[arg(long, value_name = "SCOPE", value_delimiter = ' ')]
    scope: Vec<String>,
    /// Log in as this OAuth client, which the provider knows; its id may be a URL [default: register
    /// a new one, or the client of the last login if it was given]
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    #[command(flatten)]
    secret: SecretSource,
    /// Have the browser sent to this `http` address of this machine at the end, as registered with
    /// the provider [default: a free port of 127.0.0.1]
    #[arg(long, value_name = "URL")]
    redirect_uri: Option<Url>,
    /// Only show the URL; the one that the browser ends at may be pasted here
    #[arg(long)]
    no_browser: bool,
    /// Let the server send mcpm to a login in a private network that the server is not in
    #[arg(long)]
    allow_private: bool,
    #[command(flatten)]
    json: JsonArg,
}

#[derive(Debug, clap::Args)]
#[group(multiple = false, requires = "client_id")]
struct SecretSource {
    /// Ask for the secret of the OAuth client
    #[arg(long)]
    ask_secret: bool,
    /// Read the secret of the OAuth client from a file
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Read the secret of the OAuth client from stdin
    #[arg(long)]
    secret_stdin: bool,
}

/// Forget the login to a remote server
#[derive(Debug, clap::Args)]
pub(super) struct LogoutArgs {
    /// The server, as `mcpm ls` shows it
    server: String,
    #[command(flatten)]
    json: JsonArg,
}

impl Args {
    pub(super) fn json(&self) -> bool {
        self.json.json
    }
}

impl LogoutArgs {
    pub(super) fn json(&self) -> bool {
        self.json.json
    }
}

pub(super) fn run(args: Args, context: &Context) -> Result<ExitCode, CliError> {
    let paths = context.paths()?;
    let ui = context.ui;
    let server = GlobalConfigManager::open(&paths)?.server(&args.server)?;
    let secret = args.secret.read(ui)?;
    let spec = LoginSpec {
        server,
        client: args.client_id.map(|id| (id, secret)),
        scopes: args.scope.into_iter().filter(|scope| !scope.is_empty()).collect(),
        redirect_uri: args.redirect_uri,
        allow_private: args.allow_private,
    };
    let by_hand = args.no_browser || !browser::is_there();
    let from_stdin = by_hand && !args.secret.secret_stdin && (args.no_browser || ui.may_ask());
    block_on(Threads::One, async {
        let stop = CancellationToken::new();
        let pasted = async { if from_stdin { pasted_line().await } else { None } };
        let visit = |url: &str| show(ui, url, by_hand, from_stdin);
        let work = login(spec, &paths, visit, pasted, stop.clone());
        until_signal(work, stop, ui).await
    })
}

/// Waits for a login, and gives it up at the first signal; the second one waits for nothing.
async fn until_signal(
    work: impl Future<Output = Result<Record, LoginError>>,
    stop: CancellationToken,
    ui: Ui,
) -> Result<ExitCode, CliError> {
    let mut signals = run::listen()?;
    let mut work = std::pin::pin!(work);
    let mut ended_by: Option<Signal> = None;
    loop {
        tokio::select! {
            outcome = work.as_mut() => match (outcome, ended_by) {
                (Err(error @ LoginError::Stopped), Some(signal)) => {
                    ui.error(&error.into());
                    return Ok(ExitCode::from(signal.exit_code()));
                }
                (outcome, _) => {
                    tell(ui, &outcome?);
                    return Ok(ExitCode::SUCCESS);
                }
            },
            signal = signals.next() => {
                if ended_by.is_some() {
                    return Ok(ExitCode::from(signal.exit_code()));
                }
                ended_by = Some(signal);
                stop.cancel();
            }
        }
    }
}

impl SecretSource {
    fn read(&self, ui: Ui) -> Result<Option<Token>, CliError> {
        if let Some(path) = &self.secret_file {
            return relay::from_file(path).map(Some);
        }
        if self.secret_stdin {
            return relay::from_stdin().map(Some);
        }
        if !self.ask_secret {
            return Ok(None);
        }
        if !ui.may_ask() {
            return Err(CliError::usage("there is nobody to ask for the secret")
                .with_hint("Say where it is with --secret-file or --secret-stdin"));
        }
        ui.ask_secret("Secret of the OAuth client", false).map(Some)
    }
}

/// Returns the first line with something in it that a person pastes.
async fn pasted_line() -> Option<String> {
    let stdin = tokio::io::stdin().take(MAX_PASTED);
    let mut lines = tokio::io::BufReader::new(stdin).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if !line.trim().is_empty() {
            return Some(line);
        }
    }
    None
}

/// Tells a person where to log in. It goes to stderr in every mode: machines get the result only.
fn show(ui: Ui, url: &str, by_hand: bool, from_stdin: bool) {
    let person = ui.for_people();
    if by_hand {
        person.note(format!("Open this URL in a browser and log in:\n\n  {url}\n"));
    } else {
        person
            .note(format!("Opening the browser. If it stays closed, open this URL:\n\n  {url}\n"));
        browser::open(url);
    }
    if from_stdin {
        person.note(
            "If the browser then fails to reach 127.0.0.1, paste the URL that it shows here.",
        );
    }
    person.note("Waiting for the login; press Ctrl-C to give up.");
}

fn tell(ui: Ui, record: &Record) {
    if is_readable_on_the_way(&record.url) {
        ui.warning(format!("{} is plain HTTP: others may read the tokens", record.url));
    }
    if ui.is_json() {
        ui.json(&to_json(record));
        return;
    }
    let mut line = format!("Logged in to `{}`", record.server);
    if !record.scopes.is_empty() {
        line.push_str(&format!(" for {}", record.scopes.join(" ")));
    }
    let now = unix_now();
    line.push_str(&match (record.expires_at, &record.refresh_token) {
        (None, _) => ".".to_owned(),
        (Some(_), Some(_)) => "; the login is renewed by itself.".to_owned(),
        (Some(end), None) => format!("; log in again {}.", ago_or_in(end, now)),
    });
    ui.note(line);
}

fn is_readable_on_the_way(url: &str) -> bool {
    let Ok(url) = Url::parse(url) else { return false };
    let here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    url.scheme() == "http" && !here
}

/// The form for machines, without the secrets.
fn to_json(record: &Record) -> Value {
    json!({
        "server": record.server,
        "url": record.url,
        "issuer": record.issuer,
        "client_id": record.client.id,
        "scopes": record.scopes,
        "expires_at": record.expires_at,
        "renewable": record.refresh_token.is_some(),
    })
}

pub(super) fn logout(args: &LogoutArgs, context: &Context) -> Result<(), CliError> {
    let LogoutArgs { server, json: _ } = args;
    let record = Store::open(&context.paths()?).forget(server)?;
    let record = record.ok_or_else(|| OauthError::NotLoggedIn(server.clone()))?;
    let ui = context.ui;
    if ui.is_json() {
        ui.json(&json!({ "server": record.server, "url": record.url }));
    } else {
        ui.note(format!("Forgot the login to `{server}`."));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::fs::Paths;
    use crate::oauth::testing::record;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(words: &str) -> Result<Args, clap::Error> {
        Line::try_parse_from(format!("login far {words}").split_whitespace()).map(|line| line.args)
    }

    fn context(dir: &std::path::Path) -> Context {
        Context { ui: Ui::new(true, false), config_dir: Some(dir.to_owned()) }
    }

    #[test]
    fn scopes_may_stand_in_one_word_or_in_several() {
        assert_eq!(parse("--scope read --scope write").unwrap().scope, ["read", "write"]);
        let line = Line::try_parse_from(["login", "far", "--scope", "read write"]).unwrap();
        assert_eq!(line.args.scope, ["read", "write"]);
    }

    #[test]
    fn a_secret_comes_with_its_client_and_never_from_the_command_line() {
        assert!(parse("--secret-file x").is_err());
        assert!(parse("--client-id a --secret-file x").is_ok());
        assert!(parse("--client-id a --secret-file x --ask-secret").is_err());
        assert!(parse("--client-id a --secret x").is_err());
        assert!(parse("--client-id a --ask-secret=x").is_err());
    }

    #[test]
    fn what_is_not_remote_or_has_a_header_of_its_own_is_said_to_be_so() {
        let dir = tempfile::tempdir().unwrap();
        let servers = r#"{"near": {"command": "x"}, "keyed":
            {"url": "https://x.example/mcp", "headers": {"authorization": "Bearer t"}}}"#;
        std::fs::write(Paths::new(dir.path()).servers(), servers).unwrap();
        let fail = |name: &str| {
            let args = Args { server: name.to_owned(), ..parse("--no-browser").unwrap() };
            run(args, &context(dir.path())).unwrap_err()
        };
        assert_eq!(fail("near").to_json()["code"], "not_remote");
        assert_eq!(fail("keyed").to_json()["code"], "own_header");
        assert_eq!(fail("none").to_json()["code"], "unknown_server");
    }

    #[test]
    fn a_logout_forgets_once_and_then_says_that_there_is_no_login() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Paths::new(dir.path()));
        store.keep(&record("far", "https://x.example/mcp")).unwrap();
        let args = LogoutArgs { server: "far".to_owned(), json: JsonArg { json: true } };
        logout(&args, &context(dir.path())).unwrap();
        let error = logout(&args, &context(dir.path())).unwrap_err();
        assert_eq!(error.to_json()["code"], "not_logged_in");
        assert!(error.hint().unwrap().contains("mcpm login far"));
    }

    #[test]
    fn what_machines_get_has_no_secret() {
        let mut record = record("far", "https://x.example/mcp");
        record.client.secret = Some(Token::new("s3cret"));
        record.refresh_token = Some(Token::new("s3cret"));
        let text = to_json(&record).to_string();
        assert!(!text.contains("s3cret") && !text.contains("access-0"), "{text}");
    }

    #[test]
    fn plain_http_is_fine_on_this_machine_only() {
        assert!(is_readable_on_the_way("http://x.example/mcp"));
        for fine in ["https://x.example/mcp", "http://localhost:1/mcp", "http://127.0.0.1/mcp"] {
            assert!(!is_readable_on_the_way(fine), "{fine}");
        }
    }
}
