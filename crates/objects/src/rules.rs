//! What the verbs do differently for single kinds. Each is an accident of Kubernetes' history that clients
//! have come to rely on; a kind that is not named here follows the rule.

use crate::Descriptor;

/// Group and plural.
type Name = (&'static str, &'static str);

/// Kinds that an update must name the resourceVersion of; so must one of any custom kind.
const CONDITIONAL: [Name; 18] = [
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("apiregistration.k8s.io", "apiservices"),
    ("certificates.k8s.io", "clustertrustbundles"),
    ("certificates.k8s.io", "podcertificaterequests"),
    ("coordination.k8s.io", "leases"),
    ("node.k8s.io", "runtimeclasses"),
    ("policy", "poddisruptionbudgets"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "csistoragecapacities"),
    ("storage.k8s.io", "volumeattachments"),
    ("storagemigration.k8s.io", "storageversionmigrations"),
];

/// Kinds that an update makes where there is none.
const CREATED_BY_UPDATE: [Name; 11] = [
    ("", "endpoints"),
    ("", "events"),
    ("", "limitranges"),
    ("", "services"),
    ("coordination.k8s.io", "leases"),
    ("events.k8s.io", "events"),
    ("node.k8s.io", "runtimeclasses"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
    ("rbac.authorization.k8s.io", "roles"),
];

/// Kinds whose deletion is answered with the object, not with a Status.
const RETURNED: [Name; 18] = [
    ("", "namespaces"),
    ("", "persistentvolumeclaims"),
    ("", "persistentvolumes"),
    ("", "pods"),
    ("", "podtemplates"),
    ("", "resourcequotas"),
    ("", "serviceaccounts"),
    ("", "services"),
    ("resource.k8s.io", "deviceclasses"),
    ("resource.k8s.io", "devicetaintrules"),
    ("resource.k8s.io", "resourceclaims"),
    ("resource.k8s.io", "resourceclaimtemplates"),
    ("resource.k8s.io", "resourceslices"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "storageclasses"),
    ("storage.k8s.io", "volumeattachments"),
    ("storage.k8s.io", "volumeattributesclasses"),
];

/// Kinds whose dependents stay unless the deletion says otherwise.
const ORPHANING: [Name; 2] = [("", "replicationcontrollers"), ("batch", "jobs")];

/// Kinds that own nothing: a deletion's propagation means nothing to them.
const WITHOUT_DEPENDENTS: [Name; 2] = [("", "events"), ("events.k8s.io", "events")];

impl Descriptor {
    /// Whether an update without resourceVersion is refused.
    pub fn needs_revision(&self) -> bool {
        !self.builtin || self.is_one_of(&CONDITIONAL)
    }

    /// Whether an update makes the object where there is none.
    pub fn is_created_by_update(&self) -> bool {
        self.is_one_of(&CREATED_BY_UPDATE)
    }

    /// Whether a deletion is answered with the deleted object.
    pub fn is_returned(&self) -> bool {
        self.is_one_of(&RETURNED)
    }

    /// Whether dependents lose their owner where a deletion says nothing of them.
    pub fn orphans_dependents(&self) -> bool {
        self.is_one_of(&ORPHANING)
    }

    /// Whether the garbage collector has nothing to do with it as an owner.
    pub fn has_no_dependents(&self) -> bool {
        self.is_one_of(&WITHOUT_DEPENDENTS)
    }

    fn is_one_of(&self, names: &[Name]) -> bool {
        self.builtin && names.contains(&(self.group.as_str(), self.plural.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use crate::builtin;

    #[test]
    fn single_kinds_differ() {
        let all = builtin::descriptors();
        let kind = |kind: &str| all.iter().find(|each| each.kind == kind).unwrap();
        assert!(kind("Lease").needs_revision() && kind("APIService").needs_revision());
        assert!(!kind("ConfigMap").needs_revision());
        assert!(kind("Service").is_created_by_update() && !kind("Pod").is_created_by_update());
        assert!(kind("Pod").is_returned() && !kind("ConfigMap").is_returned());
        assert!(kind("Event").has_no_dependents() && !kind("Pod").orphans_dependents());
    }
}
