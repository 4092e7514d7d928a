//! `mcpm relay`: what we show to which relay. Secrets never come from the command line.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use mcpm_shared::assertion::Proof;
use mcpm_shared::token::{Digest, Token};
use serde_json::{Value, json};

use super::error::CliError;
use super::{Context, JsonArg, Threads, block_on};
use crate::credentials::{
    Change, ProofSource, RelayChange, RelayCredential, RelayStore, TokenCommand,
};
use crate::tunnel::{RelayAddress, fetch_fingerprint, parse_fingerprint};

/// Keep credentials for relays
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Login(Login),
    /// List relays that have a credential, without the secrets
    Ls {
        #[command(flatten)]
        json: JsonArg,
    },
    /// Forget the credential for a relay
    Logout {
        /// The relay: HOST, HOST:PORT or a URL
        address: RelayAddress,
    },
}

/// Keep the secret or token for a relay, asking for it unless an option says where it is
///
/// What no option speaks of stays as an earlier login left it.
#[derive(Debug, clap::Args)]
struct Login {
    /// The relay: HOST, HOST:PORT or a URL
    address: RelayAddress,
    #[command(flatten)]
    source: SecretSource,
    /// Trust the certificates in this PEM file as well
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Forget the PEM file of an earlier login
    #[arg(long, conflicts_with = "ca")]
    no_ca: bool,
    /// Trust exactly the certificate with this SHA-256 fingerprint, in hexadecimal
    #[arg(long, value_name = "SHA256", value_parser = fingerprint, conflicts_with = "ca")]
    fingerprint: Option<Digest>,
    /// Look at the relay's certificate, show its fingerprint and ask whether to trust exactly that
    #[arg(long, conflicts_with_all = ["ca", "fingerprint"])]
    pin: bool,
    /// Forget the fingerprint of an earlier login
    #[arg(long, conflicts_with_all = ["fingerprint", "pin"])]
    no_fingerprint: bool,
}

#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct SecretSource {
    /// Read the team's shared secret from a file
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Read a token that the relay or its identity provider issued from a file
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Run this for a token each time that we connect: for identity providers, whose tokens end soon
    #[arg(long, value_name = "COMMAND", value_parser = token_command)]
    token_command: Option<TokenCommand>,
    /// Read the team's shared secret from stdin
    #[arg(long)]
    secret_stdin: bool,
    /// Read a token that the relay or its identity provider issued from stdin
    #[arg(long)]
    token_stdin: bool,
    /// Show the relay no secret and no token, and forget those of an earlier login
    #[arg(long)]
    no_secret: bool,
}

impl Args {
    pub(super) fn json(&self) -> bool {
        matches!(self.command, Command::Ls { json: JsonArg { json: true } })
    }
}

pub(super) fn run(args: Args, context: &Context) -> Result<(), CliError> {
    match args.command {
        Command::Login(login) => self::login(login, context),
        Command::Ls { .. } => list(context),
        Command::Logout { address } => {
            RelayStore::open(&context.paths()?)?.logout(&address.origin())?;
            context.ui.note(format!("Forgot the credential for {address}."));
            Ok(())
        }
    }
}

fn login(login: Login, context: &Context) -> Result<(), CliError> {
    let Login { address, source, ca, no_ca, fingerprint, pin, no_fingerprint } = login;
    for (option, given) in
        [("--ca", ca.is_some()), ("--fingerprint", fingerprint.is_some()), ("--pin", pin)]
    {
        if given {
            needs_tls(option, &address)?;
        }
    }
    // Opened first: a file that we cannot read must not cost the user a prompt.
    let mut store = RelayStore::open(&context.paths()?)?;
    let origin = address.origin();
    let kept = store.get(&origin).cloned().unwrap_or_default();
    let ca = ca.map(|ca| absolute(&ca)).transpose()?;
    let fingerprint = match fingerprint {
        None if pin => Some(ask_to_pin(&address, context)?),
        given => given,
    };
    let mut change = RelayChange {
        proof: None,
        ca: changed(ca, no_ca),
        fingerprint: changed(fingerprint.map(|found| found.to_string()), no_fingerprint),
    };
    let trust = !matches!((&change.ca, &change.fingerprint), (Change::Keep, Change::Keep));
    // Tried first for the same reason.
    let becomes = change.clone().apply(&origin, kept)?;
    change.proof = proof(source, &address, &becomes.proof, trust, context)?;
    store.login(&origin, change)?;
    if let Some(kept) = store.get(&origin) {
        context.ui.note(format!("Kept for {address}: {}.", in_words(kept)));
    }
    Ok(())
}

fn changed<T>(new: Option<T>, clear: bool) -> Change<T> {
    match new {
        Some(new) => Change::Set(new),
        None if clear => Change::Clear,
        None => Change::Keep,
    }
}

/// Refuses an option about certificates for a relay that shows none: it would never be checked.
pub(super) fn needs_tls(option: &str, address: &RelayAddress) -> Result<(), CliError> {
    if address.is_https() {
        return Ok(());
    }
    let message = format!("{option} cannot be checked at {address}, which has no certificate");
    let hint = format!("Write https://{}, if the relay speaks TLS there", address.authority());
    Err(CliError::usage(message).with_hint(hint))
}

/// A relative path would mean something else in another folder tomorrow.
fn absolute(path: &Path) -> Result<PathBuf, CliError> {
    std::fs::canonicalize(path).map_err(|error| cannot_read(path, &error))
}

fn cannot_read(path: &Path, error: &std::io::Error) -> CliError {
    CliError::user("file", format!("cannot read {}: {error}", path.display()))
}

/// Returns the proof to keep from now on; none to leave what is `kept`. A login about `trust` in a
/// certificate alone may go without.
fn proof(
    source: SecretSource,
    address: &RelayAddress,
    kept: &ProofSource,
    trust: bool,
    context: &Context,
) -> Result<Option<ProofSource>, CliError> {
    if let Some(given) = source.read()? {
        return Ok(Some(given));
    }
    let is_kept = !kept.is_none();
    if trust && is_kept {
        return Ok(None);
    }
    if context.ui.may_ask() {
        let stays = if is_kept { " [empty: the one that is kept]" } else { "" };
        let prompt = format!("Secret or token for {address}{stays}");
        let asked = context.ui.ask_secret(&prompt, trust || is_kept)?;
        return Ok(Some(classify(asked).into()).filter(|proof: &ProofSource| !proof.is_none()));
    }
    if trust {
        return Ok(None);
    }
    Err(CliError::usage("there is nobody to ask for the secret").with_hint(
        "Say where it is with --secret-stdin, --token-stdin, --secret-file, --token-file or \
         --token-command",
    ))
}

impl SecretSource {
    /// Reads what an option names; none when there is no option.
    fn read(self) -> Result<Option<ProofSource>, CliError> {
        let Self { secret_file, token_file, token_command, secret_stdin, token_stdin, no_secret } =
            self;
        if let Some(command) = token_command {
            return Ok(Some(ProofSource::Command(command)));
        }
        let proof = if let Some(path) = secret_file {
            Proof::Secret(from_file(&path)?)
        } else if let Some(path) = token_file {
            Proof::Token(from_file(&path)?)
        } else if secret_stdin {
            Proof::Secret(from_stdin()?)
        } else if token_stdin {
            Proof::Token(from_stdin()?)
        } else if no_secret {
            Proof::None
        } else {
            return Ok(None);
        };
        Ok(Some(proof.into()))
    }
}

/// Tells the two apart by form: what relays issue are JWTs, three parts of base64url (RFC 7519 §3).
fn classify(asked: Token) -> Proof {
    let text = asked.expose();
    if text.is_empty() {
        Proof::None
    } else if text.starts_with("eyJ") && text.split('.').count() == 3 {
        Proof::Token(asked)
    } else {
        Proof::Secret(asked)
    }
}

pub(super) fn from_file(path: &Path) -> Result<Token, CliError> {
    let text = std::fs::read_to_string(path).map_err(|error| cannot_read(path, &error))?;
    not_empty(Token::new(text))
}

pub(super) fn from_stdin() -> Result<Token, CliError> {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| CliError::user("file", format!("cannot read stdin: {error}")))?;
    not_empty(Token::new(text))
}

fn not_empty(token: Token) -> Result<Token, CliError> {
    if token.expose().is_empty() {
        return Err(CliError::user("empty_secret", "the secret is empty"));
    }
    Ok(token)
}

fn token_command(line: &str) -> Result<TokenCommand, &'static str> {
    TokenCommand::new(line).ok_or("the command is empty")
}

/// Takes colons and capitals, as other tools print fingerprints.
fn fingerprint(text: &str) -> Result<Digest, &'static str> {
    parse_fingerprint(text).ok_or("a fingerprint is 64 hexadecimal digits")
}

/// Asks the user to compare the certificate's fingerprint with what the operator says.
fn ask_to_pin(address: &RelayAddress, context: &Context) -> Result<Digest, CliError> {
    if !context.ui.may_ask() {
        return Err(CliError::usage("there is nobody to ask whether to trust the certificate")
            .with_hint("Give its fingerprint with --fingerprint"));
    }
    let proxy = super::env::proxy();
    let found = block_on(Threads::One, async {
        fetch_fingerprint(address, &proxy).await.map_err(CliError::from)
    })?;
    context.ui.note(format!("{address} shows the certificate with SHA-256 fingerprint\n  {found}"));
    if !context.ui.confirm("Does its operator name the same, and do you trust it?")? {
        return Err(CliError::user("not_trusted", "the certificate is not trusted"));
    }
    Ok(found)
}

fn describe(proof: &ProofSource) -> String {
    match proof {
        ProofSource::Kept(Proof::None) => "no secret".to_owned(),
        ProofSource::Kept(Proof::Secret(_)) => "a shared secret".to_owned(),
        ProofSource::Kept(Proof::Token(_)) => "a token".to_owned(),
        ProofSource::Command(command) => format!("the token that `{}` prints", command.as_str()),
    }
}

fn list(context: &Context) -> Result<(), CliError> {
    let store = RelayStore::open(&context.paths()?)?;
    let ui = context.ui;
    if ui.is_json() {
        ui.json(&store.iter().map(to_json).collect::<Value>());
        return Ok(());
    }
    if store.iter().next().is_none() {
        ui.note("No relay has a credential.");
    }
    for (origin, credential) in store.iter() {
        ui.result(format!("{origin}  {}", in_words(credential)));
    }
    Ok(())
}

/// Says what is kept for a relay, without the secret.
fn in_words(RelayCredential { proof, ca, fingerprint }: &RelayCredential) -> String {
    let mut words = describe(proof);
    if let Some(ca) = ca {
        words.push_str(&format!(", certificates of {}", ca.display()));
    }
    if let Some(fingerprint) = fingerprint {
        words.push_str(&format!(", certificate {fingerprint}"));
    }
    words
}

fn to_json((origin, credential): (&str, &RelayCredential)) -> Value {
    let (kind, command) = match &credential.proof {
        ProofSource::Kept(Proof::None) => ("none", None),
        ProofSource::Kept(Proof::Secret(_)) => ("secret", None),
        ProofSource::Kept(Proof::Token(_)) => ("token", None),
        ProofSource::Command(command) => ("command", Some(command.as_str())),
    };
    json!({
        "relay": origin,
        "kind": kind,
        "command": command,
        "ca": credential.ca,
        "fingerprint": credential.fingerprint,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn what_was_typed_is_told_apart_by_its_form() {
        assert!(matches!(classify(Token::new("hunter2")), Proof::Secret(_)));
        assert!(matches!(classify(Token::new("a.b.c")), Proof::Secret(_)));
        assert!(matches!(classify(Token::new("eyJhbGciOi.eyJzdWIi.c2ln")), Proof::Token(_)));
        assert!(matches!(classify(Token::new("\n")), Proof::None));
    }

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        login: Login,
    }

    /// Logs in without anybody to ask, and returns what is kept then.
    fn log_in(dir: &Path, words: &str) -> Result<RelayCredential, CliError> {
        let line = Line::try_parse_from(format!("login {words}").split(' '));
        let login = line.map_err(|error| CliError::usage(error.to_string()))?.login;
        let origin = login.address.origin();
        let ui = crate::cli::ui::Ui::new(true, false);
        self::login(login, &Context { ui, config_dir: Some(dir.to_owned()) })?;
        let store = RelayStore::open(&crate::fs::Paths::new(dir))?;
        Ok(store.get(&origin).cloned().unwrap_or_default())
    }

    #[test]
    fn a_login_about_one_thing_keeps_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let (secret, ca) = (dir.path().join("secret"), dir.path().join("ca.pem"));
        std::fs::write(&secret, "hunter2").unwrap();
        std::fs::write(&ca, "").unwrap();
        let pin = "ab".repeat(32);
        let log_in = |words: &str| log_in(dir.path(), &format!("r.example {words}"));
        log_in(&format!("--fingerprint {pin}")).unwrap();
        let kept = log_in(&format!("--secret-file {}", secret.display())).unwrap();
        assert_eq!(kept.fingerprint.as_deref(), Some(pin.as_str()));
        let kept = log_in(&format!("--ca {} --no-fingerprint", ca.display())).unwrap();
        assert!(kept.fingerprint.is_none() && kept.ca.is_some());
        assert!(matches!(kept.proof, ProofSource::Kept(Proof::Secret(_))));
        let kept = log_in("--token-command id-token").unwrap();
        assert!(kept.proof.renews() && in_words(&kept).contains("`id-token`"));
        assert!(log_in(&format!("--fingerprint {pin}")).unwrap_err().hint().is_some());
        let kept = log_in("--no-secret").unwrap();
        assert!(kept.proof.is_none());
        assert!(kept.ca.is_some());
        assert_eq!(log_in("--no-ca").unwrap().ca, None);
    }

    #[test]
    fn certificates_of_a_relay_without_tls_are_a_usage_error() {
        let dir = tempfile::tempdir().unwrap();
        let pin = format!("--fingerprint {}", "ab".repeat(32));
        for address in ["http://r.example", "localhost:8080"] {
            for option in ["--ca x.pem", "--pin", &pin] {
                let error = log_in(dir.path(), &format!("{address} {option}")).unwrap_err();
                assert_eq!(error.exit(), 2, "{address} {option}");
                assert!(error.hint().unwrap().contains("https://"), "{address} {option}");
            }
        }
    }

    #[test]
    fn fingerprints_are_taken_as_other_tools_print_them() {
        let plain = "ab".repeat(32);
        let colons = vec!["AB"; 32].join(":");
        assert_eq!(fingerprint(&colons).unwrap().to_string(), plain);
        assert_eq!(fingerprint(&plain).unwrap().to_string(), plain);
        assert!(fingerprint("abcd").is_err());
        assert!(fingerprint(&"zz".repeat(32)).is_err());
    }

    #[test]
    fn lists_never_show_a_secret() {
        let credential = RelayCredential {
            proof: Proof::Secret(Token::new("hunter2")).into(),
            ..Default::default()
        };
        assert!(!to_json(("https://r.example", &credential)).to_string().contains("hunter2"));
    }
}
