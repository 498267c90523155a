//! Security groups.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use kube::api::{Api, PostParams};
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::network::{
    DEFAULT_GROUP, Direction, EtherType, Port, SecurityGroup, SecurityGroupRule, SecurityGroupSpec,
    default_group,
};

use super::bulk::Bulk;
use super::networks::target;
use super::view::{Context, collection, wants_all, with_fields};
use crate::auth::Session;
use crate::body::{Json, Params};
use crate::change::{self, Changes};
use crate::error::{Answer, Fault};
use crate::ids;
use crate::versions::ok;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    security_group: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    project_id: Option<String>,
    #[serde(default)]
    tenant_id: Option<String>,
    #[serde(default)]
    stateful: Option<Truth>,
}

/// Whether it is so, as clients write it.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "Value")]
struct Truth(bool);

impl TryFrom<Value> for Truth {
    type Error = String;

    fn try_from(given: Value) -> Result<Self, String> {
        let text = given.as_str().map(str::to_ascii_lowercase).unwrap_or_else(|| given.to_string());
        match text.as_str() {
            "true" | "1" => Ok(Self(true)),
            "false" | "0" => Ok(Self(false)),
            _ => Err(format!("{given} cannot be converted to boolean.")),
        }
    }
}

impl Fields {
    fn check(&self) -> Result<(), Fault> {
        ids::check_name("name", self.name.as_deref().unwrap_or_default(), true)?;
        ids::check_name("description", self.description.as_deref().unwrap_or_default(), true)
    }
}

/// The group with this id, where the caller may see it.
pub(super) async fn find(session: &Session, id: &str) -> Result<(SecurityGroup, Context), Fault> {
    Context::find(session, id, Context::group).await
}

/// The default group of a namespace, which is made where it is missing: by the first who may.
pub(crate) async fn ensure_default(session: &Session, namespace: &str) -> Result<(), Fault> {
    let groups = session.within::<SecurityGroup>(namespace);
    if groups.get_opt(DEFAULT_GROUP).await?.is_some() {
        return Ok(());
    }
    match groups.create(&PostParams::default(), &default_group()).await {
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
        other => Ok(other.map(drop)?),
    }
}

/// `GET /security-groups`
pub(super) async fn list(session: Session, params: Params) -> Answer {
    if let Ok(own) = session.namespace()
        && let Err(fault) = ensure_default(&session, own).await
    {
        // A reader sees what there is.
        tracing::debug!(%fault, "no default security group is made");
    }
    let context = Context::load(&session, wants_all(&session, &params)).await?;
    let views = context.groups().iter().map(|group| context.group_view(group)).collect();
    collection(&session, &params, "security_groups", views)
}

/// `GET /security-groups/{id}`
pub(super) async fn show(session: Session, params: Params, Path(id): Path<String>) -> Answer {
    let (group, context) = find(&session, &id).await?;
    Ok(ok(&json!({"security_group": with_fields(&params, context.group_view(&group))})))
}

/// `POST /security-groups`
pub(super) async fn create(session: Session, Json(body): Json<Value>) -> Answer {
    let made = |body: Body| make(&session, body.security_group);
    let gone = |id: String| {
        let session = &session;
        async move { remove(session, &id).await }
    };
    Bulk::of(body, "security_group", "security_groups")?.make(made, gone).await
}

async fn make(session: &Session, fields: Fields) -> Result<Value, Fault> {
    fields.check()?;
    let name = fields.name.unwrap_or_default();
    if name == DEFAULT_GROUP {
        return Err(Fault::conflict("Default security group already exists.")
            .named("SecurityGroupDefaultAlreadyExists"));
    }
    let namespace = target(session, [fields.project_id.as_deref(), fields.tenant_id.as_deref()]).await?;
    ensure_default(session, &namespace).await?;
    let rule = |ether_type| SecurityGroupRule {
        direction: Direction::Egress,
        ether_type,
        ..SecurityGroupRule::default()
    };
    let spec = SecurityGroupSpec {
        display_name: Some(name.clone()).filter(|name| !name.is_empty()),
        description: fields.description.filter(|text| !text.is_empty()),
        rules: vec![rule(EtherType::IPv4), rule(EtherType::IPv6)],
        stateless: fields.stateful.is_some_and(|stateful| !stateful.0),
        ..SecurityGroupSpec::default()
    };
    let display = if name.is_empty() { "security-group" } else { &name };
    let group = ids::create(&session.within(&namespace), SecurityGroup::new("", spec), display).await?;
    let elsewhere = session.namespace().is_ok_and(|own| own != namespace);
    Ok(Context::load(session, elsewhere).await?.group_view(&group))
}

/// `PUT /security-groups/{id}`
pub(super) async fn update(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    let fields = body.security_group;
    fields.check()?;
    let (group, context) = find(&session, &id).await?;
    let renamed = fields.name.as_deref().is_some_and(|name| name != group.display_name());
    if renamed && ids::name(&group) == DEFAULT_GROUP {
        return Err(Fault::conflict("Updating default security group not allowed.")
            .named("SecurityGroupCannotUpdateDefault"));
    }
    if renamed && fields.name.as_deref() == Some(DEFAULT_GROUP) {
        return Err(Fault::conflict("Default security group already exists.")
            .named("SecurityGroupDefaultAlreadyExists"));
    }
    let stateless = fields.stateful.map(|stateful| !stateful.0).filter(|now| *now != group.spec.stateless);
    let changes = Changes::default()
        .set("displayName", fields.name)
        .set("description", fields.description)
        .set("stateless", stateless);
    let changed = changes.apply(&session.within(ids::namespace(&group)), &group).await;
    let group = changed.map_err(|fault| match fault.status {
        StatusCode::CONFLICT if stateless.is_some() => in_use(&id),
        _ => fault,
    })?;
    Ok(ok(&json!({"security_group": context.group_view(&group)})))
}

/// `DELETE /security-groups/{id}`: not while a port has it.
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    remove(&session, &id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn in_use(id: &str) -> Fault {
    Fault::conflict(format!("Security Group {id} in use.")).named("SecurityGroupInUse")
}

async fn remove(session: &Session, id: &str) -> Result<(), Fault> {
    let (group, context) = find(session, id).await?;
    let params = change::deletion(&group)?;
    let (namespace, name) = (ids::namespace(&group).to_owned(), ids::name(&group).to_owned());
    // As in Neutron, an admin may: it is made again when it is needed.
    if name == DEFAULT_GROUP && !session.is_admin() {
        return Err(Fault::conflict("Removing default security group not allowed.")
            .named("SecurityGroupCannotRemoveDefault"));
    }
    let ports = ids::list(&session.within::<Port>(&namespace)).await?;
    let has = |port: &&Port| port.spec.security_groups.as_ref().is_some_and(|groups| groups.contains(&name));
    if ports.iter().any(|port| has(&port)) {
        return Err(in_use(id));
    }
    // As in Neutron, rules of others that speak of it go with it.
    let speaks = |rule: &SecurityGroupRule| rule.remote_group.as_ref() == Some(&name);
    for other in context.groups() {
        let near = ids::namespace(other) == namespace && ids::name(other) != name;
        if near && other.spec.rules.iter().any(speaks) {
            let changed = change_rules(session, other, |rules| {
                rules.retain(|rule| !speaks(rule));
                Ok(())
            });
            change::beside(changed).await?;
        }
    }
    session.within::<SecurityGroup>(&namespace).delete(&name, &params).await?;
    Ok(())
}

/// Changes a group's rules as they are now, however many do that at once.
pub(super) async fn change_rules(
    session: &Session,
    group: &SecurityGroup,
    edit: impl Fn(&mut Vec<SecurityGroupRule>) -> Result<(), Fault>,
) -> Result<SecurityGroup, Fault> {
    let groups: Api<SecurityGroup> = session.within(ids::namespace(group));
    change::edit(&groups, group.clone(), |group| {
        let mut rules = group.spec.rules.clone();
        edit(&mut rules)?;
        Ok(Changes::default().set("rules", Some(json!(rules))))
    })
    .await
}
