//! What tests need often: images, machines, web servers.

use serde_json::Value;

use crate::{Cloud, files, seconds};

impl Cloud {
    /// Makes the demo's web image available to pods by the name `demo/web:1`.
    #[track_caller]
    pub fn import_web(&self) {
        let said = self.yunfan(&["image", "import", files::web_archive(), "--name", "demo/web:1"]).ok();
        assert!(said.contains("demo/web:1"), "{said}");
    }

    /// Makes what machines in the namespace `admin` need: the flavor `tiny`, the network `lan` (10.88.0.0/24), and the
    /// image `blank`, with which a machine runs but costs nothing.
    #[track_caller]
    pub fn machine_parts(&self) {
        self.apply(
            "{apiVersion: compute.yunfan.io/v1, kind: Flavor, metadata: {name: tiny}, spec: {vcpus: 1, memoryMib: 64, diskGib: 1}}\n---\n\
             {apiVersion: network.yunfan.io/v1, kind: Network, metadata: {name: lan, namespace: admin}, spec: {}}\n---\n\
             {apiVersion: network.yunfan.io/v1, kind: Subnet, metadata: {name: lan, namespace: admin}, \
              spec: {network: lan, cidr: 10.88.0.0/24}}\n",
        );
        let disk = files::empty_disk(self.work());
        self.openstack(&["image", "create", "--disk-format", "qcow2", "--file", &disk, "blank"]).ok();
    }

    /// Makes a machine of [`Cloud::machine_parts`] and does not wait for it.
    #[track_caller]
    pub fn machine(&self, name: &str) {
        self.apply(&format!(
            "{{apiVersion: compute.yunfan.io/v1, kind: VirtualMachine, metadata: {{name: {name}, namespace: admin}}, \
             spec: {{flavor: tiny, image: blank, networks: [{{network: lan}}]}}}}"
        ));
    }

    /// Makes a Deployment of the web image (see [`Cloud::import_web`]), with its Service; does not wait for it.
    #[track_caller]
    pub fn web(&self, namespace: &str, name: &str, replicas: u32) {
        self.apply(&format!(
            "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: {name}, namespace: {namespace}}}, \
              spec: {{replicas: {replicas}, selector: {{matchLabels: {{app: {name}}}}}, \
              template: {{metadata: {{labels: {{app: {name}}}}}, spec: {{containers: [{{name: web, image: 'demo/web:1', \
              readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}}}]}}}}}}}}\n---\n\
             {{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: {namespace}}}, \
              spec: {{selector: {{app: {name}}}, ports: [{{port: 80, targetPort: 8080}}]}}}}\n"
        ));
    }

    /// Waits until a Deployment has as many ready replicas as it should, and no other Pods; returns its Pods.
    #[track_caller]
    pub fn web_ready(&self, namespace: &str, name: &str) -> Vec<Value> {
        self.until(&format!("deployment {namespace}/{name} is ready"), seconds(60), || {
            let deployment = self.get(&["deployment", "-n", namespace, name]);
            let pods = self.get(&["pods", "-n", namespace, "-l", &format!("app={name}")]);
            let pods = pods["items"].as_array().cloned().unwrap_or_default();
            let wanted = deployment["spec"]["replicas"].as_u64().unwrap_or(1);
            let ready = deployment["status"]["readyReplicas"].as_u64().unwrap_or(0);
            let seen: Vec<&Value> = pods.iter().map(|pod| &pod["status"]).collect();
            if ready == wanted && pods.len() as u64 == wanted {
                return Ok(pods.clone());
            }
            Err(format!("{}\n{seen:?}", deployment["status"]))
        })
    }

    /// Waits until a Pod is ready and returns it.
    #[track_caller]
    pub fn pod_ready(&self, namespace: &str, name: &str) -> Value {
        self.until(&format!("pod {namespace}/{name} is ready"), seconds(60), || {
            let pod = self.get(&["pod", "-n", namespace, name]);
            let ready = conditions(&pod).any(|c| c["type"] == "Ready" && c["status"] == "True");
            if ready { Ok(pod) } else { Err(pod["status"].to_string()) }
        })
    }

    /// Waits until a VirtualMachine is in a phase and returns it.
    #[track_caller]
    pub fn vm_in_phase(&self, namespace: &str, name: &str, phase: &str) -> Value {
        self.until(&format!("machine {namespace}/{name} is {phase}"), seconds(60), || {
            let vm = self.get(&["virtualmachine", "-n", namespace, name]);
            if vm["status"]["phase"] == phase { Ok(vm) } else { Err(vm["status"].to_string()) }
        })
    }
}

/// The conditions in an object's status.
fn conditions(object: &Value) -> impl Iterator<Item = &Value> {
    object["status"]["conditions"].as_array().into_iter().flatten()
}
