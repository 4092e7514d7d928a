//! The official MCP Registry over its API v0.1, with a copy on disk that grows by what changed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::StatusCode;
use http::header::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::time::Instant;
use url::Url;

use super::manifest::Manifest;
use super::server_json::{self, META};
use super::{Listing, Origin, Policy, RegistryError, Source, unix_now};
use crate::fs;
use crate::web::{Limits, Web, WebError};

/// A page has up to 100 servers, each of a few kilobytes.
const LIMITS: Limits = Limits { body: 16 * 1024 * 1024, patience: Duration::from_secs(15) };
/// How long one command fetches pages; the next one goes on where it stopped.
const BUDGET: Duration = Duration::from_secs(20);
/// The same for a command that was asked to fetch them all.
const LONG_BUDGET: Duration = Duration::from_secs(600);
/// How many pages are read at most for one search or one round of changes: 100 servers each.
const MAX_PAGES: usize = 1_000;
/// How many pages of a search are read.
const MAX_SEARCH_PAGES: usize = 5;

/// The official registry, or one that speaks as it does.
#[derive(Debug)]
pub(super) struct Official {
    base: Url,
    file: PathBuf,
    web: Arc<Web>,
    policy: Policy,
}

/// What is known of the registry.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Copy {
    url: String,
    /// Whether it was read to its end once.
    complete: bool,
    /// Where to go on reading, when the last round was cut short.
    #[serde(default)]
    cursor: Option<String>,
    /// Up to when changes are known, in the words of the registry.
    #[serde(default)]
    since: Option<String>,
    /// The newest change seen in this round.
    #[serde(default)]
    newest: Option<String>,
    /// When it was last known to be current, in Unix seconds.
    checked_at: u64,
    /// The latest version of each server, by name, as the registry lists it.
    servers: Map<String, Value>,
}

/// One page of a list.
#[derive(Debug, Deserialize)]
struct Page {
    servers: Vec<Value>,
    #[serde(default)]
    metadata: PageMetadata,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMetadata {
    #[serde(default, alias = "next_cursor")]
    next_cursor: Option<String>,
}

impl Official {
    pub(super) fn new(base: Url, file: PathBuf, web: Arc<Web>, policy: Policy) -> Self {
        Self { base, file, web, policy }
    }

    fn copy(&self) -> Copy {
        // A copy that cannot be read is as good as none: it is made again.
        let copy: Option<Copy> = fs::read_json(&self.file).unwrap_or_default();
        let ours = copy.filter(|copy| copy.url == self.base.as_str());
        ours.unwrap_or_else(|| Copy { url: self.base.to_string(), ..Copy::default() })
    }

    fn keep(&self, copy: &Copy) -> Option<RegistryError> {
        fs::write_json(&self.file, copy).err().map(RegistryError::from)
    }

    /// Reads what changed since the last time, or everything. What was read is kept even when the
    /// rest is not to be had.
    async fn sync(&self, copy: &mut Copy) -> Result<(), RegistryError> {
        let budget = if self.policy.is_thorough() { LONG_BUDGET } else { BUDGET };
        let deadline = Instant::now() + budget;
        for _ in 0..MAX_PAGES {
            let mut query = vec![("limit", "100"), ("version", "latest")];
            query.extend(copy.cursor.as_deref().map(|cursor| ("cursor", cursor)));
            if let Some(since) = &copy.since {
                // Changes are only understood whole: what is gone must be told as well.
                query.extend([("updated_since", since.as_str()), ("include_deleted", "true")]);
            }
            let page = match self.page(&query).await {
                Ok(page) => page,
                Err(error) => {
                    if is_refusal(&error) {
                        // A cursor may have become void; the next round begins anew.
                        copy.cursor = None;
                    }
                    return Err(error);
                }
            };
            let next = page.metadata.next_cursor.filter(|cursor| !cursor.is_empty());
            let stuck = next.is_some() && next == copy.cursor;
            page.servers.into_iter().for_each(|item| copy.absorb(item));
            if stuck {
                copy.cursor = None;
                return Err(broken("its pages have no end"));
            }
            copy.cursor = next;
            if copy.cursor.is_none() {
                copy.complete = true;
                copy.since = copy.newest.clone().or(copy.since.take());
                copy.checked_at = unix_now();
                return Ok(());
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        Err(RegistryError::Partial { known: copy.servers.len() })
    }

    async fn page(&self, query: &[(&str, &str)]) -> Result<Page, RegistryError> {
        let mut url = self.at(&["servers"]);
        url.query_pairs_mut().extend_pairs(query);
        let answer = self.web.get(&url, HeaderMap::new(), LIMITS).await.map_err(failed)?;
        if answer.status != StatusCode::OK {
            return Err(self.status(answer.status));
        }
        serde_json::from_slice(&answer.body).map_err(|error| broken(&error.to_string()))
    }

    /// Asks the registry itself, which looks at names only.
    async fn search(&self, query: &str, copy: &mut Copy) -> Result<(), RegistryError> {
        let mut cursor: Option<String> = None;
        for _ in 0..MAX_SEARCH_PAGES {
            let mut pairs = vec![("search", query), ("limit", "100"), ("version", "latest")];
            pairs.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let page = self.page(&pairs).await?;
            for item in page.servers {
                copy.put(item);
            }
            cursor = page.metadata.next_cursor.filter(|next| !next.is_empty());
            if cursor.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Asks for one version of one server.
    async fn one(&self, name: &str, version: &str) -> Result<Option<Value>, RegistryError> {
        let url = self.at(&["servers", name, "versions", version]);
        let answer = self.web.get(&url, HeaderMap::new(), LIMITS).await.map_err(failed)?;
        match answer.status {
            StatusCode::OK => serde_json::from_slice(&answer.body)
                .map(Some)
                .map_err(|error| broken(&error.to_string())),
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(self.status(status)),
        }
    }

    fn at(&self, parts: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            // Names have a slash, which must not divide the path.
            path.pop_if_empty().push("v0.1").extend(parts);
        }
        url
    }

    fn status(&self, status: StatusCode) -> RegistryError {
        failed(WebError::Status {
            host: self.base.host_str().unwrap_or_default().to_owned(),
            status,
        })
    }
}

impl Copy {
    /// Takes what a round of changes says of a server.
    fn absorb(&mut self, item: Value) {
        let meta = &item["_meta"][META];
        let at = meta["updatedAt"].as_str().or_else(|| meta["publishedAt"].as_str());
        if let Some(at) = at.filter(|at| self.newest.as_deref().is_none_or(|newest| newest < *at)) {
            self.newest = Some(at.to_owned());
        }
        self.put(item);
    }

    fn put(&mut self, item: Value) {
        let Some(name) = server_of(&item)["name"].as_str().map(str::to_owned) else { return };
        let meta = &item["_meta"][META];
        if meta["isLatest"] == false {
            return;
        }
        if meta["status"] == "deleted" {
            self.servers.shift_remove(&name);
        } else {
            self.servers.insert(name, item);
        }
    }

    fn manifests(&self) -> Vec<Manifest> {
        self.servers.values().filter_map(manifest).collect()
    }
}

/// Returns the server of a listed item; the API before v0.1 had no shell around it.
fn server_of(item: &Value) -> &Value {
    item.get("server").unwrap_or(item)
}

fn manifest(item: &Value) -> Option<Manifest> {
    server_json::manifest(server_of(item), &item["_meta"][META], Origin::Official)
}

fn failed(source: WebError) -> RegistryError {
    RegistryError::Web { origin: Origin::Official, source }
}

fn broken(reason: &str) -> RegistryError {
    RegistryError::Broken { origin: Origin::Official, reason: reason.to_owned() }
}

fn is_refusal(error: &RegistryError) -> bool {
    let RegistryError::Web { source: WebError::Status { status, .. }, .. } = error else {
        return false;
    };
    status.is_client_error()
}

#[async_trait]
impl Source for Official {
    fn origin(&self) -> Origin {
        Origin::Official
    }

    async fn list(&self, query: Option<&str>) -> Listing {
        let mut copy = self.copy();
        let mut problem = None;
        if self.policy.is_offline() {
            problem = copy.servers.is_empty().then_some(RegistryError::NoCopy(Origin::Official));
        } else if !(copy.complete && self.policy.is_fresh(copy.checked_at)) {
            // Nobody who looks for one word waits for thousands of servers.
            let outcome = match query.filter(|_| !copy.complete && !self.policy.is_thorough()) {
                Some(query) => self.search(query, &mut copy).await,
                None => self.sync(&mut copy).await,
            };
            problem = self.keep(&copy);
            problem = outcome.err().or(problem);
        }
        let mut manifests = copy.manifests();
        manifests.retain(|manifest| query.is_none_or(|query| manifest.matches(query)));
        Listing { manifests, problem }
    }

    async fn find(&self, name: &str, version: Option<&str>) -> Listing {
        let mut copy = self.copy();
        let known = copy.servers.get(name).and_then(manifest);
        let fits =
            |manifest: &Manifest| version.is_none_or(|v| manifest.version.as_deref() == Some(v));
        let known = known.filter(fits);
        let fresh = known.is_some() && copy.complete && self.policy.is_fresh(copy.checked_at);
        if fresh || self.policy.is_offline() {
            let nothing =
                copy.servers.is_empty().then_some(RegistryError::NoCopy(Origin::Official));
            return Listing { manifests: known.into_iter().collect(), problem: nothing };
        }
        match self.one(name, version.unwrap_or("latest")).await {
            Ok(None) => Listing::default(),
            Ok(Some(item)) => {
                let found = manifest(&item);
                copy.put(item);
                Listing { manifests: found.into_iter().collect(), problem: self.keep(&copy) }
            }
            Err(error) => Listing { manifests: known.into_iter().collect(), problem: Some(error) },
        }
    }
}
