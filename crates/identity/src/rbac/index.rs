//! The roles and bindings, indexed by who they are for.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::rule::{Rule, parse_rules};
use super::{CLOUD_ADMIN_ROLE, GROUP};
use crate::UserInfo;
use crate::user::service_account_user;

/// How deep aggregated roles may select each other.
const MAX_AGGREGATION: usize = 8;

type Rules = Arc<[Rule]>;

#[derive(Default)]
pub(super) struct Index {
    /// Namespace -> name -> rules.
    roles: HashMap<String, HashMap<String, Rules>>,
    cluster_roles: HashMap<String, ClusterRole>,
    /// Bindings by namespace; the cluster's own are under the empty name.
    scopes: HashMap<String, Scope>,
}

struct ClusterRole {
    labels: HashMap<String, String>,
    own: Rules,
    /// Selectors of an `aggregationRule`; its rules are then those of the roles selected, and `own` is not looked at.
    selectors: Option<Vec<Selector>>,
    /// What it grants, aggregation resolved.
    effective: Rules,
}

#[derive(Default)]
struct Scope {
    bindings: HashMap<String, Arc<Binding>>,
    users: HashMap<String, Vec<Arc<Binding>>>,
    groups: HashMap<String, Vec<Arc<Binding>>>,
}

/// A RoleBinding or ClusterRoleBinding.
pub(super) struct Binding {
    /// Empty for a ClusterRoleBinding.
    namespace: String,
    name: String,
    role_kind: String,
    role_name: String,
    users: Vec<String>,
    groups: Vec<String>,
}

impl Binding {
    pub(super) fn is_cluster_wide(&self) -> bool {
        self.namespace.is_empty()
    }

    /// The same for the whole cluster, where it makes Keystone's admins ([`CLOUD_ADMIN_ROLE`]).
    fn of_cloud_admins(&self) -> Option<Self> {
        let is_it = self.role_kind == "ClusterRole" && self.role_name == CLOUD_ADMIN_ROLE;
        (is_it && !self.is_cluster_wide()).then(|| Self {
            namespace: String::new(),
            name: wide_name(&self.namespace, &self.name),
            role_kind: self.role_kind.clone(),
            role_name: self.role_name.clone(),
            users: self.users.clone(),
            groups: self.groups.clone(),
        })
    }

    /// Kubernetes' words for a binding to a role that does not exist.
    pub(super) fn role_missing(&self) -> String {
        let kind = self.role_kind.to_ascii_lowercase();
        format!("{kind}.{GROUP} {:?} not found", self.role_name)
    }
}

/// What a namespace's binding is called among those of the cluster: like no object there.
fn wide_name(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

/// A binding that applies to the user, and what in the user it applies to.
pub(super) struct Grant<'a> {
    pub(super) binding: &'a Binding,
    subject_kind: &'static str,
    subject: &'a str,
}

impl Grant<'_> {
    /// Why it allows, as Kubernetes says it.
    pub(super) fn reason(&self) -> String {
        let Binding { namespace, name, role_kind, role_name, .. } = self.binding;
        let binding = if namespace.is_empty() {
            format!("ClusterRoleBinding {name:?}")
        } else {
            format!("RoleBinding {:?}", format!("{name}/{namespace}"))
        };
        format!(
            "RBAC: allowed by {binding} of {role_kind} {role_name:?} to {} {:?}",
            self.subject_kind, self.subject
        )
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Selector {
    match_labels: HashMap<String, String>,
    match_expressions: Vec<Requirement>,
}

#[derive(Deserialize)]
struct Requirement {
    key: String,
    operator: String,
    #[serde(default)]
    values: Vec<String>,
}

impl Selector {
    fn matches(&self, labels: &HashMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|requirement| {
                let own = labels.get(&requirement.key);
                let among = own.is_some_and(|own| requirement.values.contains(own));
                match requirement.operator.as_str() {
                    "In" => among,
                    "NotIn" => !among,
                    "Exists" => own.is_some(),
                    "DoesNotExist" => own.is_none(),
                    _ => false,
                }
            })
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Subject {
    kind: String,
    name: String,
    namespace: String,
}

impl Index {
    pub(super) fn apply(
        &mut self,
        kind: &str,
        namespace: &str,
        name: &str,
        object: &Value,
    ) -> Result<(), String> {
        let namespaced = matches!(kind, "Role" | "RoleBinding");
        if name.is_empty() || namespaced == namespace.is_empty() {
            return Err("metadata.name or metadata.namespace is missing or out of place".to_owned());
        }
        match kind {
            "Role" => {
                let rules = parse_rules(object)?;
                self.roles.entry(namespace.to_owned()).or_default().insert(name.to_owned(), rules.into());
            }
            "ClusterRole" => {
                let own: Rules = parse_rules(object)?.into();
                let labels = match &object["metadata"]["labels"] {
                    Value::Null => HashMap::new(),
                    labels => HashMap::deserialize(labels).map_err(|error| error.to_string())?,
                };
                let selectors = match &object["aggregationRule"]["clusterRoleSelectors"] {
                    Value::Null if object["aggregationRule"].is_object() => Some(Vec::new()),
                    Value::Null => None,
                    list => Some(Vec::deserialize(list).map_err(|error| error.to_string())?),
                };
                let role = ClusterRole { labels, effective: own.clone(), own, selectors };
                self.cluster_roles.insert(name.to_owned(), role);
                self.resolve_aggregation();
            }
            "RoleBinding" | "ClusterRoleBinding" => {
                let binding = parse_binding(namespace, name, object)?;
                self.unbind(namespace, name);
                if let Some(wide) = binding.of_cloud_admins() {
                    self.scopes.entry(String::new()).or_default().bind(Arc::new(wide));
                }
                self.scopes.entry(namespace.to_owned()).or_default().bind(Arc::new(binding));
            }
            _ => return Err("it is not of a kind that RBAC knows".to_owned()),
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, kind: &str, namespace: &str, name: &str) {
        match kind {
            "Role" => {
                if let Some(roles) = self.roles.get_mut(namespace) {
                    roles.remove(name);
                    if roles.is_empty() {
                        self.roles.remove(namespace);
                    }
                }
            }
            "ClusterRole" => {
                self.cluster_roles.remove(name);
                self.resolve_aggregation();
            }
            "RoleBinding" | "ClusterRoleBinding" => self.unbind(namespace, name),
            _ => {}
        }
    }

    fn unbind(&mut self, namespace: &str, name: &str) {
        if !namespace.is_empty() {
            self.unbind("", &wide_name(namespace, name));
        }
        if let Some(scope) = self.scopes.get_mut(namespace) {
            scope.unbind(name);
            if scope.bindings.is_empty() {
                self.scopes.remove(namespace);
            }
        }
    }

    /// The rules of the role that `binding` names; `None` if there is no such role.
    pub(super) fn rules_of(&self, binding: &Binding) -> Option<&Rules> {
        match binding.role_kind.as_str() {
            "ClusterRole" => self.cluster_roles.get(&binding.role_name).map(|role| &role.effective),
            _ => self.roles.get(&binding.namespace)?.get(&binding.role_name),
        }
    }

    /// The rules of a role.
    pub(super) fn rules_of_role(&self, kind: &str, namespace: &str, name: &str) -> Option<Rules> {
        match kind {
            "ClusterRole" => self.cluster_roles.get(name).map(|role| role.effective.clone()),
            _ => self.roles.get(namespace)?.get(name).cloned(),
        }
    }

    /// Shows `see` each binding that applies to `user` at the cluster scope and in `namespace`, until it gives a value.
    pub(super) fn visit<T>(
        &self,
        user: &UserInfo,
        namespace: &str,
        mut see: impl FnMut(Grant<'_>) -> Option<T>,
    ) -> Option<T> {
        let scopes = [Some(""), (!namespace.is_empty()).then_some(namespace)];
        for scope in scopes.into_iter().flatten().filter_map(|name| self.scopes.get(name)) {
            let mut each = |bindings: Option<&Vec<Arc<Binding>>>, subject_kind, subject| {
                bindings
                    .into_iter()
                    .flatten()
                    .find_map(|binding| see(Grant { binding, subject_kind, subject }))
            };
            if let Some(value) = each(scope.users.get(&user.name), "User", &user.name) {
                return Some(value);
            }
            for group in &user.groups {
                if let Some(value) = each(scope.groups.get(group), "Group", group) {
                    return Some(value);
                }
            }
        }
        None
    }

    fn resolve_aggregation(&mut self) {
        let resolved: Vec<(String, Rules)> = self
            .cluster_roles
            .iter()
            .filter(|(_, role)| role.selectors.is_some())
            .map(|(name, _)| {
                let mut path = Vec::new();
                let mut rules = Vec::new();
                self.gather(name, &mut path, &mut rules);
                (name.clone(), rules.into())
            })
            .collect();
        for (name, rules) in resolved {
            if let Some(role) = self.cluster_roles.get_mut(&name) {
                role.effective = rules;
            }
        }
    }

    /// Adds the rules of the role `name`, and of those it selects, to `rules`; `path` ends circles.
    fn gather<'a>(&'a self, name: &'a str, path: &mut Vec<&'a str>, rules: &mut Vec<Rule>) {
        let Some(role) = self.cluster_roles.get(name) else { return };
        let Some(selectors) = &role.selectors else {
            for rule in role.own.iter() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
            return;
        };
        if path.len() >= MAX_AGGREGATION || path.contains(&name) {
            return;
        }
        path.push(name);
        let mut selected: Vec<&String> = self
            .cluster_roles
            .iter()
            .filter(|(_, other)| selectors.iter().any(|selector| selector.matches(&other.labels)))
            .map(|(name, _)| name)
            .collect();
        selected.sort();
        for other in selected {
            self.gather(other, path, rules);
        }
        path.pop();
    }
}

impl Scope {
    fn bind(&mut self, binding: Arc<Binding>) {
        for user in &binding.users {
            self.users.entry(user.clone()).or_default().push(binding.clone());
        }
        for group in &binding.groups {
            self.groups.entry(group.clone()).or_default().push(binding.clone());
        }
        self.bindings.insert(binding.name.clone(), binding);
    }

    fn unbind(&mut self, name: &str) {
        fn drop_from(by: &mut HashMap<String, Vec<Arc<Binding>>>, subjects: &[String], gone: &Arc<Binding>) {
            for subject in subjects {
                if let Some(list) = by.get_mut(subject) {
                    list.retain(|binding| !Arc::ptr_eq(binding, gone));
                    if list.is_empty() {
                        by.remove(subject);
                    }
                }
            }
        }
        if let Some(gone) = self.bindings.remove(name) {
            drop_from(&mut self.users, &gone.users, &gone);
            drop_from(&mut self.groups, &gone.groups, &gone);
        }
    }
}

fn parse_binding(namespace: &str, name: &str, object: &Value) -> Result<Binding, String> {
    let role = &object["roleRef"];
    let of = |key: &str| role[key].as_str().unwrap_or_default().to_owned();
    let (role_kind, role_name) = (of("kind"), of("name"));
    let known = role_kind == "ClusterRole" || (role_kind == "Role" && !namespace.is_empty());
    if !known || role_name.is_empty() {
        return Err("roleRef must name a ClusterRole, or in a RoleBinding a Role".to_owned());
    }
    let subjects: Vec<Subject> = match &object["subjects"] {
        Value::Null => Vec::new(),
        subjects => Vec::deserialize(subjects).map_err(|error| error.to_string())?,
    };
    let mut binding = Binding {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        role_kind,
        role_name,
        users: Vec::new(),
        groups: Vec::new(),
    };
    for subject in subjects {
        match subject.kind.as_str() {
            "User" => binding.users.push(subject.name),
            "Group" => binding.groups.push(subject.name),
            "ServiceAccount" => {
                let home = if subject.namespace.is_empty() { namespace } else { &subject.namespace };
                binding.users.push(service_account_user(home, &subject.name));
            }
            kind => return Err(format!("a subject is of the unknown kind {kind:?}")),
        }
    }
    for list in [&mut binding.users, &mut binding.groups] {
        list.sort();
        list.dedup();
    }
    Ok(binding)
}
