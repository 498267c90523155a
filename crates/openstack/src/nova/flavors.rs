//! Flavors.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use kube::api::DeleteParams;
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::compute::{Flavor, FlavorSpec};

use super::view::links;
use crate::auth::Session;
use crate::body::{Json, Params, boolean, explicit};
use crate::change::Changes;
use crate::error::{Answer, Fault};
use crate::ids;
use crate::microversion::Microversion;
use crate::page::{self, Limits};
use crate::versions::ok;

const PAGE: Limits = Limits { default: 1000, max: 1000 };

fn view(session: &Session, version: Microversion, flavor: &Flavor) -> Value {
    let (id, swap) = (flavor.id(), flavor.spec.swap_mib);
    let mut view = json!({
        "id": id, "name": flavor.display_name(), "vcpus": flavor.spec.vcpus, "ram": flavor.spec.memory_mib,
        "disk": flavor.spec.disk_gib, "OS-FLV-EXT-DATA:ephemeral": flavor.spec.ephemeral_gib, "OS-FLV-DISABLED:disabled": false,
        "os-flavor-access:is_public": !flavor.spec.private, "rxtx_factor": flavor.spec.rxtx_factor.unwrap_or(1.0),
        "swap": if version >= Microversion(75) || swap > 0 { json!(swap) } else { json!("") },
        "links": links(&session.door.endpoint, "flavors", &id),
    });
    if version >= Microversion(55) {
        view["description"] = json!(flavor.spec.description);
    }
    if version >= Microversion(61) {
        view["extra_specs"] = json!(flavor.spec.extra_specs);
    }
    view
}

/// The flavor with this id, if the caller is shown it.
pub(super) async fn find(session: &Session, id: &str) -> Result<Flavor, Fault> {
    let found = session.find(&session.global::<Flavor>(), id).await?;
    found.filter(|flavor| may_see(session, flavor)).ok_or_else(|| Fault::not_found("Flavor", id))
}

/// Whether the caller is shown a flavor: a public one, one of their project's, or any for an admin.
pub(super) fn may_see(session: &Session, flavor: &Flavor) -> bool {
    let own = || flavor.spec.projects.iter().any(|project| project == session.project_id());
    !flavor.spec.private || session.is_admin() || own()
}

/// `GET /flavors`
pub(super) async fn list(session: Session, version: Microversion, params: Params) -> Answer {
    collection(&session, version, &params, false).await
}

/// `GET /flavors/detail`
pub(super) async fn detail(session: Session, version: Microversion, params: Params) -> Answer {
    collection(&session, version, &params, true).await
}

async fn collection(session: &Session, version: Microversion, params: &Params, detail: bool) -> Answer {
    let number = |key: &str| -> Result<u32, Fault> {
        let text = params.get(key).unwrap_or("0");
        text.parse()
            .map_err(|_| Fault::bad(format!("Invalid input for query parameter {key}: {text} is no number")))
    };
    let (min_ram, min_disk) = (number("minRam")?, number("minDisk")?);
    // "none" asks for both sorts; only an admin is asked. Others see public flavors and those of their project.
    let public = match params.get("is_public") {
        Some(text) if text.eq_ignore_ascii_case("none") => None,
        _ => Some(params.flag("is_public")?.unwrap_or(true)),
    };
    let wanted = |flavor: &Flavor| match public.filter(|_| session.is_admin()) {
        Some(true) => {
            !flavor.spec.private || flavor.spec.projects.iter().any(|own| own == session.project_id())
        }
        Some(false) => flavor.spec.private,
        None => may_see(session, flavor),
    };
    let mut flavors = ids::list(&session.global::<Flavor>()).await?;
    flavors.retain(|flavor| {
        flavor.spec.memory_mib >= min_ram && flavor.spec.disk_gib >= min_disk && wanted(flavor)
    });
    page::sort(params, ("flavorid", "asc"), &mut flavors, |flavor, key| match key {
        "flavorid" | "id" => Some(flavor.id()),
        "name" => Some(flavor.display_name()),
        "memory_mb" => Some(format!("{:010}", flavor.spec.memory_mib)),
        "vcpus" => Some(format!("{:010}", flavor.spec.vcpus)),
        "root_gb" => Some(format!("{:010}", flavor.spec.disk_gib)),
        "created_at" => Some(crate::stamp::seconds(crate::stamp::created(flavor))),
        _ => None,
    })?;
    let (flavors, next) = page::cut(params, PAGE, flavors, Identified::id)?;
    let views: Vec<Value> = flavors
        .iter()
        .map(|flavor| {
            let mut view = view(session, version, flavor);
            if !detail && let Some(members) = view.as_object_mut() {
                let extended = version >= Microversion(55);
                members.retain(|key, _| {
                    matches!(key.as_str(), "id" | "name" | "links") || (key == "description" && extended)
                });
            }
            view
        })
        .collect();
    let path = if detail { "flavors/detail" } else { "flavors" };
    let url = format!("{}/compute/v2.1/{path}", session.door.endpoint);
    Ok(ok(&page::body("flavors", views, (&url, params, next.as_deref()))))
}

/// `GET /flavors/{id}`
pub(super) async fn show(session: Session, version: Microversion, Path(id): Path<String>) -> Answer {
    let flavor = find(&session, &id).await?;
    Ok(ok(&json!({"flavor": view(&session, version, &flavor)})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    flavor: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    name: String,
    #[serde(default, alias = "flavorid")]
    id: Option<Value>,
    vcpus: Number,
    ram: Number,
    disk: Number,
    #[serde(default)]
    swap: Option<Value>,
    #[serde(default, rename = "OS-FLV-EXT-DATA:ephemeral")]
    ephemeral: Option<Value>,
    #[serde(default)]
    rxtx_factor: Option<Value>,
    #[serde(default, rename = "os-flavor-access:is_public")]
    public: Option<Value>,
    #[serde(default, deserialize_with = "explicit")]
    description: Option<Option<String>>,
}

/// Nova takes numbers as text as well.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Number(u32),
    Text(String),
}

impl Number {
    fn value(&self, field: &str, min: u32) -> Result<u32, Fault> {
        let value = match self {
            Number::Number(value) => Some(*value),
            Number::Text(text) => text.parse().ok(),
        };
        value.filter(|value| *value >= min).ok_or_else(|| {
            Fault::bad(format!(
                "Invalid input for field/attribute {field}. It must be a number of at least {min}."
            ))
        })
    }
}

/// The longest description, characters.
const MAX_DESCRIPTION: usize = 65_535;

fn check_description(version: Microversion, given: Option<&Option<String>>) -> Result<(), Fault> {
    let Some(text) = given else { return Ok(()) };
    if version < Microversion(55) {
        return Err(Fault::bad(
            "Invalid input for field/attribute flavor. Additional properties are not allowed ('description' was unexpected)",
        ));
    }
    if text.as_ref().is_some_and(|text| text.chars().count() > MAX_DESCRIPTION) {
        return Err(Fault::bad("Invalid input for field/attribute description. It is too long."));
    }
    Ok(())
}

/// A size that may be left out: null and empty text are 0.
fn none_or(given: Option<&Value>, field: &str) -> Result<u32, Fault> {
    match given {
        None | Some(Value::Null) => Ok(0),
        Some(Value::String(text)) if text.is_empty() => Ok(0),
        Some(value) => crate::body::parse_value::<Number>(value.clone())
            .and_then(|number| number.value(field, 0))
            .map_err(|_| Fault::bad(format!("Invalid input for field/attribute {field}. It is no size."))),
    }
}

/// The factor of network bandwidth: a number above 0, or its text.
fn factor(given: &Value) -> Result<f64, Fault> {
    let number = given.as_f64().or_else(|| given.as_str()?.parse().ok());
    number
        .filter(|number| number.is_finite() && *number > 0.0)
        .ok_or_else(|| Fault::bad("Invalid input for field/attribute rxtx_factor. It is a number above 0."))
}

fn spec(fields: &Fields) -> Result<FlavorSpec, Fault> {
    ids::check_name("name", &fields.name, false)?;
    let rxtx_factor =
        fields.rxtx_factor.as_ref().filter(|factor| !factor.is_null()).map(factor).transpose()?;
    let id = match &fields.id {
        None | Some(Value::Null) => None,
        Some(Value::Number(number)) => Some(number.to_string()),
        Some(Value::String(text)) if text == "auto" || text.is_empty() => None,
        Some(Value::String(text)) => {
            ids::check_name("id", text, false)?;
            if !text.chars().all(|c| c.is_ascii_alphanumeric() || "-_. ".contains(c)) {
                return Err(Fault::bad(
                    "Invalid input for field/attribute id. It has letters, digits and -_. only.",
                ));
            }
            Some(text.clone())
        }
        Some(_) => return Err(Fault::bad("Invalid input for field/attribute id. It is text.")),
    };
    Ok(FlavorSpec {
        id,
        display_name: Some(fields.name.clone()),
        vcpus: fields.vcpus.value("vcpus", 1)?,
        memory_mib: fields.ram.value("ram", 1)?,
        disk_gib: fields.disk.value("disk", 0)?,
        swap_mib: none_or(fields.swap.as_ref(), "swap")?,
        ephemeral_gib: none_or(fields.ephemeral.as_ref(), "OS-FLV-EXT-DATA:ephemeral")?,
        rxtx_factor,
        description: fields.description.clone().flatten(),
        private: boolean("os-flavor-access:is_public", fields.public.as_ref())? == Some(false),
        ..FlavorSpec::default()
    })
}

/// `POST /flavors`
pub(super) async fn create(session: Session, version: Microversion, Json(body): Json<Body>) -> Answer {
    check_description(version, body.flavor.description.as_ref())?;
    let spec = spec(&body.flavor)?;
    let flavors = session.global::<Flavor>();
    for other in ids::list(&flavors).await? {
        if spec.id.as_deref() == Some(other.id().as_str()) {
            return Err(Fault::conflict(format!("Flavor with ID {} already exists.", other.id())));
        }
        if other.display_name() == body.flavor.name {
            return Err(Fault::conflict(format!("Flavor with name {} already exists.", body.flavor.name)));
        }
    }
    let flavor = ids::create(&flavors, Flavor::new("", spec), &body.flavor.name).await?;
    Ok(ok(&json!({"flavor": view(&session, version, &flavor)})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UpdateBody {
    flavor: UpdateFields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateFields {
    description: Option<String>,
}

/// `PUT /flavors/{id}` (2.55): another description; all else of a flavor stays as it was made.
pub(super) async fn update(
    session: Session,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<UpdateBody>,
) -> Answer {
    if version < Microversion(55) {
        return Err(Fault::new(StatusCode::NOT_FOUND, "The resource could not be found."));
    }
    let description = body.flavor.description;
    check_description(version, Some(&description))?;
    let flavor = find(&session, &id).await?;
    let changes = Changes::default().set("description", Some(json!(description)));
    let flavor = changes.apply(&session.global(), &flavor).await?;
    Ok(ok(&json!({"flavor": view(&session, version, &flavor)})))
}

/// `DELETE /flavors/{id}`. Machines made from it keep their size.
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    let flavor = find(&session, &id).await?;
    session.global::<Flavor>().delete(ids::name(&flavor), &DeleteParams::default()).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::parse;

    fn made(extra: &str) -> Result<FlavorSpec, Fault> {
        let text =
            format!(r#"{{"flavor": {{"name": "m1.tiny", "vcpus": 1, "ram": "512", "disk": 1{extra}}}}}"#);
        spec(&parse::<Body>(text.as_bytes())?.flavor)
    }

    #[test]
    fn a_request_becomes_a_flavor() {
        let flavor =
            made(r#", "id": "1", "swap": 0, "rxtx_factor": 1.0, "os-flavor-access:is_public": true"#)
                .unwrap();
        assert_eq!((flavor.id.as_deref(), flavor.memory_mib), (Some("1"), 512));
        assert_eq!(made(r#", "id": "auto""#).unwrap().id, None);
        assert!(made(r#", "os-flavor-access:is_public": false"#).unwrap().private);
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        let disks = made(r#", "swap": 64, "OS-FLV-EXT-DATA:ephemeral": "2", "rxtx_factor": 2"#).unwrap();
        assert_eq!((disks.swap_mib, disks.ephemeral_gib, disks.rxtx_factor), (64, 2, Some(2.0)));
        for extra in [
            r#", "swap": -1"#,
            r#", "swap": "x""#,
            r#", "rxtx_factor": 0"#,
            r#", "ram": 0"#,
            r#", "id": "a/b""#,
        ] {
            assert!(made(extra).is_err(), "{extra}");
        }
    }
}
