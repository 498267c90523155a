//! A container's environment: literal values, references to ConfigMaps, Secrets and the Pod's own fields, and
//! `$(NAME)` expansion.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret, Service};
use kube::ResourceExt;
use yunfan_client::{Writer, is_not_found};

use super::downward::{self, Allocatable, variable_field};
use super::volumes::Volumes;
use super::{env_file, read};

/// Why an environment can't be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnvError {
    #[error("container {container}: env {name}: {what}")]
    Variable { container: String, name: String, what: String },
    #[error("{kind} \"{name}\" not found")]
    Missing { kind: &'static str, name: String },
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey { kind: &'static str, namespace: String, name: String, key: String },
    #[error("container {container}: {source}")]
    Api { container: String, source: Box<kube::Error> },
}

/// What a container's environment is made from.
pub(crate) struct Sources<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) pod_ip: Option<IpAddr>,
    pub(crate) host_ip: IpAddr,
    /// All Services; see [`of_services`].
    pub(crate) services: &'a [Arc<Service>],
    pub(crate) writer: &'a Writer,
    /// What the node gives to Pods.
    pub(crate) allocatable: &'a Allocatable,
    /// The Pod's volumes, which are ready.
    pub(crate) volumes: &'a Volumes,
}

/// The variables of a container, in order.
pub(crate) async fn variables(
    container: &Container,
    sources: &Sources<'_>,
) -> Result<Vec<(String, String)>, EnvError> {
    let namespace = sources.pod.namespace();
    let mut out = of_services(sources.pod, sources.services);
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.clone().unwrap_or_default();
        if let Some(source) = &from.config_map_ref {
            let found = get::<ConfigMap>(container, sources, namespace.as_deref(), &source.name).await?;
            let Some(object) = found else {
                missing("configmap", &source.name, source.optional)?;
                continue;
            };
            out.extend(object.data.into_iter().flatten().map(|(k, v)| (format!("{prefix}{k}"), v)));
        }
        if let Some(source) = &from.secret_ref {
            let found = get::<Secret>(container, sources, namespace.as_deref(), &source.name).await?;
            let Some(object) = found else {
                missing("secret", &source.name, source.optional)?;
                continue;
            };
            let pairs = object.data.into_iter().flatten();
            out.extend(
                pairs.map(|(k, v)| (format!("{prefix}{k}"), String::from_utf8_lossy(&v.0).into_owned())),
            );
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            Some(from) => match value_from(container, &variable.name, from, sources).await? {
                Some(value) => value,
                None => continue,
            },
            None => {
                let known: BTreeMap<&str, &str> = out.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
                expand(variable.value.as_deref().unwrap_or_default(), &known)
            }
        };
        out.push((variable.name.clone(), value));
    }
    Ok(last_ones(out))
}

/// Each name once: the later one of two with the same name is meant.
fn last_ones(mut all: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut seen = HashSet::new();
    all.reverse();
    all.retain(|(name, _)| seen.insert(name.clone()));
    all.reverse();
    all
}

/// What tells a Pod's containers of the Services of its namespace, unless `enableServiceLinks` is false, and of the API server's
/// always (Kubernetes' documentation, "Service", environment variables).
fn of_services(pod: &Pod, services: &[Arc<Service>]) -> Vec<(String, String)> {
    let linked = pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    let is_api = |service: &Service| {
        service.namespace().as_deref() == Some("default") && service.name_any() == "kubernetes"
    };
    // A Service of the Pod's own namespace comes after the API server's and wins over it, should it have that name.
    let own = services.iter().filter(|service| linked && service.namespace() == pod.namespace());
    let api = services.iter().filter(|service| is_api(service));
    last_ones(api.chain(own).flat_map(|service| of_service(service)).collect())
}

fn of_service(service: &Service) -> Vec<(String, String)> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !matches!(*ip, "" | "None")) else {
        return Vec::new();
    };
    let screaming = |name: &str| name.to_uppercase().replace('-', "_");
    let name = screaming(&service.name_any());
    // An IPv6 address is set in brackets before a port.
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let mut out = vec![(format!("{name}_SERVICE_HOST"), ip.to_owned())];
    out.extend(ports.first().map(|first| (format!("{name}_SERVICE_PORT"), first.port.to_string())));
    for port in ports {
        if let Some(own) = port.name.as_deref().filter(|own| !own.is_empty()) {
            out.push((format!("{name}_SERVICE_PORT_{}", screaming(own)), port.port.to_string()));
        }
    }
    for (index, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let (lower, number) = (protocol.to_lowercase(), port.port);
        let url = format!("{lower}://{host}:{number}");
        if index == 0 {
            out.push((format!("{name}_PORT"), url.clone()));
        }
        let start = format!("{name}_PORT_{number}_{protocol}");
        out.push((start.clone(), url));
        out.push((format!("{start}_PROTO"), lower));
        out.push((format!("{start}_PORT"), number.to_string()));
        out.push((format!("{start}_ADDR"), ip.to_owned()));
    }
    out
}

/// Replaces `$(NAME)` by the variable's value; `$$(NAME)` stays `$(NAME)`, an unknown name stays as it is.
pub(crate) fn expand(text: &str, known: &BTreeMap<&str, &str>) -> String {
    replace(text, known, &mut |_| ())
}

/// As [`expand`], but an unknown name is an error: it is given back.
pub(crate) fn try_expand(text: &str, known: &BTreeMap<&str, &str>) -> Result<String, String> {
    let mut unknown = None;
    let expanded = replace(text, known, &mut |name| {
        unknown.get_or_insert_with(|| name.to_owned());
    });
    unknown.map_or(Ok(expanded), Err)
}

fn replace(text: &str, known: &BTreeMap<&str, &str>, unknown: &mut dyn FnMut(&str)) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        if let Some(after) = tail.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let name = tail.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        match name {
            Some((name, after)) => {
                match known.get(name) {
                    Some(value) => out.push_str(value),
                    None => {
                        unknown(name);
                        out.push_str("$(");
                        out.push_str(name);
                        out.push(')');
                    }
                }
                rest = after;
            }
            None => {
                out.push('$');
                rest = tail;
            }
        }
    }
    out.push_str(rest);
    out
}

async fn value_from(
    container: &Container,
    name: &str,
    from: &EnvVarSource,
    sources: &Sources<'_>,
) -> Result<Option<String>, EnvError> {
    let wrong =
        |what: String| EnvError::Variable { container: container.name.clone(), name: name.to_owned(), what };
    let namespace = sources.pod.namespace();
    if let Some(field) = &from.field_ref {
        return variable_field(sources.pod, &field.field_path, sources.pod_ip, sources.host_ip)
            .map(Some)
            .ok_or_else(|| wrong(format!("fieldRef {} is not supported", field.field_path)));
    }
    let no_key = |kind, name: &str, key: &str| EnvError::NoKey {
        kind,
        namespace: namespace.clone().unwrap_or_default(),
        name: name.to_owned(),
        key: key.to_owned(),
    };
    if let Some(key) = &from.config_map_key_ref {
        let found = get::<ConfigMap>(container, sources, namespace.as_deref(), &key.name).await?;
        let Some(object) = found else {
            return missing("configmap", &key.name, key.optional).map(|()| None);
        };
        let value = object.data.and_then(|mut data| data.remove(&key.key));
        return optional(value, key.optional).ok_or_else(|| no_key("ConfigMap", &key.name, &key.key));
    }
    if let Some(key) = &from.secret_key_ref {
        let found = get::<Secret>(container, sources, namespace.as_deref(), &key.name).await?;
        let Some(object) = found else {
            return missing("secret", &key.name, key.optional).map(|()| None);
        };
        let value = object.data.and_then(|mut data| data.remove(&key.key));
        let value = value.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned());
        return optional(value, key.optional).ok_or_else(|| no_key("Secret", &key.name, &key.key));
    }
    if let Some(file) = &from.file_key_ref {
        let volume = sources.volumes.directory(&file.volume_name);
        let volume = volume.map_err(|what| wrong(format!("fileKeyRef: {what}")))?;
        let value = env_file::value(volume, &file.path, &file.key);
        let value = value.map_err(|what| wrong(format!("couldn't parse env file: {what}")))?;
        // Nothing is what a key has that is not there.
        return optional(Some(value).filter(|value| !value.is_empty()), file.optional).ok_or_else(|| {
            wrong(format!("environment variable key {:?} not found in file {:?}", file.key, file.path))
        });
    }
    if let Some(resource) = &from.resource_field_ref {
        return downward::resource(sources.pod, Some(container), resource, sources.allocatable)
            .map(Some)
            .ok_or_else(|| wrong(format!("resourceFieldRef {} is not supported", resource.resource)));
    }
    Err(wrong("valueFrom names no source that is supported".to_owned()))
}

/// `Some(None)`: not there, and that is fine.
fn optional(value: Option<String>, optional: Option<bool>) -> Option<Option<String>> {
    match value {
        Some(value) => Some(Some(value)),
        None if optional == Some(true) => Some(None),
        None => None,
    }
}

async fn get<K: yunfan_client::Watched>(
    container: &Container,
    sources: &Sources<'_>,
    namespace: Option<&str>,
    name: &str,
) -> Result<Option<K>, EnvError> {
    match read::get::<K>(sources.writer, namespace, name).await {
        Ok(object) => Ok(Some(object)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(EnvError::Api { container: container.name.clone(), source: Box::new(error) }),
    }
}

fn missing(kind: &'static str, name: &str, optional: Option<bool>) -> Result<(), EnvError> {
    if optional == Some(true) {
        return Ok(());
    }
    Err(EnvError::Missing { kind, name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn services_of_the_namespace_and_the_api_server_are_told() {
        let service = |namespace: &str, name: &str, ip: &str, port: serde_json::Value| -> Arc<Service> {
            let meta = json!({"namespace": namespace, "name": name});
            let object = json!({"metadata": meta, "spec": {"clusterIP": ip, "ports": [port]}});
            Arc::new(serde_json::from_value(object).unwrap())
        };
        let services = [
            service("default", "kubernetes", "10.96.0.1", json!({"name": "https", "port": 443})),
            service("demo", "my-web", "10.96.0.7", json!({"port": 80, "protocol": "UDP"})),
            service("demo", "headless", "None", json!({"port": 80})),
            service("other", "web", "10.96.0.8", json!({"port": 80})),
        ];
        let told = |links: Option<bool>| {
            let pod = json!({"metadata": {"namespace": "demo"}, "spec": {"containers": [], "enableServiceLinks": links}});
            of_services(&serde_json::from_value(pod).unwrap(), &services)
        };
        let pairs = |list: &[(&str, &str)]| -> Vec<(String, String)> {
            list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let api = pairs(&[
            ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
            ("KUBERNETES_SERVICE_PORT", "443"),
            ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
            ("KUBERNETES_PORT", "tcp://10.96.0.1:443"),
            ("KUBERNETES_PORT_443_TCP", "tcp://10.96.0.1:443"),
            ("KUBERNETES_PORT_443_TCP_PROTO", "tcp"),
            ("KUBERNETES_PORT_443_TCP_PORT", "443"),
            ("KUBERNETES_PORT_443_TCP_ADDR", "10.96.0.1"),
        ]);
        let web = pairs(&[
            ("MY_WEB_SERVICE_HOST", "10.96.0.7"),
            ("MY_WEB_SERVICE_PORT", "80"),
            ("MY_WEB_PORT", "udp://10.96.0.7:80"),
            ("MY_WEB_PORT_80_UDP", "udp://10.96.0.7:80"),
            ("MY_WEB_PORT_80_UDP_PROTO", "udp"),
            ("MY_WEB_PORT_80_UDP_PORT", "80"),
            ("MY_WEB_PORT_80_UDP_ADDR", "10.96.0.7"),
        ]);
        assert_eq!(told(None), [api.clone(), web].concat());
        assert_eq!(told(Some(false)), api);
    }

    #[test]
    fn the_later_of_two_variables_is_meant() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let variables = last_ones(vec![pair("A", "1"), pair("B", "2"), pair("A", "3")]);
        assert_eq!(variables, [pair("B", "2"), pair("A", "3")]);
    }

    #[test]
    fn references_are_expanded_once() {
        let known = BTreeMap::from([("A", "1"), ("B", "$(A)")]);
        assert_eq!(try_expand("x$(A)", &known).unwrap(), "x1");
        assert_eq!(try_expand("$(A)$(NONE)$(OTHER)", &known).unwrap_err(), "NONE");
        let cases = [
            ("x$(A)y", "x1y"),
            ("$(B)", "$(A)"),
            ("$$(A)", "$(A)"),
            ("$(NONE) $ $(", "$(NONE) $ $("),
            ("cost: 5$", "cost: 5$"),
        ];
        for (text, expected) in cases {
            assert_eq!(expand(text, &known), expected, "{text}");
        }
    }
}
