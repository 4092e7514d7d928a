//! What comes before a share can be published: its server is tried, its credentials are read or
//! made, and its local address is opened.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mcpm_shared::access::AccessPolicy;
use mcpm_shared::identity::AgentKey;
use mcpm_shared::name::Name;
use mcpm_shared::scope::Scope;
use tokio::sync::{OnceCell, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::access::{FileName, Folder, Found, Fresh};
use super::clerks::Clerks;
use super::keeper::LAST_WORDS;
use super::{Local, ShareError, ShareEvent, ShareSpec, Source, Stop};
use crate::credentials::{CredentialError, Inherited, NO_RELAY, agent_key, inherited};
use crate::fs::Paths;
use crate::gateway::listen::{self, ListenOptions, listen};
use crate::gateway::{Gateway, Probe};
use crate::tunnel::{HttpTarget, knock};

/// A share that is about to start.
pub(super) struct Starting {
    pub(super) at: usize,
    pub(super) spec: Box<ShareSpec>,
    pub(super) gateway: Option<Gateway>,
    pub(super) stop: Stop,
    pub(super) common: Arc<Common>,
}

/// What all shares of a run have in common.
pub(super) struct Common {
    /// Cancelled when all of them end.
    pub(super) over: CancellationToken,
    pub(super) paths: Paths,
    /// Where files are, of each relay.
    pub(super) folders: Mutex<Vec<Arc<Folder>>>,
    pub(super) events: mpsc::Sender<(usize, ShareEvent)>,
    /// What all need to know only once.
    pub(super) heirs: OnceCell<Inherited>,
    /// Who opens files.
    pub(super) files: Clerks,
    /// What belongs to the run.
    pub(super) scope: Scope,
}

impl Common {
    /// Returns where the files of the shares at a relay are.
    fn folder(&self, relay: String) -> Arc<Folder> {
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = folders.iter().find(|folder| folder.relay == relay) {
            return Arc::clone(known);
        }
        let folder = Arc::new(Folder::new(self.paths.clone(), relay));
        folders.push(Arc::clone(&folder));
        folder
    }
}

/// A share that can be published.
pub(super) struct Ready {
    pub(super) starting: Starting,
    pub(super) key: AgentKey,
    pub(super) fresh: Fresh,
    pub(super) reach: Option<Reach>,
}

/// How visitors on this machine get in, and who they may be.
#[derive(Debug)]
pub(super) struct Reach {
    pub(super) url: String,
    pub(super) access: watch::Sender<AccessPolicy>,
    /// Ends the listener.
    pub(super) scope: Scope,
}

/// Why a share does not start.
pub(super) struct Failed {
    pub(super) at: usize,
    pub(super) gateway: Option<Gateway>,
    pub(super) result: Result<(), ShareError>,
}

/// The turn of a share to have its file opened. Whoever comes first takes it: the thread that opens the
/// file, or who gives up on the share.
#[derive(Clone, Default)]
struct Turn(Arc<AtomicBool>);

impl Turn {
    /// Takes it; `false` when the other has.
    fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

/// Gives up on a turn when dropped, so that work that has not begun makes no tokens for nobody.
#[derive(Default)]
struct Asked(Turn);

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.take();
    }
}

/// What a share needs before it can be published.
type Made = (AgentKey, Fresh, Option<Reach>);

impl Ready {
    /// Lets go of a share that nobody wants any more, and of what was made for it.
    pub(super) async fn give_up(self) {
        if let Some(reach) = self.reach {
            reach.scope.cancel();
        }
        self.fresh.forget().await;
    }
}

impl Starting {
    /// Makes the share ready; one that is given up meanwhile fails well.
    pub(super) async fn start(self) -> Result<Ready, Failed> {
        let result = match self.make_ready().await {
            Ok(Some((key, fresh, reach))) => {
                return Ok(Ready { starting: self, key, fresh, reach });
            }
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        let Self { at, gateway, .. } = self;
        Err(Failed { at, gateway, result })
    }

    /// Returns what the share needs; `None` when it is given up, and then nothing of it stays, unless
    /// somebody holds a lock over its file for longer than [`LAST_WORDS`].
    async fn make_ready(&self) -> Result<Option<Made>, ShareError> {
        let tried = {
            // Pinned here: what is handed over is kept room for twice.
            let trying = pin!(self.try_out());
            self.unless_given_up(trying).await
        };
        match tried {
            Some(tried) => tried?,
            None => return Ok(None),
        }
        // Only now: what does not work leaves no tokens behind. Work that has begun goes on whoever waits
        // for it, so it is waited for, to be forgotten; but a lock that somebody holds must not keep us.
        let asked = Asked::default();
        let patience = async {
            self.unless_given_up(std::future::pending::<()>()).await;
            if !asked.0.take() {
                tokio::time::sleep(LAST_WORDS).await;
            }
        };
        // Biased: what is made is seen before patience is lost.
        let (key, fresh) = tokio::select! {
            biased;
            made = self.credentials(asked.0.clone()) => match made? {
                Some(made) => made,
                None => return Ok(None),
            },
            () = patience => return Ok(None),
        };
        let failed = match self.unless_given_up(self.reach(&fresh.keyring.policy())).await {
            Some(Ok(reach)) => return Ok(Some((key, fresh, reach))),
            Some(Err(error)) => Err(error),
            None => Ok(None),
        };
        Box::pin(fresh.forget()).await;
        failed
    }

    /// Does what is not needed any more once the share, or the whole run, is to end.
    async fn unless_given_up<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            () = self.common.over.cancelled() => None,
            done = work => Some(done),
        }
    }

    async fn try_out(&self) -> Result<(), ShareError> {
        match (&self.gateway, &self.spec.source) {
            // Boxed: it takes thrice the room of all else, and not each share has a server to try.
            (Some(gateway), _) => Box::pin(self.probe(gateway)).await?,
            (None, Source::Http(target)) => self.look_at(target).await,
            (None, Source::Mcp(_)) => {}
        }
        Ok(())
    }

    /// Opens the local address, where one was asked for.
    async fn reach(&self, policy: &AccessPolicy) -> Result<Option<Reach>, ShareError> {
        match (&self.spec.local, &self.gateway) {
            // Boxed, as what forgets a share is: few come here, and the future of each would keep room.
            (Some(local), Some(gateway)) => {
                Box::pin(self.listen(local, gateway, policy)).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    async fn say(&self, event: ShareEvent) {
        // Nobody listening is no reason to stop sharing.
        let _nobody = self.common.events.send((self.at, event)).await;
    }

    /// Tries the server, so that a broken one is never published. Of several as one none is started:
    /// one that does not work must not keep the others from being shared.
    async fn probe(&self, gateway: &Gateway) -> Result<(), ShareError> {
        let several = matches!(&self.spec.source, Source::Mcp(serving) if serving.is_aggregate());
        if !several {
            self.say(ShareEvent::Probing).await;
            let Probe { server_name: server, version, .. } = gateway.probe().await?;
            self.say(ShareEvent::Probed { server, version }).await;
        }
        for note in gateway.notes() {
            self.say(ShareEvent::Note(note)).await;
        }
        Ok(())
    }

    /// Warns when nobody is there to be shared. It may come later, and is shared all the same.
    async fn look_at(&self, target: &HttpTarget) {
        if let Err(error) = knock(target).await {
            let warning =
                format!("nothing answers at {target} ({error}); visitors get 502 until it does");
            self.say(ShareEvent::Warning(warning)).await;
        }
    }

    /// Reads the credentials of the share, or makes them; `None` when it was given up before its turn.
    async fn credentials(&self, turn: Turn) -> Result<Option<(AgentKey, Fresh)>, CredentialError> {
        let spec = &self.spec;
        let (wanted, target, access) = (spec.name.clone(), spec.target.clone(), spec.access);
        let origin =
            spec.relay.as_ref().map_or_else(|| NO_RELAY.to_owned(), |r| r.address.origin());
        let name = match wanted {
            Some(name) => Some(name),
            None => self.heirs().await?.name(&target, &origin),
        };
        let folder = self.common.folder(origin);
        let open = move || {
            if !turn.take() {
                return Ok(None);
            }
            let key = agent_key(&folder.paths)?;
            let name = name.unwrap_or_else(|| Name::derived(&target.base(), &key.thumbprint()));
            let found = Found::open(FileName::new(name, folder), &target, access)?;
            Ok(Some((key, found)))
        };
        let found: Result<_, CredentialError> = self.common.files.run(open).await;
        Ok(found?.map(|(key, found)| (key, Fresh::of(&found))))
    }

    /// Returns the names that do not come from what is shared. All shares of a run look once.
    async fn heirs(&self) -> Result<&Inherited, CredentialError> {
        let paths = self.common.paths.clone();
        self.common.heirs.get_or_try_init(|| self.common.files.run(move || inherited(&paths))).await
    }

    /// Opens the local listener.
    async fn listen(
        &self,
        local: &Local,
        gateway: &Gateway,
        policy: &AccessPolicy,
    ) -> Result<Reach, ShareError> {
        let (access, policy) = watch::channel(policy.clone());
        let options = ListenOptions {
            host: local.host.clone(),
            port: local.port,
            access: Some(policy),
            ..ListenOptions::default()
        };
        let scope = self.common.scope.child();
        let address = listen(gateway.clone(), options, &scope).await?;
        Ok(Reach { url: format!("http://{address}{}", listen::PATH), access, scope })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{nobody, spec};
    use super::super::{Patience, share};
    use super::*;
    use crate::credentials::{ShareFile, list};

    #[test]
    fn a_share_that_is_stopped_while_its_tokens_are_made_leaves_none() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let (name, relay): (Name, _) = ("x-abc".parse().unwrap(), nobody());
        let (locked, is_locked) = std::sync::mpsc::channel();
        let (let_go, is_let_go) = std::sync::mpsc::channel();
        let file = ShareFile::new(&paths, &name, &relay);
        let holder = std::thread::spawn(move || {
            file.edit::<()>(|_| {
                locked.send(()).unwrap();
                is_let_go.recv().unwrap();
                Err(CredentialError::UnknownShare("nothing is to be written".to_owned()))
            })
        });
        is_locked.recv().unwrap();
        let source = Source::Http("8080".parse().unwrap());
        let spec = spec(source, &relay, Patience::Time(Duration::from_secs(60)));
        let spec = ShareSpec { name: Some(name), ..spec };
        let (stop, (events, _inbox)) = (CancellationToken::new(), mpsc::channel(16));
        let stopping = async {
            let mut tick = tokio::time::interval(Duration::from_millis(5));
            // The tokens come after the key.
            while !paths.agent_key().exists() {
                tick.tick().await;
            }
            stop.cancel();
            let_go.send(()).unwrap();
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let sharing = share(spec, &paths, events, stop.clone());
        let (result, ()) = runtime.block_on(async { tokio::join!(sharing, stopping) });
        result.unwrap();
        // What still runs on threads has its end here.
        drop(runtime);
        holder.join().unwrap().unwrap_err();
        assert!(list(&paths).unwrap().is_empty());
    }
}
