//! Scale and binding.

use jiff::Timestamp;
use serde_json::{Value, json};
use yunfan_objects::{ApiError, meta, scale};

use super::{Part, Registry, Writer, Written, decode};
use crate::cache::Entry;
use crate::kinds::Kind;

/// The Scale of a stored object.
pub(crate) fn scale_of(kind: &Kind, entry: &Entry) -> Result<Value, ApiError> {
    scale::to_scale(&kind.descriptor, &decode(kind, entry)).ok_or_else(ApiError::no_such_path)
}

impl Registry {
    /// Writes an object through its Scale: `change` gets the Scale and gives the new one.
    pub(crate) async fn modify_scale<F>(
        &self,
        writer: &Writer<'_>,
        kind: &Kind,
        namespace: &str,
        name: &str,
        mut change: F,
    ) -> Result<Written, ApiError>
    where
        F: FnMut(&Value) -> Result<Value, ApiError>,
    {
        self.modify(writer, kind, namespace, name, Part::Whole("scale"), |object| {
            let before = scale::to_scale(&kind.descriptor, object).ok_or_else(ApiError::no_such_path)?;
            scale::apply_scale(&kind.descriptor, object, &change(&before)?)
        })
        .await
    }

    /// Places a Pod on the node that the Binding names.
    pub(crate) async fn bind(
        &self,
        writer: &Writer<'_>,
        kind: &Kind,
        namespace: &str,
        name: &str,
        binding: &Value,
    ) -> Result<(), ApiError> {
        let target = &binding["target"];
        let node = target["name"].as_str().filter(|node| !node.is_empty());
        let Some(node) = node else {
            return Err(ApiError::bad_request("target.name: Required value: the Node to place the Pod on"));
        };
        if !matches!(target["kind"].as_str(), None | Some("" | "Node")) {
            return Err(ApiError::bad_request("target.kind: must be Node"));
        }
        let resource = kind.descriptor.group_resource();
        let uid = binding["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        self.modify(writer, kind, namespace, name, Part::Whole("binding"), |pod| {
            // A decision about a Pod that was deleted and made again under the same name is about another Pod.
            if !uid.is_empty() && pod["metadata"]["uid"] != uid.as_str() {
                let now = pod["metadata"]["uid"].as_str().unwrap_or_default();
                let why =
                    format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {now}");
                return Err(ApiError::conflict(&resource, name, &why));
            }
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                let why = format!("pod {name} is being deleted, cannot be assigned to a host");
                return Err(ApiError::conflict(&resource, name, &why));
            }
            if let Some(now) = pod["spec"]["nodeName"].as_str().filter(|now| !now.is_empty()) {
                let why = format!("pod {name} is already assigned to node {now:?}");
                return Err(ApiError::conflict(&resource, name, &why));
            }
            let mut pod = pod.clone();
            pod["spec"]["nodeName"] = json!(node);
            for (key, value) in binding["metadata"]["annotations"].as_object().into_iter().flatten() {
                pod["metadata"]["annotations"][key] = value.clone();
            }
            scheduled(&mut pod);
            Ok(pod)
        })
        .await
        .map(|_| ())
    }
}

fn scheduled(pod: &mut Value) {
    let condition = json!({
        "type": "PodScheduled", "status": "True", "lastTransitionTime": meta::time(Timestamp::now()),
    });
    let list = &mut pod["status"]["conditions"];
    if !list.is_array() {
        *list = json!([]);
    }
    if let Some(list) = list.as_array_mut() {
        list.retain(|c| c["type"] != "PodScheduled");
        list.push(condition);
    }
}
