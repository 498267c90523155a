//! Validating and mutating admission policies, and their bindings.

use jiff::Timestamp;
use serde_json::{Value, json};

use yunfan_cel::Type;

use crate::Object;
use crate::admission::{Compiler, Sight, change_types};
use crate::builtin::admission::webhooks::{
    OPERATIONS, match_conditions, match_defaults, request_rule, rule_defaults,
};
use crate::builtin::field::Field;
use crate::builtin::rows::{name, since_creation};
use crate::builtin::rules::{METADATA, Rules};
use crate::builtin::{ColumnSpec, conditions};
use crate::error::FieldError;
use crate::lookup::{at_mut, entries, list, set_default, text};
use crate::meta::{Wrongs, all_wrong, dns_subdomain, dns1035_label, path_segment, qualified_name};

/// What a mutating policy can change: nothing that goes away.
const MUTATING_OPERATIONS: [&str; 4] = ["*", "CONNECT", "CREATE", "UPDATE"];

pub(in crate::builtin) const VALIDATING_COLUMNS: &[ColumnSpec] =
    &[("Name", "string", 0), ("Validations", "integer", 0), ("ParamKind", "string", 0), ("Age", "string", 0)];

pub(in crate::builtin) const MUTATING_COLUMNS: &[ColumnSpec] =
    &[("Name", "string", 0), ("Mutations", "integer", 0), ("ParamKind", "string", 0), ("Age", "string", 0)];

pub(in crate::builtin) const BINDING_COLUMNS: &[ColumnSpec] =
    &[("Name", "string", 0), ("PolicyName", "string", 0), ("ParamRef", "string", 0), ("Age", "string", 0)];

pub(in crate::builtin) fn validating_cells(policy: &Object, now: Timestamp) -> Vec<Value> {
    policy_cells(policy, "validations", now)
}

pub(in crate::builtin) fn mutating_cells(policy: &Object, now: Timestamp) -> Vec<Value> {
    policy_cells(policy, "mutations", now)
}

fn policy_cells(policy: &Object, counted: &str, now: Timestamp) -> Vec<Value> {
    let kind = &policy["spec"]["paramKind"];
    let shown = if kind.is_object() {
        format!("{}/{}", text(kind, &["apiVersion"]), text(kind, &["kind"]))
    } else {
        "<unset>".to_owned()
    };
    let count = list(policy, &["spec", counted]).len();
    vec![name(policy), json!(count), json!(shown), since_creation(policy, now)]
}

pub(in crate::builtin) fn binding_cells(binding: &Object, now: Timestamp) -> Vec<Value> {
    let parameter = &binding["spec"]["paramRef"];
    let shown = match (text(parameter, &["name"]), text(parameter, &["namespace"])) {
        ("", _) if parameter["selector"].is_object() => {
            json!(printed(&parameter["selector"]))
        }
        ("", _) => json!("<unset>"),
        (name, "") => json!(format!("*/{name}")),
        (name, namespace) => json!(format!("{namespace}/{name}")),
    };
    let policy = json!(text(binding, &["spec", "policyName"]));
    vec![name(binding), policy, shown, since_creation(binding, now)]
}

/// A label selector as Go prints a value: upstream shows it so here.
fn printed(selector: &Value) -> String {
    let labels: String = entries(selector, &["matchLabels"])
        .map(|(key, value)| format!("{key}: {},", value.as_str().unwrap_or_default()))
        .collect();
    let expressions: String = list(selector, &["matchExpressions"])
        .iter()
        .map(|expression| {
            let values: Vec<&str> = list(expression, &["values"]).iter().filter_map(Value::as_str).collect();
            let (key, operator) = (text(expression, &["key"]), text(expression, &["operator"]));
            let values = values.join(" ");
            format!("LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{values}],}},")
        })
        .collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}

fn policy_defaults(policy: &mut Object) {
    let Some(spec) = at_mut(policy, &["spec"]).filter(|spec| spec.is_object()) else { return };
    set_default(spec, "failurePolicy", "Fail");
    resource_defaults(spec, "matchConstraints");
}

fn resource_defaults(spec: &mut Value, key: &str) {
    let Some(resources) = spec.get_mut(key).filter(|resources| resources.is_object()) else { return };
    match_defaults(resources);
    rule_defaults(resources, "resourceRules");
    rule_defaults(resources, "excludeResourceRules");
}

fn binding_defaults(binding: &mut Object) {
    if let Some(spec) = at_mut(binding, &["spec"]) {
        resource_defaults(spec, "matchResources");
    }
}

pub(in crate::builtin) const VALIDATING: Rules = Rules {
    default: policy_defaults,
    kept_by_status: METADATA,
    validate: validate_validating,
    validate_status: |new, _| {
        let warnings = Field::root(new).under(&["status", "typeChecking", "expressionWarnings"]);
        let both = |warning: Field<'_>| ["warning", "fieldRef"].map(|key| warning.at(key).must_be_given(""));
        let told: Vec<FieldError> = warnings.items().flat_map(both).flatten().collect();
        let all = Field::root(new).under(&["status", "conditions"]);
        told.into_iter().chain(conditions::validate(&all)).collect()
    },
    ..Rules::BASE
};

pub(in crate::builtin) const MUTATING: Rules =
    Rules { default: policy_defaults, validate: validate_mutating, ..Rules::BASE };

/// What both kinds of policies have.
fn validate_policy(spec: &Field<'_>, operations: &[&str], compiler: &mut Compiler) -> Vec<FieldError> {
    let mut errors: Vec<FieldError> =
        spec.at("failurePolicy").must_be_one_of(&["Fail", "Ignore"]).into_iter().collect();
    parameter_kind(&spec.at("paramKind"), &mut errors);
    let constraints = spec.at("matchConstraints");
    if constraints.is_given() {
        match_resources(&constraints, operations, &mut errors);
        errors.extend(constraints.at("resourceRules").must_be_given(""));
    } else {
        errors.push(constraints.required(""));
    }
    match_conditions(&spec.at("matchConditions"), spec.at("paramKind").is_given(), &mut errors);
    for variable in spec.at("variables").items() {
        let (called, expression) = (variable.at("name"), variable.at("expression"));
        if called.text().trim().is_empty() {
            errors.push(called.required("name is not specified"));
        } else if !is_identifier(called.text()) {
            errors.push(called.invalid("must be a valid CEL identifier"));
        }
        if let Some(error) = blank(&expression, "expression is not specified") {
            errors.push(error);
            continue;
        }
        let made = compiler.variable(called.text(), expression.text(), sight(spec));
        errors.extend(made.err().map(|why| expression.invalid(why)));
    }
    errors
}

/// What the expressions of a policy see.
fn sight(spec: &Field<'_>) -> Sight {
    Sight { params: spec.at("paramKind").is_given(), authorizer: true }
}

/// Refuses a text that is absent or all white space.
fn blank(field: &Field<'_>, why: &str) -> Option<FieldError> {
    field.text().trim().is_empty().then(|| field.required(why))
}

fn is_identifier(name: &str) -> bool {
    let first = name.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic());
    first
        && name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric())
        && !yunfan_cel::RESERVED.contains(&name)
}

fn parameter_kind(kind: &Field<'_>, errors: &mut Vec<FieldError>) {
    if !kind.is_given() {
        return;
    }
    let (api_version, called) = (kind.at("apiVersion"), kind.at("kind"));
    match api_version.text().split('/').collect::<Vec<_>>().as_slice() {
        [""] => errors.push(api_version.required("")),
        [version] => errors.extend(part(&api_version, version, dns1035_label(version))),
        [group, version] => {
            errors.extend(part(&api_version, group, dns_subdomain(group)));
            match *version {
                "" => errors.push(api_version.invalid("version must be specified")),
                version => errors.extend(part(&api_version, version, dns1035_label(version))),
            }
        }
        _ => errors
            .push(api_version.invalid(format!("unexpected GroupVersion string: {}", api_version.text()))),
    }
    if called.text().is_empty() {
        errors.push(called.required(""));
    } else {
        let wrongs = dns1035_label(&called.text().to_lowercase());
        let why = wrongs.first().map(|why| format!("may have mixed case, but should otherwise match: {why}"));
        errors.extend(why.map(|why| called.invalid(why)));
    }
}

/// A fault of one part of a field's text.
fn part(field: &Field<'_>, part: &str, wrongs: Wrongs) -> Vec<FieldError> {
    all_wrong(&field.path, part, wrongs).collect()
}

fn match_resources(resources: &Field<'_>, operations: &[&str], errors: &mut Vec<FieldError>) {
    errors.extend(resources.at("matchPolicy").must_be_one_of(&["Equivalent", "Exact"]));
    errors.extend(resources.at("namespaceSelector").label_selector());
    errors.extend(resources.at("objectSelector").label_selector());
    for (key, allowed) in [("resourceRules", operations), ("excludeResourceRules", &OPERATIONS)] {
        let mut found = Vec::new();
        resources.at(key).items().for_each(|rule| request_rule(&rule, allowed, &mut found));
        // Which operations a mutating policy may name is looked at beside the rest, and by another path.
        if allowed.len() < OPERATIONS.len() {
            let list = format!("{}.{key}", resources.path);
            for error in found.iter_mut().filter(|error| error.field.contains(".operations[")) {
                error.field = format!("{list}.operations");
            }
        }
        errors.extend(found);
    }
}

fn validate_validating(policy: &Object) -> Vec<FieldError> {
    const MOST_ANNOTATIONS: usize = 20;
    const EXPRESSION_LIMIT: usize = 5 * 1024;
    let spec = Field::root(policy).at("spec");
    let composed = !spec.at("variables").list().is_empty();
    let mut compiler = if composed { Compiler::composed() } else { Compiler::new() };
    let mut errors = validate_policy(&spec, &OPERATIONS, &mut compiler);
    let compile = |field: &Field<'_>, source: &str, sight: Sight, wanted: &[Type]| {
        compiler.compile(source, sight, wanted).err().map(|why| field.invalid(why))
    };
    let sight = sight(&spec);
    let (validations, annotations) = (spec.at("validations"), spec.at("auditAnnotations"));
    if validations.list().is_empty() && annotations.list().is_empty() {
        let why = "validations or auditAnnotations must contain at least one item";
        errors.extend([validations.required(why), annotations.required(why)]);
    }
    for validation in validations.items() {
        let expression = validation.at("expression");
        let wrong = blank(&expression, "expression is not specified");
        errors.extend(wrong.or_else(|| compile(&expression, expression.text(), sight, &[Type::Bool])));
        for key in ["messageExpression", "message"] {
            let given = validation.at(key);
            if !given.text().is_empty() && given.text().trim().is_empty() {
                errors.push(given.invalid("must be non-empty if specified"));
            } else if key == "messageExpression" && !given.text().is_empty() {
                let sight = Sight { authorizer: false, ..sight };
                errors.extend(compile(&given, given.text(), sight, &[Type::String]));
            }
        }
        let message = validation.at("message");
        if message.text().trim().contains(['\n', '\r']) {
            errors.push(message.invalid("must not contain line breaks"));
        }
        errors.extend(validation.at("reason").one_of(&["Forbidden", "Invalid", "RequestEntityTooLarge"]));
    }
    if annotations.list().len() > MOST_ANNOTATIONS {
        errors.push(
            annotations.invalid(format!("must not have more than {MOST_ANNOTATIONS} auditAnnotations")),
        );
    }
    let called = text(policy, &["metadata", "name"]);
    for annotation in annotations.items() {
        let (key, value) = (annotation.at("key"), annotation.at("valueExpression"));
        let full = format!("{called}/{}", key.text());
        errors.extend(part(&key, &full, qualified_name(&full)));
        let source = value.text().trim();
        if source.len() > EXPRESSION_LIMIT {
            errors.push(value.required(&format!("must not exceed {EXPRESSION_LIMIT} bytes in length")));
            continue;
        }
        let wrong = blank(&value, "valueExpression is not specified");
        errors.extend(wrong.or_else(|| compile(&value, source, sight, &[Type::String, Type::Null])));
    }
    errors.extend(annotations.distinct_by("key"));
    errors
}

fn validate_mutating(policy: &Object) -> Vec<FieldError> {
    let spec = Field::root(policy).at("spec");
    let mut compiler = Compiler::changing();
    let mut errors = validate_policy(&spec, &MUTATING_OPERATIONS, &mut compiler);
    let [steps, fields] = change_types();
    let sight = sight(&spec);
    let mutations = spec.at("mutations");
    errors.extend(mutations.must_be_given("mutations must contain at least one item"));
    let kinds = [("ApplyConfiguration", "applyConfiguration"), ("JSONPatch", "jsonPatch")];
    for mutation in mutations.items() {
        let patch = mutation.at("patchType");
        errors.extend(patch.must_be_one_of(&kinds.map(|(kind, _)| kind)));
        if !kinds.iter().any(|(kind, _)| *kind == patch.text()) {
            continue;
        }
        for (kind, key) in kinds {
            let how = mutation.at(key);
            if kind != patch.text() {
                if how.is_given() {
                    let why = format!("must not be specified when patchType is {}", patch.text());
                    errors.push(FieldError::invalid(how.path.as_str(), format!("{{{key}}}"), why));
                }
            } else if how.is_given() {
                let expression = how.at("expression");
                let wanted = if kind == "JSONPatch" { &steps } else { &fields };
                let compile = || {
                    let source = expression.text().trim();
                    let made = compiler.compile(source, sight, std::slice::from_ref(wanted));
                    made.err().map(|why| FieldError::invalid(expression.path.as_str(), source, why))
                };
                errors.extend(blank(&expression, "").or_else(compile));
            } else {
                errors.push(how.required(&format!("must be specified when patchType is {kind}")));
            }
        }
    }
    errors.extend(spec.at("reinvocationPolicy").must_be_one_of(&["IfNeeded", "Never"]));
    errors
}

pub(in crate::builtin) const VALIDATING_BINDING: Rules = Rules {
    default: binding_defaults,
    validate: |binding| {
        let mut errors = validate_binding(binding, &OPERATIONS);
        let actions = Field::root(binding).under(&["spec", "validationActions"]);
        errors.extend(actions.must_be_given("at least one validation action is required"));
        errors.extend(actions.items().filter_map(|action| action.one_of(&["Audit", "Deny", "Warn"])));
        errors.extend(actions.distinct());
        if actions.list().contains(&json!("Deny")) && actions.list().contains(&json!("Warn")) {
            let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
            errors.push(actions.invalid(why));
        }
        errors
    },
    ..Rules::BASE
};

pub(in crate::builtin) const MUTATING_BINDING: Rules = Rules {
    default: binding_defaults,
    validate: |binding| validate_binding(binding, &MUTATING_OPERATIONS),
    ..Rules::BASE
};

fn validate_binding(binding: &Object, operations: &[&str]) -> Vec<FieldError> {
    let spec = Field::root(binding).at("spec");
    let mut errors = spec.at("policyName").needs(dns_subdomain);
    let (parameter, resources) = (spec.at("paramRef"), spec.at("matchResources"));
    if parameter.is_given() {
        let (called, selector) = (parameter.at("name"), parameter.at("selector"));
        let named = !called.text().is_empty();
        errors.extend(called.follows(path_segment));
        errors.extend(selector.label_selector());
        if named && selector.is_given() {
            let why = "name and selector are mutually exclusive";
            errors.extend([called.forbidden(why), selector.forbidden(why)]);
        }
        if !named && !selector.is_given() {
            errors.push(parameter.required("one of name or selector must be specified"));
        }
        errors.extend(parameter.at("parameterNotFoundAction").must_be_one_of(&["Deny", "Allow"]));
    }
    if resources.is_given() {
        match_resources(&resources, operations, &mut errors);
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::tests::{created, kind, refusal, row, status_refusal};

    fn policy(change: Value) -> Object {
        let rule = json!({"operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]});
        let base = json!({"metadata": {"name": "p.example.com"}, "spec": {"matchConstraints": {"resourceRules": [rule]}}});
        crate::patch::merge(&base, &json!({"spec": change})).unwrap()
    }

    #[test]
    fn a_validating_policy_says_what_it_checks() {
        let good = json!({"validations": [{"expression": "true"}], "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}});
        let stored = created(&kind("ValidatingAdmissionPolicy"), policy(good)).unwrap();
        assert_eq!(stored["spec"]["failurePolicy"], "Fail");
        assert_eq!(stored["spec"]["matchConstraints"]["matchPolicy"], "Equivalent");
        assert_eq!(row("ValidatingAdmissionPolicy", &stored)[1..3], ["1", "v1/ConfigMap"]);
        for (change, why) in [
            (
                json!({}),
                "spec.validations: Required value: validations or auditAnnotations must contain at least one item",
            ),
            (json!({"matchConstraints": null}), "spec.matchConstraints: Required value"),
            (
                json!({"validations": [{"expression": " "}]}),
                "spec.validations[0].expression: Required value: expression is not specified",
            ),
            (
                json!({"validations": [{"expression": "true", "message": "a\nb"}]}),
                "must not contain line breaks",
            ),
            (
                json!({"validations": [{"expression": "true", "reason": "Why not"}]}),
                "reason: Unsupported value: \"Why not\"",
            ),
            (
                json!({"variables": [{"name": "in", "expression": "1"}]}),
                "spec.variables[0].name: Invalid value: \"in\": must be a valid CEL identifier",
            ),
            (
                json!({"paramKind": {"apiVersion": "a/b/c", "kind": "K"}}),
                "unexpected GroupVersion string: a/b/c",
            ),
            (
                json!({"auditAnnotations": [{"key": "a/b", "valueExpression": ""}]}),
                "valueExpression: Required value",
            ),
        ] {
            let found = refusal("ValidatingAdmissionPolicy", policy(change));
            assert!(found.contains(why), "{found}\n{why}");
        }
        let status = json!({"typeChecking": {"expressionWarnings": [{"fieldRef": "spec.x"}]}});
        let found = status_refusal("ValidatingAdmissionPolicy", &stored, status);
        assert!(found.contains("expressionWarnings[0].warning: Required value"), "{found}");
        let found =
            status_refusal("ValidatingAdmissionPolicy", &stored, json!({"conditions": [{"type": "A"}]}));
        assert!(found.contains("conditions[0].status: Unsupported value"), "{found}");
    }

    #[test]
    fn a_mutating_policy_says_how_it_changes() {
        let mutation = json!({"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}});
        let good = json!({"mutations": [mutation], "reinvocationPolicy": "Never"});
        let stored = created(&kind("MutatingAdmissionPolicy"), policy(good)).unwrap();
        assert_eq!(row("MutatingAdmissionPolicy", &stored)[1..3], ["1", "<unset>"]);
        let wrong = json!({"mutations": [{"patchType": "JSONPatch", "applyConfiguration": {"expression": "x"}}],
            "matchConstraints": {"resourceRules": [{"operations": ["DELETE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}});
        let found = refusal("MutatingAdmissionPolicy", policy(wrong));
        for why in [
            "spec.mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch",
            "spec.mutations[0].applyConfiguration: Invalid value: \"{applyConfiguration}\": must not be specified when patchType is JSONPatch",
            "resourceRules.operations: Unsupported value: \"DELETE\"",
            "spec.reinvocationPolicy: Required value",
        ] {
            assert!(found.contains(why), "{found}\n{why}");
        }
    }

    #[test]
    fn a_binding_names_its_policy_and_maybe_parameters() {
        let binding = |spec: Value| json!({"metadata": {"name": "b"}, "spec": spec});
        let parameter = json!({"name": "c", "parameterNotFoundAction": "Deny"});
        let good = json!({"policyName": "p", "validationActions": ["Deny"], "paramRef": parameter});
        let stored = created(&kind("ValidatingAdmissionPolicyBinding"), binding(good)).unwrap();
        assert_eq!(row("ValidatingAdmissionPolicyBinding", &stored)[1..3], ["p", "*/c"]);
        let bad = json!({"validationActions": ["Deny", "Warn"], "paramRef": {}});
        let found = refusal("ValidatingAdmissionPolicyBinding", binding(bad));
        for why in [
            "spec.policyName: Required value",
            "must not contain both Deny and Warn",
            "spec.paramRef: Required value: one of name or selector must be specified",
            "spec.paramRef.parameterNotFoundAction: Required value",
        ] {
            assert!(found.contains(why), "{found}\n{why}");
        }
        let both = json!({"policyName": "p", "paramRef": {"name": "c", "selector": {}, "parameterNotFoundAction": "Deny"}});
        let found = refusal("MutatingAdmissionPolicyBinding", binding(both));
        assert!(
            found.contains("spec.paramRef.selector: Forbidden: name and selector are mutually exclusive"),
            "{found}"
        );
    }
}
