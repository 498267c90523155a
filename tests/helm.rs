//! A chart as people write them for stock Kubernetes, through the real `helm`.
#![forbid(unsafe_code)]

use yunfan_tests::{Cloud, Ran, helm, repository, run_with};

/// helm, at work on a cloud.
struct Helm<'a> {
    cloud: &'a Cloud,
    program: &'static str,
}

impl Helm<'_> {
    #[track_caller]
    fn run(&self, arguments: &[&str]) -> Ran {
        let home = self.cloud.work().to_string_lossy().into_owned();
        let kubeconfig = self.cloud.data_dir().join("kubeconfig").to_string_lossy().into_owned();
        let environment = [("HOME".to_owned(), home), ("KUBECONFIG".to_owned(), kubeconfig)];
        run_with(self.program, arguments, &environment, "")
    }
}

#[test]
fn a_chart_is_installed_upgraded_rolled_back_and_taken_away() {
    let chart = repository().join("tests/charts/shop").to_string_lossy().into_owned();
    let cloud = Cloud::start();
    cloud.import_web();
    let helm = Helm { cloud: &cloud, program: helm() };

    let said = helm.run(&["install", "corner", &chart, "--wait", "--timeout", "90s"]).ok();
    assert!(said.contains("corner greets with hello"), "{said}");
    assert_eq!(cloud.get(&["orders", "corner"])["spec"]["currency"], "EUR");
    assert_eq!(cloud.get(&["hpa", "corner"])["spec"]["maxReplicas"], 5);
    cloud.kubectl(&["get", "pod", "corner-prepare"]).refused_with(&["not found"]);
    helm.run(&["test", "corner", "--timeout", "60s"]).ok();

    let more = [
        "--wait",
        "--timeout",
        "90s",
        "--set",
        "greeting=moin",
        "--set",
        "autoscaling=false",
        "--set",
        "replicas=2",
    ];
    helm.run(&[&["upgrade", "corner", &chart][..], &more].concat()).ok();
    assert_eq!(cloud.get(&["deployment", "corner"])["status"]["readyReplicas"], 2);
    assert_eq!(cloud.get(&["configmap", "corner"])["data"]["greeting"], "moin");
    cloud.kubectl(&["get", "hpa", "corner"]).refused_with(&["not found"]);

    // A hook that fails fails the upgrade, and what is there stays.
    let broken = ["--wait", "--timeout", "60s", "--set", "greeting=broken"];
    helm.run(&[&["upgrade", "corner", &chart][..], &broken].concat())
        .refused_with(&["pre-upgrade hooks failed"]);
    assert_eq!(cloud.get(&["configmap", "corner"])["data"]["greeting"], "moin");

    helm.run(&["rollback", "corner", "1", "--wait", "--timeout", "90s"]).ok();
    assert_eq!(cloud.get(&["configmap", "corner"])["data"]["greeting"], "hello");
    cloud.kubectl(&["get", "hpa", "corner"]).ok();
    let history = helm.run(&["history", "corner", "-o", "json"]).json();
    let states: Vec<&str> =
        history.as_array().into_iter().flatten().filter_map(|r| r["status"].as_str()).collect();
    assert_eq!(states.last(), Some(&"deployed"), "{history}");

    helm.run(&["uninstall", "corner", "--wait", "--timeout", "60s"]).ok();
    for kind in ["deployment", "service", "configmap", "ingress", "pdb", "hpa", "order", "role"] {
        cloud.kubectl(&["get", kind, "corner"]).refused_with(&["not found"]);
    }
    cloud.kubectl(&["get", "crd", "orders.shop.example.com"]).ok();
}
