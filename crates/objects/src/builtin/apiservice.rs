//! APIService: which server answers for a group and version.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Object;
use crate::builtin::ColumnSpec;
use crate::builtin::field::Field;
use crate::builtin::rows::{name, since_creation};
use crate::builtin::rules::{METADATA, Rules};
use crate::error::FieldError;
use crate::lookup::{at_mut, list, set_default, text};
use crate::meta::{dns_subdomain, dns1035_label};

pub(super) const COLUMNS: &[ColumnSpec] =
    &[("Name", "string", 0), ("Service", "string", 0), ("Available", "string", 0), ("Age", "string", 0)];

pub(super) fn cells(object: &Object, now: Timestamp) -> Vec<Value> {
    let service = &object["spec"]["service"];
    let by = if service.is_object() {
        format!("{}/{}", text(service, &["namespace"]), text(service, &["name"]))
    } else {
        "Local".to_owned()
    };
    let available = list(object, &["status", "conditions"]).iter().find(|c| c["type"] == "Available");
    let shown = match available.map(|c| (text(c, &["status"]), text(c, &["reason"]))) {
        None => "Unknown".to_owned(),
        Some(("True", _)) => "True".to_owned(),
        Some((status, reason)) => format!("{status} ({reason})"),
    };
    vec![name(object), json!(by), json!(shown), since_creation(object, now)]
}

pub(super) const API_SERVICE: Rules = Rules {
    kept_by_status: METADATA,
    default: |object| {
        if let Some(service) = at_mut(object, &["spec", "service"]) {
            set_default(service, "port", 443);
        }
    },
    // Who is asked in this very process is always there.
    prepare_create: |object| {
        if object["spec"]["service"].is_null() {
            let since = object["metadata"]["creationTimestamp"].clone();
            object["status"] = json!({"conditions": [{
                "type": "Available", "status": "True", "lastTransitionTime": since,
                "reason": "Local", "message": "Local APIServices are always available",
            }]});
        }
    },
    prepare_update: |new, old| {
        let is_local = |object: &Object| object["spec"]["service"].is_null();
        // Nobody has looked yet at who is to answer now.
        if is_local(old)
            && !is_local(new)
            && let Some(Value::Array(conditions)) = at_mut(new, &["status", "conditions"])
        {
            conditions.retain(|condition| condition["type"] != "Available");
        }
    },
    validate,
    validate_status: |new, _| {
        let conditions = Field::root(new).under(&["status", "conditions"]);
        const STATUSES: [&str; 3] = ["True", "False", "Unknown"];
        let statuses = conditions.items().map(|condition| condition.at("status"));
        let wrong = statuses.filter(|status| !STATUSES.contains(&status.text()));
        wrong
            .map(|status| FieldError::not_supported(status.path.as_str(), status.text(), &STATUSES))
            .collect()
    },
    path_segment_name: true,
    ..Rules::UNCOUNTED
};

fn validate(object: &Object) -> Vec<FieldError> {
    let root = Field::root(object);
    let spec = root.at("spec");
    let (group, version, service) = (spec.at("group"), spec.at("version"), spec.at("service"));
    let mut errors = Vec::new();
    let wanted = format!("{}.{}", version.text(), group.text());
    if text(object, &["metadata", "name"]) != wanted {
        let why = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
        errors.push(root.under(&["metadata", "name"]).invalid(why));
    }
    match group.text() {
        "" if version.text() != "v1" => {
            errors.push(group.required("only v1 may have an empty group and it better be legacy kube"));
        }
        "" => {}
        _ => errors.extend(group.follows(dns_subdomain)),
    }
    errors.extend(version.obeys(dns1035_label));
    for (key, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let priority = spec.at(key);
        let given = priority.number().unwrap_or(0);
        if given <= 0 || given > most {
            let why = format!("must be positive and less than {most}");
            errors.push(FieldError::invalid(priority.path.as_str(), given, why));
        }
    }
    let (bundle, insecure) = (spec.at("caBundle"), spec.at("insecureSkipTLSVerify"));
    let skips = insecure.value == &json!(true);
    if service.is_given() {
        errors.extend(["namespace", "name"].iter().filter_map(|key| service.at(key).must_be_given("")));
        let port = service.at("port");
        if let Some(error) = port.port() {
            errors.push(FieldError { detail: format!("port is not valid: {}", error.detail), ..error });
        }
        if skips && !bundle.text().is_empty() {
            errors.push(insecure.invalid("may not be true if caBundle is present"));
        }
        return errors;
    }
    if !bundle.text().is_empty() {
        let shown = format!("{} bytes", bundle.text().len() / 4 * 3);
        let why = "local APIServices may not have a caBundle";
        errors.push(FieldError::invalid(bundle.path.as_str(), shown, why));
    }
    if skips {
        errors.push(insecure.invalid("local APIServices may not have insecureSkipTLSVerify"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::tests::{created, kind, refusal, row, status_refusal};

    fn service(change: Value) -> Object {
        let object = json!({"metadata": {"name": "v1.example.com"}, "spec": {"group": "example.com", "version": "v1",
            "groupPriorityMinimum": 100, "versionPriority": 10, "service": {"namespace": "a", "name": "b"}}});
        crate::patch::merge(&object, &change).unwrap()
    }

    #[test]
    fn its_name_is_the_group_version_that_it_serves() {
        let mut good = created(&kind("APIService"), service(json!({}))).unwrap();
        assert_eq!(good["spec"]["service"]["port"], 443);
        assert_eq!(row("APIService", &good)[1..3], ["a/b", "Unknown"]);
        good["status"] =
            json!({"conditions": [{"type": "Available", "status": "False", "reason": "ServiceNotFound"}]});
        assert_eq!(row("APIService", &good)[2], "False (ServiceNotFound)");
        for (change, why) in [
            (
                json!({"metadata": {"name": "x"}}),
                "metadata.name: Invalid value: \"x\": must be `spec.version+\".\"+spec.group`: \"v1.example.com\"",
            ),
            (
                json!({"spec": {"groupPriorityMinimum": 0}}),
                "spec.groupPriorityMinimum: Invalid value: 0: must be positive and less than 20000",
            ),
            (json!({"spec": {"versionPriority": 1001}}), "must be positive and less than 1000"),
            (json!({"spec": {"service": {"name": ""}}}), "spec.service.name: Required value"),
            (json!({"spec": {"service": {"port": 70000}}}), "port is not valid: must be between 1 and 65535"),
            (
                json!({"spec": {"service": null, "insecureSkipTLSVerify": true}}),
                "local APIServices may not have insecureSkipTLSVerify",
            ),
            (
                json!({"metadata": {"name": "v2."}, "spec": {"group": "", "version": "v2"}}),
                "only v1 may have an empty group",
            ),
        ] {
            let found = refusal("APIService", service(change));
            assert!(found.contains(why), "{found}\n{why}");
        }
        assert_eq!(good["status"]["conditions"][0]["reason"], "ServiceNotFound");
        let local = created(&kind("APIService"), service(json!({"spec": {"service": null}}))).unwrap();
        assert_eq!(row("APIService", &local)[1..3], ["Local", "True"]);
        let mut remote = service(json!({"status": local["status"]}));
        kind("APIService").prepare_update(&mut remote, &local);
        assert_eq!(row("APIService", &remote)[1..3], ["a/b", "Unknown"], "nobody has looked at it yet");
        let mut still = local.clone();
        kind("APIService").prepare_update(&mut still, &local);
        assert_eq!(still, local);
        let bad = json!({"conditions": [{"type": "Available", "status": "Maybe"}]});
        assert!(
            status_refusal("APIService", &good, bad)
                .contains("status.conditions[0].status: Unsupported value: \"Maybe\"")
        );
    }
}
