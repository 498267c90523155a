//! What a new cloud starts with, and how the authorizer is fed.

use std::sync::Arc;

use futures::future::try_join_all;
use serde_json::{Value, json};
use yunfan_identity::UserInfo;
use yunfan_identity::rbac::{RbacAuthorizer, reconcile};
use yunfan_objects::builtin::{SYSTEM_PRIORITIES, flow_objects};
use yunfan_objects::{ApiError, FieldValidation, Reason};
use yunfan_resources::addresses;
use yunfan_resources::claims::{DEFAULT_CLASS, DRIVER, IS_DEFAULT};

use crate::cache::{Cache, Change, ChangeType};
use crate::keys;
use crate::kinds::{CRD_GROUP, CRD_PLURAL, Kind};
use crate::registry::{DeleteOptions, Part, Registry, Writer};
use crate::warnings::Warnings;

const RBAC: &str = "rbac.authorization.k8s.io";
/// The kinds that the authorizer knows: plural and kind.
const RBAC_KINDS: [(&str, &str); 4] = [
    ("clusterroles", "ClusterRole"),
    ("clusterrolebindings", "ClusterRoleBinding"),
    ("roles", "Role"),
    ("rolebindings", "RoleBinding"),
];
/// Namespaces of every cloud.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-node-lease", "kube-public"];
const FLOWS: &str = "flowcontrol.apiserver.k8s.io";
/// Flow schemas and priority levels with this annotation are brought up to date at each start.
const AUTO_UPDATE_FLOW: &str = "apf.kubernetes.io/autoupdate-spec";

/// Gives the authorizer all RBAC objects of the cache, and each later change, before any request that waits for
/// that change goes on.
pub(crate) fn feed_rbac(cache: &Arc<Cache>, rbac: &Arc<RbacAuthorizer>) {
    let prefixes = RBAC_KINDS.map(|(plural, kind)| (keys::kind_prefix(RBAC, plural), kind));
    let known = prefixes.clone();
    let target = rbac.clone();
    cache.observe(Box::new(move |prefix: &str, change: &Change| {
        let Some((prefix, kind)) = known.iter().find(|(known, _)| known == prefix) else { return };
        if change.kind == ChangeType::Deleted {
            let (namespace, name) = keys::split_name(prefix, &change.entry.key);
            target.remove(kind, namespace, name);
        } else {
            apply(&target, &change.entry.decode_stored());
        }
    }));
    for (prefix, _) in prefixes {
        for entry in cache.kind(&prefix).list(&prefix).entries {
            apply(rbac, &entry.decode_stored());
        }
    }
}

fn apply(rbac: &RbacAuthorizer, object: &Value) {
    if let Err(error) = rbac.apply(object) {
        tracing::warn!(%error, name = %object["metadata"]["name"], "role object grants nothing");
    }
}

/// Makes what is missing, all at one time (but for namespaces, in which some of it is), so that the store groups it
/// into few commits.
pub(crate) async fn run(registry: &Arc<Registry>) -> Result<(), ApiError> {
    let user = UserInfo::authenticated("system:apiserver", [yunfan_identity::user::MASTERS_GROUP]);
    let warnings = Warnings::default();
    let writer = Writer::system(&user, &warnings);
    registry.cache.wait_current().await?;
    let namespaces = NAMESPACES.map(|name| {
        ("", "namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
    });
    let mut definitions = Vec::new();
    for definition in yunfan_resources::system_crds() {
        let mut object = serde_json::to_value(definition)
            .map_err(|error| ApiError::internal(format!("a definition of our own is no JSON: {error}")))?;
        object["apiVersion"] = json!(format!("{CRD_GROUP}/v1"));
        object["kind"] = json!("CustomResourceDefinition");
        definitions.push((CRD_GROUP, CRD_PLURAL, object));
    }
    let priorities = SYSTEM_PRIORITIES.map(|(name, value, description)| {
        let (version, metadata) = ("scheduling.k8s.io/v1", json!({"name": name}));
        let class = json!({"apiVersion": version, "kind": "PriorityClass", "metadata": metadata, "value": value, "description": description});
        ("scheduling.k8s.io", "priorityclasses", class)
    });
    let flows = flow_kinds();
    let roles = yunfan_identity::bootstrap::objects().into_iter().filter_map(|object| {
        let (plural, _) = RBAC_KINDS.into_iter().find(|(_, kind)| object["kind"] == *kind)?;
        Some((RBAC, plural, object))
    });
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": DEFAULT_CLASS, "annotations": {IS_DEFAULT: "true"}},
        "provisioner": DRIVER, "reclaimPolicy": "Delete", "allowVolumeExpansion": true,
        // A volume lies on one node: that of the first Pod that wants it.
        "volumeBindingMode": "WaitForFirstConsumer",
    });
    let driver = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": DRIVER},
        "spec": {"attachRequired": false, "fsGroupPolicy": "File", "volumeLifecycleModes": ["Persistent"]},
    });
    // An operator's own classes stand in for ours, which would be the newest default, and so win, if it came back.
    let classes = keys::kind_prefix("storage.k8s.io", "storageclasses");
    let none = registry.cache.kind(&classes).list(&classes).entries.is_empty();
    let storage = [("storageclasses", class), ("csidrivers", driver)]
        .map(|(plural, object)| ("storage.k8s.io", plural, object))
        .into_iter()
        .filter(|(_, plural, _)| none || *plural != "storageclasses");
    let range = json!({
        "apiVersion": format!("{}/v1", addresses::GROUP), "kind": "ServiceCIDR",
        "metadata": {"name": addresses::DEFAULT_RANGE},
        "spec": {"cidrs": registry.config.service_cidrs()},
    });
    let range = [(addresses::GROUP, "servicecidrs", range)];
    let made = |(group, plural, object)| ensure(registry, &writer, group, plural, object);
    try_join_all(namespaces.map(made)).await?;
    let all = definitions.into_iter().chain(roles).chain(priorities).chain(flows).chain(storage).chain(range);
    try_join_all(all.map(made)).await?;
    Ok(())
}

/// What tells whose requests wait for whose.
fn flow_kinds() -> impl Iterator<Item = (&'static str, &'static str, Value)> {
    flow_objects().into_iter().map(|object| {
        let schema = object["kind"] == "FlowSchema";
        (FLOWS, if schema { "flowschemas" } else { "prioritylevelconfigurations" }, object)
    })
}

/// Makes again what is missing of that.
pub(crate) async fn flows(registry: &Arc<Registry>) -> Result<(), ApiError> {
    let user = UserInfo::authenticated("system:apiserver", [yunfan_identity::user::MASTERS_GROUP]);
    let warnings = Warnings::default();
    let writer = Writer::system(&user, &warnings);
    let made = |(group, plural, object)| ensure(registry, &writer, group, plural, object);
    try_join_all(flow_kinds().map(made)).await.map(|_| ())
}

async fn ensure(
    registry: &Registry,
    writer: &Writer<'_>,
    group: &str,
    plural: &str,
    mut object: Value,
) -> Result<(), ApiError> {
    let table = registry.kinds.table();
    let Some(kind) = table.get(group, "v1", plural) else {
        return Err(ApiError::internal(format!("the kind {plural}.{group} is not served")));
    };
    kind.descriptor.decode(&mut object, FieldValidation::Ignore, &[])?;
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
    let (namespace, name) = (text("namespace"), text("name"));
    let Some(entry) = kind.resource.cache.get(&kind.key(&namespace, &name)) else {
        return create(registry, writer, &kind, &namespace, object).await;
    };
    let owned = match group {
        CRD_GROUP => true,
        RBAC => {
            let existing = entry.decode_stored();
            return complete(registry, writer, &kind, (&namespace, &name), &existing, object).await;
        }
        FLOWS => entry.decode_stored()["metadata"]["annotations"][AUTO_UPDATE_FLOW] == "true",
        _ => false,
    };
    if owned { update(registry, writer, &kind, &namespace, &name, object).await } else { Ok(()) }
}

async fn create(
    registry: &Registry,
    writer: &Writer<'_>,
    kind: &Kind,
    namespace: &str,
    object: Value,
) -> Result<(), ApiError> {
    match registry.create(writer, kind, namespace, object).await {
        // Another server was first.
        Err(error) if error.reason() == Reason::AlreadyExists => Ok(()),
        result => result.map(|_| ()),
    }
}

/// Adds to a role or a binding what it lacks; what an operator added stays.
async fn complete(
    registry: &Registry,
    writer: &Writer<'_>,
    kind: &Kind,
    (namespace, name): (&str, &str),
    existing: &Value,
    wanted: Value,
) -> Result<(), ApiError> {
    if reconcile::is_left_alone(existing) {
        return Ok(());
    }
    if reconcile::leads_elsewhere(existing, &wanted) {
        let uid = existing["metadata"]["uid"].as_str().map(str::to_owned);
        let options = DeleteOptions { uid, ..DeleteOptions::default() };
        return match registry.delete(writer, kind, namespace, name, &options).await {
            // Another server was first.
            Err(error) if !matches!(error.reason(), Reason::NotFound | Reason::Conflict) => Err(error),
            _ => create(registry, writer, kind, namespace, wanted).await,
        };
    }
    let change = |old: &Value| Ok(reconcile::completed(old, &wanted));
    registry.modify(writer, kind, namespace, name, Part::Main, change).await.map(|_| ())
}

/// Makes the parts that are ours what they should be; labels and annotations of others stay.
async fn update(
    registry: &Registry,
    writer: &Writer<'_>,
    kind: &Kind,
    namespace: &str,
    name: &str,
    wanted: Value,
) -> Result<(), ApiError> {
    let merge = |old: &Value| {
        let mut new = old.clone();
        for (field, value) in wanted.as_object().into_iter().flatten() {
            if field != "metadata" && field != "status" {
                new[field] = value.clone();
            }
        }
        for field in ["labels", "annotations"] {
            for (key, value) in wanted["metadata"][field].as_object().into_iter().flatten() {
                new["metadata"][field][key] = value.clone();
            }
        }
        Ok(new)
    };
    registry.modify(writer, kind, namespace, name, Part::Main, merge).await.map(|_| ())
}
