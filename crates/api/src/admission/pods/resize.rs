//! Pods that get another size while they run: their node must be able to give it.

use serde_json::Value;
use yunfan_objects::error::{Cause, Details};
use yunfan_objects::{ApiError, Quantity};

use super::super::amounts::{self, Amounts};
use super::super::{Attempt, Operation, Refusal, View};

/// Refuses a size that the Pod's node could not give even if it had nothing else to do.
pub(super) fn check(view: &View<'_>, attempt: &Attempt<'_>) -> Result<(), Refusal> {
    let resized = attempt.operation == Operation::Update
        && attempt.subresource == "resize"
        && attempt.is("", "pods")
        && attempt
            .old
            .is_some_and(|old| old["metadata"]["generation"] != attempt.object["metadata"]["generation"]);
    let Some(name) = attempt.object["spec"]["nodeName"].as_str().filter(|name| resized && !name.is_empty())
    else {
        return Ok(());
    };
    let Some(node) = view.get("", "nodes", "", name) else {
        return Err(attempt.forbidden(&format!("node {name:?} not found")));
    };
    let node = node.value();
    let system = node["metadata"]["labels"]["kubernetes.io/os"].as_str().unwrap_or("linux");
    if system != "linux" {
        let why = format!("pod resize is only supported on linux nodes, node {name:?} is {system:?}");
        return Err(refusal(attempt, &why, "UnsupportedPlatform"));
    }
    match lacking(attempt.object, &node["status"]["allocatable"]) {
        lacking if lacking.is_empty() => Ok(()),
        lacking => {
            let why = format!("node didn't have enough allocatable resources: {}", lacking.join("; "));
            Err(refusal(attempt, &why, "NodeCapacity"))
        }
    }
}

fn refusal(attempt: &Attempt<'_>, why: &str, reason: &str) -> Refusal {
    let cause = Cause { reason: reason.to_owned(), message: String::new(), field: String::new() };
    let resource = attempt.resource();
    let details = Details {
        name: attempt.name.to_owned(),
        kind: resource.resource.clone(),
        causes: vec![cause],
        ..Details::default()
    };
    Refusal::Error(ApiError::forbidden(&resource, attempt.name, why).with_details(details))
}

/// What the Pod asks for and a node with these amounts cannot give.
fn lacking(pod: &Value, allocatable: &Value) -> Vec<String> {
    let spec = &pod["spec"];
    let mut needs: Amounts =
        amounts::of_pod(spec, "requests", |container| amounts::read(&container["resources"]["requests"]));
    amounts::add(&mut needs, &amounts::read(&spec["overhead"]));
    let there = amounts::read(allocatable);
    let amount = |amounts: &Amounts, name: &str| amounts.get(name).copied().unwrap_or(Quantity::ZERO);
    // CPUs are told in thousandths, bytes as they are.
    let kinds = [("cpu", 1), ("memory", 1000)];
    let lacking = kinds.into_iter().filter_map(|(name, unit)| {
        let (needed, there) = (amount(&needs, name), amount(&there, name));
        let whole = |amount: Quantity| {
            amount.milli().div_euclid(unit) + i128::from(amount.milli().rem_euclid(unit) > 0)
        };
        (needed > there)
            .then(|| format!("{name}, requested: {}, allocatable: {}", whole(needed), whole(there)))
    });
    lacking.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_gives_no_more_than_it_has() {
        let pod = json!({"spec": {"containers": [
            {"resources": {"requests": {"cpu": "1500m", "memory": "1Gi"}}}, {"resources": {"requests": {"cpu": "1"}}}]}});
        assert_eq!(lacking(&pod, &json!({"cpu": "3", "memory": "1Gi"})), [""; 0]);
        assert_eq!(
            lacking(&pod, &json!({"cpu": "2", "memory": "1Mi"})),
            [
                "cpu, requested: 2500, allocatable: 2000",
                "memory, requested: 1073741824, allocatable: 1048576",
            ]
        );
    }
}
