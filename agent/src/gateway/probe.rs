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
    if let Upstream::Many { hub, .. } = &gateway.upstream {
        return hub.probe(&gateway.server).await;
    }
    // A server of the modern era need not know what `initialize` is, and may answer anything.
    let first = match open(gateway, Era::Legacy).await? {
        Outcome::Is(probe) => {
            if let Upstream::Child { sessions, .. } = &gateway.upstream {
                sessions.set_answered_initialize();
            }
            return Ok(probe);
        }
        Outcome::Not(first) => first,
    };
    match open(gateway, Era::Modern).await {
        Ok(Outcome::Is(probe)) => Ok(probe),
        Ok(Outcome::Not(second)) if first.other_era => Err(second.error),
        Err(error) if first.other_era => Err(error),
        // What it said to the request that most servers know tells more.
        _ => Err(first.error),
    }
}

enum Outcome {
    Is(Probe),
    Not(Refusal),
}

/// Why a server cannot be used in an era.
struct Refusal {
    error: GatewayError,
    /// It says itself that it is of the other era.
    other_era: bool,
}

/// Asks the server to open in an era.
async fn open(gateway: &Inner, era: Era) -> Result<Outcome, GatewayError> {
    match &gateway.upstream {
        // One process is of one era, so the other one needs another process.
        Upstream::Child { spec, .. } => ask(gateway, spec, era).await,
        Upstream::Remote(remote) => {
            let limit = gateway.options.start_timeout;
            let answer = timeout(limit, remote.ask(opening(era))).await;
            let answer = answer.map_err(|_| GatewayError::StartTimeout {
                server: gateway.server.clone(),
                after: limit,
                stderr: String::new(),
            })?;
            match answer {
                Ok(answer) => read(&gateway.server, era, &answer),
                // It answered, but not in MCP.
                Err(error @ GatewayError::Url { .. }) => {
                    Ok(Outcome::Not(Refusal { error, other_era: false }))
                }
                Err(error) => Err(error),
            }
        }
        Upstream::Many { .. } => unreachable!("a hub probes its members itself"),
    }
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
        let other_era = answer.error_code().is_some_and(era::is_modern_error);
        let error = refused(server, error.get());
        return Ok(Outcome::Not(Refusal { error, other_era }));
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

    use super::super::remote::testing::{Answer, Heard, Upstream as Fake};
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
    async fn a_modern_only_server_need_not_know_initialize() {
        let script = r#"read l; case "$l" in *initialize*) echo '{"id":0,"error":{"code":-32601,"message":"no"}}';; *) echo '{"id":0,"result":{"_meta":{}}}';; esac; cat"#;
        assert_eq!(probe(script).await.unwrap().era, Era::Modern);
        let upstream = Fake::start(|heard: &Heard| {
            if heard.body.contains("initialize") {
                return Answer::json(400, "Bad Request");
            }
            Answer::json(200, r#"{"id":0,"result":{"_meta":{}}}"#)
        });
        let server = Server::remote("far", upstream.await.url());
        let gateway = Gateway::new(&server, GatewayOptions::default(), Scope::new()).unwrap();
        assert_eq!(gateway.probe().await.unwrap().era, Era::Modern);
    }

    #[tokio::test]
    async fn a_server_that_speaks_no_mcp_at_all_is_told_as_such() {
        let upstream = Fake::start(|heard: &Heard| {
            Answer::json(if heard.body.contains("initialize") { 404 } else { 400 }, "<html>")
        });
        let server = Server::remote("far", upstream.await.url());
        let gateway = Gateway::new(&server, GatewayOptions::default(), Scope::new()).unwrap();
        assert!(gateway.probe().await.unwrap_err().to_string().contains("HTTP 404"));
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
