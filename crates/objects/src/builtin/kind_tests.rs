//! Each kind that makes pods, holds data or says what may be disrupted: its defaults, what it refuses, and
//! what may change in it.

use serde_json::{Value, json};

use crate::builtin::tests::{created, from_yaml, kind};
use crate::{ApiError, Object};

const POD: &str =
    "{metadata: {labels: {app: x}}, spec: {restartPolicy: POLICY, containers: [{name: c, image: 'i:1'}]}}";

fn workload(api_version: &str, kind: &str, spec: &str, policy: &str) -> Object {
    from_yaml(&format!(
        "{{apiVersion: {api_version}, kind: {kind}, metadata: {{name: x}}, spec: {{{spec}template: {}}}}}",
        POD.replace("POLICY", policy)
    ))
}

fn apps(kind: &str) -> Object {
    workload("apps/v1", kind, "selector: {matchLabels: {app: x}}, ", "Always")
}

fn job() -> Object {
    let mut job = workload("batch/v1", "Job", "", "Never");
    job["metadata"]["uid"] = json!("u-1");
    job
}

/// What is said of an object with one value changed.
fn refused(object: &Object, pointer: &str, value: Value) -> String {
    let mut object = object.clone();
    put(&mut object, pointer, value);
    let name = object["kind"].as_str().unwrap().to_owned();
    created(&kind(&name), object).unwrap_err().message().to_owned()
}

fn put(object: &mut Value, pointer: &str, value: Value) {
    let mut at = object;
    for key in pointer.split('/').skip(1) {
        at = match key.parse::<usize>() {
            Ok(index) if at.is_array() => &mut at[index],
            _ => &mut at[key],
        };
    }
    *at = value;
}

/// Updates an object as the registry does it.
fn updated(old: &Object, change: impl FnOnce(&mut Object)) -> Result<Object, ApiError> {
    let descriptor = kind(old["kind"].as_str().unwrap());
    let mut new = old.clone();
    change(&mut new);
    descriptor.default(&mut new);
    descriptor.prepare_update(&mut new, old);
    descriptor.validate_update(&new, old)?;
    Ok(new)
}

/// Changes the status of an object as the registry does it.
fn status_updated(old: &Object, status: Value) -> Result<Object, ApiError> {
    let descriptor = kind(old["kind"].as_str().unwrap());
    let mut new = old.clone();
    new["status"] = status;
    descriptor.prepare_status_update(&mut new, old);
    descriptor.validate_status_update(&new, old)?;
    Ok(new)
}

fn all_refused(object: &Object, cases: &[(&str, Value, &str)]) {
    for (pointer, value, wanted) in cases {
        let message = refused(object, pointer, value.clone());
        assert!(message.contains(wanted), "{pointer}: {message}");
    }
}

#[test]
fn stateful_sets() {
    let set = created(&kind("StatefulSet"), apps("StatefulSet")).unwrap();
    let spec = &set["spec"];
    assert_eq!(spec["podManagementPolicy"], "OrderedReady");
    assert_eq!(spec["updateStrategy"], json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}));
    assert_eq!(
        spec["persistentVolumeClaimRetentionPolicy"],
        json!({"whenDeleted": "Retain", "whenScaled": "Retain"})
    );
    assert_eq!([&spec["replicas"], &spec["revisionHistoryLimit"]], [1, 10]);
    all_refused(
        &apps("StatefulSet"),
        &[
            ("/spec/podManagementPolicy", json!("Any"), "must be 'OrderedReady' or 'Parallel'"),
            ("/spec/updateStrategy", json!({"type": "No"}), "must be 'RollingUpdate' or 'OnDelete'"),
            (
                "/spec/updateStrategy",
                json!({"type": "OnDelete", "rollingUpdate": {}}),
                "only allowed for updateStrategy 'RollingUpdate'",
            ),
            (
                "/spec/replicas",
                json!(-1),
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            ),
            ("/spec/serviceName", json!("A_b"), "spec.serviceName: Invalid value"),
            ("/spec/selector", json!({}), "empty selector is invalid for statefulset"),
            ("/spec/template/spec/restartPolicy", json!("Never"), "supported values: \"Always\""),
            (
                "/spec/template/spec/activeDeadlineSeconds",
                json!(5),
                "activeDeadlineSeconds in StatefulSet is not Supported",
            ),
            (
                "/spec/persistentVolumeClaimRetentionPolicy",
                json!({"whenScaled": "Burn"}),
                "spec.persistentVolumeClaimRetentionPolicy.whenScaled: Unsupported value: \"Burn\"",
            ),
            (
                "/spec/volumeClaimTemplates",
                json!([{"metadata": {"name": "d"}, "spec": {}}]),
                "spec.volumeClaimTemplates[0].spec.accessModes: Required value",
            ),
        ],
    );
    assert!(updated(&set, |new| new["spec"]["replicas"] = json!(3)).is_ok());
    let error = updated(&set, |new| new["spec"]["serviceName"] = json!("b")).unwrap_err();
    assert!(error.message().contains("updates to statefulset spec for fields other than"), "{error:?}");
    let error = status_updated(&set, json!({"replicas": 1, "readyReplicas": 2})).unwrap_err();
    assert!(
        error.message().contains("status.readyReplicas: Invalid value: 2: cannot be greater"),
        "{error:?}"
    );
}

#[test]
fn a_stateful_set_may_mount_its_claims() {
    let mut set = apps("StatefulSet");
    set["spec"]["volumeClaimTemplates"] = json!([{
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }]);
    set["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "data", "mountPath": "/d"}]);
    set["spec"]["ordinals"] = json!({});
    let made = created(&kind("StatefulSet"), set.clone()).unwrap();
    assert_eq!(made["spec"]["ordinals"], json!({"start": 0}));
    assert_eq!(made["spec"]["volumeClaimTemplates"][0]["spec"]["volumeMode"], "Filesystem");
    let message = refused(&set, "/spec/template/spec/containers/0/volumeMounts/0/name", json!("other"));
    assert!(message.contains("volumeMounts[0].name: Not found: \"other\""), "{message}");
}

#[test]
fn daemon_sets() {
    let set = created(&kind("DaemonSet"), apps("DaemonSet")).unwrap();
    assert_eq!(
        set["spec"]["updateStrategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}})
    );
    let counter =
        |set: &Object| set["metadata"]["annotations"]["deprecated.daemonset.template.generation"].clone();
    assert_eq!(counter(&set), "1");
    let kept = updated(&set, |new| new["spec"]["minReadySeconds"] = json!(5)).unwrap();
    assert_eq!(counter(&kept), "1");
    let changed =
        updated(&set, |new| new["spec"]["template"]["spec"]["containers"][0]["image"] = json!("i:2"))
            .unwrap();
    assert_eq!(counter(&changed), "2");
    assert_eq!(changed["metadata"]["generation"], 2);
    all_refused(
        &apps("DaemonSet"),
        &[
            (
                "/spec/updateStrategy",
                json!({"rollingUpdate": {"maxUnavailable": 1, "maxSurge": 1}}),
                "may not be set when maxUnavailable is non-zero",
            ),
            (
                "/spec/updateStrategy",
                json!({"rollingUpdate": {"maxUnavailable": 0}}),
                "spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0",
            ),
            ("/spec/selector", Value::Null, "`selector` does not match template `labels`"),
        ],
    );
    let error = updated(&set, |new| new["spec"]["selector"] = json!({"matchLabels": {"app": "x", "b": "c"}}));
    assert!(error.unwrap_err().message().contains("field is immutable"));
}

#[test]
fn replication_controllers() {
    let made = workload("v1", "ReplicationController", "", "Always");
    let controller = created(&kind("ReplicationController"), made.clone()).unwrap();
    assert_eq!(controller["spec"]["selector"], json!({"app": "x"}));
    assert_eq!(controller["metadata"]["labels"], json!({"app": "x"}));
    assert_eq!(controller["spec"]["replicas"], 1);
    all_refused(
        &made,
        &[
            ("/spec/selector", json!({"app": "y"}), "`selector` does not match template `labels`"),
            ("/spec/template/spec/restartPolicy", json!("Never"), "supported values: \"Always\""),
        ],
    );
    let scale = crate::scale::to_scale(&kind("ReplicationController"), &controller).unwrap();
    assert_eq!(scale["status"]["selector"], "app=x");
}

#[test]
fn controller_revisions() {
    let revision = from_yaml(
        "{apiVersion: apps/v1, kind: ControllerRevision, metadata: {name: x}, revision: 1, data: {a: 1}}",
    );
    let made = created(&kind("ControllerRevision"), revision.clone()).unwrap();
    all_refused(
        &revision,
        &[
            ("/data", Value::Null, "data: Required value: data is mandatory"),
            ("/revision", json!(-1), "revision: Invalid value: -1: must be greater than or equal to 0"),
        ],
    );
    assert!(updated(&made, |new| new["revision"] = json!(2)).is_ok());
    assert!(updated(&made, |new| new["data"] = json!({"a": 2})).is_err());
}

#[test]
fn a_job_gets_its_selector_and_labels() {
    let made = created(&kind("Job"), job()).unwrap();
    let spec = &made["spec"];
    assert_eq!(spec["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u-1"}}));
    assert_eq!(
        spec["template"]["metadata"]["labels"],
        json!({
            "app": "x", "job-name": "x", "batch.kubernetes.io/job-name": "x",
            "controller-uid": "u-1", "batch.kubernetes.io/controller-uid": "u-1",
        })
    );
    assert_eq!(made["metadata"]["labels"], spec["template"]["metadata"]["labels"], "found as its pods are");
    let mut labelled = job();
    labelled["metadata"]["labels"] = json!({"own": "l"});
    let labelled = created(&kind("Job"), labelled).unwrap();
    assert_eq!(labelled["metadata"]["labels"], json!({"own": "l"}));
    assert_eq!([&spec["completions"], &spec["parallelism"], &spec["backoffLimit"]], [1, 1, 6]);
    assert_eq!(
        [&spec["completionMode"], &spec["podReplacementPolicy"]],
        ["NonIndexed", "TerminatingOrFailed"]
    );
    assert_eq!([&spec["suspend"], &spec["manualSelector"]], [false, false]);
    let mut manual = job();
    manual["spec"]["manualSelector"] = json!(true);
    manual["spec"]["selector"] = json!({"matchLabels": {"app": "x"}});
    let made = created(&kind("Job"), manual).unwrap();
    assert_eq!(made["spec"]["template"]["metadata"]["labels"], json!({"app": "x"}));
    assert_eq!(made["metadata"]["labels"], json!({"app": "x"}));
}

#[test]
fn bad_jobs_are_refused() {
    let name = "x".repeat(62);
    let indexed = |more: Value| {
        let mut spec = job()["spec"].clone();
        spec["completionMode"] = json!("Indexed");
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    all_refused(
        &job(),
        &[
            ("/spec/parallelism", json!(-1), "spec.parallelism: Invalid value: -1"),
            (
                "/spec/template/spec/restartPolicy",
                json!("Always"),
                "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
            ),
            ("/spec/backoffLimitPerIndex", json!(1), "requires indexed completion mode"),
            ("/spec/selector", json!({"matchLabels": {"a": "b"}}), "`selector` not auto-generated"),
            ("/spec/template/metadata/labels/job-name", json!("y"), "labels[job-name]: Invalid value"),
            ("/spec/managedBy", json!("me"), "must be a domain-prefixed path"),
            ("/spec", indexed(json!({"parallelism": 1})), "when completion mode is Indexed"),
            (
                "/spec",
                indexed(json!({"completions": 2, "successPolicy": {"rules": [{"succeededIndexes": "0-5"}]}})),
                "error parsing succeededIndexes: too large index: \"5\"",
            ),
            (
                "/spec/podFailurePolicy",
                json!({"rules": [{"action": "Run"}]}),
                "spec.podFailurePolicy.rules[0].action: Unsupported value: \"Run\"",
            ),
            (
                "/spec/podFailurePolicy",
                json!({"rules": [{"action": "Ignore", "onExitCodes": {"operator": "In", "values": [0, 3, 2]}}]}),
                "values[0]: Invalid value: 0: must not be 0 for the In operator",
            ),
        ],
    );
    let mut long = job();
    long["metadata"]["name"] = json!(name);
    long["spec"] = indexed(json!({"completions": 20}));
    let error = created(&kind("Job"), long).unwrap_err();
    assert!(error.message().contains("will not able to create pod with invalid DNS label"), "{error:?}");
}

#[test]
fn what_may_change_in_a_job() {
    let old = created(&kind("Job"), job()).unwrap();
    assert!(updated(&old, |new| new["spec"]["parallelism"] = json!(5)).is_ok());
    assert!(updated(&old, |new| new["spec"]["suspend"] = json!(true)).is_ok());
    for (pointer, value) in [
        ("/spec/completions", json!(2)),
        ("/spec/completionMode", json!("Indexed")),
        ("/spec/template/spec/containers/0/image", json!("i:2")),
        ("/spec/template/spec/nodeSelector", json!({"a": "b"})),
        ("/spec/selector", json!({"matchLabels": {"app": "x"}})),
    ] {
        let error = updated(&old, |new| put(new, pointer, value)).unwrap_err();
        assert!(error.message().contains("field is immutable"), "{pointer}: {error:?}");
    }
    let parked = updated(&old, |new| new["spec"]["suspend"] = json!(true)).unwrap();
    let resources = json!({"requests": {"cpu": "1"}});
    assert!(updated(&parked, |new| put(new, "/spec/template/spec/nodeSelector", json!({"a": "b"}))).is_ok());
    assert!(
        updated(&parked, |new| put(new, "/spec/template/spec/containers/0/resources", resources)).is_ok()
    );
    assert!(
        updated(&parked, |new| put(new, "/spec/template/spec/containers/0/image", json!("i:2"))).is_err()
    );
}

#[test]
fn the_status_of_a_job_goes_forward() {
    let old = created(&kind("Job"), job()).unwrap();
    let running = status_updated(&old, json!({"active": 1, "startTime": "2026-01-01T00:00:00Z"})).unwrap();
    let condition = |kind: &str| json!({"type": kind, "status": "True"});
    let done = json!({
        "succeeded": 1, "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:01:05Z",
        "conditions": [condition("SuccessCriteriaMet"), condition("Complete")],
    });
    let complete = status_updated(&running, done.clone()).unwrap();
    let now = "2026-01-01T01:00:00Z".parse().unwrap();
    let cells = kind("Job").cells.unwrap()(&complete, now);
    assert_eq!(cells[1..4], [json!("Complete"), json!("1/1"), json!("65s")]);
    for (pointer, value, why) in [
        ("/active", json!(1), "active>0 is invalid for finished job"),
        ("/completionTime", Value::Null, "completionTime is required for Complete jobs"),
        ("/completionTime", json!("2025-01-01T00:00:00Z"), "must be equal to or after `startTime`"),
        ("/conditions", json!([condition("Complete")]), "without the SuccessCriteriaMet=true condition"),
        ("/startTime", json!("2026-01-01T00:00:01Z"), "field is immutable for unsuspended job once set"),
        ("/completedIndexes", json!("1"), "cannot set non-empty completedIndexes when non-indexed"),
    ] {
        let mut status = done.clone();
        put(&mut status, pointer, value);
        let error = status_updated(&running, status).unwrap_err();
        assert!(error.message().contains(why), "{pointer}: {error:?}");
    }
    let error = status_updated(&complete, json!({"startTime": "2026-01-01T00:00:00Z"})).unwrap_err();
    for why in
        ["cannot disable the terminal Complete=True condition", "cannot decrease the succeeded counter"]
    {
        assert!(error.message().contains(why), "{error:?}");
    }
}

#[test]
fn cron_jobs() {
    let text = "{apiVersion: batch/v1, kind: CronJob, metadata: {name: x}, spec: {schedule: '*/5 * * * *', timeZone: UTC, jobTemplate: {spec: {template: POD}}}}";
    let cron = from_yaml(&text.replace("POD", &POD.replace("POLICY", "OnFailure")));
    let made = created(&kind("CronJob"), cron.clone()).unwrap();
    let spec = &made["spec"];
    assert_eq!([&spec["successfulJobsHistoryLimit"], &spec["failedJobsHistoryLimit"]], [3, 1]);
    assert_eq!([&spec["concurrencyPolicy"], &spec["suspend"]], [&json!("Allow"), &json!(false)]);
    assert_eq!(spec["jobTemplate"]["spec"]["template"]["spec"]["dnsPolicy"], "ClusterFirst");
    assert_eq!([&spec["jobTemplate"]["metadata"], &made["status"]], [&json!({}), &json!({})]);
    all_refused(
        &cron,
        &[
            ("/spec/schedule", json!("61 * * * *"), "end of range (61) above maximum (59): 61"),
            ("/spec/schedule", json!("TZ=UTC * * * * *"), "cannot use TZ or CRON_TZ in schedule"),
            ("/spec/timeZone", json!("Mars/Olympus"), "unknown time zone Mars/Olympus"),
            ("/spec/timeZone", json!(""), "timeZone must be nil or non-empty string"),
            (
                "/spec/concurrencyPolicy",
                json!("Never"),
                "spec.concurrencyPolicy: Unsupported value: \"Never\"",
            ),
            (
                "/spec/jobTemplate/spec/selector",
                json!({"matchLabels": {"a": "b"}}),
                "spec.jobTemplate.spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\"}}: `selector` will be auto-generated",
            ),
            ("/metadata/name", json!("x".repeat(53)), "must be no more than 52 characters"),
            (
                "/spec/jobTemplate/spec/template/spec/containers",
                json!([]),
                "spec.jobTemplate.spec.template.spec.containers: Required value",
            ),
        ],
    );
}

#[test]
fn budgets() {
    let budget = from_yaml(
        "{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: x}, spec: {minAvailable: 50%, selector: {matchLabels: {a: b}}}}",
    );
    let made = created(&kind("PodDisruptionBudget"), budget.clone()).unwrap();
    let cells = kind("PodDisruptionBudget").cells.unwrap()(&made, jiff::Timestamp::UNIX_EPOCH);
    assert_eq!(cells[1..4], [json!("50%"), json!("N/A"), json!(0)]);
    all_refused(
        &budget,
        &[
            ("/spec/maxUnavailable", json!(1), "minAvailable and maxUnavailable cannot be both set"),
            ("/spec/minAvailable", json!("150%"), "must not be greater than 100%"),
            ("/spec/minAvailable", json!(-1), "must be greater than or equal to 0"),
            (
                "/spec/unhealthyPodEvictionPolicy",
                json!("Maybe"),
                "supported values: \"AlwaysAllow\", \"IfHealthyBudget\"",
            ),
        ],
    );
    assert!(status_updated(&made, json!({"currentHealthy": -1})).is_err());
}

#[test]
fn persistent_volumes() {
    let volume = from_yaml(
        "{apiVersion: v1, kind: PersistentVolume, metadata: {name: x}, spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce, ReadOnlyMany], hostPath: {path: /d}}}",
    );
    let made = created(&kind("PersistentVolume"), volume.clone()).unwrap();
    assert_eq!(made["status"]["phase"], "Pending");
    assert_eq!(made["spec"]["persistentVolumeReclaimPolicy"], "Retain");
    let cells = kind("PersistentVolume").cells.unwrap()(&made, jiff::Timestamp::UNIX_EPOCH);
    assert_eq!(cells[1..5], [json!("1Gi"), json!("RWO,ROX"), json!("Retain"), json!("Pending")]);
    all_refused(
        &volume,
        &[
            ("/spec/accessModes", json!([]), "spec.accessModes: Required value"),
            ("/spec/accessModes", json!(["All"]), "spec.accessModes: Unsupported value: \"All\""),
            (
                "/spec/accessModes",
                json!(["ReadWriteOncePod", "ReadWriteOnce"]),
                "may not use ReadWriteOncePod with other access modes",
            ),
            (
                "/spec/capacity",
                json!({"storage": "0"}),
                "spec.capacity[storage]: Invalid value: \"0\": must be greater than zero",
            ),
            ("/spec/hostPath", Value::Null, "spec: Required value: must specify a volume type"),
            ("/spec/hostPath/path", json!("/a/../b"), "must not contain '..'"),
            (
                "/spec/nfs",
                json!({"server": "s", "path": "/"}),
                "spec.nfs: Forbidden: may not specify more than 1 volume type",
            ),
            ("/spec/local", json!({"path": "/x"}), "Local volume requires node affinity"),
            (
                "/spec/nodeAffinity",
                json!({"required": {"nodeSelectorTerms": []}}),
                "must have at least one node selector term",
            ),
        ],
    );
    assert!(updated(&made, |new| new["spec"]["persistentVolumeReclaimPolicy"] = json!("Delete")).is_ok());
    let error = updated(&made, |new| new["spec"]["hostPath"]["path"] = json!("/e")).unwrap_err();
    assert!(error.message().contains("spec.persistentvolumesource is immutable after creation"), "{error:?}");
}

#[test]
fn claims() {
    let claim = from_yaml(
        "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: x}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}",
    );
    let made = created(&kind("PersistentVolumeClaim"), claim.clone()).unwrap();
    assert_eq!(made["status"], json!({"phase": "Pending"}));
    assert_eq!(made["spec"]["volumeMode"], "Filesystem");
    all_refused(
        &claim,
        &[
            ("/spec/accessModes", json!([]), "at least 1 access mode is required"),
            ("/spec/resources", json!({}), "spec.resources[storage]: Required value"),
            ("/spec/storageClassName", json!("A_b"), "spec.storageClassName: Invalid value"),
            ("/spec/volumeMode", json!("Tape"), "spec.volumeMode: Unsupported value: \"Tape\""),
            (
                "/spec/dataSourceRef",
                json!({"kind": "Pod", "name": "x"}),
                "must be 'PersistentVolumeClaim' when referencing",
            ),
        ],
    );
    // The older field never named anything else, and is not heard where it does.
    let mut other = claim.clone();
    other["spec"]["dataSource"] = json!({"kind": "Pod", "name": "x"});
    assert_eq!(created(&kind("PersistentVolumeClaim"), other).unwrap()["spec"], made["spec"]);
    assert!(updated(&made, |new| new["spec"]["volumeName"] = json!("v")).is_ok());
    let grow = |new: &mut Object| new["spec"]["resources"]["requests"]["storage"] = json!("2Gi");
    let error = updated(&made, grow).unwrap_err();
    assert!(error.message().contains("spec is immutable after creation except"), "{error:?}");
    let bound = json!({"phase": "Bound", "capacity": {"storage": "1Gi"}});
    let bound = status_updated(&made, bound).unwrap();
    let grown = updated(&bound, grow).unwrap();
    let shrunk = updated(&grown, |new| new["spec"]["resources"]["requests"]["storage"] = json!("1Gi"));
    assert!(shrunk.unwrap_err().message().contains("field can not be less than status.capacity"));
}

#[test]
fn endpoints_and_limit_ranges() {
    let endpoints = from_yaml(
        "{apiVersion: v1, kind: Endpoints, metadata: {name: x}, subsets: [{addresses: [{ip: 10.0.0.1}, {ip: 'fd00::1'}], ports: [{port: 80}]}]}",
    );
    let made = created(&kind("Endpoints"), endpoints.clone()).unwrap();
    assert_eq!(made["subsets"][0]["ports"][0]["protocol"], "TCP");
    let cells = kind("Endpoints").cells.unwrap()(&made, jiff::Timestamp::UNIX_EPOCH);
    assert_eq!(cells[1], "10.0.0.1:80,[fd00::1]:80");
    all_refused(
        &endpoints,
        &[
            ("/subsets/0/addresses", json!([]), "must specify `addresses` or `notReadyAddresses`"),
            ("/subsets/0/addresses/0/ip", json!("127.0.0.1"), "may not be in the loopback range"),
            ("/subsets/0/addresses/0/ip", json!("x"), "must be a valid IP address"),
            ("/subsets/0/ports/0/port", json!(0), "must be between 1 and 65535, inclusive"),
            (
                "/subsets/0/ports",
                json!([{"port": 1}, {"port": 2}]),
                "subsets[0].ports[0].name: Required value",
            ),
        ],
    );
    let range = from_yaml(
        "{apiVersion: v1, kind: LimitRange, metadata: {name: x}, spec: {limits: [{type: Container, max: {cpu: '2'}, min: {memory: 1Mi}}]}}",
    );
    let made = created(&kind("LimitRange"), range.clone()).unwrap();
    let limit = &made["spec"]["limits"][0];
    assert_eq!(
        [&limit["default"], &limit["defaultRequest"]],
        [&json!({"cpu": "2"}), &json!({"cpu": "2", "memory": "1Mi"})]
    );
    all_refused(
        &range,
        &[
            ("/spec/limits/0/type", json!("Node"), "must be a standard limit type or fully qualified"),
            ("/spec/limits/0/min", json!({"cpu": "3"}), "min value 3 is greater than max value 2"),
            ("/spec/limits/0/max", json!({"pods": "3"}), "must be a standard resource for containers"),
            ("/spec/limits/0/maxLimitRequestRatio", json!({"cpu": "500m"}), "ratio 500m is less than 1"),
        ],
    );
    let template = format!(
        "{{apiVersion: v1, kind: PodTemplate, metadata: {{name: x}}, template: {}}}",
        POD.replace("POLICY", "Always")
    );
    let made = created(&kind("PodTemplate"), from_yaml(&template)).unwrap();
    assert_eq!(made["template"]["spec"]["terminationGracePeriodSeconds"], 30);
}
