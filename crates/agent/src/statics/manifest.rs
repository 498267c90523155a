//! From a file to a static Pod: what the API server would make of it, with what says that it is the node's own.

use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use yunfan_objects::builtin::{api_reference, descriptors};
use yunfan_objects::codec::decode_yaml;
use yunfan_objects::{Descriptor, FieldValidation};

/// Where a Pod comes from.
const SOURCE: &str = "kubernetes.io/config.source";
/// What tells one version of a static Pod from another; its uid too.
const HASH: &str = "kubernetes.io/config.hash";

/// Reads manifests for one node.
pub(super) struct Reader {
    node: String,
    kind: Descriptor,
}

impl Reader {
    /// None where this program knows no Pods.
    pub(super) fn new(node: &str) -> Option<Self> {
        let mut kinds = descriptors().into_iter();
        let kind = kinds.find(|kind| kind.kind == "Pod" && kind.group.is_empty())?;
        Some(Self { node: node.to_owned(), kind })
    }

    /// The Pod of a manifest (YAML or JSON).
    ///
    /// # Errors
    /// Why it can't be one.
    pub(super) fn read(&self, file: &Path, text: &[u8]) -> Result<Pod, String> {
        let mut pod = decode_yaml(text).map_err(|error| error.to_string())?.value;
        if pod["apiVersion"] != "v1" || pod["kind"] != "Pod" {
            return Err("invalid pod: it is not of apiVersion v1 and kind Pod".to_owned());
        }
        let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if name.is_empty() {
            return Err("invalid pod: name is needed for the pod".to_owned());
        }
        let uid = self.uid(file, &pod);
        self.make_own(&mut pod, &name, &uid)?;
        let wrong = |error: yunfan_objects::ApiError| format!("invalid pod: {error}");
        self.kind.decode(&mut pod, FieldValidation::Strict, &[]).map_err(wrong)?;
        self.kind.default(&mut pod);
        self.kind.prepare_create(&mut pod);
        self.kind.validate_create(&pod).map_err(wrong)?;
        if let Some(what) = api_reference(&pod) {
            return Err(format!("static pods may not reference {what}"));
        }
        let mut pod: Pod = serde_json::from_value(pod).map_err(|error| format!("invalid pod: {error}"))?;
        pod.metadata.uid = Some(uid);
        Ok(pod)
    }

    /// A uid that another text, another file or another node would not have.
    fn uid(&self, file: &Path, pod: &Value) -> String {
        let mut hash = Sha256::new();
        for part in [pod.to_string().as_bytes(), self.node.as_bytes(), file.as_os_str().as_encoded_bytes()] {
            hash.update(part);
            hash.update([0]);
        }
        hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }

    fn make_own(&self, pod: &mut Value, name: &str, uid: &str) -> Result<(), String> {
        let shape = || "invalid pod: its metadata or spec is not an object".to_owned();
        let spec = pod["spec"].as_object_mut().ok_or_else(shape)?;
        spec.insert("nodeName".to_owned(), json!(self.node));
        // Troubles of the node don't end what is its own.
        let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
        let whatever = json!({"operator": "Exists", "effect": "NoExecute"});
        match tolerations.as_array_mut() {
            Some(list) if list.contains(&whatever) => {}
            Some(list) => list.push(whatever),
            None => *tolerations = json!([whatever]),
        }
        let metadata = pod["metadata"].as_object_mut().ok_or_else(shape)?;
        metadata.insert("name".to_owned(), json!(format!("{name}-{}", self.node.to_lowercase())));
        let namespace = metadata.entry("namespace").or_insert(Value::Null);
        if namespace.as_str().unwrap_or_default().is_empty() {
            *namespace = json!("default");
        }
        let annotations = metadata.entry("annotations").or_insert(Value::Null);
        if !annotations.is_object() {
            *annotations = json!({});
        }
        annotations[SOURCE] = json!("file");
        annotations[HASH] = json!(uid);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {containers: [{name: a, image: i}]}
";

    fn read(file: &str, text: &str) -> Result<Pod, String> {
        Reader::new("node-a").unwrap().read(Path::new(file), text.as_bytes())
    }

    #[test]
    fn a_manifest_becomes_a_pod_of_the_node() {
        let pod = json!(read("/m/web.yaml", TEXT).unwrap());
        assert_eq!(pod["metadata"]["name"], "web-node-a");
        assert_eq!(pod["metadata"]["namespace"], "default");
        assert_eq!(pod["metadata"]["labels"]["app"], "web");
        assert_eq!(pod["metadata"]["annotations"][SOURCE], "file");
        assert_eq!(pod["metadata"]["annotations"][HASH], pod["metadata"]["uid"]);
        assert_eq!(pod["spec"]["nodeName"], "node-a");
        assert_eq!(pod["spec"]["tolerations"], json!([{"operator": "Exists", "effect": "NoExecute"}]));
        // As the API server would fill it in.
        assert_eq!(pod["spec"]["restartPolicy"], "Always");
        assert_eq!(pod["spec"]["containers"][0]["imagePullPolicy"], "Always");
    }

    #[test]
    fn another_text_or_file_is_another_pod() {
        let uid = |file: &str, text: &str| read(file, text).unwrap().metadata.uid.unwrap();
        let other = TEXT.replace("image: i", "image: j");
        assert_eq!(uid("/m/a", TEXT), uid("/m/a", TEXT));
        assert_ne!(uid("/m/a", TEXT), uid("/m/a", &other));
        assert_ne!(uid("/m/a", TEXT), uid("/m/b", TEXT));
    }

    #[test]
    fn what_can_not_run_is_refused_with_a_reason() {
        let says = |text: &str| read("/m/a", text).unwrap_err();
        assert!(says("kind: Deployment").contains("not of apiVersion v1 and kind Pod"));
        assert!(says("apiVersion: v1\nkind: Pod\nmetadata: {}\nspec: {}").contains("name is needed"));
        assert!(says("apiVersion: v1\nkind: Pod\nmetadata: {name: a}").contains("not an object"));
        assert!(says("a: [").len() > 3);
        let unnamed = says(&TEXT.replace("name: a, ", ""));
        assert!(unnamed.starts_with("invalid pod: "), "{unnamed}");
        let account = says(&TEXT.replace("spec: {", "spec: {serviceAccountName: x, "));
        assert_eq!(account, "static pods may not reference serviceaccounts");
    }
}
