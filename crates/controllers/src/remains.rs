//! What is left of a namespace that goes away, in the words of its conditions.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::NamespaceCondition;
use kube::api::{ObjectList, PartialObjectMeta};
use kube::core::DynamicObject;

use crate::status;

/// The conditions that a namespace on its way out has, with the reason and the message of each while all is well.
const CONDITIONS: [(&str, &str, &str); 5] = [
    ("NamespaceDeletionDiscoveryFailure", "ResourcesDiscovered", "All resources successfully discovered"),
    (
        "NamespaceDeletionGroupVersionParsingFailure",
        "ParsedGroupVersions",
        "All legacy kube types successfully parsed",
    ),
    (
        "NamespaceDeletionContentFailure",
        "ContentDeleted",
        "All content successfully deleted, may be waiting on finalization",
    ),
    (CONTENT, "ContentRemoved", "All content successfully removed"),
    (FINALIZERS, "ContentHasNoFinalizers", "All content-preserving finalizers finished"),
];
const CONTENT: &str = "NamespaceContentRemaining";
const FINALIZERS: &str = "NamespaceFinalizersRemaining";

/// Counts of objects that are still there.
#[derive(Debug, Default)]
pub(crate) struct Remains {
    /// By resource and group, as `pods.` or `deployments.apps`.
    kinds: BTreeMap<String, usize>,
    /// By the finalizer that they wait for.
    finalizers: BTreeMap<String, usize>,
}

impl Remains {
    /// Counts the objects of a kind.
    pub(crate) fn add(&mut self, kind: String, objects: &ObjectList<PartialObjectMeta<DynamicObject>>) {
        if objects.items.is_empty() {
            return;
        }
        *self.kinds.entry(kind).or_default() += objects.items.len();
        for finalizer in objects.items.iter().flat_map(|object| object.metadata.finalizers.iter().flatten()) {
            *self.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// The conditions that say so; none where the old ones say it already.
    pub(crate) fn conditions(&self, old: &[NamespaceCondition]) -> Option<Vec<NamespaceCondition>> {
        let wanted: Vec<NamespaceCondition> = CONDITIONS
            .iter()
            .map(|(kind, reason, message)| self.condition(old, kind, reason, message))
            .collect();
        let known = |new: &NamespaceCondition| {
            old.iter().any(|old| {
                old.type_ == new.type_ && (&old.status, &old.message) == (&new.status, &new.message)
            })
        };
        (!wanted.iter().all(known)).then_some(wanted)
    }

    fn condition(
        &self,
        old: &[NamespaceCondition],
        kind: &str,
        reason: &str,
        message: &str,
    ) -> NamespaceCondition {
        let list = |counts: &BTreeMap<String, usize>, word: &str| {
            let all: Vec<String> = counts
                .iter()
                .map(|(name, count)| format!("{name} {word} {count} resource instances"))
                .collect();
            all.join(", ")
        };
        let left = match kind {
            CONTENT if !self.kinds.is_empty() => {
                let all = list(&self.kinds, "has");
                Some(("SomeResourcesRemain", format!("Some resources are remaining: {all}")))
            }
            FINALIZERS if !self.finalizers.is_empty() => {
                let all = list(&self.finalizers, "in");
                let message = format!("Some content in the namespace has finalizers remaining: {all}");
                Some(("SomeFinalizersRemain", message))
            }
            _ => None,
        };
        let value = if left.is_some() { "True" } else { "False" };
        let (reason, message) = left.unwrap_or((reason, message.to_owned()));
        let same = old.iter().find(|old| old.type_ == kind && old.status == value);
        NamespaceCondition {
            type_: kind.to_owned(),
            status: value.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: same
                .and_then(|old| old.last_transition_time.clone())
                .or_else(|| Some(status::now())),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pods(finalizers: &[&[&str]]) -> ObjectList<PartialObjectMeta<DynamicObject>> {
        let items: Vec<_> =
            finalizers.iter().map(|own| json!({"metadata": {"name": "p", "finalizers": own}})).collect();
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": items}))
            .unwrap()
    }

    #[test]
    fn what_is_left_is_counted_by_kind_and_by_finalizer() {
        let mut remains = Remains::default();
        assert!(remains.is_empty());
        remains.add("pods.".to_owned(), &pods(&[&["a/x"], &["a/x", "b/y"]]));
        remains.add("jobs.batch".to_owned(), &pods(&[&[]]));
        let conditions = remains.conditions(&[]).unwrap();
        let said: Vec<(&str, &str)> = conditions
            .iter()
            .map(|condition| (condition.status.as_str(), condition.message.as_deref().unwrap()))
            .collect();
        assert_eq!(
            said[2..],
            [
                ("False", "All content successfully deleted, may be waiting on finalization"),
                (
                    "True",
                    "Some resources are remaining: jobs.batch has 1 resource instances, pods. has 2 resource instances"
                ),
                (
                    "True",
                    "Some content in the namespace has finalizers remaining: a/x in 2 resource instances, b/y in 1 resource instances"
                ),
            ]
        );
        assert_eq!(remains.conditions(&conditions), None, "what is said already is not said again");
        assert!(Remains::default().conditions(&conditions).is_some());
    }
}
