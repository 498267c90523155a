//! Role-based access control: Kubernetes' `rbac.authorization.k8s.io/v1`, answered from memory.
//!
//! [`RbacAuthorizer`] holds an index of the four kinds. Whoever reads the objects (the API's watch cache)
//! feeds it with [`RbacAuthorizer::apply`] and [`RbacAuthorizer::remove`]; a decision then costs a
//! few look-ups by the user's name and groups, and never a pass over all bindings.

mod index;
pub mod reconcile;
mod rule;

pub use rule::{NonResourceRule, ResourceRule};

use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use serde_json::Value;

use crate::authz::{Attributes, Authorizer, Decision};
use crate::user::{AUTHENTICATED_GROUP, MASTERS_GROUP, UserInfo};
use index::{Grant, Index};
use rule::Rule;

/// Why somebody may not give what they wanted to give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Escalation {
    /// They do not have it themselves.
    Forbidden(String),
    /// The role with this name is not there, and nobody knows what it will allow.
    NoRole(String),
}

/// The ClusterRole of Keystone's admins. A RoleBinding to it counts in the whole cluster: in OpenStack, who is admin of one project is it of the
/// cloud. It allows all, paths too, which nobody can bind in a namespace who has not all of that in the cluster.
pub const CLOUD_ADMIN_ROLE: &str = "system:yunfan:cloud-admin";

/// The API group of the four kinds.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// Most things that the rules of one role may grant, counted one by one, for one who has to have them all to give them.
const MAX_ATOMS: usize = 100_000;
/// Most comparisons for that: of each of these things with each word of the rules that the one has.
const MAX_COMPARISONS: usize = 50_000_000;

/// An object that is none of the four kinds, or whose shape is not what validation lets through.
#[derive(Debug, thiserror::Error)]
#[error("{kind} {name:?} cannot be used for authorization: {why}")]
pub struct RbacError {
    /// Its kind.
    pub kind: String,
    /// Its namespace and name.
    pub name: String,
    /// What is wrong with it.
    pub why: String,
}

/// What a user may do, for a SelfSubjectRulesReview.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Rules on resources.
    pub resources: Vec<ResourceRule>,
    /// Rules on paths.
    pub non_resources: Vec<NonResourceRule>,
    /// Bindings to roles that do not exist; empty when the answer is complete.
    pub missing: Vec<String>,
}

/// Rules that belong to no role.
#[derive(Clone, Debug)]
pub struct RuleSet(Vec<Rule>);

impl RuleSet {
    /// Those under `rules` of a role (JSON).
    ///
    /// # Errors
    /// What is wrong with their shape.
    pub fn of(role: &Value) -> Result<Self, String> {
        rule::parse_rules(role).map(Self)
    }

    /// Whether one of them allows the request, as that of a ClusterRole for the whole cluster would.
    pub fn allow(&self, request: &Attributes<'_>) -> bool {
        self.0.iter().any(|rule| rule.allows(request, true))
    }
}

/// Decides by Roles, ClusterRoles and their bindings.
#[derive(Default)]
pub struct RbacAuthorizer {
    index: RwLock<Index>,
}

impl RbacAuthorizer {
    /// An authorizer without roles: it allows nothing but to [`MASTERS_GROUP`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a Role, ClusterRole, RoleBinding or ClusterRoleBinding (JSON, any version) in place of the one with
    /// its name. Objects of other kinds, told by `kind`, are an error.
    ///
    /// # Errors
    /// [`RbacError`]; the object of that name that was there before is then gone, so that nothing is granted by
    /// what cannot be read.
    pub fn apply(&self, object: &Value) -> Result<(), RbacError> {
        let kind = object["kind"].as_str().unwrap_or_default();
        let (namespace, name) = (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        index.apply(kind, namespace, name, object).map_err(|why| {
            index.remove(kind, namespace, name);
            let name = if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") };
            RbacError { kind: kind.to_owned(), name, why }
        })
    }

    /// Forgets an object; `namespace` is empty for the cluster-wide kinds. What is not known is no error.
    pub fn remove(&self, kind: &str, namespace: &str, name: &str) {
        self.index.write().unwrap_or_else(PoisonError::into_inner).remove(kind, namespace, name);
    }

    /// All that `user` may do in `namespace` (and, with an empty one, at the cluster scope).
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> Rules {
        let mut rules = Rules::default();
        if user.in_group(MASTERS_GROUP) {
            rule::everything().collect(&mut rules.resources, &mut rules.non_resources);
        }
        let index = self.read();
        index.visit(user, namespace, |grant| {
            match index.rules_of(grant.binding) {
                Some(role) => {
                    // A path is never granted by a binding in a namespace.
                    let mut ignored = Vec::new();
                    let wide = grant.binding.is_cluster_wide();
                    let paths = if wide { &mut rules.non_resources } else { &mut ignored };
                    for rule in role.iter() {
                        rule.collect(&mut rules.resources, paths);
                    }
                }
                None => rules.missing.push(grant.binding.role_missing()),
            }
            None::<()>
        });
        rules
    }

    /// Whether `user` may write `object`, one of the four kinds: nobody may give what they do not have. A role's
    /// rules must be covered by the writer's own, unless they may `escalate` that role; for a binding the same holds
    /// of its role, unless they may `bind` it. The API asks this on create and update.
    ///
    /// # Errors
    /// The sentence that says what is lacking, for a 403.
    pub fn check_escalation(&self, user: &UserInfo, object: &Value) -> Result<(), Escalation> {
        if user.in_group(MASTERS_GROUP) {
            return Ok(());
        }
        let kind = text(&object["kind"]);
        let (namespace, name) = (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
        // Wherever it stands, it counts everywhere: what the writer has in that namespace alone is not enough.
        let wide = kind == "RoleBinding" && object["roleRef"]["name"] == CLOUD_ADMIN_ROLE;
        let namespace = if wide { "" } else { namespace };
        let (verb, resource, name, wanted) = match kind {
            "Role" | "ClusterRole" => {
                let wanted = rule::parse_rules(object)
                    .map_err(|why| Escalation::Forbidden(format!("rules: {why}")))?;
                let resource = if kind == "Role" { "roles" } else { "clusterroles" };
                ("escalate", resource, name, Some(wanted))
            }
            "RoleBinding" | "ClusterRoleBinding" => {
                let role = &object["roleRef"];
                let (resource, name) = (text(&role["kind"]), text(&role["name"]));
                let found = self.read().rules_of_role(resource, namespace, name);
                let wanted = found.map(|rules| rules.to_vec());
                ("bind", if resource == "Role" { "roles" } else { "clusterroles" }, name, wanted)
            }
            _ => return Ok(()),
        };
        let request = Attributes { namespace, name, ..Attributes::resource(user, verb, GROUP, resource) };
        if self.authorize(&request).is_allowed() {
            return Ok(());
        }
        if kind == "ClusterRole" && !object["aggregationRule"].is_null() {
            // Which rules it will have is decided by labels, of roles that do not exist yet.
            return Err(Escalation::Forbidden(format!(
                "{} (needed for a role with an aggregationRule)",
                request.refusal()
            )));
        }
        // A role that is not there yet could become anything.
        let Some(wanted) = wanted else { return Err(Escalation::NoRole(name.to_owned())) };
        let count = wanted.iter().fold(0_usize, |sum, rule| sum.saturating_add(rule.size()));
        if count > MAX_ATOMS {
            return Err(Escalation::Forbidden(format!(
                "the rules grant {count} things one by one, more than {MAX_ATOMS} cannot be compared"
            )));
        }
        let own = self.rules_of_user(user, namespace);
        let words = own.iter().fold(0_usize, |sum, rule| sum.saturating_add(rule.words()));
        if count.saturating_mul(words) > MAX_COMPARISONS {
            return Err(Escalation::Forbidden(format!(
                "the rules grant {count} things one by one, too many to compare with the {words} words of the rules that you have"
            )));
        }
        let atoms = wanted.iter().flat_map(Rule::atoms);
        let lacking: Vec<rule::Atom<'_>> =
            atoms.filter(|atom| !own.iter().any(|rule| rule.covers(atom))).collect();
        if lacking.is_empty() {
            return Ok(());
        }
        let groups: Vec<String> = user.groups.iter().map(|group| format!("{group:?}")).collect();
        Err(Escalation::Forbidden(format!(
            "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
            user.name,
            groups.join(" "),
            rule::listed(&lacking).join("\n")
        )))
    }

    /// Whether the request is beyond what its user's token is limited to ([`UserInfo::limit`]): it has the rights of some roles in one
    /// namespace, as long as its user has them as well, and those that everybody has.
    pub fn is_beyond_limit(&self, request: &Attributes<'_>) -> bool {
        let Some((namespace, roles)) = request.user.limit() else { return false };
        let index = self.read();
        let within = !namespace.is_empty() && request.namespace == namespace;
        let by_role = |role: &String| {
            let rules = index.rules_of_role("ClusterRole", "", role);
            rules.is_some_and(|rules| rules.iter().any(|rule| rule.allows(request, false)))
        };
        if within && roles.iter().any(by_role) {
            return false;
        }
        let everybody = UserInfo { groups: vec![AUTHENTICATED_GROUP.to_owned()], ..UserInfo::default() };
        let allowed = index.visit(&everybody, request.namespace, |grant: Grant<'_>| {
            let wide = grant.binding.is_cluster_wide();
            index.rules_of(grant.binding)?.iter().any(|rule| rule.allows(request, wide)).then_some(())
        });
        allowed.is_none()
    }

    /// A copy of what a user is granted in a namespace, so that nobody waits while it is looked through.
    fn rules_of_user(&self, user: &UserInfo, namespace: &str) -> Vec<Rule> {
        let (index, mut own) = (self.read(), Vec::new());
        if let Some((within, roles)) = user.limit() {
            let roles = roles.iter().filter(|_| within == namespace && !namespace.is_empty());
            let rules = roles.filter_map(|role| index.rules_of_role("ClusterRole", "", role));
            return rules.flat_map(|rules| rules.to_vec()).collect();
        }
        index.visit(user, namespace, |grant| {
            own.extend(index.rules_of(grant.binding).into_iter().flat_map(|rules| rules.to_vec()));
            None::<()>
        });
        own
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Authorizer for RbacAuthorizer {
    fn authorize(&self, request: &Attributes<'_>) -> Decision {
        if request.user.in_group(MASTERS_GROUP) {
            // As kube-apiserver, which lets them pass before it asks any authorizer.
            return Decision::Allow { reason: String::new() };
        }
        if self.is_beyond_limit(request) {
            let reason = "the token is limited to some of its user's roles in one project".to_owned();
            return Decision::Deny { reason };
        }
        let index = self.read();
        let mut missing: Option<String> = None;
        let allowed = index.visit(request.user, request.namespace, |grant: Grant<'_>| {
            match index.rules_of(grant.binding) {
                Some(rules) => rules
                    .iter()
                    .any(|rule| rule.allows(request, grant.binding.is_cluster_wide()))
                    .then(|| grant.reason()),
                None => {
                    missing.get_or_insert_with(|| grant.binding.role_missing());
                    None
                }
            }
        });
        match (allowed, missing) {
            (Some(reason), _) => Decision::Allow { reason },
            // That nothing allows it is what the refusal says anyway.
            (None, missing) => {
                let reason = missing.map(|missing| format!("RBAC: {missing}"));
                Decision::NoOpinion { reason: reason.unwrap_or_default() }
            }
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests;
