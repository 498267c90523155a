//! CSIDriver, CSINode, CSIStorageCapacity.

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::builtin::field::Field;
use crate::builtin::inner::{Is, Part};
use crate::builtin::rows::{name, or_none, since_creation};
use crate::builtin::rules::Rules;
use crate::builtin::storage::driver_name;
use crate::builtin::{ColumnSpec, odd};
use crate::error::FieldError;
use crate::lookup::{at_mut, list, list_mut, set_default, text};
use crate::meta::{dns_subdomain, qualified_name};
use crate::{Object, Quantity};

pub(in crate::builtin) const DRIVER_COLUMNS: &[ColumnSpec] = &[
    ("Name", "string", 0),
    ("AttachRequired", "boolean", 0),
    ("PodInfoOnMount", "boolean", 0),
    ("StorageCapacity", "boolean", 0),
    ("TokenRequests", "string", 0),
    ("RequiresRepublish", "boolean", 0),
    ("Modes", "string", 0),
    ("Age", "string", 0),
];

pub(in crate::builtin) fn driver_cells(driver: &Object, now: Timestamp) -> Vec<Value> {
    let spec = &driver["spec"];
    let join = |texts: Vec<&str>| texts.join(",");
    let audiences = match spec["tokenRequests"].as_array() {
        None => "<unset>".to_owned(),
        Some(requests) => join(requests.iter().map(|request| text(request, &["audience"])).collect()),
    };
    let modes = list(spec, &["volumeLifecycleModes"]).iter().filter_map(Value::as_str).collect();
    vec![
        name(driver),
        json!(spec["attachRequired"] != false),
        json!(spec["podInfoOnMount"] == true),
        json!(spec["storageCapacity"] == true),
        json!(audiences),
        json!(spec["requiresRepublish"] == true),
        or_none(&join(modes)),
        since_creation(driver, now),
    ]
}

pub(in crate::builtin) const DRIVER: Rules = Rules {
    default: driver_defaults,
    validate: validate_driver,
    validate_update: |new, old| {
        let kept = [("attachRequired", "attachedRequired"), ("volumeLifecycleModes", "volumeLifecycleModes")];
        let mut errors = Vec::new();
        for (key, shown) in kept {
            if new["spec"].get(key) != old["spec"].get(key) {
                let given = new["spec"][key].clone();
                errors.push(FieldError::invalid(format!("spec.{shown}"), given, "field is immutable"));
            }
        }
        errors
    },
    // Only changes are counted: what was never changed has no number.
    prepare_update: |new, old| {
        if new["spec"] != old["spec"] {
            new["metadata"]["generation"] = json!(old["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
        }
    },
    ..Rules::UNCOUNTED
};

fn driver_defaults(driver: &mut Object) {
    let Some(spec) = at_mut(driver, &["spec"]) else { return };
    set_default(spec, "attachRequired", true);
    for key in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
        set_default(spec, key, false);
    }
    set_default(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    if list(spec, &["volumeLifecycleModes"]).is_empty() && spec.is_object() {
        spec["volumeLifecycleModes"] = json!(["Persistent"]);
    }
}

fn validate_driver(driver: &Object) -> Vec<FieldError> {
    const SHORTEST: i64 = 600;
    const LONGEST: i64 = 1 << 32;
    let spec = Field::root(driver).at("spec");
    let policies = ["File", "None", "ReadWriteOnceWithFSType"];
    let mut errors: Vec<FieldError> = spec.at("fsGroupPolicy").one_of(&policies).into_iter().collect();
    let mut audiences = HashSet::new();
    let requests = spec.at("tokenRequests");
    for request in requests.items() {
        let (audience, lifetime) = (request.at("audience"), request.at("expirationSeconds"));
        // One request may leave the audience out; it means the API server's.
        if !audiences.insert(audience.text()) {
            errors.push(FieldError::duplicate(audience.path.as_str(), audience.text()));
            continue;
        }
        match lifetime.number() {
            Some(given) if given < SHORTEST => {
                errors.push(lifetime.invalid("may not specify a duration less than 10 minutes"));
            }
            Some(given) if given > LONGEST => {
                errors.push(lifetime.invalid("may not specify a duration larger than 2^32 seconds"));
            }
            _ => {}
        }
    }
    for mode in spec.at("volumeLifecycleModes").items() {
        if !matches!(mode.text(), "Persistent" | "Ephemeral") {
            let modes = ["Persistent", "Ephemeral"];
            errors.push(FieldError::not_supported("spec.volumeLifecycleModes", mode.text(), &modes));
        }
    }
    let period = spec.at("nodeAllocatableUpdatePeriodSeconds");
    if period.number().is_some_and(|seconds| seconds < 10) {
        errors.push(period.invalid("must be greater than or equal to 10 seconds"));
    }
    let in_secrets = spec.at("serviceAccountTokenInSecrets");
    if in_secrets.is_given() && requests.list().is_empty() {
        let why = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
        errors.push(in_secrets.invalid(why));
    }
    errors
}

pub(in crate::builtin) const NODE_COLUMNS: &[ColumnSpec] =
    &[("Name", "string", 0), ("Drivers", "integer", 0), ("Age", "string", 0)];

pub(in crate::builtin) fn node_cells(node: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(node), json!(list(node, &["spec", "drivers"]).len()), since_creation(node, now)]
}

pub(in crate::builtin) const NODE: Rules = Rules {
    default: node_defaults,
    validate: validate_node,
    validate_update: drivers_are_kept,
    ..Rules::UNCOUNTED
};

/// These lists are shown also where there are none: clients that speak protobuf can't say otherwise that there is no
/// driver than by saying nothing.
fn node_defaults(node: &mut Object) {
    if let Some(spec) = node.get_mut("spec").and_then(Value::as_object_mut) {
        spec.entry("drivers").or_insert(Value::Null);
    }
    for driver in list_mut(node, &["spec", "drivers"]).iter_mut().filter_map(Value::as_object_mut) {
        driver.entry("topologyKeys").or_insert(Value::Null);
    }
}

fn validate_node(node: &Object) -> Vec<FieldError> {
    const ID_LIMIT: usize = 256;
    let drivers = Field::root(node).under(&["spec", "drivers"]);
    let mut errors = Vec::new();
    for driver in drivers.items() {
        errors.extend(driver_name(&driver.at("name")));
        let id = driver.at("nodeID");
        errors.extend(id.must_be_given(""));
        if id.text().len() > ID_LIMIT {
            errors.push(id.invalid(format!("must be {ID_LIMIT} characters or less")));
        }
        errors.extend(driver.under(&["allocatable", "count"]).at_least(0));
        let keys = driver.at("topologyKeys");
        let mut seen = HashSet::new();
        for key in keys.items() {
            let mut wrong = |why| errors.push(FieldError { field: driver.path.clone(), ..why });
            if key.text().is_empty() {
                wrong(key.required(""));
            } else if !seen.insert(key.value) {
                wrong(key.duplicate());
            }
            key.obeys(qualified_name).into_iter().for_each(&mut wrong);
        }
    }
    errors.extend(drivers.distinct_by("name"));
    errors
}

const NODE_DRIVER: &[Part] = &[
    Part("Name", "name", Is::Text),
    Part("NodeID", "nodeID", Is::Text),
    Part("TopologyKeys", "topologyKeys", Is::Optional),
    // It may change, and is left out.
    Part("Allocatable", "", Is::Optional),
];

/// What a driver said of its node stays, but for how many volumes it can take.
fn drivers_are_kept(new: &Object, old: &Object) -> Vec<FieldError> {
    let fixed = |driver: &Value| {
        let mut driver = driver.clone();
        crate::lookup::remove(&mut driver, "allocatable");
        driver
    };
    let drivers = |node| list(node, &["spec", "drivers"]);
    let mut errors = Vec::new();
    for after in drivers(new) {
        let before = drivers(old).iter().find(|before| before["name"] == after["name"]);
        if before.is_some_and(|before| fixed(before) != fixed(after)) {
            let driver = Field { value: after, path: "spec.drivers".to_owned() };
            errors.push(driver.invalid_object(NODE_DRIVER, "field is immutable"));
        }
    }
    errors
}

pub(in crate::builtin) const CAPACITY: Rules = Rules {
    validate: |capacity| {
        let root = Field::root(capacity);
        let mut errors = root.at("nodeTopology").label_selector();
        let class = root.at("storageClassName");
        errors.extend(class.obeys(dns_subdomain));
        let size = root.at("capacity");
        if Quantity::from_json(size.value).is_ok_and(Quantity::is_negative) {
            errors.push(size.invalid("must be greater than or equal to 0"));
        }
        errors
    },
    validate_update: |new, old| {
        let kept = ["nodeTopology", "storageClassName"];
        kept.iter().filter_map(|key| Field::root(new).at(key).same_as(&Field::root(old).at(key))).collect()
    },
    warnings: |capacity, _| odd::label_selector(&Field::root(capacity).at("nodeTopology")),
    ..Rules::UNCOUNTED
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::tests::{changed, created, kind, refusal, row};

    #[test]
    fn a_driver_gets_the_defaults_that_clients_see() {
        let driver = |spec: Value| json!({"metadata": {"name": "csi.example.com"}, "spec": spec});
        let old = created(
            &kind("CSIDriver"),
            driver(json!({"tokenRequests": [{"audience": "a"}, {"audience": ""}]})),
        )
        .unwrap();
        assert_eq!(
            row("CSIDriver", &old)[..7],
            ["csi.example.com", "true", "false", "false", "a,", "false", "Persistent"]
        );
        assert_eq!(old["spec"]["fsGroupPolicy"], "ReadWriteOnceWithFSType");
        assert_eq!(old["spec"]["seLinuxMount"], false);
        assert_eq!(old["metadata"].get("generation"), None);
        let (new, _) = changed("CSIDriver", &old, json!({"spec": {"podInfoOnMount": true}}));
        assert_eq!(new["metadata"]["generation"], 1, "the first change is counted");
        let after = |spec: Value| changed("CSIDriver", &old, json!({"spec": spec})).1;
        assert_eq!(after(json!({"podInfoOnMount": true})), "");
        assert!(
            after(json!({"attachRequired": false}))
                .starts_with("spec.attachedRequired: Invalid value: false: field is immutable")
        );
        let bad = json!({"fsGroupPolicy": "Some", "volumeLifecycleModes": ["Short"], "nodeAllocatableUpdatePeriodSeconds": 9,
            "tokenRequests": [{"audience": "a", "expirationSeconds": 5}, {"audience": "a"}]});
        let found = refusal("CSIDriver", driver(bad));
        for why in [
            "spec.fsGroupPolicy: Unsupported value: \"Some\"",
            "spec.volumeLifecycleModes: Unsupported value: \"Short\"",
            "must be greater than or equal to 10 seconds",
            "spec.tokenRequests[0].expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes",
            "spec.tokenRequests[1].audience: Duplicate value: \"a\"",
        ] {
            assert!(found.contains(why), "{found}\n{why}");
        }
    }

    #[test]
    fn a_node_may_change_how_many_volumes_it_takes() {
        let bare = json!({"metadata": {"name": "n0"}, "spec": {}});
        assert_eq!(row("CSINode", &created(&kind("CSINode"), bare).unwrap())[1], "0");
        let node = |drivers: Value| json!({"metadata": {"name": "n"}, "spec": {"drivers": drivers}});
        let drivers = json!([{"name": "d.example.com", "nodeID": "1", "topologyKeys": ["zone"]}]);
        let old = created(&kind("CSINode"), node(drivers)).unwrap();
        assert_eq!(row("CSINode", &old)[1], "1");
        let after = |drivers: Value| changed("CSINode", &old, json!({"spec": {"drivers": drivers}})).1;
        assert_eq!(
            after(
                json!([{"name": "d.example.com", "nodeID": "1", "topologyKeys": ["zone"], "allocatable": {"count": 3}}])
            ),
            ""
        );
        assert!(
            after(json!([{"name": "d.example.com", "nodeID": "2"}])).contains("spec.drivers: Invalid value")
        );
        let bad = json!([{"name": "d", "nodeID": "", "topologyKeys": ["z", "z"]}, {"name": "d", "nodeID": "1", "allocatable": {"count": -1}}]);
        let found = refusal("CSINode", node(bad));
        for why in [
            "spec.drivers[0].nodeID: Required value",
            "spec.drivers[0]: Duplicate value: \"z\"",
            "spec.drivers[1].name: Duplicate value: \"d\"",
            "spec.drivers[1].allocatable.count: Invalid value: -1",
        ] {
            assert!(found.contains(why), "{found}\n{why}");
        }
    }

    #[test]
    fn a_capacity_stays_for_its_class_and_topology() {
        let of =
            |size: &str| json!({"metadata": {"name": "c"}, "storageClassName": "fast", "capacity": size});
        let old = created(&kind("CSIStorageCapacity"), of("1Gi")).unwrap();
        assert_eq!(row("CSIStorageCapacity", &old)[0], "c");
        assert_eq!(changed("CSIStorageCapacity", &old, json!({"capacity": "2Gi"})).1, "");
        assert!(
            changed("CSIStorageCapacity", &old, json!({"storageClassName": "slow"}))
                .1
                .contains("field is immutable")
        );
        assert!(
            refusal("CSIStorageCapacity", of("-1"))
                .contains("capacity: Invalid value: \"-1\": must be greater")
        );
    }
}
