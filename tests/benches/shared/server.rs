//! A small MCP server over stdio: it tells what it offers, and little else.

use std::fs::File;
use std::io::{BufRead as _, Write as _};

use anyhow::Context as _;
use serde_json::{Value, json};

/// So long a description that the list of two such servers' tools is 1 KB.
const DESCRIPTION: usize = 329;

/// Serves over stdin and stdout until the input ends. Every request is noted as a line in the file
/// that `args` may name.
///
/// # Errors
/// When what comes is no JSON, or the notes cannot be written.
#[expect(clippy::print_stdout, reason = "what it says is its result")]
pub fn serve(mut args: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let open = |path| File::options().create(true).append(true).open(path);
    let mut notes = args.next().map(open).transpose().context("open the file for notes")?;
    for line in std::io::stdin().lock().lines() {
        let request: Value = serde_json::from_str(&line?)?;
        let (Some(id), Some(method)) = (request.get("id"), request["method"].as_str()) else {
            continue;
        };
        if let Some(notes) = &mut notes {
            notes.write_all(format!("{method}\n").as_bytes())?;
        }
        let answer = match result(method) {
            Some(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
            None => {
                let error = json!({ "code": -32601, "message": "there is no such method" });
                json!({ "jsonrpc": "2.0", "id": id, "error": error })
            }
        };
        println!("{answer}");
    }
    Ok(())
}

fn result(method: &str) -> Option<Value> {
    match method {
        "initialize" => Some(json!({
            "protocolVersion": "2025-11-25",
            "capabilities": { "tools": {} },
            "serverInfo": { "name": "bench", "version": "1" },
        })),
        "tools/list" => Some(json!({ "tools": [{
            "name": "echo",
            "description": "x".repeat(DESCRIPTION),
            "inputSchema": { "type": "object", "properties": {} },
        }] })),
        "ping" => Some(json!({})),
        _ => None,
    }
}
