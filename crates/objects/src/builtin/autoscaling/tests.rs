//! HorizontalPodAutoscaler: defaults, refusals and rows.

use serde_json::{Value, json};

use crate::builtin::tests::{changed, created, from_yaml, refusal, row, status_refusal};
use crate::{Descriptor, Object};

const KIND: &str = "HorizontalPodAutoscaler";

fn kind(version: &str) -> Descriptor {
    crate::builtin::descriptors()
        .into_iter()
        .find(|each| each.kind == KIND && each.version == version)
        .unwrap()
}

fn autoscaler(spec: &str) -> Object {
    let target = "scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}, maxReplicas: 5";
    from_yaml(&format!("{{metadata: {{name: a}}, spec: {{{target}, {spec}}}}}"))
}

fn with_metric(metric: &Value) -> Object {
    let mut object = autoscaler("minReplicas: 2");
    object["spec"]["metrics"] = json!([metric]);
    object
}

#[test]
fn defaults_are_those_of_the_version() {
    let spec =
        created(&kind("v2"), autoscaler("behavior: {scaleDown: {selectPolicy: Min}}")).unwrap()["spec"]
            .take();
    assert_eq!(spec["minReplicas"], 1);
    assert_eq!(
        spec["metrics"][0]["resource"]["target"],
        json!({"type": "Utilization", "averageUtilization": 80})
    );
    let (up, down) = (&spec["behavior"]["scaleUp"], &spec["behavior"]["scaleDown"]);
    assert_eq!([&up["selectPolicy"], &down["selectPolicy"]], ["Max", "Min"]);
    assert_eq!(up["policies"].as_array().unwrap().len(), 2);
    assert_eq!(up["stabilizationWindowSeconds"], 0);
    assert_eq!(down.get("stabilizationWindowSeconds"), None);
    let older = created(&kind("v1"), autoscaler("targetCPUUtilizationPercentage: 5")).unwrap();
    assert_eq!(older["spec"]["minReplicas"], 1);
    assert_eq!(older["status"], json!({"currentReplicas": 0, "desiredReplicas": 0}));
    let bare = created(&kind("v1"), autoscaler("minReplicas: 1")).unwrap();
    assert_eq!(bare["spec"]["targetCPUUtilizationPercentage"], 80);
    assert_eq!(older["metadata"].get("generation"), None, "its changes are not counted");
}

#[test]
fn a_spec_that_makes_no_sense_is_refused() {
    for (spec, wanted) in [
        ("minReplicas: 0", "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1"),
        (
            "minReplicas: 6",
            "spec.maxReplicas: Invalid value: 5: must be greater than or equal to `minReplicas`",
        ),
        (
            "behavior: {scaleUp: {policies: []}}",
            "spec.behavior.scaleUp.policies: Required value: must specify at least one Policy",
        ),
        ("behavior: {scaleUp: {stabilizationWindowSeconds: 3601}}", "must be less than or equal to 3600"),
        ("behavior: {scaleUp: {selectPolicy: Any}}", "supported values: \"Disabled\", \"Max\", \"Min\""),
        (
            "behavior: {scaleUp: {tolerance: '-1'}}",
            "tolerance: Invalid value: \"-1\": must be greater than or equal to 0",
        ),
        (
            "behavior: {scaleDown: {policies: [{type: Some, value: 0, periodSeconds: 1801}]}}",
            "policies[0].type: Unsupported value: \"Some\": supported values: \"Percent\", \"Pods\"",
        ),
    ] {
        let message = refusal_of("v2", autoscaler(spec));
        assert!(message.contains(wanted), "{spec}: {message}");
    }
    let mut bare = autoscaler("minReplicas: 1");
    bare["spec"] = json!({"scaleTargetRef": {"kind": "Deployment", "name": "a/b", "apiVersion": "v1"}});
    let message = refusal_of("v2", bare.clone());
    for wanted in [
        "spec.maxReplicas: Required value: must be set and greater than 0",
        "spec.scaleTargetRef.name: Invalid value: \"a/b\": may not contain '/'",
        "spec.scaleTargetRef.apiVersion: Invalid value: \"v1\": apiVersion must specify API group",
    ] {
        assert!(message.contains(wanted), "{message}");
        assert!(refusal_of("v1", bare.clone()).contains(wanted), "the older version is held to the same");
    }
    let controller = json!({"kind": "ReplicationController", "name": "a", "apiVersion": "v1"});
    bare["spec"] = json!({"maxReplicas": 1, "scaleTargetRef": controller});
    assert_eq!(refusal_of("v2", bare), "");
}

fn refusal_of(version: &str, object: Object) -> String {
    created(&kind(version), object).err().map(|error| error.message().to_owned()).unwrap_or_default()
}

#[test]
fn metrics_say_one_thing_and_all_of_it() {
    let target = json!({"type": "Value", "value": "1"});
    for (metric, wanted) in [
        (json!({"type": "Odd"}), "spec.metrics[0].type: Unsupported value: \"Odd\""),
        (json!({"type": "Pods"}), "spec.metrics[0].pods: Required value: must populate information"),
        (
            json!({"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "1"}},
                "external": {"metric": {"name": "m"}, "target": target}}),
            "spec.metrics[0].external: Forbidden: must populate the given metric source only",
        ),
        (
            json!({"type": "External", "external": {"metric": {"name": ""}, "target": target}}),
            "spec.metrics[0].external.metric.name: Required value: must specify a metric name",
        ),
        (
            json!({"type": "External", "external": {"metric": {"name": "m"}, "target": {"type": "Some", "value": "0", "averageValue": "1"}}}),
            "spec.metrics[0].external.target.value: Forbidden: may not set both",
        ),
        (
            json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization"}}}),
            "spec.metrics[0].resource.target.averageUtilization: Required value: must set either",
        ),
        (
            json!({"type": "Object", "object": {"describedObject": {"kind": "A", "name": "b", "apiVersion": "a/b/c"},
                "metric": {"name": "m"}, "target": target}}),
            "unexpected GroupVersion string: a/b/c",
        ),
        (
            json!({"type": "ContainerResource", "containerResource": {"name": "pods", "container": "A",
                "target": {"type": "Utilization", "averageUtilization": 0}}}),
            "spec.metrics[0].containerResource.name: Invalid value: \"pods\": must be a standard resource for containers",
        ),
    ] {
        let message = refusal(KIND, with_metric(&metric));
        assert!(message.contains(wanted), "{metric}: {message}");
    }
}

#[test]
fn what_was_allowed_stays_allowed() {
    let mut old = created(&kind("v2"), autoscaler("minReplicas: 1")).unwrap();
    old["spec"]["minReplicas"] = json!(0);
    old["spec"]["metrics"] = json!([{"type": "External", "external":
        {"metric": {"name": "m"}, "target": {"type": "Value", "value": "1"}}}]);
    old["spec"]["scaleTargetRef"]["apiVersion"] = json!("v1");
    let (_, refused) = changed(KIND, &old, json!({"spec": {"maxReplicas": 7}}));
    assert_eq!(refused, "");
    let (_, refused) = changed(KIND, &old, json!({"spec": {"scaleTargetRef": {"kind": "Other"}}}));
    assert!(refused.contains("apiVersion must specify API group"), "{refused}");
    let message = status_refusal(KIND, &old, json!({"currentReplicas": -1, "desiredReplicas": 0}));
    assert!(message.contains("status.currentReplicas: Invalid value: -1"), "{message}");
}

#[test]
fn the_older_version_does_not_let_a_client_write_the_status() {
    let condition = |kind: &str| json!({"autoscaling.alpha.kubernetes.io/conditions": format!("[{{\"type\":\"{kind}\"}}]")});
    let kind = kind("v1");
    let mut object = autoscaler("minReplicas: 1");
    object["metadata"]["annotations"] = condition("Mine");
    let made = created(&kind, object).unwrap();
    assert_eq!(made["metadata"].get("annotations"), None);
    let mut old = made.clone();
    old["metadata"]["annotations"] = condition("Theirs");
    let mut new = old.clone();
    new["metadata"]["annotations"] = condition("Mine");
    kind.prepare_update(&mut new, &old);
    assert_eq!(new["metadata"]["annotations"], condition("Theirs"));
}

#[test]
fn a_row_shows_two_metrics() {
    let mut object = created(&kind("v2"), autoscaler("minReplicas: 2")).unwrap();
    assert_eq!(row(KIND, &object)[1..6], ["Deployment/web", "cpu: <unknown>/80%", "2", "5", "0"]);
    let external =
        |target: Value| json!({"type": "External", "external": {"metric": {"name": "m"}, "target": target}});
    object["spec"]["metrics"] = json!([
        external(json!({"averageValue": "5"})),
        external(json!({"value": "7"})),
        external(json!({"value": "8"}))
    ]);
    object["status"] = json!({"currentReplicas": 3, "currentMetrics": [
        {"type": "External", "external": {"current": {"value": "1", "averageValue": "2"}}}]});
    assert_eq!(row(KIND, &object)[2..6], ["2/5 (avg), <unknown>/7 + 1 more...", "2", "5", "3"]);
    let mut older = autoscaler("targetCPUUtilizationPercentage: 60");
    older["status"] = json!({"currentCPUUtilizationPercentage": 12});
    let cells = kind("v1").cells.unwrap()(&older, "2026-01-01T00:00:00Z".parse().unwrap());
    assert_eq!(cells[2], "cpu: 12%/60%");
}
