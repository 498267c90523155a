//! Security groups, routers and floating IPs with the real client: a rule opens a TCP port between two workloads, and its end closes
//! it; a floating IP leads from outside to one of them.
#![forbid(unsafe_code)]

use yunfan_tests::{Cloud, Tenant, run, seconds};

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, annotations: {network.yunfan.io/network: lan}}
spec: {containers: [{name: web, image: 'demo/web:1'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, annotations: {network.yunfan.io/network: lan}}
spec: {containers: [{name: client, image: 'demo/web:1'}]}
";

/// Two workloads of a tenant on one network, and the server's address.
struct Two<'a> {
    cloud: &'a Cloud,
    acme: Tenant,
    web: String,
}

impl Two<'_> {
    /// What the client gets of the server, as a probe.
    fn fetch(&self) -> Result<String, String> {
        let url = format!("http://{}:8080/", self.web);
        let page =
            self.acme.kubectl(&["exec", "client", "--", "timeout", "2", "wget", "-q", "-O", "-", &url]);
        if page.succeeded() { Ok(page.stdout) } else { Err(page.to_string()) }
    }

    fn opens(&self, what: &str) {
        let page = self.cloud.until(&format!("{what} opens the port"), seconds(20), || self.fetch());
        assert!(page.contains("container web"), "{page}");
    }

    fn closes(&self, what: &str) {
        self.cloud.until(&format!("{what} closes the port"), seconds(30), || match self.fetch() {
            Ok(page) => Err(page),
            Err(_) => Ok(()),
        });
    }
}

#[test]
fn a_rule_opens_and_closes_a_port_between_two_workloads() {
    let cloud = Cloud::start();
    cloud.import_web();
    let acme = Tenant::create(&cloud, "acme");
    acme.network("lan", "10.79.0.0/24");
    acme.kubectl_with(&["apply", "-f", "-"], PODS).ok();
    let web = cloud.pod_ready("acme", "web");
    let client = cloud.pod_ready("acme", "client");
    let field =
        |pod: &serde_json::Value, at: &str| pod.pointer(at).and_then(|v| v.as_str()).expect(at).to_owned();
    let (uid, client) = (field(&web, "/metadata/uid"), field(&client, "/status/podIP"));
    let port = acme.openstack(&["port", "list", "--device-id", &uid, "-f", "value", "-c", "ID"]).ok();
    let two = Two { cloud: &cloud, web: field(&web, "/status/podIP"), acme };
    let os = |arguments: &[&str]| two.acme.openstack(arguments);
    two.opens("what nobody filters");

    os(&["security", "group", "create", "web"]).ok();
    os(&["port", "set", "--security-group", "web", &port]).ok();
    two.closes("a group without a rule for it");
    let rule = |remote: &[&str]| {
        let start =
            ["security", "group", "rule", "create", "--ingress", "--protocol", "tcp", "--dst-port", "8080"];
        os(&[&start[..], remote, &["-f", "value", "-c", "id", "web"]].concat()).ok()
    };
    let from_client = rule(&["--remote-ip", &client]);
    two.opens("a rule for the client's address");
    os(&["security", "group", "delete", "web"]).refused_with(&["in use"]);
    os(&["security", "group", "rule", "delete", &from_client]).ok();
    two.closes("the end of the rule");
    // A Pod that was given no groups is a member of its project's default group.
    let from_group = rule(&["--remote-group", "default"]);
    two.opens("a rule for a group");
    os(&["security", "group", "rule", "delete", &from_group]).ok();
    two.closes("the end of that rule");
    os(&["port", "set", "--no-security-group", "--disable-port-security", &port]).ok();
    two.opens("the end of the port's security");
    os(&["security", "group", "delete", "web"]).ok();
    a_floating_ip_reaches_it(&two, &port);
}

/// From the host, which is outside.
fn a_floating_ip_reaches_it(two: &Two<'_>, port: &str) {
    let (cloud, os) = (two.cloud, |arguments: &[&str]| two.acme.openstack(arguments));
    cloud.openstack(&["network", "create", "--external", "outside"]).ok();
    let range = ["--network", "outside", "--subnet-range", "172.31.254.0/28", "--no-dhcp", "outside"];
    cloud.openstack(&[&["subnet", "create"], &range[..]].concat()).ok();
    os(&["router", "create", "--external-gateway", "outside", "way"]).ok();
    os(&["router", "add", "subnet", "way", "lan"]).ok();
    let show = ["-f", "value", "-c", "floating_ip_address"];
    let ip = os(&[&["floating", "ip", "create", "--port", port, "outside"], &show[..]].concat()).ok();
    let url = format!("http://{ip}:8080/");
    let fetch = || run("curl", &["-sS", "--max-time", "2", &url]);
    let page = cloud.until("the floating IP leads to the Pod", seconds(20), || fetch().as_probe());
    assert!(page.contains("container web"), "{page}");
    let status = || os(&["floating", "ip", "show", &ip, "-f", "value", "-c", "status"]).ok();
    cloud.until("the floating IP is said to work", seconds(20), || match status().as_str() {
        "ACTIVE" => Ok(()),
        other => Err(other.to_owned()),
    });
    os(&["network", "delete", "outside"]).refused();
    os(&["router", "remove", "subnet", "way", "lan"]).refused_with(&["floating"]);
    os(&["floating", "ip", "unset", "--port", &ip]).ok();
    // Whoever else may answer for the address, outside.
    cloud.until("the floating IP leads to the Pod no more", seconds(20), || match fetch().as_probe() {
        Ok(page) if page.contains("container web") => Err(page),
        _ => Ok(()),
    });
    os(&["floating", "ip", "delete", &ip]).ok();
    os(&["router", "remove", "subnet", "way", "lan"]).ok();
    os(&["router", "delete", "way"]).ok();
    cloud.openstack(&["network", "delete", "outside"]).ok();
}
