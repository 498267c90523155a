//! Resource providers: Nodes.

use axum::extract::Path;
use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::ledger::{Ledger, Provider};
use super::{has_traits, link, only_parameters, required, resources, since};
use crate::auth::Session;
use crate::body::Params;
use crate::error::{Answer, Fault};
use crate::microversion::Microversion;
use crate::versions::ok;

fn view(version: Microversion, provider: &Provider) -> Value {
    let path = format!("resource_providers/{}", provider.uuid);
    let below = [("inventories", 0), ("usages", 0), ("aggregates", 1), ("traits", 6), ("allocations", 11)];
    let below = below.iter().filter(|(_, minor)| version >= Microversion(*minor));
    let below = below.map(|(name, _)| link(name, &format!("{path}/{name}")));
    let links: Vec<Value> = [link("self", &path)].into_iter().chain(below).collect();
    let mut view = json!({
        "uuid": provider.uuid, "name": provider.name, "generation": provider.generation, "links": links,
    });
    if version >= Microversion(14) {
        view["parent_provider_uuid"] = Value::Null;
        view["root_provider_uuid"] = json!(provider.uuid);
    }
    view
}

/// `GET /resource_providers`
pub(super) async fn list(session: Session, version: Microversion, params: Params) -> Answer {
    let known =
        [("name", 0), ("uuid", 0), ("member_of", 3), ("resources", 4), ("in_tree", 14), ("required", 18)];
    only_parameters(&params, &known, version)?;
    let wanted = params.get("resources").map(resources).transpose()?.unwrap_or_default();
    let traits = required(&params)?;
    let ledger = Ledger::read(&session).await?;
    let is = |key: &str, value: &str| params.get(key).is_none_or(|wanted| wanted == value);
    let found = ledger.providers.iter().filter(|provider| {
        is("name", &provider.name)
            && is("uuid", &provider.uuid)
            && is("in_tree", &provider.uuid)
            // No provider is in an aggregate.
            && params.get("member_of").is_none_or(|wanted| wanted.starts_with('!'))
            && ledger.fits(provider, &wanted)
            && has_traits(provider, &traits)
    });
    let views: Vec<Value> = found.map(|provider| view(version, provider)).collect();
    Ok(ok(&json!({"resource_providers": views})))
}

/// `GET /resource_providers/{uuid}`
pub(super) async fn show(session: Session, version: Microversion, Path(uuid): Path<String>) -> Answer {
    let ledger = Ledger::read(&session).await?;
    Ok(ok(&view(version, ledger.provider(&uuid)?)))
}

fn of(provider: &Provider, key: &str, value: Value) -> Value {
    json!({key: value, "resource_provider_generation": provider.generation})
}

/// `GET /resource_providers/{uuid}/inventories`
pub(super) async fn inventories(session: Session, Path(uuid): Path<String>) -> Answer {
    let ledger = Ledger::read(&session).await?;
    let provider = ledger.provider(&uuid)?;
    let all = provider.inventories.iter().map(|(class, inventory)| ((*class).to_owned(), inventory.json()));
    Ok(ok(&of(provider, "inventories", Value::Object(all.collect()))))
}

/// `GET /resource_providers/{uuid}/inventories/{class}`
pub(super) async fn inventory(session: Session, Path((uuid, class)): Path<(String, String)>) -> Answer {
    let ledger = Ledger::read(&session).await?;
    let provider = ledger.provider(&uuid)?;
    let inventory = provider.inventories.get(class.as_str()).ok_or_else(|| {
        Fault::new(StatusCode::NOT_FOUND, format!("No inventory of class {class} for {uuid}"))
    })?;
    let mut view = inventory.json();
    view["resource_provider_generation"] = json!(provider.generation);
    Ok(ok(&view))
}

/// `GET /resource_providers/{uuid}/usages`
pub(super) async fn usages(session: Session, Path(uuid): Path<String>) -> Answer {
    let ledger = Ledger::read(&session).await?;
    let provider = ledger.provider(&uuid)?;
    Ok(ok(&of(provider, "usages", json!(ledger.used(provider)))))
}

/// `GET /resource_providers/{uuid}/aggregates`: nodes are not grouped.
pub(super) async fn aggregates(session: Session, version: Microversion, Path(uuid): Path<String>) -> Answer {
    since(version, 1)?;
    let ledger = Ledger::read(&session).await?;
    let provider = ledger.provider(&uuid)?;
    if version < Microversion(19) {
        return Ok(ok(&json!({"aggregates": []})));
    }
    Ok(ok(&of(provider, "aggregates", json!([]))))
}

/// `GET /resource_providers/{uuid}/traits`
pub(super) async fn traits(session: Session, version: Microversion, Path(uuid): Path<String>) -> Answer {
    since(version, 6)?;
    let ledger = Ledger::read(&session).await?;
    let provider = ledger.provider(&uuid)?;
    Ok(ok(&of(provider, "traits", json!(provider.traits))))
}

/// `GET /resource_providers/{uuid}/allocations`
pub(super) async fn allocations(session: Session, version: Microversion, Path(uuid): Path<String>) -> Answer {
    let ledger = Ledger::read(&session).await?;
    let provider = ledger.provider(&uuid)?;
    // A Pod that asks for nothing takes nothing.
    let taking = ledger.consumers_of(provider).filter(|consumer| !consumer.amounts.is_empty());
    let all: Map<String, Value> = taking
        .map(|consumer| {
            let mut view = json!({"resources": consumer.amounts});
            if version >= Microversion(28) {
                view["consumer_generation"] = json!(consumer.generation);
            }
            (consumer.uuid.clone(), view)
        })
        .collect();
    Ok(ok(&of(provider, "allocations", Value::Object(all))))
}
