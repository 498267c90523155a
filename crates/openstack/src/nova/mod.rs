//! Nova v2.1: servers, flavors, key pairs, quotas and what clients ask around them.
//!
//! A server is a VirtualMachine, a flavor a Flavor, a key pair a KeyPair. Start reading at `servers`, then `view` (object to
//! JSON) and `create` (JSON to object).

mod actions;
mod aggregates;
mod consoles;
mod create;
mod devices;
mod events;
mod flavors;
mod groups;
mod hosts;
mod images;
mod interfaces;
mod keypairs;
mod metadata;
mod migrations;
mod neutron;
mod nodes;
mod old_addresses;
mod old_groups;
mod old_networks;
mod old_volumes;
mod password;
mod personality;
mod placing;
mod quotas;
mod rebirth;
mod record;
mod request;
mod server_groups;
mod servers;
mod shelve;
mod shown;
mod snapshot;
mod specs;
mod sshkey;
mod state;
mod tags;
mod usage;
mod view;
mod volume_backed;
mod volumes;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn, map_response};
use axum::response::Response;
use axum::routing::{get, post, put};
pub(crate) use create::is_active;
pub(crate) use nodes::{heard_of, is_ready, is_schedulable, own_host, quantity};
pub(crate) use record::note;
use serde_json::json;
pub(crate) use view::CREATOR;
pub(crate) use volume_backed::parts as image_parts;

use crate::Ctx;
use crate::auth::RequestId;
use crate::error::{Answer, Fault, Shape, render};
use crate::microversion::NOVA;
use crate::versions::{self, ok};

/// Everything below `/compute`.
pub(crate) fn router(door: Ctx) -> Router {
    let endpoint = door.endpoint.clone();
    let v21 = Router::new()
        .route("/servers", get(servers::list).post(create::create))
        .route("/servers/detail", get(servers::detail))
        .route("/servers/{id}", get(servers::show).put(servers::update).delete(servers::delete))
        .route("/servers/{id}/action", post(actions::act))
        .route("/servers/{id}/os-interface", get(interfaces::list).post(interfaces::attach))
        .route("/servers/{id}/os-interface/{port}", get(interfaces::show).delete(interfaces::detach))
        .route("/servers/{id}/os-security-groups", get(groups::list))
        .route("/servers/{id}/ips", get(servers::addresses))
        .route("/servers/{id}/ips/{network}", get(servers::addresses_on))
        .route("/servers/{id}/diagnostics", get(servers::diagnostics))
        .route("/servers/{id}/os-server-password", get(password::show).delete(password::clear))
        .route("/servers/{id}/remote-consoles", post(consoles::create))
        .route("/os-console-auth-tokens/{token}", get(consoles::show_token))
        .route("/servers/{id}/os-instance-actions", get(record::list))
        .route("/servers/{id}/os-instance-actions/{request}", get(record::show))
        .route("/servers/{id}/tags", get(tags::list).put(tags::replace).delete(tags::clear))
        .route("/servers/{id}/tags/{tag}", get(tags::show).put(tags::add).delete(tags::delete))
        .route("/servers/{id}/os-volume_attachments", get(volumes::list).post(volumes::create))
        .route(
            "/servers/{id}/os-volume_attachments/{volume}",
            get(volumes::show).put(volumes::update).delete(volumes::delete),
        )
        .route("/servers/{id}/metadata", get(metadata::list).post(metadata::merge).put(metadata::replace))
        .route(
            "/servers/{id}/metadata/{key}",
            get(metadata::show).put(metadata::set).delete(metadata::delete),
        )
        .route("/flavors", get(flavors::list).post(flavors::create))
        .route("/flavors/detail", get(flavors::detail))
        .route("/flavors/{id}", get(flavors::show).put(flavors::update).delete(flavors::delete))
        .route("/flavors/{id}/action", post(specs::act))
        .route("/flavors/{id}/os-flavor-access", get(specs::access))
        .route("/flavors/{id}/os-extra_specs", get(specs::list).post(specs::set))
        .route(
            "/flavors/{id}/os-extra_specs/{key}",
            get(specs::show).put(specs::set_one).delete(specs::delete),
        )
        .route("/os-keypairs", get(keypairs::list).post(keypairs::create))
        .route("/os-keypairs/{name}", get(keypairs::show).delete(keypairs::delete))
        .route("/os-quota-sets/{project}", get(quotas::show).put(quotas::update).delete(quotas::delete))
        .route("/os-quota-sets/{project}/defaults", get(quotas::defaults))
        .route("/os-quota-sets/{project}/detail", get(quotas::detail))
        .route("/os-quota-class-sets/{class}", get(quotas::class).put(quotas::set_class))
        .route("/os-server-external-events", post(events::create))
        .route("/os-simple-tenant-usage", get(usage::list))
        .route("/os-simple-tenant-usage/{project}", get(usage::show))
        .route("/os-migrations", get(migrations::list))
        .route("/servers/{id}/migrations", get(migrations::under_way))
        .route("/os-instance_usage_audit_log", get(migrations::audit_log))
        .route("/os-instance_usage_audit_log/{time}", get(migrations::audit_log_before))
        .route("/limits", get(quotas::limits))
        .route("/os-availability-zone", get(nodes::zones))
        .route("/os-availability-zone/detail", get(nodes::zones_detail))
        .route("/os-hypervisors", get(nodes::hypervisors))
        .route("/os-hypervisors/detail", get(nodes::hypervisors_detail))
        .route("/os-hypervisors/statistics", get(nodes::statistics))
        .route("/os-hypervisors/{id}/search", get(nodes::search_by_name))
        .route("/os-hypervisors/{id}/servers", get(nodes::servers_by_name))
        .route("/os-hypervisors/{id}", get(nodes::hypervisor))
        .route("/os-hypervisors/{id}/uptime", get(nodes::uptime))
        .route("/os-hosts", get(hosts::list))
        .route("/os-hosts/{name}", get(hosts::show).put(hosts::update))
        .route("/os-hosts/{name}/{word}", get(hosts::power))
        .route("/os-services", get(nodes::services))
        .route("/os-services/{what}", put(nodes::put_service))
        .route("/os-aggregates", get(aggregates::list).post(aggregates::create))
        .route(
            "/os-aggregates/{id}",
            get(aggregates::show).put(aggregates::update).delete(aggregates::delete),
        )
        .route("/os-aggregates/{id}/action", post(aggregates::act))
        .route("/images", get(images::list))
        .route("/images/detail", get(images::detail))
        .route("/images/{id}", get(images::show).delete(images::delete))
        .route("/images/{id}/metadata", get(images::metadata).post(images::merge).put(images::replace))
        .route("/images/{id}/metadata/{key}", get(images::item).put(images::set).delete(images::unset))
        .route("/extensions", get(extensions))
        .route("/extensions/{alias}", get(show_extension))
        .merge(neutron::router())
        .merge(old_volumes::router(crate::volume::services().with_state(door.clone())))
        .route("/os-server-groups", get(server_groups::list).post(server_groups::create))
        .route("/os-server-groups/{id}", get(server_groups::show).delete(server_groups::delete))
        .layer(axum::Extension(neutron::Service(std::sync::Arc::new(crate::neutron::router(door.clone())))));
    let spoken = |router: Router<Ctx>| {
        router.layer(from_fn(identify)).layer(from_fn(|request, next| NOVA.negotiate(request, next)))
    };
    // What spoke to Nova before there were microversions: the same, in the oldest of them.
    let v2 = spoken(v21.clone().route("/", get(first_version))).layer(from_fn(without_version));
    Router::new()
        .route("/", get(root))
        .nest("/v2", v2)
        .nest("/v2.1", spoken(v21.route("/", get(version))))
        .layer(map_response(move |response: Response| {
            let response = render(Shape::Nova, &endpoint, response);
            async move { response }
        }))
        .with_state(door)
}

async fn root(State(door): State<Ctx>) -> Response {
    ok(&json!({"versions": [versions::first_nova(&door.endpoint), versions::nova(&door.endpoint)]}))
}

async fn first_version(State(door): State<Ctx>) -> Response {
    ok(&json!({"version": versions::first_nova(&door.endpoint)}))
}

/// Takes away which microversion is spoken: paths of `v2` have none.
async fn without_version(mut request: Request, next: Next) -> Response {
    for name in ["openstack-api-version", "x-openstack-nova-api-version"] {
        request.headers_mut().remove(name);
    }
    next.run(request).await
}

async fn version(State(door): State<Ctx>) -> Response {
    ok(&json!({"version": versions::nova(&door.endpoint)}))
}

/// What Nova's extensions were once, as far as they are served: name and alias. What is newer is said by the microversion.
const EXTENSIONS: [(&str, &str); 37] = [
    ("AdminActions", "os-admin-actions"),
    ("Aggregates", "os-aggregates"),
    ("AttachInterfaces", "os-attach-interfaces"),
    ("AvailabilityZone", "os-availability-zone"),
    ("BlockDeviceMappingV2Boot", "os-block-device-mapping-v2-boot"),
    ("ConfigDrive", "os-config-drive"),
    ("ConsoleAuthTokens", "os-console-auth-tokens"),
    ("ConsoleOutput", "os-console-output"),
    ("Consoles", "os-consoles"),
    ("DiskConfig", "OS-DCF"),
    ("ExtendedAvailabilityZone", "OS-EXT-AZ"),
    ("ExtendedServerAttributes", "OS-EXT-SRV-ATTR"),
    ("ExtendedStatus", "OS-EXT-STS"),
    ("ExtendedVolumes", "os-extended-volumes"),
    ("FlavorAccess", "os-flavor-access"),
    ("FlavorExtraSpecs", "os-flavor-extra-specs"),
    ("FlavorManage", "os-flavor-manage"),
    ("FloatingIps", "os-floating-ips"),
    ("Hosts", "os-hosts"),
    ("Hypervisors", "os-hypervisors"),
    ("InstanceActions", "os-instance-actions"),
    ("Keypairs", "os-keypairs"),
    ("LockServer", "os-lock-server"),
    ("Migrations", "os-migrations"),
    ("MultipleCreate", "os-multiple-create"),
    ("Networks", "os-networks"),
    ("PauseServer", "os-pause-server"),
    ("Quotas", "os-quota-sets"),
    ("Rescue", "os-rescue"),
    ("SchedulerHints", "OS-SCH-HNT"),
    ("SecurityGroups", "os-security-groups"),
    ("ServerGroups", "os-server-groups"),
    ("ServerUsage", "OS-SRV-USG"),
    ("Services", "os-services"),
    ("Shelve", "os-shelve"),
    ("SimpleTenantUsage", "os-simple-tenant-usage"),
    ("Volumes", "os-volumes"),
];

fn extension((name, alias): (&str, &str)) -> serde_json::Value {
    json!({"name": name, "alias": alias, "description": name, "updated": "2014-12-03T00:00:00Z", "links": [],
           "namespace": "http://docs.openstack.org/compute/ext/fake_xml"})
}

/// `GET /extensions`
async fn extensions(_: crate::auth::Session) -> Response {
    ok(&json!({"extensions": EXTENSIONS.into_iter().map(extension).collect::<Vec<_>>()}))
}

/// `GET /extensions/{alias}`
async fn show_extension(_: crate::auth::Session, Path(alias): Path<String>) -> Answer {
    match EXTENSIONS.into_iter().find(|(_, known)| *known == alias) {
        Some(known) => Ok(ok(&json!({"extension": extension(known)}))),
        None => Err(Fault::new(StatusCode::NOT_FOUND, "The resource could not be found.")),
    }
}

/// Gives a request its id, by which what it did can be found later.
async fn identify(mut request: Request, next: Next) -> Response {
    let id = format!("req-{}", uuid::Uuid::new_v4());
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = next.run(request).await;
    if let Ok(value) = HeaderValue::from_str(&id) {
        for name in ["x-openstack-request-id", "x-compute-request-id"] {
            response.headers_mut().insert(HeaderName::from_static(name), value.clone());
        }
    }
    response
}
