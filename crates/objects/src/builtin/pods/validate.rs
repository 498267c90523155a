//! Validation of Pods and of templates for Pods, beyond what their schema says: in the order and in the words of upstream.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::Value;

use crate::builtin::field::Field;
use crate::builtin::pods::containers::Around;
use crate::builtin::pods::mounts::Volumes;
use crate::builtin::pods::{containers, placement, security, whole, windows};
use crate::builtin::{formats, inner, resources, volumes};
use crate::error::FieldError;
use crate::lookup::text;
use crate::meta::{dns_label, dns_subdomain, qualified_name, validate_labels};

const MAX_NAME_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
/// Most bytes of all search domains with a space between each two.
const SEARCHES_LIMIT: usize = 2048;
const HOSTNAME_LIMIT: usize = 64;

/// All that is wrong with the spec of a Pod or of a template. `metadata` is that of a Pod; a template has none.
pub(in crate::builtin) fn pod_spec(spec: &Field<'_>, metadata: Option<&Value>) -> Vec<FieldError> {
    let name = metadata.map(|metadata| text(metadata, &["name"])).unwrap_or_default();
    let (volumes, mut errors) = volumes(spec, name, metadata.is_some());
    let claims = spec.at("resourceClaims");
    errors.extend(resource_claims(&claims));
    let around = Around {
        spec,
        volumes,
        claims: claims.items().map(|claim| claim.at("name").text()).filter(|name| !name.is_empty()).collect(),
        grace: spec.at("terminationGracePeriodSeconds").number(),
        host_users: *spec.at("hostUsers").value != false,
        os: spec.under(&["os", "name"]).value.as_str(),
    };
    errors.extend(containers::validate(&around));
    let whole = spec.at("resources");
    if whole.is_given() {
        errors.extend(whole_resources(spec, &whole, &around));
    }
    errors.extend(containers::host_network_ports(spec, metadata.is_some()));
    errors.extend(spec.at("restartPolicy").one_of(&["Always", "OnFailure", "Never"]));
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    errors.extend(spec.at("dnsPolicy").one_of(&policies));
    let selector = spec.at("nodeSelector");
    errors.extend(validate_labels(Some(selector.value), &selector.path));
    errors.extend(security::of_pod(spec));
    errors.extend(placement::affinity(&spec.at("affinity")));
    errors.extend(dns(spec));
    errors.extend(gates(spec));
    errors.extend(placement::spread(&spec.at("topologySpreadConstraints")));
    let all = all_containers(spec);
    errors.extend(windows::host_processes(spec, &all));
    errors.extend(own_users(spec));
    errors.extend(hostname_override(spec));
    errors.extend(scalars(spec));
    errors.extend(windows::operating_system(spec, &all));
    errors.extend(file_key_volumes(spec, &all));
    errors
}

/// What holds for a Pod alone, and not for a template.
pub(in crate::builtin) fn only_of_pods(spec: &Field<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if spec.at("serviceAccountName").text().is_empty() {
        let volumes = spec.at("volumes").items().map(|volume| volume.under(&["projected", "sources"]));
        let tokens =
            volumes.flat_map(|sources| sources.items()).map(|source| source.at("serviceAccountToken"));
        let why = "must not be specified when serviceAccountName is not set";
        errors.extend(tokens.filter(Field::is_given).map(|token| token.forbidden(why)));
    }
    errors.extend(containers::only_of_pods(spec));
    errors
}

/// All containers of a Pod.
pub(in crate::builtin) fn all_containers<'a>(spec: &Field<'a>) -> Vec<Field<'a>> {
    let kinds = ["initContainers", "containers", "ephemeralContainers"];
    kinds.into_iter().flat_map(|kind| spec.at(kind).items().collect::<Vec<_>>()).collect()
}

/// The good volumes, and what is wrong with the others.
fn volumes<'a>(spec: &Field<'a>, pod: &str, of_pod: bool) -> (Volumes<'a>, Vec<FieldError>) {
    let list = spec.at("volumes");
    let made: HashSet<String> = list
        .items()
        .filter(|volume| !pod.is_empty() && volume.at("ephemeral").is_given())
        .map(|volume| format!("{pod}-{}", volume.at("name").text()))
        .collect();
    let (mut good, mut errors) = (Volumes::new(), Vec::new());
    for volume in list.items() {
        let name = volume.at("name");
        let mut found = volumes::sources::of_volume(&volume, pod, of_pod);
        found.extend(name.needs(dns_label));
        if good.contains_key(name.text()) {
            found.push(name.duplicate());
        }
        if found.is_empty() {
            good.insert(name.text(), volume.value);
        }
        errors.extend(found);
        let claim = volume.under(&["persistentVolumeClaim", "claimName"]);
        if made.contains(claim.text()) {
            errors.push(claim.invalid("must not reference a PVC that gets created for an ephemeral volume"));
        }
    }
    (good, errors)
}

fn resource_claims(claims: &Field<'_>) -> Vec<FieldError> {
    let (mut errors, mut seen) = (Vec::new(), HashSet::new());
    for claim in claims.items() {
        let name = claim.at("name");
        if seen.contains(name.text()) {
            errors.push(name.duplicate());
        } else {
            errors.extend(name.needs(dns_label));
            seen.extend((!name.text().is_empty()).then(|| name.text()));
        }
        let (own, template) = (claim.at("resourceClaimName"), claim.at("resourceClaimTemplateName"));
        let why = match (own.is_given(), template.is_given()) {
            (true, true) => {
                Some("at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified")
            }
            (false, false) => Some("must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"),
            _ => None,
        };
        errors.extend(why.map(|why| claim.invalid_object(inner::POD_RESOURCE_CLAIM, why)));
        errors.extend([own, template].iter().flat_map(|name| name.follows(dns_subdomain)));
    }
    errors
}

/// What a Pod as a whole asks for is no less than what its containers ask for.
fn whole_resources(spec: &Field<'_>, whole: &Field<'_>, around: &Around<'_>) -> Vec<FieldError> {
    if around.os == Some("windows") {
        return vec![whole.forbidden("may not be set for a windows pod")];
    }
    let mut errors = resources::of_pod(whole, &around.claims);
    errors.extend(whole::covers(spec, whole));
    errors
}

fn dns(spec: &Field<'_>) -> Vec<FieldError> {
    let config = spec.at("dnsConfig");
    let (servers, searches) = (config.at("nameservers"), config.at("searches"));
    if spec.at("dnsPolicy").text() == "None" {
        if !config.is_given() {
            return vec![config.required("must provide `dnsConfig` when `dnsPolicy` is None")];
        }
        if servers.list().is_empty() {
            return vec![
                servers.required("must provide at least one DNS nameserver when `dnsPolicy` is None"),
            ];
        }
    }
    let mut errors = Vec::new();
    if servers.list().len() > MAX_NAME_SERVERS {
        errors.push(servers.invalid(format!("must not have more than {MAX_NAME_SERVERS} nameservers")));
    }
    errors.extend(servers.items().flat_map(|server| server.obeys(formats::ip)));
    if searches.list().len() > MAX_SEARCHES {
        errors.push(searches.invalid(format!("must not have more than {MAX_SEARCHES} search paths")));
    }
    let length: usize = searches.items().map(|domain| domain.text().len() + 1).sum();
    if length > SEARCHES_LIMIT + 1 {
        let why = format!(
            "must not have more than {SEARCHES_LIMIT} characters (including spaces) in the search list"
        );
        errors.push(searches.invalid(why));
    }
    for domain in searches.items().filter(|domain| domain.text() != ".") {
        let name = domain.text().strip_suffix('.').unwrap_or(domain.text());
        errors.extend(crate::meta::all_wrong(&domain.path, name, formats::search_domain(name)));
    }
    let unnamed = config.at("options").items().filter(|option| option.at("name").text().is_empty());
    errors.extend(unnamed.map(|option| option.required("must not be empty")));
    errors
}

fn gates(spec: &Field<'_>) -> Vec<FieldError> {
    let conditions = spec.at("readinessGates").items().map(|gate| gate.at("conditionType"));
    let mut errors: Vec<FieldError> = conditions.flat_map(|kind| kind.obeys(qualified_name)).collect();
    let mut seen = HashSet::new();
    for gate in spec.at("schedulingGates").items() {
        let name = Field { path: gate.path.clone(), ..gate.at("name") };
        errors.extend(name.obeys(qualified_name));
        if !seen.insert(name.text()) {
            errors.push(FieldError::duplicate(name.path.as_str(), name.text()));
        }
    }
    errors
}

/// A Pod with users of its own shares no more with the host.
fn own_users(spec: &Field<'_>) -> Vec<FieldError> {
    if *spec.at("hostUsers").value != false {
        return Vec::new();
    }
    let shared = [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")];
    let shared = shared.into_iter().filter(|(key, _)| *spec.at(key).value == true);
    let containers = all_containers(spec);
    let devices = containers.iter().map(|container| container.at("volumeDevices"));
    let devices = devices.filter(|devices| !devices.list().is_empty()).map(|devices| devices.path);
    let paths = shared.map(|(_, shown)| spec.at(shown).path).chain(devices);
    paths.map(|path| FieldError::forbidden(path, "when `hostUsers` is false")).collect()
}

fn hostname_override(spec: &Field<'_>) -> Vec<FieldError> {
    let name = spec.at("hostnameOverride");
    if !name.is_given() {
        return Vec::new();
    }
    let mut errors = Vec::new();
    for key in ["setHostnameAsFQDN", "hostNetwork"] {
        if *spec.at(key).value == true {
            errors.push(name.forbidden(format!("may not be specified when {key} is true")));
        }
    }
    errors.extend(name.no_longer_than(HOSTNAME_LIMIT));
    errors.extend(name.obeys(dns_subdomain));
    errors
}

fn scalars(spec: &Field<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for key in ["serviceAccountName", "nodeName"] {
        errors.extend(spec.at(key).may_follow(dns_subdomain));
    }
    let deadline = spec.at("activeDeadlineSeconds");
    if deadline.number().is_some_and(|seconds| !(1..=i64::from(i32::MAX)).contains(&seconds)) {
        errors.push(deadline.invalid(format!("must be between 1 and {}, inclusive", i32::MAX)));
    }
    for key in ["hostname", "subdomain"] {
        errors.extend(spec.at(key).may_follow(dns_label));
    }
    errors.extend(placement::tolerations(&spec.at("tolerations")));
    for alias in spec.at("hostAliases").items() {
        errors.extend(alias.at("ip").obeys(formats::ip));
        errors.extend(alias.at("hostnames").items().flat_map(|name| name.obeys(dns_subdomain)));
    }
    errors.extend(spec.at("priorityClassName").may_follow(dns_subdomain));
    errors.extend(spec.at("runtimeClassName").follows(dns_subdomain));
    errors.extend(spec.at("preemptionPolicy").one_of(&["PreemptLowerPriority", "Never"]));
    let overhead = spec.at("overhead");
    if overhead.is_given() {
        // Upstream looks at it as at the limits of a container.
        let limits = serde_json::json!({"limits": overhead.value});
        let limits = Field { value: &limits, path: overhead.path };
        errors.extend(resources::of_container(&limits, &BTreeSet::new()));
    }
    errors
}

/// A variable that comes from a file needs a volume that lives as long as the Pod.
fn file_key_volumes(spec: &Field<'_>, containers: &[Field<'_>]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let volumes: HashMap<&str, &Value> =
        spec.at("volumes").items().map(|volume| (volume.at("name").text(), volume.value)).collect();
    for variable in containers.iter().flat_map(|container| container.at("env").items()) {
        let source = variable.under(&["valueFrom", "fileKeyRef"]);
        if !source.is_given() {
            continue;
        }
        let name = source.at("volumeName");
        match volumes.get(name.text()) {
            None => errors.push(FieldError::not_found(name.path.as_str(), name.text())),
            Some(volume) if volume["emptyDir"].is_object() => {}
            Some(_) => errors.push(name.invalid("referenced volume must be of type emptyDir")),
        }
    }
    errors
}
