//! Owners of an object that wrote in several of its versions, where those differ in their fields: whose is what can only be told of
//! the object as the version of each shows it.

use std::collections::BTreeMap;

use super::apply::{Shown, compared, keep_parts, without_unowned};
use super::fields::{Comparison, FieldSet};
use crate::Object;
use crate::schema::SchemaRef;

/// How one write sees the versions of a kind.
pub(super) struct Versions<'a> {
    /// The one that it is made in.
    pub(super) own: &'a str,
    /// The schema of that.
    pub(super) schema: &'a SchemaRef,
    pub(super) shown: Shown<'a>,
}

impl Versions<'_> {
    /// The object as another version shows it. None for the own version, and where there is no way: what was written in
    /// such a version counts as if it had been written in the own one.
    fn elsewhere(&self, object: &Object, version: &str) -> Option<(Object, SchemaRef)> {
        if version == self.own { None } else { (self.shown)(object, version) }
    }

    /// An object of another version in the own one.
    fn back(&self, object: Object) -> Object {
        (self.shown)(&object, self.own).map_or(object, |(object, _)| object)
    }

    /// The merged object without what its manager wanted `before`, in that version, and nobody owns now. `owned` is what is owned, by
    /// version.
    pub(super) fn prune(
        &self,
        merged: Object,
        (version, before): (&str, &FieldSet),
        owned: BTreeMap<String, FieldSet>,
    ) -> Object {
        let mut own = FieldSet::default();
        let mut others = BTreeMap::new();
        for (version, set) in owned {
            match self.elsewhere(&merged, &version) {
                Some(view) => drop(others.insert(version, (view, set))),
                None => own.add(&set),
            }
        }
        keep_parts(&mut own);
        let mut pruned = match self.elsewhere(&merged, version) {
            None => without_unowned(&merged, before, &own, self.schema),
            Some((shown, schema)) => {
                let mut kept = others.remove(version).map(|(_, set)| set).unwrap_or_default();
                keep_parts(&mut kept);
                let pruned = without_unowned(&shown, before, &kept, &schema);
                restored(&merged, &self.back(pruned), &own, self.schema)
            }
        };
        for (version, ((whole, schema), set)) in others {
            if let Some((less, _)) = self.elsewhere(&pruned, &version) {
                pruned = self.back(restored(&whole, &less, &set, &schema));
            }
        }
        pruned
    }

    /// How an object differs from another, as each of these versions shows it.
    pub(super) fn differences(
        &self,
        old: &Object,
        new: &Object,
        versions: impl IntoIterator<Item = String>,
    ) -> Differences {
        let mut others = BTreeMap::new();
        for version in versions {
            if let (Some((old, schema)), Some((new, _))) =
                (self.elsewhere(old, &version), self.elsewhere(new, &version))
            {
                others.insert(version, compared(&old, &new, &schema));
            }
        }
        Differences { own: compared(old, new, self.schema), others }
    }
}

/// The whole object without what `less` has not, but for what is owned.
fn restored(whole: &Object, less: &Object, owned: &FieldSet, schema: &SchemaRef) -> Object {
    let mut kept = FieldSet::of(less, Some(schema), true);
    kept.add(owned);
    keep_parts(&mut kept);
    without_unowned(whole, &FieldSet::of(whole, Some(schema), true), &kept, schema)
}

/// What differs, by version.
pub(super) struct Differences {
    pub(super) own: Comparison,
    others: BTreeMap<String, Comparison>,
}

impl Differences {
    /// As this version shows it.
    pub(super) fn of(&self, version: &str) -> &Comparison {
        self.others.get(version).unwrap_or(&self.own)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::{Value, json};

    use super::*;
    use crate::builtin;
    use crate::patch::apply::Writer;
    use crate::{ApiError, Descriptor};

    fn kind(version: &str) -> Descriptor {
        let all = builtin::descriptors();
        let found =
            all.into_iter().find(|each| each.plural == "horizontalpodautoscalers" && each.version == version);
        found.expect("a kind")
    }

    fn shown(object: &Object, wanted: &str) -> Option<(Object, SchemaRef)> {
        let older = kind("v1").conversion.expect("is not the stored version");
        let mut object = object.clone();
        if object["apiVersion"] == "autoscaling/v1" {
            (older.to_stored)(&mut object);
        }
        match wanted {
            "autoscaling/v1" => (older.from_stored)(&mut object),
            "autoscaling/v2" => {}
            _ => return None,
        }
        let schema = kind(wanted.rsplit('/').next()?).schema;
        Some((object, schema))
    }

    /// Applies a spec in a version to what is there in any.
    fn apply(
        live: Option<&Object>,
        manager: &str,
        version: &str,
        spec: Value,
        force: bool,
    ) -> Result<Object, ApiError> {
        let kind = kind(version);
        let api_version = kind.api_version();
        let live = live.map(|live| shown(live, &api_version).expect("a way").0);
        let applied =
            json!({"apiVersion": api_version, "kind": kind.kind, "metadata": {"name": "h"}, "spec": spec});
        let now = Timestamp::UNIX_EPOCH;
        let writer = Writer { manager, subresource: "", api_version: &api_version, now };
        let mut out = kind.apply(live.as_ref(), &applied, &writer, force, &shown)?;
        kind.default(&mut out);
        Ok(out)
    }

    fn cpu(percent: i64) -> Value {
        json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}}])
    }

    fn owned(object: &Object, manager: &str) -> Value {
        let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
        let mut own = entries.filter(|entry| entry["manager"] == manager);
        own.next().map_or(Value::Null, |entry| entry["fieldsV1"]["f:spec"].clone())
    }

    #[test]
    fn what_an_apply_changes_is_lost_in_the_versions_of_its_owners() {
        let live = apply(None, "one", "v2", json!({"maxReplicas": 3, "metrics": cpu(5)}), false).unwrap();
        let spec = json!({"maxReplicas": 9, "targetCPUUtilizationPercentage": 50});
        let refused = apply(Some(&live), "two", "v1", spec.clone(), false).unwrap_err();
        assert_eq!(
            refused.message(),
            "Apply failed with 2 conflicts: conflicts with \"one\":\n- .spec.maxReplicas\n- .spec.metrics"
        );
        let forced = apply(Some(&live), "two", "v1", spec, true).unwrap();
        assert_eq!(owned(&forced, "one"), Value::Null);
        assert_eq!(
            owned(&forced, "two"),
            json!({"f:maxReplicas": {}, "f:targetCPUUtilizationPercentage": {}})
        );
        // The same in the other version is no conflict.
        apply(Some(&forced), "one", "v2", json!({"maxReplicas": 9, "metrics": cpu(50)}), false).unwrap();
    }

    #[test]
    fn what_is_no_longer_applied_goes_unless_it_is_owned_in_another_version() {
        let first = json!({"maxReplicas": 3, "minReplicas": 2, "targetCPUUtilizationPercentage": 50});
        let live = apply(None, "one", "v1", first, false).unwrap();
        let shared =
            apply(Some(&live), "two", "v2", json!({"maxReplicas": 3, "metrics": cpu(50)}), false).unwrap();
        let left = apply(Some(&shared), "one", "v1", json!({"maxReplicas": 3}), false).unwrap();
        assert_eq!(left["spec"]["targetCPUUtilizationPercentage"], 50, "it is the other's as well");
        assert_eq!(left["spec"]["minReplicas"], 1, "the default");
        // Who goes over to another version gives up what it wanted in the one before.
        let spec = json!({"maxReplicas": 3, "metrics": cpu(50)});
        let over = apply(Some(&live), "one", "v2", spec, false).unwrap();
        assert_eq!(over["spec"]["minReplicas"], 1, "the default");
        assert_eq!(over["spec"]["metrics"], cpu(50));
        assert_eq!(owned(&over, "one"), json!({"f:maxReplicas": {}, "f:metrics": {}}));
    }
}
