//! Who has which role where. On a project it is a RoleBinding in its namespace, in the whole cloud a ClusterRoleBinding, and where RBAC
//! has no place for it (on a domain, or for all projects below) a RoleGrant.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding, RoleRef, Subject};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::Value;
use tokio::time::{Instant, sleep};
use yunfan_identity::token::WHOLE;
use yunfan_resources::Identified;
use yunfan_resources::iam::{Group, RoleGrant, RoleGrantSpec};
use yunfan_resources::names;

use super::{collection, domains, groups, projects, roles, users};
use crate::auth::Session;
use crate::directory::{DEFAULT_DOMAIN, Place, Role, home, role_of, system_role_of};
use crate::error::{Answer, Fault};
use crate::ids;
use crate::revocation::{self, Holder};

const RBAC: &str = "rbac.authorization.k8s.io";
/// How long a grant that is inherited waits for the projects below.
const BOUND_WAIT: Duration = Duration::from_secs(10);

/// The arguments of a path, by the names that its pattern has: `project` or `domain`, `user` or `group`, `role`.
pub(super) type Arguments = Path<BTreeMap<String, String>>;

/// What a request is about, found.
struct Assignment {
    place: Place,
    /// Id of that.
    place_id: String,
    /// `User` or `Group`.
    kind: &'static str,
    /// Their `metadata.name`.
    subject: String,
    subject_id: String,
    inherited: bool,
}

async fn find(
    session: &Session,
    path: &BTreeMap<String, String>,
    inherited: bool,
) -> Result<Assignment, Fault> {
    let given = |key: &str| path.get(key).map(String::as_str);
    let (place, place_id) = match (given("project"), given("domain")) {
        (Some(id), _) => (Place::Project(Arc::new(projects::find(session, id).await?)), id),
        (None, Some(id)) => (Place::Domain(ids::name(&domains::find(session, id).await?).to_owned()), id),
        (None, None) => (Place::System, ""),
    };
    let (kind, subject, subject_id) = match (given("user"), given("group")) {
        (Some(id), _) => ("User", ids::name(&users::find(session, id).await?).to_owned(), id),
        (None, Some(id)) => ("Group", ids::name(&groups::find(session, id).await?).to_owned(), id),
        (None, None) => return Err(Fault::bad("The path names neither a user nor a group.")),
    };
    let (place_id, subject_id) = (place_id.to_owned(), subject_id.to_owned());
    Ok(Assignment { place, place_id, kind, subject, subject_id, inherited })
}

/// What of a binding is deleted to take the role away.
enum Found {
    Binding(Box<RoleBinding>),
    Wide(Box<ClusterRoleBinding>),
    Grant(Box<RoleGrant>),
}

impl Assignment {
    fn is_about(&self, subjects: Option<&Vec<Subject>>) -> bool {
        let own = |subject: &Subject| subject.kind == self.kind && subject.name == self.subject;
        subjects.is_some_and(|subjects| subjects.iter().any(own))
    }

    fn is_grant(&self) -> bool {
        self.inherited || matches!(self.place, Place::Domain(_))
    }

    fn is_granted(&self, grant: &RoleGrant) -> bool {
        let spec = &grant.spec;
        let subject = if self.kind == "User" { &spec.user } else { &spec.group };
        let there = match &self.place {
            Place::Project(project) => spec.project.as_deref() == Some(ids::name(&**project)),
            Place::Domain(domain) => spec.domain.as_ref() == Some(domain),
            Place::System => false,
        };
        there && spec.inherited == self.inherited && subject.as_ref() == Some(&self.subject)
    }

    /// The namespace of a project.
    fn namespace(&self) -> Result<&str, Fault> {
        let Place::Project(project) = &self.place else { return Ok("") };
        home(project).ok_or_else(|| {
            Fault::conflict(format!("Project {} has no namespace yet; try again in a moment.", project.id()))
        })
    }

    /// What gives the subject roles there, and which.
    async fn found(&self, session: &Session) -> Result<Vec<(Role, Found)>, Fault> {
        let roles = session.door.directory.roles().await?;
        let mut found = Vec::new();
        if self.is_grant() {
            for grant in ids::list(&session.global::<RoleGrant>()).await? {
                let role = roles.iter().find(|role| role.cluster_role == grant.spec.cluster_role);
                if let Some(role) = role.filter(|_| self.is_granted(&grant)) {
                    found.push((role.clone(), Found::Grant(Box::new(grant))));
                }
            }
        } else if matches!(self.place, Place::System) {
            for binding in ids::list(&session.global::<ClusterRoleBinding>()).await? {
                let role = system_role_of(&binding.role_ref, &roles);
                if let Some(role) = role.filter(|_| self.is_about(binding.subjects.as_ref())) {
                    found.push((role.clone(), Found::Wide(Box::new(binding))));
                }
            }
        } else {
            for binding in ids::list(&session.within::<RoleBinding>(self.namespace()?)).await? {
                let inherited = kube::ResourceExt::labels(&binding).contains_key(names::INHERITED_LABEL);
                let role = role_of(&binding.role_ref, &roles);
                if let Some(role) = role.filter(|_| !inherited && self.is_about(binding.subjects.as_ref())) {
                    found.push((role.clone(), Found::Binding(Box::new(binding))));
                }
            }
        }
        Ok(found)
    }

    fn role_ref(role: &str) -> RoleRef {
        RoleRef { api_group: Some(RBAC.into()), kind: "ClusterRole".into(), name: role.into() }
    }

    fn subjects(&self) -> Option<Vec<Subject>> {
        let (kind, name) = (self.kind.to_owned(), self.subject.clone());
        Some(vec![Subject { api_group: Some(RBAC.into()), kind, name, namespace: None }])
    }

    /// The name of the binding that the door makes: the same for the same assignment, so that making it twice is one.
    fn name(&self, role: &Role) -> String {
        let role = if role.is_builtin() { &role.name } else { &role.id };
        match (&self.place, self.kind) {
            (Place::System, kind) => {
                format!("openstack:system:{role}:{}:{}", kind.to_lowercase(), self.subject)
            }
            (_, "Group") => format!("openstack:{role}:group:{}", self.subject),
            _ => format!("openstack:{role}:{}", self.subject),
        }
    }

    async fn give(&self, session: &Session, role: &Role) -> Result<(), Fault> {
        let labels = Some([(names::ROLE_LABEL.to_owned(), role.name.clone())].into());
        // A label's value has an alphabet of its own, which a free name need not keep to.
        let labels = labels.filter(|_| role.is_builtin());
        if self.is_grant() {
            return self.give_grant(session, role).await;
        }
        if matches!(self.place, Place::System) {
            roles::make_system(session, role).await?;
            let mut binding = ClusterRoleBinding {
                role_ref: Self::role_ref(&role.system_role),
                subjects: self.subjects(),
                ..ClusterRoleBinding::default()
            };
            binding.metadata.name = Some(self.name(role));
            binding.metadata.labels = labels;
            let made = session.global::<ClusterRoleBinding>().create(&PostParams::default(), &binding).await;
            return seen(session, made).await;
        }
        let mut binding = RoleBinding {
            role_ref: Self::role_ref(&role.cluster_role),
            subjects: self.subjects(),
            ..RoleBinding::default()
        };
        binding.metadata.name = Some(self.name(role));
        binding.metadata.labels = labels;
        let made =
            session.within::<RoleBinding>(self.namespace()?).create(&PostParams::default(), &binding).await;
        seen(session, made).await
    }

    async fn give_grant(&self, session: &Session, role: &Role) -> Result<(), Fault> {
        let (mut domain, mut project) = (None, None);
        match &self.place {
            Place::Domain(name) => domain = Some(name.clone()),
            Place::Project(own) => project = Some(ids::name(&**own).to_owned()),
            Place::System => {}
        }
        let subject = |kind: &str| Some(self.subject.clone()).filter(|_| self.kind == kind);
        let (user, group) = (subject("User"), subject("Group"));
        let words = [
            role.id.as_str(),
            self.kind,
            self.subject.as_str(),
            domain.as_deref().unwrap_or_default(),
            project.as_deref().unwrap_or_default(),
            if self.inherited { "inherited" } else { "" },
        ];
        let name = format!("grant-{}", ids::stable(&words.join("\n")));
        let cluster_role = role.cluster_role.clone();
        let spec = RoleGrantSpec { cluster_role, user, group, domain, project, inherited: self.inherited };
        let grants = session.global::<RoleGrant>();
        seen(session, grants.create(&PostParams::default(), &RoleGrant::new(&name, spec)).await).await?;
        let (started, mut pause) = (Instant::now(), Duration::from_millis(1));
        while self.inherited && started.elapsed() < BOUND_WAIT {
            let bound = grants
                .get_opt(&name)
                .await?
                .is_none_or(|grant| grant.status.as_ref().is_some_and(|status| status.bound));
            if bound {
                break;
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Refuses the tokens that the subject, or its members, had for the place.
    async fn revoke_tokens(&self, session: &Session) -> Result<(), Fault> {
        let door = &session.door;
        let users = match self.kind {
            "User" => vec![self.subject.clone()],
            _ => {
                let group = door.directory.all::<Group>().await?.get(None, &self.subject);
                group.map(|group| group.spec.members.clone()).unwrap_or_default()
            }
        };
        let place = if self.place_id.is_empty() { WHOLE } else { &self.place_id };
        // What is inherited reaches many places; and not every id that somebody chose can be written down.
        let plain = place.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        for user in users {
            let holder = match self.inherited || !plain {
                true => Holder::User(user),
                false => Holder::UserIn(user, place.to_owned()),
            };
            revocation::revoke_all(&door.system, &door.tokens, &holder).await?;
        }
        Ok(())
    }

    fn missing(&self, role: &str) -> Fault {
        let (kind, id) = (self.kind.to_lowercase(), &self.subject_id);
        let place = match &self.place {
            Place::Project(_) => "project",
            Place::Domain(_) => "domain",
            Place::System => "system",
        };
        let place_id = if self.place_id.is_empty() { "all" } else { &self.place_id };
        Fault::new(
            StatusCode::NOT_FOUND,
            format!("Could not find role assignment with role: {role}, {kind}: {id}, {place}: {place_id}."),
        )
    }
}

/// Waits for what was made, or was there already.
async fn seen<K: yunfan_client::Watched>(session: &Session, made: kube::Result<K>) -> Result<(), Fault> {
    match made {
        // Somebody granted the same at the same time.
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
        made => session.door.directory.saw(&made?).await,
    }
}

fn role_argument(path: &BTreeMap<String, String>) -> &str {
    path.get("role").map(String::as_str).unwrap_or_default()
}

async fn put(session: Session, path: &BTreeMap<String, String>, inherited: bool) -> Answer {
    let role = session.door.directory.role(role_argument(path)).await?;
    let wanted = find(&session, path, inherited).await?;
    if matches!(wanted.place, Place::System) && role.system_role.is_empty() {
        return Err(Fault::forbidden(format!(
            "The role {} is of one domain, and is nothing on the system.",
            role.name
        )));
    }
    if !wanted.found(&session).await?.iter().any(|(has, _)| has.id == role.id) {
        wanted.give(&session, &role).await?;
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn look(session: Session, path: &BTreeMap<String, String>, inherited: bool) -> Answer {
    let role = session.door.directory.role(role_argument(path)).await?;
    let wanted = find(&session, path, inherited).await?;
    if !wanted.found(&session).await?.iter().any(|(has, _)| has.id == role.id) {
        return Err(wanted.missing(&role.id));
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Takes a role away, and with it the tokens that carry it. What it allowed is refused at once also where others take bindings away.
async fn take(session: Session, path: &BTreeMap<String, String>, inherited: bool) -> Answer {
    let role = session.door.directory.role(role_argument(path)).await?;
    let wanted = find(&session, path, inherited).await?;
    let mut found = wanted.found(&session).await?;
    found.retain(|(has, _)| has.id == role.id);
    if found.is_empty() {
        return Err(wanted.missing(&role.id));
    }
    let several = |subjects: &Option<Vec<Subject>>| subjects.as_ref().is_some_and(|all| all.len() > 1);
    for (_, found) in &found {
        let shared = match found {
            Found::Binding(binding) => several(&binding.subjects).then(|| ids::name(&**binding)),
            Found::Wide(binding) => several(&binding.subjects).then(|| ids::name(&**binding)),
            Found::Grant(_) => None,
        };
        if let Some(name) = shared {
            return Err(Fault::conflict(format!(
                "The binding {name} gives the role to others as well; change it with kubectl."
            )));
        }
    }
    for (_, found) in found {
        remove(&session, &found).await?;
        if let Found::Grant(grant) = &found
            && wanted.inherited
        {
            unbound(&session, ids::name(&**grant)).await?;
        }
    }
    wanted.revoke_tokens(&session).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Waits until no project has the binding of a grant any more.
async fn unbound(session: &Session, grant: &str) -> Result<(), Fault> {
    let name = format!("inherited:{grant}");
    let bindings = session.door.directory.all::<RoleBinding>().await?;
    let by_name = |binding: &RoleBinding| {
        let name = ids::name(binding);
        if name.starts_with("inherited:") { vec![name.to_owned()] } else { Vec::new() }
    };
    let (index, started) = (bindings.index("inherited", by_name), Instant::now());
    while !index.get(&name).is_empty() && started.elapsed() < BOUND_WAIT {
        sleep(Duration::from_millis(2)).await;
    }
    match index.get(&name).first() {
        None => Ok(()),
        Some(left) => Err(Fault::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!(
                "The role is taken away, but still bound in {}; does the project loop run?",
                ids::namespace(&**left)
            ),
        )),
    }
}

async fn remove(session: &Session, found: &Found) -> Result<(), Fault> {
    let directory = &session.door.directory;
    let params = DeleteParams::default();
    match found {
        Found::Binding(binding) => {
            let within = session.within::<RoleBinding>(ids::namespace(&**binding));
            super::gone(within.delete(ids::name(&**binding), &params).await)?;
            directory.saw_gone(&**binding).await
        }
        Found::Wide(binding) => {
            let wide = session.global::<ClusterRoleBinding>();
            super::gone(wide.delete(ids::name(&**binding), &params).await)?;
            directory.saw_gone(&**binding).await
        }
        Found::Grant(grant) => {
            super::gone(session.global::<RoleGrant>().delete(ids::name(&**grant), &params).await)?;
            directory.saw_gone(&**grant).await
        }
    }
}

async fn all(session: Session, path: &BTreeMap<String, String>, inherited: bool) -> Answer {
    let wanted = find(&session, path, inherited).await?;
    let mut found: Vec<Role> = wanted.found(&session).await?.into_iter().map(|(role, _)| role).collect();
    found.sort();
    found.dedup();
    let views: Vec<Value> = found.iter().map(|role| roles::view(&session, role)).collect();
    let place = match &wanted.place {
        Place::Project(_) => format!("projects/{}", wanted.place_id),
        Place::Domain(_) => format!("domains/{}", wanted.place_id),
        Place::System => "system".to_owned(),
    };
    let kind = wanted.kind.to_lowercase();
    let path = match inherited {
        true => format!("OS-INHERIT/{place}/{kind}s/{}/roles/inherited_to_projects", wanted.subject_id),
        false => format!("{place}/{kind}s/{}/roles", wanted.subject_id),
    };
    Ok(collection(&session, "roles", &path, views))
}

/// `PUT .../roles/{role}`
pub(super) async fn grant(session: Session, Path(path): Arguments) -> Answer {
    put(session, &path, false).await
}

/// `GET` and `HEAD .../roles/{role}`
pub(super) async fn check(session: Session, Path(path): Arguments) -> Answer {
    look(session, &path, false).await
}

/// `DELETE .../roles/{role}`
pub(super) async fn revoke(session: Session, Path(path): Arguments) -> Answer {
    take(session, &path, false).await
}

/// `GET .../roles`
pub(super) async fn list(session: Session, Path(path): Arguments) -> Answer {
    all(session, &path, false).await
}

/// `PUT /OS-INHERIT/.../roles/{role}/inherited_to_projects`
pub(super) async fn grant_inherited(session: Session, Path(path): Arguments) -> Answer {
    put(session, &path, true).await
}

/// `GET` and `HEAD /OS-INHERIT/.../roles/{role}/inherited_to_projects`
pub(super) async fn check_inherited(session: Session, Path(path): Arguments) -> Answer {
    look(session, &path, true).await
}

/// `DELETE /OS-INHERIT/.../roles/{role}/inherited_to_projects`
pub(super) async fn revoke_inherited(session: Session, Path(path): Arguments) -> Answer {
    take(session, &path, true).await
}

/// `GET /OS-INHERIT/.../roles/inherited_to_projects`
pub(super) async fn list_inherited(session: Session, Path(path): Arguments) -> Answer {
    all(session, &path, true).await
}

/// Takes all roles from one who is gone: a later one of the same name must not come into them.
pub(super) async fn forget(session: &Session, kind: &str, name: &str) -> Result<(), Fault> {
    let alone = |subjects: &Option<Vec<Subject>>| {
        subjects.as_ref().is_some_and(|all| all.len() == 1 && all[0].kind == kind && all[0].name == name)
    };
    let others = |subjects: &Option<Vec<Subject>>| {
        let (own, others): (Vec<_>, Vec<_>) = subjects
            .clone()
            .unwrap_or_default()
            .into_iter()
            .partition(|subject| subject.kind == kind && subject.name == name);
        (!own.is_empty()).then_some(others)
    };
    let without = |others: Vec<Subject>| Patch::Merge(serde_json::json!({"subjects": others}));
    let params = PatchParams::default();
    for binding in ids::list(&session.everywhere::<RoleBinding>()).await? {
        if alone(&binding.subjects) {
            remove(session, &Found::Binding(Box::new(binding))).await?;
        } else if let Some(others) = others(&binding.subjects) {
            let within = session.within::<RoleBinding>(ids::namespace(&binding));
            super::gone(within.patch(ids::name(&binding), &params, &without(others)).await)?;
        }
    }
    let wide = session.global::<ClusterRoleBinding>();
    for binding in ids::list(&wide).await? {
        if alone(&binding.subjects) {
            remove(session, &Found::Wide(Box::new(binding))).await?;
        } else if let Some(others) = others(&binding.subjects) {
            super::gone(wide.patch(ids::name(&binding), &params, &without(others)).await)?;
        }
    }
    for grant in ids::list(&session.global::<RoleGrant>()).await? {
        let subject = if kind == "User" { &grant.spec.user } else { &grant.spec.group };
        if subject.as_deref() == Some(name) {
            remove(session, &Found::Grant(Box::new(grant))).await?;
        }
    }
    Ok(())
}

/// The domain that an object is in, by `metadata.name`.
pub(super) fn domain_or_default(domain: Option<&str>) -> &str {
    domain.unwrap_or(DEFAULT_DOMAIN)
}
