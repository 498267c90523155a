//! The status of a Pod: how it is kept up, and what may be said in it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;

use serde_json::{Value, json};

use crate::Object;
use crate::builtin::field::Field;
use crate::builtin::formats;
use crate::error::{FieldError, FieldErrorKind};
use crate::lookup::{at, list, list_mut, remove, set_default, text};
use crate::meta::{dns_subdomain, qualified_name};

/// The states of containers, and where the containers are.
const STATES: [(&str, &str); 3] = [
    ("containerStatuses", "containers"),
    ("initContainerStatuses", "initContainers"),
    ("ephemeralContainerStatuses", "ephemeralContainers"),
];
const HEALTH: &[&str] = &["Healthy", "Unhealthy", "Unknown"];
const NOT_COUNTED: &str = "must be a non-negative integer";
/// Most characters of what is said of a device's health.
const HEALTH_MESSAGE_LIMIT: usize = 1024;

/// Brings a changed status into shape.
pub(in crate::builtin) fn settle(pod: &mut Object) {
    if !pod["status"].is_object() {
        pod["status"] = json!({});
    }
    let Some(status) = pod.get_mut("status") else { return };
    one_address(status);
    for (kind, _) in STATES {
        for state in list_mut(status, &[kind]) {
            set_default(state, "state", json!({}));
            set_default(state, "lastState", json!({}));
        }
    }
}

/// What older writers do not know is as it was.
pub(in crate::builtin) fn keep(pod: &mut Object, old: &Object) {
    let Some(status) = pod.get_mut("status") else { return };
    if text(status, &["qosClass"]).is_empty()
        && let Some(class) = old["status"].get("qosClass")
    {
        status["qosClass"] = class.clone();
    }
    keep_generations(status, &old["status"]);
}

/// The generation that a status is of stays where the writer says nothing of it, also that of each condition.
fn keep_generations(status: &mut Value, old: &Value) {
    const KEY: &str = "observedGeneration";
    let seen = |value: &Value| value[KEY].as_i64().filter(|seen| *seen != 0);
    if seen(status).is_none() {
        match seen(old) {
            Some(generation) => status[KEY] = json!(generation),
            None => {
                remove(status, KEY);
            }
        }
    }
    let mut before: HashMap<&str, VecDeque<Option<i64>>> = HashMap::new();
    for condition in list(old, &["conditions"]) {
        before.entry(text(condition, &["type"])).or_default().push_back(seen(condition));
    }
    for condition in list_mut(status, &["conditions"]) {
        let kept = before.get_mut(text(condition, &["type"])).and_then(VecDeque::pop_front).flatten();
        if let (None, Some(generation)) = (seen(condition), kept) {
            condition[KEY] = json!(generation);
        }
    }
}

/// The one address is the first of all; where the two differ, the one counts: older writers know no other.
fn one_address(status: &mut Value) {
    let one = text(status, &["podIP"]).to_owned();
    let first = list(status, &["podIPs"]).first().map(|first| text(first, &["ip"]).to_owned());
    match first {
        Some(first) if one.is_empty() => status["podIP"] = json!(first),
        Some(first) if first == one => {}
        None if one.is_empty() => {}
        _ => status["podIPs"] = json!([{"ip": one}]),
    }
}

/// What is wrong with a changed status.
pub(in crate::builtin) fn validate(new: &Object, old: &Object) -> Vec<FieldError> {
    let (after, before) = (Field::root(new).at("status"), Field::root(old).at("status"));
    let spec = Field::root(old).at("spec");
    let mut errors = conditions(&after.at("conditions"));
    errors.extend(nominated(&after, &before, &spec));
    let seen = after.at("observedGeneration");
    errors.extend((seen.number() < Some(0) && seen.is_given()).then(|| seen.invalid(NOT_COUNTED)));
    errors.extend(after.at("qosClass").same_as(&before.at("qosClass")));
    for (states, containers) in STATES {
        errors.extend(stays_ended(&after.at(states), &before.at(states), &spec, containers));
    }
    errors.extend(claims(&after.at("resourceClaimStatuses"), &spec.at("resourceClaims")));
    errors.extend(addresses(&after.at("podIPs"), &before.at("podIPs")));
    let hosts = after.at("hostIPs");
    if let Some(first) = hosts.items().next().map(|first| first.at("ip")) {
        let same = first.text() == after.at("hostIP").text();
        errors.extend((!same).then(|| first.invalid("must be equal to `hostIP`")));
    }
    errors.extend(addresses(&hosts, &before.at("hostIPs")));
    for (states, _) in STATES {
        errors.extend(after.at(states).items().flat_map(|state| user(&state.at("user"), &spec)));
    }
    for (states, containers) in STATES {
        errors.extend(after.at(states).items().flat_map(|state| devices(&state, &spec.at(containers))));
    }
    errors
}

fn conditions(list: &Field<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for condition in list.items() {
        let seen = condition.at("observedGeneration");
        errors.extend((seen.number().unwrap_or(0) < 0).then(|| seen.invalid(NOT_COUNTED)));
        let kind = condition.at("type");
        if !matches!(kind.text(), "PodScheduled" | "Ready" | "Initialized") {
            // Upstream names the field as its own program does.
            errors.extend(Field { path: condition.at("Type").path, ..kind }.obeys(qualified_name));
        }
    }
    errors
}

fn nominated(after: &Field<'_>, before: &Field<'_>, spec: &Field<'_>) -> Vec<FieldError> {
    let name = after.at("nominatedNodeName");
    if name.text().is_empty() || name.value == before.at("nominatedNodeName").value {
        return Vec::new();
    }
    let mut errors = name.obeys(dns_subdomain);
    if !spec.at("nodeName").text().is_empty() {
        errors.push(name.forbidden("may not be set on pods that are already bound to a node"));
    }
    errors
}

/// A container that has ended, and is not to be started again, does not come back.
fn stays_ended(after: &Field<'_>, before: &Field<'_>, spec: &Field<'_>, containers: &str) -> Vec<FieldError> {
    let debugs = containers == "ephemeralContainers";
    if !debugs && any_restarts_all(spec.value) {
        return Vec::new();
    }
    let now = by_name(after.list());
    let containers = by_name(list(spec.value, &[containers]));
    let mut errors = Vec::new();
    for (index, old) in before.list().iter().enumerate() {
        let Some(ended) = at(old, &["state", "terminated"]).filter(|ended| ended.is_object()) else {
            continue;
        };
        let name = text(old, &["name"]);
        let Some(new) = now.get(name) else { continue };
        if at(new, &["state", "terminated"]).is_some_and(Value::is_object) {
            continue;
        }
        let code = ended["exitCode"].as_i64().unwrap_or(0);
        if debugs || !containers.get(name).is_some_and(|container| restarts(container, spec.value, code)) {
            let path = format!("{}[{index}].state", after.path);
            errors.push(FieldError::forbidden(path, "may not be transitioned to non-terminated state"));
        }
    }
    errors
}

/// Containers, or what is told of them, by their names: the first of each.
fn by_name(all: &[Value]) -> HashMap<&str, &Value> {
    all.iter().rev().map(|each| (text(each, &["name"]), each)).collect()
}

fn any_restarts_all(spec: &Value) -> bool {
    let containers = ["containers", "initContainers"].into_iter().flat_map(|kind| list(spec, &[kind]));
    let mut rules = containers.flat_map(|container| list(container, &["restartPolicyRules"]));
    rules.any(|rule| text(rule, &["action"]) == "RestartAllContainers")
}

/// Whether a container that ended with this code is started again.
fn restarts(container: &Value, spec: &Value, code: i64) -> bool {
    let by = |policy: &str| policy == "Always" || (policy == "OnFailure" && code != 0);
    let own = text(container, &["restartPolicy"]);
    if own.is_empty() {
        return by(text(spec, &["restartPolicy"]));
    }
    let matches = |rule: &Value| {
        let listed = list(rule, &["exitCodes", "values"]).iter().any(|value| value.as_i64() == Some(code));
        listed == (text(rule, &["exitCodes", "operator"]) == "In")
    };
    list(container, &["restartPolicyRules"]).iter().any(matches) || by(own)
}

fn claims(states: &Field<'_>, claims: &Field<'_>) -> Vec<FieldError> {
    let (mut errors, mut seen) = (Vec::new(), HashSet::new());
    for state in states.items() {
        let name = state.at("name");
        if !claims.list().iter().any(|claim| text(claim, &["name"]) == name.text()) {
            let why = "must match the name of an entry in `spec.resourceClaims`";
            errors.push(FieldError::invalid(name.path.as_str(), name.text(), why));
        }
        if !seen.insert(name.text()) {
            errors.push(FieldError::duplicate(name.path.as_str(), name.text()));
        }
        errors.extend(state.at("resourceClaimName").follows(dns_subdomain));
    }
    errors
}

/// Checks addresses: each is one, unless it was there before, and there is one of each family at the most.
fn addresses(after: &Field<'_>, before: &Field<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for each in after.items() {
        let ip = Field { path: each.path.clone(), ..each.at("ip") };
        if !before.list().iter().any(|old| text(old, &["ip"]) == ip.text()) {
            errors.extend(crate::meta::all_wrong(&ip.path, ip.text(), formats::ip(ip.text())));
        }
    }
    let texts: Vec<&str> = after.list().iter().map(|each| text(each, &["ip"])).collect();
    if texts.len() < 2 {
        return errors;
    }
    // Of all that is no address upstream tells the first here.
    let lenient =
        |text: &str| formats::without_zeros(text).unwrap_or_else(|| text.to_owned()).parse::<IpAddr>();
    let parsed: Vec<_> = texts.iter().map(|text| text.parse().or_else(|_| lenient(text)).ok()).collect();
    if let Some(index) = parsed.iter().position(Option::is_none) {
        let detail =
            format!("failed to check for dual stack with error:invalid IP[{index}]: {}", texts[index]);
        errors.push(FieldError { field: after.path.clone(), kind: FieldErrorKind::Internal, detail });
    }
    let families: HashSet<bool> = parsed.iter().flatten().map(|ip: &IpAddr| ip.is_ipv6()).collect();
    if texts.len() > 2 || families.len() < 2 || parsed.contains(&None) {
        let shown: Value = texts.iter().map(|text| json!({"IP": text})).collect();
        let why = "may specify no more than one IP for each IP family";
        errors.push(FieldError::invalid(after.path.as_str(), shown, why));
    }
    errors
}

/// Checks as whom a container runs.
fn user(field: &Field<'_>, spec: &Field<'_>) -> Vec<FieldError> {
    let linux = field.at("linux");
    if !linux.is_given() {
        return Vec::new();
    }
    if spec.under(&["os", "name"]).text() == "windows" {
        return vec![linux.forbidden("cannot be set for a windows pod")];
    }
    let ids = [linux.at("uid"), linux.at("gid")].into_iter().chain(linux.at("supplementalGroups").items());
    let most = i64::from(i32::MAX);
    let wrong = ids.filter(|id| id.number().is_some_and(|id| !(0..=most).contains(&id)));
    wrong.map(|id| id.invalid(format!("must be between 0 and {most}, inclusive"))).collect()
}

/// Checks what is said of the devices that a container has got.
fn devices(state: &Field<'_>, containers: &Field<'_>) -> Vec<FieldError> {
    let resources = state.at("allocatedResourcesStatus");
    if containers.path.ends_with("ephemeralContainers") {
        let why = "must not be specified in container status";
        return (!resources.list().is_empty()).then(|| resources.forbidden(why)).into_iter().collect();
    }
    let own = containers.list().iter().find(|each| each["name"] == state.value["name"]);
    let mut errors = Vec::new();
    for resource in resources.items() {
        let name = resource.at("name");
        if let Some(why) = own.and_then(|container| not_asked_for(container, name.text())) {
            errors.push(FieldError::invalid(name.path.as_str(), name.text(), why));
        }
        let mut seen = HashSet::new();
        for device in resource.at("resources").items() {
            let (health, message, id) = (device.at("health"), device.at("message"), device.at("resourceID"));
            if !HEALTH.contains(&health.text()) {
                errors.push(FieldError::not_supported(health.path.as_str(), health.text(), HEALTH));
            }
            if message.is_given() {
                errors.extend(message.must_be_given("must be non-empty if specified"));
                errors.extend(message.no_longer_than(HEALTH_MESSAGE_LIMIT));
            }
            if !seen.insert(id.text()) {
                errors.push(FieldError::duplicate(id.path.as_str(), id.text()));
            }
        }
    }
    errors
}

/// Why a container cannot have got this.
fn not_asked_for(container: &Value, name: &str) -> Option<&'static str> {
    if let Some(claim) = name.strip_prefix("claim:") {
        let (claim, request) = claim.split_once('/').unwrap_or((claim, ""));
        let mut claims = list(container, &["resources", "claims"]).iter();
        let found = claims.any(|own| text(own, &["name"]) == claim && text(own, &["request"]) == request);
        return (!found).then_some("must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty");
    }
    let found = at(container, &["resources", "requests", name]).is_some();
    (!found).then_some("must match one of the container's resource requests")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(status: Value) -> Value {
        json!({"spec": {"restartPolicy": "OnFailure", "resourceClaims": [{"name": "c"}],
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}, {"name": "b",
                "restartPolicy": "Never", "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [7]}}]}]},
            "status": status})
    }

    #[track_caller]
    fn found(new: Value, old: Value) -> Vec<String> {
        validate(&pod(new), &pod(old)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn older_writers_keep_what_they_do_not_know() {
        let old = pod(json!({"qosClass": "Burstable", "observedGeneration": 3,
            "conditions": [{"type": "Ready", "observedGeneration": 2}]}));
        let mut new = pod(json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.2"}],
            "conditions": [{"type": "Ready"}, {"type": "Other"}], "containerStatuses": [{"name": "a"}]}));
        settle(&mut new);
        keep(&mut new, &old);
        assert_eq!(
            new["status"],
            json!({"qosClass": "Burstable", "observedGeneration": 3, "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}],
                "conditions": [{"type": "Ready", "observedGeneration": 2}, {"type": "Other"}],
                "containerStatuses": [{"name": "a", "state": {}, "lastState": {}}]})
        );
        let mut new = pod(json!({"podIPs": [{"ip": "::1"}]}));
        settle(&mut new);
        assert_eq!(new["status"], json!({"podIP": "::1", "podIPs": [{"ip": "::1"}]}));
    }

    #[test]
    fn what_has_ended_does_not_come_back() {
        let ended =
            |name: &str, code: i64| json!({"name": name, "state": {"terminated": {"exitCode": code}}});
        let again = json!({"containerStatuses": [{"name": "a", "state": {}}, {"name": "b", "state": {}}]});
        let before = |a: i64, b: i64| json!({"containerStatuses": [ended("a", a), ended("b", b)]});
        let refusal = |index: usize| {
            format!(
                "status.containerStatuses[{index}].state: Forbidden: may not be transitioned to non-terminated state"
            )
        };
        assert_eq!(found(again.clone(), before(0, 1)), [refusal(0), refusal(1)]);
        assert_eq!(found(again, before(1, 7)), [""; 0]);
    }

    #[test]
    fn a_status_says_what_can_be() {
        let old = json!({"qosClass": "Burstable", "podIPs": [{"ip": "odd"}]});
        for (new, wanted) in [
            (
                json!({"qosClass": "Guaranteed"}),
                "status.qosClass: Invalid value: \"Guaranteed\": field is immutable",
            ),
            (json!({"observedGeneration": -1}), "status.observedGeneration: Invalid value: -1"),
            (json!({"conditions": [{"type": "A b"}]}), "status.conditions[0].Type: Invalid value: \"A b\""),
            (json!({"nominatedNodeName": "A b"}), "status.nominatedNodeName: Invalid value: \"A b\""),
            (
                json!({"resourceClaimStatuses": [{"name": "c"}, {"name": "c"}]}),
                "status.resourceClaimStatuses[1].name: Duplicate",
            ),
            (
                json!({"resourceClaimStatuses": [{"name": "d"}]}),
                "status.resourceClaimStatuses[0].name: Invalid value: \"d\": must match",
            ),
            (
                json!({"podIPs": [{"ip": "1.2.3"}]}),
                "status.podIPs[0]: Invalid value: \"1.2.3\": must be a valid IP",
            ),
            (
                json!({"podIPs": [{"ip": "1.2.3.4"}, {"ip": "1.2.3.5"}]}),
                "status.podIPs: Invalid value: [{\"IP\":\"1.2.3.4\"},{\"IP\":\"1.2.3.5\"}]: may specify",
            ),
            (
                json!({"hostIP": "::1", "hostIPs": [{"ip": "::2"}]}),
                "status.hostIPs[0].ip: Invalid value: \"::2\": must be equal",
            ),
            (
                json!({"containerStatuses": [{"name": "a", "user": {"linux": {"uid": -1, "gid": 0}}}]}),
                "status.containerStatuses[0].user.linux.uid: Invalid value: -1",
            ),
            (
                json!({"containerStatuses": [{"name": "a", "allocatedResourcesStatus": [{"name": "claim:c/x"}]}]}),
                "status.containerStatuses[0].allocatedResourcesStatus[0].name: Invalid value: \"claim:c/x\": must match one of the container's resource claims",
            ),
            (
                json!({"ephemeralContainerStatuses": [{"name": "a", "allocatedResourcesStatus": [{"name": "cpu"}]}]}),
                "status.ephemeralContainerStatuses[0].allocatedResourcesStatus: Forbidden",
            ),
        ] {
            let mut new = new;
            set_default(&mut new, "qosClass", "Burstable");
            let found = found(new, old.clone());
            assert!(found.len() == 1 && found[0].starts_with(wanted), "{wanted}: {found:?}");
        }
        let good = json!({"qosClass": "Burstable", "podIPs": [{"ip": "odd"}], "containerStatuses": [{"name": "a",
            "allocatedResourcesStatus": [{"name": "cpu", "resources": [{"resourceID": "x", "health": "Healthy"}]}]}]});
        assert_eq!(found(good, old), [""; 0]);
    }
}
