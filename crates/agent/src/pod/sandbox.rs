//! What a Pod's containers share: names, resolver settings, kernel parameters.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::ResourceExt;
use yunfan_resources::names::CLUSTER_DOMAIN;
use yunfan_runtime::{DnsConfig, HostAlias, SandboxConfig};

use super::parts::parts;
use super::volumes::Volumes;
use crate::links::PodLink;

/// Most name servers, search domains and characters of the latter that a Pod gets (Kubernetes' documentation, "DNS for Services
/// and Pods").
const MOST_SERVERS: usize = 3;
const MOST_SEARCHES: usize = 32;
const LONGEST_SEARCH: usize = 2048;
/// The kernel's limit.
const LONGEST_HOSTNAME: usize = 64;

/// The sandbox of a Pod, and what of its resolver settings was left out.
pub(super) fn config(
    pod: &Pod,
    node: &str,
    link: &PodLink,
    volumes: &Volumes,
    host: &DnsConfig,
) -> Result<(SandboxConfig, Option<String>), String> {
    let spec = pod.spec.clone().unwrap_or_default();
    let aliases = spec
        .host_aliases
        .iter()
        .flatten()
        .map(|alias| HostAlias { ip: alias.ip.clone(), names: alias.hostnames.clone().unwrap_or_default() });
    let (dns, left_out) = match dns(&spec, link, host) {
        Some((dns, left_out)) => (Some(dns), left_out),
        None => (None, None),
    };
    let named = spec.hostname_override.as_ref().is_some_and(|name| !name.is_empty());
    // Who is given another name altogether is in no domain.
    let domain = domain(pod, &spec).filter(|_| !named);
    let hostname = if spec.host_network == Some(true) {
        node.to_owned()
    } else {
        hostname(pod, &spec, domain.as_deref())?
    };
    let config = SandboxConfig {
        uid: pod.uid().unwrap_or_default(),
        namespace: pod.namespace().unwrap_or_default(),
        name: pod.name_any(),
        hostname,
        domain,
        netns: link.netns.clone(),
        pod_ips: vec![link.ip.to_string()],
        dns,
        host_aliases: aliases.collect(),
        tmpfs_volumes: volumes.in_memory.clone(),
        sysctls: sysctls(&spec),
        host_pid: spec.host_pid == Some(true),
        host_ipc: spec.host_ipc == Some(true),
        share_processes: spec.share_process_namespace == Some(true),
        privileged: parts(pod).iter().any(|part| {
            let security = part.container.security_context.as_ref();
            security.and_then(|security| security.privileged) == Some(true)
        }),
        handler: String::new(),
        shm_size_bytes: None,
        labels: Default::default(),
    };
    Ok((config, left_out))
}

/// The domain of a Pod that names a subdomain (Kubernetes' documentation, "DNS for Services and Pods").
fn domain(pod: &Pod, spec: &PodSpec) -> Option<String> {
    let subdomain = spec.subdomain.as_deref().filter(|name| !name.is_empty())?;
    Some(format!("{subdomain}.{}.svc.{CLUSTER_DOMAIN}", pod.namespace().unwrap_or_default()))
}

fn hostname(pod: &Pod, spec: &PodSpec, domain: Option<&str>) -> Result<String, String> {
    if let Some(name) = spec.hostname_override.as_ref().filter(|name| !name.is_empty()) {
        return Ok(name.clone());
    }
    let mut name = spec.hostname.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| pod.name_any());
    // A Pod's name may be longer than a host's; what is cut must not end in what no host name ends in.
    name.truncate(63);
    let name = name.trim_end_matches(['-', '.']).to_owned();
    match domain.filter(|_| spec.set_hostname_as_fqdn == Some(true)) {
        None => Ok(name),
        Some(domain) => {
            let whole = format!("{name}.{domain}");
            if whole.len() > LONGEST_HOSTNAME {
                return Err(format!(
                    "failed to construct FQDN from pod hostname and cluster domain, FQDN {whole} is too long ({LONGEST_HOSTNAME} \
                     characters is the max, {} characters requested)",
                    whole.len()
                ));
            }
            Ok(whole)
        }
    }
}

/// The resolver settings: the network's, or the host's, and what `dnsConfig` adds. None for the host's as they are.
fn dns(spec: &PodSpec, link: &PodLink, host: &DnsConfig) -> Option<(DnsConfig, Option<String>)> {
    let custom = spec.dns_config.clone();
    let mut dns = match spec.dns_policy.as_deref() {
        Some("None") => DnsConfig::default(),
        Some("Default") => host.clone(),
        // Pods in the host's network reach the cluster's DNS only when they say that they want it.
        Some("ClusterFirst") | None if spec.host_network == Some(true) => host.clone(),
        _ => {
            // What the host completes names with comes behind the cluster's own, as kubelets have it.
            let mut dns = link.dns.clone();
            add(&mut dns.searches, Some(host.searches.clone()));
            dns
        }
    };
    if let Some(custom) = custom {
        add(&mut dns.servers, custom.nameservers);
        add(&mut dns.searches, custom.searches);
        for option in custom.options.into_iter().flatten() {
            let Some(name) = option.name else { continue };
            dns.options.retain(|known| known.split(':').next() != Some(&name));
            dns.options.push(option.value.map_or_else(|| name.clone(), |value| format!("{name}:{value}")));
        }
    }
    let left_out = limit(&mut dns);
    Some((dns, left_out))
}

/// Adds what is not there yet.
fn add(list: &mut Vec<String>, more: Option<Vec<String>>) {
    for word in more.into_iter().flatten() {
        if !list.contains(&word) {
            list.push(word);
        }
    }
}

/// The host's own resolver settings.
pub(super) fn host_dns() -> DnsConfig {
    parse(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
}

/// Reads a `resolv.conf(5)`.
fn parse(text: &str) -> DnsConfig {
    let mut dns = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let key = words.next().unwrap_or_default();
        let rest = words.map(str::to_owned);
        match key {
            "nameserver" => dns.servers.extend(rest.take(1)),
            "search" => dns.searches = rest.filter(|word| word != ".").collect(),
            "options" => dns.options.extend(rest),
            _ => {}
        }
    }
    dns
}

/// What anybody in a Pod's own network may do, as with containerd's and Docker's defaults: listen on ports below 1024, and send pings. Images that
/// run as a user of their own are made for that.
const OPEN: [(&str, &str); 2] =
    [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];

/// The Pod's kernel parameters: its own, and those that it says nothing of.
fn sysctls(spec: &PodSpec) -> BTreeMap<String, String> {
    let usual = OPEN.iter().filter(|_| spec.host_network != Some(true));
    let usual = usual.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let own = spec.security_context.iter().flat_map(|security| security.sysctls.iter().flatten());
    usual.chain(own.map(|sysctl| (sysctl.name.replace('/', "."), sysctl.value.clone()))).collect()
}

/// Cuts the settings to what resolvers read. Returns what people should know of that.
fn limit(dns: &mut DnsConfig) -> Option<String> {
    let mut said = Vec::new();
    if dns.servers.len() > MOST_SERVERS {
        dns.servers.truncate(MOST_SERVERS);
        said.push(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            dns.servers.join(" ")
        ));
    }
    let before = dns.searches.len();
    dns.searches.truncate(MOST_SEARCHES);
    while dns.searches.join(" ").len() > LONGEST_SEARCH {
        dns.searches.pop();
    }
    if dns.searches.len() < before {
        said.push(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            dns.searches.join(" ")
        ));
    }
    (!said.is_empty()).then(|| said.join("; "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn made(spec: serde_json::Value) -> Result<(SandboxConfig, Option<String>), String> {
        let mut spec = spec;
        spec["containers"] = json!([]);
        let meta = json!({"name": "web", "namespace": "demo", "uid": "u"});
        let pod: Pod = serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap();
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let link = PodLink {
            netns: Some("/run/netns/x".into()),
            ip: "10.0.0.7".parse().unwrap(),
            dns: DnsConfig {
                servers: words(&["10.96.0.10"]),
                searches: words(&["demo.svc.cluster.local", "svc.cluster.local"]),
                options: words(&["ndots:5"]),
            },
        };
        let host = parse("nameserver 9.9.9.9\nsearch corp.example demo.svc.cluster.local\n");
        config(&pod, "node-1", &link, &Volumes::default(), &host)
    }

    #[test]
    fn names_follow_hostname_and_subdomain() {
        let name = |spec| made(spec).unwrap().0.hostname;
        assert_eq!(name(json!({})), "web");
        assert_eq!(name(json!({"hostname": "h", "subdomain": "s"})), "h");
        let whole = json!({"hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true});
        assert_eq!(name(whole), "h.s.demo.svc.cluster.local");
        assert_eq!(name(json!({"hostNetwork": true})), "node-1");
        let other = made(json!({"hostnameOverride": "other", "subdomain": "s"})).unwrap().0;
        assert_eq!((other.hostname.as_str(), other.domain), ("other", None));
        let long = json!({"hostname": "h".repeat(60), "subdomain": "s", "setHostnameAsFQDN": true});
        assert!(made(long).unwrap_err().contains("is too long (64 characters is the max"));
    }

    #[test]
    fn a_pods_network_is_open_to_its_users_unless_it_says_otherwise() {
        let of = |spec| {
            let all = made(spec).unwrap().0.sysctls;
            all.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
        };
        let ping = "net.ipv4.ping_group_range=0 2147483647";
        assert_eq!(of(json!({})), format!("net.ipv4.ip_unprivileged_port_start=0,{ping}"));
        let own = json!([{"name": "net/ipv4/ip_unprivileged_port_start", "value": "1024"}]);
        let own = of(json!({"securityContext": {"sysctls": own}}));
        assert_eq!(own, format!("net.ipv4.ip_unprivileged_port_start=1024,{ping}"));
        assert_eq!(of(json!({"hostNetwork": true})), "", "those are the node's");
    }

    #[test]
    fn resolver_settings_are_merged_and_limited() {
        let custom = json!({"dnsConfig": {
            "nameservers": ["1.1.1.1", "10.96.0.10"], "searches": ["a.b"], "options": [{"name": "ndots", "value": "2"}, {"name": "debug"}],
        }});
        let dns = made(custom).unwrap().0.dns.unwrap();
        assert_eq!(dns.servers, ["10.96.0.10", "1.1.1.1"]);
        assert_eq!(dns.searches, ["demo.svc.cluster.local", "svc.cluster.local", "corp.example", "a.b"]);
        assert_eq!(dns.options, ["ndots:2", "debug"]);
        let none = json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4"]}});
        let (config, said) = made(none).unwrap();
        assert_eq!(config.dns.unwrap().servers.len(), 3);
        assert!(said.unwrap().ends_with("line is: 1.1.1.1 2.2.2.2 3.3.3.3"));
    }

    #[test]
    fn a_resolv_conf_is_read() {
        let dns = parse("# x\nnameserver 9.9.9.9 \nsearch a b .\noptions rotate ndots:1\n");
        assert_eq!((dns.servers.len(), dns.searches.len(), dns.options.len()), (1, 2, 2));
    }
}
