//! The clients that mcpm knows.

use std::path::PathBuf;

use super::document::{Format, Place};
use super::places::{Os, Places};
use super::shape::Shape;

/// One client application.
#[derive(Debug)]
pub struct Client {
    /// The name that users type.
    pub id: &'static str,
    /// The name that users know.
    pub name: &'static str,
    /// Where its file may be: the first that exists is the one, and else the last.
    pub(super) files: fn(&Places) -> Vec<PathBuf>,
    /// How to tell that it is installed.
    pub(super) sign: Sign,
    /// How its file is written.
    pub(super) format: Format,
    /// Where the servers are in it: the first that is there, and else the last.
    pub(super) places: &'static [Place],
    /// How an entry looks.
    pub(super) shape: Shape,
    /// The key, and its value, by which the client knows an entry as switched off, if it has one.
    pub(super) off: Option<(&'static str, bool)>,
}

/// How to tell that a client is installed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sign {
    /// The folder of its file exists.
    Folder,
    /// A program of this name is in `PATH`, or its file exists.
    Program(&'static str),
    /// It is a file of the project, and exists.
    Project,
}

impl Client {
    /// Returns the client of this name.
    #[must_use]
    pub fn find(id: &str) -> Option<&'static Self> {
        ALL.iter().find(|client| client.id == id)
    }

    /// Returns the file of this client on that machine.
    #[must_use]
    pub fn file(&self, places: &Places) -> PathBuf {
        let files = (self.files)(places);
        let found = files.iter().find(|file| file.exists()).or(files.last());
        found.cloned().unwrap_or_default()
    }

    /// Tells whether the client seems to be installed.
    #[must_use]
    pub fn is_installed(&self, places: &Places) -> bool {
        let file = self.file(places);
        match self.sign {
            Sign::Folder => file.parent().is_some_and(std::path::Path::is_dir),
            Sign::Program(name) => file.is_file() || places.find_program(name).is_some(),
            Sign::Project => file.is_file(),
        }
    }

    /// Tells whether the file belongs to a project rather than to a person.
    #[must_use]
    pub fn is_of_project(&self) -> bool {
        matches!(self.sign, Sign::Project)
    }
}

/// A map of servers below these keys.
const fn map(path: &'static [&'static str]) -> Place {
    Place { path, named_by: None }
}

const MCP_SERVERS: &[Place] = &[map(&["mcpServers"])];
const SERVERS: &[Place] = &[map(&["servers"])];

/// Most clients: JSON with `mcpServers`, entries of `command` and `args`.
const PLAIN: Client = Client {
    id: "",
    name: "",
    files: |_| Vec::new(),
    sign: Sign::Folder,
    format: Format::Json,
    places: MCP_SERVERS,
    shape: Shape::Plain,
    off: None,
};

const DISABLED: Option<(&str, bool)> = Some(("disabled", true));
const NOT_ENABLED: Option<(&str, bool)> = Some(("enabled", false));

/// All clients, in the order in which they are shown.
pub static ALL: &[Client] = &[
    Client {
        id: "claude-code",
        name: "Claude Code",
        files: |at| vec![at.home.join(".claude.json")],
        sign: Sign::Program("claude"),
        ..PLAIN
    },
    Client {
        id: "claude-code-project",
        name: "Claude Code (this folder)",
        files: |at| vec![at.project.join(".mcp.json")],
        sign: Sign::Project,
        ..PLAIN
    },
    Client {
        id: "claude-desktop",
        name: "Claude Desktop",
        files: |at| vec![at.app_config().join("Claude").join("claude_desktop_config.json")],
        ..PLAIN
    },
    Client {
        id: "windsurf",
        name: "Windsurf",
        files: |at| vec![at.home.join(".codeium").join("windsurf").join("mcp_config.json")],
        ..PLAIN
    },
    Client {
        id: "cursor",
        name: "Cursor",
        files: |at| vec![at.home.join(".cursor").join("mcp.json")],
        ..PLAIN
    },
    Client {
        id: "cline",
        name: "Cline",
        files: |at| {
            let folder = at.vscode_user().join("globalStorage").join("saoudrizwan.claude-dev");
            vec![folder.join("settings").join("cline_mcp_settings.json")]
        },
        off: DISABLED,
        ..PLAIN
    },
    Client {
        id: "roo-code",
        name: "Roo Code",
        files: |at| {
            let folder = at.vscode_user().join("globalStorage").join("rooveterinaryinc.roo-cline");
            vec![folder.join("settings").join("mcp_settings.json")]
        },
        off: DISABLED,
        ..PLAIN
    },
    Client {
        id: "continue",
        name: "Continue",
        files: |at| {
            let of = |folder: &PathBuf| folder.join(".continue").join("config.yaml");
            vec![of(&at.project), of(&at.home)]
        },
        format: Format::Yaml,
        places: &[Place { path: &["mcpServers"], named_by: Some("name") }],
        shape: Shape::Named,
        ..PLAIN
    },
    Client {
        id: "goose-cli",
        name: "Goose CLI",
        files: |at| {
            let mut files = vec![
                at.project.join(".goose").join("config.yaml"),
                at.dot_config().join("goose").join("config.yaml"),
            ];
            if at.os == Os::Windows {
                // Where Goose itself looks; the one above is where older versions did.
                let folder = at.app_config().join("Block").join("goose");
                files.push(folder.join("config").join("config.yaml"));
            }
            files
        },
        format: Format::Yaml,
        places: &[map(&["extensions"])],
        shape: Shape::Goose,
        off: NOT_ENABLED,
        ..PLAIN
    },
    Client {
        id: "5ire",
        name: "5ire",
        files: |at| vec![at.app_config().join("5ire").join("mcp.json")],
        shape: Shape::FiveIre,
        off: Some(("isActive", false)),
        ..PLAIN
    },
    Client {
        id: "trae",
        name: "Trae",
        files: |at| match at.os {
            Os::Linux => vec![at.app_config().join("trae").join("mcp.json")],
            Os::MacOs | Os::Windows => {
                vec![at.app_config().join("Trae").join("User").join("mcp.json")]
            }
        },
        ..PLAIN
    },
    Client {
        id: "vscode",
        name: "VS Code",
        files: |at| vec![at.vscode_user().join("mcp.json")],
        places: SERVERS,
        shape: Shape::Typed,
        ..PLAIN
    },
    Client {
        id: "vscode-workspace",
        name: "VS Code (this folder)",
        files: |at| vec![at.project.join(".vscode").join("mcp.json")],
        sign: Sign::Project,
        places: SERVERS,
        shape: Shape::Typed,
        ..PLAIN
    },
    Client {
        id: "gemini-cli",
        name: "Gemini CLI",
        files: |at| vec![at.home.join(".gemini").join("settings.json")],
        sign: Sign::Program("gemini"),
        ..PLAIN
    },
    Client {
        id: "codex-cli",
        name: "Codex CLI",
        files: |at| vec![at.home.join(".codex").join("config.toml")],
        sign: Sign::Program("codex"),
        format: Format::Toml,
        places: &[map(&["mcp_servers"])],
        off: NOT_ENABLED,
        ..PLAIN
    },
    Client {
        id: "qwen-cli",
        name: "Qwen CLI",
        files: |at| vec![at.home.join(".qwen").join("settings.json")],
        sign: Sign::Program("qwen"),
        ..PLAIN
    },
    Client {
        id: "opencode",
        name: "OpenCode",
        files: |at| {
            let folder = at.dot_config().join("opencode");
            vec![folder.join("opencode.jsonc"), folder.join("opencode.json")]
        },
        sign: Sign::Program("opencode"),
        // Its second version moved the servers one level down.
        places: &[map(&["mcp", "servers"]), map(&["mcp"])],
        shape: Shape::OpenCode,
        off: NOT_ENABLED,
        ..PLAIN
    },
    Client {
        id: "zed",
        name: "Zed",
        files: |at| {
            let folder = match at.os {
                Os::Linux => at.dot_config().join("zed"),
                Os::MacOs => at.home.join(".config").join("zed"),
                Os::Windows => at.app_config().join("Zed"),
            };
            vec![folder.join("settings.json")]
        },
        places: &[map(&["context_servers"])],
        shape: Shape::Zed,
        off: NOT_ENABLED,
        ..PLAIN
    },
    Client {
        id: "kiro",
        name: "Kiro",
        files: |at| vec![at.home.join(".kiro").join("settings").join("mcp.json")],
        off: DISABLED,
        ..PLAIN
    },
];
