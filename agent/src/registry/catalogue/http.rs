//! The catalogue over HTTP, with a copy on disk that is asked about by `ETag` and date.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::StatusCode;
use http::header::{
    ETAG, HeaderMap, HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::Url;

use super::super::manifest::Manifest;
use super::super::{Listing, Origin, Policy, RegistryError, Source, unix_now};
use crate::fs;
use crate::web::{Answer, Limits, Web, WebError};

/// The catalogue has about 3 MB; the limit leaves room for ten times its servers.
const LIMITS: Limits = Limits { body: 32 * 1024 * 1024, patience: Duration::from_secs(20) };

/// A catalogue somewhere on the web.
#[derive(Debug)]
pub(crate) struct Catalogue {
    url: Url,
    file: PathBuf,
    /// The copy of the Python `mcpm`, when it is one of the same catalogue.
    python: Option<PathBuf>,
    web: Arc<Web>,
    policy: Policy,
}

/// The last good answer.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Copy {
    url: String,
    #[serde(default)]
    etag: Option<String>,
    #[serde(default)]
    last_modified: Option<String>,
    /// When it was last known to be current, in Unix seconds.
    checked_at: u64,
    servers: Map<String, Value>,
}

impl Catalogue {
    pub(crate) fn new(
        url: Url,
        file: PathBuf,
        python: Option<PathBuf>,
        web: Arc<Web>,
        policy: Policy,
    ) -> Self {
        Self { url, file, python, web, policy }
    }

    /// Returns the servers, as current as the policy wants and the network allows, and what went
    /// wrong meanwhile.
    async fn servers(&self) -> (Map<String, Value>, Option<RegistryError>) {
        let copy = self.copy();
        if self.policy.is_fresh(copy.checked_at) || self.policy.is_offline() {
            let nothing =
                copy.servers.is_empty().then_some(RegistryError::NoCopy(Origin::Catalogue));
            return (copy.servers, nothing);
        }
        match self.fetch(&copy).await {
            Ok(copy) => {
                let problem = self.keep(&copy).err();
                (copy.servers, problem)
            }
            Err(error) => (copy.servers, Some(error)),
        }
    }

    fn copy(&self) -> Copy {
        // A copy that cannot be read is as good as none: it is made again.
        let ours: Option<Copy> = fs::read_json(&self.file).unwrap_or_default();
        ours.filter(|copy| copy.url == self.url.as_str())
            .or_else(|| self.pythons())
            .unwrap_or_default()
    }

    fn pythons(&self) -> Option<Copy> {
        let cache: Value = fs::read_json(self.python.as_deref()?).ok()??;
        let servers = cache["servers"].as_object()?.clone();
        Some(Copy { url: self.url.to_string(), servers, ..Copy::default() })
    }

    fn keep(&self, copy: &Copy) -> Result<(), RegistryError> {
        Ok(fs::write_json(&self.file, copy)?)
    }

    async fn fetch(&self, copy: &Copy) -> Result<Copy, RegistryError> {
        let mut headers = HeaderMap::new();
        let mut condition = |name: HeaderName, value: &Option<String>| {
            let value = value.as_deref().and_then(|value| HeaderValue::from_str(value).ok());
            value.map(|value| headers.insert(name, value))
        };
        if !copy.servers.is_empty() {
            condition(IF_NONE_MATCH, &copy.etag);
            condition(IF_MODIFIED_SINCE, &copy.last_modified);
        }
        let answer = self.web.get(&self.url, headers, LIMITS).await.map_err(|e| self.failed(e))?;
        match answer.status {
            StatusCode::NOT_MODIFIED => Ok(Copy { checked_at: unix_now(), ..copy.clone() }),
            StatusCode::OK => self.read(&answer),
            status => {
                let host = self.url.host_str().unwrap_or_default().to_owned();
                Err(self.failed(WebError::Status { host, status }))
            }
        }
    }

    fn read(&self, answer: &Answer) -> Result<Copy, RegistryError> {
        let broken = |reason: String| RegistryError::Broken { origin: Origin::Catalogue, reason };
        let servers: Map<String, Value> =
            serde_json::from_slice(&answer.body).map_err(|error| broken(error.to_string()))?;
        if super::parse(&servers, Origin::Catalogue).is_empty() {
            return Err(broken("there is no server in it".to_owned()));
        }
        let header = |name: HeaderName| {
            let value = answer.headers.get(name)?.to_str().ok()?;
            Some(value.to_owned())
        };
        Ok(Copy {
            url: self.url.to_string(),
            etag: header(ETAG),
            last_modified: header(LAST_MODIFIED),
            checked_at: unix_now(),
            servers,
        })
    }

    fn failed(&self, source: WebError) -> RegistryError {
        RegistryError::Web { origin: Origin::Catalogue, source }
    }
}

#[async_trait]
impl Source for Catalogue {
    fn origin(&self) -> Origin {
        Origin::Catalogue
    }

    async fn list(&self, query: Option<&str>) -> Listing {
        let (servers, problem) = self.servers().await;
        let mut manifests = super::parse(&servers, Origin::Catalogue);
        manifests.retain(|manifest| query.is_none_or(|query| manifest.matches(query)));
        Listing { manifests, problem }
    }

    async fn find(&self, name: &str, _version: Option<&str>) -> Listing {
        let (servers, problem) = self.servers().await;
        Listing { manifests: find(&servers, name).into_iter().collect(), problem }
    }
}

/// Finds a manifest by its key, or by the name inside where only one has it.
fn find(servers: &Map<String, Value>, name: &str) -> Option<Manifest> {
    if let Some(value) = servers.get(name) {
        return super::manifest(name, value, Origin::Catalogue);
    }
    let mut named = servers.iter().filter(|(_, value)| value["name"] == name);
    match (named.next(), named.next()) {
        (Some((key, value)), None) => super::manifest(key, value, Origin::Catalogue),
        _ => None,
    }
}
