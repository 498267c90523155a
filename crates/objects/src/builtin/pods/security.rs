//! Security contexts of Pods and containers.

use std::collections::HashSet;

use crate::builtin::field::Field;
use crate::builtin::inner;
use crate::builtin::pods::windows;
use crate::builtin::volumes::sources::descending;
use crate::error::FieldError;

const PROFILE_TYPES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
const MAX_ID: i64 = i32::MAX as i64;
/// Longest path to a profile.
const PROFILE_LIMIT: usize = 4095;
const MAX_SYSCTL: usize = 253;
const SYSCTL_RULE: &str = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

/// A user or a group.
fn id(field: &Field<'_>) -> Option<FieldError> {
    let bad = field.number().is_some_and(|id| !(0..=MAX_ID).contains(&id));
    bad.then(|| field.invalid(format!("must be between 0 and {MAX_ID}, inclusive")))
}

/// All that is wrong with the security context of a container. `host_users` says whether the Pod has the host's users.
pub(in crate::builtin) fn of_container(context: &Field<'_>, host_users: bool) -> Vec<FieldError> {
    if !context.is_given() {
        return Vec::new();
    }
    let is = |key: &str, wanted: bool| *context.at(key).value == wanted;
    let mut errors: Vec<FieldError> =
        ["runAsUser", "runAsGroup"].iter().filter_map(|key| id(&context.at(key))).collect();
    let mount = context.at("procMount");
    errors.extend(mount.one_of(&["Default", "Unmasked"]));
    if host_users && mount.text() == "Unmasked" {
        errors.push(mount.invalid("`hostUsers` must be false to use `Unmasked`"));
    }
    errors.extend(seccomp(&context.at("seccompProfile")));
    if is("allowPrivilegeEscalation", false) {
        let mut wrong = |what: &str| {
            let why = format!("cannot set `allowPrivilegeEscalation` to false and {what}");
            errors.push(context.invalid_object(inner::SECURITY_CONTEXT, why));
        };
        if is("privileged", true) {
            wrong("`privileged` to true");
        }
        let added = context.under(&["capabilities", "add"]);
        if added.list().iter().any(|name| name == "CAP_SYS_ADMIN") {
            wrong("`capabilities.Add` CAP_SYS_ADMIN");
        }
    }
    errors.extend(windows::options(&context.at("windowsOptions")));
    errors.extend(app_armor(&context.at("appArmorProfile")));
    errors
}

/// All that is wrong with the security context of a Pod.
pub(in crate::builtin) fn of_pod(spec: &Field<'_>) -> Vec<FieldError> {
    let context = spec.at("securityContext");
    let mut errors: Vec<FieldError> =
        ["fsGroup", "runAsUser", "runAsGroup"].iter().filter_map(|key| id(&context.at(key))).collect();
    errors.extend(context.at("supplementalGroups").items().filter_map(|group| id(&group)));
    let shared = spec.at("shareProcessNamespace");
    if *shared.value == true && *spec.at("hostPID").value == true {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(context.at("shareProcessNamespace").path, true, why));
    }
    errors.extend(sysctls(spec, &context.at("sysctls")));
    errors.extend(context.at("fsGroupChangePolicy").one_of(&["Always", "OnRootMismatch"]));
    errors.extend(seccomp(&context.at("seccompProfile")));
    errors.extend(windows::options(&context.at("windowsOptions")));
    errors.extend(app_armor(&context.at("appArmorProfile")));
    errors.extend(context.at("supplementalGroupsPolicy").one_of(&["Merge", "Strict"]));
    // The other way is not switched on.
    errors.extend(context.at("seLinuxChangePolicy").one_of(&["Recursive"]));
    errors
}

fn seccomp(profile: &Field<'_>) -> Vec<FieldError> {
    if !profile.is_given() {
        return Vec::new();
    }
    let (kind, path) = (profile.at("type"), profile.at("localhostProfile"));
    let mut errors = Vec::new();
    if kind.text().is_empty() {
        errors.push(kind.required("type is required when seccompProfile is set"));
    }
    errors.extend((!kind.text().is_empty()).then(|| kind.one_of(PROFILE_TYPES)).flatten());
    match (kind.text() == "Localhost", path.is_given()) {
        (true, false) => errors.push(path.required("must be set when seccomp type is Localhost")),
        (true, true) => errors.extend(descending(&path)),
        (false, true) => {
            let why = "can only be set when seccomp type is Localhost";
            let shown = Field { path: path.path, ..profile.clone() };
            errors.push(shown.invalid_object(inner::PROFILE, why));
        }
        (false, false) => {}
    }
    errors
}

fn app_armor(profile: &Field<'_>) -> Vec<FieldError> {
    if !profile.is_given() {
        return Vec::new();
    }
    let (kind, path) = (profile.at("type"), profile.at("localhostProfile"));
    let mut errors = Vec::new();
    match kind.text() {
        "Localhost" => {
            if path.text().trim() != path.text() {
                errors.push(path.invalid("must not be padded with whitespace"));
            } else if path.text().is_empty() {
                errors.push(path.required("must be set when AppArmor type is Localhost"));
            }
            errors.extend(path.no_longer_than(PROFILE_LIMIT));
        }
        "RuntimeDefault" | "Unconfined" if path.is_given() => {
            errors.push(path.invalid("can only be set when AppArmor type is Localhost"));
        }
        "" => errors.push(kind.required("type is required when appArmorProfile is set")),
        _ => errors.extend(kind.one_of(PROFILE_TYPES)),
    }
    errors
}

fn is_sysctl(name: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    let good = |part: &str| {
        edge(part.as_bytes().first()) && edge(part.as_bytes().last()) && part.bytes().all(inside)
    };
    name.len() <= MAX_SYSCTL && name.split(['.', '/']).all(good)
}

fn sysctls(spec: &Field<'_>, list: &Field<'_>) -> Vec<FieldError> {
    const IPC: &[&str] = &["kernel.sem", "kernel.shm", "kernel.msg", "fs.mqueue."];
    let on_host = |key: &str| *spec.at(key).value == true;
    let (mut errors, mut seen) = (Vec::new(), HashSet::new());
    for sysctl in list.items() {
        let name = sysctl.at("name");
        if name.text().is_empty() {
            errors.push(name.required(""));
        } else if !is_sysctl(name.text()) {
            errors.push(name.invalid(SYSCTL_RULE));
        } else if seen.contains(name.text()) {
            errors.push(name.duplicate());
        }
        let dotted = name.text().replace('/', ".");
        if on_host("hostNetwork") && dotted.starts_with("net.") {
            errors.push(name.invalid("may not be specified when 'hostNetwork' is true"));
        } else if on_host("hostIPC") && IPC.iter().any(|start| dotted.starts_with(start)) {
            errors.push(name.invalid("may not be specified when 'hostIPC' is true"));
        }
        seen.insert(name.text());
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn contexts_do_not_contradict_themselves() {
        let context = json!({"runAsUser": -1, "procMount": "Unmasked", "privileged": true,
            "allowPrivilegeEscalation": false, "seccompProfile": {"type": "Unconfined", "localhostProfile": "x"},
            "appArmorProfile": {"type": "Localhost", "localhostProfile": " x"}});
        let field = Field { value: &context, path: "c".to_owned() };
        let found: Vec<String> = of_container(&field, true).iter().map(ToString::to_string).collect();
        let beginnings = [
            "c.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
            "c.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false",
            "c.seccompProfile.localhostProfile: Invalid value: {\"Type\":\"Unconfined\",\"LocalhostProfile\":\"x\"}: can only",
            "c: Invalid value: {\"Capabilities\":null,\"Privileged\":true,",
            "c.appArmorProfile.localhostProfile: Invalid value: \" x\": must not be padded",
        ];
        assert_eq!(found.len(), beginnings.len(), "{found:#?}");
        for (found, beginning) in found.iter().zip(beginnings) {
            assert!(found.starts_with(beginning), "{found}");
        }
    }

    #[test]
    fn sysctls_of_the_host_are_not_changed() {
        let spec = json!({"hostNetwork": true, "hostPID": true, "shareProcessNamespace": true, "securityContext": {
            "sysctls": [{"name": "net.core.x"}, {"name": "Bad"}, {"name": "a/b"}, {"name": "a/b"}, {}],
            "fsGroupChangePolicy": "Never"}});
        let field = Field { value: &spec, path: "spec".to_owned() };
        let found: Vec<String> = of_pod(&field).iter().map(ToString::to_string).collect();
        let beginnings = [
            "spec.securityContext.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID",
            "spec.securityContext.sysctls[0].name: Invalid value: \"net.core.x\": may not be specified when 'hostNetwork'",
            "spec.securityContext.sysctls[1].name: Invalid value: \"Bad\": must have at most 253 characters and match",
            "spec.securityContext.sysctls[3].name: Duplicate value: \"a/b\"",
            "spec.securityContext.sysctls[4].name: Required value",
            "spec.securityContext.fsGroupChangePolicy: Unsupported value: \"Never\"",
        ];
        assert_eq!(found.len(), beginnings.len(), "{found:#?}");
        for (found, beginning) in found.iter().zip(beginnings) {
            assert!(found.starts_with(beginning), "{found}");
        }
    }
}
