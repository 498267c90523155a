//! What nodes and Pods use, and Deployments that follow it, with the real clients.
#![forbid(unsafe_code)]

use yunfan_tests::{Cloud, run, seconds};

/// Busy while a file is there. Its limit is twice its request, so it uses four times what it should.
const BUSY: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: busy}
spec:
  replicas: 1
  selector: {matchLabels: {app: busy}}
  template:
    metadata: {labels: {app: busy}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: demo/web:1
        command: [sh, -c, 'while :; do if [ -e /tmp/busy ]; then :; else sleep 0.2; fi; done']
        resources: {requests: {cpu: 100m, memory: 16Mi}, limits: {cpu: 200m}}
      - name: idle
        image: demo/web:1
        command: [sh, -c, 'exec sleep 100000']
        resources: {requests: {cpu: 10m}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: busy}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: busy}
  minReplicas: 1
  maxReplicas: 3
  behavior: {scaleDown: {stabilizationWindowSeconds: 0}}
  metrics:
  - type: ContainerResource
    containerResource: {name: cpu, container: main, target: {type: Utilization, averageUtilization: 50}}
"#;

#[test]
fn a_deployment_follows_what_its_pods_use() {
    let cloud = Cloud::start();
    cloud.import_web();
    cloud.apply(BUSY);
    let pods = cloud.web_ready("default", "busy");
    let pod = pods[0]["metadata"]["name"].as_str().expect("a name").to_owned();
    tops(&cloud, &pod);
    scraped(&cloud, &pod);
    let settled = |what: &str, replicas: i64| {
        cloud.until(what, seconds(180), || {
            let deployment = cloud.get(&["deployment", "busy"]);
            if deployment["status"]["readyReplicas"] == replicas && deployment["spec"]["replicas"] == replicas
            {
                return Ok(());
            }
            let autoscaler = cloud.kubectl(&["describe", "hpa", "busy"]).ok();
            Err(format!("{}\n{autoscaler}", cloud.kubectl(&["top", "pods", "--containers"]).stdout))
        });
    };
    cloud.kubectl(&["exec", &pod, "-c", "main", "--", "touch", "/tmp/busy"]).ok();
    settled("there are more Pods", 3);
    let described = cloud.kubectl(&["describe", "hpa", "busy"]).ok();
    assert!(described.contains("SuccessfulRescale") && described.contains("above target"), "{described}");
    cloud.kubectl(&["exec", &pod, "-c", "main", "--", "rm", "/tmp/busy"]).ok();
    settled("there are fewer again", 1);
    let told = cloud.get(&["hpa", "busy"]);
    let conditions = told["status"]["conditions"].as_array().expect("conditions");
    assert!(conditions.iter().any(|one| one["type"] == "ScalingActive" && one["status"] == "True"), "{told}");
    let current = &told["status"]["currentMetrics"][0]["containerResource"];
    assert_eq!(current["container"], "main", "{told}");
}

/// `kubectl top`, and who may see it.
fn tops(cloud: &Cloud, pod: &str) {
    let shown = cloud.until("the Pod's use is known", seconds(90), || {
        let out = cloud.kubectl(&["top", "pod", "--containers", "--no-headers"]).stdout;
        if out.lines().count() == 2 { Ok(out) } else { Err(out) }
    });
    assert!(shown.lines().all(|line| line.starts_with(pod)) && shown.contains(" idle "), "{shown}");
    let node = cloud.kubectl(&["top", "node", "--no-headers"]).ok();
    let words: Vec<&str> = node.split_whitespace().collect();
    assert!(words.len() == 5 && words[1].ends_with('m') && words[3].ends_with("Mi"), "{node}");
    assert!(words[1] != "0m" && words[3] != "0Mi", "a node that does nothing is none: {node}");
    let table = cloud.kubectl(&["get", "pods.metrics.k8s.io"]).ok();
    assert!(table.starts_with("NAME") && table.contains("WINDOW") && table.contains(pod), "{table}");
    let may = |verb: &str| cloud.kubectl(&["auth", "can-i", verb, "pods.metrics.k8s.io", "--as=eve"]).stdout;
    assert_eq!(may("list").trim(), "no");
    cloud.kubectl(&["create", "rolebinding", "eve", "--clusterrole=view", "--user=eve"]).ok();
    cloud.until("whoever may view may see it", seconds(30), || match may("list").trim() {
        "yes" => Ok(()),
        other => Err(other.to_owned()),
    });
    // The counters of the node, as Prometheus takes them.
    let name = words[0];
    let text = cloud.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{name}/proxy/metrics/resource")]).ok();
    let counter = format!(
        "container_cpu_usage_seconds_total{{container=\"main\",namespace=\"default\",pod=\"{pod}\"}}"
    );
    assert!(text.contains(&counter) && text.contains("node_memory_working_set_bytes "), "{text}");
}

/// Prometheus comes to the node itself, with the token of its account.
fn scraped(cloud: &Cloud, pod: &str) {
    cloud.kubectl(&["create", "serviceaccount", "prometheus"]).ok();
    let node = cloud.get(&["nodes"])["items"][0]["status"].take();
    let address = node["addresses"][0]["address"].as_str().expect("an address").to_owned();
    let url = format!("https://{address}:{}", node["daemonEndpoints"]["kubeletEndpoint"]["Port"]);
    let token = cloud.kubectl(&["create", "token", "prometheus"]).ok();
    let ask = |path: &str, token: &str| {
        let bearer = format!("Authorization: Bearer {token}");
        let code = ["-sk", "-w", "\n%{http_code}", "-H", &bearer, &format!("{url}{path}")];
        run("curl", &code).ok()
    };
    assert!(ask("/metrics/cadvisor", "x").ends_with("401"));
    assert!(ask("/metrics/cadvisor", &token).ends_with("403"));
    let rule = ["create", "clusterrole", "scrape", "--verb=get", "--resource=nodes/metrics"];
    cloud.kubectl(&rule).ok();
    let to = [
        "create",
        "clusterrolebinding",
        "scrape",
        "--clusterrole=scrape",
        "--serviceaccount=default:prometheus",
    ];
    cloud.kubectl(&to).ok();
    cloud.until("the node's metrics are read", seconds(30), || {
        let said = ask("/metrics/cadvisor", &token);
        let of_pod = |line: &str| {
            line.starts_with("container_cpu_usage_seconds_total{") && line.contains(&format!("pod=\"{pod}\""))
        };
        if said.lines().any(of_pod) { Ok(()) } else { Err(said) }
    });
    assert!(ask("/metrics", &token).contains("kubelet_running_pods "));
    assert!(ask("/metrics/probes", &token).contains("# TYPE prober_probe_total counter"));
    assert!(ask("/pods", &token).ends_with("403"), "metrics are not all of a node");
    assert!(ask("/containerLogs/default/x/c", &token).ends_with("401"));
}
