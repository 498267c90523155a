//! Who has which role where.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding, RoleRef, Subject};
use kube::ResourceExt;
use yunfan_resources::iam::{Project, RoleGrant, User};
use yunfan_resources::names;

use super::{DEFAULT_DOMAIN, Directory, Role, home};
use crate::error::Fault;
use crate::ids;

/// The ClusterRole whose bearer is Keystone's admin everywhere.
const CLUSTER_ADMIN: &str = "cluster-admin";

/// A user and the groups that they are in, by `metadata.name`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Principal {
    pub(crate) user: String,
    pub(crate) groups: Vec<String>,
}

/// What a role is on.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Project(Arc<Project>),
    /// By `metadata.name`.
    Domain(String),
    System,
}

fn subject_words(subjects: Option<&Vec<Subject>>) -> Vec<String> {
    subjects.into_iter().flatten().map(|subject| format!("{}:{}", subject.kind, subject.name)).collect()
}

fn of_binding(binding: &RoleBinding) -> Vec<String> {
    subject_words(binding.subjects.as_ref())
}

fn of_wide_binding(binding: &ClusterRoleBinding) -> Vec<String> {
    subject_words(binding.subjects.as_ref())
}

fn of_grant(grant: &RoleGrant) -> Vec<String> {
    match (&grant.spec.user, &grant.spec.group) {
        // One that names both is the user's, as for the loop that binds it.
        (Some(user), _) => vec![format!("User:{user}")],
        (None, Some(group)) => vec![format!("Group:{group}")],
        (None, None) => Vec::new(),
    }
}

impl Principal {
    fn words(&self) -> impl Iterator<Item = String> {
        let groups = self.groups.iter().map(|group| format!("Group:{group}"));
        std::iter::once(format!("User:{}", self.user)).chain(groups)
    }
}

/// The role that a binding in a project's namespace gives. It is what the binding really gives, not what its label says: who may write
/// bindings must not be able to write `admin` on them.
pub(crate) fn role_of<'a>(reference: &RoleRef, roles: &'a [Role]) -> Option<&'a Role> {
    if reference.kind != "ClusterRole" {
        return None;
    }
    // Kubernetes' own admins of a namespace manage it, and the cloud no more than that.
    let name = match reference.name.as_str() {
        CLUSTER_ADMIN | "admin" => "system:yunfan:manager",
        name => name,
    };
    roles.iter().find(|role| role.cluster_role == name)
}

/// The role that a binding in the whole cloud gives.
pub(crate) fn system_role_of<'a>(reference: &RoleRef, roles: &'a [Role]) -> Option<&'a Role> {
    roles.iter().find(|role| !role.system_role.is_empty() && role.system_role == reference.name)
}

impl Directory {
    /// A user and their groups.
    pub(crate) async fn principal(&self, user: &User) -> Result<Principal, Fault> {
        let name = ids::name(user);
        let groups = self.groups_of(name).await?.iter().map(|group| group.name_any()).collect();
        Ok(Principal { user: name.to_owned(), groups })
    }

    /// The roles that somebody has in a place, with those that they inherit and that are implied; the strongest first.
    pub(crate) async fn roles_in(&self, who: &Principal, place: &Place) -> Result<Vec<Role>, Fault> {
        let roles = self.roles().await?;
        let mut found: BTreeSet<String> = BTreeSet::new();
        let wide = self.all::<ClusterRoleBinding>().await?.index("subject", of_wide_binding);
        let system: Vec<&Role> = who
            .words()
            .flat_map(|word| wide.get(&word))
            .filter_map(|binding| system_role_of(&binding.role_ref, &roles))
            .collect();
        match place {
            Place::System => found.extend(system.iter().map(|role| role.id.clone())),
            // Who is admin of the whole cloud is it of every part.
            _ => found.extend(system.iter().filter(|role| role.name == "admin").map(|role| role.id.clone())),
        }
        let grants = self.all::<RoleGrant>().await?.index("subject", of_grant);
        let mut grant = |of: &dyn Fn(&RoleGrant) -> bool| {
            let all = who.words().flat_map(|word| grants.get(&word));
            for grant in all.filter(|grant| of(grant)) {
                found.extend(
                    roles
                        .iter()
                        .find(|role| role.cluster_role == grant.spec.cluster_role)
                        .map(|role| role.id.clone()),
                );
            }
        };
        match place {
            Place::System => {}
            Place::Domain(domain) => {
                grant(&|grant| !grant.spec.inherited && grant.spec.domain.as_deref() == Some(domain));
            }
            Place::Project(project) => {
                let above: Vec<String> =
                    self.above(project).await?.iter().map(|one| one.name_any()).collect();
                let domain = project.spec.domain.as_deref().unwrap_or(DEFAULT_DOMAIN);
                grant(&|grant| {
                    grant.spec.inherited
                        && (grant.spec.domain.as_deref() == Some(domain)
                            || grant.spec.project.as_ref().is_some_and(|on| above.contains(on)))
                });
                let bindings = self.all::<RoleBinding>().await?.index("subject", of_binding);
                let here = who.words().flat_map(|word| bindings.get(&word)).filter(|binding| {
                    binding.namespace().as_deref() == home(project)
                        && !binding.labels().contains_key(names::INHERITED_LABEL)
                });
                found.extend(
                    here.filter_map(|binding| role_of(&binding.role_ref, &roles)).map(|role| role.id.clone()),
                );
            }
        }
        self.expanded(found).await
    }

    /// Whether the user is admin of the whole cloud.
    pub(crate) async fn is_cluster_admin(&self, user: &str) -> Result<bool, Fault> {
        let Some(user) = self.user_named(user).await? else { return Ok(false) };
        let who = self.principal(&user).await?;
        // Keystone's admin of one project is it of the cloud.
        let bindings = self.all::<RoleBinding>().await?.index("subject", of_binding);
        let mut bound = who.words().flat_map(|word| bindings.get(&word));
        if bound.any(|binding| {
            binding.role_ref.kind == "ClusterRole" && binding.role_ref.name == names::CLOUD_ADMIN_ROLE
        }) {
            return Ok(true);
        }
        let roles = self.roles_in(&who, &Place::System).await?;
        Ok(roles.iter().any(|role| role.name == "admin"))
    }

    /// The projects that a user has a role in, by the user's `metadata.name`.
    pub(crate) async fn projects_of(&self, user: &str) -> Result<Vec<Project>, Fault> {
        let Some(user) = self.user_named(user).await? else { return Ok(Vec::new()) };
        let found = self.projects_for(&self.principal(&user).await?).await?;
        Ok(found.iter().map(|project| (**project).clone()).collect())
    }

    /// The projects that somebody has a role in.
    pub(crate) async fn projects_for(&self, who: &Principal) -> Result<Vec<Arc<Project>>, Fault> {
        let mut found = Vec::new();
        for project in self.all::<Project>().await?.list() {
            if !self.roles_in(who, &Place::Project(project.clone())).await?.is_empty() {
                found.push(project);
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::roles::builtin;

    #[test]
    fn bindings_are_the_roles_that_they_give_whatever_their_label_says() {
        let roles: Vec<Role> = builtin().collect();
        let role = |kind: &str, name: &str| {
            let reference = RoleRef { kind: kind.into(), name: name.into(), ..RoleRef::default() };
            role_of(&reference, &roles).map(|role| role.name.as_str())
        };
        assert_eq!(role("ClusterRole", "edit"), Some("member"));
        assert_eq!(role("ClusterRole", yunfan_identity::rbac::CLOUD_ADMIN_ROLE), Some("admin"));
        assert_eq!(role("ClusterRole", "cluster-admin"), Some("manager"), "of that namespace");
        assert_eq!(role("ClusterRole", "admin"), Some("manager"));
        assert_eq!(role("ClusterRole", "own-role"), None);
        assert_eq!(role("Role", "admin"), None);
        let wide = |name: &str| {
            let reference = RoleRef { kind: "ClusterRole".into(), name: name.into(), ..RoleRef::default() };
            system_role_of(&reference, &roles).map(|role| role.name.as_str())
        };
        assert_eq!((wide("cluster-admin"), wide("admin")), (Some("admin"), None));
    }
}
