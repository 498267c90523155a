//! The roles and bindings that each cloud starts with, as JSON objects.
//!
//! They are Kubernetes' own, under the same names, so that RoleBindings and charts made for it work here;
//! the tenant roles `admin`, `edit` and `view` (Keystone's admin, member and reader) know our kinds too. As there,
//! those three are aggregated: a ClusterRole labelled `rbac.authorization.k8s.io/aggregate-to-edit: "true"` adds to `edit`.

use serde_json::{Value, json};

use crate::rbac::GROUP;
use crate::user::{AUTHENTICATED_GROUP, MASTERS_GROUP, UNAUTHENTICATED_GROUP};

/// Group of every agent.
const NODES_GROUP: &str = "system:nodes";
/// Group of the control loops that run inside the cloud process.
const COMPONENTS_GROUP: &str = "system:yunfan:components";

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];
const ALL: &[&str] = &["*"];

/// Every object: ClusterRoles first, then ClusterRoleBindings. To be written at each start where missing, and brought up
/// to date where they carry `rbac.authorization.kubernetes.io/autoupdate: "true"`.
pub fn objects() -> Vec<Value> {
    let mut objects = cluster_roles();
    objects.extend(cluster_role_bindings());
    objects
}

/// The ClusterRoles.
pub fn cluster_roles() -> Vec<Value> {
    let (view, edit, admin) = (view_rules(), edit_rules(), admin_rules());
    let join = |parts: &[&Vec<Value>]| parts.iter().flat_map(|rules| rules.iter().cloned()).collect();
    vec![
        role("cluster-admin", vec![rule(ALL, ALL, ALL), paths(ALL, ALL)]),
        aggregated("admin", None, join(&[&admin, &edit, &view])),
        aggregated("edit", Some("admin"), join(&[&edit, &view])),
        aggregated("view", Some("edit"), view.clone()),
        labelled("system:aggregate-to-admin", "admin", admin),
        labelled("system:aggregate-to-edit", "edit", edit),
        labelled("system:aggregate-to-view", "view", view),
        role("system:discovery", vec![paths(DISCOVERY, &["get"])]),
        role("system:public-info-viewer", vec![paths(PUBLIC, &["get"])]),
        role("system:monitoring", vec![paths(MONITORING, &["get"])]),
        role("system:basic-user", basic_user_rules()),
        role(
            "system:yunfan:authenticated",
            vec![
                rule(&["compute.yunfan.io"], &["flavors"], READ),
                rule(&["storage.yunfan.io"], &["volumetypes"], READ),
            ],
        ),
        role("system:node", node_rules()),
    ]
}

/// The ClusterRoleBindings.
pub fn cluster_role_bindings() -> Vec<Value> {
    vec![
        binding("cluster-admin", "cluster-admin", &[MASTERS_GROUP]),
        binding("system:yunfan:components", "cluster-admin", &[COMPONENTS_GROUP]),
        binding("system:discovery", "system:discovery", &[AUTHENTICATED_GROUP]),
        binding("system:basic-user", "system:basic-user", &[AUTHENTICATED_GROUP]),
        binding(
            "system:public-info-viewer",
            "system:public-info-viewer",
            &[AUTHENTICATED_GROUP, UNAUTHENTICATED_GROUP],
        ),
        binding("system:monitoring", "system:monitoring", &["system:monitoring"]),
        binding("system:yunfan:authenticated", "system:yunfan:authenticated", &[AUTHENTICATED_GROUP]),
        binding("system:node", "system:node", &[NODES_GROUP]),
    ]
}

const PUBLIC: &[&str] = &["/healthz", "/livez", "/readyz", "/version", "/version/"];
const MONITORING: &[&str] =
    &["/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/metrics/*", "/readyz", "/readyz/*"];
const DISCOVERY: &[&str] = &[
    "/api",
    "/api/*",
    "/apis",
    "/apis/*",
    "/healthz",
    "/livez",
    "/openapi",
    "/openapi/*",
    "/readyz",
    "/version",
    "/version/",
];

fn basic_user_rules() -> Vec<Value> {
    vec![
        rule(
            &["authorization.k8s.io"],
            &["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
            &["create"],
        ),
        rule(&["authentication.k8s.io"], &["selfsubjectreviews"], &["create"]),
    ]
}

/// What a tenant's readers see. No Secrets, and no roles: whoever reads a Secret acts as its owner.
fn view_rules() -> Vec<Value> {
    vec![
        rule(
            &[""],
            &[
                "bindings",
                "configmaps",
                "endpoints",
                "events",
                "limitranges",
                "namespaces",
                "namespaces/status",
                "persistentvolumeclaims",
                "persistentvolumeclaims/status",
                "pods",
                "pods/log",
                "pods/status",
                "replicationcontrollers",
                "replicationcontrollers/scale",
                "replicationcontrollers/status",
                "resourcequotas",
                "resourcequotas/status",
                "serviceaccounts",
                "services",
                "services/status",
            ],
            READ,
        ),
        rule(&["discovery.k8s.io"], &["endpointslices"], READ),
        rule(&["events.k8s.io"], &["events"], READ),
        rule(
            &["apps"],
            &[
                "controllerrevisions",
                "daemonsets",
                "daemonsets/status",
                "deployments",
                "deployments/scale",
                "deployments/status",
                "replicasets",
                "replicasets/scale",
                "replicasets/status",
                "statefulsets",
                "statefulsets/scale",
                "statefulsets/status",
            ],
            READ,
        ),
        rule(&["autoscaling"], &["horizontalpodautoscalers", "horizontalpodautoscalers/status"], READ),
        rule(&["batch"], &["cronjobs", "cronjobs/status", "jobs", "jobs/status"], READ),
        rule(&["policy"], &["poddisruptionbudgets", "poddisruptionbudgets/status"], READ),
        rule(&["networking.k8s.io"], &["ingresses", "ingresses/status", "networkpolicies"], READ),
        rule(&["compute.yunfan.io"], &["keypairs", "virtualmachines", "virtualmachines/status"], READ),
        rule(&["image.yunfan.io"], &["images", "images/status"], READ),
        rule(
            &["network.yunfan.io"],
            &["networks", "networks/status", "ports", "ports/status", "subnets"],
            READ,
        ),
        rule(&["storage.yunfan.io"], &["volumes", "volumes/status"], READ),
    ]
}

/// What a tenant's members do beside reading.
fn edit_rules() -> Vec<Value> {
    vec![
        rule(
            &[""],
            &["pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy"],
            READ,
        ),
        rule(&[""], &["serviceaccounts"], &["impersonate"]),
        rule(&[""], &["pods", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy"], WRITE),
        rule(&[""], &["pods/eviction", "serviceaccounts/token"], &["create"]),
        rule(
            &[""],
            &[
                "configmaps",
                "events",
                "persistentvolumeclaims",
                "replicationcontrollers",
                "replicationcontrollers/scale",
                "secrets",
                "serviceaccounts",
                "services",
                "services/proxy",
            ],
            WRITE,
        ),
        rule(
            &["apps"],
            &[
                "daemonsets",
                "deployments",
                "deployments/rollback",
                "deployments/scale",
                "replicasets",
                "replicasets/scale",
                "statefulsets",
                "statefulsets/scale",
            ],
            WRITE,
        ),
        rule(&["autoscaling"], &["horizontalpodautoscalers"], WRITE),
        rule(&["batch"], &["cronjobs", "jobs"], WRITE),
        rule(&["policy"], &["poddisruptionbudgets"], WRITE),
        rule(&["networking.k8s.io"], &["ingresses", "networkpolicies"], WRITE),
        rule(&["coordination.k8s.io"], &["leases"], &[READ, WRITE].concat()),
        rule(&["compute.yunfan.io"], &["keypairs", "virtualmachines"], WRITE),
        rule(&["image.yunfan.io"], &["images"], WRITE),
        rule(&["network.yunfan.io"], &["networks", "ports", "subnets"], WRITE),
        rule(&["storage.yunfan.io"], &["volumes"], WRITE),
    ]
}

/// What a tenant's administrators do beside that: give what they have to others.
fn admin_rules() -> Vec<Value> {
    vec![
        rule(&[GROUP], &["rolebindings", "roles"], &[READ, WRITE].concat()),
        rule(&["authorization.k8s.io"], &["localsubjectaccessreviews"], &["create"]),
    ]
}

/// What an agent needs for the workloads of its node.
fn node_rules() -> Vec<Value> {
    let keep = ["get", "list", "watch", "patch", "update"];
    let own = ["create", "get", "list", "watch", "update", "patch", "delete"];
    vec![
        rule(&[""], &["nodes"], &own),
        rule(&[""], &["nodes/status"], &["get", "patch", "update"]),
        rule(&["coordination.k8s.io"], &["leases"], &own),
        rule(&[""], &["pods"], &["get", "list", "watch", "patch", "update", "delete"]),
        rule(&[""], &["pods/status"], &["get", "patch", "update"]),
        rule(
            &[""],
            &[
                "configmaps",
                "endpoints",
                "namespaces",
                "persistentvolumeclaims",
                "persistentvolumes",
                "secrets",
                "serviceaccounts",
                "services",
            ],
            READ,
        ),
        rule(&[""], &["serviceaccounts/token"], &["create"]),
        rule(&["discovery.k8s.io"], &["endpointslices"], READ),
        rule(&["", "events.k8s.io"], &["events"], &["create", "patch", "update"]),
        rule(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
        rule(&["authorization.k8s.io"], &["subjectaccessreviews"], &["create"]),
        rule(
            &["compute.yunfan.io"],
            &["virtualmachines", "virtualmachines/status", "virtualmachines/finalizers"],
            &keep,
        ),
        rule(&["compute.yunfan.io"], &["flavors", "keypairs"], READ),
        rule(&["image.yunfan.io"], &["images", "images/status", "images/finalizers"], &keep),
        rule(
            &["network.yunfan.io"],
            &[
                "networks",
                "networks/status",
                "networks/finalizers",
                "ports",
                "ports/status",
                "ports/finalizers",
            ],
            &keep,
        ),
        rule(&["network.yunfan.io"], &["subnets"], READ),
        rule(&["storage.yunfan.io"], &["volumes", "volumes/status", "volumes/finalizers"], &keep),
        rule(&["iam.yunfan.io"], &["projects"], READ),
    ]
}

fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Value {
    json!({ "apiGroups": groups, "resources": resources, "verbs": verbs })
}

fn paths(urls: &[&str], verbs: &[&str]) -> Value {
    json!({ "nonResourceURLs": urls, "verbs": verbs })
}

fn aggregation_label(to: &str) -> String {
    format!("{GROUP}/aggregate-to-{to}")
}

fn object(kind: &str, name: &str) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": kind,
        "metadata": {
            "name": name,
            "labels": { "kubernetes.io/bootstrapping": "rbac-defaults" },
            "annotations": { "rbac.authorization.kubernetes.io/autoupdate": "true" },
        },
    })
}

fn role(name: &str, rules: Vec<Value>) -> Value {
    let mut role = object("ClusterRole", name);
    role["rules"] = rules.into();
    role
}

fn labelled(name: &str, aggregated_to: &str, rules: Vec<Value>) -> Value {
    let mut role = role(name, rules);
    role["metadata"]["labels"][aggregation_label(aggregated_to)] = "true".into();
    role
}

/// `rules` is what people see; what counts are the roles selected.
fn aggregated(name: &str, to: Option<&str>, rules: Vec<Value>) -> Value {
    let mut role = match to {
        Some(to) => labelled(name, to, rules),
        None => self::role(name, rules),
    };
    let label = aggregation_label(name);
    role["aggregationRule"] = json!({ "clusterRoleSelectors": [{ "matchLabels": { label: "true" } }] });
    role
}

fn binding(name: &str, role: &str, groups: &[&str]) -> Value {
    let mut binding = object("ClusterRoleBinding", name);
    binding["roleRef"] = json!({ "apiGroup": GROUP, "kind": "ClusterRole", "name": role });
    binding["subjects"] =
        groups.iter().map(|group| json!({ "apiGroup": GROUP, "kind": "Group", "name": group })).collect();
    binding
}
