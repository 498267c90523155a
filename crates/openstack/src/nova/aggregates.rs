//! `/os-aggregates`: HostAggregate objects. An aggregate's zone is written to its nodes as the label that Kubernetes has for it.

use std::collections::BTreeMap;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
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
/// Tries to get a number while others get the same.
const TRIES: usize = 5;

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
    let spec = HostAggregateSpec {
        display_name: Some(name.clone()),
        metadata: zone.into_iter().map(|zone| (ZONE.to_owned(), zone)).collect(),
        ..HostAggregateSpec::default()
    };
    for _ in 0..TRIES {
        let known = all(&session).await?;
        if known.iter().any(|other| name_of(other) == name) {
            return Err(Fault::conflict(format!("Aggregate {name} already exists.")));
        }
        let number = known.iter().map(|one| one.spec.number).max().unwrap_or(0) + 1;
        // Its name in the cloud is the claim to the number: of two requests at once one tries the next.
        let aggregate =
            HostAggregate::new(&format!("aggregate-{number}"), HostAggregateSpec { number, ..spec.clone() });
        match session.global::<HostAggregate>().create(&PostParams::default(), &aggregate).await {
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {}
            made => return Ok(ok(&json!({"aggregate": view(version, &made?, true)}))),
        }
    }
    Err(Fault::conflict("Other aggregates are being made; try again."))
}

/// The zone that aggregates give to a host.
fn zone_by(aggregates: &[HostAggregate], host: &str) -> Option<String> {
    let of_host = aggregates.iter().filter(|one| one.spec.nodes.iter().any(|own| own == host));
    of_host.filter_map(|one| one.spec.metadata.get(ZONE)).next().cloned()
}

/// What a change of an aggregate does to the zones of hosts. Refused where it would leave one in two zones, and where one that has
/// servers would get another: they were placed by it.
async fn zones_after(
    session: &Session,
    changed: &HostAggregate,
    what: &str,
) -> Result<BTreeMap<String, Option<String>>, Fault> {
    let before = all(session).await?;
    let mut after = before.clone();
    let mut hosts = changed.spec.nodes.clone();
    for one in after.iter_mut().filter(|one| one.spec.number == changed.spec.number) {
        hosts.extend(one.spec.nodes.iter().cloned());
        *one = changed.clone();
    }
    let zones = zones_of(&after, &hosts).map_err(|(host, zone)| {
        Fault::conflict(format!(
            "Cannot {what}. Reason: Host(s) already in availability zone(s) {zone}: {host}"
        ))
    })?;
    let moved: Vec<String> = zones
        .iter()
        .filter(|(host, zone)| zone_by(&before, host) != **zone)
        .map(|(host, _)| host.clone())
        .collect();
    let why = format!("Cannot {what}. Reason: One or more hosts contain instances in this zone");
    check_free(session, &moved, &why).await?;
    // Of those that stay where they are, the label may be missing still: its write may have failed.
    Ok(zones.into_iter().filter(|(host, zone)| zone.is_some() || moved.contains(host)).collect())
}

/// The zone of each of these hosts; the first that would be in two, with the other of them, is an error.
fn zones_of(
    aggregates: &[HostAggregate],
    hosts: &[String],
) -> Result<BTreeMap<String, Option<String>>, (String, String)> {
    let mut found = BTreeMap::new();
    for host in hosts {
        let zone = zone_by(aggregates, host);
        let of_host = aggregates.iter().filter(|one| one.spec.nodes.contains(host));
        let mut zones = of_host.filter_map(|one| one.spec.metadata.get(ZONE));
        if let Some(other) = zones.find(|other| Some(*other) != zone.as_ref()) {
            return Err((host.clone(), other.clone()));
        }
        found.insert(host.clone(), zone);
    }
    Ok(found)
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

/// Writes their zones to nodes; none takes it away.
async fn label(session: &Session, zones: &BTreeMap<String, Option<String>>) -> Result<(), Fault> {
    for (name, zone) in zones {
        let patch = Patch::Merge(json!({"metadata": {"labels": {ZONE_LABEL: zone}}}));
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
    if let Some(zone) = wanted.get(ZONE) {
        check_zone(zone)?;
    }
    let mut changed = aggregate.clone();
    changed.spec.metadata.clone_from(&wanted);
    let zones =
        zones_after(session, &changed, &format!("update aggregate {}", aggregate.spec.number)).await?;
    let mut spec = json!({"metadata": crate::change::replacing(&aggregate.spec.metadata, &wanted)});
    if let Some(name) = name {
        spec["displayName"] = json!(name);
    }
    let written = write(session, aggregate, spec).await?;
    label(session, &zones).await?;
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
    let mut changed = aggregate.clone();
    changed.spec.nodes.push(host);
    let zones =
        zones_after(session, &changed, &format!("add host to aggregate {}", aggregate.spec.number)).await?;
    let written = write(session, aggregate, json!({"nodes": changed.spec.nodes})).await?;
    label(session, &zones).await?;
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
    let mut changed = aggregate.clone();
    changed.spec.nodes.retain(|own| own != host);
    let what = format!("remove host from aggregate {}", aggregate.spec.number);
    let zones = zones_after(session, &changed, &what).await?;
    let written = write(session, aggregate, json!({"nodes": changed.spec.nodes})).await?;
    label(session, &zones).await?;
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aggregate(number: i64, zone: Option<&str>, nodes: &[&str]) -> HostAggregate {
        let spec = HostAggregateSpec {
            number,
            metadata: zone.map(|zone| (ZONE.to_owned(), zone.to_owned())).into_iter().collect(),
            nodes: nodes.iter().map(|name| (*name).to_owned()).collect(),
            ..HostAggregateSpec::default()
        };
        HostAggregate::new(&format!("aggregate-{number}"), spec)
    }

    #[test]
    fn a_host_has_one_zone_whichever_aggregates_hold_it() {
        let hosts = ["n1".to_owned(), "n2".to_owned()];
        let mut all = vec![aggregate(1, Some("east"), &["n1"]), aggregate(2, None, &["n1", "n2"])];
        let zones = |all: &[HostAggregate]| {
            zones_of(all, &hosts).map(|zones| zones.into_values().collect::<Vec<Option<String>>>())
        };
        assert_eq!(zones(&all), Ok(vec![Some("east".into()), None]));
        all[1] = aggregate(2, Some("west"), &["n1", "n2"]);
        assert_eq!(zones(&all), Err(("n1".into(), "west".into())));
        all[1] = aggregate(2, Some("east"), &["n2"]);
        assert_eq!(zones(&all), Ok(vec![Some("east".into()), Some("east".into())]));
    }

    #[test]
    fn zones_are_values_of_labels() {
        assert!(check_zone("rack-1").is_ok());
        assert!(check_zone("").is_err() && check_zone("-a").is_err() && check_zone("a:b").is_err());
    }
}
