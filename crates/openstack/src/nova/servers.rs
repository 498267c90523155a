//! Listing, showing, renaming and deleting servers.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::compute::{Flavor, KeyPair, VirtualMachine};
use yunfan_resources::iam::Project;
use yunfan_resources::image::Image;
use yunfan_resources::network::{Network, Port, PortPhase, Subnet};
use yunfan_resources::storage::Volume;

use super::view::{self, Context};
use crate::auth::Session;
use crate::body::{Json, Params};
use crate::error::{Answer, Fault};
use crate::microversion::Microversion;
use crate::page::{self, Limits};
use crate::versions::ok;
use crate::{directory, ids, stamp};

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
    let (flavors, images, networks, keys, volumes) = (
        session.global::<Flavor>(),
        scoped::<Image>(session, namespace),
        scoped::<Network>(session, namespace),
        scoped::<KeyPair>(session, namespace),
        scoped::<Volume>(session, namespace),
    );
    let (flavors, images, networks, keys, volumes) = tokio::try_join!(
        ids::list(&flavors),
        ids::list(&images),
        ids::list(&networks),
        ids::list(&keys),
        ids::list(&volumes)
    )?;
    context.flavors = flavors.into_iter().map(|flavor| (ids::name(&flavor).to_owned(), flavor)).collect();
    context.add_images(&images);
    context.add_networks(&networks);
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
    let needed =
        detail || ["flavor", "image", "tenant_id", "project_id"].iter().any(|key| params.get(key).is_some());
    let (mut machines, context) = if needed {
        tokio::try_join!(ids::list(&machines), context(session, version, namespace))?
    } else {
        let context = Context { endpoint: session.door.endpoint.clone(), ..Context::default() };
        (ids::list(&machines).await?, context)
    };
    let filter = Filter::new(params)?;
    machines.retain(|vm| filter.takes(&context, vm));
    page::sort(params, ("created_at", "desc"), &mut machines, sort_value)?;
    let (machines, next) = page::cut(params, PAGE, machines, Identified::id)?;
    let views: Vec<Value> = machines
        .iter()
        .map(|vm| if detail { view::full(&context, vm, false) } else { view::brief(&context, vm) })
        .collect();
    let mut body = json!({"servers": views});
    let path = if detail { "servers/detail" } else { "servers" };
    let url = format!("{}/compute/v2.1/{path}", session.door.endpoint);
    if let Some(links) = page::links(&url, params, next.as_deref()) {
        body["servers_links"] = links;
    }
    Ok(ok(&body))
}

fn sort_value(vm: &VirtualMachine, key: &str) -> Option<String> {
    match key {
        // The name makes the order of machines made in the same second a fixed one.
        "created_at" => Some(format!("{} {}", stamp::seconds(stamp::created(vm)), ids::name(vm))),
        "updated_at" | "launched_at" => Some(stamp::seconds(view::updated(vm))),
        "display_name" | "name" => Some(vm.display_name()),
        "uuid" | "id" => Some(vm.id()),
        "vm_state" | "status" => Some(view::state_of(vm, Timestamp::now()).vm.to_owned()),
        "host" | "node" => Some(vm.spec.node_name.clone().unwrap_or_default()),
        _ => None,
    }
}

/// The filters of a list; those that Nova would not look at for this caller are not looked at.
struct Filter<'a> {
    params: &'a Params,
    name: Option<(&'a str, bool, bool)>,
    deleted: bool,
    since: Option<Timestamp>,
    now: Timestamp,
}

impl<'a> Filter<'a> {
    fn new(params: &'a Params) -> Result<Self, Fault> {
        // Nova takes a regular expression; clients send a plain name, at most between ^ and $.
        let name = params.get("name").map(|text| {
            let (start, rest) = text.strip_prefix('^').map_or((false, text), |rest| (true, rest));
            let (end, rest) = rest.strip_suffix('$').map_or((false, rest), |rest| (true, rest));
            (rest, start, end)
        });
        let since = match params.get("changes-since") {
            None => None,
            Some(text) => Some(text.parse::<Timestamp>().map_err(|_| {
                Fault::bad(format!("Invalid input for query parameter changes-since: {text} is no time"))
            })?),
        };
        Ok(Self {
            params,
            name,
            deleted: params.flag("deleted")?.unwrap_or(false),
            since,
            now: Timestamp::now(),
        })
    }

    fn takes(&self, context: &Context, vm: &VirtualMachine) -> bool {
        let name = vm.display_name();
        let named = self.name.is_none_or(|(text, start, end)| match (start, end) {
            (true, true) => name == text,
            (true, false) => name.starts_with(text),
            (false, true) => name.ends_with(text),
            (false, false) => name.contains(text),
        });
        let state = view::state_of(vm, self.now);
        let is = |key: &str, value: &str| {
            let mut wanted = self.params.all(key).peekable();
            wanted.peek().is_none() || wanted.any(|wanted| wanted.eq_ignore_ascii_case(value))
        };
        let at = |name: &str| (ids::namespace(vm).to_owned(), name.to_owned());
        let flavor = || context.flavors.get(&vm.spec.flavor).map(Identified::id).unwrap_or_default();
        let image = || {
            vm.spec.image.as_ref().and_then(|name| context.images.get(&at(name))).cloned().unwrap_or_default()
        };
        let project = || context.projects.get(ids::namespace(vm)).cloned().unwrap_or_default();
        let address = |text: &str| {
            let status = vm.status.as_ref();
            status.into_iter().flat_map(|status| &status.addresses).any(|address| address.ip.contains(text))
        };
        named
            && !self.deleted
            && self.since.is_none_or(|since| view::updated(vm) >= since)
            && is("status", state.status)
            && is("vm_state", state.vm)
            && is("uuid", &vm.id())
            && is("host", vm.spec.node_name.as_deref().unwrap_or_default())
            && (self.params.get("flavor").is_none() || is("flavor", &flavor()))
            && (self.params.get("image").is_none() || is("image", &image()))
            && (self.params.get("project_id").is_none() || is("project_id", &project()))
            && (self.params.get("tenant_id").is_none() || is("tenant_id", &project()))
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
}

/// `PUT /servers/{id}`: another name. The guest keeps the host name that it was told.
pub(super) async fn update(
    session: Session,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<UpdateBody>,
) -> Answer {
    let vm = find(&session, &id).await?;
    let namespace = ids::namespace(&vm).to_owned();
    let vm = match body.server.name {
        None => vm,
        Some(name) => {
            ids::check_name("name", &name, false)?;
            let patch = Patch::Merge(json!({"spec": {"displayName": name}}));
            let machines = session.within::<VirtualMachine>(&namespace);
            machines.patch(ids::name(&vm), &PatchParams::default(), &patch).await?
        }
    };
    let context = context(&session, version, Some(&namespace)).await?;
    Ok(ok(&json!({"server": view::full(&context, &vm, true)})))
}

/// `DELETE /servers/{id}`
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    let vm = find(&session, &id).await?;
    let machines = session.within::<VirtualMachine>(ids::namespace(&vm));
    machines.delete(ids::name(&vm), &DeleteParams::default()).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `GET /servers/{id}/ips`
pub(super) async fn addresses(session: Session, Path(id): Path<String>) -> Answer {
    let vm = find(&session, &id).await?;
    let mut context = Context::default();
    context.add_networks(&ids::list(&session.within::<Network>(ids::namespace(&vm))).await?);
    let mut addresses = view::addresses(&context, &vm);
    for entry in
        addresses.as_object_mut().into_iter().flat_map(|all| all.values_mut()).filter_map(Value::as_array_mut)
    {
        // This older answer has but the two.
        entry.iter_mut().for_each(|one| *one = json!({"addr": one["addr"], "version": one["version"]}));
    }
    Ok(ok(&json!({"addresses": addresses})))
}

/// `GET /servers/{id}/os-interface`
pub(super) async fn interfaces(session: Session, Path(id): Path<String>) -> Answer {
    let vm = find(&session, &id).await?;
    let namespace = ids::namespace(&vm);
    let (ports, networks, subnets) = (
        session.within::<Port>(namespace),
        session.within::<Network>(namespace),
        session.within::<Subnet>(namespace),
    );
    let (ports, networks, subnets) =
        tokio::try_join!(ids::list(&ports), ids::list(&networks), ids::list(&subnets))?;
    let uid = vm.metadata.uid.as_deref().unwrap_or_default();
    let held = ports.iter().filter(|port| port.spec.holder.as_ref().is_some_and(|holder| holder.uid == uid));
    let network_id = |name: &str| networks.iter().find(|it| ids::name(*it) == name).map(Identified::id);
    let subnet_id = |name: &str| subnets.iter().find(|it| ids::name(*it) == name).map(Identified::id);
    let views: Vec<Value> = held
        .map(|port| {
            let active = port.status.as_ref().is_some_and(|status| status.phase == PortPhase::Active);
            let ips = port.spec.fixed_ips.iter().map(|ip| {
                json!({"ip_address": ip.ip, "subnet_id": ip.subnet.as_deref().and_then(subnet_id)})
            });
            json!({
                "port_id": port.id(), "net_id": network_id(&port.spec.network), "mac_addr": port.spec.mac_address,
                "port_state": if active { "ACTIVE" } else { "DOWN" }, "fixed_ips": ips.collect::<Vec<Value>>(),
            })
        })
        .collect();
    Ok(ok(&json!({"interfaceAttachments": views})))
}
