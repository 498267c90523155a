//! What of the API a Pod names. A node runs a static Pod without asking for anything, so such a Pod may name nothing; and of what is
//! named in other Pods, it reads what its own do.

use serde_json::Value;

use crate::Object;

/// Sources of volumes, and what they are in the API.
const VOLUMES: [(&str, &str); 6] = [
    ("configMap", "configmaps (via configmap volumes)"),
    ("csi", "csidrivers (via CSI volumes)"),
    ("glusterfs", "endpoints (via glusterFS volumes)"),
    ("persistentVolumeClaim", "persistentvolumeclaims"),
    ("ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
    ("azureFile", "secrets (via azureFile volumes)"),
];

/// Sources of projected volumes, and what they are in the API.
const PROJECTED: [(&str, &str); 4] = [
    ("configMap", "configmaps (via projected volumes)"),
    ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
    ("clusterTrustBundle", "clustertrustbundles"),
    ("podCertificate", "podcertificates"),
];

/// What Secrets are called in sources of volumes.
const SECRETS: [&str; 4] = ["secret", "secretRef", "secretName", "nodePublishSecretRef"];

/// The first kind of objects that a Pod names, in the words of Kubernetes' messages; none when it names nothing.
pub fn api_reference(pod: &Object) -> Option<&'static str> {
    let spec = &pod["spec"];
    if !spec["serviceAccountName"].as_str().unwrap_or_default().is_empty() {
        return Some("serviceaccounts");
    }
    if all(&spec["imagePullSecrets"]).next().is_some() || names_secret(spec) {
        return Some("secrets");
    }
    if containers(spec).any(|container| reads(container, "configMapKeyRef", "configMapRef")) {
        return Some("configmaps");
    }
    if all(&spec["resourceClaims"]).next().is_some() {
        return Some("resourceclaims");
    }
    let projected = all(&spec["volumes"]).flat_map(|volume| all(&volume["projected"]["sources"]));
    first(all(&spec["volumes"]), &VOLUMES).or_else(|| first(projected, &PROJECTED))
}

/// A kind of objects that Pods name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// For variables and in volumes.
    ConfigMap,
    /// There, and for its images.
    Secret,
    /// What the Pod runs as.
    ServiceAccount,
    /// In volumes, by its name or by a template.
    Claim,
}

/// Whether a Pod names the object of its namespace with this kind and name, so that its node needs it.
pub fn names(pod: &Object, kind: Named, name: &str) -> bool {
    let spec = &pod["spec"];
    let (one, together) = match kind {
        Named::ServiceAccount => return spec["serviceAccountName"] == name,
        Named::Claim => return names_claim(pod, name),
        Named::ConfigMap => ("configMapKeyRef", "configMapRef"),
        Named::Secret => ("secretKeyRef", "secretRef"),
    };
    let variables = |container: &Value| {
        all(&container["env"]).any(|variable| variable["valueFrom"][one]["name"] == name)
            || all(&container["envFrom"]).any(|source| source[together]["name"] == name)
    };
    let volumes = || match kind {
        Named::Secret => {
            all(&spec["imagePullSecrets"]).any(|secret| secret["name"] == name)
                || volumes_name(&spec["volumes"], name)
        }
        _ => all(&spec["volumes"]).any(|volume| {
            volume["configMap"]["name"] == name
                || all(&volume["projected"]["sources"]).any(|source| source["configMap"]["name"] == name)
        }),
    };
    containers(spec).any(variables) || volumes()
}

/// A claim that is made of a Pod's template is called as the Pod and the volume together (Kubernetes' "Generic ephemeral volumes").
fn names_claim(pod: &Object, name: &str) -> bool {
    let own = |volume: &Value| {
        let rest = pod["metadata"]["name"].as_str().and_then(|pod| name.strip_prefix(pod));
        let of = rest.and_then(|rest| rest.strip_prefix('-'));
        !volume["ephemeral"].is_null() && of.is_some_and(|of| volume["name"] == of)
    };
    all(&pod["spec"]["volumes"])
        .any(|volume| volume["persistentVolumeClaim"]["claimName"] == name || own(volume))
}

/// Whether a source of a volume, of any kind, names this Secret.
fn volumes_name(value: &Value, name: &str) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(key, value)| {
            let named = match key.as_str() {
                "secretName" => value == name,
                key if SECRETS.contains(&key) => value["name"] == name,
                _ => false,
            };
            named || volumes_name(value, name)
        }),
        Value::Array(list) => list.iter().any(|value| volumes_name(value, name)),
        _ => false,
    }
}

/// Whether a Pod's spec names a Secret for its containers' variables, or in a volume of any kind.
pub fn names_secret(spec: &Value) -> bool {
    containers(spec).any(|container| reads(container, "secretKeyRef", "secretRef"))
        || in_volumes(&spec["volumes"])
}

fn in_volumes(value: &Value) -> bool {
    match value {
        Value::Object(map) => map
            .iter()
            .any(|(key, value)| !value.is_null() && (SECRETS.contains(&key.as_str()) || in_volumes(value))),
        Value::Array(list) => list.iter().any(in_volumes),
        _ => false,
    }
}

/// Whether a container's variables come from such a source, one by one or together.
fn reads(container: &Value, one: &str, together: &str) -> bool {
    all(&container["env"]).any(|variable| !variable["valueFrom"][one].is_null())
        || all(&container["envFrom"]).any(|source| !source[together].is_null())
}

fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|key| all(&spec[key]))
}

fn first<'a>(
    sources: impl Iterator<Item = &'a Value>,
    table: &[(&str, &'static str)],
) -> Option<&'static str> {
    let mut sources = sources
        .filter_map(|source| table.iter().find(|(key, _)| !source[*key].is_null()).map(|(_, what)| *what));
    sources.next()
}

fn all(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_pod_names_is_told_by_kind() {
        let (map, secret, account) = (Named::ConfigMap, Named::Secret, Named::ServiceAccount);
        let claim = Named::Claim;
        let env = |env: Value| json!({"initContainers": [env]});
        let volume = |source: Value| json!({"volumes": [{"name": "v", "emptyDir": {}}, source]});
        for (kind, spec) in [
            (account, json!({"serviceAccountName": "x"})),
            (secret, json!({"imagePullSecrets": [{"name": "y"}, {"name": "x"}]})),
            (secret, env(json!({"env": [{"valueFrom": {"secretKeyRef": {"name": "x", "key": "k"}}}]}))),
            (secret, env(json!({"envFrom": [{"secretRef": {"name": "x"}}]}))),
            (secret, volume(json!({"secret": {"secretName": "x"}}))),
            (secret, volume(json!({"iscsi": {"secretRef": {"name": "x"}}}))),
            (secret, volume(json!({"csi": {"nodePublishSecretRef": {"name": "x"}}}))),
            (secret, volume(json!({"projected": {"sources": [{"secret": {"name": "x"}}]}}))),
            (map, env(json!({"env": [{"valueFrom": {"configMapKeyRef": {"name": "x", "key": "k"}}}]}))),
            (map, env(json!({"envFrom": [{"configMapRef": {"name": "x"}}]}))),
            (map, volume(json!({"configMap": {"name": "x"}}))),
            (map, volume(json!({"projected": {"sources": [{"configMap": {"name": "x"}}]}}))),
            (claim, volume(json!({"persistentVolumeClaim": {"claimName": "x"}}))),
        ] {
            let pod = json!({"spec": spec});
            for other in [map, secret, account, claim] {
                assert_eq!(names(&pod, other, "x"), other == kind, "{other:?} in {pod}");
                assert!(!names(&pod, other, "z"), "{pod}");
            }
        }
        let free = json!({"spec": {"volumes": [{"name": "x", "hostPath": {"path": "x"}}], "containers": [{"name": "x"}]}});
        assert!(![map, secret, account, claim].into_iter().any(|kind| names(&free, kind, "x")));
    }

    #[test]
    fn a_pods_own_claim_is_called_as_pod_and_volume() {
        let pod = json!({"metadata": {"name": "a-b"}, "spec": {"volumes": [
            {"name": "c-d", "ephemeral": {"volumeClaimTemplate": {}}}, {"name": "e", "emptyDir": {}}]}});
        assert!(names(&pod, Named::Claim, "a-b-c-d"));
        for other in ["a-b-e", "a-b-c", "a-bc-d", "c-d", "a-b"] {
            assert!(!names(&pod, Named::Claim, other), "{other}");
        }
    }

    #[test]
    fn whatever_has_to_be_asked_of_the_api_is_named() {
        let of = |spec: Value| api_reference(&json!({"spec": spec}));
        let volume = |volume: Value| of(json!({"volumes": [volume]}));
        let env = |env: Value| of(json!({"containers": [env]}));
        let free = json!({"nodeSelector": {"secret": "x"}, "volumes": [{"hostPath": {"path": "/x"}}, {"emptyDir": {}},
            {"projected": {"sources": [{"downwardAPI": {}}]}}], "containers": [{"env": [{"name": "a", "value": "b"}]}]});
        assert_eq!(of(free), None);
        assert_eq!(of(json!({"serviceAccountName": "x"})), Some("serviceaccounts"));
        assert_eq!(of(json!({"imagePullSecrets": [{"name": "x"}]})), Some("secrets"));
        assert_eq!(env(json!({"env": [{"valueFrom": {"secretKeyRef": {}}}]})), Some("secrets"));
        assert_eq!(volume(json!({"iscsi": {"secretRef": {"name": "x"}}})), Some("secrets"));
        assert_eq!(env(json!({"envFrom": [{"configMapRef": {"name": "x"}}]})), Some("configmaps"));
        assert_eq!(of(json!({"resourceClaims": [{"name": "x"}]})), Some("resourceclaims"));
        assert_eq!(volume(json!({"configMap": {"name": "x"}})), Some("configmaps (via configmap volumes)"));
        assert_eq!(volume(json!({"persistentVolumeClaim": {}})), Some("persistentvolumeclaims"));
        assert_eq!(
            volume(json!({"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}})),
            Some("serviceaccounts (via projected volumes)")
        );
    }
}
