//! What a Pod asks for as a whole: defaults, what it must cover, and the class of service that follows.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::Object;
use crate::builtin::field::Field;
use crate::builtin::resources;
use crate::error::FieldError;
use crate::lookup::{at, entries, list, map, text};
use crate::quantity::Quantity;

type Amounts = BTreeMap<String, Quantity>;

/// Whether a Pod as a whole can ask for it.
fn is_shared(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || resources::is_huge(name)
}

fn amount(value: &Value) -> Option<Quantity> {
    Quantity::from_json(value).ok()
}

/// What the containers of a Pod need of one side (`requests` or `limits`) at the most at any time: those that run
/// together, or an init container beside the sidecars before it. Only of what a Pod as a whole can ask for.
fn of_containers(spec: &Value, side: &str) -> Amounts {
    let of = |container: &Value| -> Amounts {
        let path = ["resources", side];
        let given = entries(container, &path);
        let shared = given.filter(|(name, _)| is_shared(name));
        shared.filter_map(|(name, value)| Some((name.clone(), amount(value)?))).collect()
    };
    let mut together = Amounts::new();
    list(spec, &["containers"]).iter().for_each(|container| add(&mut together, of(container)));
    let (mut sidecars, mut beginning) = (Amounts::new(), Amounts::new());
    for container in list(spec, &["initContainers"]) {
        let mut now = of(container);
        if text(container, &["restartPolicy"]) == "Always" {
            add(&mut together, now.clone());
            add(&mut sidecars, now);
            now = sidecars.clone();
        } else {
            add(&mut now, sidecars.clone());
        }
        raise(&mut beginning, now);
    }
    raise(&mut together, beginning);
    together
}

fn add(sum: &mut Amounts, more: Amounts) {
    for (name, amount) in more {
        let before = sum.get(&name).copied().unwrap_or(Quantity::ZERO);
        sum.insert(name, before + amount);
    }
}

fn raise(most: &mut Amounts, other: Amounts) {
    for (name, amount) in other {
        let before = most.entry(name).or_insert(amount);
        *before = (*before).max(amount);
    }
}

/// Fills in what a Pod asks for as a whole where it says a part of it: the huge pages of its containers are a limit; what
/// its containers request is requested, and else its limits are.
pub(in crate::builtin) fn default(spec: &mut Value) {
    let side = |spec: &Value, side: &str| map(spec, &["resources", side]).cloned().unwrap_or_default();
    let (mut limits, mut requests) = (side(spec, "limits"), side(spec, "requests"));
    if limits.is_empty() && requests.is_empty() {
        return;
    }
    for (name, amount) in of_containers(spec, "limits") {
        if resources::is_huge(&name) && !requests.contains_key(&name) {
            limits.entry(name).or_insert_with(|| json!(amount.to_string()));
        }
    }
    if !limits.is_empty() {
        for (name, amount) in of_containers(spec, "requests") {
            if matches!(name.as_str(), "cpu" | "memory") {
                requests.entry(name).or_insert_with(|| json!(amount.to_string()));
            }
        }
        for (name, amount) in limits.iter().filter(|(name, _)| is_shared(name)) {
            requests.entry(name.clone()).or_insert_with(|| amount.clone());
        }
    }
    let mut set = |side: &str, amounts: Map<String, Value>| {
        if !amounts.is_empty() {
            spec["resources"][side] = Value::Object(amounts);
        }
    };
    set("limits", limits);
    set("requests", requests);
}

/// What is wrong with what a Pod asks for as a whole, beside its names and amounts: it is no less than what its containers
/// ask for.
pub(in crate::builtin) fn covers(spec: &Field<'_>, whole: &Field<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut short = |side: &str, needed: Amounts| {
        for (name, needed) in needed {
            let own = whole.at(side).value.get(&name).and_then(amount);
            if let Some(own) = own.filter(|own| needed > *own) {
                let why = format!("must be greater than or equal to aggregate container {side} of {needed}");
                let path = format!("{}.{side}[{name}]", whole.path);
                errors.push(FieldError::invalid(path, own.to_string(), why));
            }
        }
    };
    short("requests", of_containers(spec.value, "requests"));
    let mut limits = of_containers(spec.value, "limits");
    limits.retain(|name, _| resources::is_huge(name));
    short("limits", limits);
    for (index, container) in spec.at("containers").items().enumerate() {
        for (name, limit) in resources::amounts(&container.under(&["resources", "limits"])) {
            let pair = (amount(limit.value), amount(whole.under(&["limits", name]).value));
            if let (Some(own), Some(most)) = pair
                && own > most
            {
                let path = format!("{}.containers[{index}][{name}].limits", whole.path);
                let why = format!("must be less than or equal to pod limits of {most}");
                errors.push(FieldError::invalid(path, own.to_string(), why));
            }
        }
    }
    errors
}

/// How a Pod is treated when its node runs short: `Guaranteed`, `Burstable` or `BestEffort`. What it asks for as a whole
/// counts, and only where it says nothing of that, what each container does.
pub fn qos_class(pod: &Object) -> &'static str {
    let whole = at(pod, &["spec"]).filter(|spec| spec["resources"].is_object());
    let containers =
        || ["containers", "initContainers"].into_iter().flat_map(|kind| list(pod, &["spec", kind]));
    let parts: Vec<&Value> = whole.map_or_else(|| containers().collect(), |spec| vec![spec]);
    let asked = |part: &Value, kind: &str, name: &str| {
        let value = at(part, &["resources", kind, name])?;
        amount(value).filter(|amount| *amount > Quantity::ZERO)
    };
    let (mut any, mut all) = (false, true);
    for part in parts {
        for name in ["cpu", "memory"] {
            let limit = asked(part, "limits", name);
            let request = asked(part, "requests", name);
            any |= limit.is_some() || request.is_some();
            all &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(mut spec: Value) -> Value {
        default(&mut spec);
        spec["resources"].take()
    }

    #[test]
    fn what_is_not_said_of_the_whole_follows_from_the_containers() {
        let requests = |amounts: Value| json!({"resources": {"requests": amounts}});
        let containers =
            json!([requests(json!({"cpu": "100m"})), requests(json!({"cpu": "200m", "example.com/x": "1"}))]);
        let spec = json!({"containers": containers, "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}});
        assert_eq!(filled(spec)["requests"], json!({"cpu": "300m", "memory": "1Gi"}));
        let sidecar = json!({"restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}});
        let init = requests(json!({"cpu": "2"}));
        let spec = json!({"containers": containers, "initContainers": [sidecar, init], "resources": {"limits": {"cpu": "3"}}});
        assert_eq!(filled(spec)["requests"], json!({"cpu": "2050m"}));
        let huge = json!([{"resources": {"limits": {"hugepages-2Mi": "2Mi"}}}]);
        let spec = json!({"containers": huge, "resources": {"limits": {"cpu": "1"}}});
        assert_eq!(filled(spec)["limits"], json!({"cpu": "1", "hugepages-2Mi": "2Mi"}));
        assert_eq!(filled(json!({"containers": containers})), Value::Null);
    }

    #[test]
    fn the_class_follows_from_the_whole_first() {
        let both = json!({"cpu": "1", "memory": "1Gi"});
        let pod = |whole: Value, container: Value| {
            let mut pod = json!({"spec": {"containers": [{"resources": container}]}});
            if whole.is_object() {
                pod["spec"]["resources"] = whole;
            }
            pod
        };
        for (whole, container, class) in [
            (json!(null), json!({"limits": both, "requests": both}), "Guaranteed"),
            (json!(null), json!({"limits": {"cpu": "1"}}), "Burstable"),
            (json!(null), json!({}), "BestEffort"),
            (json!({"limits": both, "requests": both}), json!({"requests": {"cpu": "1"}}), "Guaranteed"),
            (json!({"requests": {"cpu": "1"}}), json!({"limits": both, "requests": both}), "Burstable"),
            (json!({}), json!({"limits": both, "requests": both}), "BestEffort"),
        ] {
            assert_eq!(qos_class(&pod(whole.clone(), container.clone())), class, "{whole} {container}");
        }
    }

    #[test]
    fn the_whole_covers_its_containers() {
        let spec = json!({"containers": [{"resources": {"limits": {"cpu": "3", "hugepages-2Mi": "8Mi"}}}],
            "initContainers": [{"resources": {"requests": {"cpu": "2"}}}],
            "resources": {"limits": {"cpu": "1", "hugepages-2Mi": "4Mi"}, "requests": {"cpu": "1"}}});
        let field = Field { value: &spec, path: "spec".to_owned() };
        let found: Vec<String> =
            covers(&field, &field.at("resources")).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "spec.resources.requests[cpu]: Invalid value: \"1\": must be greater than or equal to aggregate container requests of 2",
                "spec.resources.limits[hugepages-2Mi]: Invalid value: \"4Mi\": must be greater than or equal to aggregate container limits of 8Mi",
                "spec.resources.containers[0][cpu].limits: Invalid value: \"3\": must be less than or equal to pod limits of 1",
                "spec.resources.containers[0][hugepages-2Mi].limits: Invalid value: \"8Mi\": must be less than or equal to pod limits of 4Mi",
            ]
        );
    }
}
