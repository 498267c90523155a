//! Placement: the nodes' room, as the scheduler counts it. Nothing is kept here and nothing can be written: who takes room is
//! decided by the scheduler, from objects.
//!
//! A resource provider is a Node, a consumer is a VirtualMachine, a Pod or a Volume. Start reading at `ledger`.

mod candidates;
mod consumers;
mod ledger;
mod providers;

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::middleware::{from_fn, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::Ctx;
use crate::auth::Session;
use crate::body::Params;
use crate::error::{Answer, Fault, Shape, render};
use crate::microversion::{Microversion, PLACEMENT};
use crate::versions::{self, ok};

pub(crate) use ledger::lacking;

/// Everything below `/placement`.
pub(crate) fn router(door: Ctx) -> Router {
    let endpoint = door.endpoint.clone();
    let provider = "/resource_providers/{uuid}";
    let services = Router::new()
        .route("/resource_providers", read(get(providers::list)))
        .route(provider, read(get(providers::show)))
        .route(&format!("{provider}/inventories"), read(get(providers::inventories)))
        .route(&format!("{provider}/inventories/{{class}}"), read(get(providers::inventory)))
        .route(&format!("{provider}/usages"), read(get(providers::usages)))
        .route(&format!("{provider}/aggregates"), read(get(providers::aggregates)))
        .route(&format!("{provider}/traits"), read(get(providers::traits)))
        .route(&format!("{provider}/allocations"), read(get(providers::allocations)))
        .route("/allocations", read(MethodRouter::new()))
        .route("/allocations/{consumer}", read(get(consumers::allocations)))
        .route("/reshaper", read(MethodRouter::new()))
        .route("/usages", read(get(consumers::usages)))
        .route("/allocation_candidates", read(get(candidates::list)))
        .route("/resource_classes", read(get(classes)))
        .route("/resource_classes/{name}", read(get(class)))
        .route("/traits", read(get(traits)))
        .route("/traits/{name}", read(get(has_trait)));
    Router::new()
        .route("/", get(root))
        .merge(services)
        .layer(from_fn(|request, next| PLACEMENT.negotiate(request, next)))
        .layer(map_response(move |response: Response| {
            let response = render(Shape::Placement, &endpoint, response);
            async move { response }
        }))
        .with_state(door)
}

/// A resource that is only read: anything else is refused with the reason.
fn read(methods: MethodRouter<Ctx>) -> MethodRouter<Ctx> {
    methods.fallback(read_only)
}

async fn read_only(_: Session) -> Fault {
    Fault::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "Placement is read-only here: its numbers follow from nodes, pods, servers and volumes, and the scheduler alone gives room \
         away.",
    )
}

/// The version document, which needs no token.
async fn root() -> Response {
    ok(&json!({"versions": [versions::placement()]}))
}

/// Refuses a resource that came with a later version.
fn since(version: Microversion, minor: u32) -> Result<(), Fault> {
    if version >= Microversion(minor) {
        Ok(())
    } else {
        Err(Fault::new(StatusCode::NOT_FOUND, "The resource could not be found."))
    }
}

/// Refuses query parameters other than these.
fn only_parameters(params: &Params, known: &[(&str, u32)], version: Microversion) -> Result<(), Fault> {
    let unknown = params
        .0
        .iter()
        .find(|(name, _)| !known.iter().any(|(own, minor)| own == name && version >= Microversion(*minor)));
    match unknown {
        None => Ok(()),
        Some((name, _)) => Err(Fault::bad(format!(
            "Invalid query string parameters: Additional properties are not allowed ('{name}' was unexpected)"
        ))),
    }
}

/// `CLASS:AMOUNT,CLASS:AMOUNT`
fn resources(text: &str) -> Result<Vec<(String, i64)>, Fault> {
    let malformed = || {
        Fault::bad(format!(
            "Badly formed resources parameter. Expected resources query string parameter in form: \
             ?resources=VCPU:2,MEMORY_MB:1024. Got: {text}."
        ))
    };
    let pairs = text.split(',').map(|pair| {
        let (class, amount) = pair.trim().split_once(':').ok_or_else(malformed)?;
        let amount: i64 = amount.parse().map_err(|_| malformed())?;
        if amount < 1 {
            return Err(malformed());
        }
        if !ledger::CLASSES.contains(&class) {
            return Err(Fault::bad(format!("Invalid resource class in resources parameter: {class}")));
        }
        Ok((class.to_owned(), amount))
    });
    pairs.collect()
}

/// What is wanted of traits: each of these, `!TRAIT` not.
fn required(params: &Params) -> Result<Vec<(bool, String)>, Fault> {
    let names = params.all("required").flat_map(|list| list.split(',')).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let (wanted, bare) = name.strip_prefix('!').map_or((true, name), |bare| (false, bare));
            if !ledger::all_traits().contains(&bare) {
                return Err(Fault::bad(format!("No such trait(s): {bare}.")));
            }
            Ok((wanted, bare.to_owned()))
        })
        .collect()
}

/// Whether a provider has the traits that are wanted, and none of the others.
fn has_traits(provider: &ledger::Provider, wanted: &[(bool, String)]) -> bool {
    wanted.iter().all(|(wanted, name)| provider.traits.contains(&name.as_str()) == *wanted)
}

fn link(rel: &str, path: &str) -> Value {
    json!({"rel": rel, "href": format!("/placement/{path}")})
}

/// Tells who is not admin of the cloud so: what follows reads nothing that would.
async fn admin_only(session: &Session) -> Result<(), Fault> {
    let one = kube::api::ListParams::default().limit(1);
    session.everywhere::<Pod>().list(&one).await?;
    Ok(())
}

/// `GET /resource_classes`
async fn classes(session: Session, version: Microversion) -> Answer {
    since(version, 2)?;
    admin_only(&session).await?;
    let views: Vec<Value> = ledger::CLASSES.iter().map(|name| class_view(name)).collect();
    Ok(ok(&json!({"resource_classes": views})))
}

fn class_view(name: &str) -> Value {
    json!({"name": name, "links": [link("self", &format!("resource_classes/{name}"))]})
}

/// `GET /resource_classes/{name}`
async fn class(session: Session, version: Microversion, Path(name): Path<String>) -> Answer {
    since(version, 2)?;
    admin_only(&session).await?;
    if !ledger::CLASSES.contains(&name.as_str()) {
        let message = format!("No such resource class {name}.");
        return Err(Fault::new(StatusCode::NOT_FOUND, message));
    }
    Ok(ok(&class_view(&name)))
}

/// `GET /traits`
async fn traits(session: Session, version: Microversion, params: Params) -> Answer {
    since(version, 6)?;
    only_parameters(&params, &[("name", 6), ("associated", 6)], version)?;
    let ledger = ledger::Ledger::read(&session).await?;
    let associated = params.flag("associated")?;
    let name = params.get("name").unwrap_or("startswith:");
    let takes = |own: &str| match name.split_once(':') {
        Some(("startswith", prefix)) => Ok(own.starts_with(prefix)),
        Some(("in", list)) => Ok(list.split(',').any(|one| one == own)),
        _ => Err(Fault::bad(
            "Badly formatted name parameter. Expected name query string parameter in form: \
                             ?name=[in|startswith]:[name1,name2|prefix].",
        )),
    };
    let mut found = Vec::new();
    for own in ledger::all_traits() {
        let used = ledger.providers.iter().any(|provider| provider.traits.contains(&own));
        if takes(own)? && associated.is_none_or(|wanted| wanted == used) {
            found.push(own);
        }
    }
    Ok(ok(&json!({"traits": found})))
}

/// `GET /traits/{name}`
async fn has_trait(session: Session, version: Microversion, Path(name): Path<String>) -> Answer {
    since(version, 6)?;
    admin_only(&session).await?;
    if !ledger::all_traits().contains(&name.as_str()) {
        return Err(Fault::new(StatusCode::NOT_FOUND, format!("No such trait(s): {name}.")));
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_and_traits_are_read_strictly() {
        assert_eq!(resources("VCPU:2,MEMORY_MB:64").unwrap(), [("VCPU".into(), 2), ("MEMORY_MB".into(), 64)]);
        for wrong in ["", "VCPU", "VCPU:0", "VCPU:x", "GPU:1"] {
            assert!(resources(wrong).is_err(), "{wrong}");
        }
        let params = |text: &str| Params(vec![("required".into(), text.into())]);
        assert_eq!(
            required(&params("!COMPUTE_STATUS_DISABLED")).unwrap(),
            [(false, "COMPUTE_STATUS_DISABLED".into())]
        );
        assert!(required(&params("CUSTOM_GOLD")).is_err());
        let known = [("name", 0), ("required", 18)];
        assert!(only_parameters(&params("x"), &known, Microversion(18)).is_ok());
        assert!(only_parameters(&params("x"), &known, Microversion(17)).is_err());
    }
}
