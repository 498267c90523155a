//! Job.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::Object;
use crate::builtin::apps::workloads::wide;
use crate::builtin::batch::{policies, status};
use crate::builtin::field::Field;
use crate::builtin::pods::template;
use crate::builtin::rows::{name, since_creation};
use crate::builtin::{ColumnSpec, inner};
use crate::descriptor::Strategy;
use crate::error::FieldError;
use crate::lookup::{at, at_mut, copy_key, list, list_mut, number, set_default, text};
use crate::meta::dns_label;
use crate::selector::LabelSelector;
use crate::table::{age, human_duration};

pub(in crate::builtin) const COLUMNS: &[ColumnSpec] = &[
    ("Name", "string", 0),
    ("Status", "string", 0),
    ("Completions", "string", 0),
    ("Duration", "string", 0),
    ("Age", "string", 0),
    ("Containers", "string", 1),
    ("Images", "string", 1),
    ("Selector", "string", 1),
];

pub(in crate::builtin) fn cells(job: &Object, now: Timestamp) -> Vec<Value> {
    let succeeded = number(job, &["status", "succeeded"]).unwrap_or(0);
    let completions = match (number(job, &["spec", "completions"]), number(job, &["spec", "parallelism"])) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, Some(parallel)) if parallel > 1 => format!("{succeeded}/1 of {parallel}"),
        _ => format!("{succeeded}/1"),
    };
    let mut cells = vec![
        name(job),
        json!(state(job)),
        json!(completions),
        json!(duration(job, now)),
        since_creation(job, now),
    ];
    cells.extend(wide(job));
    cells
}

fn state(job: &Object) -> &'static str {
    let is = |kind| status::has(&job["status"], kind);
    if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if !text(job, &["metadata", "deletionTimestamp"]).is_empty() {
        "Terminating"
    } else {
        ["Suspended", "FailureTarget", "SuccessCriteriaMet"]
            .into_iter()
            .find(|kind| is(kind))
            .unwrap_or("Running")
    }
}

fn duration(job: &Object, now: Timestamp) -> String {
    let start = text(job, &["status", "startTime"]);
    let end = text(job, &["status", "completionTime"]);
    match (start.parse::<Timestamp>(), end.parse::<Timestamp>()) {
        (Err(_), _) => String::new(),
        (Ok(_), Err(_)) => age(start, now),
        (Ok(start), Ok(end)) => human_duration(end.as_second() - start.as_second()),
    }
}

const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
const OLD_CONTROLLER_UID: &str = "controller-uid";
const JOB_NAME: &str = "batch.kubernetes.io/job-name";
const OLD_JOB_NAME: &str = "job-name";

/// The labels of a Job's pods that its selector is made of.
fn generated_labels(job: &Object) -> [(&'static str, String); 4] {
    let of = |key| text(job, &["metadata", key]).to_owned();
    [
        (OLD_JOB_NAME, of("name")),
        (JOB_NAME, of("name")),
        (OLD_CONTROLLER_UID, of("uid")),
        (CONTROLLER_UID, of("uid")),
    ]
}

/// The object at a path below a value; made where it is absent. None where something else is in the way.
fn object_at<'a>(value: &'a mut Value, path: &[&str]) -> Option<&'a mut Map<String, Value>> {
    let mut at = value;
    for key in path {
        set_default(at, key, json!({}));
        at = at.get_mut(*key)?;
    }
    at.as_object_mut()
}

/// Whether a Job has no labels of its own, and could have some.
fn is_unlabelled(job: &Object) -> bool {
    let labels = at(job, &["metadata", "labels"]);
    labels.is_none_or(|labels| labels.as_object().is_none_or(Map::is_empty)) && job["metadata"].is_object()
}

fn has_manual_selector(job: &Object) -> bool {
    at(job, &["spec", "manualSelector"]) == Some(&Value::Bool(true))
}

fn is_indexed(spec: &Value) -> bool {
    text(spec, &["completionMode"]) == "Indexed"
}

pub(in crate::builtin) struct JobStrategy;

impl Strategy for JobStrategy {
    fn default(&self, job: &mut Object) {
        template_defaults(job, &["spec"]);
        let labels = at(job, &["spec", "template", "metadata", "labels"]).cloned();
        let Some(spec) = job.get_mut("spec").filter(|spec| spec.is_object()) else { return };
        if number(spec, &["parallelism"]).is_none() {
            if number(spec, &["completions"]).is_none() {
                spec["completions"] = json!(1);
            }
            spec["parallelism"] = json!(1);
        }
        let per_index = number(spec, &["backoffLimitPerIndex"]).is_some();
        set_default(spec, "backoffLimit", if per_index { i64::from(i32::MAX) } else { 6 });
        set_default(spec, "completionMode", "NonIndexed");
        set_default(spec, "suspend", false);
        let policy = spec.get("podFailurePolicy").is_some();
        set_default(spec, "podReplacementPolicy", if policy { "Failed" } else { "TerminatingOrFailed" });
        set_default(spec, "manualSelector", false);
        // Those of a new Job without any come with what is still to be put into its template.
        let complete = has_manual_selector(job)
            || labels.as_ref().is_some_and(|labels| labels.get(CONTROLLER_UID).is_some());
        if let Some(labels) = labels.filter(|_| complete && is_unlabelled(job)) {
            job["metadata"]["labels"] = labels;
        }
    }

    fn validate(&self, job: &Object) -> Vec<FieldError> {
        let spec = Field::root(job).at("spec");
        let mut errors = generated_selector_is_there(job);
        errors.extend(validate_whole_spec(&spec));
        let completions = number(spec.value, &["completions"]).unwrap_or(0);
        let own_name = text(job, &["metadata", "name"]);
        if is_indexed(spec.value) && completions > 0 {
            let host = format!("{own_name}-{}", completions - 1);
            if !dns_label(&host).is_empty() {
                let why = format!("will not able to create pod with invalid DNS label: {host}");
                errors.push(FieldError::invalid("metadata.name", own_name, why));
            }
        }
        errors
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let (after, before) = (Field::root(new).at("spec"), Field::root(old).at("spec"));
        // Upstream looks at the spec twice.
        let mut errors = validate_whole_spec(&after);
        errors.extend(completions_update(&after, &before));
        errors.extend(template::same_selector(&after, &before));
        errors.extend(template_update(&after, &before, old));
        let kept = ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy"];
        errors.extend(template::immutable(&after, &before, &kept));
        let (success, was) = (after.at("successPolicy"), before.at("successPolicy"));
        errors.extend(match success.same_as(&was) {
            Some(_) if success.is_given() => {
                Some(success.invalid_object(inner::SUCCESS_POLICY, "field is immutable"))
            }
            found => found,
        });
        errors
    }

    fn tells_of_missing(&self) -> bool {
        true
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        warnings(new, old, &["spec"])
    }

    fn validate_status(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        status::validate(new, old)
    }

    fn prepare_create(&self, job: &mut Object) {
        if has_manual_selector(job) || !job["spec"].is_object() {
            return;
        }
        let labels = generated_labels(job);
        let uid = labels[3].1.clone();
        if let Some(map) = object_at(&mut job["spec"], &["template", "metadata", "labels"]) {
            // Labels of the user's own stay; validation refuses those that don't fit.
            for (key, value) in labels {
                map.entry(key).or_insert(Value::String(value));
            }
        }
        if let Some(map) = object_at(&mut job["spec"], &["selector", "matchLabels"]) {
            map.entry(CONTROLLER_UID).or_insert(Value::String(uid));
        }
        // Who lists Jobs by the labels of their pods finds them.
        let labels = at(job, &["spec", "template", "metadata", "labels"]).cloned();
        if let Some(labels) = labels.filter(|_| is_unlabelled(job)) {
            job["metadata"]["labels"] = labels;
        }
    }
}

/// From this many completions on, the failed indexes of a Job may be too many to be told.
const TOLD_COMPLETIONS: i64 = 100_000;
const TOLD_PARALLELISM: i64 = 10_000;

/// What a client is told of a Job, or of a CronJob whose Jobs have their spec at `spec`.
pub(in crate::builtin) fn warnings(new: &Object, old: Option<&Object>, spec: &[&str]) -> Vec<String> {
    let made = template::warnings(new, old, &[spec, &["template"]].concat(), true);
    let generation = |object: &Object| number(object, &["metadata", "generation"]);
    let job = Field::root(new).under(spec);
    let over = |key: &str, most: i64| job.at(key).number().is_some_and(|given| given > most);
    if old.is_some_and(|old| generation(old) == generation(new))
        || !is_indexed(job.value)
        || !over("completions", TOLD_COMPLETIONS)
        || !over("parallelism", TOLD_PARALLELISM)
    {
        return made;
    }
    let why = "In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail";
    let mut out = vec![format!("{}: {why}", job.path)];
    out.extend(made);
    out
}

/// Defaults of a Job's or CronJob's template, and of its failure policy.
pub(in crate::builtin) fn template_defaults(object: &mut Object, spec: &[&str]) {
    template::defaults(object, &[spec, &["template"]].concat());
    let Some(spec) = at_mut(object, spec) else { return };
    for rule in list_mut(spec, &["podFailurePolicy", "rules"]) {
        for pattern in list_mut(rule, &["onPodConditions"]) {
            set_default(pattern, "status", "True");
        }
    }
}

fn generated_selector_is_there(job: &Object) -> Vec<FieldError> {
    if has_manual_selector(job) || at(job, &["spec", "selector"]).is_none() {
        return Vec::new();
    }
    let labels = at(job, &["spec", "template", "metadata", "labels"]).unwrap_or(&Value::Null);
    let expected = generated_labels(job);
    let mut errors = Vec::new();
    for (key, value) in &expected {
        let (field, why) = (format!("spec.template.metadata.labels[{key}]"), format!("must be '{value}'"));
        match labels.get(key).and_then(Value::as_str) {
            Some(given) if given == value => {}
            Some(_) => errors.push(FieldError::invalid(field, labels.clone(), why)),
            None => errors.push(FieldError::required(field, why)),
        }
    }
    let made: Map<String, Value> =
        expected.into_iter().map(|(key, value)| (key.to_owned(), Value::String(value))).collect();
    let selector = &job["spec"]["selector"];
    if LabelSelector::from_object(selector).is_ok_and(|parsed| !parsed.matches(&Value::Object(made))) {
        errors.push(FieldError::invalid("spec.selector", selector.clone(), "`selector` not auto-generated"));
    }
    errors
}

/// Most pods of an indexed Job at a time.
const MAX_INDEXED_PARALLELISM: i64 = 100_000;
/// Most failed indexes that a Job may allow.
const MAX_FAILED_INDEXES: i64 = 100_000;
/// From this many completions on, a Job with a limit per index is held to the lower limits below.
const MANY_COMPLETIONS: i64 = 100_000;
const MANY_PARALLELISM: i64 = 10_000;
const MANY_FAILED_INDEXES: i64 = 10_000;

/// All that is wrong with the spec of a Job, or of a CronJob's jobs; selectors aside.
pub(in crate::builtin) fn validate_spec(spec: &Field<'_>) -> Vec<FieldError> {
    const COUNTS: &[&str] = &[
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    let mut errors = template::not_negative(spec, COUNTS);
    if spec.at("maxFailedIndexes").is_given() && !spec.at("backoffLimitPerIndex").is_given() {
        errors.push(spec.at("backoffLimitPerIndex").required("when maxFailedIndexes is specified"));
    }
    errors.extend(spec.at("managedBy").follows(crate::builtin::formats::domain_prefixed_path));
    errors.extend(spec.at("managedBy").no_longer_than(63));
    errors.extend(spec.at("completionMode").one_of(&["NonIndexed", "Indexed"]));
    if is_indexed(spec.value) {
        errors.extend(validate_indexed(spec));
    } else if matches!(spec.at("completionMode").text(), "" | "NonIndexed") {
        for key in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if spec.at(key).is_given() {
                errors.push(spec.at(key).invalid("requires indexed completion mode"));
            }
        }
    }
    errors.extend(policies::validate(spec));
    errors.extend(template::validate(&spec.at("template")));
    errors.extend(validate_restart_policy(spec));
    errors
}

/// All that is wrong with the spec of a Job.
fn validate_whole_spec(spec: &Field<'_>) -> Vec<FieldError> {
    let mut errors = validate_spec(spec);
    let selector = spec.at("selector");
    if selector.is_given() {
        errors.extend(selector.label_selector());
    } else {
        errors.push(selector.required(""));
    }
    if !selector.is_given() || LabelSelector::from_object(selector.value).is_ok() {
        errors.extend(template::selects_template(spec));
    }
    errors
}

fn validate_indexed(spec: &Field<'_>) -> Vec<FieldError> {
    let (completions, parallelism) = (spec.at("completions"), spec.at("parallelism"));
    let failed = spec.at("maxFailedIndexes");
    let over = |field: &Field<'_>, most: i64| field.number().is_some_and(|given| given > most);
    let mut errors = Vec::new();
    if !completions.is_given() {
        errors.push(completions.required("when completion mode is Indexed"));
    }
    if over(&parallelism, MAX_INDEXED_PARALLELISM) {
        let why = "must be less than or equal to 100000 when completion mode is Indexed";
        errors.push(parallelism.invalid(why));
    }
    if completions.number().is_some_and(|most| over(&failed, most)) {
        errors.push(failed.invalid("must be less than or equal to completions"));
    }
    if over(&failed, MAX_FAILED_INDEXES) {
        errors.push(failed.invalid("must be less than or equal to 100000"));
    }
    if over(&completions, MANY_COMPLETIONS) && spec.at("backoffLimitPerIndex").is_given() {
        let why = "must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index";
        if !failed.is_given() {
            errors.push(failed.required("must be specified when completions is above 100000"));
        }
        if over(&parallelism, MANY_PARALLELISM) {
            errors.push(parallelism.invalid(why));
        }
        if over(&failed, MANY_FAILED_INDEXES) {
            errors.push(failed.invalid(why));
        }
    }
    errors
}

fn validate_restart_policy(spec: &Field<'_>) -> Option<FieldError> {
    let policy = spec.under(&["template", "spec", "restartPolicy"]);
    match policy.text() {
        "" | "Always" => Some(policy.required("valid values: \"OnFailure\", \"Never\"")),
        "OnFailure" if spec.at("podFailurePolicy").is_given() => {
            Some(policy.invalid("only \"Never\" is supported when podFailurePolicy is specified"))
        }
        _ => policy.one_of(&["OnFailure", "Never"]),
    }
}

fn completions_update(new: &Field<'_>, old: &Field<'_>) -> Option<FieldError> {
    let (after, before) = (new.at("completions"), old.at("completions"));
    if !is_indexed(new.value) {
        return after.same_as(&before);
    }
    let moved = after.is_given() && after.value != before.value;
    (moved && after.value != new.at("parallelism").value)
        .then(|| after.invalid("can only be modified in tandem with spec.parallelism"))
}

/// The template may change only while no pod of it runs, and then only in what decides where pods go and
/// what they get.
fn template_update(new: &Field<'_>, old: &Field<'_>, job: &Object) -> Option<FieldError> {
    let (after, before) = (new.at("template"), old.at("template"));
    if after.value == before.value {
        return None;
    }
    let mut allowed = before.value.clone();
    if status::is_parked(job) {
        for (path, keys) in [
            (&["spec"][..], &["nodeSelector", "tolerations", "schedulingGates"][..]),
            (&["metadata"][..], &["labels", "annotations"][..]),
        ] {
            let (Some(to), Some(from)) = (at_mut(&mut allowed, path), at(after.value, path)) else {
                continue;
            };
            keys.iter().for_each(|key| copy_key(to, from, key));
        }
        copy_node_affinity(&mut allowed, after.value);
        copy_resources(&mut allowed, after.value);
    }
    // Of a suspended Job, upstream looks at what is in the template.
    let shown = if job["spec"]["suspend"] == true { after.at("spec") } else { after.clone() };
    (allowed != *after.value).then(|| shown.invalid("field is immutable"))
}

fn copy_node_affinity(to: &mut Value, from: &Value) {
    let Some(spec) = at_mut(to, &["spec"]) else { return };
    match at(from, &["spec", "affinity"]) {
        Some(affinity) => {
            set_default(spec, "affinity", json!({}));
            copy_key(&mut spec["affinity"], affinity, "nodeAffinity");
        }
        None => {
            if let Some(affinity) = spec.get_mut("affinity") {
                crate::lookup::remove(affinity, "nodeAffinity");
                if affinity.as_object().is_some_and(Map::is_empty) {
                    crate::lookup::remove(spec, "affinity");
                }
            }
        }
    }
}

fn copy_resources(to: &mut Value, from: &Value) {
    for kind in ["containers", "initContainers"] {
        let given = list(from, &["spec", kind]);
        let kept = list_mut(to, &["spec", kind]);
        if given.len() == kept.len() {
            for (kept, given) in kept.iter_mut().zip(given).filter(|(a, b)| a["name"] == b["name"]) {
                copy_key(kept, given, "resources");
            }
        }
    }
}
