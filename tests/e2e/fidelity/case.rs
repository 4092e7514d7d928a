//! One exchange: what a client sends, and what the server is to say to it.

use std::fmt::Write as _;

use mcpm::mcp::era::Era;
use proptest::collection::vec;
use proptest::prelude::*;

use super::json::{Member, any_object, named, number, object, space, text, unknown_members, value};
use super::raw::{ID, PARAMS, PLAIN, TOKEN};

/// What the server says to a request, in order; the texts have marks where ids and tokens go.
#[derive(Clone, Debug)]
pub(super) enum Said {
    /// Progress or a log message: on the way of the request it belongs to.
    InOrder(String),
    /// A notification that belongs to nothing; a legacy client may get it on another stream.
    Note(String),
    /// A request of the server, and what the client answers.
    Question { text: String, answer: String },
    /// The answer.
    Answer(String),
}

impl Said {
    /// The text that the server says.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::InOrder(text)
            | Self::Note(text)
            | Self::Answer(text)
            | Self::Question { text, .. } => text,
        }
    }
}

/// One exchange.
#[derive(Clone, Debug)]
pub(super) struct Case {
    /// A notification that the client sends first.
    pub(super) told: Option<String>,
    /// The request.
    pub(super) request: String,
    /// Its id and progress token, as they are written.
    pub(super) id: String,
    pub(super) token: Option<String>,
    pub(super) said: Vec<Said>,
    /// What [`PARAMS`] stands for, where it is used.
    params: String,
}

impl Case {
    /// Puts something else in the place of what is in the parameters once.
    pub(super) fn replace(&mut self, what: &str, with: &str) {
        self.request = self.request.replacen(what, with, 1);
        self.params = self.params.replacen(what, with, 1);
    }

    /// A text of the server as the client is to get it.
    pub(super) fn filled(&self, text: &str) -> String {
        let token = self.token.as_deref().unwrap_or("null");
        let text = text.replace(ID, &self.id).replace(TOKEN, token);
        text.replace(PARAMS, &self.params)
    }
}

/// An id or a progress token: whatever a client may choose.
fn id() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|id| id.to_string()),
        text(),
        prop::sample::select(
            &["0", "-1", "18446744073709551616", "123456789012345678901234567890", "\"\""][..]
        )
        .prop_map(str::to_owned),
    ]
}

/// How an object is written down: in which order, with which white space, and what unknown members are among its own.
#[derive(Clone, Debug)]
struct Layout {
    order: u64,
    spaces: Vec<String>,
    unknown: Vec<Member>,
}

fn layout() -> impl Strategy<Value = Layout> {
    (prop_oneof![Just(0), any::<u64>()], vec(space(), 1..6), unknown_members())
        .prop_map(|(order, spaces, unknown)| Layout { order, spaces, unknown })
}

impl Layout {
    fn write(self, mut members: Vec<Member>) -> String {
        members.extend(self.unknown);
        // Fisher and Yates; zero leaves all in place, for cases that shrink.
        let mut order = self.order;
        for at in (1..members.len()).rev().filter(|_| self.order > 0) {
            order = order.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let other = usize::try_from(order >> 33).unwrap_or_default() % (at + 1);
            members.swap(at, other);
        }
        object(&members, &self.spaces)
    }

    /// Writes a whole message.
    fn message(self, mut members: Vec<Member>) -> String {
        members.insert(0, member("jsonrpc", r#""2.0""#));
        self.write(members)
    }
}

fn member(key: &str, value: impl Into<String>) -> Member {
    (format!("\"{key}\""), value.into())
}

/// A notification that nobody knows.
fn notification() -> impl Strategy<Value = String> {
    (named("notifications/x"), layout(), layout()).prop_map(|(method, params, outer)| {
        let params = member("params", params.write(Vec::new()));
        outer.message(vec![member("method", method), params])
    })
}

fn progress() -> impl Strategy<Value = String> {
    (number(), layout(), layout()).prop_map(|(progress, params, outer)| {
        let params =
            params.write(vec![member("progressToken", TOKEN), member("progress", progress)]);
        let method = member("method", r#""notifications/progress""#);
        outer.message(vec![method, member("params", params)])
    })
}

/// A log message.
fn log() -> impl Strategy<Value = String> {
    (value(), layout(), layout()).prop_map(|(data, params, outer)| {
        let params = params.write(vec![member("level", r#""error""#), member("data", data)]);
        let method = member("method", r#""notifications/message""#);
        outer.message(vec![method, member("params", params)])
    })
}

/// The result or the error of a request.
fn outcome() -> impl Strategy<Value = Member> {
    let result = (value(), layout(), layout()).prop_map(|(odd, content, result)| {
        let content = content.write(vec![member("type", r#""x-unknown""#), member("x", odd)]);
        let content = member("content", format!("[{content}]"));
        member("result", result.write(vec![member("resultType", r#""complete""#), content]))
    });
    // Codes beyond what the protocol gives a meaning.
    let error = (-40000_i64..-33000, text(), layout()).prop_map(|(code, message, error)| {
        let code = member("code", code.to_string());
        member("error", error.write(vec![code, member("message", message)]))
    });
    prop_oneof![3 => result, 1 => value().prop_map(|result| member("result", result)), 1 => error]
}

/// An answer, to whichever request.
fn answer() -> impl Strategy<Value = String> {
    (outcome(), layout())
        .prop_map(|(outcome, outer)| outer.message(vec![member("id", ID), outcome]))
}

/// A request of a server.
fn question() -> impl Strategy<Value = Said> {
    const KNOWN: [&str; 3] =
        ["\"sampling/createMessage\"", "\"elicitation/create\"", "\"roots/list\""];
    let method = prop_oneof![prop::sample::select(&KNOWN[..]).prop_map(str::to_owned), named("x/")];
    (id(), method, layout(), layout(), answer()).prop_map(|(id, method, params, outer, answer)| {
        let params = member("params", params.write(Vec::new()));
        let text = outer.message(vec![member("id", id), member("method", method), params]);
        Said::Question { text, answer }
    })
}

fn said(era: Era) -> impl Strategy<Value = Vec<Said>> {
    let asks = if era == Era::Legacy { 1 } else { 0 };
    let before = prop_oneof![
        2 => progress().prop_map(Said::InOrder),
        1 => log().prop_map(Said::InOrder),
        1 => notification().prop_map(Said::Note),
        asks => question(),
    ];
    (vec(before, 0..4), answer()).prop_map(|(mut said, answer)| {
        said.push(Said::Answer(answer));
        said
    })
}

/// The method of a request, and the member of its parameters that says what it is about.
fn method() -> impl Strategy<Value = (String, Option<Member>)> {
    let about = |method: &'static str, key: &'static str| {
        text().prop_map(move |name| (format!("\"{method}\""), Some(member(key, name))))
    };
    prop_oneof![
        4 => about("tools/call", "name"),
        1 => about("prompts/get", "name"),
        1 => about("resources/read", "uri"),
        1 => Just((r#""completion/complete""#.to_owned(), None)),
        3 => named("x/").prop_map(|method| (method, None)),
    ]
}

/// Any exchange of an era.
pub(super) fn any_case(era: Era) -> impl Strategy<Value = Case> {
    let ids = (id(), prop::option::weighted(0.6, id()));
    let client = (any_object(), any_object());
    let told = prop::option::weighted(0.3, notification());
    let layouts = (layout(), layout(), layout());
    (ids, client, told, method(), said(era), layouts).prop_map(
        move |((id, token), client, told, (method, about), mut said, (meta, params, outer))| {
            if token.is_none() {
                said.retain(|said| !said.text().contains(TOKEN));
            }
            let meta = meta.write(own_meta(era, token.as_deref(), client));
            let mut own = vec![say(&said), member("_meta", meta)];
            own.extend(about);
            let own = member("params", params.write(own));
            let request = vec![member("id", &id), member("method", method), own];
            Case { told, request: outer.message(request), id, token, said, params: String::new() }
        },
    )
}

/// What the gateway reads of the `_meta` of a request.
fn own_meta(era: Era, token: Option<&str>, (capabilities, info): (String, String)) -> Vec<Member> {
    let mut own: Vec<Member> =
        token.map(|token| member("progressToken", token)).into_iter().collect();
    if era == Era::Modern {
        let modern = |key: &str| format!("io.modelcontextprotocol/{key}");
        own.push(member(&modern("protocolVersion"), r#""2026-07-28""#));
        own.push(member(&modern("clientCapabilities"), capabilities));
        own.push(member(&modern("clientInfo"), info));
        own.push(member(&modern("logLevel"), r#""debug""#));
    }
    own
}

/// A batch of exchanges in which nothing is said but the answers; each with an id of its own.
pub(super) fn any_batch() -> impl Strategy<Value = Vec<Case>> {
    let told = prop::option::weighted(0.3, notification());
    let one = (any::<bool>(), answer(), named("x/"), told, layout(), layout());
    vec(one, 1..5).prop_map(|all| {
        let numbered = all.into_iter().enumerate();
        let case = |(at, (quoted, answer, method, told, params, outer)): (
            usize,
            (bool, _, _, _, Layout, Layout),
        )| {
            let id = if quoted { format!("\"b-{at}\"") } else { at.to_string() };
            let said = vec![Said::Answer(answer)];
            let params = member("params", params.write(vec![say(&said)]));
            let request = vec![member("id", &id), member("method", method), params];
            Case {
                told,
                request: outer.message(request),
                id,
                token: None,
                said,
                params: String::new(),
            }
        };
        numbered.map(case).collect()
    })
}

/// The parameter that tells the server what to say.
fn say(said: &[Said]) -> Member {
    let texts: Vec<&str> = said.iter().map(Said::text).collect();
    member("say", serde_json::to_string(&texts).expect("texts are JSON"))
}

/// A plain request, whose parameters have this member as well, and which is answered with this result.
pub(super) fn plain(era: Era, method: &str, name: &str, odd: &str, result: &str) -> Case {
    let answer = format!(r#"{{"jsonrpc":"2.0","id":{ID},"result":{result}}}"#);
    let said = vec![Said::Answer(answer)];
    let (_, say) = say(&said);
    let mut params = format!(r#""name":"{name}","x-odd":{odd},"say":{say}"#);
    if era == Era::Modern {
        let modern = "io.modelcontextprotocol";
        write!(
            params,
            r#","_meta":{{"{modern}/protocolVersion":"2026-07-28","{modern}/clientCapabilities":{{}}}}"#
        )
        .expect("a string takes it");
    }
    let params = format!("{{{params}}}");
    let request = format!(r#"{PLAIN}1,"method":"{method}","params":{params}}}"#);
    Case { told: None, request, id: "1".to_owned(), token: None, said, params }
}
