//! A Job's passes, with what a node would do to its Pods in between.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::backoff::Backoff;
use super::pass::{Pass, Work};

const NOW: &str = "2026-01-01T01:00:00Z";
/// Long enough ago for any wait to be over.
const LONG_AGO: &str = "2026-01-01T00:00:00Z";
const FINALIZER: &str = super::FINALIZER;

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn job(spec: Value, status: Value) -> Job {
    let mut spec = spec;
    for (key, value) in [("parallelism", json!(2)), ("completions", json!(3)), ("template", json!({}))] {
        if spec.get(key).is_none() {
            spec[key] = value;
        }
    }
    serde_json::from_value(
        json!({"metadata": {"name": "j", "namespace": "n", "uid": "u"}, "spec": spec, "status": status}),
    )
    .unwrap()
}

/// A Pod `NAME[@INDEX]:PHASE`, where the phase may be followed by `-` (is being deleted), `!` (is not held any more) and
/// `=CODE` (exit code).
fn pod(text: &str) -> Arc<Pod> {
    let (name, rest) = text.split_once(':').unwrap();
    let (rest, code) =
        rest.split_once('=').map_or((rest, None), |(rest, code)| (rest, code.parse::<i32>().ok()));
    let phase = rest.trim_end_matches(['-', '!']);
    let index = name.split_once('@').map(|(_, index)| index);
    let containers = code.map(|code| {
        json!([{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": code, "finishedAt": LONG_AGO}}}])
    });
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {
                "name": name, "namespace": "n", "uid": name, "creationTimestamp": LONG_AGO,
                "finalizers": if rest.contains('!') { json!([]) } else { json!([FINALIZER]) },
                "annotations": index.map(|index| json!({"batch.kubernetes.io/job-completion-index": index})),
                "deletionTimestamp": rest.contains('-').then_some(LONG_AGO),
            },
            "status": {"phase": phase, "containerStatuses": containers},
        }))
        .unwrap(),
    )
}

fn pods(texts: &[&str]) -> Vec<Arc<Pod>> {
    texts.iter().map(|text| pod(text)).collect()
}

/// What a pass decides, in few words.
fn decided(spec: Value, status: Value, texts: &[&str]) -> String {
    let job = job(spec, status);
    let pass = Pass::new(&job, job.spec.as_ref().unwrap(), pods(texts), Backoff::default(), now());
    if let Some(end) = &pass.end {
        return format!("{} {}", if end.success { "success" } else { "failure" }, end.reason);
    }
    match pass.work() {
        Work::Nothing => "nothing".to_owned(),
        Work::Wait(wait) => format!("wait {}", wait.as_secs()),
        Work::Delete(pods) => {
            let mut names: Vec<_> = pods.iter().filter_map(|pod| pod.metadata.name.clone()).collect();
            names.sort();
            format!("delete {}", names.join(" "))
        }
        Work::Create(slots) => {
            let indexes: Vec<String> = slots
                .iter()
                .map(|slot| slot.index.map_or("-".to_owned(), |index| index.to_string()))
                .collect();
            format!("create {}", indexes.join(" "))
        }
    }
}

#[test]
fn pods_are_made_and_taken_away() {
    let none = || json!({});
    let indexed = || json!({"completionMode": "Indexed"});
    for (spec, status, pods, expected) in [
        (none(), none(), &[][..], "create - -"),
        (none(), none(), &["a:Running"], "create -"),
        (none(), none(), &["a:Running", "b:Running"], "nothing"),
        (none(), none(), &["a:Running", "b:Running", "c:Pending"], "delete c"),
        (none(), none(), &["a:Succeeded", "b:Succeeded", "c:Running"], "nothing"),
        (none(), json!({"succeeded": 2}), &["a:Running", "b:Pending"], "delete b"),
        (json!({"completions": null}), none(), &["a:Running"], "create -"),
        (json!({"completions": null}), none(), &["a:Running", "b:Succeeded"], "nothing"),
        (json!({"suspend": true}), none(), &["a:Running"], "delete a"),
        // Only what ended is replaced, when that is asked for.
        (none(), none(), &["a:Running-", "b:Running"], "create -"),
        (json!({"podReplacementPolicy": "Failed"}), none(), &["a:Running-", "b:Running"], "nothing"),
        (indexed(), none(), &[], "create 0 1"),
        (indexed(), json!({"completedIndexes": "0"}), &["a@2:Running"], "create 1"),
        (indexed(), none(), &["a@0:Succeeded", "b@1:Running"], "create 2"),
        (indexed(), none(), &["a@0:Running", "b@0:Pending", "c@7:Running", "d:Running"], "delete b@0 c@7 d"),
    ] {
        assert_eq!(decided(spec.clone(), status, pods), expected, "{spec} {pods:?}");
    }
}

#[test]
fn jobs_end_as_their_limits_and_policies_say() {
    let exit = |action: &str| json!({"rules": [{"action": action, "onExitCodes": {"operator": "In", "values": [3]}}]});
    let per_index = |more: Value| {
        let mut spec = json!({"completionMode": "Indexed", "backoffLimitPerIndex": 0, "backoffLimit": 99});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    let deadline = json!({"activeDeadlineSeconds": 60});
    for (spec, status, pods, expected) in [
        (json!({"backoffLimit": 0}), json!({}), &["a:Failed"][..], "failure BackoffLimitExceeded"),
        (json!({"backoffLimit": 1}), json!({}), &["a:Failed"], "create - -"),
        (json!({"backoffLimit": 1}), json!({"failed": 1}), &["a:Failed!"], "create - -"),
        (json!({"backoffLimit": 1}), json!({"failed": 1}), &["a:Failed"], "failure BackoffLimitExceeded"),
        (json!({"backoffLimit": 0}), json!({}), &["a:Running-"], "failure BackoffLimitExceeded"),
        (
            json!({"backoffLimit": 0, "podReplacementPolicy": "Failed"}),
            json!({}),
            &["a:Running-", "b:Running"],
            "nothing",
        ),
        (
            json!({"backoffLimit": 0, "podFailurePolicy": exit("Ignore")}),
            json!({}),
            &["a:Failed=3"],
            "create - -",
        ),
        (
            json!({"podFailurePolicy": exit("FailJob")}),
            json!({}),
            &["a:Failed=3"],
            "failure PodFailurePolicy",
        ),
        (deadline.clone(), json!({"startTime": LONG_AGO}), &["a:Running"], "failure DeadlineExceeded"),
        (deadline, json!({"startTime": NOW}), &["a:Running"], "create -"),
        (per_index(json!({})), json!({}), &["a@0:Failed", "b@1:Running"], "create 2"),
        (
            per_index(json!({"maxFailedIndexes": 0})),
            json!({}),
            &["a@0:Failed", "b@1:Running"],
            "failure MaxFailedIndexesExceeded",
        ),
        (per_index(json!({})), json!({"completedIndexes": "1,2"}), &["a@0:Failed"], "failure FailedIndexes"),
        // The failed Pod's successor comes in its index.
        (
            per_index(json!({"backoffLimitPerIndex": 1})),
            json!({}),
            &["a@0:Failed", "b@1:Running"],
            "create 0",
        ),
        (
            per_index(json!({"backoffLimitPerIndex": 5, "podFailurePolicy": exit("FailIndex")})),
            json!({}),
            &["a@0:Failed=3", "b@1:Running"],
            "create 2",
        ),
        (
            json!({"completionMode": "Indexed", "successPolicy": {"rules": [{"succeededIndexes": "0"}]}}),
            json!({}),
            &["a@0:Succeeded", "b@1:Running"],
            "success SuccessPolicy",
        ),
    ] {
        assert_eq!(decided(spec.clone(), status, pods), expected, "{spec} {pods:?}");
    }
}

/// The status after the Pods are counted, and after those that may go were let go.
fn tracked(spec: Value, status: Value, texts: &[&str]) -> (Value, Value) {
    let job = job(spec, status);
    let mut pass = Pass::new(&job, job.spec.as_ref().unwrap(), pods(texts), Backoff::default(), now());
    if pass.end.is_some() {
        let active = pass.active.clone();
        pass.deleted(&active);
    } else {
        pass.ends_by_completions();
    }
    let mut counting = pass.count();
    let first = json!(pass.status);
    for pod in &counting.free {
        counting.held.remove(pod.metadata.uid.as_ref().unwrap());
    }
    pass.settle(&counting.held);
    pass.finish();
    (first, json!(pass.status))
}

fn conditions(status: &Value) -> Vec<&str> {
    status["conditions"].as_array().into_iter().flatten().filter_map(|c| c["type"].as_str()).collect()
}

#[test]
fn each_pod_is_counted_once() {
    let (first, last) = tracked(
        json!({}),
        json!({"succeeded": 1}),
        &["a:Succeeded", "b:Failed", "c:Running", "d:Succeeded!"],
    );
    assert_eq!(first["uncountedTerminatedPods"], json!({"succeeded": ["a"], "failed": ["b"]}));
    assert_eq!((&first["succeeded"], &first["active"], &first["ready"]), (&json!(1), &json!(1), &json!(0)));
    assert_eq!(last["uncountedTerminatedPods"], json!({}));
    assert_eq!((&last["succeeded"], &last["failed"]), (&json!(2), &json!(1)));
    // A pass that comes after the uids were written, but before the Pods were let go, counts none of them again.
    let (again, end) = tracked(json!({}), first, &["a:Succeeded", "b:Failed", "c:Running", "d:Succeeded!"]);
    assert_eq!(again["uncountedTerminatedPods"], json!({"succeeded": ["a"], "failed": ["b"]}));
    assert_eq!((&end["succeeded"], &end["failed"]), (&json!(2), &json!(1)));
}

#[test]
fn the_end_is_announced_before_it_comes() {
    let all = ["a:Succeeded", "b:Succeeded", "c:Succeeded"];
    let (first, last) = tracked(json!({}), json!({}), &all);
    assert_eq!(conditions(&first), ["SuccessCriteriaMet"]);
    assert_eq!(conditions(&last), ["SuccessCriteriaMet", "Complete"]);
    assert_eq!((&last["completionTime"], &last["succeeded"]), (&json!(NOW), &json!(3)));
    // A Pod that still runs delays the end, and fails with the Job.
    let (first, last) = tracked(json!({"backoffLimit": 0}), json!({}), &["a:Failed", "b:Running"]);
    assert_eq!(conditions(&first), ["FailureTarget"]);
    assert_eq!(conditions(&last), ["FailureTarget"]);
    assert_eq!((&last["failed"], &last["terminating"]), (&json!(2), &json!(1)));
    let (_, last) = tracked(json!({"backoffLimit": 0}), last, &["b:Failed!"]);
    assert_eq!(conditions(&last), ["FailureTarget", "Failed"]);
    assert!(last.get("completionTime").is_none());
}

#[test]
fn indexes_are_told_in_ranges() {
    let spec = json!({"completionMode": "Indexed", "completions": 6, "backoffLimitPerIndex": 0});
    let texts = ["a@1:Succeeded", "b@2:Succeeded", "c@3:Succeeded", "d@5:Failed", "e@0:Running"];
    let (_, status) = tracked(spec, json!({}), &texts);
    assert_eq!((&status["completedIndexes"], &status["failedIndexes"]), (&json!("1-3"), &json!("5")));
    assert_eq!((&status["succeeded"], &status["failed"]), (&json!(3), &json!(1)));
}

#[test]
fn a_suspended_job_starts_anew_when_it_goes_on() {
    let suspended = job(json!({"suspend": true}), json!({"startTime": LONG_AGO}));
    let mut pass =
        Pass::new(&suspended, suspended.spec.as_ref().unwrap(), Vec::new(), Backoff::default(), now());
    assert_eq!(pass.note_suspension(), Some(("Suspended", "Job suspended")));
    assert_eq!(pass.note_suspension(), None);
    assert!(pass.status.start_time.is_none());
    let resumed = job(json!({}), json!(pass.status));
    let mut pass = Pass::new(&resumed, resumed.spec.as_ref().unwrap(), Vec::new(), Backoff::default(), now());
    assert_eq!(pass.note_suspension(), Some(("Resumed", "Job resumed")));
    assert_eq!(json!(pass.status)["startTime"], NOW);
    assert_eq!(json!(pass.status)["conditions"][0]["status"], "False");
    let plain = job(json!({}), json!({}));
    let mut pass = Pass::new(&plain, plain.spec.as_ref().unwrap(), Vec::new(), Backoff::default(), now());
    assert_eq!(pass.note_suspension(), None);
}
