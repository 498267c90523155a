//! The end of bootstrap tokens: a Secret of that type goes when its time has passed (Kubernetes' token cleaner). It was good for nothing
//! from that moment on already.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};
use yunfan_client::{Informer, ObjectKey, Queue, run_loop};

use crate::Context;

const TYPE: &str = "bootstrap.kubernetes.io/token";
const NAMESPACE: &str = "kube-system";

/// Runs the loop.
pub async fn run(context: Context) {
    // Other Secrets are nothing that this loop needs to know.
    let secrets = context.informers.of_selected::<Secret>(&format!("type={TYPE}"));
    secrets.synced().await;
    let queue = Queue::new();
    queue.feed(&secrets, |secret| expiry(secret).map(|_| ObjectKey::of(secret)));
    let work = Arc::new(Loop { context, secrets });
    run_loop("bootstrap-token", queue, 1, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

struct Loop {
    context: Context,
    secrets: Informer<Secret>,
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let Some(secret) = self.secrets.get_key(key) else { return Ok(None) };
        let Some(end) = expiry(&secret) else { return Ok(None) };
        let left = Duration::try_from(end.duration_since(Timestamp::now())).unwrap_or_default();
        if !left.is_zero() {
            return Ok(Some(left));
        }
        let params = DeleteParams {
            // What changed since may have given it more time.
            preconditions: Some(Preconditions {
                uid: secret.uid(),
                resource_version: secret.resource_version(),
            }),
            ..DeleteParams::default()
        };
        self.context.writer.delete_with::<Secret>(key.namespace(), &key.name, &params).await?;
        Ok(None)
    }
}

/// When it is to go; none while it stays. A time that cannot be read is left for people to see.
fn expiry(secret: &Secret) -> Option<Timestamp> {
    let meant = secret.type_.as_deref() == Some(TYPE)
        && secret.metadata.namespace.as_deref() == Some(NAMESPACE)
        && secret.metadata.deletion_timestamp.is_none();
    let data = secret.data.as_ref().filter(|_| meant)?;
    std::str::from_utf8(&data.get("expiration")?.0).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    #[test]
    fn tokens_go_when_they_say_so() {
        let secret = |namespace: &str, kind: &str, expiration: &str| {
            let mut secret = Secret { type_: Some(kind.to_owned()), ..Secret::default() };
            secret.metadata.namespace = Some(namespace.to_owned());
            let data = [("expiration".to_owned(), ByteString(expiration.as_bytes().to_vec()))];
            secret.data = Some(data.into());
            expiry(&secret).map(|end| end.to_string())
        };
        let end = "2026-01-01T00:00:00Z";
        assert_eq!(secret(NAMESPACE, TYPE, end).as_deref(), Some(end));
        assert_eq!(secret("default", TYPE, end), None);
        assert_eq!(secret(NAMESPACE, "Opaque", end), None);
        assert_eq!(secret(NAMESPACE, TYPE, "soon"), None);
    }
}
