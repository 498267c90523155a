//! The level `baseline`: nothing that is known to lead from a container to its node.
//! See "Pod Security Standards" in Kubernetes' documentation.

use std::collections::BTreeSet;

use serde_json::Value;
use yunfan_resources::names::BASELINE_CAPABILITIES;

use super::subject::{Check, Finding, Subject, containers, plural, quoted, setters, texts};

/// The checks in the order that refusals name them, with the version from which one of the level above takes their place.
pub(super) const CHECKS: [(Check, Option<u32>); 12] = [
    (app_armor, None),
    (capabilities, Some(22)),
    (host_namespaces, None),
    (host_paths, Some(0)),
    (host_ports, None),
    (other_hosts, None),
    (privileged, None),
    (proc_mount_unless_own_users, Some(35)),
    (se_linux, None),
    (seccomp, Some(19)),
    (sysctls, None),
    (windows_host, None),
];

fn app_armor(subject: &Subject<'_>, _: u32) -> Option<Finding> {
    const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
    fn kind(security: &Value) -> Option<&Value> {
        let profile = &security["appArmorProfile"];
        let bad =
            !profile.is_null() && !matches!(profile["type"].as_str(), Some("RuntimeDefault" | "Localhost"));
        bad.then(|| &profile["type"])
    }
    let names = subject.set_by(|security| kind(security).is_some());
    let all =
        std::iter::once(subject.security()).chain(subject.containers.iter().map(|c| &c["securityContext"]));
    let mut values: Vec<String> = texts(all.filter_map(kind)).into_iter().map(str::to_owned).collect();
    let annotated = subject.annotations.as_object().into_iter().flatten().filter_map(|(key, value)| {
        let value = value.as_str().unwrap_or_default();
        let fine = value.is_empty() || value == "runtime/default" || value.starts_with("localhost/");
        (key.starts_with(ANNOTATION) && !fine).then(|| format!("{key}={value:?}"))
    });
    let annotated: BTreeSet<String> = annotated.collect();
    let mut who: Vec<String> = setters(kind(subject.security()).is_some(), &names).into_iter().collect();
    if !annotated.is_empty() {
        who.push(plural("annotation", "annotations", annotated.len()).to_owned());
        values.extend(annotated);
    }
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
    let detail =
        || format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(&values));
    (!who.is_empty()).then(|| Finding::new(reason, detail()))
}

fn capabilities(subject: &Subject<'_>, _: u32) -> Option<Finding> {
    let (names, found) = added_but(subject, &BASELINE_CAPABILITIES);
    (!names.is_empty()).then(|| Finding::new("non-default capabilities", must_not_add(&names, &found)))
}

/// Containers that add capabilities other than these, and which.
pub(super) fn added_but<'a>(subject: &Subject<'a>, fine: &[&str]) -> (Vec<&'a str>, BTreeSet<&'a str>) {
    fn added(container: &Value) -> impl Iterator<Item = &str> {
        let list = container["securityContext"]["capabilities"]["add"].as_array();
        list.into_iter().flatten().map(|name| name.as_str().unwrap_or_default())
    }
    let names = subject.named(|container| added(container).any(|name| !fine.contains(&name)));
    let all = subject.containers.iter().copied().flat_map(added);
    (names, all.filter(|name| !fine.contains(name)).collect())
}

pub(super) fn must_not_add(names: &[&str], found: &BTreeSet<&str>) -> String {
    format!("{} must not include {} in securityContext.capabilities.add", containers(names), quoted(found))
}

fn host_namespaces(subject: &Subject<'_>, _: u32) -> Option<Finding> {
    let shared = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|name| subject.spec[*name] == true);
    let shared: Vec<String> = shared.map(|name| format!("{name}=true")).collect();
    (!shared.is_empty()).then(|| Finding::new("host namespaces", shared.join(", ")))
}

fn host_paths(subject: &Subject<'_>, _: u32) -> Option<Finding> {
    let volumes = subject.volumes().filter(|volume| !volume["hostPath"].is_null());
    let names: Vec<&str> = volumes.map(|volume| volume["name"].as_str().unwrap_or_default()).collect();
    let detail = || format!("{} {}", plural("volume", "volumes", names.len()), quoted(&names));
    (!names.is_empty()).then(|| Finding::new("hostPath volumes", detail()))
}

fn host_ports(subject: &Subject<'_>, _: u32) -> Option<Finding> {
    fn ports(container: &Value) -> impl Iterator<Item = i64> {
        let ports = container["ports"].as_array().into_iter().flatten();
        ports.filter_map(|port| port["hostPort"].as_i64()).filter(|port| *port != 0)
    }
    let names = subject.named(|container| ports(container).next().is_some());
    let found: BTreeSet<String> =
        subject.containers.iter().copied().flat_map(ports).map(|port| port.to_string()).collect();
    let found: Vec<String> = found.into_iter().collect();
    let detail = || {
        let (use_, what) = (plural("uses", "use", names.len()), plural("hostPort", "hostPorts", found.len()));
        format!("{} {use_} {what} {}", containers(&names), found.join(", "))
    };
    (!names.is_empty()).then(|| Finding::new("hostPort", detail()))
}

/// Probes and hooks that make the node ask another host.
fn other_hosts(subject: &Subject<'_>, version: u32) -> Option<Finding> {
    fn hosts(container: &Value) -> BTreeSet<&str> {
        let cycle = &container["lifecycle"];
        let probes = ["livenessProbe", "readinessProbe", "startupProbe"].map(|name| &container[name]);
        let all = probes.into_iter().chain([&cycle["postStart"], &cycle["preStop"]]);
        let hosts = all.flat_map(|each| [&each["httpGet"]["host"], &each["tcpSocket"]["host"]]);
        hosts.filter_map(Value::as_str).filter(|host| !host.is_empty()).collect()
    }
    let names: BTreeSet<&str> = subject.named(|container| !hosts(container).is_empty()).into_iter().collect();
    let names: Vec<&str> = names.into_iter().collect();
    let found: BTreeSet<&str> = subject.containers.iter().copied().flat_map(hosts).collect();
    let detail = || {
        let what = plural("probe or lifecycle host", "probe or lifecycle hosts", found.len());
        format!("{} {} {what} {}", containers(&names), plural("uses", "use", names.len()), quoted(&found))
    };
    (version >= 34 && !names.is_empty()).then(|| Finding::new("probe or lifecycle host", detail()))
}

fn privileged(subject: &Subject<'_>, _: u32) -> Option<Finding> {
    let names = subject.set_by(|security| security["privileged"] == true);
    let detail = || format!("{} must not set securityContext.privileged=true", containers(&names));
    (!names.is_empty()).then(|| Finding::new("privileged", detail()))
}

fn proc_mount_unless_own_users(subject: &Subject<'_>, version: u32) -> Option<Finding> {
    if version >= 35 && subject.has_own_users() { None } else { proc_mount(subject, version) }
}

pub(super) fn proc_mount(subject: &Subject<'_>, _: u32) -> Option<Finding> {
    fn odd(security: &Value) -> Option<&str> {
        security["procMount"].as_str().filter(|kind| *kind != "Default")
    }
    let names = subject.set_by(|security| odd(security).is_some());
    let found: BTreeSet<&str> =
        subject.containers.iter().filter_map(|c| odd(&c["securityContext"])).collect();
    let detail =
        || format!("{} must not set securityContext.procMount to {}", containers(&names), quoted(&found));
    (!names.is_empty()).then(|| Finding::new("procMount", detail()))
}

fn se_linux(subject: &Subject<'_>, version: u32) -> Option<Finding> {
    let options = |security: &Value| security["seLinuxOptions"].clone();
    let odd = |options: &Value| {
        let kind = options["type"].as_str().unwrap_or_default();
        let fine = matches!(kind, "" | "container_t" | "container_init_t" | "container_kvm_t")
            || (version >= 31 && kind == "container_engine_t");
        (!fine).then(|| kind.to_owned())
    };
    let is_set = |options: &Value, key: &str| options[key].as_str().is_some_and(|text| !text.is_empty());
    let bad = |security: &Value| {
        let options = options(security);
        odd(&options).is_some() || is_set(&options, "user") || is_set(&options, "role")
    };
    let who = setters(bad(subject.security()), &subject.set_by(bad))?;
    let all = || {
        let contexts = std::iter::once(subject.security());
        contexts.chain(subject.containers.iter().map(|c| &c["securityContext"])).map(options)
    };
    let kinds: BTreeSet<String> = all().filter_map(|options| odd(&options)).collect();
    let mut what = Vec::new();
    if !kinds.is_empty() {
        what.push(format!("{} {}", plural("type", "types", kinds.len()), quoted(&kinds)));
    }
    for key in ["user", "role"] {
        if all().any(|options| is_set(&options, key)) {
            what.push(format!("{key} may not be set"));
        }
    }
    let detail = format!("{who} set forbidden securityContext.seLinuxOptions: {}", what.join("; "));
    Some(Finding::new("seLinuxOptions", detail))
}

fn seccomp(subject: &Subject<'_>, version: u32) -> Option<Finding> {
    if version >= 19 { seccomp_fields(subject) } else { seccomp_annotations(subject) }
}

fn seccomp_annotations(subject: &Subject<'_>) -> Option<Finding> {
    const POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
    const CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
    let names = subject.named(|_| true).into_iter().map(|name| format!("{CONTAINER}{name}"));
    let keys = std::iter::once(POD.to_owned()).chain(names);
    let bad = keys.filter_map(|key| {
        let value = subject.annotations[&key].as_str()?;
        let fine = matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
        (!fine).then(|| format!("{key}={value:?}"))
    });
    let bad: BTreeSet<String> = bad.collect();
    let detail = || {
        let all: Vec<&str> = bad.iter().map(String::as_str).collect();
        format!("forbidden {} {}", plural("annotation", "annotations", bad.len()), all.join(", "))
    };
    (!bad.is_empty()).then(|| Finding::new("seccompProfile", detail()))
}

/// A profile that is none of those that confine.
pub(super) fn odd_seccomp(security: &Value) -> Option<&str> {
    let profile = &security["seccompProfile"];
    let kind = profile["type"].as_str().unwrap_or_default();
    (!profile.is_null() && !matches!(kind, "RuntimeDefault" | "Localhost")).then_some(kind)
}

pub(super) fn seccomp_fields(subject: &Subject<'_>) -> Option<Finding> {
    let bad = |security: &Value| odd_seccomp(security).is_some();
    let who = setters(bad(subject.security()), &subject.set_by(bad))?;
    let contexts = std::iter::once(subject.security());
    let contexts = contexts.chain(subject.containers.iter().map(|c| &c["securityContext"]));
    let kinds: BTreeSet<&str> = contexts.filter_map(odd_seccomp).collect();
    let detail = format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(kinds));
    Some(Finding::new("seccompProfile", detail))
}

/// What Pods may set, and since which version.
const SYSCTLS: [(&str, u32); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

fn sysctls(subject: &Subject<'_>, version: u32) -> Option<Finding> {
    let all = subject.security()["sysctls"].as_array().into_iter().flatten();
    let names = all.map(|sysctl| sysctl["name"].as_str().unwrap_or_default());
    let fine = |name: &str| SYSCTLS.iter().any(|(known, since)| *known == name && *since <= version);
    let bad: Vec<&str> = names.filter(|name| !fine(name)).collect();
    (!bad.is_empty()).then(|| Finding::new("forbidden sysctls", bad.join(", ")))
}

fn windows_host(subject: &Subject<'_>, _: u32) -> Option<Finding> {
    let bad = |security: &Value| security["windowsOptions"]["hostProcess"] == true;
    let who = setters(bad(subject.security()), &subject.set_by(bad))?;
    let detail = format!("{who} must not set securityContext.windowsOptions.hostProcess=true");
    Some(Finding::new("hostProcess", detail))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_way_to_the_node_is_named() {
        let container = |more: Value| {
            let mut container = json!({"name": "a"});
            container.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
            json!({"containers": [container]})
        };
        let secure = |security: Value| container(json!({"securityContext": security}));
        for (spec, version, wanted) in [
            (
                json!({"hostNetwork": true, "hostPID": true}),
                35,
                "host namespaces: hostNetwork=true, hostPID=true",
            ),
            (json!({"volumes": [{"name": "v", "hostPath": {}}]}), 35, "hostPath volumes: volume \"v\""),
            (
                container(json!({"ports": [{"hostPort": 80}, {"hostPort": 8080}]})),
                35,
                "hostPort: container \"a\" uses hostPorts 80, 8080",
            ),
            (
                container(json!({"livenessProbe": {"httpGet": {"host": "h"}}})),
                35,
                "probe or lifecycle host: container \"a\" uses probe or lifecycle host \"h\"",
            ),
            (container(json!({"livenessProbe": {"httpGet": {"host": "h"}}})), 33, ""),
            (
                secure(json!({"privileged": true})),
                35,
                "privileged: container \"a\" must not set securityContext.privileged=true",
            ),
            (
                secure(json!({"procMount": "Unmasked"})),
                35,
                "procMount: container \"a\" must not set securityContext.procMount to \"Unmasked\"",
            ),
            (
                secure(json!({"capabilities": {"add": ["CHOWN", "NET_ADMIN", "ALL"]}})),
                35,
                "non-default capabilities: container \"a\" must not include \"ALL\", \"NET_ADMIN\" in securityContext.capabilities.add",
            ),
            (
                secure(json!({"seLinuxOptions": {"type": "spc_t", "user": "u"}})),
                35,
                "seLinuxOptions: container \"a\" set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user may not be set",
            ),
            (secure(json!({"seLinuxOptions": {"type": "container_engine_t"}})), 35, ""),
            (
                secure(json!({"seccompProfile": {"type": "Unconfined"}})),
                35,
                "seccompProfile: container \"a\" must not set securityContext.seccompProfile.type to \"Unconfined\"",
            ),
            (
                secure(json!({"appArmorProfile": {"type": "Unconfined"}})),
                35,
                "forbidden AppArmor profile: container \"a\" must not set AppArmor profile type to \"Unconfined\"",
            ),
            (
                json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}, {"name": "kernel.msgmax"}]}}),
                31,
                "forbidden sysctls: net.ipv4.tcp_rmem, kernel.msgmax",
            ),
            (json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}}), 32, ""),
            (
                json!({"securityContext": {"windowsOptions": {"hostProcess": true}}}),
                35,
                "hostProcess: pod must not set securityContext.windowsOptions.hostProcess=true",
            ),
        ] {
            let pod = json!({"spec": spec});
            let subject = Subject::new(&pod);
            let found: Vec<String> = CHECKS
                .iter()
                .filter_map(|(check, _)| check(&subject, version))
                .map(|finding| format!("{}: {}", finding.reason, finding.detail))
                .collect();
            assert_eq!(found.join(" + "), wanted);
        }
    }

    #[test]
    fn old_annotations_count_too() {
        let pod = json!({"metadata": {"annotations": {
            "container.apparmor.security.beta.kubernetes.io/a": "unconfined",
            "seccomp.security.alpha.kubernetes.io/pod": "unconfined"}}, "spec": {"containers": [{"name": "a"}]}});
        let subject = Subject::new(&pod);
        assert_eq!(
            app_armor(&subject, 35).unwrap().detail,
            "annotation must not set AppArmor profile type to \"container.apparmor.security.beta.kubernetes.io/a=\"unconfined\"\""
        );
        assert_eq!(seccomp(&subject, 19), None);
        assert_eq!(
            seccomp(&subject, 18).unwrap().detail,
            "forbidden annotation seccomp.security.alpha.kubernetes.io/pod=\"unconfined\""
        );
    }
}
