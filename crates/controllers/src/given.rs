//! What every namespace is given: the ServiceAccount `default`, and the certificate of the cloud's authority in the ConfigMap
//! `kube-root-ca.crt`. Both come back when they are deleted, and the certificate is put right when it was changed.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kube::api::ObjectMeta;
use kube::{Resource, ResourceExt};
use serde_json::json;
use yunfan_client::{Informer, Queue, is_exists, is_not_found, run_loop};

use crate::Context;

/// The ServiceAccount that a Pod runs as when it names none.
const SERVICE_ACCOUNT: &str = "default";
/// The ConfigMap with the certificate that workloads know the API server by.
const ROOT_CA: &str = "kube-root-ca.crt";
/// The certificate's key in it.
const ROOT_CA_KEY: &str = "ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

/// Runs the loop.
pub async fn run(context: Context) {
    let informers = &context.informers;
    let namespaces = informers.of::<Namespace>();
    // The two by their names alone: there may be very many others.
    let accounts = informers.of_selected::<ServiceAccount>(&format!("metadata.name={SERVICE_ACCOUNT}"));
    let certificates = informers.of_selected::<ConfigMap>(&format!("metadata.name={ROOT_CA}"));
    let queue = Queue::new();
    tokio::join!(namespaces.synced(), accounts.synced(), certificates.synced());
    queue.feed(&namespaces, |namespace| [namespace.name_any()]);
    queue.feed(&accounts, |account| account.namespace());
    queue.feed(&certificates, |certificate| certificate.namespace());
    let work = Arc::new(Loop { context, namespaces, accounts, certificates });
    run_loop("given", queue, 2, move |namespace: String| {
        let work = work.clone();
        async move { work.reconcile(&namespace).await }
    })
    .await;
}

struct Loop {
    context: Context,
    namespaces: Informer<Namespace>,
    accounts: Informer<ServiceAccount>,
    certificates: Informer<ConfigMap>,
}

impl Loop {
    async fn reconcile(&self, namespace: &str) -> kube::Result<Option<Duration>> {
        let Some(found) = self.namespaces.get(None, namespace) else { return Ok(None) };
        if found.meta().deletion_timestamp.is_some() {
            return Ok(None);
        }
        let certificate = self.certificate(namespace).await;
        // The account comes last: a Pod is admitted once it is there, and then finds the certificate too. It comes also where
        // the other is refused.
        if self.accounts.get(Some(namespace), SERVICE_ACCOUNT).is_none() {
            let account = ServiceAccount { metadata: meta(namespace, SERVICE_ACCOUNT), ..Default::default() };
            made(self.context.writer.create(&account).await)?;
        }
        certificate.map(|()| None)
    }

    /// Sees to the certificate.
    async fn certificate(&self, namespace: &str) -> kube::Result<()> {
        let authority = self.context.config.authority.certificate_pem();
        match self.certificates.get(Some(namespace), ROOT_CA) {
            None => {
                let mut metadata = meta(namespace, ROOT_CA);
                let description = ("kubernetes.io/description".to_owned(), DESCRIPTION.to_owned());
                metadata.annotations = Some([description].into());
                let data = Some([(ROOT_CA_KEY.to_owned(), authority.to_owned())].into());
                made(self.context.writer.create(&ConfigMap { metadata, data, ..Default::default() }).await)?;
            }
            Some(certificate) if holds_only(&certificate, authority) => {}
            Some(certificate) => {
                // A merge patch leaves what it does not name: the other keys are named to go.
                let keys = certificate.data.iter().flatten().map(|(key, _)| (key.clone(), json!(null)));
                let mut data: serde_json::Map<_, _> = keys.collect();
                data.insert(ROOT_CA_KEY.to_owned(), json!(authority));
                let patch = json!({"data": data});
                match self.context.writer.merge::<ConfigMap>(Some(namespace), ROOT_CA, &patch).await {
                    Err(error) if !is_not_found(&error) => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

fn meta(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta { namespace: Some(namespace.to_owned()), name: Some(name.to_owned()), ..ObjectMeta::default() }
}

fn holds_only(certificate: &ConfigMap, authority: &str) -> bool {
    certificate
        .data
        .as_ref()
        .is_some_and(|data| data.len() == 1 && data.get(ROOT_CA_KEY).is_some_and(|value| value == authority))
}

/// That it is there already, or that its namespace is on its way out, is no failure.
fn made<K>(result: kube::Result<K>) -> kube::Result<()> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) if !is_exists(&error) => Err(error),
        _ => Ok(()),
    }
}
