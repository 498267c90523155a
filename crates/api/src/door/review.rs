//! Kinds that are asked and not stored: who am I, what may I do.

use axum::body::Body;
use http::{HeaderMap, Request, Response};
use serde_json::{Value, json};
use yunfan_identity::{Attributes, Authorizer, UserInfo};
use yunfan_objects::{ApiError, GroupResource};

use super::path::RequestInfo;
use super::{Call, body, negotiate, respond};
use crate::Api;

/// The version of all of them.
pub(crate) const VERSION: &str = "v1";

/// A kind that can only be created, and is answered at once.
pub(crate) struct VirtualKind {
    pub(crate) group: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
    answer: fn(&Api, &UserInfo, &Value) -> Result<Value, ApiError>,
}

/// All of them.
pub(crate) const KINDS: [VirtualKind; 4] = [
    VirtualKind {
        group: "authorization.k8s.io",
        kind: "SelfSubjectAccessReview",
        plural: "selfsubjectaccessreviews",
        answer: self_access,
    },
    VirtualKind {
        group: "authorization.k8s.io",
        kind: "SelfSubjectRulesReview",
        plural: "selfsubjectrulesreviews",
        answer: self_rules,
    },
    VirtualKind {
        group: "authorization.k8s.io",
        kind: "SubjectAccessReview",
        plural: "subjectaccessreviews",
        answer: access,
    },
    VirtualKind {
        group: "authentication.k8s.io",
        kind: "SelfSubjectReview",
        plural: "selfsubjectreviews",
        answer: self_review,
    },
];

/// The kind that a request is about, if it is one of these.
pub(crate) fn find(info: &RequestInfo) -> Option<&'static VirtualKind> {
    KINDS
        .iter()
        .find(|kind| kind.group == info.group && kind.plural == info.resource && info.version == VERSION)
}

/// Answers a review. Authorization has let the request in already.
pub(crate) async fn handle(
    api: &Api,
    call: &Call,
    kind: &VirtualKind,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let headers: &HeaderMap = request.headers();
    let format = negotiate::format(headers, call.params.flag("pretty"), false, false)?;
    if call.info.verb != "create" || !call.info.name.is_empty() {
        let resource = GroupResource::new(kind.group, kind.plural);
        return Err(ApiError::method_not_allowed(&resource, &call.info.verb));
    }
    let mut object = body::receive(request).await?.plain_object()?;
    let api_version = format!("{}/{VERSION}", kind.group);
    let fits = |field: &str, wanted: &str| object[field].is_null() || object[field] == wanted;
    if !fits("kind", kind.kind) || !fits("apiVersion", &api_version) {
        return Err(ApiError::bad_request(format!("the body must be a {} of {api_version}", kind.kind)));
    }
    let status = (kind.answer)(api, &call.user, &object["spec"])?;
    object["kind"] = json!(kind.kind);
    object["apiVersion"] = json!(api_version);
    object["status"] = status;
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    Ok(respond::value(201, format.encoding, &object))
}

fn self_review(_: &Api, user: &UserInfo, _: &Value) -> Result<Value, ApiError> {
    Ok(json!({"userInfo": user}))
}

fn self_access(api: &Api, user: &UserInfo, spec: &Value) -> Result<Value, ApiError> {
    decide(api, user, spec)
}

fn access(api: &Api, _: &UserInfo, spec: &Value) -> Result<Value, ApiError> {
    let text = |field: &str| spec[field].as_str().unwrap_or_default().to_owned();
    let groups: Vec<String> = spec["groups"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|g| g.as_str().map(str::to_owned))
        .collect();
    if text("user").is_empty() && groups.is_empty() {
        return Err(ApiError::bad_request("spec: at least one of user or groups must be given"));
    }
    let user = UserInfo { name: text("user"), uid: text("uid"), groups, ..UserInfo::default() };
    decide(api, &user, spec)
}

fn decide(api: &Api, user: &UserInfo, spec: &Value) -> Result<Value, ApiError> {
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    if resource.is_object() == path.is_object() {
        return Err(ApiError::bad_request(
            "spec: exactly one of resourceAttributes or nonResourceAttributes must be given",
        ));
    }
    fn of<'a>(from: &'a Value, field: &str) -> &'a str {
        from[field].as_str().unwrap_or_default()
    }
    let attributes = if path.is_object() {
        Attributes::path(user, of(path, "verb"), of(path, "path"))
    } else {
        Attributes {
            user,
            verb: of(resource, "verb"),
            group: of(resource, "group"),
            version: of(resource, "version"),
            resource: of(resource, "resource"),
            subresource: of(resource, "subresource"),
            namespace: of(resource, "namespace"),
            name: of(resource, "name"),
            path: "",
        }
    };
    let decision = api.0.gate.rbac.authorize(&attributes);
    let mut status = json!({"allowed": decision.is_allowed()});
    if !decision.reason().is_empty() {
        status["reason"] = json!(decision.reason());
    }
    Ok(status)
}

fn self_rules(api: &Api, user: &UserInfo, spec: &Value) -> Result<Value, ApiError> {
    let Some(namespace) = spec["namespace"].as_str().filter(|namespace| !namespace.is_empty()) else {
        return Err(ApiError::bad_request("spec.namespace: Required value: no namespace on request"));
    };
    let rules = api.0.gate.rbac.rules_for(user, namespace);
    let mut status = json!({
        "resourceRules": rules.resources,
        "nonResourceRules": rules.non_resources,
        "incomplete": !rules.missing.is_empty(),
    });
    if !rules.missing.is_empty() {
        status["evaluationError"] = json!(rules.missing.join("; "));
    }
    Ok(status)
}
