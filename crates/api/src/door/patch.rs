//! PATCH in its four kinds. What is special about server-side apply: it makes the object where there is none.

use axum::body::Body;
use http::{Request, Response};
use serde_json::{Value, json};
use yunfan_objects::codec::{self, Decoded};
use yunfan_objects::patch;
use yunfan_objects::schema::SchemaRef;
use yunfan_objects::{ApiError, FieldError, FieldValidation, GroupVersionKind, golang, meta};

use super::Call;
use super::body::{self, Received};
use super::mutate::{check_name, upsert};
use super::negotiate::Format;
use super::resource::Reply;
use super::write::{Verb, WriteOptions};
use crate::Api;
use crate::kinds::Kind;
use crate::registry::{AFTER, Part, Writer, single_owners};

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
    Json(Decoded),
    Merge(Decoded),
    Strategic(Decoded),
    Apply(Decoded),
}

impl Patch {
    /// Reads a body by its media type. `builtin` says whether the kind has merge keys.
    pub(super) fn read(received: &Received, builtin: bool) -> Result<Self, ApiError> {
        let lead = |lead: &str, error: ApiError| match error.code() {
            400 => ApiError::bad_request(format!("{lead}{error}")),
            _ => error,
        };
        let json = || codec::decode_json(&received.bytes);
        let plain = || json().map_err(|error| lead("error decoding patch: ", error));
        match received.essence() {
            JSON => plain().map(Self::Json),
            MERGE => plain().map(Self::Merge),
            STRATEGIC if builtin => json().map(Self::Strategic),
            APPLY => codec::decode_yaml(&received.bytes)
                .map(Self::Apply)
                .map_err(|error| lead("error decoding YAML: error converting YAML to JSON: ", error)),
            _ if builtin => Err(ApiError::no_such_type()),
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
            Self::Json(decoded) => {
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
    pub(super) fn patched(&self, schema: &SchemaRef, old: &Value) -> Result<Value, ApiError> {
        match self {
            Self::Json(decoded) => patch::json(old, &decoded.value),
            Self::Merge(decoded) => patch::merge(old, &decoded.value),
            Self::Strategic(decoded) => patch::strategic(old, &decoded.value, schema),
            Self::Apply(_) => Err(ApiError::internal("an apply is no plain patch")),
        }
    }

    /// The object that it made cannot be read.
    pub(super) fn at_fault(&self, error: ApiError, schema: &SchemaRef, old: &Value) -> ApiError {
        match self {
            Self::Strategic(decoded) => {
                unfit(error, |why| (golang::plain(&decoded.value), golang::restore_error(why)))
            }
            // What it made is shown as it was before it was read: made once more, since errors are rare.
            _ => unfit(error, |_| {
                (self.patched(schema, old).map(|made| made.to_string()).unwrap_or_default(), None)
            }),
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
    let reply = Reply::new(call, kind, format)?;
    let headers = request.headers().clone();
    let change = Patch::read(&body::receive(request).await?, kind.descriptor.builtin)?;
    let options = WriteOptions::parse(&call.params, &headers, change.verb())?;
    if let Patch::Apply(applied) = &change {
        return apply_patch(api, call, kind, part, reply, &options, applied).await;
    }
    let findings = change.findings();
    let schema = &kind.descriptor.schema;
    let (namespace, name) = (call.info.object_namespace(), call.info.name.as_str());
    let written = api
        .0
        .registry
        .modify(&options.writer(call), kind, namespace, name, part, |old| {
            let mut new = change.patched(schema, old)?;
            let decoded = kind.descriptor.decode(&mut new, options.mode, &findings);
            call.warnings.extend(decoded.map_err(|error| change.at_fault(error, schema, old))?);
            meta::fill_namespace(&mut new, kind.descriptor.namespaced.then_some(namespace))?;
            check_name(&new, name)?;
            call.warnings.extend(single_owners(&mut new, AFTER));
            Ok(new)
        })
        .await?;
    reply.object(200, &written.into_stored())
}

/// The object that a patch made cannot be read: the patch is at fault. `shown` gives the value that is shown, and the words
/// for the finding where it has others.
fn unfit(error: ApiError, shown: impl FnOnce(&str) -> (String, Option<String>)) -> ApiError {
    if error.code() != 400 {
        return error;
    }
    let message = error.message();
    let why = message.split_once(" cannot be handled as a ").and_then(|(_, why)| why.split_once(": "));
    let why = why.map_or(message, |(_, why)| why);
    let (value, words) = shown(why);
    let error = FieldError::invalid("patch", value, words.as_deref().unwrap_or(why));
    ApiError::invalid(&GroupVersionKind::default(), "", &[error])
}

async fn apply_patch(
    api: &Api,
    call: &Call,
    kind: &Kind,
    part: Part,
    reply: Reply<'_>,
    options: &WriteOptions,
    decoded: &Decoded,
) -> Result<Response<Body>, ApiError> {
    let (namespace, name) = (call.info.object_namespace(), call.info.name.as_str());
    let mut applied = configuration(api, kind, &decoded.value, namespace, name)?;
    call.warnings.extend(repeated(decoded, options.mode)?);
    call.warnings.extend(single_owners(&mut applied, AFTER));
    let writer = options.writer(call);
    let apply = |live: Option<&Value>| apply_to(kind, part, &writer, live, &applied, options.force);
    if part != Part::Main {
        let change = |old: &Value| apply(Some(old));
        let written = api.0.registry.modify(&writer, kind, namespace, name, part, change).await?;
        return reply.object(200, &written.into_stored());
    }
    let fresh = || {
        if let Some(uid) = applied["metadata"]["uid"].as_str() {
            let why = format!(
                "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
            );
            return Err(ApiError::conflict(&kind.descriptor.group_resource(), name, &why));
        }
        check_name(&applied, name)?;
        let mut fresh = apply(None)?;
        if let Some(meta) = fresh["metadata"].as_object_mut() {
            meta.remove("resourceVersion");
        }
        Ok(fresh)
    };
    let (code, stored) = upsert(api, call, kind, &writer, |old| apply(Some(old)), fresh).await?;
    reply.object(code, &stored)
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
    let who = writer.of_fields(part.subresource(), &api_version);
    let converter = kind.resource.converter.as_ref();
    let shown = |object: &Value, version: &str| converter.and_then(|way| way.in_version(object, version));
    let mut result = kind.descriptor.apply(live, applied, &who, force, &shown)?;
    kind.descriptor.drop_zeros(&mut result);
    Ok(result)
}

/// The applied configuration, fit for the kind.
fn configuration(
    api: &Api,
    kind: &Kind,
    given: &Value,
    namespace: &str,
    name: &str,
) -> Result<Value, ApiError> {
    let descriptor = &kind.descriptor;
    let mut applied = match given {
        Value::Object(_) => given.clone(),
        Value::Null => json!({}),
        other => {
            return Err(ApiError::bad_request(format!(
                "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
                golang::type_name(other)
            )));
        }
    };
    let spoken = GroupVersionKind::read(&applied);
    let table = api.0.registry.kinds.table();
    if spoken.kind != descriptor.kind
        || spoken.group != descriptor.group
        || table.get(&spoken.group, &spoken.version, &descriptor.plural).is_none()
    {
        return Err(ApiError::bad_request(format!("invalid object type: {spoken}")));
    }
    if spoken.version != descriptor.version {
        return Err(ApiError::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {}, expected: {}",
            spoken.api_version(),
            descriptor.api_version()
        )));
    }
    if !applied["metadata"]["name"].is_null() {
        check_name(&applied, name)?;
    }
    descriptor.check_configuration(&applied)?;
    descriptor.shape_applied(&mut applied)?;
    meta::fill_namespace(&mut applied, descriptor.namespaced.then_some(namespace))?;
    Ok(applied)
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
