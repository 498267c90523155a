//! Roles and their bindings.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Object;
use crate::builtin::field::Field;
use crate::builtin::rows::{name, since_creation};
use crate::builtin::{ColumnSpec, inner};
use crate::descriptor::Strategy;
use crate::error::FieldError;
use crate::lookup::{list, list_mut, set_default, text};
use crate::meta::{all_wrong, dns_subdomain, path_segment};

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) const BINDING_COLUMNS: &[ColumnSpec] = &[
    ("Name", "string", 0),
    ("Role", "string", 0),
    ("Age", "string", 0),
    ("Users", "string", 1),
    ("Groups", "string", 1),
    ("ServiceAccounts", "string", 1),
];

pub(super) fn binding_cells(binding: &Object, now: Timestamp) -> Vec<Value> {
    let of = |kind: &str| {
        let subjects = list(binding, &["subjects"]).iter().filter(|subject| text(subject, &["kind"]) == kind);
        let names: Vec<String> = subjects
            .map(|subject| match text(subject, &["namespace"]) {
                "" if kind != "ServiceAccount" => text(subject, &["name"]).to_owned(),
                namespace => format!("{namespace}/{}", text(subject, &["name"])),
            })
            .collect();
        json!(names.join(", "))
    };
    let role = format!("{}/{}", text(binding, &["roleRef", "kind"]), text(binding, &["roleRef", "name"]));
    vec![
        name(binding),
        json!(role),
        since_creation(binding, now),
        of("User"),
        of("Group"),
        of("ServiceAccount"),
    ]
}

pub(super) struct RoleStrategy {
    pub(super) cluster: bool,
}

impl Strategy for RoleStrategy {
    fn default(&self, role: &mut Object) {
        // Upstream shows the list also where there is none.
        if role.get("rules").is_none() {
            role["rules"] = Value::Null;
        }
    }

    fn validate(&self, role: &Object) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for (index, rule) in list(role, &["rules"]).iter().enumerate() {
            let path = format!("rules[{index}]");
            let given = |key: &str| !list(rule, &[key]).is_empty();
            if !given("verbs") {
                errors.push(FieldError::required(
                    format!("{path}.verbs"),
                    "verbs must contain at least one value",
                ));
            }
            if given("nonResourceURLs") {
                if !self.cluster {
                    let why = "namespaced rules cannot apply to non-resource URLs";
                    errors.push(FieldError::invalid(
                        format!("{path}.nonResourceURLs"),
                        rule["nonResourceURLs"].clone(),
                        why,
                    ));
                }
                if given("apiGroups") || given("resources") || given("resourceNames") {
                    let why = "rules cannot apply to both regular resources and non-resource URLs";
                    errors.push(FieldError::invalid(
                        format!("{path}.nonResourceURLs"),
                        rule["nonResourceURLs"].clone(),
                        why,
                    ));
                }
                continue;
            }
            for (key, why) in [
                ("apiGroups", "resource rules must supply at least one api group"),
                ("resources", "resource rules must supply at least one resource"),
            ] {
                if !given(key) {
                    errors.push(FieldError::required(format!("{path}.{key}"), why));
                }
            }
        }
        let aggregation = Field::root(role).at("aggregationRule");
        if aggregation.is_given() {
            let selectors = aggregation.at("clusterRoleSelectors");
            let why = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            errors.extend(selectors.must_be_given(why));
            for selector in selectors.items() {
                let wrong = selector.label_selector();
                let unfit = (!wrong.is_empty()).then(|| {
                    FieldError::invalid(selector.path.as_str(), Value::Null, "invalid label selector.")
                });
                errors.extend(wrong.into_iter().chain(unfit));
            }
        }
        errors
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn name_is_path_segment(&self) -> bool {
        true
    }
}

pub(super) struct BindingStrategy {
    pub(super) cluster: bool,
}

impl Strategy for BindingStrategy {
    fn default(&self, binding: &mut Object) {
        set_default(binding, "roleRef", json!({}));
        let role = &mut binding["roleRef"];
        set_default(role, "apiGroup", GROUP);
        if role["apiGroup"] == "" {
            role["apiGroup"] = json!(GROUP);
        }
        for subject in list_mut(binding, &["subjects"]) {
            if matches!(text(subject, &["kind"]), "User" | "Group") {
                set_default(subject, "apiGroup", GROUP);
            }
        }
    }

    fn validate(&self, binding: &Object) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let role = &binding["roleRef"];
        if text(role, &["apiGroup"]) != GROUP {
            errors.push(FieldError::not_supported("roleRef.apiGroup", role["apiGroup"].clone(), &[GROUP]));
        }
        let kinds: &[&str] = if self.cluster { &["ClusterRole"] } else { &["Role", "ClusterRole"] };
        if !kinds.contains(&text(role, &["kind"])) {
            errors.push(FieldError::not_supported("roleRef.kind", text(role, &["kind"]), kinds));
        }
        errors.extend(Field::root(binding).under(&["roleRef", "name"]).needs(path_segment));
        for (index, subject) in list(binding, &["subjects"]).iter().enumerate() {
            let path = format!("subjects[{index}]");
            if text(subject, &["name"]).is_empty() {
                errors.push(FieldError::required(format!("{path}.name"), ""));
            }
            match text(subject, &["kind"]) {
                "ServiceAccount" => {
                    let name = text(subject, &["name"]);
                    if !name.is_empty() {
                        errors.extend(all_wrong(&format!("{path}.name"), name, dns_subdomain(name)));
                    }
                    if !text(subject, &["apiGroup"]).is_empty() {
                        let given = subject["apiGroup"].clone();
                        errors.push(FieldError::not_supported(format!("{path}.apiGroup"), given, &[""]));
                    }
                    // In a namespace it means an account of that namespace.
                    if self.cluster && text(subject, &["namespace"]).is_empty() {
                        errors.push(FieldError::required(format!("{path}.namespace"), ""));
                    }
                }
                "User" | "Group" if text(subject, &["apiGroup"]) != GROUP => {
                    let given = subject["apiGroup"].clone();
                    errors.push(FieldError::not_supported(format!("{path}.apiGroup"), given, &[GROUP]));
                }
                "User" | "Group" => {}
                kind => errors.push(FieldError::not_supported(
                    format!("{path}.kind"),
                    kind,
                    &["ServiceAccount", "User", "Group"],
                )),
            }
        }
        errors
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        if new["roleRef"] == old["roleRef"] {
            return Vec::new();
        }
        vec![Field::root(new).at("roleRef").invalid_object(inner::ROLE_REF, "cannot change roleRef")]
    }

    fn tells_of_missing(&self) -> bool {
        true
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn name_is_path_segment(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::tests::refusal;

    #[test]
    fn an_aggregated_role_selects_others() {
        let role = |rule: Value| json!({"metadata": {"name": "r"}, "aggregationRule": rule});
        assert_eq!(
            refusal("ClusterRole", role(json!({}))),
            "aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is non-nil"
        );
        let bad = json!({"clusterRoleSelectors": [{"matchExpressions": [{"key": "k", "operator": "Near"}]}]});
        assert!(
            refusal("ClusterRole", role(bad))
                .contains("aggregationRule.clusterRoleSelectors[0].matchExpressions[0].operator")
        );
        assert_eq!(
            refusal("ClusterRole", role(json!({"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}))),
            ""
        );
    }

    #[test]
    fn subjects_are_told_apart_by_kind() {
        let binding = |subject: Value, cluster: &str| json!({"metadata": {"name": "b"}, "roleRef": {"kind": cluster, "name": "r"}, "subjects": [subject]});
        let account = json!({"kind": "ServiceAccount", "name": "a"});
        assert_eq!(refusal("RoleBinding", binding(account.clone(), "Role")), "");
        assert_eq!(
            refusal("ClusterRoleBinding", binding(account, "ClusterRole")),
            "subjects[0].namespace: Required value"
        );
        for (subject, why) in [
            (json!({"kind": "ServiceAccount", "name": "A"}), "subjects[0].name: Invalid value: \"A\""),
            (
                json!({"kind": "ServiceAccount", "name": "a", "apiGroup": GROUP}),
                "subjects[0].apiGroup: Unsupported value",
            ),
            (json!({"kind": "Robot", "name": "a"}), "subjects[0].kind: Unsupported value: \"Robot\""),
            (json!({"kind": "User"}), "subjects[0].name: Required value"),
        ] {
            let found = refusal("RoleBinding", binding(subject, "Role"));
            assert!(found.contains(why), "{found}");
        }
    }
}
