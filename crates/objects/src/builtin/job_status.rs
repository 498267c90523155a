//! What the status of a Job may say.

use serde_json::Value;

use super::field::Field;
use super::job_policies::count_indexes;
use super::template;
use crate::Object;
use crate::error::FieldError;
use crate::lookup::{list, number, text};

/// Whether a condition is True.
pub(super) fn has(status: &Value, kind: &str) -> bool {
    list(status, &["conditions"])
        .iter()
        .any(|condition| text(condition, &["type"]) == kind && text(condition, &["status"]) == "True")
}

/// Whether a Job is suspended, and its controller has seen that: no pod of it is there or comes.
pub(super) fn is_parked(job: &Object) -> bool {
    let status = &job["status"];
    job["spec"]["suspend"] == true
        && (has(status, "Suspended") || status.get("startTime").is_none())
        && number(status, &["active"]).unwrap_or(0) == 0
}

/// All that is wrong with a changed status.
pub(super) fn validate(new: &Object, old: &Object) -> Vec<FieldError> {
    let status = Field::root(new).at("status");
    let mut errors =
        template::not_negative(&status, &["active", "succeeded", "failed", "ready", "terminating"]);
    errors.extend(conditions_fit(new, &status));
    errors.extend(times_fit(new, old, &status));
    errors.extend(finished_is_over(&status));
    errors.extend(indexes_fit(new, &status));
    errors.extend(only_forward(new, old, &status));
    errors
}

fn refuse(errors: &mut Vec<FieldError>, field: &Field<'_>, when: bool, why: &str) {
    if when {
        errors.push(field.invalid(why));
    }
}

fn conditions_fit(job: &Object, status: &Field<'_>) -> Vec<FieldError> {
    let conditions = status.at("conditions");
    let is = |kind| has(status.value, kind);
    let mut errors = Vec::new();
    let mut check = |when, why| refuse(&mut errors, &conditions, when, why);
    check(is("Complete") && is("Failed"), "cannot set Complete=True and Failed=true conditions");
    check(
        is("Complete") && is("FailureTarget"),
        "cannot set Complete=True and FailureTarget=true conditions",
    );
    check(
        is("Failed") && !is("FailureTarget"),
        "cannot set Failed=True condition without the FailureTarget=true condition",
    );
    check(
        is("Complete") && !is("SuccessCriteriaMet"),
        "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
    );
    check(
        is("SuccessCriteriaMet") && is("Failed"),
        "cannot set SuccessCriteriaMet=True and Failed=true conditions",
    );
    check(
        is("SuccessCriteriaMet") && is("FailureTarget"),
        "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
    );
    check(
        is("Complete") && job["spec"].get("successPolicy").is_some() && !is("SuccessCriteriaMet"),
        "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
    );
    errors
}

fn times_fit(new: &Object, old: &Object, status: &Field<'_>) -> Vec<FieldError> {
    let (start, end) = (status.at("startTime"), status.at("completionTime"));
    let (was_start, was_end) = (&old["status"]["startTime"], &old["status"]["completionTime"]);
    let complete = has(status.value, "Complete");
    let mut errors = Vec::new();
    let why = "cannot set completionTime when there is no Complete=True condition";
    refuse(&mut errors, &end, end.is_given() && !complete, why);
    if complete && !end.is_given() {
        errors.push(end.required("completionTime is required for Complete jobs"));
    }
    let time = |field: &Field<'_>| field.text().parse::<jiff::Timestamp>().ok();
    let backwards = time(&start).zip(time(&end)).is_some_and(|(start, end)| end < start);
    refuse(&mut errors, &end, backwards, "must be equal to or after `startTime`");
    let moved = end.is_given() && !was_end.is_null() && end.value != was_end;
    refuse(&mut errors, &end, moved, "field is immutable");
    let restarted = !was_start.is_null() && start.value != was_start && new["spec"]["suspend"] != true;
    refuse(&mut errors, &start, restarted, "field is immutable for unsuspended job once set");
    errors
}

fn finished_is_over(status: &Field<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let number = |key: &str| status.at(key).number().unwrap_or(0);
    let more = number("ready") > number("active");
    refuse(&mut errors, &status.at("ready"), more, "cannot set more ready pods than active");
    if !has(status.value, "Complete") && !has(status.value, "Failed") {
        return errors;
    }
    let active = number("active") > 0;
    refuse(&mut errors, &status.at("active"), active, "active>0 is invalid for finished job");
    if !status.at("startTime").is_given() {
        errors.push(status.at("startTime").required("startTime is required for finished job"));
    }
    let terminating = number("terminating") > 0;
    let why = "terminating>0 is invalid for finished job";
    refuse(&mut errors, &status.at("terminating"), terminating, why);
    let uncounted = status.at("uncountedTerminatedPods");
    let some = ["succeeded", "failed"].into_iter().any(|key| !uncounted.at(key).list().is_empty());
    refuse(&mut errors, &uncounted, some, "must be empty for finished job");
    errors
}

fn indexes_fit(job: &Object, status: &Field<'_>) -> Vec<FieldError> {
    let indexed = text(job, &["spec", "completionMode"]) == "Indexed";
    let completions = number(job, &["spec", "completions"]).unwrap_or(0);
    let mut errors = Vec::new();
    let (done, failed) = (status.at("completedIndexes"), status.at("failedIndexes"));
    if !indexed {
        refuse(
            &mut errors,
            &done,
            !done.text().is_empty(),
            "cannot set non-empty completedIndexes when non-indexed completion mode",
        );
    }
    let limited = job["spec"].get("backoffLimitPerIndex").is_some();
    let why = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
    refuse(&mut errors, &failed, failed.is_given() && !limited, why);
    if indexed {
        for (field, key) in [(&done, "completedIndexes"), (&failed, "failedIndexes")] {
            if let Err(why) = count_indexes(field.text(), completions) {
                errors.push(field.invalid(format!("error parsing {key}: {why}")));
            }
        }
    }
    errors
}

fn only_forward(new: &Object, old: &Object, status: &Field<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for kind in ["Failed", "Complete", "FailureTarget", "SuccessCriteriaMet"] {
        if has(&old["status"], kind) && !has(&new["status"], kind) {
            let terminal = if kind == "SuccessCriteriaMet" { "" } else { "terminal " };
            let why = format!("cannot disable the {terminal}{kind}=True condition");
            errors.push(status.at("conditions").invalid(why));
        }
    }
    for key in ["failed", "succeeded"] {
        let count = |job: &Object| number(job, &["status", key]).unwrap_or(0);
        let why = format!("cannot decrease the {key} counter");
        refuse(&mut errors, &status.at(key), count(new) < count(old), &why);
    }
    errors
}
