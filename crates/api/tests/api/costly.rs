//! Rules that take long hold up nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::support::Desk;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const GAUGES: &str = "/apis/example.com/v1/namespaces/default/gauges";
/// Costs more than one run may.
const NESTED: &str = "all(a, {}.all(b, a.startsWith('k') && b.startsWith('k')))";
/// So many names: a definition's rules may not be thought to cost much more.
const COUNT: usize = 800;
/// So often somebody else is answered while three requests are dealt with: without a place aside, a thread does one
/// after the other, and nothing between.
const OFTEN: usize = 100;

fn nested(list: &str) -> String {
    format!("{list}.{}", NESTED.replace("{}", list))
}

fn names() -> Vec<String> {
    (0..COUNT).map(|n| format!("k{n}")).collect()
}

/// Makes three objects at a time, on one thread, and counts how often somebody else is answered meanwhile.
async fn meanwhile(desk: &Arc<Desk>, path: &'static str, object: Value, code: u16) -> usize {
    let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let other = {
        let (desk, over, answered) = (desk.clone(), over.clone(), answered.clone());
        tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                desk.call("GET", "/livez", None).await.got(200);
                answered.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        })
    };
    let made = (0..3).map(|_| {
        let (desk, object) = (desk.clone(), object.clone());
        tokio::spawn(async move { desk.call("POST", path, Some(object)).await })
    });
    for made in made.collect::<Vec<_>>() {
        let made = made.await.expect("an answer");
        // On a machine with much else to do the time is over before the cost is.
        if made.status != 400 || !made.body.to_string().contains("take longer than") {
            made.got(code);
        }
    }
    over.store(true, Ordering::Relaxed);
    other.await.expect("nobody panics");
    answered.load(Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn policies_that_take_long_hold_up_nobody() {
    let desk = Arc::new(Desk::new().await);
    let rule = json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["*"], "resources": ["configmaps"]});
    let validations: Vec<Value> = (0..3).map(|_| json!({"expression": nested("object.data")})).collect();
    let refusing = json!({"matchConstraints": {"resourceRules": [rule]}, "validations": validations});
    let steps = format!("{} ? [] : []", nested("object.data"));
    let changing = json!({"matchConstraints": {"resourceRules": [rule]}, "reinvocationPolicy": "Never",
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": steps}}], "failurePolicy": "Ignore"});
    let data: serde_json::Map<_, _> = names().into_iter().map(|name| (name, json!("v"))).collect();
    let object = json!({"metadata": {"generateName": "a-"}, "data": data});
    for (sort, spec, bound, code) in [
        ("mutating", changing, json!({"policyName": "p"}), 201),
        ("validating", refusing, json!({"policyName": "p", "validationActions": ["Deny"]}), 422),
    ] {
        for (plural, spec) in [("policies", spec), ("policybindings", bound)] {
            let path = format!("/apis/admissionregistration.k8s.io/v1/{sort}admission{plural}");
            let object = json!({"metadata": {"name": "p"}, "spec": spec});
            desk.call("POST", &path, Some(object)).await.expect(201);
        }
        let answered = meanwhile(&desk, MAPS, object.clone(), code).await;
        assert!(answered >= OFTEN, "{sort}: {answered}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn rules_of_definitions_that_take_long_hold_up_nobody() {
    let desk = Arc::new(Desk::new().await);
    // What a rule may cost at most is known where lists and texts have an end; it is enough for a while.
    let list = json!({"type": "array", "maxItems": COUNT, "items": {"type": "string", "maxLength": 6},
        "x-kubernetes-validations": [{"rule": nested("self")}]});
    let schema =
        json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"list": list}}}});
    let definition = json!({"metadata": {"name": "gauges.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "gauges", "singular": "gauge", "kind": "Gauge", "listKind": "GaugeList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
    desk.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", Some(definition))
        .await
        .expect(201);
    let object = json!({"apiVersion": "example.com/v1", "kind": "Gauge", "metadata": {"generateName": "a-"},
        "spec": {"list": names()}});
    let answered = meanwhile(&desk, GAUGES, object, 422).await;
    assert!(answered >= OFTEN, "{answered}");
}
