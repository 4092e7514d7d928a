//! The server behind every contender: one tool that says what it was told, over stdio or HTTP.
//!
//! It is small and quick, so that what is measured is what stands in front of it. Told a file, it
//! adds a byte to it for every request: several servers count together, whoever ends them when.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufRead as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use mcpm_bench::http1;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::wire::Era;

const TOOLS: &str = r#"{"name":"echo","description":"Says what it was told","inputSchema":{"type":"object","properties":{"message":{"type":"string"}}}}"#;
const INFO: &str = r#"{"name":"echo","version":"1.0.0"}"#;

/// Serves as the arguments say: `stdio` or `http`, the era, and the file to count in, if any.
pub(crate) fn main(mut args: impl Iterator<Item = String>) -> ExitCode {
    let (face, era) = (args.next(), args.next());
    let open = |path| File::options().append(true).create(true).open(path);
    // A count that stays 0 shows what is wrong.
    let requests = args.next().and_then(|path| open(path).ok());
    let echo = |era| Echo { era, requests };
    match (face.as_deref(), era.as_deref().and_then(Era::named)) {
        (Some("stdio"), Some(era)) => {
            // Whoever asks does not care how it ended.
            stdio(&echo(era)).ok();
            ExitCode::SUCCESS
        }
        (Some("http"), Some(era)) => mcpm_bench::run(http(echo(era))),
        _ => {
            eprintln!("usage: gateway-bench echo stdio|http legacy|modern [FILE]");
            ExitCode::from(2)
        }
    }
}

/// Waits for lines; there is nothing else to do meanwhile.
fn stdio(echo: &Echo) -> std::io::Result<()> {
    let mut input = std::io::BufReader::with_capacity(64 * 1024, std::io::stdin().lock());
    let mut output = std::io::stdout().lock();
    let mut line = Vec::new();
    while input.read_until(b'\n', &mut line)? > 0 {
        if let Some(mut answer) = echo.answer(&line) {
            answer.push('\n');
            output.write_all(answer.as_bytes())?;
            output.flush()?;
        }
        line.clear();
    }
    Ok(())
}

async fn http(echo: Echo) -> anyhow::Result<()> {
    let listener = http1::listen()?;
    println!("{}", listener.local_addr()?.port());
    let echo = Arc::new(echo);
    http1::serve(listener, |stream| connection(stream, echo.clone())).await
}

async fn connection(mut stream: TcpStream, echo: Arc<Echo>) -> std::io::Result<()> {
    let mut buffer = Vec::with_capacity(8 * 1024);
    while let Some(head) = http1::head(&mut stream, &mut buffer).await? {
        let length = http1::field(&head, "content-length").and_then(|length| length.parse().ok());
        let length: usize = length.unwrap_or(0);
        while buffer.len() < length {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
        let rest = buffer.split_off(length);
        let body = std::mem::replace(&mut buffer, rest);
        let answer = match head.split(' ').next() {
            Some("POST") => echo.answer(&body),
            Some("DELETE") => None,
            _ => {
                let refusal = "HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n";
                stream.write_all(refusal.as_bytes()).await?;
                continue;
            }
        };
        let answer = answer.map_or_else(
            || "HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n".to_owned(),
            |body| {
                // One session for everybody: it knows nothing of them.
                format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
                     mcp-session-id: echo\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                )
            },
        );
        stream.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

/// What it knows of a message.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Cow<'a, str>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct Params<'a> {
    #[serde(borrow, default)]
    arguments: Arguments<'a>,
    #[serde(borrow, rename = "protocolVersion", default)]
    version: Cow<'a, str>,
}

#[derive(Default, Deserialize)]
struct Arguments<'a> {
    #[serde(borrow)]
    message: Option<&'a RawValue>,
}

/// The server, whatever its transport.
#[derive(Debug)]
struct Echo {
    era: Era,
    /// What it counts in.
    requests: Option<File>,
}

impl Echo {
    /// Answers a request; `None` for what wants no answer.
    fn answer(&self, message: &[u8]) -> Option<String> {
        let message: Message<'_> = serde_json::from_slice(message).ok()?;
        let id = message.id?;
        if let Some(mut requests) = self.requests.as_ref() {
            requests.write_all(b".").ok();
        }
        let params = message.params.and_then(|params| serde_json::from_str(params.get()).ok());
        let result = self.result(&message.method, &params.unwrap_or_default());
        Some(match result {
            Ok(result) => format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{{result}}}}}"#),
            Err(error) => format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{{error}}}}}"#),
        })
    }

    /// The inside of a result, or of an error.
    fn result(&self, method: &str, params: &Params<'_>) -> Result<String, &'static str> {
        let complete = match self.era {
            Era::Legacy => "",
            Era::Modern => r#","resultType":"complete""#,
        };
        let listed = match self.era {
            Era::Legacy => "",
            Era::Modern => r#","resultType":"complete","ttlMs":0,"cacheScope":"public""#,
        };
        Ok(match (self.era, method) {
            (Era::Legacy, "initialize") => {
                let version = match params.version.as_ref() {
                    known @ ("2024-11-05" | "2025-03-26" | "2025-06-18") => known,
                    _ => Era::Legacy.version(),
                };
                format!(
                    r#""protocolVersion":"{version}","capabilities":{{"tools":{{}}}},"serverInfo":{INFO}"#
                )
            }
            (Era::Legacy, "ping") => String::new(),
            (Era::Modern, "server/discover") => format!(
                r#""supportedVersions":["{}"],"capabilities":{{"tools":{{}}}},"_meta":{{"io.modelcontextprotocol/serverInfo":{INFO}}}{listed}"#,
                Era::Modern.version()
            ),
            (Era::Modern, "initialize") => {
                return Err(
                    r#""code":-32022,"message":"Unsupported protocol version","data":{"supported":["2026-07-28"]}"#,
                );
            }
            (_, "tools/list") => format!(r#""tools":[{TOOLS}]{listed}"#),
            (_, "tools/call") => {
                let text = params.arguments.message.map_or(r#""""#, RawValue::get);
                format!(r#""content":[{{"type":"text","text":{text}}}]{complete}"#)
            }
            _ => return Err(r#""code":-32601,"message":"Method not found""#),
        })
    }
}
