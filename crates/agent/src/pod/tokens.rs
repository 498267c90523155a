//! ServiceAccounts' tokens for Pods: asked of the API server, bound to the Pod, and renewed before they end.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection};
use kube::{Api, ResourceExt};
use serde_json::json;
use yunfan_client::Writer;

use super::read;

/// How long a token lasts when the Pod does not say, seconds.
const DEFAULT_SECONDS: i64 = 3600;
/// A token is renewed when it is this old, however long it would last.
const OLDEST: SignedDuration = SignedDuration::from_hours(24);

/// How soon a renewal that failed is tried again.
const RETRY: Duration = Duration::from_secs(20);

/// The tokens of this node's Pods. They are in memory only, beside the files that they are written to.
pub(super) struct Tokens {
    writer: Writer,
    known: Mutex<HashMap<Key, Token>>,
}

/// Of which Pod, in which volume, at which path.
type Key = (String, String, String);

#[derive(Clone)]
struct Token {
    text: String,
    renew_at: Timestamp,
    ends_at: Timestamp,
}

impl Tokens {
    pub(super) fn new(writer: Writer) -> Self {
        Self { writer, known: Mutex::default() }
    }

    /// A token that is good now, the known one or a new one when that is to be renewed, and in how long it will be.
    ///
    /// # Errors
    /// Why there is none, for people.
    pub(super) async fn get(
        &self,
        pod: &Pod,
        volume: &str,
        source: &ServiceAccountTokenProjection,
    ) -> Result<(String, Duration), String> {
        let key = (pod.uid().unwrap_or_default(), volume.to_owned(), source.path.clone());
        let known = self.lock().get(&key).cloned();
        let now = Timestamp::now();
        if let Some(token) = known.as_ref().filter(|token| now < token.renew_at) {
            return Ok((token.text.clone(), left(now, token.renew_at)));
        }
        match self.request(pod, source).await {
            Ok(token) => {
                let given = (token.text.clone(), left(now, token.renew_at));
                self.lock().insert(key, token);
                Ok(given)
            }
            // The old one is as good until its end.
            Err(error) => match known.filter(|token| now < token.ends_at) {
                Some(token) => {
                    tracing::warn!(error, pod = %key.0, "a token could not be renewed, it is tried again");
                    Ok((token.text, RETRY))
                }
                None => Err(error),
            },
        }
    }

    async fn request(&self, pod: &Pod, source: &ServiceAccountTokenProjection) -> Result<Token, String> {
        let namespace = pod.namespace().unwrap_or_default();
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
        let account = account.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".to_owned());
        let failed =
            |what: String| format!("failed to fetch token of ServiceAccount {namespace}/{account}: {what}");
        let audiences: Vec<&String> =
            source.audience.iter().filter(|audience| !audience.is_empty()).collect();
        let wish: TokenRequest = serde_json::from_value(json!({
            "metadata": {},
            "spec": {
                "audiences": audiences,
                "expirationSeconds": source.expiration_seconds.unwrap_or(DEFAULT_SECONDS),
                "boundObjectRef": {
                    "apiVersion": "v1", "kind": "Pod", "name": pod.name_any(), "uid": pod.uid(),
                },
            },
        }))
        .map_err(|error| failed(error.to_string()))?;
        let accounts: Api<ServiceAccount> = Api::namespaced(self.writer.client().clone(), &namespace);
        let parameters = Default::default();
        let answer = read::within(accounts.create_token_request(&account, &parameters, &wish)).await;
        let answer = answer.map_err(|error| failed(error.to_string()))?;
        let status = answer.status.ok_or_else(|| failed("the answer has no status".to_owned()))?;
        let (Some(text), Some(ends_at)) = (status.token, status.expiration_timestamp) else {
            return Err(failed("the answer has no token".to_owned()));
        };
        let ends_at = ends_at.0;
        Ok(Token { text, renew_at: renew_at(Timestamp::now(), ends_at), ends_at })
    }

    /// Forgets the tokens of a Pod.
    pub(super) fn forget(&self, uid: &str) {
        self.lock().retain(|key, _| key.0 != uid);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Token>> {
        // Nothing panics under this lock.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When four fifths of its life are over, or after a day (Kubernetes' documentation, "Configure Service Accounts for Pods").
fn renew_at(now: Timestamp, ends_at: Timestamp) -> Timestamp {
    let life = now.duration_until(ends_at);
    let young = (life / 5 * 4).min(OLDEST);
    now.checked_add(young).unwrap_or(now)
}

/// How long it is from now until then.
fn left(now: Timestamp, then: Timestamp) -> Duration {
    Duration::try_from(now.duration_until(then)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_renewed_well_before_their_end() {
        let now = Timestamp::UNIX_EPOCH;
        let after = |seconds| renew_at(now, now + SignedDuration::from_secs(seconds)).as_second();
        assert_eq!(after(3600), 2880);
        assert_eq!(after(400_000), 86_400);
        assert_eq!(after(0), 0);
        assert_eq!(left(now, now + SignedDuration::from_secs(5)), Duration::from_secs(5));
        assert_eq!(left(now + SignedDuration::from_secs(5), now), Duration::ZERO);
    }
}
