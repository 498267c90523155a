//! QosPolicies are checked and completed, those in use stay, and Ports and Networks have those that they may.
//!
//! A policy is its project's, and of those that it is shared with. Whoever may change a policy may also give it to others' Ports and
//! Networks, and then nobody else takes it from them.

use std::collections::HashSet;

use serde_json::{Value, json};
use yunfan_identity::Attributes;
use yunfan_objects::FieldError;
use yunfan_resources::names::PROJECT_LABEL;
use yunfan_resources::network::{QosPolicySpec, is_dscp};

use super::{GROUP, uses};
use crate::admission::{Attempt, Operation, Refusal, View, WritePlan};
use crate::keys;

const PLURAL: &str = "qospolicies";
const COUNTER: &str = "qospolicy";
const DEFAULTS: &str = "qosdefault";
/// Kinds that name a policy in `spec.qosPolicy`.
const USERS: [&str; 2] = ["ports", "networks"];

/// Rules make sense, are there once, and have ids; a policy is not taken from those that use it, and a project has one default.
pub(super) fn policy(
    view: &View<'_>,
    attempt: &mut Attempt<'_>,
    plan: &mut WritePlan,
) -> Result<(), Refusal> {
    // What the schema refuses is told by its own words later.
    let Ok(spec) = serde_json::from_value::<QosPolicySpec>(attempt.object["spec"].clone()) else {
        return Ok(());
    };
    let mut kinds = HashSet::new();
    for (index, rule) in spec.rules.iter().enumerate() {
        let wrong = |why: &str| {
            let value = attempt.object["spec"]["rules"][index].clone();
            attempt.invalid(FieldError::invalid(format!("spec.rules[{index}]"), value, why))
        };
        let direction = rule.bandwidth_limit.as_ref().map(|limit| limit.direction);
        if direction.is_some() == rule.dscp_mark.is_some() {
            return Err(wrong("must have bandwidthLimit or dscpMark, and not both"));
        }
        if rule.dscp_mark.is_some_and(|mark| !is_dscp(mark.into())) {
            return Err(wrong("dscpMark must be 0 or even, from 8 to 56, and none of 42, 44, 50, 52 and 54"));
        }
        if !kinds.insert(direction) {
            return Err(wrong("is of the kind and direction of another rule of the policy"));
        }
    }
    let mut projects = HashSet::new();
    for (index, share) in spec.shared_with.iter().enumerate() {
        if !projects.insert(&share.project) {
            let why = "the policy is shared with it already";
            let field = format!("spec.sharedWith[{index}].project");
            return Err(attempt.invalid(FieldError::invalid(field, share.project.clone(), why)));
        }
    }
    for list in ["rules", "sharedWith"] {
        // A list that is not there stays so.
        let values = attempt.object["spec"].get_mut(list).and_then(Value::as_array_mut);
        for value in values.into_iter().flatten() {
            if value["id"].as_str().is_none_or(str::is_empty) {
                value["id"] = json!(uuid::Uuid::new_v4().to_string());
            }
        }
    }
    one_default(view, attempt, plan, &spec)?;
    still_for(view, attempt, plan, &spec)
}

fn one_default(
    view: &View<'_>,
    attempt: &Attempt<'_>,
    plan: &mut WritePlan,
    spec: &QosPolicySpec,
) -> Result<(), Refusal> {
    let Some(project) = spec.project.as_deref().filter(|_| spec.project_default) else { return Ok(()) };
    let other = view.list(GROUP, PLURAL, "").into_iter().find(|other| {
        let other = other.value();
        let same = other["spec"]["project"] == project && other["spec"]["projectDefault"] == true;
        same && other["metadata"]["name"] != attempt.name
    });
    if let Some(other) = other {
        let name = other.value()["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let why = format!("project {project} has the default QosPolicy {name}");
        return Err(attempt.conflict(&why));
    }
    // Of two that become it at one time the second finds this changed.
    let counter = uses(DEFAULTS, "", project);
    plan.unchanged(counter.clone(), view.cache.claims().revision(&counter));
    plan.put(counter, attempt.name.to_owned());
    Ok(())
}

/// Who uses a policy keeps it: those that it is no longer for have none of it.
fn still_for(
    view: &View<'_>,
    attempt: &Attempt<'_>,
    plan: &mut WritePlan,
    spec: &QosPolicySpec,
) -> Result<(), Refusal> {
    let Some(old) = attempt.old else { return Ok(()) };
    if ["sharedWith", "project"].iter().all(|field| old["spec"][*field] == attempt.object["spec"][*field]) {
        return Ok(());
    }
    let Ok(before) = serde_json::from_value::<QosPolicySpec>(old["spec"].clone()) else { return Ok(()) };
    let lost = |namespace: &str| {
        project_of(view, namespace).is_some_and(|project| before.is_for(&project) && !spec.is_for(&project))
    };
    let counter = uses(COUNTER, "", attempt.name);
    let revision = view.cache.claims().revision(&counter);
    if let Some((kind, namespace, name)) = users(view, attempt.name).find(|(_, namespace, _)| lost(namespace))
    {
        let why = format!("{kind} {namespace}/{name} has it, of a project that it would no longer be for");
        return Err(attempt.conflict(&why));
    }
    plan.unchanged(counter, revision);
    Ok(())
}

/// What names a policy: kind, namespace and name.
fn users<'a>(
    view: &'a View<'_>,
    policy: &'a str,
) -> impl Iterator<Item = (&'static str, String, String)> + 'a {
    USERS.into_iter().flat_map(move |kind| {
        let all = view.list(GROUP, kind, "");
        let named = move |object: &Value| {
            let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
            (object["spec"]["qosPolicy"] == policy).then(|| (kind, text("namespace"), text("name")))
        };
        all.into_iter().filter_map(move |entry| named(entry.value())).collect::<Vec<_>>()
    })
}

/// A policy that something has stays.
pub(super) fn unused(view: &View<'_>, attempt: &Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    let counter = uses(COUNTER, "", attempt.name);
    let revision = view.cache.claims().revision(&counter);
    if let Some((kind, namespace, name)) = users(view, attempt.name).next() {
        return Err(attempt.conflict(&format!("{kind} {namespace}/{name} has it: give it another first")));
    }
    plan.unchanged(counter.clone(), revision);
    if revision != 0 && attempt.operation == Operation::Delete {
        plan.free(counter);
    }
    Ok(())
}

/// The id of the project that a namespace is of.
pub(super) fn project_of(view: &View<'_>, namespace: &str) -> Option<String> {
    let space = view.get("", "namespaces", "", namespace)?;
    let name = space.value()["metadata"]["labels"][PROJECT_LABEL].as_str()?;
    let project = view.get("iam.yunfan.io", "projects", "", name)?;
    // As `Identified` has it.
    let given = project.value()["spec"]["id"].as_str().filter(|id| !id.is_empty());
    given.or(project.value()["metadata"]["uid"].as_str()).map(str::to_owned)
}

/// A new Network that names no policy has its project's default one, if there is one.
pub(super) fn default_of(view: &View<'_>, attempt: &mut Attempt<'_>) {
    let named = attempt.object["spec"]["qosPolicy"].as_str();
    if named.is_none()
        && attempt.old.is_none()
        && let Some(project) = project_of(view, attempt.namespace)
    {
        let all = view.list(GROUP, PLURAL, "");
        let default = all.iter().map(|entry| entry.value()).find(|policy| {
            policy["spec"]["project"] == project.as_str()
                && policy["spec"]["projectDefault"] == true
                && policy["metadata"]["deletionTimestamp"].is_null()
        });
        if let Some(name) = default.and_then(|policy| policy["metadata"]["name"].as_str()) {
            attempt.object["spec"]["qosPolicy"] = json!(name);
        }
    }
}

/// A Port's or Network's policy is there, and is one that it may have; one that somebody else gave it, it keeps.
pub(super) fn user(view: &View<'_>, attempt: &mut Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    if attempt.object["spec"]["qosPolicy"] == "" {
        attempt.object["spec"].as_object_mut().map(|spec| spec.remove("qosPolicy"));
    }
    let before = attempt.old.and_then(|old| old["spec"]["qosPolicy"].as_str());
    let now = attempt.object["spec"]["qosPolicy"].as_str();
    if before == now {
        return Ok(());
    }
    let read = |name: &str| {
        let entry = view.get(GROUP, PLURAL, "", name)?;
        let there = entry.value()["metadata"]["deletionTimestamp"].is_null();
        serde_json::from_value::<QosPolicySpec>(entry.value()["spec"].clone()).ok().filter(|_| there)
    };
    let project = project_of(view, attempt.namespace);
    let is_ours = |policy: &QosPolicySpec, name: &str| {
        attempt.system
            || project.as_deref().is_some_and(|project| policy.is_for(project))
            || may_change(view, attempt, name)
    };
    if let Some(name) = before
        && let Some(policy) = read(name)
        && !is_ours(&policy, name)
    {
        let why = format!("QosPolicy {name} is another's, who alone may take it away");
        return Err(attempt.forbidden(&why));
    }
    let Some(name) = now else { return Ok(()) };
    if !read(name).is_some_and(|policy| is_ours(&policy, name)) {
        let why = "no such QosPolicy, or none that the project may use";
        return Err(attempt.invalid(FieldError::invalid("spec.qosPolicy", name, why)));
    }
    let prefix = keys::kind_prefix(GROUP, PLURAL);
    // As it is now: what it is shared with may change at the same time.
    let key = keys::object_key(&prefix, "", name);
    if let Some(entry) = view.get(GROUP, PLURAL, "", name) {
        plan.unchanged(key, entry.revision);
    }
    plan.put(uses(COUNTER, "", name), attempt.name.to_owned());
    Ok(())
}

/// Whether the writer may change a policy.
fn may_change(view: &View<'_>, attempt: &Attempt<'_>, name: &str) -> bool {
    let resource = Attributes::resource(attempt.user, "update", GROUP, PLURAL);
    let asked = Attributes { version: "v1", name, ..resource };
    view.judge.authorize_here(&asked).is_allowed()
}
