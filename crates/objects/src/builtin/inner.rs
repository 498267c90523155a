//! How upstream shows a whole value in a message: as its inner types have it, with every field in the order of its declaration.

pub(super) mod devices;
pub(super) mod flow;
pub(super) mod pods;
pub(super) mod volumes;

use serde_json::Value;

use crate::builtin::field::Field;
use crate::error::{FieldError, FieldErrorKind};

/// One field of an inner type: its name there, its key in the API (or the pointer to it, or `.` where it is made of the very object that
/// the type is of), and what it is.
pub(super) struct Part(pub(super) &'static str, pub(super) &'static str, pub(super) Is);

/// What a field is, and with that what is shown where it is absent.
#[derive(Clone, Copy)]
pub(super) enum Is {
    /// `""` where absent.
    Text,
    /// `0` where absent.
    Number,
    /// `false` where absent.
    Flag,
    /// `null` where absent.
    Optional,
    /// A type of its own; `null` where absent.
    Of(&'static [Part]),
    /// A type of its own that is always there, if with nothing in it.
    Whole(&'static [Part]),
    /// A list of a type of its own; `null` where absent.
    Each(&'static [Part]),
    /// Left out where absent.
    Given,
    /// A list of a type of its own; left out where absent.
    EachGiven(&'static [Part]),
}

use Is::{Each, EachGiven, Flag, Given, Number, Of, Optional, Text, Whole};

pub(super) const LABEL_SELECTOR: &[Part] = &[
    Part("matchLabels", "matchLabels", Given),
    Part(
        "matchExpressions",
        "matchExpressions",
        EachGiven(&[
            Part("key", "key", Text),
            Part("operator", "operator", Text),
            Part("values", "values", Given),
        ]),
    ),
];

pub(super) const SCALING_BEHAVIOR: &[Part] =
    &[Part("ScaleUp", "scaleUp", Of(SCALING_RULES)), Part("ScaleDown", "scaleDown", Of(SCALING_RULES))];
const SCALING_RULES: &[Part] = &[
    Part("StabilizationWindowSeconds", "stabilizationWindowSeconds", Optional),
    Part("SelectPolicy", "selectPolicy", Optional),
    Part(
        "Policies",
        "policies",
        Each(&[
            Part("Type", "type", Text),
            Part("Value", "value", Number),
            Part("PeriodSeconds", "periodSeconds", Number),
        ]),
    ),
    Part("Tolerance", "tolerance", Optional),
];

pub(super) const SECURITY_CONTEXT: &[Part] = &[
    Part("Capabilities", "capabilities", Of(&[Part("Add", "add", Optional), Part("Drop", "drop", Optional)])),
    Part("Privileged", "privileged", Optional),
    Part("SELinuxOptions", "seLinuxOptions", Of(SELINUX)),
    Part("WindowsOptions", "windowsOptions", Of(WINDOWS)),
    Part("RunAsUser", "runAsUser", Optional),
    Part("RunAsGroup", "runAsGroup", Optional),
    Part("RunAsNonRoot", "runAsNonRoot", Optional),
    Part("ReadOnlyRootFilesystem", "readOnlyRootFilesystem", Optional),
    Part("AllowPrivilegeEscalation", "allowPrivilegeEscalation", Optional),
    Part("ProcMount", "procMount", Optional),
    Part("SeccompProfile", "seccompProfile", Of(PROFILE)),
    Part("AppArmorProfile", "appArmorProfile", Of(PROFILE)),
];

const SELINUX: &[Part] = &[
    Part("User", "user", Text),
    Part("Role", "role", Text),
    Part("Type", "type", Text),
    Part("Level", "level", Text),
];
const WINDOWS: &[Part] = &[
    Part("GMSACredentialSpecName", "gmsaCredentialSpecName", Optional),
    Part("GMSACredentialSpec", "gmsaCredentialSpec", Optional),
    Part("RunAsUserName", "runAsUserName", Optional),
    Part("HostProcess", "hostProcess", Optional),
];

/// A profile of seccomp or AppArmor.
pub(super) const PROFILE: &[Part] =
    &[Part("Type", "type", Text), Part("LocalhostProfile", "localhostProfile", Optional)];

pub(super) const POD_RESOURCE_CLAIM: &[Part] = &[
    Part("Name", "name", Text),
    Part("ResourceClaimName", "resourceClaimName", Optional),
    Part("ResourceClaimTemplateName", "resourceClaimTemplateName", Optional),
];

const NODE_REQUIREMENTS: Is =
    Each(&[Part("Key", "key", Text), Part("Operator", "operator", Text), Part("Values", "values", Optional)]);
pub(super) const NODE_SELECTOR_TERM: &[Part] = &[
    Part("MatchExpressions", "matchExpressions", NODE_REQUIREMENTS),
    Part("MatchFields", "matchFields", NODE_REQUIREMENTS),
];

pub(super) const SERVICE_PORT: &[Part] = &[
    Part("Name", "name", Text),
    Part("Protocol", "protocol", Text),
    Part("AppProtocol", "appProtocol", Optional),
    Part("Port", "port", Number),
    Part("TargetPort", "targetPort", Number),
    Part("NodePort", "nodePort", Number),
];

pub(super) const DISRUPTION_BUDGET: &[Part] = &[
    Part("MinAvailable", "minAvailable", Optional),
    Part("Selector", "selector", Optional),
    Part("MaxUnavailable", "maxUnavailable", Optional),
    Part("UnhealthyPodEvictionPolicy", "unhealthyPodEvictionPolicy", Optional),
];

pub(super) const ROLLING_STATEFUL_SET: &[Part] =
    &[Part("Partition", "partition", Number), Part("MaxUnavailable", "maxUnavailable", Optional)];

pub(super) const STATEFUL_SET_STRATEGY: &[Part] =
    &[Part("Type", "type", Text), Part("RollingUpdate", "rollingUpdate", Of(ROLLING_STATEFUL_SET))];

pub(super) const UNCOUNTED_PODS: &[Part] =
    &[Part("Succeeded", "succeeded", Optional), Part("Failed", "failed", Optional)];

pub(super) const SUCCESS_POLICY: &[Part] = &[Part(
    "Rules",
    "rules",
    Each(&[
        Part("SucceededIndexes", "succeededIndexes", Optional),
        Part("SucceededCount", "succeededCount", Optional),
    ]),
)];

pub(super) const TAINT: &[Part] = &[
    Part("Key", "key", Text),
    Part("Value", "value", Text),
    Part("Effect", "effect", Text),
    Part("TimeAdded", "timeAdded", Optional),
];

/// The update strategy of a Deployment or a DaemonSet.
pub(super) const UPDATE_STRATEGY: &[Part] = &[
    Part("Type", "type", Text),
    Part(
        "RollingUpdate",
        "rollingUpdate",
        Of(&[Part("MaxUnavailable", "maxUnavailable", Optional), Part("MaxSurge", "maxSurge", Optional)]),
    ),
];

pub(super) const ROLE_REF: &[Part] =
    &[Part("APIGroup", "apiGroup", Text), Part("Kind", "kind", Text), Part("Name", "name", Text)];

/// A value as a message of upstream's shows it.
pub(super) fn shown(value: &Value, parts: &[Part]) -> String {
    let given = |part: &Part| {
        let found = match part.1 {
            "." => Some(value),
            pointer if pointer.starts_with('/') => value.pointer(pointer),
            key => value.get(key),
        };
        found.filter(|value| !value.is_null())
    };
    let fields: Vec<String> = parts
        .iter()
        .filter(|part| !(matches!(part.2, Given | EachGiven(_)) && given(part).is_none()))
        .map(|part| {
            let text = match (given(part), &part.2) {
                (Some(value), Of(parts) | Whole(parts)) => shown(value, parts),
                (Some(Value::Array(list)), Each(parts) | EachGiven(parts)) => {
                    let each: Vec<String> = list.iter().map(|value| shown(value, parts)).collect();
                    format!("[{}]", each.join(","))
                }
                (Some(value), _) => value.to_string(),
                (None, Whole(parts)) => shown(&Value::Null, parts),
                (None, Text) => "\"\"".to_owned(),
                (None, Number) => "0".to_owned(),
                (None, Flag) => "false".to_owned(),
                (None, _) => "null".to_owned(),
            };
            format!("\"{}\":{text}", part.0)
        })
        .collect();
    format!("{{{}}}", fields.join(","))
}

impl Field<'_> {
    /// Its value, which is a whole object, is wrong.
    pub(super) fn invalid_object(&self, parts: &[Part], detail: impl Into<String>) -> FieldError {
        let kind = FieldErrorKind::InvalidAs(shown(self.value, parts));
        FieldError { field: self.path.clone(), kind, detail: detail.into() }
    }

    /// Its value, which is a whole object, is none of the supported ones.
    pub(super) fn unsupported_object(&self, parts: &[Part], supported: &[&str]) -> FieldError {
        let supported = supported.iter().map(|s| (*s).to_owned()).collect();
        let kind = FieldErrorKind::NotSupportedAs(shown(self.value, parts), supported);
        FieldError { field: self.path.clone(), kind, detail: String::new() }
    }
}

impl Field<'_> {
    /// It repeats another one, and is a whole object.
    pub(super) fn duplicate_object(&self, parts: &[Part]) -> FieldError {
        let kind = FieldErrorKind::DuplicateAs(shown(self.value, parts));
        FieldError { field: self.path.clone(), kind, detail: String::new() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn absent_fields_are_shown_as_what_they_are() {
        let value = json!({"type": "OnDelete", "rollingUpdate": {"partition": -1}});
        assert_eq!(
            shown(&value, STATEFUL_SET_STRATEGY),
            r#"{"Type":"OnDelete","RollingUpdate":{"Partition":-1,"MaxUnavailable":null}}"#
        );
        assert_eq!(
            shown(&json!({}), SERVICE_PORT),
            r#"{"Name":"","Protocol":"","AppProtocol":null,"Port":0,"TargetPort":0,"NodePort":0}"#
        );
    }
}
