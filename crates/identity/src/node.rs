//! What nodes may do: Kubernetes' authorizer `Node`. A node reads the Secrets, ConfigMaps, accounts and claims that Pods bound to it name,
//! the volumes of those claims, those Pods themselves, the machines, Volumes and snapshots that are placed on it, and its own Lease; what
//! it may do with all other kinds is the same for every node ([`bootstrap::node_rules`]).
//! What it may write into the objects that it may write at all is for admission to say.

use serde_json::json;

use crate::authz::{Attributes, Authorizer, Decision};
use crate::bootstrap;
use crate::rbac::RuleSet;
use crate::user::UserInfo;

/// What a node's user name begins with.
pub const USER_PREFIX: &str = "system:node:";
/// Group of every node.
pub const GROUP: &str = "system:nodes";
/// Where nodes' leases are.
const LEASES: &str = "kube-node-lease";

/// The node that a user is; an empty name where it does not say which.
pub fn of(user: &UserInfo) -> Option<&str> {
    user.name.strip_prefix(USER_PREFIX).filter(|_| user.in_group(GROUP))
}

/// A kind of which a node reads what its Pods name, or what is placed on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Related {
    /// A ConfigMap that a Pod of the node names.
    ConfigMap,
    /// A Secret that one names.
    Secret,
    /// The account that one runs as.
    ServiceAccount,
    /// A claim that a Pod of the node mounts.
    Claim,
    /// The PersistentVolume of such a claim.
    PersistentVolume,
    /// A Pod that is bound to the node.
    Pod,
    /// A VirtualMachine that is placed there.
    Machine,
    /// A Volume that is placed there.
    Volume,
    /// A VolumeSnapshot that is placed there.
    Snapshot,
    /// A PodCertificateRequest for a Pod of the node.
    PodCertificate,
}

/// Knows which objects have to do with a node.
pub trait Relations: Send + Sync + 'static {
    /// Whether a Pod that is bound to `node` names the object, or the object is placed there. `namespace` is empty for kinds
    /// that have none. Answers from memory.
    fn are_related(&self, node: &str, kind: Related, namespace: &str, name: &str) -> bool;
}

/// Decides for nodes, and has no opinion of anybody else.
pub struct NodeAuthorizer<R> {
    relations: R,
    rules: RuleSet,
}

impl<R: Relations> NodeAuthorizer<R> {
    /// An authorizer with what every cloud's nodes may do.
    ///
    /// # Errors
    /// What is wrong with those rules.
    pub fn new(relations: R) -> Result<Self, String> {
        let rules = RuleSet::of(&json!({"rules": bootstrap::node_rules()}))?;
        Ok(Self { relations, rules })
    }

    /// Why it is not allowed, or nothing.
    fn judge(&self, node: &str, request: &Attributes<'_>) -> Result<(), String> {
        match (request.group, request.resource) {
            ("", "secrets") => self.reads(node, Related::Secret, request),
            ("", "configmaps") => self.reads(node, Related::ConfigMap, request),
            ("", "serviceaccounts") => self.account(node, request),
            ("", "persistentvolumeclaims") => self.claim(node, request),
            ("", "persistentvolumes") => self.persistent_volume(node, request),
            ("compute.yunfan.io", "virtualmachines") => self.placed(node, Related::Machine, request),
            ("storage.yunfan.io", "volumes") => self.placed(node, Related::Volume, request),
            ("storage.yunfan.io", "volumesnapshots") => self.placed(node, Related::Snapshot, request),
            ("", "pods") => self.pod(node, request),
            ("certificates.k8s.io", "podcertificaterequests") => self.pod_certificate(node, request),
            ("coordination.k8s.io", "leases") => lease(node, request),
            ("storage.k8s.io", "csinodes") => csi_node(node, request),
            _ if self.rules.allow(request) => Ok(()),
            _ => Err(String::new()),
        }
    }

    fn reads(&self, node: &str, kind: Related, request: &Attributes<'_>) -> Result<(), String> {
        if !matches!(request.verb, "get" | "list" | "watch") {
            return Err("can only read resources of this type".to_owned());
        }
        if !request.subresource.is_empty() {
            return Err("cannot read subresource".to_owned());
        }
        if request.namespace.is_empty() {
            return Err("can only read namespaced object of this type".to_owned());
        }
        self.related(node, kind, request)
    }

    fn related(&self, node: &str, kind: Related, request: &Attributes<'_>) -> Result<(), String> {
        if request.name.is_empty() {
            return Err("No Object name found".to_owned());
        }
        match self.relations.are_related(node, kind, request.namespace, request.name) {
            true => Ok(()),
            false => Err(format!("no relationship found between node '{node}' and this object")),
        }
    }

    fn account(&self, node: &str, request: &Attributes<'_>) -> Result<(), String> {
        match (request.verb, request.subresource) {
            ("get", "") => self.reads(node, Related::ServiceAccount, request),
            ("create", "token") if !request.name.is_empty() => {
                self.related(node, Related::ServiceAccount, request)
            }
            ("create", sub) if sub != "token" => {
                Err("can only create token subresource of serviceaccount".to_owned())
            }
            _ => Err("can only create tokens for individual service accounts".to_owned()),
        }
    }

    /// Kubernetes' nodes get claims alone; ours follow them by name.
    fn claim(&self, node: &str, request: &Attributes<'_>) -> Result<(), String> {
        match (request.verb, request.subresource) {
            ("get" | "update" | "patch", "status") => self.related(node, Related::Claim, request),
            (_, "status") => Err("can only update status of resources of this type".to_owned()),
            _ => self.reads(node, Related::Claim, request),
        }
    }

    fn persistent_volume(&self, node: &str, request: &Attributes<'_>) -> Result<(), String> {
        match (request.verb, request.subresource) {
            ("get" | "list" | "watch", "") => self.related(node, Related::PersistentVolume, request),
            (_, "") => Err("can only read resources of this type".to_owned()),
            _ => Err("cannot read subresource".to_owned()),
        }
    }

    /// What is placed on a node is read there alone, as Pods are; who writes it, admission sees.
    fn placed(&self, node: &str, kind: Related, request: &Attributes<'_>) -> Result<(), String> {
        if !self.rules.allow(request) {
            return Err(String::new());
        }
        match request.verb {
            "list" | "watch" if request.selects("spec.nodeName", node) => Ok(()),
            "list" | "watch" if request.name.is_empty() => {
                Err(format!("can only list/watch {} with spec.nodeName field selector", request.resource))
            }
            "get" | "list" | "watch" => self.related(node, kind, request),
            _ => Ok(()),
        }
    }

    /// What it asks in its Pods' names. For which of them, admission sees.
    fn pod_certificate(&self, node: &str, request: &Attributes<'_>) -> Result<(), String> {
        if !request.subresource.is_empty() {
            return Err("nodes may not access the status subresource of PodCertificateRequests".to_owned());
        }
        match request.verb {
            "create" => Ok(()),
            "get" => self.related(node, Related::PodCertificate, request),
            "list" | "watch" if request.selects("spec.nodeName", node) => Ok(()),
            "list" | "watch" => {
                Err("can only list/watch podcertificaterequests with nodeName field selector".to_owned())
            }
            verb => Err(format!("nodes may not {verb} podcertificaterequests")),
        }
    }

    fn pod(&self, node: &str, request: &Attributes<'_>) -> Result<(), String> {
        match (request.subresource, request.verb) {
            ("", "get") => self.related(node, Related::Pod, request),
            ("", "list" | "watch") if request.selects("spec.nodeName", node) => Ok(()),
            ("", "list" | "watch") if !request.name.is_empty() => self.related(node, Related::Pod, request),
            ("", "list" | "watch") => {
                Err("can only list/watch pods with spec.nodeName field selector".to_owned())
            }
            // Mirrors of its static Pods, and the end of its own Pods: admission sees to that.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
            _ => Err(String::new()),
        }
    }
}

fn lease(node: &str, request: &Attributes<'_>) -> Result<(), String> {
    if !matches!(request.verb, "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a node lease".to_owned());
    }
    if request.namespace != LEASES {
        return Err(format!("can only access leases in the {LEASES:?} system namespace"));
    }
    // Which one is created, admission sees.
    if request.verb != "create" && request.name != node {
        return Err("can only access node lease with the same name as the requesting node".to_owned());
    }
    Ok(())
}

fn csi_node(node: &str, request: &Attributes<'_>) -> Result<(), String> {
    if !matches!(request.verb, "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a CSINode".to_owned());
    }
    if !request.subresource.is_empty() {
        return Err("cannot authorize CSINode subresources".to_owned());
    }
    // Which one is created, admission sees.
    if request.verb != "create" && request.name != node {
        return Err("can only access CSINode with the same name as the requesting node".to_owned());
    }
    Ok(())
}

impl<R: Relations> Authorizer for NodeAuthorizer<R> {
    fn authorize(&self, request: &Attributes<'_>) -> Decision {
        let reason = match of(request.user) {
            None => String::new(),
            Some("") => format!("unknown node for user {:?}", request.user.name),
            Some(node) => match self.judge(node, request) {
                Ok(()) => return Decision::Allow { reason: String::new() },
                Err(reason) => reason,
            },
        };
        Decision::NoOpinion { reason }
    }
}

#[cfg(test)]
mod tests {
    use crate::authz::FieldTerm;

    use super::*;

    /// The Pod `ns/p` is on `n`, and names the Secret, the ConfigMap and the claim `mine` and the account `robot`; the claim has the
    /// volume `pv`. The machine, the Volume and the snapshot `placed` are there, too.
    struct One;

    impl Relations for One {
        fn are_related(&self, node: &str, kind: Related, namespace: &str, name: &str) -> bool {
            let named = match kind {
                Related::ConfigMap | Related::Secret | Related::Claim => "mine",
                Related::ServiceAccount => "robot",
                Related::PersistentVolume => return node == "n" && namespace.is_empty() && name == "pv",
                Related::Pod => "p",
                Related::Machine | Related::Volume | Related::Snapshot | Related::PodCertificate => "placed",
            };
            node == "n" && namespace == "ns" && name == named
        }
    }

    fn judged(user: &UserInfo, line: &str) -> Decision {
        let mut words = line.split(' ');
        let mut next = || words.next().unwrap_or_default();
        let (verb, group, resource, namespace, name, node) = (next(), next(), next(), next(), next(), next());
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let empty = |text| if text == "-" { "" } else { text };
        let (node, equal) = node.strip_prefix('!').map_or((node, true), |other| (other, false));
        let selected = [FieldTerm { field: "spec.nodeName".to_owned(), equal, value: node.to_owned() }];
        let request = Attributes {
            subresource,
            namespace: empty(namespace),
            name: empty(name),
            selected: if node.is_empty() { &[] } else { &selected },
            ..Attributes::resource(user, verb, empty(group), resource)
        };
        NodeAuthorizer::new(One).expect("rules").authorize(&request)
    }

    #[test]
    fn a_node_has_what_is_related_to_it() {
        let node = UserInfo::authenticated("system:node:n", [GROUP]);
        for line in [
            "get - secrets ns mine",
            "watch - configmaps ns mine",
            "create - serviceaccounts/token ns robot",
            "get - serviceaccounts ns robot",
            "get - pods ns p",
            "list - pods - - n",
            "watch - pods ns p",
            "create - pods ns -",
            "patch - pods/status ns other",
            "update coordination.k8s.io leases kube-node-lease n",
            "create coordination.k8s.io leases kube-node-lease -",
            "list - services - -",
            "patch - nodes/status - n",
            "create authorization.k8s.io localsubjectaccessreviews ns -",
            "watch node.k8s.io runtimeclasses - -",
            "list storage.k8s.io csidrivers - -",
            "create storage.k8s.io csinodes - -",
            "patch storage.k8s.io csinodes - n",
            "get - persistentvolumeclaims ns mine",
            "watch - persistentvolumeclaims ns mine",
            "patch - persistentvolumeclaims/status ns mine",
            "get - persistentvolumes - pv",
            "list compute.yunfan.io virtualmachines - - n",
            "watch storage.yunfan.io volumes ns - n",
            "get compute.yunfan.io virtualmachines ns placed",
            "watch storage.yunfan.io volumesnapshots ns placed",
            "patch compute.yunfan.io virtualmachines/status ns other",
            "watch certificates.k8s.io clustertrustbundles - -",
            "create certificates.k8s.io podcertificaterequests ns -",
            "get certificates.k8s.io podcertificaterequests ns placed",
            "watch certificates.k8s.io podcertificaterequests ns - n",
        ] {
            assert!(judged(&node, line).is_allowed(), "{line}");
        }
        for (line, why) in [
            ("get - secrets ns other", "no relationship found between node 'n' and this object"),
            ("get - secrets other mine", "no relationship found between node 'n' and this object"),
            ("list - secrets ns -", "No Object name found"),
            ("list - secrets - mine", "can only read namespaced object of this type"),
            ("update - secrets ns mine", "can only read resources of this type"),
            ("get - secrets/x ns mine", "cannot read subresource"),
            (
                "create - serviceaccounts/token ns other",
                "no relationship found between node 'n' and this object",
            ),
            ("create - serviceaccounts ns -", "can only create token subresource of serviceaccount"),
            ("list - serviceaccounts ns -", "can only create tokens for individual service accounts"),
            ("get - pods ns other", "no relationship found between node 'n' and this object"),
            ("list - pods - - m", "can only list/watch pods with spec.nodeName field selector"),
            ("list - pods - - !m", "can only list/watch pods with spec.nodeName field selector"),
            ("deletecollection - pods ns - n", ""),
            ("create certificates.k8s.io clustertrustbundles - -", ""),
            (
                "get certificates.k8s.io podcertificaterequests ns other",
                "no relationship found between node 'n' and this object",
            ),
            (
                "list certificates.k8s.io podcertificaterequests ns - m",
                "can only list/watch podcertificaterequests with nodeName field selector",
            ),
            (
                "patch certificates.k8s.io podcertificaterequests/status ns placed",
                "nodes may not access the status subresource of PodCertificateRequests",
            ),
            (
                "delete certificates.k8s.io podcertificaterequests ns placed",
                "nodes may not delete podcertificaterequests",
            ),
            ("get - pods/log ns p", ""),
            (
                "get - persistentvolumeclaims ns other",
                "no relationship found between node 'n' and this object",
            ),
            ("list - persistentvolumeclaims - -", "can only read namespaced object of this type"),
            ("update - persistentvolumeclaims ns mine", "can only read resources of this type"),
            (
                "patch - persistentvolumeclaims/status ns other",
                "no relationship found between node 'n' and this object",
            ),
            ("get - persistentvolumes - other", "no relationship found between node 'n' and this object"),
            ("list - persistentvolumes - -", "No Object name found"),
            ("patch - persistentvolumes - pv", "can only read resources of this type"),
            (
                "list compute.yunfan.io virtualmachines - -",
                "can only list/watch virtualmachines with spec.nodeName field selector",
            ),
            (
                "watch storage.yunfan.io volumes ns - m",
                "can only list/watch volumes with spec.nodeName field selector",
            ),
            (
                "get storage.yunfan.io volumes ns other",
                "no relationship found between node 'n' and this object",
            ),
            ("create compute.yunfan.io virtualmachines ns -", ""),
            ("deletecollection storage.yunfan.io volumes ns - n", ""),
            (
                "update coordination.k8s.io leases kube-node-lease m",
                "can only access node lease with the same name as the requesting node",
            ),
            (
                "get coordination.k8s.io leases kube-system n",
                "can only access leases in the \"kube-node-lease\" system namespace",
            ),
            (
                "list coordination.k8s.io leases kube-node-lease -",
                "can only get, create, update, patch, or delete a node lease",
            ),
            ("create rbac.authorization.k8s.io clusterroles - x", ""),
            ("delete - nodes - n", ""),
            ("list - endpoints - -", ""),
            (
                "delete storage.k8s.io csinodes - m",
                "can only access CSINode with the same name as the requesting node",
            ),
            ("list storage.k8s.io csinodes - -", "can only get, create, update, patch, or delete a CSINode"),
            ("get storage.k8s.io csinodes/x - n", "cannot authorize CSINode subresources"),
            ("get storage.k8s.io volumeattachments - x", ""),
            ("get resource.k8s.io resourceclaims ns x", ""),
        ] {
            let reason = why.to_owned();
            assert_eq!(judged(&node, line), Decision::NoOpinion { reason }, "{line}");
        }
    }

    #[test]
    fn nobody_else_is_judged() {
        let line = "list - services - -";
        for (name, groups, reason) in [
            ("system:node:n", &[][..], ""),
            ("n", &[GROUP][..], ""),
            ("system:node:", &[GROUP][..], "unknown node for user \"system:node:\""),
        ] {
            let user = UserInfo::authenticated(name, groups.iter().copied());
            assert_eq!(judged(&user, line), Decision::NoOpinion { reason: reason.to_owned() }, "{name}");
        }
    }
}
