//! `--detach`: a share that runs in a process of its own, seen from both sides.

use std::ffi::OsString;
use std::time::{Duration, SystemTime};

use mcpm_shared::signal::Signal;
use tokio_util::sync::CancellationToken;

use super::error::CliError;
use super::live::Live;
use super::panel::Panel;
use super::run::listen;
use super::share::{run_here, some_failed};
use super::ui::Ui;
use super::{Context, Threads, block_on, env};
use crate::app::background::{self, LaunchError, Order, Run, launch};
use crate::app::share::{ShareEvent, ShareSpec, Source, Up};
use crate::fs::Paths;
use crate::running::{Mode, RunId, RunningShare, State};

/// Whether a share runs in the background.
#[derive(Debug, clap::Args)]
pub(super) struct DetachOptions {
    /// Run in the background: return once the share is up, and go on without the terminal
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    run: RunOption,
}

/// What makes a process the one in the background. `--detach` adds it.
#[derive(Debug, clap::Args)]
pub(super) struct RunOption {
    /// The run that this process is
    #[arg(long, hide = true, value_name = "ID")]
    run_id: Option<RunId>,
    /// Which of several shares it runs, from 0
    #[arg(long, hide = true, default_value_t = 0)]
    run_of: usize,
}

impl RunOption {
    /// Returns the run, when this is the process in the background.
    pub(super) fn id(&self) -> Option<&RunId> {
        self.run_id.as_ref()
    }
}

/// Where a share tells how it is.
#[derive(Debug)]
pub(super) enum Screen {
    /// A terminal, or a program that reads.
    Live(Box<Live>),
    /// The same for several shares.
    Panel(Box<Panel>),
    /// The log of a share in the background.
    Diary(Diary),
}

impl Screen {
    /// Prepares to show what `specs` become.
    fn of(ui: Ui, specs: &[ShareSpec]) -> Self {
        match specs {
            [spec] => Self::Live(Box::new(Live::new(ui, spec))),
            specs => Self::Panel(Box::new(Panel::new(ui, specs))),
        }
    }

    /// Shows what happened to one of the shares.
    pub(super) fn show(&mut self, at: usize, event: ShareEvent) {
        match self {
            Self::Live(live) => live.show(event),
            Self::Panel(panel) => panel.show(at, event),
            Self::Diary(diary) => diary.show(&event),
        }
    }

    /// Shows that one of several shares is over.
    pub(super) fn over(&mut self, at: usize, result: &Result<(), CliError>) {
        if let Self::Panel(panel) = self {
            panel.over(at, result);
        }
    }

    /// Says that the share is about to end.
    pub(super) fn stopping(&mut self) {
        match self {
            Self::Live(live) => live.stopping(),
            Self::Panel(panel) => panel.stopping(),
            Self::Diary(diary) => diary.line("Stopping".to_owned()),
        }
    }

    /// Says how it ended.
    pub(super) fn end(&mut self, result: &Result<(), CliError>) {
        match (self, result) {
            (Self::Live(live), result) => live.end(result.is_ok()),
            (Self::Panel(panel), result) => panel.end(result.is_ok()),
            (Self::Diary(diary), Ok(())) => diary.line("Stopped".to_owned()),
            (Self::Diary(diary), Err(error)) => diary.line(format!("Failed: {error}")),
        }
    }
}

/// Says how a share is to its log, which holds no secret.
#[derive(Debug)]
pub(super) struct Diary {
    ui: Ui,
    last: String,
}

impl Diary {
    /// Writes a line, unless it is the last one again.
    fn line(&mut self, text: String) {
        if self.last != text {
            let now = humantime::format_rfc3339_millis(SystemTime::now());
            self.ui.note(format!("{now} {text}"));
            self.last = text;
        }
    }

    fn show(&mut self, event: &ShareEvent) {
        if let Some(text) = in_words(event) {
            self.line(text);
        }
    }
}

fn in_words(event: &ShareEvent) -> Option<String> {
    Some(match event {
        ShareEvent::Probed { server, version } => format!("The server is {server} {version}"),
        ShareEvent::Note(text) => text.clone(),
        ShareEvent::Connecting { relay, attempt } => {
            format!("Connecting to {relay} (attempt {attempt})")
        }
        ShareEvent::Up(up) => format!("Up at {}", up.url),
        ShareEvent::Reconnecting { reason, hint, retry_in } => {
            let hint = hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
            format!("{reason}{hint}; trying again in {} ms", retry_in.as_millis())
        }
        ShareEvent::TokensChanged { tokens } => format!("Tokens changed: {tokens}"),
        ShareEvent::Expired => "The share came to its end".to_owned(),
        ShareEvent::Warning(text) => format!("warning: {text}"),
        _ => return None,
    })
}

/// Shares in this terminal, or in the background if that is asked for.
pub(super) fn follow(
    mut specs: Vec<ShareSpec>,
    detach: &DetachOptions,
    paths: &Paths,
    context: &Context,
) -> Result<(), CliError> {
    if let Some(id) = detach.run.id() {
        if detach.run.run_of >= specs.len() {
            return Err(CliError::usage("there is no such share to run"));
        }
        return be_background(specs.swap_remove(detach.run.run_of), id, false, paths, context);
    }
    if !detach.detach {
        let mut refused = refused(&specs, paths)?;
        if specs.len() == 1
            && let Some((_, error)) = refused.pop()
        {
            return Err(error);
        }
        let run = Run { id: RunId::generate(), mode: Mode::Foreground, router: false };
        let screen = Screen::of(context.ui, &specs);
        return run_here(specs, refused, &run, screen, paths);
    }
    let [spec] = specs.as_slice() else { return start_all(&specs, paths, context) };
    let mut live = Live::new(context.ui, spec).detached();
    let started = start(spec, &[], paths, &CancellationToken::new(), |event| live.show(event));
    let started = started.and_then(|started| Ok(started.ok_or(LaunchError::Stopped)?));
    let started = started.map(|(share, up)| {
        live.show(ShareEvent::Up(Box::new(up)));
        share
    });
    live.leave();
    context.ui.note(goes_on(&started?));
    Ok(())
}

/// Returns which of the shares would take the name of one that runs, which would then end.
fn refused(specs: &[ShareSpec], paths: &Paths) -> Result<Vec<(usize, CliError)>, CliError> {
    let mut refused = Vec::new();
    for (at, spec) in specs.iter().enumerate() {
        if let Some(rival) = background::rival(paths, spec)? {
            refused.push((at, shared_already(&rival)));
        }
    }
    Ok(refused)
}

/// Starts several shares in the background, each in a process of its own, so that each can be stopped
/// and fails by itself.
fn start_all(specs: &[ShareSpec], paths: &Paths, context: &Context) -> Result<(), CliError> {
    let mut panel = Panel::new(context.ui, specs).detached();
    let stop = CancellationToken::new();
    let (mut up, mut failed, mut stopped) = (0, Vec::new(), None);
    for (at, spec) in specs.iter().enumerate() {
        let more = [OsString::from(format!("--run-of={at}"))];
        match start(spec, &more, paths, &stop, |event| panel.show(at, event)) {
            Ok(Some((_, is))) => {
                panel.show(at, ShareEvent::Up(Box::new(is)));
                up += 1;
            }
            Ok(None) => panel.over(at, &Ok(())),
            // A person wants no more of them.
            Err(error) if stop.is_cancelled() => {
                stopped = Some(error);
                break;
            }
            Err(error) => {
                panel.over(at, &Err(error));
                failed.push(at);
            }
        }
    }
    panel.leave();
    if up > 0 {
        context.ui.note(
            "They run in the background. See them with `mcpm shares`, stop one with `mcpm unshare SHARE`, or all with `mcpm unshare --all`.",
        );
    }
    match stopped {
        Some(error) => Err(error),
        None if failed.is_empty() => Ok(()),
        None => {
            let targets: Vec<_> = specs.iter().map(|spec| spec.target.clone()).collect();
            Err(some_failed(&targets, &failed))
        }
    }
}

/// Says how to go on with a share in the background.
fn goes_on(share: &RunningShare) -> String {
    let name = share.target.name();
    let log = background::log_name(&share.target);
    format!(
        "It runs in the background. See it with `mcpm shares`, stop it with `mcpm unshare {name}`; its log is `mcpm logs {log}`."
    )
}

/// Is the process in the background.
pub(super) fn be_background(
    spec: ShareSpec,
    id: &RunId,
    router: bool,
    paths: &Paths,
    context: &Context,
) -> Result<(), CliError> {
    background::leave_terminal();
    let run = Run { id: id.clone(), mode: Mode::Background, router };
    let diary = Diary { ui: context.ui.for_people(), last: String::new() };
    run_here(vec![spec], Vec::new(), &run, Screen::Diary(diary), paths)
}

/// Starts this very command again in the background, with `more` options, and waits until its share
/// is up; `show` is told of what it comes by on the way. `None` when it has ended before that without
/// a fault, such as by `mcpm unshare`. A signal cancels `stop`, and the share is given up.
pub(super) fn start(
    spec: &ShareSpec,
    more: &[OsString],
    paths: &Paths,
    stop: &CancellationToken,
    mut show: impl FnMut(ShareEvent),
) -> Result<Option<(RunningShare, Up)>, CliError> {
    if let Some(rival) = background::rival(paths, spec)? {
        return Err(shared_already(&rival));
    }
    let id = RunId::generate();
    let program = std::env::current_exe()
        .map_err(|error| CliError::internal(format!("cannot find this program: {error}")))?;
    let order = Order {
        program,
        args: arguments(env::arguments(), more, &id),
        id,
        log: background::log(paths, &spec.target),
        limit: background::limit(spec),
    };
    if let Source::Mcp(_) = spec.source {
        show(ShareEvent::Probing);
    }
    let share = block_on(Threads::One, async {
        let mut signals = listen()?;
        let launched =
            launch(paths, &order, |share| on_the_way(share).into_iter().for_each(&mut show), stop);
        tokio::pin!(launched);
        loop {
            tokio::select! {
                signal = signals.next() => match signal {
                    // The terminal went away, which is nothing to the share.
                    Signal::Hangup => {}
                    _ if stop.is_cancelled() => return Err(LaunchError::Stopped.into()),
                    _ => stop.cancel(),
                },
                result = &mut launched => break match result {
                    Err(LaunchError::Stopped) if !stop.is_cancelled() => Ok(None),
                    result => Ok(Some(result?)),
                },
            }
        }
    })?;
    let Some(share) = share else { return Ok(None) };
    match background::up(paths, &share)? {
        Some(up) => Ok(Some((share, up))),
        None => Err(CliError::internal("a share is up without a name")),
    }
}

/// Returns what to show of a share that is not up yet.
fn on_the_way(share: &RunningShare) -> Option<ShareEvent> {
    match &share.state {
        State::Reconnecting { reason, hint, retry_in_ms } => Some(ShareEvent::Reconnecting {
            reason: reason.clone(),
            hint: hint.clone(),
            retry_in: Duration::from_millis(*retry_in_ms),
        }),
        _ => None,
    }
}

/// Returns the arguments of the process in the background: ours, and which run it is. What follows
/// a `--` is no option.
fn arguments(mut ours: Vec<OsString>, more: &[OsString], id: &RunId) -> Vec<OsString> {
    let end = ours.iter().position(|arg| arg == "--").unwrap_or(ours.len());
    let run = OsString::from(format!("--run-id={id}"));
    ours.splice(end..end, more.iter().cloned().chain([run]));
    ours
}

fn shared_already(share: &RunningShare) -> CliError {
    let place = share.url.as_ref().map(|url| format!(" at {url}")).unwrap_or_default();
    let message = format!("{} is shared already{place}", share.target);
    let hint = format!(
        "Stop it with `mcpm unshare {}`, or choose another name with --subdomain",
        share.target.name()
    );
    CliError::user("already_shared", message).with_hint(hint)
}

impl From<LaunchError> for CliError {
    fn from(error: LaunchError) -> Self {
        match error {
            LaunchError::Failed(ending) => ending.into(),
            LaunchError::Fs(error) => error.into(),
            LaunchError::Log { .. } => Self::new("file", &error),
            LaunchError::TimedOut { .. } => Self::new("timed_out", &error),
            LaunchError::Stopped => Self::new("stopped", &error),
            _ => Self::new("background", &error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::running::Ending;

    fn words(list: &[&str]) -> Vec<OsString> {
        list.iter().map(Into::into).collect()
    }

    #[test]
    fn the_process_in_the_background_gets_the_same_words_and_its_run() {
        let id: RunId = "0123456789abcdef".parse().unwrap();
        let given = |list: &[&str], more: &[&str]| arguments(words(list), &words(more), &id);
        assert_eq!(
            given(&["share", "time", "-d"], &[]),
            words(&["share", "time", "-d", "--run-id=0123456789abcdef"])
        );
        assert_eq!(
            given(&["router", "share", "--", "x"], &["--profile=work"]),
            words(&["router", "share", "--profile=work", "--run-id=0123456789abcdef", "--", "x"])
        );
    }

    #[test]
    fn why_a_share_in_the_background_failed_is_told_with_its_own_code_and_exit() {
        let hint = Some("h".to_owned());
        let ending =
            Ending { code: "name_taken".to_owned(), message: "m".to_owned(), hint, exit: 1 };
        let error: CliError = LaunchError::Failed(ending.clone()).into();
        assert_eq!(error.to_json()["code"], "name_taken");
        assert_eq!((error.exit(), error.hint()), (1, Some("h")));
        assert_eq!(error.ending(), ending);
    }

    #[test]
    fn the_log_holds_no_secret() {
        let up = Up {
            name: "x".to_owned(),
            url: "https://u/mcp".to_owned(),
            token: Some(mcpm_shared::token::Token::new("S3CRET")),
            link: Some("https://u/mcp?s=S3CRET".to_owned()),
            local: None,
            expires_at: None,
            again: false,
        };
        assert_eq!(in_words(&ShareEvent::Up(Box::new(up))).unwrap(), "Up at https://u/mcp");
    }
}
