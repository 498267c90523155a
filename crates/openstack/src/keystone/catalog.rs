//! The catalog: which services there are and where. The cloud's own are the same for every project and stay as they are; operators add others
//! as objects. Everybody has the catalog with their token, and may see the regions; the lists that it is made from are for admins and for
//! readers of the whole cloud (Keystone's default policies).

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use kube::api::{DeleteParams, PostParams};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use yunfan_resources::Identified;
use yunfan_resources::iam::{
    CatalogEndpoint, CatalogEndpointSpec, CatalogService, CatalogServiceSpec, Interface, Region, RegionSpec,
};

use super::named::{extra, extra_change, show_extra};
use super::{collection, endpoint_groups};
use crate::Ctx;
use crate::auth::Session;
use crate::body::{Json, Params, explicit};
use crate::change::Changes;
use crate::error::{Answer, Fault};
use crate::ids;
use crate::versions::{json_response, ok};

/// The region of the cloud's own services.
const REGION: &str = "RegionOne";
const INTERFACES: [&str; 3] = ["public", "internal", "admin"];

struct Service {
    kind: &'static str,
    name: &'static str,
    description: &'static str,
    path: &'static str,
}

const SERVICES: [Service; 7] = [
    Service { kind: "identity", name: "keystone", description: "Identity", path: "/identity/v3" },
    Service { kind: "compute", name: "nova", description: "Compute", path: "/compute/v2.1" },
    Service { kind: "image", name: "glance", description: "Image", path: "/image" },
    Service { kind: "network", name: "neutron", description: "Networking", path: "/network" },
    Service { kind: "block-storage", name: "cinder", description: "Block storage", path: "/volume/v3" },
    // The name that clients used before there was an agreed one.
    Service { kind: "volumev3", name: "cinderv3", description: "Block storage", path: "/volume/v3" },
    Service { kind: "placement", name: "placement", description: "Placement", path: "/placement" },
];

/// The catalog as a token of a project (an id), or of none, carries it.
pub(super) async fn catalog(door: &Ctx, project: Option<&str>) -> Result<Value, Fault> {
    let base = &door.endpoint;
    let shown = endpoint_groups::shown(door, project).await?;
    let added = door.directory.all::<CatalogService>().await?.list();
    let endpoints = door.directory.all::<CatalogEndpoint>().await?.list();
    let added_to = |id: &str| -> Vec<Value> {
        let of = endpoints.iter().map(|endpoint| (endpoint.id(), &endpoint.spec));
        let of = of.filter(|(_, spec)| spec.enabled && spec.service_id == id);
        of.map(|(id, spec)| {
            json!({
                "id": id, "interface": spec.interface, "region": spec.region, "region_id": spec.region, "url": spec.url,
            })
        })
        .collect()
    };
    let own = SERVICES.iter().map(|service| {
        let id = service_id(service);
        let endpoints = INTERFACES.iter().map(|interface| {
            json!({
                "id": endpoint_id(service, interface), "interface": interface, "region": REGION, "region_id": REGION,
                "url": format!("{base}{}", service.path),
            })
        });
        let endpoints: Vec<Value> = endpoints.chain(added_to(id)).collect();
        json!({"id": id, "type": service.kind, "name": service.name, "endpoints": endpoints})
    });
    let mut services: Vec<Value> = own.collect();
    for service in added.iter().filter(|service| service.spec.enabled) {
        let (id, name) = (service.id(), service.spec.display_name.as_deref().unwrap_or_default());
        let endpoints = added_to(&id);
        services.push(json!({"id": id, "type": service.spec.kind, "name": name, "endpoints": endpoints}));
    }
    if let Some(shown) = shown {
        for service in &mut services {
            let id = service["id"].as_str().unwrap_or_default().to_owned();
            if let Some(endpoints) = service["endpoints"].as_array_mut() {
                endpoints.retain(|endpoint| shown.has(&id, endpoint));
            }
        }
        // A service that a project has no endpoint of is none of its.
        services.retain(|service| service["endpoints"].as_array().is_some_and(|all| !all.is_empty()));
    }
    Ok(Value::Array(services))
}

/// The ids of the cloud's own services, and of their endpoints in the order of [`INTERFACES`]: each token carries them.
static IDS: LazyLock<Vec<(String, [String; 3])>> = LazyLock::new(|| {
    let ids = |service: &Service| {
        let endpoint = |interface| ids::stable(&format!("endpoint:{}:{interface}", service.kind));
        (ids::stable(&format!("service:{}", service.kind)), INTERFACES.map(endpoint))
    };
    SERVICES.iter().map(ids).collect()
});

fn service_id(service: &Service) -> &'static str {
    let at = SERVICES.iter().position(|own| own.kind == service.kind);
    at.and_then(|at| IDS.get(at)).map(|(id, _)| id.as_str()).unwrap_or_default()
}

fn endpoint_id(service: &Service, interface: &str) -> &'static str {
    let at = SERVICES.iter().position(|own| own.kind == service.kind);
    let which = INTERFACES.iter().position(|own| *own == interface);
    let found = at.and_then(|at| IDS.get(at)).zip(which).and_then(|((_, all), which)| all.get(which));
    found.map(String::as_str).unwrap_or_default()
}

/// `GET /auth/catalog`
pub(super) async fn show(session: Session) -> Answer {
    let links = json!({"self": format!("{}/identity/v3/auth/catalog", session.door.endpoint)});
    let project = session.claims.project.as_ref().map(|project| project.id.as_str());
    Ok(ok(&json!({"catalog": catalog(&session.door, project).await?, "links": links})))
}

pub(super) fn link(session: &Session, path: &str, id: &str) -> Value {
    json!({"self": format!("{}/identity/v3/{path}/{id}", session.door.endpoint)})
}

fn matches(params: &Params, view: &Value, keys: &[&str]) -> bool {
    keys.iter().all(|key| params.get(key).is_none_or(|wanted| view[*key] == wanted))
}

/// Refuses to change what every cloud has.
fn own(what: &str) -> Fault {
    Fault::forbidden(format!("The {what} is the cloud's own, and stays as it is; add others beside it."))
}

fn required(given: Option<String>, name: &str) -> Result<String, Fault> {
    let given = given.filter(|given| !given.is_empty());
    given.ok_or_else(|| Fault::bad(format!("'{name}' is a required property")))
}

// Regions.

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RegionBody {
    region: RegionFields,
}

#[derive(Default, Deserialize)]
struct RegionFields {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default, deserialize_with = "explicit")]
    parent_region_id: Option<Option<String>>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

fn own_region(session: &Session) -> Value {
    json!({"id": REGION, "description": "", "parent_region_id": null, "links": link(session, "regions", REGION)})
}

fn region_view(session: &Session, region: &Region) -> Value {
    let id = region.id();
    let mut view = json!({
        "id": id, "description": region.spec.description.as_deref().unwrap_or_default(),
        "parent_region_id": region.spec.parent, "links": link(session, "regions", &id),
    });
    show_extra(&mut view, &region.spec.extra);
    view
}

pub(super) async fn region_views(session: &Session) -> Result<Vec<Value>, Fault> {
    let added = session.door.directory.all::<Region>().await?.list();
    let own = std::iter::once(own_region(session));
    Ok(own.chain(added.iter().map(|region| region_view(session, region))).collect())
}

async fn find_region(session: &Session, id: &str) -> Result<Region, Fault> {
    if id == REGION {
        return Err(own("region"));
    }
    let found = session.door.directory.with_id::<Region>(id).await?;
    found.map(|region| (*region).clone()).ok_or_else(|| Fault::not_found("Could not find region:", id))
}

async fn check_region(session: &Session, id: Option<&str>) -> Result<(), Fault> {
    match id {
        Some(id) if !region_views(session).await?.iter().any(|region| region["id"] == id) => {
            Err(Fault::bad(format!("Could not find region: {id}.")))
        }
        _ => Ok(()),
    }
}

/// `GET /regions`
pub(super) async fn regions(session: Session, params: Params) -> Answer {
    let mut views = region_views(&session).await?;
    views.retain(|view| matches(&params, view, &["parent_region_id"]));
    Ok(collection(&session, "regions", "regions", views))
}

/// `GET /regions/{id}`
pub(super) async fn region(session: Session, Path(id): Path<String>) -> Answer {
    let found = region_views(&session).await?.into_iter().find(|view| view["id"] == id.as_str());
    Ok(ok(&json!({"region": found.ok_or_else(|| Fault::not_found("Could not find region:", &id))?})))
}

async fn make_region(session: &Session, id: Option<String>, fields: RegionFields) -> Answer {
    if id.is_some() && fields.id.is_some() && id != fields.id {
        return Err(Fault::bad("The region's id in the path and in the body differ."));
    }
    let id = id.or(fields.id).filter(|id| !id.is_empty()).unwrap_or_else(ids::plain);
    ids::check_name("id", &id, false)?;
    let taken = region_views(session).await?.iter().any(|view| view["id"] == id.as_str());
    if taken || id.contains('/') {
        return Err(Fault::conflict(format!(
            "Conflict occurred attempting to store region - Duplicate ID, {id}."
        )));
    }
    let parent = fields.parent_region_id.flatten();
    check_region(session, parent.as_deref()).await?;
    let (description, extra) = (fields.description, extra(&fields.extra)?);
    let spec = RegionSpec { id: Some(id.clone()), display_name: None, description, parent, extra };
    let made = ids::create(&session.global::<Region>(), Region::new("", spec), &id).await?;
    session.door.directory.saw(&made).await?;
    Ok(json_response(StatusCode::CREATED, &json!({"region": region_view(session, &made)})))
}

/// `POST /regions`
pub(super) async fn create_region(session: Session, Json(body): Json<RegionBody>) -> Answer {
    make_region(&session, None, body.region).await
}

/// `PUT /regions/{id}`
pub(super) async fn put_region(
    session: Session,
    Path(id): Path<String>,
    Json(body): Json<RegionBody>,
) -> Answer {
    make_region(&session, Some(id), body.region).await
}

/// `PATCH /regions/{id}`
pub(super) async fn update_region(
    session: Session,
    Path(id): Path<String>,
    Json(body): Json<RegionBody>,
) -> Answer {
    let region = find_region(&session, &id).await?;
    let fields = body.region;
    if fields.id.as_ref().is_some_and(|given| *given != id) {
        return Err(Fault::bad("A region's id cannot be changed."));
    }
    if let Some(parent) = fields.parent_region_id.as_ref().and_then(Option::as_deref) {
        check_region(&session, Some(parent)).await?;
    }
    let changes = Changes::default()
        .set("description", fields.description)
        .set("parent", fields.parent_region_id)
        .set("extra", extra_change(&fields.extra)?);
    let region = changes.apply(&session.global::<Region>(), &region).await?;
    session.door.directory.saw(&region).await?;
    Ok(ok(&json!({"region": region_view(&session, &region)})))
}

/// `DELETE /regions/{id}`
pub(super) async fn delete_region(session: Session, Path(id): Path<String>) -> Answer {
    let region = find_region(&session, &id).await?;
    let directory = &session.door.directory;
    let parts = directory.all::<Region>().await?.list();
    let endpoints = directory.all::<CatalogEndpoint>().await?.list();
    if parts.iter().any(|part| part.spec.parent.as_deref() == Some(&id))
        || endpoints.iter().any(|endpoint| endpoint.spec.region.as_deref() == Some(&id))
    {
        return Err(Fault::forbidden(format!(
            "Unable to delete region {id} because it or its child regions have associated endpoints."
        )));
    }
    session.global::<Region>().delete(ids::name(&region), &DeleteParams::default()).await?;
    directory.saw_gone(&region).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

// Services.

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServiceBody {
    service: ServiceFields,
}

#[derive(Deserialize)]
struct ServiceFields {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    enabled: Option<bool>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

fn service_view(session: &Session, service: &CatalogService) -> Value {
    let (spec, id) = (&service.spec, service.id());
    let mut view = json!({
        "id": id, "type": spec.kind, "enabled": spec.enabled, "name": spec.display_name.as_deref().unwrap_or_default(),
        "links": link(session, "services", &id),
    });
    if let Some(description) = &spec.description {
        view["description"] = json!(description);
    }
    show_extra(&mut view, &spec.extra);
    view
}

pub(super) async fn service_views(session: &Session) -> Result<Vec<Value>, Fault> {
    let own = SERVICES.iter().map(|service| {
        let id = service_id(service);
        json!({
            "id": id, "type": service.kind, "name": service.name, "description": service.description, "enabled": true,
            "links": link(session, "services", id),
        })
    });
    let added = session.door.directory.all::<CatalogService>().await?.list();
    Ok(own.chain(added.iter().map(|service| service_view(session, service))).collect())
}

async fn find_service(session: &Session, id: &str) -> Result<CatalogService, Fault> {
    if SERVICES.iter().any(|service| service_id(service) == id) {
        return Err(own("service"));
    }
    let found = session.door.directory.with_id::<CatalogService>(id).await?;
    found.map(|service| (*service).clone()).ok_or_else(|| Fault::not_found("Could not find service:", id))
}

/// `GET /services`
pub(super) async fn services(session: Session, params: Params) -> Answer {
    super::for_readers::<CatalogService>(&session).await?;
    let mut views = service_views(&session).await?;
    views.retain(|view| matches(&params, view, &["type", "name"]));
    Ok(collection(&session, "services", "services", views))
}

/// `GET /services/{id}`
pub(super) async fn service(session: Session, Path(id): Path<String>) -> Answer {
    super::for_readers::<CatalogService>(&session).await?;
    let found = service_views(&session).await?.into_iter().find(|view| view["id"] == id.as_str());
    Ok(ok(&json!({"service": found.ok_or_else(|| Fault::not_found("Could not find service:", &id))?})))
}

/// `POST /services`
pub(super) async fn create_service(session: Session, Json(body): Json<ServiceBody>) -> Answer {
    let fields = body.service;
    let spec = CatalogServiceSpec {
        id: Some(ids::plain()),
        display_name: fields.name.clone(),
        description: fields.description,
        kind: required(fields.kind, "type")?,
        enabled: fields.enabled.unwrap_or(true),
        extra: extra(&fields.extra)?,
    };
    let label = fields.name.filter(|name| !name.is_empty()).unwrap_or_else(|| spec.kind.clone());
    let made =
        ids::create(&session.global::<CatalogService>(), CatalogService::new("", spec), &label).await?;
    session.door.directory.saw(&made).await?;
    Ok(json_response(StatusCode::CREATED, &json!({"service": service_view(&session, &made)})))
}

/// `PATCH /services/{id}`
pub(super) async fn update_service(
    session: Session,
    Path(id): Path<String>,
    Json(body): Json<ServiceBody>,
) -> Answer {
    let service = find_service(&session, &id).await?;
    let fields = body.service;
    let changes = Changes::default()
        .set("type", fields.kind)
        .set("displayName", fields.name)
        .set("description", fields.description)
        .set("enabled", fields.enabled)
        .set("extra", extra_change(&fields.extra)?);
    let service = changes.apply(&session.global::<CatalogService>(), &service).await?;
    session.door.directory.saw(&service).await?;
    Ok(ok(&json!({"service": service_view(&session, &service)})))
}

/// `DELETE /services/{id}`, and its endpoints.
pub(super) async fn delete_service(session: Session, Path(id): Path<String>) -> Answer {
    let service = find_service(&session, &id).await?;
    session.global::<CatalogService>().delete(ids::name(&service), &DeleteParams::default()).await?;
    let directory = &session.door.directory;
    for endpoint in directory.all::<CatalogEndpoint>().await?.list() {
        if endpoint.spec.service_id == id {
            let endpoints = session.global::<CatalogEndpoint>();
            super::gone(endpoints.delete(ids::name(&*endpoint), &DeleteParams::default()).await)?;
        }
    }
    directory.saw_gone(&service).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

// Endpoints.

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EndpointBody {
    endpoint: EndpointFields,
}

#[derive(Deserialize)]
struct EndpointFields {
    #[serde(default)]
    service_id: Option<String>,
    #[serde(default)]
    interface: Option<String>,
    #[serde(default)]
    url: Option<String>,
    #[serde(default, deserialize_with = "explicit")]
    region_id: Option<Option<String>>,
    /// What `region_id` was called before.
    #[serde(default)]
    region: Option<String>,
    #[serde(default)]
    enabled: Option<bool>,
    #[serde(default)]
    name: Option<String>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

impl EndpointFields {
    fn interface(&self) -> Result<Option<Interface>, Fault> {
        self.interface
            .as_deref()
            .map(|text| match text {
                "public" => Ok(Interface::Public),
                "internal" => Ok(Interface::Internal),
                "admin" => Ok(Interface::Admin),
                _ => Err(Fault::bad(format!(
                    "Invalid input for field/attribute interface. {text} is none of public, internal and admin."
                ))),
            })
            .transpose()
    }

    fn check(&self) -> Result<(), Fault> {
        match &self.url {
            Some(url) if url.len() > 4096 || url.contains(['$', '%']) || !url.contains("://") => {
                Err(Fault::bad(format!(
                    "Invalid input for field/attribute url. {url} must be an address without substitutions."
                )))
            }
            _ => Ok(()),
        }
    }

    /// The region that it names; one that only the old word names is made, as clients of that word expect.
    async fn region(&self, session: &Session) -> Result<Option<Option<String>>, Fault> {
        if let (None, Some(old)) = (&self.region_id, &self.region) {
            if !region_views(session).await?.iter().any(|view| view["id"] == old.as_str()) {
                make_region(session, Some(old.clone()), RegionFields::default()).await?;
            }
            return Ok(Some(Some(old.clone())));
        }
        if let Some(Some(id)) = &self.region_id {
            check_region(session, Some(id)).await?;
        }
        Ok(self.region_id.clone())
    }
}

fn endpoint_view(session: &Session, endpoint: &CatalogEndpoint) -> Value {
    let (spec, id) = (&endpoint.spec, endpoint.id());
    let mut view = json!({
        "id": id, "service_id": spec.service_id, "interface": spec.interface, "enabled": spec.enabled,
        "region": spec.region, "region_id": spec.region, "url": spec.url, "links": link(session, "endpoints", &id),
    });
    if let Some(name) = &spec.display_name {
        view["name"] = json!(name);
    }
    show_extra(&mut view, &spec.extra);
    view
}

pub(super) async fn endpoint_views(session: &Session) -> Result<Vec<Value>, Fault> {
    let mut views = Vec::with_capacity(SERVICES.len() * INTERFACES.len());
    for service in &SERVICES {
        for interface in INTERFACES {
            let id = endpoint_id(service, interface);
            views.push(json!({
                "id": id, "service_id": service_id(service), "interface": interface, "enabled": true,
                "region": REGION, "region_id": REGION, "url": format!("{}{}", session.door.endpoint, service.path),
                "links": link(session, "endpoints", id),
            }));
        }
    }
    let added = session.door.directory.all::<CatalogEndpoint>().await?.list();
    views.extend(added.iter().map(|endpoint| endpoint_view(session, endpoint)));
    Ok(views)
}

async fn find_endpoint(session: &Session, id: &str) -> Result<CatalogEndpoint, Fault> {
    let builtin =
        |service: &Service| INTERFACES.iter().any(|interface| endpoint_id(service, interface) == id);
    if SERVICES.iter().any(builtin) {
        return Err(own("endpoint"));
    }
    let found = session.door.directory.with_id::<CatalogEndpoint>(id).await?;
    found.map(|endpoint| (*endpoint).clone()).ok_or_else(|| Fault::not_found("Could not find endpoint:", id))
}

/// `GET /endpoints`
pub(super) async fn endpoints(session: Session, params: Params) -> Answer {
    super::for_readers::<CatalogEndpoint>(&session).await?;
    let mut views = endpoint_views(&session).await?;
    views.retain(|view| matches(&params, view, &["service_id", "interface", "region_id"]));
    Ok(collection(&session, "endpoints", "endpoints", views))
}

/// `GET /endpoints/{id}`
pub(super) async fn endpoint(session: Session, Path(id): Path<String>) -> Answer {
    super::for_readers::<CatalogEndpoint>(&session).await?;
    let found = endpoint_views(&session).await?.into_iter().find(|view| view["id"] == id.as_str());
    Ok(ok(&json!({"endpoint": found.ok_or_else(|| Fault::not_found("Could not find endpoint:", &id))?})))
}

/// `POST /endpoints`
pub(super) async fn create_endpoint(session: Session, Json(body): Json<EndpointBody>) -> Answer {
    let fields = body.endpoint;
    fields.check()?;
    let service = required(fields.service_id.clone(), "service_id")?;
    if !service_views(&session).await?.iter().any(|view| view["id"] == service.as_str()) {
        return Err(Fault::bad(format!("Could not find service: {service}.")));
    }
    let interface = fields.interface()?.ok_or_else(|| Fault::bad("'interface' is a required property"))?;
    let region = fields.region(&session).await?.flatten();
    let id = ids::plain();
    let spec = CatalogEndpointSpec {
        id: Some(id.clone()),
        display_name: fields.name,
        service_id: service,
        interface,
        url: required(fields.url, "url")?,
        region,
        enabled: fields.enabled.unwrap_or(true),
        extra: extra(&fields.extra)?,
    };
    let endpoint = CatalogEndpoint::new(&format!("endpoint-{id}"), spec);
    let made = session.global::<CatalogEndpoint>().create(&PostParams::default(), &endpoint).await?;
    session.door.directory.saw(&made).await?;
    Ok(json_response(StatusCode::CREATED, &json!({"endpoint": endpoint_view(&session, &made)})))
}

/// `PATCH /endpoints/{id}`
pub(super) async fn update_endpoint(
    session: Session,
    Path(id): Path<String>,
    Json(body): Json<EndpointBody>,
) -> Answer {
    let endpoint = find_endpoint(&session, &id).await?;
    let fields = body.endpoint;
    fields.check()?;
    if let Some(service) = &fields.service_id
        && !service_views(&session).await?.iter().any(|view| view["id"] == service.as_str())
    {
        return Err(Fault::bad(format!("Could not find service: {service}.")));
    }
    let interface = fields.interface()?.map(|interface| json!(interface));
    let region = fields.region(&session).await?;
    let changes = Changes::default()
        .set("serviceId", fields.service_id)
        .set("interface", interface)
        .set("url", fields.url)
        .set("region", region)
        .set("displayName", fields.name)
        .set("enabled", fields.enabled)
        .set("extra", extra_change(&fields.extra)?);
    let endpoint = changes.apply(&session.global::<CatalogEndpoint>(), &endpoint).await?;
    session.door.directory.saw(&endpoint).await?;
    Ok(ok(&json!({"endpoint": endpoint_view(&session, &endpoint)})))
}

/// `DELETE /endpoints/{id}`
pub(super) async fn delete_endpoint(session: Session, Path(id): Path<String>) -> Answer {
    let endpoint = find_endpoint(&session, &id).await?;
    endpoint_groups::forget_endpoint(&session, &id).await?;
    session.global::<CatalogEndpoint>().delete(ids::name(&endpoint), &DeleteParams::default()).await?;
    session.door.directory.saw_gone(&endpoint).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
