//! Tokens that are refused before their time.
//!
//! What is revoked is kept in one ConfigMap in `kube-system`, so that it outlives the process and every
//! process of the cloud sees it: `data` maps a token's id (or that of the application credential or trust that tokens come of) to its
//! expiry (seconds since 1970), and `user.NAME`, `project.ID`, `domain.ID` and `in.PLACE.NAME` to the moment (milliseconds) up to which
//! that user's tokens, or those for that project, of that domain, or of that user in that place, are refused.
//! A disabled or deleted User, Project or Domain revokes tokens without an entry. [`Follower`] feeds all of it to the token
//! key's memory.

use std::collections::BTreeMap;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use yunfan_identity::token::{Claims, MAX_LIFETIME, RevocationsFull, TokenKey, now_ms};
use yunfan_resources::iam::{Domain, Project, User};
use yunfan_resources::{Identified, names};

use crate::directory::domain_named;
use crate::error::Fault;
use crate::ids;

/// The ConfigMap's name.
const REVOKED: &str = "revoked-tokens";
/// What the key of a user's entry begins with.
const USER_PREFIX: &str = "user.";
/// What the key of a project's entry begins with.
const PROJECT_PREFIX: &str = "project.";
/// What the key of a domain's entry begins with.
const DOMAIN_PREFIX: &str = "domain.";
/// What the key of an entry of a user in one place begins with.
const PLACE_PREFIX: &str = "in.";
/// How many entries the ConfigMap may hold: 1 MiB is its limit.
const MAX_ENTRIES: usize = 8_000;
/// How many of them may be of single tokens, trusts and application credentials, which any user makes: the rest is kept for holders.
const MAX_SINGLE: usize = 4_000;
/// How long the door's tokens are valid, seconds.
pub(crate) const LIFETIME: u64 = 3600;

/// What many tokens have in common, and are revoked by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// A user, by `metadata.name`: the tokens that were issued to them.
    User(String),
    /// A project, by its id: the tokens that are for it.
    Project(String),
    /// A user in a place: a project or a domain, by its id, or the whole cloud.
    UserIn(String, String),
    /// A domain, by its id: the tokens of its users, and those for it and its projects.
    Domain(String),
}

impl Holder {
    /// The key of its entry.
    fn key(&self) -> String {
        match self {
            Self::User(name) => format!("{USER_PREFIX}{name}"),
            Self::Project(id) => format!("{PROJECT_PREFIX}{id}"),
            Self::Domain(id) => format!("{DOMAIN_PREFIX}{id}"),
            Self::UserIn(name, place) => format!("{PLACE_PREFIX}{place}.{name}"),
        }
    }

    /// Whose entry a key is; `None` for that of a single token.
    fn of(key: &str) -> Option<Self> {
        let after = |prefix: &str| key.strip_prefix(prefix).map(str::to_owned);
        let of_user = after(USER_PREFIX).map(Self::User);
        let in_place = || {
            let (place, name) = key.strip_prefix(PLACE_PREFIX)?.split_once('.')?;
            Some(Self::UserIn(name.to_owned(), place.to_owned()))
        };
        of_user
            .or_else(|| after(PROJECT_PREFIX).map(Self::Project))
            .or_else(|| after(DOMAIN_PREFIX).map(Self::Domain))
            .or_else(in_place)
    }

    /// Refuses its tokens that were issued until `moment`, milliseconds since 1970.
    fn refuse(&self, tokens: &TokenKey, moment: u64) -> Result<(), RevocationsFull> {
        match self {
            Self::User(name) => tokens.revocations().revoke_user(name, moment),
            Self::Project(id) => tokens.revocations().revoke_project(id, moment),
            Self::Domain(id) => tokens.revocations().revoke_domain(id, moment),
            Self::UserIn(name, place) => tokens.revocations().revoke_in(name, place, moment),
        }
    }
}

fn full(error: RevocationsFull) -> Fault {
    Fault::new(axum::http::StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

/// Revokes one token.
pub(crate) async fn revoke(system: &Client, tokens: &TokenKey, claims: &Claims) -> Result<(), Fault> {
    single(system, tokens, (&claims.jti, claims.exp), &claims.sub).await
}

/// Revokes what has an id of its own; where there are too many such already, all tokens of the user whose it is.
async fn single(
    system: &Client,
    tokens: &TokenKey,
    (id, until): (&str, u64),
    user: &str,
) -> Result<(), Fault> {
    let all = Holder::User(user.to_owned());
    if tokens.revocations().revoke(id, until).is_err() {
        return revoke_all(system, tokens, &all).await;
    }
    match store(system, id, until).await {
        Err(fault) if fault.status == axum::http::StatusCode::INSUFFICIENT_STORAGE => {
            revoke_all(system, tokens, &all).await
        }
        other => other,
    }
}

/// Revokes all tokens that were got with the application credential or by the trust with this id.
/// `user` is whose it is.
pub(crate) async fn revoke_by(system: &Client, tokens: &TokenKey, id: &str, user: &str) -> Result<(), Fault> {
    single(system, tokens, (id, now_ms() / 1000 + LIFETIME), user).await
}

/// Revokes all tokens of a holder that were issued until now.
pub(crate) async fn revoke_all(system: &Client, tokens: &TokenKey, holder: &Holder) -> Result<(), Fault> {
    let now = now_ms();
    holder.refuse(tokens, now).map_err(full)?;
    store(system, &holder.key(), now).await
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
    let in_force = || data.iter().filter(|entry| !is_over(*entry, now_ms()));
    if Holder::of(key).is_none()
        && in_force().filter(|(key, _)| Holder::of(key).is_none()).count() >= MAX_SINGLE
    {
        return Err(Fault::new(
            axum::http::StatusCode::INSUFFICIENT_STORAGE,
            format!("{MAX_SINGLE} single revocations are in force already"),
        ));
    }
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
        Ok(at) if Holder::of(key).is_some() => at + MAX_LIFETIME * 1000 < now_ms,
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
            let users = |user: &User| (Holder::User(ids::name(user).to_owned()), user.spec.enabled);
            let projects = |project: &Project| (Holder::Project(project.id()), project.spec.enabled);
            let domains = |domain: &Domain| (Holder::Domain(domain_named(domain).id), domain.spec.enabled);
            tokio::join!(
                follow_map(system.clone(), tokens.clone()),
                follow(Api::<User>::all(system.clone()), tokens.clone(), users),
                follow(Api::<Project>::all(system.clone()), tokens.clone(), projects),
                follow(Api::<Domain>::all(system), tokens, domains),
            );
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
        let fed = match Holder::of(entry.0) {
            Some(holder) => holder.refuse(tokens, at),
            None => tokens.revocations().revoke(entry.0, at),
        };
        if let Err(error) = fed {
            tracing::error!(%error, "a revoked token may be taken for good");
        }
    }
}

/// Follows the holders of one kind; `of` says which an object is, and whether it is enabled.
async fn follow<K: ids::Kind + Send + 'static>(
    api: Api<K>,
    tokens: TokenKey,
    of: impl Fn(&K) -> (Holder, bool),
) {
    let mut changes = Box::pin(watcher(api, watcher::Config::default()).default_backoff());
    while let Some(change) = changes.next().await {
        let gone = match change {
            Ok(Event::Delete(object)) => of(&object).0,
            Ok(Event::Apply(object) | Event::InitApply(object)) => match of(&object) {
                (holder, false) => holder,
                (_, true) => continue,
            },
            Ok(_) => continue,
            Err(error) => {
                tracing::debug!(%error, kind = %K::kind(&()), "those who have tokens are not followed at the moment");
                continue;
            }
        };
        if let Err(error) = gone.refuse(&tokens, now_ms()) {
            tracing::error!(%error, holder = gone.key(), "tokens of one who is gone stay good until they expire");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yunfan_identity::token::Scope;

    #[test]
    fn entries_end_with_the_tokens_they_are_about() {
        let over = |key: &str, value: &str, now| is_over((&key.to_owned(), &value.to_owned()), now);
        assert!(over("a", "100", 101_000));
        assert!(!over("a", "100", 99_000));
        assert!(!over("user.a", "100000", 101_000));
        assert!(!over("project.1", "100000", 101_000));
        assert!(over("user.a", "0", MAX_LIFETIME * 1000 + 1));
        assert!(over("a", "x", 0));
        let holder = Holder::UserIn("ann.b".to_owned(), "1".to_owned());
        assert_eq!(Holder::of(&holder.key()), Some(holder));
    }

    #[test]
    fn what_is_stored_is_refused() {
        let tokens = TokenKey::ephemeral().unwrap();
        let claims = Claims::new("ann", "1", 60);
        let token = tokens.issue(&claims).unwrap();
        assert!(tokens.verify(&token).is_ok());
        feed(&tokens, &[(claims.jti.clone(), claims.exp.to_string())].into());
        assert!(tokens.verify(&token).is_err());
        let other = tokens.issue(&Claims::new("ann", "1", 60)).unwrap();
        feed(&tokens, &[("user.ann".to_owned(), now_ms().to_string())].into());
        assert!(tokens.verify(&other).is_err());
        let mut scoped = Claims::new("bob", "2", 60);
        scoped.project = Some(Scope { id: "1".to_owned(), name: "p".to_owned() });
        let scoped = tokens.issue(&scoped).unwrap();
        feed(&tokens, &[("project.2".to_owned(), now_ms().to_string())].into());
        assert!(tokens.verify(&scoped).is_ok());
        feed(&tokens, &[("project.1".to_owned(), now_ms().to_string())].into());
        assert!(tokens.verify(&scoped).is_err());
    }
}
