//! A StatefulSet's Pods: each has a number, and with it a name, a host name and claims of its own.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use kube::ResourceExt;

use crate::history::HASH_LABEL;
use crate::pods::from_template;

const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// The number of a Pod, where its name is one of the set's.
pub(super) fn ordinal_of(set: &str, pod: &Pod) -> Option<i32> {
    let (parent, number) = pod.metadata.name.as_deref()?.rsplit_once('-')?;
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    (parent == set && digits).then(|| number.parse().ok()).flatten()
}

/// The first number, and how many there are.
pub(super) fn range(set: &StatefulSet) -> (i32, i32) {
    let start = set.spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
    (start, set.spec.replicas.unwrap_or(1).max(0))
}

pub(super) fn is_in_range(set: &StatefulSet, ordinal: i32) -> bool {
    let (start, count) = range(set);
    ordinal >= start && i64::from(ordinal) < i64::from(start) + i64::from(count)
}

/// The name of the revision that a Pod was made from.
pub(super) fn revision_of(pod: &Pod) -> &str {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(HASH_LABEL)).map_or("", String::as_str)
}

/// The Pod with a number, of a revision's template.
pub(super) fn pod_of(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let mut pod = from_template(set, template);
    let name = format!("{}-{ordinal}", set.name_any());
    pod.metadata.generate_name = None;
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(HASH_LABEL.to_owned(), revision.to_owned());
    labels.extend(identity(&name, ordinal));
    if let Some(spec) = &mut pod.spec {
        spec.hostname = Some(name.clone());
        spec.subdomain = set.spec.service_name.clone().filter(|service| !service.is_empty());
        let templates = set.spec.volume_claim_templates.as_deref().unwrap_or_default();
        let mut volumes: Vec<Volume> = templates.iter().map(|claim| volume_of(set, claim, ordinal)).collect();
        let own = spec.volumes.take().unwrap_or_default();
        volumes
            .extend(own.into_iter().filter(|volume| templates.iter().all(|t| t.name_any() != volume.name)));
        spec.volumes = Some(volumes).filter(|volumes| !volumes.is_empty());
    }
    pod.metadata.name = Some(name);
    pod
}

/// The labels that say which Pod it is.
pub(super) fn identity(name: &str, ordinal: i32) -> [(String, String); 2] {
    [(NAME_LABEL.to_owned(), name.to_owned()), (INDEX_LABEL.to_owned(), ordinal.to_string())]
}

pub(super) fn has_identity(pod: &Pod) -> bool {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(NAME_LABEL)) == pod.metadata.name.as_ref()
}

pub(super) fn claim_name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i32) -> String {
    format!("{}-{}-{ordinal}", template.name_any(), set.name_any())
}

fn volume_of(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i32) -> Volume {
    Volume {
        name: template.name_any(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim_name(set, template, ordinal),
            read_only: None,
        }),
        ..Volume::default()
    }
}

/// The claims of the Pod with a number.
pub(super) fn claims_of(set: &StatefulSet, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let templates = set.spec.volume_claim_templates.iter().flatten();
    let claim = |template: &PersistentVolumeClaim| {
        let mut claim = template.clone();
        claim.metadata.name = Some(claim_name(set, template, ordinal));
        claim.metadata.namespace = set.namespace();
        let selected = set.spec.selector.match_labels.clone().unwrap_or_default();
        claim.metadata.labels.get_or_insert_default().extend(selected);
        claim.status = None;
        claim
    };
    templates.map(claim).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_has_a_name_and_claims_of_its_own() {
        let set: StatefulSet = serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "n", "uid": "u"},
            "spec": {"replicas": 2, "serviceName": "peers", "ordinals": {"start": 5},
                "selector": {"matchLabels": {"app": "db"}},
                "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [],
                    "volumes": [{"name": "data", "emptyDir": {}}, {"name": "own", "emptyDir": {}}]}},
                "volumeClaimTemplates": [{"metadata": {"name": "data", "labels": {"x": "y"}},
                    "spec": {"accessModes": ["ReadWriteOnce"]}, "status": {"phase": "Pending"}}]},
        }))
        .unwrap();
        let pod = json!(pod_of(&set, &set.spec.template, "db-rev", 6));
        assert_eq!(pod["metadata"]["name"], "db-6");
        assert_eq!(
            pod["metadata"]["labels"],
            json!({"app": "db", HASH_LABEL: "db-rev", NAME_LABEL: "db-6", INDEX_LABEL: "6"})
        );
        assert_eq!((&pod["spec"]["hostname"], &pod["spec"]["subdomain"]), (&json!("db-6"), &json!("peers")));
        let claim = json!({"name": "data", "persistentVolumeClaim": {"claimName": "data-db-6"}});
        assert_eq!(pod["spec"]["volumes"], json!([claim, {"name": "own", "emptyDir": {}}]));
        let claims = json!(claims_of(&set, 6));
        assert_eq!(claims[0]["metadata"]["name"], "data-db-6");
        assert_eq!(claims[0]["metadata"]["labels"], json!({"x": "y", "app": "db"}));
        assert!(claims[0].get("status").is_none());
        assert_eq!([4, 5, 6, 7].map(|ordinal| is_in_range(&set, ordinal)), [false, true, true, false]);
    }

    #[test]
    fn a_pods_number_is_in_its_name() {
        let ordinal = |name: &str| {
            let pod: Pod = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
            ordinal_of("db", &pod)
        };
        assert_eq!(["db-0", "db-12"].map(ordinal), [Some(0), Some(12)]);
        assert_eq!(
            ["db", "db-", "db-x", "db-+1", "other-1", "db-1-2", "db-99999999999"].map(ordinal),
            [None; 7]
        );
    }
}
