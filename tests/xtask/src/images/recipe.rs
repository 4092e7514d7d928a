//! Makes images of the files in `deploy/docker`, without a registry: bases are made of what this system has.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::engine::{Engine, Made, named};
use crate::step::Failed;
use crate::tree::Tree;

/// What the stages that build from source call for.
const TOOLS: [&str; 4] = ["sh", "mkdir", "cp", "rm"];
/// The authorities that are trusted, where Debian and Alpine have them.
const ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Packages are there, it says.
const NO_PACKAGES: &str = "#!/bin/sh\n";
/// "Builds" a program: takes the one that lies there under the name that the last argument says.
const CARGO: &str = "#!/bin/sh
for program; do :; done
mkdir -p target/release && cp \"$program\" target/release/
";

/// Says what this system lacks of what images are made with and of, if anything.
pub(super) fn missing() -> Option<String> {
    if !cfg!(target_os = "linux") {
        return Some("this system is not Linux, and its programs run in no image".to_owned());
    }
    let tar = Command::new("tar").arg("--version").output();
    if !tar.is_ok_and(|tar| String::from_utf8_lossy(&tar.stdout).contains("GNU tar")) {
        return Some("no GNU tar".to_owned());
    }
    if Command::new("ldd").arg("--version").output().is_err() {
        return Some("no ldd".to_owned());
    }
    (!Path::new(ROOTS).exists()).then(|| format!("no {ROOTS}"))
}

/// How one of the files becomes images.
pub(super) struct Recipe<'a> {
    pub(super) tree: &'a Tree,
    pub(super) engine: &'a Engine,
    /// The file's name without `.Dockerfile`.
    pub(super) file: &'a str,
    /// The program in it.
    pub(super) program: &'a str,
    /// Where the program is.
    pub(super) binary: PathBuf,
    /// The empty folder that becomes its volume.
    pub(super) folder: &'a str,
    /// The arguments that name other bases of its last stage.
    pub(super) others: &'a [&'a str],
    /// Where files may be put together.
    pub(super) work: &'a Path,
    /// The image that the program can run on.
    pub(super) base: String,
}

impl<'a> Recipe<'a> {
    /// Lays out what an image is made of.
    pub(super) fn prepare(&mut self) -> Result<Vec<Made<'a>>, Failed> {
        let context = self.context();
        let fail = |error| Failed::new(format!("prepare {}", context.display()), error);
        if context.exists() {
            fs::remove_dir_all(&context).map_err(fail)?;
        }
        fs::create_dir_all(context.join(self.folder)).map_err(fail)?;
        // What a debug build has beside the program would only make the test slow.
        let mut strip = Command::new("strip");
        let stripped = strip.arg("-o").arg(context.join(self.program)).arg(&self.binary).status();
        if !stripped.is_ok_and(|status| status.success()) {
            fs::copy(&self.binary, context.join(self.program)).map_err(fail)?;
        }
        fs::copy(ROOTS, context.join("ca-certificates.crt")).map_err(fail)?;
        let root = self.root("libraries")?;
        let mut made = Vec::new();
        // Static programs have none.
        if libraries(&self.binary, &root)? {
            self.base = named(&format!("{}-libraries", self.program));
            made.push(self.import(&root, &self.base)?);
        }
        made.push(self.stand_in()?);
        Ok(made)
    }

    /// Builds one stage, or the last one.
    pub(super) fn build(&self, stage: Option<&str>, image: &str) -> Result<Made<'a>, Failed> {
        let file = self.tree.root.join(format!("deploy/docker/{}.Dockerfile", self.file));
        let mut args = vec!["build".to_owned(), "--quiet".to_owned()];
        // The network that a private engine has: none.
        args.extend(["--network", "none", "--file", text(&file)?, "--tag", image].map(Into::into));
        args.extend(stage.iter().flat_map(|stage| ["--target".to_owned(), (*stage).to_owned()]));
        let stand_in = self.stands_in();
        let mut bases = vec![("BASE", self.base.as_str())];
        if stage != Some("prebuilt") {
            bases.push(("RUST", &stand_in));
        }
        if stage.is_none() {
            bases.extend(self.others.iter().map(|name| (*name, &*stand_in)));
        }
        for (name, base) in bases {
            args.extend(["--build-arg".to_owned(), format!("{name}={base}")]);
        }
        args.push(text(&self.context())?.to_owned());
        self.engine.docker(&args.iter().map(String::as_str).collect::<Vec<_>>())?;
        Ok(Made::new(self.engine, &["rmi", "--force", image]))
    }

    fn context(&self) -> PathBuf {
        self.work.join(self.file)
    }

    /// Makes an image with a shell and nothing else.
    pub(super) fn shell(&self, image: &str) -> Result<Made<'a>, Failed> {
        let root = self.root("shell")?;
        let shell = Path::new("/bin/sh");
        libraries(shell, &root)?;
        copy(shell, &root).map_err(|error| Failed::new("copy a shell", error))?;
        self.import(&root, image)
    }

    /// The image that stands for what such stages are built in, and for what `full` is based on.
    fn stands_in(&self) -> String {
        named(&format!("{}-stand-in", self.program))
    }

    /// Makes an image with what stands for compilers and for packages.
    fn stand_in(&self) -> Result<Made<'a>, Failed> {
        let root = self.root("stand-in")?;
        let fail = |error| Failed::new("make a stand-in", error);
        libraries(&self.binary, &root)?;
        for tool in TOOLS.map(|tool| Path::new("/bin").join(tool)) {
            libraries(&tool, &root)?;
            copy(&tool, &root).map_err(fail)?;
        }
        copy(Path::new(ROOTS), &root).map_err(fail)?;
        let scripts = [
            ("usr/local/bin/apk", NO_PACKAGES),
            ("usr/local/bin/apt-get", NO_PACKAGES),
            ("usr/local/bin/cargo", CARGO),
            ("uv", NO_PACKAGES),
            ("uvx", NO_PACKAGES),
        ];
        fs::create_dir_all(root.join("usr/local/bin")).map_err(fail)?;
        for (path, script) in scripts {
            // In place of a program, so that it is executable.
            fs::copy("/bin/sh", root.join(path)).map_err(fail)?;
            fs::write(root.join(path), script).map_err(fail)?;
        }
        self.import(&root, &self.stands_in())
    }

    /// Makes an empty folder that becomes the root of an image.
    fn root(&self, name: &str) -> Result<PathBuf, Failed> {
        let root = self.work.join(format!("{}.{name}", self.file));
        let fail = |error| Failed::new(format!("make {}", root.display()), error);
        if root.exists() {
            fs::remove_dir_all(&root).map_err(fail)?;
        }
        fs::create_dir_all(&root).map_err(fail)?;
        Ok(root)
    }

    fn import(&self, root: &Path, image: &str) -> Result<Made<'a>, Failed> {
        let archive = PathBuf::from(format!("{}.tar", root.display()));
        let mut tar = Command::new("tar");
        // With its folders: those that an engine makes by itself are closed to others than root.
        tar.args(["--create", "--mode", "u=rwX,go=rX", "--file"]).arg(&archive);
        let tar = tar.arg("--directory").arg(root).arg(".").output();
        let tar = tar.map_err(|error| Failed::new("start tar", error))?;
        if !tar.status.success() {
            return Err(Failed::new("pack an image", String::from_utf8_lossy(&tar.stderr)));
        }
        self.engine.docker(&["import", text(&archive)?, image])?;
        Ok(Made::new(self.engine, &["rmi", "--force", image]))
    }
}

/// Copies the libraries that a program is linked to; tells whether there are any.
fn libraries(binary: &Path, root: &Path) -> Result<bool, Failed> {
    let listed = Command::new("ldd").arg(binary).output();
    let listed = listed.map_err(|error| Failed::new("start ldd", error))?;
    if !listed.status.success() {
        return Ok(false);
    }
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for library in listed.split_whitespace().filter(|word| word.starts_with('/')) {
        copy(Path::new(library), root).map_err(|error| Failed::new("copy libraries", error))?;
    }
    Ok(true)
}

/// Copies a file to the same path below another root.
fn copy(path: &Path, root: &Path) -> std::io::Result<()> {
    let to = root.join(path.strip_prefix("/").unwrap_or(path));
    fs::create_dir_all(to.parent().unwrap_or(root))?;
    fs::copy(path, to).map(drop)
}

fn text(path: &Path) -> Result<&str, Failed> {
    path.to_str().ok_or_else(|| Failed(format!("images: {} is not text", path.display())))
}
