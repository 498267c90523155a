//! Default classes: of a claim that names no StorageClass, and of an Ingress that names no IngressClass.

use std::cmp::Reverse;

use serde_json::{Value, json};
use yunfan_resources::claims::{CLASS, IS_DEFAULT, IS_DEFAULT_BETA};

use super::{Attempt, Operation, View};

/// A kind whose objects belong to a class.
struct Classed {
    group: &'static str,
    plural: &'static str,
    /// Where an object names its class.
    field: &'static str,
    /// The older place.
    annotation: &'static str,
    classes: (&'static str, &'static str),
    /// What the default class is marked with; the last is the older one.
    marks: &'static [&'static str],
}

const CLASSED: [Classed; 2] = [
    Classed {
        group: "",
        plural: "persistentvolumeclaims",
        field: "storageClassName",
        annotation: CLASS,
        classes: ("storage.k8s.io", "storageclasses"),
        marks: &[IS_DEFAULT, IS_DEFAULT_BETA],
    },
    Classed {
        group: "networking.k8s.io",
        plural: "ingresses",
        field: "ingressClassName",
        annotation: "kubernetes.io/ingress.class",
        classes: ("networking.k8s.io", "ingressclasses"),
        marks: &["ingressclass.kubernetes.io/is-default-class"],
    },
];

pub(super) fn fill(view: &View<'_>, attempt: &mut Attempt<'_>) {
    if attempt.operation != Operation::Create || !attempt.subresource.is_empty() {
        return;
    }
    let Some(kind) = CLASSED.iter().find(|kind| attempt.is(kind.group, kind.plural)) else { return };
    let annotations = &attempt.object["metadata"]["annotations"];
    let named = !attempt.object["spec"][kind.field].is_null() || !annotations[kind.annotation].is_null();
    if named || !attempt.object["spec"].is_object() {
        return;
    }
    let classes = view.list(kind.classes.0, kind.classes.1, "");
    let classes = classes.iter().map(|entry| entry.value().as_ref());
    if let Some(name) = default_of(classes, kind.marks) {
        attempt.object["spec"][kind.field] = json!(name);
    }
}

/// The name of the newest class that is marked as default; of equally old ones the first by name.
fn default_of<'a>(classes: impl Iterator<Item = &'a Value>, marks: &[&str]) -> Option<&'a str> {
    let marked = |class: &&Value| marks.iter().any(|mark| class["metadata"]["annotations"][*mark] == "true");
    let text = |class: &'a Value, key: &str| class["metadata"][key].as_str().unwrap_or_default();
    let newest = classes
        .filter(marked)
        .min_by_key(|class| (Reverse(text(class, "creationTimestamp")), text(class, "name")))?;
    Some(text(newest, "name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_default_is_taken() {
        let marks = CLASSED[0].marks;
        let class = |name: &str, time: &str, mark: &str| json!({"metadata": {"name": name, "creationTimestamp": time, "annotations": {mark: "true"}}});
        let all = [
            class("old", "2026-01-01T00:00:00Z", marks[0]),
            class("b", "2026-02-01T00:00:00Z", marks[1]),
            class("a", "2026-02-01T00:00:00Z", marks[0]),
            class("none", "2026-03-01T00:00:00Z", "other"),
        ];
        assert_eq!(default_of(all.iter(), marks), Some("a"));
        assert_eq!(default_of(all[3..].iter(), marks), None);
    }
}
