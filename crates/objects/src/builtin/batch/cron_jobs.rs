//! CronJob.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::Object;
use crate::builtin::ColumnSpec;
use crate::builtin::batch::jobs;
use crate::builtin::field::Field;
use crate::builtin::pods::template;
use crate::builtin::rows::{containers, name, selector, since_creation};
use crate::cron::Schedule;
use crate::descriptor::Strategy;
use crate::error::FieldError;
use crate::lookup::{list, set_default, text};
use crate::table::age;

pub(in crate::builtin) const COLUMNS: &[ColumnSpec] = &[
    ("Name", "string", 0),
    ("Schedule", "string", 0),
    ("Timezone", "string", 0),
    ("Suspend", "boolean", 0),
    ("Active", "integer", 0),
    ("Last Schedule", "string", 0),
    ("Age", "string", 0),
    ("Containers", "string", 1),
    ("Images", "string", 1),
    ("Selector", "string", 1),
];

pub(in crate::builtin) fn cells(object: &Object, now: Timestamp) -> Vec<Value> {
    let or_none = |text: String| json!(if text.is_empty() { "<none>".to_owned() } else { text });
    let last = text(object, &["status", "lastScheduleTime"]);
    let job = &object["spec"]["jobTemplate"]["spec"];
    // As text, although the column calls itself boolean: as kube-apiserver sends it.
    let suspended = match object["spec"]["suspend"].as_bool() {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    let mut cells = vec![
        name(object),
        json!(text(object, &["spec", "schedule"])),
        or_none(text(object, &["spec", "timeZone"]).to_owned()),
        json!(suspended),
        json!(list(object, &["status", "active"]).len()),
        or_none(if last.is_empty() { String::new() } else { age(last, now) }),
        since_creation(object, now),
    ];
    cells.extend(containers(&job["template"]["spec"]));
    cells.push(selector(&job["selector"]));
    cells
}

/// The names of a CronJob's Jobs end in a time of eleven characters, and must fit into a label.
const MAX_NAME: usize = 52;

pub(in crate::builtin) struct CronJobStrategy;

impl Strategy for CronJobStrategy {
    fn default(&self, object: &mut Object) {
        jobs::template_defaults(object, &["spec", "jobTemplate", "spec"]);
        let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) else { return };
        if let Some(template) = spec.get_mut("jobTemplate") {
            set_default(template, "metadata", Map::new());
        }
        set_default(spec, "concurrencyPolicy", "Allow");
        set_default(spec, "suspend", false);
        set_default(spec, "successfulJobsHistoryLimit", 3);
        set_default(spec, "failedJobsHistoryLimit", 1);
    }

    fn tells_of_missing(&self) -> bool {
        true
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let mut out = jobs::warnings(new, old, &["spec", "jobTemplate", "spec"]);
        if old.is_some() && text(new, &["spec", "schedule"]).contains("TZ") {
            out.push("cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details".to_owned());
        }
        out
    }

    fn validate_create(&self, object: &Object) -> Vec<FieldError> {
        let mut errors = check(object, None);
        let own_name = text(object, &["metadata", "name"]);
        if own_name.len() > MAX_NAME {
            let why = "must be no more than 52 characters";
            errors.push(FieldError::invalid("metadata.name", own_name, why));
        }
        errors
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        check(new, Some(&Field::root(old).at("spec")))
    }
}

/// All that is wrong with a CronJob, which has changed where there is an old one.
fn check(object: &Object, old: Option<&Field<'_>>) -> Vec<FieldError> {
    let spec = Field::root(object).at("spec");
    let schedule = spec.at("schedule");
    let mut errors = Vec::new();
    if schedule.text().is_empty() {
        errors.push(schedule.required(""));
    } else if let Err(why) = Schedule::parse(schedule.text()) {
        errors.push(schedule.invalid(why));
    }
    errors.extend(zone_in_schedule(&spec, old));
    errors.extend(spec.at("startingDeadlineSeconds").at_least(0));
    // A zone that was known when it was given stays.
    let zone = spec.at("timeZone");
    if old.is_none_or(|old| old.at("timeZone").value != zone.value) {
        errors.extend(validate_time_zone(&zone));
    }
    errors.extend(spec.at("concurrencyPolicy").must_be_one_of(&["Allow", "Forbid", "Replace"]));
    let job = spec.under(&["jobTemplate", "spec"]);
    errors.extend(jobs::validate_spec(&job));
    if job.at("selector").is_given() {
        errors.push(job.at("selector").invalid("`selector` will be auto-generated"));
    }
    if *job.at("manualSelector").value == true {
        let path = job.at("manualSelector").path;
        errors.push(FieldError::not_supported(path, true, &["nil", "false"]));
    }
    let counts = ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"];
    errors.extend(template::not_negative(&spec, &counts));
    errors
}

/// A time zone is named in one place, and in the schedule only where it always was.
fn zone_in_schedule(spec: &Field<'_>, old: Option<&Field<'_>>) -> Option<FieldError> {
    let schedule = spec.at("schedule");
    if !schedule.text().contains("TZ") {
        return None;
    }
    if !old.is_some_and(|old| old.at("schedule").text().contains("TZ")) {
        return Some(schedule.invalid("cannot use TZ or CRON_TZ in schedule, use timeZone field instead"));
    }
    let why = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
    spec.at("timeZone").is_given().then(|| schedule.invalid(why))
}

fn validate_time_zone(zone: &Field<'_>) -> Option<FieldError> {
    if !zone.is_given() {
        return None;
    }
    let name = zone.text();
    if name.is_empty() {
        return Some(zone.invalid("timeZone must be nil or non-empty string"));
    }
    let good = |part: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'+');
        (1..=14).contains(&part.len())
            && part != "."
            && part != ".."
            && !part.starts_with('-')
            && part.bytes().all(allowed)
    };
    if name.eq_ignore_ascii_case("Local") {
        let why = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        return Some(zone.invalid(why));
    }
    // The table of zones is the host's own: this crate's one look outside.
    if !name.split('/').all(good) || jiff::tz::TimeZone::get(name).is_err() {
        return Some(zone.invalid(format!("unknown time zone {name}")));
    }
    None
}
