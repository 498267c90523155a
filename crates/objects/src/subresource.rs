//! The subresources of all kinds, in one table: what each speaks, which verbs it has, and which fields of
//! the object a write to it may change.

use serde_json::{Map, Value, json};

use crate::lookup::{self, at};
use crate::{Descriptor, GroupVersionKind, Object};

/// What the bodies of a subresource are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// The object itself.
    Own,
    /// Another kind: group (`None` for that of the object's own kind), version, kind.
    Other(Option<&'static str>, &'static str, &'static str),
    /// `PodProxyOptions`, `ServiceProxyOptions`, `NodeProxyOptions`.
    ProxyOptions,
}

/// A subresource.
#[derive(Debug, PartialEq, Eq)]
pub struct Subresource {
    /// Name in paths.
    pub name: &'static str,
    /// What its bodies are.
    pub speaks: Speaks,
    /// Its verbs, as discovery shows them.
    pub verbs: &'static [&'static str],
    /// The paths of the fields that a write of the object through it may change; everything else stays.
    fields: &'static [&'static [&'static str]],
}

const CHANGED: &[&str] = &["get", "patch", "update"];
const CREATED: &[&str] = &["create"];
const STREAMED: &[&str] = &["create", "get"];

const fn own(
    name: &'static str,
    verbs: &'static [&'static str],
    fields: &'static [&'static [&'static str]],
) -> Subresource {
    Subresource { name, speaks: Speaks::Own, verbs, fields }
}

const fn other(name: &'static str, speaks: Speaks, verbs: &'static [&'static str]) -> Subresource {
    Subresource { name, speaks, verbs, fields: &[] }
}

const LABELS: &[&str] = &["metadata", "labels"];
const ANNOTATIONS: &[&str] = &["metadata", "annotations"];
const FINALIZERS: &[&str] = &["metadata", "finalizers"];
const OWNERS: &[&str] = &["metadata", "ownerReferences"];

const RESIZED: &[&[&str]] = &[
    &["spec", "resources"],
    &["spec", "containers", EACH, "resources"],
    &["spec", "containers", EACH, "resizePolicy"],
    &["spec", "initContainers", EACH, "resources"],
    &["spec", "initContainers", EACH, "resizePolicy"],
];

/// In a path, each item of a list.
const EACH: &str = "*";

/// All of them.
pub static SUBRESOURCES: [Subresource; 14] = [
    own("status", CHANGED, &[]),
    other("scale", Speaks::Other(Some("autoscaling"), "v1", "Scale"), CHANGED),
    own("approval", CHANGED, &[&["status", "conditions"], LABELS, ANNOTATIONS, FINALIZERS, OWNERS]),
    own("ephemeralcontainers", CHANGED, &[&["spec", "ephemeralContainers"]]),
    own("resize", CHANGED, RESIZED),
    own("finalize", &["update"], &[&["spec", "finalizers"], LABELS, ANNOTATIONS, FINALIZERS, OWNERS]),
    own("log", &["get"], &[]),
    other("attach", Speaks::Other(None, "v1", "PodAttachOptions"), STREAMED),
    other("binding", Speaks::Other(None, "v1", "Binding"), CREATED),
    other("eviction", Speaks::Other(Some("policy"), "v1", "Eviction"), CREATED),
    other("exec", Speaks::Other(None, "v1", "PodExecOptions"), STREAMED),
    other("portforward", Speaks::Other(None, "v1", "PodPortForwardOptions"), STREAMED),
    other("proxy", Speaks::ProxyOptions, &["create", "delete", "get", "patch", "update"]),
    other("token", Speaks::Other(Some("authentication.k8s.io"), "v1", "TokenRequest"), CREATED),
];

impl Subresource {
    /// The subresource of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        SUBRESOURCES.iter().find(|each| each.name == name)
    }

    /// Whether the object is read and written through it, a few fields of it at least.
    pub fn is_view(&self) -> bool {
        !self.fields.is_empty()
    }

    /// Takes the fields that the subresource is for, and nothing else, out of `new`; a precondition that
    /// `new` names, and its managedFields, come along.
    pub fn take(&self, object: &mut Object, new: &Object) {
        for path in self.fields {
            take(object, new, path);
        }
        for key in ["resourceVersion", "uid", "managedFields"] {
            if let Some(value) = at(new, &["metadata", key]) {
                object["metadata"][key] = value.clone();
            }
        }
    }

    /// What its bodies are, for a kind that has it.
    pub fn spoken(&self, of: &Descriptor) -> GroupVersionKind {
        let own = |kind: &str| GroupVersionKind::new(&of.group, &of.version, kind);
        match self.speaks {
            Speaks::Own => own(&of.kind),
            Speaks::ProxyOptions => own(&format!("{}ProxyOptions", of.kind)),
            Speaks::Other(None, _, kind) => own(kind),
            Speaks::Other(Some(group), version, kind) => GroupVersionKind::new(group, version, kind),
        }
    }

    /// Whether an answer may last as long as its client likes.
    pub fn lasts(&self) -> bool {
        self.connects() || self.name == "log"
    }

    /// Whether requests are handed on as they are, to a node or to what is behind it.
    pub fn connects(&self) -> bool {
        self.speaks == Speaks::ProxyOptions || self.verbs == STREAMED
    }
}

/// Copies what is at a path. Where that goes through a list whose items are not the same ones (by their names), the
/// whole list is taken: whoever checks the change sees that.
fn take(object: &mut Value, new: &Value, path: &[&str]) {
    let Some(each) = path.iter().position(|key| *key == EACH) else {
        return set(object, path, at(new, path).cloned());
    };
    let (list, rest) = (&path[..each], &path[each + 1..]);
    let wanted = lookup::list(new, list);
    let names = |items: &[Value]| items.iter().map(|item| item["name"].clone()).collect::<Vec<_>>();
    if names(lookup::list(object, list)) != names(wanted) {
        return set(object, list, at(new, list).cloned());
    }
    for (item, wanted) in lookup::list_mut(object, list).iter_mut().zip(wanted) {
        take(item, wanted, rest);
    }
}

fn set(object: &mut Value, path: &[&str], value: Option<Value>) {
    let Some((last, way)) = path.split_last() else { return };
    let mut slot = object;
    for key in way {
        if !slot.is_object() {
            *slot = json!({});
        }
        slot = &mut slot[*key];
    }
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    if let Some(map) = slot.as_object_mut() {
        match value {
            Some(value) => map.insert((*last).to_owned(), value),
            None => map.remove(*last),
        };
    }
}

impl Descriptor {
    /// The subresource of this name, where the kind has it.
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.all_subresources().find(|each| each.name == name)
    }

    /// The kind's subresources, in the order of the table.
    pub fn all_subresources(&self) -> impl Iterator<Item = &'static Subresource> {
        SUBRESOURCES.iter().filter(|each| match each.name {
            "status" => self.status_subresource,
            "scale" => self.scale.is_some(),
            name => self.subresources.iter().any(|own| own == name),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin;

    #[test]
    fn every_subresource_of_a_kind_is_in_the_table() {
        for kind in builtin::descriptors() {
            for name in &kind.subresources {
                assert!(Subresource::named(name).is_some(), "{} of {}", name, kind.kind);
            }
        }
    }

    #[test]
    fn a_write_changes_its_own_fields_only() {
        let old = json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["x"], "other": 1}});
        let new = json!({"metadata": {"name": "a", "labels": {"a": "b"}, "uid": "u"}, "spec": {"other": 2}});
        let taken = |name: &str| {
            let mut object = old.clone();
            Subresource::named(name).expect("it is in the table").take(&mut object, &new);
            object
        };
        let labelled = json!({"name": "a", "labels": {"a": "b"}, "uid": "u"});
        assert_eq!(taken("finalize"), json!({"metadata": labelled, "spec": {"other": 1}}));
        let plain = json!({"metadata": {"name": "a", "uid": "u"}, "spec": {"finalizers": ["x"], "other": 1}});
        assert_eq!(taken("ephemeralcontainers"), plain);
    }

    #[test]
    fn items_of_a_list_are_taken_apart_as_long_as_they_are_the_same() {
        let resize = Subresource::named("resize").expect("it is in the table");
        let pod = |name: &str, image: &str, cpu: &str| {
            json!({"metadata": {}, "spec": {"containers": [
                {"name": name, "image": image, "resources": {"limits": {"cpu": cpu}}}]}})
        };
        let mut object = pod("a", "old", "1");
        resize.take(&mut object, &pod("a", "new", "2"));
        assert_eq!(object, pod("a", "old", "2"));
        resize.take(&mut object, &pod("b", "new", "3"));
        assert_eq!(object, pod("b", "new", "3"));
    }
}
