//! Which group clients prefer to which, and which version of a group: Kubernetes' own numbers.

use std::cmp::{Ordering, Reverse};

use crate::kinds;

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
/// Of what is none of these: metrics.k8s.io, as the program that serves it elsewhere has it.
const OTHER: Priority = Priority { group: 100, version: 100 };
/// Of the group that APIServices are of, which comes before all others and has none itself.
const REGISTRATION: Priority = Priority { group: 20_000, version: 0 };

/// The priority of a group version of Kubernetes' own for which there is an APIService.
pub(crate) fn own(group: &str, version: &str) -> Option<Priority> {
    let (_, priority, versions) = OWN.iter().find(|(name, ..)| *name == group)?;
    let (_, version) = versions.iter().find(|(name, _)| *name == version)?;
    Some(Priority { group: *priority, version: *version })
}

/// The priority of a group version that is served here. `defined` says that there is a definition of one of its kinds.
pub(crate) fn local(group: &str, version: &str, defined: bool) -> Priority {
    match own(group, version) {
        Some(own) => own,
        None if group == super::GROUP => REGISTRATION,
        None if defined => DEFINED,
        None => OTHER,
    }
}

/// The order of the versions of a group.
pub(super) fn versions(one: (&str, Priority), other: (&str, Priority)) -> Ordering {
    let key = |(version, priority): (&str, Priority)| Reverse((priority.version, kinds::priority(version)));
    key(one).cmp(&key(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_version_has_the_priority_that_clients_expect() {
        assert_eq!(local("autoscaling", "v2", false), Priority { group: 17_500, version: 30 });
        assert_eq!(local("example.com", "v1", true), DEFINED);
        assert_eq!(local("metrics.k8s.io", "v1beta1", false), OTHER);
        assert!(local("apiregistration.k8s.io", "v1", false).group > local("", "v1", false).group);
        assert_eq!(own("apiregistration.k8s.io", "v1"), None);
        assert_eq!(own("apps", "v2"), None);
    }

    #[test]
    fn versions_go_by_priority_then_by_name() {
        let at = |version| Priority { group: 1, version };
        let mut all = [("v1alpha1", at(5)), ("v1", at(5)), ("v2", at(1)), ("v1beta1", at(9))];
        all.sort_by(|one, other| versions(*one, *other));
        assert_eq!(all.map(|(name, _)| name), ["v1beta1", "v1", "v1alpha1", "v2"]);
    }
}
