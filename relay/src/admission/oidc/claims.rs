//! What the claims of a token mean here. Pure: the clock is an argument.

use mcpm_shared::assertion::LEEWAY_SECS;
use serde_json::{Map, Value};

use crate::config::Oidc;
use crate::grants::{MAX_PATTERNS, NamePattern, NamePatterns, is_subject};

/// Whom a token speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Who owns the names that are claimed with it.
    pub subject: String,
    /// The names it allows.
    pub names: NamePatterns,
    /// When it ends, in Unix seconds, with the leeway.
    pub expires_at: u64,
}

/// Why a token of the issuer does not do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimsError {
    /// Another issuer made it.
    #[error("the token was issued by `{0}`, which is not the relay's identity provider")]
    Issuer(String),
    /// It is for another program.
    #[error("the token is meant for another audience than this relay")]
    Audience,
    /// Its time is over.
    #[error("the token of your identity provider has expired")]
    Expired,
    /// It is not good yet.
    #[error("the token of your identity provider is not good yet")]
    Early,
    /// It is bound to another key.
    #[error("the token is bound to another key than this agent's")]
    Bound,
    /// A claim that must be there is not, or cannot be used.
    #[error("the token has no claim `{0}` that can be used")]
    Missing(String),
    /// The mail address is not known to be the user's.
    #[error("your identity provider has not verified your mail address")]
    Unverified,
    /// A claim does not say what the operator asks for.
    #[error("the operator of this relay asks for the claim `{claim}` to be `{value}`")]
    Required {
        /// The claim.
        claim: String,
        /// What it must say.
        value: String,
    },
    /// It allows no name.
    #[error("the claim `{0}` of the token allows no name")]
    NoNames(String),
}

impl ClaimsError {
    /// Tells whether the token is good, and its holder may not do what is asked.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Required { .. } | Self::NoNames(_) | Self::Unverified)
    }
}

/// Reads the claims of a token whose signature holds.
pub(super) fn identity(
    settings: &Oidc,
    claims: &Map<String, Value>,
    thumbprint: &str,
    now: u64,
) -> Result<Identity, ClaimsError> {
    let issuer = claims.get("iss").and_then(Value::as_str).unwrap_or_default();
    if issuer != settings.issuer {
        return Err(ClaimsError::Issuer(issuer.to_owned()));
    }
    let for_us = |value: &Value| settings.audiences.iter().any(|audience| value == audience);
    let audience = match claims.get("aud") {
        Some(Value::Array(all)) => all.iter().any(for_us),
        Some(one) => for_us(one),
        None => false,
    };
    if !audience {
        return Err(ClaimsError::Audience);
    }
    let expires_at = check_times(claims, now)?;
    check_binding(claims, thumbprint)?;
    for required in &settings.require {
        let said = find(claims, &required.claim);
        if !said.is_some_and(|said| says(said, &required.value)) {
            let (claim, value) = (required.claim.clone(), required.value.clone());
            return Err(ClaimsError::Required { claim, value });
        }
    }
    let subject = subject(claims, &settings.owner_claim)?;
    let names = match &settings.names_claim {
        None => NamePatterns::any(),
        Some(claim) => names(claims, claim)?,
    };
    Ok(Identity { subject, names, expires_at })
}

fn check_times(claims: &Map<String, Value>, now: u64) -> Result<u64, ClaimsError> {
    let ends = claims.get("exp").and_then(seconds);
    let ends = ends.ok_or_else(|| ClaimsError::Missing("exp".to_owned()))?;
    let expires_at = ends.saturating_add(LEEWAY_SECS);
    if now >= expires_at {
        return Err(ClaimsError::Expired);
    }
    for claim in ["nbf", "iat"] {
        let Some(value) = claims.get(claim) else { continue };
        let begins = seconds(value).ok_or_else(|| ClaimsError::Missing(claim.to_owned()))?;
        if begins > now.saturating_add(LEEWAY_SECS) {
            return Err(ClaimsError::Early);
        }
    }
    Ok(expires_at)
}

/// Returns a `NumericDate`, which may have a fraction (RFC 7519 §2).
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "seconds below zero or beyond all time saturate"
)]
fn seconds(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_f64().map(|seconds| seconds as u64))
}

/// A token that is bound to a key is good with that key alone (RFC 7800, RFC 9449 §6). Other bonds
/// than to a thumbprint cannot be shown to this relay.
fn check_binding(claims: &Map<String, Value>, thumbprint: &str) -> Result<(), ClaimsError> {
    match claims.get("cnf") {
        None => Ok(()),
        Some(bond) if bond.get("jkt").and_then(Value::as_str) == Some(thumbprint) => Ok(()),
        Some(_) => Err(ClaimsError::Bound),
    }
}

fn subject(claims: &Map<String, Value>, claim: &str) -> Result<String, ClaimsError> {
    let missing = || ClaimsError::Missing(claim.to_owned());
    let subject = match find(claims, claim) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => return Err(missing()),
    };
    if !is_subject(&subject) {
        return Err(missing());
    }
    // With some issuers anybody may write any address into their profile.
    // Some say so in words.
    let said = claims.get("email_verified").filter(|said| !said.is_null());
    let unverified = said.is_some_and(|said| !says(said, "true"));
    if claim == "email" && unverified {
        return Err(ClaimsError::Unverified);
    }
    Ok(subject)
}

/// Reads patterns out of a list, or a text with blanks or commas in between. What is no pattern is
/// passed over: the claim may hold other groups too.
fn names(claims: &Map<String, Value>, claim: &str) -> Result<NamePatterns, ClaimsError> {
    let texts: Vec<&str> = match find(claims, claim) {
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(text)) => text.split([' ', ',']).collect(),
        _ => return Err(ClaimsError::NoNames(claim.to_owned())),
    };
    let patterns: Vec<NamePattern> =
        texts.into_iter().filter_map(|text| text.parse().ok()).take(MAX_PATTERNS).collect();
    match patterns.is_empty() {
        true => Err(ClaimsError::NoNames(claim.to_owned())),
        false => Ok(NamePatterns::new(patterns)),
    }
}

/// Finds a claim by its name, or by a path with dots such as `realm_access.roles`.
fn find<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    if let Some(found) = claims.get(name) {
        return Some(found);
    }
    let mut parts = name.split('.');
    let first = claims.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.get(part))
}

fn says(said: &Value, wanted: &str) -> bool {
    match said {
        Value::Array(all) => all.iter().any(|one| says(one, wanted)),
        Value::String(text) => text == wanted,
        Value::Bool(said) => wanted == if *said { "true" } else { "false" },
        Value::Number(said) => said.to_string() == wanted,
        Value::Null | Value::Object(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::OidcRequirement;

    const NOW: u64 = 1_800_000_000;

    fn settings() -> Oidc {
        Oidc {
            issuer: "https://idp.example".to_owned(),
            audiences: vec!["mcpm".to_owned(), "other".to_owned()],
            owner_claim: "sub".to_owned(),
            names_claim: None,
            require: Vec::new(),
            ca: None,
        }
    }

    fn read(settings: &Oidc, changes: &Value) -> Result<Identity, ClaimsError> {
        let mut claims = json!({
            "iss": "https://idp.example", "aud": "mcpm", "sub": "ada", "exp": NOW + 60,
        });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let claims = claims.as_object().unwrap().clone();
        let claims = claims.into_iter().filter(|(_, value)| !value.is_null()).collect();
        identity(settings, &claims, "thumb", NOW)
    }

    #[test]
    fn a_token_says_who_and_until_when() {
        let ada = read(&settings(), &json!({})).unwrap();
        assert_eq!((ada.subject.as_str(), ada.expires_at), ("ada", NOW + 60 + LEEWAY_SECS));
        assert_eq!(ada.names, NamePatterns::any());
        read(&settings(), &json!({ "aud": ["x", "other"], "exp": NOW as f64 + 0.5 })).unwrap();
    }

    #[test]
    fn issuer_audience_times_and_binding_must_fit() {
        for (changes, error) in [
            (json!({ "iss": "https://idp.example/" }), "issued by"),
            (json!({ "iss": null }), "issued by"),
            (json!({ "aud": "mcp" }), "audience"),
            (json!({ "aud": null }), "audience"),
            (json!({ "aud": [["mcpm"]] }), "audience"),
            (json!({ "exp": NOW - LEEWAY_SECS }), "expired"),
            (json!({ "exp": null }), "`exp`"),
            (json!({ "exp": "never" }), "`exp`"),
            (json!({ "nbf": NOW + 31 }), "not good yet"),
            (json!({ "iat": NOW + 31 }), "not good yet"),
            (json!({ "cnf": { "jkt": "other" } }), "bound"),
            (json!({ "cnf": { "x5t#S256": "thumb" } }), "bound"),
            (json!({ "sub": "" }), "`sub`"),
            (json!({ "sub": "two words" }), "`sub`"),
            (json!({ "sub": ["ada"] }), "`sub`"),
        ] {
            let told = read(&settings(), &changes).unwrap_err().to_string();
            assert!(told.contains(error), "{changes}: {told}");
        }
        for fine in [
            json!({ "exp": NOW - LEEWAY_SECS + 1 }),
            json!({ "nbf": NOW + 30 }),
            json!({ "cnf": { "jkt": "thumb" } }),
        ] {
            read(&settings(), &fine).unwrap();
        }
    }

    #[test]
    fn claims_are_mapped_as_the_operator_says() {
        let settings = Oidc {
            owner_claim: "email".to_owned(),
            names_claim: Some("mcp.names".to_owned()),
            require: vec![OidcRequirement { claim: "groups".to_owned(), value: "mcp".to_owned() }],
            ..settings()
        };
        let good = json!({
            "email": "ada@example.com", "groups": ["staff", "mcp"],
            "mcp": { "names": ["ada-*", "Not A Name", "calc"] },
        });
        let ada = read(&settings, &good).unwrap();
        assert_eq!(ada.subject, "ada@example.com");
        assert_eq!(ada.names.to_texts(), ["ada-*", "calc"]);
        let with = |name: &str, value: Value| {
            let mut claims = good.clone();
            claims[name] = value;
            read(&settings, &claims).unwrap_err()
        };
        for no in [json!(false), json!("false"), json!(0)] {
            assert_eq!(with("email_verified", no), ClaimsError::Unverified);
        }
        assert!(matches!(with("groups", json!("staff")), ClaimsError::Required { .. }));
        assert!(matches!(with("groups", json!(null)), ClaimsError::Required { .. }));
        assert!(with("mcp", json!({ "names": [] })).is_forbidden());
        assert!(matches!(with("email", json!(null)), ClaimsError::Missing(_)));
        let mut text = good.clone();
        text["mcp"] = json!({ "names": "a-* b" });
        assert_eq!(read(&settings, &text).unwrap().names.to_texts(), ["a-*", "b"]);
    }
}
