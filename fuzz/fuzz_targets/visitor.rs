//! What a visitor presents: no head makes the gate panic, and the link secret never survives stripping.
#![no_main]

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Uri};
use libfuzzer_sys::fuzz_target;
use mcpm_shared::access::{self, AccessPolicy, Presented};

fuzz_target!(|request: (&str, &[u8], &[u8])| {
    let (path, authorization, secret) = request;
    let mut headers = HeaderMap::new();
    for (name, value) in [("authorization", authorization), ("x-mcpm-secret", secret)] {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name, value);
        }
    }
    let Ok(uri) = path.parse::<Uri>() else { return };
    let Some(target) = uri.path_and_query() else { return };
    let presented = Presented::from_request(&headers, target.query());
    assert!(AccessPolicy::default().evaluate(&presented, 0).is_err(), "nobody has a grant");

    let stripped = access::strip_link_secret(target.as_str());
    let query = stripped.split_once('?').map_or("", |(_, query)| query);
    assert!(query.split('&').all(|pair| !pair.starts_with("s=")), "{stripped} keeps a secret");
    assert!(stripped.parse::<PathAndQuery>().is_ok(), "{stripped} is no request target");
});
