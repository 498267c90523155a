//! One rule of a role: what it allows, and what it covers.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::authz::Attributes;

/// A rule on resources, as a SelfSubjectRulesReview shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceRule {
    /// Verbs, or `*`.
    pub verbs: Vec<String>,
    /// API groups, or `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// Resources (`pods`, `pods/log`, `*/status`), or `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Names of the objects; empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
}

/// A rule on paths, as a SelfSubjectRulesReview shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NonResourceRule {
    /// Verbs, or `*`.
    pub verbs: Vec<String>,
    /// Paths; a `*` at the end stands for any rest.
    #[serde(rename = "nonResourceURLs")]
    pub non_resource_urls: Vec<String>,
}

/// A PolicyRule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Rule {
    verbs: Vec<String>,
    api_groups: Vec<String>,
    resources: Vec<String>,
    resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
}

/// The rules of a role object; none where `rules` is absent or null.
pub(super) fn parse_rules(role: &Value) -> Result<Vec<Rule>, String> {
    match &role["rules"] {
        Value::Null => Ok(Vec::new()),
        rules => Vec::<Rule>::deserialize(rules).map_err(|error| error.to_string()),
    }
}

/// The rules of somebody who may do all.
pub(super) fn everything() -> Rule {
    let all = || vec!["*".to_owned()];
    Rule {
        verbs: all(),
        api_groups: all(),
        resources: all(),
        resource_names: Vec::new(),
        non_resource_urls: all(),
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

/// `rule` is `*`, the resource, `resource/subresource` or `*/subresource`.
fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    match rule.split_once('/') {
        None => subresource.is_empty() && rule == resource,
        Some((own, own_sub)) => {
            own_sub == subresource && (own == "*" || own == resource) && !own_sub.is_empty()
        }
    }
}

fn path_matches(rule: &str, path: &str) -> bool {
    match rule.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => rule == path,
    }
}

/// The smallest thing that a rule can grant.
#[derive(Debug)]
pub(super) enum Atom<'a> {
    Resource { verb: &'a str, group: &'a str, resource: &'a str, name: Option<&'a str> },
    Path { verb: &'a str, path: &'a str },
}

/// What is lacking, one line for all verbs of the same thing, in the order of the lines.
pub(super) fn listed(atoms: &[Atom<'_>]) -> Vec<String> {
    let mut verbs_of: HashMap<String, BTreeMap<&str, usize>> = HashMap::new();
    for (at, atom) in atoms.iter().enumerate() {
        let (what, verb) = match atom {
            Atom::Resource { verb, group, resource, name: None } => {
                (format!("APIGroups:[{group:?}], Resources:[{resource:?}]"), verb)
            }
            Atom::Resource { verb, group, resource, name: Some(name) } => {
                (format!("APIGroups:[{group:?}], Resources:[{resource:?}], ResourceNames:[{name:?}]"), verb)
            }
            Atom::Path { verb, path } => (format!("NonResourceURLs:[{path:?}]"), verb),
        };
        verbs_of.entry(what).or_default().entry(verb).or_insert(at);
    }
    let line = |(what, verbs): (String, BTreeMap<&str, usize>)| {
        let mut verbs: Vec<(&str, usize)> = verbs.into_iter().collect();
        verbs.sort_unstable_by_key(|(_, at)| *at);
        let verbs: Vec<String> = verbs.iter().map(|(verb, _)| format!("{verb:?}")).collect();
        format!("{{{what}, Verbs:[{}]}}", verbs.join(" "))
    };
    let mut lines: Vec<String> = verbs_of.into_iter().map(line).collect();
    lines.sort_unstable();
    lines
}

impl Rule {
    /// Whether it allows the request. Paths are granted by cluster-wide bindings only.
    pub(super) fn allows(&self, request: &Attributes<'_>, cluster_wide: bool) -> bool {
        if !has(&self.verbs, request.verb) {
            return false;
        }
        if !request.is_resource_request() {
            return cluster_wide
                && self.non_resource_urls.iter().any(|rule| path_matches(rule, request.path));
        }
        has(&self.api_groups, request.group)
            && self.resources.iter().any(|rule| resource_matches(rule, request.resource, request.subresource))
            && (self.resource_names.is_empty()
                || (!request.name.is_empty() && self.resource_names.iter().any(|name| name == request.name)))
    }

    /// How many things it grants, counted one by one.
    pub(super) fn size(&self) -> usize {
        let names = self.resource_names.len().max(1);
        let objects = self.api_groups.len().saturating_mul(self.resources.len()).saturating_mul(names);
        objects.saturating_add(self.non_resource_urls.len()).saturating_mul(self.verbs.len())
    }

    /// How many words it has.
    pub(super) fn words(&self) -> usize {
        let lists =
            [&self.verbs, &self.api_groups, &self.resources, &self.resource_names, &self.non_resource_urls];
        lists.iter().map(|list| list.len()).sum()
    }

    /// Everything that it grants, one by one.
    pub(super) fn atoms(&self) -> impl Iterator<Item = Atom<'_>> {
        let names: Vec<Option<&str>> = if self.resource_names.is_empty() {
            vec![None]
        } else {
            self.resource_names.iter().map(|name| Some(name.as_str())).collect()
        };
        self.verbs.iter().flat_map(move |verb| {
            let mut atoms = Vec::new();
            for group in &self.api_groups {
                for resource in &self.resources {
                    atoms.extend(names.iter().map(|name| Atom::Resource {
                        verb,
                        group,
                        resource,
                        name: *name,
                    }));
                }
            }
            atoms.extend(self.non_resource_urls.iter().map(|path| Atom::Path { verb, path }));
            atoms
        })
    }

    /// Whether it grants all of `atom`. (Kubernetes' rule too: one rule must cover it alone.)
    pub(super) fn covers(&self, atom: &Atom<'_>) -> bool {
        match atom {
            Atom::Resource { verb, group, resource, name } => {
                let (wanted, sub) = resource.split_once('/').unwrap_or((resource, ""));
                has(&self.verbs, verb)
                    && has(&self.api_groups, group)
                    // `*` as what is wanted equals only `*`; `*/status` only itself and `*`.
                    && self.resources.iter().any(|own| own == resource || resource_matches(own, wanted, sub))
                    && (self.resource_names.is_empty()
                        || name.is_some_and(|name| self.resource_names.iter().any(|own| own == name)))
            }
            Atom::Path { verb, path } => {
                has(&self.verbs, verb) && self.non_resource_urls.iter().any(|own| path_matches(own, path))
            }
        }
    }

    /// Adds what it grants to the lists, each rule once.
    pub(super) fn collect(&self, resources: &mut Vec<ResourceRule>, paths: &mut Vec<NonResourceRule>) {
        if !self.resources.is_empty() {
            let rule = ResourceRule {
                verbs: self.verbs.clone(),
                api_groups: self.api_groups.clone(),
                resources: self.resources.clone(),
                resource_names: self.resource_names.clone(),
            };
            if !resources.contains(&rule) {
                resources.push(rule);
            }
        }
        if !self.non_resource_urls.is_empty() {
            let rule = NonResourceRule {
                verbs: self.verbs.clone(),
                non_resource_urls: self.non_resource_urls.clone(),
            };
            if !paths.contains(&rule) {
                paths.push(rule);
            }
        }
    }
}
