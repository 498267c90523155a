//! What a HorizontalPodAutoscaler must keep to, as `autoscaling/v2`.

use serde_json::{Value, json};

use crate::builtin::core::limits::resource_name;
use crate::builtin::field::Field;
use crate::builtin::pods::template::not_negative;
use crate::error::FieldError;
use crate::lookup::text;
use crate::meta::{dns_label, path_segment};
use crate::{Object, Quantity};

/// Longest period of a scaling policy, seconds.
const MAX_PERIOD: i64 = 1800;
/// Longest window that a scaling rule looks back, seconds.
const MAX_WINDOW: i64 = 3600;

const SOURCES: &[(&str, &str)] = &[
    ("ContainerResource", "containerResource"),
    ("External", "external"),
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
];

/// The order in which sources are looked at: of several, the first is checked.
const CHECKED: &[&str] = &["object", "external", "pods", "resource", "containerResource"];

/// How strictly the `apiVersion` of a reference is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ApiVersion {
    /// It names a group.
    WithGroup,
    /// It may be that of the core group, or absent.
    AnyGroup,
    /// It was there before this was checked.
    Unchecked,
}

pub(in crate::builtin) fn create(autoscaler: &Object) -> Vec<FieldError> {
    check(&Field::root(autoscaler).at("spec"), None)
}

pub(in crate::builtin) fn update(new: &Object, old: &Object) -> Vec<FieldError> {
    check(&Field::root(new).at("spec"), Some(&Field::root(old).at("spec")))
}

pub(in crate::builtin) fn status(new: &Object, _old: &Object) -> Vec<FieldError> {
    not_negative(&Field::root(new).at("status"), &["currentReplicas", "desiredReplicas"])
}

fn check(spec: &Field<'_>, old: Option<&Field<'_>>) -> Vec<FieldError> {
    let (least, most) = (spec.at("minReplicas"), spec.at("maxReplicas"));
    // What once could be scaled to nothing stays so.
    let bound = i64::from(old.is_none_or(|old| old.at("minReplicas").number() != Some(0)));
    let mut errors: Vec<FieldError> = least.at_least(bound).into_iter().collect();
    match most.number().unwrap_or(0) {
        0 => errors.push(most.required("must be set and greater than 0")),
        _ => errors.extend(most.at_least(1)),
    }
    if least.number().is_some_and(|least| most.number().unwrap_or(0) < least) {
        let given = most.number().unwrap_or(0);
        let why = "must be greater than or equal to `minReplicas`";
        errors.push(FieldError::invalid(most.path.as_str(), given, why));
    }
    errors.extend(reference(&spec.at("scaleTargetRef"), target_version(spec, old)));
    let strict = ApiVersion::AnyGroup;
    let was_wrong = old.is_some_and(|old| {
        let metrics = old.at("metrics");
        metrics.items().any(|metric| {
            metric.at("type").text() == "Object"
                && api_version(&metric.under(&["object", "describedObject"]), strict).is_some()
        })
    });
    let how = if was_wrong { ApiVersion::Unchecked } else { strict };
    let metrics = spec.at("metrics");
    errors.extend(metrics.items().flat_map(|one| metric(&one, how)));
    let scales_without_pods = |one: &Value| matches!(text(one, &["type"]), "Object" | "External");
    if least.number() == Some(0) && !metrics.list().iter().any(scales_without_pods) {
        let why = "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.push(metrics.forbidden(why));
    }
    for direction in ["scaleUp", "scaleDown"] {
        errors.extend(scaling_rules(&spec.at("behavior").at(direction)));
    }
    errors
}

fn target_version(spec: &Field<'_>, old: Option<&Field<'_>>) -> ApiVersion {
    let same = |old: &Field<'_>| {
        ["apiVersion", "kind"].iter().all(|key| {
            spec.under(&["scaleTargetRef", key]).value == old.under(&["scaleTargetRef", key]).value
        })
    };
    if old.is_some_and(same) {
        return ApiVersion::Unchecked;
    }
    // The one kind of the core group that can be scaled.
    match spec.under(&["scaleTargetRef", "kind"]).text() {
        "ReplicationController" => ApiVersion::AnyGroup,
        _ => ApiVersion::WithGroup,
    }
}

fn reference(to: &Field<'_>, how: ApiVersion) -> Vec<FieldError> {
    let mut errors: Vec<FieldError> =
        ["kind", "name"].iter().flat_map(|key| to.at(key).needs(path_segment)).collect();
    errors.extend(api_version(to, how));
    errors
}

fn api_version(of: &Field<'_>, how: ApiVersion) -> Option<FieldError> {
    let given = of.at("apiVersion");
    let wrong = |why: String| Some(FieldError::invalid(given.path.as_str(), given.text(), why));
    match given.text().matches('/').count() {
        _ if how == ApiVersion::Unchecked => None,
        2.. => wrong(format!("unexpected GroupVersion string: {}", given.text())),
        0 if how == ApiVersion::WithGroup => wrong("apiVersion must specify API group".to_owned()),
        _ => None,
    }
}

fn metric(metric: &Field<'_>, how: ApiVersion) -> Vec<FieldError> {
    let names: Vec<&str> = SOURCES.iter().map(|(name, _)| *name).collect();
    let kind = metric.at("type");
    let mut errors = Vec::new();
    if kind.text().is_empty() {
        errors.push(kind.required("must specify a metric source type"));
    }
    let expected = SOURCES.iter().find(|(name, _)| *name == kind.text()).map(|(_, field)| *field);
    let unknown = || FieldError::not_supported(kind.path.as_str(), kind.text(), &names);
    errors.extend(expected.is_none().then(unknown));
    let given: Vec<Field<'_>> =
        CHECKED.iter().map(|source| metric.at(source)).filter(Field::is_given).collect();
    if let Some(first) = given.first() {
        errors.extend(source(first, how));
    }
    if let Some(expected) = expected {
        let expected = metric.at(expected);
        if !expected.is_given() {
            errors.push(expected.required("must populate information for the given metric source"));
        }
        let others = given.iter().filter(|other| other.path != expected.path);
        errors.extend(others.map(|other| other.forbidden("must populate the given metric source only")));
    } else {
        errors.push(unknown());
    }
    errors
}

fn source(source: &Field<'_>, how: ApiVersion) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let name = source.at("name");
    let identifier = source.under(&["metric", "name"]);
    let named = || match identifier.text() {
        "" => vec![identifier.required("must specify a metric name")],
        _ => identifier.follows(path_segment),
    };
    let target = source.at("target");
    let (value, average) = (target.at("value"), target.at("averageValue"));
    let utilization = target.at("averageUtilization");
    let either = |first: &Field<'_>, second: &Field<'_>, missing: &str| {
        (!first.is_given() && !second.is_given()).then(|| first.required(missing))
    };
    let both = |first: &Field<'_>, second: &Field<'_>, why: &str| {
        (first.is_given() && second.is_given()).then(|| first.forbidden(why))
    };
    match source.path.rsplit('.').next().unwrap_or_default() {
        "object" => {
            errors.extend(reference(&source.at("describedObject"), how));
            errors.extend(named());
            errors.extend(metric_target(&target));
            errors.extend(either(&average, &value, "must set either a target value or averageValue"));
        }
        "external" => {
            errors.extend(named());
            errors.extend(metric_target(&target));
            let missing = "must set either a target value for metric or a per-pod target";
            errors.extend(either(&average, &value, missing));
            let why = "may not set both a target value for metric and a per-pod target";
            errors.extend(both(&value, &average, why));
        }
        "pods" => {
            errors.extend(named());
            errors.extend(metric_target(&target));
            errors.extend(either(&average, &average, "must specify a positive target averageValue"));
        }
        kind => {
            if name.text().is_empty() {
                errors.push(name.required("must specify a resource name"));
            }
            if kind == "containerResource" {
                errors.extend(container(&name, &source.at("container")));
            }
            errors.extend(metric_target(&target));
            let missing = "must set either a target raw value or a target utilization";
            errors.extend(either(&utilization, &average, missing));
            let why = "may not set both a target raw value and a target utilization";
            errors.extend(both(&average, &utilization, why));
        }
    }
    errors
}

fn container(resource: &Field<'_>, container: &Field<'_>) -> Vec<FieldError> {
    let mut errors = resource.may_follow(|name| resource_name(name, "Container"));
    match container.text() {
        "" => errors.push(container.required("must specify a container")),
        _ => errors.extend(container.follows(dns_label)),
    }
    errors
}

fn metric_target(target: &Field<'_>) -> Vec<FieldError> {
    let kind = target.at("type");
    let mut errors = Vec::new();
    if kind.text().is_empty() {
        errors.push(kind.required("must specify a metric target type"));
    }
    if !matches!(kind.text(), "Utilization" | "Value" | "AverageValue") {
        let why = "must be either Utilization, Value, or AverageValue";
        errors.push(FieldError::invalid(kind.path.as_str(), kind.text(), why));
    }
    for amount in [target.at("value"), target.at("averageValue")] {
        if Quantity::from_json(amount.value).is_ok_and(|amount| amount.milli() <= 0) {
            errors.push(amount.invalid("must be positive"));
        }
    }
    let share = target.at("averageUtilization");
    if share.number().is_some_and(|share| share < 1) {
        errors.push(share.invalid("must be greater than 0"));
    }
    errors
}

fn scaling_rules(rules: &Field<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !rules.is_given() {
        return errors;
    }
    let window = rules.at("stabilizationWindowSeconds");
    match window.number() {
        Some(..0) => errors.push(window.invalid("must be greater than or equal to zero")),
        Some(seconds) if seconds > MAX_WINDOW => {
            errors.push(window.invalid(format!("must be less than or equal to {MAX_WINDOW}")));
        }
        _ => {}
    }
    errors.extend(rules.at("selectPolicy").one_of(&["Disabled", "Max", "Min"]));
    let policies = rules.at("policies");
    if policies.list().is_empty() {
        errors.push(policies.required("must specify at least one Policy"));
    }
    for policy in policies.items() {
        let kind = policy.at("type");
        if !matches!(kind.text(), "Pods" | "Percent") {
            errors.push(FieldError::not_supported(kind.path.as_str(), kind.text(), &["Percent", "Pods"]));
        }
        for key in ["value", "periodSeconds"] {
            let number = policy.at(key).number().unwrap_or(0);
            if number <= 0 {
                let why = "must be greater than zero";
                errors.push(FieldError::invalid(policy.at(key).path, json!(number), why));
            }
        }
        let period = policy.at("periodSeconds");
        if period.number().is_some_and(|seconds| seconds > MAX_PERIOD) {
            errors.push(period.invalid(format!("must be less than or equal to {MAX_PERIOD}")));
        }
    }
    let tolerance = rules.at("tolerance");
    if Quantity::from_json(tolerance.value).is_ok_and(Quantity::is_negative) {
        errors.push(tolerance.invalid("must be greater than or equal to 0"));
    }
    errors
}
