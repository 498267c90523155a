//! Tokens of service accounts that Secrets hold: a Secret of the type `kubernetes.io/service-account-token` gets a token of the account
//! that it names, and goes when that goes (Kubernetes' tokens controller). Others ask for tokens that end.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ObjectReference, Secret, ServiceAccount};
use kube::ResourceExt;
use serde_json::{Map, json};
use yunfan_client::{Informer, ObjectKey, Queue, is_conflict, is_not_found, run_loop};
use yunfan_identity::token::{LegacyClaims, Reference};

use crate::Context;

const TYPE: &str = "kubernetes.io/service-account-token";
/// Annotations of a Secret: whose token it holds.
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// What a Secret holds beside its token: the authority's certificate and its own namespace.
const TOKEN: &str = "token";
const CA: &str = "ca.crt";
const NAMESPACE: &str = "namespace";

/// A Secret, and the account that it names or named.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    secret: ObjectKey,
    account: String,
}

impl Key {
    fn of(secret: &Secret) -> Option<Self> {
        let account = secret.annotations().get(ACCOUNT).filter(|name| !name.is_empty())?;
        (secret.type_.as_deref() == Some(TYPE))
            .then(|| Self { secret: ObjectKey::of(secret), account: account.clone() })
    }
}

/// Runs the loop.
pub async fn run(context: Context) {
    // Other Secrets are nothing that this loop needs to know.
    let secrets = context.informers.of_selected::<Secret>(&format!("type={TYPE}"));
    let accounts = context.informers.of::<ServiceAccount>();
    tokio::join!(secrets.synced(), accounts.synced());
    let queue = Queue::new();
    queue.feed(&secrets, Key::of);
    let known = secrets.clone();
    queue.feed(&accounts, move |account| {
        let (name, namespace) = (account.name_any(), account.namespace().unwrap_or_default());
        let of_it = known.in_namespace(&namespace).into_iter().filter_map(|secret| Key::of(&secret));
        of_it.filter(|key| key.account == name).collect::<Vec<_>>()
    });
    let work = Arc::new(Loop { context, secrets, accounts });
    run_loop("account-token", queue, 1, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

struct Loop {
    context: Context,
    secrets: Informer<Secret>,
    accounts: Informer<ServiceAccount>,
}

impl Loop {
    async fn reconcile(&self, key: &Key) -> kube::Result<Option<Duration>> {
        let Some(secret) = self.secrets.get_key(&key.secret) else {
            return self.forget(key).await.map(|()| None);
        };
        if secret.metadata.deletion_timestamp.is_some() || Key::of(&secret).as_ref() != Some(key) {
            return Ok(None);
        }
        match self.account(key, secret.annotations().get(ACCOUNT_UID)).await? {
            Some(account) => self.fill(key, &secret, &account).await?,
            None => {
                let uid = secret.uid();
                let writer = &self.context.writer;
                writer.delete::<Secret>(key.secret.namespace(), &key.secret.name, uid.as_deref()).await?;
            }
        }
        Ok(None)
    }

    /// The account that a Secret names, if it is there and is the one that it meant.
    async fn account(&self, key: &Key, uid: Option<&String>) -> kube::Result<Option<ServiceAccount>> {
        let meant = |account: &ServiceAccount| {
            uid.is_none_or(|uid| uid.is_empty() || account.uid().as_ref() == Some(uid))
        };
        let namespace = key.secret.namespace();
        if let Some(found) = self.accounts.get(namespace, &key.account).filter(|account| meant(account)) {
            return Ok(Some((*found).clone()));
        }
        // It may have been made a moment ago; a Secret must not go for that.
        match self.context.writer.get::<ServiceAccount>(namespace, &key.account).await {
            Ok(account) => Ok(Some(account).filter(meant)),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn fill(&self, key: &Key, secret: &Secret, account: &ServiceAccount) -> kube::Result<()> {
        let authority = self.context.config.authority.certificate_pem();
        let missing = missing(secret, authority);
        // One that nobody may change stays as it is.
        if missing.is_empty() || secret.immutable == Some(true) {
            return Ok(());
        }
        let uid = account.uid().unwrap_or_default();
        let namespace = secret.namespace().unwrap_or_default();
        let mut data = Map::new();
        for part in missing {
            let bytes = match part {
                CA => authority.as_bytes().to_vec(),
                NAMESPACE => namespace.clone().into_bytes(),
                _ => {
                    let of = Reference { name: key.account.clone(), uid: uid.clone() };
                    let claims = LegacyClaims::new(&namespace, &key.secret.name, &of);
                    match self.context.config.accounts.issue_legacy(&claims) {
                        Ok(token) => token.into_bytes(),
                        Err(error) => {
                            tracing::error!(%error, secret = key.secret.name, "no token can be signed");
                            return Ok(());
                        }
                    }
                }
            };
            data.insert(part.to_owned(), json!(ByteString(bytes)));
        }
        let patch = json!({
            "metadata": {
                "resourceVersion": secret.resource_version(),
                "annotations": {ACCOUNT: key.account, ACCOUNT_UID: uid},
            },
            "data": data,
        });
        let writer = &self.context.writer;
        match writer.merge::<Secret>(key.secret.namespace(), &key.secret.name, &patch).await {
            // That it went or changed meanwhile is on its way here.
            Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
            result => result.map(drop),
        }
    }

    /// A Secret is gone: its account does not list it any longer.
    async fn forget(&self, key: &Key) -> kube::Result<()> {
        let namespace = key.secret.namespace();
        let Some(account) = self.accounts.get(namespace, &key.account) else { return Ok(()) };
        let listed = account.secrets.as_deref().unwrap_or_default();
        let is_it = |entry: &ObjectReference| entry.name.as_deref() == Some(&key.secret.name);
        if !listed.iter().any(is_it) {
            return Ok(());
        }
        let left: Vec<&ObjectReference> = listed.iter().filter(|entry| !is_it(entry)).collect();
        let patch = json!({"metadata": {"resourceVersion": account.resource_version()}, "secrets": left});
        match self.context.writer.merge::<ServiceAccount>(namespace, &key.account, &patch).await {
            Err(error) if is_not_found(&error) => Ok(()),
            // After a conflict it is tried again: no event of the Secret will come.
            result => result.map(drop),
        }
    }
}

/// What a Secret has to be given.
fn missing(secret: &Secret, authority: &str) -> Vec<&'static str> {
    let given = |part: &str| {
        let found = secret.data.as_ref().and_then(|data| data.get(part));
        found.map(|bytes| bytes.0.as_slice()).unwrap_or_default()
    };
    let mut missing = Vec::new();
    if given(CA) != authority.as_bytes() {
        missing.push(CA);
    }
    missing.extend([NAMESPACE, TOKEN].into_iter().filter(|part| given(part).is_empty()));
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_stays_but_for_another_authority() {
        let secret = |pairs: &[(&str, &str)]| Secret {
            data: Some(
                pairs
                    .iter()
                    .map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())))
                    .collect(),
            ),
            ..Secret::default()
        };
        assert_eq!(missing(&Secret::default(), "ca"), [CA, NAMESPACE, TOKEN]);
        assert_eq!(missing(&secret(&[(TOKEN, ""), (NAMESPACE, "x"), (CA, "ca")]), "ca"), [TOKEN]);
        assert_eq!(missing(&secret(&[(TOKEN, "t"), (NAMESPACE, "x"), (CA, "old")]), "ca"), [CA]);
        assert!(missing(&secret(&[(TOKEN, "t"), (NAMESPACE, "x"), (CA, "ca")]), "ca").is_empty());
    }
}
