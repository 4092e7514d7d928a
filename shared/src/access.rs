//! Who may visit a share. The relay evaluates a policy at its edge and the agent evaluates the
//! same one again, so that a fault at one end alone lets nobody in.

mod pass;
mod presented;

use serde::{Deserialize, Serialize};

pub use self::pass::Passes;
pub use self::presented::{
    LINK_HEADER, Presented, SECRET_HEADER, Source, strip_credentials, strip_link_secret,
};
use crate::token::Digest;

/// The visitor policy of one share. An empty policy lets nobody in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AccessPolicy {
    /// Everybody may visit; nothing else is looked at.
    pub public: bool,
    /// Bearer tokens that open the share, as digests.
    pub tokens: Vec<TokenGrant>,
    /// The secret of a `?s=` link, as a digest. Boxed: there may be hundreds of shares, and few have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<Box<Digest>>,
}

/// One token that opens a share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenGrant {
    /// A short id that people and logs may see.
    pub id: String,
    /// What the owner calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// SHA-256 of the token.
    pub digest: Digest,
    /// When it stops working, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
}

/// Who a visitor turned out to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    /// Anybody, on a public share.
    Anonymous,
    /// The holder of the token with this id.
    Token(String),
    /// The holder of the link.
    Link,
}

impl Principal {
    /// Returns a label that is safe to log and to key state by.
    #[must_use]
    pub fn label(&self) -> &str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Token(id) => id,
            Self::Link => "link",
        }
    }
}

/// An admitted visitor and the credential that admitted them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Who it is.
    pub principal: Principal,
    /// Where the credential stood; it must not travel further.
    pub source: Source,
}

/// Why a visitor was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Denied {
    /// No credential was presented.
    #[error("this share needs a token: send `Authorization: Bearer <token>`")]
    Missing,
    /// The credential is not one of this share, or was revoked.
    #[error("the token is not valid for this share")]
    Invalid,
    /// The token was right once.
    #[error("the token has expired")]
    Expired,
    /// The same header came twice.
    #[error("more than one credential of the same kind was sent")]
    Ambiguous,
}

impl Denied {
    /// Returns the stable code of this refusal.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Missing => "token_missing",
            Self::Invalid => "token_invalid",
            Self::Expired => "token_expired",
            Self::Ambiguous => "token_ambiguous",
        }
    }

    /// Returns the `WWW-Authenticate` challenge (RFC 6750 §3), without `resource_metadata`: some
    /// clients would insist on OAuth otherwise.
    #[must_use]
    pub fn challenge(self) -> &'static str {
        match self {
            Self::Missing => r#"Bearer realm="mcpm""#,
            Self::Invalid | Self::Ambiguous => r#"Bearer realm="mcpm", error="invalid_token""#,
            Self::Expired => {
                r#"Bearer realm="mcpm", error="invalid_token", error_description="expired""#
            }
        }
    }
}

impl AccessPolicy {
    /// Returns the policy that admits everybody.
    #[must_use]
    pub fn public() -> Self {
        Self { public: true, ..Self::default() }
    }

    /// Tells whether somebody who was admitted before still is at `now` (Unix seconds): `None` when
    /// not, else until when, if there is an end.
    #[must_use]
    pub fn admits(&self, principal: &Principal, now: u64) -> Option<Option<u64>> {
        if self.public {
            return Some(None);
        }
        match principal {
            Principal::Anonymous => None,
            Principal::Link => self.link.is_some().then_some(None),
            Principal::Token(id) => {
                let grant = self.tokens.iter().find(|grant| grant.id == *id)?;
                let expired = grant.expires_at.is_some_and(|end| end <= now);
                (!expired).then_some(grant.expires_at)
            }
        }
    }

    /// Returns what makes the passes of sessions that somebody opens by the link.
    #[must_use]
    pub fn passes(&self, principal: &Principal) -> Option<Passes> {
        let link = self.link.as_deref().filter(|_| *principal == Principal::Link);
        link.map(Passes::of)
    }

    /// Decides over a visitor at `now` (Unix seconds).
    ///
    /// # Errors
    /// Says why not. Every grant is compared, so that timing does not tell which one was near.
    /// Without a link, `s` in a query is the visitor's own word and no credential.
    pub fn evaluate(&self, presented: &Presented<'_>, now: u64) -> Result<Grant, Denied> {
        if self.public {
            return Ok(Grant { principal: Principal::Anonymous, source: Source::Nothing });
        }
        let (secret, source) = match presented.secret(self.link.is_some()) {
            Err(Denied::Missing) if self.is_passed(presented) => {
                return Ok(Grant { principal: Principal::Link, source: Source::Pass });
            }
            other => other?,
        };
        let digest = Digest::of(secret);
        let link = self.link.as_ref().is_some_and(|link| link.same(&digest));
        let mut found = None;
        for grant in &self.tokens {
            if grant.digest.same(&digest) {
                found = Some(grant);
            }
        }
        match found {
            Some(grant) if grant.expires_at.is_some_and(|end| end <= now) => Err(Denied::Expired),
            Some(_) if source == Source::Link => Err(Denied::Invalid),
            Some(grant) => Ok(Grant { principal: Principal::Token(grant.id.clone()), source }),
            None if link => Ok(Grant { principal: Principal::Link, source }),
            None => Err(Denied::Invalid),
        }
    }

    /// Tells whether a visitor shows the pass of a session that was opened by the link.
    fn is_passed(&self, presented: &Presented<'_>) -> bool {
        let link = self.link.as_ref();
        link.zip(presented.pass()).is_some_and(|(link, held)| Passes::of(link).admits(&held))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::token::Token;

    fn policy() -> AccessPolicy {
        let grant = |id: &str, secret: &str, expires_at| TokenGrant {
            id: id.to_owned(),
            label: None,
            digest: Token::new(secret).digest(),
            expires_at,
        };
        AccessPolicy {
            public: false,
            tokens: vec![grant("a", "alpha", None), grant("b", "beta", Some(100))],
            link: Some(Token::new("link").digest().into()),
        }
    }

    fn judge(pairs: &[(&'static str, &str)], query: Option<&str>) -> Result<Principal, Denied> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        let presented = Presented::from_request(&headers, query);
        policy().evaluate(&presented, 100).map(|grant| grant.principal)
    }

    #[test]
    fn a_token_opens_by_bearer_and_by_secret_header() {
        let a = Ok(Principal::Token("a".to_owned()));
        assert_eq!(judge(&[("authorization", "Bearer alpha")], None), a);
        assert_eq!(judge(&[("authorization", "bearer  alpha")], None), a);
        assert_eq!(judge(&[("authorization", "alpha")], None), a);
        assert_eq!(judge(&[("x-mcpm-secret", "alpha")], None), a);
    }

    #[test]
    fn everything_else_is_refused_with_its_reason() {
        assert_eq!(judge(&[], None), Err(Denied::Missing));
        assert_eq!(judge(&[("authorization", "Basic YTpi")], None), Err(Denied::Missing));
        assert_eq!(judge(&[("authorization", "Bearer ")], None), Err(Denied::Missing));
        assert_eq!(judge(&[("authorization", "Bearer alph")], None), Err(Denied::Invalid));
        assert_eq!(judge(&[("authorization", "Bearer beta")], None), Err(Denied::Expired));
        let twice = [("authorization", "Bearer alpha"), ("authorization", "Bearer alpha")];
        assert_eq!(judge(&twice, None), Err(Denied::Ambiguous));
    }

    #[test]
    fn a_link_opens_by_query_only_with_the_link_secret() {
        assert_eq!(judge(&[], Some("profile=p&s=link")), Ok(Principal::Link));
        assert_eq!(judge(&[(LINK_HEADER, "link")], None), Ok(Principal::Link));
        assert_eq!(judge(&[], Some("s=alpha")), Err(Denied::Invalid));
        assert_eq!(judge(&[], Some("s=link&s=link")), Err(Denied::Ambiguous));
    }

    #[test]
    fn the_pass_of_a_session_opens_its_path_and_no_other_while_the_link_stays() {
        let passes = policy().passes(&Principal::Link).unwrap();
        assert!(policy().passes(&Principal::Token("a".to_owned())).is_none());
        let query = passes.query("abc");
        let judge = |policy: &AccessPolicy, path: &str| {
            let headers = HeaderMap::new();
            let presented = Presented::from_request(&headers, Some(&query)).at(path, Some(&query));
            policy.evaluate(&presented, 0).map(|grant| (grant.principal, grant.source))
        };
        assert_eq!(judge(&policy(), "/messages"), Ok((Principal::Link, Source::Pass)));
        assert_eq!(judge(&policy(), "/mcp"), Err(Denied::Missing));
        let other = AccessPolicy { link: Some(Token::new("new").digest().into()), ..policy() };
        assert_eq!(judge(&other, "/messages"), Err(Denied::Missing));
        let unlinked = AccessPolicy { link: None, ..policy() };
        assert_eq!(judge(&unlinked, "/messages"), Err(Denied::Missing));
    }

    #[test]
    fn without_a_link_the_query_is_no_credential() {
        let unlinked = AccessPolicy { link: None, ..policy() };
        let judge = |headers: &HeaderMap, query: &str| {
            unlinked.evaluate(&Presented::from_request(headers, Some(query)), 0)
        };
        let mut headers = HeaderMap::new();
        assert_eq!(judge(&headers, "s=alpha"), Err(Denied::Missing));
        headers.insert("authorization", "Bearer alpha".parse().unwrap());
        for query in ["s=hello", "s=1&s=2", "s=alpha"] {
            let grant = judge(&headers, query).unwrap();
            assert_eq!(grant.source, Source::Bearer, "{query}");
        }
    }

    #[test]
    fn an_empty_policy_lets_nobody_in() {
        let headers = HeaderMap::new();
        let presented = Presented::from_request(&headers, Some("s="));
        assert_eq!(AccessPolicy::default().evaluate(&presented, 0), Err(Denied::Missing));
    }

    #[test]
    fn who_was_admitted_stays_until_the_token_goes_or_ends() {
        let token = |id: &str, expires_at| TokenGrant {
            id: id.to_owned(),
            label: None,
            digest: Digest::of(id.as_bytes()),
            expires_at,
        };
        let tokens = vec![token("a", None), token("b", Some(100))];
        let policy = AccessPolicy { tokens, ..AccessPolicy::default() };
        let of = |id: &str| Principal::Token(id.to_owned());
        assert_eq!(policy.admits(&of("a"), 5), Some(None));
        assert_eq!(policy.admits(&of("b"), 99), Some(Some(100)));
        assert_eq!(policy.admits(&of("b"), 100), None);
        assert_eq!(policy.admits(&of("c"), 5), None);
        assert_eq!(policy.admits(&Principal::Anonymous, 5), None);
        assert_eq!(policy.admits(&Principal::Link, 5), None);
        assert_eq!(AccessPolicy::public().admits(&Principal::Anonymous, 5), Some(None));
    }
}
