//! Requests and limits of a container as cgroup values, and the Pod's QoS class.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use yunfan_runtime::Resources;

use super::downward::Allocatable;

/// Length of a CPU period, microseconds.
const PERIOD_US: i64 = 100_000;
/// The least CPU shares that the kernel takes.
const MIN_SHARES: u64 = 2;

/// A quantity (`500m`, `64Mi`, `1e3`) in thousandths of its unit; none when it is malformed. (Kubernetes API
/// conventions, "Quantities".)
pub(crate) fn milli(quantity: &Quantity) -> Option<i128> {
    let text = quantity.0.trim();
    let split =
        text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (scale, exponent): (i128, i32) = match suffix {
        "" => (1, 0),
        "n" => (1, -9),
        "u" => (1, -6),
        "m" => (1, -3),
        "k" => (1, 3),
        "M" => (1, 6),
        "G" => (1, 9),
        "T" => (1, 12),
        "P" => (1, 15),
        "E" => (1, 18),
        "Ki" => (1 << 10, 0),
        "Mi" => (1 << 20, 0),
        "Gi" => (1 << 30, 0),
        "Ti" => (1 << 40, 0),
        "Pi" => (1 << 50, 0),
        "Ei" => (1 << 60, 0),
        _ => (1, suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let shift = exponent + 3 - i32::try_from(fraction.len()).ok()?;
    let scaled = digits.checked_mul(scale)?;
    if shift >= 0 {
        scaled.checked_mul(10i128.checked_pow(shift.unsigned_abs())?)
    } else {
        // Rounded up, as Kubernetes does: what is asked for is never less than was written.
        let divisor = 10i128.checked_pow(shift.unsigned_abs())?;
        Some(scaled.div_euclid(divisor) + i128::from(scaled.rem_euclid(divisor) != 0))
    }
}

fn of(list: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<i128> {
    milli(list?.get(name)?)
}

/// The cgroup values of a container.
pub(crate) fn cgroup(requirements: Option<&ResourceRequirements>) -> Resources {
    let requests = requirements.and_then(|r| r.requests.as_ref());
    let limits = requirements.and_then(|r| r.limits.as_ref());
    let cpu_limit = of(limits, "cpu").filter(|m| *m > 0);
    // Without a request the limit counts as one; without either the least share.
    let cpu_request = of(requests, "cpu").or(cpu_limit).unwrap_or(0);
    let shares = u64::try_from(cpu_request * 1024 / 1000).unwrap_or(u64::MAX).max(MIN_SHARES);
    let quota = cpu_limit.and_then(|m| i64::try_from(m).ok()).map(|m| (m * PERIOD_US / 1000).max(1000));
    let memory = of(limits, "memory").filter(|m| *m > 0).and_then(|m| i64::try_from(m / 1000).ok());
    Resources {
        cpu_shares: Some(shares),
        cpu_quota_us: quota,
        cpu_period_us: quota.map(|_| PERIOD_US.unsigned_abs()),
        memory_limit_bytes: memory,
        ..Resources::default()
    }
}

/// Who dies first when the node runs out of memory: the less a container asked for, the sooner (Kubernetes' documentation,
/// "Node-pressure Eviction").
pub(crate) fn oom_score(pod: &Pod, container: &Container, allocatable: &Allocatable) -> i32 {
    match qos_class(pod) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
            let asked = of(requests, "memory").unwrap_or(0);
            let there = allocatable.get("memory").and_then(milli).unwrap_or(0).max(1);
            let score = 1000 - 1000 * asked / there;
            // Between those of the other two classes.
            i32::try_from(score.clamp(3, 999)).unwrap_or(999)
        }
    }
}

/// The Pod's class of service: `Guaranteed`, `Burstable` or `BestEffort`.
pub(crate) fn qos_class(pod: &Pod) -> &'static str {
    let Some(spec) = &pod.spec else { return "BestEffort" };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let (mut any, mut guaranteed) = (false, true);
    for container in containers {
        let requirements = container.resources.as_ref();
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
}
