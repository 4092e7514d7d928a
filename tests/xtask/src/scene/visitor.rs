//! Visitors of what is played, on HTTP/1.1 without TLS, and a server for them.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::step::Failed;

/// How long an answer may take; callgrind is fifty times slower.
const PATIENCE: Duration = Duration::from_secs(120);
/// The tool of a server that stands alone.
pub(super) const TOOL: &str = "test_simple_text";
/// What a client of 2025-11-25 says first.
pub(super) const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"visitor","version":"1"}}}"#;
/// What an answer has that is none: of JSON-RPC, and of a tool that could not be called.
const REFUSED: [&[u8]; 2] = [br#""error":{"#, br#""isError":true"#];
/// What clients of the newest revision send along.
const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;

/// Somebody with one connection at a time.
pub(super) struct Visitor {
    address: String,
    host: String,
    /// The tool that is called.
    tool: &'static str,
    connection: Option<BufReader<TcpStream>>,
    session: Option<String>,
}

impl Visitor {
    pub(super) fn new(address: &str, host: &str) -> Self {
        let (address, host) = (address.to_owned(), host.to_owned());
        Self { address, host, tool: TOOL, connection: None, session: None }
    }

    /// Calls another tool.
    pub(super) fn of(self, tool: &'static str) -> Self {
        Self { tool, ..self }
    }

    /// Asks for `path` over a connection of its own.
    pub(super) fn once(&mut self, path: &str) -> Result<(), Failed> {
        self.connection = None;
        self.exchange("GET", path, "Connection: close\r\n", "")
    }

    /// Asks for `path` over the connection there is.
    pub(super) fn get(&mut self, path: &str) -> Result<(), Failed> {
        self.exchange("GET", path, "Accept: */*\r\nUser-Agent: visitor\r\n", "")
    }

    /// Sends `body` to `path` over the connection there is.
    pub(super) fn post(&mut self, path: &str, body: &str) -> Result<(), Failed> {
        self.exchange("POST", path, "Content-Type: text/plain\r\n", body)
    }

    /// Does what a client of 2025-11-25 does first.
    pub(super) fn session(mut self) -> Result<Self, Failed> {
        self.message(INITIALIZE)?;
        self.message(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#)?;
        Ok(self)
    }

    /// Asks for the tools and calls one, in the session.
    pub(super) fn call(&mut self) -> Result<(), Failed> {
        self.message(r#"{"jsonrpc":"2.0","id":2,"method":"tools/list"}"#)?;
        self.message(&tool(self.tool, ""))
    }

    /// Does the same as a client of 2026-07-28, which has no session.
    pub(super) fn call_alone(&mut self) -> Result<(), Failed> {
        let list =
            format!(r#"{{"jsonrpc":"2.0","id":2,"method":"tools/list","params":{{{META}}}}}"#);
        self.modern("tools/list", "", &list)?;
        let name = format!("Mcp-Name: {}\r\n", self.tool);
        self.modern("tools/call", &name, &tool(self.tool, &format!(",{META}")))
    }

    fn modern(&mut self, method: &str, name: &str, body: &str) -> Result<(), Failed> {
        let headers = format!(
            "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n\
             MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: {method}\r\n{name}"
        );
        self.exchange("POST", "/mcp", &headers, body)
    }

    fn message(&mut self, body: &str) -> Result<(), Failed> {
        let session = self
            .session
            .as_ref()
            .map_or_else(String::new, |id| format!("Mcp-Session-Id: {id}\r\n"));
        let headers = format!(
            "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n{session}"
        );
        self.exchange("POST", "/mcp", &headers, body)
    }

    fn exchange(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> Result<(), Failed> {
        let failed = |error| Failed::new(format!("{method} {path} of {}", self.host), error);
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.address).map_err(failed)?,
        };
        let length = if method == "POST" {
            format!("Content-Length: {}\r\n", body.len())
        } else {
            String::new()
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\n{headers}{length}\r\n{body}",
            self.host
        );
        let answer = connection
            .get_mut()
            .write_all(request.as_bytes())
            .and_then(|()| read_answer(&mut connection))
            .map_err(failed)?;
        if !headers.contains("Connection: close") {
            self.connection = Some(connection);
        }
        if let Some(session) = answer.session {
            self.session = Some(session);
        }
        // What a server refuses is refused by the gateway alone, often, which is not what is common.
        if answer.refused { Err(failed(std::io::Error::other("refused"))) } else { Ok(()) }
    }
}

/// What came back.
struct Answer {
    session: Option<String>,
    /// Whether it says that there is none.
    refused: bool,
}

/// The call of a tool, with something behind its arguments.
pub(super) fn tool(name: &str, further: &str) -> String {
    let params = format!(r#"{{"name":"{name}","arguments":{{}}{further}}}"#);
    format!(r#"{{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{params}}}"#)
}

fn connect(address: &str) -> std::io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

/// Reads one answer to its end, whichever of the two framings it has.
fn read_answer(from: &mut BufReader<TcpStream>) -> std::io::Result<Answer> {
    let mut line = String::new();
    let mut next = |from: &mut BufReader<TcpStream>| {
        line.clear();
        match from.read_line(&mut line)? {
            0 => Err(std::io::Error::from(ErrorKind::UnexpectedEof)),
            _ => Ok(line.trim().to_owned()),
        }
    };
    let status = next(from)?;
    if !status.starts_with("HTTP/1.1 2") {
        return Err(std::io::Error::other(format!("answered {status:?}")));
    }
    let (mut length, mut chunked, mut session) = (0, false, None);
    loop {
        let field = next(from)?;
        let Some((name, value)) = field.split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().map_err(std::io::Error::other)?,
            "transfer-encoding" => chunked = true,
            "mcp-session-id" => session = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    let mut body = Vec::new();
    let mut rest = |from: &mut BufReader<TcpStream>, length: usize| {
        let before = body.len();
        from.take(length as u64).read_to_end(&mut body)?;
        if body.len() == before + length {
            Ok(())
        } else {
            Err(std::io::Error::from(ErrorKind::UnexpectedEof))
        }
    };
    if chunked {
        loop {
            let size = usize::from_str_radix(&next(from)?, 16).map_err(std::io::Error::other)?;
            rest(from, size + 2)?;
            if size == 0 {
                break;
            }
        }
    } else {
        rest(from, length)?;
    }
    Ok(Answer { session, refused: is_refused(&body) })
}

/// Whether an answer says that there is none.
pub(super) fn is_refused(body: &[u8]) -> bool {
    let start = &body[..body.len().min(4096)];
    REFUSED.iter().any(|refused| start.windows(refused.len()).any(|window| window == *refused))
}

/// A server that answers with as many bytes as the path says, or a kilobyte; returns its port.
pub(super) fn backend() -> Result<u16, Failed> {
    let listener =
        TcpListener::bind("127.0.0.1:0").map_err(|error| Failed::new("open a port", error))?;
    let port = listener.local_addr().map_err(|error| Failed::new("read the port", error))?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer_all(BufReader::new(stream)));
        }
    });
    Ok(port)
}

/// Answers until the connection ends, by whomever.
fn answer_all(mut stream: BufReader<TcpStream>) -> Option<()> {
    stream.get_ref().set_nodelay(true).ok()?;
    let mut line = String::new();
    loop {
        line.clear();
        stream.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let path = line.split(' ').nth(1)?.trim_start_matches('/');
        let wanted = path.parse().unwrap_or(1024);
        let mut length = 0;
        loop {
            line.clear();
            stream.read_line(&mut line).ok().filter(|read| *read > 0)?;
            let Some((name, value)) = line.split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().ok()?;
            }
        }
        std::io::copy(&mut (&mut stream).take(length), &mut std::io::sink()).ok()?;
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {wanted}\r\n\r\n"
        );
        let mut answer = head.into_bytes();
        answer.resize(answer.len() + wanted, b'x');
        stream.get_mut().write_all(&answer).ok()?;
    }
}
