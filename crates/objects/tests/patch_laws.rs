//! Laws that every patch keeps, tried on random objects. Each case has a seed, so that a failure can be
//! had again.

use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value, json};
use yunfan_objects::patch::apply::{Writer, apply};
use yunfan_objects::patch::{merge, strategic};
use yunfan_objects::{SchemaRef, builtin};

const CASES: u64 = 400;
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

fn schema() -> SchemaRef {
    let all = builtin::descriptors();
    all.into_iter().find(|kind| kind.kind == "Deployment").expect("a kind").schema
}

fn word(random: &mut StdRng) -> Value {
    json!(NAMES[random.random_range(0..NAMES.len())])
}

/// A list of objects with distinct names, in any order.
fn named(random: &mut StdRng, inner: fn(&mut StdRng) -> Value) -> Value {
    let mut names = NAMES.to_vec();
    let count = random.random_range(0..names.len());
    let mut out = Vec::new();
    for _ in 0..count {
        let name = names.remove(random.random_range(0..names.len()));
        let mut item = inner(random);
        item["name"] = json!(name);
        out.push(item);
    }
    Value::Array(out)
}

fn container(random: &mut StdRng) -> Value {
    let mut out = json!({"image": word(random)});
    if random.random_bool(0.5) {
        out["args"] = json!([word(random), word(random)]);
    }
    if random.random_bool(0.5) {
        out["env"] = named(random, |random| json!({"value": word(random)}));
    }
    out
}

fn labels(random: &mut StdRng) -> Value {
    let mut out = Map::new();
    for name in NAMES {
        if random.random_bool(0.5) {
            out.insert(name.to_owned(), word(random));
        }
    }
    Value::Object(out)
}

fn deployment(random: &mut StdRng) -> Value {
    let mut out = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "labels": labels(random)},
        "spec": {"template": {"spec": {"containers": named(random, container)}}},
    });
    if random.random_bool(0.5) {
        out["spec"]["replicas"] = json!(random.random_range(0..3));
    }
    out
}

/// The merge patch from one value to another; both are free of nulls.
fn merge_diff(from: &Value, to: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (from, to) else { return to.clone() };
    let gone = old.keys().filter(|key| !new.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let changed = new.iter().filter(|(key, value)| old.get(*key) != Some(value)).map(|(key, value)| {
        (key.clone(), old.get(key).map_or_else(|| value.clone(), |before| merge_diff(before, value)))
    });
    Value::Object(gone.chain(changed).collect())
}

/// The strategic patch from one value to another, as `kubectl apply` makes it: lists of named objects by
/// their names, other lists as a whole.
fn strategic_diff(from: &Value, to: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (from, to) else { return to.clone() };
    let mut out = Map::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        out.insert(key.clone(), Value::Null);
    }
    for (key, value) in new.iter().filter(|(key, value)| old.get(*key) != Some(value)) {
        match (key.as_str(), old.get(key), value) {
            ("containers" | "env", Some(Value::Array(before)), Value::Array(after)) => {
                out.insert(key.clone(), list_diff(before, after));
                let order: Vec<Value> = after.iter().map(|item| json!({"name": item["name"]})).collect();
                out.insert(format!("$setElementOrder/{key}"), Value::Array(order));
            }
            (_, Some(before), value) => {
                out.insert(key.clone(), strategic_diff(before, value));
            }
            (_, None, value) => {
                out.insert(key.clone(), value.clone());
            }
        }
    }
    Value::Object(out)
}

fn list_diff(before: &[Value], after: &[Value]) -> Value {
    let find = |list: &[Value], name: &Value| list.iter().find(|item| item["name"] == *name).cloned();
    let mut out = Vec::new();
    for item in after {
        match find(before, &item["name"]) {
            Some(old) if old == *item => {}
            Some(old) => {
                let mut change = strategic_diff(&old, item);
                change["name"] = item["name"].clone();
                out.push(change);
            }
            None => out.push(item.clone()),
        }
    }
    for item in before.iter().filter(|item| find(after, &item["name"]).is_none()) {
        out.push(json!({"name": item["name"], "$patch": "delete"}));
    }
    Value::Array(out)
}

#[test]
fn a_difference_leads_from_one_object_to_the_other() {
    let schema = schema();
    for seed in 0..CASES {
        let mut random = StdRng::seed_from_u64(seed);
        let (from, to) = (deployment(&mut random), deployment(&mut random));
        assert_eq!(merge(&from, &merge_diff(&from, &to)).expect("a patch"), to, "merge, seed {seed}");
        let patch = strategic_diff(&from, &to);
        let result = strategic(&from, &patch, &schema).expect("a patch");
        assert_eq!(result, to, "strategic, seed {seed}: {from} with {patch}");
    }
}

fn writer(manager: &str, second: u8) -> Writer<'_> {
    let now: Timestamp = format!("2026-01-01T00:00:{second:02}Z").parse().expect("a time");
    Writer { manager, subresource: "", api_version: "apps/v1", now }
}

#[test]
fn an_apply_again_is_no_change_and_an_empty_one_gives_all_back() {
    let schema = schema();
    for seed in 0..CASES {
        let mut random = StdRng::seed_from_u64(seed);
        let (mine, theirs) = (deployment(&mut random), deployment(&mut random));
        let live = apply(None, &theirs, &writer("they", 1), true, &schema).expect("an apply");
        let once = apply(Some(&live), &mine, &writer("me", 2), true, &schema).expect("an apply");
        let twice = apply(Some(&once), &mine, &writer("me", 3), true, &schema).expect("an apply");
        assert_eq!(once, twice, "seed {seed}");
        // What they applied and I did not touch is there still, once I apply nothing any more.
        let nothing = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}});
        let left = apply(Some(&twice), &nothing, &writer("me", 4), true, &schema).expect("an apply");
        let managers = left["metadata"]["managedFields"].as_array();
        assert!(managers.into_iter().flatten().all(|entry| entry["manager"] != "me"), "seed {seed}");
        let back =
            apply(Some(&left), &theirs, &writer("they", 5), false, &schema).expect("no conflict is left");
        for path in ["/metadata/labels", "/spec/replicas"] {
            assert_eq!(
                back.pointer(path).filter(|value| *value != &json!({})),
                theirs.pointer(path).filter(|value| *value != &json!({})),
                "{path}, seed {seed}"
            );
        }
    }
}
