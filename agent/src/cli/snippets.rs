//! Ready-to-paste configuration of the common clients for one share. Pure.

use serde_json::{Map, Value, json};

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

/// Returns the configuration for each client, the most used first; of several shares all at once.
pub(super) fn all(endpoints: &[Endpoint<'_>]) -> Vec<Snippet> {
    let snippet = |client, place, text| Snippet { client, place, text };
    let each = |text: fn(&Endpoint<'_>) -> String| {
        endpoints.iter().map(text).collect::<Vec<_>>().join("\n")
    };
    let in_json = |section, entry: fn(&Endpoint<'_>) -> Value| in_json(endpoints, section, entry);
    vec![
        snippet("Claude Code", "in a shell", each(claude_code)),
        snippet(
            "Cursor",
            "~/.cursor/mcp.json",
            in_json("mcpServers", |it| with_header(it, json!({"url": it.url}))),
        ),
        snippet(
            "VS Code",
            ".vscode/mcp.json",
            in_json("servers", |it| with_header(it, json!({"type": "http", "url": it.url}))),
        ),
        snippet(
            "Windsurf",
            "~/.codeium/windsurf/mcp_config.json",
            in_json("mcpServers", |it| with_header(it, json!({"serverUrl": it.url}))),
        ),
        snippet("Codex", "~/.codex/config.toml", each(codex)),
        snippet(
            "Gemini CLI",
            "~/.gemini/settings.json",
            in_json("mcpServers", |it| with_header(it, json!({"httpUrl": it.url}))),
        ),
        snippet(
            "Claude Desktop",
            "claude_desktop_config.json",
            in_json("mcpServers", claude_desktop),
        ),
    ]
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn claude_code(Endpoint { name, url, token }: &Endpoint<'_>) -> String {
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

fn in_json(endpoints: &[Endpoint<'_>], section: &str, entry: fn(&Endpoint<'_>) -> Value) -> String {
    let entries = endpoints.iter().map(|endpoint| (endpoint.name.to_owned(), entry(endpoint)));
    json!({ section: entries.collect::<Map<String, Value>>() }).to_string()
}

fn with_header(endpoint: &Endpoint<'_>, mut entry: Value) -> Value {
    if let Some(token) = endpoint.token {
        entry["headers"] = json!({ "Authorization": bearer(token) });
    }
    entry
}

fn codex(Endpoint { name, url, token }: &Endpoint<'_>) -> String {
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
fn claude_desktop(Endpoint { url, token, .. }: &Endpoint<'_>) -> Value {
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
    entry
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn page(endpoint: Endpoint<'_>) -> String {
        all(&[endpoint]).iter().fold(String::new(), |mut page, Snippet { client, place, text }| {
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

    #[test]
    fn several_shares_go_into_one_piece_for_each_client() {
        let endpoint = |name, url| Endpoint { name, url, token: None };
        let both = [endpoint("a", "https://a.example/mcp"), endpoint("b", "https://b.example/mcp")];
        for Snippet { client, text, .. } in all(&both) {
            assert!(text.contains("https://a.example/mcp"), "{client}: {text}");
            assert!(text.contains("https://b.example/mcp"), "{client}: {text}");
            if text.starts_with('{') {
                let value: Value = serde_json::from_str(&text).unwrap();
                let section = value.as_object().unwrap().values().next().unwrap();
                assert_eq!(section.as_object().unwrap().len(), 2, "{client}: {text}");
            }
        }
    }
}
