//! What a Flavor asks for beside its size.

/// Scopes of extra specs that ask something of the scheduler or the hypervisor (Nova's "Extra Specs"). Others are for people.
const SCOPES: [&str; 8] = [
    "trait",
    "resources",
    "hw",
    "quota",
    "aggregate_instance_extra_specs",
    "capabilities",
    "os",
    "pci_passthrough",
];
/// What every guest has anyway: processors that are no guest's own, and all memory in one place.
const ALWAYS: [(&str, &str); 2] = [("hw:cpu_policy", "shared"), ("hw:numa_nodes", "1")];

/// Whether guests have what an extra spec of a Flavor asks for. A Flavor may have any; a machine does not get one that asks for what
/// nothing here acts on.
pub fn is_served(key: &str, value: &str) -> bool {
    let Some((scope, _)) = key.split_once(':') else { return true };
    let demands = SCOPES
        .iter()
        .any(|known| scope.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('_')));
    !demands || ALWAYS.contains(&(key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_guests_do_not_have_is_not_served() {
        for (key, value) in
            [("colour", "red"), ("foo:bar", "baz"), ("hw:cpu_policy", "shared"), ("hw:numa_nodes", "1")]
        {
            assert!(is_served(key, value), "{key}");
        }
        for (key, value) in [
            ("hw:numa_nodes", "2"),
            ("hw:cpu_policy", "dedicated"),
            ("trait:HW_CPU", "required"),
            ("hw_rng:allowed", "True"),
        ] {
            assert!(!is_served(key, value), "{key}");
        }
    }
}
