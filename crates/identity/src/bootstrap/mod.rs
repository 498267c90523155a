//! The roles and bindings that each cloud starts with, as JSON objects.
//!
//! They are Kubernetes' own ([`table`]), under the same names, so that RoleBindings and charts made for it work here;
//! the tenant roles `admin`, `edit` and `view` (Keystone's admin, member and reader) know our kinds too. As there,
//! those three are aggregated: a ClusterRole labelled `rbac.authorization.k8s.io/aggregate-to-edit: "true"` adds to `edit`.

mod table;

use serde_json::{Value, json};

use crate::rbac::{CLOUD_ADMIN_ROLE, GROUP};
use crate::user::AUTHENTICATED_GROUP;

/// Group of the control loops that run inside the cloud process.
pub const COMPONENTS_GROUP: &str = "system:yunfan:components";

/// Label of ClusterRoles that add to what a project's manager has.
pub const AGGREGATE_TO_MANAGER: &str = "iam.yunfan.io/aggregate-to-manager";

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];

/// Every object: roles first, then bindings. To be written at each start where missing; to what is there is added what it lacks
/// ([`crate::rbac::reconcile`]), unless it says `rbac.authorization.kubernetes.io/autoupdate: "false"`.
pub fn objects() -> Vec<Value> {
    let mut objects = roles();
    objects.extend(bindings());
    objects
}

/// The ClusterRoles, and the Roles of the cloud's own namespaces.
pub fn roles() -> Vec<Value> {
    let mut roles = table::roles();
    roles.extend([
        labelled("system:yunfan:aggregate-to-edit", "edit", edit_rules()),
        labelled("system:yunfan:aggregate-to-view", "view", view_rules()),
        metrics_reader(),
    ]);
    let whole = ["admin", "edit", "view"].map(|name| {
        let parts: &[&str] = match name {
            "admin" => &["admin", "edit", "view"],
            "edit" => &["edit", "view"],
            _ => &["view"],
        };
        let rules = parts.iter().flat_map(|part| rules_of(&roles, &aggregation_label(part))).collect();
        let to = match name {
            "edit" => Some("admin"),
            "view" => Some("edit"),
            _ => None,
        };
        aggregated(name, to, rules)
    });
    roles.extend(whole);
    roles.extend(keystone_roles(&roles));
    roles.extend([
        role(
            "system:yunfan:authenticated",
            vec![
                rule(&["compute.yunfan.io"], &["flavors"], READ),
                rule(&["image.yunfan.io"], &["metadefnamespaces"], READ),
                rule(&["network.yunfan.io"], &["externalnetworks", "qospolicies"], READ),
                rule(&["storage.yunfan.io"], &["volumegrouptypes", "volumetypes"], READ),
            ],
        ),
        role("system:node", [node_rules(), node_role_rules()].concat()),
        role(
            CLOUD_ADMIN_ROLE,
            vec![rule(&["*"], &["*"], &["*"]), serde_json::json!({"nonResourceURLs": ["*"], "verbs": ["*"]})],
        ),
        settings_reader(),
    ]);
    roles
}

/// What Keystone's roles stand for that Kubernetes has no name of: the manager of a project, who has what a member has, and the roles
/// in the whole cloud but admin's, whose bearers read all that tenants' readers do and who there is.
fn keystone_roles(roles: &[Value]) -> Vec<Value> {
    let selected = |name: &str, labels: &[String], rules: Vec<Value>| {
        let mut role = role(name, rules);
        let selectors = labels.iter().map(|label| json!({ "matchLabels": { label: "true" } }));
        role["aggregationRule"] = json!({ "clusterRoleSelectors": selectors.collect::<Vec<_>>() });
        role
    };
    let rules = |part: &str| rules_of(roles, &aggregation_label(part));
    let edit = [rules("edit"), rules("view")].concat();
    let directory = "iam.yunfan.io/aggregate-to-system-reader".to_owned();
    let mut reader = role(
        "system:yunfan:directory-reader",
        vec![
            rule(
                &["iam.yunfan.io"],
                &[
                    "catalogendpoints",
                    "catalogservices",
                    "domains",
                    "endpointgroups",
                    "groups",
                    "projects",
                    "regions",
                    "rolegrants",
                    "users",
                ],
                READ,
            ),
            rule(&[GROUP], &["clusterrolebindings", "clusterroles", "rolebindings", "roles"], READ),
            rule(&[""], &["nodes"], READ),
        ],
    );
    reader["metadata"]["labels"][&directory] = "true".into();
    let whole = [rules("view"), reader["rules"].as_array().cloned().unwrap_or_default()].concat();
    let mut all = vec![
        reader,
        selected(
            "system:yunfan:manager",
            &[aggregation_label("edit"), AGGREGATE_TO_MANAGER.to_owned()],
            edit,
        ),
    ];
    for name in ["system:yunfan:system-manager", "system:yunfan:system-member", "system:yunfan:system-reader"]
    {
        all.push(selected(name, &[aggregation_label("view"), directory.clone()], whole.clone()));
    }
    all
}

/// The bindings of both.
pub fn bindings() -> Vec<Value> {
    let mut bindings = table::bindings();
    bindings.extend([
        binding("system:yunfan:components", "cluster-admin", &[COMPONENTS_GROUP]),
        binding("system:yunfan:authenticated", "system:yunfan:authenticated", &[AUTHENTICATED_GROUP]),
        // The role says nothing of whose Secrets and Pods: the authorizer of nodes does. As in Kubernetes, nobody has it.
        binding("system:node", "system:node", &[]),
        settings_binding(),
        // So that a node's certificates can follow one another (kubeadm makes this binding in Kubernetes).
        binding("system:yunfan:nodes-renew", RENEW, &[crate::node::GROUP]),
    ]);
    bindings
}

/// The rules of all roles with this label.
fn rules_of(roles: &[Value], label: &str) -> Vec<Value> {
    let labelled = roles.iter().filter(|role| role["metadata"]["labels"][label] == "true");
    labelled.filter_map(|role| role["rules"].as_array()).flatten().cloned().collect()
}

/// What a tenant's readers see of our own kinds.
fn view_rules() -> Vec<Value> {
    vec![
        rule(
            &["compute.yunfan.io"],
            &["keypairs", "servergroups", "virtualmachines", "virtualmachines/status"],
            READ,
        ),
        rule(&["image.yunfan.io"], &["images", "images/status"], READ),
        rule(
            &["network.yunfan.io"],
            &[
                "addressgroups",
                "addressscopes",
                "floatingips",
                "floatingips/status",
                "networks",
                "networks/status",
                "ports",
                "ports/status",
                "routers",
                "securitygroups",
                "subnetpools",
                "subnets",
            ],
            READ,
        ),
        rule(
            &["storage.yunfan.io"],
            &[
                "volumegroups",
                "volumegroupsnapshots",
                "volumes",
                "volumes/status",
                "volumesnapshots",
                "volumesnapshots/status",
            ],
            READ,
        ),
    ]
}

/// Who may see what nodes and Pods use: by the name and rules that metrics-server brings.
fn metrics_reader() -> Value {
    let rules = vec![rule(&["metrics.k8s.io"], &["pods", "nodes"], READ)];
    labelled("system:aggregated-metrics-reader", "view", rules)
}

/// What a tenant's members do with them beside reading.
fn edit_rules() -> Vec<Value> {
    vec![
        // Cinder's users put away the messages that they have read.
        rule(&[""], &["events"], &["delete"]),
        rule(&["compute.yunfan.io"], &["keypairs", "servergroups", "virtualmachines"], WRITE),
        rule(&["image.yunfan.io"], &["images"], WRITE),
        rule(
            &["network.yunfan.io"],
            &[
                "addressgroups",
                "addressscopes",
                "floatingips",
                "networks",
                "ports",
                "routers",
                "securitygroups",
                "subnetpools",
                "subnets",
            ],
            WRITE,
        ),
        rule(
            &["storage.yunfan.io"],
            &["volumegroups", "volumegroupsnapshots", "volumes", "volumesnapshots"],
            WRITE,
        ),
    ]
}

/// What an agent needs for the workloads of its node. Of what [`crate::node`] tells apart, each node has its own part only.
pub(crate) fn node_rules() -> Vec<Value> {
    let keep = ["get", "list", "watch", "patch", "update"];
    let own = ["create", "get", "list", "watch", "update", "patch", "delete"];
    vec![
        rule(&[""], &["nodes"], &["create", "get", "list", "watch", "update", "patch"]),
        rule(&[""], &["nodes/status"], &["get", "patch", "update"]),
        rule(&["coordination.k8s.io"], &["leases"], &own),
        // Made only as mirrors of its static Pods: admission sees to that.
        rule(&[""], &["pods"], &own),
        rule(&[""], &["pods/status"], &["get", "patch", "update"]),
        rule(&[""], &["pods/eviction"], &["create"]),
        rule(
            &[""],
            &[
                "configmaps",
                // What a tenant's project is, and so how its containers are confined.
                "namespaces",
                "persistentvolumeclaims",
                "persistentvolumes",
                "secrets",
                "serviceaccounts",
                "services",
            ],
            READ,
        ),
        // What a file system has become larger by.
        rule(&[""], &["persistentvolumeclaims/status"], &["get", "patch", "update"]),
        rule(&[""], &["serviceaccounts/token"], &["create"]),
        rule(&["discovery.k8s.io"], &["endpointslices"], READ),
        rule(&["", "events.k8s.io"], &["events"], &["create", "patch", "update"]),
        rule(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
        // For its own next certificates.
        rule(&["certificates.k8s.io"], &["certificatesigningrequests"], &["create", "get", "list", "watch"]),
        // For what its Pods project into volumes: whom to trust, and certificates of their own.
        rule(&["certificates.k8s.io"], &["clustertrustbundles"], READ),
        rule(&["certificates.k8s.io"], &["podcertificaterequests"], &["create", "get", "list", "watch"]),
        rule(&["authorization.k8s.io"], &["localsubjectaccessreviews", "subjectaccessreviews"], &["create"]),
        rule(&["node.k8s.io"], &["runtimeclasses"], READ),
        rule(&["storage.k8s.io"], &["csidrivers"], READ),
        // Its own alone.
        rule(&["storage.k8s.io"], &["csinodes"], &["create", "delete", "get", "patch", "update"]),
        rule(&["compute.yunfan.io"], &["virtualmachines", "virtualmachines/status"], &keep),
        rule(&["compute.yunfan.io"], &["flavors", "keypairs"], READ),
        rule(&["image.yunfan.io"], &["images"], READ),
        rule(&["image.yunfan.io"], &["images/status"], &keep),
        rule(
            &["network.yunfan.io"],
            &[
                "addressgroups",
                "floatingips",
                "networks",
                "ports",
                "qospolicies",
                "routers",
                "securitygroups",
                "subnetpools",
                "subnets",
            ],
            READ,
        ),
        rule(&["network.yunfan.io"], &["floatingips/status", "networks/status", "ports/status"], &keep),
        rule(
            &["storage.yunfan.io"],
            &["volumes", "volumes/status", "volumesnapshots", "volumesnapshots/status"],
            &keep,
        ),
        rule(&["iam.yunfan.io"], &["projects"], READ),
    ]
}

/// What Kubernetes' role of nodes has beside that, and its authorizer of nodes gives by relations that are not looked at here: our nodes
/// need none of it. Whoever binds the role to somebody gives what it gives there.
fn node_role_rules() -> Vec<Value> {
    vec![
        rule(&["storage.k8s.io"], &["volumeattachments"], &["get"]),
        rule(&["resource.k8s.io"], &["resourceclaims"], &["get"]),
        rule(&["resource.k8s.io"], &["resourceslices"], &["deletecollection"]),
    ]
}

/// Kubernetes' role of those who may have another client certificate of their own.
const RENEW: &str = "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient";

/// Name of the ConfigMap in `kube-system` that tells nodes to come what they need to know of the cloud, and of the role to read it.
pub const SETTINGS: &str = "yunfan-settings";
const SETTINGS_NAMESPACE: &str = "kube-system";

/// No Pod of a new node names the cloud's settings, which it reads before it has any.
fn settings_reader() -> Value {
    let mut reads = rule(&[""], &["configmaps"], &["get"]);
    reads["resourceNames"] = json!([SETTINGS]);
    let mut role = role(SETTINGS, vec![reads]);
    in_namespace(&mut role, SETTINGS_NAMESPACE);
    role
}

fn settings_binding() -> Value {
    let mut binding = binding(SETTINGS, SETTINGS, &[crate::node::GROUP]);
    in_namespace(&mut binding, SETTINGS_NAMESPACE);
    binding
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

/// Puts a role or a binding of the whole cluster into a namespace, where one is given.
fn in_namespace(object: &mut Value, namespace: &str) {
    if namespace.is_empty() {
        return;
    }
    object["metadata"]["namespace"] = json!(namespace);
    for kind in ["/kind", "/roleRef/kind"] {
        if let Some(Value::String(kind)) = object.pointer_mut(kind) {
            *kind = kind.trim_start_matches("Cluster").to_owned();
        }
    }
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
