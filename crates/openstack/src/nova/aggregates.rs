//! `/os-aggregates`: HostAggregate objects. An aggregate's zone is written to its nodes as the label that Kubernetes has for it.

use std::collections::BTreeMap;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use yunfan_resources::compute::{HostAggregate, HostAggregateSpec, VirtualMachine};
use yunfan_resources::names::ZONE_LABEL;

use super::actions::admin_only;
use crate::auth::Session;
use crate::body::{Json, explicit, parse_value};
use crate::error::{Answer, Fault};
use crate::microversion::Microversion;
use crate::versions::ok;
use crate::{ids, stamp};

/// The member of the metadata that is the zone.
const ZONE: &str = "availability_zone";

fn name_of(aggregate: &HostAggregate) -> String {
    aggregate.spec.display_name.clone().unwrap_or_else(|| ids::name(aggregate).to_owned())
}

fn view(version: Microversion, aggregate: &HostAggregate, made: bool) -> Value {
    let spec = &aggregate.spec;
    let mut view = json!({
        "id": spec.number, "name": name_of(aggregate), "availability_zone": spec.metadata.get(ZONE),
        "created_at": stamp::micros_bare(stamp::created(aggregate)), "deleted": false, "deleted_at": null,
        "updated_at": spec.updated.as_ref().map(|at| stamp::micros_bare(at.0)),
    });
    if !made {
        view["hosts"] = json!(spec.nodes);
        view["metadata"] = json!(spec.metadata);
    }
    if version >= Microversion(41) {
        view["uuid"] = json!(aggregate.metadata.uid);
    }
    view
}

async fn all(session: &Session) -> Result<Vec<HostAggregate>, Fault> {
    admin_only(session, "os_compute_api:os-aggregates")?;
    let mut all = ids::list(&session.global::<HostAggregate>()).await?;
    all.sort_by_key(|aggregate| aggregate.spec.number);
    Ok(all)
}

async fn find(session: &Session, id: &str) -> Result<HostAggregate, Fault> {
    let found = all(session).await?.into_iter().find(|one| one.spec.number.to_string() == id);
    found.ok_or_else(|| Fault::not_found("Aggregate", id))
}

/// `GET /os-aggregates`
pub(super) async fn list(session: Session, version: Microversion) -> Answer {
    let views: Vec<Value> = all(&session).await?.iter().map(|one| view(version, one, false)).collect();
    Ok(ok(&json!({"aggregates": views})))
}

/// `GET /os-aggregates/{id}`
pub(super) async fn show(session: Session, version: Microversion, Path(id): Path<String>) -> Answer {
    Ok(ok(&json!({"aggregate": view(version, &find(&session, &id).await?, false)})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    aggregate: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    name: Option<String>,
    #[serde(default, deserialize_with = "explicit")]
    availability_zone: Option<Option<String>>,
}

fn check_zone(zone: &str) -> Result<(), Fault> {
    // It becomes the value of a label.
    let letters = zone.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    let ends = zone.starts_with(|c: char| c.is_ascii_alphanumeric())
        && zone.ends_with(|c: char| c.is_ascii_alphanumeric());
    if letters && ends && zone.len() <= 63 {
        return Ok(());
    }
    Err(Fault::bad(format!(
        "Invalid input for field/attribute availability_zone. {zone:?} must have 1 to 63 letters, digits and -_., with a letter or digit at both ends."
    )))
}

/// `POST /os-aggregates`
pub(super) async fn create(session: Session, version: Microversion, Json(body): Json<Body>) -> Answer {
    let name = body.aggregate.name.ok_or_else(|| {
        Fault::bad("Invalid input for field/attribute aggregate. 'name' is a required property")
    })?;
    ids::check_name("name", &name, false)?;
    let zone = body.aggregate.availability_zone.flatten();
    if let Some(zone) = &zone {
        check_zone(zone)?;
    }
    let known = all(&session).await?;
    if known.iter().any(|other| name_of(other) == name) {
        return Err(Fault::conflict(format!("Aggregate {name} already exists.")));
    }
    let number = known.iter().map(|one| one.spec.number).max().unwrap_or(0) + 1;
    let spec = HostAggregateSpec {
        number,
        display_name: Some(name.clone()),
        metadata: zone.into_iter().map(|zone| (ZONE.to_owned(), zone)).collect(),
        ..HostAggregateSpec::default()
    };
    let aggregate =
        ids::create(&session.global::<HostAggregate>(), HostAggregate::new("", spec), &name).await?;
    Ok(ok(&json!({"aggregate": view(version, &aggregate, true)})))
}

async fn write(
    session: &Session,
    aggregate: &HostAggregate,
    mut spec: Value,
) -> Result<HostAggregate, Fault> {
    spec["updated"] = json!(Time(Timestamp::now()));
    let patch = Patch::Merge(json!({
        "metadata": {"resourceVersion": aggregate.metadata.resource_version}, "spec": spec,
    }));
    let aggregates = session.global::<HostAggregate>();
    Ok(aggregates.patch(ids::name(aggregate), &PatchParams::default(), &patch).await?)
}

/// Writes a zone to nodes; none takes it away.
async fn label(session: &Session, nodes: &[String], zone: Option<&String>) -> Result<(), Fault> {
    let patch = Patch::Merge(json!({"metadata": {"labels": {ZONE_LABEL: zone}}}));
    for name in nodes {
        match session.global::<Node>().patch(name, &PatchParams::default(), &patch).await {
            // A node that is gone has no zone.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => drop(other?),
        }
    }
    Ok(())
}

/// Nodes with machines stay in their zone, as in Nova: the machines were placed by it.
async fn check_free(session: &Session, nodes: &[String], why: &str) -> Result<(), Fault> {
    let machines = ids::list(&session.everywhere::<VirtualMachine>()).await?;
    let on = |name: &String| machines.iter().any(|vm| vm.spec.node_name.as_ref() == Some(name));
    match nodes.iter().find(|name| on(name)) {
        Some(_) => Err(Fault::conflict(why)),
        None => Ok(()),
    }
}

async fn change_metadata(
    session: &Session,
    aggregate: &HostAggregate,
    changes: &Map<String, Value>,
    name: Option<&String>,
) -> Result<HostAggregate, Fault> {
    let mut wanted: BTreeMap<String, String> = aggregate.spec.metadata.clone();
    for (key, value) in changes {
        match value {
            Value::Null => drop(wanted.remove(key)),
            Value::String(text) if key.len() <= 255 && text.len() <= 255 && !key.is_empty() => {
                wanted.insert(key.clone(), text.clone());
            }
            _ => {
                return Err(Fault::bad(format!(
                    "Invalid input for field/attribute metadata. {key:?}: keys have 1 to 255 characters, values are text of at most 255."
                )));
            }
        }
    }
    if wanted.len() > 128 {
        return Err(Fault::bad(
            "Invalid input for field/attribute metadata. An aggregate has at most 128 pairs.",
        ));
    }
    let (before, after) = (aggregate.spec.metadata.get(ZONE), wanted.get(ZONE));
    if let Some(zone) = after {
        check_zone(zone)?;
    }
    if before != after {
        let why = "Cannot update aggregate. Reason: One or more hosts contain instances in this zone";
        check_free(session, &aggregate.spec.nodes, why).await?;
    }
    let mut spec = json!({"metadata": crate::change::replacing(&aggregate.spec.metadata, &wanted)});
    if let Some(name) = name {
        spec["displayName"] = json!(name);
    }
    let written = write(session, aggregate, spec).await?;
    if before != after {
        label(session, &written.spec.nodes, written.spec.metadata.get(ZONE)).await?;
    }
    Ok(written)
}

/// `PUT /os-aggregates/{id}`: another name or zone.
pub(super) async fn update(
    session: Session,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Body>,
) -> Answer {
    let aggregate = find(&session, &id).await?;
    let Fields { name, availability_zone } = body.aggregate;
    if name.is_none() && availability_zone.is_none() {
        return Err(Fault::bad(
            "Invalid input for field/attribute aggregate. {} does not have enough properties",
        ));
    }
    if let Some(name) = &name {
        ids::check_name("name", name, false)?;
        if all(&session)
            .await?
            .iter()
            .any(|other| name_of(other) == *name && other.spec.number != aggregate.spec.number)
        {
            return Err(Fault::conflict(format!("Aggregate {name} already exists.")));
        }
    }
    let zone = availability_zone.map(|zone| (ZONE.to_owned(), json!(zone)));
    let changed = change_metadata(&session, &aggregate, &zone.into_iter().collect(), name.as_ref()).await?;
    Ok(ok(&json!({"aggregate": view(version, &changed, false)})))
}

/// `DELETE /os-aggregates/{id}`
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    let aggregate = find(&session, &id).await?;
    if !aggregate.spec.nodes.is_empty() {
        return Err(Fault::bad(format!("Cannot delete aggregate {id}: host aggregate is not empty")));
    }
    session.global::<HostAggregate>().delete(ids::name(&aggregate), &DeleteParams::default()).await?;
    Ok(StatusCode::OK.into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Host {
    host: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    metadata: Map<String, Value>,
}

/// `POST /os-aggregates/{id}/action`
pub(super) async fn act(
    session: Session,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Map<String, Value>>,
) -> Answer {
    let (action, argument) = crate::body::action(body)?;
    let aggregate = find(&session, &id).await?;
    let changed = match action.as_str() {
        "add_host" => add_host(&session, &aggregate, parse_value::<Host>(argument)?.host).await?,
        "remove_host" => remove_host(&session, &aggregate, &parse_value::<Host>(argument)?.host).await?,
        "set_metadata" => {
            let changes = parse_value::<Metadata>(argument)?.metadata;
            change_metadata(&session, &aggregate, &changes, None).await?
        }
        word => return Err(Fault::bad(format!("There is no such action: {word}"))),
    };
    Ok(ok(&json!({"aggregate": view(version, &changed, false)})))
}

async fn add_host(
    session: &Session,
    aggregate: &HostAggregate,
    host: String,
) -> Result<HostAggregate, Fault> {
    let nodes = ids::list(&session.global::<Node>()).await?;
    if !nodes.iter().any(|node| ids::name(node) == host) {
        return Err(Fault::new(StatusCode::NOT_FOUND, format!("Compute host {host} could not be found.")));
    }
    if aggregate.spec.nodes.contains(&host) {
        return Err(Fault::conflict(format!("Aggregate {} already has host {host}.", aggregate.spec.number)));
    }
    let zone = aggregate.spec.metadata.get(ZONE);
    if zone.is_some() {
        let others = all(session).await?;
        let other = others
            .iter()
            .filter(|other| other.spec.nodes.contains(&host))
            .find_map(|other| other.spec.metadata.get(ZONE));
        if other.is_some() && other != zone {
            return Err(Fault::conflict(format!(
                "Cannot add host to aggregate {}. Reason: Host {host} already in availability zone {}.",
                aggregate.spec.number,
                other.cloned().unwrap_or_default()
            )));
        }
    }
    let mut all_nodes = aggregate.spec.nodes.clone();
    all_nodes.push(host.clone());
    let written = write(session, aggregate, json!({"nodes": all_nodes})).await?;
    if zone.is_some() {
        label(session, &[host], zone).await?;
    }
    Ok(written)
}

async fn remove_host(
    session: &Session,
    aggregate: &HostAggregate,
    host: &str,
) -> Result<HostAggregate, Fault> {
    if !aggregate.spec.nodes.iter().any(|own| own == host) {
        return Err(Fault::new(
            StatusCode::NOT_FOUND,
            format!("Host {host} could not be found in aggregate {}.", aggregate.spec.number),
        ));
    }
    let left: Vec<String> = aggregate.spec.nodes.iter().filter(|own| *own != host).cloned().collect();
    let gone = [host.to_owned()];
    let zone = aggregate.spec.metadata.get(ZONE);
    let others = all(session).await?;
    // Another aggregate of the same zone may hold it there.
    let stays = others.iter().any(|other| {
        other.spec.number != aggregate.spec.number
            && other.spec.nodes.iter().any(|own| own == host)
            && other.spec.metadata.get(ZONE) == zone
    });
    if zone.is_some() && !stays {
        let why =
            "Cannot remove host from aggregate. Reason: One or more hosts contain instances in this zone";
        check_free(session, &gone, why).await?;
    }
    let written = write(session, aggregate, json!({"nodes": left})).await?;
    if zone.is_some() && !stays {
        label(session, &gone, None).await?;
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_values_of_labels() {
        assert!(check_zone("rack-1").is_ok());
        assert!(check_zone("").is_err() && check_zone("-a").is_err() && check_zone("a:b").is_err());
    }
}
