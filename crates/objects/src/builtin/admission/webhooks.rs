//! ValidatingWebhookConfiguration and MutatingWebhookConfiguration, and the rules that say which requests
//! are meant, which admission policies share.

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use yunfan_cel::Type;

use crate::Object;
use crate::admission::{Compiler, Sight};
use crate::builtin::ColumnSpec;
use crate::builtin::field::Field;
use crate::builtin::formats::fully_qualified;
use crate::builtin::rows::{name, since_creation};
use crate::builtin::rules::Rules;
use crate::error::FieldError;
use crate::lookup::{at_mut, list, list_mut, set_default};
use crate::meta::{dns_subdomain, dns1035_label, path_segment, qualified_name};

pub(in crate::builtin) const COLUMNS: &[ColumnSpec] =
    &[("Name", "string", 0), ("Webhooks", "integer", 0), ("Age", "string", 0)];

pub(in crate::builtin) fn cells(configuration: &Object, now: Timestamp) -> Vec<Value> {
    let count = list(configuration, &["webhooks"]).len();
    vec![name(configuration), json!(count), since_creation(configuration, now)]
}

pub(in crate::builtin) const VALIDATING: Rules =
    Rules { default: webhook_defaults, validate: validate_webhooks, ..Rules::BASE };

pub(in crate::builtin) const MUTATING: Rules = Rules {
    default: |configuration| {
        webhook_defaults(configuration);
        for hook in list_mut(configuration, &["webhooks"]) {
            set_default(hook, "reinvocationPolicy", "Never");
        }
    },
    ..VALIDATING
};

fn webhook_defaults(configuration: &mut Object) {
    for hook in list_mut(configuration, &["webhooks"]) {
        set_default(hook, "failurePolicy", "Fail");
        set_default(hook, "timeoutSeconds", 10);
        match_defaults(hook);
        rule_defaults(hook, "rules");
        if let Some(service) = at_mut(hook, &["clientConfig", "service"]) {
            set_default(service, "port", 443);
        }
    }
}

/// Defaults of what says which requests are meant.
pub(in crate::builtin) fn match_defaults(value: &mut Value) {
    set_default(value, "matchPolicy", "Equivalent");
    set_default(value, "namespaceSelector", json!({}));
    set_default(value, "objectSelector", json!({}));
}

/// Defaults of the rules in a list.
pub(in crate::builtin) fn rule_defaults(value: &mut Value, key: &str) {
    for rule in list_mut(value, &[key]) {
        set_default(rule, "scope", "*");
    }
}

fn validate_webhooks(configuration: &Object) -> Vec<FieldError> {
    let hooks = Field::root(configuration).at("webhooks");
    let (mut errors, mut names) = (Vec::new(), HashSet::new());
    for hook in hooks.items() {
        validate_webhook(&hook, &mut errors);
        let name = hook.at("name");
        if !name.text().is_empty() && !names.insert(name.text()) {
            errors.push(name.duplicate());
        }
    }
    errors
}

fn validate_webhook(hook: &Field<'_>, errors: &mut Vec<FieldError>) {
    errors.extend(hook.at("name").needs(fully_qualified));
    hook.at("rules").items().for_each(|rule| request_rule(&rule, &OPERATIONS, errors));
    errors.extend(hook.at("failurePolicy").one_of(&["Fail", "Ignore"]));
    errors.extend(hook.at("matchPolicy").one_of(&["Equivalent", "Exact"]));
    let effects = hook.at("sideEffects");
    if effects.is_given() {
        errors.extend(effects.one_of(&["None", "NoneOnDryRun"]));
    } else {
        errors.push(effects.required("must specify one of None, NoneOnDryRun"));
    }
    let timeout = hook.at("timeoutSeconds");
    if timeout.number().is_some_and(|seconds| !(1..=30).contains(&seconds)) {
        errors.push(timeout.invalid("the timeout value must be between 1 and 30 seconds"));
    }
    errors.extend(hook.at("namespaceSelector").label_selector());
    errors.extend(hook.at("objectSelector").label_selector());
    errors.extend(hook.at("reinvocationPolicy").one_of(&["IfNeeded", "Never"]));
    let client = hook.at("clientConfig");
    let (url, service) = (client.at("url"), client.at("service"));
    match (url.is_given(), service.is_given()) {
        (true, false) => webhook_url(&url, errors),
        (false, true) => webhook_service(&service, errors),
        _ => errors.push(client.required("exactly one of url or service is required")),
    }
    match_conditions(&hook.at("matchConditions"), false, errors);
    review_versions(&hook.at("admissionReviewVersions"), errors);
}

fn webhook_url(url: &Field<'_>, errors: &mut Vec<FieldError>) {
    const FORM: &str = "; desired format: https://host[/path]";
    let mut wrong = |value: &str, why: &str| errors.push(FieldError::invalid(url.path.as_str(), value, why));
    let (rest, fragment) = url.text().split_once('#').unwrap_or((url.text(), ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (scheme, rest) = rest.split_once("://").unwrap_or(("", rest));
    let authority = if scheme.is_empty() { "" } else { rest.split('/').next().unwrap_or_default() };
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if scheme != "https" {
        wrong(scheme, &format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if host.is_empty() {
        wrong(host, &format!("host must be specified{FORM}"));
    }
    for (part, why) in [
        (user, "user information is not permitted in the URL"),
        (fragment, "fragments are not permitted in the URL"),
        (query, "query parameters are not permitted in the URL"),
    ] {
        if !part.is_empty() {
            wrong(part, why);
        }
    }
}

fn webhook_service(service: &Field<'_>, errors: &mut Vec<FieldError>) {
    errors.extend(["name", "namespace"].iter().filter_map(|key| service.at(key).must_be_given("")));
    if let Some(error) = service.at("port").port() {
        errors.push(FieldError { detail: format!("port is not valid: {}", error.detail), ..error });
    }
    let path = service.at("path");
    if matches!(path.text(), "" | "/") {
        return;
    }
    let Some(rest) = path.text().strip_prefix('/') else {
        errors.push(path.invalid("must start with a '/'"));
        return;
    };
    for (index, step) in rest.strip_suffix('/').unwrap_or(rest).split('/').enumerate() {
        if step.is_empty() {
            errors.push(path.invalid(format!("segment[{index}] may not be empty")));
        } else {
            let wrong = dns_subdomain(step).into_iter();
            errors.extend(wrong.map(|why| path.invalid(format!("segment[{index}]: {why}"))));
        }
    }
}

fn review_versions(versions: &Field<'_>, errors: &mut Vec<FieldError>) {
    const KNOWN: [&str; 2] = ["v1", "v1beta1"];
    if versions.list().is_empty() {
        errors.push(versions.required(&format!("must specify one of {}", KNOWN.join(", "))));
        return;
    }
    let mut seen = HashSet::new();
    for version in versions.items() {
        if !seen.insert(version.value) {
            errors.push(version.invalid("duplicate version"));
        } else {
            errors.extend(version.follows(dns1035_label));
        }
    }
    if !versions.items().any(|version| KNOWN.contains(&version.text())) {
        errors.push(versions.invalid(format!("must include at least one of {}", KNOWN.join(", "))));
    }
}

/// Conditions on requests: names and expressions, which may look at `params` where there are any.
pub(in crate::builtin) fn match_conditions(
    conditions: &Field<'_>,
    params: bool,
    errors: &mut Vec<FieldError>,
) {
    const MOST: usize = 64;
    errors.extend(conditions.at_most(MOST));
    let mut names = HashSet::new();
    for condition in conditions.items() {
        let expression = condition.at("expression");
        let (source, sight) = (expression.text().trim(), Sight { params, authorizer: true });
        if source.is_empty() {
            errors.push(expression.required(""));
        } else if let Err(why) = Compiler::new().compile(source, sight, &[Type::Bool]) {
            errors.push(FieldError::invalid(expression.path.as_str(), source, why));
        }
        let name = condition.at("name");
        errors.extend(name.needs(qualified_name));
        if !name.text().is_empty() && !names.insert(name.text()) {
            errors.push(name.duplicate());
        }
    }
}

/// What requests do, as the rules of webhooks and validating policies name it.
pub(in crate::builtin) const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];

/// A rule with operations: which requests, on which resources.
pub(in crate::builtin) fn request_rule(rule: &Field<'_>, allowed: &[&str], errors: &mut Vec<FieldError>) {
    let (operations, groups, versions, resources) =
        (rule.at("operations"), rule.at("apiGroups"), rule.at("apiVersions"), rule.at("resources"));
    let names = rule.at("resourceNames");
    errors.extend(names.items().flat_map(|name| name.follows(path_segment)));
    errors.extend(names.distinct());
    errors.extend(operations.must_be_given(""));
    alone(&operations, "operations", errors);
    errors.extend(operations.items().filter_map(|operation| operation.one_of(allowed)));
    for (field, what) in [(&groups, "API groups"), (&versions, "API versions")] {
        errors.extend(field.must_be_given(""));
        alone(field, what, errors);
    }
    errors.extend(versions.items().filter_map(|version| version.must_be_given("")));
    rule_resources(&resources, errors);
    errors.extend(rule.at("scope").one_of(&["*", "Cluster", "Namespaced"]));
}

fn alone(field: &Field<'_>, what: &str, errors: &mut Vec<FieldError>) {
    if field.list().len() > 1 && field.list().contains(&json!("*")) {
        errors.push(field.invalid(format!("if '*' is present, must not specify other {what}")));
    }
}

fn rule_resources(resources: &Field<'_>, errors: &mut Vec<FieldError>) {
    errors.extend(resources.must_be_given(""));
    let (mut whole, mut parts) = (HashSet::new(), HashSet::new());
    let mut without_part = false;
    for field in resources.items() {
        let given = field.text();
        let Some((resource, part)) = given.split_once('/') else {
            if given.is_empty() {
                errors.push(field.required(""));
            }
            without_part |= !matches!(given, "" | "*");
            continue;
        };
        let mut covered = |by: String| {
            errors.push(field.invalid(format!("if '{by}' is present, must not specify {given}")));
        };
        if whole.contains(resource) {
            covered(format!("{resource}/*"));
        }
        if parts.contains(part) {
            covered(format!("*/{part}"));
        }
        if part == "*" {
            whole.insert(resource);
        }
        if resource == "*" {
            parts.insert(part);
        }
    }
    let has = |text: &str| resources.list().contains(&json!(text));
    if resources.list().len() > 1 && has("*/*") {
        errors.push(resources.invalid("if '*/*' is present, must not specify other resources"));
    }
    if has("*") && without_part {
        let why = "if '*' is present, must not specify other resources without subresources";
        errors.push(resources.invalid(why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::tests::{changed, created, kind, refusal, row};

    fn configuration(change: Value) -> Object {
        let hook = json!({"name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": {"name": "s", "namespace": "n"}},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]});
        json!({"metadata": {"name": "w"}, "webhooks": [crate::patch::merge(&hook, &change).unwrap()]})
    }

    #[test]
    fn a_webhook_gets_the_defaults_that_clients_see() {
        let old = created(&kind("MutatingWebhookConfiguration"), configuration(json!({}))).unwrap();
        let hook = &old["webhooks"][0];
        assert_eq!(hook["failurePolicy"], "Fail");
        assert_eq!(hook["matchPolicy"], "Equivalent");
        assert_eq!(hook["reinvocationPolicy"], "Never");
        assert_eq!(hook["timeoutSeconds"], 10);
        assert_eq!((&hook["namespaceSelector"], &hook["objectSelector"]), (&json!({}), &json!({})));
        assert_eq!(hook["clientConfig"]["service"]["port"], 443);
        assert_eq!(hook["rules"][0]["scope"], "*");
        assert_eq!(row("MutatingWebhookConfiguration", &old)[1], "1");
        let (new, refused) = changed("MutatingWebhookConfiguration", &old, json!({"webhooks": []}));
        assert_eq!((refused.as_str(), &new["metadata"]["generation"]), ("", &json!(2)));
        let plain = created(&kind("ValidatingWebhookConfiguration"), configuration(json!({}))).unwrap();
        assert!(plain["webhooks"][0].get("reinvocationPolicy").is_none());
    }

    #[test]
    fn what_is_wrong_with_a_webhook_is_named() {
        let url = |url: &str| json!({"clientConfig": {"service": null, "url": url}});
        let service = |path: &str| json!({"clientConfig": {"service": {"path": path}}});
        let resources = |all: Value| json!({"rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": all}]});
        for (change, why) in [
            (
                json!({"name": "short"}),
                "webhooks[0].name: Invalid value: \"short\": should be a domain with at least three segments",
            ),
            (
                json!({"sideEffects": null}),
                "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun",
            ),
            (json!({"sideEffects": "Some"}), "webhooks[0].sideEffects: Unsupported value: \"Some\""),
            (json!({"timeoutSeconds": 31}), "the timeout value must be between 1 and 30 seconds"),
            (
                json!({"admissionReviewVersions": []}),
                "admissionReviewVersions: Required value: must specify one of v1, v1beta1",
            ),
            (json!({"admissionReviewVersions": ["v9"]}), "must include at least one of v1, v1beta1"),
            (
                json!({"clientConfig": {"service": null}}),
                "webhooks[0].clientConfig: Required value: exactly one of url or service",
            ),
            (
                url("http://a"),
                "clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme",
            ),
            (url("https://u@a/b?c#d"), "user information is not permitted in the URL"),
            (url("https://a/b?c"), "query parameters are not permitted"),
            (url("https:///b"), "host must be specified"),
            (service("a"), "clientConfig.service.path: Invalid value: \"a\": must start with a '/'"),
            (service("/a//b"), "segment[1] may not be empty"),
            (json!({"rules": [{}]}), "webhooks[0].rules[0].operations: Required value"),
            (
                resources(json!(["*", "pods"])),
                "if '*' is present, must not specify other resources without subresources",
            ),
            (
                resources(json!(["pods/*", "pods/log"])),
                "resources[1]: Invalid value: \"pods/log\": if 'pods/*' is present, must not specify pods/log",
            ),
            (resources(json!(["*/*", "pods/log"])), "if '*/*' is present, must not specify other resources"),
            (
                json!({"matchConditions": [{"name": "", "expression": " "}]}),
                "matchConditions[0].expression: Required value",
            ),
            (
                json!({"matchConditions": [{"name": "a", "expression": "params.a"}]}),
                "matchConditions[0].expression: Invalid value: \"params.a\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'params'",
            ),
            (
                json!({"matchConditions": [{"name": "a", "expression": "true"}, {"name": "a", "expression": "true"}]}),
                "matchConditions[1].name: Duplicate value: \"a\"",
            ),
        ] {
            let found = refusal("ValidatingWebhookConfiguration", configuration(change));
            assert!(found.contains(why), "{found}\n{why}");
        }
    }
}
