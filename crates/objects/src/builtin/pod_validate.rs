//! Validation of pods and pod templates, beyond what their schema says.

use std::collections::HashSet;

use serde_json::Value;

use super::field::Field;
use super::{pod_env, volume_sources};
use crate::error::FieldError;
use crate::lookup::{at, entries, list, number, text};
use crate::meta::{dns_label, dns_subdomain, validate_labels};
use crate::quantity::Quantity;

/// All that is wrong with the spec of a pod at a path.
pub(super) fn pod_spec(spec: &Value, path: &str) -> Vec<FieldError> {
    let mut check = Check { errors: Vec::new(), volumes: HashSet::new() };
    check.volumes(spec, path);
    check.containers(spec, path);
    one_of(&mut check.errors, spec, path, "restartPolicy", &["Always", "OnFailure", "Never"]);
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    one_of(&mut check.errors, spec, path, "dnsPolicy", &policies);
    check.scalars(spec, path);
    check.tolerations(spec, path);
    check.errors
}

/// Checks the tolerations of a Pod's spec, or of what lends Pods some.
pub(super) fn tolerations(spec: &Value, path: &str) -> Vec<FieldError> {
    let mut check = Check { errors: Vec::new(), volumes: HashSet::new() };
    check.tolerations(spec, path);
    check.errors
}

/// Refuses a text that is given and none of these.
pub(super) fn one_of(errors: &mut Vec<FieldError>, value: &Value, path: &str, key: &str, allowed: &[&str]) {
    let given = text(value, &[key]);
    if !given.is_empty() && !allowed.contains(&given) {
        errors.push(FieldError::not_supported(format!("{path}.{key}"), given, allowed));
    }
}

/// Refuses a number outside 1 to 65535.
pub(super) fn port_number(errors: &mut Vec<FieldError>, field: String, port: i64) {
    if !(1..=65535).contains(&port) {
        errors.push(FieldError::invalid(field, port, "must be between 1 and 65535, inclusive"));
    }
}

/// What is wrong with the name of a port (an IANA service name), if anything.
pub(super) fn port_name(name: &str) -> Option<&'static str> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if name.len() > 15 {
        Some("must be no more than 15 characters")
    } else if !name.bytes().all(allowed) {
        Some("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    } else if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        Some("must contain at least one letter (a-z)")
    } else if name.contains("--") {
        Some("must not contain consecutive hyphens")
    } else if name.starts_with('-') || name.ends_with('-') {
        Some("must not begin or end with a hyphen")
    } else {
        None
    }
}

struct Check<'a> {
    errors: Vec<FieldError>,
    volumes: HashSet<&'a str>,
}

impl<'a> Check<'a> {
    fn label(&mut self, name: &str, field: &str) {
        if name.is_empty() {
            self.errors.push(FieldError::required(field, ""));
        } else if let Some(why) = dns_label(name) {
            self.errors.push(FieldError::invalid(field, name, why));
        }
    }

    fn volumes(&mut self, spec: &'a Value, path: &str) {
        for (index, volume) in list(spec, &["volumes"]).iter().enumerate() {
            let path = format!("{path}.volumes[{index}]");
            let name = text(volume, &["name"]);
            self.label(name, &format!("{path}.name"));
            if !self.volumes.insert(name) {
                self.errors.push(FieldError::duplicate(format!("{path}.name"), name));
            }
            let volume = Field { value: volume, path };
            self.errors.extend(volume_sources::validate_one(&volume));
        }
    }

    fn containers(&mut self, spec: &Value, path: &str) {
        if list(spec, &["containers"]).is_empty() {
            self.errors.push(FieldError::required(format!("{path}.containers"), ""));
        }
        let mut names = HashSet::new();
        for kind in ["initContainers", "containers"] {
            for (index, container) in list(spec, &[kind]).iter().enumerate() {
                let path = format!("{path}.{kind}[{index}]");
                let name = text(container, &["name"]);
                self.label(name, &format!("{path}.name"));
                if !name.is_empty() && !names.insert(name) {
                    self.errors.push(FieldError::duplicate(format!("{path}.name"), name));
                }
                self.container(container, &path);
            }
        }
    }

    fn container(&mut self, container: &Value, path: &str) {
        let image = text(container, &["image"]);
        if image.is_empty() {
            self.errors.push(FieldError::required(format!("{path}.image"), ""));
        } else if image.trim() != image {
            let why = "must not have leading or trailing whitespace";
            self.errors.push(FieldError::invalid(format!("{path}.image"), image, why));
        }
        let errors = &mut self.errors;
        one_of(errors, container, path, "imagePullPolicy", &["Always", "IfNotPresent", "Never"]);
        one_of(errors, container, path, "terminationMessagePolicy", &["FallbackToLogsOnError", "File"]);
        self.ports(container, path);
        self.errors.extend(pod_env::validate(&Field { value: container, path: path.to_owned() }));
        self.mounts(container, path);
        self.resources(container, path);
        for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
            if let Some(probe) = container.get(kind) {
                self.probe(probe, &format!("{path}.{kind}"), kind);
            }
        }
    }

    fn ports(&mut self, container: &Value, path: &str) {
        let mut names = HashSet::new();
        for (index, port) in list(container, &["ports"]).iter().enumerate() {
            let path = format!("{path}.ports[{index}]");
            match number(port, &["containerPort"]) {
                None => self.errors.push(FieldError::required(format!("{path}.containerPort"), "")),
                Some(number) => port_number(&mut self.errors, format!("{path}.containerPort"), number),
            }
            if let Some(host) = number(port, &["hostPort"]).filter(|port| *port != 0) {
                port_number(&mut self.errors, format!("{path}.hostPort"), host);
            }
            one_of(&mut self.errors, port, &path, "protocol", &["SCTP", "TCP", "UDP"]);
            let name = text(port, &["name"]);
            if name.is_empty() {
                continue;
            }
            if let Some(why) = port_name(name) {
                self.errors.push(FieldError::invalid(format!("{path}.name"), name, why));
            } else if !names.insert(name) {
                self.errors.push(FieldError::duplicate(format!("{path}.name"), name));
            }
        }
    }

    fn mounts(&mut self, container: &Value, path: &str) {
        let mut places = HashSet::new();
        for (index, mount) in list(container, &["volumeMounts"]).iter().enumerate() {
            let path = format!("{path}.volumeMounts[{index}]");
            let name = text(mount, &["name"]);
            if name.is_empty() {
                self.errors.push(FieldError::required(format!("{path}.name"), ""));
            } else if !self.volumes.contains(name) {
                self.errors.push(FieldError::not_found(format!("{path}.name"), name));
            }
            let place = text(mount, &["mountPath"]);
            if place.is_empty() {
                self.errors.push(FieldError::required(format!("{path}.mountPath"), ""));
            } else if !places.insert(place) {
                self.errors.push(FieldError::invalid(format!("{path}.mountPath"), place, "must be unique"));
            }
            let sub = text(mount, &["subPath"]);
            if sub.starts_with('/') || sub.split('/').any(|part| part == "..") {
                let why = "must be a relative path that does not contain '..'";
                self.errors.push(FieldError::invalid(format!("{path}.subPath"), sub, why));
            }
        }
    }

    fn resources(&mut self, container: &Value, path: &str) {
        for kind in ["limits", "requests"] {
            for (name, value) in entries(container, &["resources", kind]) {
                let field = format!("{path}.resources.{kind}[{name}]");
                let Ok(amount) = Quantity::from_json(value) else { continue }; // decoding refuses it
                if amount.is_negative() {
                    self.errors.push(FieldError::invalid(
                        field,
                        value.clone(),
                        "must be greater than or equal to 0",
                    ));
                    continue;
                }
                let limit = at(container, &["resources", "limits", name])
                    .and_then(|value| Quantity::from_json(value).ok());
                if kind == "requests" && limit.is_some_and(|limit| amount > limit) {
                    let field = format!("{path}.resources.requests");
                    let why = format!(
                        "must be less than or equal to {name} limit of {}",
                        limit.unwrap_or(Quantity::ZERO)
                    );
                    self.errors.push(FieldError::invalid(field, value.clone(), why));
                }
            }
        }
    }

    fn probe(&mut self, probe: &Value, path: &str, kind: &str) {
        let handlers = ["exec", "httpGet", "tcpSocket", "grpc"];
        match handlers.iter().filter(|handler| probe.get(**handler).is_some()).count() {
            0 => self.errors.push(FieldError::required(path, "must specify a handler type")),
            1 => {}
            _ => self.errors.push(FieldError::forbidden(path, "may not specify more than 1 handler type")),
        }
        for key in
            ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
        {
            if let Some(given) = number(probe, &[key]).filter(|given| *given < 0) {
                let why = "must be greater than or equal to 0";
                self.errors.push(FieldError::invalid(format!("{path}.{key}"), given, why));
            }
        }
        if kind != "readinessProbe" && number(probe, &["successThreshold"]).is_some_and(|times| times > 1) {
            let field = format!("{path}.successThreshold");
            self.errors.push(FieldError::invalid(field, number(probe, &["successThreshold"]), "must be 1"));
        }
        for handler in ["httpGet", "tcpSocket", "grpc"] {
            let Some(port) = at(probe, &[handler, "port"]) else { continue };
            let field = format!("{path}.{handler}.port");
            match (port.as_i64(), port.as_str()) {
                (Some(number), _) => port_number(&mut self.errors, field, number),
                (None, Some(name)) => {
                    if let Some(why) = port_name(name) {
                        self.errors.push(FieldError::invalid(field, name, why));
                    }
                }
                _ => {}
            }
        }
    }

    fn scalars(&mut self, spec: &Value, path: &str) {
        self.errors.extend(validate_labels(spec.get("nodeSelector"), &format!("{path}.nodeSelector")));
        if let Some(seconds) = number(spec, &["terminationGracePeriodSeconds"]).filter(|seconds| *seconds < 0)
        {
            let field = format!("{path}.terminationGracePeriodSeconds");
            self.errors.push(FieldError::invalid(field, seconds, "must be greater than or equal to 0"));
        }
        if let Some(seconds) = number(spec, &["activeDeadlineSeconds"]).filter(|seconds| *seconds < 1) {
            let field = format!("{path}.activeDeadlineSeconds");
            self.errors.push(FieldError::invalid(
                field,
                seconds,
                "must be between 1 and 2147483647, inclusive",
            ));
        }
        for key in ["hostname", "subdomain"] {
            let name = text(spec, &[key]);
            if !name.is_empty() {
                self.label(name, &format!("{path}.{key}"));
            }
        }
        for key in ["nodeName", "serviceAccountName"] {
            let name = text(spec, &[key]);
            if let Some(why) = dns_subdomain(name).filter(|_| !name.is_empty()) {
                self.errors.push(FieldError::invalid(format!("{path}.{key}"), name, why));
            }
        }
    }

    fn tolerations(&mut self, spec: &Value, path: &str) {
        for (index, toleration) in list(spec, &["tolerations"]).iter().enumerate() {
            let path = format!("{path}.tolerations[{index}]");
            let errors = &mut self.errors;
            one_of(errors, toleration, &path, "operator", &["Equal", "Exists"]);
            one_of(errors, toleration, &path, "effect", &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
            let exists = text(toleration, &["operator"]) == "Exists";
            if text(toleration, &["key"]).is_empty() && !exists {
                let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
                errors.push(FieldError::invalid(
                    format!("{path}.operator"),
                    text(toleration, &["operator"]),
                    why,
                ));
            }
            let value = text(toleration, &["value"]);
            if exists && !value.is_empty() {
                let why = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(format!("{path}.operator"), value, why));
            }
        }
    }
}
