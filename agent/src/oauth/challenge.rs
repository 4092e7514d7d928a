//! What a server says with a refusal (RFC 6750 §3, RFC 9728 §5.1).

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;
use rmcp::transport::auth::WWWAuthenticateParams;
use url::Url;

/// Returns the challenge that tells most: the one that names metadata, else the first of OAuth.
pub(super) fn best(headers: &HeaderMap) -> Option<&str> {
    let challenges = || {
        let values = headers.get_all(WWW_AUTHENTICATE).iter();
        values.filter_map(|value| value.to_str().ok()).filter(|value| is_bearer(value))
    };
    challenges().find(|value| value.contains("resource_metadata")).or_else(|| challenges().next())
}

/// Returns the scopes that a refused request would need, when that is why it was refused.
#[must_use]
pub fn missing_scope(headers: &HeaderMap) -> Option<String> {
    let nowhere = Url::parse("http://localhost/").expect("it is a URL");
    let values = headers.get_all(WWW_AUTHENTICATE).iter();
    values.filter_map(|value| value.to_str().ok()).find_map(|value| {
        let params = WWWAuthenticateParams::parse(value, &nowhere);
        let scope = params.scope.as_deref().filter(|_| params.is_insufficient_scope())?;
        // It becomes part of a command line that a person may copy.
        let scopes: Vec<&str> = scope.split_whitespace().filter(|word| is_scope(word)).collect();
        (!scopes.is_empty()).then(|| scopes.join(" "))
    })
}

/// Tells whether a word is a scope (RFC 6749 §3.3), and nothing to a shell within single quotes.
fn is_scope(word: &str) -> bool {
    word.len() <= 200
        && word.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'\''))
}

fn is_bearer(value: &str) -> bool {
    value.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn the_challenge_that_names_metadata_counts() {
        let named = r#"Bearer resource_metadata="https://x.example/m""#;
        assert_eq!(best(&headers(&["Basic realm=x", "bearer scope=a", named])), Some(named));
        assert_eq!(best(&headers(&["Basic realm=x", "bearer scope=a"])), Some("bearer scope=a"));
        assert_eq!(best(&headers(&["Basic realm=x"])), None);
    }

    #[test]
    fn only_a_missing_scope_is_one() {
        let missing = |value| missing_scope(&headers(&[value]));
        let scope = missing(r#"Bearer error="insufficient_scope", scope="a:b c""#);
        assert_eq!(scope.as_deref(), Some("a:b c"));
        assert_eq!(missing(r#"Bearer error="invalid_token", scope="a""#), None);
        assert_eq!(missing(r#"Bearer error="insufficient_scope""#), None);
        let evil = missing(r#"Bearer error="insufficient_scope", scope="a '; rm""#);
        assert_eq!(evil.as_deref(), Some("a rm"));
    }
}
