//! Workload → Ports: every Pod and VirtualMachine on a tenant network holds a Port of it.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};
use serde_json::json;
use yunfan_client::{Informer, ObjectKey, Queue, Severity, is_exists, run_loop};
use yunfan_resources::compute::{NetworkAttachment, VirtualMachine, dns_label};
use yunfan_resources::names::{
    CLUSTER_NETWORK, DEFAULT_NETWORK_ANNOTATION, NETWORK_ANNOTATION, PORT_NETWORK_LABEL,
};
use yunfan_resources::network::{
    DEFAULT_GROUP, FixedIp, FloatingIp, Network, Port, PortHolder, PortSpec, SecurityGroup, Subnet,
    default_group, network_place, workload_port,
};

use crate::Context;
use crate::pods::is_active;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    Pod(ObjectKey),
    VirtualMachine(ObjectKey),
    Port(ObjectKey),
}

/// Runs the loop.
pub async fn run(context: Context) {
    let work = Arc::new(Loop {
        namespaces: context.informers.of::<Namespace>(),
        pods: context.informers.of::<Pod>(),
        machines: context.informers.of::<VirtualMachine>(),
        ports: context.informers.of::<Port>(),
        networks: context.informers.of::<Network>(),
        groups: context.informers.of::<SecurityGroup>(),
        floating: context.informers.of::<FloatingIp>(),
        context,
    });
    tokio::join!(
        work.namespaces.synced(),
        work.pods.synced(),
        work.machines.synced(),
        work.ports.synced(),
        work.networks.synced(),
        work.groups.synced(),
        work.floating.synced(),
    );
    let queue = Queue::new();
    queue.feed(&work.pods, |pod| [Work::Pod(ObjectKey::of(pod))]);
    queue.feed(&work.machines, |machine| [Work::VirtualMachine(ObjectKey::of(machine))]);
    queue.feed(&work.ports, |port| {
        let holder = port.spec.holder.as_ref();
        let key = |name: &str| ObjectKey::new(port.namespace().unwrap_or_default(), name);
        // A Port that went while its workload is there is made again.
        let workload = holder.map(|holder| match holder.kind.as_str() {
            "Pod" => Work::Pod(key(&holder.name)),
            _ => Work::VirtualMachine(key(&holder.name)),
        });
        [Some(Work::Port(ObjectKey::of(port))), workload].into_iter().flatten()
    });
    // A Network or Subnet that comes late lets the workloads that wait for it go on.
    for_late_networks(&work, &queue);
    run_loop("port", queue, 4, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

fn for_late_networks(work: &Arc<Loop>, queue: &Queue<Work>) {
    let waiting = |work: &Arc<Loop>| {
        let work = work.clone();
        move |namespace: Option<String>| work.workloads_of(&namespace.unwrap_or_default())
    };
    let of_network = waiting(work);
    queue.feed(&work.context.informers.of::<Network>(), move |network| of_network(network.namespace()));
    let of_subnet = waiting(work);
    queue.feed(&work.context.informers.of::<Subnet>(), move |subnet| of_subnet(subnet.namespace()));
}

struct Loop {
    context: Context,
    namespaces: Informer<Namespace>,
    pods: Informer<Pod>,
    machines: Informer<VirtualMachine>,
    ports: Informer<Port>,
    networks: Informer<Network>,
    groups: Informer<SecurityGroup>,
    floating: Informer<FloatingIp>,
}

/// What a Port that this loop makes is like.
struct Wanted<'a> {
    network: &'a str,
    index: usize,
    fixed_ip: Option<&'a str>,
    hostname: String,
    /// None for a Pod's: what it takes is for NetworkPolicies to say.
    groups: Option<Vec<String>>,
    secured: Option<bool>,
}

impl Loop {
    async fn reconcile(&self, work: &Work) -> kube::Result<Option<Duration>> {
        match work {
            Work::Pod(key) => self.reconcile_pod(key).await?,
            Work::VirtualMachine(key) => self.reconcile_machine(key).await?,
            Work::Port(key) => self.release(key).await?,
        }
        Ok(None)
    }

    fn workloads_of(&self, namespace: &str) -> Vec<Work> {
        let pods = self.pods.in_namespace(namespace);
        let machines = self.machines.in_namespace(namespace);
        let pods = pods.iter().map(|pod| Work::Pod(ObjectKey::of(pod.as_ref())));
        let machines = machines.iter().map(|vm| Work::VirtualMachine(ObjectKey::of(vm.as_ref())));
        pods.chain(machines).collect()
    }

    async fn reconcile_pod(&self, key: &ObjectKey) -> kube::Result<()> {
        let Some(pod) = self.pods.get_key(key) else { return Ok(()) };
        let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
        if !is_active(&pod) || host_network {
            return Ok(());
        }
        let namespace = self.namespaces.get(None, &key.namespace);
        let Some(network) = network_of(&pod, namespace.as_deref()) else { return Ok(()) };
        let hostname = pod.spec.as_ref().and_then(|spec| spec.hostname.clone());
        let wanted = Wanted {
            network: &network,
            index: 0,
            fixed_ip: None,
            hostname: hostname.unwrap_or_else(|| dns_label(&key.name)),
            groups: None,
            secured: None,
        };
        self.ensure(pod.as_ref(), "Pod", &wanted).await
    }

    async fn reconcile_machine(&self, key: &ObjectKey) -> kube::Result<()> {
        let Some(machine) = self.machines.get_key(key) else { return self.release_all(key).await };
        if machine.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        for (index, attachment) in machine.spec.networks.iter().enumerate() {
            match &attachment.port {
                Some(port) => self.hold(&machine, port).await?,
                None => {
                    let (groups, secured) = self.security(key, attachment).await?;
                    let wanted = Wanted {
                        network: &attachment.network,
                        index,
                        fixed_ip: attachment.fixed_ip.as_deref(),
                        hostname: machine.host_label(),
                        groups,
                        secured,
                    };
                    self.ensure(machine.as_ref(), "VirtualMachine", &wanted).await?;
                }
            }
        }
        self.free_unwanted(&machine).await
    }

    /// Frees the Ports that a machine holds and does not name any more, once its node has unplugged them; those that were made for
    /// it are deleted.
    async fn free_unwanted(&self, machine: &VirtualMachine) -> kube::Result<()> {
        let (namespace, uid) = (machine.namespace(), machine.uid());
        let named = machine.spec.networks.iter().enumerate().map(|(index, attachment)| {
            let own = || workload_port("VirtualMachine", &machine.name_any(), index);
            attachment.port.clone().unwrap_or_else(own)
        });
        let named: Vec<String> = named.collect();
        for port in self.ports.in_namespace(&namespace.clone().unwrap_or_default()) {
            let held = port.spec.holder.as_ref().is_some_and(|holder| Some(&holder.uid) == uid.as_ref());
            let plugged = port.status.as_ref().is_some_and(|status| status.node.is_some());
            let name = port.name_any();
            if !held || plugged || named.contains(&name) {
                continue;
            }
            let owned =
                port.metadata.owner_references.iter().flatten().any(|owner| Some(&owner.uid) == uid.as_ref());
            if owned {
                self.context
                    .writer
                    .delete::<Port>(namespace.as_deref(), &name, port.uid().as_deref())
                    .await?;
            } else {
                let patch = json!({
                    "metadata": {"resourceVersion": port.resource_version()},
                    "spec": {"holder": null},
                });
                self.context.writer.merge::<Port>(namespace.as_deref(), &name, &patch).await?;
            }
        }
        Ok(())
    }

    /// The groups of a machine's Port, and whether it is secured, where its Network says something about that.
    async fn security(
        &self,
        machine: &ObjectKey,
        attachment: &NetworkAttachment,
    ) -> kube::Result<(Option<Vec<String>>, Option<bool>)> {
        let (owner, network) = network_place(&machine.namespace, &attachment.network);
        let network = self.networks.get(Some(owner), network);
        let secured = network.and_then(|network| network.spec.port_security_enabled);
        if secured == Some(false) {
            // Groups do not go with that, and the door refuses them; the Network may have become so since.
            return Ok((None, secured));
        }
        if let Some(groups) = &attachment.security_groups {
            return Ok((Some(groups.clone()), secured));
        }
        Ok((Some(self.default_groups(machine).await?), secured))
    }

    /// The groups of who names none. The default group is made where it is missing.
    async fn default_groups(&self, machine: &ObjectKey) -> kube::Result<Vec<String>> {
        if self.groups.get(machine.namespace(), DEFAULT_GROUP).is_none() {
            let mut group = default_group();
            group.metadata.namespace = machine.namespace().map(str::to_owned);
            match self.context.writer.create(&group).await {
                Err(error) if !is_exists(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(vec![DEFAULT_GROUP.to_owned()])
    }

    /// Makes the Port of a workload where it is missing.
    async fn ensure<K>(&self, workload: &K, kind: &str, wanted: &Wanted<'_>) -> kube::Result<()>
    where
        K: Resource<DynamicType = ()> + Debug,
    {
        let meta = workload.meta();
        let name = workload_port(kind, meta.name.as_deref().unwrap_or_default(), wanted.index);
        if let Some(port) = self.ports.get(meta.namespace.as_deref(), &name) {
            // Ours; or an earlier workload's of this name, which is about to be collected, and its end wakes us.
            let ours = port.spec.holder.as_ref().is_some_and(|holder| Some(&holder.uid) == meta.uid.as_ref());
            return if ours { self.fill_groups(&port).await } else { Ok(()) };
        }
        let port = port_of(workload, kind, name, wanted);
        match self.context.writer.create(&port).await {
            Err(error) if is_exists(&error) => Ok(()),
            Err(error) => {
                let message = format!("No port on network {}: {error}", wanted.network);
                self.context.recorder.event(workload, Severity::Warning, "FailedPort", message);
                Err(error)
            }
            Ok(_) => Ok(()),
        }
    }

    /// Takes a Port that the user made for a machine.
    async fn hold(&self, machine: &VirtualMachine, port: &str) -> kube::Result<()> {
        let namespace = machine.namespace();
        let Some(port) = self.ports.get(namespace.as_deref(), port) else { return Ok(()) };
        let holder = PortHolder {
            kind: "VirtualMachine".to_owned(),
            name: machine.name_any(),
            uid: machine.uid().unwrap_or_default(),
        };
        match &port.spec.holder {
            Some(present) if *present == holder => self.fill_groups(&port).await,
            Some(present) => {
                let message =
                    format!("Port {} is held by {} {}", port.name_any(), present.kind, present.name);
                self.context.recorder.event(machine, Severity::Warning, "PortInUse", message);
                Ok(())
            }
            None => {
                let hostname = port.spec.hostname.clone().unwrap_or_else(|| machine.host_label());
                let mut patch = json!({
                    "metadata": {"resourceVersion": port.resource_version()},
                    "spec": {"holder": holder, "hostname": hostname},
                });
                if wants_groups(&port) {
                    let key = ObjectKey::of(machine);
                    patch["spec"]["securityGroups"] = json!(self.default_groups(&key).await?);
                }
                self.context.writer.merge::<Port>(namespace.as_deref(), &port.name_any(), &patch).await?;
                Ok(())
            }
        }
    }

    /// A machine's Port that says nothing about groups has the default one, also where it was made or held before there were any.
    async fn fill_groups(&self, port: &Port) -> kube::Result<()> {
        let of_machine = port.spec.holder.as_ref().is_some_and(|holder| holder.kind == "VirtualMachine");
        if !of_machine || !wants_groups(port) {
            return Ok(());
        }
        let key = ObjectKey::of(port);
        let patch = json!({
            "metadata": {"resourceVersion": port.resource_version()},
            "spec": {"securityGroups": self.default_groups(&key).await?},
        });
        self.context.writer.merge::<Port>(key.namespace(), &key.name, &patch).await?;
        Ok(())
    }

    /// Frees the Ports that a machine held which is gone.
    async fn release_all(&self, machine: &ObjectKey) -> kube::Result<()> {
        for port in self.ports.in_namespace(&machine.namespace) {
            let held = port.spec.holder.as_ref().is_some_and(|holder| holder.name == machine.name);
            if held {
                self.release(&ObjectKey::of(port.as_ref())).await?;
            }
        }
        Ok(())
    }

    /// A floating IP of a Port that is gone stands for none, and forwards nothing to it: the next Port of that name is another's.
    async fn lead_nowhere(&self, port: &ObjectKey) -> kube::Result<()> {
        for ip in self.floating.in_namespace(&port.namespace) {
            let whole = ip.spec.port.as_ref() == Some(&port.name);
            let kept: Vec<_> = ip.spec.forwardings.iter().filter(|it| it.port != port.name).collect();
            if !whole && kept.len() == ip.spec.forwardings.len() {
                continue;
            }
            let mut patch = json!({
                "metadata": {"resourceVersion": ip.resource_version()},
                "spec": {"forwardings": kept},
            });
            if whole {
                patch["spec"]["port"] = json!(null);
                patch["spec"]["fixedIp"] = json!(null);
            }
            match self.context.writer.merge::<FloatingIp>(port.namespace(), &ip.name_any(), &patch).await {
                Err(error) if !yunfan_client::is_not_found(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Frees a Port whose workload is gone. (Those that this loop made are collected with their owner.)
    async fn release(&self, key: &ObjectKey) -> kube::Result<()> {
        let Some(port) = self.ports.get_key(key) else { return self.lead_nowhere(key).await };
        let Some(holder) = &port.spec.holder else { return Ok(()) };
        let owned = port.metadata.owner_references.iter().flatten().any(|owner| owner.uid == holder.uid);
        if owned || holder.kind != "VirtualMachine" {
            return Ok(());
        }
        let there = self.machines.get(key.namespace(), &holder.name);
        if there.is_some_and(|machine| machine.uid().as_ref() == Some(&holder.uid)) {
            return Ok(());
        }
        // The informer may lag behind a machine that was just made: ask.
        let machine = self.context.writer.get::<VirtualMachine>(key.namespace(), &holder.name).await;
        match machine {
            Ok(machine) if machine.uid().as_ref() == Some(&holder.uid) => return Ok(()),
            Err(error) if !yunfan_client::is_not_found(&error) => return Err(error),
            _ => {}
        }
        let patch = json!({
            "metadata": {"resourceVersion": port.resource_version()},
            "spec": {"holder": null},
        });
        self.context.writer.merge::<Port>(key.namespace(), &key.name, &patch).await?;
        Ok(())
    }
}

/// Whether a machine's Port lacks what says which packets may pass.
fn wants_groups(port: &Port) -> bool {
    port.spec.is_secured() && port.spec.security_groups.is_none()
}

/// The tenant network that a Pod joins; none for the cluster network.
pub fn network_of(pod: &Pod, namespace: Option<&Namespace>) -> Option<String> {
    let asked = pod.annotations().get(NETWORK_ANNOTATION);
    let default = || namespace.and_then(|ns| ns.annotations().get(DEFAULT_NETWORK_ANNOTATION));
    asked.or_else(default).filter(|network| *network != CLUSTER_NETWORK && !network.is_empty()).cloned()
}

fn port_of<K>(workload: &K, kind: &str, name: String, wanted: &Wanted<'_>) -> Port
where
    K: Resource<DynamicType = ()>,
{
    let meta = workload.meta();
    let owner = OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: kind.to_owned(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    };
    let holder = PortHolder { kind: kind.to_owned(), name: owner.name.clone(), uid: owner.uid.clone() };
    let (_, named) = network_place(meta.namespace.as_deref().unwrap_or_default(), wanted.network);
    let fixed = wanted.fixed_ip.map(|ip| FixedIp { subnet: None, ip: Some(ip.to_owned()) });
    Port {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: meta.namespace.clone(),
            labels: Some([(PORT_NETWORK_LABEL.to_owned(), named.to_owned())].into()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: PortSpec {
            network: wanted.network.to_owned(),
            fixed_ips: fixed.into_iter().collect(),
            holder: Some(holder),
            hostname: Some(wanted.hostname.clone()),
            security_groups: wanted.groups.clone(),
            port_security_enabled: wanted.secured,
            ..PortSpec::default()
        },
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_annotation_beats_its_namespaces_default() {
        let pod = |network: Option<&str>| -> Pod {
            serde_json::from_value(json!({"metadata": {"annotations": {NETWORK_ANNOTATION: network}}}))
                .unwrap_or_default()
        };
        let namespace: Namespace =
            serde_json::from_value(json!({"metadata": {"annotations": {DEFAULT_NETWORK_ANNOTATION: "lan"}}}))
                .unwrap();
        assert_eq!(network_of(&Pod::default(), Some(&namespace)).as_deref(), Some("lan"));
        assert_eq!(network_of(&pod(Some("other")), Some(&namespace)).as_deref(), Some("other"));
        assert_eq!(network_of(&pod(Some("cluster")), Some(&namespace)), None);
        assert_eq!(network_of(&Pod::default(), None), None);
    }
}
