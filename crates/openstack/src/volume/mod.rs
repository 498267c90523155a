//! Cinder v3: volumes, their types, quotas and limits.
//!
//! A volume is a Volume object, a type a VolumeType. What Cinder does step by step and shows as a status between (`attaching`,
//! `extending`) is here the difference between what objects want and what they say; `view` finds it. Attaching is the machine's
//! wish, so it is Nova's door that does it.

mod actions;
mod attachments;
mod backends;
mod backups;
mod default_types;
mod group_snapshots;
mod group_types;
mod groups;
mod image;
mod marks;
mod messages;
mod metadata;
mod outside;
mod qos;
mod quotas;
mod snapshots;
mod transfers;
mod type_specs;
mod types;
mod update;
mod view;
mod volumes;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post, put};
pub(crate) use backups::is_backup;
use serde_json::{Value, json};
pub(crate) use snapshots::usable as usable_snapshot;
use tower::ServiceExt;
pub(crate) use types::find as find_type;
pub(crate) use view::{Machines, attachment_id, status_of};
pub(crate) use volumes::{check_image, make, size};
use yunfan_resources::storage::{Volume, VolumeSnapshot};

use crate::Ctx;
use crate::auth::{self, RequestId, Session};
use crate::body::Params;
use crate::error::{Answer, Fault, Shape, render};
use crate::microversion::{CINDER, Microversion};
use crate::page::Limits;
use crate::ruled::Whole;
use crate::versions::{self, json_response, ok};
use crate::zone::ZONE;

/// The first words of paths that do not begin with a project.
const ROOTS: [&str; 23] = [
    "attachments",
    "group_snapshots",
    "group_types",
    "groups",
    "os-volume-transfer",
    "volume-transfers",
    "backups",
    "messages",
    "volumes",
    "snapshots",
    "types",
    "limits",
    "os-quota-sets",
    "os-quota-class-sets",
    "os-availability-zone",
    "extensions",
    "os-services",
    "os-hosts",
    "qos-specs",
    "scheduler-stats",
    "capabilities",
    "default-types",
    "resource_filters",
];
/// The pages of lists.
const PAGE: Limits = Limits { default: 1000, max: 1000 };

/// Answers with a page, and with how many there are in all, where that is asked for (3.45).
fn counted(version: Microversion, params: &Params, mut body: Value, count: usize) -> Answer {
    if version >= Microversion(45) && params.flag("with_count")? == Some(true) {
        body["count"] = json!(count);
    }
    Ok(ok(&body))
}

/// Everything below `/volume`.
pub(crate) fn router(door: Ctx) -> Router {
    let endpoint = door.endpoint.clone();
    let services = services().with_state(door.clone());
    let state = door.clone();
    let handler = any(move |request: Request| scoped(state.clone(), services.clone(), request));
    Router::new()
        .route("/", get(root))
        .route("/v3", get(version))
        .route("/v3/{*rest}", handler)
        .layer(from_fn(|request, next| CINDER.negotiate(request, next)))
        .layer(from_fn(identify))
        .layer(map_response(move |response: Response| {
            let response = render(Shape::Cinder, &endpoint, response);
            async move { response }
        }))
        .with_state(door)
}

/// What answers for volumes, by paths without version and project.
pub(crate) fn services() -> Router<Ctx> {
    Router::new()
        .route("/volumes", get(volumes::list).post(volumes::create))
        .route("/volumes/detail", get(volumes::detail))
        .route("/volumes/summary", get(volumes::summary))
        .route("/volumes/{id}", get(volumes::show).put(update::update).delete(volumes::delete))
        .route("/volumes/{id}/action", post(actions::act))
        .route("/snapshots", get(snapshots::list).post(snapshots::create))
        .route("/snapshots/detail", get(snapshots::detail))
        .route("/snapshots/{id}", get(snapshots::show).put(snapshots::update).delete(snapshots::delete))
        .route("/snapshots/{id}/action", post(snapshots::act))
        .merge(pairs::<Volume>("/volumes"))
        .merge(pairs::<VolumeSnapshot>("/snapshots"))
        .route("/types", get(types::list).post(types::create))
        .route("/types/default", get(types::default))
        .route("/types/{id}", get(types::show).put(types::update).delete(types::delete))
        .route("/types/{id}/extra_specs", get(type_specs::list).post(type_specs::set))
        .route(
            "/types/{id}/extra_specs/{key}",
            get(type_specs::show).put(type_specs::set_one).delete(type_specs::delete),
        )
        .route("/types/{id}/os-volume-type-access", get(type_specs::access))
        .route("/types/{id}/action", post(type_specs::act))
        .route("/qos-specs", get(qos::list).post(qos::create))
        .route("/qos-specs/{id}", get(qos::show).put(qos::set).delete(qos::delete))
        .route("/qos-specs/{id}/delete_keys", put(qos::unset))
        .route("/qos-specs/{id}/{word}", get(qos::relate))
        .route("/attachments", get(attachments::list).post(attachments::create))
        .route("/attachments/detail", get(attachments::detail))
        .route(
            "/attachments/{id}",
            get(attachments::show).put(attachments::update).delete(attachments::delete),
        )
        .route("/attachments/{id}/action", post(attachments::act))
        .route("/backups", get(backups::list).post(backups::create))
        .route("/backups/detail", get(backups::detail))
        .route("/backups/import_record", post(backups::record))
        .route("/backups/{id}", get(backups::show).put(backups::update).delete(backups::delete))
        .route("/backups/{id}/restore", post(backups::restore))
        .route("/backups/{id}/action", post(backups::act))
        .route("/backups/{id}/export_record", get(backups::record))
        .merge(group_routes())
        .merge(transfer_routes("/os-volume-transfer"))
        .merge(transfer_routes("/volume-transfers"))
        .route("/os-services", get(backends::services))
        .route("/os-services/{verb}", put(backends::put_service))
        .route("/os-hosts", get(backends::hosts))
        .route("/os-hosts/{host}", get(backends::show_host))
        .route("/scheduler-stats/get_pools", get(backends::pools))
        .route("/capabilities/{host}", get(backends::capabilities))
        .route("/messages", get(messages::list))
        .route("/messages/{id}", get(messages::show).delete(messages::delete))
        .route("/default-types", get(default_types::list))
        .route(
            "/default-types/{project}",
            get(default_types::show).put(default_types::set).delete(default_types::unset),
        )
        .route("/resource_filters", get(filters))
        .route("/limits", get(quotas::limits))
        .route("/os-quota-sets/{project}", get(quotas::show).put(quotas::update).delete(quotas::delete))
        .route("/os-quota-sets/{project}/defaults", get(quotas::defaults))
        .route("/os-quota-class-sets/{class}", get(quotas::class).put(quotas::set_class))
        .route("/os-availability-zone", get(zones))
        .route("/extensions", get(extensions))
}

/// Groups of volumes, what they are like, and their snapshots.
fn group_routes() -> Router<Ctx> {
    use group_types as kinds;
    Router::new()
        .route("/group_types", get(kinds::list).post(kinds::create))
        .route("/group_types/{id}", get(kinds::show).put(kinds::update).delete(kinds::delete))
        .route("/group_types/{id}/group_specs", get(kinds::specs).post(kinds::set))
        .route(
            "/group_types/{id}/group_specs/{key}",
            get(kinds::spec).put(kinds::set_one).delete(kinds::unset),
        )
        .route("/groups", get(groups::list).post(groups::create))
        .route("/groups/detail", get(groups::detail))
        .route("/groups/action", post(groups::create_from))
        .route("/groups/{id}", get(groups::show).put(groups::update))
        .route("/groups/{id}/action", post(groups::act))
        .route("/group_snapshots", get(group_snapshots::list).post(group_snapshots::create))
        .route("/group_snapshots/detail", get(group_snapshots::detail))
        .route("/group_snapshots/{id}", get(group_snapshots::show).delete(group_snapshots::delete))
        .route("/group_snapshots/{id}/action", post(group_snapshots::act))
}

/// Transfers, which have two paths: the second came with 3.55.
fn transfer_routes(path: &str) -> Router<Ctx> {
    Router::new()
        .route(path, get(transfers::list).post(transfers::create))
        .route(&format!("{path}/detail"), get(transfers::detail))
        .route(&format!("{path}/{{id}}"), get(transfers::show).delete(transfers::delete))
        .route(&format!("{path}/{{id}}/accept"), post(transfers::accept))
}

/// The metadata of the things below `path`.
fn pairs<T: metadata::Tagged>(path: &str) -> Router<Ctx> {
    let all = get(metadata::list::<T>).post(metadata::merge::<T>).put(metadata::replace::<T>);
    let one = get(metadata::show::<T>).put(metadata::set::<T>).delete(metadata::delete::<T>);
    Router::new()
        .route(&format!("{path}/{{id}}/metadata"), all)
        .route(&format!("{path}/{{id}}/metadata/{{key}}"), one)
}

/// Paths are written with a project in front and without one: to the service both are one. The project must be the token's.
async fn scoped(door: Ctx, services: Router, mut request: Request) -> Response {
    let path = request.uri().path().trim_start_matches("/v3/");
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    let mut inner = path.to_owned();
    if !ROOTS.contains(&first) {
        let project = match auth::claims(&door, request.headers(), "x-auth-token") {
            Err(fault) => return fault.into_response(),
            Ok(None) => return Fault::unauthorized().into_response(),
            Ok(Some(claims)) => claims.project.map(|project| project.id),
        };
        if project.as_deref() != Some(first) {
            let known = project.is_some() && looks_like_project(first);
            return if known {
                Fault::bad("Malformed request url").into_response()
            } else {
                StatusCode::NOT_FOUND.into_response()
            };
        }
        inner = rest.to_owned();
    }
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    // A part of a valid URI's path is one, too.
    if let Ok(uri) = format!("/{inner}{query}").parse() {
        *request.uri_mut() = uri;
    }
    // What the outer router found in the path would be taken for the services' own path arguments.
    let version = request.extensions().get::<Microversion>().copied();
    let id = request.extensions().get::<RequestId>().cloned();
    let whole = request.extensions().get::<Whole>().cloned();
    let kept = request.extensions_mut();
    kept.clear();
    version.map(|version| kept.insert(version));
    id.map(|id| kept.insert(id));
    whole.map(|whole| kept.insert(whole));
    match services.oneshot(request).await {
        Ok(response) => response.map(Body::new),
        Err(never) => match never {},
    }
}

/// Gives a request its id, by which what it did is told elsewhere, too: among a server's actions.
async fn identify(mut request: Request, next: Next) -> Response {
    let id = format!("req-{}", uuid::Uuid::new_v4());
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = next.run(request).await;
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-openstack-request-id", value);
    }
    response
}

fn looks_like_project(word: &str) -> bool {
    word.len() == 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// `GET /`: the list of versions, with the status that says that there is a choice.
async fn root(State(door): State<Ctx>) -> Response {
    json_response(StatusCode::MULTIPLE_CHOICES, &json!({"versions": [versions::cinder(&door.endpoint)]}))
}

/// `GET /v3`
async fn version(State(door): State<Ctx>) -> Response {
    ok(&json!({"versions": [versions::cinder(&door.endpoint)]}))
}

/// `GET /os-availability-zone`: there is one.
async fn zones(_: Session) -> Answer {
    Ok(ok(&json!({"availabilityZoneInfo": [{"zoneName": ZONE, "zoneState": {"available": true}}]})))
}

/// What lists can be filtered by.
const FILTERS: [(&str, &[&str]); 7] = [
    ("volume", &["name", "status", "metadata", "bootable", "availability_zone"]),
    ("snapshot", &["name", "status", "volume_id", "metadata"]),
    ("backup", &["name", "status", "volume_id"]),
    ("group", &[]),
    ("group_snapshot", &["group_id"]),
    ("attachment", &["volume_id", "status", "instance_id", "attach_status"]),
    ("volume_type", &["is_public", "name"]),
];

/// `GET /resource_filters` (3.33)
async fn filters(_: Session, version: Microversion, params: Params) -> Answer {
    if version < Microversion(33) {
        return Err(Fault::new(StatusCode::NOT_FOUND, "The resource could not be found."));
    }
    let wanted = params.get("resource");
    let known = FILTERS.iter().filter(|(resource, _)| wanted.is_none_or(|wanted| wanted == *resource));
    let views: Vec<Value> =
        known.map(|(resource, filters)| json!({"resource": resource, "filters": filters})).collect();
    if views.is_empty() {
        return Err(Fault::bad(format!("Invalid filter resource: {}", wanted.unwrap_or_default())));
    }
    Ok(ok(&json!({"resource_filters": views})))
}

/// What Cinder's extensions were once, as far as they are served: name and alias. What is newer is said by the microversion.
const EXTENSIONS: [(&str, &str); 15] = [
    ("AdminActions", "os-admin-actions"),
    ("AvailabilityZones", "os-availability-zone"),
    ("Backups", "backups"),
    ("Capabilities", "capabilities"),
    ("Hosts", "os-hosts"),
    ("Quotas", "os-quota-sets"),
    ("Scheduler_stats", "scheduler-stats"),
    ("Services", "os-services"),
    ("SnapshotActions", "os-snapshot-actions"),
    ("TypesExtraSpecs", "os-types-extra-specs"),
    ("TypesManage", "os-types-manage"),
    ("VolumeActions", "os-volume-actions"),
    ("VolumeImageMetadata", "os-vol-image-meta"),
    ("VolumeTransfer", "os-volume-transfer"),
    ("VolumeTypeAccess", "os-volume-type-access"),
];

/// `GET /extensions`
async fn extensions(_: Session) -> Response {
    let views = EXTENSIONS.map(|(name, alias)| {
        json!({"name": name, "alias": alias, "description": name, "updated": "2014-01-01T00:00:00+00:00", "links": []})
    });
    ok(&json!({"extensions": views}))
}
