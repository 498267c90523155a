//! Which Pod ends first when its node is short of something, and what it is told (Kubernetes' documentation, "Node-pressure
//! Eviction").

use std::cmp::Reverse;
use std::fmt::Write as _;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use yunfan_objects::Quantity;
use yunfan_resources::requests::{EPHEMERAL_STORAGE, Requests, units};

use super::settings::Signal;

/// What a container uses, bytes.
#[derive(Clone, Debug)]
pub(crate) struct ContainerUse {
    pub(crate) name: String,
    pub(crate) memory: u64,
    /// Its own layer and its logs.
    pub(crate) disk: u64,
}

/// What a Pod uses of its node.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodUse {
    /// Those that run.
    pub(crate) containers: Vec<ContainerUse>,
    /// Bytes, with what containers that ended left in volumes that are in memory.
    pub(crate) memory: u64,
    /// Bytes of its containers and of its volumes on the node's disk.
    pub(crate) disk: u64,
    /// How many files and directories these are.
    pub(crate) inodes: u64,
    pub(crate) processes: u64,
}

impl PodUse {
    fn of(&self, signal: Signal) -> u64 {
        match signal.resource() {
            "memory" => self.memory,
            EPHEMERAL_STORAGE => self.disk,
            "inodes" => self.inodes,
            _ => self.processes,
        }
    }
}

/// A Pod that has its place here.
pub(crate) struct Candidate {
    pub(crate) pod: Arc<Pod>,
    pub(crate) requests: Requests,
    pub(crate) used: PodUse,
    /// Whether that is all that it uses: not all of it could be found out otherwise.
    pub(crate) is_whole: bool,
}

impl Candidate {
    /// How much more it uses than it asked for.
    fn excess(&self, signal: Signal) -> i64 {
        let used = i64::try_from(self.used.of(signal)).unwrap_or(i64::MAX);
        used.saturating_sub(self.requests.amount(signal.resource()))
    }

    fn priority(&self) -> i32 {
        self.pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or_default()
    }
}

/// Puts those first that end first: of whom it can't be said what they use, then who uses more than it asked for, then who is less
/// important, then who uses most beyond what it asked for. Of numbers for processes nobody asks for any, so that importance goes before
/// how many there are.
pub(crate) fn rank(signal: Signal, candidates: &mut [Candidate]) {
    candidates.sort_by_key(|one| {
        let of_pids = signal == Signal::Pids;
        let exceeds = !of_pids && one.excess(signal) > 0;
        let unknown = (!one.is_whole && !of_pids, !one.is_whole);
        (
            Reverse(unknown.0),
            Reverse(exceeds),
            one.priority(),
            Reverse(unknown.1),
            Reverse(one.excess(signal)),
        )
    });
}

/// What a Pod is told that ends because less than `threshold` is left, in the kubelet's words.
pub(crate) fn message(signal: Signal, (threshold, left): (u64, u64), candidate: &Candidate) -> String {
    let resource = signal.resource();
    let shown = |amount: u64| {
        let amount = i64::try_from(amount).unwrap_or(i64::MAX);
        let counted = matches!(resource, "inodes" | "pids");
        if counted { Quantity::from_units(amount) } else { Quantity::from_bytes(amount) }.to_string()
    };
    let mut text = format!("The node was low on resource: {resource}. ");
    let (threshold, left) = (shown(threshold), shown(left));
    // Writing to a String can't fail.
    let _ = write!(text, "Threshold quantity: {threshold}, available: {left}. ");
    let (used, Some(spec)) = (&candidate.used, &candidate.pod.spec) else { return text };
    let mut tell = |what: &str, name: &str, used: u64, request: &str| {
        let used = shown(used);
        let _ = write!(
            text,
            "{what} {name} was using {used}, request is {request}, has larger consumption of {resource}. "
        );
    };
    let whole = spec.resources.as_ref().and_then(|whole| whole.requests.as_ref()?.get(resource));
    if let Some(request) = whole.filter(|_| signal == Signal::Memory) {
        tell("Pod", &candidate.pod.name_any(), used.memory, &request.0);
    }
    for one in &used.containers {
        let amount = match resource {
            "memory" => one.memory,
            EPHEMERAL_STORAGE => one.disk,
            _ => continue,
        };
        let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let Some(container) = all.into_iter().find(|container| container.name == one.name) else { continue };
        let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let request = requests.and_then(|requests| requests.get(resource));
        if i64::try_from(amount).unwrap_or(i64::MAX) > request.map_or(0, units) {
            tell("Container", &one.name, amount, request.map_or("0", |request| request.0.as_str()));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn candidate(name: &str, priority: i32, requests: Value, used: PodUse) -> Candidate {
        let pod: Pod = from_value(json!({"metadata": {"name": name},
            "spec": {"priority": priority, "containers": [{"name": "c", "resources": {"requests": requests}}]}}))
        .unwrap();
        let requests = Requests::of_pod(pod.spec.as_ref().unwrap());
        Candidate { requests, pod: Arc::new(pod), used, is_whole: true }
    }

    fn uses(memory: u64, disk: u64, processes: u64) -> PodUse {
        let container = ContainerUse { name: "c".to_owned(), memory: memory << 20, disk: disk << 20 };
        let (memory, disk, inodes) = (memory << 20, disk << 20, 10 * disk);
        PodUse { containers: vec![container], memory, disk, inodes, processes }
    }

    fn ranked(signal: Signal, mut all: Vec<Candidate>) -> Vec<String> {
        rank(signal, &mut all);
        all.iter().map(|one| one.pod.name_any()).collect()
    }

    fn some() -> Vec<Candidate> {
        vec![
            candidate("modest", 0, json!({"memory": "100Mi", EPHEMERAL_STORAGE: "100Mi"}), uses(90, 90, 1)),
            candidate("vital", 1000, json!({}), uses(200, 200, 9)),
            candidate("small", 0, json!({}), uses(10, 20, 2)),
            candidate("large", 0, json!({"memory": "50Mi", EPHEMERAL_STORAGE: "1Mi"}), uses(70, 71, 3)),
        ]
    }

    #[test]
    fn who_exceeds_its_requests_goes_first_then_who_matters_less_then_who_uses_more() {
        assert_eq!(ranked(Signal::Memory, some()), ["large", "small", "vital", "modest"]);
        assert_eq!(ranked(Signal::NodeDisk, some()), ["large", "small", "vital", "modest"]);
        assert_eq!(ranked(Signal::ImageInodes, some()), ["modest", "large", "small", "vital"]);
        assert_eq!(ranked(Signal::Pids, some()), ["large", "small", "modest", "vital"]);
    }

    #[test]
    fn who_can_not_be_measured_goes_before_those_who_can() {
        let with = |signal, name: &str| {
            let mut all = some();
            all.iter_mut().find(|one| one.pod.name_any() == name).unwrap().is_whole = false;
            ranked(signal, all)
        };
        assert_eq!(with(Signal::Memory, "vital"), ["vital", "large", "small", "modest"]);
        assert_eq!(with(Signal::NodeInodes, "modest")[0], "modest");
        assert_eq!(with(Signal::Pids, "modest"), ["modest", "large", "small", "vital"]);
        assert_eq!(with(Signal::Pids, "vital")[3], "vital", "importance goes before");
    }

    #[test]
    fn what_ended_containers_left_in_memory_is_their_pod_s() {
        let mut all = some();
        all[0].used.memory = 300 << 20;
        assert_eq!(ranked(Signal::Memory, all), ["modest", "large", "small", "vital"]);
    }

    #[test]
    fn what_a_pod_is_told() {
        let all = some();
        let says = |signal, one: &Candidate| message(signal, (100 << 20, 64 << 20), one);
        assert_eq!(
            says(Signal::Memory, &all[3]),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 64Mi. Container c was using 70Mi, request is 50Mi, has larger consumption of memory. "
        );
        assert_eq!(
            says(Signal::NodeDisk, &all[0]),
            "The node was low on resource: ephemeral-storage. Threshold quantity: 100Mi, available: 64Mi. "
        );
        assert!(says(Signal::ImageDisk, &all[2]).ends_with(
            "Container c was using 20Mi, request is 0, has larger consumption of ephemeral-storage. "
        ));
        assert_eq!(
            message(Signal::Pids, (100, 3), &all[1]),
            "The node was low on resource: pids. Threshold quantity: 100, available: 3. "
        );
        let mut whole = candidate("whole", 0, json!({}), uses(5, 0, 1));
        let mut pod = Pod::clone(&whole.pod);
        pod.spec.as_mut().unwrap().resources = from_value(json!({"requests": {"memory": "1Mi"}})).unwrap();
        whole.pod = Arc::new(pod);
        assert!(says(Signal::Memory, &whole).contains(
            "Pod whole was using 5Mi, request is 1Mi, has larger consumption of memory. Container c was using 5Mi, request is 0,"
        ));
    }
}
