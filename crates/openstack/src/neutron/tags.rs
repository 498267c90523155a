//! Tags: free words that networks, subnets, ports, routers, floating IPs, security groups and QoS policies are found by.

use axum::Router as Routes;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::network::{
    AddressGroup, ExternalNetwork, FloatingIp, Network, Port, Router, SecurityGroup, Subnet, SubnetPool,
    Tagged,
};

use super::{outer_ports, qos};
use crate::Ctx;
use crate::auth::Session;
use crate::body::{Json, Params};
use crate::error::{Answer, Fault};
use crate::ids::{self, Kind};
use crate::versions::ok;

/// Tags of one object, and characters of one.
const MAX: usize = 64;
const MAX_LENGTH: usize = 255;
/// How often a change of an object's tags is tried that others change, too.
const ATTEMPTS: usize = 20;

/// What has tags, by the collection that it is in.
const TAGGED: [&str; 9] = [
    "address-groups",
    "floatingips",
    "networks",
    "policies",
    "ports",
    "routers",
    "security-groups",
    "subnetpools",
    "subnets",
];

/// The paths of all tags.
pub(super) fn routes() -> Routes<Ctx> {
    TAGGED.into_iter().fold(Routes::new(), |routes, kind| {
        let all = get(move |session: Session, Path(id): Path<String>| list(session, kind, id))
            .put(move |session: Session, Path(id): Path<String>, body: Json<Body>| {
                replace(session, kind, id, body)
            })
            .delete(move |session: Session, Path(id): Path<String>| clear(session, kind, id));
        let one = get(move |session: Session, Path(at): Path<(String, String)>| check(session, kind, at))
            .put(move |session: Session, Path(at): Path<(String, String)>| add(session, kind, at))
            .delete(move |session: Session, Path(at): Path<(String, String)>| remove(session, kind, at));
        routes.route(&format!("/{kind}/{{id}}/tags"), all).route(&format!("/{kind}/{{id}}/tags/{{tag}}"), one)
    })
}

/// An object with its tags, and where they are written.
struct Found {
    api: Api<DynamicObject>,
    name: String,
    version: Option<String>,
    tags: Vec<String>,
}

impl Found {
    fn of<K: Kind + Tagged>(session: &Session, object: &K) -> Self {
        let kind = ApiResource::erase::<K>(&());
        let client = session.client.clone();
        let api = match ids::namespace(object) {
            "" => Api::all_with(client, &kind),
            namespace => Api::namespaced_with(client, namespace, &kind),
        };
        Self {
            api,
            name: ids::name(object).to_owned(),
            version: object.meta().resource_version.clone(),
            tags: object.tags().to_vec(),
        }
    }

    /// Makes the tags what `edit` makes of them; returns those that are there then.
    async fn change(
        mut self,
        edit: impl Fn(&[String]) -> Result<Vec<String>, Fault>,
    ) -> Result<Vec<String>, Fault> {
        for _ in 0..ATTEMPTS {
            let wanted = edit(&self.tags)?;
            valid(&wanted)?;
            if wanted == self.tags {
                return Ok(wanted);
            }
            // The whole list: one that another changed meanwhile is looked at again.
            let patch = json!({"metadata": {"resourceVersion": self.version}, "spec": {"tags": wanted}});
            match self.api.patch(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    let now = self.api.get(&self.name).await?;
                    self.version = now.metadata.resource_version;
                    let tags = now.data["spec"]["tags"].as_array().into_iter().flatten();
                    self.tags = tags.filter_map(Value::as_str).map(str::to_owned).collect();
                }
                other => return Ok(other.map(|_| wanted)?),
            }
        }
        Err(Fault::conflict("The tags are being changed by many at once; try again."))
    }
}

/// The object with this id, where the caller may see it.
async fn find(session: &Session, kind: &'static str, id: &str) -> Result<Found, Fault> {
    async fn own<K>(session: &Session, id: &str) -> Result<Option<Found>, Fault>
    where
        K: Kind + Identified + Tagged + kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Ok(session.find_anywhere::<K>(id).await?.map(|object| Found::of(session, &object)))
    }
    let (found, what, name) = match kind {
        "address-groups" => {
            (own::<AddressGroup>(session, id).await?, "Address group", "AddressGroupNotFound")
        }
        "floatingips" => (own::<FloatingIp>(session, id).await?, "Floating IP", "FloatingIPNotFound"),
        "policies" => {
            let policy = qos::find(session, id).await?;
            (Some(Found::of(session, &policy)), "QoS policy", "QosPolicyNotFound")
        }
        "ports" => {
            let found = match own::<Port>(session, id).await? {
                None => outer_ports::find(session, id).await?.map(|(ip, _)| Found::of(session, &ip)),
                own => own,
            };
            (found, "Port", "PortNotFound")
        }
        "routers" => (own::<Router>(session, id).await?, "Router", "RouterNotFound"),
        "security-groups" => {
            (own::<SecurityGroup>(session, id).await?, "Security group", "SecurityGroupNotFound")
        }
        "subnetpools" => (own::<SubnetPool>(session, id).await?, "Subnet pool", "SubnetPoolNotFound"),
        "subnets" => (own::<Subnet>(session, id).await?, "Subnet", "SubnetNotFound"),
        _ => {
            let outer = session.find(&session.global::<ExternalNetwork>(), id).await?;
            let found = match outer {
                Some(network) => Some(Found::of(session, &network)),
                None => own::<Network>(session, id).await?,
            };
            (found, "Network", "NetworkNotFound")
        }
    };
    found.ok_or_else(|| Fault::not_found(what, id).named(name))
}

/// Refuses tags that no object can have.
fn valid(tags: &[String]) -> Result<(), Fault> {
    let wrong = |tag: &&String| {
        tag.is_empty() || tag.chars().count() > MAX_LENGTH || tag.chars().any(char::is_control)
    };
    if let Some(tag) = tags.iter().find(wrong) {
        return Err(Fault::bad(format!(
            "Invalid input for tags. {tag:?} must have 1 to {MAX_LENGTH} printable characters."
        )));
    }
    let twice = tags.iter().enumerate().any(|(at, tag)| tags[..at].contains(tag));
    if tags.len() > MAX || twice {
        return Err(Fault::bad(format!("Invalid input for tags. There may be {MAX} different ones.")));
    }
    Ok(())
}

/// Whether an object's tags pass the filters of a list: `tags` (it has all), `tags-any` (one of them), and the same with `not-`.
pub(super) fn matches(params: &Params, view: &Value) -> bool {
    let has = |tag: &str| view["tags"].as_array().is_some_and(|own| own.iter().any(|own| own == tag));
    let all = |key: &str| params.get(key).map(|list| list.split(',').all(has));
    let any = |key: &str| params.get(key).map(|list| list.split(',').any(has));
    all("tags").unwrap_or(true)
        && any("tags-any").unwrap_or(true)
        && !all("not-tags").unwrap_or(false)
        && !any("not-tags-any").unwrap_or(false)
}

/// The keys of these filters.
pub(super) const FILTERS: [&str; 4] = ["tags", "tags-any", "not-tags", "not-tags-any"];

fn missing(tag: &str) -> Fault {
    Fault::new(StatusCode::NOT_FOUND, format!("Tag {tag} could not be found.")).named("TagNotFound")
}

async fn list(session: Session, kind: &'static str, id: String) -> Answer {
    Ok(ok(&json!({"tags": find(&session, kind, &id).await?.tags})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    tags: Vec<String>,
}

async fn replace(session: Session, kind: &'static str, id: String, Json(body): Json<Body>) -> Answer {
    let found = find(&session, kind, &id).await?;
    Ok(ok(&json!({"tags": found.change(|_| Ok(body.tags.clone())).await?})))
}

async fn clear(session: Session, kind: &'static str, id: String) -> Answer {
    find(&session, kind, &id).await?.change(|_| Ok(Vec::new())).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn check(session: Session, kind: &'static str, (id, tag): (String, String)) -> Answer {
    match find(&session, kind, &id).await?.tags.contains(&tag) {
        true => Ok(StatusCode::NO_CONTENT.into_response()),
        false => Err(missing(&tag)),
    }
}

async fn add(session: Session, kind: &'static str, (id, tag): (String, String)) -> Answer {
    let with = |tags: &[String]| {
        let mut tags = tags.to_vec();
        if !tags.contains(&tag) {
            tags.push(tag.clone());
        }
        Ok(tags)
    };
    find(&session, kind, &id).await?.change(with).await?;
    Ok(StatusCode::CREATED.into_response())
}

async fn remove(session: Session, kind: &'static str, (id, tag): (String, String)) -> Answer {
    let without = |tags: &[String]| match tags.contains(&tag) {
        true => Ok(tags.iter().filter(|own| **own != tag).cloned().collect()),
        false => Err(missing(&tag)),
    };
    find(&session, kind, &id).await?.change(without).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_found_by_their_tags() {
        let view = json!({"tags": ["a", "b"]});
        let found =
            |key: &str, value: &str| matches(&Params(vec![(key.to_owned(), value.to_owned())]), &view);
        assert!(found("tags", "a,b") && !found("tags", "a,c"));
        assert!(found("tags-any", "c,b") && !found("tags-any", "c"));
        assert!(!found("not-tags", "a,b") && found("not-tags", "a,c"));
        assert!(!found("not-tags-any", "a,c") && found("not-tags-any", "c"));
    }

    #[test]
    fn tags_are_checked() {
        let tags = |all: &[&str]| all.iter().map(|tag| (*tag).to_owned()).collect::<Vec<_>>();
        assert!(valid(&tags(&["a", "b c"])).is_ok());
        for wrong in [&["a", "a"][..], &[""], &["a\nb"]] {
            assert!(valid(&tags(wrong)).is_err(), "{wrong:?}");
        }
    }
}
