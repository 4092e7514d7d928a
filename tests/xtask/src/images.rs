//! `cargo xtask images`: builds the images of `deploy/docker` and runs them, where a Docker engine can be had.
//!
//! The programs come from `target`, and the base of an image is made of the libraries that they are linked to, as this
//! system has them. The stages that build from source run with a stand-in for the compiler. On a root machine without a
//! running engine a private one is started, of Debian's package where there is none, and stopped again.

mod engine;
mod recipe;

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use self::engine::{Engine, Made, named};
use self::recipe::Recipe;
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
    match with(tree, bins)? {
        None => Ok(()),
        Some(why) => Err(Failed(format!("images: {why}"))),
    }
}

/// Builds and runs the images of what the suite has built; returns why it was skipped, if it was.
pub(crate) fn check(tree: &Tree) -> Result<Option<String>, Failed> {
    with(tree, tree.target.join("debug"))
}

fn with(tree: &Tree, bins: PathBuf) -> Result<Option<String>, Failed> {
    if let Some(why) = recipe::missing() {
        return Ok(Some(why));
    }
    let work = tree.target.join("xtask").join("images");
    // One run at a time: they would take files and engine from each other.
    let lock = fs::create_dir_all(&work).and_then(|()| File::create(work.join("lock")));
    let lock = lock.map_err(|error| Failed::new(format!("write to {}", work.display()), error))?;
    lock.lock().map_err(|error| Failed::new("wait for another run", error))?;
    let engine = match Engine::find(tree, &work) {
        Ok(engine) => engine,
        Err(Failed(why)) => return Ok(Some(why)),
    };
    let bench = Bench { tree, engine, bins, work };
    if bench.engine.is_private()
        && let Err(Failed(why)) = bench.probe()
    {
        return Ok(Some(format!("a Docker engine starts here, but runs no containers: {why}")));
    }
    bench.relay()?;
    bench.agent()?;
    bench.is_empty()?;
    Ok(None)
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

impl Bench<'_> {
    fn recipe<'a>(
        &'a self,
        file: &'a str,
        program: &'a str,
        folder: &'a str,
        others: &'a [&'a str],
    ) -> Recipe<'a> {
        Recipe {
            tree: self.tree,
            engine: &self.engine,
            file,
            program,
            binary: self.bins.join(program),
            folder,
            others,
            work: &self.work,
            base: "scratch".to_owned(),
        }
    }

    /// Runs the smallest container, as all others are run.
    fn probe(&self) -> Result<(), Failed> {
        let image = named("mcpm-probe");
        let _image = self.recipe("probe", "", "", &[]).shell(&image)?;
        self.once(&[&image, "/bin/sh", "-c", ":"]).map(drop)
    }

    /// Looks whether anything is left in an engine that had nothing before.
    fn is_empty(&self) -> Result<(), Failed> {
        if !self.engine.is_private() {
            return Ok(());
        }
        let images = self.engine.docker(&["images", "--all", "--quiet"])?;
        let containers = self.engine.docker(&["ps", "--all", "--quiet"])?;
        let volumes = self.engine.docker(&["volume", "ls", "--quiet"])?;
        match format!("{images}{containers}{volumes}").is_empty() {
            true => Ok(()),
            false => {
                Err(Failed(format!("images: left in the engine: {images} {containers} {volumes}")))
            }
        }
    }

    fn relay(&self) -> Result<(), Failed> {
        let started = Instant::now();
        let mut recipe = self.recipe("relay", "mcpm-relay", "data", &[]);
        let _bases = recipe.prepare()?;
        let image = named("mcpm-relay");
        let _image = recipe.build(Some("prebuilt"), &image)?;
        let weight = self.weigh(&image, Some(MAX_RELAY_MB))?;
        self.serve(&image)?;
        let _stage = recipe.build(Some("build"), &named("mcpm-relay-build"))?;
        let image = named("mcpm-relay-from-source");
        let _image = recipe.build(None, &image)?;
        self.tells_its_version(&image, "mcpm-relay ")?;
        println!("image of the relay ......... ok {:>6.1}s  {weight}", seconds(started));
        Ok(())
    }

    /// Runs the relay as operators do, restarts it and stops it.
    fn serve(&self, image: &str) -> Result<(), Failed> {
        let docker = |args: &[&str]| self.engine.docker(args);
        let container = &*named("mcpm-relay");
        let run = ["run", "--detach", "--name", container, "--read-only", "--network", "none"];
        let shut = ["--cap-drop", "ALL", "--security-opt", "no-new-privileges"];
        let remove = ["rm", "--force", "--volumes", container];
        // Ids of processes come again, and so may the name; it is no error that there is none.
        docker(&remove).ok();
        let _container = Made::new(&self.engine, &remove);
        let documented = self.documented()?;
        let environment = documented.iter().flat_map(|one| ["--env", one]).collect::<Vec<_>>();
        docker(&[&run[..], &shut, &environment, &[image]].concat())?;
        self.wait(container, "{{.State.Health.Status}}", "healthy")?;
        let user = docker(&["inspect", "--format", "{{.Config.User}}", container])?;
        expect("user", &user, NOBODY)?;
        // The programs of the image find its settings, and the volume was made for them.
        docker(&["exec", container, "mcpm-relay", "health"])?;
        let status = docker(&["exec", container, "mcpm-relay", "status"])?;
        if !status.contains("serving") {
            return Err(Failed(format!("images: the relay says {status}")));
        }
        docker(&["exec", container, "mcpm-relay", "token", "issue", "--sub", "ada"])?;
        docker(&["restart", "--time", "30", container])?;
        self.wait(container, "{{.State.Health.Status}}", "healthy")?;
        let tokens = docker(&["exec", container, "mcpm-relay", "token", "ls"])?;
        if !tokens.contains("ada") {
            return Err(Failed(format!("images: the volume was forgotten: {tokens}")));
        }
        docker(&["stop", "--time", "30", container])?;
        let code = docker(&["inspect", "--format", "{{.State.ExitCode}}", container])?;
        expect("exit code", &code, "0")
    }

    /// The environment that the README's one line gives to a relay.
    fn documented(&self) -> Result<Vec<String>, Failed> {
        let text = fs::read_to_string(self.tree.root.join("README.md"));
        let text = text.map_err(|error| Failed::new("read README.md", error))?;
        let line = text.split("docker run -d --name relay ").nth(1).unwrap_or_default();
        let line = line.split("\ndocker ").next().unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        let given = words.windows(2).filter(|pair| pair[0] == "-e").map(|pair| pair[1].to_owned());
        let given: Vec<String> = given.collect();
        match given.is_empty() {
            true => Err(Failed("images: README.md has no `docker run` of a relay".to_owned())),
            false => Ok(given),
        }
    }

    fn agent(&self) -> Result<(), Failed> {
        let started = Instant::now();
        let mut recipe = self.recipe("agent", "mcpm", "home", &["FULL_BASE", "UV"]);
        let _bases = recipe.prepare()?;
        let image = &*named("mcpm");
        let _image = recipe.build(Some("prebuilt"), image)?;
        let weight = self.weigh(image, None)?;
        self.tells_its_version(image, "mcpm ")?;
        // The volume of its home may be written, and keeps what was.
        let volume = &*named("mcpm-home");
        let _volume = Made::new(&self.engine, &["volume", "rm", "--force", volume]);
        let home = format!("{volume}:/home/mcpm");
        let add = ["new", "docs", "--url", "https://docs.example/mcp"];
        self.once(&[&["--volume", &home, image], &add[..]].concat())?;
        let listed = self.once(&["--volume", &home, image, "ls"])?;
        if !listed.contains("docs") {
            return Err(Failed(format!("images: the home was forgotten: {listed}")));
        }
        let _stage = recipe.build(Some("build"), &named("mcpm-build"))?;
        let _slim = recipe.build(Some("slim"), &named("mcpm-slim"))?;
        let _full = recipe.build(None, &named("mcpm-full"))?;
        for image in ["mcpm-slim", "mcpm-full"] {
            self.tells_its_version(&named(image), "mcpm ")?;
        }
        println!("image of the agent ......... ok {:>6.1}s  {weight}", seconds(started));
        Ok(())
    }

    fn tells_its_version(&self, image: &str, start: &str) -> Result<(), Failed> {
        let version = self.once(&[image, "--version"])?;
        match version.starts_with(start) {
            true => Ok(()),
            false => Err(Failed(format!("images: {image} says {version}"))),
        }
    }

    /// Runs a container to its end.
    fn once(&self, args: &[&str]) -> Result<String, Failed> {
        let run =
            ["run", "--rm", "--init", "--read-only", "--network", "none", "--cap-drop", "ALL"];
        self.engine.docker(&[&run[..], args].concat())
    }

    /// Says how large an image is; of a release build `max` is looked at.
    fn weigh(&self, image: &str, max: Option<u64>) -> Result<String, Failed> {
        let bytes = self.engine.docker(&["inspect", "--format", "{{.Size}}", image])?;
        let bytes: u64 = bytes.parse().map_err(|error| Failed::new("read a size", error))?;
        let megabytes = bytes.div_ceil(1_000_000);
        match max {
            None => Ok(format!("{megabytes} MB")),
            Some(max) if !["release", "dist"].iter().any(|folder| self.bins.ends_with(folder)) => {
                Ok(format!("{megabytes} MB, no release build: {max} MB is not checked"))
            }
            Some(max) if megabytes > max => {
                Err(Failed(format!("images: {image} has {megabytes} MB, over {max}")))
            }
            Some(max) => Ok(format!("{megabytes} of {max} MB")),
        }
    }

    fn wait(&self, container: &str, format: &str, wanted: &str) -> Result<(), Failed> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let is = self.engine.docker(&["inspect", "--format", format, container])?;
            if is == wanted {
                return Ok(());
            }
            if Instant::now() > give_up {
                let logs = self.engine.docker(&["logs", container])?;
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

fn seconds(since: Instant) -> f32 {
    since.elapsed().as_secs_f32()
}
