//! Create, update and delete.

use axum::body::Body;
use http::{Request, Response};
use serde_json::{Value, json};
use yunfan_objects::{ApiError, Reason, meta};

use super::negotiate::Format;
use super::resource::{Reply, page, refused};
use super::write::{self, Verb, WriteOptions};
use super::{Call, body, respond};
use crate::Api;
use crate::kinds::Kind;
use crate::registry::{DeleteOptions, Page, Part, Stored, Writer, Written, same_uid, single_owners};

/// How often a change that found nothing, and a creation that found something, take turns.
const TURNS: u32 = 5;

pub(super) async fn create(
    api: &Api,
    call: &Call,
    kind: &Kind,
    format: Format,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let reply = Reply::new(call, kind, format)?;
    if !call.info.name.is_empty() {
        return Err(refused(kind, "create"));
    }
    let options = WriteOptions::parse(&call.params, request.headers(), Verb::Create)?;
    let (mut object, warnings) = body::receive(request).await?.object(kind, options.mode)?;
    call.warnings.extend(warnings.into_iter().chain(single_owners(&mut object, "")));
    let writer = options.writer(call);
    let stored = api.0.registry.create(&writer, kind, call.info.object_namespace(), object).await?;
    reply.object(201, &stored)
}

pub(super) async fn update(
    api: &Api,
    call: &Call,
    kind: &Kind,
    part: Part,
    format: Format,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let reply = Reply::new(call, kind, format)?;
    let options = WriteOptions::parse(&call.params, request.headers(), Verb::Update)?;
    let (mut object, warnings) = body::receive(request).await?.object(kind, options.mode)?;
    call.warnings.extend(warnings.into_iter().chain(single_owners(&mut object, "")));
    let (namespace, name) = (call.info.object_namespace(), call.info.name.as_str());
    meta::fill_namespace(&mut object, kind.descriptor.namespaced.then_some(namespace))?;
    check_name(&object, name)?;
    let writer = options.writer(call);
    let change = |old: &Value| same_uid(kind, old, &object).map(|()| object.clone());
    let (code, stored) = if part == Part::Main && kind.descriptor.is_created_by_update() {
        upsert(api, call, kind, &writer, change, || Ok(object.clone())).await?
    } else {
        let written = api.0.registry.modify(&writer, kind, namespace, name, part, change).await?;
        (200, written.into_stored())
    };
    reply.object(code, &stored)
}

/// Refuses a body whose name is not that of the path.
pub(super) fn check_name(object: &Value, name: &str) -> Result<(), ApiError> {
    match object["metadata"]["name"].as_str().unwrap_or_default() {
        "" => Err(ApiError::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        ))),
        given if given != name => Err(ApiError::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        ))),
        _ => Ok(()),
    }
}

/// Changes an object, or makes it where there is none, which takes the right to create. Gives the
/// answer's code.
pub(super) async fn upsert(
    api: &Api,
    call: &Call,
    kind: &Kind,
    writer: &Writer<'_>,
    mut change: impl FnMut(&Value) -> Result<Value, ApiError>,
    fresh: impl Fn() -> Result<Value, ApiError>,
) -> Result<(u16, Stored), ApiError> {
    let (namespace, name) = (call.info.object_namespace(), call.info.name.as_str());
    let registry = &api.0.registry;
    let absent = ApiError::not_found(&kind.descriptor.group_resource(), name);
    for _ in 0..TURNS {
        match registry.modify(writer, kind, namespace, name, Part::Main, &mut change).await {
            Ok(written) => return Ok((200, written.into_stored())),
            // Who is asked about the change may say 404 as well, and means another thing.
            Err(error) if error == absent => {}
            Err(error) => return Err(error),
        }
        let mut create = call.info.clone();
        create.verb = "create".to_owned();
        api.0.gate.authorize(&call.user, &create).await?;
        match registry.create(writer, kind, namespace, fresh()?).await {
            Ok(stored) => return Ok((201, stored)),
            Err(error) if error.reason() == Reason::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(ApiError::modified(&kind.descriptor.group_resource(), name))
}

/// A Job that goes leaves its Pods behind, where its client does not say what becomes of them.
fn warn_of_orphans(call: &Call, kind: &Kind, options: &DeleteOptions) {
    const WHY: &str = "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning";
    if kind.is("batch", "jobs") && options.propagation.is_none() {
        call.warnings.extend([WHY.to_owned()]);
    }
}

/// Who deletes: nobody owns a field by that.
pub(super) fn deleter<'a>(call: &'a Call, options: &'a DeleteOptions) -> Writer<'a> {
    Writer {
        user: &call.user,
        system: false,
        dry_run: options.dry_run,
        manager: "",
        applies: false,
        warnings: &call.warnings,
        options: Some(&options.shown),
    }
}

pub(super) async fn delete(
    api: &Api,
    call: &Call,
    kind: &Kind,
    format: Format,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let reply = Reply::new(call, kind, format)?;
    let options = write::delete_options(call, &body::receive(request).await?)?;
    warn_of_orphans(call, kind, &options);
    let (namespace, name) = (call.info.object_namespace(), call.info.name.as_str());
    let descriptor = &kind.descriptor;
    match api.0.registry.delete(&deleter(call, &options), kind, namespace, name, &options).await? {
        Written::Deleted(stored) if !descriptor.is_returned() => {
            let last: Value = serde_json::from_slice(&stored.bytes).unwrap_or(Value::Null);
            let mut details =
                json!({ "name": name, "kind": descriptor.plural, "uid": last["metadata"]["uid"] });
            if !descriptor.group.is_empty() {
                details["group"] = json!(descriptor.group);
            }
            Ok(respond::success(format.encoding, details))
        }
        Written::Stored(stored) if options.accepted => reply.object(202, &stored),
        written => reply.object(200, &written.into_stored()),
    }
}

pub(super) async fn delete_collection(
    api: &Api,
    call: &Call,
    kind: &Kind,
    format: Format,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let reply = Reply::new(call, kind, format)?;
    let options = write::delete_options(call, &body::receive(request).await?)?;
    warn_of_orphans(call, kind, &options);
    let registry = &api.0.registry;
    // With a limit, one page goes; what the answer says of the rest leads to the next.
    let page = page(api, call, kind).await?;
    let entries: Vec<_> = page.entries.collect();
    registry.delete_entries(&deleter(call, &options), kind, &entries, &options).await?;
    reply.list(Page { entries: Box::new(entries.into_iter()), ..page })
}
