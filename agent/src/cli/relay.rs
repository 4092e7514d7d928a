//! `mcpm relay`: what we show to which relay. Secrets never come from the command line.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use mcpm_shared::assertion::Proof;
use mcpm_shared::token::{Digest, Token};
use serde_json::{Value, json};

use super::error::CliError;
use super::{Context, JsonArg, Threads, block_on};
use crate::credentials::{RelayCredential, RelayStore};
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
#[derive(Debug, clap::Args)]
struct Login {
    /// The relay: HOST, HOST:PORT or a URL
    address: RelayAddress,
    #[command(flatten)]
    source: SecretSource,
    /// Trust the certificates in this PEM file as well
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Trust exactly the certificate with this SHA-256 fingerprint, in hexadecimal
    #[arg(long, value_name = "SHA256", value_parser = fingerprint, conflicts_with = "ca")]
    fingerprint: Option<Digest>,
    /// Look at the relay's certificate, show its fingerprint and ask whether to trust exactly that
    #[arg(long, conflicts_with_all = ["ca", "fingerprint"])]
    pin: bool,
}

#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct SecretSource {
    /// Read the team's shared secret from a file
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Read a token that the relay issued from a file
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Read the team's shared secret from stdin
    #[arg(long)]
    secret_stdin: bool,
    /// Read a token that the relay issued from stdin
    #[arg(long)]
    token_stdin: bool,
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
    let Login { address, source, ca, fingerprint, pin } = login;
    // Opened first: a file that we cannot read must not cost the user a prompt.
    let mut store = RelayStore::open(&context.paths()?)?;
    let fingerprint = match fingerprint {
        None if pin => Some(ask_to_pin(&address, context)?),
        given => given,
    };
    let pinned = ca.is_some() || fingerprint.is_some();
    let ca = ca.map(|ca| absolute(&ca)).transpose()?;
    let proof = proof(source, &address, pinned, context)?;
    let what = describe(&proof);
    let fingerprint = fingerprint.map(|fingerprint| fingerprint.to_string());
    store.login(&address.origin(), RelayCredential { proof, ca, fingerprint })?;
    context.ui.note(format!("Kept for {address}: {what}."));
    Ok(())
}

/// A relative path would mean something else in another folder tomorrow.
fn absolute(path: &Path) -> Result<PathBuf, CliError> {
    std::fs::canonicalize(path).map_err(|error| cannot_read(path, &error))
}

fn cannot_read(path: &Path, error: &std::io::Error) -> CliError {
    CliError::user("file", format!("cannot read {}: {error}", path.display()))
}

fn proof(
    source: SecretSource,
    address: &RelayAddress,
    pinned: bool,
    context: &Context,
) -> Result<Proof, CliError> {
    let SecretSource { secret_file, token_file, secret_stdin, token_stdin } = source;
    if let Some(path) = secret_file {
        return Ok(Proof::Secret(from_file(&path)?));
    }
    if let Some(path) = token_file {
        return Ok(Proof::Token(from_file(&path)?));
    }
    if secret_stdin {
        return Ok(Proof::Secret(from_stdin()?));
    }
    if token_stdin {
        return Ok(Proof::Token(from_stdin()?));
    }
    if context.ui.may_ask() {
        let asked = context.ui.ask_secret(&format!("Secret or token for {address}"), pinned)?;
        return Ok(classify(asked));
    }
    if pinned {
        return Ok(Proof::None);
    }
    Err(CliError::usage("there is nobody to ask for the secret").with_hint(
        "Say where it is with --secret-stdin, --token-stdin, --secret-file or --token-file",
    ))
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

fn from_file(path: &Path) -> Result<Token, CliError> {
    let text = std::fs::read_to_string(path).map_err(|error| cannot_read(path, &error))?;
    not_empty(Token::new(text))
}

fn from_stdin() -> Result<Token, CliError> {
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

fn describe(proof: &Proof) -> &'static str {
    match proof {
        Proof::None => "no secret",
        Proof::Secret(_) => "a shared secret",
        Proof::Token(_) => "a token",
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
    for (origin, RelayCredential { proof, ca, fingerprint }) in store.iter() {
        let mut line = format!("{origin}  {}", describe(proof));
        if let Some(ca) = ca {
            line.push_str(&format!(", certificates of {}", ca.display()));
        }
        if let Some(fingerprint) = fingerprint {
            line.push_str(&format!(", certificate {fingerprint}"));
        }
        ui.result(line);
    }
    Ok(())
}

fn to_json((origin, credential): (&str, &RelayCredential)) -> Value {
    let kind = match credential.proof {
        Proof::None => "none",
        Proof::Secret(_) => "secret",
        Proof::Token(_) => "token",
    };
    json!({
        "relay": origin,
        "kind": kind,
        "ca": credential.ca,
        "fingerprint": credential.fingerprint,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_typed_is_told_apart_by_its_form() {
        assert!(matches!(classify(Token::new("hunter2")), Proof::Secret(_)));
        assert!(matches!(classify(Token::new("a.b.c")), Proof::Secret(_)));
        assert!(matches!(classify(Token::new("eyJhbGciOi.eyJzdWIi.c2ln")), Proof::Token(_)));
        assert!(matches!(classify(Token::new("\n")), Proof::None));
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
        let credential =
            RelayCredential { proof: Proof::Secret(Token::new("hunter2")), ..Default::default() };
        assert!(!to_json(("https://r.example", &credential)).to_string().contains("hunter2"));
    }
}
