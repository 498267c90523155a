//! Which group clients prefer to which, and which version of a group: Kubernetes' own numbers.

/// Where a group and its version stand among the others: higher numbers come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Priority {
    pub(crate) group: i64,
    pub(crate) version: i64,
}

/// A group with its priority, and its versions with theirs.
type Group = (&'static str, i64, &'static [(&'static str, i64)]);

/// Of Kubernetes' own groups: the group's, and those of its versions.
const OWN: [Group; 21] = [
    ("", 18_000, &[("v1", 1)]),
    ("apps", 17_800, &[("v1", 15)]),
    ("events.k8s.io", 17_750, &[("v1", 15)]),
    ("authentication.k8s.io", 17_700, &[("v1", 15)]),
    ("authorization.k8s.io", 17_600, &[("v1", 15)]),
    ("autoscaling", 17_500, &[("v2", 30), ("v1", 15)]),
    ("batch", 17_400, &[("v1", 15)]),
    ("certificates.k8s.io", 17_300, &[("v1", 15), ("v1beta1", 9), ("v1alpha1", 1)]),
    ("networking.k8s.io", 17_200, &[("v1", 15), ("v1beta1", 9)]),
    ("policy", 17_100, &[("v1", 15)]),
    ("rbac.authorization.k8s.io", 17_000, &[("v1", 15)]),
    ("storage.k8s.io", 16_800, &[("v1", 15), ("v1beta1", 9), ("v1alpha1", 1)]),
    ("apiextensions.k8s.io", 16_700, &[("v1", 15)]),
    ("admissionregistration.k8s.io", 16_700, &[("v1", 15), ("v1beta1", 12), ("v1alpha1", 9)]),
    ("scheduling.k8s.io", 16_600, &[("v1", 15), ("v1alpha2", 2)]),
    ("coordination.k8s.io", 16_500, &[("v1", 15), ("v1beta1", 13), ("v1alpha2", 12)]),
    ("node.k8s.io", 16_300, &[("v1", 15)]),
    ("discovery.k8s.io", 16_200, &[("v1", 15)]),
    ("resource.k8s.io", 16_200, &[("v1", 21), ("v1beta2", 15), ("v1beta1", 9)]),
    ("flowcontrol.apiserver.k8s.io", 16_100, &[("v1", 21)]),
    ("storagemigration.k8s.io", 15_800, &[("v1beta1", 9)]),
];

/// Of definitions.
pub(crate) const DEFINED: Priority = Priority { group: 1000, version: 100 };
/// The priority of a group version of Kubernetes' own for which there is an APIService.
pub(crate) fn own(group: &str, version: &str) -> Option<Priority> {
    let (_, priority, versions) = OWN.iter().find(|(name, ..)| *name == group)?;
    let (_, version) = versions.iter().find(|(name, _)| *name == version)?;
    Some(Priority { group: *priority, version: *version })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_version_has_the_priority_that_clients_expect() {
        assert_eq!(own("autoscaling", "v2"), Some(Priority { group: 17_500, version: 30 }));
        assert_eq!(own("apiregistration.k8s.io", "v1"), None);
        assert_eq!(own("apps", "v2"), None);
    }
}
