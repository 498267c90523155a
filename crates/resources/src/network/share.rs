//! What other projects may use, and how one names what is another's.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// In [`Share::project`]: all projects.
pub const EVERY_PROJECT: &str = "*";
/// The label of Networks, SubnetPools and AddressScopes that other projects may use, so that they are found among all.
pub const SHARED_LABEL: &str = "network.yunfan.io/shared";

/// A project that may use what is another's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Share {
    /// Its id; made when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The project's id, or `*` for all.
    pub project: String,
}

/// What says itself which other projects may use it.
pub trait Shared {
    /// They.
    fn shared_with(&self) -> &[Share];
}

macro_rules! shared {
    ($($kind:ty),* $(,)?) => {$(
        impl Shared for $kind {
            fn shared_with(&self) -> &[Share] {
                &self.spec.shared_with
            }
        }
    )*};
}
shared!(super::AddressScope, super::Network, super::QosPolicy, super::SubnetPool);

/// Whether one of these names a project, or all.
pub fn is_shared_with(shares: &[Share], project: &str) -> bool {
    shares.iter().any(|share| share.project == project || share.project == EVERY_PROJECT)
}

/// Namespace and name of the Network that something in `namespace` calls so: one of its own by its name, another as `NAMESPACE/NAME`.
pub fn network_place<'a>(namespace: &'a str, reference: &'a str) -> (&'a str, &'a str) {
    reference.split_once('/').unwrap_or((namespace, reference))
}

/// What something in `namespace` calls the Network `name` of the namespace `owner`.
pub fn network_reference(namespace: &str, owner: &str, name: &str) -> String {
    if namespace == owner { name.to_owned() } else { format!("{owner}/{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_of_others_are_named_with_their_namespace() {
        for (owner, reference) in [("mine", "lan"), ("theirs", "theirs/lan")] {
            assert_eq!(network_reference("mine", owner, "lan"), reference);
            assert_eq!(network_place("mine", reference), (owner, "lan"));
        }
    }

    #[test]
    fn shares_are_for_those_that_they_name_or_for_all() {
        let share = |project: &str| [Share { id: None, project: project.to_owned() }];
        assert!(is_shared_with(&share("a"), "a") && !is_shared_with(&share("a"), "b"));
        assert!(is_shared_with(&share(EVERY_PROJECT), "b") && !is_shared_with(&[], "b"));
    }
}
