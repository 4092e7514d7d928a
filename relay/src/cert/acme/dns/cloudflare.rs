//! Records in a zone at Cloudflare (API v4). The token needs `Zone.DNS: Edit` on the zone.

use std::time::Duration;

use async_trait::async_trait;
use http::Method;
use http::header::HeaderValue;
use mcpm_shared::token::Token;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Dns, DnsError, Txt, secret_header};
use crate::cert::acme::web::Web;

const API: &str = "https://api.cloudflare.com/client/v4";
/// The shortest time to live that all plans have, in seconds.
const TTL: u32 = 60;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug)]
pub(super) struct Cloudflare {
    web: Web,
    api: String,
    authorization: HeaderValue,
}

/// What every answer is wrapped in.
#[derive(Deserialize)]
struct Answer<T> {
    success: bool,
    #[serde(default)]
    errors: Vec<Complaint>,
    result: Option<T>,
}

#[derive(Deserialize)]
struct Complaint {
    code: i64,
    message: String,
}

#[derive(Deserialize)]
struct Zone {
    id: String,
}

#[derive(Deserialize)]
struct Found {
    id: String,
    content: String,
}

impl Cloudflare {
    pub(super) fn new(web: Web, token: &Token) -> Result<Self, DnsError> {
        let authorization = secret_header(&format!("Bearer {}", token.expose()))?;
        Ok(Self { web, api: API.to_owned(), authorization })
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Option<T>, BoxError> {
        let url = format!("{}{path}", self.api);
        let answer = self.web.json::<Answer<T>>(method, &url, &self.authorization, body);
        match answer.await? {
            (_, Some(Answer { success: true, result, .. })) => Ok(result),
            (status, Some(Answer { errors, .. })) => {
                let told: Vec<String> =
                    errors.iter().map(|one| format!("{} ({})", one.message, one.code)).collect();
                Err(format!("the API says {status}: {}", told.join(", ")).into())
            }
            (status, None) => Err(format!("the API says {status}").into()),
        }
    }

    /// Finds the zone that a name is in: the longest one that the token may see.
    async fn zone(&self, name: &str) -> Result<String, BoxError> {
        for zone in std::iter::successors(Some(name), |name| Some(name.split_once('.')?.1)) {
            let path = format!("/zones?name={zone}");
            let found: Option<Vec<Zone>> = self.ask(Method::GET, &path, None).await?;
            if let Some(zone) = found.and_then(|found| found.into_iter().next()) {
                return Ok(zone.id);
            }
        }
        Err(format!("the token sees no zone for {name}").into())
    }

    /// Returns the ids of the records that are equal to this one.
    async fn find(&self, zone: &str, txt: &Txt) -> Result<Vec<String>, BoxError> {
        let path = format!("/zones/{zone}/dns_records?type=TXT&name={}&per_page=100", txt.name);
        let found: Option<Vec<Found>> = self.ask(Method::GET, &path, None).await?;
        let same = |found: &Found| found.content.trim_matches('"') == txt.value;
        let found = found.unwrap_or_default().into_iter();
        Ok(found.filter(same).map(|found| found.id).collect())
    }

    async fn try_add(&self, txt: &Txt) -> Result<(), BoxError> {
        let zone = self.zone(&txt.name).await?;
        if !self.find(&zone, txt).await?.is_empty() {
            return Ok(());
        }
        let content = format!("\"{}\"", txt.value);
        let record = json!({ "type": "TXT", "name": txt.name, "content": content, "ttl": TTL });
        let path = format!("/zones/{zone}/dns_records");
        self.ask::<Value>(Method::POST, &path, Some(&record)).await.map(drop)
    }

    async fn try_remove(&self, txt: &Txt) -> Result<(), BoxError> {
        let zone = self.zone(&txt.name).await?;
        for id in self.find(&zone, txt).await? {
            let path = format!("/zones/{zone}/dns_records/{id}");
            self.ask::<Value>(Method::DELETE, &path, None).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Dns for Cloudflare {
    async fn add(&self, txt: &Txt) -> Result<(), DnsError> {
        let done = self.try_add(txt).await;
        done.map_err(|error| DnsError::new("add a record at Cloudflare", error))
    }

    async fn remove(&self, txt: &Txt) -> Result<(), DnsError> {
        let done = self.try_remove(txt).await;
        done.map_err(|error| DnsError::new("remove a record at Cloudflare", error))
    }

    fn usual_wait(&self) -> Duration {
        Duration::from_secs(20)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::{Arc, Mutex};

    use axum::extract::{Path, Query, State};
    use axum::http::{HeaderMap, StatusCode};
    use axum::routing::{delete, get};
    use axum::{Json, Router};

    use super::*;
    use crate::cert::acme::dns::tests::{serve, txt};

    type Records = Arc<Mutex<Vec<Value>>>;

    async fn zones(headers: HeaderMap, Query(query): Query<HashMap<String, String>>) -> Reply {
        if headers["authorization"] != "Bearer right" {
            let errors = json!([{ "code": 9109, "message": "Invalid access token" }]);
            return (StatusCode::FORBIDDEN, Json(json!({ "success": false, "errors": errors })));
        }
        match query["name"].as_str() {
            "example.com" => good(json!([{ "id": "z1" }])),
            _ => good(json!([])),
        }
    }

    type Reply = (StatusCode, Json<Value>);

    fn good(result: Value) -> Reply {
        (StatusCode::OK, Json(json!({ "success": true, "errors": [], "result": result })))
    }

    async fn list(
        State(records): State<Records>,
        Query(query): Query<HashMap<String, String>>,
    ) -> Reply {
        let records = records.lock().unwrap();
        good(records.iter().filter(|one| one["name"] == query["name"].as_str()).cloned().collect())
    }

    async fn create(State(records): State<Records>, Json(mut record): Json<Value>) -> Reply {
        let mut records = records.lock().unwrap();
        record["id"] = json!(format!("r{}", records.len()));
        records.push(record.clone());
        good(record)
    }

    async fn forget(State(records): State<Records>, Path(id): Path<String>) -> Reply {
        records.lock().unwrap().retain(|one| one["id"] != id.as_str());
        good(json!({ "id": id }))
    }

    async fn cloudflare(token: &str, records: &Records) -> Cloudflare {
        let router = Router::new()
            .route("/zones", get(zones))
            .route("/zones/z1/dns_records", get(list).post(create))
            .route("/zones/z1/dns_records/{id}", delete(forget))
            .with_state(Arc::clone(records));
        let token = Token::new(token.to_owned());
        let api = serve(router).await;
        Cloudflare { api, ..Cloudflare::new(Web::new(None).unwrap(), &token).unwrap() }
    }

    #[tokio::test]
    async fn records_are_added_once_and_removed_each_for_itself() {
        let records = Records::default();
        let cloudflare = cloudflare("right", &records).await;
        for value in ["one", "two", "two"] {
            cloudflare.add(&txt(value)).await.unwrap();
        }
        let contents = || -> Vec<String> {
            let records = records.lock().unwrap();
            records.iter().map(|one| one["content"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(contents(), [r#""one""#, r#""two""#]);
        cloudflare.remove(&txt("one")).await.unwrap();
        cloudflare.remove(&txt("one")).await.unwrap();
        assert_eq!(contents(), [r#""two""#]);
    }

    #[tokio::test]
    async fn what_the_api_says_is_told_without_the_token() {
        let records = Records::default();
        let error = cloudflare("wrong", &records).await.add(&txt("one")).await.unwrap_err();
        let told = crate::cert::in_full(&error);
        assert!(told.contains("403 Forbidden: Invalid access token (9109)"), "{told}");
        assert!(!told.contains("wrong"));
    }
}
