use std::sync::Arc;

use serde_json::{Value, from_value, json};

use super::*;
use crate::engine::Engine;
use crate::engine::testing::node;

/// Nodes `a1`, `a2` in zone `a` and `b1` in zone `b`.
fn snapshot() -> Snapshot {
    let mut snapshot = Snapshot::default();
    for name in ["a1", "a2", "b1"] {
        let mut node = node(name, "4", "8Gi");
        node.metadata.labels.get_or_insert_default().insert("zone".into(), name[..1].into());
        snapshot.set_node(&node);
    }
    snapshot
}

/// A Pod with the label `app`, and more in its spec.
fn pod(name: &str, app: &str, more: Value) -> Arc<Workload> {
    let (namespace, name) = name.split_once('/').unwrap_or(("demo", name));
    let mut spec = json!({"containers": []});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let metadata = json!({"name": name, "namespace": namespace, "uid": name, "labels": {"app": app}});
    Arc::new(Workload::from_pod(&Arc::new(from_value(json!({"metadata": metadata, "spec": spec})).unwrap())))
}

fn term(app: &str, key: &str) -> Value {
    json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key})
}

fn affinity(kind: &str, terms: &[Value]) -> Value {
    json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": terms}}})
}

fn put(snapshot: &mut Snapshot, pod: Arc<Workload>, node: &str) {
    let row = snapshot.names.iter().position(|name| name == node).unwrap();
    snapshot.assume(pod, row);
}

/// The nodes that would do, or why none does.
fn nodes(snapshot: &Snapshot, pod: &Workload) -> Result<BTreeSet<String>, String> {
    let mut found = BTreeSet::new();
    // Each node alone: the others are cordoned.
    for name in ["a1", "a2", "b1"] {
        let near = Near::new(snapshot, pod).unwrap();
        let row = snapshot.names.iter().position(|own| own == name).unwrap();
        let labels = &snapshot.labels[row];
        if near.conflict(labels).is_none() && near.spreads(labels) == Ok(true) {
            found.insert(name.to_owned());
        }
    }
    match Engine::default().place(snapshot, pod) {
        Ok(row) => assert!(found.contains(&snapshot.names[row])),
        Err(refusal) => {
            assert!(found.is_empty());
            return Err(refusal.message);
        }
    }
    Ok(found)
}

fn set(names: &[&str]) -> Result<BTreeSet<String>, String> {
    Ok(names.iter().map(|name| (*name).to_owned()).collect())
}

#[test]
fn apart_from_each_other() {
    let mut snapshot = snapshot();
    let alone =
        |name: &str| pod(name, "web", affinity("podAntiAffinity", &[term("web", "kubernetes.io/hostname")]));
    for left in [&["a1", "a2", "b1"][..], &["a2", "b1"], &["b1"]] {
        assert_eq!(nodes(&snapshot, &alone("next")), set(left));
        put(&mut snapshot, alone(&format!("p{}", left.len())), left[0]);
    }
    assert_eq!(
        nodes(&snapshot, &alone("next")),
        Err("0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules.".into())
    );
    // Those that are there keep others of the kind away too, and only those.
    let plain = pod("plain", "web", json!({}));
    assert_eq!(
        nodes(&snapshot, &plain),
        Err("0/3 nodes are available: 3 node(s) didn't satisfy existing pods anti-affinity rules.".into())
    );
    assert_eq!(nodes(&snapshot, &pod("x", "db", json!({}))), set(&["a1", "a2", "b1"]));
    assert_eq!(nodes(&snapshot, &pod("elsewhere/x", "web", json!({}))), set(&["a1", "a2", "b1"]));
    snapshot.remove("p3");
    assert_eq!(nodes(&snapshot, &plain), set(&["a1"]));
}

#[test]
fn together_with_others() {
    let mut snapshot = snapshot();
    let with_db = pod("web", "web", affinity("podAffinity", &[term("db", "zone")]));
    assert_eq!(
        nodes(&snapshot, &with_db),
        Err("0/3 nodes are available: 3 node(s) didn't match pod affinity rules.".into())
    );
    put(&mut snapshot, pod("elsewhere/db", "db", json!({})), "b1");
    assert!(nodes(&snapshot, &with_db).is_err(), "another namespace's");
    put(&mut snapshot, pod("db", "db", json!({})), "a2");
    assert_eq!(nodes(&snapshot, &with_db), set(&["a1", "a2"]));
    // The first of those that want to be together may go anywhere.
    let flock = |name: &str| pod(name, "flock", affinity("podAffinity", &[term("flock", "zone")]));
    assert_eq!(nodes(&snapshot, &flock("first")), set(&["a1", "a2", "b1"]));
    put(&mut snapshot, flock("first"), "b1");
    assert_eq!(nodes(&snapshot, &flock("second")), set(&["b1"]));
}

#[test]
fn namespaces_are_named_or_selected() {
    let mut snapshot = snapshot();
    put(&mut snapshot, pod("other/db", "db", json!({})), "b1");
    let with = |more: Value| {
        let mut term = term("db", "zone");
        term.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        pod("web", "web", affinity("podAffinity", &[term]))
    };
    assert!(nodes(&snapshot, &with(json!({}))).is_err());
    assert_eq!(nodes(&snapshot, &with(json!({"namespaces": ["other"]}))), set(&["b1"]));
    assert_eq!(nodes(&snapshot, &with(json!({"namespaceSelector": {}}))), set(&["b1"]));
    let team = with(json!({"namespaceSelector": {"matchLabels": {"team": "x"}}}));
    assert!(nodes(&snapshot, &team).is_err());
    assert!(snapshot.set_namespace("other", Some([("team".to_owned(), "x".to_owned())].into())));
    assert_eq!(nodes(&snapshot, &team), set(&["b1"]));
    assert!(snapshot.set_namespace("other", None) && !snapshot.set_namespace("other", None));
    // Only Pods of the same version, as the Pod's own label says.
    assert!(nodes(&snapshot, &with(json!({"namespaces": ["other"], "matchLabelKeys": ["app"]}))).is_err());
    assert!(nodes(&snapshot, &with(json!({"namespaces": ["other"], "mismatchLabelKeys": ["app"]}))).is_ok());
}

#[test]
fn spread_evenly() {
    let mut snapshot = snapshot();
    let spread = |name: &str, key: &str| {
        let constraint = json!({
            "maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "web"}},
        });
        pod(name, "web", json!({"topologySpreadConstraints": [constraint]}))
    };
    assert_eq!(nodes(&snapshot, &spread("next", "zone")), set(&["a1", "a2", "b1"]));
    put(&mut snapshot, spread("p1", "zone"), "a1");
    assert_eq!(nodes(&snapshot, &spread("next", "zone")), set(&["b1"]));
    assert_eq!(nodes(&snapshot, &spread("next", "kubernetes.io/hostname")), set(&["a2", "b1"]));
    put(&mut snapshot, spread("p2", "zone"), "b1");
    assert_eq!(nodes(&snapshot, &spread("next", "zone")), set(&["a1", "a2", "b1"]));
    assert_eq!(
        nodes(&snapshot, &spread("next", "rack")),
        Err("0/3 nodes are available: 3 node(s) didn't match pod topology spread constraints (missing required \
             label)."
            .into())
    );
    // Zone b is not for this Pod, so it does not count as the emptiest.
    put(&mut snapshot, spread("p3", "zone"), "a1");
    let mut only_a = (*spread("next", "zone")).clone();
    only_a.node_selector.insert("zone".into(), "a".into());
    let row = Engine::default().place(&snapshot, &only_a).unwrap();
    assert!(snapshot.names[row].starts_with('a'));
}
