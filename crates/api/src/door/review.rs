//! Kinds that are asked and not stored: who am I, what may I do.

use axum::body::Body;
use http::{HeaderMap, Request, Response};
use jiff::Timestamp;
use serde_json::{Value, json};
use yunfan_identity::authz::{FieldTerm, LabelTerm};
use yunfan_identity::{Attributes, Decision, UserInfo};
use yunfan_objects::patch::apply::{self, track_update};
use yunfan_objects::selector::LabelSelector;
use yunfan_objects::{ApiError, FieldError, FieldErrorKind, GroupVersionKind, SchemaRef, builtin, meta};

use super::path::{RequestInfo, field_terms, label_terms};
use super::write::{Verb, WriteOptions};
use super::{Call, body, negotiate, respond, subresources};
use crate::Api;
use crate::admission::dynamic::Question;

/// The version of all of them.
pub(crate) const VERSION: &str = "v1";

/// A kind that can only be created, and is answered at once.
pub(crate) struct VirtualKind {
    pub(crate) group: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
    /// Whether it is asked about one namespace.
    pub(crate) namespaced: bool,
    answer: Answer,
}

/// Where the answer comes from: the status, from who asks and the spec.
enum Answer {
    /// What is known here.
    Known(fn(&Api, &UserInfo, &Value) -> Result<Value, ApiError>),
    /// Whether somebody may do something: whoever asks, or whom they name.
    Access { own: bool },
    /// Who brings this token.
    Token,
    /// None: a Pod is placed on a node, as by its own subresource.
    Bind,
}

/// All of them.
pub(crate) const KINDS: [VirtualKind; 7] = [
    VirtualKind { group: "", kind: "Binding", plural: "bindings", namespaced: true, answer: Answer::Bind },
    VirtualKind {
        group: "authorization.k8s.io",
        kind: "SelfSubjectAccessReview",
        plural: "selfsubjectaccessreviews",
        namespaced: false,
        answer: Answer::Access { own: true },
    },
    VirtualKind {
        group: "authorization.k8s.io",
        kind: "SelfSubjectRulesReview",
        plural: "selfsubjectrulesreviews",
        namespaced: false,
        answer: Answer::Known(self_rules),
    },
    VirtualKind {
        group: "authorization.k8s.io",
        kind: "SubjectAccessReview",
        plural: "subjectaccessreviews",
        namespaced: false,
        answer: Answer::Access { own: false },
    },
    VirtualKind {
        group: "authorization.k8s.io",
        kind: "LocalSubjectAccessReview",
        plural: "localsubjectaccessreviews",
        namespaced: true,
        answer: Answer::Access { own: false },
    },
    VirtualKind {
        group: "authentication.k8s.io",
        kind: "TokenReview",
        plural: "tokenreviews",
        namespaced: false,
        answer: Answer::Token,
    },
    VirtualKind {
        group: "authentication.k8s.io",
        kind: "SelfSubjectReview",
        plural: "selfsubjectreviews",
        namespaced: false,
        answer: Answer::Known(self_review),
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
    if !call.info.name.is_empty() {
        // Nothing of this is kept: it has no path of its own.
        return Err(ApiError::no_such_path());
    }
    if call.info.verb != "create" {
        return Err(ApiError::no_such_method());
    }
    if kind.namespaced == call.info.object_namespace().is_empty() {
        return Err(ApiError::no_such_path());
    }
    if matches!(kind.answer, Answer::Bind) {
        let table = api.0.registry.kinds.table();
        let pods = table.get("", VERSION, "pods").ok_or_else(ApiError::no_such_path)?;
        return subresources::bind(api, call, &pods, "", format, request).await;
    }
    let options = WriteOptions::parse(&call.params, headers, Verb::Create)?;
    let gvk = GroupVersionKind::new(kind.group, VERSION, kind.kind);
    let family = kind.group.split('.').next().unwrap_or_default();
    let schema = builtin::definitions().reference(&format!("io.k8s.api.{family}.{VERSION}.{}", kind.kind));
    let (mut object, warnings) = body::receive(request).await?.plain(&gvk, &schema, options.mode)?;
    call.warnings.extend(warnings);
    let namespace = kind.namespaced.then_some(call.info.object_namespace());
    meta::fill_namespace(&mut object, namespace)?;
    check(kind, &object)?;
    note_writer(&mut object, &options.manager, "", &gvk, &schema);
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let question = Question { name: &name, ..subresources::virtual_question(call, gvk, &options) };
    object = api.0.registry.ask(&question, object).await?;
    // What was made of it meanwhile has to make sense as well.
    check(kind, &object)?;
    let spec = &object["spec"];
    let status = match kind.answer {
        Answer::Known(answer) => answer(api, &call.user, spec)?,
        Answer::Access { own: true } => decide(api, &call.user, spec).await,
        Answer::Access { own: false } => decide(api, &named(spec), spec).await,
        Answer::Token => token(api, spec).await?,
        // Was answered above.
        Answer::Bind => Value::Null,
    };
    // Some answer with the status alone.
    match kind.kind {
        "SelfSubjectRulesReview" => {
            object["metadata"] = json!({});
            object["spec"] = json!({});
        }
        "SelfSubjectReview" => {
            object["metadata"] = json!({"creationTimestamp": meta::time(Timestamp::now())});
        }
        _ => {}
    }
    object["status"] = status;
    Ok(respond::value(201, format.encoding, &object))
}

/// Notes in an object that is not stored who sent which of its fields, as in one that is.
pub(super) fn note_writer(
    object: &mut Value,
    manager: &str,
    subresource: &str,
    kind: &GroupVersionKind,
    schema: &SchemaRef,
) {
    if let Some(object) = object.as_object_mut() {
        object.remove("status");
    }
    let api_version = kind.api_version();
    let who = apply::Writer { manager, subresource, api_version: &api_version, now: Timestamp::now() };
    track_update(None, object, &who, schema);
}

/// What is wrong with a question about access, in one refusal.
fn check(kind: &VirtualKind, object: &Value) -> Result<(), ApiError> {
    let spec = &object["spec"];
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let mut errors = Vec::new();
    if !kind.kind.ends_with("AccessReview") {
        return Ok(());
    }
    if resource.is_object() && path.is_object() {
        let why = "cannot be specified in combination with resourceAttributes";
        errors.push(path_error(path, why));
    }
    if !resource.is_object() && !path.is_object() {
        let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        errors.push(FieldError::invalid("spec.resourceAttributes", Value::Null, why));
    }
    let nobody = spec["user"].as_str().is_none_or(str::is_empty)
        && spec["groups"].as_array().is_none_or(Vec::is_empty);
    if nobody && !kind.kind.starts_with("Self") {
        let why = "at least one of user or group must be specified";
        errors.push(FieldError::invalid("spec.user", "", why));
    }
    for key in ["fieldSelector", "labelSelector"] {
        errors.extend(selector_errors(&format!("spec.resourceAttributes.{key}"), &resource[key]));
    }
    errors.extend(metadata_error(kind, &object["metadata"]));
    if kind.namespaced {
        let asked = resource["namespace"].as_str().unwrap_or_default();
        if resource.is_object() && asked != object["metadata"]["namespace"] {
            let field = "spec.resourceAttributes.namespace";
            errors.push(FieldError::invalid(field, asked, "must match metadata.namespace"));
        }
        if path.is_object() {
            let why = "disallowed on this kind of request";
            errors.push(path_error(path, why));
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    // Kubernetes leaves out the kind here.
    Err(ApiError::invalid(&GroupVersionKind::new(kind.group, VERSION, ""), "", &errors))
}

/// A question has no name; who sent which of its fields is noted by the server itself.
fn metadata_error(kind: &VirtualKind, metadata: &Value) -> Option<FieldError> {
    let is_set = |value: &Value| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        other => *other != json!(0),
    };
    let allowed = |key: &str| key == "managedFields" || (kind.namespaced && key == "namespace");
    let mut given = metadata.as_object()?.iter().filter(|(key, value)| !allowed(key) && is_set(value));
    given.next()?;
    let why = if kind.namespaced { "must be empty except for namespace" } else { "must be empty" };
    Some(FieldError::invalid("metadata", metadata.clone(), why))
}

/// The attributes of a path are wrong here; they are shown as upstream shows them.
fn path_error(path: &Value, why: &str) -> FieldError {
    let text = |key: &str| path[key].as_str().unwrap_or_default().to_owned();
    let shown = format!("{{\"Path\":{:?},\"Verb\":{:?}}}", text("path"), text("verb"));
    let kind = FieldErrorKind::InvalidAs(shown);
    FieldError { field: "spec.nonResourceAttributes".to_owned(), kind, detail: why.to_owned() }
}

/// What is wrong with a selector that a question about access speaks of.
fn selector_errors(at: &str, selector: &Value) -> Vec<FieldError> {
    let raw = selector["rawSelector"].as_str().unwrap_or_default();
    let requirements = selector["requirements"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut errors = Vec::new();
    if !selector.is_object() {
        return errors;
    }
    if !raw.is_empty() && !requirements.is_empty() {
        let why = "may not specified at the same time as requirements";
        errors.push(FieldError::invalid(format!("{at}.rawSelector"), raw, why));
    }
    if raw.is_empty() && requirements.is_empty() {
        let why = format!("when {at} is specified, requirements or rawSelector is required");
        errors.push(FieldError::required(format!("{at}.requirements"), why));
    }
    for (index, requirement) in requirements.iter().enumerate() {
        let at = format!("{at}.requirements[{index}]");
        let values = requirement["values"].as_array().is_some_and(|values| !values.is_empty());
        if requirement["key"].as_str().unwrap_or_default().is_empty() {
            errors.push(FieldError::required(format!("{at}.key"), "must be specified"));
        }
        match requirement["operator"].as_str().unwrap_or_default() {
            "In" | "NotIn" if !values => {
                let why = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(FieldError::required(format!("{at}.values"), why));
            }
            "Exists" | "DoesNotExist" if values => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(format!("{at}.values"), why));
            }
            // Operators of the future are let through.
            _ => {}
        }
    }
    errors
}

/// Whose token it is. Those of service accounts, and those that a webhook knows, have audiences of their own; all others are for the
/// API server, and who asks about another audience is told that they are not for it.
async fn token(api: &Api, spec: &Value) -> Result<Value, ApiError> {
    let Some(token) = spec["token"].as_str().filter(|token| !token.is_empty()) else {
        return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
    };
    let mut audiences: Vec<&str> =
        spec["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if audiences.is_empty() {
        audiences = api.0.accounts.audiences.all();
    }
    // As kube-apiserver, what is false or empty is left out.
    let not = |why: &str| match why {
        "" => json!({"user": {}}),
        why => json!({"user": {}, "error": why}),
    };
    match api.0.gate.senders.token(token, &audiences).await {
        Ok(Some(known)) => {
            Ok(json!({"authenticated": true, "user": known.user, "audiences": known.audiences}))
        }
        Ok(None) => Ok(not("invalid bearer token")),
        Err(why) => Ok(not(&why.to_string())),
    }
}

fn self_review(_: &Api, user: &UserInfo, _: &Value) -> Result<Value, ApiError> {
    Ok(json!({"userInfo": user}))
}

/// Whom a question about access names.
fn named(spec: &Value) -> UserInfo {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let texts = |list: &Value| list.as_array().into_iter().flatten().filter_map(text).collect();
    let extra = spec["extra"].as_object().into_iter().flatten();
    UserInfo {
        name: text(&spec["user"]).unwrap_or_default(),
        uid: text(&spec["uid"]).unwrap_or_default(),
        groups: texts(&spec["groups"]),
        extra: extra.map(|(key, values)| (key.clone(), texts(values))).collect(),
    }
}

/// The group that a question is about. kubectl takes `users` and `groups` for the kinds of the cloud that are called so, where it asks
/// whether somebody may act as one: that is about the words of the core group, and never about those kinds.
fn meant_group(resource: &Value) -> &str {
    let text = |field: &str| resource[field].as_str().unwrap_or_default();
    let words = text("group") == "iam.yunfan.io" && matches!(text("resource"), "users" | "groups");
    if words && text("verb") == "impersonate" { "" } else { text("group") }
}

async fn decide(api: &Api, user: &UserInfo, spec: &Value) -> Value {
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    fn of<'a>(from: &'a Value, field: &str) -> &'a str {
        from[field].as_str().unwrap_or_default()
    }
    let (selected, fields_whole) = fields_of(&resource["fieldSelector"]);
    let (labels, labels_whole) = labels_of(&resource["labelSelector"]);
    let attributes = if path.is_object() {
        Attributes::path(user, of(path, "verb"), of(path, "path"))
    } else {
        Attributes {
            user,
            verb: of(resource, "verb"),
            group: meant_group(resource),
            version: of(resource, "version"),
            resource: of(resource, "resource"),
            subresource: of(resource, "subresource"),
            namespace: of(resource, "namespace"),
            name: of(resource, "name"),
            path: "",
            selected: &selected,
            labels: &labels,
        }
    };
    let decision = api.0.gate.judge.authorize(&attributes).await;
    let mut status = json!({"allowed": decision.is_allowed()});
    if matches!(decision, Decision::Deny { .. }) {
        status["denied"] = json!(true);
    }
    if !decision.reason().is_empty() {
        status["reason"] = json!(decision.reason());
    }
    // A condition that can't be read is none, and may have been the one that would have allowed it.
    let whole = [
        ("fieldSelector", fields_whole, selected.is_empty()),
        ("labelSelector", labels_whole, labels.is_empty()),
    ];
    let ignored = whole.into_iter().filter(|(_, whole, _)| !whole).map(|(key, _, none)| {
        let how = if none { "ignored" } else { "partially ignored" };
        format!("spec.resourceAttributes.{key} {how} due to parse error")
    });
    let ignored: Vec<String> = ignored.collect();
    if !ignored.is_empty() {
        status["evaluationError"] = json!(ignored.join("; "));
    }
    status
}

/// The conditions of a question's field selector, and whether these are all. Its shape was checked.
fn fields_of(selector: &Value) -> (Vec<FieldTerm>, bool) {
    if let Some(raw) = selector["rawSelector"].as_str().filter(|raw| !raw.is_empty()) {
        let read = field_terms(raw);
        return (read.clone().unwrap_or_default(), read.is_some());
    }
    let asked = selector["requirements"].as_array().map(Vec::as_slice).unwrap_or_default();
    // Fields have one value, or have it not (Kubernetes' `pkg/registry/authorization/util`).
    let one = |requirement: &Value| {
        let equal = match requirement["operator"].as_str()? {
            "In" => true,
            "NotIn" => false,
            _ => return None,
        };
        let values = requirement["values"].as_array().filter(|values| values.len() == 1)?;
        let (field, value) = (requirement["key"].as_str()?.to_owned(), values[0].as_str()?.to_owned());
        Some(FieldTerm { field, equal, value })
    };
    let read: Vec<FieldTerm> = asked.iter().filter_map(one).collect();
    let whole = read.len() == asked.len();
    (read, whole)
}

/// The conditions of a question's label selector, and whether these are all. Its shape was checked.
fn labels_of(selector: &Value) -> (Vec<LabelTerm>, bool) {
    if let Some(raw) = selector["rawSelector"].as_str().filter(|raw| !raw.is_empty()) {
        let read = LabelSelector::parse(raw);
        return (read.as_ref().map(label_terms).unwrap_or_default(), read.is_ok());
    }
    let asked = selector["requirements"].as_array().map(Vec::as_slice).unwrap_or_default();
    let one = |requirement: &Value| {
        LabelSelector::from_object(&json!({"matchExpressions": [requirement]}))
            .ok()
            .map(|read| label_terms(&read))
    };
    let read: Vec<_> = asked.iter().filter_map(one).collect();
    let whole = read.len() == asked.len();
    (read.concat(), whole)
}

fn self_rules(api: &Api, user: &UserInfo, spec: &Value) -> Result<Value, ApiError> {
    let Some(namespace) = spec["namespace"].as_str().filter(|namespace| !namespace.is_empty()) else {
        return Err(ApiError::bad_request("no namespace on request"));
    };
    let (rules, errors) = api.0.gate.judge.rules_for(user, namespace);
    let mut status = json!({
        "resourceRules": rules.resources,
        "nonResourceRules": rules.non_resources,
        "incomplete": !errors.is_empty(),
    });
    let told = [errors, rules.missing].concat();
    if !told.is_empty() {
        status["evaluationError"] = json!(told.join("; "));
    }
    Ok(status)
}
