//! The proof for one dial: what is kept, or what a command prints now.

use std::process::Stdio;
use std::time::Duration;

use mcpm_shared::assertion::Proof;
use mcpm_shared::token::Token;
use process_wrap::tokio::{CommandWrap, KillOnDrop};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::error::TunnelError;
use crate::credentials::{ProofSource, TokenCommand};

/// How long a command may take: some ask an identity provider, none asks a person.
const PATIENCE: Duration = Duration::from_secs(30);
/// How much of its output is read: an assertion with a longer token finds no relay.
const MAX_TOKEN: u64 = 8 * 1024;
/// How much of what it complains about is told.
const MAX_COMPLAINT: usize = 200;

/// Returns what to show now. Cancel-safe: a command that is not waited for is killed.
pub(super) async fn present(source: &ProofSource) -> Result<Proof, TunnelError> {
    match source {
        ProofSource::Kept(proof) => Ok(proof.clone()),
        ProofSource::Command(command) => match tokio::time::timeout(PATIENCE, run(command)).await {
            Ok(token) => token.map(Proof::Token).map_err(TunnelError::TokenCommand),
            Err(_) => Err(TunnelError::TokenCommand(format!(
                "it did not end within {} seconds",
                PATIENCE.as_secs()
            ))),
        },
    }
}

async fn run(command: &TokenCommand) -> Result<Token, String> {
    let (shell, flag) = if cfg!(windows) { ("cmd", "/C") } else { ("sh", "-c") };
    let mut wrap = CommandWrap::with_new(shell, |process| {
        process.arg(flag).arg(command.as_str());
        process.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    });
    wrap.wrap(KillOnDrop);
    // What the shell starts ends with it.
    #[cfg(unix)]
    wrap.wrap(process_wrap::tokio::ProcessGroup::leader());
    #[cfg(windows)]
    wrap.wrap(process_wrap::tokio::JobObject);
    let mut child = wrap.spawn().map_err(|error| format!("cannot start {shell}: {error}"))?;
    let (stdout, stderr) = (child.stdout().take(), child.stderr().take());
    let (printed, complaint) = tokio::join!(read(stdout), read(stderr));
    let status = child.wait().await.map_err(|error| error.to_string())?;
    if !status.success() {
        let complaint = String::from_utf8_lossy(&complaint);
        let last = complaint.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let last: String = last.chars().take(MAX_COMPLAINT).collect();
        return Err(format!("{status}: {last}").trim_end_matches([':', ' ']).to_owned());
    }
    let token = Token::new(String::from_utf8(printed).map_err(|_| "it printed no text")?);
    match token.expose() {
        "" => Err("it printed nothing".to_owned()),
        text if text.contains(char::is_whitespace) => {
            Err("it printed more than a token".to_owned())
        }
        _ => Ok(token),
    }
}

/// Reads a bounded part of a pipe; the rest is thrown away, so that the other end can go on.
async fn read(pipe: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut text = Vec::new();
    let Some(mut pipe) = pipe else { return text };
    // A pipe that breaks has said all.
    let _read = (&mut pipe).take(MAX_TOKEN).read_to_end(&mut text).await;
    let _rest = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    text
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::*;

    async fn of(line: &str) -> Result<String, String> {
        let command = TokenCommand::new(line).unwrap();
        match present(&ProofSource::Command(command)).await {
            Ok(Proof::Token(token)) => Ok(token.expose().to_owned()),
            Ok(other) => panic!("{other:?}"),
            Err(TunnelError::TokenCommand(why)) => Err(why),
            Err(error) => panic!("{error}"),
        }
    }

    #[tokio::test]
    async fn a_command_prints_a_token_each_time() {
        assert_eq!(of("echo abc.def").await.unwrap(), "abc.def");
        let dir = tempfile::tempdir().unwrap();
        let line = format!("cd {} && echo x >> n && wc -l < n", dir.path().display());
        assert_eq!(of(&line).await.unwrap(), "1");
        assert_eq!(of(&line).await.unwrap(), "2");
    }

    #[tokio::test]
    async fn a_command_that_fails_says_why() {
        let failed = of("echo first >&2; echo not logged in >&2; exit 3").await.unwrap_err();
        assert!(failed.contains('3') && failed.ends_with("not logged in"), "{failed}");
        assert_eq!(of("true").await.unwrap_err(), "it printed nothing");
        assert_eq!(of("echo two words").await.unwrap_err(), "it printed more than a token");
        assert!(of("yes | head -c 1000000").await.is_err(), "what is too long is not waited for");
    }
}
