//! Requests on resources: every verb, for every kind.

use axum::body::Body;
use http::{Request, Response};
use serde_json::{Value, json};
use yunfan_objects::table::IncludeObject;
use yunfan_objects::{ApiError, codec};

use super::body;
use super::negotiate::{self, Format};
use super::options::ReadOptions;
use super::patch::{self, Patch};
use super::render::Renderer;
use super::{Call, listing, pods, respond, review, watch};
use crate::Api;
use crate::kinds::Kind;
use crate::registry::{DeleteOptions, ListOptions, Part, Selection, Stored, Writer, Written, scale_of};

/// Longest name of a field manager.
const MAX_MANAGER: usize = 128;

/// Answers a request on a resource.
pub(super) async fn handle(
    api: &Api,
    call: Call,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let format = negotiate::format(request.headers(), call.params.flag("pretty"), false, true);
    if let Some(kind) = review::find(&call) {
        return review::handle(api, &call, kind, request).await;
    }
    let kind = find(api, &call).await?;
    check_scope(&kind, &call)?;
    match (call.info.subresource.as_str(), call.info.verb.as_str()) {
        ("", "list") => list(api, &call, &kind, format?).await,
        ("", "watch") => start_watch(api, &call, kind, format?).await,
        ("", "create") => create(api, &call, &kind, format?, request).await,
        ("", "delete") => delete(api, &call, &kind, format?, request).await,
        ("", "deletecollection") => delete_collection(api, &call, &kind, format?, request).await,
        ("scale", verb) if kind.descriptor.scale.is_some() => {
            scale(api, &call, &kind, format?, verb, request).await
        }
        ("binding", "create") if kind.is("", "pods") => pods::bind(api, &call, &kind, request).await,
        ("eviction", "create") if kind.is("", "pods") => pods::evict(api, &call, &kind, request).await,
        ("log" | "exec" | "attach", "get" | "create") if kind.is("", "pods") => {
            pods::stream(api, &call, &kind, request).await
        }
        (_, verb) => {
            if call.info.name.is_empty() {
                return Err(ApiError::method_not_allowed(&kind.descriptor.group_resource(), verb));
            }
            let part = part(&kind, &call)?;
            match verb {
                "get" => get(api, &call, &kind, format?).await,
                "update" => update(api, &call, &kind, part, format?, request).await,
                "patch" => patch::handle(api, &call, &kind, part, format?, request).await,
                verb => Err(ApiError::method_not_allowed(&kind.descriptor.group_resource(), verb)),
            }
        }
    }
}

/// The kind at the path; a definition that was just made may not be in the cache yet.
async fn find(api: &Api, call: &Call) -> Result<Kind, ApiError> {
    let info = &call.info;
    let get = || api.0.registry.kinds.table().get(&info.group, &info.version, &info.resource);
    if let Some(kind) = get() {
        return Ok(kind);
    }
    api.0.registry.cache.wait_current().await?;
    get().ok_or_else(ApiError::no_such_path)
}

fn check_scope(kind: &Kind, call: &Call) -> Result<(), ApiError> {
    let namespace = call.info.object_namespace();
    if !kind.descriptor.namespaced && !namespace.is_empty() {
        return Err(ApiError::no_such_path());
    }
    let needs_one = !call.info.name.is_empty() || call.info.verb == "create";
    if kind.descriptor.namespaced && namespace.is_empty() && needs_one {
        let message = format!(
            "an empty namespace may not be set when a resource name is provided, or a {} is created",
            kind.descriptor.kind
        );
        return Err(ApiError::bad_request(message));
    }
    Ok(())
}

fn part(kind: &Kind, call: &Call) -> Result<Part, ApiError> {
    match call.info.subresource.as_str() {
        "" => Ok(Part::Main),
        "status" if kind.descriptor.status_subresource => Ok(Part::Status),
        "finalize" if kind.is("", "namespaces") => Ok(Part::Finalize),
        _ => Err(ApiError::no_such_path()),
    }
}

/// Name in managedFields: as the query says, else the program's name in its user agent.
pub(super) fn manager(call: &Call, headers: &http::HeaderMap) -> Result<String, ApiError> {
    let given = call.params.get("fieldManager");
    if given.is_some_and(|m| m.len() > MAX_MANAGER || m.chars().any(char::is_control)) {
        return Err(ApiError::bad_request("fieldManager: must be at most 128 printable characters"));
    }
    let agent = headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("unknown");
    let program = agent.split('/').next().unwrap_or(agent);
    Ok(given.unwrap_or(program).chars().take(MAX_MANAGER).collect())
}

/// An answer with an object in it.
pub(super) struct Reply<'a> {
    kind: &'a Kind,
    format: Format,
    include: IncludeObject,
    pub(super) warnings: Vec<String>,
}

impl<'a> Reply<'a> {
    pub(super) fn new(call: &Call, kind: &'a Kind, format: Format) -> Result<Self, ApiError> {
        let include = IncludeObject::parse(call.params.get("includeObject"))?;
        let warnings = kind.descriptor.deprecation.iter().cloned().collect();
        Ok(Self { kind, format, include, warnings })
    }

    pub(super) fn object(&self, code: u16, stored: &Stored) -> Response<Body> {
        let mut response = respond::object(code, self.format, self.kind, stored, self.include);
        respond::warn(&mut response, &self.warnings);
        response
    }
}

async fn get(api: &Api, call: &Call, kind: &Kind, format: Format) -> Result<Response<Body>, ApiError> {
    let reply = Reply::new(call, kind, format)?;
    let info = &call.info;
    let revision = call.params.get("resourceVersion");
    let entry = api.0.registry.get(kind, info.object_namespace(), &info.name, revision).await?;
    Ok(reply.object(200, &Stored::from(&entry)))
}

fn selection(call: &Call, kind: &Kind) -> Result<Selection, ApiError> {
    let mut fields = call.params.get("fieldSelector").unwrap_or_default().to_owned();
    if !call.info.name.is_empty() {
        // A watch on one object.
        fields =
            format!("metadata.name={}{}{fields}", call.info.name, if fields.is_empty() { "" } else { "," });
    }
    Selection::parse(kind, call.info.object_namespace(), call.params.get("labelSelector"), Some(&fields))
}

async fn list(api: &Api, call: &Call, kind: &Kind, format: Format) -> Result<Response<Body>, ApiError> {
    let reply = Reply::new(call, kind, format)?;
    let read = ReadOptions::parse(kind, &call.params, false)?;
    let options = ListOptions {
        selection: selection(call, kind)?,
        limit: read.limit,
        token: read.token,
        revision: read.revision,
        matching: read.matching,
    };
    let page = api.0.registry.list(kind, &options);
    let page = match read.timeout {
        Some(longest) => tokio::time::timeout(longest, page).await.unwrap_or_else(|_| {
            Err(ApiError::timeout("request did not complete within requested timeout"))
        })?,
        None => page.await?,
    };
    let mut response = listing::respond(Renderer::new(kind.clone(), format, reply.include), page);
    respond::warn(&mut response, &reply.warnings);
    Ok(response)
}

async fn start_watch(api: &Api, call: &Call, kind: Kind, format: Format) -> Result<Response<Body>, ApiError> {
    let include = IncludeObject::parse(call.params.get("includeObject"))?;
    let selection = selection(call, &kind)?;
    let options = ReadOptions::parse(&kind, &call.params, true)?;
    let warnings: Vec<String> = kind.descriptor.deprecation.iter().cloned().collect();
    let renderer = Renderer::new(kind, format, include);
    let mut response = watch::start(api.0.registry.clone(), renderer, selection, options).await?;
    respond::warn(&mut response, &warnings);
    Ok(response)
}

async fn create(
    api: &Api,
    call: &Call,
    kind: &Kind,
    format: Format,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let mut reply = Reply::new(call, kind, format)?;
    let manager = manager(call, request.headers())?;
    if !call.info.name.is_empty() {
        return Err(ApiError::method_not_allowed(&kind.descriptor.group_resource(), "create"));
    }
    let (object, warnings) = body::receive(request).await?.object(call, kind)?;
    reply.warnings.extend(warnings);
    let dry_run = body::dry_run(call, None)?;
    let writer = Writer { user: &call.user, system: false, dry_run, manager: &manager, applies: false };
    let stored = api.0.registry.create(&writer, kind, call.info.object_namespace(), object).await?;
    Ok(reply.object(201, &stored))
}

async fn update(
    api: &Api,
    call: &Call,
    kind: &Kind,
    part: Part,
    format: Format,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let mut reply = Reply::new(call, kind, format)?;
    let manager = manager(call, request.headers())?;
    let (mut object, warnings) = body::receive(request).await?.object(call, kind)?;
    reply.warnings.extend(warnings);
    let namespace = call.info.object_namespace();
    yunfan_objects::meta::fill_namespace(&mut object, kind.descriptor.namespaced.then_some(namespace))?;
    if object["metadata"]["name"].is_null() {
        object["metadata"]["name"] = json!(call.info.name);
    }
    let dry_run = body::dry_run(call, None)?;
    let writer = Writer { user: &call.user, system: false, dry_run, manager: &manager, applies: false };
    let written = api
        .0
        .registry
        .modify(&writer, kind, namespace, &call.info.name, part, |_| Ok(object.clone()))
        .await?;
    Ok(reply.object(200, &written.into_stored()))
}

/// Reads `DeleteOptions` from the body and the query.
pub(super) fn delete_options(call: &Call, body: &Value) -> Result<DeleteOptions, ApiError> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let query_grace = call.params.number("gracePeriodSeconds").map_err(ApiError::bad_request)?;
    let mut propagation =
        text(&body["propagationPolicy"]).or(call.params.get("propagationPolicy").map(str::to_owned));
    if body["orphanDependents"] == true || call.params.get("orphanDependents") == Some("true") {
        propagation = Some("Orphan".to_owned());
    }
    if !matches!(propagation.as_deref(), None | Some("Background" | "Foreground" | "Orphan")) {
        let message = "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Invalid value: must be one of Background, Foreground, Orphan";
        return Err(ApiError::new(422, yunfan_objects::Reason::Invalid, message));
    }
    let grace = body["gracePeriodSeconds"].as_i64().or(query_grace.and_then(|g| i64::try_from(g).ok()));
    Ok(DeleteOptions {
        grace,
        uid: text(&body["preconditions"]["uid"]),
        revision: text(&body["preconditions"]["resourceVersion"]),
        propagation,
        dry_run: body::dry_run(call, Some(body))?,
    })
}

async fn delete(
    api: &Api,
    call: &Call,
    kind: &Kind,
    format: Format,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let reply = Reply::new(call, kind, format)?;
    let options = delete_options(call, &body::receive(request).await?.optional()?)?;
    let writer =
        Writer { user: &call.user, system: false, dry_run: options.dry_run, manager: "", applies: false };
    let (namespace, name) = (call.info.object_namespace(), call.info.name.as_str());
    match api.0.registry.delete(&writer, kind, namespace, name, &options).await? {
        Written::Deleted(stored) if !kind.is("", "pods") => {
            let descriptor = &kind.descriptor;
            let last: Value = serde_json::from_slice(&stored.bytes).unwrap_or(Value::Null);
            let mut details =
                json!({ "name": name, "kind": descriptor.plural, "uid": last["metadata"]["uid"] });
            if !descriptor.group.is_empty() {
                details["group"] = json!(descriptor.group);
            }
            Ok(respond::success(format.encoding, details))
        }
        written => Ok(reply.object(200, &written.into_stored())),
    }
}

async fn delete_collection(
    api: &Api,
    call: &Call,
    kind: &Kind,
    format: Format,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let options = delete_options(call, &body::receive(request).await?.optional()?)?;
    let writer =
        Writer { user: &call.user, system: false, dry_run: options.dry_run, manager: "", applies: false };
    let selection = selection(call, kind)?;
    let namespace = call.info.object_namespace();
    let gone = api.0.registry.delete_collection(&writer, kind, namespace, &selection, &options).await?;
    let items: Vec<Value> = gone.iter().filter_map(|s| serde_json::from_slice(&s.bytes).ok()).collect();
    let descriptor = &kind.descriptor;
    let list = json!({
        "kind": descriptor.list_kind, "apiVersion": descriptor.api_version(),
        "metadata": { "resourceVersion": api.0.registry.cache.revision().to_string() }, "items": items,
    });
    Ok(respond::value(200, format.encoding, &list))
}

async fn scale(
    api: &Api,
    call: &Call,
    kind: &Kind,
    format: Format,
    verb: &str,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let (namespace, name) = (call.info.object_namespace(), call.info.name.as_str());
    let registry = &api.0.registry;
    let manager = manager(call, request.headers())?;
    let writer = Writer {
        user: &call.user,
        system: false,
        dry_run: body::dry_run(call, None)?,
        manager: &manager,
        applies: false,
    };
    match verb {
        "get" => {}
        "update" => {
            let scale = body::receive(request).await?.plain_object()?;
            registry.modify_scale(&writer, kind, namespace, name, |_| Ok(scale.clone())).await?;
        }
        "patch" => {
            let received = body::receive(request).await?;
            // A Scale has no lists: a strategic merge of it is a merge.
            let change = match received.essence() {
                "application/strategic-merge-patch+json" => {
                    Patch::Merge(codec::decode_json(&received.bytes)?.value)
                }
                "application/apply-patch+yaml" => Patch::Merge(codec::decode_yaml(&received.bytes)?.value),
                _ => Patch::read(received, kind)?,
            };
            registry
                .modify_scale(&writer, kind, namespace, name, |before| change.patched(kind, before))
                .await?;
        }
        verb => return Err(ApiError::method_not_allowed(&kind.descriptor.group_resource(), verb)),
    }
    let entry = registry.get(kind, namespace, name, None).await?;
    Ok(respond::value(200, format.encoding, &scale_of(kind, &entry)?))
}
