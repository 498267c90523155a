//! Where objects live in the store: `/registry/GROUP/PLURAL/[NAMESPACE/]NAME`, the legacy group
//! being written `core`. Claims (addresses, ids, counters) live under `/claims/`.

/// Prefix of all objects.
pub(crate) const REGISTRY: &str = "/registry/";
/// Prefix of all claims.
pub(crate) const CLAIMS: &str = "/claims/";
/// First key of everything the cache follows.
pub(crate) const ALL_START: &str = "/";
/// First key behind everything the cache follows (`0` comes right after `/`).
pub(crate) const ALL_END: &str = "0";

/// Prefix of one kind's keys, with the slash at its end.
pub(crate) fn kind_prefix(group: &str, plural: &str) -> String {
    let group = if group.is_empty() { "core" } else { group };
    format!("{REGISTRY}{group}/{plural}/")
}

/// Key of one object. `namespace` is empty for a cluster-scoped kind.
pub(crate) fn object_key(prefix: &str, namespace: &str, name: &str) -> String {
    if namespace.is_empty() { format!("{prefix}{name}") } else { format!("{prefix}{namespace}/{name}") }
}

/// Prefix of the keys of one namespace; the kind's own prefix when `namespace` is empty.
pub(crate) fn namespace_prefix(prefix: &str, namespace: &str) -> String {
    if namespace.is_empty() { prefix.to_owned() } else { format!("{prefix}{namespace}/") }
}

/// The first key behind all keys with this prefix.
pub(crate) fn prefix_end(prefix: &str) -> String {
    let mut end = prefix.to_owned();
    // Every prefix here ends with `/`, whose successor is `0`.
    end.pop();
    end.push('0');
    end
}

/// The kind prefix that a key lies under, or nothing for a key that is no object's.
pub(crate) fn split_kind(key: &str) -> Option<&str> {
    let rest = key.strip_prefix(REGISTRY)?;
    let group = rest.find('/')?;
    let plural = rest[group + 1..].find('/')?;
    Some(&key[..REGISTRY.len() + group + 1 + plural + 1])
}

/// Group and plural of the kind with this prefix; both are empty for none.
pub(crate) fn kind_of(prefix: &str) -> (&str, &str) {
    let parts = prefix.strip_prefix(REGISTRY).and_then(|rest| rest.trim_end_matches('/').split_once('/'));
    let (group, plural) = parts.unwrap_or_default();
    (if group == "core" { "" } else { group }, plural)
}

/// Namespace (empty for cluster scope) and name, from a key and its kind's prefix.
pub(crate) fn split_name<'a>(prefix: &str, key: &'a str) -> (&'a str, &'a str) {
    let rest = key.strip_prefix(prefix).unwrap_or(key);
    rest.split_once('/').unwrap_or(("", rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_apart_as_they_were_made() {
        let prefix = kind_prefix("", "pods");
        assert_eq!(prefix, "/registry/core/pods/");
        let key = object_key(&prefix, "demo", "web");
        assert_eq!(split_kind(&key), Some(prefix.as_str()));
        assert_eq!(split_name(&prefix, &key), ("demo", "web"));
        let nodes = kind_prefix("", "nodes");
        assert_eq!(split_name(&nodes, &object_key(&nodes, "", "n1")), ("", "n1"));
        assert_eq!(prefix_end("/a/b/"), "/a/b0");
        assert_eq!(split_kind("/claims/x/y"), None);
        assert_eq!((kind_of(&prefix), kind_of("")), (("", "pods"), ("", "")));
        assert_eq!(kind_of(&kind_prefix("apps", "deployments")), ("apps", "deployments"));
    }
}
