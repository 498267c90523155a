//! What a Pod says of its operating system. Containers of Windows do not run here; what is said of them is checked as upstream checks it.

use crate::builtin::field::Field;
use crate::error::FieldError;
use crate::lookup::at;
use crate::meta::dns_subdomain;

const SPEC_LIMIT: usize = 64 * 1024;
const DOMAIN_LIMIT: usize = 256;
const USER_LIMIT: usize = 104;
/// What a container for Windows may not say, by the order of messages.
const OF_LINUX: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];
/// The same of its Pod: keys of the spec begin with a dot.
const OF_LINUX_PODS: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    ".hostUsers",
    ".hostPID",
    ".hostIPC",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    ".shareProcessNamespace",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
];

/// All that is wrong with the options of a security context for Windows.
pub(in crate::builtin) fn options(options: &Field<'_>) -> Vec<FieldError> {
    let mut errors = options.at("gmsaCredentialSpecName").follows(dns_subdomain);
    let credential = options.at("gmsaCredentialSpec");
    if credential.is_given() && credential.text().is_empty() {
        errors.push(credential.invalid("gmsaCredentialSpec cannot be an empty string"));
    } else if credential.text().len() > SPEC_LIMIT {
        errors.push(credential.invalid("gmsaCredentialSpec size must be under 64 KiB"));
    }
    let user = options.at("runAsUserName");
    if user.is_given() {
        errors.extend(
            user_name(user.text()).into_iter().map(|why| user.invalid(format!("runAsUserName{why}"))),
        );
    }
    errors
}

/// What is wrong with a user's name, each behind the name of the field.
fn user_name(name: &str) -> Vec<&'static str> {
    let (domain, user) = match name.split('\\').collect::<Vec<_>>()[..] {
        _ if name.is_empty() => return vec![" cannot be an empty string"],
        _ if name.contains(|c: char| c.is_ascii_control()) => {
            return vec![" cannot contain control characters"];
        }
        [user] => (None, user),
        [domain, user] => (Some(domain), user),
        _ => return vec![" cannot contain more than one backslash"],
    };
    let findings = [
        (
            domain.is_some_and(|domain| domain.len() >= DOMAIN_LIMIT),
            "'s Domain length must be under 256 characters",
        ),
        (
            domain.is_some_and(|domain| !is_netbios(domain) && !is_dns(domain)),
            "'s Domain doesn't match the NetBios nor the DNS format",
        ),
        (user.is_empty(), "'s User cannot be empty"),
        (user.len() > USER_LIMIT, "'s User length must not be longer than 104 characters"),
        (
            !user.is_empty() && user.chars().all(|c| c == '.' || c == ' '),
            "'s User cannot contain only periods or spaces",
        ),
        (
            user.contains(|c: char| "\"/\\:;|=,+*?<>@[]".contains(c)),
            "'s User cannot contain the following characters: \"/\\:;|=,+*?<>@[]",
        ),
    ];
    findings.into_iter().filter(|(bad, _)| *bad).map(|(_, why)| why).collect()
}

fn is_netbios(domain: &str) -> bool {
    (1..=15).contains(&domain.chars().count())
        && !domain.starts_with('.')
        && !domain.contains(|c: char| "\\/:*?\"<>|".contains(c))
}

fn is_dns(domain: &str) -> bool {
    domain.split('.').all(|label| crate::meta::dns_label(&label.to_ascii_lowercase()).is_empty())
}

/// Either all containers of a Pod are processes of the host, or none.
pub(in crate::builtin) fn host_processes(spec: &Field<'_>, containers: &[Field<'_>]) -> Vec<FieldError> {
    let path = ["securityContext", "windowsOptions", "hostProcess"];
    let of_pod = at(spec.value, &path).and_then(serde_json::Value::as_bool);
    let mut errors = Vec::new();
    let mut count = 0;
    for container in containers {
        let own = container.under(&path);
        let of_own = own.value.as_bool();
        if let (Some(wanted), Some(given)) = (of_pod, of_own)
            && wanted != given
        {
            let why = format!("pod hostProcess value must be identical if both are specified, was {wanted}");
            errors.push(own.invalid(why));
        }
        count += usize::from(of_own.or(of_pod) == Some(true));
    }
    if count > 0 && count != containers.len() {
        let why =
            "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.push(FieldError::invalid(spec.path.as_str(), "", why));
    }
    let network = spec.at("hostNetwork");
    if count > 0 && *network.value != true {
        let why = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.push(FieldError::invalid(network.path, false, why));
    }
    errors
}

/// Checks a Pod's operating system, and that nothing is said that the other one means.
pub(in crate::builtin) fn operating_system(spec: &Field<'_>, containers: &[Field<'_>]) -> Vec<FieldError> {
    let (os, context) = (spec.at("os"), spec.at("securityContext"));
    let contexts = || containers.iter().map(|container| container.at("securityContext"));
    match os.at("name").text() {
        _ if !os.is_given() => Vec::new(),
        "" => vec![os.at("name").required("")],
        "linux" => std::iter::once(context)
            .chain(contexts())
            .map(|context| context.at("windowsOptions"))
            .filter(Field::is_given)
            .map(|options| options.forbidden("windows options cannot be set for a linux pod"))
            .collect(),
        "windows" => {
            let of_pod = OF_LINUX_PODS.iter().map(|key| match key.strip_prefix('.') {
                Some(key) => spec.at(key),
                None => context.at(key),
            });
            let of_containers =
                contexts().flat_map(|context| OF_LINUX.iter().map(move |key| context.at(key)));
            let said = |field: &Field<'_>| field.is_given() && !is_unsaid(field);
            of_pod
                .chain(of_containers)
                .filter(said)
                .map(|field| field.forbidden("cannot be set for a windows pod"))
                .collect()
        }
        name => vec![FieldError::not_supported(os.path, name, &["linux", "windows"])],
    }
}

/// Whether upstream cannot tell the value from one that is absent.
fn is_unsaid(field: &Field<'_>) -> bool {
    let plain = field.path.ends_with(".hostPID") || field.path.ends_with(".hostIPC");
    (plain && *field.value == false) || (field.path.ends_with(".sysctls") && field.list().is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn users_of_windows_have_names() {
        for (name, findings) in [
            ("me", 0),
            ("DOMAIN\\me", 0),
            ("a.example.com\\me", 0),
            ("", 1),
            ("a\\b\\c", 1),
            ("a\u{7}", 1),
            ("?\\", 2),
            ("..", 1),
            ("a@b", 1),
        ] {
            assert_eq!(user_name(name).len(), findings, "{name}: {:?}", user_name(name));
        }
    }

    #[test]
    fn a_pod_is_of_one_system() {
        let check = |os: &str, context: serde_json::Value| -> Vec<String> {
            let spec = json!({"os": {"name": os}, "hostPID": false, "securityContext": {"runAsUser": 1},
                "containers": [{"securityContext": context}]});
            let spec = Field { value: &spec, path: "spec".to_owned() };
            let containers: Vec<Field<'_>> = spec.at("containers").items().collect();
            let mut found = operating_system(&spec, &containers);
            found.extend(host_processes(&spec, &containers));
            found.iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            check("windows", json!({"privileged": true})),
            [
                "spec.securityContext.runAsUser: Forbidden: cannot be set for a windows pod",
                "spec.containers[0].securityContext.privileged: Forbidden: cannot be set for a windows pod",
            ]
        );
        let found = check("linux", json!({"windowsOptions": {"hostProcess": true}}));
        assert!(found[0].contains("windows options cannot be set for a linux pod"), "{found:?}");
        assert!(found[1].starts_with("spec.hostNetwork: Invalid value: false"), "{found:?}");
        assert!(check("beos", json!({}))[0].starts_with("spec.os: Unsupported value: \"beos\""));
    }
}
