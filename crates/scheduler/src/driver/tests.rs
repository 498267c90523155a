//! The loop against an API that is played by a function: what it asks for, and what it makes of the answers.

use std::sync::Mutex;

use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use serde_json::{Value, from_value, json};

use super::*;
use crate::engine::testing::node;

/// Requests seen: method, path, body.
type Seen = Arc<Mutex<Vec<(Method, String, Value)>>>;

struct Stage {
    driver: Driver,
    outcomes: mpsc::Receiver<(Arc<Workload>, String, Outcome)>,
    seen: Seen,
}

impl Stage {
    /// An API that answers with what `answer` makes of method, path and body; nothing means the body itself.
    fn new(
        answer: impl Fn(&Method, &str, &Value) -> Option<(u16, Value)> + Clone + Send + Sync + 'static,
    ) -> Self {
        let seen = Seen::default();
        let log = seen.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (log, answer) = (log.clone(), answer.clone());
            async move {
                let (parts, body) = request.into_parts();
                let bytes = body.collect_bytes().await?;
                let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
                let path = parts.uri.path().to_owned();
                let (status, reply) =
                    answer(&parts.method, &path, &body).unwrap_or_else(|| (200, body.clone()));
                log.lock().unwrap().push((parts.method, path, body));
                let mut response = Response::new(Body::from(serde_json::to_vec(&reply).unwrap()));
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
                Ok::<_, kube::Error>(response)
            }
        });
        let client = Client::new(service, "default");
        let recorder = Recorder::new(client.clone(), "default-scheduler", None);
        let writer = Writer::new(client, "test");
        let (driver, outcomes) = Driver::new(writer, recorder, SchedulerConfig::default());
        Self { driver, outcomes, seen }
    }

    fn node(&mut self, cpu: &str) {
        self.driver.on_node(&Change::Applied(Arc::new(node("n1", cpu, "8Gi"))));
    }

    fn pod(&mut self, pod: &Value) {
        self.driver.on_pod(&Change::Applied(Arc::new(from_value(pod.clone()).unwrap())));
    }

    /// Places what can be placed and waits until it is written.
    async fn run(&mut self) {
        self.driver.schedule();
        while self.driver.in_flight > 0 {
            let outcome = self.outcomes.recv().await.unwrap();
            self.driver.on_outcome(outcome);
        }
        // The reporter and the recorder are tasks of their own.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    /// What was asked for since the last time, of the requests to `path`.
    fn requests(&self, path: &str) -> Vec<(String, Value)> {
        let mut seen = self.seen.lock().unwrap();
        let (asked, rest) = seen.drain(..).partition(|(_, own, _)| own.contains(path));
        *seen = rest;
        asked.into_iter().map(|(method, path, body)| (format!("{method} {path}"), body)).collect()
    }
}

fn pod(name: &str, cpu: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "demo", "uid": name, "resourceVersion": "1"},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
    })
}

fn on_node(mut pod: Value) -> Value {
    pod["spec"]["nodeName"] = "n1".into();
    pod
}

fn status(code: u16, reason: &str) -> Option<(u16, Value)> {
    let status =
        json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": "no"});
    Some((code, status))
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_bound_the_next_is_told_why_not_and_follows_when_there_is_room() {
    let mut stage = Stage::new(|_, _, _| None);
    stage.node("1");
    stage.pod(&pod("a", "600m"));
    stage.pod(&pod("b", "600m"));
    stage.run().await;
    let binds = stage.requests("/binding");
    assert_eq!(binds.len(), 1);
    assert_eq!(binds[0].0, "POST /api/v1/namespaces/demo/pods/a/binding");
    assert_eq!(binds[0].1["target"]["name"], "n1");
    assert_eq!(binds[0].1["metadata"]["uid"], "a");
    let message = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: \
                   1 No preemption victims found for incoming pod.";
    let told = stage.requests("/pods/b/status");
    assert_eq!(told.len(), 1);
    let condition = &told[0].1["status"]["conditions"][0];
    assert_eq!(
        (&condition["type"], &condition["status"], &condition["reason"], &condition["message"]),
        (&json!("PodScheduled"), &json!("False"), &json!("Unschedulable"), &json!(message))
    );
    assert_eq!(told[0].1["metadata"]["resourceVersion"], "1");
    let mut events: Vec<(String, String)> = stage
        .requests("/events")
        .iter()
        .map(|(_, event)| (event["reason"].to_string(), event["message"].as_str().unwrap().to_owned()))
        .collect();
    events.sort();
    assert_eq!(
        events,
        [
            (json!("FailedScheduling").to_string(), message.to_owned()),
            (json!("Scheduled").to_string(), "Successfully assigned demo/a to n1".to_owned()),
        ]
    );

    // Our own status comes back: nothing is to be done. So it is when the same refusal is found again.
    let mut b = pod("b", "600m");
    b["status"] = told[0].1["status"].clone();
    stage.pod(&b);
    stage.run().await;
    tokio::time::advance(Duration::from_secs(400)).await;
    stage.run().await;
    assert!(stage.requests("/").is_empty());

    stage.pod(&on_node(pod("a", "600m")));
    stage.driver.on_pod(&Change::Deleted(Arc::new(from_value(on_node(pod("a", "600m"))).unwrap())));
    tokio::time::advance(Duration::from_secs(10)).await;
    stage.run().await;
    assert_eq!(stage.requests("/binding")[0].0, "POST /api/v1/namespaces/demo/pods/b/binding");
}

#[tokio::test(start_paused = true)]
async fn an_old_sight_of_what_was_bound_changes_nothing() {
    let mut stage = Stage::new(|_, _, _| None);
    stage.node("1");
    stage.pod(&pod("a", "600m"));
    stage.run().await;
    assert_eq!(stage.requests("/binding").len(), 1);
    stage.pod(&pod("a", "600m"));
    stage.run().await;
    assert!(stage.requests("/binding").is_empty());
    assert_eq!(stage.driver.snapshot.cpu.used, [600]);
    stage.pod(&on_node(pod("a", "600m")));
    assert!(stage.driver.bound.is_empty());
    // An old state was put back, much later.
    tokio::time::advance(STALE_FOR * 2).await;
    stage.pod(&pod("a", "600m"));
    stage.run().await;
    assert_eq!(stage.driver.snapshot.cpu.used, [600]);
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_tried_again_a_refusal_is_told_and_a_lost_pod_forgotten() {
    let mut stage = Stage::new(|_, path, _| match path {
        path if path.ends_with("a/binding") => status(409, "Conflict"),
        path if path.ends_with("b/binding") => status(403, "Forbidden"),
        path if path.ends_with("c/binding") => status(404, "NotFound"),
        _ => None,
    });
    stage.node("1");
    for name in ["a", "b", "c"] {
        stage.pod(&pod(name, "100m"));
    }
    stage.run().await;
    assert_eq!(stage.requests("/binding").len(), 3);
    assert_eq!(stage.driver.snapshot.cpu.used, [100], "only of a is it not known");
    let told = stage.requests("/pods/b/status");
    assert_eq!(told[0].1["status"]["conditions"][0]["message"], "binding rejected: no");
    tokio::time::advance(Duration::from_millis(100)).await;
    stage.run().await;
    let mut again: Vec<String> = stage.requests("/binding").into_iter().map(|(request, _)| request).collect();
    again.sort();
    assert_eq!(
        again,
        ["POST /api/v1/namespaces/demo/pods/a/binding", "POST /api/v1/namespaces/demo/pods/b/binding"]
    );
    // It was bound by another meanwhile.
    stage.pod(&on_node(pod("a", "100m")));
    tokio::time::advance(Duration::from_secs(60)).await;
    stage.run().await;
    assert!(stage.requests("a/binding").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_machine_is_placed_by_a_patch_that_fails_if_it_changed() {
    let vm = json!({
        "apiVersion": "compute.yunfan.io/v1", "kind": "VirtualMachine",
        "metadata": {"name": "vm", "namespace": "demo", "uid": "vm", "resourceVersion": "8"},
        "spec": {"flavor": "small", "image": "i", "resources": {"vcpus": 1, "memoryMib": 512}},
    });
    let current = Arc::new(Mutex::new(vm.clone()));
    // The first patch comes too late: the ports were filled in before it.
    let mut stage = Stage::new(move |method, path, body| match (method, path) {
        (&Method::PATCH, path) if path.ends_with("/vm") && body["metadata"]["resourceVersion"] == "8" => {
            status(409, "Conflict")
        }
        (&Method::POST, path) if path.ends_with("/events") => None,
        _ => {
            let mut vm = current.lock().unwrap();
            vm["metadata"]["resourceVersion"] = "9".into();
            if body["spec"]["nodeName"] == "n1" {
                vm["spec"]["nodeName"] = "n1".into();
            }
            Some((200, vm.clone()))
        }
    });
    stage.node("1");
    stage.driver.on_vm(&Change::Applied(Arc::new(from_value(vm).unwrap())));
    stage.run().await;
    let requests = stage.requests("/virtualmachines/");
    let patches: Vec<&Value> = requests
        .iter()
        .filter(|(request, _)| request.starts_with("PATCH") && request.ends_with("/vm"))
        .map(|(_, body)| body)
        .collect();
    assert_eq!(patches.len(), 2);
    assert_eq!(
        *patches[1],
        json!({"metadata": {"uid": "vm", "resourceVersion": "9"}, "spec": {"nodeName": "n1"}})
    );
    let (last, told) = requests.last().unwrap();
    assert!(last.ends_with("/vm/status"), "{last}");
    let condition = &told["status"]["conditions"][0];
    assert_eq!((&condition["type"], &condition["status"]), (&json!("Scheduled"), &json!("True")));
    assert_eq!(condition["message"], "Successfully assigned demo/vm to n1");
    assert_eq!(stage.driver.snapshot.cpu.used, [63]);
    assert_eq!(stage.driver.snapshot.memory.used, [576 << 20]);
    assert!(stage.driver.bound.contains_key("vm"));
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_node_goes_when_one_joins_or_changes() {
    let mut stage = Stage::new(|_, _, _| None);
    stage.pod(&pod("a", "600m"));
    stage.run().await;
    let told = stage.requests("/pods/a/status");
    assert_eq!(told[0].1["status"]["conditions"][0]["message"], "no nodes available to schedule pods");
    stage.node("500m");
    tokio::time::advance(Duration::from_secs(1)).await;
    stage.run().await;
    let told = stage.requests("/pods/a/status");
    assert_eq!(
        told[0].1["status"]["conditions"][0]["message"],
        "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: \
         1 Preemption is not helpful for scheduling."
    );
    stage.node("1");
    tokio::time::advance(Duration::from_secs(1)).await;
    stage.run().await;
    assert_eq!(stage.requests("/binding").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn pods_may_be_left_to_another_scheduler_and_still_take_their_room() {
    let mut stage = Stage::new(|_, _, _| None);
    stage.driver.config.pods = false;
    stage.node("1");
    stage.pod(&pod("a", "600m"));
    stage.run().await;
    assert!(stage.requests("/").is_empty(), "nothing is said of it either");
    stage.pod(&on_node(pod("a", "600m")));
    stage.pod(&on_node(pod("b", "300m")));
    let taken: Vec<_> = ["a", "b"].map(|uid| stage.driver.snapshot.node_of(uid)).into_iter().collect();
    assert_eq!(taken, [Some("n1"), Some("n1")]);
}

fn important(name: &str, cpu: &str, priority: i32) -> Value {
    let mut pod = pod(name, cpu);
    pod["spec"]["priority"] = priority.into();
    pod
}

/// What the Pod's condition says, the last time that it was written.
fn told(stage: &Stage, name: &str) -> Value {
    let written = stage.requests(&format!("/pods/{name}/status"));
    let last = written.iter().rfind(|(_, body)| body["status"]["conditions"].is_array());
    last.map_or(Value::Null, |(_, body)| body["status"]["conditions"][0]["message"].clone())
}

#[tokio::test(start_paused = true)]
async fn a_more_important_pod_has_another_leave_waits_for_that_and_keeps_the_room() {
    let mut stage = Stage::new(|_, _, _| None);
    stage.node("1");
    stage.pod(&on_node(pod("low", "600m")));
    stage.pod(&important("p", "600m", 1000));
    stage.run().await;
    let nominated = json!({"metadata": {"uid": "p"}, "status": {"nominatedNodeName": "n1"}});
    let written = stage.requests("/pods/p/status");
    assert_eq!(written[0].1, nominated);
    let condition = &written[1].1["status"]["conditions"][0];
    assert_eq!(condition["message"], "0/1 nodes are available: 1 Insufficient cpu.");
    let ended = stage.requests("/pods/low");
    let condition = &ended[0].1["status"]["conditions"][0];
    assert_eq!(
        (&condition["type"], &condition["status"], &condition["reason"], &condition["message"]),
        (
            &json!("DisruptionTarget"),
            &json!("True"),
            &json!("PreemptionByScheduler"),
            &json!("default-scheduler: preempting to accommodate a higher priority pod")
        )
    );
    assert_eq!((ended.len(), ended[1].0.as_str()), (2, "DELETE /api/v1/namespaces/demo/pods/low"));
    assert_eq!(ended[1].1["preconditions"]["uid"], "low");
    let events = stage.requests("/events");
    let preempted = events.iter().find(|(_, event)| event["reason"] == "Preempted").unwrap();
    assert_eq!(preempted.1["message"], "Preempted by pod p on node n1");
    assert_eq!(preempted.1["involvedObject"]["name"], "low");

    // It is looked at again before the other is gone, and one that is less important comes.
    tokio::time::advance(Duration::from_secs(20)).await;
    stage.driver.queue.wake(ANY_FILTER, Instant::now());
    stage.pod(&important("m", "500m", 500));
    stage.run().await;
    let short = "0/1 nodes are available: 1 Insufficient cpu.";
    let waits = "preemption: not eligible due to a terminating pod on the nominated node.";
    assert_eq!(told(&stage, "p"), format!("{short} {waits}"));
    assert_eq!(told(&stage, "m"), format!("{short} preemption: {short}"));
    assert!(stage.requests("/pods/low").is_empty(), "nobody is told twice");

    stage.driver.on_pod(&Change::Deleted(Arc::new(from_value(on_node(pod("low", "600m"))).unwrap())));
    tokio::time::advance(Duration::from_secs(20)).await;
    stage.run().await;
    let binds: Vec<String> = stage.requests("/binding").into_iter().map(|(request, _)| request).collect();
    assert_eq!(binds, ["POST /api/v1/namespaces/demo/pods/p/binding"]);
}

#[tokio::test(start_paused = true)]
async fn a_nomination_is_taken_back_when_it_helps_no_more_or_a_more_important_pod_comes() {
    let mut stage = Stage::new(|_, _, _| None);
    stage.node("1");
    stage.pod(&on_node(important("high", "600m", 1000)));
    let mut nominated = important("p", "600m", 500);
    nominated["status"]["nominatedNodeName"] = "n1".into();
    stage.pod(&nominated);
    stage.run().await;
    let none = json!({"metadata": {"uid": "p"}, "status": {"nominatedNodeName": null}});
    let cleared = |stage: &Stage| stage.requests("/pods/p/status").iter().any(|(_, body)| *body == none);
    assert!(cleared(&stage));

    let mut stage = Stage::new(|_, _, _| None);
    stage.node("1");
    let mut leaving = on_node(pod("low", "600m"));
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"});
    leaving["status"]["conditions"] = json!([condition]);
    stage.pod(&leaving);
    stage.pod(&nominated);
    stage.run().await;
    assert!(!cleared(&stage), "it waits");
    stage.pod(&important("higher", "600m", 1000));
    stage.run().await;
    assert!(cleared(&stage));
    assert_eq!(stage.requests("/pods/higher/status")[0].1["status"]["nominatedNodeName"], "n1");
    assert!(
        stage.requests("DELETE").is_empty() && stage.requests("/pods/low").is_empty(),
        "it leaves already"
    );
}

#[tokio::test(start_paused = true)]
async fn room_that_is_kept_for_a_pod_is_free_when_it_goes() {
    let mut stage = Stage::new(|_, _, _| None);
    stage.node("1");
    stage.pod(&on_node(pod("low", "600m")));
    stage.pod(&important("p", "600m", 1000));
    stage.run().await;
    stage.driver.on_pod(&Change::Deleted(Arc::new(from_value(on_node(pod("low", "600m"))).unwrap())));
    stage.pod(&important("m", "600m", 500));
    // The one it was made for is not looked at before the other.
    stage.driver.queue.remove("p");
    stage.run().await;
    assert!(stage.requests("/binding").is_empty(), "the room is kept");
    stage.driver.on_pod(&Change::Deleted(Arc::new(from_value(important("p", "600m", 1000)).unwrap())));
    tokio::time::advance(Duration::from_secs(20)).await;
    stage.run().await;
    assert_eq!(stage.requests("/binding")[0].0, "POST /api/v1/namespaces/demo/pods/m/binding");
}

#[tokio::test(start_paused = true)]
async fn a_claim_for_one_pod_alone_is_free_when_that_pod_goes() {
    let mut stage = Stage::new(|_, _, _| None);
    stage.node("1");
    let claim = json!({"metadata": {"name": "data", "namespace": "demo", "uid": "data"},
        "spec": {"accessModes": ["ReadWriteOncePod"], "volumeName": "v"}, "status": {"phase": "Bound"}});
    let mut claim: PersistentVolumeClaim = from_value(claim).unwrap();
    claim.metadata.annotations =
        Some([("pv.kubernetes.io/bind-completed".to_owned(), "yes".to_owned())].into());
    stage.driver.on_claim(&Change::Applied(Arc::new(claim)));
    let volume = json!({"metadata": {"name": "v"}, "spec": {"accessModes": ["ReadWriteOncePod"],
        "claimRef": {"namespace": "demo", "name": "data", "uid": "data"}}});
    stage.driver.on_persistent(&Change::Applied(Arc::new(from_value(volume).unwrap())));
    let with_claim = |mut pod: Value| {
        pod["spec"]["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]);
        pod
    };
    let low = on_node(with_claim(pod("low", "100m")));
    stage.pod(&low);
    stage.pod(&with_claim(important("p", "100m", 1000)));
    stage.run().await;
    assert_eq!(stage.requests("/pods/low").len(), 2, "it is told to leave");
    assert!(stage.requests("/binding").is_empty());
    stage.driver.on_pod(&Change::Deleted(Arc::new(from_value(low).unwrap())));
    tokio::time::advance(Duration::from_secs(20)).await;
    stage.run().await;
    assert_eq!(stage.requests("/binding")[0].0, "POST /api/v1/namespaces/demo/pods/p/binding");
}

#[tokio::test(start_paused = true)]
async fn nobody_leaves_for_a_pod_that_is_gone() {
    let mut stage = Stage::new(|_, path, _| match path {
        path if path.ends_with("/pods/p/status") => status(404, "NotFound"),
        _ => None,
    });
    stage.node("1");
    stage.pod(&on_node(pod("low", "600m")));
    stage.pod(&important("p", "600m", 1000));
    stage.run().await;
    assert!(stage.requests("/pods/low").is_empty());
    // The one that stays may be asked to leave for another.
    stage.pod(&important("q", "600m", 1000));
    stage.run().await;
    assert_eq!(stage.requests("/pods/low").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_can_not_be_told_to_leave_is_told_again() {
    let fails = Arc::new(Mutex::new(true));
    let failing = fails.clone();
    let mut stage = Stage::new(move |method, _, _| match method {
        &Method::DELETE if *failing.lock().unwrap() => status(403, "Forbidden"),
        _ => None,
    });
    stage.node("1");
    stage.pod(&on_node(pod("low", "600m")));
    stage.pod(&important("p", "600m", 1000));
    stage.run().await;
    assert!(stage.requests("/events").iter().all(|(_, event)| event["reason"] != "Preempted"));
    *fails.lock().unwrap() = false;
    tokio::time::advance(Duration::from_millis(100)).await;
    stage.run().await;
    assert!(stage.requests("/events").iter().any(|(_, event)| event["reason"] == "Preempted"));
}
