//! LimitRanges: what containers get that do not say how much they need, and how much a container, a Pod or a claim may ask for.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use yunfan_objects::Quantity;
use yunfan_objects::builtin::qos_class;

use super::amounts::{self, Amounts};
use super::{Attempt, Operation, Refusal, View};
use crate::cache::Entry;

/// Says on a Pod what was filled in.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// Gives containers the defaults of the namespace's LimitRanges.
pub(super) fn fill(view: &View<'_>, attempt: &mut Attempt<'_>) {
    if !attempt.is("", "pods") {
        return;
    }
    for range in ranges(view, attempt) {
        let set = fill_from(attempt.object, range.value());
        if set.is_empty() {
            continue;
        }
        let text = format!("LimitRanger plugin set: {}", set.join("; "));
        let metadata = &mut attempt.object["metadata"];
        if !metadata["annotations"].is_object() {
            metadata["annotations"] = json!({});
        }
        metadata["annotations"][ANNOTATION] = json!(text);
        if attempt.operation == Operation::Create {
            attempt.object["status"]["qosClass"] = json!(qos_class(attempt.object));
        }
    }
}

/// The LimitRanges that this write must keep to.
fn ranges(view: &View<'_>, attempt: &Attempt<'_>) -> Vec<Arc<Entry>> {
    let concerned = match (attempt.operation, attempt.subresource) {
        (Operation::Create, "") => attempt.is("", "pods") || attempt.is("", "persistentvolumeclaims"),
        (Operation::Update, "") => attempt.is("", "persistentvolumeclaims"),
        (Operation::Update, "resize") => attempt.is("", "pods"),
        _ => false,
    };
    let leaves = |object: &Value| !object["metadata"]["deletionTimestamp"].is_null();
    if !concerned || attempt.old.is_some_and(leaves) || attempt.is_marked_now() {
        return Vec::new();
    }
    view.list("", "limitranges", attempt.namespace)
}

fn limits_of<'a>(range: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    range["spec"]["limits"].as_array().into_iter().flatten().filter(move |limit| limit["type"] == kind)
}

/// Fills in what one LimitRange gives; one text for each container and side that got something.
fn fill_from(pod: &mut Value, range: &Value) -> Vec<String> {
    let mut defaults = [("requests", Map::new()), ("limits", Map::new())];
    for limit in limits_of(range, "Container") {
        for (at, key) in ["defaultRequest", "default"].into_iter().enumerate() {
            let given = limit[key].as_object().into_iter().flatten();
            defaults[at].1.extend(given.map(|(name, amount)| (name.clone(), amount.clone())));
        }
    }
    let mut set = Vec::new();
    for (kind, word) in [("containers", "container"), ("initContainers", "init container")] {
        let containers = pod.pointer_mut(&format!("/spec/{kind}")).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten().filter(|container| container.is_object()) {
            for (side, given) in &defaults {
                let names = fill_side(container, side, given);
                if !names.is_empty() {
                    let name = container["name"].as_str().unwrap_or_default();
                    let side = side.trim_end_matches('s');
                    set.push(format!("{} {side} for {word} {name}", names.join(", ")));
                }
            }
        }
    }
    set
}

/// The names that the container did not have.
fn fill_side(container: &mut Value, side: &str, given: &Map<String, Value>) -> Vec<String> {
    let known = &container["resources"][side];
    let missing: BTreeSet<&String> = given.keys().filter(|name| known[name.as_str()].is_null()).collect();
    let names: Vec<String> = missing.into_iter().cloned().collect();
    for name in &names {
        if !container["resources"].is_object() {
            container["resources"] = json!({});
        }
        container["resources"][side][name] = given[name].clone();
    }
    names
}

/// Refuses what asks for too much or too little.
pub(super) fn check(view: &View<'_>, attempt: &Attempt<'_>) -> Result<(), Refusal> {
    for range in ranges(view, attempt) {
        let wrong = if attempt.is("", "pods") {
            wrong_with_pod(attempt.object, range.value())
        } else {
            wrong_with_claim(attempt.object, range.value())
        };
        match wrong.as_slice() {
            [] => {}
            [one] => return Err(attempt.forbidden(one)),
            several => return Err(attempt.forbidden(&format!("[{}]", several.join(", ")))),
        }
    }
    Ok(())
}

fn wrong_with_claim(claim: &Value, range: &Value) -> Vec<String> {
    let requests = amounts::read(&claim["spec"]["resources"]["requests"]);
    let mut wrong = Vec::new();
    for limit in limits_of(range, "PersistentVolumeClaim") {
        let asked = Asked { kind: "PersistentVolumeClaim", requests: &requests, limits: &Amounts::new() };
        wrong.extend(
            amounts::read(&limit["min"]).iter().filter_map(|(name, least)| asked.below(name, *least)),
        );
        wrong.extend(amounts::read(&limit["max"]).iter().filter_map(|(name, most)| {
            let Some(request) = requests.get(name) else {
                return Some(asked.says("maximum", name, *most, ".  No request is specified"));
            };
            (request > most)
                .then(|| asked.says("maximum", name, *most, &format!(", but request is {request}")))
        }));
    }
    each_once(wrong)
}

fn wrong_with_pod(pod: &Value, range: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    for limit in limits_of(range, "Container") {
        for kind in ["containers", "initContainers"] {
            for container in pod["spec"][kind].as_array().into_iter().flatten() {
                let side = |side: &str| amounts::read(&container["resources"][side]);
                let (requests, limits) = (side("requests"), side("limits"));
                wrong
                    .extend(Asked { kind: "Container", requests: &requests, limits: &limits }.against(limit));
            }
        }
    }
    for limit in limits_of(range, "Pod") {
        let side = |side: &str| {
            amounts::of_pod(&pod["spec"], side, |container| amounts::read(&container["resources"][side]))
        };
        let (requests, limits) = (side("requests"), side("limits"));
        wrong.extend(Asked { kind: "Pod", requests: &requests, limits: &limits }.against(limit));
    }
    each_once(wrong)
}

fn each_once(texts: Vec<String>) -> Vec<String> {
    let mut known = BTreeSet::new();
    texts.into_iter().filter(|text| known.insert(text.clone())).collect()
}

/// What a container, a Pod or a claim asks for.
struct Asked<'a> {
    kind: &'static str,
    requests: &'a Amounts,
    limits: &'a Amounts,
}

impl Asked<'_> {
    /// All that one item of a LimitRange has against it.
    fn against(&self, limit: &Value) -> Vec<String> {
        let of = |key: &str| amounts::read(&limit[key]);
        let mut wrong: Vec<String> =
            of("min").iter().filter_map(|(name, min)| self.below(name, *min)).collect();
        wrong.extend(of("max").iter().filter_map(|(name, max)| self.above(name, *max)));
        wrong.extend(of("maxLimitRequestRatio").iter().filter_map(|(name, most)| self.too_far(name, *most)));
        wrong
    }

    fn says(&self, bound: &str, name: &str, amount: Quantity, end: &str) -> String {
        format!("{bound} {name} usage per {} is {amount}{end}", self.kind)
    }

    fn below(&self, name: &str, least: Quantity) -> Option<String> {
        let Some(request) = self.requests.get(name) else {
            return Some(self.says("minimum", name, least, ".  No request is specified"));
        };
        if *request < least {
            return Some(self.says("minimum", name, least, &format!(", but request is {request}")));
        }
        let limit = self.limits.get(name).filter(|limit| **limit < least)?;
        Some(self.says("minimum", name, least, &format!(", but limit is {limit}")))
    }

    fn above(&self, name: &str, most: Quantity) -> Option<String> {
        let Some(limit) = self.limits.get(name) else {
            return Some(self.says("maximum", name, most, ".  No limit is specified"));
        };
        if *limit > most {
            return Some(self.says("maximum", name, most, &format!(", but limit is {limit}")));
        }
        let request = self.requests.get(name).filter(|request| **request > most)?;
        Some(self.says("maximum", name, most, &format!(", but request is {request}")))
    }

    fn too_far(&self, name: &str, most: Quantity) -> Option<String> {
        let start = format!("{name} max limit to request ratio per {} is {most}, but", self.kind);
        let there =
            |amounts: &Amounts| amounts.get(name).map(|amount| amount.milli()).filter(|milli| *milli != 0);
        let Some(request) = there(self.requests) else {
            return Some(format!("{start} no request is specified or request is 0"));
        };
        let Some(limit) = there(self.limits) else {
            return Some(format!("{start} no limit is specified or limit is 0"));
        };
        let ratio = limit as f64 / request as f64;
        (ratio * 1000.0 > most.milli() as f64).then(|| format!("{start} provided ratio is {ratio:.6}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(limit: Value) -> Value {
        json!({"spec": {"limits": [limit]}})
    }

    fn pod(resources: Value) -> Value {
        json!({"spec": {"containers": [{"name": "c", "resources": resources}]}})
    }

    #[test]
    fn what_is_not_said_is_filled_in() {
        let given = range(json!({"type": "Container", "default": {"cpu": "2", "memory": "1Gi"},
            "defaultRequest": {"cpu": "1", "memory": "512Mi"}}));
        let mut pod = pod(json!({"requests": {"cpu": "100m"}}));
        pod["spec"]["initContainers"] = json!([{"name": "i"}]);
        let set = fill_from(&mut pod, &given);
        assert_eq!(
            set.join("; "),
            "memory request for container c; cpu, memory limit for container c; cpu, memory request for init container i; cpu, memory limit for init container i"
        );
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"cpu": "2", "memory": "1Gi"}})
        );
        assert!(fill_from(&mut pod, &given).is_empty());
    }

    #[test]
    fn containers_and_pods_keep_to_their_bounds() {
        for (limit, resources, wanted) in [
            (
                json!({"max": {"cpu": "1"}}),
                json!({"limits": {"cpu": "2"}, "requests": {"cpu": "2"}}),
                "maximum cpu usage per Container is 1, but limit is 2",
            ),
            (
                json!({"max": {"cpu": "1"}}),
                json!({}),
                "maximum cpu usage per Container is 1.  No limit is specified",
            ),
            (
                json!({"max": {"cpu": "1"}}),
                json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1500m"}}),
                "maximum cpu usage per Container is 1, but request is 1500m",
            ),
            (
                json!({"min": {"memory": "1Gi"}}),
                json!({"requests": {"memory": "512Mi"}}),
                "minimum memory usage per Container is 1Gi, but request is 512Mi",
            ),
            (
                json!({"min": {"memory": "1Gi"}}),
                json!({}),
                "minimum memory usage per Container is 1Gi.  No request is specified",
            ),
            (
                json!({"min": {"cpu": "1"}}),
                json!({"requests": {"cpu": "1"}, "limits": {"cpu": "500m"}}),
                "minimum cpu usage per Container is 1, but limit is 500m",
            ),
            (
                json!({"maxLimitRequestRatio": {"cpu": "2"}}),
                json!({"requests": {"cpu": "1"}, "limits": {"cpu": "3"}}),
                "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
            ),
            (
                json!({"maxLimitRequestRatio": {"cpu": "2"}}),
                json!({"limits": {"cpu": "3"}}),
                "cpu max limit to request ratio per Container is 2, but no request is specified or request is 0",
            ),
            (
                json!({"maxLimitRequestRatio": {"cpu": "2"}}),
                json!({"requests": {"cpu": "3"}}),
                "cpu max limit to request ratio per Container is 2, but no limit is specified or limit is 0",
            ),
            (
                json!({"max": {"cpu": "2"}, "min": {"cpu": "1"}}),
                json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}),
                "",
            ),
        ] {
            let mut limit = limit;
            limit["type"] = json!("Container");
            assert_eq!(wrong_with_pod(&pod(resources), &range(limit)).join(" + "), wanted);
        }
        let two = json!({"spec": {"containers": [
            {"resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}},
            {"resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}}]}});
        let limit = range(json!({"type": "Pod", "max": {"cpu": "1500m"}}));
        assert_eq!(wrong_with_pod(&two, &limit), ["maximum cpu usage per Pod is 1500m, but limit is 2"]);
    }

    #[test]
    fn claims_keep_to_their_bounds() {
        let limit = range(
            json!({"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}}),
        );
        let of = |requests: Value| {
            wrong_with_claim(&json!({"spec": {"resources": {"requests": requests}}}), &limit)
        };
        assert_eq!(of(json!({"storage": "1Gi"})), [""; 0]);
        assert_eq!(
            of(json!({"storage": "3Gi"})),
            ["maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"]
        );
        assert_eq!(
            of(json!({"storage": "1Mi"})),
            ["minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1Mi"]
        );
    }
}
