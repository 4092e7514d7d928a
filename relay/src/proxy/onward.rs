//! A visitor's request made the relay's own.

use http::header::{self, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use http::{Request, Uri, Version};
use mcpm_shared::access::{LINK_HEADER, Source, strip_link_secret};
use mcpm_shared::proto::ShareMode;

use super::Visitor;
use crate::headers::{self, Forwarded};
use crate::host;
use crate::tunnel::share::Share;
use crate::tunnel::visitor_body::RequestBody;

/// Makes the visitor's request the relay's own. The visitor's credential stays in it: the agent
/// judges again, and strips it.
pub(super) fn forwardable(
    request: Request<RequestBody>,
    path: &PathAndQuery,
    link: Option<HeaderValue>,
    source: Source,
    visitor: Visitor,
    share: &Share,
    upgrade: bool,
) -> (Request<RequestBody>, Forwarded) {
    let (mut parts, body) = request.into_parts();
    let host = visitor_host(&parts.headers, &parts.uri);
    let protocol = parts.headers.get(header::UPGRADE).cloned().filter(|_| upgrade);
    headers::remove_hop_by_hop(&mut parts.headers);
    // The relay's own server has answered it with `100 Continue`.
    parts.headers.remove(header::EXPECT);
    headers::remove_relay_claims(&mut parts.headers);
    if parts.headers.get(header::HOST) != Some(&host) {
        parts.headers.insert(header::HOST, host.clone());
    }
    if let Some(secret) = link.filter(|_| source == Source::Link) {
        parts.headers.insert(LINK_HEADER, secret);
    }
    if let Some(protocol) = protocol {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(header::UPGRADE, protocol);
    }
    // The link secret never travels in a URL beyond this point; `s` is the visitor's own on a
    // share of mode `http` that has no link.
    let stripped = if source == Source::Link || share.facts.mode == ShareMode::Mcp {
        strip_link_secret(path.as_str()).parse().unwrap_or_else(|_| path.clone())
    } else {
        path.clone()
    };
    parts.uri = Uri::from(stripped);
    parts.version = Version::HTTP_11;
    if !upgrade {
        parts.extensions.clear();
    }
    let prefix = visitor.by_path.then(|| host::share_prefix(&share.facts.name));
    let forwarded = Forwarded { visitor: visitor.address, https: visitor.https, host, prefix };
    (Request::from_parts(parts, body), forwarded)
}

/// Returns the host the visitor asked for: `Host`, or `:authority` in HTTP/2.
pub(super) fn visitor_host(headers: &HeaderMap, uri: &Uri) -> HeaderValue {
    let authority = uri.authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok());
    let host = authority.or_else(|| headers.get(header::HOST).cloned());
    host.unwrap_or(HeaderValue::from_static(""))
}

/// Returns `path` with the query of `of`.
pub(super) fn with_path(path: &str, of: &PathAndQuery) -> PathAndQuery {
    if of.path() == path {
        return of.clone();
    }
    let joined = match of.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    joined.parse().unwrap_or_else(|_| of.clone())
}
