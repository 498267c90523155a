//! Continue tokens: where the next page of a list begins, and at which revision.

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::{DecodeError, Engine};
use serde::{Deserialize, Serialize};
use yunfan_objects::{ApiError, golang};
use yunfan_store::Revision;

/// Version of the tokens.
const VERSION: &str = "meta.k8s.io/v1";

/// What is inside of a continue token. It says no more than its holder may read anyway: the place lies in the list's
/// own range, whatever the token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    /// Revision of the pages before; none: whatever is there now.
    pub(super) revision: Option<Revision>,
    /// The first key that is not listed yet, without the prefix of the list's range.
    pub(super) start: String,
}

/// The form on the wire, which Kubernetes' clients may look into.
#[derive(Serialize, Deserialize)]
struct Wire {
    v: String,
    /// -1: whatever is there now.
    #[serde(default)]
    rv: i64,
    #[serde(default)]
    start: String,
}

impl Token {
    /// The token as text.
    pub(super) fn encode(&self) -> String {
        // Revisions count from 1, one by one.
        let rv = self.revision.map_or(-1, |revision| i64::try_from(revision).unwrap_or(i64::MAX));
        let wire = Wire { v: VERSION.to_owned(), rv, start: self.start.clone() };
        // A struct of texts and a number always has a JSON form.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&wire).unwrap_or_default())
    }

    /// Reads a token.
    pub(super) fn decode(text: &str) -> Result<Self, ApiError> {
        let bad = |why: String| {
            ApiError::bad_request(format!("invalid continue token: continue key is not valid{why}"))
        };
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|error| {
            let at = match error {
                DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _) => at,
                // A letter that begins a group and is the last one.
                DecodeError::InvalidLength(_) | DecodeError::InvalidPadding => text.len().saturating_sub(1),
            };
            bad(format!(": illegal base64 data at input byte {at}"))
        })?;
        let wire: Wire = serde_json::from_slice(&bytes).map_err(|error| {
            let why = golang::json_error(&bytes).unwrap_or_else(|| error.to_string());
            bad(format!(": {why}"))
        })?;
        if wire.v != VERSION {
            return Err(bad(format!(": server does not recognize this encoded version {}", wire.v)));
        }
        if wire.rv == 0 {
            return Err(bad(format!(": incorrect encoded start resourceVersion (version {VERSION})")));
        }
        if wire.start.is_empty() {
            return Err(bad(format!(": encoded start key empty (version {VERSION})")));
        }
        let parts = wire.start.strip_prefix('/').unwrap_or(&wire.start);
        if parts.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(bad(format!(": {}", wire.start)));
        }
        Ok(Self { revision: u64::try_from(wire.rv).ok(), start: parts.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_as_it_was() {
        for revision in [Some(7), None] {
            let token = Token { revision, start: "demo/web\0".to_owned() };
            assert_eq!(Token::decode(&token.encode()).expect("is a token"), token);
        }
    }

    #[test]
    fn what_is_no_token_is_refused_with_the_reason() {
        let of = |json: &str| Token::decode(&URL_SAFE_NO_PAD.encode(json)).expect_err("is no token");
        for (json, why) in [
            ("{", "unexpected end of JSON input"),
            (r#"{"v":"v2","rv":1,"start":"a"}"#, "server does not recognize this encoded version v2"),
            (r#"{"v":"meta.k8s.io/v1","start":"a"}"#, "incorrect encoded start resourceVersion"),
            (r#"{"v":"meta.k8s.io/v1","rv":5}"#, "encoded start key empty"),
            (r#"{"v":"meta.k8s.io/v1","rv":5,"start":"../a"}"#, "not valid: ../a"),
            (r#"{"v":"meta.k8s.io/v1","rv":5,"start":"a//b"}"#, "not valid: a//b"),
        ] {
            let error = of(json);
            assert_eq!(error.code(), 400);
            assert!(error.message().contains(why), "{json}: {}", error.message());
        }
        let short = Token::decode("x").expect_err("is no token");
        assert!(short.message().ends_with("illegal base64 data at input byte 0"), "{}", short.message());
        assert!(
            Token::decode("%%%").expect_err("is no token").message().contains("continue key is not valid")
        );
    }
}
