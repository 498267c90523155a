//! A container's environment: literal values, references to ConfigMaps, Secrets and the Pod's own fields, and
//! `$(NAME)` expansion.

use std::collections::{HashMap, HashSet};
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
    TooLarge { container: String, source: TooLarge },
    #[error("container {container}: {source}")]
    Api { container: String, source: Box<kube::Error> },
}

/// A container asks for more text than a process can be started with.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("variables, command and arguments have more than {MAX_TEXT} bytes together")]
pub(crate) struct TooLarge;

/// Bytes of a container's variables, command and arguments together: what the kernel takes with a stack of 8 MiB (execve(2), "Limits on
/// size of arguments and environment"). Text that doubles itself by references ends here, before it fills the node's memory.
const MAX_TEXT: usize = 2 << 20;

/// What is left of [`MAX_TEXT`].
pub(crate) struct Room(usize);

impl Room {
    pub(crate) fn new() -> Self {
        Self(MAX_TEXT)
    }

    fn take(&mut self, bytes: usize) -> Result<(), TooLarge> {
        self.0 = self.0.checked_sub(bytes).ok_or(TooLarge)?;
        Ok(())
    }
}

/// Variables in their order, which are found by their names.
#[derive(Default)]
struct Variables {
    all: Vec<(String, String)>,
    /// The place of the last one of each name.
    places: HashMap<String, usize>,
}

impl Variables {
    fn push(&mut self, name: String, value: String, room: &mut Room) -> Result<(), TooLarge> {
        // With what separates them, and where they are pointed to.
        room.take(name.len() + value.len() + 2 + size_of::<usize>())?;
        self.places.insert(name.clone(), self.all.len());
        self.all.push((name, value));
        Ok(())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.places.get(name).map(|at| self.all[*at].1.as_str())
    }
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
    /// The process in whose mounts those are that are in memory, where the Pod has such a process.
    pub(crate) shim: Option<i32>,
}

/// The variables of a container, in order. They take of the room for all of its text.
pub(crate) async fn variables(
    container: &Container,
    sources: &Sources<'_>,
    room: &mut Room,
) -> Result<Vec<(String, String)>, EnvError> {
    let namespace = sources.pod.namespace();
    let too_large = |source| EnvError::TooLarge { container: container.name.clone(), source };
    let mut out = Variables::default();
    for (name, value) in of_services(sources.pod, sources.services) {
        out.push(name, value, room).map_err(too_large)?;
    }
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.clone().unwrap_or_default();
        if let Some(source) = &from.config_map_ref {
            let found = get::<ConfigMap>(container, sources, namespace.as_deref(), &source.name).await?;
            let Some(object) = found else {
                missing("configmap", &source.name, source.optional)?;
                continue;
            };
            for (key, value) in object.data.into_iter().flatten() {
                out.push(format!("{prefix}{key}"), value, room).map_err(too_large)?;
            }
        }
        if let Some(source) = &from.secret_ref {
            let found = get::<Secret>(container, sources, namespace.as_deref(), &source.name).await?;
            let Some(object) = found else {
                missing("secret", &source.name, source.optional)?;
                continue;
            };
            for (key, value) in object.data.into_iter().flatten() {
                let value = String::from_utf8_lossy(&value.0).into_owned();
                out.push(format!("{prefix}{key}"), value, room).map_err(too_large)?;
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            Some(from) => match value_from(container, &variable.name, from, sources).await? {
                Some(value) => value,
                None => continue,
            },
            None => {
                let text = variable.value.as_deref().unwrap_or_default();
                // What it grows to must have room; it takes that when it is put with the others.
                expand(text, |name| out.get(name), &mut Room(room.0)).map_err(too_large)?
            }
        };
        out.push(variable.name.clone(), value, room).map_err(too_large)?;
    }
    Ok(last_ones(out.all))
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

/// Replaces `$(NAME)` by the variable's value; `$$(NAME)` stays `$(NAME)`, an unknown name stays as it is. What comes out takes of
/// the room.
pub(crate) fn expand<'k>(
    text: &str,
    known: impl Fn(&str) -> Option<&'k str>,
    room: &mut Room,
) -> Result<String, TooLarge> {
    replace(text, known, room, &mut |_| ())
}

/// Why a text that must not name anything unknown can't be expanded.
#[derive(Debug, PartialEq)]
pub(crate) enum NotExpanded {
    Unknown(String),
    TooLarge(TooLarge),
}

/// As [`expand`], but an unknown name is an error: it is given back.
pub(crate) fn try_expand<'k>(
    text: &str,
    known: impl Fn(&str) -> Option<&'k str>,
    room: &mut Room,
) -> Result<String, NotExpanded> {
    let mut unknown = None;
    let expanded = replace(text, known, room, &mut |name| {
        unknown.get_or_insert_with(|| name.to_owned());
    });
    let expanded = expanded.map_err(NotExpanded::TooLarge)?;
    unknown.map_or(Ok(expanded), |name| Err(NotExpanded::Unknown(name)))
}

fn replace<'k>(
    text: &str,
    known: impl Fn(&str) -> Option<&'k str>,
    room: &mut Room,
    unknown: &mut dyn FnMut(&str),
) -> Result<String, TooLarge> {
    let mut out = String::new();
    let mut put = |piece: &str| {
        room.take(piece.len())?;
        out.push_str(piece);
        Ok(())
    };
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        put(&rest[..at])?;
        let tail = &rest[at + 1..];
        if let Some(after) = tail.strip_prefix('$') {
            put("$")?;
            rest = after;
            continue;
        }
        let name = tail.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        match name {
            Some((name, after)) => {
                match known(name) {
                    Some(value) => put(value)?,
                    None => {
                        unknown(name);
                        put("$(")?;
                        put(name)?;
                        put(")")?;
                    }
                }
                rest = after;
            }
            None => {
                put("$")?;
                rest = tail;
            }
        }
    }
    put(rest)?;
    Ok(out)
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
        let volume = sources.volumes.directory(&file.volume_name, sources.shim);
        let volume = volume.map_err(|what| wrong(format!("fileKeyRef: {what}")))?;
        let (path, key) = (file.path.clone(), file.key.clone());
        // A file may be large, and its disk slow.
        let value = tokio::task::spawn_blocking(move || env_file::value(&volume, &path, &key)).await;
        let value = value.unwrap_or_else(|_| Err("the file could not be read".to_owned()));
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
        let known =
            |name: &str| [("A", "1"), ("B", "$(A)")].into_iter().find(|(k, _)| *k == name).map(|(_, v)| v);
        let strictly = |text| try_expand(text, known, &mut Room::new());
        assert_eq!(strictly("x$(A)").unwrap(), "x1");
        assert_eq!(strictly("$(A)$(NONE)$(OTHER)").unwrap_err(), NotExpanded::Unknown("NONE".to_owned()));
        let cases = [
            ("x$(A)y", "x1y"),
            ("$(B)", "$(A)"),
            ("$$(A)", "$(A)"),
            ("$(NONE) $ $(", "$(NONE) $ $("),
            ("cost: 5$", "cost: 5$"),
        ];
        for (text, expected) in cases {
            assert_eq!(expand(text, known, &mut Room::new()).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn text_that_doubles_itself_ends_where_no_process_could_have_it() {
        let (mut known, mut room) = (Variables::default(), Room::new());
        known.push("A0".to_owned(), "x".repeat(1024), &mut room).unwrap();
        let mut grow = |n: usize| {
            let before = format!("$(A{n})");
            let value = expand(&before.repeat(2), |name| known.get(name), &mut Room(room.0))?;
            known.push(format!("A{}", n + 1), value, &mut room)
        };
        let grown = (0..40).take_while(|n| grow(*n).is_ok()).count();
        assert_eq!(grown, 10, "a kilobyte that is ten times doubled fills the room, with all before it");
        assert_eq!(expand("$(A10)$(A10)$(A10)", |name| known.get(name), &mut Room::new()), Err(TooLarge));
    }
}
