//! Rules of security groups: they are in their group's object.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::network::{Direction, EtherType, SecurityGroup, SecurityGroupRule};

use super::address_groups;
use super::bulk::Bulk;
use super::groups::{self, change_rules};
use super::networks::check_project;
use super::view::{Context, collection, wants_all, with_fields};
use crate::auth::Session;
use crate::body::{Json, Params};
use crate::error::{Answer, Fault};
use crate::ids;
use crate::versions::ok;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    security_group_rule: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    security_group_id: Option<String>,
    #[serde(default)]
    direction: Option<String>,
    #[serde(default)]
    ethertype: Option<String>,
    #[serde(default)]
    protocol: Option<Value>,
    #[serde(default)]
    port_range_min: Option<Value>,
    #[serde(default)]
    port_range_max: Option<Value>,
    #[serde(default)]
    remote_ip_prefix: Option<String>,
    #[serde(default)]
    remote_group_id: Option<String>,
    #[serde(default)]
    remote_address_group_id: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    project_id: Option<String>,
    #[serde(default)]
    tenant_id: Option<String>,
}

/// Protocols of IPv6 alone, by name and number.
const OF_IPV6: [&str; 13] = [
    "icmpv6",
    "ipv6-encap",
    "ipv6-frag",
    "ipv6-icmp",
    "ipv6-nonxt",
    "ipv6-opts",
    "ipv6-route",
    "41",
    "43",
    "44",
    "58",
    "59",
    "60",
];

/// The range that a prefix means, whatever address in it names it.
fn normalized(text: &str) -> String {
    text.parse::<ipnet::IpNet>().map_or_else(|_| text.to_owned(), |net| net.trunc().to_string())
}

/// A whole number, also as text.
fn number(field: &str, given: Option<&Value>) -> Result<Option<i32>, Fault> {
    let number = match given {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(number)) => number.as_i64(),
        Some(Value::String(text)) => text.parse().ok(),
        Some(_) => None,
    };
    // What is far out of range is refused like what is just out of it.
    let number = number.map(|number| number.clamp(-1 << 20, 1 << 20) as i32);
    number.map(Some).ok_or_else(|| {
        Fault::bad(format!(
            "Invalid input for {field}. Invalid value for port {}",
            given.unwrap_or(&Value::Null)
        ))
        .named("SecurityGroupInvalidPortValue")
    })
}

impl Fields {
    /// The rule, as far as it can be told without the groups that it speaks of.
    fn rule(&self) -> Result<SecurityGroupRule, Fault> {
        let direction = match self.direction.as_deref() {
            Some("ingress") => Direction::Ingress,
            Some("egress") => Direction::Egress,
            other => {
                return Err(Fault::bad(format!(
                    "Invalid input for direction. Reason: '{}' is not in ['ingress', 'egress'].",
                    other.unwrap_or("None")
                )));
            }
        };
        let ether_type = match self.ethertype.as_deref().map(str::to_ascii_lowercase).as_deref() {
            None | Some("ipv4") => EtherType::IPv4,
            Some("ipv6") => EtherType::IPv6,
            Some(other) => {
                let text = format!(
                    "Security group rule for ethertype '{other}' not supported. Allowed values are ['IPv4', 'IPv6']."
                );
                return Err(Fault::bad(text).named("SecurityGroupRuleInvalidEtherType"));
            }
        };
        ids::check_name("description", self.description.as_deref().unwrap_or_default(), true)?;
        let protocol = match &self.protocol {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) if ["", "any"].contains(&text.to_ascii_lowercase().as_str()) => None,
            Some(Value::String(text)) => Some(text.to_ascii_lowercase()),
            Some(other) => Some(other.to_string()),
        };
        if ether_type == EtherType::IPv4
            && let Some(name) = protocol.as_deref().filter(|name| OF_IPV6.contains(name))
        {
            let text = format!("Invalid ethertype IPv4 for protocol {name}.");
            return Err(Fault::bad(text).named("SecurityGroupEthertypeConflictWithProtocol"));
        }
        let rule = SecurityGroupRule {
            // The API server makes one where there is none, but which one it made would not be known here.
            id: Some(uuid::Uuid::new_v4().to_string()),
            description: self.description.clone().filter(|text| !text.is_empty()),
            direction,
            ether_type,
            protocol,
            port_range_min: number("port_range_min", self.port_range_min.as_ref())?,
            port_range_max: number("port_range_max", self.port_range_max.as_ref())?,
            remote_cidr: self.remote_ip_prefix.clone().filter(|text| !text.is_empty()),
            remote_group: None,
            remote_address_group: None,
        };
        let checked = SecurityGroupRule {
            remote_group: self.remote_group_id.clone(),
            remote_address_group: self.remote_address_group_id.clone(),
            ..rule.clone()
        };
        checked.check().map_err(|fault| Fault::bad(fault.message).named(fault.name))?;
        Ok(rule)
    }
}

/// Every rule of the groups that a context has, with its group.
fn all(context: &Context) -> impl Iterator<Item = (&SecurityGroup, &SecurityGroupRule)> {
    context.groups().iter().flat_map(|group| group.spec.rules.iter().map(move |rule| (group, rule)))
}

async fn find(session: &Session, id: &str) -> Result<(SecurityGroup, SecurityGroupRule, Context), Fault> {
    let pick = |context: &Context, id: &str| {
        let found = all(context).find(|(_, rule)| rule.id.as_deref() == Some(id));
        found.map(|(group, rule)| (group.clone(), rule.clone()))
    };
    let own = Context::load(session, false).await?;
    if let Some((group, rule)) = pick(&own, id) {
        return Ok((group, rule, own));
    }
    if session.is_admin()
        && let Ok(all) = Context::load(session, true).await
        && let Some((group, rule)) = pick(&all, id)
    {
        return Ok((group, rule, all));
    }
    Err(Fault::not_found("Security group rule", id).named("SecurityGroupRuleNotFound"))
}

/// `GET /security-group-rules`
pub(super) async fn list(session: Session, params: Params) -> Answer {
    let context = Context::load(&session, wants_all(&session, &params)).await?;
    let views = all(&context).map(|(group, rule)| context.rule_view(group, rule)).collect();
    collection(&session, &params, "security_group_rules", views)
}

/// `GET /security-group-rules/{id}`
pub(super) async fn show(session: Session, params: Params, Path(id): Path<String>) -> Answer {
    let (group, rule, context) = find(&session, &id).await?;
    Ok(ok(&json!({"security_group_rule": with_fields(&params, context.rule_view(&group, &rule))})))
}

/// `POST /security-group-rules`
pub(super) async fn create(session: Session, Json(body): Json<Value>) -> Answer {
    let made = |body: Body| make(&session, body.security_group_rule);
    let gone = |id: String| {
        let session = &session;
        async move { remove(session, &id).await }
    };
    Bulk::of(body, "security_group_rule", "security_group_rules")?.make(made, gone).await
}

async fn make(session: &Session, fields: Fields) -> Result<Value, Fault> {
    let id = fields.security_group_id.as_deref().ok_or_else(|| {
        Fault::bad("Failed to parse request. Required attribute 'security_group_id' not specified")
    })?;
    let mut rule = fields.rule()?;
    let (group, context) = groups::find(session, id).await?;
    check_project(&context, &group, [fields.project_id.as_deref(), fields.tenant_id.as_deref()])?;
    if let Some(remote) = &fields.remote_group_id {
        let found = context.group(remote)?;
        if ids::namespace(found) != ids::namespace(&group) {
            return Err(Fault::not_found("Security group", remote).named("SecurityGroupNotFound"));
        }
        rule.remote_group = Some(ids::name(found).to_owned());
    }
    if let Some(remote) = &fields.remote_address_group_id {
        rule.remote_address_group =
            Some(address_groups::name_in(session, ids::namespace(&group), remote).await?);
    }
    let group = change_rules(session, &group, |rules| {
        if let Some(same) = rules.iter().find(|other| other.is_same_as(&rule)) {
            let id = same.id.as_deref().unwrap_or_default();
            let text = format!("Security group rule already exists. Rule id is {id}.");
            return Err(Fault::conflict(text).named("SecurityGroupRuleExists"));
        }
        rules.push(rule.clone());
        Ok(())
    })
    .await?;
    let mut view = context.rule_view(&group, &rule);
    // The first of a project that speaks of one: the context was loaded before.
    view["remote_address_group_id"] = json!(fields.remote_address_group_id);
    Ok(view)
}

/// `DELETE /security-group-rules/{id}`
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    remove(&session, &id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn remove(session: &Session, id: &str) -> Result<(), Fault> {
    let (group, _, _) = find(session, id).await?;
    change_rules(session, &group, |rules| {
        rules.retain(|rule| rule.id.as_deref() != Some(id));
        Ok(())
    })
    .await?;
    Ok(())
}

impl Context {
    /// A rule as Neutron shows it.
    pub(super) fn rule_view(&self, group: &SecurityGroup, rule: &SecurityGroupRule) -> Value {
        let remote = rule.remote_group.as_deref();
        let remote = remote.and_then(|name| self.group_id(ids::namespace(group), name));
        let addresses = rule.remote_address_group.as_deref();
        let addresses = addresses.and_then(|name| self.address_group_id(ids::namespace(group), name));
        let mut view = json!({
            "security_group_id": group.id(), "direction": rule.direction, "ethertype": rule.ether_type,
            "protocol": rule.protocol, "port_range_min": rule.port_range_min, "port_range_max": rule.port_range_max,
            "remote_ip_prefix": rule.remote_cidr, "normalized_cidr": rule.remote_cidr.as_deref().map(normalized), "remote_group_id": remote,
            "remote_address_group_id": addresses,
        });
        view = self.with_base(group, view);
        view["id"] = json!(rule.id);
        view["description"] = json!(rule.description.as_deref().unwrap_or_default());
        view["belongs_to_default_sg"] = json!(ids::name(group) == yunfan_resources::network::DEFAULT_GROUP);
        if let Some(members) = view.as_object_mut() {
            members.remove("name");
        }
        view
    }

    /// A group as Neutron shows it.
    pub(super) fn group_view(&self, group: &SecurityGroup) -> Value {
        let rules: Vec<Value> = group.spec.rules.iter().map(|rule| self.rule_view(group, rule)).collect();
        let description = group.spec.description.as_deref().unwrap_or_default();
        let view = json!({"description": description, "stateful": !group.spec.stateless, "shared": false, "security_group_rules": rules});
        let mut view = self.with_base(group, view);
        view["name"] = json!(group.spec.display_name.as_deref().unwrap_or_default());
        view
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::parse_value;

    #[test]
    fn rules_are_read_as_neutron_reads_them() {
        let rule = |text: Value| {
            parse_value::<Body>(json!({"security_group_rule": text}))
                .and_then(|b| b.security_group_rule.rule())
        };
        let good = rule(
            json!({"direction": "ingress", "protocol": "TCP", "port_range_min": 80, "port_range_max": "81"}),
        )
        .unwrap();
        assert_eq!((good.protocol.as_deref(), good.port_range_max), (Some("tcp"), Some(81)));
        let number = rule(json!({"direction": "egress", "protocol": 17, "ethertype": "IPV6"})).unwrap();
        assert_eq!((number.protocol.as_deref(), number.ether_type), (Some("17"), EtherType::IPv6));
        let name = |text: Value| rule(text).unwrap_err().name;
        assert_eq!(
            name(
                json!({"direction": "ingress", "protocol": "tcp", "port_range_min": 1, "port_range_max": 99_999_999_999_i64})
            ),
            Some("SecurityGroupInvalidPortValue")
        );
        assert_eq!(
            name(json!({"direction": "ingress", "ethertype": "x"})),
            Some("SecurityGroupRuleInvalidEtherType")
        );
        assert!(rule(json!({"direction": "up"})).is_err());
        let both = json!({"direction": "egress", "remote_address_group_id": "x", "remote_group_id": "y"});
        assert_eq!(name(both), Some("SecurityGroupMultipleRemoteEntites"));
    }
}
