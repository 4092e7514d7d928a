//! What an authorization server gives: tokens.

use mcpm_shared::token::Token;
use rmcp::transport::auth::OAuthTokenResponse;
use serde::Deserialize;

use super::error::tame;

/// Where metadata says how clients may show who they are when they ask for tokens.
pub(super) const AUTH_METHODS: &str = "token_endpoint_auth_methods_supported";

/// What an authorization server gives.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) access_token: Token,
    pub(super) refresh_token: Option<Token>,
    pub(super) expires_in: Option<u64>,
    pub(super) scopes: Option<Vec<String>>,
}

impl Given {
    /// Reads it by its JSON: the types it is made of are not ours to name.
    pub(super) fn read(given: &OAuthTokenResponse) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Read {
            access_token: String,
            token_type: String,
            refresh_token: Option<String>,
            expires_in: Option<u64>,
            scope: Option<String>,
        }
        let value = serde_json::to_value(given).map_err(|error| error.to_string())?;
        let read = Read::deserialize(value).map_err(|_| "it is not a token".to_owned())?;
        if !read.token_type.eq_ignore_ascii_case("bearer") {
            return Err(format!("its kind is `{}`, not `bearer`", tame(&read.token_type)));
        }
        let access_token = Token::new(read.access_token);
        if access_token.expose().is_empty()
            || !access_token.expose().bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err("it does not fit into a header".to_owned());
        }
        Ok(Self {
            access_token,
            refresh_token: read.refresh_token.filter(|t| !t.is_empty()).map(Token::new),
            expires_in: read.expires_in,
            scopes: read.scope.map(|s| s.split_whitespace().map(str::to_owned).collect()),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: serde_json::Value) -> Result<Given, String> {
        Given::read(&serde_json::from_value(value).unwrap())
    }

    #[test]
    fn only_what_fits_into_a_header_is_a_token() {
        let given = read(json!({"access_token": "a.b-c", "token_type": "BEARER", "scope": "x y"}));
        let given = given.unwrap();
        assert_eq!(given.access_token.expose(), "a.b-c");
        assert_eq!(given.scopes.unwrap(), ["x", "y"]);
        assert!(given.refresh_token.is_none() && given.expires_in.is_none());
        for bad in ["", "a b", "a\r\nb", "ü"] {
            assert!(read(json!({"access_token": bad, "token_type": "bearer"})).is_err(), "{bad}");
        }
        let error = read(json!({"access_token": "a", "token_type": "mac"})).unwrap_err();
        assert!(error.contains("`mac`"), "{error}");
    }
}
