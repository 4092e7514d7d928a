//! `serve --take-over`, and the other end of it: the relay that is replaced. SIGUSR2 makes a relay
//! start its own successor, from the program that is installed by then.

#[cfg(unix)]
pub(super) use unix::{Before, Passing, Successor};

#[cfg(not(unix))]
pub(super) use elsewhere::{Before, Passing, Successor};

#[cfg(unix)]
mod unix {
    use std::path::{Path, PathBuf};
    use std::pin::pin;
    use std::process::{ExitStatus, Stdio};

    use mcpm_relay::config::Config;
    use mcpm_relay::handover::{HandoverError, Inherited, Offer, Predecessor, Taken, take_over};
    use mcpm_relay::relay::Relay;
    use tokio::process::{Child, Command};
    use tokio::signal::unix::{Signal, SignalKind, signal};

    use crate::cli::error::CliError;

    /// Tells a successor to take over, as its flag would.
    const TAKE_OVER_ENV: &str = "MCPM_RELAY_TAKE_OVER";

    /// The process that this one replaces, if there is one.
    #[derive(Debug, Default)]
    pub(in crate::cli) struct Before(Option<Predecessor>);

    impl Before {
        /// Finds the relay that runs with these settings.
        pub(in crate::cli) fn find(config: &Config) -> Result<Self, CliError> {
            let Some(path) = &config.takeover_socket else { return Err(CliError::NoTakeover) };
            let found = take_over(path)?;
            if found.is_none() {
                tracing::info!("no relay to take over from: starting anew");
            }
            Ok(Self(found))
        }

        /// Returns what it leaves.
        pub(in crate::cli) fn left(&self) -> Inherited {
            self.0.as_ref().map(Predecessor::left).unwrap_or_default()
        }

        /// Tells it that this process serves in its place; fails where it goes on all the same.
        pub(in crate::cli) async fn replace(self) -> Result<(), CliError> {
            let Some(predecessor) = self.0 else { return Ok(()) };
            match predecessor.ready().await {
                Ok(()) => tracing::info!("took over from the relay before"),
                Err(late @ HandoverError::Late(_)) => return Err(late.into()),
                // It is gone, and its listeners are ours, whatever became of it.
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "the relay before did not say that it is done");
                }
            }
            Ok(())
        }
    }

    /// What passes on to a successor, and the wish for one.
    #[derive(Debug)]
    pub(in crate::cli) struct Passing {
        wish: Signal,
        program: Option<PathBuf>,
        offer: Option<Offer>,
    }

    /// A process that serves in the place of this one.
    #[derive(Debug)]
    pub(in crate::cli) struct Successor(Taken);

    impl Successor {
        /// Leaves everything to it.
        pub(in crate::cli) async fn release(self) {
            tracing::info!(process.pid = self.0.pid, "another process serves in this one's place");
            self.0.release().await;
        }
    }

    impl Passing {
        /// Listens for SIGUSR2 from now on.
        pub(in crate::cli) fn listen() -> std::io::Result<Self> {
            let wish = signal(SignalKind::user_defined2())?;
            // Now, because the name of a program that was replaced is not known any more.
            Ok(Self { wish, program: std::env::current_exe().ok(), offer: None })
        }

        /// Offers the listeners of a relay at `path`. Where that fails, the relay cannot be
        /// replaced without a pause, and serves all the same.
        pub(in crate::cli) fn offer(mut self, path: Option<&Path>, relay: &Relay) -> Self {
            let sockets = relay.take_sockets();
            self.offer = path.and_then(|path| {
                let offer = Offer::make(path, sockets, relay.database_lock());
                offer
                    .inspect_err(|error| {
                        let error = error as &dyn std::error::Error;
                        tracing::warn!(error, "no other process can take over from this one");
                    })
                    .ok()
            });
            self
        }

        /// Waits until a successor serves, and starts one at SIGUSR2. To be polled until it is
        /// ready or dropped; then nothing is offered any more.
        pub(in crate::cli) async fn replaced(self) -> Successor {
            let Self { mut wish, program, offer } = self;
            let mut child: Option<Child> = None;
            let mut taken = pin!(taken(offer.as_ref()));
            loop {
                tokio::select! {
                    taken = &mut taken => return Successor(taken),
                    Some(()) = wish.recv() => {
                        if child.is_none() && offer.is_some() {
                            child = program.as_deref().and_then(start);
                        } else {
                            tracing::warn!("no successor started: one starts, or none can take over");
                        }
                    }
                    status = ended(child.as_mut()) => {
                        tracing::error!(?status, "the successor did not come up; going on");
                        child = None;
                    }
                }
            }
        }
    }

    async fn taken(offer: Option<&Offer>) -> Taken {
        match offer {
            Some(offer) => offer.taken().await,
            None => std::future::pending().await,
        }
    }

    async fn ended(child: Option<&mut Child>) -> Option<ExitStatus> {
        match child {
            Some(child) => child.wait().await.ok(),
            None => std::future::pending().await,
        }
    }

    fn start(program: &Path) -> Option<Child> {
        let mut command = Command::new(program);
        command.args(std::env::args_os().skip(1)).env(TAKE_OVER_ENV, "true").stdin(Stdio::null());
        match command.spawn() {
            Ok(child) => {
                tracing::info!(process.pid = child.id(), "successor started");
                Some(child)
            }
            Err(error) => {
                tracing::error!(%error, program = %program.display(), "cannot start a successor");
                None
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[tokio::test]
        async fn a_successor_ends_where_the_relay_before_no_longer_waits_and_goes_on() {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("takeover.sock");
            let offer = Offer::make(&path, Vec::new(), None).unwrap();
            let find = async || {
                let path = path.clone();
                let found = tokio::task::spawn_blocking(move || take_over(&path).unwrap());
                Before(found.await.unwrap())
            };
            // Who runs stops waiting as soon as the successor has all, and offers it again.
            let late = tokio::select! {
                _ = offer.taken() => unreachable!("nobody said that it serves"),
                late = find() => late,
            };
            let told = tokio::select! {
                _ = offer.taken() => unreachable!("nobody said in time that it serves"),
                told = late.replace() => told,
            };
            let error = told.unwrap_err();
            assert!(matches!(error, CliError::TakeOver(HandoverError::Late(_))), "{error}");

            let late = tokio::select! {
                _ = offer.taken() => unreachable!("nobody said that it serves"),
                late = find() => late,
            };
            drop(offer);
            late.replace().await.unwrap();
        }
    }
}

#[cfg(not(unix))]
mod elsewhere {
    use std::path::Path;

    use mcpm_relay::config::Config;
    use mcpm_relay::handover::Inherited;
    use mcpm_relay::relay::Relay;

    use crate::cli::error::CliError;

    /// No process can be replaced here.
    #[derive(Debug, Default)]
    pub(in crate::cli) struct Before;

    impl Before {
        pub(in crate::cli) fn find(_: &Config) -> Result<Self, CliError> {
            Err(CliError::NoTakeover)
        }

        pub(in crate::cli) fn left(&self) -> Inherited {
            Inherited::default()
        }

        #[expect(clippy::unused_async, reason = "the other systems' signature")]
        pub(in crate::cli) async fn replace(self) -> Result<(), CliError> {
            Ok(())
        }
    }

    /// Nothing passes to anybody.
    #[derive(Debug)]
    pub(in crate::cli) struct Passing;

    /// There is none.
    #[derive(Debug)]
    pub(in crate::cli) enum Successor {}

    impl Successor {
        #[expect(clippy::unused_async, reason = "the other systems' signature")]
        pub(in crate::cli) async fn release(self) {
            match self {}
        }
    }

    impl Passing {
        #[expect(clippy::unnecessary_wraps, reason = "the other systems' signature")]
        pub(in crate::cli) fn listen() -> std::io::Result<Self> {
            Ok(Self)
        }

        pub(in crate::cli) fn offer(self, _: Option<&Path>, _: &Relay) -> Self {
            self
        }

        pub(in crate::cli) async fn replaced(self) -> Successor {
            std::future::pending().await
        }
    }
}
