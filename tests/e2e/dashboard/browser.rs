//! A real browser, told what to do over `WebDriver` (W3C): Chromium with its own driver, as Debian
//! packages them. Where there is none, suites say so and go on.

use std::path::PathBuf;

use base64::Engine as _;
use harness::peers::programs;
use harness::process::{Program, command};
use harness::{eventually, visitor};
use serde_json::{Value, json};

/// The folder that pictures are put into, for whoever wants to look at them.
const PICTURES: &str = "MCPM_TEST_PICTURES";

/// One window of a browser of its own.
pub(super) struct Browser {
    _driver: Program,
    client: reqwest::Client,
    /// The URL of the session.
    session: String,
    /// The browser itself, which outlives a driver that is killed.
    process: Option<u64>,
}

/// A test that fails leaves no browser behind.
impl Drop for Browser {
    fn drop(&mut self) {
        let Some(id) = self.process.take() else { return };
        drop(std::process::Command::new("kill").args(["-KILL", &id.to_string()]).status());
    }
}

impl Browser {
    /// Starts a browser; `None`, with one line on stderr, where there is none.
    pub(super) async fn start() -> Option<Self> {
        // Debian has it in the packages `chromium` and `chromium-driver`.
        if !programs(&["chromedriver"]) {
            return None;
        }
        let mut start = command("chromedriver");
        start.arg("--port=0");
        let mut driver = Program::start(start);
        let port = |line: &str| {
            line.split_once("successfully on port ")?.1.trim_end_matches('.').parse::<u16>().ok()
        };
        let port = driver.line("its port", port).await;
        // Tests may run as root, where Chromium has no sandbox.
        let args = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "args": args },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let client = visitor();
        let url = format!("http://127.0.0.1:{port}/session");
        let answer = client.post(&url).json(&wanted).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        let id = answer["value"]["sessionId"].as_str().unwrap_or_else(|| panic!("{answer}"));
        let process = answer["value"]["capabilities"]["goog:processID"].as_u64();
        let session = format!("{url}/{id}");
        Some(Self { _driver: driver, client, session, process })
    }

    async fn ask(&self, path: &str, body: Value) -> Value {
        let request = self.client.post(format!("{}{path}", self.session)).json(&body);
        let mut answer: Value = request.send().await.unwrap().json().await.unwrap();
        assert!(answer["value"]["error"].is_null(), "{path}: {answer}");
        answer["value"].take()
    }

    /// A command of the browser's own protocol for developers.
    async fn tell(&self, cmd: &str, params: Value) -> Value {
        self.ask("/goog/cdp/execute", json!({ "cmd": cmd, "params": params })).await
    }

    /// Opens a page.
    pub(super) async fn open(&self, url: &str) {
        self.ask("/url", json!({ "url": url })).await;
    }

    /// Runs a function's body in the page and returns its value.
    pub(super) async fn run(&self, script: &str, args: &[&str]) -> Value {
        self.ask("/execute/sync", json!({ "script": script, "args": args })).await
    }

    /// Waits until a function's body returns true.
    pub(super) async fn until(&self, script: &str) {
        eventually(script, || async { (self.run(script, &[]).await == true).then_some(()) }).await;
    }

    /// Makes the page this large, whatever the window is.
    pub(super) async fn size(&self, width: u32, height: u32) {
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.tell("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// Lets the page think that its reader likes it dark.
    pub(super) async fn dark(&self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": value }] });
        self.tell("Emulation.setEmulatedMedia", media).await;
    }

    /// Takes a picture of the whole page. It is a file in the folder of `MCPM_TEST_PICTURES`, where somebody wants it.
    pub(super) async fn picture(&self, name: &str) -> Picture {
        let all = json!({ "format": "png", "captureBeyondViewport": true });
        let taken = self.tell("Page.captureScreenshot", all).await;
        let data = taken["data"].as_str().unwrap();
        let png = base64::engine::general_purpose::STANDARD.decode(data).unwrap();
        if let Some(folder) = std::env::var_os(PICTURES).map(PathBuf::from) {
            std::fs::write(folder.join(format!("dashboard-{name}.png")), &png).unwrap();
        }
        Picture::read(&png)
    }

    /// Returns what the page has complained of: errors of scripts, things that its policy forbade.
    pub(super) async fn complaints(&self) -> Vec<String> {
        let log = self.ask("/se/log", json!({ "type": "browser" })).await;
        let lines = log.as_array().unwrap().iter();
        lines
            .filter(|line| line["level"] == "SEVERE" || line["level"] == "WARNING")
            .map(|line| line["message"].to_string())
            .collect()
    }

    /// Ends the browser.
    pub(super) async fn close(mut self) {
        self.client.delete(&self.session).send().await.unwrap();
        self.process = None;
    }
}

/// What is looked at in a picture.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) width: u32,
    pub(super) height: u32,
    /// An empty page takes few bytes for its size.
    pub(super) bytes: usize,
}

impl Picture {
    /// Reads the head of a PNG (PNG, third edition, §11.2.1) and sees that it has its end.
    fn read(png: &[u8]) -> Self {
        assert!(png.starts_with(b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"), "no PNG: {:?}", png.get(..16));
        assert!(png.ends_with(b"IEND\xae\x42\x60\x82"), "the PNG was cut");
        let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
        Self { width: number(16), height: number(20), bytes: png.len() }
    }
}
