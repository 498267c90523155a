//! Neutron v2.0: networks, subnets, ports, routers, floating IPs, security groups and address groups. What the cloud does not program (IPv6 outside of tenants' own networks) is
//! refused; nothing is accepted and then left undone.

mod address_groups;
mod address_scopes;
mod agents;
mod availability;
mod bulk;
mod external;
mod extraroutes;
mod floating;
mod forwardings;
mod groups;
mod networks;
mod outer_ports;
mod pages;
mod port_checks;
mod port_dhcp;
mod ports;
mod qos;
mod quotas;
mod rbac;
mod revision;
mod routers;
mod rules;
mod subnet_modes;
mod subnetpools;
mod subnets;
mod tags;
mod view;

pub(crate) use groups::ensure_default;

use axum::Router;
use axum::extract::State;
use axum::middleware::{from_fn, map_response};
use axum::response::Response;
use axum::routing::{get, put};
use serde_json::json;

use crate::Ctx;
use crate::auth::Session;
use crate::error::{Answer, Fault, Shape, render};
use crate::versions::{self, ok};

/// Everything below `/network`.
pub(crate) fn router(door: Ctx) -> Router {
    let endpoint = door.endpoint.clone();
    let v2 = Router::new()
        .route("/", get(resources))
        .route("/networks", get(networks::list).post(networks::create))
        .route("/networks/{id}", get(networks::show).put(networks::update).delete(networks::delete))
        .route("/subnets", get(subnets::list).post(subnets::create))
        .route("/subnets/{id}", get(subnets::show).put(subnets::update).delete(subnets::delete))
        .route("/subnetpools", get(subnetpools::list).post(subnetpools::create))
        .route(
            "/subnetpools/{id}",
            get(subnetpools::show).put(subnetpools::update).delete(subnetpools::delete),
        )
        .route("/subnetpools/{id}/add_prefixes", put(subnetpools::add))
        .route("/subnetpools/{id}/remove_prefixes", put(subnetpools::remove))
        .route("/network-ip-availabilities", get(availability::list))
        .route("/network-ip-availabilities/{network}", get(availability::show))
        .route("/ports", get(ports::list).post(ports::create))
        .route("/ports/{id}", get(ports::show).put(ports::update).delete(ports::delete))
        .route("/routers", get(routers::list).post(routers::create))
        .route("/routers/{id}", get(routers::show).put(routers::update).delete(routers::delete))
        .route("/routers/{id}/add_router_interface", put(routers::add_interface))
        .route("/routers/{id}/remove_router_interface", put(routers::remove_interface))
        .route("/routers/{id}/add_extraroutes", put(extraroutes::add))
        .route("/routers/{id}/remove_extraroutes", put(extraroutes::remove))
        .route("/floatingips", get(floating::list).post(floating::create))
        .route("/floatingips/{id}", get(floating::show).put(floating::update).delete(floating::delete))
        .route("/floatingips/{id}/port_forwardings", get(forwardings::list).post(forwardings::create))
        .route(
            "/floatingips/{id}/port_forwardings/{forwarding}",
            get(forwardings::show).put(forwardings::update).delete(forwardings::delete),
        )
        .route("/security-groups", get(groups::list).post(groups::create))
        .route("/security-groups/{id}", get(groups::show).put(groups::update).delete(groups::delete))
        .route("/address-scopes", get(address_scopes::list).post(address_scopes::create))
        .route(
            "/address-scopes/{id}",
            get(address_scopes::show).put(address_scopes::update).delete(address_scopes::delete),
        )
        .route("/address-groups", get(address_groups::list).post(address_groups::create))
        .route(
            "/address-groups/{id}",
            get(address_groups::show).put(address_groups::update).delete(address_groups::delete),
        )
        .route("/address-groups/{id}/add_addresses", put(address_groups::add))
        .route("/address-groups/{id}/remove_addresses", put(address_groups::remove))
        .route("/security-group-rules", get(rules::list).post(rules::create))
        .route("/security-group-rules/{id}", get(rules::show).delete(rules::delete))
        .route("/quotas", get(quotas::list))
        .route("/quotas/{project}", get(quotas::show).put(quotas::update).delete(quotas::delete))
        .route("/quotas/{project}/default", get(quotas::defaults))
        .route("/quotas/{project}/details.json", get(quotas::details))
        .route("/quotas/{project}/details", get(quotas::details))
        .nest("/qos", qos::routes())
        .route("/rbac-policies", get(rbac::list).post(rbac::create))
        .route("/rbac-policies/{id}", get(rbac::show).put(rbac::update).delete(rbac::delete))
        .route("/agents", get(agents::list))
        .route("/agents/{id}", get(agents::show).delete(agents::delete))
        .route("/availability_zones", get(agents::zones))
        .route("/service-providers", get(agents::providers))
        .merge(tags::routes())
        .route("/extensions", get(extensions))
        .route("/extensions/{alias}", get(extension));
    Router::new()
        .route("/", get(root))
        .nest("/v2.0", v2)
        .layer(from_fn(revision::guard))
        .layer(map_response(move |response: Response| {
            let response = render(Shape::Neutron, &endpoint, response);
            async move { response }
        }))
        .with_state(door)
}

async fn root(State(door): State<Ctx>) -> Response {
    ok(&json!({"versions": [versions::neutron(&door.endpoint)]}))
}

async fn resources(State(door): State<Ctx>) -> Response {
    let kinds: Vec<_> = [
        "networks",
        "subnets",
        "subnetpools",
        "ports",
        "routers",
        "floatingips",
        "security-groups",
        "security-group-rules",
    ]
    .iter()
    .map(|kind| {
        let href = format!("{}/network/v2.0/{kind}", door.endpoint);
        let collection = kind.replace('-', "_");
        let name = collection.trim_end_matches('s');
        json!({"name": name, "collection": collection, "links": [{"rel": "self", "href": href}]})
    })
    .collect();
    ok(&json!({"resources": kinds}))
}

/// The extensions of Neutron that are served: alias, name, description.
const EXTENSIONS: [(&str, &str, &str); 55] = [
    ("address-group", "Address group", "Rules of security groups speak of sets of addresses."),
    ("address-scope", "Address scope", "Subnet pools whose addresses are told apart."),
    ("agent", "agent", "Shows the agents of nodes."),
    ("allowed-address-pairs", "Allowed Address Pairs", "A port may use addresses beside its own."),
    ("availability_zone", "Availability Zone", "Shows the zones of networks and routers."),
    ("binding", "Port Binding", "Shows on which host a port is."),
    ("default-subnetpools", "Default Subnetpools", "Subnets get ranges from the default subnet pool."),
    (
        "empty-string-filtering",
        "Empty String Filtering Extension",
        "Lists are filtered by members that are empty.",
    ),
    (
        "ext-gw-mode",
        "Neutron L3 Configurable external gateway mode",
        "A router translates addresses, or not.",
    ),
    (
        "external-net",
        "Neutron external network",
        "Networks outside, whose addresses routers and floating IPs have.",
    ),
    ("extraroute", "Neutron Extra Route", "Routers have static routes."),
    (
        "extraroute-atomic",
        "Atomically add/remove extra routes",
        "Routers get some more routes, or lose some.",
    ),
    (
        "expose-port-forwarding-in-fip",
        "Expose Port Forwarding in FIP",
        "A floating IP shows its port forwardings.",
    ),
    ("filter-validation", "Filter parameters validation", "Filters by members that nothing has are refused."),
    ("extra_dhcp_opt", "Neutron Extra DHCP options", "DHCP tells single ports what their owners want."),
    (
        "fip-port-details",
        "Floating IP Port Details Extension",
        "A floating IP shows the port that it stands for.",
    ),
    (
        "floating-ip-port-forwarding",
        "Floating IP Port Forwarding",
        "Ports of a floating IP lead to several ports.",
    ),
    (
        "floating-ip-port-forwarding-description",
        "Floating IP Port Forwarding new description field",
        "Port forwardings have descriptions.",
    ),
    (
        "floating-ip-port-forwarding-detail",
        "Floating IP Port Forwarding details",
        "A floating IP shows the ids of its port forwardings.",
    ),
    (
        "floating-ip-port-forwarding-port-ranges",
        "Floating IP Port Forwarding support for port ranges",
        "Port forwardings have ranges of ports.",
    ),
    ("ip-substring-filtering", "IP address substring filtering", "Ports are found by a part of an address."),
    ("net-mtu", "Network MTU", "Shows a network's MTU."),
    ("net-mtu-writable", "Network MTU (writable)", "A network's MTU can be chosen."),
    (
        "network-ip-availability",
        "Network IP Availability",
        "Shows how many addresses networks have, and use.",
    ),
    ("pagination", "Pagination support", "Lists are cut by limit and marker."),
    ("port-security", "Port Security", "Ports are kept to their own addresses, or not."),
    ("project-id", "project_id field enabled", "Objects say project_id beside tenant_id."),
    ("qos", "Quality of Service", "Policies say how much ports take and send."),
    ("qos-bw-limit-direction", "Direction for QoS bandwidth limit rule", "Limits hold each way."),
    ("qos-default", "QoS default policy", "New networks of a project have its default policy."),
    (
        "qos-port-network-policy",
        "QoS policy of a port's network",
        "Ports show the policy that their network has.",
    ),
    ("qos-rule-type-details", "Details of QoS rule types", "Shows what rules may say."),
    ("qos-rule-type-filter", "Filter of QoS rule types", "Lists the types of rules that can be had."),
    ("qos-rules-alias", "QoS rules without their policy", "Rules are reached by their own ids."),
    ("quota_details", "Quota details management support", "Limits are shown with what is used of them."),
    ("quotas", "Quota management support", "Limits of what a project may have."),
    ("rbac-address-scope", "Add address_scope type to RBAC", "Projects share address scopes."),
    ("rbac-policies", "RBAC Policies", "Projects share networks and QoS policies with one another."),
    ("rbac-subnetpool", "Add subnetpool type to RBAC", "Projects share subnet pools."),
    (
        "revision-if-match",
        "If-Match constraints based on revision_number",
        "What has been changed since is not changed over.",
    ),
    ("router", "Neutron L3 Router", "Routers between networks, and floating IPs."),
    ("security-group", "security-group", "What may come to ports and leave them."),
    (
        "security-groups-normalized-cidr",
        "Normalized CIDR field for security group rules",
        "Rules show the range that they mean.",
    ),
    (
        "security-groups-remote-address-group",
        "Remote address group id field for security group rules",
        "Rules speak of address groups.",
    ),
    ("service-type", "Neutron Service Type Management", "Shows which services have several providers."),
    ("sorting", "Sorting support", "Lists are sorted by sort_key and sort_dir."),
    ("standard-attr-description", "standard-attr-description", "Objects have descriptions."),
    ("standard-attr-revisions", "Resource revision numbers", "Objects say how often they were changed."),
    ("standard-attr-tag", "Tag support for resources with standard attribute", "Objects are found by tags."),
    ("standard-attr-timestamp", "Resource timestamps", "Objects say when they were made."),
    (
        "subnetpool-prefix-ops",
        "Subnet Pool Prefix Operations",
        "Subnet pools get some more prefixes, or lose some.",
    ),
    ("stateful-security-group", "Stateful security group", "Groups that judge each packet by itself."),
    ("subnet-service-types", "Subnet service types", "Subnets are for some ports alone."),
    ("subnet_allocation", "Subnet Allocation", "Subnets get their ranges from subnet pools."),
    ("tag", "Tag support", "Networks are found by tags."),
];

fn extension_view((alias, name, description): &(&str, &str, &str)) -> serde_json::Value {
    json!({"alias": alias, "name": name, "description": description, "updated": "2016-09-12T10:00:00-00:00", "links": []})
}

async fn extensions(_: Session) -> Response {
    ok(&json!({"extensions": EXTENSIONS.iter().map(extension_view).collect::<Vec<_>>()}))
}

async fn extension(_: Session, axum::extract::Path(alias): axum::extract::Path<String>) -> Answer {
    let found = EXTENSIONS.iter().find(|(own, _, _)| *own == alias);
    let found = found.ok_or_else(|| Fault::not_found("Extension with alias", &alias))?;
    Ok(ok(&json!({"extension": extension_view(found)})))
}
