//! Security groups of servers: those of their ports.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use kube::api::{Patch, PatchParams};
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::compute::VirtualMachine;
use yunfan_resources::iam::Project;
use yunfan_resources::network::{
    DEFAULT_GROUP, Direction, EtherType, Port, SecurityGroup, SecurityGroupRule,
};

use crate::auth::Session;
use crate::error::{Answer, Fault};
use crate::versions::ok;
use crate::{directory, ids};

/// Tries of one write while others write the same port.
const TRIES: usize = 5;

/// `metadata.name`s of the project's groups with these names or ids; `None` where the list is empty or names the default group alone.
pub(super) async fn named<'a>(
    session: &Session,
    wanted: impl Iterator<Item = &'a str>,
) -> Result<Option<Vec<String>>, Fault> {
    let wanted: Vec<&str> = wanted.collect();
    // The default group is made when it is first needed.
    if wanted.iter().all(|name| *name == DEFAULT_GROUP) {
        return Ok(None);
    }
    if wanted.contains(&DEFAULT_GROUP) {
        crate::neutron::ensure_default(session, session.namespace()?).await?;
    }
    let all = ids::list(&session.own::<SecurityGroup>()?).await?;
    let mut names = Vec::with_capacity(wanted.len());
    for name in wanted {
        let found = pick(&all, name)?.ok_or_else(|| {
            let project = session.project_id();
            Fault::bad(format!("Security group {name} not found for project {project}."))
        })?;
        if !names.iter().any(|name| name == ids::name(found)) {
            names.push(ids::name(found).to_owned());
        }
    }
    Ok(Some(names))
}

/// The one group with this id or name.
fn pick<'a>(all: &'a [SecurityGroup], name: &str) -> Result<Option<&'a SecurityGroup>, Fault> {
    if let Some(group) = all.iter().find(|group| group.id() == name) {
        return Ok(Some(group));
    }
    let mut by_name = all.iter().filter(|group| group.display_name() == name);
    match (by_name.next(), by_name.next()) {
        (Some(_), Some(_)) => Err(Fault::conflict(format!(
            "Multiple security groups found matching '{name}'. Use an ID to be more specific."
        ))),
        (found, _) => Ok(found),
    }
}

/// The group that an action names.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Named {
    name: String,
}

/// The Ports of a machine, of which at least one must be there.
async fn ports_of(session: &Session, vm: &VirtualMachine) -> Result<Vec<Port>, Fault> {
    let ports = super::interfaces::held(session, vm).await?;
    if ports.is_empty() {
        let text =
            format!("Security group instance_id {} could not be found as device id on any ports.", vm.id());
        return Err(Fault::new(StatusCode::NOT_FOUND, text));
    }
    Ok(ports)
}

/// The group of a machine's project with this name or id.
async fn one(session: &Session, vm: &VirtualMachine, name: &str) -> Result<SecurityGroup, Fault> {
    if name.trim().is_empty() {
        return Err(Fault::bad("Security group name cannot be empty"));
    }
    let namespace = ids::namespace(vm);
    if name == DEFAULT_GROUP {
        crate::neutron::ensure_default(session, namespace).await?;
    }
    let all = ids::list(&session.within::<SecurityGroup>(namespace)).await?;
    Ok(pick(&all, name)?
        .ok_or_else(|| Fault::new(StatusCode::NOT_FOUND, format!("Security group {name} not found.")))?
        .clone())
}

/// Writes the groups of a Port; `edit` is asked anew whenever somebody else was faster, and says nothing where all is as it should be.
async fn write(
    session: &Session,
    port: Port,
    edit: impl Fn(&Port) -> Option<Vec<String>>,
) -> Result<(), Fault> {
    let ports = session.within::<Port>(ids::namespace(&port));
    let mut seen = port;
    for tries_left in (0..TRIES).rev() {
        let Some(groups) = edit(&seen) else { return Ok(()) };
        let patch = Patch::Merge(json!({
            "metadata": {"uid": seen.metadata.uid, "resourceVersion": seen.metadata.resource_version},
            "spec": {"securityGroups": groups},
        }));
        match ports.patch(ids::name(&seen), &PatchParams::default(), &patch).await {
            Err(kube::Error::Api(status)) if status.code == 409 && tries_left > 0 => {
                seen = ports.get(ids::name(&seen)).await?;
            }
            other => return Ok(other.map(drop)?),
        }
    }
    Err(Fault::conflict("The ports of the server are being changed by others; try again."))
}

/// `addSecurityGroup`: on all ports of the server.
pub(super) async fn add(session: &Session, vm: &VirtualMachine, wanted: Named) -> Answer {
    let group = one(session, vm, &wanted.name).await?;
    let ports = ports_of(session, vm).await?;
    if ports.iter().any(|port| !port.spec.is_secured() || port.spec.fixed_ips.is_empty()) {
        return Err(Fault::bad(
            "Network requires port_security_enabled and subnet associated in order to apply security groups.",
        ));
    }
    let name = ids::name(&group).to_owned();
    for port in ports {
        write(session, port, |port| {
            let mut groups = port.spec.security_groups.clone().unwrap_or_default();
            let there = groups.contains(&name);
            groups.push(name.clone());
            (!there).then_some(groups)
        })
        .await?;
    }
    Ok(StatusCode::ACCEPTED.into_response())
}

/// `removeSecurityGroup`: from all ports of the server.
pub(super) async fn remove(session: &Session, vm: &VirtualMachine, wanted: Named) -> Answer {
    let group = one(session, vm, &wanted.name).await?;
    let name = ids::name(&group).to_owned();
    let has = |port: &Port| port.spec.security_groups.as_ref().is_some_and(|all| all.contains(&name));
    let ports: Vec<Port> = ports_of(session, vm).await?.into_iter().filter(|port| has(port)).collect();
    if ports.is_empty() {
        let text = format!("Security group {} not associated with the instance {}", wanted.name, vm.id());
        return Err(Fault::new(StatusCode::NOT_FOUND, text));
    }
    for port in ports {
        write(session, port, |port| {
            let mut groups = port.spec.security_groups.clone().filter(|_| has(port))?;
            groups.retain(|own| *own != name);
            Some(groups)
        })
        .await?;
    }
    Ok(StatusCode::ACCEPTED.into_response())
}

/// `GET /servers/{id}/os-security-groups`
pub(super) async fn list(session: Session, Path(id): Path<String>) -> Answer {
    let vm = super::servers::find(&session, &id).await?;
    let groups = session.within::<SecurityGroup>(ids::namespace(&vm));
    let (ports, all) = tokio::try_join!(super::interfaces::held(&session, &vm), ids::list(&groups))?;
    let project = project_of(&session, ids::namespace(&vm)).await?;
    let has = |name: &str| ports.iter().any(|port| port.spec.memberships().contains(&name));
    let mut found: Vec<&SecurityGroup> = all.iter().filter(|group| has(ids::name(*group))).collect();
    found.sort_by_key(|group| group.display_name());
    let views: Vec<Value> = found.iter().map(|group| view(group, &all, &project)).collect();
    Ok(ok(&json!({"security_groups": views})))
}

/// The id of the project whose namespace this is.
async fn project_of(session: &Session, namespace: &str) -> Result<String, Fault> {
    if session.namespace().is_ok_and(|own| own == namespace) {
        return Ok(session.project_id().to_owned());
    }
    let projects = ids::list(&session.global::<Project>()).await?;
    let own = projects.iter().find(|project| directory::home(project) == Some(namespace));
    Ok(own.map(Identified::id).unwrap_or_default())
}

/// A group as Nova shows it, which knows the rules for what comes in alone.
fn view(group: &SecurityGroup, all: &[SecurityGroup], project: &str) -> Value {
    let inward = group.spec.rules.iter().filter(|rule| rule.direction == Direction::Ingress);
    let rules: Vec<Value> = inward.map(|rule| rule_view(group, rule, all, project)).collect();
    json!({
        "id": group.id(), "name": group.display_name(), "description": group.spec.description.clone().unwrap_or_default(),
        "tenant_id": project, "rules": rules,
    })
}

fn rule_view(group: &SecurityGroup, rule: &SecurityGroupRule, all: &[SecurityGroup], project: &str) -> Value {
    let (from, to) = match (rule.port_range_min, rule.port_range_max, rule.protocol.as_deref()) {
        // Nova's numbers for all of them.
        (None, None, Some("tcp" | "udp")) => (Some(1), Some(65535)),
        (None, None, Some(_)) => (Some(-1), Some(-1)),
        (from, to, _) => (from, to),
    };
    let other = rule.remote_group.as_ref();
    let other = other.map(|name| {
        let known = all.iter().find(|group| ids::name(*group) == name);
        json!({"name": known.map_or_else(|| name.clone(), Identified::display_name), "tenant_id": project})
    });
    let everywhere = if rule.ether_type == EtherType::IPv6 { "::/0" } else { "0.0.0.0/0" };
    let range = json!({"cidr": rule.remote_cidr.as_deref().unwrap_or(everywhere)});
    json!({
        "id": rule.id, "parent_group_id": group.id(), "ip_protocol": rule.protocol, "from_port": from, "to_port": to,
        "ip_range": if other.is_some() { json!({}) } else { range },
        "group": other.unwrap_or_else(|| json!({})),
    })
}

#[cfg(test)]
mod tests {
    use yunfan_resources::network::SecurityGroupSpec;

    use super::*;

    #[test]
    fn rules_are_shown_in_novas_words() {
        let rule = |protocol: Option<&str>| SecurityGroupRule {
            protocol: protocol.map(str::to_owned),
            ..SecurityGroupRule::default()
        };
        let from = SecurityGroupRule { remote_group: Some("web".into()), ..rule(Some("tcp")) };
        let out = SecurityGroupRule { direction: Direction::Egress, ..rule(None) };
        let spec = SecurityGroupSpec {
            display_name: Some("Web".into()),
            rules: vec![rule(None), from, out, rule(Some("icmp"))],
            ..SecurityGroupSpec::default()
        };
        let group = SecurityGroup::new("web", spec);
        let view = view(&group, std::slice::from_ref(&group), "p1");
        let rules = view["rules"].as_array().unwrap();
        assert_eq!(rules.len(), 3, "what goes out is not shown");
        assert_eq!(
            (&rules[0]["from_port"], &rules[0]["ip_range"]),
            (&Value::Null, &json!({"cidr": "0.0.0.0/0"}))
        );
        assert_eq!((&rules[1]["to_port"], &rules[1]["group"]["name"]), (&json!(65535), &json!("Web")));
        assert_eq!((&rules[1]["ip_range"], &rules[2]["from_port"]), (&json!({}), &json!(-1)));
    }
}
