//! `yunfan why KIND NAME`: what is known about where a workload stands.

use anyhow::bail;
use comfy_table::{Table, presets};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};
use yunfan_resources::compute::VirtualMachine;

use crate::cli::{Output, WhyOptions};
use crate::{remote, say};

pub(crate) async fn run(options: &WhyOptions) -> anyhow::Result<()> {
    let client = match &options.kubeconfig {
        Some(path) => yunfan_client::connect(path).await?,
        None => remote::client(&options.data.data_dir).await?,
    };
    let namespace = options.namespace.as_str();
    let (kind, object) = match options.kind.to_ascii_lowercase().as_str() {
        "pod" | "pods" | "po" => {
            let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
            ("Pod", api.get_opt(&options.name).await?.map(|object| json!(object)))
        }
        "virtualmachine" | "virtualmachines" | "vm" => {
            let api: Api<VirtualMachine> = Api::namespaced(client.clone(), namespace);
            ("VirtualMachine", api.get_opt(&options.name).await?.map(|object| json!(object)))
        }
        other => bail!("{other} is no kind that is placed on a node: use pod or virtualmachine"),
    };
    let Some(object) = object else {
        bail!(
            "there is no {kind} {} in namespace {namespace}: see `kubectl get {}s -n {namespace}`",
            options.name,
            kind.to_lowercase()
        );
    };
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    let events = Api::<Event>::namespaced(client, namespace)
        .list(&ListParams::default().fields(&format!("involvedObject.uid={uid}")))
        .await?;
    let report = report(kind, &object, events.items);
    match options.output {
        Output::Json => say(&serde_json::to_string_pretty(&report)?),
        Output::Yaml => say(serde_saphyr::to_string(&report)?.trim_end()),
        Output::Table => print(&report),
    }
    Ok(())
}

fn report(kind: &str, object: &Value, mut events: Vec<Event>) -> Value {
    events.sort_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0));
    let status = &object["status"];
    let waiting: Vec<Value> = ["initContainerStatuses", "containerStatuses"]
        .iter()
        .flat_map(|list| status[*list].as_array().into_iter().flatten())
        .filter(|container| container["state"]["running"].is_null())
        .map(|container| json!({"container": container["name"], "state": container["state"]}))
        .collect();
    json!({
        "kind": kind,
        "name": object["metadata"]["name"],
        "namespace": object["metadata"]["namespace"],
        "phase": status["phase"],
        "node": object["spec"]["nodeName"],
        "message": status["message"],
        "conditions": status["conditions"],
        "containers": waiting,
        "events": events.iter().map(|event| json!({
            "type": event.type_, "reason": event.reason, "message": event.message,
            "count": event.count, "last": event.last_timestamp,
        })).collect::<Vec<_>>(),
    })
}

fn print(report: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    say(&format!("{} {}/{}", text(&report["kind"]), text(&report["namespace"]), text(&report["name"])));
    let phase = report["phase"].as_str().unwrap_or("Pending");
    match report["node"].as_str() {
        Some(node) => say(&format!("  is {phase}, placed on node {node}")),
        None => say(&format!("  is {phase}, not placed on a node")),
    }
    if let Some(message) = report["message"].as_str() {
        say(&format!("  {message}"));
    }
    let list = |name: &str| report[name].as_array().cloned().unwrap_or_default();
    for condition in list("conditions") {
        let message = condition["message"].as_str().filter(|m| !m.is_empty());
        let reason = condition["reason"].as_str().filter(|r| !r.is_empty());
        let why = [reason, message].into_iter().flatten().collect::<Vec<_>>().join(": ");
        let line = format!("  {} is {}", text(&condition["type"]), text(&condition["status"]));
        say(&if why.is_empty() { line } else { format!("{line} ({why})") });
    }
    for container in list("containers") {
        say(&format!("  container {}: {}", text(&container["container"]), state(&container["state"])));
    }
    let events = list("events");
    if events.is_empty() {
        return;
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["LAST", "COUNT", "TYPE", "REASON", "MESSAGE"]);
    for event in &events {
        let count = event["count"].as_i64().unwrap_or(1).to_string();
        table.add_row([
            &text(&event["last"]),
            &count,
            &text(&event["type"]),
            &text(&event["reason"]),
            &text(&event["message"]),
        ]);
    }
    say(&table.to_string());
}

fn state(state: &Value) -> String {
    if let Some(waiting) = state["waiting"].as_object() {
        let part = |key: &str| waiting.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        return format!("waits: {} {}", part("reason"), part("message")).trim_end().to_owned();
    }
    if let Some(ended) = state["terminated"].as_object() {
        let reason = ended.get("reason").and_then(Value::as_str).unwrap_or_default();
        let code = ended.get("exitCode").and_then(Value::as_i64).unwrap_or(-1);
        return format!("ended with {code} ({reason})");
    }
    "not started".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for_is_in_the_report() {
        let object = json!({
            "metadata": {"name": "web", "namespace": "demo", "uid": "u"},
            "spec": {},
            "status": {"phase": "Pending",
                "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}],
                "containerStatuses": [
                    {"name": "a", "state": {"running": {}}},
                    {"name": "b", "state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}},
                ]},
        });
        let report = report("Pod", &object, Vec::new());
        assert_eq!(report["containers"].as_array().unwrap().len(), 1);
        assert_eq!(state(&report["containers"][0]["state"]), "waits: ErrImagePull no such image");
        assert_eq!(report["node"], Value::Null);
    }
}
