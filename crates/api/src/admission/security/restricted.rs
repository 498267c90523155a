//! The level `restricted`: what a hardened Pod gives up of its own.

use std::collections::BTreeSet;

use serde_json::Value;

use super::baseline::{added_but, must_not_add, odd_seccomp, proc_mount, seccomp_fields};
use super::subject::{Check, Finding, Subject, containers, plural, quoted, setters};

/// The checks in the order that refusals name them.
pub(super) const CHECKS: [Check; 7] = [
    escalation,
    capabilities,
    |subject, version| if version >= 35 { proc_mount(subject, version) } else { None },
    volumes,
    non_root,
    root_by_number,
    seccomp,
];

/// Nothing of this is there on Windows.
fn is_exempt(subject: &Subject<'_>, version: u32) -> bool {
    version >= 25 && subject.is_windows()
}

fn escalation(subject: &Subject<'_>, version: u32) -> Option<Finding> {
    let names = subject.set_by(|security| security["allowPrivilegeEscalation"] != false);
    if version < 8 || is_exempt(subject, version) || names.is_empty() {
        return None;
    }
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&names));
    Some(Finding::new("allowPrivilegeEscalation != false", detail))
}

fn capabilities(subject: &Subject<'_>, version: u32) -> Option<Finding> {
    if version < 22 || is_exempt(subject, version) {
        return None;
    }
    let keeps = subject.set_by(|security| {
        let dropped = security["capabilities"]["drop"].as_array();
        !dropped.into_iter().flatten().any(|name| name == "ALL")
    });
    let (adds, found) = added_but(subject, &["NET_BIND_SERVICE"]);
    let mut details = Vec::new();
    if !keeps.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&keeps)));
    }
    if !adds.is_empty() {
        details.push(must_not_add(&adds, &found));
    }
    (!details.is_empty()).then(|| Finding::new("unrestricted capabilities", details.join("; ")))
}

fn volumes(subject: &Subject<'_>, _: u32) -> Option<Finding> {
    const FINE: [&str; 9] = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    let source = |volume: &Value| {
        let sources = volume.as_object().into_iter().flatten();
        let mut sources = sources.filter(|(key, value)| *key != "name" && !value.is_null());
        sources.next().map_or_else(|| "unknown".to_owned(), |(key, _)| key.clone())
    };
    let bad: Vec<(&Value, String)> = subject
        .volumes()
        .map(|volume| (volume, source(volume)))
        .filter(|(_, source)| !FINE.contains(&source.as_str()))
        .collect();
    let names: Vec<&str> =
        bad.iter().map(|(volume, _)| volume["name"].as_str().unwrap_or_default()).collect();
    let kinds: BTreeSet<&str> = bad.iter().map(|(_, source)| source.as_str()).collect();
    let detail = || {
        let (volumes, use_) = (plural("volume", "volumes", names.len()), plural("uses", "use", names.len()));
        let what = plural("restricted volume type", "restricted volume types", kinds.len());
        format!("{volumes} {} {use_} {what} {}", quoted(&names), quoted(&kinds))
    };
    (!names.is_empty()).then(|| Finding::new("restricted volume types", detail()))
}

fn non_root(subject: &Subject<'_>, version: u32) -> Option<Finding> {
    const REASON: &str = "runAsNonRoot != true";
    if version >= 35 && subject.has_own_users() {
        return None;
    }
    let pod = subject.security()["runAsNonRoot"].as_bool();
    let denied = subject.set_by(|security| security["runAsNonRoot"] == false);
    if let Some(who) = setters(pod == Some(false), &denied) {
        return Some(Finding::new(REASON, format!("{who} must not set securityContext.runAsNonRoot=false")));
    }
    let open = subject.set_by(|security| security["runAsNonRoot"].is_null());
    let detail = || format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&open));
    (pod != Some(true) && !open.is_empty()).then(|| Finding::new(REASON, detail()))
}

fn root_by_number(subject: &Subject<'_>, version: u32) -> Option<Finding> {
    if version < 23 || version >= 35 && subject.has_own_users() {
        return None;
    }
    let bad = |security: &Value| security["runAsUser"].as_i64() == Some(0);
    let who = setters(bad(subject.security()), &subject.set_by(bad))?;
    Some(Finding::new("runAsUser=0", format!("{who} must not set runAsUser=0")))
}

fn seccomp(subject: &Subject<'_>, version: u32) -> Option<Finding> {
    if version < 19 || is_exempt(subject, version) {
        return None;
    }
    if let Some(finding) = seccomp_fields(subject) {
        return Some(finding);
    }
    let confined =
        |security: &Value| !security["seccompProfile"].is_null() && odd_seccomp(security).is_none();
    let open = subject.set_by(|security| !confined(security));
    let detail = || {
        format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
            containers(&open)
        )
    };
    (!confined(subject.security()) && !open.is_empty()).then(|| Finding::new("seccompProfile", detail()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(check: Check, version: u32, spec: Value) -> String {
        let pod = json!({"spec": spec});
        check(&Subject::new(&pod), version).map(|finding| finding.detail).unwrap_or_default()
    }

    #[test]
    fn root_is_refused_in_each_of_its_forms() {
        let denied = json!({"securityContext": {"runAsNonRoot": false}, "containers": [{"name": "a", "securityContext": {"runAsNonRoot": false}}]});
        assert_eq!(
            found(non_root, 35, denied.clone()),
            "pod and container \"a\" must not set securityContext.runAsNonRoot=false"
        );
        let mut own = denied;
        own["hostUsers"] = json!(false);
        assert_eq!(found(non_root, 35, own.clone()), "");
        assert_ne!(found(non_root, 34, own), "");
        let by_number = json!({"containers": [{"name": "a", "securityContext": {"runAsUser": 0}}]});
        assert_eq!(found(root_by_number, 23, by_number.clone()), "container \"a\" must not set runAsUser=0");
        assert_eq!(found(root_by_number, 22, by_number), "");
    }

    #[test]
    fn windows_has_none_of_it() {
        let spec = json!({"os": {"name": "windows"}, "containers": [{"name": "a"}]});
        for check in [escalation, capabilities, seccomp] {
            assert_eq!(found(check, 25, spec.clone()), "");
            assert_ne!(found(check, 24, spec.clone()), "");
        }
    }
}
