//! The programs that servers are started with, and what to do when one is not there.

use std::ffi::OsStr;
use std::path::Path;

use super::super::inspect::find;
use crate::model::Transport;

/// Programs and how to get them.
const PROGRAMS: [(&[&str], &str); 9] = [
    (&["npx", "node", "npm"], "install Node.js: https://nodejs.org"),
    (&["uvx", "uv"], "install uv: https://docs.astral.sh/uv/getting-started/installation/"),
    (&["docker"], "install Docker: https://docs.docker.com/get-docker/"),
    (&["podman"], "install Podman: https://podman.io"),
    (&["bunx", "bun"], "install Bun: https://bun.sh"),
    (&["pnpm"], "install pnpm: https://pnpm.io/installation"),
    (&["yarn"], "install Yarn: https://yarnpkg.com/getting-started/install"),
    (&["python", "python3"], "install Python: https://www.python.org/downloads/"),
    (&["dnx", "dotnet"], "install the .NET SDK 10 or later: https://dotnet.microsoft.com/download"),
];

/// Says what is missing for a server to start, if anything is.
pub(super) fn lacking(transport: &Transport, folders: &OsStr) -> Option<String> {
    let Transport::Stdio { command, .. } = transport else { return None };
    if Path::new(command).components().count() > 1 {
        // A path; what is in a bundle is not unpacked yet.
        return None;
    }
    let names: &[&str] = if cfg!(windows) { &["", ".exe", ".cmd", ".bat"] } else { &[""] };
    if names.iter().any(|ending| find(&format!("{command}{ending}"), folders).is_some()) {
        return None;
    }
    let known = PROGRAMS.iter().find(|(programs, _)| programs.contains(&command.as_str()));
    let advice = known.map_or("install it, or give its full path with `mcpm edit`", |(_, a)| *a);
    Some(format!("`{command}` is not installed, and the server needs it; {advice}"))
}

#[cfg(test)]
mod tests {
    use crate::model::Server;

    #[test]
    fn a_missing_runtime_is_named_with_the_way_to_get_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("npx"), "").unwrap();
        let lacking = |command: &str| {
            let server = Server::stdio("x", command, [""; 0]);
            super::lacking(&server.transport, dir.path().as_os_str())
        };
        assert_eq!(lacking("npx"), None);
        assert!(lacking("uvx").unwrap().contains("astral.sh"));
        assert!(lacking("docker").unwrap().contains("docs.docker.com"));
        assert!(lacking("notes-mcp").unwrap().contains("full path"));
        assert_eq!(lacking("/opt/notes"), None);
        let remote = Server::remote("x", "https://x.example");
        assert_eq!(super::lacking(&remote.transport, dir.path().as_os_str()), None);
    }
}
