//! The real `kube-scheduler` and `kube-controller-manager`, unmodified, in place of the cloud's own: `KUBE_SCHEDULER` and
//! `KUBE_CONTROLLER_MANAGER` give their paths (`tests/conformance/peers.sh` builds them). Without both the test says that it is skipped.
#![forbid(unsafe_code)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use yunfan_tests::{Cloud, seconds};

/// What a program complains about where the API server is at fault, or where it asks for what no API server has here.
const COMPLAINTS: &[&str] = &[
    "could not find the requested resource",
    "Failed to watch",
    "failed to list",
    "unknown field",
    "decode",
    "unmarshal",
    "forbidden",
    "is invalid",
    "not supported",
    "panic",
    "watchlist",
];

/// What is said of a cluster without a metrics server, of features, and of events in a namespace that goes away.
const EXPECTED: &[&str] =
    &["metrics.k8s.io", "FeatureGate", "feature gate", "Server rejected event", "resource metrics API"];

/// One of the two programs; its end stops it.
struct Program {
    name: &'static str,
    log: PathBuf,
    process: Child,
}

impl Program {
    #[track_caller]
    fn start(cloud: &Cloud, path: &Path, name: &'static str, port: u16, arguments: &[&str]) -> Self {
        let log = cloud.work().join(format!("{name}.log"));
        let file = File::create(&log).expect("a log");
        let kubeconfig = cloud.data_dir().join("kubeconfig");
        let kubeconfig = kubeconfig.to_string_lossy();
        let process = Command::new(path)
            .args(["--kubeconfig", &kubeconfig, "--bind-address", "127.0.0.1"])
            .args(["--secure-port", &port.to_string(), "-v", "2"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a log"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", path.display()));
        Self { name, log, process }
    }

    /// Lines of its log that say that the API server is not what it expects.
    fn complaints(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.log).expect("the log");
        let errors = text.lines().filter(|line| line.starts_with(['E', 'W', 'F']));
        errors
            .filter(|line| COMPLAINTS.iter().any(|word| line.contains(word)))
            .filter(|line| !EXPECTED.iter().any(|word| line.contains(word)))
            .map(|line| format!("{}: {line}", self.name))
            .collect()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let text = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().filter(|line| line.starts_with(['E', 'W', 'F'])).collect();
            eprintln!("--- errors of {}\n{}", self.name, lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

fn path(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from)
}

/// `kubectl get` with a template, until it prints this.
#[track_caller]
fn becomes(cloud: &Cloud, what: &[&str], template: &str, wanted: &str) {
    let output = format!("jsonpath={template}");
    let asked = [&["get", "-o", &output][..], what].concat();
    cloud.until(&format!("{what:?} {template} is {wanted:?}"), seconds(90), || {
        let ran = cloud.kubectl(&asked);
        if ran.succeeded() && ran.stdout == wanted { Ok(()) } else { Err(ran.to_string()) }
    });
}

/// Waits until nothing is left of these.
#[track_caller]
fn gone(cloud: &Cloud, what: &[&str]) {
    becomes(
        cloud,
        &[what, &["--ignore-not-found"]].concat(),
        "{.items[*].metadata.name}{.metadata.name}",
        "",
    );
}

const TEMPLATE: &str = "containers: [{name: web, image: 'demo/web:1'}]";

#[test]
fn kubernetes_own_scheduler_and_controllers_run_a_cloud() {
    let (Some(scheduler), Some(manager)) = (path("KUBE_SCHEDULER"), path("KUBE_CONTROLLER_MANAGER")) else {
        eprintln!(
            "skipped: KUBE_SCHEDULER and KUBE_CONTROLLER_MANAGER do not give the paths of the two programs"
        );
        return;
    };
    let cloud = Cloud::builder().argument("--controllers=own").argument("--scheduler=own").start();
    cloud.import_web();
    cloud.web("default", "early", 1);
    let authority = cloud.authority();
    let ranges = [cloud.slot().cluster_cidr(), cloud.slot().service_cidr()];
    let manager = Program::start(
        &cloud,
        &manager,
        "kube-controller-manager",
        cloud.slot().port(2),
        &[
            "--root-ca-file",
            &authority.to_string_lossy(),
            "--allocate-node-cidrs",
            "--cluster-cidr",
            &ranges[0],
            "--service-cluster-ip-range",
            &ranges[1],
            "--node-cidr-mask-size",
            "24",
        ],
    );
    becomes(&cloud, &["deployment", "early"], "{.status.observedGeneration}", "1");
    becomes(&cloud, &["pods"], "{.items[*].spec.nodeName}", "");
    let scheduler = Program::start(&cloud, &scheduler, "kube-scheduler", cloud.slot().port(3), &[]);
    becomes(&cloud, &["deployment", "early"], "{.status.readyReplicas}", "1");
    for name in ["kube-scheduler", "kube-controller-manager"] {
        let lease = cloud.get(&["lease", "-n", "kube-system", name]);
        assert!(lease["spec"]["holderIdentity"].as_str().is_some_and(|holder| !holder.is_empty()), "{lease}");
    }
    workloads(&cloud);
    lifecycle(&cloud);
    let complaints = [scheduler.complaints(), manager.complaints()].concat();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// Each kind of workload does what it is for.
fn workloads(cloud: &Cloud) {
    becomes(cloud, &["endpoints", "early"], "{.subsets[*].ports[*].port}", "8080");
    let label = "kubernetes.io/service-name=early";
    becomes(cloud, &["endpointslices", "-l", label], "{.items[*].endpoints[*].conditions.ready}", "true");
    cloud.kubectl(&["scale", "deployment", "early", "--replicas", "2"]).ok();
    becomes(cloud, &["deployment", "early"], "{.status.readyReplicas}", "2");
    cloud.apply(&format!(
        "{{apiVersion: batch/v1, kind: Job, metadata: {{name: once}}, spec: {{completions: 2, template: {{spec: \
          {{restartPolicy: Never, containers: [{{name: c, image: 'demo/web:1', command: [sh, -c, 'exit 0']}}]}}}}}}}}\n---\n\
         {{apiVersion: batch/v1, kind: CronJob, metadata: {{name: often}}, spec: {{schedule: '* * * * *', jobTemplate: {{metadata: {{labels: {{by: often}}}}, spec: \
          {{template: {{spec: {{restartPolicy: Never, containers: [{{name: c, image: 'demo/web:1', command: [sh, -c, 'exit 0']}}]}}}}}}}}}}}}\n---\n\
         {{apiVersion: apps/v1, kind: StatefulSet, metadata: {{name: set}}, spec: {{replicas: 2, serviceName: set, \
          selector: {{matchLabels: {{app: set}}}}, template: {{metadata: {{labels: {{app: set}}}}, spec: {{{TEMPLATE}}}}}}}}}\n---\n\
         {{apiVersion: apps/v1, kind: DaemonSet, metadata: {{name: each}}, spec: {{\
          selector: {{matchLabels: {{app: each}}}}, template: {{metadata: {{labels: {{app: each}}}}, spec: {{{TEMPLATE}}}}}}}}}\n---\n\
         {{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {{name: two}}, spec: {{minAvailable: 1, \
          selector: {{matchLabels: {{app: set}}}}}}}}\n---\n\
         {{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {{name: early}}, spec: {{maxReplicas: 3, \
          scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: early}}}}}}\n"
    ));
    becomes(
        cloud,
        &["job", "once"],
        "{.status.succeeded} {.status.conditions[?(@.type=='Complete')].status}",
        "2 True",
    );
    becomes(cloud, &["statefulset", "set"], "{.status.readyReplicas} {.status.currentReplicas}", "2 2");
    let names = ["pods", "-l", "app=set", "--sort-by", "metadata.name"];
    becomes(cloud, &names, "{.items[*].metadata.name}", "set-0 set-1");
    becomes(cloud, &["daemonset", "each"], "{.status.numberReady}", "1");
    becomes(cloud, &["poddisruptionbudget", "two"], "{.status.disruptionsAllowed}", "1");
    let condition = "{.status.conditions[?(@.type=='ScalingActive')].reason}";
    becomes(cloud, &["horizontalpodautoscaler", "early"], condition, "FailedGetResourceMetric");
    // Its Job is made at the next full minute.
    let made = "{.items[0].metadata.ownerReferences[0].kind} {.items[0].status.succeeded}";
    becomes(cloud, &["jobs", "-l", "by=often"], made, "CronJob 1");
    let bound = cloud.get(&["events.v1.events.k8s.io", "--field-selector", "reason=Scheduled"]);
    let reporters: Vec<&Value> =
        bound["items"].as_array().into_iter().flatten().map(|event| &event["reportingController"]).collect();
    assert!(
        !reporters.is_empty() && reporters.iter().all(|name| *name == "default-scheduler"),
        "{reporters:?}"
    );
}

/// What is made with a namespace, and what goes with an owner or a namespace.
fn lifecycle(cloud: &Cloud) {
    cloud.kubectl(&["create", "namespace", "other"]).ok();
    becomes(cloud, &["serviceaccount", "-n", "other", "default"], "{.metadata.name}", "default");
    becomes(cloud, &["configmap", "-n", "other", "kube-root-ca.crt"], "{.metadata.name}", "kube-root-ca.crt");
    cloud.kubectl(&["create", "quota", "few", "-n", "other", "--hard", "pods=3"]).ok();
    becomes(
        cloud,
        &["resourcequota", "-n", "other", "few"],
        "{.status.hard.pods} {.status.used.pods}",
        "3 0",
    );
    cloud.web("other", "web", 2);
    becomes(cloud, &["deployment", "-n", "other", "web"], "{.status.readyReplicas}", "2");
    becomes(cloud, &["resourcequota", "-n", "other", "few"], "{.status.used.pods}", "2");
    cloud.kubectl(&["delete", "deployment", "early", "--cascade=orphan"]).ok();
    becomes(cloud, &["replicasets", "-l", "app=early"], "{.items[*].metadata.ownerReferences[*].kind}", "");
    cloud.kubectl(&["delete", "replicaset", "-l", "app=early", "--cascade=foreground"]).ok();
    gone(cloud, &["pods", "-l", "app=early"]);
    cloud.kubectl(&["delete", "job,cronjob,statefulset,daemonset", "--all"]).ok();
    gone(cloud, &["pods"]);
    cloud.kubectl(&["delete", "namespace", "other", "--timeout", "90s"]).ok();
    gone(cloud, &["namespace", "other"]);
}
