//! A server that knows nothing and repeats what it is told, for tests that look at bytes.
//!
//! Every message is noted in a journal as it came. A request says itself what is to be said to it: its parameter `say`
//! holds the texts of whole messages, the answer last. In these, `@id@` stands for the id of the request, `@token@` for
//! its progress token, and `@params@` for its parameters, each as it was written, and `@pid@` for the process. A text that is a request of its own is said,
//! and its answer waited for, before the next one; after `@never@` nothing comes, ever. Requests without `say` are
//! answered by their method, from a file.

pub(crate) mod stdio;
pub(crate) mod web;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};

/// How many texts of one message may wait to be written.
const QUEUE: usize = 1024;

/// The answer to a request that nobody said anything about.
const UNKNOWN: &str =
    r#"{"jsonrpc":"2.0","id":@id@,"error":{"code":-32601,"message":"nothing is said to this"}}"#;

/// In place of a text: the request stays without an answer.
const NEVER: &str = "@never@";

/// A server that repeats; see the module.
#[derive(Debug)]
pub(crate) struct Echo {
    journal: Option<Mutex<File>>,
    answers: HashMap<String, Vec<String>>,
    /// Who waits for the answer to a request of ours, by its id as it is written.
    asked: Mutex<HashMap<String, oneshot::Sender<()>>>,
}

/// What is read of a message.
#[derive(Deserialize)]
struct Seen<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct Params<'a> {
    #[serde(default)]
    say: Option<Vec<String>>,
    /// Whether to answer with a stream of events, over HTTP.
    #[serde(default)]
    events: bool,
    #[serde(borrow, default, rename = "_meta")]
    meta: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct Meta<'a> {
    #[serde(borrow, default, rename = "progressToken")]
    token: Option<&'a RawValue>,
}

/// What is to be done about one message, or about a batch of them.
#[derive(Debug)]
pub(crate) struct Plan {
    steps: Vec<Step>,
    batch: bool,
    /// Somebody waits for an answer.
    pub(crate) answers: bool,
    /// More than the answer is to be said, or it is to come as an event.
    pub(crate) events: bool,
    /// It opens a session.
    pub(crate) session: bool,
}

#[derive(Debug)]
enum Step {
    /// A notification.
    Nothing,
    /// A request of ours was answered.
    Answered(String),
    /// These texts answer a request.
    Say(Vec<Text>),
}

#[derive(Debug)]
struct Text {
    text: String,
    /// The id of what is a request of ours, as it is written.
    asks: Option<String>,
}

impl Echo {
    /// Makes one with the file of its journal, emptied, and that of its answers.
    ///
    /// # Errors
    /// When a file cannot be used.
    pub(crate) fn open(
        journal: Option<&Path>,
        answers: Option<&Path>,
    ) -> anyhow::Result<Arc<Self>> {
        let journal = match journal {
            // Several processes of one server may write to it.
            Some(path) => Some(Mutex::new(
                File::options().create(true).append(true).open(path).context("open the journal")?,
            )),
            None => None,
        };
        let answers = match answers {
            Some(path) => {
                let text = std::fs::read_to_string(path).context("read the answers")?;
                serde_json::from_str(&text).context("understand the answers")?
            }
            None => HashMap::new(),
        };
        Ok(Arc::new(Self { journal, answers, asked: Mutex::default() }))
    }

    /// Notes what came: its length on a line, then its bytes, then a line break.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub(crate) fn note(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let Some(journal) = &self.journal else { return Ok(()) };
        let mut entry = format!("{}\n", bytes.len()).into_bytes();
        entry.extend_from_slice(bytes);
        entry.push(b'\n');
        journal.lock().unwrap_or_else(PoisonError::into_inner).write_all(&entry)?;
        Ok(())
    }

    /// Looks at one message, or at a batch of them.
    pub(crate) fn plan(&self, text: &str) -> Plan {
        let parts = parts(text);
        let batch = parts.is_some();
        let mut plan =
            Plan { steps: Vec::new(), batch, answers: false, events: false, session: false };
        for part in parts.as_deref().unwrap_or(std::slice::from_ref(&text)) {
            let step = self.step(part, &mut plan).unwrap_or(Step::Nothing);
            plan.steps.push(step);
        }
        plan
    }

    fn step(&self, text: &str, plan: &mut Plan) -> Option<Step> {
        let seen = serde_json::from_str::<Seen<'_>>(text).ok()?;
        let id = seen.id?;
        let Some(method) = &seen.method else { return Some(Step::Answered(id.get().to_owned())) };
        let params: Params<'_> = read(seen.params);
        let meta: Meta<'_> = read(params.meta);
        let token = meta.token.map_or("null", RawValue::get);
        let say = params.say.or_else(|| self.answers.get(method.as_ref()).cloned());
        let say = say.unwrap_or_else(|| vec![UNKNOWN.to_owned()]);
        plan.answers = true;
        plan.events |= params.events || (say.len() > 1 && !plan.batch);
        plan.session |= method == "initialize" && self.answers.contains_key("initialize");
        let filled = say.iter().map(|text| {
            let text = text.replace("@id@", id.get()).replace("@token@", token);
            let text = text.replace("@pid@", &std::process::id().to_string());
            let asks = id_of_request(&text);
            // The last one: what comes with it is as it is.
            let text = text.replace("@params@", seen.params.map_or("null", RawValue::get));
            Text { text, asks }
        });
        Some(Step::Say(filled.collect()))
    }

    /// Says what is planned; the answers to a batch are a batch too.
    pub(crate) async fn run(&self, plan: Plan, out: &mpsc::Sender<String>) {
        if !plan.batch {
            for step in plan.steps {
                self.one(step, out).await;
            }
            return;
        }
        let (sink, mut said) = mpsc::channel(QUEUE);
        for step in plan.steps {
            self.one(step, &sink).await;
        }
        drop(sink);
        let mut all = Vec::new();
        while let Some(text) = said.recv().await {
            all.push(text);
        }
        if !all.is_empty() {
            drop(out.send(format!("[{}]", all.join(","))).await);
        }
    }

    async fn one(&self, step: Step, out: &mpsc::Sender<String>) {
        let say = match step {
            Step::Nothing => return,
            Step::Answered(id) => {
                // Who asked may have been given up.
                let asked = self.asked().remove(&id);
                if let Some(asked) = asked {
                    asked.send(()).ok();
                }
                return;
            }
            Step::Say(say) => say,
        };
        for Text { text, asks } in say {
            if text == NEVER {
                return std::future::pending().await;
            }
            let asked = asks.map(|id| {
                let (answered, asked) = oneshot::channel();
                self.asked().insert(id, answered);
                asked
            });
            if out.send(text).await.is_err() {
                return;
            }
            if let Some(asked) = asked {
                // Dropped by another request of ours with the same id: the tests make none.
                asked.await.ok();
            }
        }
    }

    fn asked(&self) -> std::sync::MutexGuard<'_, HashMap<String, oneshot::Sender<()>>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The messages of a batch; `None` when it is none.
fn parts(text: &str) -> Option<Vec<&str>> {
    let batch = text.trim_start().starts_with('[');
    let parts: Vec<&RawValue> = batch.then(|| serde_json::from_str(text).ok())??;
    Some(parts.into_iter().map(RawValue::get).collect())
}

/// The id of a text that is a request.
fn id_of_request(text: &str) -> Option<String> {
    let seen = serde_json::from_str::<Seen<'_>>(text).ok()?;
    seen.id.filter(|_| seen.method.is_some()).map(|id| id.get().to_owned())
}

/// Reads an object; what is none is an empty one.
fn read<'a, T: Default + Deserialize<'a>>(value: Option<&'a RawValue>) -> T {
    let object = value.map(RawValue::get).filter(|text| text.starts_with('{'));
    object.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}
