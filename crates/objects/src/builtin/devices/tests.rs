use serde_json::{Value, json};

use crate::builtin::tests::{changed, created, kind, refusal, row, status_refusal};

fn claim(requests: Value) -> Value {
    json!({"metadata": {"name": "c"}, "spec": {"devices": {"requests": requests}}})
}

#[test]
fn a_claim_gets_counts_and_stays() {
    let old = created(
        &kind("ResourceClaim"),
        claim(json!([{"name": "gpu", "exactly": {"deviceClassName": "gpu"}}])),
    )
    .unwrap();
    assert_eq!(
        old["spec"]["devices"]["requests"][0]["exactly"],
        json!({"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1})
    );
    assert_eq!(row("ResourceClaim", &old)[1], "pending");
    let (_, refused) = changed("ResourceClaim", &old, json!({"spec": {"devices": {"requests": []}}}));
    assert!(refused.starts_with("spec: Invalid value"), "{refused}");
    assert_eq!(changed("ResourceClaim", &old, json!({"metadata": {"labels": {"a": "b"}}})).1, "");
    let result = |request: &str| json!({"request": request, "driver": "d.example.com", "pool": "n1", "device": "gpu-0"});
    let good = json!({"allocation": {"devices": {"results": [result("gpu")]}}, "reservedFor": [{"resource": "pods", "name": "p", "uid": "1"}]});
    assert_eq!(status_refusal("ResourceClaim", &old, good.clone()), "");
    let bad = json!({"allocation": {"devices": {"results": [result("tpu")]}}, "reservedFor": [{"resource": "pods"}]});
    let found = status_refusal("ResourceClaim", &old, bad);
    assert!(
        found.contains("status.allocation.devices.results[0].request: Invalid value: \"tpu\""),
        "{found}"
    );
    assert!(found.contains("status.reservedFor[0].uid: Required value"), "{found}");
    let mut allocated = old;
    allocated["status"] = good;
    assert_eq!(row("ResourceClaim", &allocated)[1], "allocated,reserved");
    let other = json!({"allocation": {"devices": {"results": []}}});
    assert!(status_refusal("ResourceClaim", &allocated, other).contains("status.allocation: Invalid value"));
}

#[test]
fn what_is_wrong_with_a_claim_is_named() {
    let exactly = |exactly: Value| json!([{"name": "a", "exactly": exactly}]);
    for (requests, why) in [
        (
            json!([{"name": "a"}]),
            "spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required",
        ),
        (
            json!([{"name": "A", "exactly": {"deviceClassName": "c"}}]),
            "spec.devices.requests[0].name: Invalid value: \"A\"",
        ),
        (exactly(json!({})), "spec.devices.requests[0].exactly.deviceClassName: Required value"),
        (
            exactly(json!({"deviceClassName": "c", "allocationMode": "All", "count": 2})),
            "must not be specified when allocationMode is 'All'",
        ),
        (
            exactly(json!({"deviceClassName": "c", "allocationMode": "Some"})),
            "allocationMode: Unsupported value: \"Some\"",
        ),
        (
            exactly(json!({"deviceClassName": "c", "count": -1})),
            "count: Invalid value: -1: must be greater than zero",
        ),
        (exactly(json!({"deviceClassName": "c", "selectors": [{}]})), "selectors[0].cel: Required value"),
    ] {
        let found = refusal("ResourceClaim", claim(requests.clone()));
        assert!(found.contains(why), "{found}\n{why}");
        let template = json!({"metadata": {"name": "t"}, "spec": {"spec": claim(requests)["spec"]}});
        assert!(
            refusal("ResourceClaimTemplate", template)
                .contains(&why.replace("spec.devices", "spec.spec.devices"))
        );
    }
    let good = claim(exactly(json!({"deviceClassName": "c"})))["spec"].clone();
    for key in ["generation", "deletionGracePeriodSeconds", "resourceVersion", "managedFields", "finalizers"]
    {
        let mut template = json!({"metadata": {"name": "t"}, "spec": {"metadata": {}, "spec": good}});
        template["spec"]["metadata"][key] = match key {
            "generation" | "deletionGracePeriodSeconds" => json!(1),
            "resourceVersion" => json!("1"),
            "managedFields" => json!([{"manager": "m"}]),
            _ => json!(["a.b/c"]),
        };
        let found = refusal("ResourceClaimTemplate", template);
        assert!(found.contains(&format!("spec.metadata.{key}: Forbidden: cannot be set")), "{found}");
    }
    let mut object = claim(exactly(json!({"deviceClassName": "c"})));
    object["spec"]["devices"]["constraints"] = json!([{"requests": ["b"]}]);
    object["spec"]["devices"]["config"] = json!([{"opaque": {"driver": "d", "parameters": {}}}, {}]);
    let found = refusal("ResourceClaim", object);
    for why in [
        "spec.devices.constraints[0].requests[0]: Invalid value: \"b\": must be the name of a request",
        "spec.devices.constraints[0]: Required value",
        "spec.devices.config[1].opaque: Required value",
    ] {
        assert!(found.contains(why), "{found}\n{why}");
    }
}

#[test]
fn a_class_selects_and_configures() {
    let class = |spec: Value| json!({"metadata": {"name": "gpu"}, "spec": spec});
    assert_eq!(refusal("DeviceClass", class(json!({"selectors": [{"cel": {"expression": "true"}}]}))), "");
    let long = "x".repeat(10 * 1024 + 1);
    let found = refusal(
        "DeviceClass",
        class(json!({"selectors": [{"cel": {"expression": long}}], "config": [{"opaque": {"driver": ""}}]})),
    );
    assert!(found.contains("spec.selectors[0].cel.expression: Too long"), "{found}");
    assert!(found.contains("spec.config[0].opaque.driver: Required value"), "{found}");
    assert!(found.contains("spec.config[0].opaque.parameters: Required value"), "{found}");
}

#[test]
fn a_slice_says_where_its_devices_are() {
    let slice = |change: Value| {
        let spec = json!({"driver": "d.example.com", "nodeName": "n1", "pool": {"name": "n1", "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "gpu-0", "attributes": {"model": {"string": "x"}}}]});
        json!({"metadata": {"name": "s"}, "spec": crate::patch::merge(&spec, &change).unwrap()})
    };
    let old = created(&kind("ResourceSlice"), slice(json!({}))).unwrap();
    assert_eq!(row("ResourceSlice", &old)[..4], ["s", "n1", "d.example.com", "n1"]);
    let (_, refused) =
        changed("ResourceSlice", &old, json!({"spec": {"driver": "e", "pool": {"generation": 2}}}));
    assert_eq!(refused, "spec.driver: Invalid value: \"e\": field is immutable");
    for (change, why) in [
        (json!({"nodeName": null}), "spec: Required value: exactly one of `nodeName`, `nodeSelector`"),
        (json!({"allNodes": true}), "spec: Invalid value: \"{`nodeName`, `allNodes`}\": exactly one of"),
        (
            json!({"allNodes": false}),
            "spec.allNodes: Invalid value: false: must be either unset or set to true",
        ),
        (
            json!({"pool": {"resourceSliceCount": 0}}),
            "spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero",
        ),
        (json!({"pool": {"name": "A"}}), "spec.pool.name: Invalid value: \"A\""),
        (json!({"devices": [{"name": "a"}, {"name": "a"}]}), "spec.devices[1]: Duplicate value: \"a\""),
        (
            json!({"devices": [{"name": "a", "attributes": {"x": {}}}]}),
            "spec.devices[0].attributes[x]: Invalid value: \"\": exactly one value must be specified",
        ),
        (
            json!({"devices": [{"name": "a", "taints": [{"key": "k", "effect": "Shout"}]}]}),
            "taints[0].effect: Unsupported value: \"Shout\"",
        ),
        (json!({"sharedCounters": [{"name": "a"}]}), "only one of `sharedCounters` or `devices` is allowed"),
    ] {
        let found = refusal("ResourceSlice", slice(change));
        assert!(found.contains(why), "{found}\n{why}");
    }
}
