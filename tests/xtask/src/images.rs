//! `cargo xtask images`: builds the images of `deploy/docker` and runs them, where a Docker engine can be had.
//!
//! Nothing is downloaded: the programs come from `target`, and the base of an image is made of the libraries that they
//! are linked to, as this system has them. On a root machine with `dockerd` but no running engine, a private one is
//! started, and stopped again.

mod engine;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use self::engine::Engine;
use crate::step::Failed;
use crate::tree::Tree;

/// What an image of the relay may weigh, when its program was built for release.
const MAX_RELAY_MB: u64 = 40;
/// How long a container may take to come up or to go.
const PATIENCE: Duration = Duration::from_secs(60);
/// Who the programs run as in the images.
const NOBODY: &str = "65532:65532";

/// Builds and runs the images; `--bins DIR` says where the programs are.
pub(crate) fn run(tree: &Tree, args: &[&str]) -> Result<(), Failed> {
    let bins = match args {
        [] => newest_bins(tree)?,
        ["--bins", dir] => PathBuf::from(dir),
        _ => return Err(Failed("usage: cargo xtask images [--bins DIR]".to_owned())),
    };
    let work = tree.target.join("xtask").join("images");
    let Some(engine) = Engine::find(&work)? else {
        println!(
            "images: skipped, because there is no Docker engine, nor one that could be started"
        );
        return Ok(());
    };
    let bench = Bench { tree, engine, bins, work };
    bench.relay()?;
    bench.agent()
}

/// The release build where there is one, because its size counts; else the debug build.
fn newest_bins(tree: &Tree) -> Result<PathBuf, Failed> {
    let built = |profile: &str| {
        let dir = tree.target.join(profile);
        (dir.join("mcpm-relay").exists() && dir.join("mcpm").exists()).then_some(dir)
    };
    built("release").or_else(|| built("debug")).ok_or_else(|| {
        Failed("images: no programs in target: run `cargo build --release --bins` first".to_owned())
    })
}

struct Bench<'a> {
    tree: &'a Tree,
    engine: Engine,
    bins: PathBuf,
    work: PathBuf,
}

/// A container that is removed when it is dropped.
struct Container<'a> {
    engine: &'a Engine,
    name: &'static str,
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let gone = self.engine.docker(&["rm", "--force", "--volumes", self.name]);
        if let Err(Failed(error)) = gone {
            eprintln!("images: {error}");
        }
    }
}

impl Bench<'_> {
    /// Builds the stage `prebuilt` of an image around one of our programs.
    fn build(
        &self,
        image: &str,
        dockerfile: &str,
        program: &str,
        folder: &str,
    ) -> Result<(), Failed> {
        let context = self.work.join(image);
        let fail = |error| Failed::new(format!("prepare {}", context.display()), error);
        if context.exists() {
            fs::remove_dir_all(&context).map_err(fail)?;
        }
        fs::create_dir_all(context.join(folder)).map_err(fail)?;
        let binary = self.bins.join(program);
        // What a debug build has beside the program would only make the test slow.
        let mut strip = Command::new("strip");
        let stripped = strip.arg("-o").arg(context.join(program)).arg(&binary).status();
        if !stripped.is_ok_and(|status| status.success()) {
            fs::copy(&binary, context.join(program)).map_err(fail)?;
        }
        fs::copy("/etc/ssl/certs/ca-certificates.crt", context.join("ca-certificates.crt"))
            .map_err(fail)?;
        let base = format!("BASE={}", self.base(&binary, program)?);
        let dockerfile = self.tree.root.join("deploy/docker").join(dockerfile);
        let (dockerfile, context) = (text(&dockerfile)?, text(&context)?);
        let build = ["build", "--quiet", "--target", "prebuilt", "--build-arg", &base];
        self.engine
            .docker(&[&build[..], &["--file", dockerfile, "--tag", image, context]].concat())?;
        Ok(())
    }

    /// Returns the image that a program can run on: the empty one, or its libraries alone.
    fn base(&self, binary: &Path, program: &str) -> Result<String, Failed> {
        let listed = Command::new("ldd").arg(binary).output();
        let listed = listed.map_err(|error| Failed::new("start ldd", error))?;
        if !listed.status.success() {
            // Static programs have none.
            return Ok("scratch".to_owned());
        }
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let fail = |error| Failed::new("copy libraries", error);
        // With its folders: those that an engine makes by itself are closed to others than root.
        let root = self.work.join(format!("{program}.root"));
        for library in listed.split_whitespace().filter_map(|word| word.strip_prefix('/')) {
            let to = root.join(library);
            fs::create_dir_all(to.parent().unwrap_or(&root)).map_err(fail)?;
            fs::copy(Path::new("/").join(library), to).map_err(fail)?;
        }
        let (archive, image) =
            (self.work.join(format!("{program}.tar")), format!("{program}-libs"));
        let mut tar = Command::new("tar");
        tar.args(["--create", "--mode", "u=rwX,go=rX", "--file"]).arg(&archive);
        let tar = tar.arg("--directory").arg(&root).arg(".").output();
        let tar = tar.map_err(|error| Failed::new("start tar", error))?;
        if !tar.status.success() {
            return Err(Failed::new("pack libraries", String::from_utf8_lossy(&tar.stderr)));
        }
        self.engine.docker(&["import", text(&archive)?, &image])?;
        Ok(image)
    }

    fn relay(&self) -> Result<(), Failed> {
        let started = Instant::now();
        let image = "mcpm-relay-under-test";
        self.build(image, "relay.Dockerfile", "mcpm-relay", "data")?;
        let megabytes = self.weigh(image)?;
        if self.bins.ends_with("release") && megabytes > MAX_RELAY_MB {
            return Err(Failed(format!(
                "the relay's image has {megabytes} MB, over {MAX_RELAY_MB}"
            )));
        }
        let docker = |args: &[&str]| self.engine.docker(args);
        let container = Container { engine: &self.engine, name: "mcpm-relay-under-test" };
        let run = ["run", "--detach", "--name", container.name, "--read-only", "--network", "none"];
        let shut = ["--cap-drop", "ALL", "--security-opt", "no-new-privileges"];
        docker(&[&run[..], &shut, &["--env", "MCPM_RELAY_LISTEN=127.0.0.1:8080", image]].concat())?;
        self.wait(&container, "{{.State.Health.Status}}", "healthy")?;
        let user = docker(&["inspect", "--format", "{{.Config.User}}", container.name])?;
        expect("user", &user, NOBODY)?;
        // The programs of the image find its settings, and the volume was made for them.
        docker(&["exec", container.name, "mcpm-relay", "health"])?;
        let status = docker(&["exec", container.name, "mcpm-relay", "status"])?;
        if !status.contains("serving") {
            return Err(Failed(format!("images: the relay says {status}")));
        }
        docker(&["exec", container.name, "mcpm-relay", "token", "issue", "--sub", "ada"])?;
        docker(&["restart", "--time", "30", container.name])?;
        self.wait(&container, "{{.State.Health.Status}}", "healthy")?;
        let tokens = docker(&["exec", container.name, "mcpm-relay", "token", "ls"])?;
        if !tokens.contains("ada") {
            return Err(Failed(format!("images: the volume was forgotten: {tokens}")));
        }
        docker(&["stop", "--time", "30", container.name])?;
        let code = docker(&["inspect", "--format", "{{.State.ExitCode}}", container.name])?;
        expect("exit code", &code, "0")?;
        println!(
            "image of the relay ......... ok {megabytes} MB {:>6.1}s",
            started.elapsed().as_secs_f32()
        );
        Ok(())
    }

    fn agent(&self) -> Result<(), Failed> {
        let started = Instant::now();
        let image = "mcpm-under-test";
        self.build(image, "agent.Dockerfile", "mcpm", "home")?;
        let megabytes = self.weigh(image)?;
        let run =
            ["run", "--rm", "--init", "--read-only", "--network", "none", "--cap-drop", "ALL"];
        let docker = |args: &[&str]| self.engine.docker(&[&run[..], args].concat());
        let version = docker(&[image, "--version"])?;
        if !version.starts_with("mcpm ") {
            return Err(Failed(format!("images: the agent says {version}")));
        }
        // The volume of its home may be written, and keeps what was.
        let volume = "mcpm-home-under-test:/home/mcpm";
        docker(&["--volume", volume, image, "new", "docs", "--url", "https://docs.example/mcp"])?;
        let listed = docker(&["--volume", volume, image, "ls"])?;
        self.engine.docker(&["volume", "rm", "mcpm-home-under-test"])?;
        if !listed.contains("docs") {
            return Err(Failed(format!("images: the home was forgotten: {listed}")));
        }
        println!(
            "image of the agent ......... ok {megabytes} MB {:>6.1}s",
            started.elapsed().as_secs_f32()
        );
        Ok(())
    }

    fn weigh(&self, image: &str) -> Result<u64, Failed> {
        let bytes = self.engine.docker(&["inspect", "--format", "{{.Size}}", image])?;
        let bytes: u64 = bytes.parse().map_err(|error| Failed::new("read a size", error))?;
        Ok(bytes.div_ceil(1_000_000))
    }

    fn wait(&self, container: &Container<'_>, format: &str, wanted: &str) -> Result<(), Failed> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let is = self.engine.docker(&["inspect", "--format", format, container.name])?;
            if is == wanted {
                return Ok(());
            }
            if Instant::now() > give_up {
                let logs = self.engine.docker(&["logs", container.name])?;
                return Err(Failed(format!("images: the container stays {is}\n{logs}")));
            }
            engine::pause();
        }
    }
}

fn expect(what: &str, is: &str, wanted: &str) -> Result<(), Failed> {
    match is == wanted {
        true => Ok(()),
        false => Err(Failed(format!("images: the {what} is {is} and should be {wanted}"))),
    }
}

fn text(path: &Path) -> Result<&str, Failed> {
    path.to_str().ok_or_else(|| Failed(format!("images: {} is not text", path.display())))
}
