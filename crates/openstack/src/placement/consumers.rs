//! Consumers: what one takes, and what a project's take together.

use std::collections::BTreeMap;

use axum::extract::Path;
use serde_json::{Map, Value, json};
use yunfan_resources::Identified;
use yunfan_resources::iam::Project;

use super::ledger::{Consumer, Ledger, sum};
use super::{only_parameters, since};
use crate::auth::Session;
use crate::body::Params;
use crate::error::{Answer, Fault};
use crate::microversion::Microversion;
use crate::versions::ok;
use crate::{directory, ids};

/// `GET /allocations/{consumer}`; empty for one that takes nothing, as of one that is not known.
pub(super) async fn allocations(session: Session, version: Microversion, Path(id): Path<String>) -> Answer {
    let ledger = Ledger::read(&session).await?;
    let found = ledger.consumers.iter().find(|one| one.uuid == id && !one.amounts.is_empty());
    let place = found.and_then(|one| Some((one, ledger.providers.iter().find(|it| it.name == one.node)?)));
    let Some((consumer, provider)) = place else { return Ok(ok(&json!({"allocations": {}}))) };
    let share = json!({"resources": consumer.amounts, "generation": provider.generation});
    let mut view = json!({"allocations": {&provider.uuid: share}});
    if version >= Microversion(12) {
        let projects = ids::list(&session.global::<Project>()).await?;
        let own = projects.iter().find(|project| directory::home(project) == Some(&consumer.namespace));
        view["project_id"] = json!(own.map(Identified::id).unwrap_or_default());
        view["user_id"] = json!(consumer.user);
    }
    if version >= Microversion(28) {
        view["consumer_generation"] = json!(consumer.generation);
    }
    if version >= Microversion(38) {
        view["consumer_type"] = json!(consumer.kind);
    }
    Ok(ok(&view))
}

/// `GET /usages?project_id=ID`
pub(super) async fn usages(session: Session, version: Microversion, params: Params) -> Answer {
    since(version, 9)?;
    only_parameters(&params, &[("project_id", 9), ("user_id", 9), ("consumer_type", 38)], version)?;
    let id = params
        .get("project_id")
        .ok_or_else(|| Fault::bad("Invalid query string parameters: 'project_id' is a required property"))?;
    let ledger = Ledger::read(&session).await?;
    let projects = ids::list(&session.global::<Project>()).await?;
    let namespace = projects.iter().find(|project| project.id() == id).and_then(directory::home);
    let kind = params.get("consumer_type").filter(|kind| *kind != "all");
    let counted = ledger.consumers.iter().filter(|one| {
        Some(one.namespace.as_str()) == namespace
            && !one.amounts.is_empty()
            && params.get("user_id").is_none_or(|user| user == one.user)
            && kind.is_none_or(|kind| kind == one.kind)
    });
    if version < Microversion(38) {
        return Ok(ok(&json!({"usages": sum(counted)})));
    }
    let mut by_kind: BTreeMap<&str, Vec<&Consumer>> = BTreeMap::new();
    let all = params.get("consumer_type") == Some("all");
    for consumer in counted {
        by_kind.entry(if all { "all" } else { consumer.kind }).or_default().push(consumer);
    }
    let usages: Map<String, Value> = by_kind
        .into_iter()
        .map(|(kind, consumers)| {
            let count = consumers.len();
            let mut view = json!(sum(consumers.into_iter()));
            view["consumer_count"] = json!(count);
            (kind.to_owned(), view)
        })
        .collect();
    Ok(ok(&json!({"usages": usages})))
}
