//! What the apex says of itself: a page for people, and whom to write to.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use time::OffsetDateTime;

use crate::config::Contact;
use crate::proxy::EdgeBody;

/// For how long a `security.txt` says to be good: it is made anew with each request, and whoever
/// keeps a copy should look again soon (RFC 9116 §2.5.5 asks for less than a year).
const SECURITY_TXT_SECS: u64 = 30 * 24 * 3600;

const LANDING: &str = "<!doctype html><html lang=en><meta charset=utf-8>\
    <meta name=viewport content=\"width=device-width\"><title>mcpm relay</title>\
    <style>body{font:16px/1.5 system-ui;max-width:36em;margin:12vh auto;padding:0 1em;color:#222}\
    code{background:#eee;padding:.1em .3em}</style><h1>mcpm relay</h1>\
    <p>This host gives MCP servers on people's own machines a public address. To share one: \
    <code>mcpm share NAME --address &lt;this host&gt;</code></p>";

/// Answers `GET /` of the apex.
pub(super) fn landing(contact: Option<&Contact>) -> Response<EdgeBody> {
    // A contact holds nothing that needs escaping.
    let complaints = contact.map_or(String::new(), |contact| {
        let (uri, words) = (contact.uri(), contact.in_words());
        format!("<p>Report abuse of this relay to <a href=\"{uri}\">{words}</a>.</p>")
    });
    let mut response = text(StatusCode::OK, format!("{LANDING}{complaints}</html>"));
    let headers = response.headers_mut();
    let set = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
        ),
    ];
    for (name, value) in set {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Answers `GET /.well-known/security.txt` (RFC 9116), where there is somebody to write to.
pub(super) fn security_txt(contact: Option<&Contact>, now: u64) -> Response<EdgeBody> {
    let Some(contact) = contact else { return nothing_here() };
    let ends = i64::try_from(now.saturating_add(SECURITY_TXT_SECS)).unwrap_or(i64::MAX);
    let ends = OffsetDateTime::from_unix_timestamp(ends).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = (ends.year(), u8::from(ends.month()), ends.day());
    let body =
        format!("Contact: {}\nExpires: {year:04}-{month:02}-{day:02}T00:00:00Z\n", contact.uri());
    text(StatusCode::OK, body)
}

pub(super) fn nothing_here() -> Response<EdgeBody> {
    text(StatusCode::NOT_FOUND, "nothing here\n")
}

pub(super) fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<EdgeBody> {
    let mut response = Response::new(EdgeBody::from(text.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    async fn body(response: Response<EdgeBody>) -> String {
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn whom_to_write_to_is_said_where_it_is_known() {
        let mail: Contact = "abuse@example.com".parse().unwrap();
        let page: Contact = "https://example.com/abuse".parse().unwrap();
        let told = body(security_txt(Some(&mail), 1_800_000_000)).await;
        assert_eq!(told, "Contact: mailto:abuse@example.com\nExpires: 2027-02-14T00:00:00Z\n");
        assert!(body(landing(Some(&page))).await.contains("href=\"https://example.com/abuse\""));
        assert!(!body(landing(None)).await.contains("abuse"));
        assert_eq!(security_txt(None, 0).status(), 404);
    }

    #[test]
    fn a_contact_is_a_mail_address_or_a_page() {
        for text in ["abuse@example.com", "mailto:abuse@example.com", "https://example.com/report"]
        {
            assert!(text.parse::<Contact>().is_ok(), "{text}");
        }
        for text in ["", "abuse", "http://example.com", "a@b", "a@<b>.c", "https://", "a b@c.d"] {
            assert!(text.parse::<Contact>().is_err(), "{text}");
        }
    }
}
