//! `/os-security-groups` and `/os-security-group-rules`: Nova's words for Neutron's groups, of which it knows what comes in alone.

use std::time::Duration;

use axum::extract::Path;
use axum::http::{Method, StatusCode};
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use yunfan_resources::Identified;
use yunfan_resources::network::SecurityGroup;

use super::neutron::{Neutron, Old, bad_conflict, entries, plain};
use crate::auth::Session;
use crate::body::{Json, Params};
use crate::error::{Answer, Fault};
use crate::page::{self, Limits};
use crate::versions::ok;
use crate::{ids, lean};

/// How often, and how many times at most, it is looked whether the ports of a server that is gone have gone, too.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const LOOKS: usize = 50;
/// Lists come whole where the client says nothing: there are few groups.
const WHOLE: Limits = Limits { default: usize::MAX, max: usize::MAX };

/// The groups that the caller sees, as Neutron shows them: rules name others by their ids.
async fn all(neutron: &Neutron, session: &Session, params: &Params) -> Result<Vec<Value>, Fault> {
    // As in Nova, the word means nothing from who is no admin.
    let everywhere = params.flag("all_tenants").unwrap_or(None).unwrap_or(false) && session.is_admin();
    let told = neutron.get("/security-groups").await?;
    let own = session.project_id();
    Ok(entries(&told, "security_groups")
        .filter(|group| everywhere || group["project_id"] == own)
        .cloned()
        .collect())
}

fn view(group: &Value, known: &[Value]) -> Value {
    let inward = entries(group, "security_group_rules").filter(|rule| rule["direction"] == "ingress");
    json!({
        "id": group["id"], "name": group["name"], "tenant_id": group["project_id"], "description": group["description"],
        "rules": inward.map(|rule| rule_view(rule, known)).collect::<Vec<_>>(),
    })
}

fn rule_view(rule: &Value, known: &[Value]) -> Value {
    let protocol = rule["protocol"].as_str();
    let (from, to) = match (rule["port_range_min"].as_i64(), rule["port_range_max"].as_i64(), protocol) {
        // Nova's numbers for all of them.
        (None, None, Some("tcp" | "udp")) => (Some(1), Some(65535)),
        (None, None, Some(_)) => (Some(-1), Some(-1)),
        (from, to, _) => (from, to),
    };
    let other = rule["remote_group_id"].as_str().map(|id| {
        let known = known.iter().find(|group| group["id"] == id);
        let name = known.and_then(|group| group["name"].as_str()).unwrap_or(id);
        json!({"name": name, "tenant_id": rule["project_id"]})
    });
    let everywhere = if rule["ethertype"] == "IPv6" { "::/0" } else { "0.0.0.0/0" };
    let range = json!({"cidr": rule["remote_ip_prefix"].as_str().unwrap_or(everywhere)});
    json!({
        "id": rule["id"], "parent_group_id": rule["security_group_id"], "ip_protocol": protocol, "from_port": from,
        "to_port": to, "ip_range": if other.is_some() { json!({}) } else { range },
        "group": other.unwrap_or_else(|| json!({})),
    })
}

/// The entries that `offset` and `limit` ask for.
fn page(params: &Params, views: Vec<Value>) -> Result<Vec<Value>, Fault> {
    let mut views = page::offset(params, views)?;
    views.truncate(page::limit(params, WHOLE)?);
    Ok(views)
}

/// `GET /os-security-groups`
pub(super) async fn list(Old(neutron): Old, session: Session, params: Params) -> Answer {
    let groups = all(&neutron, &session, &params).await?;
    let mut views: Vec<Value> = groups.iter().map(|group| view(group, &groups)).collect();
    views.sort_by_key(|view| (view["tenant_id"].to_string(), view["name"].to_string()));
    Ok(ok(&json!({"security_groups": page(&params, views)?})))
}

async fn shown(neutron: &Neutron, group: &Value) -> Result<Value, Fault> {
    let speaks = entries(group, "security_group_rules").any(|rule| rule["remote_group_id"].is_string());
    // The names of others are asked for where there are any.
    let known = if speaks { neutron.get("/security-groups").await? } else { Value::Null };
    let known: Vec<Value> = entries(&known, "security_groups").cloned().collect();
    Ok(json!({"security_group": view(group, &known)}))
}

/// `GET /os-security-groups/{id}`
pub(super) async fn show(Old(neutron): Old, Path(id): Path<String>) -> Answer {
    let path = format!("/security-groups/{}", plain("Security group", &id)?);
    let told = neutron.get(&path).await?;
    Ok(ok(&shown(&neutron, &told["security_group"]).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    security_group: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    name: String,
    #[serde(default)]
    description: Option<String>,
}

impl Fields {
    fn passed_on(self) -> Value {
        json!({"security_group": {"name": self.name, "description": self.description.unwrap_or_default()}})
    }
}

/// `POST /os-security-groups`
pub(super) async fn create(Old(neutron): Old, Json(body): Json<Body>) -> Answer {
    let body = body.security_group.passed_on();
    let made = neutron.ask(Method::POST, "/security-groups", &body).await.map_err(bad_conflict)?;
    Ok(ok(&shown(&neutron, &made["security_group"]).await?))
}

/// `PUT /os-security-groups/{id}`
pub(super) async fn update(Old(neutron): Old, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    let path = format!("/security-groups/{}", plain("Security group", &id)?);
    let body = body.security_group.passed_on();
    let told = neutron.ask(Method::PUT, &path, &body).await.map_err(bad_conflict)?;
    Ok(ok(&shown(&neutron, &told["security_group"]).await?))
}

/// `DELETE /os-security-groups/{id}`: not while a server has it.
pub(super) async fn delete(Old(neutron): Old, session: Session, Path(id): Path<String>) -> Answer {
    let path = format!("/security-groups/{}", plain("Security group", &id)?);
    let group = neutron.get(&path).await?;
    // Neutron lets an admin, who gets another when it is needed; Nova's words let nobody.
    let group = &group["security_group"];
    if group["name"] == "default" && group["project_id"] == session.project_id() {
        return Err(Fault::bad("Removing default security group not allowed."));
    }
    for tries_left in (0..LOOKS).rev() {
        match neutron.ask(Method::DELETE, &path, &Value::Null).await {
            Err(fault) if fault.status == StatusCode::CONFLICT && tries_left > 0 => {
                if !is_left_behind(&session, &id).await? {
                    return Err(bad_conflict(fault));
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
            other => {
                other.map_err(bad_conflict)?;
                break;
            }
        }
    }
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Whether only ports of servers that are gone have a group: they go themselves in a moment.
async fn is_left_behind(session: &Session, id: &str) -> Result<bool, Fault> {
    let (groups, ports, machines) = (session.own::<SecurityGroup>()?, session.own()?, session.own()?);
    let (groups, ports, machines) =
        tokio::try_join!(ids::list(&groups), lean::members(&ports), lean::machines(&machines))?;
    let Some(group) = groups.iter().find(|group| group.id() == id) else { return Ok(false) };
    let name = ids::name(group).to_owned();
    let is_there = |uid: &str| machines.iter().any(|machine| machine.metadata.uid.as_deref() == Some(uid));
    let mut held = ports.iter().filter(|port| port.groups().contains(&name));
    Ok(held.all(|port| port.machine().is_some_and(|uid| !is_there(uid))))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleBody {
    security_group_rule: Rule,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    parent_group_id: Value,
    #[serde(default)]
    group_id: Option<String>,
    #[serde(default)]
    ip_protocol: Option<String>,
    #[serde(default)]
    from_port: Option<Value>,
    #[serde(default)]
    to_port: Option<Value>,
    #[serde(default)]
    cidr: Option<String>,
}

fn is_id(id: &str) -> Result<&str, Fault> {
    match uuid::Uuid::parse_str(id) {
        Ok(_) => Ok(id),
        Err(_) => Err(Fault::bad(format!("Security group id should be a UUID; {id} is none."))),
    }
}

impl Rule {
    /// The rule in Neutron's words.
    fn passed_on(self) -> Result<Value, Fault> {
        let parent = match &self.parent_group_id {
            Value::String(id) => is_id(id)?.to_owned(),
            other => return Err(Fault::bad(format!("Security group id should be a UUID; {other} is none."))),
        };
        if let Some(group) = &self.group_id {
            is_id(group)?;
        }
        let number = |given: Option<Value>| {
            let all = match &given {
                Some(Value::Number(number)) => number.as_i64() == Some(-1),
                Some(Value::String(text)) => text == "-1" || text.is_empty(),
                _ => false,
            };
            // Nova's number for all of them.
            given.filter(|_| !all)
        };
        let mut rule = Map::new();
        rule.insert("security_group_id".into(), json!(parent));
        rule.insert("direction".into(), json!("ingress"));
        rule.insert("protocol".into(), json!(self.ip_protocol.map(|protocol| protocol.to_lowercase())));
        rule.insert("port_range_min".into(), json!(number(self.from_port)));
        rule.insert("port_range_max".into(), json!(number(self.to_port)));
        let cidr = self.cidr.filter(|text| !text.is_empty());
        let six = cidr.as_ref().is_some_and(|cidr| cidr.contains(':'));
        rule.insert("ethertype".into(), json!(if six { "IPv6" } else { "IPv4" }));
        match self.group_id {
            Some(group) => rule.insert("remote_group_id".into(), json!(group)),
            None => rule.insert("remote_ip_prefix".into(), json!(cidr)),
        };
        Ok(json!({"security_group_rule": rule}))
    }
}

/// `POST /os-security-group-rules`
pub(super) async fn create_rule(Old(neutron): Old, Json(body): Json<RuleBody>) -> Answer {
    let body = body.security_group_rule.passed_on()?;
    let made = neutron.ask(Method::POST, "/security-group-rules", &body).await.map_err(bad_conflict)?;
    let rule = &made["security_group_rule"];
    let known = if rule["remote_group_id"].is_string() {
        neutron.get("/security-groups").await?
    } else {
        Value::Null
    };
    let known: Vec<Value> = entries(&known, "security_groups").cloned().collect();
    Ok(ok(&json!({"security_group_rule": rule_view(rule, &known)})))
}

/// `DELETE /os-security-group-rules/{id}`
pub(super) async fn delete_rule(Old(neutron): Old, Path(id): Path<String>) -> Answer {
    let path = format!("/security-group-rules/{}", plain("Security group rule", &id)?);
    neutron.ask(Method::DELETE, &path, &Value::Null).await.map_err(bad_conflict)?;
    Ok(StatusCode::ACCEPTED.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::parse_value;

    fn rule(fields: Value) -> Result<Value, Fault> {
        let mut all = json!({"parent_group_id": "11111111-1111-4111-8111-111111111111"});
        all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let body = parse_value::<RuleBody>(json!({"security_group_rule": all}))?;
        Ok(body.security_group_rule.passed_on()?["security_group_rule"].clone())
    }

    #[test]
    fn rules_are_said_in_neutrons_words() {
        let told =
            rule(json!({"ip_protocol": "TCP", "from_port": "22", "to_port": 23, "cidr": "10.0.0.0/8"}))
                .unwrap();
        assert_eq!((&told["protocol"], &told["port_range_min"]), (&json!("tcp"), &json!("22")));
        assert_eq!(
            (&told["remote_ip_prefix"], &told["direction"]),
            (&json!("10.0.0.0/8"), &json!("ingress"))
        );
        let every = rule(json!({"ip_protocol": "icmp", "from_port": -1, "to_port": -1})).unwrap();
        assert_eq!((&every["port_range_min"], &every["ethertype"]), (&Value::Null, &json!("IPv4")));
        assert!(rule(json!({"parent_group_id": "web"})).is_err());
        assert!(rule(json!({"group_id": "web"})).is_err());
    }

    #[test]
    fn groups_are_shown_with_what_comes_in() {
        let rules = json!([
            {"id": "1", "direction": "egress"},
            {"id": "2", "direction": "ingress", "protocol": "tcp", "security_group_id": "g", "remote_group_id": "h", "project_id": "p"},
        ]);
        let group = json!({"id": "g", "name": "web", "project_id": "p", "description": "", "security_group_rules": rules});
        let shown = view(&group, &[json!({"id": "h", "name": "other"})]);
        assert_eq!(shown["rules"].as_array().unwrap().len(), 1);
        assert_eq!(shown["rules"][0]["group"], json!({"name": "other", "tenant_id": "p"}));
        assert_eq!(
            (&shown["rules"][0]["to_port"], &shown["rules"][0]["ip_range"]),
            (&json!(65535), &json!({}))
        );
    }
}
