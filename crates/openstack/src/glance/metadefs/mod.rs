//! Metadata definitions: what the properties of images, volumes, flavors and servers mean, for people and dashboards. A namespace of them is a
//! MetadefNamespace object, with all that is in it.

mod parts;
mod schemas;

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use kube::api::{DeleteParams, PostParams};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use yunfan_resources::metadef::{MetadefNamespace, MetadefNamespaceSpec, MetadefObject, MetadefResourceType};

use crate::Ctx;
use crate::auth::Session;
use crate::body::{Json, Params};
use crate::error::{Answer, Fault};
use crate::page::{self, Limits};
use crate::versions::{json_response, ok};
use crate::{ids, stamp};

const PAGE: Limits = Limits { default: 25, max: 1000 };
/// How often a change is tried that others change, too.
const ATTEMPTS: usize = 20;
/// Characters of names: Glance's limit.
const LONGEST: usize = 80;

/// The resources that Glance knows from the beginning (its `etc/metadefs`).
const RESOURCES: [&str; 5] = [
    "OS::Glance::Image",
    "OS::Cinder::Volume",
    "OS::Nova::Flavor",
    "OS::Nova::Server",
    "OS::Nova::Aggregate",
];

/// Everything below `/metadefs`, and the schemas of it.
pub(super) fn routes() -> Router<Ctx> {
    let within = "/metadefs/namespaces/{namespace}";
    let at = |rest: &str| format!("{within}/{rest}");
    Router::new()
        .route("/metadefs/resource_types", get(resource_types))
        .route("/metadefs/namespaces", get(list).post(create))
        .route(within, get(show).put(update).delete(delete))
        .route(&at("resource_types"), get(associations).post(associate))
        .route(&at("resource_types/{name}"), axum::routing::delete(dissociate))
        .merge(parts::routes(&at))
        .route("/schemas/metadefs/{kind}", get(schemas::show))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    namespace: String,
    #[serde(default)]
    display_name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    visibility: Option<String>,
    #[serde(default)]
    protected: Option<bool>,
    #[serde(default)]
    owner: Option<String>,
    #[serde(default)]
    resource_type_associations: Option<Vec<Association>>,
    #[serde(default)]
    properties: Option<Map<String, Value>>,
    #[serde(default)]
    objects: Option<Vec<parts::Object>>,
    #[serde(default)]
    tags: Option<Vec<parts::Tag>>,
    /// Clients send what they were shown.
    #[serde(default, rename = "self")]
    _own: Option<Value>,
    #[serde(default, rename = "schema")]
    _schema: Option<Value>,
    #[serde(default, rename = "created_at")]
    _created: Option<Value>,
    #[serde(default, rename = "updated_at")]
    _updated: Option<Value>,
}

impl Fields {
    fn check(&self) -> Result<(), Fault> {
        check_name("namespace", &self.namespace)?;
        ids::check_name("display_name", self.display_name.as_deref().unwrap_or_default(), true)?;
        match self.visibility.as_deref() {
            None | Some("public" | "private") => Ok(()),
            Some(other) => Err(Fault::bad(format!("Invalid visibility value: {other}"))),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Association {
    name: String,
    #[serde(default)]
    prefix: Option<String>,
    #[serde(default)]
    properties_target: Option<String>,
    #[serde(default, rename = "created_at")]
    _created: Option<Value>,
    #[serde(default, rename = "updated_at")]
    _updated: Option<Value>,
}

impl Association {
    fn read(self) -> Result<MetadefResourceType, Fault> {
        check_name("name", &self.name)?;
        for text in [&self.prefix, &self.properties_target] {
            check_length("prefix and properties_target", text.as_deref().unwrap_or_default())?;
        }
        Ok(MetadefResourceType {
            name: self.name,
            prefix: self.prefix,
            properties_target: self.properties_target,
        })
    }
}

fn check_length(field: &str, text: &str) -> Result<(), Fault> {
    if text.chars().count() > LONGEST {
        return Err(Fault::bad(format!(
            "Invalid input for {field}. It must have at most {LONGEST} characters."
        )));
    }
    Ok(())
}

/// Refuses names that Glance has none of, and those that no path could name.
fn check_name(field: &str, name: &str) -> Result<(), Fault> {
    if name.contains('/') {
        return Err(Fault::bad(format!("Invalid input for {field}. It must have no slash.")));
    }
    check_length(field, name)?;
    ids::check_name(field, name, false)
}

fn key(namespace: &MetadefNamespace) -> &str {
    namespace.spec.id.as_deref().unwrap_or_default()
}

/// Whether the caller is shown a namespace: those of other projects are shown where they are public.
fn is_shown(session: &Session, namespace: &MetadefNamespace) -> bool {
    let own = namespace.spec.project.as_deref() == Some(session.project_id());
    own || namespace.spec.public || session.is_admin()
}

async fn find(session: &Session, name: &str) -> Result<MetadefNamespace, Fault> {
    let found = session.find(&session.global::<MetadefNamespace>(), name).await?;
    found
        .filter(|namespace| is_shown(session, namespace))
        .ok_or_else(|| missing(&format!("namespace={name}")))
}

fn missing(what: &str) -> Fault {
    Fault::new(StatusCode::NOT_FOUND, format!("Metadata definition {what} not found"))
}

fn duplicate(what: &str) -> Fault {
    Fault::conflict(format!("A metadata definition {what} already exists."))
}

/// Gives a namespace the members of its spec that `edit` says, whole, as the caller.
async fn change(
    session: &Session,
    mut namespace: MetadefNamespace,
    edit: impl Fn(&MetadefNamespaceSpec) -> Result<Value, Fault>,
) -> Result<MetadefNamespace, Fault> {
    let namespaces = session.global::<MetadefNamespace>();
    for _ in 0..ATTEMPTS {
        let spec = with(json!(namespace.spec), edit(&namespace.spec)?);
        namespace.spec = serde_json::from_value(spec).map_err(|error| Fault::bad(error.to_string()))?;
        parts::check(&namespace.spec)?;
        let name = ids::name(&namespace).to_owned();
        match namespaces.replace(&name, &PostParams::default(), &namespace).await {
            Err(kube::Error::Api(status)) if status.code == 409 => namespace = namespaces.get(&name).await?,
            other => return Ok(other?),
        }
    }
    Err(Fault::conflict("The namespace is being changed by many at once; try again."))
}

/// A list without what is such; nothing where nothing is.
fn without<T: Clone>(all: &[T], is: impl Fn(&T) -> bool) -> Option<Vec<T>> {
    let left: Vec<T> = all.iter().filter(|one| !is(one)).cloned().collect();
    (left.len() < all.len()).then_some(left)
}

fn path(namespace: &MetadefNamespace) -> String {
    format!("/v2/metadefs/namespaces/{}", key(namespace))
}

/// When it was made, which every part shows as well.
fn times(namespace: &MetadefNamespace) -> Value {
    let at = stamp::seconds(stamp::created(namespace));
    json!({"created_at": at, "updated_at": at})
}

fn with(mut view: Value, more: Value) -> Value {
    if let (Some(view), Value::Object(more)) = (view.as_object_mut(), more) {
        view.extend(more);
    }
    view
}

fn association_view(namespace: &MetadefNamespace, of: &MetadefResourceType) -> Value {
    let mut view = with(json!({"name": of.name}), times(namespace));
    for (member, text) in [("prefix", &of.prefix), ("properties_target", &of.properties_target)] {
        if let Some(text) = text {
            view[member] = json!(text);
        }
    }
    view
}

fn view(namespace: &MetadefNamespace) -> Value {
    let spec = &namespace.spec;
    let types: Vec<Value> = spec.resource_types.iter().map(|of| association_view(namespace, of)).collect();
    let view = json!({
        "namespace": key(namespace), "display_name": spec.display_name, "description": spec.description,
        "visibility": if spec.public { "public" } else { "private" }, "protected": spec.protected,
        "owner": spec.project, "resource_type_associations": types, "self": path(namespace),
        "schema": "/v2/schemas/metadefs/namespace",
    });
    with(view, times(namespace))
}

/// A namespace with all that is in it.
fn whole(namespace: &MetadefNamespace) -> Value {
    let mut view = view(namespace);
    let spec = &namespace.spec;
    if !spec.properties.is_empty() {
        view["properties"] = json!(spec.properties);
    }
    if !spec.objects.is_empty() {
        view["objects"] = spec.objects.iter().map(|object| parts::object_view(namespace, object)).collect();
    }
    if !spec.tags.is_empty() {
        view["tags"] = spec.tags.iter().map(|tag| json!({"name": tag})).collect();
    }
    view
}

/// `GET /metadefs/namespaces`
async fn list(session: Session, params: Params) -> Answer {
    let mut all = ids::list(&session.global::<MetadefNamespace>()).await?;
    let types: Option<Vec<&str>> = params.get("resource_types").map(|list| list.split(',').collect());
    all.retain(|namespace| {
        let spec = &namespace.spec;
        let has = |types: &Vec<&str>| spec.resource_types.iter().any(|of| types.contains(&of.name.as_str()));
        let visible = |wanted: &str| wanted == if spec.public { "public" } else { "private" };
        is_shown(&session, namespace)
            && types.as_ref().is_none_or(has)
            && params.get("visibility").is_none_or(visible)
    });
    page::sort(&params, ("created_at", "desc"), &mut all, |namespace, by| match by {
        "created_at" | "updated_at" => {
            Some(format!("{} {}", stamp::seconds(stamp::created(namespace)), ids::name(namespace)))
        }
        "namespace" => Some(key(namespace).to_owned()),
        _ => None,
    })?;
    let (all, next) = page::cut(&params, PAGE, all, |namespace| key(namespace).to_owned())?;
    let views: Vec<Value> = all.iter().map(view).collect();
    let mut body = json!({
        "namespaces": views, "first": "/v2/metadefs/namespaces", "schema": "/v2/schemas/metadefs/namespaces",
    });
    if let Some(marker) = next {
        body["next"] = json!(format!("/v2/metadefs/namespaces?{}", page::next_query(&params, &marker)));
    }
    Ok(ok(&body))
}

/// `GET /metadefs/namespaces/{namespace}`
async fn show(session: Session, Path(name): Path<String>) -> Answer {
    Ok(ok(&whole(&find(&session, &name).await?)))
}

/// `POST /metadefs/namespaces`; the API server says who may.
async fn create(session: Session, Json(fields): Json<Fields>) -> Answer {
    fields.check()?;
    let some = |text: Option<String>| text.filter(|text| !text.is_empty());
    let read = |all: Option<Vec<Association>>| {
        all.unwrap_or_default().into_iter().map(Association::read).collect::<Result<Vec<_>, _>>()
    };
    let objects: Vec<MetadefObject> =
        fields.objects.unwrap_or_default().into_iter().map(Into::into).collect();
    let spec = MetadefNamespaceSpec {
        id: Some(fields.namespace.clone()),
        display_name: some(fields.display_name),
        description: some(fields.description),
        project: Some(fields.owner.unwrap_or_else(|| session.project_id().to_owned())),
        public: fields.visibility.as_deref() == Some("public"),
        protected: fields.protected.unwrap_or(false),
        resource_types: read(fields.resource_type_associations)?,
        properties: fields.properties.unwrap_or_default(),
        objects,
        tags: parts::names(fields.tags.unwrap_or_default())?,
    };
    parts::check(&spec)?;
    let namespaces = session.global::<MetadefNamespace>();
    let made = ids::create(&namespaces, MetadefNamespace::new("", spec), &fields.namespace).await;
    let made = made.map_err(|fault| match fault.status {
        StatusCode::CONFLICT => duplicate(&format!("namespace={}", fields.namespace)),
        _ => fault,
    })?;
    Ok(json_response(StatusCode::CREATED, &whole(&made)))
}

/// `PUT /metadefs/namespaces/{namespace}`: what is not named is as if it were made anew, but what is in it stays.
async fn update(session: Session, Path(name): Path<String>, Json(fields): Json<Fields>) -> Answer {
    fields.check()?;
    let namespace = find(&session, &name).await?;
    if fields.namespace != name {
        return Err(Fault::bad("A namespace's name cannot be changed: other clients know it by that."));
    }
    let changed = change(&session, namespace, |spec| {
        Ok(json!({
            "displayName": fields.display_name, "description": fields.description,
            "public": fields.visibility.as_deref() == Some("public"), "protected": fields.protected.unwrap_or(false),
            "project": fields.owner.as_ref().or(spec.project.as_ref()),
        }))
    });
    Ok(ok(&view(&changed.await?)))
}

/// `DELETE /metadefs/namespaces/{namespace}`: not while it is protected.
async fn delete(session: Session, Path(name): Path<String>) -> Answer {
    let namespace = find(&session, &name).await?;
    if namespace.spec.protected {
        let text = format!("Metadata definition namespace={name} is protected and cannot be deleted.");
        return Err(Fault::forbidden(text));
    }
    session.global::<MetadefNamespace>().delete(ids::name(&namespace), &DeleteParams::default()).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `GET /metadefs/resource_types`: those that are known, and those that namespaces are for.
async fn resource_types(session: Session) -> Answer {
    let all = ids::list(&session.global::<MetadefNamespace>()).await?;
    let mut names: Vec<&str> = RESOURCES.to_vec();
    for namespace in all.iter().filter(|namespace| is_shown(&session, namespace)) {
        for of in &namespace.spec.resource_types {
            if !names.contains(&of.name.as_str()) {
                names.push(&of.name);
            }
        }
    }
    let views: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
    Ok(ok(&json!({"resource_types": views})))
}

/// `GET /metadefs/namespaces/{namespace}/resource_types`
async fn associations(session: Session, Path(name): Path<String>) -> Answer {
    let namespace = find(&session, &name).await?;
    let views: Vec<Value> =
        namespace.spec.resource_types.iter().map(|of| association_view(&namespace, of)).collect();
    Ok(ok(&json!({"resource_type_associations": views})))
}

/// `POST /metadefs/namespaces/{namespace}/resource_types`
async fn associate(session: Session, Path(name): Path<String>, Json(body): Json<Association>) -> Answer {
    let namespace = find(&session, &name).await?;
    let wanted = body.read()?;
    let changed = change(&session, namespace, |spec| {
        if spec.resource_types.iter().any(|of| of.name == wanted.name) {
            return Err(duplicate(&format!("resource-type={} association", wanted.name)));
        }
        let mut all = spec.resource_types.clone();
        all.push(wanted.clone());
        Ok(json!({"resourceTypes": all}))
    });
    let namespace = changed.await?;
    Ok(json_response(StatusCode::CREATED, &association_view(&namespace, &wanted)))
}

/// `DELETE /metadefs/namespaces/{namespace}/resource_types/{name}`
async fn dissociate(session: Session, Path((name, of)): Path<(String, String)>) -> Answer {
    let namespace = find(&session, &name).await?;
    change(&session, namespace, |spec| {
        let left = without(&spec.resource_types, |one| one.name == of);
        let left =
            left.ok_or_else(|| missing(&format!("resource-type={of} association of namespace={name}")));
        Ok(json!({"resourceTypes": left?}))
    })
    .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
