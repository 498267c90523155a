//! Certificates that a node asks for in the names of its Pods: of a Pod that runs there, as that Pod is.

use serde_json::Value;

use super::{Attempt, Operation, View};

pub(super) fn of_pod(node: &str, attempt: &Attempt<'_>, view: &View<'_>) -> Result<(), String> {
    if attempt.operation != Operation::Create || !attempt.subresource.is_empty() {
        return Err("nodes can only create PodCertificateRequests".to_owned());
    }
    let asked = &attempt.object["spec"];
    let of = |key: &str| asked[key].as_str().unwrap_or_default();
    let namespace = attempt.namespace;
    let named = |what: &str, plural: &str, namespace: &str, name: &str| {
        let found = view.get("", plural, namespace, name);
        found.ok_or_else(|| format!("{what} {name:?} named in the PodCertificateRequest was not found"))
    };
    if of("nodeName") != node {
        let given = of("nodeName");
        return Err(format!(
            "PodCertificateRequest.Spec.NodeName={given:?}, which is not the requesting node {node:?}"
        ));
    }
    let of_pod = format!("PodCertificateRequest for pod {:?}", format!("{namespace}/{}", of("podName")));
    let own_node = named("node", "nodes", "", node)?.decode_stored();
    if own_node["metadata"]["uid"] != asked["nodeUID"] {
        let (given, is) = (of("nodeUID"), uid(&own_node));
        return Err(format!(
            "{of_pod} names node UID {given:?}, inconsistent with the running node ({is:?})"
        ));
    }
    let entry = named("pod", "pods", namespace, of("podName"))?;
    let pod = entry.decode_stored();
    if pod["metadata"]["uid"] != asked["podUID"] {
        let (given, is) = (of("podUID"), uid(&pod));
        return Err(format!("{of_pod} contains pod UID ({given:?}) which differs from running pod {is:?}"));
    }
    if pod["spec"]["nodeName"] != node {
        return Err(format!("{of_pod}: it is not running on node {node:?}"));
    }
    if entry.is_mirror() {
        return Err(format!("{of_pod}: it is a mirror pod"));
    }
    let account = of("serviceAccountName");
    let runs_as = pod["spec"]["serviceAccountName"].as_str().unwrap_or_default();
    if runs_as != account {
        return Err(format!(
            "{of_pod} contains serviceAccountName ({account:?}) that differs from running pod ({runs_as:?})"
        ));
    }
    let own_account = named("service account", "serviceaccounts", namespace, account)?.decode_stored();
    if own_account["metadata"]["uid"] != asked["serviceAccountUID"] {
        let (given, is) = (of("serviceAccountUID"), uid(&own_account));
        return Err(format!(
            "{of_pod} names service account UID {given:?}, which differs from the running service account ({is:?})"
        ));
    }
    Ok(())
}

fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}
