//! The listener for plain HTTP: sends visitors to HTTPS, and shows proofs to authorities.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};

use super::{Edge, EdgeBody, nothing_here, path_of, request_host, text};
use crate::error::EdgeError;
use crate::host::Target;

/// Where an authority looks for a proof (RFC 8555 §8.3).
const PROOFS: &str = "/.well-known/acme-challenge/";

impl Edge {
    /// Answers a request that came by plain HTTP where HTTPS is spoken.
    pub(super) fn redirect<B>(&self, request: &Request<B>) -> Response<EdgeBody> {
        if let Some(token) = request.uri().path().strip_prefix(PROOFS) {
            let proof = self.cert.as_ref().and_then(|cert| cert.http_proof(token));
            return proof.map_or_else(nothing_here, |proof| {
                let mut response = text(StatusCode::OK, "");
                *response.body_mut() = EdgeBody::from(Bytes::from(proof));
                response
            });
        }
        let misdirected = || EdgeError::WrongHost.response(false, None).map(EdgeBody::from);
        let Some(host) = request_host(request) else { return misdirected() };
        let host = match self.apex.classify(host) {
            Target::Apex => self.config.load().domain.host(),
            Target::Share(name) => format!("{name}.{}", self.config.load().domain),
            Target::Custom(route) => route.domain.to_string(),
            Target::Unknown => return misdirected(),
        };
        let target = format!("{}{}", self.public.origin(&host), path_of(request));
        let Ok(target) = HeaderValue::try_from(target) else { return misdirected() };
        // Method and body stay as they are (RFC 9110 §15.4.9).
        let mut response = text(StatusCode::PERMANENT_REDIRECT, "this is served by HTTPS only\n");
        response.headers_mut().insert(header::LOCATION, target);
        response
    }
}
