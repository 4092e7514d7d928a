//! A look at the server before anything is published: does it start, and who is it?

use serde::Deserialize;
use tokio::time::timeout;

use super::child::{self, Spec};
use super::http::first_answer;
use super::link::{Ids, Link};
use super::{GatewayError, Inner, Upstream};
use crate::mcp::era::{self, Era, LATEST_LEGACY, MODERN};
use crate::mcp::message::{Incoming, Message};

/// Who a server says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The name it gives itself; may be empty.
    pub server_name: String,
    /// Its version; may be empty.
    pub version: String,
    /// The era it answered in; a server of both eras counts as legacy.
    pub era: Era,
}

pub(super) async fn probe(gateway: &Inner) -> Result<Probe, GatewayError> {
    match &gateway.upstream {
        Upstream::Child { spec, sessions } => match ask(gateway, spec, Era::Legacy).await? {
            Outcome::Is(probe) => {
                sessions.set_answered_initialize();
                Ok(probe)
            }
            // One process is of one era, so the other one needs another process.
            Outcome::OtherEra => match ask(gateway, spec, Era::Modern).await? {
                Outcome::Is(probe) => Ok(probe),
                Outcome::OtherEra => Err(refused(&spec.server, "it speaks no known revision")),
            },
        },
        Upstream::Remote(remote) => {
            let limit = gateway.options.start_timeout;
            let timed_out = |_| GatewayError::StartTimeout {
                server: gateway.server.clone(),
                after: limit,
                stderr: String::new(),
            };
            let answer = |era| async move {
                timeout(limit, remote.ask(opening(era))).await.map_err(timed_out)?
            };
            match read(&gateway.server, Era::Legacy, &answer(Era::Legacy).await?)? {
                Outcome::Is(probe) => Ok(probe),
                Outcome::OtherEra => {
                    match read(&gateway.server, Era::Modern, &answer(Era::Modern).await?)? {
                        Outcome::Is(probe) => Ok(probe),
                        Outcome::OtherEra => {
                            Err(refused(&gateway.server, "it speaks no known revision"))
                        }
                    }
                }
            }
        }
    }
}

enum Outcome {
    Is(Probe),
    OtherEra,
}

async fn ask(gateway: &Inner, spec: &Spec, era: Era) -> Result<Outcome, GatewayError> {
    let nursery = &gateway.nursery;
    let child = child::spawn(spec, nursery)?;
    let (handle, max_line) = (child.handle.clone(), gateway.options.max_line);
    let link =
        Link::new(child.stdin, child.stdout, child.handle, Ids::Keep, max_line, &nursery.scope);
    let request = opening(era);
    let request = Message::parse(request).expect("the request is well-formed");
    let limit = gateway.options.start_timeout;
    let messages = timeout(limit, first_answer(&link, &request)).await;
    let messages = messages.map_err(|_| GatewayError::StartTimeout {
        server: spec.server.clone(),
        after: limit,
        stderr: handle.stderr_tail(),
    })?;
    if link.is_over() {
        return Err(handle.died(&handle.exited().await));
    }
    // Dropping the link stops the process; the nursery waits for it, not we.
    read(&spec.server, era, &messages.and_then(|mut all| all.pop()).unwrap_or_default())
}

/// Returns the first request of a session in an era.
fn opening(era: Era) -> &'static str {
    const {
        assert!(matches!(LATEST_LEGACY.as_bytes(), b"2025-11-25"));
        assert!(matches!(MODERN.as_bytes(), b"2026-07-28"));
    }
    match era {
        Era::Legacy => concat!(
            r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"#,
            r#""protocolVersion":"2025-11-25","capabilities":{},"#,
            r#""clientInfo":{"name":"mcpm","version":""#,
            env!("CARGO_PKG_VERSION"),
            r#""}}}"#
        ),
        Era::Modern => concat!(
            r#"{"jsonrpc":"2.0","id":0,"method":"server/discover","params":{"_meta":{"#,
            r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","#,
            r#""io.modelcontextprotocol/clientCapabilities":{},"#,
            r#""io.modelcontextprotocol/clientInfo":{"name":"mcpm","version":""#,
            env!("CARGO_PKG_VERSION"),
            r#""}}}}"#
        ),
    }
}

fn read(server: &str, era: Era, answer: &[u8]) -> Result<Outcome, GatewayError> {
    #[derive(Default, Deserialize)]
    struct Info {
        #[serde(default)]
        name: String,
        #[serde(default)]
        version: String,
    }
    #[derive(Deserialize)]
    struct Legacy {
        #[serde(rename = "serverInfo", default)]
        info: Info,
    }
    #[derive(Deserialize)]
    struct Modern {
        #[serde(rename = "_meta", default)]
        meta: ModernMeta,
    }
    #[derive(Default, Deserialize)]
    struct ModernMeta {
        #[serde(rename = "io.modelcontextprotocol/serverInfo", default)]
        info: Info,
    }
    let Ok(Incoming::One(answer)) = Incoming::parse(answer) else {
        return Err(refused(server, "its answer is not MCP"));
    };
    if let Some(error) = answer.error() {
        return match answer.error_code() {
            Some(code) if era::is_modern_error(code) => Ok(Outcome::OtherEra),
            _ => Err(refused(server, error.get())),
        };
    }
    let result = answer.result().map_or("null", |result| result.get());
    let info = match era {
        Era::Legacy => serde_json::from_str(result).map(|answer: Legacy| answer.info),
        Era::Modern => serde_json::from_str(result).map(|answer: Modern| answer.meta.info),
    };
    let Info { name, version } = info.map_err(|_| refused(server, "its answer is not MCP"))?;
    Ok(Outcome::Is(Probe { server_name: name, version, era }))
}

fn refused(server: &str, message: &str) -> GatewayError {
    let message = message.chars().take(400).collect();
    GatewayError::Refused { server: server.to_owned(), message }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::time::Duration;

    use mcpm_shared::scope::Scope;

    use super::super::{Gateway, GatewayOptions};
    use super::*;
    use crate::model::Server;

    async fn probe(script: &str) -> Result<Probe, GatewayError> {
        let server = Server::stdio("test", "sh", ["-c", script]);
        let options =
            GatewayOptions { start_timeout: Duration::from_secs(2), ..GatewayOptions::default() };
        let gateway = Gateway::new(&server, options, Scope::new()).unwrap();
        let probe = gateway.probe().await;
        gateway.shutdown().await;
        assert_eq!(gateway.stats().children, 0);
        probe
    }

    #[tokio::test]
    async fn a_legacy_server_tells_its_name() {
        let script = r#"read l; echo starting up; echo '{"jsonrpc":"2.0","id":0,"result":{"serverInfo":{"name":"x","version":"1"}}}'; cat"#;
        let expected =
            Probe { server_name: "x".to_owned(), version: "1".to_owned(), era: Era::Legacy };
        assert_eq!(probe(script).await.unwrap(), expected);
    }

    #[tokio::test]
    async fn a_modern_only_server_is_asked_again_in_its_era() {
        let script = r#"read l; case "$l" in *initialize*) echo '{"id":0,"error":{"code":-32022,"message":"no"}}';; *) echo '{"id":0,"result":{"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"m"}}}}';; esac; cat"#;
        assert_eq!(probe(script).await.unwrap().era, Era::Modern);
    }

    #[tokio::test]
    async fn a_server_that_ends_at_once_is_quoted() {
        let error = probe("echo 'no config' >&2; exit 2").await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status: 2") && text.contains("no config"), "{text}");
    }

    #[tokio::test]
    async fn a_server_that_hangs_is_given_up_and_stopped() {
        let error = probe("echo waiting >&2; cat >/dev/null").await.unwrap_err();
        assert!(matches!(error, GatewayError::StartTimeout { .. }));
    }

    #[tokio::test]
    async fn a_server_that_answers_with_an_error_is_refused() {
        let script = r#"read l; echo '{"id":0,"error":{"code":-1,"message":"no key"}}'; cat"#;
        assert!(probe(script).await.unwrap_err().to_string().contains("no key"));
    }
}
