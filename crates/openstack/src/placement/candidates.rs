//! Allocation candidates: the nodes with room for a request.

use serde_json::{Map, Value, json};

use super::ledger::{Ledger, Provider};
use super::{has_traits, only_parameters, required, resources, since};
use crate::auth::Session;
use crate::body::Params;
use crate::error::{Answer, Fault};
use crate::microversion::Microversion;
use crate::versions::ok;

/// `GET /allocation_candidates?resources=VCPU:1,MEMORY_MB:512`
pub(super) async fn list(session: Session, version: Microversion, params: Params) -> Answer {
    since(version, 10)?;
    if let Some((name, _)) = params.0.iter().find(|(name, _)| is_granular(name)) {
        return Err(Fault::bad(format!(
            "{name} is not supported: a node is one resource provider, so a request has one group of resources."
        )));
    }
    let known = [
        ("resources", 10),
        ("limit", 16),
        ("required", 17),
        ("member_of", 21),
        ("in_tree", 31),
        ("group_policy", 25),
    ];
    only_parameters(&params, &known, version)?;
    let text = params.get("resources").ok_or_else(|| {
        Fault::bad("At least one group of `resources` is required in an allocation candidates request.")
    })?;
    let wanted = resources(text)?;
    let traits = required(&params)?;
    let limit = match params.get("limit") {
        None => usize::MAX,
        Some(text) => text.parse().ok().filter(|limit| *limit > 0).ok_or_else(|| {
            Fault::bad(format!("Invalid query string parameters: '{text}' is no limit of at least 1"))
        })?,
    };
    let ledger = Ledger::read(&session).await?;
    let found: Vec<&Provider> = ledger
        .providers
        .iter()
        .filter(|provider| {
            params.get("in_tree").is_none_or(|uuid| uuid == provider.uuid)
                && params.get("member_of").is_none_or(|group| group.starts_with('!'))
                && has_traits(provider, &traits)
                && ledger.fits(provider, &wanted)
        })
        .take(limit)
        .collect();
    let requests: Vec<Value> = found.iter().map(|provider| request(version, provider, &wanted)).collect();
    let summaries: Map<String, Value> = found
        .iter()
        .map(|provider| (provider.uuid.clone(), summary(version, &ledger, provider, &wanted)))
        .collect();
    Ok(ok(&json!({"allocation_requests": requests, "provider_summaries": summaries})))
}

/// A group of its own: `resources1`, `required_NET`.
fn is_granular(name: &str) -> bool {
    ["resources", "required", "member_of", "in_tree"].iter().any(|plain| {
        name.strip_prefix(plain)
            .is_some_and(|suffix| suffix.starts_with('_') || suffix.starts_with(|c: char| c.is_ascii_digit()))
    }) || matches!(name, "same_subtree" | "root_required")
}

fn request(version: Microversion, provider: &Provider, wanted: &[(String, i64)]) -> Value {
    let resources: Map<String, Value> =
        wanted.iter().map(|(class, amount)| (class.clone(), json!(amount))).collect();
    if version < Microversion(12) {
        return json!({"allocations": [
            {"resource_provider": {"uuid": provider.uuid}, "resources": resources},
        ]});
    }
    let mut view = json!({"allocations": {&provider.uuid: {"resources": resources}}});
    if version >= Microversion(34) {
        view["mappings"] = json!({"": [provider.uuid]});
    }
    view
}

fn summary(version: Microversion, ledger: &Ledger, provider: &Provider, wanted: &[(String, i64)]) -> Value {
    let used = ledger.used(provider);
    let shown = provider
        .inventories
        .iter()
        .filter(|(class, _)| version >= Microversion(27) || wanted.iter().any(|(name, _)| name == **class));
    let resources: Map<String, Value> = shown
        .map(|(class, inventory)| {
            let used = used.get(class).copied().unwrap_or(0);
            ((*class).to_owned(), json!({"capacity": inventory.capacity(), "used": used}))
        })
        .collect();
    let mut view = json!({"resources": resources});
    if version >= Microversion(17) {
        view["traits"] = json!(provider.traits);
    }
    if version >= Microversion(29) {
        view["parent_provider_uuid"] = Value::Null;
        view["root_provider_uuid"] = json!(provider.uuid);
    }
    view
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_known_by_their_suffix() {
        assert!(is_granular("resources1") && is_granular("required_NET") && is_granular("same_subtree"));
        assert!(!is_granular("resources") && !is_granular("member_of") && !is_granular("limit"));
    }
}
