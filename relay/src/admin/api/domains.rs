//! Custom domains over HTTP.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;

use super::{Answer, Api, ApiError, parse_name};
use crate::admission::unix_now;
use crate::domains::Checker;
use crate::host::CustomDomain;
use crate::operator::domains::{self, DomainEntry};
use crate::operator::parse_owner;

pub(super) async fn list(State(api): State<Api>) -> Answer<Vec<DomainEntry>> {
    Ok(Json(domains::domains(&*api.tunnels.store).await?))
}

/// Whose a domain is, and where it leads.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    owner: String,
    name: String,
}

pub(super) async fn add(
    State(api): State<Api>,
    Path(domain): Path<String>,
    body: Result<Json<Wish>, JsonRejection>,
) -> Answer<DomainEntry> {
    let (domain, Json(wish)) = (parse(&domain)?, body?);
    let (owner, name) = (parse_owner(&wish.owner)?, parse_name(&wish.name)?);
    let checker = checker(&api);
    let (store, apex) = (&*api.tunnels.store, checker.apex.as_deref());
    Ok(Json(domains::add_domain(store, apex, domain, &owner, name, unix_now()).await?))
}

pub(super) async fn verify(
    State(api): State<Api>,
    Path(domain): Path<String>,
) -> Answer<DomainEntry> {
    let (domain, checker) = (parse(&domain)?, checker(&api));
    Ok(Json(domains::verify_domain(&*api.tunnels.store, &checker, &domain, unix_now()).await?))
}

pub(super) async fn remove(
    State(api): State<Api>,
    Path(domain): Path<String>,
) -> Result<StatusCode, ApiError> {
    domains::remove_domain(&*api.tunnels.store, &parse(&domain)?, unix_now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn checker(api: &Api) -> Checker {
    Checker::new(&api.tunnels.config.load())
}

fn parse(text: &str) -> Result<CustomDomain, ApiError> {
    text.parse().map_err(|error| ApiError::Invalid(format!("{error}")))
}
