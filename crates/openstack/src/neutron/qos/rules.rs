//! Rules of QoS policies, which are in their policy's object, and the types of rules that nodes carry out.

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use serde_json::{Map, Value, json};
use yunfan_resources::Identified;
use yunfan_resources::network::{
    BandwidthLimit, Direction, MOST_BURST_KBITS, MOST_KBPS, QosPolicy, QosRule, is_dscp,
};

use super::find;
use crate::Ctx;
use crate::auth::Session;
use crate::body::{Json, Params};
use crate::change::{self, Changes};
use crate::error::{Answer, Fault};
use crate::neutron::view::{collection, with_fields};
use crate::versions::{json_response, ok};

/// A type of rule: its name, and those of a rule and of its collection.
#[derive(Clone, Copy, PartialEq)]
struct Type {
    name: &'static str,
    one: &'static str,
    many: &'static str,
}

const LIMIT: Type =
    Type { name: "bandwidth_limit", one: "bandwidth_limit_rule", many: "bandwidth_limit_rules" };
const MARK: Type = Type { name: "dscp_marking", one: "dscp_marking_rule", many: "dscp_marking_rules" };
/// Those that nodes carry out.
const TYPES: [Type; 2] = [LIMIT, MARK];
/// Those that Neutron has beside them. No policy has such rules, and none can be made.
const OTHERS: [(&str, &str); 3] = [
    ("minimum_bandwidth_rules", "no bandwidth of links is kept for a port"),
    ("minimum_packet_rate_rules", "no packet rate is kept for a port"),
    ("packet_rate_limit_rules", "packets are not counted, their bytes are"),
];

/// The paths of all rules and types.
pub(super) fn routes() -> Router<Ctx> {
    let mut routes =
        Router::new().route("/rule-types", get(types)).route("/rule-types/{name}", get(type_details));
    for kind in TYPES {
        let all = get(move |session: Session, params: Params, Path(policy): Path<String>| {
            list(session, params, kind, policy)
        })
        .post(move |session: Session, Path(policy): Path<String>, body: Json<Value>| {
            create(session, kind, policy, body)
        });
        let one = get(move |session: Session, params: Params, Path((policy, id)): Path<(String, String)>| {
            show(session, params, kind, Some(policy), id)
        })
        .put(move |session: Session, Path((policy, id)): Path<(String, String)>, body: Json<Value>| {
            update(session, kind, Some(policy), id, body)
        })
        .delete(move |session: Session, Path((policy, id)): Path<(String, String)>| {
            delete(session, kind, Some(policy), id)
        });
        // Clients that know no policy's id: the extension `qos-rules-alias`.
        let alias = get(move |session: Session, params: Params, Path(id): Path<String>| {
            show(session, params, kind, None, id)
        })
        .put(move |session: Session, Path(id): Path<String>, body: Json<Value>| {
            update(session, kind, None, id, body)
        })
        .delete(move |session: Session, Path(id): Path<String>| delete(session, kind, None, id));
        let many = kind.many;
        routes = routes
            .route(&format!("/policies/{{policy}}/{many}"), all)
            .route(&format!("/policies/{{policy}}/{many}/{{id}}"), one)
            .route(&format!("/alias_{many}/{{id}}"), alias.clone())
            .route(&format!("/alias-{}/{{id}}", many.replace('_', "-")), alias);
    }
    for (many, why) in OTHERS {
        let all = get(move |session: Session, Path(policy): Path<String>| async move {
            find(&session, &policy).await.map(|_| ok(&json!({many: []})))
        })
        .post(move |session: Session, Path(policy): Path<String>| async move {
            find(&session, &policy).await?;
            let text =
                format!("Rules of the type {} are not supported: {why}.", many.trim_end_matches("_rules"));
            Answer::Err(Fault::bad(text).named("QosRuleNotSupported"))
        });
        routes = routes.route(&format!("/policies/{{policy}}/{many}"), all);
    }
    routes
}

fn type_of(rule: &QosRule) -> Type {
    if rule.bandwidth_limit.is_some() { LIMIT } else { MARK }
}

/// A rule as it is shown by itself.
fn view(rule: &QosRule) -> Value {
    match &rule.bandwidth_limit {
        Some(limit) => {
            json!({"id": rule.id, "max_kbps": limit.max_kbps, "max_burst_kbps": limit.max_burst_kbps,
            "direction": limit.direction})
        }
        None => json!({"id": rule.id, "dscp_mark": rule.dscp_mark}),
    }
}

/// A rule as it is shown with its policy.
pub(super) fn whole(policy: &QosPolicy, rule: &QosRule) -> Value {
    let mut view = view(rule);
    view["type"] = json!(type_of(rule).name);
    view["qos_policy_id"] = json!(policy.id());
    view
}

/// A whole number of a request, also as text, from `least` to `most`.
fn number(field: &str, given: &Value, least: i64, most: u32) -> Result<u32, Fault> {
    let number = given.as_i64().or_else(|| given.as_str()?.parse().ok());
    let number = number.filter(|number| (least..=i64::from(most)).contains(number));
    number.and_then(|number| u32::try_from(number).ok()).ok_or_else(|| {
        Fault::bad(format!("Invalid input for {field}. {given} is no number from {least} to {most}."))
    })
}

/// What a body makes of a rule: of a new one where `old` is none.
fn read(kind: Type, body: &Value, old: Option<&QosRule>) -> Result<QosRule, Fault> {
    let members = body.as_object().filter(|members| members.len() == 1).and_then(|members| {
        let (key, value) = members.iter().next()?;
        value.as_object().filter(|_| key.trim_start_matches("alias_") == kind.one)
    });
    let members: &Map<String, Value> = members.ok_or_else(|| {
        Fault::bad(format!("Malformed request body: it must have the one member {}.", kind.one))
    })?;
    let known: &[&str] = match kind == LIMIT {
        true => &["max_kbps", "max_burst_kbps", "direction"],
        false => &["dscp_mark"],
    };
    let beside = ["id", "project_id", "tenant_id", "qos_policy_id"];
    if let Some(key) =
        members.keys().find(|key| !known.contains(&key.as_str()) && !beside.contains(&key.as_str()))
    {
        return Err(Fault::bad(format!("Unrecognized attribute(s) '{key}'")));
    }
    let missing = |field: &str| {
        Fault::bad(format!("Failed to parse request. Required attribute '{field}' not specified"))
    };
    let mut rule = old.cloned().unwrap_or_default();
    rule.id.get_or_insert_with(|| uuid::Uuid::new_v4().to_string());
    if kind == MARK {
        let given =
            members.get("dscp_mark").or(old.map(|_| &Value::Null)).ok_or_else(|| missing("dscp_mark"))?;
        if !given.is_null() {
            let mark = number("dscp_mark", given, 0, 56)?;
            if !is_dscp(mark.into()) {
                return Err(Fault::bad(format!(
                    "Invalid input for dscp_mark. Reason: '{mark}' is no valid mark."
                )));
            }
            rule.dscp_mark = u8::try_from(mark).ok();
        }
        return Ok(rule);
    }
    let mut limit = match (rule.bandwidth_limit.take(), members.get("max_kbps")) {
        (None, None) => return Err(missing("max_kbps")),
        (old, _) => {
            old.unwrap_or(BandwidthLimit { direction: Direction::Egress, ..BandwidthLimit::default() })
        }
    };
    if let Some(given) = members.get("max_kbps") {
        limit.max_kbps = number("max_kbps", given, 1, MOST_KBPS)?;
    }
    if let Some(given) = members.get("max_burst_kbps").filter(|given| !given.is_null()) {
        limit.max_burst_kbps = number("max_burst_kbps", given, 0, MOST_BURST_KBITS)?;
    }
    limit.direction = match members.get("direction").map(|given| given.as_str()) {
        None => limit.direction,
        Some(Some("ingress")) => Direction::Ingress,
        Some(Some("egress")) => Direction::Egress,
        Some(_) => {
            let text = "Invalid input for direction. Reason: it is not in ['egress', 'ingress'].";
            return Err(Fault::bad(text));
        }
    };
    rule.bandwidth_limit = Some(limit);
    Ok(rule)
}

/// Changes a policy's rules as they are now, however many do that at once.
async fn change(
    session: &Session,
    policy: &QosPolicy,
    edit: impl Fn(&mut Vec<QosRule>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let policies = session.global::<QosPolicy>();
    change::edit(&policies, policy.clone(), |policy| {
        let mut rules = policy.spec.rules.clone();
        edit(&mut rules)?;
        for (at, rule) in rules.iter().enumerate() {
            let kind = |rule: &QosRule| rule.bandwidth_limit.as_ref().map(|limit| limit.direction);
            if let Some(other) = rules[..at].iter().find(|other| kind(other) == kind(rule)) {
                let text = format!(
                    "Rule {} of the policy is of the same type and direction: {}.",
                    other.id.as_deref().unwrap_or_default(),
                    type_of(rule).name
                );
                return Err(Fault::conflict(text).named("QoSRulesConflict"));
            }
        }
        Ok(Changes::default().set("rules", Some(json!(rules))))
    })
    .await
    .map(drop)
}

fn missing(policy: &str, id: &str) -> Fault {
    let text = format!("QoS rule {id} for policy {policy} could not be found.");
    Fault::new(StatusCode::NOT_FOUND, text).named("QosRuleNotFound")
}

/// A rule and its policy: of the policy that is named, or of any that the caller may see.
async fn rule(
    session: &Session,
    kind: Type,
    policy: Option<&str>,
    id: &str,
) -> Result<(QosPolicy, QosRule), Fault> {
    let policies = match policy {
        Some(policy) => vec![find(session, policy).await?],
        None => super::all(session).await?,
    };
    let is = |rule: &&QosRule| type_of(rule) == kind && rule.id.as_deref() == Some(id);
    let mut found = policies.into_iter().filter_map(|policy| {
        let rule = policy.spec.rules.iter().find(is)?.clone();
        Some((policy, rule))
    });
    found.next().ok_or_else(|| missing(policy.unwrap_or_default(), id))
}

async fn list(session: Session, params: Params, kind: Type, policy: String) -> Answer {
    let policy = find(&session, &policy).await?;
    let rules = policy.spec.rules.iter().filter(|rule| type_of(rule) == kind);
    collection(&session, &params, kind.many, rules.map(view).collect())
}

async fn create(session: Session, kind: Type, policy: String, Json(body): Json<Value>) -> Answer {
    let policy = match find(&session, &policy).await {
        // Who may make no rules is told that, whatever policies there are.
        Err(fault) if fault.status == StatusCode::NOT_FOUND && !session.is_admin() => {
            return Err(Fault::forbidden("Rules of QoS policies are made by the cloud's administrator."));
        }
        found => found?,
    };
    let rule = read(kind, &body, None)?;
    change(&session, &policy, |rules| {
        rules.push(rule.clone());
        Ok(())
    })
    .await?;
    Ok(json_response(StatusCode::CREATED, &json!({kind.one: view(&rule)})))
}

async fn show(session: Session, params: Params, kind: Type, policy: Option<String>, id: String) -> Answer {
    let (_, found) = rule(&session, kind, policy.as_deref(), &id).await?;
    let key = if policy.is_some() { kind.one.to_owned() } else { format!("alias_{}", kind.one) };
    Ok(ok(&json!({key: with_fields(&params, view(&found))})))
}

async fn update(
    session: Session,
    kind: Type,
    policy: Option<String>,
    id: String,
    Json(body): Json<Value>,
) -> Answer {
    let (whole, old) = rule(&session, kind, policy.as_deref(), &id).await?;
    let new = read(kind, &body, Some(&old))?;
    change(&session, &whole, |rules| {
        let place = rules.iter_mut().find(|rule| rule.id.as_deref() == Some(&id));
        *place.ok_or_else(|| missing(&whole.id(), &id))? = new.clone();
        Ok(())
    })
    .await?;
    let key = if policy.is_some() { kind.one.to_owned() } else { format!("alias_{}", kind.one) };
    Ok(ok(&json!({key: view(&new)})))
}

async fn delete(session: Session, kind: Type, policy: Option<String>, id: String) -> Answer {
    let (whole, _) = rule(&session, kind, policy.as_deref(), &id).await?;
    change(&session, &whole, |rules| {
        rules.retain(|rule| rule.id.as_deref() != Some(&id));
        Ok(())
    })
    .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `GET /qos/rule-types`: those that are carried out, also for who asks for all (`all_rules`, `all_supported`).
async fn types(_: Session) -> Answer {
    let types: Vec<Value> = TYPES.iter().map(|kind| json!({"type": kind.name})).collect();
    Ok(ok(&json!({"rule_types": types})))
}

/// `GET /qos/rule-types/{name}`
async fn type_details(session: Session, Path(name): Path<String>) -> Answer {
    if !session.is_admin() {
        return Err(Fault::forbidden("How rules are carried out is for the cloud's administrator to see."));
    }
    let kind = TYPES
        .iter()
        .find(|kind| kind.name == name)
        .ok_or_else(|| Fault::not_found("QoS rule type", &name).named("QosRuleTypeNotFound"))?;
    let parameter = |name: &str, kind: &str, values: Value| json!({"parameter_name": name, "parameter_type": kind, "parameter_values": values});
    let parameters = if *kind == LIMIT {
        json!([
            parameter("max_kbps", "range", json!({"start": 1, "end": MOST_KBPS})),
            parameter("max_burst_kbps", "range", json!({"start": 0, "end": MOST_BURST_KBITS})),
            parameter("direction", "choices", json!(["egress", "ingress"])),
        ])
    } else {
        let marks: Vec<i64> = (0..=56).filter(|mark| is_dscp(*mark)).collect();
        json!([parameter("dscp_mark", "choices", json!(marks))])
    };
    let drivers = json!([{"name": "nftables", "supported_parameters": parameters}]);
    Ok(ok(&json!({"rule_type": {"type": kind.name, "drivers": drivers}})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_as_neutron_reads_them() {
        let limit = |fields: Value| read(LIMIT, &json!({"bandwidth_limit_rule": fields}), None);
        let made =
            limit(json!({"max_kbps": 200, "max_burst_kbps": "1337"})).unwrap().bandwidth_limit.unwrap();
        assert_eq!((made.direction, made.max_kbps, made.max_burst_kbps), (Direction::Egress, 200, 1337));
        for wrong in [
            json!({}),
            json!({"max_kbps": 0}),
            json!({"max_kbps": -1}),
            json!({"max_kbps": 100_000_001}),
            json!({"max_kbps": "x"}),
            json!({"max_kbps": 1, "direction": "up"}),
            json!({"max_kbps": 1, "min_kbps": 1}),
        ] {
            assert!(limit(wrong.clone()).is_err(), "{wrong}");
        }
        let mark = |mark: Value| read(MARK, &json!({"dscp_marking_rule": {"dscp_mark": mark}}), None);
        assert_eq!(mark(json!(26)).unwrap().dscp_mark, Some(26));
        assert!(mark(json!(58)).is_err() && mark(json!(7)).is_err() && mark(json!(42)).is_err());
        assert!(read(MARK, &json!({"dscp_marking_rule": {}}), None).is_err());
        assert!(read(MARK, &json!({"bandwidth_limit_rule": {"dscp_mark": 0}}), None).is_err());
    }

    #[test]
    fn a_change_names_only_what_changes() {
        let old =
            read(LIMIT, &json!({"bandwidth_limit_rule": {"max_kbps": 1, "direction": "ingress"}}), None)
                .unwrap();
        let alias = json!({"alias_bandwidth_limit_rule": {"max_burst_kbps": 5}});
        let new = read(LIMIT, &alias, Some(&old)).unwrap();
        assert_eq!(new.id, old.id);
        let new = new.bandwidth_limit.unwrap();
        assert_eq!((new.direction, new.max_kbps, new.max_burst_kbps), (Direction::Ingress, 1, 5));
    }
}
