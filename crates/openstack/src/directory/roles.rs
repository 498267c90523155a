//! Keystone's roles. Each is a ClusterRole: the four that every cloud has, and those that are labelled so. A role that implies another
//! selects it, as ClusterRoles that are aggregated do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::ResourceExt;
use yunfan_resources::names;

use super::Directory;
use crate::error::Fault;
use crate::ids;

/// Annotations of a ClusterRole that is a role of Keystone's: what it is called, what it is for, the id of the domain that it is in,
/// and whether it may change.
pub(crate) const NAME: &str = names::ROLE_NAME;
pub(crate) const DESCRIPTION: &str = "iam.yunfan.io/description";
pub(crate) const DOMAIN: &str = names::ROLE_DOMAIN;
pub(crate) const IMMUTABLE: &str = "iam.yunfan.io/immutable";
/// What clients say of it beside.
pub(crate) const EXTRA: &str = "iam.yunfan.io/extra";

/// A role.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Role {
    /// Where it stands among the roles of every cloud, the strongest first; `usize::MAX` for others.
    rank: usize,
    pub(crate) name: String,
    pub(crate) id: String,
    /// What an assignment on a project binds.
    pub(crate) cluster_role: String,
    /// What an assignment in the whole cloud binds; empty for a role that has none there.
    pub(crate) system_role: String,
    pub(crate) description: Option<String>,
    /// Id of the domain that it is in.
    pub(crate) domain: Option<String>,
    pub(crate) immutable: bool,
    /// Attributes of a client's own, each as JSON.
    pub(crate) extra: BTreeMap<String, String>,
}

impl Role {
    /// Whether every cloud has it.
    pub(crate) fn is_builtin(&self) -> bool {
        self.rank != usize::MAX
    }

    /// One that a client makes.
    pub(crate) fn own(
        id: String,
        name: String,
        description: Option<String>,
        domain: Option<String>,
        immutable: bool,
    ) -> Self {
        let cluster_role = format!("openstack:{id}");
        let system_role = on_system(&id, domain.as_deref());
        let extra = BTreeMap::new();
        Self { rank: usize::MAX, name, id, cluster_role, system_role, description, domain, immutable, extra }
    }

    fn builtin(rank: usize) -> Self {
        let (name, cluster_role) = names::ROLES[rank];
        Self {
            rank,
            name: name.to_owned(),
            id: ids::stable(&format!("role:{name}")),
            cluster_role: cluster_role.to_owned(),
            system_role: names::SYSTEM_ROLES[rank].1.to_owned(),
            description: None,
            domain: None,
            immutable: true,
            extra: BTreeMap::new(),
        }
    }

    fn of(role: &ClusterRole) -> Option<Self> {
        let id = role.labels().get(names::ROLE_ID_LABEL)?;
        let said = |key: &str| role.annotations().get(key).cloned();
        Some(Self {
            rank: usize::MAX,
            name: said(NAME).unwrap_or_else(|| role.name_any()),
            id: id.clone(),
            cluster_role: role.name_any(),
            system_role: on_system(id, said(DOMAIN).as_deref()),
            description: said(DESCRIPTION),
            domain: said(DOMAIN),
            immutable: said(IMMUTABLE).is_some_and(|text| text == "true"),
            extra: said(EXTRA).and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default(),
        })
    }
}

/// The ClusterRole that a role of one's own is on the system. What it implies is meant for projects: bound in the whole cloud, the one for
/// projects would be that in every namespace. Empty for a role of a domain, which is nothing outside of it.
fn on_system(id: &str, domain: Option<&str>) -> String {
    if domain.is_some() { String::new() } else { format!("openstack:system:{id}") }
}

/// The label on what an implied role is on the system, for the role with this id.
pub(crate) fn implied_system_label(prior: &str) -> String {
    format!("implied-on-system-by.iam.yunfan.io/{prior}")
}

/// The label on a ClusterRole that the role with this id implies.
pub(crate) fn implied_label(prior: &str) -> String {
    format!("implied-by.iam.yunfan.io/{prior}")
}

/// The roles that every cloud has, the strongest first.
pub(crate) fn builtin() -> impl Iterator<Item = Role> {
    // Each sign-in asks for them several times, and their ids take time to compute.
    static ALL: LazyLock<Vec<Role>> = LazyLock::new(|| (0..names::ROLES.len()).map(Role::builtin).collect());
    ALL.iter().cloned()
}

/// What a ClusterRole is found by that has to do with Keystone's roles.
fn words(role: &ClusterRole) -> Vec<String> {
    let own = role.labels().contains_key(names::ROLE_ID_LABEL);
    let known = own || names::ROLES.iter().any(|(_, name)| *name == role.name_any());
    if known { vec!["keystone".to_owned()] } else { Vec::new() }
}

impl Directory {
    async fn cluster_roles(&self) -> Result<Vec<Arc<ClusterRole>>, Fault> {
        Ok(self.all::<ClusterRole>().await?.index("keystone", words).get("keystone"))
    }

    /// Every role there is.
    pub(crate) async fn roles(&self) -> Result<Vec<Role>, Fault> {
        let own = self.cluster_roles().await?;
        Ok(builtin().chain(own.iter().filter_map(|role| Role::of(role))).collect())
    }

    /// The role with this id.
    pub(crate) async fn role(&self, id: &str) -> Result<Role, Fault> {
        let found = self.roles().await?.into_iter().find(|role| role.id == id);
        found.ok_or_else(|| Fault::not_found("Could not find role:", id))
    }

    /// Which role implies which, by ids. What follows of what follows is not among it.
    pub(crate) async fn inferences(&self) -> Result<Vec<(String, String)>, Fault> {
        let chain: Vec<Role> = builtin().collect();
        let mut all: Vec<(String, String)> =
            chain.windows(2).map(|two| (two[0].id.clone(), two[1].id.clone())).collect();
        for role in self.cluster_roles().await? {
            let builtin = chain.iter().find(|known| known.cluster_role == role.name_any());
            let Some(implied) = builtin.cloned().or_else(|| Role::of(&role)) else { continue };
            let priors = role.labels().iter().filter(|(_, value)| *value == "true");
            let priors = priors.filter_map(|(key, _)| key.strip_prefix("implied-by.iam.yunfan.io/"));
            all.extend(priors.map(|prior| (prior.to_owned(), implied.id.clone())));
        }
        Ok(all)
    }

    /// The roles with these ids, and all that they imply; the strongest first.
    pub(crate) async fn expanded(&self, ids: BTreeSet<String>) -> Result<Vec<Role>, Fault> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let ids = with_implied(ids, &self.inferences().await?);
        let mut roles = self.roles().await?;
        roles.retain(|role| ids.contains(&role.id));
        roles.sort();
        Ok(roles)
    }
}

/// These ids, and those that follow of them.
pub(crate) fn with_implied(ids: BTreeSet<String>, inferences: &[(String, String)]) -> BTreeSet<String> {
    let mut all = ids;
    loop {
        let more: Vec<String> = inferences
            .iter()
            .filter(|(prior, implied)| all.contains(prior) && !all.contains(implied))
            .map(|(_, implied)| implied.clone())
            .collect();
        if more.is_empty() {
            return all;
        }
        all.extend(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn implied_roles_imply_others_and_circles_end() {
        let inferences: Vec<(String, String)> = [("a", "b"), ("b", "c"), ("c", "a"), ("d", "e")]
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .into();
        let all = with_implied(["a".to_owned()].into(), &inferences);
        assert_eq!(all.into_iter().collect::<Vec<_>>(), ["a", "b", "c"]);
    }

    #[test]
    fn the_roles_of_every_cloud_have_an_order() {
        let names: Vec<String> = builtin().map(|role| role.name).collect();
        assert_eq!(names, ["admin", "manager", "member", "reader"]);
        let mut sorted: Vec<Role> = builtin().collect();
        sorted.reverse();
        sorted.sort();
        assert_eq!(sorted[0].name, "admin");
    }
}
