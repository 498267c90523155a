//! PATCH in its four kinds. What is special about server-side apply: it makes the object where there is none.

use axum::body::Body;
use http::{Request, Response};
use serde_json::{Value, json};
use yunfan_objects::patch::{self, apply};
use yunfan_objects::{ApiError, codec};

use super::Call;
use super::body::{self, Received};
use super::negotiate::Format;
use super::resource::{Reply, manager};
use crate::Api;
use crate::kinds::Kind;
use crate::registry::{Part, Writer};

/// A patch that was read.
pub(super) enum Patch {
    Json(Received),
    Merge(Value),
    Strategic(Value),
    Apply(Value),
}

impl Patch {
    pub(super) fn read(received: Received, kind: &Kind) -> Result<Self, ApiError> {
        match received.essence() {
            "application/json-patch+json" => Ok(Self::Json(received)),
            "application/merge-patch+json" => Ok(Self::Merge(codec::decode_json(&received.bytes)?.value)),
            "application/strategic-merge-patch+json" if kind.descriptor.builtin => {
                Ok(Self::Strategic(codec::decode_json(&received.bytes)?.value))
            }
            "application/apply-patch+yaml" => Ok(Self::Apply(codec::decode_yaml(&received.bytes)?.value)),
            other => {
                let mut accepted = vec!["application/json-patch+json", "application/merge-patch+json"];
                if kind.descriptor.builtin {
                    accepted.push("application/strategic-merge-patch+json");
                }
                accepted.push("application/apply-patch+yaml");
                Err(ApiError::unsupported_media_type(other, &accepted))
            }
        }
    }

    /// The patched object, not decoded yet.
    pub(super) fn patched(&self, kind: &Kind, old: &Value) -> Result<Value, ApiError> {
        match self {
            Self::Json(received) => patch::json(old, &received.bytes),
            Self::Merge(value) => patch::merge(old, value),
            Self::Strategic(value) => patch::strategic(old, value, &kind.descriptor.schema),
            Self::Apply(_) => Err(ApiError::internal("an apply is no plain patch")),
        }
    }
}

pub(super) async fn handle(
    api: &Api,
    call: &Call,
    kind: &Kind,
    part: Part,
    format: Format,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let mut reply = Reply::new(call, kind, format)?;
    let manager = manager(call, request.headers())?;
    let change = Patch::read(body::receive(request).await?, kind)?;
    let dry_run = body::dry_run(call, None)?;
    let mode = body::field_validation(call)?;
    let writer = Writer {
        user: &call.user,
        system: false,
        dry_run,
        manager: &manager,
        applies: matches!(change, Patch::Apply(_)),
    };
    if let Patch::Apply(applied) = &change {
        return apply_patch(api, call, kind, part, reply, &writer, applied).await;
    }
    let mut warnings = Vec::new();
    let written = api
        .0
        .registry
        .modify(&writer, kind, call.info.object_namespace(), &call.info.name, part, |old| {
            let mut new = change.patched(kind, old)?;
            warnings = kind.descriptor.decode(&mut new, mode, &[])?;
            Ok(new)
        })
        .await?;
    reply.warnings.extend(warnings);
    Ok(reply.object(200, &written.into_stored()))
}

async fn apply_patch(
    api: &Api,
    call: &Call,
    kind: &Kind,
    part: Part,
    mut reply: Reply<'_>,
    writer: &Writer<'_>,
    applied: &Value,
) -> Result<Response<Body>, ApiError> {
    if call.params.get("fieldManager").is_none() {
        return Err(ApiError::bad_request("fieldManager is required for apply patch"));
    }
    let mut applied = applied.clone();
    let mode = body::field_validation(call)?;
    let warnings = kind.descriptor.decode(&mut applied, mode, &[])?;
    reply.warnings.extend(warnings);
    let (namespace, name) = (call.info.object_namespace(), call.info.name.as_str());
    yunfan_objects::meta::fill_namespace(&mut applied, kind.descriptor.namespaced.then_some(namespace))?;
    if applied["metadata"]["name"].is_null() {
        applied["metadata"]["name"] = json!(name);
    }
    if applied["metadata"]["managedFields"].as_array().is_some_and(|l| !l.is_empty()) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let force = call.params.flag("force");
    let api_version = kind.descriptor.api_version();
    let who = apply::Writer {
        manager: writer.manager,
        subresource: part.subresource(),
        api_version: &api_version,
        now: jiff::Timestamp::now(),
    };
    let schema = &kind.descriptor.schema;
    let registry = &api.0.registry;
    // Made by us, or by somebody else at the same time: then it is changed.
    for _ in 0..2 {
        let changed = registry
            .modify(writer, kind, namespace, name, part, |old| {
                apply::apply(Some(old), &applied, &who, force, schema)
            })
            .await;
        let missing = match changed {
            Ok(written) => return Ok(reply.object(200, &written.into_stored())),
            Err(error) if error.code() == 404 && part == Part::Main => error,
            Err(error) => return Err(error),
        };
        if applied["metadata"]["uid"].is_string() {
            return Err(missing);
        }
        let mut fresh = apply::apply(None, &applied, &who, force, schema)?;
        if let Some(meta) = fresh["metadata"].as_object_mut() {
            meta.remove("resourceVersion");
        }
        match registry.create(writer, kind, namespace, fresh).await {
            Ok(stored) => return Ok(reply.object(201, &stored)),
            Err(error) if error.reason() == yunfan_objects::Reason::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(ApiError::modified(&kind.descriptor.group_resource(), name))
}
