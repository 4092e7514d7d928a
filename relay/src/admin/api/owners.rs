//! Owners: what they have and use, what they are granted, and whether they are shut out.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;

use super::{Answer, Api, ApiError};
use crate::admission::unix_now;
use crate::operator::{self, Change, OwnerDetail, OwnerEntry, QuotaChange};
use crate::store::OwnerQuota;

pub(super) async fn list(State(api): State<Api>) -> Answer<Vec<OwnerEntry>> {
    Ok(Json(operator::owners(&*api.tunnels.store, unix_now()).await?))
}

pub(super) async fn show(State(api): State<Api>, Path(owner): Path<String>) -> Answer<OwnerDetail> {
    let owner = operator::parse_owner(&owner)?;
    Ok(Json(operator::owner(&*api.tunnels.store, &owner, unix_now()).await?))
}

/// What an owner is granted from now on, in place of everything granted before.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Quota {
    #[serde(default)]
    max_shares: Option<u32>,
    #[serde(default)]
    names_per_hour: Option<u64>,
    #[serde(default)]
    requests_per_day: Option<u64>,
    #[serde(default)]
    bytes_per_day: Option<u64>,
    #[serde(default)]
    max_streams: Option<u64>,
}

pub(super) async fn set_quota(
    State(api): State<Api>,
    Path(owner): Path<String>,
    body: Result<Json<Quota>, JsonRejection>,
) -> Answer<OwnerQuota> {
    let (owner, Json(quota)) = (operator::parse_owner(&owner)?, body?);
    let change = QuotaChange {
        max_shares: Change::replacing(quota.max_shares),
        names_per_hour: Change::replacing(quota.names_per_hour),
        requests_per_day: Change::replacing(quota.requests_per_day),
        bytes_per_day: Change::replacing(quota.bytes_per_day),
        max_streams: Change::replacing(quota.max_streams),
    };
    Ok(Json(operator::set_quota(&*api.tunnels.store, &owner, change, unix_now()).await?))
}

/// Why an owner is shut out.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Block {
    #[serde(default)]
    note: String,
}

pub(super) async fn block(
    State(api): State<Api>,
    Path(owner): Path<String>,
    body: Result<Json<Block>, JsonRejection>,
) -> Answer<OwnerQuota> {
    let (owner, Json(block)) = (operator::parse_owner(&owner)?, body?);
    let store = &*api.tunnels.store;
    Ok(Json(operator::block_owner(store, &owner, block.note, unix_now()).await?))
}

pub(super) async fn unblock(
    State(api): State<Api>,
    Path(owner): Path<String>,
) -> Result<StatusCode, ApiError> {
    let owner = operator::parse_owner(&owner)?;
    match operator::unblock_owner(&*api.tunnels.store, &owner, unix_now()).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(ApiError::NotFound(format!("the owner `{owner}` is not blocked"))),
    }
}
