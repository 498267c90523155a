//! A Pod's streams: logs, exec, attach, port-forward. They are the node's: the request goes there, in the kubelet's words.

use axum::body::Body;
use http::{Request, Response, StatusCode};
use serde_json::{Value, json};
use yunfan_objects::golang::time_error;
use yunfan_objects::{ApiError, FieldError, GroupVersionKind, Reason, golang};

use super::Call;
use super::path::percent_encode;
use crate::Api;
use crate::admission::dynamic::{Action, Question};
use crate::kinds::Kind;
use crate::proxy;

/// Which of a container's outputs a log is made of.
const LOG_STREAMS: [&str; 3] = ["All", "Stderr", "Stdout"];

/// Answers a request on a Pod's `log`, `exec`, `attach` or `portforward`.
pub(super) async fn handle(
    api: &Api,
    call: &Call,
    kind: &Kind,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let (namespace, name) = (call.info.object_namespace(), call.info.name.as_str());
    let what = call.info.subresource.as_str();
    if what != "log" {
        no_dry_run(call)?;
    }
    if what != "log" && call.info.verb == "get" {
        // A browser's WebSocket cannot POST, but must not be allowed more: who may only read may not run commands.
        let mut create = call.info.clone();
        create.verb = "create".to_owned();
        api.0.gate.authorize(&call.user, &create).await?;
    }
    let options = if what == "log" { log_query(call)? } else { String::new() };
    let wishes = if what == "log" { Value::Null } else { ask(api, call, kind).await? };
    let pod = api.0.registry.get(kind, namespace, name, None).await?.decode_stored();
    let place = match what {
        "portforward" => format!("{namespace}/{name}"),
        _ => format!("{namespace}/{name}/{}", container(call, &wishes, &pod)?),
    };
    let Some(node) = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) else {
        if what == "log" {
            // There is no log yet, which is no error.
            let mut none = Response::new(Body::empty());
            *none.status_mut() = StatusCode::NO_CONTENT;
            return Ok(none);
        }
        return Err(ApiError::bad_request(format!("pod {name} does not have a host assigned")));
    };
    let path = match what {
        "log" => format!("/containerLogs/{place}?{options}"),
        "portforward" => format!("/portForward/{place}?{}", listed(&wishes, "ports")),
        verb => format!("/{verb}/{place}?{}", stream_query(&wishes)),
    };
    proxy::forward(&api.0.dialer, node, &path, request).await.map_err(|error| match error.reason() {
        // Upstream says so of a Pod with its node's name.
        Reason::NotFound => ApiError::not_found(&kind.descriptor.group_resource(), node),
        _ => error,
    })
}

/// A connection can't be tried without being made.
pub(super) fn no_dry_run(call: &Call) -> Result<(), ApiError> {
    if !call.params.all("dryRun").is_empty() {
        return Err(ApiError::bad_request("dryRun is not supported"));
    }
    Ok(())
}

/// What the client wishes of a stream, as `PodExecOptions` and its like have it, and as webhooks and policies changed it.
async fn ask(api: &Api, call: &Call, kind: &Kind) -> Result<Value, ApiError> {
    let what = call.info.subresource.as_str();
    let mut wishes = json!({});
    if let Some(spoken) = kind.descriptor.subresource(what).map(|below| below.spoken(&kind.descriptor)) {
        wishes = json!({"kind": spoken.kind, "apiVersion": spoken.api_version()});
    }
    if what == "portforward" {
        // What is no number the node refuses, in its own words.
        let number = |port: &String| port.parse::<i32>().map_or_else(|_| json!(port), |port| json!(port));
        let ports: Vec<Value> = call.params.all("ports").iter().map(number).collect();
        if !ports.is_empty() {
            wishes["ports"] = json!(ports);
        }
    } else {
        for name in ["stdin", "stdout", "stderr", "tty"].into_iter().filter(|name| call.params.flag(name)) {
            wishes[name] = json!(true);
        }
        if let Some(container) = call.params.get("container") {
            wishes["container"] = json!(container);
        }
        if what == "exec" {
            wishes["command"] = json!(call.params.all("command"));
        }
    }
    let place = (call.info.object_namespace(), call.info.name.as_str());
    let (none, warnings) = (Value::Null, &call.warnings);
    let question = Question::about(kind, Action::Connect, what, place, &call.user, &none, warnings);
    api.0.registry.ask(&question, wishes).await
}

/// The container that is asked for; it may be left out where there is only one, or a default.
fn container(call: &Call, wishes: &Value, pod: &Value) -> Result<String, ApiError> {
    let fields = ["initContainers", "containers", "ephemeralContainers"];
    let all: Vec<&str> = fields
        .iter()
        .flat_map(|field| pod["spec"][*field].as_array().into_iter().flatten())
        .filter_map(|container| container["name"].as_str())
        .collect();
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let wished = wishes["container"].as_str().filter(|name| !name.is_empty());
    if let Some(wanted) = wished.or_else(|| call.params.get("container").filter(|_| wishes.is_null())) {
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

/// The log's options for the node, once they are known to be sound. (Kubernetes `PodLogOptions`.)
fn log_query(call: &Call) -> Result<String, ApiError> {
    let number = |name: &str| -> Result<Option<i64>, ApiError> {
        let Some(text) = call.params.get(name) else { return Ok(None) };
        let parsed = text.parse().map(Some);
        parsed.map_err(|_| ApiError::bad_request(golang::number_error("ParseInt", text)))
    };
    let (tail, bytes, seconds) = (number("tailLines")?, number("limitBytes")?, number("sinceSeconds")?);
    let since = call.params.get("sinceTime");
    if let Some(wrong) = since.and_then(|text| time_error(text, false)) {
        return Err(ApiError::bad_request(wrong));
    }
    let mut errors = Vec::new();
    if let Some(tail) = tail.filter(|tail| *tail < 0) {
        errors.push(FieldError::invalid("tailLines", tail, "must be greater than or equal to 0"));
    }
    if let Some(bytes) = bytes.filter(|bytes| *bytes < 1) {
        errors.push(FieldError::invalid("limitBytes", bytes, "must be greater than 0"));
    }
    match seconds {
        Some(_) if since.is_some() => {
            let why = "at most one of `sinceTime` or `sinceSeconds` may be specified";
            errors.push(FieldError::forbidden("[]", why));
        }
        Some(seconds) if seconds < 1 => {
            errors.push(FieldError::invalid("sinceSeconds", seconds, "must be greater than 0"));
        }
        _ => {}
    }
    let stream = call.params.get("stream").unwrap_or("All");
    if !LOG_STREAMS.contains(&stream) {
        errors.push(FieldError::not_supported("stream", stream, &LOG_STREAMS));
    }
    if stream != "All" && tail.is_some() {
        let why = "`tailLines` and specific `stream` are mutually exclusive for now";
        errors.push(FieldError::forbidden("[]", why));
    }
    if !errors.is_empty() {
        let kind = GroupVersionKind::new("", "v1", "PodLogOptions");
        return Err(ApiError::invalid(&kind, &call.info.name, &errors));
    }
    let known = ["sinceSeconds", "sinceTime", "tailLines", "limitBytes", "stream"];
    let mut options: Vec<String> = ["follow", "previous", "timestamps"]
        .into_iter()
        .filter(|name| call.params.flag(name))
        .map(|name| format!("{name}=true"))
        .collect();
    options.extend([query(call, &known)].into_iter().filter(|text| !text.is_empty()));
    Ok(options.join("&"))
}

fn stream_query(wishes: &Value) -> String {
    let mut pairs = vec![listed(wishes, "command")];
    for (theirs, ours) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        if wishes[theirs] == true {
            pairs.push(format!("{ours}=1"));
        }
    }
    pairs.retain(|pair| !pair.is_empty());
    pairs.join("&")
}

/// The items of a list as parameters of its name.
fn listed(wishes: &Value, name: &str) -> String {
    let text = |item: &Value| item.as_str().map_or_else(|| item.to_string(), str::to_owned);
    let items = wishes[name].as_array().into_iter().flatten();
    items.map(|item| format!("{name}={}", percent_encode(&text(item)))).collect::<Vec<_>>().join("&")
}

/// The parameters of these names, as they came.
fn query(call: &Call, names: &[&str]) -> String {
    let pairs = names.iter().flat_map(|name| {
        call.params.all(name).iter().map(move |value| format!("{name}={}", percent_encode(value)))
    });
    pairs.collect::<Vec<_>>().join("&")
}
