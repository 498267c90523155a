//! Flavors.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use kube::api::DeleteParams;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use yunfan_resources::Identified;
use yunfan_resources::compute::{Flavor, FlavorSpec};

use super::view::links;
use crate::auth::Session;
use crate::body::{Json, Params, only};
use crate::error::{Answer, Fault};
use crate::ids;
use crate::microversion::Microversion;
use crate::page::{self, Limits};
use crate::versions::ok;

const PAGE: Limits = Limits { default: 1000, max: 1000 };

fn view(session: &Session, version: Microversion, flavor: &Flavor) -> Value {
    let id = flavor.id();
    let mut view = json!({
        "id": id, "name": flavor.display_name(), "vcpus": flavor.spec.vcpus, "ram": flavor.spec.memory_mib,
        "disk": flavor.spec.disk_gib, "OS-FLV-EXT-DATA:ephemeral": 0, "OS-FLV-DISABLED:disabled": false,
        "os-flavor-access:is_public": true, "rxtx_factor": 1.0,
        "swap": if version >= Microversion(75) { json!(0) } else { json!("") },
        "links": links(&session.door.endpoint, "flavors", &id),
    });
    if version >= Microversion(55) {
        view["description"] = Value::Null;
    }
    if version >= Microversion(61) {
        view["extra_specs"] = json!({});
    }
    view
}

async fn find(session: &Session, id: &str) -> Result<Flavor, Fault> {
    session.find(&session.global::<Flavor>(), id).await?.ok_or_else(|| Fault::not_found("Flavor", id))
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
    // Every flavor is public; "none" asks for both sorts.
    let private_only = match params.get("is_public") {
        Some(text) if text.eq_ignore_ascii_case("none") => false,
        _ => params.flag("is_public")? == Some(false),
    };
    let mut flavors = ids::list(&session.global::<Flavor>()).await?;
    flavors.retain(|flavor| {
        flavor.spec.memory_mib >= min_ram && flavor.spec.disk_gib >= min_disk && !private_only
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
                members.retain(|key, _| matches!(key.as_str(), "id" | "name" | "links" | "description"));
            }
            view
        })
        .collect();
    let mut body = json!({"flavors": views});
    let path = if detail { "flavors/detail" } else { "flavors" };
    let url = format!("{}/compute/v2.1/{path}", session.door.endpoint);
    if let Some(links) = page::links(&url, params, next.as_deref()) {
        body["flavors_links"] = links;
    }
    Ok(ok(&body))
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
    #[serde(default)]
    description: Option<Value>,
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

fn spec(fields: &Fields) -> Result<FlavorSpec, Fault> {
    ids::check_name("name", &fields.name, false)?;
    let zeros = [json!(0), json!("0"), json!("")];
    only("swap", fields.swap.as_ref(), &zeros, "guests get no swap disk")?;
    only("OS-FLV-EXT-DATA:ephemeral", fields.ephemeral.as_ref(), &zeros, "guests get no ephemeral disk")?;
    only(
        "rxtx_factor",
        fields.rxtx_factor.as_ref(),
        &[json!(1), json!(1.0), json!("1.0"), json!("1")],
        "it has no meaning here",
    )?;
    only(
        "os-flavor-access:is_public",
        fields.public.as_ref(),
        &[json!(true), json!("true"), json!("True")],
        "every flavor is public",
    )?;
    only("description", fields.description.as_ref(), &[json!("")], "flavors have no description")?;
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
    })
}

/// `POST /flavors`
pub(super) async fn create(session: Session, version: Microversion, Json(body): Json<Body>) -> Answer {
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

/// `DELETE /flavors/{id}`. Machines made from it keep their size.
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    let flavor = find(&session, &id).await?;
    session.global::<Flavor>().delete(ids::name(&flavor), &DeleteParams::default()).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// `GET /flavors/{id}/os-extra_specs`
pub(super) async fn extra_specs(session: Session, Path(id): Path<String>) -> Answer {
    find(&session, &id).await?;
    Ok(no_specs())
}

fn no_specs() -> Response {
    ok(&json!({"extra_specs": {}}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SpecsBody {
    extra_specs: Map<String, Value>,
}

/// `POST /flavors/{id}/os-extra_specs`: nothing here would act on them.
pub(super) async fn set_extra_specs(
    session: Session,
    Path(id): Path<String>,
    Json(body): Json<SpecsBody>,
) -> Answer {
    find(&session, &id).await?;
    match body.extra_specs.keys().next() {
        None => Ok(no_specs()),
        Some(key) => {
            Err(Fault::bad(format!("extra_specs.{key} is not supported: the scheduler has no use for it.")))
        }
    }
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
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        for extra in [
            r#", "swap": 64"#,
            r#", "os-flavor-access:is_public": false"#,
            r#", "ram": 0"#,
            r#", "id": "a/b""#,
        ] {
            assert!(made(extra).is_err(), "{extra}");
        }
    }
}
