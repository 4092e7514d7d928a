//! What one side says, the other side gets, byte for byte: any JSON-RPC there is, through all of `mcpm`.
//!
//! Client, `mcpm` and server are processes; the server notes what it gets and repeats what it is told. Both ends are of
//! one era: across the eras messages are translated, which is tested where the translation is.
//!
//! Three things may change by design, and are allowed for (`raw`): the id and the progress token that a *server* sees,
//! where several clients could share it, the client gets its own back as it wrote them; the id of a server's request
//! that the *client* sees, the server gets its own back; and raw line breaks, which are white space between tokens, and
//! become spaces where messages are lines.

mod case;
mod client;
mod costs;
mod json;
mod known;
mod raw;
mod world;

use std::cell::{Cell, RefCell};
use std::fmt::Debug;
use std::time::Duration;

use mcpm::mcp::era::Era;
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use self::case::{Case, Said, any_batch, any_case, plain};
use self::raw::{PARAMS, cut, flat};
use self::world::{Over, Pair, World};

/// How many exchanges one world sees in a test.
const CASES: u32 = 48;
/// How long one may take, with the start of a world.
const LIMIT: Duration = Duration::from_secs(60);
/// How long something may take when one case failed already, and a smaller one is looked for.
const HASTE: Duration = Duration::from_millis(500);
/// The stack of a test: cases are trees of strategies, which are deep in a build for tests.
const STACK: usize = 64 * 1024 * 1024;
/// How deep values are nested: deeper than parsers recurse, for what is not looked into has no bound.
const DEEP: usize = 10_000;
/// How long a string is, in bytes.
const LONG: usize = 10 * 1024 * 1024;

fn legacy(client: Over, server: Over) -> Pair {
    Pair { client, server, era: Era::Legacy, version: "2025-11-25" }
}

fn modern(client: Over, server: Over) -> Pair {
    Pair { client, server, era: Era::Modern, version: "2026-07-28" }
}

#[test]
fn any_legacy_exchange_over_stdio_with_a_child_is_equal_on_both_sides() {
    everything_is_equal(legacy(Over::Stdio, Over::Stdio));
}

#[test]
fn any_legacy_exchange_over_stdio_with_a_remote_server_is_equal_on_both_sides() {
    everything_is_equal(legacy(Over::Stdio, Over::Http));
}

#[test]
fn any_legacy_exchange_over_http_with_a_child_is_equal_on_both_sides() {
    everything_is_equal(legacy(Over::Http, Over::Stdio));
}

#[test]
fn any_legacy_exchange_over_http_with_a_remote_server_is_equal_on_both_sides() {
    everything_is_equal(legacy(Over::Http, Over::Http));
}

#[test]
fn any_modern_exchange_over_stdio_with_a_child_is_equal_on_both_sides() {
    everything_is_equal(modern(Over::Stdio, Over::Stdio));
}

#[test]
fn any_modern_exchange_over_stdio_with_a_remote_server_is_equal_on_both_sides() {
    everything_is_equal(modern(Over::Stdio, Over::Http));
}

#[test]
fn any_modern_exchange_over_http_with_a_child_is_equal_on_both_sides() {
    everything_is_equal(modern(Over::Http, Over::Stdio));
}

#[test]
fn any_modern_exchange_over_http_with_a_remote_server_is_equal_on_both_sides() {
    everything_is_equal(modern(Over::Http, Over::Http));
}

#[test]
fn the_messages_of_any_batch_are_equal_on_both_sides() {
    for client in [Over::Stdio, Over::Http] {
        for server in [Over::Stdio, Over::Http] {
            let pair = Pair { version: "2025-03-26", ..legacy(client, server) };
            on_a_large_stack(move || {
                holds(pair, CASES / 4, &any_batch(), async |world, batch| {
                    whole(world, batch).await
                });
            });
        }
    }
}

/// Any exchange between these two, and those that no generator comes to.
fn everything_is_equal(pair: Pair) {
    on_a_large_stack(move || {
        let exchange = async |world: &mut World, case: &Case| world.exchange(case).await;
        holds(pair, CASES, &any_case(pair.era), exchange);
    });
    let extremes = extremes(pair.era);
    runtime().block_on(async {
        let mut world = World::start(pair).await;
        for (name, case) in &extremes {
            if let Err(error) = world.exchange(case).await {
                panic!("{name} over {pair:?}: {error}");
            }
        }
    });
}

/// What is deep, and what is long.
fn extremes(era: Era) -> Vec<(&'static str, Case)> {
    let arrays = format!("{}1e400{}", "[".repeat(DEEP), "]".repeat(DEEP));
    let objects = format!("{}-0.0{}", r#"{"a": "#.repeat(DEEP), "}".repeat(DEEP));
    let long = format!("\"{}\"", "0123456789 \\u00e9 é ".repeat(LONG / 22));
    let both = |odd: &str| plain(era, "tools/call", "extreme", odd, PARAMS);
    vec![
        ("nested arrays", both(&arrays)),
        ("nested objects", both(&objects)),
        ("a string of 10 MB", both(&long)),
    ]
}

/// Runs many cases through one world. A world in which one failed is not used again.
fn holds<T: Debug>(
    pair: Pair,
    cases: u32,
    any: &impl Strategy<Value = T>,
    exchange: impl AsyncFn(&mut World, &T) -> Result<(), String>,
) {
    let failed = Cell::new(false);
    let runtime = runtime();
    let kept = RefCell::new(Some(runtime.block_on(World::start(pair))));
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 1000,
        max_shrink_time: 10_000,
        ..Config::default()
    };
    let outcome = TestRunner::new(config).run(any, |case| {
        let one = async {
            let mut world = match kept.take() {
                Some(world) => world,
                None => World::start(pair).await,
            };
            if failed.get() {
                world.patience = HASTE;
            }
            exchange(&mut world, &case).await?;
            kept.replace(Some(world));
            Ok(())
        };
        let outcome = runtime.block_on(async { tokio::time::timeout(LIMIT, one).await });
        let outcome = outcome.unwrap_or_else(|_| Err(format!("it took longer than {LIMIT:?}")));
        failed.set(failed.get() || outcome.is_err());
        outcome.map_err(|error: String| TestCaseError::fail(error))
    });
    // The world ends within its runtime.
    runtime.block_on(async { drop(kept.take()) });
    if let Err(error) = outcome {
        panic!("{pair:?}: {error}");
    }
}

fn on_a_large_stack(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(STACK).spawn(test).unwrap();
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Sends a batch. It may come to the server in pieces, and so may the answers, in any order.
async fn whole(world: &mut World, batch: &[Case]) -> Result<(), String> {
    drop(world.journal.fresh());
    let texts: Vec<&str> = batch
        .iter()
        .flat_map(|case| case.told.iter().map(String::as_str).chain([case.request.as_str()]))
        .collect();
    world.client.ask(&format!("[{}]", texts.join(" ,"))).await;
    let answers = batch
        .iter()
        .flat_map(|case| case.said.iter().map(|said: &Said| flat(&case.filled(said.text()))));
    let mut answers: Vec<String> = answers.collect();
    while !answers.is_empty() {
        let Some(got) = world.client.next_within(world.patience).await else {
            return Err(format!("the client did not get {answers:#?}"));
        };
        let at = answers.iter().position(|answer| *answer == flat(&got));
        answers.remove(at.ok_or_else(|| format!("the client got {got}, not {answers:#?}"))?);
    }
    let got = world.arrived(texts.len()).await;
    let mut got: Vec<String> = got.iter().map(|text| cut(text).rest).collect();
    let mut wanted: Vec<String> = texts.iter().map(|text| cut(text).rest).collect();
    got.sort();
    wanted.sort();
    if got == wanted { Ok(()) } else { Err(format!("the server got {got:#?}, not {wanted:#?}")) }
}
