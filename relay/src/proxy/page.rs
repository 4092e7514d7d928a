//! What a person sees who opens a share in a browser.

use bytes::Bytes;
use http::Response;
use http::header::{self, HeaderValue};
use mcpm_shared::name::Name;

use super::body::EdgeBody;

/// Answers a browser with a page that says what this is. It knows nothing secret and runs nothing.
#[must_use]
pub(super) fn share(name: &Name) -> Response<EdgeBody> {
    // A name holds only [a-z0-9-], so it needs no escaping.
    let html = format!(
        "<!doctype html><html lang=en><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width\"><meta name=robots content=noindex>\
         <title>{name}</title><style>body{{font:16px/1.5 system-ui;max-width:36em;margin:12vh auto;\
         padding:0 1em;color:#222}}code{{background:#eee;padding:.1em .3em}}</style>\
         <h1>{name}</h1><p>This is the address of an MCP server that somebody shares from their own \
         machine. It is made for MCP clients: add this page's address followed by \
         <code>/mcp</code> to yours, with the token you were given as \
         <code>Authorization: Bearer …</code>.</p></html>",
    );
    let mut response = Response::new(EdgeBody::from(Bytes::from(html)));
    let headers = response.headers_mut();
    let set = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; \
             form-action 'none'; base-uri 'none'; sandbox",
        ),
    ];
    for (name, value) in set {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
