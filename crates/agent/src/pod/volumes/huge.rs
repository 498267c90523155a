//! EmptyDirs of huge pages: of which size.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;

use super::What;
use crate::pages;

/// The size of the pages of a medium, bytes: the one that it names, or the only one that the Pod asks for.
pub(super) fn page_size(pod: &Pod, medium: &str) -> Result<u64, What> {
    let sizes = asked(pod);
    if medium == pages::MEDIUM {
        let mut all = sizes.iter();
        return match (all.next(), all.next()) {
            (Some(size), None) => Ok(*size),
            (None, _) => {
                Err(What::Refused("medium HugePages is for pods that ask for huge pages".to_owned()))
            }
            _ => {
                let why = "medium HugePages is for pods that ask for pages of one size: say HugePages-2Mi or the like";
                Err(What::Refused(why.to_owned()))
            }
        };
    }
    match pages::size_in(medium).filter(|size| sizes.contains(size)) {
        Some(size) => Ok(size),
        None => Err(What::Refused(format!(
            "emptyDir medium {medium:?} is of pages that the pod does not ask for"
        ))),
    }
}

/// The sizes of pages that a Pod's containers, or all of them together, ask for.
fn asked(pod: &Pod) -> BTreeSet<u64> {
    let Some(spec) = &pod.spec else { return BTreeSet::new() };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let all = containers.filter_map(|container| container.resources.as_ref()).chain(spec.resources.as_ref());
    let lists = all.flat_map(|of| [&of.requests, &of.limits]).flatten();
    lists.flat_map(|list| list.keys()).filter_map(|name| pages::size_in(name)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pages_are_those_that_the_pod_asks_for() {
        let of = |names: &[&str], medium: &str| {
            let limits: serde_json::Map<String, serde_json::Value> =
                names.iter().map(|name| ((*name).to_owned(), json!("4Mi"))).collect();
            let pod = json!({"spec": {"containers": [{"name": "c", "resources": {"limits": limits}}]}});
            page_size(&serde_json::from_value(pod).unwrap(), medium).map_err(|what| what.to_string())
        };
        assert_eq!(of(&["hugepages-2Mi", "cpu"], "HugePages"), Ok(2 << 20));
        assert_eq!(of(&["hugepages-2Mi", "hugepages-1Gi"], "HugePages-1Gi"), Ok(1 << 30));
        assert!(of(&["hugepages-2Mi", "hugepages-1Gi"], "HugePages").unwrap_err().contains("one size"));
        assert!(of(&["cpu"], "HugePages").unwrap_err().contains("ask for huge pages"));
        assert!(of(&["hugepages-2Mi"], "HugePages-1Gi").is_err());
    }
}
