//! Networks.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use kube::api::DeleteParams;
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::network::{EVERY_PROJECT, ExternalNetwork, Network, NetworkSpec, Port, Share, Subnet};

use super::bulk::Bulk;
use super::view::{Context, collection, wants_all, with_fields};
use super::{external, qos};
use crate::auth::Session;
use crate::body::{Json, Params, boolean, explicit, only};
use crate::change::{self, Changes};
use crate::error::{Answer, Fault};
use crate::versions::ok;
use crate::{ids, quota};

/// The MTU of a network that names none: a VXLAN packet of it fits on a link of 1500 bytes.
pub(super) const MTU: u32 = 1450;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    network: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    mtu: Option<u32>,
    #[serde(default)]
    project_id: Option<String>,
    #[serde(default)]
    tenant_id: Option<String>,
    #[serde(default)]
    admin_state_up: Option<Value>,
    #[serde(default)]
    shared: Option<Value>,
    #[serde(default, rename = "router:external")]
    external: Option<bool>,
    #[serde(default)]
    is_default: Option<Value>,
    #[serde(default)]
    port_security_enabled: Option<bool>,
    #[serde(default)]
    availability_zone_hints: Option<Value>,
    #[serde(default, deserialize_with = "explicit")]
    qos_policy_id: Option<Option<String>>,
    #[serde(default)]
    dns_domain: Option<Value>,
    #[serde(default)]
    vlan_transparent: Option<Value>,
    #[serde(default)]
    segments: Option<Value>,
    #[serde(default, rename = "provider:network_type")]
    provider_type: Option<Value>,
    #[serde(default, rename = "provider:physical_network")]
    provider_physical: Option<Value>,
    #[serde(default, rename = "provider:segmentation_id")]
    provider_segment: Option<Value>,
}

impl Fields {
    fn check(&self) -> Result<(), Fault> {
        ids::check_name("name", self.name.as_deref().unwrap_or_default(), true)?;
        if self.mtu.is_some_and(|mtu| !(68..=9000).contains(&mtu) && mtu != 0) {
            return Err(Fault::bad("Invalid input for mtu. It must be between 68 and 9000."));
        }
        let (no, empty) = ([json!(false)], [json!([]), json!("")]);
        boolean("admin_state_up", self.admin_state_up.as_ref())?;
        boolean("shared", self.shared.as_ref())?;
        only("is_default", self.is_default.as_ref(), &no, "no external network is chosen by itself")?;
        only(
            "availability_zone_hints",
            self.availability_zone_hints.as_ref(),
            &empty,
            "networks are on every node",
        )?;
        if self.external == Some(true) {
            self.unlimited()?;
            self.everybodys()?;
            self.always_up()?;
        }
        only("dns_domain", self.dns_domain.as_ref(), &empty, "names in a network are under its own name")?;
        only("vlan_transparent", self.vlan_transparent.as_ref(), &no, "tagged packets are dropped")?;
        only(
            "segments",
            self.segments.as_ref(),
            &empty,
            "networks are VXLAN segments that the cloud numbers",
        )?;
        let why = "the cloud makes every network itself";
        only("provider:network_type", self.provider_type.as_ref(), &[], why)?;
        only("provider:physical_network", self.provider_physical.as_ref(), &[], why)?;
        only("provider:segmentation_id", self.provider_segment.as_ref(), &[], why)
    }

    /// Refuses ports of projects outside.
    fn everybodys(&self) -> Result<(), Fault> {
        let why = "an external network has no ports of projects: all use its addresses";
        only("shared", self.shared.as_ref(), &[json!(false)], why)
    }

    /// Whom a network is for, where the request says whether it is for all.
    fn sharing(&self, before: &[Share]) -> Result<Option<Vec<Share>>, Fault> {
        let Some(shared) = boolean("shared", self.shared.as_ref())? else { return Ok(None) };
        let is = before.iter().any(|share| share.project == EVERY_PROJECT);
        let mut now: Vec<Share> = before.to_vec();
        match (shared, is) {
            (true, false) => now.push(Share { id: None, project: EVERY_PROJECT.to_owned() }),
            (false, true) => now.retain(|share| share.project != EVERY_PROJECT),
            _ => return Ok(None),
        }
        Ok(Some(now))
    }

    /// Refuses to switch off what is outside.
    fn always_up(&self) -> Result<(), Fault> {
        let up = boolean("admin_state_up", self.admin_state_up.as_ref())?.map(Value::from);
        only("admin_state_up", up.as_ref(), &[json!(true)], "what is outside cannot be switched off")
    }

    /// Refuses a limit of what comes from outside.
    fn unlimited(&self) -> Result<(), Fault> {
        let given = self.qos_policy_id.clone().flatten().map(Value::from);
        only("qos_policy_id", given.as_ref(), &[json!("")], "what goes outside has no limits of its own")
    }
}

/// The namespace of the project that a request names, or of the token's. Whether the caller may write there, the API server says.
pub(super) async fn target(session: &Session, named: [Option<&str>; 2]) -> Result<String, Fault> {
    match named.into_iter().flatten().find(|project| *project != session.project_id()) {
        Some(project) => quota::namespace_of(session, project).await,
        None => session.namespace().map(str::to_owned),
    }
}

/// Refuses an object for another project than that of the network or group that it belongs to.
pub(super) fn check_project<K: kube::Resource>(
    context: &Context,
    whole: &K,
    named: [Option<&str>; 2],
) -> Result<(), Fault> {
    let owner = context.project_of(whole);
    match named.into_iter().flatten().find(|project| *project != owner) {
        Some(project) => Err(Fault::bad(format!(
            "project_id={project} is not supported: what is part of another object is in that object's project, {owner}."
        ))),
        None => Ok(()),
    }
}

/// The external network with this id.
pub(super) async fn outer(session: &Session, id: &str) -> Result<Option<(ExternalNetwork, Context)>, Fault> {
    let found = session.find(&session.global::<ExternalNetwork>(), id).await?;
    match found {
        Some(network) => Ok(Some((network, Context::load(session, false).await?))),
        None => Ok(None),
    }
}

/// The network with this id, where the caller may see it.
pub(super) async fn find(session: &Session, id: &str) -> Result<(Network, Context), Fault> {
    Context::find(session, id, Context::network).await
}

/// `GET /networks`
pub(super) async fn list(session: Session, params: Params) -> Answer {
    let context = Context::load(&session, wants_all(&session, &params)).await?;
    let own = context.networks().iter().map(|network| context.network_view(network));
    let outer = context.externals().iter().map(|network| context.external_view(network));
    collection(&session, &params, "networks", own.chain(outer).collect())
}

/// `GET /networks/{id}`
pub(super) async fn show(session: Session, params: Params, Path(id): Path<String>) -> Answer {
    if let Some(view) = outer(&session, &id).await?.map(|(network, context)| context.external_view(&network))
    {
        return Ok(ok(&json!({"network": with_fields(&params, view)})));
    }
    let (network, context) = find(&session, &id).await?;
    Ok(ok(&json!({"network": with_fields(&params, context.network_view(&network))})))
}

/// `POST /networks`
pub(super) async fn create(session: Session, Json(body): Json<Value>) -> Answer {
    let made = |body: Body| make(&session, body.network);
    let gone = |id: String| {
        let session = &session;
        async move { remove(session, &id).await }
    };
    Bulk::of(body, "network", "networks")?.make(made, gone).await
}

async fn make(session: &Session, fields: Fields) -> Result<Value, Fault> {
    fields.check()?;
    if fields.external == Some(true) {
        let some = |text: Option<String>| text.filter(|text| !text.is_empty());
        return external::make(session, some(fields.name), some(fields.description)).await;
    }
    let namespace = target(session, [fields.project_id.as_deref(), fields.tenant_id.as_deref()]).await?;
    let policy = qos::chosen(session, fields.qos_policy_id.as_ref()).await?;
    let shared = fields.sharing(&[])?.unwrap_or_default();
    let name = fields.name.filter(|name| !name.is_empty());
    let spec = NetworkSpec {
        shared_with: shared,
        display_name: name.clone(),
        description: fields.description.filter(|text| !text.is_empty()),
        mtu: fields.mtu.filter(|mtu| *mtu != 0).unwrap_or(MTU),
        admin_state_up: boolean("admin_state_up", fields.admin_state_up.as_ref())?,
        port_security_enabled: fields.port_security_enabled,
        // As in Neutron, one that asks for none has the project's default.
        qos_policy: policy.filter(|name| !name.is_empty()),
        ..NetworkSpec::default()
    };
    let display = object_name(name.as_deref());
    let network =
        ids::create(&session.within::<Network>(&namespace), Network::new("", spec), display).await?;
    let elsewhere = session.namespace().is_ok_and(|own| own != namespace);
    let context = Context::load(session, elsewhere).await?;
    Ok(context.network_view(&network))
}

/// What a network's object is named after: `cluster` stands for the cluster network, and is no object's name.
pub(super) fn object_name(display: Option<&str>) -> &str {
    match display {
        None => "network",
        Some(yunfan_resources::names::CLUSTER_NETWORK) => "cluster-network",
        Some(name) => name,
    }
}

/// `PUT /networks/{id}`
pub(super) async fn update(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    let fields = body.network;
    fields.check()?;
    // What it has become is another object, with revisions of its own: what the request wanted of them was looked at then.
    if turn(&session, &id, fields.external).await? {
        return change::beside(rewrite(&session, &id, fields)).await;
    }
    rewrite(&session, &id, fields).await
}

/// Changes what a network is called, and what it does.
async fn rewrite(session: &Session, id: &str, fields: Fields) -> Answer {
    if let Some((network, context)) = outer(session, id).await? {
        fields.unlimited()?;
        fields.everybodys()?;
        fields.always_up()?;
        only("mtu", fields.mtu.map(Value::from).as_ref(), &[], "packets outside are of the outside's size")?;
        let network = external::change(session, &network, fields.name, fields.description).await?;
        return Ok(ok(&json!({"network": context.external_view(&network)})));
    }
    let (network, _) = find(session, id).await?;
    let policy = qos::chosen(session, fields.qos_policy_id.as_ref()).await?;
    let shared = fields.sharing(&network.spec.shared_with)?;
    let changes = Changes::default()
        .set("sharedWith", shared.map(|shares| json!(shares)))
        .set("displayName", fields.name)
        .set("description", fields.description)
        .set("mtu", fields.mtu)
        .set("adminStateUp", boolean("admin_state_up", fields.admin_state_up.as_ref())?)
        .set("portSecurityEnabled", fields.port_security_enabled)
        .set("qosPolicy", policy);
    let networks = session.within::<Network>(ids::namespace(&network));
    let network = changes.apply(&networks, &network).await.map_err(|fault| match fault.status {
        StatusCode::CONFLICT if fault.message.contains("shared with") => fault.named("InvalidSharedSetting"),
        _ => fault,
    })?;
    let (_, context) = find(session, id).await?;
    Ok(ok(&json!({"network": context.network_view(&network)})))
}

/// Makes a tenant's network an external one, or an external one a tenant's, where a request wants it to be that. Answers whether it did.
async fn turn(session: &Session, id: &str, external: Option<bool>) -> Result<bool, Fault> {
    let Some(external) = external else { return Ok(false) };
    match outer(session, id).await? {
        Some((network, _)) if !external => {
            // What was begun before and did not come to its end.
            if let Ok((half, context)) = find(session, id).await {
                remove_own(session, &half, &context).await?;
            }
            external::to_tenant(session, &network).await?;
        }
        // Where it was made an external one before and the end of it was not reached, it is taken away now.
        Some(_) => match find(session, id).await {
            Ok((network, context)) => remove_own(session, &network, &context).await?,
            Err(fault) if fault.status == StatusCode::NOT_FOUND => return Ok(false),
            Err(fault) => return Err(fault),
        },
        None if external => {
            let (network, context) = find(session, id).await?;
            external::to_outside(session, &network, &context).await?;
        }
        None => return Ok(false),
    }
    Ok(true)
}

/// `DELETE /networks/{id}`: with its subnets, but not while a port is on it.
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    remove(&session, &id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn remove(session: &Session, id: &str) -> Result<(), Fault> {
    if let Some((network, _)) = outer(session, id).await? {
        return external::remove(session, &network).await;
    }
    let (network, context) = find(session, id).await?;
    remove_own(session, &network, &context).await
}

/// Takes a tenant's network away.
pub(super) async fn remove_own(session: &Session, network: &Network, context: &Context) -> Result<(), Fault> {
    let (namespace, name, id) = (ids::namespace(network), ids::name(network), network.id());
    let ports = ids::list(&session.within::<Port>(namespace)).await?;
    if let Some(port) = ports.iter().find(|port| port.spec.network == name) {
        return Err(Fault::conflict(format!(
            "Unable to complete operation on network {id}. There are one or more ports still in use on the network, id for \
             this port is: {}.",
            port.id()
        ))
        .named("NetworkInUse"));
    }
    match session.within::<Network>(namespace).delete(name, &change::deletion(network)?).await {
        // By ports of other projects, which only the API server sees.
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let text = format!("Unable to complete operation on network {id}. {}", status.message);
            return Err(Fault::conflict(text).named("NetworkInUse"));
        }
        other => drop(other?),
    }
    let subnets = session.within::<Subnet>(namespace);
    let mine = |subnet: &&Subnet| subnet.spec.network == name && ids::namespace(*subnet) == namespace;
    for subnet in context.subnets().iter().filter(mine) {
        match subnets.delete(ids::name(subnet), &DeleteParams::default()).await {
            // The garbage collector was faster.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => drop(other?),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::parse;

    fn check(text: &str) -> Result<(), Fault> {
        parse::<Body>(format!(r#"{{"network": {text}}}"#).as_bytes())?.network.check()
    }

    #[test]
    fn what_is_not_programmed_is_refused() {
        assert!(check(r#"{"name": "a", "admin_state_up": true, "shared": false, "mtu": 1400}"#).is_ok());
        for text in [
            r#"{"admin_state_up": "perhaps"}"#,
            r#"{"admin_state_up": false, "router:external": true}"#,
            r#"{"shared": "some"}"#,
            r#"{"shared": true, "router:external": true}"#,
            r#"{"provider:network_type": "vlan"}"#,
            r#"{"mtu": 67}"#,
            r#"{"colour": "red"}"#,
        ] {
            assert!(check(text).is_err(), "{text}");
        }
    }
}
