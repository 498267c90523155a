//! Scale and binding.

use jiff::Timestamp;
use serde_json::{Value, json};
use yunfan_objects::{ApiError, FieldError, GroupResource, meta, scale};

use super::{Part, Registry, Writer, Written, same_uid};
use crate::kinds::Kind;

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

    /// Places a Pod on the node that the Binding names. Webhooks and policies were asked about the Binding, and are not about
    /// the Pod.
    pub(crate) async fn bind(
        &self,
        writer: &Writer<'_>,
        kind: &Kind,
        namespace: &str,
        name: &str,
        binding: &Value,
    ) -> Result<(), ApiError> {
        let writer = &Writer { options: None, ..*writer };
        let target = &binding["target"];
        let node = target["name"].as_str().unwrap_or_default();
        let mut wrong = Vec::new();
        if let Some(other) = target["kind"].as_str().filter(|kind| !matches!(*kind, "" | "Node")) {
            wrong.push(FieldError::not_supported("target.kind", other, &["Node", "<empty>"]).to_string());
        }
        if node.is_empty() {
            wrong.push(FieldError::required("target.name", "").to_string());
        }
        match wrong.as_slice() {
            [] => {}
            [one] => return Err(ApiError::unclassified(one)),
            both => return Err(ApiError::unclassified(format!("[{}]", both.join(", ")))),
        }
        let resource = GroupResource::new("", "pods/binding");
        let conflict = |why: &str| Err(ApiError::conflict(&resource, name, why));
        self.modify(writer, kind, namespace, name, Part::Whole("binding"), |pod| {
            // A decision about a Pod that was deleted and made again under the same name is about another Pod.
            same_uid(kind, pod, binding)?;
            let wanted = binding["metadata"]["resourceVersion"].as_str().unwrap_or_default();
            if !wanted.is_empty() && wanted != pod["metadata"]["resourceVersion"] {
                return Err(ApiError::modified(&kind.descriptor.group_resource(), name));
            }
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                return conflict(&format!("pod {name} is being deleted, cannot be assigned to a host"));
            }
            if let Some(now) = pod["spec"]["nodeName"].as_str().filter(|now| !now.is_empty()) {
                return conflict(&format!("pod {name} is already assigned to node {now:?}"));
            }
            if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
                return conflict(&format!("pod {name} has non-empty .spec.schedulingGates"));
            }
            let mut pod = pod.clone();
            pod["spec"]["nodeName"] = json!(node);
            // It is where it is now, wherever it was to be.
            if let Some(status) = pod["status"].as_object_mut() {
                status.remove("nominatedNodeName");
            }
            for part in ["annotations", "labels"] {
                for (key, value) in binding["metadata"][part].as_object().into_iter().flatten() {
                    pod["metadata"][part][key] = value.clone();
                }
            }
            set_condition(&mut pod, json!({"type": "PodScheduled", "status": "True"}));
            Ok(pod)
        })
        .await
        .map(|_| ())
    }
}

/// Sets a condition of a Pod; its time only where its status changes.
pub(super) fn set_condition(pod: &mut Value, mut condition: Value) {
    let list = &mut pod["status"]["conditions"];
    if !list.is_array() {
        *list = json!([]);
    }
    let Some(list) = list.as_array_mut() else { return };
    let at = list.iter().position(|each| each["type"] == condition["type"]);
    let same = at.map(|at| &list[at]).filter(|old| old["status"] == condition["status"]);
    condition["lastTransitionTime"] = match same {
        Some(old) => old["lastTransitionTime"].clone(),
        None => json!(meta::time(Timestamp::now())),
    };
    match at {
        Some(at) => list[at] = condition,
        None => list.push(condition),
    }
}
