//! Which objects belong to whom: by the references that they carry, looked up and not searched for.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;
use yunfan_client::{Index, Informer, ObjectKey, Watched};

use crate::pods::controller_of;

/// The controller of an object, where it is of this kind: of this name and group, whatever its version.
pub(crate) fn controller_among<O: Resource<DynamicType = ()>>(meta: &ObjectMeta) -> Option<&OwnerReference> {
    controller_of(meta).filter(|owner| {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        owner.kind == O::kind(&()) && group == O::group(&())
    })
}

/// The owners that a change of an object concerns: its controller, or for one that has none those that select it.
pub(crate) fn owners_of<O: Watched>(
    owners: &Informer<O>,
    child: &ObjectMeta,
    selects: impl Fn(&O) -> bool,
) -> Vec<ObjectKey> {
    let namespace = child.namespace.as_deref().unwrap_or_default();
    if let Some(owner) = controller_among::<O>(child) {
        return vec![ObjectKey::new(namespace, owner.name.clone())];
    }
    if controller_of(child).is_some() {
        return Vec::new();
    }
    let all = owners.in_namespace(namespace);
    all.iter().filter(|owner| selects(owner)).map(|owner| ObjectKey::of(owner.as_ref())).collect()
}

/// Objects by their controllers.
pub(crate) struct Children<K>(Index<K>);

impl<K: Watched> Children<K> {
    pub(crate) fn new(informer: &Informer<K>) -> Self {
        Self(informer.index("controller", |object| {
            let meta = object.meta();
            let uid = controller_of(meta).map(|owner| owner.uid.clone());
            vec![uid.unwrap_or_else(|| orphans(meta.namespace.as_deref().unwrap_or_default()))]
        }))
    }

    /// The objects that a controller has.
    pub(crate) fn of(&self, uid: &str) -> Vec<Arc<K>> {
        self.0.get(uid)
    }

    /// The objects that a controller has, and those of its namespace that have none.
    pub(crate) fn around(&self, owner: &ObjectMeta) -> Vec<Arc<K>> {
        let mut all = self.of(owner.uid.as_deref().unwrap_or_default());
        all.extend(self.0.get(&orphans(owner.namespace.as_deref().unwrap_or_default())));
        all
    }
}

/// The word for objects of a namespace without a controller. No uid has a slash in it.
fn orphans(namespace: &str) -> String {
    format!("/{namespace}")
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::batch::v1::Job;
    use serde_json::{Value, from_value, json};

    use super::*;

    #[test]
    fn a_controller_is_known_by_its_kind_and_group() {
        let of = |version: &str, kind: &str, controller: Value| {
            let owner = json!({"apiVersion": version, "kind": kind, "name": "x", "uid": "u", "controller": controller});
            let meta: ObjectMeta = from_value(json!({"ownerReferences": [owner]})).unwrap();
            controller_among::<Job>(&meta).is_some()
        };
        assert!(of("batch/v1", "Job", json!(true)));
        assert!(of("batch/v2", "Job", json!(true)), "versions of a group are one kind");
        assert!(!of("batch.volcano.sh/v1alpha1", "Job", json!(true)));
        assert!(!of("v1", "Job", json!(true)));
        assert!(!of("batch/v1", "CronJob", json!(true)));
        assert!(!of("batch/v1", "Job", json!(null)));
    }
}
