//! What of the API a Pod names. A node runs a static Pod without asking for anything, so such a Pod may name nothing.

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

/// Whether a Pod's spec names a Secret for its containers' variables, or in a volume of any kind.
pub fn names_secret(spec: &Value) -> bool {
    containers(spec).any(|container| reads(container, "secretKeyRef", "secretRef"))
        || in_volumes(&spec["volumes"])
}

fn in_volumes(value: &Value) -> bool {
    const KEYS: [&str; 4] = ["secret", "secretRef", "secretName", "nodePublishSecretRef"];
    match value {
        Value::Object(map) => map
            .iter()
            .any(|(key, value)| !value.is_null() && (KEYS.contains(&key.as_str()) || in_volumes(value))),
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
