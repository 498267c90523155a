//! Rows of pods, as kubectl users know them.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Object;
use crate::builtin::ColumnSpec;
use crate::builtin::rows::{name, or_none, since_creation};
use crate::lookup::{at, list, number, text};
use crate::table::age;

pub(in crate::builtin) const COLUMNS: &[ColumnSpec] = &[
    ("Name", "string", 0),
    ("Ready", "string", 0),
    ("Status", "string", 0),
    ("Restarts", "string", 0),
    ("Age", "string", 0),
    ("IP", "string", 1),
    ("Node", "string", 1),
    ("Nominated Node", "string", 1),
    ("Readiness Gates", "string", 1),
];

pub(in crate::builtin) fn pod(pod: &Object, now: Timestamp) -> Vec<Value> {
    let (ready, total) = pod_ready(pod);
    vec![
        name(pod),
        json!(format!("{ready}/{total}")),
        json!(pod_status_text(pod)),
        json!(restarts(pod, now)),
        since_creation(pod, now),
        or_none(text(pod, &["status", "podIP"])),
        or_none(text(pod, &["spec", "nodeName"])),
        or_none(text(pod, &["status", "nominatedNodeName"])),
        json!(readiness_gates(pod)),
    ]
}

/// Says of a Pod that has ended that its row is complete: kubectl leaves such rows out where it is asked to.
pub(in crate::builtin) fn conditions(pod: &Object) -> Vec<Value> {
    let (reason, message) = match text(pod, &["status", "phase"]) {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return Vec::new(),
    };
    vec![json!({"type": "Completed", "status": "True", "reason": reason, "message": message})]
}

/// Containers that are ready, and all containers; side-cars are among them.
pub fn pod_ready(pod: &Object) -> (usize, usize) {
    let statuses = list(pod, &["status", "containerStatuses"]);
    let ready =
        statuses.iter().filter(|status| status["ready"] == true && status["state"].get("running").is_some());
    let side_cars =
        side_car_statuses(pod).filter(|status| status["started"] == true && status["ready"] == true);
    let all = list(pod, &["spec", "initContainers"]).iter().filter(|each| is_restarted(each));
    (ready.count() + side_cars.count(), list(pod, &["spec", "containers"]).len() + all.count())
}

fn side_car_statuses(pod: &Object) -> impl Iterator<Item = &Value> {
    list(pod, &["status", "initContainerStatuses"]).iter().filter(|status| is_side_car(pod, status))
}

/// The word in the column STATUS.
pub fn pod_status_text(pod: &Object) -> String {
    let mut reason = text(pod, &["status", "phase"]).to_owned();
    let given = text(pod, &["status", "reason"]);
    if !given.is_empty() {
        reason = given.to_owned();
    }
    let gated = list(pod, &["status", "conditions"]).iter().any(|condition| {
        text(condition, &["type"]) == "PodScheduled" && text(condition, &["reason"]) == "SchedulingGated"
    });
    if gated {
        reason = "SchedulingGated".to_owned();
    }
    match initializing(pod) {
        Some(text) => reason = text,
        None => reason = containers_text(pod, reason),
    }
    if at(pod, &["metadata", "deletionTimestamp"]).is_some_and(|at| !at.is_null()) {
        if given == "NodeLost" {
            return "Unknown".to_owned();
        }
        if !matches!(text(pod, &["status", "phase"]), "Failed" | "Succeeded") {
            return "Terminating".to_owned();
        }
    }
    reason
}

fn initializing(pod: &Object) -> Option<String> {
    let total = list(pod, &["spec", "initContainers"]).len();
    for (index, status) in list(pod, &["status", "initContainerStatuses"]).iter().enumerate() {
        let state = &status["state"];
        if let Some(ended) = state.get("terminated") {
            if number(ended, &["exitCode"]) == Some(0) {
                continue;
            }
            return Some(format!("Init:{}", ended_text(ended)));
        }
        let waiting = text(state, &["waiting", "reason"]);
        if !waiting.is_empty() && waiting != "PodInitializing" {
            return Some(format!("Init:{waiting}"));
        }
        // A side-car among the init containers has done its part when it has started.
        if status["started"] == true && is_side_car(pod, status) {
            continue;
        }
        return Some(format!("Init:{index}/{total}"));
    }
    None
}

fn is_side_car(pod: &Object, status: &Value) -> bool {
    list(pod, &["spec", "initContainers"])
        .iter()
        .any(|each| each["name"] == status["name"] && is_restarted(each))
}

fn is_restarted(init_container: &Value) -> bool {
    text(init_container, &["restartPolicy"]) == "Always"
}

fn ended_text(ended: &Value) -> String {
    match text(ended, &["reason"]) {
        "" => match number(ended, &["signal"]) {
            Some(signal) if signal != 0 => format!("Signal:{signal}"),
            _ => format!("ExitCode:{}", number(ended, &["exitCode"]).unwrap_or(0)),
        },
        reason => reason.to_owned(),
    }
}

fn containers_text(pod: &Object, mut reason: String) -> String {
    let mut running = false;
    for status in list(pod, &["status", "containerStatuses"]).iter().rev() {
        let state = &status["state"];
        let waiting = text(state, &["waiting", "reason"]);
        if !waiting.is_empty() {
            reason = waiting.to_owned();
        } else if let Some(ended) = state.get("terminated") {
            reason = ended_text(ended);
        } else if status["ready"] == true && state.get("running").is_some() {
            running = true;
        }
    }
    // Some are done and others run: say whether the pod as a whole is ready.
    if reason == "Completed" && running {
        let ready = list(pod, &["status", "conditions"])
            .iter()
            .any(|condition| text(condition, &["type"]) == "Ready" && text(condition, &["status"]) == "True");
        reason = if ready { "Running" } else { "NotReady" }.to_owned();
    }
    reason
}

fn restarts(pod: &Object, now: Timestamp) -> String {
    // Until the Pod is initialized those of its init containers are told, then those of the containers that go on.
    let statuses: Vec<&Value> = match initializing(pod) {
        Some(_) => list(pod, &["status", "initContainerStatuses"]).iter().collect(),
        None => list(pod, &["status", "containerStatuses"]).iter().chain(side_car_statuses(pod)).collect(),
    };
    let count: i64 = statuses.iter().filter_map(|status| number(status, &["restartCount"])).sum();
    let last = statuses
        .iter()
        .map(|status| text(status, &["lastState", "terminated", "finishedAt"]))
        .max()
        .unwrap_or_default();
    if count == 0 || last.is_empty() {
        return count.to_string();
    }
    format!("{count} ({} ago)", age(last, now))
}

fn readiness_gates(pod: &Object) -> String {
    let gates = list(pod, &["spec", "readinessGates"]);
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let open = gates.iter().filter(|gate| {
        list(pod, &["status", "conditions"]).iter().any(|condition| {
            condition["type"] == gate["conditionType"] && text(condition, &["status"]) == "True"
        })
    });
    format!("{}/{}", open.count(), gates.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_reads_as_in_kubectl() {
        let now: Timestamp = "2024-01-01T00:10:00Z".parse().unwrap();
        let mut object = json!({
            "metadata": {"name": "web", "creationTimestamp": "2024-01-01T00:00:00Z"},
            "spec": {"nodeName": "n1", "containers": [{"name": "a"}, {"name": "b"}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [
                {"name": "a", "ready": true, "restartCount": 0, "state": {"running": {}}},
                {"name": "b", "ready": false, "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                 "lastState": {"terminated": {"finishedAt": "2024-01-01T00:05:00Z"}}}
            ]}
        });
        let cells = pod(&object, now);
        assert_eq!(
            json!(cells),
            json!([
                "web",
                "1/2",
                "CrashLoopBackOff",
                "3 (5m ago)",
                "10m",
                "10.0.0.1",
                "n1",
                "<none>",
                "<none>"
            ])
        );
        object["spec"]["initContainers"] = json!([{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]);
        object["status"]["initContainerStatuses"] = json!([
            {"name": "i", "ready": true, "restartCount": 4, "state": {"terminated": {"exitCode": 0}}},
            {"name": "s", "ready": true, "started": true, "restartCount": 2, "state": {"running": {}}},
        ]);
        let cells = pod(&object, now);
        assert_eq!((&cells[1], &cells[3]), (&json!("2/3"), &json!("5 (5m ago)")));
        object["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:09:00Z");
        assert_eq!(pod_status_text(&object), "Terminating");
        let waiting = json!({"spec": {"initContainers": [{"name": "i"}]}, "status": {"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}});
        assert_eq!(pod_status_text(&waiting), "Init:0/1");
        let done = json!({"status": {"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": {"reason": "Completed", "exitCode": 0}}}]}});
        assert_eq!(pod_status_text(&done), "Completed");
    }
}
