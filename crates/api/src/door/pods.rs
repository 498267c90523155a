//! What only Pods have: the streams of their containers.

use axum::body::Body;
use http::{Request, Response};
use serde_json::Value;
use yunfan_objects::ApiError;

use super::Call;
use crate::Api;
use crate::kinds::Kind;
use crate::proxy;

/// Log, exec and attach are the node's: the request goes there, in the kubelet's words.
pub(super) async fn stream(
    api: &Api,
    call: &Call,
    kind: &Kind,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let (namespace, name) = (call.info.object_namespace(), call.info.name.as_str());
    let entry = api.0.registry.get(kind, namespace, name, None).await?;
    let pod = entry.decode_stored();
    let container = container(call, &pod)?;
    let node = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty());
    let Some(node) = node else {
        let why = format!("pod {name} does not have a host assigned");
        return Err(ApiError::bad_request(why));
    };
    let place = format!("{namespace}/{name}/{container}");
    let path = match call.info.subresource.as_str() {
        "log" => format!("/containerLogs/{place}?{}", log_query(call)),
        verb => format!("/{verb}/{place}?{}", stream_query(call)),
    };
    proxy::forward(&api.0.dialer, node, &path, request).await
}

/// The container that is asked for; it may be left out where there is only one, or a default.
fn container(call: &Call, pod: &Value) -> Result<String, ApiError> {
    let fields = ["containers", "initContainers", "ephemeralContainers"];
    let all: Vec<&str> = fields
        .iter()
        .flat_map(|field| pod["spec"][*field].as_array().into_iter().flatten())
        .filter_map(|container| container["name"].as_str())
        .collect();
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    if let Some(wanted) = call.params.get("container") {
        if all.contains(&wanted) {
            return Ok(wanted.to_owned());
        }
        return Err(ApiError::bad_request(format!("container {wanted} is not valid for pod {name}")));
    }
    let default = pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
    if let Some(default) = default.filter(|d| all.contains(d)) {
        return Ok(default.to_owned());
    }
    match pod["spec"]["containers"].as_array().map(Vec::as_slice) {
        Some([one]) => Ok(one["name"].as_str().unwrap_or_default().to_owned()),
        _ => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            all.join(" ")
        ))),
    }
}

fn log_query(call: &Call) -> String {
    let known = [
        "follow",
        "previous",
        "sinceSeconds",
        "sinceTime",
        "timestamps",
        "tailLines",
        "limitBytes",
        "stream",
    ];
    let pairs = known.iter().filter_map(|name| Some(format!("{name}={}", encode(call.params.get(name)?))));
    pairs.collect::<Vec<_>>().join("&")
}

fn stream_query(call: &Call) -> String {
    let mut pairs: Vec<String> =
        call.params.all("command").iter().map(|word| format!("command={}", encode(word))).collect();
    for (theirs, ours) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        if call.params.flag(theirs) {
            pairs.push(format!("{ours}=1"));
        }
    }
    pairs.join("&")
}

/// Percent-encodes a query value.
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_encoding() {
        assert_eq!(super::super::path::percent_decode(&encode("a b&c=/é")), "a b&c=/é");
    }
}
