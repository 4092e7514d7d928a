//! `mcpm-relay health`: one request to `/readyz`.

use std::path::PathBuf;

use mcpm_relay::config::{Layer, Listen};

use super::ask::{admin_addr, send, split};
use super::error::CliError;
use super::out::say;
use super::settings::layered;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Settings file of the relay
    #[arg(long, env = "MCPM_RELAY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    /// The relay's admin listener [default: 127.0.0.1:6277]
    #[arg(long, env = "MCPM_RELAY_ADMIN_LISTEN", value_name = "ADDR")]
    admin_listen: Option<Listen>,
}

pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let flags = Layer { admin_listen: args.admin_listen, ..Layer::default() };
    let layer = layered(flags, Layer::default(), args.config.as_deref())?;
    let addr = admin_addr(&layer)?;
    let answer = send(addr, "GET", "/readyz", "")
        .map_err(|source| CliError::Unreachable { addr, source })?;
    match verdict(&answer) {
        Ok(ready) => say(ready),
        Err(why) => Err(CliError::NotReady(why.to_owned())),
    }
}

/// Returns the body of a 200; of anything else, why it is none.
fn verdict(answer: &str) -> Result<&str, &str> {
    match split(answer) {
        Some((200, body)) => Ok(body.trim()),
        Some((_, body)) => Err(body.trim()),
        None => Err("what answers there is not HTTP"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_200_is_ready() {
        assert_eq!(verdict("HTTP/1.1 200 OK\r\na: b\r\n\r\nready\n"), Ok("ready"));
        assert_eq!(verdict("HTTP/1.1 503 Service Unavailable\r\n\r\ndraining\n"), Err("draining"));
        assert_eq!(verdict("SSH-2.0"), Err("what answers there is not HTTP"));
        assert_eq!(verdict(""), Err("what answers there is not HTTP"));
    }
}
