//! PATCH in its four kinds. What is special about server-side apply: it makes the object where there is none.

use axum::body::Body;
use http::{Request, Response};
use serde_json::{Value, json};
use yunfan_objects::codec::{self, Decoded};
use yunfan_objects::patch::{self, apply};
use yunfan_objects::{ApiError, FieldError, FieldValidation, GroupVersionKind, meta};

use super::Call;
use super::body::{self, Received};
use super::mutate::{check_name, single_owners, upsert};
use super::negotiate::Format;
use super::resource::Reply;
use super::write::{Verb, WriteOptions};
use crate::Api;
use crate::kinds::Kind;
use crate::registry::{Part, Writer};

const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// Members of an operation of a JSON patch.
const OPERATION: [&str; 4] = ["op", "path", "from", "value"];
/// Most findings about one JSON patch.
const MAX_FINDINGS: usize = 32;

/// A patch that was read.
pub(super) enum Patch {
    Json(Received, Decoded),
    Merge(Decoded),
    Strategic(Decoded),
    Apply(Decoded),
}

impl Patch {
    /// Reads a body by its media type. `strategic` says whether the kind has merge keys.
    pub(super) fn read(received: Received, strategic: bool) -> Result<Self, ApiError> {
        let json = |received: &Received| codec::decode_json(&received.bytes);
        match received.essence() {
            JSON => json(&received).map(|decoded| Self::Json(received, decoded)),
            MERGE => json(&received).map(Self::Merge),
            STRATEGIC if strategic => json(&received).map(Self::Strategic),
            APPLY => codec::decode_yaml(&received.bytes).map(Self::Apply),
            _ if strategic => Err(ApiError::unsupported_media_type(&[JSON, MERGE, STRATEGIC, APPLY])),
            _ => Err(ApiError::unsupported_media_type(&[JSON, MERGE, APPLY])),
        }
    }

    pub(super) fn verb(&self) -> Verb {
        if matches!(self, Self::Apply(_)) { Verb::Apply } else { Verb::Patch }
    }

    /// What is odd about the patch itself.
    fn findings(&self) -> Vec<String> {
        match self {
            Self::Merge(decoded) | Self::Strategic(decoded) | Self::Apply(decoded) => {
                decoded.duplicates.clone()
            }
            Self::Json(_, decoded) => {
                let operations = decoded.value.as_array().into_iter().flatten().enumerate();
                let unknown = operations.flat_map(|(index, operation)| {
                    let keys = operation.as_object().into_iter().flat_map(|map| map.keys());
                    keys.filter(|key| !OPERATION.contains(&key.as_str()))
                        .map(move |key| format!("json patch unknown field \"[{index}].{key}\""))
                });
                let repeated = decoded.duplicates.iter().map(|finding| format!("json patch {finding}"));
                unknown.chain(repeated).take(MAX_FINDINGS).collect()
            }
        }
    }

    /// The patched object, not decoded yet.
    pub(super) fn patched(&self, kind: &Kind, old: &Value) -> Result<Value, ApiError> {
        match self {
            Self::Json(received, _) => patch::json(old, &received.bytes),
            Self::Merge(decoded) => patch::merge(old, &decoded.value),
            Self::Strategic(decoded) => patch::strategic(old, &decoded.value, &kind.descriptor.schema),
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
    let headers = request.headers().clone();
    let change = Patch::read(body::receive(request).await?, kind.descriptor.builtin)?;
    let options = WriteOptions::parse(&call.params, &headers, change.verb())?;
    if let Patch::Apply(applied) = &change {
        return apply_patch(api, call, kind, part, reply, &options, applied).await;
    }
    let findings = change.findings();
    let mut warnings = Vec::new();
    let (namespace, name) = (call.info.object_namespace(), call.info.name.as_str());
    let written = api
        .0
        .registry
        .modify(&options.writer(call), kind, namespace, name, part, |old| {
            let mut new = change.patched(kind, old)?;
            warnings = kind.descriptor.decode(&mut new, options.mode, &findings).map_err(unfit)?;
            meta::fill_namespace(&mut new, kind.descriptor.namespaced.then_some(namespace))?;
            check_name(&new, name)?;
            warnings.extend(single_owners(&mut new));
            Ok(new)
        })
        .await?;
    reply.warnings.extend(warnings);
    Ok(reply.object(200, &written.into_stored()))
}

/// The object that a patch made cannot be read: the patch is at fault.
fn unfit(error: ApiError) -> ApiError {
    match error.message().split_once(" cannot be handled as a ").and_then(|(_, why)| why.split_once(": ")) {
        Some((_, why)) => {
            let error = FieldError { field: "patch".to_owned(), ..FieldError::invalid("", "", why) };
            ApiError::invalid(&GroupVersionKind::default(), "", &[error])
        }
        None => error,
    }
}

async fn apply_patch(
    api: &Api,
    call: &Call,
    kind: &Kind,
    part: Part,
    mut reply: Reply<'_>,
    options: &WriteOptions,
    decoded: &Decoded,
) -> Result<Response<Body>, ApiError> {
    let (namespace, name) = (call.info.object_namespace(), call.info.name.as_str());
    let mut applied = configuration(kind, decoded, namespace, name)?;
    reply.warnings.extend(repeated(decoded, options.mode)?);
    reply.warnings.extend(single_owners(&mut applied));
    let writer = options.writer(call);
    let apply = |live: Option<&Value>| apply_to(kind, part, &writer, live, &applied, options.force);
    if part != Part::Main {
        let change = |old: &Value| apply(Some(old));
        let written = api.0.registry.modify(&writer, kind, namespace, name, part, change).await?;
        return Ok(reply.object(200, &written.into_stored()));
    }
    let fresh = || {
        if let Some(uid) = applied["metadata"]["uid"].as_str() {
            let why = format!(
                "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
            );
            return Err(ApiError::conflict(&kind.descriptor.group_resource(), name, &why));
        }
        let mut fresh = apply(None)?;
        if let Some(meta) = fresh["metadata"].as_object_mut() {
            meta.remove("resourceVersion");
        }
        Ok(fresh)
    };
    let (code, stored) = upsert(api, call, kind, &writer, |old| apply(Some(old)), fresh).await?;
    Ok(reply.object(code, &stored))
}

/// Server-side apply of a configuration to what is there.
pub(super) fn apply_to(
    kind: &Kind,
    part: Part,
    writer: &Writer<'_>,
    live: Option<&Value>,
    applied: &Value,
    force: bool,
) -> Result<Value, ApiError> {
    let api_version = kind.descriptor.api_version();
    let who = apply::Writer {
        manager: writer.manager,
        subresource: part.subresource(),
        api_version: &api_version,
        now: jiff::Timestamp::now(),
    };
    kind.descriptor.apply(live, applied, &who, force)
}

/// The applied configuration, fit for the kind.
fn configuration(kind: &Kind, decoded: &Decoded, namespace: &str, name: &str) -> Result<Value, ApiError> {
    let descriptor = &kind.descriptor;
    let mut applied = decoded.value.clone();
    let wanted = descriptor.api_version();
    let given = applied["apiVersion"].as_str().unwrap_or_default();
    if applied.is_object() && given != wanted {
        return Err(ApiError::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {given}, expected: {wanted}"
        )));
    }
    let unknown = descriptor.decode(&mut applied, FieldValidation::Warn, &[])?;
    undeclared(kind, &unknown, namespace, name)?;
    meta::fill_namespace(&mut applied, descriptor.namespaced.then_some(namespace))?;
    if applied["metadata"]["name"].is_null() {
        applied["metadata"]["name"] = json!(name);
    }
    check_name(&applied, name)?;
    Ok(applied)
}

/// An apply may not name fields that the schema does not know, whatever `fieldValidation` says: nobody
/// could own them.
fn undeclared(kind: &Kind, findings: &[String], namespace: &str, name: &str) -> Result<(), ApiError> {
    let fields: Vec<String> = findings
        .iter()
        .filter_map(|finding| finding.strip_prefix("unknown field "))
        .map(|path| format!(".{}: field not declared in schema", path.trim_matches('"')))
        .collect();
    let listed = match fields.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        many => format!("errors:\n  {}", many.join("\n  ")),
    };
    let place = if kind.descriptor.namespaced { format!("{namespace}/{name}") } else { format!("/{name}") };
    let (version, kind) = (kind.descriptor.api_version(), &kind.descriptor.kind);
    Err(ApiError::bad_request(format!(
        "failed to create typed patch object ({place}; {version}, Kind={kind}): {listed}"
    )))
}

/// Keys that a configuration repeats.
fn repeated(decoded: &Decoded, mode: FieldValidation) -> Result<Vec<String>, ApiError> {
    match mode {
        FieldValidation::Strict if !decoded.duplicates.is_empty() => Err(ApiError::bad_request(format!(
            "error strict decoding YAML: error converting YAML to JSON: {}",
            decoded.strict_findings().join(", ")
        ))),
        FieldValidation::Warn => Ok(decoded.duplicates.clone()),
        _ => Ok(Vec::new()),
    }
}
