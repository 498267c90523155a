//! Requests on resources: every verb, for every kind.

use axum::body::Body;
use http::{Method, Request, Response};
use serde_json::Value;
use yunfan_objects::subresource::Speaks;
use yunfan_objects::table::IncludeObject;
use yunfan_objects::{ApiError, Descriptor, FieldError, Reason, builtin, golang, protobuf};

use super::negotiate::{self, Format, Number, Shape};
use super::options::ReadOptions;
use super::path::RequestInfo;
use super::render::Renderer;
use super::{Call, components, listing, measured, mutate, patch, respond, review, subresources, watch};
use crate::Api;
use crate::kinds::Kind;
use crate::registry::{ListOptions, Page, Part, Selection, Stored};

/// Answers a request on a resource.
pub(super) async fn handle(
    api: &Api,
    call: Call,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    if let Some(kind) = review::find(&call.info) {
        return review::handle(api, &call, kind, request).await;
    }
    let kind = find(api, &call).await?;
    let pretty = call.params.flag("pretty");
    let watches = matches!(call.info.verb.as_str(), "list" | "watch");
    let protobuf = protobuf::knows(&kind.descriptor.api_version(), &kind.descriptor.kind);
    let format = negotiate::object_format(request.headers(), pretty, protobuf, watches);
    check_scope(&kind, &call.info)?;
    let (info, descriptor) = (&call.info, &kind.descriptor);
    // A proxy takes methods that are no verbs.
    let proxied =
        descriptor.subresource(&info.subresource).is_some_and(|below| below.speaks == Speaks::ProxyOptions);
    if request.method() == Method::HEAD && descriptor.builtin && !proxied {
        return Err(ApiError::no_such_method());
    }
    call.warnings.extend(descriptor.deprecation.iter().cloned());
    // Counted by what there is, not by whatever word stands there.
    let is_known = info.subresource.is_empty() || descriptor.subresource(&info.subresource).is_some();
    if descriptor.builtin && descriptor.deprecation.is_some() && is_known {
        api.0.metrics.desk.deprecated(info);
    }
    let refused = || refused(&kind, &info.verb);
    // Nothing has anything below its subresources, but for what another server is asked for.
    if info.below && !proxied {
        return Err(ApiError::no_such_path());
    }
    if !info.subresource.is_empty() {
        let below = descriptor.subresource(&info.subresource).ok_or_else(|| match descriptor.builtin {
            true => ApiError::no_such_path(),
            false => ApiError::not_found(&descriptor.group_resource(), &info.name),
        })?;
        let has = proxied || below.verbs.contains(&info.verb.as_str());
        if info.name.is_empty() || !has {
            return Err(refused());
        }
        return subresources::handle(api, &call, &kind, below, format, request).await;
    }
    if !descriptor.verbs.contains(&info.verb) {
        return Err(refused());
    }
    if components::is(&kind) {
        return components::handle(api, &call, &kind, format?).await;
    }
    if measured::is(&kind) {
        return measured::handle(api, &call, &kind, format?).await;
    }
    match info.verb.as_str() {
        "list" => list(api, &call, &kind, format?).await,
        "watch" => start_watch(api, &call, kind, format?).await,
        "create" => mutate::create(api, &call, &kind, format?, request).await,
        "delete" => mutate::delete(api, &call, &kind, format?, request).await,
        "deletecollection" => mutate::delete_collection(api, &call, &kind, format?, request).await,
        _ if info.name.is_empty() && descriptor.builtin => Err(refused()),
        _ if info.name.is_empty() => Err(ApiError::bad_request("name must be provided")),
        "get" => get(api, &call, &kind, format?).await,
        "update" => mutate::update(api, &call, &kind, Part::Main, format?, request).await,
        "patch" => patch::handle(api, &call, &kind, Part::Main, format?, request).await,
        _ => Err(refused()),
    }
}

/// Whether the kind at the path is known to be served there: a custom kind is unheard of at the other scope.
pub(super) fn is_served(api: &Api, info: &RequestInfo) -> bool {
    let kind = api.0.registry.kinds.table().get(&info.group, &info.version, &info.resource);
    kind.is_some_and(|kind| kind.descriptor.builtin || check_scope(&kind, info).is_ok())
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

fn check_scope(kind: &Kind, info: &RequestInfo) -> Result<(), ApiError> {
    let namespace = info.object_namespace();
    if !kind.descriptor.namespaced && !namespace.is_empty() {
        return Err(ApiError::no_such_path());
    }
    if kind.descriptor.namespaced && namespace.is_empty() {
        // All namespaces together can be read, and no more.
        match info.verb.as_str() {
            _ if !info.name.is_empty() => return Err(ApiError::no_such_path()),
            "list" | "watch" => {}
            _ if !kind.descriptor.builtin => return Err(ApiError::no_such_path()),
            verb => return Err(refused(kind, verb)),
        }
    }
    Ok(())
}

/// The refusal of a method that a path is not served with.
pub(super) fn refused(kind: &Kind, verb: &str) -> ApiError {
    match kind.descriptor.builtin {
        true => ApiError::no_such_method(),
        false => ApiError::method_not_allowed(&kind.descriptor.group_resource(), verb),
    }
}

/// An answer with an object in it.
pub(super) struct Reply<'a> {
    kind: &'a Kind,
    format: Format,
    include: IncludeObject,
}

impl<'a> Reply<'a> {
    pub(super) fn new(call: &Call, kind: &'a Kind, format: Format) -> Result<Self, ApiError> {
        let include = IncludeObject::parse(call.params.get("includeObject"))?;
        Ok(Self { kind, format, include })
    }

    /// # Errors
    /// 406 where the metadata of a list is asked for.
    pub(super) fn object(&self, code: u16, stored: &Stored) -> Result<Response<Body>, ApiError> {
        self.check_number(go_type(&self.kind.descriptor, Number::One), Number::One)?;
        Ok(respond::object(code, self.format, self.kind, stored, self.include))
    }

    /// # Errors
    /// 406 where the metadata of one object is asked for.
    pub(super) fn list(&self, page: Page) -> Result<Response<Body>, ApiError> {
        self.check_number(go_type(&self.kind.descriptor, Number::Many), Number::Many)?;
        Ok(listing::respond(Renderer::new(self.kind.clone(), self.format, self.include), page))
    }

    /// A Scale of an object of the kind.
    pub(super) fn scale(&self, scale: Value) -> Result<Response<Body>, ApiError> {
        let custom = !self.kind.descriptor.builtin;
        let package = if custom { "v1" } else { "autoscaling" };
        self.check_number(format!("*{package}.Scale"), Number::One)?;
        let descriptor = builtin::scale_descriptor(custom);
        let shown = respond::shaped(self.format.shape, &descriptor, scale, self.include);
        Ok(respond::value(200, self.format.encoding, &shown))
    }

    /// Refuses to show the metadata of one object of a kind as those of a list, and of a list as those of one.
    fn check_number(&self, what: String, there: Number) -> Result<(), ApiError> {
        let (asked, is) = match (self.format.shape, there) {
            (Shape::Metadata(_, Number::One), Number::Many) => ("PartialObjectMetadata", "is a list"),
            (Shape::Metadata(_, Number::Many), Number::One) => ("PartialObjectMetadataList", "is not a list"),
            _ => return Ok(()),
        };
        if what == UNSTRUCTURED {
            // It is both to upstream, until somebody looks inside.
            return Err(ApiError::unclassified("content is not a list"));
        }
        let why = format!("you requested {asked}, but the requested object {is} ({what})");
        Err(ApiError::new(406, Reason::NotAcceptable, why))
    }
}

/// What kube-apiserver holds an object of a custom kind in.
const UNSTRUCTURED: &str = "*unstructured.Unstructured";

/// What kube-apiserver holds objects of a kind in, or lists of them.
fn go_type(descriptor: &Descriptor, number: Number) -> String {
    let list = if number == Number::Many { "List" } else { "" };
    match descriptor.builtin {
        true => format!("*{}.{}{list}", golang::inner_package(&descriptor.group), descriptor.kind),
        false => format!("{UNSTRUCTURED}{list}"),
    }
}

pub(super) async fn get(
    api: &Api,
    call: &Call,
    kind: &Kind,
    format: Format,
) -> Result<Response<Body>, ApiError> {
    let reply = Reply::new(call, kind, format)?;
    let info = &call.info;
    let revision = call.params.get("resourceVersion");
    if let Some(why) = revision.and_then(no_revision) {
        // Kubernetes has no reason for this one.
        return Err(ApiError::new(500, Reason::Unknown, why));
    }
    let entry = api.0.registry.get(kind, info.object_namespace(), &info.name, revision).await?;
    reply.object(200, &Stored::from(&entry))
}

/// Why a text is no resourceVersion.
pub(super) fn no_revision(text: &str) -> Option<String> {
    let wrong = || {
        let shown = FieldError::invalid("resourceVersion", text, golang::number_error("ParseUint", text));
        shown.to_string()
    };
    text.parse::<u64>().is_err().then(wrong)
}

pub(super) fn selection(call: &Call, kind: &Kind) -> Result<Selection, ApiError> {
    let (namespace, labels) = (call.info.object_namespace(), call.params.get("labelSelector"));
    let fields = call.params.get("fieldSelector");
    if call.info.name.is_empty() {
        return Selection::parse(kind, namespace, labels, fields);
    }
    // A watch on one object.
    let named = format!("metadata.name={}", call.info.name);
    if fields.is_some_and(|fields| fields != named) {
        return Err(ApiError::bad_request("fieldSelector metadata.name doesn't match requested name"));
    }
    Selection::parse(kind, namespace, labels, Some(&named))
}

async fn list(api: &Api, call: &Call, kind: &Kind, format: Format) -> Result<Response<Body>, ApiError> {
    let reply = Reply::new(call, kind, format)?;
    reply.list(page(api, call, kind).await?)
}

/// The page of a list that the query asks for.
pub(super) async fn page(api: &Api, call: &Call, kind: &Kind) -> Result<Page, ApiError> {
    let read = ReadOptions::parse(&call.params, false)?;
    let options = ListOptions {
        selection: selection(call, kind)?,
        limit: read.limit,
        token: read.token,
        revision: read.revision,
        matching: read.matching,
    };
    let page = api.0.registry.list(kind, &options);
    match read.timeout {
        Some(longest) => tokio::time::timeout(longest, page).await.unwrap_or_else(|_| {
            let reached = api.0.registry.cache.revision();
            // Clients that waited for a revision look for what says that it was that.
            Err(match read.revision.filter(|asked| *asked > reached) {
                Some(asked) => ApiError::revision_too_large(asked, reached),
                None => ApiError::timeout("request did not complete within requested timeout"),
            })
        }),
        None => page.await,
    }
}

async fn start_watch(api: &Api, call: &Call, kind: Kind, format: Format) -> Result<Response<Body>, ApiError> {
    let include = IncludeObject::parse(call.params.get("includeObject"))?;
    let options = ReadOptions::parse(&call.params, true)?;
    let selection = selection(call, &kind)?;
    let renderer = Renderer::new(kind, format, include);
    let counts = api.0.metrics.requests.watches(&call.info);
    watch::start(api.0.registry.clone(), counts, renderer, selection, options).await
}
