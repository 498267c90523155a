//! Tokens that are refused before their time.
//!
//! What is revoked is kept in one ConfigMap in `kube-system`, so that it outlives the process and every
//! process of the cloud sees it: `data` maps a token's id to its expiry (seconds since 1970), and
//! `user.NAME` to the moment (milliseconds) up to which that user's tokens are refused. A disabled or deleted User
//! revokes their tokens without an entry. [`Follower`] feeds all of it to the token key's memory.

use std::collections::BTreeMap;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use yunfan_identity::token::{Claims, MAX_LIFETIME, TokenKey, now_ms};
use yunfan_resources::iam::User;
use yunfan_resources::names;

use crate::error::Fault;
use crate::ids;

/// The ConfigMap's name.
const REVOKED: &str = "revoked-tokens";
/// What the key of a user's entry begins with.
const USER_PREFIX: &str = "user.";
/// How many entries the ConfigMap may hold: 1 MiB is its limit.
const MAX_ENTRIES: usize = 10_000;

/// Revokes one token.
pub(crate) async fn revoke(system: &Client, tokens: &TokenKey, claims: &Claims) -> Result<(), Fault> {
    let full = |error: &dyn std::fmt::Display| {
        Fault::new(axum::http::StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    };
    tokens.revocations().revoke(&claims.jti, claims.exp).map_err(|error| full(&error))?;
    store(system, &claims.jti, claims.exp).await
}

/// Revokes all tokens that were issued to a user until now.
pub(crate) async fn revoke_user(system: &Client, tokens: &TokenKey, user: &str) -> Result<(), Fault> {
    let now = now_ms();
    let full = |error: &dyn std::fmt::Display| {
        Fault::new(axum::http::StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    };
    tokens.revocations().revoke_user(user, now).map_err(|error| full(&error))?;
    store(system, &format!("{USER_PREFIX}{user}"), now).await
}

/// Writes one entry and drops those that no token can be about any more.
async fn store(system: &Client, key: &str, value: u64) -> Result<(), Fault> {
    let maps = Api::<ConfigMap>::namespaced(system.clone(), names::SYSTEM_NAMESPACE);
    let Some(stored) = maps.get_opt(REVOKED).await? else {
        let mut map =
            ConfigMap { data: Some([(key.to_owned(), value.to_string())].into()), ..ConfigMap::default() };
        map.metadata.name = Some(REVOKED.to_owned());
        match maps.create(&PostParams::default(), &map).await {
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {}
            other => return Ok(other.map(drop)?),
        }
        return Ok(maps
            .patch(REVOKED, &PatchParams::default(), &Patch::Merge(json!({"data": {key: value.to_string()}})))
            .await
            .map(drop)?);
    };
    let data = stored.data.unwrap_or_default();
    if data.len() >= MAX_ENTRIES
        && !data.contains_key(key)
        && !data.iter().any(|entry| is_over(entry, now_ms()))
    {
        return Err(Fault::new(
            axum::http::StatusCode::SERVICE_UNAVAILABLE,
            format!(
                "{MAX_ENTRIES} revocations are in force already; wait for tokens to expire, or disable the user"
            ),
        ));
    }
    let mut changes: serde_json::Map<String, Value> = data
        .iter()
        .filter(|entry| is_over(*entry, now_ms()))
        .map(|(key, _)| (key.clone(), Value::Null))
        .collect();
    changes.insert(key.to_owned(), json!(value.to_string()));
    maps.patch(REVOKED, &PatchParams::default(), &Patch::Merge(json!({"data": changes}))).await?;
    Ok(())
}

/// Whether no valid token can be meant by an entry. What cannot be read is nobody's entry.
fn is_over((key, value): (&String, &String), now_ms: u64) -> bool {
    match value.parse::<u64>() {
        Ok(at) if key.starts_with(USER_PREFIX) => at + MAX_LIFETIME * 1000 < now_ms,
        Ok(at) => at < now_ms / 1000,
        Err(_) => true,
    }
}

/// The task that feeds what is revoked to a [`TokenKey`]; ends when this is dropped.
pub(crate) struct Follower(JoinHandle<()>);

impl Follower {
    /// Starts it.
    pub(crate) fn start(system: Client, tokens: TokenKey) -> Self {
        Self(tokio::spawn(async move {
            tokio::join!(follow_map(system.clone(), tokens.clone()), follow_users(system, tokens));
        }))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn follow_map(system: Client, tokens: TokenKey) {
    let maps = Api::<ConfigMap>::namespaced(system, names::SYSTEM_NAMESPACE);
    let config = watcher::Config::default().fields(&format!("metadata.name={REVOKED}"));
    let mut changes = Box::pin(watcher(maps, config).default_backoff());
    while let Some(change) = changes.next().await {
        match change {
            Ok(Event::Apply(map) | Event::InitApply(map)) if ids::name(&map) == REVOKED => {
                feed(&tokens, &map.data.unwrap_or_default());
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "revoked tokens are not followed at the moment"),
        }
    }
}

fn feed(tokens: &TokenKey, data: &BTreeMap<String, String>) {
    for entry in data {
        let Ok(at) = entry.1.parse::<u64>() else { continue };
        let fed = match entry.0.strip_prefix(USER_PREFIX) {
            Some(user) => tokens.revocations().revoke_user(user, at),
            None => tokens.revocations().revoke(entry.0, at),
        };
        if let Err(error) = fed {
            tracing::error!(%error, "a revoked token may be taken for good");
        }
    }
}

async fn follow_users(system: Client, tokens: TokenKey) {
    let mut changes =
        Box::pin(watcher(Api::<User>::all(system), watcher::Config::default()).default_backoff());
    while let Some(change) = changes.next().await {
        let gone = match change {
            Ok(Event::Delete(user)) => user,
            Ok(Event::Apply(user) | Event::InitApply(user)) if !user.spec.enabled => user,
            Ok(_) => continue,
            Err(error) => {
                tracing::debug!(%error, "users are not followed at the moment");
                continue;
            }
        };
        if let Err(error) = tokens.revocations().revoke_user(ids::name(&gone), now_ms()) {
            tracing::error!(%error, user = ids::name(&gone), "the tokens of a user who is gone stay good until they expire");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yunfan_identity::token::TokenKind;

    #[test]
    fn entries_end_with_the_tokens_they_are_about() {
        let over = |key: &str, value: &str, now| is_over((&key.to_owned(), &value.to_owned()), now);
        assert!(over("a", "100", 101_000));
        assert!(!over("a", "100", 99_000));
        assert!(!over("user.a", "100000", 101_000));
        assert!(over("user.a", "0", MAX_LIFETIME * 1000 + 1));
        assert!(over("a", "x", 0));
    }

    #[test]
    fn what_is_stored_is_refused() {
        let tokens = TokenKey::ephemeral().unwrap();
        let claims = Claims::new(TokenKind::Openstack, "ann", "1", 60);
        let token = tokens.issue(&claims).unwrap();
        assert!(tokens.verify(&token).is_ok());
        feed(&tokens, &[(claims.jti.clone(), claims.exp.to_string())].into());
        assert!(tokens.verify(&token).is_err());
        let other = tokens.issue(&Claims::new(TokenKind::Openstack, "ann", "1", 60)).unwrap();
        feed(&tokens, &[("user.ann".to_owned(), now_ms().to_string())].into());
        assert!(tokens.verify(&other).is_err());
    }
}
