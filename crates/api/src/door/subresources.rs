//! Requests on subresources. What each speaks and allows is in one table
//! ([`yunfan_objects::subresource`]); what is done is here.

use axum::body::Body;
use http::{Request, Response};
use serde_json::{Value, json};
use yunfan_objects::patch::scale::apply as apply_scale;
use yunfan_objects::subresource::Subresource;
use yunfan_objects::{
    ApiError, FieldValidation, GroupResource, GroupVersionKind, SchemaRef, builtin, codec, decode, meta,
    scale,
};

use super::body::{self, Received};
use super::mutate::{self, deleter};
use super::negotiate::Format;
use super::patch::{self, Patch};
use super::resource;
use super::write::{self, Verb, WriteOptions};
use super::{Call, proxied, respond, streams, token};
use crate::Api;
use crate::admission::dynamic::{Action, Question};
use crate::kinds::Kind;
use crate::registry::{Part, Stored, same_uid};

/// Answers a request on a subresource that the kind has, with a verb that this one has.
pub(super) async fn handle(
    api: &Api,
    call: &Call,
    kind: &Kind,
    below: &'static Subresource,
    format: Result<Format, ApiError>,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    match below.name {
        "log" | "exec" | "attach" | "portforward" => streams::handle(api, call, kind, request).await,
        "proxy" => proxied::handle(api, call, kind, request).await,
        "scale" => scale(api, call, kind, format?, request).await,
        "binding" => bind(api, call, kind, &call.info.name, format?, request).await,
        "token" => token::handle(api, call, kind, format?, request).await,
        "eviction" => evict(api, call, kind, format?, request).await,
        _ => {
            let part = match below.name {
                "status" => Part::Status,
                _ if below.is_view() => Part::Fields(below),
                _ => return Err(ApiError::no_such_path()),
            };
            match call.info.verb.as_str() {
                "get" => resource::get(api, call, kind, format?).await,
                "update" => mutate::update(api, call, kind, part, format?, request).await,
                _ => patch::handle(api, call, kind, part, format?, request).await,
            }
        }
    }
}

fn definition(name: &str) -> SchemaRef {
    builtin::definitions().reference(name)
}

/// Has webhooks and policies look at what is made through a subresource, and gives it as they changed it.
pub(super) async fn ask(
    api: &Api,
    call: &Call,
    kind: &Kind,
    options: &WriteOptions,
    object: Value,
) -> Result<Value, ApiError> {
    let (info, user) = (&call.info, &call.user);
    let place = (info.object_namespace(), info.name.as_str());
    let about =
        Question::about(kind, Action::Create, &info.subresource, place, user, &options.shown, &call.warnings);
    api.0.registry.ask(&Question { dry_run: options.dry_run, ..about }, object).await
}

/// About an object of a kind that is not stored.
pub(super) fn virtual_question<'a>(
    call: &'a Call,
    kind: GroupVersionKind,
    options: &'a WriteOptions,
) -> Question<'a> {
    let info = &call.info;
    Question {
        action: Action::Create,
        kind,
        group: &info.group,
        version: &info.version,
        plural: &info.resource,
        subresource: "",
        namespace: info.object_namespace(),
        name: "",
        user: &call.user,
        dry_run: options.dry_run,
        options: &options.shown,
        warnings: &call.warnings,
        stored: None,
    }
}

fn done(format: Format) -> Response<Body> {
    let status =
        json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201 });
    respond::value(201, format.encoding, &status)
}

fn other_name(kind: &str) -> ApiError {
    ApiError::bad_request(format!("name in URL does not match name in {kind} object"))
}

/// Refuses what is about another object than the request.
fn same_name(object: &Value, name: &str, kind: &str) -> Result<(), ApiError> {
    if object["metadata"]["name"].as_str() == Some(name) { Ok(()) } else { Err(other_name(kind)) }
}

/// Places a Pod on a node: POST pods/NAME/binding, or bindings with the name in the body.
pub(super) async fn bind(
    api: &Api,
    call: &Call,
    pods: &Kind,
    name: &str,
    format: Format,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::parse(&call.params, request.headers(), Verb::Create)?;
    let kind = GroupVersionKind::new("", "v1", "Binding");
    let received = body::receive(request).await?;
    let (mut binding, _) = received.plain(&kind, &definition("io.k8s.api.core.v1.Binding"), options.mode)?;
    let given = binding["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let name = if name.is_empty() { &given } else { name };
    if name.is_empty() {
        return Err(other_name("Binding"));
    }
    same_name(&binding, name, "Binding")?;
    let namespace = call.info.object_namespace();
    if call.info.subresource.is_empty() {
        let question = Question { name, ..virtual_question(call, kind, &options) };
        binding = api.0.registry.ask(&question, binding).await?;
    } else {
        binding = ask(api, call, pods, &options, binding).await?;
    }
    same_name(&binding, name, "Binding")?;
    api.0.registry.bind(&options.writer(call), pods, namespace, name, &binding).await?;
    Ok(done(format))
}

/// POST pods/NAME/eviction.
async fn evict(
    api: &Api,
    call: &Call,
    kind: &Kind,
    format: Format,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let asked = WriteOptions::parse(&call.params, request.headers(), Verb::Create)?;
    let received = body::receive(request).await?;
    let (mut eviction, warnings) = eviction_of(&received, asked.mode)?;
    call.warnings.extend(warnings);
    let name = call.info.name.as_str();
    let namespace = call.info.object_namespace();
    meta::fill_namespace(&mut eviction, Some(namespace))?;
    same_name(&eviction, name, "Eviction")?;
    // Whether there is such a Pod is said first.
    api.0.registry.get(kind, namespace, name, None).await?;
    eviction = ask(api, call, kind, &asked, eviction).await?;
    same_name(&eviction, name, "Eviction")?;
    let mut options = match eviction["deleteOptions"].take() {
        Value::Null => write::of_body(&mut json!({}))?,
        mut given => write::of_body(&mut given)?,
    };
    options.dry_run |= asked.dry_run;
    let writer = deleter(call, &options);
    api.0.registry.evict(&writer, kind, namespace, name, options.clone()).await?;
    Ok(done(format))
}

/// An Eviction, in either of its two versions.
fn eviction_of(received: &Received, mode: FieldValidation) -> Result<(Value, Vec<String>), ApiError> {
    let today = GroupVersionKind::new("policy", "v1", "Eviction");
    let early =
        received.plain_object(&today).is_ok_and(|eviction| eviction["apiVersion"] == "policy/v1beta1");
    let kind = if early { GroupVersionKind::new("policy", "v1beta1", "Eviction") } else { today };
    received.plain(&kind, &definition("io.k8s.api.policy.v1.Eviction"), mode)
}

async fn scale(
    api: &Api,
    call: &Call,
    kind: &Kind,
    format: Format,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let (namespace, name) = (call.info.object_namespace(), call.info.name.as_str());
    let (registry, reply) = (&api.0.registry, resource::Reply::new(call, kind, format)?);
    if call.info.verb == "get" {
        let entry = registry.get(kind, namespace, name, call.params.get("resourceVersion")).await?;
        let object = entry.value();
        return scale::read_scale(&kind.descriptor, object)
            .and_then(|_| scaled(kind, &reply, &Stored::from(&entry)));
    }
    let headers = request.headers().clone();
    let received = body::receive(request).await?;
    let written = if call.info.verb == "update" {
        let options = WriteOptions::parse(&call.params, &headers, Verb::Update)?;
        let (mut wanted, warnings) = received.plain(&scale::gvk(), &builtin::scale(), options.mode)?;
        call.warnings.extend(warnings);
        meta::fill_namespace(&mut wanted, kind.descriptor.namespaced.then_some(namespace))?;
        mutate::check_name(&wanted, name)?;
        let change = |old: &Value| same_uid(kind, old, &wanted).map(|()| wanted.clone());
        registry.modify_scale(&options.writer(call), kind, namespace, name, change).await?
    } else {
        let change = Patch::read(&received, true)?;
        let options = WriteOptions::parse(&call.params, &headers, change.verb())?;
        let writer = options.writer(call);
        if let Patch::Apply(applied) = &change {
            let mut applied = applied.value.clone();
            scale::check_configuration(&applied)?;
            meta::fill_namespace(&mut applied, kind.descriptor.namespaced.then_some(namespace))?;
            let apply = |old: &Value| {
                let api_version = kind.descriptor.api_version();
                let who = writer.of_fields("scale", &api_version);
                apply_scale(&kind.descriptor, old, &applied, &who, options.force, |scale| {
                    same_scale(kind, old, scale).and_then(|()| mutate::check_name(scale, name))
                })
            };
            registry.modify(&writer, kind, namespace, name, Part::Whole("scale"), apply).await?
        } else {
            let change = |before: &Value| {
                let new = patched(call, &change, before, options.mode)?;
                same_scale(kind, before, &new).and_then(|()| mutate::check_name(&new, name))?;
                Ok(new)
            };
            registry.modify_scale(&writer, kind, namespace, name, change).await?
        }
    };
    scaled(kind, &reply, &written.into_stored())
}

/// A Scale that was patched is about the object that it was made of.
fn same_scale(kind: &Kind, old: &Value, scale: &Value) -> Result<(), ApiError> {
    let text = |object: &Value, key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
    let (uid, given) = (text(old, "uid"), text(scale, "uid"));
    if given.is_empty() || given == uid {
        return Ok(());
    }
    let GroupResource { group, resource } = kind.descriptor.group_resource();
    let why = format!("Precondition failed: UID in precondition: {given}, UID in object meta: {uid}");
    let resource = GroupResource::new(&group, &format!("{resource}/scale"));
    Err(ApiError::conflict(&resource, &text(old, "name"), &why))
}

fn patched(call: &Call, change: &Patch, before: &Value, mode: FieldValidation) -> Result<Value, ApiError> {
    let schema = builtin::scale();
    let mut new = change.patched(&schema, before)?;
    let read = decode::shape_plain(&mut new, &scale::gvk(), &schema);
    let judged = read.and_then(|findings| decode::judge(&scale::gvk(), mode, findings));
    call.warnings.extend(judged.map_err(|error| change.at_fault(error, &schema, before))?);
    Ok(new)
}

fn scaled(kind: &Kind, reply: &resource::Reply<'_>, stored: &Stored) -> Result<Response<Body>, ApiError> {
    let bytes = codec::splice_revision(&stored.bytes, stored.revision);
    let object: Value =
        serde_json::from_slice(&bytes).map_err(|error| ApiError::internal(error.to_string()))?;
    reply.scale(scale::to_scale(&kind.descriptor, &object).ok_or_else(ApiError::no_such_path)?)
}
