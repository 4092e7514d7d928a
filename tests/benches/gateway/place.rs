//! The way each contender is configured and started.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use mcpm_bench::outcome::count;
use mcpm_bench::process::{Process, free_port, local};
use mcpm_bench::relay;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::Options;
use crate::contender::{Contender, Maker};
use crate::http::{Target, Visitor};

/// The profile that all servers are in.
const PROFILE: &str = "bench";
/// How `fastmcp` is asked for its proxy: in its own language.
const FASTMCP: &str = include_str!("fastmcp_proxy.py");

/// A folder with the configuration of a contender, and of its servers.
#[derive(Debug)]
pub(crate) struct Place {
    /// Whose it is.
    pub(crate) contender: Contender,
    /// The program and the arguments of a server over stdio.
    echo: Vec<OsString>,
    folder: TempDir,
}

/// The file in which servers count.
const REQUESTS: &str = "requests";

impl Place {
    /// Writes the configuration: nothing is known of the servers yet.
    pub(crate) fn new(contender: Contender) -> anyhow::Result<Self> {
        Self::with(contender, false)
    }

    /// Does so with servers that count their requests, which takes them a moment each time.
    pub(crate) fn counting(contender: Contender) -> anyhow::Result<Self> {
        Self::with(contender, true)
    }

    fn with(contender: Contender, counting: bool) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let this = std::env::current_exe().context("find this program")?;
        let mut echo: Vec<OsString> =
            vec![this.into(), "echo".into(), "stdio".into(), contender.era.name().into()];
        echo.extend(counting.then(|| folder.path().join(REQUESTS).into()));
        let place = Self { contender, echo, folder };
        let config = place.config();
        std::fs::create_dir(&config)?;
        let servers = place.servers()?;
        std::fs::write(config.join("servers.json"), Value::from(servers.clone()).to_string())?;
        let profiles = json!({ PROFILE: {} });
        std::fs::write(config.join("profiles_metadata.json"), profiles.to_string())?;
        let peers = json!({ "mcpServers": servers });
        std::fs::write(place.path("peers.json"), peers.to_string())?;
        std::fs::write(place.path("fastmcp_proxy.py"), FASTMCP)?;
        Ok(place)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The folder of mcpm's files.
    fn config(&self) -> PathBuf {
        self.path("mcpm")
    }

    /// How many requests the servers have got by now; waits until no more come.
    pub(crate) async fn requests(&self) -> anyhow::Result<f64> {
        let mut tick = tokio::time::interval(Duration::from_millis(300));
        let mut last = None;
        loop {
            tick.tick().await;
            let requests = std::fs::metadata(self.path(REQUESTS)).map_or(0, |file| file.len());
            if last.replace(requests) == Some(requests) {
                return Ok(count(usize::try_from(requests)?));
            }
        }
    }

    fn servers(&self) -> anyhow::Result<Map<String, Value>> {
        let words: Option<Vec<&str>> = self.echo.iter().map(|word| word.to_str()).collect();
        let words = words.context("paths that are text")?;
        let servers = (1..=self.contender.servers).map(|number| {
            let name = format!("echo{number}");
            let server = json!({
                "name": name, "profile_tags": [PROFILE], "command": words[0], "args": words[1..],
            });
            (name, server)
        });
        Ok(servers.collect())
    }

    /// The server itself.
    fn echo(&self, face: &str) -> Command {
        let mut echo = Command::new(&self.echo[0]);
        echo.args(["echo", face]).args(&self.echo[3..]);
        echo
    }

    fn mcpm(&self, options: &Options) -> Command {
        let mut mcpm = Command::new(options.bins.join("mcpm"));
        mcpm.env("MCPM_CONFIG_DIR", self.config()).env("MCPM_NON_INTERACTIVE", "1");
        mcpm
    }

    fn run(&self, options: &Options) -> Command {
        let mut mcpm = self.mcpm(options);
        match self.contender.servers {
            1 => mcpm.args(["run", "echo1"]),
            _ => mcpm.args(["profile", "run", PROFILE]),
        };
        mcpm
    }

    fn fastmcp(&self, options: &Options) -> Command {
        let mut python = Command::new(&options.fastmcp);
        python.arg(self.path("fastmcp_proxy.py")).arg(self.path("peers.json"));
        python.env("FASTMCP_LOG_LEVEL", "ERROR").env("FASTMCP_CHECK_FOR_UPDATES", "off");
        python
    }

    /// The command of the contender over stdio.
    pub(crate) fn stdio(&self, options: &Options) -> anyhow::Result<Command> {
        match self.contender.maker {
            Maker::Direct => Ok(self.echo("stdio")),
            Maker::Mcpm => Ok(self.run(options)),
            Maker::FastMcp => Ok(self.fastmcp(options)),
            other => anyhow::bail!("{other:?} is not measured over stdio"),
        }
    }

    /// Starts the contender over HTTP and waits until a session can be opened.
    pub(crate) async fn http(self, options: &Options) -> anyhow::Result<Running> {
        let name = self.contender.name;
        let programs = ["mcpm", "mcpm-relay"].map(|program| options.bins.join(program));
        Process::forget_pages(&programs.each_ref().map(AsRef::as_ref))?;
        let mut running = match self.contender.maker {
            Maker::Direct => {
                let mut echo = Process::spawn(name, self.echo("http"))?;
                let port = echo.line(|line| line.parse().ok()).await?;
                Running::new(self, echo, port, "/mcp")
            }
            Maker::Mcpm => {
                let mut command = self.run(options);
                command.args(["--http", "--port", "0"]);
                let mut mcpm = Process::spawn(name, command)?;
                let port = mcpm.line(port_of_url).await?;
                Running::new(self, mcpm, port, "/mcp")
            }
            Maker::Share => self.share(options).await?,
            Maker::FastMcp => {
                let port = free_port()?;
                let mut command = self.fastmcp(options);
                command.arg(port.to_string());
                Running::new(self, Process::spawn(name, command)?, port, "/mcp")
            }
            Maker::McpProxy => {
                let port = free_port()?;
                let mut command = Command::new(&options.mcp_proxy);
                command.args(["--log-level", "ERROR", "--port", &port.to_string(), "--"]);
                command.args(&self.echo);
                Running::new(self, Process::spawn(name, command)?, port, "/mcp")
            }
            Maker::Supergateway => {
                let port = free_port()?;
                let mut command = Command::new(&options.supergateway);
                command.arg("--stdio").arg(self.echo.join(OsStr::new(" ")));
                command.args(["--outputTransport", "streamableHttp"]);
                command.args(["--stateful", "--logLevel", "none", "--port", &port.to_string()]);
                Running::new(self, Process::spawn(name, command)?, port, "/mcp")
            }
        };
        running.ready().await.with_context(|| format!("{name} does not come up"))?;
        Ok(running)
    }

    async fn share(self, options: &Options) -> anyhow::Result<Running> {
        let relay = relay::start(&options.bins, &relay::BARE.map(Into::into)).await?;
        let (relay, addr) = (relay.process, relay.addr);
        let mut command = self.mcpm(options);
        command.args(["share", "echo1", "--no-auth", "--subdomain", "bench", "--json"]);
        command.args(["--address", &format!("http://{addr}")]);
        let mut share = Process::spawn(self.contender.name, command)?;
        let url = share
            .line(|line| {
                let event: Value = serde_json::from_str(line).ok()?;
                let up = event["event"] == "up";
                up.then(|| event["url"].as_str().map(str::to_owned))?
            })
            .await?;
        let rest = url.strip_prefix("http://").context("a URL without TLS")?;
        let (host, path) = rest.split_once('/').context("a URL with a path")?;
        let target = Target {
            addr,
            host: host.to_owned(),
            path: format!("/{path}"),
            era: self.contender.era,
        };
        Ok(Running { target: Arc::new(target), process: share, place: self, relay: Some(relay) })
    }
}

/// The port in the URL that a line is.
fn port_of_url(line: &str) -> Option<u16> {
    let rest = line.split_once("http://")?.1;
    rest.split('/').next()?.rsplit(':').next()?.parse().ok()
}

/// A contender that is up, over HTTP.
#[derive(Debug)]
pub(crate) struct Running {
    /// Whom the load generator asks.
    pub(crate) target: Arc<Target>,
    /// The program in front of the servers.
    process: Process,
    /// Where it is configured.
    pub(crate) place: Place,
    relay: Option<Process>,
}

impl Running {
    fn new(place: Place, process: Process, port: u16, path: &str) -> Self {
        let addr = local(port);
        let era = place.contender.era;
        let target = Target { addr, host: addr.to_string(), path: path.to_owned(), era };
        Self { target: Arc::new(target), process, place, relay: None }
    }

    /// What the program in front of the servers holds, without them.
    pub(crate) fn megabytes(&self) -> f64 {
        self.process.weigh_alone().megabytes
    }

    /// Waits for the first session; contenders do not all say when they are up.
    async fn ready(&mut self) -> anyhow::Result<()> {
        let mut last = None;
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        for _ in 0..200 {
            tick.tick().await;
            match Visitor::open(&self.target).await {
                Ok(mut visitor) => {
                    visitor.end_session().await;
                    return Ok(());
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no attempt was made")?)
    }

    /// Ends its processes.
    pub(crate) async fn stop(self) {
        self.process.stop().await;
        if let Some(relay) = self.relay {
            relay.stop().await;
        }
    }
}
