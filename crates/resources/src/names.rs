//! Well-known names: labels, annotations, finalizers, namespaces, users and groups.

/// Annotation of a Node: since when its host runs, RFC 3339.
pub const BOOTED: &str = "yunfan.io/booted-at";
/// Label of a Node: the zone that it is in.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Label on a Namespace: the `metadata.name` of the Project that owns it.
pub const PROJECT_LABEL: &str = "iam.yunfan.io/project";

/// Label on a Namespace: which of the Pod Security Standards its Pods keep to (`privileged` where it is absent).
pub const POD_SECURITY_LABEL: &str = "pod-security.kubernetes.io/enforce";

/// Labels of Pod Security begin so.
pub const POD_SECURITY_PREFIX: &str = "pod-security.kubernetes.io/";

/// What containers may add by the standard `baseline`, without `CAP_`.
pub const BASELINE_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// The standard that the namespace of a new project is labelled with: a project is a stranger's.
pub const TENANT_POD_SECURITY: &str = "baseline";

/// Annotation on a Pod: the `metadata.name` of the Network (in the Pod's namespace) that it joins.
/// The value [`CLUSTER_NETWORK`] names the cluster network even where the namespace has a default.
pub const NETWORK_ANNOTATION: &str = "network.yunfan.io/network";

/// On a Subnet that is about to go, `true`: no Port gets an address of it any more, also where addresses are made of MACs.
pub const RETIRING_ANNOTATION: &str = "network.yunfan.io/retiring";
/// When an object was last changed through the OpenStack door, for its `updated_at`: writes of the cloud's own programs leave no managedFields.
pub const UPDATED_ANNOTATION: &str = "openstack.yunfan.io/updated-at";
/// Annotation on a Namespace: the Network that Pods without [`NETWORK_ANNOTATION`] join.
pub const DEFAULT_NETWORK_ANNOTATION: &str = "network.yunfan.io/default-network";

/// The name that stands for the cluster network in annotations; no Network object has it.
pub const CLUSTER_NETWORK: &str = "cluster";

/// Label on a Port: the `metadata.name` of its Network.
pub const PORT_NETWORK_LABEL: &str = "network.yunfan.io/network";

/// Finalizer that an agent holds on a VirtualMachine while the node has anything of it.
pub const VM_FINALIZER: &str = "compute.yunfan.io/agent";

/// Finalizer that an agent holds on a Volume while the node has its data; the data stays while a machine has the Volume.
pub const VOLUME_FINALIZER: &str = "storage.yunfan.io/agent";

/// Finalizer on a VirtualMachine with Volumes that are deleted with it, until they are.
pub const VM_VOLUMES_FINALIZER: &str = "storage.yunfan.io/volumes";

/// Finalizer on a Network while Ports are on it.
pub const NETWORK_FINALIZER: &str = "network.yunfan.io/ports";

/// Namespace of the cloud's own objects.
pub const SYSTEM_NAMESPACE: &str = "kube-system";

/// Namespace of the node leases.
pub const LEASE_NAMESPACE: &str = "kube-node-lease";

/// Type of the Secrets in [`SYSTEM_NAMESPACE`] that hold a User's password hash (key `hash`, a PHC
/// string); the Secret is named by [`password_secret`].
pub const PASSWORD_SECRET_TYPE: &str = "iam.yunfan.io/password";

/// The name of the Secret with the password hash of the User whose `metadata.name` is given.
pub fn password_secret(user: &str) -> String {
    format!("user-password-{user}")
}

/// The User, and the Project, that each new cloud starts with. The user is cluster admin.
pub const ADMIN: &str = "admin";

/// The group that may do everything (Kubernetes' own convention).
pub const MASTERS_GROUP: &str = "system:masters";

/// Every agent's group; its user name is [`node_user`].
pub const NODES_GROUP: &str = "system:nodes";

/// An agent's user name.
pub fn node_user(node: &str) -> String {
    format!("system:node:{node}")
}

/// The user name of a control loop that runs inside the cloud process, e.g. `system:yunfan:scheduler`.
pub fn component_user(component: &str) -> String {
    format!("system:yunfan:{component}")
}

/// Group of the components that run inside the cloud process.
pub const COMPONENTS_GROUP: &str = "system:yunfan:components";

/// Type of the Secrets in [`SYSTEM_NAMESPACE`] that hold the hash of an ApplicationCredential's secret (key `hash`).
pub const APP_CREDENTIAL_SECRET_TYPE: &str = "iam.yunfan.io/application-credential";

/// The name of the Secret with the hash of the secret of the ApplicationCredential whose `metadata.name` is given.
pub fn app_credential_secret(credential: &str) -> String {
    format!("application-credential-{credential}")
}

/// Type of the Secrets in [`SYSTEM_NAMESPACE`] that hold what Keystone calls a credential: an EC2 key pair, a seed of one-time
/// passwords, a certificate.
pub const CREDENTIAL_SECRET_TYPE: &str = "iam.yunfan.io/credential";

/// Label on those that are EC2 key pairs: a digest of the access key.
pub const CREDENTIAL_ACCESS_LABEL: &str = "iam.yunfan.io/access-key";

/// Label on those: the id of the User whose it is.
pub const CREDENTIAL_USER_LABEL: &str = "iam.yunfan.io/user-id";

/// The ClusterRole that Keystone's admin of a project has. As in OpenStack, whoever is admin of one project is it of the whole cloud: a
/// RoleBinding to this role counts as one of the whole cluster. It allows all, paths too, so that nobody can bind it in a namespace who has
/// not all of that in the cluster.
pub const CLOUD_ADMIN_ROLE: &str = "system:yunfan:cloud-admin";

/// Keystone's role names, the strongest first (each implies those behind it), and the ClusterRole that each one stands for: an assignment
/// of the role on a project is a RoleBinding to that ClusterRole in the project's namespaces.
pub const ROLES: [(&str, &str); 4] = [
    ("admin", CLOUD_ADMIN_ROLE),
    ("manager", "system:yunfan:manager"),
    ("member", "edit"),
    ("reader", "view"),
];

/// The same for assignments in the whole cloud, which are ClusterRoleBindings.
pub const SYSTEM_ROLES: [(&str, &str); 4] = [
    ("admin", "cluster-admin"),
    ("manager", "system:yunfan:system-manager"),
    ("member", "system:yunfan:system-member"),
    ("reader", "system:yunfan:system-reader"),
];

/// Label on the RoleBinding that stands for a Keystone role assignment: the Keystone role's name.
pub const ROLE_LABEL: &str = "iam.yunfan.io/role";

/// Label on a ClusterRole that Keystone shows as a role of its own: the role's id.
pub const ROLE_ID_LABEL: &str = "iam.yunfan.io/role-id";
/// Annotation on it: what the role is called.
pub const ROLE_NAME: &str = "iam.yunfan.io/display-name";
/// Annotation on it: the id of the domain that the role is in; none for one of the whole cloud.
pub const ROLE_DOMAIN: &str = "iam.yunfan.io/domain-id";

/// Label on a RoleBinding that a project inherits: the `metadata.name` of the RoleGrant.
pub const INHERITED_LABEL: &str = "iam.yunfan.io/inherited";

/// Quota keys (ResourceQuota `spec.hard`) that VirtualMachines are charged to, beside
/// `count/virtualmachines.compute.yunfan.io`: vCPUs, and memory in bytes as a Kubernetes quantity.
pub const QUOTA_VCPUS: &str = "compute.yunfan.io/vcpus";
/// See [`QUOTA_VCPUS`].
pub const QUOTA_MEMORY: &str = "compute.yunfan.io/memory";
/// Quota key that Volumes are charged to, beside `count/volumes.storage.yunfan.io`: GiB.
pub const QUOTA_GIGABYTES: &str = "storage.yunfan.io/gigabytes";
/// Quota key that Images are charged to, beside `count/images.image.yunfan.io`: bytes that they take on a node, as a Kubernetes quantity.
/// How many those are is known when they are there.
pub const QUOTA_IMAGE_BYTES: &str = "image.yunfan.io/bytes";
/// Quota key that SecurityGroups are charged to, beside `count/securitygroups.network.yunfan.io`: rules.
pub const QUOTA_GROUP_RULES: &str = "network.yunfan.io/security-group-rules";
/// Quota key that bounds each VirtualMachine, and counts nothing: how many pairs of metadata one has.
pub const QUOTA_METADATA_ITEMS: &str = "compute.yunfan.io/metadata-items";
/// Quota key that bounds each ServerGroup, and counts nothing: how many VirtualMachines are in one.
pub const QUOTA_GROUP_MEMBERS: &str = "compute.yunfan.io/server-group-members";
/// Name of the ResourceQuota that `openstack quota set` writes in the project's namespace.
pub const PROJECT_QUOTA: &str = "project";
/// Name of the ResourceQuota in [`SYSTEM_NAMESPACE`] with the limits of projects that say nothing else: `openstack quota set --class`
/// writes it.
pub const DEFAULT_QUOTA: &str = "project-default";
/// Annotation on a project's ResourceQuota: the keys of its limits that are the default ones, a JSON list.
pub const DEFAULT_LIMITS: &str = "iam.yunfan.io/default-limits";
/// Annotation on a project's ResourceQuota: the keys that have no limit, whatever the default is, a JSON list.
pub const NO_LIMITS: &str = "iam.yunfan.io/no-limits";

/// The suffix of the cluster's DNS names: `SERVICE.NAMESPACE.svc.cluster.local`. A workload on a
/// tenant network is found as `HOSTNAME.NETWORK.NAMESPACE.net.cluster.local`, and by its bare host name
/// within its own network.
pub const CLUSTER_DOMAIN: &str = "cluster.local";
