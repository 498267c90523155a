//! Networks that other projects may have Ports on: who may, and that nobody loses what they use.
//!
//! A Network is named from another namespace as `NAMESPACE/NAME`. What is held there (addresses, MACs, uses) is held under its own
//! namespace, whoever holds it.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value, json};
use yunfan_identity::Attributes;
use yunfan_objects::FieldError;
use yunfan_resources::names::RETIRING_ANNOTATION;
use yunfan_resources::network::{
    EVERY_PROJECT, ROUTER_INTERFACE, SHARED_LABEL, Share, is_shared_with, network_place,
};

use super::{GROUP, qos, uses};
use crate::admission::{Attempt, Refusal, View, WritePlan};
use crate::cache::Entry;

const PLURAL: &str = "networks";

/// Whom an object is shared with.
pub(super) fn shares(object: &Value) -> Vec<Share> {
    serde_json::from_value(object["spec"]["sharedWith"].clone()).unwrap_or_default()
}

/// The Ports on a Network, whatever namespace they are in: on one that is shared with nobody, in its own.
pub(super) fn ports_on(view: &View<'_>, owner: &str, network: &str) -> Vec<Arc<Entry>> {
    let shared = view.get(GROUP, PLURAL, owner, network).is_some_and(|it| !shares(it.value()).is_empty());
    let mut ports = view.list(GROUP, "ports", if shared { "" } else { owner });
    ports.retain(|port| {
        let port = port.value();
        let namespace = port["metadata"]["namespace"].as_str().unwrap_or_default();
        let on = port["spec"]["network"].as_str().unwrap_or_default();
        network_place(namespace, on) == (owner, network)
    });
    ports
}

/// Whether Ports of the writer's namespace may be on a Network. Who writes them is asked for the Ports; whose Network it is has said
/// who else may have some there.
pub(super) fn may_use(view: &View<'_>, attempt: &Attempt<'_>, owner: &str, object: &Value) -> bool {
    owner == attempt.namespace
        || qos::project_of(view, attempt.namespace)
            .is_some_and(|project| is_shared_with(&shares(object), &project))
}

/// A router's place is on a Network of its own project.
pub(super) fn no_router(attempt: &Attempt<'_>, owner: &str) -> Result<(), Refusal> {
    if owner == attempt.namespace || attempt.object["spec"]["deviceOwner"] != ROUTER_INTERFACE {
        return Ok(());
    }
    let why = "a Router joins Networks of its own project";
    Err(attempt.invalid(FieldError::invalid("spec.network", attempt.object["spec"]["network"].clone(), why)))
}

/// On another project's Network a Port keeps what protects the others there from it, unless its writer may change that Network. (Neutron's
/// policies of `port_security_enabled` and `allowed_address_pairs`.)
pub(super) fn stays_secured(
    view: &View<'_>,
    attempt: &Attempt<'_>,
    owner: &str,
    network: &str,
) -> Result<(), Refusal> {
    let spec = &attempt.object["spec"];
    let before = |field: &str| attempt.old.map(|old| old["spec"][field].clone()).unwrap_or_default();
    let open = |value: &Value| *value == false;
    let opens = open(&spec["portSecurityEnabled"]) && !open(&before("portSecurityEnabled"));
    let pairs = &spec["allowedAddressPairs"];
    let pairs =
        pairs.as_array().is_some_and(|all| !all.is_empty()) && before("allowedAddressPairs") != *pairs;
    if owner == attempt.namespace || attempt.system || !(opens || pairs) {
        return Ok(());
    }
    let is_open = view
        .get(GROUP, PLURAL, owner, network)
        .is_some_and(|it| open(&it.value()["spec"]["portSecurityEnabled"]));
    let resource = Attributes::resource(attempt.user, "update", GROUP, PLURAL);
    let asked = Attributes { version: "v1", namespace: owner, name: network, ..resource };
    if (is_open && !pairs) || view.judge.authorize_here(&asked).is_allowed() {
        return Ok(());
    }
    let why = "only who may change a Network takes the port security of Ports on it away, or gives them further addresses";
    Err(attempt.forbidden(why))
}

/// A Subnet begins to go only where nothing keeps it but Ports of its own project that lose its addresses with it: neither those of others
/// nor a router's.
pub(super) fn retires(view: &View<'_>, attempt: &Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    let said = |subnet: &Value| subnet["metadata"]["annotations"][RETIRING_ANNOTATION] == "true";
    if !said(attempt.object) || attempt.old.is_none_or(said) {
        return Ok(());
    }
    let counter = uses("subnet", attempt.namespace, attempt.name);
    let revision = view.cache.claims().revision(&counter);
    let network = attempt.object["spec"]["network"].as_str().unwrap_or_default();
    let ports = ports_on(view, attempt.namespace, network);
    let keeps = |port: &Value| {
        let mut fixed = port["spec"]["fixedIps"].as_array().into_iter().flatten();
        let other = port["metadata"]["namespace"] != attempt.namespace;
        (other || port["spec"]["deviceOwner"] == ROUTER_INTERFACE)
            && fixed.any(|ip| ip["subnet"] == attempt.name)
    };
    let count = ports.iter().filter(|port| keeps(port.value())).count();
    if count > 0 {
        let why = format!(
            "{count} Port(s) of Routers or of other projects have addresses of it: delete them first"
        );
        return Err(attempt.conflict(&why));
    }
    // A Port that comes meanwhile changes it.
    plan.unchanged(counter, revision);
    Ok(())
}

/// Those that use a Network keep it.
pub(super) fn network(
    view: &View<'_>,
    attempt: &mut Attempt<'_>,
    plan: &mut WritePlan,
) -> Result<(), Refusal> {
    match said(view, attempt, PLURAL)? {
        Some((before, now)) => still_for(view, attempt, plan, &before, &now),
        None => Ok(()),
    }
}

/// Whom an object was shared with, and whom it is then.
pub(super) type Said = (Vec<Share>, Vec<Share>);

/// Whom an object was shared with, and is then: shares have ids and are there once; for all projects, who may change all objects of the
/// kind shares one. What the schema refuses is told by its own words later.
pub(super) fn said(
    view: &View<'_>,
    attempt: &mut Attempt<'_>,
    plural: &str,
) -> Result<Option<Said>, Refusal> {
    let Ok(mut now) = serde_json::from_value::<Vec<Share>>(match &attempt.object["spec"]["sharedWith"] {
        Value::Null => json!([]),
        shares => shares.clone(),
    }) else {
        return Ok(None);
    };
    let before = attempt.old.map(shares).unwrap_or_default();
    let mut projects = HashSet::new();
    for (index, share) in now.iter_mut().enumerate() {
        let field = format!("spec.sharedWith[{index}].project");
        if !projects.insert(share.project.clone()) {
            let why = "it is shared with that project already";
            return Err(attempt.invalid(FieldError::invalid(field, share.project.clone(), why)));
        }
        let is_new = !before.iter().any(|old| old.project == share.project);
        if share.project == EVERY_PROJECT && is_new && !may_change_all(view, attempt, plural) {
            return Err(attempt.forbidden("only an administrator shares something with all projects"));
        }
        if share.id.as_ref().is_none_or(String::is_empty) {
            share.id = Some(uuid::Uuid::new_v4().to_string());
        }
    }
    let label = &attempt.object["metadata"]["labels"][SHARED_LABEL];
    if now.is_empty() != label.is_null() {
        let label = if now.is_empty() { Value::Null } else { json!("true") };
        let labels = &mut attempt.object["metadata"]["labels"];
        match (label, labels) {
            (Value::Null, Value::Object(labels)) => drop(labels.remove(SHARED_LABEL)),
            (Value::Null, _) => {}
            (label, labels) => labels[SHARED_LABEL] = label,
        }
    }
    if !now.is_empty() {
        attempt.object["spec"]["sharedWith"] = json!(now);
    }
    Ok(Some((before, now)))
}

/// Whether the writer may change all objects of a kind.
pub(super) fn may_change_all(view: &View<'_>, attempt: &Attempt<'_>, plural: &str) -> bool {
    let asked = Attributes::resource(attempt.user, "update", GROUP, plural);
    attempt.system || view.judge.authorize_here(&Attributes { version: "v1", ..asked }).is_allowed()
}

/// Whether objects of a namespace may no longer use what is another's, and might before.
pub(super) fn loses(view: &View<'_>, namespace: &str, before: &[Share], now: &[Share]) -> bool {
    qos::project_of(view, namespace)
        .is_some_and(|project| is_shared_with(before, &project) && !is_shared_with(now, &project))
}

fn still_for(
    view: &View<'_>,
    attempt: &Attempt<'_>,
    plan: &mut WritePlan,
    before: &[Share],
    now: &[Share],
) -> Result<(), Refusal> {
    if before.iter().all(|old| is_shared_with(now, &old.project)) {
        return Ok(());
    }
    let counter = uses("network", attempt.namespace, attempt.name);
    let revision = view.cache.claims().revision(&counter);
    for port in ports_on(view, attempt.namespace, attempt.name) {
        let namespace = port.value()["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        let keeps = || qos::project_of(view, &namespace).is_some_and(|project| is_shared_with(now, &project));
        if namespace != attempt.namespace && !keeps() {
            let why =
                "Ports of a project that it would no longer be shared with are on it: delete them first";
            return Err(attempt.conflict(why));
        }
    }
    // A Port that comes meanwhile changes it.
    plan.unchanged(counter, revision);
    Ok(())
}
