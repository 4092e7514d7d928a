//! Settings that may change while a relay runs: what is obeyed now, and how it is replaced.
//!
//! A part of the relay that copies a setting when it starts keeps the old value. So parts hold a
//! [`Live`] and look at it each time; those that make something of a setting (a rate, a server, a
//! filter) make it anew in a [`Prepare`].

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};
use serde::Serialize;
use serde_json::Value;

use super::{AuthMode, Config, Layer, Timing};

/// The settings as they are obeyed now. Clones are the same settings.
#[derive(Clone, Debug)]
pub struct Live(Arc<ArcSwap<Config>>);

impl Live {
    /// Makes the settings that a relay starts with.
    #[must_use]
    pub fn new(config: Arc<Config>) -> Self {
        Self(Arc::new(ArcSwap::new(config)))
    }

    /// Returns the present settings for a short look, not beyond the next `.await`.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<Config>> {
        self.0.load()
    }

    /// Returns the present settings to keep for a while.
    #[must_use]
    pub fn load_full(&self) -> Arc<Config> {
        self.0.load_full()
    }

    fn store(&self, config: Arc<Config>) {
        self.0.store(config);
    }
}

/// Reads the settings of a running relay once more, from where they came.
pub trait SettingsSource: std::fmt::Debug + Send + Sync {
    /// Reads and resolves all settings.
    ///
    /// # Errors
    /// Says what is wrong with them, with every cause.
    fn read(&self) -> Result<Config, String>;

    /// Prepares what the process obeys rather than the relay, such as the filter of the log.
    ///
    /// # Errors
    /// Says why these settings cannot be obeyed.
    fn prepare(&self, config: &Config) -> Result<Obey, String>;
}

/// Obeys settings that were prepared; cannot fail.
pub type Obey = Box<dyn FnOnce() + Send>;

/// Makes what obeying some settings takes, or says why they cannot be obeyed. Changes nothing yet.
pub type Prepare = Box<dyn Fn(&Arc<Config>) -> Result<Obey, String> + Send + Sync>;

/// What a reload has done. Settings are named as in the file, those of a table as `limits.NAME`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reloaded {
    /// Settings that are obeyed from now on.
    pub changed: Vec<String>,
    /// Settings that were written differently, and stay as they were until a restart.
    pub needs_restart: Vec<String>,
}

/// Why nothing was reloaded. Everything is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// The relay is part of another program, which decides over its settings.
    #[error("this relay was started without settings that can be read again")]
    NoSource,
    /// The settings cannot be read or obeyed.
    #[error("{0}")]
    Settings(String),
    /// A defect of the relay's own.
    #[error("reading the settings again failed; the log says why")]
    Failed,
}

/// Replaces the settings of a running relay.
pub struct Reloader {
    live: Live,
    source: Option<Arc<dyn SettingsSource>>,
    parts: Vec<Prepare>,
    /// One at a time: each must see what the one before has done.
    turn: Mutex<()>,
}

impl std::fmt::Debug for Reloader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reloader").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Reloader {
    /// Makes the reloader of a relay, with the parts that make something of their settings.
    #[must_use]
    pub fn new(live: Live, source: Option<Arc<dyn SettingsSource>>, parts: Vec<Prepare>) -> Self {
        Self { live, source, parts, turn: Mutex::default() }
    }

    /// Reads the settings again and obeys what may change at run time; reads and opens files, on
    /// whatever disk these are.
    ///
    /// # Errors
    /// When they cannot be read or obeyed; then nothing has changed.
    pub fn reload(&self) -> Result<Reloaded, ReloadError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let source = self.source.as_ref().ok_or(ReloadError::NoSource)?;
        let mut wanted = source.read().map_err(ReloadError::Settings)?;
        let before = self.live.load_full();
        if wanted.node.is_empty() {
            // The random name of a node lasts as long as its process.
            wanted.node.clone_from(&before.node);
        }
        let next = Arc::new(before.heeding(&wanted));
        let prepared = source.prepare(&next).and_then(|first| {
            let others = self.parts.iter().map(|prepare| prepare(&next));
            std::iter::once(Ok(first)).chain(others).collect::<Result<Vec<Obey>, String>>()
        });
        let prepared = prepared.map_err(ReloadError::Settings)?;
        let reloaded = Reloaded {
            changed: differences(&before, &next),
            needs_restart: differences(&next, &wanted),
        };
        self.live.store(next);
        for obey in prepared {
            obey();
        }
        Ok(reloaded)
    }
}

impl Config {
    /// Returns these settings with those of `wanted` that may change while a relay runs. The others
    /// made listeners, files, keys or URLs that agents know; they stay.
    fn heeding(&self, wanted: &Self) -> Self {
        // A secret may be rotated; another mode would give names other owners.
        let rotated = match (&self.auth, &wanted.auth) {
            (AuthMode::Secret(_), AuthMode::Secret(_)) => wanted,
            // So would another issuer, or another claim: who is `ada` there is somebody else. What
            // else is set beside these was meant for them.
            (AuthMode::Oidc(now), AuthMode::Oidc(next))
                if now.issuer == next.issuer && now.owner_claim == next.owner_claim =>
            {
                wanted
            }
            _ => self,
        };
        let (auth, secret_file) = (rotated.auth.clone(), rotated.secret_file.clone());
        // Its default depends on the mode.
        let same_auth = self.auth.kind() == wanted.auth.kind();
        let share_ttl = if same_auth { wanted.timing.share_ttl } else { self.timing.share_ttl };
        Self {
            auth,
            secret_file,
            proxy_protocol: wanted.proxy_protocol.clone(),
            trusted_proxies: wanted.trusted_proxies.clone(),
            http_mode: wanted.http_mode,
            hsts: wanted.hsts,
            log: wanted.log.clone(),
            access_log: wanted.access_log.clone(),
            traces: wanted.traces.clone(),
            ready_without_database: wanted.ready_without_database,
            labels: wanted.labels.clone(),
            reserved_names_file: wanted.reserved_names_file.clone(),
            abuse_contact: wanted.abuse_contact.clone(),
            limits: wanted.limits.clone(),
            timing: Timing { share_ttl, ..wanted.timing.clone() },
            ..self.clone()
        }
    }
}

/// Names the settings in which two sets differ. Secrets are compared too, and not shown.
fn differences(a: &Config, b: &Config) -> Vec<String> {
    let (before, after) = (written(a), written(b));
    let mut names = Vec::new();
    compare("", &before, &after, &mut names);
    if let (AuthMode::Secret(a), AuthMode::Secret(b)) = (&a.auth, &b.auth)
        && a != b
        && !names.iter().any(|name| name == "secret-file")
    {
        names.push("secret".to_owned());
    }
    // What stands in its file is a setting too.
    let list = "reserved-names-file";
    if a.labels.listed != b.labels.listed && !names.iter().any(|name| name == list) {
        names.push(list.to_owned());
    }
    names
}

fn written(config: &Config) -> Value {
    serde_json::to_value(Layer::from(config)).unwrap_or_default()
}

fn compare(prefix: &str, a: &Value, b: &Value, names: &mut Vec<String>) {
    let (Value::Object(a), Value::Object(b)) = (a, b) else { return };
    for (key, value) in b {
        let (before, name) = (a.get(key).unwrap_or(&Value::Null), format!("{prefix}{key}"));
        if value.is_object() && before.is_object() {
            compare(&format!("{name}."), before, value, names);
        } else if before != value {
            names.push(name);
        }
    }
}

#[cfg(test)]
#[cfg(feature = "bin")]
mod reference;
#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::sync::atomic::{AtomicU32, Ordering};

    use mcpm_shared::token::Token;

    use super::*;
    use crate::config::{Domain, Oidc};

    /// A file that a test writes.
    #[derive(Debug)]
    struct File(Mutex<Result<Config, String>>);

    impl File {
        fn with(config: Config) -> Arc<Self> {
            Arc::new(Self(Mutex::new(Ok(config))))
        }

        fn write(&self, content: Result<Config, String>) {
            *self.0.lock().unwrap() = content;
        }
    }

    impl SettingsSource for File {
        fn read(&self) -> Result<Config, String> {
            self.0.lock().unwrap().clone()
        }

        fn prepare(&self, config: &Config) -> Result<Obey, String> {
            match config.log.as_str() {
                "nonsense" => Err("the log filter `nonsense` cannot be used".to_owned()),
                _ => Ok(Box::new(|| ())),
            }
        }
    }

    fn changed(change: impl FnOnce(&mut Config)) -> Config {
        let mut config = Config::local();
        change(&mut config);
        config
    }

    fn reloader(file: &Arc<File>, parts: Vec<Prepare>) -> (Live, Reloader) {
        let live = Live::new(Arc::new(Config::local()));
        let source = Arc::clone(file) as Arc<dyn SettingsSource>;
        (live.clone(), Reloader::new(live, Some(source), parts))
    }

    #[test]
    fn what_may_change_changes_and_the_rest_is_named_and_stays() {
        let file = File::with(changed(|config| {
            config.limits.requests_per_second = NonZeroU32::new(7);
            config.timing.hold = std::time::Duration::from_secs(1);
            config.http_mode = false;
            config.domain = "share.example.com".parse().unwrap();
            config.listen.set_port(4242);
        }));
        let (live, reloader) = reloader(&file, Vec::new());
        let done = reloader.reload().unwrap();
        assert_eq!(done.changed, ["http-mode", "hold-secs", "limits.requests-per-second"]);
        assert_eq!(done.needs_restart, ["domain", "listen"]);
        assert_eq!(live.load().domain, Domain::localhost());
        assert_eq!(live.load().limits.requests_per_second, NonZeroU32::new(7));
        assert_eq!(reloader.reload().unwrap().changed, [""; 0]);
    }

    #[test]
    fn a_bad_file_changes_nothing_and_no_part_hears_of_it() {
        let obeyed = Arc::new(AtomicU32::new(0));
        let heard = Arc::clone(&obeyed);
        let part: Prepare = Box::new(move |_| {
            let heard = Arc::clone(&heard);
            Ok(Box::new(move || {
                heard.fetch_add(1, Ordering::Relaxed);
            }))
        });
        let file = File::with(Config::local());
        let (live, reloader) = reloader(&file, vec![part]);
        file.write(Err("bad setting `idle-secs`: must be 1 or more".to_owned()));
        let error = reloader.reload().unwrap_err();
        assert_eq!(error.to_string(), "bad setting `idle-secs`: must be 1 or more");
        file.write(Ok(changed(|config| {
            config.log = "nonsense".to_owned();
            config.http_mode = false;
        })));
        assert!(reloader.reload().is_err());
        assert!(live.load().http_mode);
        assert_eq!(obeyed.load(Ordering::Relaxed), 0);
        file.write(Ok(changed(|config| config.http_mode = false)));
        reloader.reload().unwrap();
        assert!(!live.load().http_mode);
        assert_eq!(obeyed.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_secret_is_rotated_and_never_named_by_its_value_but_the_mode_stays() {
        let secret = |text: &str| AuthMode::Secret(vec![Token::new(text)]);
        let (a, b) = (secret("correct horse battery"), secret("staple correct horse"));
        let old = changed(|config| config.auth = a);
        let new = changed(|config| config.auth = b.clone());
        assert_eq!(differences(&old, &old.heeding(&new)), ["secret"]);
        let open = Config::local();
        assert_eq!(open.heeding(&new).auth.kind(), open.auth.kind());
        assert_eq!(differences(&open.heeding(&new), &new), ["auth"]);
    }

    #[test]
    fn only_the_list_of_names_that_changed_is_named() {
        let now = Config::local();
        let brands = changed(|config| config.labels.brands = !config.labels.brands);
        assert_eq!(differences(&now, &brands), ["protect-brands"]);
        // What stands in the file may change while its path does not.
        let listed = changed(|config| config.labels.listed = vec!["corp-*".parse().unwrap()]);
        assert_eq!(differences(&now, &listed), ["reserved-names-file"]);
        let both = Config { reserved_names_file: Some("names".into()), ..listed };
        assert_eq!(differences(&now, &both), ["reserved-names-file"]);
    }

    #[test]
    fn what_is_asked_of_a_providers_tokens_may_change_but_not_who_owns_names() {
        let by = |change: fn(&mut Oidc)| {
            let mut oidc = Oidc {
                issuer: "https://idp.example".to_owned(),
                audiences: vec!["mcpm".to_owned()],
                owner_claim: "sub".to_owned(),
                names_claim: None,
                require: Vec::new(),
                ca: None,
            };
            change(&mut oidc);
            changed(|config| config.auth = AuthMode::Oidc(Arc::new(oidc)))
        };
        let now = by(|_| ());
        let other = by(|oidc| {
            oidc.audiences = vec!["relay".to_owned()];
            oidc.names_claim = Some("names".to_owned());
            oidc.require = vec!["groups=mcp".parse().unwrap()];
        });
        let next = now.heeding(&other);
        let named = ["oidc.audience", "oidc.names-claim", "oidc.require"];
        assert_eq!(differences(&now, &next), named);
        assert_eq!(differences(&next, &other), [""; 0]);
        let moved = by(|oidc| {
            oidc.issuer = "https://other.example".to_owned();
            oidc.audiences = vec!["other".to_owned()];
        });
        assert_eq!(differences(&now, &now.heeding(&moved)), [""; 0]);
        assert_eq!(differences(&now.heeding(&moved), &moved), ["oidc.issuer", "oidc.audience"]);
        let claimed = by(|oidc| oidc.owner_claim = "email".to_owned());
        assert_eq!(differences(&now.heeding(&claimed), &claimed), ["oidc.owner-claim"]);
        let open = Config::local();
        assert!(differences(&open.heeding(&now), &now).contains(&"auth".to_owned()));
    }

    #[test]
    fn an_embedded_relay_has_nothing_to_read_again() {
        let live = Live::new(Arc::new(Config::local()));
        let reloader = Reloader::new(live, None, Vec::new());
        assert_eq!(reloader.reload(), Err(ReloadError::NoSource));
    }
}
