//! Requests and limits of a container as cgroup values, and the Pod's QoS class.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use yunfan_resources::requests::Requests;
use yunfan_runtime::Resources;

use super::downward::Allocatable;
use crate::pages;
use crate::shutdown::CRITICAL_PRIORITY;

/// Length of a CPU period, microseconds.
const PERIOD_US: i64 = 100_000;
/// The least CPU shares that the kernel takes.
const MIN_SHARES: u64 = 2;

/// A quantity (`500m`, `64Mi`, `1e3`) in thousandths of its unit; none when it is malformed.
pub(crate) fn milli(quantity: &Quantity) -> Option<i128> {
    Some(quantity.0.trim().parse::<yunfan_objects::Quantity>().ok()?.milli())
}

fn of(list: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<i128> {
    milli(list?.get(name)?)
}

/// The requirements of a Pod as a whole, if it has any.
pub(crate) fn whole(pod: &Pod) -> Option<&ResourceRequirements> {
    pod.spec.as_ref()?.resources.as_ref()
}

/// The Pod's own limit of a resource, beside those of its containers.
pub(crate) fn whole_limit<'a>(pod: &'a Pod, name: &str) -> Option<&'a Quantity> {
    whole(pod)?.limits.as_ref()?.get(name).filter(|limit| milli(limit).is_some_and(|limit| limit > 0))
}

/// The most memory that a Pod's containers have together, bytes; none where one of them has no limit.
pub(crate) fn memory_limit(pod: &Pod) -> Option<u64> {
    limit_together(pod, "memory").and_then(|milli| u64::try_from(milli / 1000).ok())
}

/// The most that a Pod's containers have together, thousandths; none where one of them has no limit.
fn limit_together(pod: &Pod, name: &str) -> Option<i128> {
    if let Some(whole) = whole_limit(pod, name) {
        return milli(whole);
    }
    let spec = pod.spec.as_ref()?;
    let limits = |container: &Container| container.resources.as_ref().and_then(|of| of.limits.clone());
    let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    if !all.all(|container| of(limits(container).as_ref(), name).is_some_and(|limit| limit > 0)) {
        return None;
    }
    let of_limits = |container: &Container| Requests::of_amounts(limits(container).iter().flatten());
    // What is asked for beside the containers is no limit.
    let containers = PodSpec { resources: None, overhead: None, ..spec.clone() };
    let taken = Requests::of_pod_by(&containers, of_limits);
    Some(if name == "cpu" { taken.cpu.into() } else { i128::from(taken.amount(name)) * 1000 })
}

/// A container's requirements: a limit that it does not set is the whole Pod's (Kubernetes KEP-2837).
pub(crate) fn effective(pod: &Pod, container: &Container) -> ResourceRequirements {
    let mut own = container.resources.clone().unwrap_or_default();
    for name in ["cpu", "memory"] {
        if let Some(limit) = whole_limit(pod, name)
            && of(own.limits.as_ref(), name).is_none_or(|own| own == 0)
        {
            own.limits.get_or_insert_default().insert(name.to_owned(), limit.clone());
        }
    }
    own
}

/// The cgroup values of a container.
pub(crate) fn cgroup(requirements: Option<&ResourceRequirements>) -> Resources {
    let requests = requirements.and_then(|r| r.requests.as_ref());
    let limits = requirements.and_then(|r| r.limits.as_ref());
    let cpu_limit = of(limits, "cpu");
    // Without a request the limit counts as one; without either the least share.
    let cpu_request = of(requests, "cpu").or(cpu_limit).unwrap_or(0);
    values(cpu_request, cpu_limit, of(limits, "memory"))
}

/// How much a container may have of each size of huge pages that the node has: of those that neither it nor the Pod as a whole asks for,
/// nothing.
pub(crate) fn huge_limits(pod: &Pod, container: &Container) -> BTreeMap<u64, u64> {
    let mut all: BTreeMap<u64, u64> =
        pages::of_node().iter().filter(|pool| pool.pages > 0).map(|pool| (pool.page_bytes, 0)).collect();
    // One that names any has what it names alone.
    let own = huge_pages(container.resources.as_ref());
    all.extend(if own.is_empty() { huge_pages(whole(pod)) } else { own });
    all
}

/// The limits of huge pages, bytes, by the size of the pages.
fn huge_pages(requirements: Option<&ResourceRequirements>) -> BTreeMap<u64, u64> {
    let limits = requirements.and_then(|of| of.limits.as_ref()).into_iter().flatten();
    let bytes = |limit| milli(limit).and_then(|milli| u64::try_from(milli / 1000).ok());
    limits.filter_map(|(name, limit)| pages::size_in(name).zip(bytes(limit))).collect()
}

/// The cgroup values of a Pod: among Pods, CPU is shared out by what all containers of each ask for together, and where each of them
/// has a limit, so have all together.
pub(crate) fn cgroup_of_pod(pod: &Pod) -> Resources {
    let asked = pod.spec.as_ref().map(Requests::of_pod).unwrap_or_default();
    values(asked.cpu.into(), limit_together(pod, "cpu"), limit_together(pod, "memory"))
}

/// Whether a limit of memory leaves what is used already, bytes; if not, what to say of it.
pub(crate) fn enough_memory(what: &str, wanted: &Resources, used: u64) -> Result<(), String> {
    match wanted.memory_limit_bytes.filter(|limit| u64::try_from(*limit).unwrap_or(0) < used) {
        Some(limit) => {
            Err(format!("attempting to set {what} memory limit ({limit}) below current usage ({used})"))
        }
        None => Ok(()),
    }
}

/// The limits of which there is more, of those before and those that are wanted; none where either has none.
pub(crate) fn roomier(before: Resources, wanted: &Resources) -> Resources {
    let larger = |a: Option<i64>, b: Option<i64>| a.zip(b).map(|(a, b)| a.max(b));
    let quota = larger(before.cpu_quota_us, wanted.cpu_quota_us);
    Resources {
        cpu_quota_us: quota,
        cpu_period_us: quota.and(wanted.cpu_period_us),
        memory_limit_bytes: larger(before.memory_limit_bytes, wanted.memory_limit_bytes),
        ..wanted.clone()
    }
}

/// Cgroup values for amounts in thousandths; a limit of nothing is none.
fn values(cpu_request: i128, cpu_limit: Option<i128>, memory_limit: Option<i128>) -> Resources {
    let shares = u64::try_from(cpu_request * 1024 / 1000).unwrap_or(u64::MAX).max(MIN_SHARES);
    let cpu_limit = cpu_limit.filter(|m| *m > 0).and_then(|m| i64::try_from(m).ok());
    let quota = cpu_limit.map(|m| m.saturating_mul(PERIOD_US / 1000).max(1000));
    let memory = memory_limit.filter(|m| *m > 0).and_then(|m| i64::try_from(m / 1000).ok());
    Resources {
        cpu_shares: Some(shares),
        cpu_quota_us: quota,
        cpu_period_us: quota.map(|_| PERIOD_US.unsigned_abs()),
        memory_limit_bytes: memory,
        ..Resources::default()
    }
}

/// Who dies first when the node runs out of memory: the less of all that the node has a container asked for, the sooner (Kubernetes'
/// documentation, "Node-pressure Eviction"; KEP-753 for sidecars, KEP-2837 for what a Pod asks for as a whole).
pub(crate) fn oom_score(pod: &Pod, container: &Container, capacity: &Allocatable) -> i32 {
    match qos_class(pod) {
        _ if is_node_critical(pod) => -997,
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let there = capacity.get("memory").and_then(milli).unwrap_or(0).max(1);
            let asked = |container: &Container| {
                let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
                of(requests, "memory").unwrap_or(0)
            };
            let mut own = asked(container);
            if let Some(spec) = pod.spec.as_ref().filter(|spec| is_sidecar(spec, container)) {
                // It stays for as long as the containers that it serves.
                own = own.max(spec.containers.iter().map(asked).min().unwrap_or(0));
            }
            let score = 1000 - 1000 * (own + share_of_rest(pod)) / there;
            // Between those of the other two classes.
            i32::try_from(score.clamp(3, 999)).unwrap_or(999)
        }
    }
}

/// Whether the node would not work without the Pod: a static one may have a class without the server's number for it.
fn is_node_critical(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| {
        spec.priority_class_name.as_deref() == Some("system-node-critical")
            && spec.priority.is_none_or(|priority| priority >= CRITICAL_PRIORITY)
    })
}

fn is_sidecar(spec: &PodSpec, container: &Container) -> bool {
    let always = |init: &Container| init.restart_policy.as_deref() == Some("Always");
    spec.init_containers.iter().flatten().any(|init| init.name == container.name && always(init))
}

/// What the whole Pod asks for beyond its containers is shared out among them, thousandths of bytes.
fn share_of_rest(pod: &Pod) -> i128 {
    let Some(spec) = &pod.spec else { return 0 };
    let count = spec.containers.len() + spec.init_containers.as_ref().map_or(0, Vec::len);
    let asked = whole(pod).and_then(|whole| of(whole.requests.as_ref(), "memory")).unwrap_or(0);
    let rest = asked - i128::from(Requests::of_containers(spec).memory) * 1000;
    i128::try_from(count).ok().filter(|count| *count > 0).map_or(0, |count| rest.max(0) / count)
}

/// The Pod's class of service: `Guaranteed`, `Burstable` or `BestEffort`. It is as the server found it when the Pod was made, and
/// computed here for one that says nothing of it.
pub(crate) fn qos_class(pod: &Pod) -> &str {
    if let Some(class) = pod.status.as_ref().and_then(|status| status.qos_class.as_deref()) {
        return class;
    }
    let Some(spec) = &pod.spec else { return "BestEffort" };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let all: Vec<Option<&ResourceRequirements>> = match whole(pod).filter(|whole| says_something(whole)) {
        Some(whole) => vec![Some(whole)],
        None => containers.map(|container| container.resources.as_ref()).collect(),
    };
    let (mut any, mut guaranteed) = (false, true);
    for requirements in all {
        let requests = requirements.and_then(|r| r.requests.as_ref());
        let limits = requirements.and_then(|r| r.limits.as_ref());
        for name in ["cpu", "memory"] {
            let (request, limit) = (of(requests, name), of(limits, name));
            any |= request.is_some_and(|r| r > 0) || limit.is_some_and(|l| l > 0);
            guaranteed &= limit.is_some_and(|l| l > 0) && request.is_none_or(|r| Some(r) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Whether requirements of a whole Pod count: those of its containers do not then.
fn says_something(whole: &ResourceRequirements) -> bool {
    let known = |name: &String| matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-");
    [&whole.requests, &whole.limits].into_iter().flatten().any(|list| list.keys().any(known))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quantities_are_read() {
        let milli = |text: &str| milli(&Quantity(text.to_owned()));
        assert_eq!(milli("500m"), Some(500));
        assert_eq!(milli("1.5"), Some(1500));
        assert_eq!(milli("64Mi"), Some(64 * 1024 * 1024 * 1000));
        assert_eq!(milli("1e3"), Some(1_000_000));
        assert_eq!(milli("1n"), Some(1));
        assert_eq!(milli("12Q"), None);
        assert_eq!(milli("banana"), None);
    }

    #[test]
    fn limits_become_cgroup_values() {
        let requirements: ResourceRequirements =
            serde_json::from_value(json!({"limits": {"cpu": "250m", "memory": "32Mi"}})).unwrap();
        let resources = cgroup(Some(&requirements));
        assert_eq!(resources.cpu_shares, Some(256));
        assert_eq!(resources.cpu_quota_us, Some(25_000));
        assert_eq!(resources.memory_limit_bytes, Some(32 << 20));
        assert_eq!(cgroup(None).cpu_shares, Some(2));
        assert_eq!(cgroup(None).cpu_quota_us, None);
    }

    #[test]
    fn pods_share_the_cpu_by_what_they_ask_for() {
        let values = |spec| cgroup_of_pod(&serde_json::from_value(json!({"spec": spec})).unwrap());
        let of = |resources| json!({"name": "c", "resources": resources});
        let bare = values(json!({"containers": [of(json!({}))]}));
        assert_eq!(bare, Resources { cpu_shares: Some(2), ..Resources::default() });
        let some =
            values(json!({"containers": [of(json!({"requests": {"cpu": "2"}, "limits": {"memory": "1Mi"}})),
            of(json!({"requests": {"cpu": "500m"}}))]}));
        assert_eq!(some, Resources { cpu_shares: Some(2560), ..Resources::default() }, "one has no limit");
        let limited = of(json!({"limits": {"cpu": "250m", "memory": "32Mi"}}));
        let all = values(json!({"containers": [limited, limited], "initContainers": [limited]}));
        assert_eq!((all.cpu_shares, all.cpu_quota_us), (Some(512), Some(50_000)));
        assert_eq!(all.memory_limit_bytes, Some(64 << 20));
        let whole = values(
            json!({"containers": [of(json!({}))], "resources": {"limits": {"cpu": "1", "memory": "64Mi"}}}),
        );
        assert_eq!((whole.cpu_shares, whole.cpu_quota_us), (Some(1024), Some(100_000)));
        assert_eq!(whole.memory_limit_bytes, Some(64 << 20));
    }

    #[test]
    fn a_whole_has_room_for_its_parts_before_and_after() {
        let limits = |cpu: Option<i64>, memory| values(500, cpu.map(i128::from), memory);
        let before = limits(Some(1000), Some(64_000));
        let room = roomier(before.clone(), &limits(Some(250), Some(128_000)));
        assert_eq!((room.cpu_quota_us, room.memory_limit_bytes), (Some(100_000), Some(128)));
        let room = roomier(before, &limits(None, Some(1000)));
        assert_eq!((room.cpu_quota_us, room.cpu_period_us, room.memory_limit_bytes), (None, None, Some(64)));
        assert_eq!(roomier(Resources::default(), &limits(Some(1), None)).cpu_quota_us, None);
    }

    #[test]
    fn nothing_gets_less_memory_than_it_uses() {
        let limit = |memory| Resources { memory_limit_bytes: memory, ..Resources::default() };
        assert_eq!(enough_memory("pod", &limit(Some(64)), 64), Ok(()));
        assert_eq!(enough_memory("pod", &limit(None), 1 << 40), Ok(()));
        let why = "attempting to set pod memory limit (64) below current usage (65)";
        assert_eq!(enough_memory("pod", &limit(Some(64)), 65), Err(why.to_owned()));
    }

    #[test]
    fn who_asks_for_less_dies_sooner() {
        let node = Allocatable::from([("memory".to_owned(), Quantity("1Gi".to_owned()))]);
        let score = |resources| {
            let pod: Pod = serde_json::from_value(
                json!({"spec": {"containers": [{"name": "c", "resources": resources}]}}),
            )
            .unwrap();
            oom_score(&pod, &pod.spec.as_ref().unwrap().containers[0], &node)
        };
        assert_eq!(score(json!({})), 1000);
        assert_eq!(score(json!({"requests": {"memory": "256Mi"}})), 750);
        assert_eq!(score(json!({"requests": {"memory": "2Gi"}})), 3);
        assert_eq!(score(json!({"limits": {"memory": "1Mi", "cpu": "1"}})), -997);
    }

    #[test]
    fn the_class_follows_requests_and_limits() {
        let pod = |resources| -> Pod {
            serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "resources": resources}]}}))
                .unwrap()
        };
        assert_eq!(qos_class(&pod(json!({}))), "BestEffort");
        assert_eq!(qos_class(&pod(json!({"requests": {"cpu": "1"}}))), "Burstable");
        assert_eq!(qos_class(&pod(json!({"limits": {"cpu": "1", "memory": "1Gi"}}))), "Guaranteed");
    }

    #[test]
    fn what_a_pod_asks_for_as_a_whole_goes_before_its_containers() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "resources": {"limits": {"cpu": "1", "memory": "64Mi"}, "requests": {"cpu": "1", "memory": "64Mi"}},
            "containers": [{"name": "own", "resources": {"limits": {"memory": "16Mi"}, "requests": {"memory": "16Mi"}}},
                {"name": "none"}],
        }}))
        .unwrap();
        let containers = &pod.spec.as_ref().unwrap().containers;
        let values = |index: usize| cgroup(Some(&effective(&pod, &containers[index])));
        assert_eq!(values(0).memory_limit_bytes, Some(16 << 20));
        assert_eq!((values(1).memory_limit_bytes, values(1).cpu_quota_us), (Some(64 << 20), Some(100_000)));
        assert_eq!(values(1).cpu_shares, Some(1024), "a limit is a request where there is none");
        assert_eq!(qos_class(&pod), "Guaranteed");
        let mut huge = pod.clone();
        let limit = BTreeMap::from([("hugepages-2Mi".to_owned(), Quantity("8Mi".to_owned()))]);
        huge.spec.as_mut().unwrap().resources.as_mut().unwrap().limits.as_mut().unwrap().extend(limit);
        assert_eq!(huge_limits(&huge, &containers[1]).get(&(2 << 20)), Some(&(8 << 20)));
        let mut named = containers[0].clone();
        let of_container = BTreeMap::from([("hugepages-2Mi".to_owned(), Quantity("4Mi".to_owned()))]);
        named.resources.as_mut().unwrap().limits = Some(of_container);
        assert_eq!(huge_limits(&huge, &named).get(&(2 << 20)), Some(&(4 << 20)), "its own");
        assert!(huge_limits(&pod, &containers[1]).values().all(|limit| *limit == 0));
        // Half of the 48 MiB that no container asks for is each one's.
        let mut burstable = pod.clone();
        let whole = burstable.spec.as_mut().unwrap().resources.as_mut().unwrap();
        whole.limits = None;
        assert_eq!(qos_class(&burstable), "Burstable");
        let node = Allocatable::from([("memory".to_owned(), Quantity("400Mi".to_owned()))]);
        assert_eq!(oom_score(&burstable, &containers[0], &node), 900);
        assert_eq!(oom_score(&burstable, &containers[1], &node), 940);
    }

    #[test]
    fn sidecars_die_no_sooner_than_what_they_serve_and_what_the_node_needs_last() {
        let node = Allocatable::from([("memory".to_owned(), Quantity("1000Mi".to_owned()))]);
        let asks = |memory: &str| json!({"requests": {"memory": memory}});
        let mut pod: Pod = serde_json::from_value(json!({"spec": {
            "initContainers": [{"name": "side", "restartPolicy": "Always", "resources": asks("100Mi")},
                {"name": "first", "resources": asks("100Mi")}],
            "containers": [{"name": "a", "resources": asks("300Mi")}, {"name": "b", "resources": asks("200Mi")}],
        }}))
        .unwrap();
        let scores = |pod: &Pod| -> Vec<i32> {
            let spec = pod.spec.as_ref().unwrap();
            let all = spec.init_containers.iter().flatten().chain(&spec.containers);
            all.map(|container| oom_score(pod, container, &node)).collect()
        };
        assert_eq!(scores(&pod), [800, 900, 700, 800]);
        pod.spec.as_mut().unwrap().priority_class_name = Some("system-node-critical".to_owned());
        assert_eq!(scores(&pod), [-997; 4]);
        pod.spec.as_mut().unwrap().priority = Some(5);
        assert_eq!(scores(&pod), [800, 900, 700, 800]);
    }
}
