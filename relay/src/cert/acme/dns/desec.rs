//! Records in a domain at deSEC (API v1), which keeps all records of one name and type together.

use std::time::Duration;

use async_trait::async_trait;
use http::header::HeaderValue;
use http::{Method, StatusCode};
use mcpm_shared::token::Token;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Dns, DnsError, Txt, secret_header};
use crate::cert::acme::web::Web;

const API: &str = "https://desec.io/api/v1";
/// The shortest time to live that deSEC takes, in seconds.
const TTL: u32 = 3600;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug)]
pub(super) struct Desec {
    web: Web,
    api: String,
    authorization: HeaderValue,
}

#[derive(Deserialize)]
struct Domain {
    name: String,
}

#[derive(Deserialize, Serialize)]
struct RrSet {
    subname: String,
    r#type: String,
    ttl: u32,
    records: Vec<String>,
}

impl Desec {
    pub(super) fn new(web: Web, token: &Token) -> Result<Self, DnsError> {
        let authorization = secret_header(&format!("Token {}", token.expose()))?;
        Ok(Self { web, api: API.to_owned(), authorization })
    }

    async fn get<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<(StatusCode, Option<T>), BoxError> {
        let url = format!("{}{path}", self.api);
        self.web.json(Method::GET, &url, &self.authorization, None::<&Value>).await
    }

    /// Changes the records of a name; `change` gets those that are there.
    async fn change(
        &self,
        txt: &Txt,
        change: impl FnOnce(&mut Vec<String>) + Send,
    ) -> Result<(), BoxError> {
        let path = format!("/domains/?owns_qname={}", txt.name);
        let domain = match self.get::<Vec<Domain>>(&path).await? {
            (StatusCode::OK, Some(found)) => found.into_iter().next(),
            (status, _) => return Err(format!("the API says {status}").into()),
        };
        let domain = domain.ok_or_else(|| format!("the token sees no domain for {}", txt.name))?;
        let sub = txt.name.strip_suffix(&domain.name).unwrap_or_default().trim_end_matches('.');
        let rrsets = format!("/domains/{}/rrsets/", domain.name);
        let records = match self.get::<RrSet>(&format!("{rrsets}{sub}/TXT/")).await? {
            (StatusCode::OK, Some(found)) => found.records,
            (StatusCode::NOT_FOUND, _) => Vec::new(),
            (status, _) => return Err(format!("the API says {status}").into()),
        };
        let mut rrset =
            RrSet { subname: sub.to_owned(), r#type: "TXT".to_owned(), ttl: TTL, records };
        change(&mut rrset.records);
        // A list of sets may have new ones, and one without records is removed.
        let url = format!("{}{rrsets}", self.api);
        let sets = [rrset];
        let done = self.web.json::<Value>(Method::PATCH, &url, &self.authorization, Some(&sets));
        match done.await? {
            (status, _) if status.is_success() => Ok(()),
            (status, told) => {
                Err(format!("the API says {status}: {}", told.unwrap_or_default()).into())
            }
        }
    }
}

#[async_trait]
impl Dns for Desec {
    async fn add(&self, txt: &Txt) -> Result<(), DnsError> {
        let record = format!("\"{}\"", txt.value);
        let add = |records: &mut Vec<String>| {
            if !records.contains(&record) {
                records.push(record);
            }
        };
        let done = self.change(txt, add).await;
        done.map_err(|error| DnsError::new("add a record at deSEC", error))
    }

    async fn remove(&self, txt: &Txt) -> Result<(), DnsError> {
        let record = format!("\"{}\"", txt.value);
        let done = self.change(txt, |records| records.retain(|one| *one != record)).await;
        done.map_err(|error| DnsError::new("remove a record at deSEC", error))
    }

    /// Their servers take a minute to agree.
    fn usual_wait(&self) -> Duration {
        Duration::from_secs(90)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::{Arc, Mutex};

    use axum::extract::{Query, State};
    use axum::http::HeaderMap;
    use axum::routing::{get, patch};
    use axum::{Json, Router};
    use serde_json::json;

    use super::*;
    use crate::cert::acme::dns::tests::{serve, txt};

    /// The one set of records, if there is any.
    type Kept = Arc<Mutex<Option<Value>>>;

    async fn domains(headers: HeaderMap, Query(query): Query<HashMap<String, String>>) -> Reply {
        if headers["authorization"] != "Token right" {
            return (StatusCode::UNAUTHORIZED, Json(json!({ "detail": "Invalid token." })));
        }
        assert_eq!(query["owns_qname"], "_acme-challenge.a.example.com");
        (StatusCode::OK, Json(json!([{ "name": "example.com" }])))
    }

    type Reply = (StatusCode, Json<Value>);

    async fn one(State(kept): State<Kept>) -> Reply {
        match kept.lock().unwrap().clone() {
            Some(rrset) => (StatusCode::OK, Json(rrset)),
            None => (StatusCode::NOT_FOUND, Json(json!({ "detail": "Not found." }))),
        }
    }

    async fn change(State(kept): State<Kept>, Json(sets): Json<Vec<Value>>) -> Reply {
        let [set] = <[Value; 1]>::try_from(sets).unwrap();
        assert_eq!((&set["subname"], &set["type"]), (&json!("_acme-challenge.a"), &json!("TXT")));
        assert!(set["ttl"].as_u64().unwrap() >= 3600);
        let empty = set["records"].as_array().unwrap().is_empty();
        *kept.lock().unwrap() = (!empty).then_some(set.clone());
        (StatusCode::OK, Json(json!([set])))
    }

    async fn desec(token: &str, kept: &Kept) -> Desec {
        let router = Router::new()
            .route("/domains/", get(domains))
            .route("/domains/example.com/rrsets/", patch(change))
            .route("/domains/example.com/rrsets/_acme-challenge.a/TXT/", get(one))
            .with_state(Arc::clone(kept));
        let token = Token::new(token.to_owned());
        let api = serve(router).await;
        Desec { api, ..Desec::new(Web::new(None).unwrap(), &token).unwrap() }
    }

    #[tokio::test]
    async fn records_of_one_name_are_kept_together() {
        let kept = Kept::default();
        let desec = desec("right", &kept).await;
        for value in ["one", "two", "two"] {
            desec.add(&txt(value)).await.unwrap();
        }
        let records = || kept.lock().unwrap().as_ref().map(|set| set["records"].clone());
        assert_eq!(records(), Some(json!([r#""one""#, r#""two""#])));
        desec.remove(&txt("one")).await.unwrap();
        assert_eq!(records(), Some(json!([r#""two""#])));
        desec.remove(&txt("two")).await.unwrap();
        assert_eq!(records(), None);
    }

    #[tokio::test]
    async fn a_refused_token_is_told() {
        let error = desec("wrong", &Kept::default()).await.add(&txt("one")).await.unwrap_err();
        let told = crate::cert::in_full(&error);
        assert!(told.contains("401 Unauthorized") && !told.contains("wrong"), "{told}");
    }
}
