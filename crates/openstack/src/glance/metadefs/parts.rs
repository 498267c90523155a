//! What is in a namespace of metadata definitions: properties, objects of several, and tags.

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use yunfan_resources::metadef::{MetadefNamespace, MetadefNamespaceSpec, MetadefObject};

use super::{change, check_name, duplicate, find, missing, path, times, with, without};
use crate::Ctx;
use crate::auth::Session;
use crate::body::Json;
use crate::error::{Answer, Fault};
use crate::versions::{json_response, ok};

/// The most properties, objects and tags of one namespace, of each.
const MOST: usize = 256;
/// The most types of resources that one is for.
const MOST_TYPES: usize = 64;

pub(super) fn routes(at: &dyn Fn(&str) -> String) -> Router<Ctx> {
    Router::new()
        .route(&at("properties"), get(properties).post(add_property))
        .route(&at("properties/{name}"), get(property).put(put_property).delete(remove_property))
        .route(&at("objects"), get(objects).post(add_object))
        .route(&at("objects/{name}"), get(object).put(put_object).delete(remove_object))
        .route(&at("tags"), get(tags).post(put_tags).delete(clear_tags))
        .route(&at("tags/{name}"), get(tag).post(add_tag).put(rename_tag).delete(remove_tag))
}

/// Refuses more than there may be, and names that there can't be.
pub(super) fn check(spec: &MetadefNamespaceSpec) -> Result<(), Fault> {
    let counts = [spec.properties.len(), spec.objects.len(), spec.tags.len()];
    if counts.iter().any(|count| *count > MOST) {
        return Err(Fault::bad(format!("A namespace has at most {MOST} properties, objects and tags.")));
    }
    if spec.resource_types.len() > MOST_TYPES {
        return Err(Fault::bad(format!("A namespace is for at most {MOST_TYPES} types of resources.")));
    }
    for (name, schema) in &spec.properties {
        check_property(name, schema)?;
    }
    spec.objects.iter().try_for_each(check_object)
}

fn check_property(name: &str, schema: &Value) -> Result<(), Fault> {
    check_name("name", name)?;
    if !schema["type"].is_string() || !schema["title"].is_string() {
        let text = format!("Invalid input for property {name}. It must have a type and a title.");
        return Err(Fault::bad(text));
    }
    Ok(())
}

fn check_object(object: &MetadefObject) -> Result<(), Fault> {
    check_name("name", &object.name)?;
    if object.properties.len() > MOST || object.required.len() > MOST {
        return Err(Fault::bad(format!("An object has at most {MOST} properties.")));
    }
    object.properties.iter().try_for_each(|(name, schema)| check_property(name, schema))
}

/// A property's schema, with its name in it.
#[derive(Deserialize)]
struct Property {
    name: String,
    #[serde(flatten)]
    schema: Map<String, Value>,
}

impl Property {
    fn read(self) -> Result<(String, Value), Fault> {
        let schema = Value::Object(self.schema);
        check_property(&self.name, &schema)?;
        Ok((self.name, schema))
    }
}

fn property_view(name: &str, schema: &Value) -> Value {
    with(schema.clone(), json!({"name": name}))
}

/// `GET .../properties`
async fn properties(session: Session, Path(namespace): Path<String>) -> Answer {
    let namespace = find(&session, &namespace).await?;
    Ok(ok(&json!({"properties": namespace.spec.properties})))
}

/// `GET .../properties/{name}`
async fn property(session: Session, Path((namespace, name)): Path<(String, String)>) -> Answer {
    let found = find(&session, &namespace).await?;
    let schema = found.spec.properties.get(&name);
    let schema = schema.ok_or_else(|| missing(&format!("property={name} in namespace={namespace}")))?;
    Ok(ok(&property_view(&name, schema)))
}

/// `POST .../properties`
async fn add_property(session: Session, Path(namespace): Path<String>, Json(body): Json<Property>) -> Answer {
    let (name, schema) = body.read()?;
    let found = find(&session, &namespace).await?;
    change(&session, found, |spec| {
        if spec.properties.contains_key(&name) {
            return Err(duplicate(&format!("property={name} in namespace={namespace}")));
        }
        let mut all = spec.properties.clone();
        all.insert(name.clone(), schema.clone());
        Ok(json!({"properties": all}))
    })
    .await?;
    Ok(json_response(StatusCode::CREATED, &property_view(&name, &schema)))
}

/// `PUT .../properties/{name}`, which may give it another name.
async fn put_property(
    session: Session,
    Path((namespace, old)): Path<(String, String)>,
    Json(body): Json<Property>,
) -> Answer {
    let (name, schema) = body.read()?;
    let found = find(&session, &namespace).await?;
    change(&session, found, |spec| {
        let mut all = spec.properties.clone();
        if all.remove(&old).is_none() {
            return Err(missing(&format!("property={old} in namespace={namespace}")));
        }
        if all.insert(name.clone(), schema.clone()).is_some() {
            return Err(duplicate(&format!("property={name} in namespace={namespace}")));
        }
        Ok(json!({"properties": all}))
    })
    .await?;
    Ok(ok(&property_view(&name, &schema)))
}

/// `DELETE .../properties/{name}`
async fn remove_property(session: Session, Path((namespace, name)): Path<(String, String)>) -> Answer {
    let found = find(&session, &namespace).await?;
    change(&session, found, |spec| {
        let mut all = spec.properties.clone();
        match all.remove(&name) {
            Some(_) => Ok(json!({"properties": all})),
            None => Err(missing(&format!("property={name} in namespace={namespace}"))),
        }
    })
    .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// An object as clients write it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Object {
    name: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    required: Vec<String>,
    #[serde(default)]
    properties: Map<String, Value>,
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

impl From<Object> for MetadefObject {
    fn from(object: Object) -> Self {
        Self {
            name: object.name,
            description: object.description,
            required: object.required,
            properties: object.properties,
        }
    }
}

pub(super) fn object_view(namespace: &MetadefNamespace, object: &MetadefObject) -> Value {
    let view = json!({
        "name": object.name, "description": object.description, "required": object.required,
        "properties": object.properties, "schema": "/v2/schemas/metadefs/object",
        "self": format!("{}/objects/{}", path(namespace), object.name),
    });
    with(view, times(namespace))
}

/// `GET .../objects`
async fn objects(session: Session, Path(namespace): Path<String>) -> Answer {
    let namespace = find(&session, &namespace).await?;
    let views: Vec<Value> =
        namespace.spec.objects.iter().map(|object| object_view(&namespace, object)).collect();
    let first = format!("{}/objects", path(&namespace));
    Ok(ok(&json!({"objects": views, "first": first, "schema": "/v2/schemas/metadefs/objects"})))
}

/// `GET .../objects/{name}`
async fn object(session: Session, Path((namespace, name)): Path<(String, String)>) -> Answer {
    let found = find(&session, &namespace).await?;
    let object = found.spec.objects.iter().find(|object| object.name == name);
    let object = object.ok_or_else(|| missing(&format!("object={name} in namespace={namespace}")))?;
    Ok(ok(&object_view(&found, object)))
}

/// `POST .../objects`
async fn add_object(session: Session, Path(namespace): Path<String>, Json(body): Json<Object>) -> Answer {
    let object = MetadefObject::from(body);
    check_object(&object)?;
    let found = find(&session, &namespace).await?;
    let changed = change(&session, found, |spec| {
        if spec.objects.iter().any(|other| other.name == object.name) {
            return Err(duplicate(&format!("object={} in namespace={namespace}", object.name)));
        }
        let mut all = spec.objects.clone();
        all.push(object.clone());
        Ok(json!({"objects": all}))
    });
    let namespace = changed.await?;
    Ok(json_response(StatusCode::CREATED, &object_view(&namespace, &object)))
}

/// `PUT .../objects/{name}`, which may give it another name.
async fn put_object(
    session: Session,
    Path((namespace, old)): Path<(String, String)>,
    Json(body): Json<Object>,
) -> Answer {
    let object = MetadefObject::from(body);
    check_object(&object)?;
    let found = find(&session, &namespace).await?;
    let changed = change(&session, found, |spec| {
        let mut all = spec.objects.clone();
        if object.name != old && all.iter().any(|other| other.name == object.name) {
            return Err(duplicate(&format!("object={} in namespace={namespace}", object.name)));
        }
        let place = all.iter_mut().find(|other| other.name == old);
        *place.ok_or_else(|| missing(&format!("object={old} in namespace={namespace}")))? = object.clone();
        Ok(json!({"objects": all}))
    });
    let namespace = changed.await?;
    Ok(ok(&object_view(&namespace, &object)))
}

/// `DELETE .../objects/{name}`
async fn remove_object(session: Session, Path((namespace, name)): Path<(String, String)>) -> Answer {
    let found = find(&session, &namespace).await?;
    change(&session, found, |spec| {
        let left = without(&spec.objects, |object| object.name == name);
        Ok(json!({"objects": left.ok_or_else(|| missing(&format!("object={name} in namespace={namespace}")))?}))
    })
    .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// A tag as clients write it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tag {
    name: String,
    #[serde(default, rename = "created_at")]
    _created: Option<Value>,
    #[serde(default, rename = "updated_at")]
    _updated: Option<Value>,
}

/// The names of tags, each once.
pub(super) fn names(tags: Vec<Tag>) -> Result<Vec<String>, Fault> {
    // Before they are compared with one another.
    if tags.len() > MOST {
        return Err(Fault::bad(format!("A namespace has at most {MOST} tags.")));
    }
    let mut names: Vec<String> = Vec::with_capacity(tags.len());
    for tag in tags {
        check_name("name", &tag.name)?;
        if names.contains(&tag.name) {
            return Err(duplicate(&format!("tag={}", tag.name)));
        }
        names.push(tag.name);
    }
    Ok(names)
}

fn tag_view(namespace: &MetadefNamespace, name: &str) -> Value {
    with(json!({"name": name}), times(namespace))
}

fn tags_view(namespace: &MetadefNamespace) -> Value {
    let views: Vec<Value> = namespace.spec.tags.iter().map(|name| tag_view(namespace, name)).collect();
    let first = format!("{}/tags", path(namespace));
    json!({"tags": views, "first": first, "schema": "/v2/schemas/metadefs/tags"})
}

/// `GET .../tags`
async fn tags(session: Session, Path(namespace): Path<String>) -> Answer {
    Ok(ok(&tags_view(&find(&session, &namespace).await?)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tags {
    tags: Vec<Tag>,
}

/// `POST .../tags`: these tags and no others or, with the header `X-Openstack-Append`, these as well.
async fn put_tags(
    session: Session,
    Path(namespace): Path<String>,
    headers: HeaderMap,
    Json(body): Json<Tags>,
) -> Answer {
    let wanted = names(body.tags)?;
    let append = headers.get("x-openstack-append").and_then(|value| value.to_str().ok());
    let append = append.is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let found = find(&session, &namespace).await?;
    let changed = change(&session, found, |spec| {
        let mut all = if append { spec.tags.clone() } else { Vec::new() };
        if let Some(twice) = wanted.iter().find(|tag| all.contains(tag)) {
            return Err(duplicate(&format!("tag={twice} in namespace={namespace}")));
        }
        all.extend(wanted.iter().cloned());
        Ok(json!({"tags": all}))
    });
    let namespace = changed.await?;
    Ok(json_response(StatusCode::CREATED, &tags_view(&namespace)))
}

/// `DELETE .../tags`
async fn clear_tags(session: Session, Path(namespace): Path<String>) -> Answer {
    let found = find(&session, &namespace).await?;
    change(&session, found, |_| Ok(json!({"tags": []}))).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `GET .../tags/{name}`
async fn tag(session: Session, Path((namespace, name)): Path<(String, String)>) -> Answer {
    let found = find(&session, &namespace).await?;
    match found.spec.tags.contains(&name) {
        true => Ok(ok(&tag_view(&found, &name))),
        false => Err(missing(&format!("tag={name} in namespace={namespace}"))),
    }
}

/// `POST .../tags/{name}`
async fn add_tag(session: Session, Path((namespace, name)): Path<(String, String)>) -> Answer {
    check_name("name", &name)?;
    let found = find(&session, &namespace).await?;
    let changed = change(&session, found, |spec| {
        if spec.tags.contains(&name) {
            return Err(duplicate(&format!("tag={name} in namespace={namespace}")));
        }
        let mut all = spec.tags.clone();
        all.push(name.clone());
        Ok(json!({"tags": all}))
    });
    let namespace = changed.await?;
    Ok(json_response(StatusCode::CREATED, &tag_view(&namespace, &name)))
}

/// `PUT .../tags/{name}`: gives it another name.
async fn rename_tag(
    session: Session,
    Path((namespace, old)): Path<(String, String)>,
    Json(body): Json<Tag>,
) -> Answer {
    check_name("name", &body.name)?;
    let name = body.name;
    let found = find(&session, &namespace).await?;
    let changed = change(&session, found, |spec| {
        let mut all = spec.tags.clone();
        if name != old && all.contains(&name) {
            return Err(duplicate(&format!("tag={name} in namespace={namespace}")));
        }
        let place = all.iter_mut().find(|tag| **tag == old);
        place.ok_or_else(|| missing(&format!("tag={old} in namespace={namespace}")))?.clone_from(&name);
        Ok(json!({"tags": all}))
    });
    let namespace = changed.await?;
    Ok(ok(&tag_view(&namespace, &name)))
}

/// `DELETE .../tags/{name}`
async fn remove_tag(session: Session, Path((namespace, name)): Path<(String, String)>) -> Answer {
    let found = find(&session, &namespace).await?;
    change(&session, found, |spec| {
        let left = without(&spec.tags, |tag| *tag == name);
        Ok(json!({"tags": left.ok_or_else(|| missing(&format!("tag={name} in namespace={namespace}")))?}))
    })
    .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
