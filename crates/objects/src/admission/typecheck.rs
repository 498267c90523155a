//! What is odd about a validating policy's expressions, as far as the schemas of the kinds show it that the policy matches.
//! Nothing is refused for that: it is told in the policy's status.

use std::sync::Arc;

use serde_json::{Value, json};
use yunfan_cel::Decl;

use super::{Compiler, Sight};
use crate::lookup::{at, list, text};
use crate::schema::Schema;
use crate::{GroupVersionKind, Object, validations};

/// Most kinds that a policy is checked with.
const MAX_KINDS: usize = 10;

/// Group, version and plural of a kind.
pub type Matched = [String; 3];

/// The kinds that a policy names: rules that match by pattern name none.
pub fn matched(policy: &Object) -> Vec<Matched> {
    let mut out = Vec::new();
    for rule in list(policy, &["spec", "matchConstraints", "resourceRules"]) {
        let named = |key: &str| {
            let mut texts: Vec<&str> = list(rule, &[key]).iter().filter_map(Value::as_str).collect();
            texts.sort_unstable();
            texts
        };
        let (groups, versions) = (named("apiGroups"), named("apiVersions"));
        if groups.iter().chain(&versions).any(|name| name.contains('*')) {
            continue;
        }
        let plurals = named("resources").into_iter().filter(|name| !name.contains(['*', '/']));
        for plural in plurals {
            for group in &groups {
                for version in &versions {
                    let kind = [*group, *version, plural].map(str::to_owned);
                    if !out.contains(&kind) {
                        out.push(kind);
                    }
                }
            }
        }
    }
    out
}

/// A kind that a policy's expressions are checked with.
#[derive(Clone, Debug)]
pub struct Subject {
    kind: GroupVersionKind,
    /// None where nothing is known of what is in it.
    shape: Option<Arc<Decl>>,
}

impl Subject {
    /// The kind with this schema.
    pub fn new(kind: GroupVersionKind, schema: &Schema) -> Self {
        Self { kind, shape: validations::declare_whole(schema) }
    }
}

/// The `status.typeChecking.expressionWarnings` of a policy. `params` is the kind of its parameters, where that is known.
pub fn warnings(policy: &Object, mut subjects: Vec<Subject>, params: Option<&Subject>) -> Vec<Value> {
    subjects.sort_by(|a, b| a.kind.cmp(&b.kind));
    subjects.dedup_by(|a, b| a.kind == b.kind);
    subjects.truncate(MAX_KINDS);
    let compilers: Vec<(&Subject, Compiler)> =
        subjects.iter().map(|subject| (subject, compiler(policy, subject, params))).collect();
    let sight = sight(policy);
    let mut out = Vec::new();
    for (index, validation) in list(policy, &["spec", "validations"]).iter().enumerate() {
        for field in ["expression", "messageExpression"] {
            let source = text(validation, &[field]);
            if source.is_empty() && field == "messageExpression" {
                continue;
            }
            let found: Vec<String> = compilers
                .iter()
                .filter_map(|(subject, compiler)| {
                    let error = compiler.check(source, sight).err()?;
                    Some(format!("{}: {error}\n", subject.kind))
                })
                .collect();
            if !found.is_empty() {
                let place = format!("spec.validations[{index}].{field}");
                out.push(json!({"fieldRef": place, "warning": found.join("\n")}));
            }
        }
    }
    out
}

fn sight(policy: &Object) -> Sight {
    let params = at(policy, &["spec", "paramKind"]).is_some_and(|kind| !kind.is_null());
    Sight { params, authorizer: true }
}

/// A compiler that knows the kind, and the policy's variables.
fn compiler(policy: &Object, subject: &Subject, params: Option<&Subject>) -> Compiler {
    let mut compiler =
        Compiler::composed().about(subject.shape.clone(), params.and_then(|params| params.shape.clone()));
    for variable in list(policy, &["spec", "variables"]) {
        // What is wrong with it is told where the policy is written.
        let _ = compiler.variable(text(variable, &["name"]), text(variable, &["expression"]), sight(policy));
    }
    compiler
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin;
    use crate::crd;

    fn builtin_subject(kind: &str) -> Subject {
        let all = builtin::descriptors();
        let found = all.iter().find(|each| each.kind == kind).expect("a kind");
        Subject::new(found.gvk(), &found.schema)
    }

    fn found(spec: Value, subjects: &[&str], params: Option<&str>) -> Vec<(String, String)> {
        let subjects = subjects.iter().map(|kind| builtin_subject(kind)).collect();
        let params = params.map(builtin_subject);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        warnings(&json!({"spec": spec}), subjects, params.as_ref())
            .iter()
            .map(|warning| (text(&warning["fieldRef"]), text(&warning["warning"])))
            .collect()
    }

    #[test]
    fn kinds_are_those_that_rules_name() {
        let rule = |groups: Value, versions: Value, resources: Value| json!({"apiGroups": groups, "apiVersions": versions, "resources": resources});
        let of = |rules: Value| matched(&json!({"spec": {"matchConstraints": {"resourceRules": rules}}}));
        let kind = |group: &str, version: &str, plural: &str| [group, version, plural].map(str::to_owned);
        assert_eq!(
            of(json!([rule(json!(["batch", "apps"]), json!(["v1"]), json!(["jobs", "pods/status", "*"]))])),
            [kind("apps", "v1", "jobs"), kind("batch", "v1", "jobs")]
        );
        assert_eq!(of(json!([rule(json!(["*"]), json!(["v1"]), json!(["pods"]))])), Vec::<Matched>::new());
        assert_eq!(of(json!([rule(json!([""]), json!(["v*"]), json!(["pods"]))])), Vec::<Matched>::new());
        assert_eq!(matched(&json!({})), Vec::<Matched>::new());
    }

    #[test]
    fn what_the_schemas_do_not_have_is_told_kind_by_kind() {
        let validations = json!([
            {"expression": "object.spec.replicas > 1 && object.metadata.name.startsWith('a')"},
            {"expression": "object.spec.replicas > '1'"},
            {"expression": "object.foo > 1", "messageExpression": "object.spec.selector + 'x'"},
        ]);
        let found_all = found(json!({"validations": validations}), &["Deployment"], None);
        let places: Vec<&str> = found_all.iter().map(|(place, _)| place.as_str()).collect();
        assert_eq!(
            places,
            [
                "spec.validations[1].expression",
                "spec.validations[2].expression",
                "spec.validations[2].messageExpression"
            ]
        );
        assert_eq!(
            found_all[0].1,
            "apps/v1, Kind=Deployment: ERROR: <input>:1:22: found no matching overload for '_>_' applied to '(int, string)'\n | object.spec.replicas > '1'\n | .....................^\n"
        );
        assert_eq!(
            found_all[1].1,
            "apps/v1, Kind=Deployment: ERROR: <input>:1:7: undefined field 'foo'\n | object.foo > 1\n | ......^\n"
        );
        // Fields of one kind alone are told of the others, in the order of the kinds.
        let one = json!([{"expression": "object.spec.replicas > 1 && has(object.spec.nodeName)"}]);
        let both = found(json!({"validations": one}), &["Pod", "Deployment"], None);
        let warning = &both[0].1;
        let (pod, deployment) = (
            warning.find("/v1, Kind=Pod: ERROR").unwrap(),
            warning.find("apps/v1, Kind=Deployment: ERROR").unwrap(),
        );
        assert!(pod < deployment, "{warning}");
        assert!(warning.contains("undefined field 'replicas'"), "{warning}");
        assert!(warning.contains("undefined field 'nodeName'"), "{warning}");
    }

    #[test]
    fn parameters_and_variables_have_types_too() {
        let spec = |expression: &str| {
            json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
                "variables": [{"name": "count", "expression": "object.spec.replicas"}, {"name": "wrong", "expression": "object.none"}],
                "validations": [{"expression": expression}]})
        };
        let of = |expression: &str, params| {
            found(spec(expression), &["Deployment"], params)
                .pop()
                .map(|(_, warning)| warning)
                .unwrap_or_default()
        };
        assert_eq!(of("variables.count > int(params.data.least)", Some("ConfigMap")), "");
        assert!(of("variables.count > 'x'", None).contains("no matching overload for '_>_'"));
        assert!(of("params.date.least == ''", Some("ConfigMap")).contains("undefined field 'date'"));
        assert_eq!(of("params.date.least == ''", None), "", "nothing is known of them");
        assert_eq!(of("variables.wrong > 'x'", None), "", "what is wrong is told once");
        assert_eq!(of("authorizer.path('/x').check('get').allowed()", None), "");
    }

    #[test]
    fn custom_kinds_are_checked_by_their_schemas() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "replicas": {"type": "integer"}, "any": {"x-kubernetes-preserve-unknown-fields": true}}}}});
        let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "crontabs.stable.example.com"}, "spec": {"group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "crontabs", "singular": "crontab", "kind": "CronTab", "listKind": "CronTabList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
        let kinds = crd::descriptors(&definition).expect("a definition");
        let subject = Subject::new(kinds[0].gvk(), &kinds[0].schema);
        let policy = json!({"spec": {"validations": [
            {"expression": "object.spec.replicas > '1'"},
            {"expression": "object.metadata.labels['a'] == 'b' && object.spec.replicas > 1"}]}});
        let found = warnings(&policy, vec![subject], None);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(text(&found[0], &["warning"]).starts_with("stable.example.com/v1, Kind=CronTab: ERROR"));
    }
}
