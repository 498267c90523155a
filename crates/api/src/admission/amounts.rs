//! What the containers of a Pod ask for together, by resource.

use std::collections::BTreeMap;

use serde_json::Value;
use yunfan_objects::Quantity;

/// Amounts by resource names: `cpu`, `memory`, `example.com/gpu`.
pub(super) type Amounts = BTreeMap<String, Quantity>;

/// What may be said of a Pod as a whole, in place of the sum of its containers.
const OF_WHOLE_PODS: [&str; 2] = ["cpu", "memory"];

/// Reads a map of amounts; nothing for what is none.
pub(super) fn read(amounts: &Value) -> Amounts {
    let all = amounts.as_object().into_iter().flatten();
    all.filter_map(|(name, amount)| Some((name.clone(), Quantity::from_json(amount).ok()?))).collect()
}

/// Adds amounts to others.
pub(super) fn add(to: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = to.get(name).map_or(*amount, |known| *known + *amount);
        to.insert(name.clone(), sum);
    }
}

/// Makes each amount the larger of the two.
pub(super) fn raise(to: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        if to.get(name).is_none_or(|known| known < amount) {
            to.insert(name.clone(), *amount);
        }
    }
}

/// What a Pod needs on one `side` (`requests` or `limits`), without the overhead of its runtime: the larger of what its
/// containers and sidecars take together, and of what one init container takes beside the sidecars started before it.
/// `of` says what one container takes.
pub(super) fn of_pod(spec: &Value, side: &str, of: impl Fn(&Value) -> Amounts) -> Amounts {
    let each = |field: &str| spec[field].as_array().map(Vec::as_slice).unwrap_or_default();
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in each("initContainers") {
        let mut beside = of(container);
        add(&mut beside, &sidecars);
        if container["restartPolicy"] == "Always" {
            sidecars.clone_from(&beside);
        }
        raise(&mut peak, &beside);
    }
    let mut total = sidecars;
    for container in each("containers") {
        add(&mut total, &of(container));
    }
    raise(&mut total, &peak);
    let whole = read(&spec["resources"][side]);
    total.extend(whole.into_iter().filter(|(name, _)| OF_WHOLE_PODS.contains(&name.as_str())));
    total
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_needs_what_it_needs_at_its_peak() {
        let container = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let mut sidecar = container("100m");
        sidecar["restartPolicy"] = json!("Always");
        let mut spec = json!({"initContainers": [sidecar, container("2")], "containers": [container("500m"), container("1")]});
        let total =
            |spec: &Value| of_pod(spec, "requests", |container| read(&container["resources"]["requests"]));
        assert_eq!(total(&spec)["cpu"].to_string(), "2100m");
        spec["initContainers"][1] = container("1");
        assert_eq!(total(&spec)["cpu"].to_string(), "1600m");
        spec["resources"] = json!({"requests": {"cpu": "3", "example.com/gpu": "1"}});
        let whole = total(&spec);
        assert_eq!((whole["cpu"].to_string(), whole.len()), ("3".to_owned(), 1));
    }
}
