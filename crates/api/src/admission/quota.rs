//! Quotas, exact: each write that uses more or less puts the new `status.used` of its namespace's
//! ResourceQuotas in its own transaction, compared on what the cache has. Who was slower tries again.
//!
//! A quota whose `status.hard` is not its `spec.hard` is not computed yet: whoever meets one has it
//! computed first ([`recompute`]). Writes that met no quota compare the namespace's generation key, which
//! every change of a quota's spec writes: so none slips by while a quota is made.

use std::sync::Arc;

use serde_json::{Value, json};
use yunfan_objects::{ApiError, GroupResource, Quantity, codec};

use super::scopes;
use super::usage::{self, Usage};
use super::{Attempt, Operation, Refusal, View, WritePlan};
use crate::cache::Entry;
use crate::keys::{self, CLAIMS};

mod bounds;

fn generation_key(namespace: &str) -> String {
    format!("{CLAIMS}quota/{namespace}")
}

pub(super) fn admit(view: &View<'_>, attempt: &mut Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    if attempt.namespace.is_empty() {
        return Ok(());
    }
    if attempt.is("", "resourcequotas") {
        own(attempt, plan)?;
    }
    if attempt.is("compute.yunfan.io", "virtualmachines") && attempt.operation != Operation::Delete {
        bounds::admit(view, attempt, plan)?;
    }
    let (group, plural) = (&attempt.kind.descriptor.group, &attempt.kind.descriptor.plural);
    if plural == "events" || attempt.operation == Operation::Update && !may_change(group, plural) {
        return Ok(());
    }
    let before = attempt.old.map(|old| usage::of(group, plural, old)).unwrap_or_default();
    let after = match attempt.operation {
        Operation::Delete => Usage::new(),
        _ => usage::of(group, plural, attempt.object),
    };
    let moves = attempt.old.is_some_and(|old| scopes::may_differ(old, attempt.object));
    if before == after && !moves {
        return Ok(());
    }
    let generation = generation_key(attempt.namespace);
    plan.unchanged(generation.clone(), view.cache.claims().revision(&generation));
    let own_key = attempt.kind.key(attempt.namespace, attempt.name);
    for quota in view.list("", "resourcequotas", attempt.namespace) {
        // One that goes away does not count itself any more.
        if *quota.key != *own_key {
            charge(attempt, &quota, &before, &after, plan)?;
        }
    }
    Ok(())
}

/// Kinds whose updates can change what they count for.
fn may_change(group: &str, plural: &str) -> bool {
    matches!(
        (group, plural),
        ("", "pods" | "services" | "persistentvolumeclaims")
            | ("compute.yunfan.io", "virtualmachines")
            | ("image.yunfan.io", "images")
            | ("network.yunfan.io", "securitygroups")
            | ("storage.yunfan.io", "volumes")
    )
}

fn difference(before: &Usage, after: &Usage) -> Usage {
    let names = before.keys().chain(after.keys());
    let all = names.map(|name| {
        let side = |usage: &Usage| usage.get(name).copied().unwrap_or(0);
        (name.clone(), side(after) - side(before))
    });
    all.filter(|(_, change)| *change != 0).collect()
}

/// A write of a quota itself.
fn own(attempt: &mut Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    let changed = attempt.old.is_none_or(|old| old["spec"] != attempt.object["spec"]);
    if changed || attempt.operation == Operation::Delete {
        plan.put(generation_key(attempt.namespace), attempt.name.to_owned());
    }
    Ok(())
}

fn is_computed(quota: &Value) -> bool {
    quota["status"]["hard"].is_object() && quota["status"]["hard"] == quota["spec"]["hard"]
}

fn charge(
    attempt: &Attempt<'_>,
    entry: &Arc<Entry>,
    before: &Usage,
    after: &Usage,
    plan: &mut WritePlan,
) -> Result<(), Refusal> {
    let quota = entry.value();
    let name = quota["metadata"]["name"].as_str().unwrap_or_default();
    let hard = &quota["spec"]["hard"];
    let none = Usage::new();
    let (group, plural) = (&attempt.kind.descriptor.group, &attempt.kind.descriptor.plural);
    let is_for = |object: &Value| scopes::matches(quota, group, plural, object);
    let stays = attempt.operation != Operation::Delete && is_for(attempt.object);
    let before = if attempt.old.is_some_and(is_for) { before } else { &none };
    let delta = difference(before, if stays { after } else { &none });
    let sized = attempt.operation == Operation::Create || attempt.subresource == "resize";
    let open = if stays && sized && attempt.is("", "pods") {
        usage::left_open(attempt.object, hard)
    } else {
        String::new()
    };
    if !open.is_empty() {
        return Err(attempt.forbidden(&format!("failed quota: {name}: must specify {open}")));
    }
    if !delta.keys().any(|resource| !hard[resource].is_null()) {
        return Ok(());
    }
    if !is_computed(quota) {
        return Err(Refusal::Recompute(attempt.namespace.to_owned(), name.to_owned()));
    }
    let used = &quota["status"]["used"];
    let mut next = used.clone();
    let mut over = Vec::new();
    for (resource, change) in &delta {
        let limit = &hard[resource];
        if limit.is_null() {
            continue;
        }
        let then = (usage::milli(&used[resource]) + change).max(0);
        // What a node says of a Pod is so, whatever it comes to. What it says of an image's bytes is known no earlier, and they can go.
        let is_so = attempt.subresource == "status" && group != "image.yunfan.io";
        if *change > 0 && then > usage::milli(limit) && !is_so {
            over.push((resource, *change));
        }
        next[resource] = json!(shown(then, limit));
    }
    if !over.is_empty() {
        let list = |value: &dyn Fn(&str, i128) -> String| {
            let all =
                over.iter().map(|(resource, change)| format!("{resource}={}", value(resource, *change)));
            all.collect::<Vec<_>>().join(",")
        };
        let why = format!(
            "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
            list(&|resource, change| shown(change, &hard[resource])),
            list(&|resource, _| text(&used[resource])),
            list(&|resource, _| text(&hard[resource])),
        );
        return Err(attempt.forbidden(&why));
    }
    if next != *used {
        let mut object = Value::clone(quota);
        object["status"]["used"] = next;
        plan.unchanged(entry.key.as_ref(), entry.revision);
        plan.put(entry.key.as_ref(), codec::encode(&object));
    }
    Ok(())
}

/// An amount in thousandths, written like the limit it stands beside.
fn shown(milli: i128, like: &Value) -> String {
    let binary = like.as_str().is_some_and(|text| text.ends_with('i'));
    let quantity = match i64::try_from(milli) {
        Ok(milli) if milli % 1000 != 0 => Quantity::from_milli(milli),
        _ => {
            let units = i64::try_from(milli / 1000).unwrap_or(i64::MAX);
            if binary { Quantity::from_bytes(units) } else { Quantity::from_units(units) }
        }
    };
    quantity.to_string()
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "0".to_owned(),
        value => Quantity::from_json(value).map_or_else(|_| value.to_string(), |q| q.to_string()),
    }
}

/// The quota with `status` computed from the objects that the cache has. The caller stores it compared
/// on the revision of `entry`, which any charge meanwhile changes.
pub(crate) fn recompute(view: &View<'_>, entry: &Entry, namespace: &str) -> Value {
    let mut quota = Value::clone(entry.value());
    let hard = quota["spec"]["hard"].clone();
    let mut total = Usage::new();
    for kind in view.kinds.table().resources() {
        if !kind.storage.namespaced || !is_limited(&kind.storage.group, &kind.storage.plural, &hard) {
            continue;
        }
        let (group, plural) = (&kind.storage.group, &kind.storage.plural);
        for object in kind.cache.list(&keys::namespace_prefix(&kind.prefix, namespace)).entries {
            let object = object.decode_stored();
            if scopes::matches(&quota, group, plural, &object) {
                for (name, amount) in usage::of(group, plural, &object) {
                    *total.entry(name).or_default() += amount;
                }
            }
        }
    }
    let used: serde_json::Map<String, Value> = hard
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, limit)| (name.clone(), json!(shown(total.get(name).copied().unwrap_or(0), limit))))
        .collect();
    quota["status"] = json!({ "hard": hard, "used": used });
    quota
}

/// Whether objects of this kind can count for any of the quota's names.
fn is_limited(group: &str, plural: &str, hard: &Value) -> bool {
    let counted =
        if group.is_empty() { format!("count/{plural}") } else { format!("count/{plural}.{group}") };
    hard.get(counted).is_some()
        || match (group, plural) {
            ("", "pods" | "services" | "persistentvolumeclaims")
            | ("compute.yunfan.io", "virtualmachines")
            | ("image.yunfan.io", "images")
            | ("network.yunfan.io", "securitygroups")
            | ("storage.yunfan.io", "volumes" | "volumesnapshots") => true,
            ("", plural) => hard.get(plural).is_some(),
            _ => false,
        }
}

/// The error of a write that found a quota uncomputed again and again.
pub(crate) fn busy(namespace: &str, name: &str) -> ApiError {
    let quotas = GroupResource::new("", "resourcequotas");
    ApiError::conflict(
        &quotas,
        name,
        &format!("the usage in namespace {namespace} is being computed; try again"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_written_like_their_limits() {
        assert_eq!(shown(1500, &json!("4")), "1500m");
        assert_eq!(shown(2000, &json!("4")), "2");
        assert_eq!(shown(1024 * 1024 * 1024 * 1000, &json!("4Gi")), "1Gi");
    }

    #[test]
    fn only_differences_are_charged() {
        let before = Usage::from([("pods".to_owned(), 1000), ("cpu".to_owned(), 5)]);
        let after = Usage::from([("pods".to_owned(), 1000)]);
        assert_eq!(difference(&before, &after), Usage::from([("cpu".to_owned(), -5)]));
    }
}
