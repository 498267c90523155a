//! Listing, showing, renaming and deleting servers.

use std::collections::BTreeMap;

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::compute::{Flavor, KeyPair, ServerGroup, VirtualMachine};
use yunfan_resources::iam::Project;
use yunfan_resources::network::{FloatingIp, Network, Port, SecurityGroup};
use yunfan_resources::storage::Volume;

use super::create::usable;
use super::record::unlocked;
use super::shown::Server;
use super::view::{self, Context};
use super::{placing, state};
use crate::auth::Session;
use crate::body::{Json, Params, explicit};
use crate::change::Changes;
use crate::error::{Answer, Fault};
use crate::microversion::Microversion;
use crate::page::{self, Limits};
use crate::versions::ok;
use crate::{directory, ids, lean, lent, stamp};

const PAGE: Limits = Limits { default: 1000, max: 1000 };

/// The server with this id: in the caller's project or, for an admin, anywhere.
pub(super) async fn find(session: &Session, id: &str) -> Result<VirtualMachine, Fault> {
    session.find_anywhere(id).await?.ok_or_else(|| Fault::not_found("Instance", id))
}

/// What the views of servers in `namespace` (`None`: in all) need.
pub(super) async fn context(
    session: &Session,
    version: Microversion,
    namespace: Option<&str>,
) -> Result<Context, Fault> {
    let mut context = Context {
        endpoint: session.door.endpoint.clone(),
        admin: session.is_admin(),
        version: version.0,
        ..Context::default()
    };
    fn scoped<K>(session: &Session, namespace: Option<&str>) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        namespace.map_or_else(|| session.everywhere(), |namespace| session.within(namespace))
    }
    // As many as there are machines, and read while these are.
    let ports = scoped::<Port>(session, namespace);
    let ports = aside(async move { lean::members(&ports).await });
    let (security_groups, floating) =
        (scoped::<SecurityGroup>(session, namespace), scoped::<FloatingIp>(session, namespace));
    let (ports, security_groups, floating) =
        tokio::try_join!(ports, ids::list(&security_groups), ids::list(&floating))?;
    context.add_security_groups(&ports, &security_groups);
    context.add_floating(&floating);
    let (flavors, groups, networks, keys, volumes) = (
        session.global::<Flavor>(),
        scoped::<ServerGroup>(session, namespace),
        scoped::<Network>(session, namespace),
        scoped::<KeyPair>(session, namespace),
        scoped::<Volume>(session, namespace),
    );
    let (flavors, groups, images, networks, keys, volumes, zones) = tokio::try_join!(
        ids::list(&flavors),
        ids::list(&groups),
        crate::glance::seen(session),
        ids::list(&networks),
        ids::list(&keys),
        ids::list(&volumes),
        placing::zones(session)
    )?;
    context.zones = zones;
    context.add_groups(&groups);
    context.flavors = flavors.into_iter().map(|flavor| (ids::name(&flavor).to_owned(), flavor)).collect();
    context.add_images(&images);
    context.add_networks(&networks);
    if let Some(own) = namespace {
        context.add_networks(&lent::networks(session, own).await?);
    }
    context.add_keys(&keys);
    context.add_volumes(&volumes);
    match namespace {
        Some(own) if session.namespace().is_ok_and(|mine| mine == own) => {
            context.projects.insert(own.to_owned(), session.project_id().to_owned());
        }
        _ => {
            for project in ids::list(&session.global::<Project>()).await? {
                if let Some(namespace) = directory::home(&project) {
                    context.projects.insert(namespace.to_owned(), project.id());
                }
            }
        }
    }
    Ok(context)
}

/// Work that goes on beside what the request does meanwhile, on another thread where one is free.
async fn aside<T: Send + 'static>(
    work: impl Future<Output = Result<T, Fault>> + Send + 'static,
) -> Result<T, Fault> {
    tokio::spawn(work).await.map_err(|error| {
        Fault::new(StatusCode::INTERNAL_SERVER_ERROR, format!("The list broke off: {error}"))
    })?
}

/// `GET /servers`
pub(super) async fn list(session: Session, version: Microversion, params: Params) -> Answer {
    collection(&session, version, &params, false).await
}

/// `GET /servers/detail`
pub(super) async fn detail(session: Session, version: Microversion, params: Params) -> Answer {
    collection(&session, version, &params, true).await
}

async fn collection(session: &Session, version: Microversion, params: &Params, detail: bool) -> Answer {
    let all = params.get("all_tenants").is_some() && params.flag("all_tenants")?.unwrap_or(true);
    let machines = if all { session.everywhere::<VirtualMachine>() } else { session.own()? };
    let namespace = if all { None } else { Some(session.namespace()?) };
    // A list without details shows nothing that is not in the machine, unless it is filtered by it.
    let needed = detail
        || ["flavor", "image", "tenant_id", "project_id", "availability_zone", "key_name"]
            .iter()
            .any(|key| params.get(key).is_some());
    let (mut machines, context) = if needed {
        let machines = aside(async move { lean::machines(&machines).await });
        tokio::try_join!(machines, context(session, version, namespace))?
    } else {
        let context = Context { endpoint: session.door.endpoint.clone(), ..Context::default() };
        (lean::machines(&machines).await?, context)
    };
    let filter = Filter::new(params)?;
    machines.retain(|vm| filter.takes(&context, vm));
    page::sort(params, ("created_at", "desc"), &mut machines, sort_value)?;
    let (machines, next) = page::cut(params, PAGE, machines, Identified::id)?;
    let path = if detail { "servers/detail" } else { "servers" };
    let url = format!("{}/compute/v2.1/{path}", session.door.endpoint);
    if detail {
        let servers = machines.iter().map(|vm| Server::of(&context, vm, false)).collect();
        return encoded(&Page { servers, links: page::links(&url, params, next.as_deref()) });
    }
    let views = machines.iter().map(|vm| view::brief(&context, vm)).collect();
    Ok(ok(&page::body("servers", views, (&url, params, next.as_deref()))))
}

/// A page of servers with details.
#[derive(Serialize)]
struct Page<'a> {
    servers: Vec<Server<'a>>,
    #[serde(rename = "servers_links", skip_serializing_if = "Option::is_none")]
    links: Option<Value>,
}

fn encoded(page: &Page<'_>) -> Answer {
    let body = serde_json::to_vec(page).map_err(|error| {
        Fault::new(StatusCode::INTERNAL_SERVER_ERROR, format!("The list could not be encoded: {error}"))
    })?;
    Ok((StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], body).into_response())
}

fn sort_value(vm: &VirtualMachine, key: &str) -> Option<String> {
    match key {
        // The name makes the order of machines made in the same second a fixed one.
        "created_at" => Some(format!("{} {}", stamp::seconds(stamp::created(vm)), ids::name(vm))),
        "updated_at" | "launched_at" => Some(stamp::seconds(view::updated(vm))),
        "display_name" | "name" => Some(vm.display_name()),
        "uuid" | "id" => Some(vm.id()),
        "vm_state" | "status" => Some(state::state_of(vm, Timestamp::now()).vm.to_owned()),
        "host" | "node" => Some(vm.spec.node_name.clone().unwrap_or_default()),
        _ => None,
    }
}

/// The memory that a regular expression may take, bytes.
const PATTERN: usize = 1 << 18;

/// What names are asked for: a regular expression, as in Nova. What is none is looked for as it is.
enum Name<'a> {
    Pattern(Regex),
    Part(&'a str),
}

impl<'a> Name<'a> {
    fn new(text: &'a str) -> Self {
        let pattern = RegexBuilder::new(text).size_limit(PATTERN).dfa_size_limit(PATTERN).build();
        pattern.map_or(Self::Part(text), Self::Pattern)
    }

    fn takes(&self, name: &str) -> bool {
        match self {
            Self::Pattern(pattern) => pattern.is_match(name),
            Self::Part(text) => name.contains(text),
        }
    }
}

/// The filters of a list; those that Nova would not look at for this caller are not looked at.
struct Filter<'a> {
    params: &'a Params,
    name: Option<Name<'a>>,
    deleted: bool,
    since: Option<Timestamp>,
    before: Option<Timestamp>,
    locked: Option<bool>,
    now: Timestamp,
}

/// Whether a server has the tags that a query asks for: all, one, not all, or none of those in a list (2.26).
fn tagged(params: &Params, own: &[String]) -> bool {
    let has = |tag: &str| own.iter().any(|one| one == tag);
    let list = |key: &str| params.get(key).map(|text| text.split(',').collect::<Vec<_>>());
    list("tags").is_none_or(|tags| tags.iter().all(|tag| has(tag)))
        && list("tags-any").is_none_or(|tags| tags.iter().any(|tag| has(tag)))
        && list("not-tags").is_none_or(|tags| !tags.iter().all(|tag| has(tag)))
        && list("not-tags-any").is_none_or(|tags| !tags.iter().any(|tag| has(tag)))
}

impl<'a> Filter<'a> {
    fn new(params: &'a Params) -> Result<Self, Fault> {
        let name = params.get("name").map(Name::new);
        let time = |key: &str| {
            let at = params.get(key).map(|text| {
                text.parse::<Timestamp>().map_err(|_| {
                    Fault::bad(format!("Invalid input for query parameter {key}: {text} is no time"))
                })
            });
            at.transpose()
        };
        let (since, before) = (time("changes-since")?, time("changes-before")?);
        Ok(Self {
            params,
            name,
            deleted: params.flag("deleted")?.unwrap_or(false),
            since,
            before,
            locked: params.flag("locked")?,
            now: Timestamp::now(),
        })
    }

    fn takes(&self, context: &Context, vm: &VirtualMachine) -> bool {
        let named = self.name.as_ref().is_none_or(|wanted| wanted.takes(&vm.display_name()));
        // Of most lists nothing is asked: what it takes to know is made only where something is.
        let asks = |key: &str| self.params.get(key).is_some();
        let state = || state::state_of(vm, self.now);
        let is = |key: &str, value: &str| {
            let mut wanted = self.params.all(key).peekable();
            wanted.peek().is_none() || wanted.any(|wanted| wanted.eq_ignore_ascii_case(value))
        };
        let at = |name: &str| (ids::namespace(vm).to_owned(), name.to_owned());
        let key = || {
            let pair = vm.spec.key_pair.as_ref();
            pair.map(|name| context.keys.get(&at(name)).unwrap_or(name)).cloned().unwrap_or_default()
        };
        let flavor = || context.flavors.get(&vm.spec.flavor).map(Identified::id).unwrap_or_default();
        let image = || {
            let id = vm.spec.image.as_deref().and_then(|name| context.image(ids::namespace(vm), name));
            id.cloned().unwrap_or_default()
        };
        let project = || context.projects.get(ids::namespace(vm)).cloned().unwrap_or_default();
        let zone = || {
            let node = vm.spec.node_name.as_ref();
            node.and_then(|node| context.zones.get(node)).cloned().unwrap_or_default()
        };
        let address = |text: &str| {
            let status = vm.status.as_ref();
            status.into_iter().flat_map(|status| &status.addresses).any(|address| address.ip.contains(text))
        };
        named
            && !self.deleted
            && self.since.is_none_or(|since| view::updated(vm) >= since)
            && (!asks("status") || is("status", state().status))
            && (!asks("vm_state") || is("vm_state", state().vm))
            && tagged(self.params, &vm.spec.tags)
            && self.before.is_none_or(|before| view::updated(vm) <= before)
            && self.locked.is_none_or(|locked| vm.spec.lock.is_some() == locked)
            && (!asks("availability_zone") || is("availability_zone", &zone()))
            && (!asks("hostname") || is("hostname", &vm.hostname()))
            && (!asks("key_name") || is("key_name", &key()))
            && (!asks("uuid") || is("uuid", &vm.id()))
            && is("host", vm.spec.node_name.as_deref().unwrap_or_default())
            && (!asks("flavor") || is("flavor", &flavor()))
            && (!asks("image") || is("image", &image()))
            && (!asks("project_id") || is("project_id", &project()))
            && (!asks("tenant_id") || is("tenant_id", &project()))
            && self.params.get("ip").is_none_or(address)
    }
}

/// `GET /servers/{id}`
pub(super) async fn show(session: Session, version: Microversion, Path(id): Path<String>) -> Answer {
    let vm = find(&session, &id).await?;
    let context = context(&session, version, Some(ids::namespace(&vm))).await?;
    Ok(ok(&json!({"server": view::full(&context, &vm, true)})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UpdateBody {
    server: UpdateFields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateFields {
    #[serde(default)]
    name: Option<String>,
    #[serde(default, deserialize_with = "explicit")]
    description: Option<Option<String>>,
    #[serde(default)]
    hostname: Option<String>,
    #[serde(default, rename = "accessIPv4")]
    access_v4: Option<Value>,
    #[serde(default, rename = "accessIPv6")]
    access_v6: Option<Value>,
    #[serde(default, rename = "OS-DCF:diskConfig")]
    disk_config: Option<Value>,
}

/// Writes annotations; a value of none takes one away.
pub(super) async fn annotate(
    session: &Session,
    vm: VirtualMachine,
    annotations: BTreeMap<String, Option<String>>,
) -> Result<VirtualMachine, Fault> {
    if annotations.is_empty() {
        return Ok(vm);
    }
    let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
    let machines = session.within::<VirtualMachine>(ids::namespace(&vm));
    Ok(machines.patch(ids::name(&vm), &PatchParams::default(), &patch).await?)
}

/// `PUT /servers/{id}`: another name, description or address to be reached at. A guest that runs keeps the host name that it was told.
pub(super) async fn update(
    session: Session,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<UpdateBody>,
) -> Answer {
    let fields = body.server;
    let later =
        [("description", 19, fields.description.is_some()), ("hostname", 90, fields.hostname.is_some())];
    if let Some((field, ..)) = later.iter().find(|(_, since, given)| *given && version < Microversion(*since))
    {
        return Err(Fault::bad(format!(
            "Invalid input for field/attribute server. Additional properties are not allowed ('{field}' was unexpected)"
        )));
    }
    if let Some(name) = &fields.name {
        ids::check_name("name", name, false)?;
    }
    if let Some(hostname) = &fields.hostname {
        super::request::check_hostname(version, hostname)?;
    }
    if fields.description.as_ref().and_then(Option::as_ref).is_some_and(|text| text.chars().count() > 255) {
        return Err(Fault::bad(
            "Invalid input for field/attribute description. It is too long: 255 characters at most.",
        ));
    }
    let mut annotations = super::request::access(fields.access_v4.as_ref(), fields.access_v6.as_ref())?;
    super::request::disk_config(fields.disk_config.as_ref(), &mut annotations)?;
    let vm = find(&session, &id).await?;
    let namespace = ids::namespace(&vm).to_owned();
    let vm = annotate(&session, vm, annotations).await?;
    let changes = Changes::default()
        .set("displayName", fields.name)
        .set("hostname", fields.hostname)
        .set("description", fields.description.map(|text| json!(text)));
    let vm = if changes.is_empty() { vm } else { changes.apply(&session.within(&namespace), &vm).await? };
    let context = context(&session, version, Some(&namespace)).await?;
    Ok(ok(&json!({"server": view::updated_view(&context, &vm, false)})))
}

/// `DELETE /servers/{id}`
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    let vm = find(&session, &id).await?;
    unlocked(&session, &vm)?;
    let machines = session.within::<VirtualMachine>(ids::namespace(&vm));
    machines.delete(ids::name(&vm), &DeleteParams::default()).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `GET /servers/{id}/ips`
pub(super) async fn addresses(session: Session, Path(id): Path<String>) -> Answer {
    let mut addresses = addresses_of(&session, &id).await?;
    for entry in
        addresses.as_object_mut().into_iter().flat_map(|all| all.values_mut()).filter_map(Value::as_array_mut)
    {
        // This older answer has but the two.
        entry.iter_mut().for_each(|one| *one = json!({"addr": one["addr"], "version": one["version"]}));
    }
    Ok(ok(&json!({"addresses": addresses})))
}

/// A server's addresses by the names of its networks.
async fn addresses_of(session: &Session, id: &str) -> Result<Value, Fault> {
    let vm = find(session, id).await?;
    let namespace = ids::namespace(&vm);
    let floating = session.within::<FloatingIp>(namespace);
    let (networks, floating) = tokio::try_join!(usable(session, namespace), ids::list(&floating))?;
    let mut context = Context::default();
    context.add_networks(&networks);
    context.add_floating(&floating);
    Ok(view::addresses(&context, &vm))
}

/// `GET /servers/{id}/ips/{network}`
pub(super) async fn addresses_on(session: Session, Path((id, network)): Path<(String, String)>) -> Answer {
    let all = addresses_of(&session, &id).await?;
    let own = all
        .get(&network)
        .and_then(Value::as_array)
        .ok_or_else(|| Fault::new(StatusCode::NOT_FOUND, "Instance is not a member of specified network"))?;
    let own: Vec<Value> =
        own.iter().map(|one| json!({"addr": one["addr"], "version": one["version"]})).collect();
    Ok(ok(&json!({network: own})))
}

/// `GET /servers/{id}/diagnostics`: what is known without asking the hypervisor; the rest is null, as for other drivers of Nova.
pub(super) async fn diagnostics(session: Session, version: Microversion, Path(id): Path<String>) -> Answer {
    super::actions::admin_only(&session, "os_compute_api:os-server-diagnostics")?;
    let vm = find(&session, &id).await?;
    let now = Timestamp::now();
    let found = state::state_of(&vm, now);
    state::expect("get_diagnostics", &id, found, &["active", "rescued", "resized"])?;
    let size = vm.spec.resources.clone().unwrap_or_default();
    if version < Microversion(48) {
        // Each hypervisor has words of its own: of libvirt's this is the one that is known, KiB.
        return Ok(ok(&json!({"memory": u64::from(size.memory_mib) * 1024})));
    }
    let started = vm.status.as_ref().and_then(|status| status.started_at.as_ref());
    let macs = vm.status.iter().flat_map(|status| &status.addresses);
    let nics: Vec<Value> = macs
        .map(|one| {
            json!({"mac_address": one.mac, "rx_octets": null, "rx_errors": null, "rx_drop": null, "rx_packets": null,
                   "rx_rate": null, "tx_octets": null, "tx_errors": null, "tx_drop": null, "tx_packets": null, "tx_rate": null})
        })
        .collect();
    let disk = json!({"read_bytes": null, "read_requests": null, "write_bytes": null, "write_requests": null, "errors_count": null});
    let disks = vec![disk; vm.spec.volumes.len() + usize::from(vm.boot_volume().is_none())];
    let cpus: Vec<Value> =
        (0..size.vcpus).map(|id| json!({"id": id, "time": null, "utilisation": null})).collect();
    Ok(ok(&json!({
        "state": "running", "driver": "libvirt", "hypervisor": "qemu", "hypervisor_os": "linux",
        "uptime": started.map(|at| now.duration_since(at.0).as_secs().max(0)), "config_drive": vm.spec.config_drive,
        "num_cpus": cpus.len(), "num_nics": nics.len(), "num_disks": disks.len(),
        "memory_details": {"maximum": size.memory_mib, "used": null},
        "cpu_details": cpus, "nic_details": nics, "disk_details": disks,
    })))
}
