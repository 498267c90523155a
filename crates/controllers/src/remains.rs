//! What is left of a namespace that goes away, in the words of its conditions.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::NamespaceCondition;
use kube::api::{ObjectList, PartialObjectMeta};
use kube::core::DynamicObject;

use crate::status;

/// The conditions that a namespace on its way out has, with the reason and the message of each while all is well.
const CONDITIONS: [(&str, &str, &str); 5] = [
    (DISCOVERY, "ResourcesDiscovered", "All resources successfully discovered"),
    (
        "NamespaceDeletionGroupVersionParsingFailure",
        "ParsedGroupVersions",
        "All legacy kube types successfully parsed",
    ),
    (FAILURES, "ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
    (CONTENT, "ContentRemoved", "All content successfully removed"),
    (FINALIZERS, "ContentHasNoFinalizers", "All content-preserving finalizers finished"),
];
const DISCOVERY: &str = "NamespaceDeletionDiscoveryFailure";
const FAILURES: &str = "NamespaceDeletionContentFailure";
const CONTENT: &str = "NamespaceContentRemaining";
const FINALIZERS: &str = "NamespaceFinalizersRemaining";

/// Counts of objects that are still there.
#[derive(Debug, Default)]
pub(crate) struct Remains {
    /// By resource and group, as `pods.` or `deployments.apps`.
    kinds: BTreeMap<String, usize>,
    /// By the finalizer that they wait for.
    finalizers: BTreeMap<String, usize>,
    /// Group versions of which nothing is known.
    undiscovered: Vec<String>,
    /// What was said of kinds whose objects could not be deleted.
    failures: Vec<String>,
}

impl Remains {
    /// What is left where these group versions can't be asked what they have.
    pub(crate) fn undiscovered(group_versions: Vec<String>) -> Self {
        Self { undiscovered: group_versions, ..Self::default() }
    }

    /// Notes that the objects of a kind can't be deleted.
    pub(crate) fn fail(&mut self, why: String) {
        self.failures.push(why);
    }

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
        self.kinds.is_empty() && self.undiscovered.is_empty() && self.failures.is_empty()
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
            DISCOVERY if !self.undiscovered.is_empty() => {
                let one = |gv: &String| format!("{gv}: stale GroupVersion discovery: {gv}");
                let all: Vec<String> = self.undiscovered.iter().map(one).collect();
                let message = format!(
                    "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {}",
                    all.len(),
                    all.join(", ")
                );
                Some(("DiscoveryFailed", message))
            }
            FAILURES if !self.failures.is_empty() => {
                let (count, all) = (self.failures.len(), self.failures.join(", "));
                let message = format!("Failed to delete all resource types, {count} remaining: {all}");
                Some(("ContentDeletionFailed", message))
            }
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
    fn what_cannot_be_seen_or_deleted_is_told() {
        let mut remains = Remains::undiscovered(vec!["a/v1".to_owned()]);
        remains.fail("no".to_owned());
        assert!(!remains.is_empty());
        let conditions = remains.conditions(&[]).unwrap();
        let said = |index: usize| (conditions[index].reason.as_deref(), conditions[index].message.as_deref());
        let why = "Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server APIs: a/v1: stale GroupVersion discovery: a/v1";
        assert_eq!(said(0), (Some("DiscoveryFailed"), Some(why)));
        let why = "Failed to delete all resource types, 1 remaining: no";
        assert_eq!(said(2), (Some("ContentDeletionFailed"), Some(why)));
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
