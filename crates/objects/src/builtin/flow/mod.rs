//! FlowSchema and PriorityLevelConfiguration: who waits how long when there are many requests. They are kept,
//! and no request waits because of them yet.

pub(in crate::builtin) mod objects;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Object;
use crate::builtin::ColumnSpec;
use crate::builtin::field::Field;
use crate::builtin::inner::flow::{
    FLOW_DISTINGUISHER_METHOD, FLOW_SCHEMA_SPEC, PRIORITY_LEVEL_CONFIGURATION_SPEC,
};
use crate::builtin::rows::{name, or_none, since_creation};
use crate::builtin::rules::{METADATA, Rules};
use crate::error::FieldError;
use crate::lookup::{at, at_mut, list, number, set_default, text};
use crate::meta::{dns_label, dns_subdomain};

const VERBS: [&str; 9] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

pub(in crate::builtin) const SCHEMA_COLUMNS: &[ColumnSpec] = &[
    ("Name", "string", 0),
    ("PriorityLevel", "string", 0),
    ("MatchingPrecedence", "string", 0),
    ("DistinguisherMethod", "string", 0),
    ("Age", "string", 0),
    ("MissingPL", "string", 0),
];

pub(in crate::builtin) fn schema_cells(schema: &Object, now: Timestamp) -> Vec<Value> {
    let conditions = list(schema, &["status", "conditions"]);
    let dangling = conditions.iter().find(|condition| condition["type"] == "Dangling");
    vec![
        name(schema),
        json!(text(schema, &["spec", "priorityLevelConfiguration", "name"])),
        json!(number(schema, &["spec", "matchingPrecedence"]).unwrap_or(0)),
        or_none(text(schema, &["spec", "distinguisherMethod", "type"])),
        since_creation(schema, now),
        json!(dangling.map_or("?", |condition| text(condition, &["status"]))),
    ]
}

pub(in crate::builtin) const SCHEMA: Rules = Rules {
    tells_of_missing: true,
    default: |schema| {
        if let Some(spec) = at_mut(schema, &["spec"]) {
            default_number(spec, "matchingPrecedence", 1000);
        }
    },
    validate: validate_schema,
    kept_by_status: METADATA,
    validate_status: |new, _| condition_types(new),
    ..Rules::BASE
};

/// Sets a number where it is absent or 0, which upstream's types can't tell apart.
fn default_number(value: &mut Value, key: &str, default: i64) {
    if value.get(key).and_then(Value::as_i64) == Some(0) {
        value[key] = Value::Null;
    }
    set_default(value, key, default);
}

fn validate_schema(schema: &Object) -> Vec<FieldError> {
    const LAST: i64 = 10_000;
    let called = text(schema, &["metadata", "name"]);
    let spec = Field::root(schema).at("spec");
    let mut errors = Vec::new();
    let precedence = spec.at("matchingPrecedence");
    match precedence.number() {
        Some(given) if given <= 0 => errors.push(precedence.invalid("must be a positive value")),
        Some(given) if given > LAST => {
            errors.push(precedence.invalid(format!("must not be greater than {LAST}")));
        }
        Some(1) if called != "exempt" => {
            let why = "only the schema named 'exempt' may have matchingPrecedence 1";
            errors.push(precedence.invalid(why));
        }
        _ => {}
    }
    let method = spec.under(&["distinguisherMethod", "type"]);
    let methods = ["ByNamespace", "ByUser"];
    if spec.at("distinguisherMethod").is_given() && !methods.contains(&method.text()) {
        let shown = spec.at("distinguisherMethod").unsupported_object(FLOW_DISTINGUISHER_METHOD, &methods);
        errors.push(FieldError { field: method.path, ..shown });
    }
    let level = spec.under(&["priorityLevelConfiguration", "name"]);
    match level.text() {
        "" => errors.push(level.required("must reference a priority level")),
        _ => errors.extend(level.follows(dns_subdomain)),
    }
    spec.at("rules").items().for_each(|rule| flow_rule(&rule, &mut errors));
    if let Some(mandatory) = objects::mandatory("FlowSchema", called)
        && mandatory["spec"] != schema["spec"]
    {
        let why = format!("spec of '{called}' must equal the fixed value");
        errors.push(spec.invalid_object(FLOW_SCHEMA_SPEC, why));
    }
    errors
}

fn flow_rule(rule: &Field<'_>, errors: &mut Vec<FieldError>) {
    let (subjects, resources, paths) =
        (rule.at("subjects"), rule.at("resourceRules"), rule.at("nonResourceRules"));
    errors.extend(subjects.must_be_given("subjects must contain at least one value"));
    subjects.items().for_each(|subject| flow_subject(&subject, errors));
    if resources.list().is_empty() && paths.list().is_empty() {
        errors.push(rule.required("at least one of resourceRules and nonResourceRules has to be non-empty"));
    }
    for rule in resources.items() {
        verbs(&rule.at("verbs"), errors);
        for (key, noun) in [("apiGroups", "api group"), ("resources", "resource")] {
            let given = rule.at(key);
            errors.extend(given.must_be_given(&format!("resource rules must supply at least one {noun}")));
            wildcard_alone(&given, &format!("{noun}s"), errors);
        }
        let namespaces = rule.at("namespaces");
        if namespaces.list().is_empty() && rule.at("clusterScope").value != &json!(true) {
            let why = "resource rules that are not cluster scoped must supply at least one namespace";
            errors.push(namespaces.required(why));
        } else if !wildcard_alone(&namespaces, "namespaces", errors) {
            let why = "each member of this list must be '*' or a DNS-1123 label; ";
            let wrong = |item: Field<'_>| {
                dns_label(item.text()).first().map(|rule| item.invalid(format!("{why}{rule}")))
            };
            errors.extend(namespaces.items().filter_map(wrong));
        }
    }
    for rule in paths.items() {
        verbs(&rule.at("verbs"), errors);
        let urls = rule.at("nonResourceURLs");
        errors.extend(urls.must_be_given("nonResourceURLs must contain at least one value"));
        if !wildcard_alone(&urls, "non-resource URLs", errors) {
            errors.extend(urls.items().filter_map(|url| Some(url.invalid(url_fault(url.text())?))));
        }
    }
}

/// Whether `*` is among the items; it must be the only one.
fn wildcard_alone(field: &Field<'_>, what: &str, errors: &mut Vec<FieldError>) -> bool {
    let present = field.list().contains(&json!("*"));
    if present && field.list().len() > 1 {
        errors.push(field.invalid(format!("if '*' is present, must not specify other {what}")));
    }
    present
}

fn verbs(field: &Field<'_>, errors: &mut Vec<FieldError>) {
    errors.extend(field.must_be_given("verbs must contain at least one value"));
    if !wildcard_alone(field, "verbs", errors) && field.items().any(|verb| !VERBS.contains(&verb.text())) {
        errors.push(FieldError::not_supported(field.path.as_str(), field.value.clone(), &VERBS));
    }
}

fn url_fault(url: &str) -> Option<&'static str> {
    if url.is_empty() {
        Some("must not be empty")
    } else if url == "/" {
        None
    } else if !url.starts_with('/') {
        Some("must start with slash")
    } else if url.contains(' ') {
        Some("must not contain white-space")
    } else if url.contains("//") {
        Some("must not contain double slash")
    } else {
        let wildcards = url.matches('*').count();
        (wildcards > 1 || wildcards == 1 && !url.ends_with("/*"))
            .then_some("wildcard can only do suffix matching")
    }
}

/// Kinds of subjects, and the field that says more about each.
const SUBJECTS: [(&str, &str); 3] =
    [("Group", "group"), ("ServiceAccount", "serviceAccount"), ("User", "user")];

/// The same in the order in which what does not belong is told of.
const OTHERS: [(&str, &str); 3] =
    [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];

fn flow_subject(subject: &Field<'_>, errors: &mut Vec<FieldError>) {
    let kind = subject.at("kind");
    let known = SUBJECTS.map(|(kind, _)| kind);
    if !known.contains(&kind.text()) {
        errors.push(FieldError::not_supported(kind.path.as_str(), kind.text(), &known));
        return;
    }
    for (own, key) in SUBJECTS.into_iter().filter(|(own, _)| *own == kind.text()) {
        own_part(&subject.at(key), own, key, errors);
    }
    for (other, key) in OTHERS.into_iter().filter(|(other, _)| *other != kind.text()) {
        let more = subject.at(key);
        if more.is_given() {
            errors.push(more.forbidden(format!("{key} is forbidden when subject kind is not '{other}'")));
        }
    }
}

/// What says more about a subject of this kind.
fn own_part(more: &Field<'_>, kind: &str, key: &str, errors: &mut Vec<FieldError>) {
    if !more.is_given() {
        return errors.push(more.required(&format!("{key} is required when subject kind is '{kind}'")));
    }
    let called = more.at("name");
    errors.extend(called.must_be_given(""));
    if kind == "ServiceAccount" {
        if !matches!(called.text(), "" | "*") {
            errors.extend(called.follows(dns_subdomain));
        }
        let namespace = more.at("namespace");
        match namespace.text() {
            "" => errors.push(namespace.required("must specify namespace for service account")),
            _ => errors.extend(namespace.follows(dns_label)),
        }
    }
}

pub(in crate::builtin) const LEVEL_COLUMNS: &[ColumnSpec] = &[
    ("Name", "string", 0),
    ("Type", "string", 0),
    ("NominalConcurrencyShares", "string", 0),
    ("Queues", "string", 0),
    ("HandSize", "string", 0),
    ("QueueLengthLimit", "string", 0),
    ("Age", "string", 0),
];

pub(in crate::builtin) fn level_cells(level: &Object, now: Timestamp) -> Vec<Value> {
    let limited = &level["spec"]["limited"];
    let shown = |path: &[&str]| at(limited, path).cloned().unwrap_or_else(|| json!("<none>"));
    let queuing = |key: &str| shown(&["limitResponse", "queuing", key]);
    vec![
        name(level),
        json!(text(level, &["spec", "type"])),
        shown(&["nominalConcurrencyShares"]),
        queuing("queues"),
        queuing("handSize"),
        queuing("queueLengthLimit"),
        since_creation(level, now),
    ]
}

pub(in crate::builtin) const LEVEL: Rules = Rules {
    kept_by_status: METADATA,
    tells_of_missing: true,
    default: |level| {
        let Some(spec) = at_mut(level, &["spec"]) else { return };
        if let Some(exempt) = at_mut(spec, &["exempt"]) {
            set_default(exempt, "nominalConcurrencyShares", 0);
            set_default(exempt, "lendablePercent", 0);
        }
        let Some(limited) = at_mut(spec, &["limited"]) else { return };
        set_default(limited, "nominalConcurrencyShares", 30);
        set_default(limited, "lendablePercent", 0);
        let Some(queuing) = at_mut(limited, &["limitResponse", "queuing"]) else { return };
        for (key, default) in [("handSize", 8), ("queues", 64), ("queueLengthLimit", 50)] {
            default_number(queuing, key, default);
        }
    },
    validate: validate_level,
    validate_status: |new, _| condition_types(new),
    ..Rules::BASE
};

fn validate_level(level: &Object) -> Vec<FieldError> {
    let called = text(level, &["metadata", "name"]);
    let spec = Field::root(level).at("spec");
    let (kind, limited, exempt) = (spec.at("type"), spec.at("limited"), spec.at("exempt"));
    let mut errors = Vec::new();
    if (called == "exempt") != (kind.text() == "Exempt") {
        let why = "must be 'Exempt' if and only if `name` is 'exempt'";
        errors.push(FieldError::invalid(kind.path.as_str(), kind.text(), why));
    }
    match kind.text() {
        "Exempt" if limited.is_given() => {
            errors.push(limited.forbidden("must be nil if the type is not Limited"));
        }
        "Exempt" => {
            nominal_shares(&exempt, &mut errors);
            lent_shares(&exempt, &mut errors);
        }
        "Limited" => {
            if exempt.is_given() {
                errors.push(exempt.forbidden("must be nil if the type is Limited"));
            }
            if limited.is_given() {
                nominal_shares(&limited, &mut errors);
                limit_response(&limited.at("limitResponse"), &mut errors);
                lent_shares(&limited, &mut errors);
            } else {
                errors.push(limited.required("must not be empty when type is Limited"));
            }
        }
        _ => errors.extend(kind.must_be_one_of(&["Exempt", "Limited"])),
    }
    if let Some(mandatory) = objects::mandatory("PriorityLevelConfiguration", called) {
        // How much an exempt level lends is for administrators to say.
        let own_part = called == "exempt";
        let mut wanted = mandatory["spec"].clone();
        if own_part {
            crate::lookup::copy_key(&mut wanted, &level["spec"], "exempt");
        }
        if wanted != level["spec"] {
            let but = if own_part { " except the 'spec.exempt' field" } else { "" };
            let why = format!("spec of '{called}'{but} must equal the fixed value");
            errors.push(spec.invalid_object(PRIORITY_LEVEL_CONFIGURATION_SPEC, why));
        }
    }
    errors
}

fn below_zero(field: &Field<'_>) -> bool {
    field.number().is_some_and(|given| given < 0)
}

fn nominal_shares(level: &Field<'_>, errors: &mut Vec<FieldError>) {
    let nominal = level.at("nominalConcurrencyShares");
    if below_zero(&nominal) {
        errors.push(nominal.invalid("must be a non-negative integer"));
    }
}

fn lent_shares(level: &Field<'_>, errors: &mut Vec<FieldError>) {
    let (lent, borrowed) = (level.at("lendablePercent"), level.at("borrowingLimitPercent"));
    if lent.number().is_some_and(|given| !(0..=100).contains(&given)) {
        errors.push(lent.invalid("must be between 0 and 100, inclusive"));
    }
    if below_zero(&borrowed) {
        errors.push(borrowed.invalid("if specified, must be a non-negative integer"));
    }
}

fn limit_response(response: &Field<'_>, errors: &mut Vec<FieldError>) {
    let (kind, queuing) = (response.at("type"), response.at("queuing"));
    match kind.text() {
        "Reject" if queuing.is_given() => {
            errors.push(queuing.forbidden("must be nil if limited.limitResponse.type is not Limited"));
        }
        "Reject" => {}
        "Queue" if !queuing.is_given() => {
            errors.push(queuing.required("must not be empty if limited.limitResponse.type is Limited"));
        }
        "Queue" => queues(&queuing, errors),
        _ => errors.extend(kind.must_be_one_of(&["Queue", "Reject"])),
    }
}

fn queues(queuing: &Field<'_>, errors: &mut Vec<FieldError>) {
    const MOST_QUEUES: i64 = 10_000_000;
    // A request's hand is dealt from one hash of 60 bits.
    const HASH_BITS: f64 = 60.0;
    let (length, queues, hand) =
        (queuing.at("queueLengthLimit"), queuing.at("queues"), queuing.at("handSize"));
    let given = |field: &Field<'_>| field.number().unwrap_or(0);
    for field in [&length, &queues, &hand] {
        if given(field) <= 0 {
            errors.push(field.invalid("must be positive"));
        }
    }
    let (deck, size) = (given(&queues), given(&hand));
    if deck > MOST_QUEUES {
        errors.push(queues.invalid(format!("must not be greater than {MOST_QUEUES}")));
    }
    if size <= 0 {
        return;
    }
    if size > deck {
        errors.push(hand.invalid(format!("should not be greater than queues ({deck})")));
    } else if ((deck as f64).log2() * size as f64).ceil() > HASH_BITS {
        let why = format!(
            "required entropy bits of deckSize {deck} and handSize {size} should not be greater than {HASH_BITS}"
        );
        errors.push(hand.invalid(why));
    }
}

/// Conditions have a type each, which no other has.
fn condition_types(object: &Object) -> Vec<FieldError> {
    let conditions = Field::root(object).under(&["status", "conditions"]);
    let mut errors = conditions.distinct_by("type");
    errors.extend(conditions.items().filter_map(|condition| condition.at("type").must_be_given("")));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::tests::{changed, created, kind, refusal, row, status_refusal};

    #[test]
    fn what_every_cluster_has_is_valid_and_fixed() {
        let all = objects::flow_objects();
        assert_eq!(all.len(), 8 + 12);
        for object in &all {
            let called = object["kind"].as_str().unwrap();
            let stored = created(&kind(called), object.clone()).unwrap();
            // Nothing is filled in, so that a start finds nothing to change.
            assert_eq!(stored["spec"], object["spec"], "{}", object["metadata"]["name"]);
        }
        let named = |name: &str, kind: &str| {
            all.iter().find(|o| o["metadata"]["name"] == name && o["kind"] == kind).unwrap().clone()
        };
        let schema = named("catch-all", "FlowSchema");
        assert_eq!(row("FlowSchema", &schema)[..4], ["catch-all", "catch-all", "10000", "ByUser"]);
        let (_, refused) = changed("FlowSchema", &schema, json!({"spec": {"matchingPrecedence": 9}}));
        assert!(refused.ends_with("spec of 'catch-all' must equal the fixed value"), "{refused}");
        let level = named("system", "PriorityLevelConfiguration");
        assert_eq!(
            row("PriorityLevelConfiguration", &level)[..6],
            ["system", "Limited", "30", "64", "6", "50"]
        );
        let exempt = named("exempt", "PriorityLevelConfiguration");
        let (_, refused) = changed(
            "PriorityLevelConfiguration",
            &exempt,
            json!({"spec": {"exempt": {"lendablePercent": 5}}}),
        );
        assert_eq!(refused, "");
        let (_, refused) =
            changed("PriorityLevelConfiguration", &exempt, json!({"spec": {"type": "Limited"}}));
        assert!(refused.contains("except the 'spec.exempt' field must equal the fixed value"), "{refused}");
    }

    #[test]
    fn a_schema_says_whose_requests_of_what() {
        let schema = |spec: Value| json!({"metadata": {"name": "s"}, "spec": spec});
        let level = json!({"name": "global-default"});
        let good = created(
            &kind("FlowSchema"),
            schema(json!({"priorityLevelConfiguration": level, "matchingPrecedence": 0})),
        )
        .unwrap();
        assert_eq!(good["spec"]["matchingPrecedence"], 1000);
        let rule = |subject: Value, more: Value| {
            let mut rule = json!({"subjects": [subject]});
            rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({"priorityLevelConfiguration": level, "rules": [rule]})
        };
        let group = json!({"kind": "Group", "group": {"name": "g"}});
        let resources = |change: Value| {
            let all = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]});
            json!({"resourceRules": [crate::patch::merge(&all, &change).unwrap()]})
        };
        let urls = |url: &str| json!({"nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": [url]}]});
        assert_eq!(refusal("FlowSchema", schema(rule(group.clone(), resources(json!({}))))), "");
        for (spec, why) in [
            (
                json!({}),
                "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
            ),
            (
                json!({"matchingPrecedence": 1, "priorityLevelConfiguration": level}),
                "only the schema named 'exempt' may have",
            ),
            (
                json!({"matchingPrecedence": 10001, "priorityLevelConfiguration": level}),
                "must not be greater than 10000",
            ),
            (
                rule(group.clone(), json!({})),
                "spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules",
            ),
            (
                rule(json!({"kind": "Robot"}), urls("/")),
                "spec.rules[0].subjects[0].kind: Unsupported value: \"Robot\"",
            ),
            (rule(json!({"kind": "User"}), urls("/")), "user is required when subject kind is 'User'"),
            (
                rule(json!({"kind": "User", "user": {"name": "u"}, "group": {"name": "g"}}), urls("/")),
                "group: Forbidden: group is forbidden when subject kind is not 'Group'",
            ),
            (
                rule(
                    json!({"kind": "ServiceAccount", "serviceAccount": {"name": "*", "namespace": ""}}),
                    urls("/"),
                ),
                "must specify namespace for service account",
            ),
            (
                rule(group.clone(), resources(json!({"verbs": ["*", "get"]}))),
                "verbs: Invalid value: [\"*\",\"get\"]: if '*' is present, must not specify other verbs",
            ),
            (
                rule(group.clone(), resources(json!({"verbs": ["eat"]}))),
                "verbs: Unsupported value: [\"eat\"]",
            ),
            (rule(group.clone(), resources(json!({"namespaces": []}))), "must supply at least one namespace"),
            (
                rule(group.clone(), resources(json!({"namespaces": ["A"]}))),
                "each member of this list must be '*' or a DNS-1123 label; ",
            ),
            (
                rule(group.clone(), urls("x")),
                "nonResourceURLs[0]: Invalid value: \"x\": must start with slash",
            ),
            (rule(group, urls("/a*")), "wildcard can only do suffix matching"),
        ] {
            let found = refusal("FlowSchema", schema(spec));
            assert!(found.contains(why), "{found}\n{why}");
        }
        let twice = json!({"conditions": [{"type": "Dangling"}, {"type": "Dangling"}]});
        assert_eq!(
            status_refusal("FlowSchema", &good, twice),
            "status.conditions[1].type: Duplicate value: \"Dangling\""
        );
    }

    #[test]
    fn a_level_has_shares_and_maybe_queues() {
        let limited = |limited: Value| json!({"metadata": {"name": "l"}, "spec": {"type": "Limited", "limited": limited}});
        let queue = |queuing: Value| limited(json!({"limitResponse": {"type": "Queue", "queuing": queuing}}));
        let good = created(&kind("PriorityLevelConfiguration"), queue(json!({}))).unwrap();
        assert_eq!(
            good["spec"]["limited"],
            json!({"nominalConcurrencyShares": 30, "lendablePercent": 0, "limitResponse":
                {"type": "Queue", "queuing": {"queues": 64, "handSize": 8, "queueLengthLimit": 50}}})
        );
        for (object, why) in [
            (
                json!({"metadata": {"name": "l"}, "spec": {"type": "Exempt"}}),
                "must be 'Exempt' if and only if `name` is 'exempt'",
            ),
            (
                json!({"metadata": {"name": "l"}, "spec": {"type": "Limited"}}),
                "spec.limited: Required value: must not be empty when type is Limited",
            ),
            (
                limited(json!({"lendablePercent": 101, "limitResponse": {"type": "Reject"}})),
                "must be between 0 and 100, inclusive",
            ),
            (
                limited(json!({"limitResponse": {"type": "Queue"}})),
                "spec.limited.limitResponse.queuing: Required value",
            ),
            (
                limited(json!({"limitResponse": {"type": "Reject", "queuing": {}}})),
                "queuing: Forbidden: must be nil",
            ),
            (queue(json!({"queues": 4, "handSize": 5})), "should not be greater than queues (4)"),
            (
                queue(json!({"queues": 1024, "handSize": 8})),
                "required entropy bits of deckSize 1024 and handSize 8 should not be greater than 60",
            ),
            (queue(json!({"queueLengthLimit": -1})), "queueLengthLimit: Invalid value: -1: must be positive"),
        ] {
            let found = refusal("PriorityLevelConfiguration", object);
            assert!(found.contains(why), "{found}\n{why}");
        }
    }
}
