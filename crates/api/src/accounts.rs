//! Tokens of service accounts: whom one is from, while the account and what the token is bound to are there.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use yunfan_access::Known;
use yunfan_identity::token::{AccountClaims, AccountKey, Bond, ISSUER};

use crate::cache::Cache;
use crate::keys;

/// The audience of the API server itself, and of a token that was asked for without one.
pub(crate) const AUDIENCE: &str = ISSUER;
/// A token holds this much longer than an object that it is bound to was to be there: clocks differ.
const LEEWAY: SignedDuration = SignedDuration::from_secs(60);

/// Issues these tokens, and says whom they are from.
#[derive(Clone)]
pub(crate) struct Accounts {
    pub(crate) key: AccountKey,
    pub(crate) cache: Arc<Cache>,
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

    /// Whether all that the token ends with is there.
    async fn holds(&self, claims: &AccountClaims) -> bool {
        // Another server may have made the account a moment ago.
        self.are_there(&claims.bond)
            || (self.cache.wait_current().await.is_ok() && self.are_there(&claims.bond))
    }

    fn are_there(&self, bond: &Bond) -> bool {
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
