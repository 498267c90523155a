//! What runs inside a container besides its command: probes and lifecycle hooks.

use crate::builtin::field::Field;
use crate::builtin::formats::{header_name, port_name};
use crate::error::FieldError;

const HANDLERS: &[&str] = &["exec", "httpGet", "tcpSocket", "grpc"];
const HOOKS: &[&str] = &["exec", "httpGet", "tcpSocket", "sleep"];

/// The probes of a container, by their order in messages.
pub(in crate::builtin) const PROBES: &[&str] = &["livenessProbe", "readinessProbe", "startupProbe"];

/// All that is wrong with the probes of a container. `grace` are the Pod's seconds to end in.
pub(in crate::builtin) fn probes(container: &Field<'_>, grace: Option<i64>) -> Vec<FieldError> {
    let given = PROBES.iter().map(|kind| (*kind, container.at(kind))).filter(|(_, probe)| probe.is_given());
    given.flat_map(|(kind, each)| probe(kind, &each, grace)).collect()
}

fn probe(kind: &str, probe: &Field<'_>, grace: Option<i64>) -> Vec<FieldError> {
    let mut errors = handler(probe, HANDLERS, grace);
    let counts =
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"];
    errors.extend(counts.iter().filter_map(|key| probe.at(key).at_least(0)));
    let (own_grace, successes) = (probe.at("terminationGracePeriodSeconds"), probe.at("successThreshold"));
    if own_grace.number().is_some_and(|seconds| seconds <= 0) {
        errors.push(own_grace.invalid("must be greater than 0"));
    }
    if kind != "readinessProbe" {
        errors.extend((successes.number() != Some(1)).then(|| successes.invalid("must be 1")));
    } else if own_grace.is_given() {
        errors.push(own_grace.invalid("must not be set for readinessProbes"));
    }
    errors
}

/// All that is wrong with the hooks of a container.
pub(in crate::builtin) fn lifecycle(container: &Field<'_>, grace: Option<i64>) -> Vec<FieldError> {
    let lifecycle = container.at("lifecycle");
    let hooks = ["postStart", "preStop"].into_iter().map(|hook| lifecycle.at(hook)).filter(Field::is_given);
    hooks.flat_map(|hook| handler(&hook, HOOKS, grace)).collect()
}

/// There must be one handler, and it must be good.
fn handler(of: &Field<'_>, kinds: &[&str], grace: Option<i64>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut found = false;
    for (kind, each) in kinds.iter().map(|kind| (*kind, of.at(kind))).filter(|(_, each)| each.is_given()) {
        if found {
            errors.push(each.forbidden("may not specify more than 1 handler type"));
            continue;
        }
        found = true;
        match kind {
            "exec" => errors.extend(each.at("command").must_be_given("")),
            "httpGet" => errors.extend(http_get(&each)),
            "sleep" => errors.extend(sleep(&each, grace)),
            _ => errors.extend(port(&each.at("port"))),
        }
    }
    if !found {
        errors.push(of.required("must specify a handler type"));
    }
    errors
}

fn http_get(get: &Field<'_>) -> Vec<FieldError> {
    let mut errors: Vec<FieldError> = get.at("path").must_be_given("").into_iter().collect();
    errors.extend(port(&get.at("port")));
    errors.extend(get.at("scheme").one_of(&["HTTP", "HTTPS"]));
    let headers = get.at("httpHeaders");
    let names = headers.items().map(|header| header.at("name"));
    errors.extend(names.flat_map(|name| Field { path: headers.path.clone(), ..name }.obeys(header_name)));
    errors
}

fn sleep(sleep: &Field<'_>, grace: Option<i64>) -> Option<FieldError> {
    let (grace, seconds) = (grace?, sleep.at("seconds").number().unwrap_or(0));
    let why = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
    (seconds < 0 || seconds > grace).then(|| FieldError::invalid(sleep.path.as_str(), seconds, why))
}

/// A port by its number or its name.
pub(in crate::builtin) fn port(port: &Field<'_>) -> Vec<FieldError> {
    match port.value.as_str() {
        Some(_) => port.obeys(port_name),
        None => {
            let number = serde_json::json!(port.number().unwrap_or(0));
            Field { value: &number, path: port.path.clone() }.port().into_iter().collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn texts(container: Value, check: impl Fn(&Field<'_>) -> Vec<FieldError>) -> Vec<String> {
        let field = Field { value: &container, path: "c".to_owned() };
        check(&field).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_probe_has_one_handler() {
        let container = json!({
            "livenessProbe": {"httpGet": {"path": "", "port": 0, "scheme": "FTP", "httpHeaders": [{"name": "a b"}]},
                "tcpSocket": {"port": 1}, "successThreshold": 2},
            "readinessProbe": {"successThreshold": 2, "terminationGracePeriodSeconds": 1},
            "startupProbe": {"exec": {}, "periodSeconds": -1, "successThreshold": 1}});
        let found = texts(container, |container| probes(container, Some(30)));
        let beginnings = [
            "c.livenessProbe.httpGet.path: Required value",
            "c.livenessProbe.httpGet.port: Invalid value: 0: must be between",
            "c.livenessProbe.httpGet.scheme: Unsupported value: \"FTP\": supported values: \"HTTP\", \"HTTPS\"",
            "c.livenessProbe.httpGet.httpHeaders: Invalid value: \"a b\": a valid HTTP header",
            "c.livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
            "c.livenessProbe.successThreshold: Invalid value: 2: must be 1",
            "c.readinessProbe: Required value: must specify a handler type",
            "c.readinessProbe.terminationGracePeriodSeconds: Invalid value: 1: must not be set",
            "c.startupProbe.exec.command: Required value",
            "c.startupProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
        ];
        assert_eq!(found.len(), beginnings.len(), "{found:#?}");
        for (found, beginning) in found.iter().zip(beginnings) {
            assert!(found.starts_with(beginning), "{found}");
        }
    }

    #[test]
    fn hooks_end_before_the_pod_does() {
        let container = json!({"lifecycle": {"preStop": {"sleep": {"seconds": 31}}}});
        let found = texts(container, |container| lifecycle(container, Some(30)));
        assert!(
            found[0].ends_with("31: must be non-negative and less than terminationGracePeriodSeconds (30)")
        );
    }
}
