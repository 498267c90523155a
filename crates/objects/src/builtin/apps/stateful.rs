//! StatefulSet and ControllerRevision.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Object;
use crate::builtin::apps::workloads::{status, wanted};
use crate::builtin::field::Field;
use crate::builtin::pods::template;
use crate::builtin::rows::{containers, name, since_creation};
use crate::builtin::{ColumnSpec, inner, odd, volumes};
use crate::descriptor::Strategy;
use crate::error::FieldError;
use crate::lookup::{copy_key, list, list_mut, remove, set_default, text};

pub(in crate::builtin) const STATEFUL_SET_COLUMNS: &[ColumnSpec] = &[
    ("Name", "string", 0),
    ("Ready", "string", 0),
    ("Age", "string", 0),
    ("Containers", "string", 1),
    ("Images", "string", 1),
];

pub(in crate::builtin) fn stateful_set(object: &Object, now: Timestamp) -> Vec<Value> {
    let mut cells = vec![
        name(object),
        json!(format!("{}/{}", status(object, "readyReplicas"), wanted(object))),
        since_creation(object, now),
    ];
    cells.extend(containers(&object["spec"]["template"]["spec"]));
    cells
}

pub(in crate::builtin) struct StatefulSetStrategy;

impl Strategy for StatefulSetStrategy {
    fn default(&self, object: &mut Object) {
        template::defaults(object, &["spec", "template"]);
        let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) else { return };
        set_default(spec, "serviceName", "");
        set_default(spec, "replicas", 1);
        set_default(spec, "revisionHistoryLimit", 10);
        set_default(spec, "podManagementPolicy", "OrderedReady");
        set_default(spec, "persistentVolumeClaimRetentionPolicy", json!({}));
        set_default(&mut spec["persistentVolumeClaimRetentionPolicy"], "whenDeleted", "Retain");
        set_default(&mut spec["persistentVolumeClaimRetentionPolicy"], "whenScaled", "Retain");
        if let Some(ordinals) = spec.get_mut("ordinals") {
            set_default(ordinals, "start", 0);
        }
        set_default(spec, "updateStrategy", json!({}));
        let strategy = &mut spec["updateStrategy"];
        if text(strategy, &["type"]).is_empty() {
            strategy["type"] = json!("RollingUpdate");
            set_default(strategy, "rollingUpdate", json!({}));
        }
        if text(strategy, &["type"]) == "RollingUpdate"
            && let Some(rolling) = strategy.get_mut("rollingUpdate")
        {
            set_default(rolling, "partition", 0);
        }
        for claim in list_mut(spec, &["volumeClaimTemplates"]) {
            set_default(claim, "apiVersion", "v1");
            set_default(claim, "kind", "PersistentVolumeClaim");
            volumes::default_claim(claim);
            set_default(claim, "status", json!({"phase": "Pending"}));
        }
    }

    fn tells_of_missing(&self) -> bool {
        true
    }

    fn name_is_label(&self) -> bool {
        true
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let mut out = template::warnings(new, old, &["spec", "template"], false);
        let spec = Field::root(new).at("spec");
        for claim in spec.at("volumeClaimTemplates").items() {
            // Upstream leaves `spec` out of this path, and puts it in otherwise after a change.
            let path = if old.is_none() { claim.path.clone() } else { format!("{}.Spec", claim.path) };
            out.extend(odd::claim(&Field { path, ..claim.at("spec") }));
        }
        if spec.at("revisionHistoryLimit").number().is_some_and(|limit| limit < 0) {
            out.push("spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended".to_owned());
        }
        out
    }

    fn validate_create(&self, object: &Object) -> Vec<FieldError> {
        check(object, true)
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        const CHANGEABLE: &[&str] = &[
            "replicas",
            "ordinals",
            "template",
            "updateStrategy",
            "revisionHistoryLimit",
            "persistentVolumeClaimRetentionPolicy",
            "minReadySeconds",
        ];
        let mut kept = new["spec"].clone();
        CHANGEABLE.iter().for_each(|key| copy_key(&mut kept, &old["spec"], key));
        let mut errors = check(new, false);
        if kept == old["spec"] {
            return errors;
        }
        let why = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        errors.push(FieldError::forbidden("spec", why));
        errors
    }

    fn validate_status(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let (new, old) = (Field::root(new).at("status"), Field::root(old).at("status"));
        let parts = ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
        let counts = [
            "replicas",
            "readyReplicas",
            "currentReplicas",
            "updatedReplicas",
            "availableReplicas",
            "observedGeneration",
            "collisionCount",
        ];
        let mut errors = template::status_counts(&new, &counts, &parts, "status.readyReplicas");
        errors.extend(template::collisions_only_grow(&new, &old));
        errors
    }

    fn prepare_create(&self, object: &mut Object) {
        object["status"] = json!({"replicas": 0, "availableReplicas": 0});
        drop_max_unavailable(object);
    }

    fn prepare_update(&self, new: &mut Object, old: &Object) {
        if old.pointer(MAX_UNAVAILABLE).is_none_or(Value::is_null) {
            drop_max_unavailable(new);
        }
    }
}

/// All that is wrong with a StatefulSet; of one that is not new, the claims and the Service's name may be as they are.
fn check(object: &Object, is_new: bool) -> Vec<FieldError> {
    let spec = Field::root(object).at("spec");
    let mut errors = validate_policies(&spec);
    let claims = spec.at("volumeClaimTemplates");
    for claim in claims.items().filter(|_| is_new) {
        errors.extend(volumes::validate_claim_spec(&claim.at("spec")));
    }
    errors.extend(template::not_negative(&spec, &["replicas", "minReadySeconds"]));
    let start = spec.under(&["ordinals", "start"]);
    errors.extend(start.at_least(0));
    if is_new {
        errors.extend(spec.at("serviceName").may_follow(crate::meta::dns_label));
    }
    errors.extend(template::selector(&spec, "statefulset", "", || {
        let made = with_claimed_volumes(&spec);
        template::validate(&Field { value: &made, path: spec.at("template").path })
    }));
    errors.extend(template::runs_always(&spec.at("template"), "StatefulSet"));
    errors
}

const MAX_UNAVAILABLE: &str = "/spec/updateStrategy/rollingUpdate/maxUnavailable";

/// More than one at a time is behind a feature gate that is off: who does not have it yet does not get it.
fn drop_max_unavailable(set: &mut Object) {
    if let Some(rolling) = set.pointer_mut("/spec/updateStrategy/rollingUpdate") {
        remove(rolling, "maxUnavailable");
    }
}

fn validate_policies(spec: &Field<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let management = spec.at("podManagementPolicy");
    if !matches!(management.text(), "OrderedReady" | "Parallel") {
        errors.push(management.invalid("must be 'OrderedReady' or 'Parallel'"));
    }
    let strategy = spec.at("updateStrategy");
    let rolling = strategy.at("rollingUpdate");
    match strategy.at("type").text() {
        "OnDelete" if rolling.is_given() => {
            let why = "only allowed for updateStrategy 'RollingUpdate'";
            errors.push(rolling.invalid_object(inner::ROLLING_STATEFUL_SET, why));
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            errors.extend(rolling.at("partition").at_least(0));
            let unavailable = rolling.at("maxUnavailable");
            if unavailable.is_given() {
                errors.extend(template::amount_or_percent(&unavailable));
                if template::is_zero(unavailable.value) {
                    errors.push(unavailable.invalid("cannot be 0"));
                }
                errors.extend(template::at_most_100_percent(&unavailable));
            }
        }
        _ => {
            let why = "must be 'RollingUpdate' or 'OnDelete'";
            errors.push(strategy.invalid_object(inner::STATEFUL_SET_STRATEGY, why));
        }
    }
    for key in ["whenDeleted", "whenScaled"] {
        errors.extend(spec.at("persistentVolumeClaimRetentionPolicy").at(key).one_of(&["Retain", "Delete"]));
    }
    errors
}

/// The template as its pods will have it: with a volume for each claim, and without the names that the
/// controller gives them.
fn with_claimed_volumes(spec: &Field<'_>) -> Value {
    let mut made = spec.at("template").value.clone();
    let Some(pod) = made.get_mut("spec").filter(|pod| pod.is_object()) else { return made };
    remove(pod, "hostname");
    remove(pod, "subdomain");
    let claims: Vec<&str> = spec
        .at("volumeClaimTemplates")
        .list()
        .iter()
        .map(|claim| text(claim, &["metadata", "name"]))
        .collect();
    if claims.is_empty() {
        return made;
    }
    let mut volumes: Vec<Value> = list(pod, &["volumes"])
        .iter()
        .filter(|volume| !claims.contains(&text(volume, &["name"])))
        .cloned()
        .collect();
    // Behind the others, so that the paths of those stay as they were sent.
    volumes.extend(
        claims.iter().map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}})),
    );
    pod["volumes"] = Value::Array(volumes);
    made
}

pub(in crate::builtin) const REVISION_COLUMNS: &[ColumnSpec] =
    &[("Name", "string", 0), ("Controller", "string", 0), ("Revision", "string", 0), ("Age", "string", 0)];

pub(in crate::builtin) fn revision(object: &Object, now: Timestamp) -> Vec<Value> {
    let owners = list(object, &["metadata", "ownerReferences"]);
    let owner = owners.iter().find(|owner| owner["controller"] == true).map(|owner| {
        let kind = text(owner, &["kind"]).to_lowercase();
        match text(owner, &["apiVersion"]).split_once('/') {
            Some((group, _)) => format!("{kind}.{group}/{}", text(owner, &["name"])),
            None => format!("{kind}/{}", text(owner, &["name"])),
        }
    });
    vec![
        name(object),
        json!(owner.unwrap_or_else(|| "<none>".to_owned())),
        json!(object["revision"].as_i64().unwrap_or(0)),
        since_creation(object, now),
    ]
}

pub(in crate::builtin) struct ControllerRevisionStrategy;

impl Strategy for ControllerRevisionStrategy {
    fn validate(&self, object: &Object) -> Vec<FieldError> {
        Field::root(object).at("revision").at_least(0).into_iter().collect()
    }

    fn validate_create(&self, object: &Object) -> Vec<FieldError> {
        let data = Field::root(object).at("data");
        match data.value {
            Value::Object(_) => Vec::new(),
            Value::Null => vec![data.required("data is mandatory")],
            _ => vec![data.required("data must be a valid JSON object")],
        }
    }

    fn tells_of_missing(&self) -> bool {
        true
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        template::immutable(&Field::root(new), &Field::root(old), &["data"])
    }

    fn has_generation(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::tests::{changed, created, kind, refusal, status_refusal};

    fn set(name: &str) -> Object {
        json!({"metadata": {"name": name}, "spec": {"selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}}}})
    }

    #[test]
    fn a_feature_that_is_off_stays_where_it_was_on() {
        let mut old = created(&kind("StatefulSet"), set("s")).unwrap();
        assert_eq!(old["spec"]["updateStrategy"]["rollingUpdate"], json!({"partition": 0}));
        let to = |amount: Value| json!({"spec": {"updateStrategy": {"rollingUpdate": {"maxUnavailable": amount}}}});
        let (new, _) = changed("StatefulSet", &old, to(json!(3)));
        assert_eq!(new, old);
        old["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"] = json!(2);
        let (new, refused) = changed("StatefulSet", &old, to(json!("50%")));
        assert_eq!(
            (new["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"].as_str(), &*refused),
            (Some("50%"), "")
        );
        for (amount, why) in [
            (json!(0), "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: 0: cannot be 0"),
            (json!("101%"), "must not be greater than 100%"),
        ] {
            let (_, refused) = changed("StatefulSet", &old, to(amount));
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn a_name_is_looked_at_once() {
        assert!(refusal("StatefulSet", set("a.b")).starts_with("metadata.name: Invalid value: \"a.b\""));
        let mut old = created(&kind("StatefulSet"), set("s")).unwrap();
        old["metadata"]["name"] = json!("a.b");
        assert_eq!(changed("StatefulSet", &old, json!({"spec": {"replicas": 2}})).1, "");
        assert_eq!(status_refusal("StatefulSet", &old, json!({"replicas": 1})), "");
    }
}
