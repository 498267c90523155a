//! Quotas: the ResourceQuota of a project, as Nova and Neutron show and set it.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::StatusCode;
use k8s_openapi::api::core::v1::ResourceQuota;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Map, Value, json};
use yunfan_resources::Identified;
use yunfan_resources::compute::VirtualMachine;
use yunfan_resources::iam::Project;
use yunfan_resources::names;
use yunfan_resources::network::SecurityGroup;
use yunfan_resources::storage::{Volume, VolumeSnapshot};

use crate::auth::Session;
use crate::error::Fault;
use crate::{directory, ids};

/// What stands for "no limit".
pub(crate) const UNLIMITED: i64 = -1;
/// The highest limit, as OpenStack's services have it.
const MOST: i64 = i32::MAX as i64;
/// How often a change is tried again that another made at the same time.
const ATTEMPTS: usize = 20;

/// One limit: OpenStack's name, the key in a ResourceQuota, and how many of the key's units one of OpenStack's is.
#[derive(Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) name: &'static str,
    pub(crate) key: &'static str,
    pub(crate) unit: i64,
}

/// Nova's limits.
pub(crate) const COMPUTE: [Limit; 7] = [
    Limit { name: "cores", key: names::QUOTA_VCPUS, unit: 1 },
    Limit { name: "ram", key: names::QUOTA_MEMORY, unit: 1 << 20 },
    Limit { name: "instances", key: "count/virtualmachines.compute.yunfan.io", unit: 1 },
    Limit { name: "key_pairs", key: "count/keypairs.compute.yunfan.io", unit: 1 },
    Limit { name: "server_groups", key: "count/servergroups.compute.yunfan.io", unit: 1 },
    Limit { name: "server_group_members", key: names::QUOTA_GROUP_MEMBERS, unit: 1 },
    Limit { name: "metadata_items", key: names::QUOTA_METADATA_ITEMS, unit: 1 },
];

/// What Nova still tells of Neutron's limits before 2.36.
pub(crate) const COMPUTE_NETWORK: [Limit; 4] = [
    Limit { name: "fixed_ips", key: "count/ports.network.yunfan.io", unit: 1 },
    Limit { name: "floating_ips", key: "count/floatingips.network.yunfan.io", unit: 1 },
    Limit { name: "security_groups", key: "count/securitygroups.network.yunfan.io", unit: 1 },
    Limit { name: "security_group_rules", key: names::QUOTA_GROUP_RULES, unit: 1 },
];

/// What Nova still tells before 2.57 of files that are put into new servers, of which there are none here, however many may be.
pub(crate) const COMPUTE_FILES: [Limit; 3] = [
    Limit { name: "injected_files", key: "compute.yunfan.io/injected-files", unit: 1 },
    Limit {
        name: "injected_file_content_bytes",
        key: "compute.yunfan.io/injected-file-content-bytes",
        unit: 1,
    },
    Limit { name: "injected_file_path_bytes", key: "compute.yunfan.io/injected-file-path-bytes", unit: 1 },
];

/// Neutron's limits.
pub(crate) const NETWORK: [Limit; 8] = [
    Limit { name: "network", key: "count/networks.network.yunfan.io", unit: 1 },
    Limit { name: "subnet", key: "count/subnets.network.yunfan.io", unit: 1 },
    Limit { name: "subnetpool", key: "count/subnetpools.network.yunfan.io", unit: 1 },
    Limit { name: "port", key: "count/ports.network.yunfan.io", unit: 1 },
    Limit { name: "router", key: "count/routers.network.yunfan.io", unit: 1 },
    Limit { name: "floatingip", key: "count/floatingips.network.yunfan.io", unit: 1 },
    Limit { name: "security_group", key: "count/securitygroups.network.yunfan.io", unit: 1 },
    Limit { name: "security_group_rule", key: names::QUOTA_GROUP_RULES, unit: 1 },
];

/// Cinder's limits.
pub(crate) const STORAGE: [Limit; 3] = [
    Limit { name: "volumes", key: "count/volumes.storage.yunfan.io", unit: 1 },
    Limit { name: "gigabytes", key: names::QUOTA_GIGABYTES, unit: 1 },
    Limit { name: "snapshots", key: "count/volumesnapshots.storage.yunfan.io", unit: 1 },
];

/// Glance's limits.
pub(crate) const IMAGE: [Limit; 2] = [
    Limit { name: "image_size_total", key: names::QUOTA_IMAGE_BYTES, unit: 1 << 20 },
    Limit { name: "image_count_total", key: "count/images.image.yunfan.io", unit: 1 },
];
/// The first of them, in bytes.
pub(crate) const IMAGE_BYTES: Limit =
    Limit { name: "image_size_total", key: names::QUOTA_IMAGE_BYTES, unit: 1 };

/// A limit and what is used of it, in OpenStack's units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) limit: i64,
    pub(crate) used: i64,
}

/// The namespace of a project that the caller names: their own, or, for who may read projects, any.
pub(crate) async fn namespace_of(session: &Session, project: &str) -> Result<String, Fault> {
    if project == session.project_id() {
        return session.namespace().map(str::to_owned);
    }
    let found = session.find(&session.global::<Project>(), project).await?;
    let found = found.ok_or_else(|| Fault::bad(format!("{project} is not a valid project id.")))?;
    directory::home(&found).map(str::to_owned).ok_or_else(|| {
        Fault::conflict(format!("Project {project} has no namespace yet; try again in a moment."))
    })
}

/// As [`namespace_of`], also by the project's name: Neutron and Cinder ask nobody whether a word is a project's id, and clients give them names.
pub(crate) async fn namespace_named(session: &Session, project: &str) -> Result<String, Fault> {
    let fault = match namespace_of(session, project).await {
        Err(fault) if fault.status == StatusCode::BAD_REQUEST => fault,
        found => return found,
    };
    let all = ids::list(&session.global::<Project>()).await?;
    let mut named = all.iter().filter(|one| one.display_name() == project);
    match (named.next(), named.next()) {
        (Some(one), None) => namespace_of(session, &one.id()).await,
        _ => Err(fault),
    }
}

/// The limits of a namespace and what is used of them.
pub(crate) async fn read(
    session: &Session,
    namespace: &str,
    limits: &[Limit],
) -> Result<Vec<(Limit, Usage)>, Fault> {
    let quota =
        session.within::<ResourceQuota>(namespace).get_opt(names::PROJECT_QUOTA).await?.unwrap_or_default();
    let hard = quota.spec.and_then(|spec| spec.hard).unwrap_or_default();
    let used = quota.status.and_then(|status| status.used).unwrap_or_default();
    let mut all = Vec::new();
    for limit in limits {
        let value = |from: &BTreeMap<String, Quantity>| {
            from.get(limit.key).and_then(|quantity| bytes(&quantity.0)).map(|value| value / limit.unit)
        };
        let used = match value(&used) {
            Some(used) => used,
            // Kubernetes counts what is limited; OpenStack's clients are told of the rest, too.
            None => counted(session, namespace, limit).await?,
        };
        all.push((*limit, Usage { limit: value(&hard).unwrap_or(UNLIMITED), used }));
    }
    Ok(all)
}

/// What is used of something that has no limit, in OpenStack's units; 0 for what only the API server can count.
async fn counted(session: &Session, namespace: &str, limit: &Limit) -> Result<i64, Fault> {
    if let Some((plural, group)) = limit.key.strip_prefix("count/").and_then(|rest| rest.split_once('.')) {
        let resource = kube::discovery::ApiResource {
            group: group.to_owned(),
            version: "v1".to_owned(),
            api_version: format!("{group}/v1"),
            // Only the path is made of it.
            kind: String::new(),
            plural: plural.to_owned(),
        };
        let api = Api::<DynamicObject>::namespaced_with(session.client.clone(), namespace, &resource);
        let first = api.list(&ListParams::default().limit(1)).await?;
        let more = first.metadata.remaining_item_count.unwrap_or_default();
        return Ok(more + i64::try_from(first.items.len()).unwrap_or_default());
    }
    let machines = || async { ids::list(&session.within::<VirtualMachine>(namespace)).await };
    Ok(match limit.key {
        names::QUOTA_VCPUS => machines()
            .await?
            .iter()
            .filter_map(|vm| vm.spec.resources.as_ref())
            .map(|it| i64::from(it.vcpus))
            .sum(),
        names::QUOTA_MEMORY => {
            let all = machines().await?;
            all.iter().filter_map(|vm| vm.spec.resources.as_ref()).map(|it| i64::from(it.memory_mib)).sum()
        }
        names::QUOTA_GIGABYTES => {
            let (volumes, snapshots) =
                (session.within::<Volume>(namespace), session.within::<VolumeSnapshot>(namespace));
            let (volumes, snapshots) = tokio::try_join!(ids::list(&volumes), ids::list(&snapshots))?;
            let of_volumes: i64 = volumes.iter().map(|one| i64::from(one.spec.size_gib)).sum();
            of_volumes + snapshots.iter().filter_map(|one| one.spec.size_gib).map(i64::from).sum::<i64>()
        }
        names::QUOTA_GROUP_RULES => {
            let groups = ids::list(&session.within::<SecurityGroup>(namespace)).await?;
            groups.iter().map(|group| group.spec.rules.len() as i64).sum()
        }
        _ => 0,
    })
}

/// Whether a namespace has such limits of its own, or has none where others have the default ones.
pub(crate) async fn has_own(session: &Session, namespace: &str, limits: &[Limit]) -> Result<bool, Fault> {
    let quotas = session.within::<ResourceQuota>(namespace);
    let Some(quota) = quotas.get_opt(names::PROJECT_QUOTA).await? else { return Ok(false) };
    let (default, free) = (keys(&quota, names::DEFAULT_LIMITS), keys(&quota, names::NO_LIMITS));
    let is = |all: &[String], key: &str| all.iter().any(|one| one == key);
    Ok(limits
        .iter()
        .any(|limit| is(&free, limit.key) || there_has(&quota, limit.key) && !is(&default, limit.key)))
}

/// A list of keys in an annotation.
fn keys(quota: &ResourceQuota, annotation: &str) -> Vec<String> {
    let text = quota.metadata.annotations.as_ref().and_then(|all| all.get(annotation));
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// The one class that projects are of; others can be named, and limit nobody.
pub(crate) const DEFAULT_CLASS: &str = "default";

/// What is told of limits for another class.
pub(crate) fn no_class(class: &str) -> Fault {
    Fault::bad(format!(
        "{class} is not supported: the one class of projects is {DEFAULT_CLASS}, and single ones are limited by os-quota-sets."
    ))
}

/// The default limits: what a project has that says nothing else. They are no secret, and nobody's.
pub(crate) async fn defaults(session: &Session, limits: &[Limit]) -> Result<Vec<(Limit, Usage)>, Fault> {
    let hard = default_quota(session).await?;
    let value = |limit: &Limit| hard.get(limit.key).and_then(|quantity| bytes(&quantity.0));
    let usage =
        |limit: &Limit| Usage { limit: value(limit).map_or(UNLIMITED, |value| value / limit.unit), used: 0 };
    Ok(limits.iter().map(|limit| (*limit, usage(limit))).collect())
}

async fn default_quota(session: &Session) -> Result<BTreeMap<String, Quantity>, Fault> {
    let system = Api::<ResourceQuota>::namespaced(session.door.system.clone(), names::SYSTEM_NAMESPACE);
    let quota = system.get_opt(names::DEFAULT_QUOTA).await?;
    Ok(quota.and_then(|quota| quota.spec?.hard).unwrap_or_default())
}

/// Sets default limits; -1 takes one away. Projects that say nothing else have them a moment later.
pub(crate) async fn write_defaults(session: &Session, wanted: &[(Limit, i64)]) -> Result<(), Fault> {
    let quotas = session.within::<ResourceQuota>(names::SYSTEM_NAMESPACE);
    let hard = hard(wanted)?;
    put(&quotas, names::DEFAULT_QUOTA, |_| (hard.clone(), json!({}))).await
}

fn hard(wanted: &[(Limit, i64)]) -> Result<Map<String, Value>, Fault> {
    let mut hard = Map::new();
    for (limit, value) in wanted {
        hard.insert(limit.key.to_owned(), quantity(limit, *value)?.map_or(Value::Null, Value::String));
    }
    Ok(hard)
}

/// Sets limits; -1 takes a limit away, the default one, too.
pub(crate) async fn write(session: &Session, namespace: &str, wanted: &[(Limit, i64)]) -> Result<(), Fault> {
    let hard = hard(wanted)?;
    let free = hard.iter().filter(|(_, value)| value.is_null()).map(|(key, _)| key.clone()).collect();
    change(session, namespace, hard.clone(), Vec::new(), free).await
}

/// Changes the limits of a namespace: of those that it touches, which are default ones now, and which are none whatever the default is.
async fn change(
    session: &Session,
    namespace: &str,
    hard: Map<String, Value>,
    from_default: Vec<String>,
    free: Vec<String>,
) -> Result<(), Fault> {
    let quotas = session.within::<ResourceQuota>(namespace);
    put(&quotas, names::PROJECT_QUOTA, |there| {
        let list = |annotation: &str, new: &[String]| {
            let untouched = keys(there, annotation).into_iter().filter(|key| !hard.contains_key(key));
            let all: BTreeSet<String> = untouched.chain(new.iter().cloned()).collect();
            if all.is_empty() { Value::Null } else { json!(json!(all).to_string()) }
        };
        let annotations = json!({
            names::DEFAULT_LIMITS: list(names::DEFAULT_LIMITS, &from_default),
            names::NO_LIMITS: list(names::NO_LIMITS, &free),
        });
        let mut hard = hard.clone();
        hard.retain(|key, value| !value.is_null() || there_has(there, key));
        (hard, annotations)
    })
    .await
}

fn there_has(quota: &ResourceQuota, key: &str) -> bool {
    quota.spec.as_ref().and_then(|spec| spec.hard.as_ref()).is_some_and(|hard| hard.contains_key(key))
}

/// Merges limits and annotations into a quota, or makes it. What they are is asked again where another changed it meanwhile: its lists of
/// keys are written as a whole.
async fn put(
    quotas: &Api<ResourceQuota>,
    name: &str,
    change: impl Fn(&ResourceQuota) -> (Map<String, Value>, Value),
) -> Result<(), Fault> {
    for _ in 0..ATTEMPTS {
        let there = quotas.get_opt(name).await?;
        let (mut hard, mut annotations) = change(there.as_ref().unwrap_or(&ResourceQuota::default()));
        let done = if let Some(there) = there {
            let metadata =
                json!({"annotations": annotations, "resourceVersion": there.metadata.resource_version});
            let patch = Patch::Merge(json!({"metadata": metadata, "spec": {"hard": hard}}));
            quotas.patch(name, &PatchParams::default(), &patch).await
        } else {
            hard.retain(|_, value| !value.is_null());
            if let Some(all) = annotations.as_object_mut() {
                all.retain(|_, value| !value.is_null());
            }
            let quota =
                json!({"metadata": {"name": name, "annotations": annotations}, "spec": {"hard": hard}});
            let quota: ResourceQuota = crate::body::parse_value(quota)?;
            quotas.create(&PostParams::default(), &quota).await
        };
        match done {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            other => return Ok(other.map(drop)?),
        }
    }
    Err(Fault::conflict("The limits are being changed by many at once; try again."))
}

fn quantity(limit: &Limit, value: i64) -> Result<Option<String>, Fault> {
    match value {
        UNLIMITED => Ok(None),
        0..=MOST if limit.unit == 1 => Ok(Some(value.to_string())),
        0..=MOST => Ok(Some(format!("{value}Mi"))),
        _ => Err(Fault::bad(format!(
            "Invalid input for field/attribute {}. {value} is neither -1 (no limit) nor between 0 and {MOST}.",
            limit.name
        ))),
    }
}

/// Resets all limits to the default ones.
pub(crate) async fn reset(session: &Session, namespace: &str, limits: &[Limit]) -> Result<(), Fault> {
    let quotas = session.within::<ResourceQuota>(namespace);
    if quotas.get_opt(names::PROJECT_QUOTA).await?.is_none() {
        return Ok(());
    }
    let default = default_quota(session).await?;
    let value = |limit: &Limit| default.get(limit.key).map_or(Value::Null, |limit| json!(limit));
    let hard = limits.iter().map(|limit| (limit.key.to_owned(), value(limit))).collect();
    let own = limits.iter().filter(|limit| default.contains_key(limit.key));
    let from_default = own.map(|limit| limit.key.to_owned()).collect();
    change(session, namespace, hard, from_default, Vec::new()).await
}

/// A quota set as a service shows it: what is counted, and the names of what is not, as unlimited.
pub(crate) fn view(
    usages: &[(Limit, Usage)],
    uncounted: &[&str],
    show: impl Fn(Usage) -> Value,
) -> Map<String, Value> {
    let none = Usage { limit: UNLIMITED, used: 0 };
    let counted = usages.iter().map(|(limit, usage)| (limit.name, *usage));
    let uncounted = uncounted.iter().map(|name| (*name, none));
    counted.chain(uncounted).map(|(name, usage)| (name.to_owned(), show(usage))).collect()
}

/// Members of a quota set that are no limits.
const BESIDE: [&str; 5] = ["force", "check_limit", "tenant_id", "project_id", "id"];

/// The limits that a client wants to set, with their values.
pub(crate) fn wanted(
    limits: &[Limit],
    uncounted: &[&str],
    set: &Map<String, Value>,
) -> Result<Vec<(Limit, i64)>, Fault> {
    let mut wanted = Vec::new();
    for (name, value) in set {
        let number = value.as_i64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
        let number = || {
            number.ok_or_else(|| {
                Fault::bad(format!("Invalid input for field/attribute {name}. {value} is no number."))
            })
        };
        if let Some(limit) = limits.iter().find(|limit| limit.name == name) {
            wanted.push((*limit, number()?));
        } else if uncounted.contains(&name.as_str()) {
            if number()? != UNLIMITED {
                return Err(Fault::bad(format!("{name} cannot be limited: it is not counted. It is -1.")));
            }
        } else if !BESIDE.contains(&name.as_str()) {
            return Err(Fault::bad(format!(
                "Invalid input for field/attribute quota_set. {name} is not a limit of this version."
            )));
        }
    }
    Ok(wanted)
}

/// Whether a quota set is to be set although more is used already.
pub(crate) fn is_forced(set: &Map<String, Value>) -> bool {
    set.get("force").is_some_and(|force| *force == json!(true) || *force == json!("True"))
}

/// Refuses limits below what is used already.
pub(crate) async fn check_used(
    session: &Session,
    namespace: &str,
    limits: &[Limit],
    wanted: &[(Limit, i64)],
) -> Result<(), Fault> {
    for (limit, usage) in read(session, namespace, limits).await? {
        let value = wanted.iter().find(|(other, _)| other.name == limit.name).map(|(_, value)| *value);
        if let Some(value) = value.filter(|value| *value != UNLIMITED && *value < usage.used) {
            return Err(Fault::bad(format!(
                "Quota limit {value} for {} must be greater than or equal to already used and reserved {}.",
                limit.name, usage.used
            )));
        }
    }
    Ok(())
}

/// The number that a Kubernetes quantity means, rounded up; `None` for what is none.
pub(crate) fn bytes(text: &str) -> Option<i64> {
    const UNITS: [(&str, f64); 13] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("m", 0.001),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
        ("", 1.0),
    ];
    if let Ok(whole) = text.parse::<i64>() {
        return Some(whole);
    }
    let (number, factor) =
        UNITS.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    let value = (number.parse::<f64>().ok()? * factor).ceil();
    // Beyond this a float is no longer exact, and nobody has that much memory.
    (value.abs() < 9e15).then_some(value as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_and_written() {
        assert_eq!(bytes("4"), Some(4));
        assert_eq!(bytes("1500m"), Some(2));
        assert_eq!(bytes("2Gi").map(|value| value / (1 << 20)), Some(2048));
        assert_eq!(bytes("1.5Gi").map(|value| value / (1 << 20)), Some(1536));
        assert_eq!(bytes("many"), None);
        assert_eq!(quantity(&COMPUTE[1], 512).unwrap().as_deref(), Some("512Mi"));
        assert_eq!(quantity(&COMPUTE[0], -1).unwrap(), None);
        assert!(quantity(&COMPUTE[0], -2).is_err());
    }
}
