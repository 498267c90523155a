//! The numbers that Kubernetes' own controller comes to in such cases.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerBehavior;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, from_value, json};

use super::bounds::{Past, Wish};
use super::usage::{Metrics, PodMetric, Scaled, Tolerances};
use crate::AutoscalingSettings;

const NOW: &str = "2026-01-01T01:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

/// A Pod with two containers, by words: `pending`, `failed`, `gone`, `unready`, `hot` (it started a moment ago), `never` (ready).
fn pod(index: usize, request: Option<&str>, words: &str) -> Arc<Pod> {
    let is = |word: &str| words.split(' ').any(|one| one == word);
    let requests = request.map(|cpu| json!({"cpu": cpu, "memory": "1Ki"}));
    let container = |name: &str| json!({"name": name, "resources": {"requests": requests}});
    let phase = if is("pending") {
        "Pending"
    } else if is("failed") {
        "Failed"
    } else {
        "Running"
    };
    let (start, changed) = match () {
        () if is("hot") => ("2026-01-01T00:59:50Z", "2026-01-01T00:59:55Z"),
        // Ready for long, then not any more; and not ready since it started.
        () if is("unready") => ("2026-01-01T00:30:00Z", "2026-01-01T00:50:00Z"),
        () if is("never") => ("2026-01-01T00:30:00Z", "2026-01-01T00:30:00Z"),
        () => ("2026-01-01T00:30:00Z", "2026-01-01T00:31:00Z"),
    };
    let ready = if is("unready") || is("never") { "False" } else { "True" };
    from_value::<Pod>(json!({
        "metadata": {"name": format!("p{index}"), "deletionTimestamp": is("gone").then_some(NOW)},
        "spec": {"containers": [container("a"), container("b")]},
        "status": {"phase": phase, "startTime": start,
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": changed}]},
    }))
    .unwrap()
    .into()
}

/// What the first Pods use, thousandths.
fn levels(values: &[i64]) -> Metrics {
    let metric = |value| PodMetric { at: now(), window: Duration::from_secs(30), value };
    values.iter().enumerate().map(|(index, value)| (format!("p{index}"), metric(*value))).collect()
}

fn scaled(pods: &[Arc<Pod>], replicas: i32) -> Scaled<'_> {
    Scaled {
        pods,
        replicas,
        tolerances: Tolerances { up: 0.1, down: 0.1 },
        settings: AutoscalingSettings::default(),
        now: now(),
    }
}

#[test]
fn the_share_of_requests_decides() {
    // Replicas, words of each Pod, levels of each container, target, and then: replicas, percent, average.
    for (replicas, words, used, target, expected) in [
        (3, &["", "", ""][..], &[300, 500, 700][..], 30, (5, 50, 1000)),
        (3, &["never", "", ""], &[300, 500, 700], 30, (4, 60, 1200)),
        (3, &["hot", "", ""], &[300, 500, 700], 30, (4, 60, 1200)),
        (3, &["", "never", "never"], &[400, 500, 700], 30, (3, 40, 800)),
        // One that was ready once counts also while it is not.
        (3, &["unready", "", ""], &[300, 500, 700], 30, (5, 50, 1000)),
        (2, &["", "", "failed", "failed"], &[500, 700], 30, (4, 60, 1200)),
        (2, &["", "", "gone", "gone"], &[500, 700], 30, (4, 60, 1200)),
        (5, &["", "", "", "", ""], &[100, 300, 500, 250, 250], 50, (3, 28, 560)),
        (5, &["", "", "", "pending", "pending"], &[100, 300, 500], 50, (2, 30, 600)),
        (4, &["", "", "", ""], &[400, 95], 100, (3, 24, 495)),
        (2, &["", ""], &[1000], 100, (2, 100, 2000)),
        (2, &["", ""], &[1900], 100, (2, 190, 3800)),
        (2, &["", ""], &[600], 100, (2, 60, 1200)),
        (3, &["never", "", ""], &[100, 450], 50, (3, 45, 900)),
        (3, &["never", "", ""], &[100, 2000], 50, (4, 200, 4000)),
        (4, &["never", "", "", ""], &[100, 100, 100], 50, (3, 10, 200)),
        // Targets beyond what is requested: who is not known is taken to be at the target.
        (4, &["", "", "", ""], &[1500, 1000], 300, (3, 125, 2500)),
        // A third Pod that an update brought does not make more of them.
        (2, &["", "", ""], &[100, 100], 50, (2, 10, 200)),
    ] {
        let pods: Vec<_> =
            words.iter().enumerate().map(|(index, words)| pod(index, Some("1"), words)).collect();
        let metrics = levels(&used.iter().map(|level| level * 2).collect::<Vec<_>>());
        let found = scaled(&pods, replicas).by_utilization(metrics, "cpu", None, target);
        assert_eq!(found, Ok(expected), "{replicas} {words:?} {used:?} {target}");
    }
}

#[test]
fn what_can_not_be_counted_is_told() {
    let one = |request: Option<&str>| [pod(0, request, "")];
    let failed = |pods: &[Arc<Pod>], metrics: Metrics, container: Option<&str>| {
        scaled(pods, 1).by_utilization(metrics, "cpu", container, 50).unwrap_err()
    };
    assert_eq!(failed(&one(None), levels(&[5]), None), "missing request for cpu in container a of Pod p0");
    assert_eq!(failed(&one(Some("1")), levels(&[5]), Some("x")), "container x not found in Pod p0");
    assert_eq!(
        failed(&[], levels(&[5]), None),
        "no pods returned by selector while calculating replica count"
    );
    let unready = "did not receive metrics for targeted pods (pods might be unready)";
    assert_eq!(failed(&[pod(0, Some("1"), "never")], levels(&[5]), None), unready);
    let other = BTreeMap::from([("older".to_owned(), levels(&[5])["p0"])]);
    assert_eq!(failed(&one(Some("1")), other, None), "no metrics returned matched known pods");
    let found = scaled(&one(Some("1")), 1).by_utilization(levels(&[900]), "cpu", Some("b"), 45);
    assert_eq!(found, Ok((2, 90, 900)), "one container's request");
}

#[test]
fn an_average_decides_where_there_is_no_request() {
    let pods: Vec<_> = (0..5).map(|index| pod(index, None, "")).collect();
    let count = |pods: &[Arc<Pod>], replicas, used: &[i64], target| {
        scaled(pods, replicas).by_value(levels(used), None, target).unwrap()
    };
    assert_eq!(count(&pods[..3], 3, &[20_000, 10_000, 30_000], 15_000), (4, 20_000));
    assert_eq!(count(&pods, 5, &[12_000; 5], 20_000), (3, 12_000));
    assert_eq!(count(&pods[..3], 3, &[20_000, 21_000, 21_000], 20_000), (3, 20_666), "near enough");
    // That a Pod starts says nothing of a metric of its own.
    assert_eq!(
        count(&[pod(0, None, "hot"), pod(1, None, "never")], 2, &[50_000, 10_000], 15_000),
        (4, 30_000)
    );
}

#[test]
fn what_pods_share_decides() {
    let pods: Vec<_> =
        ["", "", "", "never"].iter().enumerate().map(|(i, words)| pod(i, None, words)).collect();
    let of = scaled(&pods, 3);
    assert_eq!(of.by_ratio(20_000.0 / 15_000.0), Ok(4), "of those that are ready");
    assert_eq!(of.by_ratio(1.05), Ok(3));
    assert_eq!(of.by_ratio(1e30), Ok(i32::MAX));
    assert_eq!(scaled(&[], 0).by_ratio(2.5), Ok(3), "there are none yet");
    assert_eq!(of.by_share(6000, 2000, 5), (3, 1200));
    assert_eq!(of.by_share(8600, 2867, 5), (3, 1720));
    assert_eq!(of.by_share(8600, 2150, 3), (4, 2867));
    assert_eq!(of.by_share(8600, 2900, 3), (3, 2867), "near enough");
}

#[test]
fn tolerances_can_differ_by_direction() {
    let pods: Vec<_> = (0..3).map(|index| pod(index, None, "")).collect();
    let count = |up, down, used: i64| {
        let of = Scaled { tolerances: Tolerances { up, down }, ..scaled(&pods, 3) };
        of.by_value(levels(&[used; 3]), None, 1000).unwrap().0
    };
    assert_eq!([count(0.1, 0.1, 1090), count(0.05, 0.1, 1090), count(0.4, 0.1, 1300)], [3, 4, 3]);
    assert_eq!([count(0.1, 0.1, 600), count(0.1, 0.5, 600), count(0.0, 0.0, 1000)], [2, 3, 3]);
}

/// What a wish of each moment (seconds) comes to, and the reasons of both conditions; what it comes to is done.
fn bounded(
    behavior: Option<Value>,
    start: i32,
    bounds: (i32, i32),
    wishes: &[(u64, i32)],
) -> Vec<(i32, String)> {
    let behavior: Option<HorizontalPodAutoscalerBehavior> = behavior.map(|value| from_value(value).unwrap());
    let (mut past, began, mut current) =
        (Past::new(AutoscalingSettings::default().stabilization), Instant::now(), start);
    past.begin(current, began);
    let one = |(seconds, desired): &(u64, i32)| {
        let at = began + Duration::from_secs(*seconds);
        let wish = Wish { current, desired: *desired, least: bounds.0, most: bounds.1 };
        let found = past.bound(wish, behavior.as_ref(), at);
        if found.replicas != current {
            past.scaled(current, found.replicas, behavior.as_ref(), at);
        }
        current = found.replicas;
        (current, format!("{} {}{}", found.able.0, if found.limited { "!" } else { "" }, found.limit.0))
    };
    wishes.iter().map(one).collect()
}

fn texts(found: Vec<(i32, String)>) -> Vec<String> {
    found.into_iter().map(|(replicas, text)| format!("{replicas} {text}")).collect()
}

#[test]
fn without_a_behaviour_there_is_a_window_downwards_and_a_doubling_upwards() {
    let found = bounded(None, 3, (2, 20), &[(15, 30), (30, 30), (45, 1), (330, 1), (346, 1)]);
    assert_eq!(
        texts(found),
        [
            "6 ReadyForNewScale !ScaleUpLimit",
            "12 ReadyForNewScale !ScaleUpLimit",
            "20 ScaleDownStabilized !TooManyReplicas",
            "2 ReadyForNewScale !TooFewReplicas",
            "2 ReadyForNewScale !TooFewReplicas",
        ]
    );
    let few = bounded(None, 1, (1, 10), &[(15, 9)]);
    assert_eq!(texts(few), ["4 ReadyForNewScale !ScaleUpLimit"], "but four at once");
}

#[test]
fn policies_bound_how_fast_the_number_changes() {
    let rules = |policies: Value, select: &str, window: i32| json!({"policies": policies, "selectPolicy": select, "stabilizationWindowSeconds": window});
    let policy = |kind: &str, value: i32, seconds: i32| json!({"type": kind, "value": value, "periodSeconds": seconds});
    let both = json!([policy("Pods", 4, 60), policy("Percent", 100, 60)]);
    let plain = rules(json!([policy("Percent", 100, 15)]), "Max", 0);
    let up = |select: &str| Some(json!({"scaleUp": rules(both.clone(), select, 0), "scaleDown": plain}));
    let counts = |behavior, start, wishes: &[(u64, i32)]| {
        bounded(behavior, start, (1, 100), wishes).into_iter().map(|(count, _)| count).collect::<Vec<_>>()
    };
    let wishes = &[(0, 90), (30, 90), (61, 90)];
    assert_eq!(counts(up("Max"), 10, wishes), [20, 20, 40], "what was added lately counts");
    assert_eq!(counts(up("Min"), 10, wishes), [14, 14, 18]);
    assert_eq!(counts(up("Disabled"), 10, wishes), [10, 10, 10]);
    let down = |select: &str| {
        let policies = json!([policy("Pods", 3, 60), policy("Percent", 50, 60)]);
        Some(json!({"scaleUp": plain, "scaleDown": rules(policies, select, 0)}))
    };
    let wishes = &[(0, 1), (30, 1), (61, 1)];
    assert_eq!(counts(down("Max"), 20, wishes), [10, 10, 5]);
    assert_eq!(counts(down("Min"), 20, wishes), [17, 17, 14]);
    let why = bounded(down("Disabled"), 20, (1, 100), &[(0, 1)]);
    assert_eq!(texts(why), ["20 ReadyForNewScale !ScaleDownLimit"]);
}

#[test]
fn windows_hold_back_both_ways() {
    let rules = |window: Value| {
        json!({"selectPolicy": "Max", "stabilizationWindowSeconds": window,
        "policies": [{"type": "Percent", "value": 1000, "periodSeconds": 15}]})
    };
    let behavior = Some(json!({"scaleUp": rules(json!(60)), "scaleDown": rules(json!(20))}));
    let found = bounded(behavior, 5, (1, 100), &[(10, 9), (40, 8), (65, 9), (75, 2), (90, 3), (99, 2)]);
    assert_eq!(
        texts(found),
        [
            "5 ScaleUpStabilized DesiredWithinRange",
            "5 ScaleUpStabilized DesiredWithinRange",
            "8 ScaleUpStabilized DesiredWithinRange",
            "8 ScaleDownStabilized DesiredWithinRange",
            "3 ReadyForNewScale DesiredWithinRange",
            "3 ScaleDownStabilized DesiredWithinRange",
        ]
    );
    // Without a word of it, it is five minutes downwards.
    let behavior = Some(json!({"scaleUp": rules(json!(0)), "scaleDown": rules(json!(null))}));
    let found = bounded(behavior, 5, (1, 100), &[(200, 2), (299, 2), (301, 2)]);
    assert_eq!(found.iter().map(|(count, _)| *count).collect::<Vec<_>>(), [5, 5, 2]);
}
