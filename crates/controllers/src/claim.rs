//! Whose an object is: controllers adopt orphans that they select, and release what they no longer select.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::Resource;
use serde::de::DeserializeOwned;
use serde_json::json;
use yunfan_client::{Writer, is_not_found};

use crate::pods::{controller_of, matches};

/// What an owner does about an object of its namespace.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Own,
    Adopt,
    Release,
    Other,
}

/// The reference with which a controller marks its objects.
pub(crate) fn controller_reference<O: Resource<DynamicType = ()>>(owner: &O) -> OwnerReference {
    OwnerReference { block_owner_deletion: Some(true), ..owner.controller_owner_ref(&()).unwrap_or_default() }
}

fn verdict(owner: &ObjectMeta, selector: &LabelSelector, child: &ObjectMeta) -> Verdict {
    let ending = owner.deletion_timestamp.is_some();
    let selected = matches(selector, child.labels.as_ref());
    match controller_of(child) {
        Some(controller) if Some(&controller.uid) != owner.uid.as_ref() => Verdict::Other,
        Some(_) if selected => Verdict::Own,
        Some(_) if ending => Verdict::Other,
        Some(_) => Verdict::Release,
        None if selected && !ending && child.deletion_timestamp.is_none() => Verdict::Adopt,
        None => Verdict::Other,
    }
}

/// Of the objects of the owner's namespace, those that it controls, after it adopted and released what it must.
/// `finalizer` is what its objects hold on its behalf.
pub(crate) async fn claim<O, K>(
    writer: &Writer,
    owner: &O,
    selector: &LabelSelector,
    finalizer: Option<&str>,
    children: Vec<Arc<K>>,
) -> kube::Result<Vec<Arc<K>>>
where
    O: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let mut owned = Vec::new();
    let mut may_adopt = None;
    for child in children {
        match verdict(owner.meta(), selector, child.meta()) {
            Verdict::Own => owned.push(child),
            Verdict::Other => {}
            Verdict::Release => release(writer, owner.meta(), finalizer, child.as_ref()).await?,
            Verdict::Adopt => {
                let allowed = match may_adopt {
                    Some(allowed) => allowed,
                    None => *may_adopt.insert(is_there(writer, owner).await?),
                };
                if allowed {
                    owned.extend(adopt(writer, owner, finalizer, child.as_ref()).await?.map(Arc::new));
                }
            }
        }
    }
    Ok(owned)
}

/// Whether the owner is there and stays, as the API server says: the informer may lag behind its deletion, and what is adopted then
/// would be deleted with it.
async fn is_there<O>(writer: &Writer, owner: &O) -> kube::Result<bool>
where
    O: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let meta = owner.meta();
    match writer.get::<O>(meta.namespace.as_deref(), meta.name.as_deref().unwrap_or_default()).await {
        Ok(fresh) => Ok(fresh.meta().uid == meta.uid && fresh.meta().deletion_timestamp.is_none()),
        Err(error) if is_not_found(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn adopt<O, K>(
    writer: &Writer,
    owner: &O,
    finalizer: Option<&str>,
    child: &K,
) -> kube::Result<Option<K>>
where
    O: Resource<DynamicType = ()>,
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let mut owners = child.meta().owner_references.clone().unwrap_or_default();
    owners.push(controller_reference(owner));
    let mut finalizers = child.meta().finalizers.clone().unwrap_or_default();
    if let Some(finalizer) = finalizer.filter(|own| !finalizers.iter().any(|f| f == own)) {
        finalizers.push(finalizer.to_owned());
    }
    patch(writer, child, owners, finalizers).await
}

async fn release<K>(
    writer: &Writer,
    owner: &ObjectMeta,
    finalizer: Option<&str>,
    child: &K,
) -> kube::Result<()>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let mut owners = child.meta().owner_references.clone().unwrap_or_default();
    owners.retain(|reference| Some(&reference.uid) != owner.uid.as_ref());
    let mut finalizers = child.meta().finalizers.clone().unwrap_or_default();
    finalizers.retain(|own| Some(own.as_str()) != finalizer);
    patch(writer, child, owners, finalizers).await.map(|_| ())
}

/// Patches the very object that was seen; none when it is gone.
async fn patch<K>(
    writer: &Writer,
    child: &K,
    owners: Vec<OwnerReference>,
    finalizers: Vec<String>,
) -> kube::Result<Option<K>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let meta = child.meta();
    let patch = json!({"metadata": {
        "uid": meta.uid,
        "resourceVersion": meta.resource_version,
        "ownerReferences": owners,
        "finalizers": finalizers,
    }});
    let name = meta.name.as_deref().unwrap_or_default();
    match writer.merge::<K>(meta.namespace.as_deref(), name, &patch).await {
        Ok(patched) => Ok(Some(patched)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn meta(value: Value) -> ObjectMeta {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn who_owns_what() {
        const NOW: &str = "2026-01-01T00:00:00Z";
        let selector: LabelSelector = serde_json::from_value(json!({"matchLabels": {"app": "a"}})).unwrap();
        let owner = meta(json!({"uid": "1"}));
        let ending = meta(json!({"uid": "1", "deletionTimestamp": NOW}));
        let child = |labels: Value, owner: Option<&str>| {
            let owners = owner.map(
                |uid| json!([{"uid": uid, "controller": true, "apiVersion": "v1", "kind": "K", "name": "n"}]),
            );
            meta(json!({"labels": labels, "ownerReferences": owners}))
        };
        let (fits, other) = (json!({"app": "a"}), json!({"app": "b"}));
        let cases = [
            (&owner, child(fits.clone(), Some("1")), Verdict::Own),
            (&owner, child(fits.clone(), Some("2")), Verdict::Other),
            (&owner, child(other.clone(), Some("1")), Verdict::Release),
            (&ending, child(other.clone(), Some("1")), Verdict::Other),
            (&ending, child(fits.clone(), Some("1")), Verdict::Own),
            (&owner, child(fits.clone(), None), Verdict::Adopt),
            (&owner, child(other, None), Verdict::Other),
            (&ending, child(fits.clone(), None), Verdict::Other),
            (&owner, meta(json!({"labels": fits, "deletionTimestamp": NOW})), Verdict::Other),
        ];
        for (owner, child, expected) in cases {
            assert_eq!(verdict(owner, &selector, &child), expected, "{child:?}");
        }
    }
}
