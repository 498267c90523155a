//! Tokens of service accounts: whom one is from, while the account and what the token is bound to are there.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use yunfan_access::Known;
use yunfan_identity::token::{AccountClaims, AccountKey, Bond, ISSUER, LegacyClaims};

use crate::cache::Cache;
use crate::keys;
use crate::sender::Proof;

/// The audiences of the API server itself, and of a token that was asked for without one.
#[derive(Clone)]
pub(crate) struct Audiences(Arc<[String]>);

impl Audiences {
    /// Those that are configured; the issuer's name, where there are none.
    pub(crate) fn new(configured: &[String]) -> Self {
        match configured {
            [] => Self([ISSUER.to_owned()].into()),
            some => Self(some.into()),
        }
    }

    /// All of them; there is at least one.
    pub(crate) fn all(&self) -> Vec<&str> {
        self.0.iter().map(String::as_str).collect()
    }

    /// Those of the given ones that are the API server's.
    pub(crate) fn among(&self, given: &[&str]) -> Vec<String> {
        self.0.iter().filter(|own| given.contains(&own.as_str())).cloned().collect()
    }
}

/// A token holds this much longer than an object that it is bound to was to be there: clocks differ.
const LEEWAY: SignedDuration = SignedDuration::from_secs(60);
/// Label of a Secret whose token is good for nothing any more; Kubernetes puts it on those that nobody uses.
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

/// Issues these tokens, and says whom they are from.
#[derive(Clone)]
pub(crate) struct Accounts {
    pub(crate) key: AccountKey,
    pub(crate) cache: Arc<Cache>,
    pub(crate) audiences: Audiences,
}

impl Accounts {
    /// Whom a token is from; `None` where it is no service account's.
    ///
    /// # Errors
    /// Why it is refused.
    pub(crate) async fn review(&self, token: &str, audiences: &[&str]) -> Option<Result<Known, String>> {
        if !self.key.is_named_by(token) {
            return None;
        }
        if LegacyClaims::are_of(token) {
            return Some(self.review_legacy(token, audiences).await);
        }
        let invalid = || "invalid bearer token".to_owned();
        let Ok(claims) = self.key.verify(token) else { return Some(Err(invalid())) };
        let common: Vec<String> =
            claims.aud.iter().filter(|audience| audiences.contains(&audience.as_str())).cloned().collect();
        if common.is_empty() {
            let why = format!(
                "{}, token audiences {:?} is invalid for the target audiences {audiences:?}",
                invalid(),
                claims.aud
            );
            return Some(Err(format!("[{why}]")));
        }
        if !self.holds(&claims).await {
            return Some(Err(format!("[{}, service account token has been invalidated]", invalid())));
        }
        Some(Ok(Known { user: claims.user(), audiences: common }))
    }

    /// The same for the token of a Secret, which is for the API server alone.
    async fn review_legacy(&self, token: &str, audiences: &[&str]) -> Result<Known, String> {
        let invalid = "invalid bearer token";
        let claims = self.key.verify_legacy(token).map_err(|_| invalid.to_owned())?;
        let common = self.audiences.among(audiences);
        if common.is_empty() {
            return Err(format!(
                "[{invalid}, token audiences {:?} is invalid for the target audiences {audiences:?}]",
                self.audiences.all()
            ));
        }
        // Another server may have written the Secret a moment ago.
        let holds = self.is_kept(token, &claims)
            || (self.cache.wait_current().await.is_ok() && self.is_kept(token, &claims));
        match holds {
            true => Ok(Known { user: claims.user(), audiences: common }),
            false => Err(format!("[{invalid}, Token has been invalidated]")),
        }
    }

    /// What a session that was opened with this token lives by; none where it is no service account's, or not good.
    pub(crate) fn proof(&self, token: &str) -> Option<Proof> {
        if !self.key.is_named_by(token) {
            return None;
        }
        if LegacyClaims::are_of(token) {
            let claims = self.key.verify_legacy(token).ok()?;
            return Some(Proof::Secret(token.to_owned(), claims));
        }
        Some(Proof::Account(self.key.verify(token).ok()?.bond))
    }

    /// Whether the token's Secret holds it, and its account is there.
    pub(crate) fn is_kept(&self, token: &str, claims: &LegacyClaims) -> bool {
        let find = |plural: &str, name: &str| {
            let prefix = keys::kind_prefix("", plural);
            self.cache.kind(&prefix).get(&keys::object_key(&prefix, &claims.namespace, name))
        };
        let account = find("serviceaccounts", &claims.account).is_some_and(|account| {
            let life = account.life();
            life.uid == claims.account_uid && life.end.is_none()
        });
        account && find("secrets", &claims.secret).is_some_and(|secret| holds(&secret.decode_stored(), token))
    }

    /// Whether all that the token ends with is there.
    async fn holds(&self, claims: &AccountClaims) -> bool {
        // Another server may have made the account a moment ago.
        self.are_there(&claims.bond)
            || (self.cache.wait_current().await.is_ok() && self.are_there(&claims.bond))
    }

    pub(crate) fn are_there(&self, bond: &Bond) -> bool {
        let oldest = Timestamp::now().saturating_sub(LEEWAY).unwrap_or(Timestamp::MIN);
        bond.holders().all(|(plural, namespace, wanted)| {
            let prefix = keys::kind_prefix("", plural);
            let found = self.cache.kind(&prefix).get(&keys::object_key(&prefix, namespace, &wanted.name));
            found.is_some_and(|entry| {
                let life = entry.life();
                life.uid == wanted.uid && life.end.is_none_or(|end| end >= oldest)
            })
        })
    }
}

/// Whether a Secret is there to stay and holds this token.
fn holds(secret: &Value, token: &str) -> bool {
    let metadata = &secret["metadata"];
    let marked = metadata["labels"][INVALID_SINCE].as_str().is_some_and(|since| !since.is_empty());
    if !metadata["deletionTimestamp"].is_null() || marked {
        return false;
    }
    let kept = secret["data"]["token"].as_str().and_then(|text| STANDARD.decode(text).ok());
    // Hashes differ everywhere if the tokens do: the time of the comparison tells nothing.
    kept.is_some_and(|kept| Sha256::digest(kept) == Sha256::digest(token))
}
