//! Who and what there is to sign in to: users, projects, domains and role assignments, read with the cloud's own client.
//!
//! Only sign-in, and what a caller may always know of themselves, goes through here; everything else is read as
//! the caller.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding, Subject};
use kube::Client;
use kube::api::Api;
use yunfan_resources::iam::{Domain, Project, User};
use yunfan_resources::{Identified, names};

use crate::error::Fault;
use crate::ids::{self, Kind};
use crate::places::Places;

/// Id of the first domain, in which everything is that names no other.
pub(crate) const DEFAULT_DOMAIN: &str = "default";
/// The ClusterRole whose bearer is Keystone's admin in every project.
const CLUSTER_ADMIN: &str = "cluster-admin";
/// How many projects' namespaces are remembered.
const REMEMBERED: usize = 10_000;

/// Reads users, projects and role assignments.
pub(crate) struct Directory {
    system: Client,
    places: Places,
    /// Project id -> home namespace. Both are immutable, so this is no state that could go stale.
    namespaces: Mutex<HashMap<String, String>>,
}

/// Something with an id and a name that people read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) id: String,
    pub(crate) name: String,
}

impl Named {
    /// `{"id", "name"}`
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::json!({"id": self.id, "name": self.name})
    }
}

/// How a request names a user, a project or a domain: by id, or by name within a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reference {
    Id(String),
    Name { name: String, domain: Named },
}

impl Directory {
    /// A directory that reads through `system`.
    pub(crate) fn new(system: Client) -> Self {
        Self { system, places: Places::default(), namespaces: Mutex::default() }
    }

    /// Where objects of all kinds are.
    pub(crate) fn places(&self) -> &Places {
        &self.places
    }

    /// Every domain. The default one is there even where no object stands for it.
    pub(crate) async fn domains(&self) -> Result<Vec<Named>, Fault> {
        let mut domains: Vec<Named> =
            ids::list(&Api::<Domain>::all(self.system.clone())).await?.iter().map(domain_named).collect();
        if !domains.iter().any(|domain| domain.id == DEFAULT_DOMAIN) {
            domains.push(Named { id: DEFAULT_DOMAIN.to_owned(), name: "Default".to_owned() });
        }
        Ok(domains)
    }

    /// The domain that an object's `spec.domain` (a `metadata.name`) means.
    pub(crate) async fn domain_of(&self, domain: Option<&str>) -> Result<Named, Fault> {
        let wanted = domain.unwrap_or(DEFAULT_DOMAIN);
        let all = ids::list(&Api::<Domain>::all(self.system.clone())).await?;
        let found = all.iter().find(|candidate| ids::name(*candidate) == wanted).map(domain_named);
        Ok(found.unwrap_or_else(|| Named {
            id: wanted.to_owned(),
            name: if wanted == DEFAULT_DOMAIN { "Default".to_owned() } else { wanted.to_owned() },
        }))
    }

    /// The user that a request names.
    pub(crate) async fn user(&self, wanted: &Reference) -> Result<Option<User>, Fault> {
        self.referred(wanted, |user: &User| user.spec.domain.as_deref()).await
    }

    /// The user with this `metadata.name`.
    pub(crate) async fn user_named(&self, name: &str) -> Result<Option<User>, Fault> {
        Ok(Api::<User>::all(self.system.clone()).get_opt(name).await?)
    }

    /// The project that a request names.
    pub(crate) async fn project(&self, wanted: &Reference) -> Result<Option<Project>, Fault> {
        self.referred(wanted, |project: &Project| project.spec.domain.as_deref()).await
    }

    /// The project with this `metadata.name`.
    pub(crate) async fn project_named(&self, name: &str) -> Result<Option<Project>, Fault> {
        Ok(Api::<Project>::all(self.system.clone()).get_opt(name).await?)
    }

    async fn projects(&self) -> Result<Vec<Project>, Fault> {
        ids::list(&Api::<Project>::all(self.system.clone())).await
    }

    async fn referred<K: Kind + Identified>(
        &self,
        wanted: &Reference,
        domain: fn(&K) -> Option<&str>,
    ) -> Result<Option<K>, Fault> {
        let api = Api::<K>::all(self.system.clone());
        let (name, within) = match wanted {
            Reference::Id(id) => return self.places.find(&api, id).await,
            Reference::Name { name, domain } => (name, domain),
        };
        for object in ids::list(&api).await? {
            if object.display_name() == *name && self.domain_of(domain(&object)).await?.id == within.id {
                return Ok(Some(object));
            }
        }
        Ok(None)
    }

    /// The home namespace of the project with this id and `metadata.name`, if it has one already.
    pub(crate) async fn namespace(&self, id: &str, name: &str) -> Result<Option<String>, Fault> {
        let known = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        if known.is_some() {
            return Ok(known);
        }
        let project = self.project_named(name).await?.filter(|project| project.id() == id);
        let namespace = project.and_then(|project| project.status).and_then(|status| status.namespace);
        if let Some(namespace) = &namespace {
            let mut known = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= REMEMBERED {
                known.clear();
            }
            known.insert(id.to_owned(), namespace.clone());
        }
        Ok(namespace)
    }

    /// The stored password hash of a user.
    pub(crate) async fn password_hash(&self, user: &User) -> Result<Option<String>, Fault> {
        let secrets = Api::<Secret>::namespaced(self.system.clone(), names::SYSTEM_NAMESPACE);
        let secret = secrets.get_opt(&names::password_secret(ids::name(user))).await?;
        let secret = secret.filter(|secret| secret.type_.as_deref() == Some(names::PASSWORD_SECRET_TYPE));
        let hash = secret.and_then(|secret| secret.data).and_then(|mut data| data.remove("hash"));
        Ok(hash.and_then(|hash| String::from_utf8(hash.0).ok()))
    }

    /// The Keystone roles of a user in a namespace, with those that they imply.
    pub(crate) async fn roles(&self, user: &str, namespace: &str) -> Result<Vec<&'static str>, Fault> {
        if self.is_cluster_admin(user).await? {
            return Ok(with_implied(["admin"]));
        }
        let bindings = Api::<RoleBinding>::namespaced(self.system.clone(), namespace);
        let bindings = ids::list(&bindings).await?;
        Ok(with_implied(
            bindings.iter().filter(|binding| is_about(binding.subjects.as_ref(), user)).filter_map(role_of),
        ))
    }

    /// Whether the user is bound to `cluster-admin` in the whole cloud.
    pub(crate) async fn is_cluster_admin(&self, user: &str) -> Result<bool, Fault> {
        let bindings = ids::list(&Api::<ClusterRoleBinding>::all(self.system.clone())).await?;
        Ok(bindings.iter().any(|binding| {
            binding.role_ref.name == CLUSTER_ADMIN && is_about(binding.subjects.as_ref(), user)
        }))
    }

    /// The projects that a user has a role in.
    pub(crate) async fn projects_of(&self, user: &str) -> Result<Vec<Project>, Fault> {
        let mut projects = self.projects().await?;
        if !self.is_cluster_admin(user).await? {
            let bindings = ids::list(&Api::<RoleBinding>::all(self.system.clone())).await?;
            let namespaces: Vec<&str> = bindings
                .iter()
                .filter(|binding| is_about(binding.subjects.as_ref(), user) && role_of(binding).is_some())
                .map(ids::namespace)
                .collect();
            projects.retain(|project| home(project).is_some_and(|home| namespaces.contains(&home)));
        }
        Ok(projects)
    }
}

/// A domain's id and name.
pub(crate) fn domain_named(domain: &Domain) -> Named {
    let name = domain.display_name();
    let id = match &domain.spec.id {
        None if ids::name(domain) == DEFAULT_DOMAIN => DEFAULT_DOMAIN.to_owned(),
        _ => domain.id(),
    };
    let name = if id == DEFAULT_DOMAIN && name == DEFAULT_DOMAIN { "Default".to_owned() } else { name };
    Named { id, name }
}

/// A project's home namespace, once its loop has made it.
pub(crate) fn home(project: &Project) -> Option<&str> {
    project.status.as_ref().and_then(|status| status.namespace.as_deref())
}

/// The Keystone role that a binding stands for, if any. It is what the binding really gives, not what its label says:
/// who may write bindings must not be able to write `admin` on them.
pub(crate) fn role_of(binding: &RoleBinding) -> Option<&'static str> {
    let reference = &binding.role_ref;
    if reference.kind != "ClusterRole" {
        return None;
    }
    if reference.name == CLUSTER_ADMIN {
        return Some("admin");
    }
    names::ROLES.iter().find(|(_, role)| *role == reference.name).map(|(role, _)| *role)
}

/// Whether one of the subjects is the user of this name.
pub(crate) fn is_about(subjects: Option<&Vec<Subject>>, user: &str) -> bool {
    subjects
        .is_some_and(|subjects| subjects.iter().any(|subject| subject.kind == "User" && subject.name == user))
}

/// Admin implies member, and member implies reader, as in a new Keystone.
fn with_implied(roles: impl IntoIterator<Item = &'static str>) -> Vec<&'static str> {
    let strongest =
        roles.into_iter().filter_map(|role| names::ROLES.iter().position(|(name, _)| *name == role)).min();
    strongest.map_or_else(Vec::new, |at| names::ROLES[at..].iter().map(|(name, _)| *name).collect())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::rbac::v1::RoleRef;

    use super::*;

    fn binding(kind: &str, role: &str) -> RoleBinding {
        let role_ref = RoleRef { kind: kind.into(), name: role.into(), ..RoleRef::default() };
        let mut binding = RoleBinding { role_ref, ..RoleBinding::default() };
        binding.metadata.labels = Some([(names::ROLE_LABEL.to_owned(), "admin".to_owned())].into());
        binding
    }

    #[test]
    fn bindings_are_the_roles_that_they_give_whatever_their_label_says() {
        assert_eq!(role_of(&binding("ClusterRole", "edit")), Some("member"));
        assert_eq!(role_of(&binding("ClusterRole", "cluster-admin")), Some("admin"));
        assert_eq!(role_of(&binding("ClusterRole", "own-role")), None);
        assert_eq!(role_of(&binding("Role", "admin")), None);
    }

    #[test]
    fn stronger_roles_imply_weaker_ones() {
        assert_eq!(with_implied(["reader", "member"]), ["member", "reader"]);
        assert_eq!(with_implied(["admin"]), ["admin", "member", "reader"]);
        assert!(with_implied([]).is_empty());
    }
}
