//! A server in a folder of this machine: what the folder says of itself, in the files of its trade.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::bundle;
use super::catalogue::text;
use super::manifest::{Arg, Launch, Manifest, Method, Origin};
use super::server_json;
use crate::fs::{self, FsError};
use crate::hint::Hint;

/// Why a folder cannot be installed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// It is not there.
    #[error("there is no folder {}", .0.display())]
    Missing(PathBuf),
    /// Nothing in it tells how it is started.
    #[error("nothing in {} tells how its server is started", .0.display())]
    Unclear(PathBuf),
    /// A file of it makes no sense.
    #[error("{} cannot be used: {reason}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of it cannot be read.
    #[error(transparent)]
    Fs(#[from] FsError),
}

impl Hint for FolderError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Missing(_) => Some("Check the path".to_owned()),
            Self::Unclear(_) => Some(
                "It needs a manifest.json, server.json, package.json or pyproject.toml; or add the server with `mcpm new`"
                    .to_owned(),
            ),
            Self::Wrong { path, .. } => Some(format!("Correct {}", path.display())),
            Self::Fs(error) => error.hint(),
        }
    }
}

/// Describes the server in `folder`, an absolute path. `home` is where the user lives.
///
/// # Errors
/// When nothing tells how it is started.
pub fn describe(folder: &Path, home: Option<&Path>) -> Result<Manifest, FolderError> {
    if !folder.is_dir() {
        return Err(FolderError::Missing(folder.to_owned()));
    }
    let read = |name: &str| -> Result<Option<Value>, FolderError> {
        Ok(fs::read_json(&folder.join(name))?)
    };
    if let Some(manifest) = read("manifest.json")?.filter(bundle::is_manifest) {
        let wrong = |reason| FolderError::Wrong { path: folder.join("manifest.json"), reason };
        return bundle::manifest(&manifest, folder, home).map_err(wrong);
    }
    // What is in the folder is meant, and not what the registry has of it.
    let known = read("server.json")?;
    let known =
        known.and_then(|json| server_json::manifest(&json, &Value::Null, Origin::Reference));
    let launched = match (read("package.json")?, fs::read(&folder.join("pyproject.toml"))?) {
        (Some(package), _) => node(folder, &package)?,
        (None, Some(project)) => python(folder, &project)?,
        (None, None) => return known.filter(has_method).ok_or_else(|| unclear(folder)),
    };
    Ok(match known {
        Some(known) => Manifest { methods: launched.methods, unusable: Vec::new(), ..known },
        None => launched,
    })
}

fn has_method(manifest: &Manifest) -> bool {
    !manifest.methods.is_empty()
}

fn unclear(folder: &Path) -> FolderError {
    FolderError::Unclear(folder.to_owned())
}

fn node(folder: &Path, package: &Value) -> Result<Manifest, FolderError> {
    let bin = &package["bin"];
    let program = text(bin).or_else(|| bin.as_object()?.values().find_map(text));
    let script = program.or_else(|| text(&package["main"])).ok_or_else(|| unclear(folder))?;
    let script = folder.join(script.trim_start_matches("./"));
    let notes = if script.exists() {
        Vec::new()
    } else {
        vec![format!(
            "{} is not there yet; build it with `npm install && npm run build`",
            script.display()
        )]
    };
    let args = vec![Arg::Literal(script.display().to_string())];
    Ok(named(folder, text(&package["name"]), text(&package["description"]), "node", args, notes))
}

fn python(folder: &Path, project: &str) -> Result<Manifest, FolderError> {
    let wrong = |reason: String| FolderError::Wrong { path: folder.join("pyproject.toml"), reason };
    let document: toml_edit::DocumentMut =
        project.parse().map_err(|e: toml_edit::TomlError| wrong(e.message().to_owned()))?;
    let project = document.get("project");
    let field = |key: &str| project?.get(key)?.as_str().map(str::to_owned);
    let scripts = project.and_then(|project| project.get("scripts")?.as_table_like());
    let script = scripts.and_then(|scripts| scripts.iter().next().map(|(name, _)| name.to_owned()));
    let script = script.ok_or_else(|| wrong("it has no `project.scripts`".to_owned()))?;
    let words = ["run", "--directory", &folder.display().to_string(), &script].map(str::to_owned);
    let args = words.into_iter().map(Arg::Literal).collect();
    Ok(named(folder, field("name"), field("description"), "uv", args, Vec::new()))
}

fn named(
    folder: &Path,
    name: Option<String>,
    description: Option<String>,
    command: &str,
    args: Vec<Arg>,
    notes: Vec<String>,
) -> Manifest {
    let of_folder = || folder.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = name.or_else(of_folder).unwrap_or_else(|| "server".to_owned());
    let launch = Launch::Stdio { command: command.to_owned(), args, env: Vec::new(), cwd: None };
    let method = Method {
        id: "local".to_owned(),
        kind: "local".to_owned(),
        description: None,
        recommended: false,
        inputs: Vec::new(),
        launch,
        notes,
    };
    let manifest = Manifest::named(&name, Origin::Reference);
    Manifest {
        alias: name.rsplit('/').next().unwrap_or(&name).to_owned(),
        description: description.unwrap_or_default(),
        methods: vec![method],
        ..manifest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Transport;
    use crate::registry::fill::Answers;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    fn line(dir: &Path) -> (String, String) {
        let manifest = describe(dir, None).unwrap();
        let filled = manifest.methods[0].fill(&Answers::new()).unwrap();
        let Transport::Stdio { command, args, .. } = filled.transport else { panic!("not stdio") };
        let line = std::iter::once(command).chain(args).collect::<Vec<_>>().join(" ");
        (manifest.alias, line.replace(&dir.display().to_string(), "DIR"))
    }

    #[test]
    fn a_node_project_starts_its_program_by_its_full_path() {
        let dir = folder(&[(
            "package.json",
            r#"{"name": "@me/notes", "bin": {"notes": "./dist/x.js"}}"#,
        )]);
        assert_eq!(line(dir.path()), ("notes".to_owned(), "node DIR/dist/x.js".to_owned()));
        let notes = &describe(dir.path(), None).unwrap().methods[0].notes;
        assert!(notes[0].contains("npm run build"), "{notes:?}");
    }

    #[test]
    fn a_python_project_runs_its_script_with_uv() {
        let text = "[project]\nname = \"notes\"\n[project.scripts]\nnotes-mcp = \"notes:main\"\n";
        let dir = folder(&[("pyproject.toml", text)]);
        assert_eq!(
            line(dir.path()),
            ("notes".to_owned(), "uv run --directory DIR notes-mcp".to_owned())
        );
        let dir = folder(&[("pyproject.toml", "[project")]);
        assert!(matches!(describe(dir.path(), None), Err(FolderError::Wrong { .. })));
    }

    #[test]
    fn the_files_of_the_folder_are_started_even_when_a_registry_has_the_server_too() {
        let server = r#"{"name": "io.github.me/notes", "packages": [{"registryType": "npm", "identifier": "notes"}]}"#;
        let dir = folder(&[("server.json", server), ("package.json", r#"{"main": "x.js"}"#)]);
        assert_eq!(line(dir.path()), ("notes".to_owned(), "node DIR/x.js".to_owned()));
        let dir = folder(&[("server.json", server)]);
        assert_eq!(line(dir.path()).1, "npx -y notes");
    }

    #[test]
    fn an_unpacked_bundle_is_installed_in_place() {
        let text = r#"{"manifest_version": "0.3", "name": "notes", "version": "1", "server":
            {"type": "node", "entry_point": "x.js", "mcp_config": {"command": "node", "args": ["${__dirname}/x.js"]}}}"#;
        let dir = folder(&[("manifest.json", text)]);
        assert_eq!(line(dir.path()), ("notes".to_owned(), "node DIR/x.js".to_owned()));
    }

    #[test]
    fn a_folder_that_tells_nothing_is_refused_with_what_it_needs() {
        let dir = folder(&[]);
        let error = describe(dir.path(), None).unwrap_err();
        assert!(error.hint().unwrap().contains("package.json"), "{error}");
        assert!(matches!(describe(&dir.path().join("none"), None), Err(FolderError::Missing(_))));
        let dir = folder(&[("package.json", "{,")]);
        assert!(matches!(describe(dir.path(), None), Err(FolderError::Fs(_))));
    }
}
