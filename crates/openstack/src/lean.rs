//! Long lists, of whose objects no more is read than the answer shows.
//!
//! A half of what is sent of an object says who wrote which of its fields (`metadata.managedFields`). Nothing here looks at
//! that, and to build it for a thousand objects takes longer than all the rest of a list.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, ListParams};
use kube::core::Request;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use yunfan_resources::compute::{VirtualMachine, VirtualMachineSpec, VirtualMachineStatus};
use yunfan_resources::network::{Port, PortHolder};

use crate::error::Fault;

#[derive(Deserialize)]
struct Page<T> {
    items: Vec<T>,
}

/// What is read of an object's metadata.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Machine {
    metadata: Meta,
    spec: VirtualMachineSpec,
    status: Option<VirtualMachineStatus>,
}

/// Which machine holds a Port, and in which groups the Port is.
#[derive(Deserialize)]
pub(crate) struct Member {
    metadata: Within,
    spec: Membership,
}

#[derive(Deserialize)]
struct Within {
    namespace: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Membership {
    holder: Option<PortHolder>,
    security_groups: Option<Vec<String>>,
}

impl Member {
    /// The uid of the machine that holds the Port; none where it is held by something else, or free.
    pub(crate) fn machine(&self) -> Option<&str> {
        let holder = self.spec.holder.as_ref().filter(|holder| holder.kind == "VirtualMachine");
        holder.map(|holder| holder.uid.as_str())
    }

    /// The Port's namespace.
    pub(crate) fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// The names of the SecurityGroups that a machine's Port is in.
    pub(crate) fn groups(&self) -> &[String] {
        self.spec.security_groups.as_deref().unwrap_or_default()
    }
}

async fn list<K, T>(api: &Api<K>) -> Result<Vec<T>, Fault>
where
    K: kube::Resource<DynamicType = ()> + Clone,
    T: DeserializeOwned,
{
    let path = K::url_path(&(), api.namespace());
    let mut request = Request::new(path).list(&ListParams::default()).map_err(kube::Error::BuildRequest)?;
    // As `Api::list` does, for the client's spans.
    request.extensions_mut().insert("list");
    Ok(api.clone().into_client().request::<Page<T>>(request).await?.items)
}

/// Every machine that `api` can see, with those of its metadata that [`Meta`] has.
pub(crate) async fn machines(api: &Api<VirtualMachine>) -> Result<Vec<VirtualMachine>, Fault> {
    let machines = list::<_, Machine>(api).await?;
    let whole = machines.into_iter().map(|Machine { metadata, spec, status }| VirtualMachine {
        metadata: ObjectMeta {
            name: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            creation_timestamp: metadata.creation_timestamp,
            deletion_timestamp: metadata.deletion_timestamp,
            annotations: metadata.annotations,
            ..ObjectMeta::default()
        },
        spec,
        status,
    });
    Ok(whole.collect())
}

/// Of every Port that `api` can see, who holds it and which groups it is in.
pub(crate) async fn members(api: &Api<Port>) -> Result<Vec<Member>, Fault> {
    list(api).await
}

#[cfg(test)]
mod tests {
    use axum::http::{Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    fn client(items: Value) -> kube::Client {
        let answer = json!({"metadata": {}, "items": items}).to_string();
        let service = tower::service_fn(move |_: Request<Body>| {
            let response = Response::new(Body::from(answer.clone().into_bytes()));
            async move { Ok::<_, std::convert::Infallible>(response) }
        });
        kube::Client::new(service, "default")
    }

    #[tokio::test]
    async fn what_the_views_show_is_read_and_who_wrote_it_is_not() {
        let metadata = json!({
            "name": "web", "namespace": "demo", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z",
            "annotations": {"a": "b"}, "managedFields": [{"manager": "m", "operation": "Update", "fieldsV1": {"f:spec": {}}}],
        });
        let items =
            json!([{"metadata": metadata, "spec": {"flavor": "small"}, "status": {"phase": "Active"}}]);
        let all = machines(&Api::namespaced(client(items), "demo")).await.unwrap();
        let whole: VirtualMachine = serde_json::from_value(json!({
            "apiVersion": "compute.yunfan.io/v1", "kind": "VirtualMachine",
            "metadata": {"name": "web", "namespace": "demo", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z",
                         "annotations": {"a": "b"}},
            "spec": {"flavor": "small"}, "status": {"phase": "Active"},
        }))
        .unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!(serde_json::to_value(&all[0]).unwrap(), serde_json::to_value(&whole).unwrap());
    }

    #[tokio::test]
    async fn ports_tell_whose_they_are_and_their_groups() {
        let port = |holder: Value| json!({"metadata": {"name": "p", "namespace": "demo"}, "spec": {"network": "n", "holder": holder, "securityGroups": ["web"]}});
        let held = |kind: &str| json!({"kind": kind, "name": "x", "uid": "u"});
        let items = json!([port(held("VirtualMachine")), port(held("Pod")), port(Value::Null)]);
        let all = members(&Api::all(client(items))).await.unwrap();
        let machines: Vec<_> = all.iter().map(Member::machine).collect();
        assert_eq!(machines, [Some("u"), None, None]);
        assert_eq!((all[0].namespace(), all[0].groups()), ("demo", &["web".to_owned()][..]));
    }
}
