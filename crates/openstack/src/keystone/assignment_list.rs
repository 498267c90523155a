//! `GET /role_assignments`: all of who has which role where, as it was given or with all that follows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding, Subject};
use kube::ResourceExt;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::iam::{Domain, Group, Project, RoleGrant, User};
use yunfan_resources::names;

use super::assignments::domain_or_default;
use super::collection;
use crate::auth::Session;
use crate::body::Params;
use crate::directory::{Named, Role, domain_named, home, role_of, system_role_of, with_implied};
use crate::error::{Answer, Fault};
use crate::ids;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum On {
    /// By `metadata.name`.
    Project(String),
    Domain(String),
    System,
}

/// One who has a role.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Given {
    role: Role,
    /// `metadata.name` of a user or a group.
    user: Option<String>,
    group: Option<String>,
    on: On,
    inherited: bool,
    /// The group that the user has it by, and the role that implies it.
    by_group: Option<String>,
    prior: Option<String>,
}

/// All that there is, by `metadata.name`.
struct World {
    roles: Vec<Role>,
    inferences: Vec<(String, String)>,
    users: BTreeMap<String, User>,
    groups: BTreeMap<String, Group>,
    projects: BTreeMap<String, Arc<Project>>,
    domains: BTreeMap<String, Named>,
    given: Vec<Given>,
}

impl World {
    /// As the caller sees it: who may not read bindings of all projects is refused.
    async fn read(session: &Session) -> Result<Self, Fault> {
        let directory = &session.door.directory;
        let users = ids::list(&session.global::<User>()).await?;
        let groups = ids::list(&session.global::<Group>()).await?;
        let projects = ids::list(&session.global::<Project>()).await?;
        let domains = ids::list(&session.global::<Domain>()).await?;
        let mut world = Self {
            roles: directory.roles().await?,
            inferences: directory.inferences().await?,
            users: users.into_iter().map(|user| (user.name_any(), user)).collect(),
            groups: groups.into_iter().map(|group| (group.name_any(), group)).collect(),
            projects: projects.into_iter().map(|one| (one.name_any(), Arc::new(one))).collect(),
            domains: domains.iter().map(|domain| (domain.name_any(), domain_named(domain))).collect(),
            given: Vec::new(),
        };
        world.read_given(session).await?;
        Ok(world)
    }

    async fn read_given(&mut self, session: &Session) -> Result<(), Fault> {
        let homes: BTreeMap<String, String> = self
            .projects
            .iter()
            .filter_map(|(name, project)| Some((home(project)?.to_owned(), name.clone())))
            .collect();
        for binding in ids::list(&session.everywhere::<RoleBinding>()).await? {
            let Some(project) = homes.get(ids::namespace(&binding)) else { continue };
            if binding.labels().contains_key(names::INHERITED_LABEL) {
                continue;
            }
            if let Some(role) = role_of(&binding.role_ref, &self.roles).cloned() {
                self.add(&role, binding.subjects.as_ref(), &On::Project(project.clone()));
            }
        }
        for binding in ids::list(&session.global::<ClusterRoleBinding>()).await? {
            if let Some(role) = system_role_of(&binding.role_ref, &self.roles).cloned() {
                self.add(&role, binding.subjects.as_ref(), &On::System);
            }
        }
        for grant in ids::list(&session.global::<RoleGrant>()).await? {
            let spec = grant.spec;
            let role = self.roles.iter().find(|role| role.cluster_role == spec.cluster_role).cloned();
            let on = spec.domain.map(On::Domain).or_else(|| spec.project.map(On::Project));
            if let (Some(role), Some(on)) = (role, on) {
                let (user, group, inherited) = (spec.user, spec.group, spec.inherited);
                self.given.push(Given { role, user, group, on, inherited, by_group: None, prior: None });
            }
        }
        let (users, groups) = (&self.users, &self.groups);
        self.given.retain(|given| match (&given.user, &given.group) {
            (Some(user), _) => users.contains_key(user),
            (None, Some(group)) => groups.contains_key(group),
            (None, None) => false,
        });
        self.given.sort();
        self.given.dedup();
        Ok(())
    }

    fn add(&mut self, role: &Role, subjects: Option<&Vec<Subject>>, on: &On) {
        for subject in subjects.into_iter().flatten() {
            let named = |kind: &str| Some(subject.name.clone()).filter(|_| subject.kind == kind);
            let (user, group) = (named("User"), named("Group"));
            let (role, on) = (role.clone(), on.clone());
            self.given.push(Given { role, user, group, on, inherited: false, by_group: None, prior: None });
        }
    }

    /// Whether one project is below another.
    fn is_below(&self, project: &Project, above: &str) -> bool {
        let mut next = project.spec.parent.as_deref();
        for _ in 0..self.projects.len() {
            match next {
                Some(name) if name == above => return true,
                Some(name) => next = self.projects.get(name).and_then(|one| one.spec.parent.as_deref()),
                None => return false,
            }
        }
        false
    }

    /// What follows: for groups their members, for what is inherited the projects below, for roles those that they imply.
    fn effective(&self) -> Vec<Given> {
        let mut all = BTreeSet::new();
        for given in &self.given {
            let users: Vec<String> = match (&given.user, &given.group) {
                (Some(user), _) => vec![user.clone()],
                (None, Some(group)) => {
                    self.groups.get(group).map(|group| group.spec.members.clone()).unwrap_or_default()
                }
                (None, None) => Vec::new(),
            };
            let places: Vec<On> = match (&given.on, given.inherited) {
                (on, false) => vec![on.clone()],
                (On::Domain(domain), true) => {
                    let own = |one: &&Arc<Project>| domain_or_default(one.spec.domain.as_deref()) == domain;
                    self.projects.values().filter(own).map(|one| On::Project(one.name_any())).collect()
                }
                (On::Project(above), true) => {
                    let below = self.projects.values().filter(|one| self.is_below(one, above));
                    below.map(|one| On::Project(one.name_any())).collect()
                }
                (On::System, true) => Vec::new(),
            };
            let implied = with_implied([given.role.id.clone()].into(), &self.inferences);
            // A role of one domain is worth what it implies.
            let roles = self.roles.iter().filter(|role| implied.contains(&role.id) && role.domain.is_none());
            for role in roles {
                for user in users.iter().filter(|user| self.users.contains_key(*user)) {
                    for on in &places {
                        all.insert(Given {
                            role: role.clone(),
                            user: Some(user.clone()),
                            group: None,
                            on: on.clone(),
                            inherited: given.inherited,
                            by_group: given.group.clone(),
                            prior: (role.id != given.role.id).then(|| given.role.id.clone()),
                        });
                    }
                }
            }
        }
        all.into_iter().collect()
    }
}

/// The filters of a list.
struct Wanted<'a> {
    params: &'a Params,
    subtree: bool,
}

impl Wanted<'_> {
    fn check(&self, effective: bool) -> Result<(), Fault> {
        let given = |key: &str| self.params.get(key).is_some();
        let both = |one: &str, other: &str| {
            Fault::bad(format!("Specify {one} or {other} to filter role assignments, not both."))
        };
        if given("user.id") && given("group.id") {
            return Err(both("user.id", "group.id"));
        }
        let places = ["scope.project.id", "scope.domain.id", "scope.system"];
        let named: Vec<&str> = places.into_iter().filter(|key| given(key)).collect();
        if let [one, other, ..] = named[..] {
            return Err(both(one, other));
        }
        if effective && given("group.id") {
            return Err(Fault::bad(
                "Combining effective and group filter will always result in an empty list.",
            ));
        }
        if effective && given("scope.domain.id") && given("scope.OS-INHERIT:inherited_to") {
            return Err(Fault::bad(
                "Combining effective, domain and inherited filters will always result in an empty list.",
            ));
        }
        if self.subtree && !given("scope.project.id") {
            return Err(Fault::bad("scope.project.id must be specified if include_subtree is specified."));
        }
        Ok(())
    }

    fn takes(&self, world: &World, given: &Given) -> bool {
        let is = |key: &str, id: Option<String>| {
            self.params.get(key).is_none_or(|wanted| id.as_deref() == Some(wanted))
        };
        let user = given.user.as_ref().and_then(|name| world.users.get(name)).map(Identified::id);
        let group = given.group.as_ref().and_then(|name| world.groups.get(name)).map(Identified::id);
        let project = match &given.on {
            On::Project(name) => world.projects.get(name),
            _ => None,
        };
        let domain = match &given.on {
            On::Domain(name) => world.domains.get(name).map(|domain| domain.id.clone()),
            _ => None,
        };
        let in_project = self.params.get("scope.project.id").is_none_or(|wanted| {
            let Some(project) = project else { return false };
            let above = world.projects.values().find(|one| one.id() == wanted);
            // A domain is above its projects.
            let of_domain = || {
                let name = domain_or_default(project.spec.domain.as_deref());
                world.domains.get(name).map_or(name, |domain| domain.id.as_str()) == wanted
            };
            project.id() == wanted
                || self.subtree && of_domain()
                || self.subtree && above.is_some_and(|above| world.is_below(project, ids::name(&**above)))
        });
        let inherited = self.params.get("scope.OS-INHERIT:inherited_to");
        is("user.id", user)
            && is("group.id", group)
            && is("role.id", Some(given.role.id.clone()))
            && is("scope.domain.id", domain)
            && in_project
            && (self.params.get("scope.system").is_none() || given.on == On::System)
            && inherited.is_none_or(|to| to == "projects" && given.inherited)
    }
}

async fn view(
    session: &Session,
    world: &World,
    given: &Given,
    names: bool,
    effective: bool,
) -> Result<Value, Fault> {
    let directory = &session.door.directory;
    let mut role = json!({"id": given.role.id});
    if names {
        role["name"] = json!(given.role.name);
        if let Some(id) = &given.role.domain {
            let named = world.domains.values().find(|domain| domain.id == *id);
            role["domain"] = json!({"id": id, "name": named.map(|domain| domain.name.clone())});
        }
    }
    let (kind, id, name, domain) = match (&given.user, &given.group) {
        (Some(user), _) => {
            let user = &world.users[user];
            ("user", user.id(), user.display_name(), user.spec.domain.as_deref())
        }
        (None, group) => {
            let group = &world.groups[group.as_deref().unwrap_or_default()];
            ("group", group.id(), group.display_name(), group.spec.domain.as_deref())
        }
    };
    let mut subject = json!({"id": id});
    if names {
        subject["name"] = json!(name);
        subject["domain"] = directory.domain_of(domain).await?.json();
    }
    let (mut scope, place) = match &given.on {
        On::Project(project) => {
            let project = &world.projects[project];
            let mut shown = json!({"id": project.id()});
            if names {
                shown["name"] = json!(project.display_name());
                shown["domain"] = directory.domain_of(project.spec.domain.as_deref()).await?.json();
            }
            (json!({"project": shown}), format!("projects/{}", project.id()))
        }
        On::Domain(domain) => {
            let named = directory.domain_of(Some(domain)).await?;
            let shown = if names { named.json() } else { json!({"id": named.id}) };
            (json!({"domain": shown}), format!("domains/{}", named.id))
        }
        On::System => (json!({"system": {"all": true}}), "system".to_owned()),
    };
    let base = format!("{}/identity/v3", session.door.endpoint);
    let mut links = match given.inherited {
        true => {
            json!({"assignment": format!("{base}/OS-INHERIT/{place}/{kind}s/{id}/roles/{}/inherited_to_projects", given.role.id)})
        }
        false => json!({"assignment": format!("{base}/{place}/{kind}s/{id}/roles/{}", given.role.id)}),
    };
    // What is effective is in the very project, and inherited no further.
    if given.inherited && !effective {
        scope["OS-INHERIT:inherited_to"] = json!("projects");
    }
    if let Some(group) = given.by_group.as_ref().and_then(|group| world.groups.get(group)) {
        links["membership"] = json!(format!("{base}/groups/{}/users/{id}", group.id()));
    }
    if let Some(prior) = &given.prior {
        links["prior_role"] = json!(format!("{base}/prior_role/{prior}/implies/{}", given.role.id));
    }
    Ok(json!({"role": role, kind: subject, "scope": scope, "links": links}))
}

/// `GET /role_assignments`
pub(super) async fn list(session: Session, params: Params) -> Answer {
    let flag = |key: &str| -> Result<bool, Fault> { Ok(params.flag(key)?.unwrap_or(false)) };
    let (effective, names) = (flag("effective")?, flag("include_names")?);
    let wanted = Wanted { params: &params, subtree: flag("include_subtree")? };
    wanted.check(effective)?;
    let world = World::read(&session).await?;
    let all = if effective { world.effective() } else { world.given.clone() };
    let mut views = Vec::new();
    for given in all.iter().filter(|given| wanted.takes(&world, given)) {
        // What it was on may be gone a moment ago.
        let there = match &given.on {
            On::Project(project) => world.projects.contains_key(project),
            _ => true,
        };
        if there {
            views.push(view(&session, &world, given, names, effective).await?);
        }
    }
    Ok(collection(&session, "role_assignments", "role_assignments", views))
}
