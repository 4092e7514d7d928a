//! Ready-to-paste configuration of the common clients for one share. Pure.

use serde_json::{Value, json};

/// What a client needs to know to reach a share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Endpoint<'a> {
    /// The name the client will list it under.
    pub(super) name: &'a str,
    /// The URL of the MCP endpoint.
    pub(super) url: &'a str,
    /// The bearer token; none for a public share.
    pub(super) token: Option<&'a str>,
}

/// One client's configuration.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Snippet {
    /// The client.
    pub(super) client: &'static str,
    /// Where the text belongs: a file, or a shell.
    pub(super) place: &'static str,
    /// The text itself.
    pub(super) text: String,
}

/// Returns the configuration for each client, the most used first.
pub(super) fn all(endpoint: Endpoint<'_>) -> Vec<Snippet> {
    let snippet = |client, place, text| Snippet { client, place, text };
    let Endpoint { url, .. } = endpoint;
    vec![
        snippet("Claude Code", "in a shell", claude_code(endpoint)),
        snippet(
            "Cursor",
            "~/.cursor/mcp.json",
            in_json(endpoint, "mcpServers", json!({"url": url})),
        ),
        snippet(
            "VS Code",
            ".vscode/mcp.json",
            in_json(endpoint, "servers", json!({"type": "http", "url": url})),
        ),
        snippet(
            "Windsurf",
            "~/.codeium/windsurf/mcp_config.json",
            in_json(endpoint, "mcpServers", json!({"serverUrl": url})),
        ),
        snippet("Codex", "~/.codex/config.toml", codex(endpoint)),
        snippet(
            "Gemini CLI",
            "~/.gemini/settings.json",
            in_json(endpoint, "mcpServers", json!({"httpUrl": url})),
        ),
        snippet("Claude Desktop", "claude_desktop_config.json", claude_desktop(endpoint)),
    ]
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn claude_code(Endpoint { name, url, token }: Endpoint<'_>) -> String {
    let mut line = format!("claude mcp add --transport http {} {}", quoted(name), quoted(url));
    if let Some(token) = token {
        line.push_str(&format!(" --header \"Authorization: {}\"", bearer(token)));
    }
    line
}

/// Quotes a word for a POSIX shell when it needs it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:%@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn in_json(endpoint: Endpoint<'_>, section: &str, mut entry: Value) -> String {
    if let Some(token) = endpoint.token {
        entry["headers"] = json!({ "Authorization": bearer(token) });
    }
    json!({ section: { endpoint.name: entry } }).to_string()
}

fn codex(Endpoint { name, url, token }: Endpoint<'_>) -> String {
    // JSON strings without control characters are TOML basic strings.
    let text = |value: &str| Value::from(value).to_string();
    let mut lines = format!("[mcp_servers.{}]\nurl = {}", text(name), text(url));
    if let Some(token) = token {
        let header = text(&bearer(token));
        lines.push_str(&format!("\nhttp_headers = {{ Authorization = {header} }}"));
    }
    lines
}

/// Claude Desktop starts programs only, so `mcp-remote` bridges. The header's value goes through
/// the environment, since some versions split arguments at spaces.
fn claude_desktop(Endpoint { name, url, token }: Endpoint<'_>) -> String {
    let mut args = vec!["-y", "mcp-remote", url];
    if url.starts_with("http://") {
        args.push("--allow-http");
    }
    let mut entry = json!({ "command": "npx" });
    if let Some(token) = token {
        args.extend(["--header", "Authorization:${MCPM_AUTH}"]);
        entry["args"] = args.into();
        entry["env"] = json!({ "MCPM_AUTH": bearer(token) });
    } else {
        entry["args"] = args.into();
    }
    json!({ "mcpServers": { name: entry } }).to_string()
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn page(endpoint: Endpoint<'_>) -> String {
        all(endpoint).iter().fold(String::new(), |mut page, Snippet { client, place, text }| {
            writeln!(page, "{client} ({place})\n{text}\n").unwrap();
            page
        })
    }

    #[test]
    fn every_client_gets_url_and_token() {
        let endpoint = Endpoint {
            name: "time",
            url: "https://time-k3x9qa.share.example.com/mcp",
            token: Some("T0KEN"),
        };
        insta::assert_snapshot!(page(endpoint));
    }

    #[test]
    fn a_public_share_over_plain_http_shows_no_header() {
        let endpoint =
            Endpoint { name: "my server", url: "http://127.0.0.1:6276/mcp", token: None };
        insta::assert_snapshot!(page(endpoint));
    }
}
