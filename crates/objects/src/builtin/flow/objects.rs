//! The flow schemas and priority levels that every cluster has: the mandatory ones, whose specs nobody may
//! change, and the suggested ones.

use serde_json::{Value, json};

const VERSION: &str = "flowcontrol.apiserver.k8s.io/v1";
const EVERYONE: [&str; 2] = ["system:unauthenticated", "system:authenticated"];

/// A queued level: name, shares, percentage that others may borrow, queues, hand size.
const QUEUED: [(&str, u32, u32, u32, u32); 6] = [
    ("system", 30, 33, 64, 6),
    ("node-high", 40, 25, 64, 6),
    ("leader-election", 10, 0, 16, 4),
    ("workload-high", 40, 50, 128, 6),
    ("workload-low", 100, 90, 128, 6),
    ("global-default", 20, 50, 128, 6),
];

/// All of them, priority levels first.
pub fn flow_objects() -> Vec<Value> {
    let mut objects = mandatory_objects();
    for (name, shares, lendable, queues, hand) in QUEUED {
        let queuing = json!({"queues": queues, "handSize": hand, "queueLengthLimit": 50});
        objects.push(level(
            name,
            json!({"type": "Limited", "limited": {
                "nominalConcurrencyShares": shares, "lendablePercent": lendable,
                "limitResponse": {"type": "Queue", "queuing": queuing}}}),
        ));
    }
    objects.extend(suggested_schemas());
    objects
}

/// The mandatory object of this kind and name.
pub(in crate::builtin) fn mandatory(kind: &str, name: &str) -> Option<Value> {
    // Asked for every object, so the name decides before anything is made.
    if !matches!(name, "exempt" | "catch-all") {
        return None;
    }
    mandatory_objects()
        .into_iter()
        .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
}

fn mandatory_objects() -> Vec<Value> {
    vec![
        level(
            "exempt",
            json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}}),
        ),
        level(
            "catch-all",
            json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 5, "lendablePercent": 0,
                "limitResponse": {"type": "Reject"}}}),
        ),
        schema("exempt", "exempt", 1, "", everything(&groups(&["system:masters"]))),
        schema("catch-all", "catch-all", 10_000, "ByUser", everything(&groups(&EVERYONE))),
    ]
}

fn suggested_schemas() -> Vec<Value> {
    let users = |names: &[&str]| -> Vec<Value> {
        names.iter().map(|name| json!({"kind": "User", "user": {"name": name}})).collect()
    };
    let system_accounts =
        vec![json!({"kind": "ServiceAccount", "serviceAccount": {"name": "*", "namespace": "kube-system"}})];
    let leaders =
        [users(&["system:kube-controller-manager", "system:kube-scheduler"]), system_accounts.clone()];
    let nodes = groups(&["system:nodes"]);
    let all = ["*"];
    vec![
        schema("system-nodes", "system", 500, "ByUser", everything(&nodes)),
        schema(
            "system-node-high",
            "node-high",
            400,
            "ByUser",
            json!({"subjects": nodes, "resourceRules": [
                resources(&all, "", &["nodes", "nodes/status"], true),
                resources(&all, "coordination.k8s.io", &["leases"], false)]}),
        ),
        schema(
            "probes",
            "exempt",
            2,
            "",
            json!({"subjects": groups(&EVERYONE), "nonResourceRules": [
                {"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]}),
        ),
        // The cloud's own loops, in the same process, which limit themselves.
        schema("yunfan-components", "exempt", 3, "", everything(&groups(&["system:yunfan:components"]))),
        schema(
            "system-leader-election",
            "leader-election",
            100,
            "ByUser",
            json!({"subjects": leaders.concat(), "resourceRules": [
                resources(&["get", "create", "update"], "coordination.k8s.io", &["leases"], false)]}),
        ),
        schema(
            "kube-controller-manager",
            "workload-high",
            800,
            "ByNamespace",
            everything(&users(&["system:kube-controller-manager"])),
        ),
        schema(
            "kube-scheduler",
            "workload-high",
            800,
            "ByNamespace",
            everything(&users(&["system:kube-scheduler"])),
        ),
        schema(
            "kube-system-service-accounts",
            "workload-high",
            900,
            "ByNamespace",
            everything(&system_accounts),
        ),
        schema(
            "service-accounts",
            "workload-low",
            9000,
            "ByUser",
            everything(&groups(&["system:serviceaccounts"])),
        ),
        schema("global-default", "global-default", 9900, "ByUser", everything(&groups(&EVERYONE))),
    ]
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": VERSION, "kind": kind, "spec": spec,
        "metadata": {"name": name, "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}}})
}

fn level(name: &str, spec: Value) -> Value {
    object("PriorityLevelConfiguration", name, spec)
}

fn schema(name: &str, level: &str, precedence: u32, method: &str, rule: Value) -> Value {
    let mut spec = json!({"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence,
        "rules": [rule]});
    if !method.is_empty() {
        spec["distinguisherMethod"] = json!({"type": method});
    }
    object("FlowSchema", name, spec)
}

fn groups(names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| json!({"kind": "Group", "group": {"name": name}})).collect()
}

fn resources(verbs: &[&str], group: &str, resources: &[&str], cluster: bool) -> Value {
    let mut rule = json!({"verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": ["*"]});
    if cluster {
        rule["clusterScope"] = json!(true);
    }
    rule
}

/// All requests of these.
fn everything(subjects: &[Value]) -> Value {
    json!({"subjects": subjects, "resourceRules": [resources(&["*"], "*", &["*"], true)],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]})
}
