//! Who has which role where: RoleBindings in the projects' namespaces.

use std::collections::BTreeMap;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding, RoleRef, Subject};
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::iam::{Project, User};
use yunfan_resources::names;

use super::{collection, projects, roles, users};
use crate::auth::Session;
use crate::body::Params;
use crate::directory::{home, is_about, role_of};
use crate::error::{Answer, Fault};
use crate::ids;

const RBAC: &str = "rbac.authorization.k8s.io";

/// What a request about an assignment names, found.
struct Assignment {
    namespace: String,
    user: String,
    role: &'static str,
    cluster_role: &'static str,
}

async fn find(session: &Session, project: &str, user: &str, role: &str) -> Result<Assignment, Fault> {
    let (role, cluster_role) = roles::find(role)?;
    let project = projects::find(session, project).await?;
    let user = users::find(session, user).await?;
    let namespace = home(&project).map(str::to_owned).ok_or_else(|| {
        Fault::conflict(format!("Project {} has no namespace yet; try again in a moment.", project.id()))
    })?;
    Ok(Assignment { namespace, user: ids::name(&user).to_owned(), role, cluster_role })
}

impl Assignment {
    /// The bindings in the project's namespace that give the user the role.
    async fn bindings(&self, session: &Session) -> Result<Vec<RoleBinding>, Fault> {
        let mut bindings = ids::list(&session.within::<RoleBinding>(&self.namespace)).await?;
        bindings.retain(|binding| {
            role_of(binding) == Some(self.role) && is_about(binding.subjects.as_ref(), &self.user)
        });
        Ok(bindings)
    }

    /// The name of the binding that the door makes: the same for the same assignment, so that making it twice is one.
    fn name(&self) -> String {
        format!("openstack:{}:{}", self.role, self.user)
    }
}

/// `PUT /projects/{project}/users/{user}/roles/{role}`
pub(super) async fn grant(
    session: Session,
    Path((project, user, role)): Path<(String, String, String)>,
) -> Answer {
    let wanted = find(&session, &project, &user, &role).await?;
    if wanted.bindings(&session).await?.is_empty() {
        let mut binding = RoleBinding {
            role_ref: RoleRef {
                api_group: Some(RBAC.into()),
                kind: "ClusterRole".into(),
                name: wanted.cluster_role.into(),
            },
            subjects: Some(vec![Subject {
                api_group: Some(RBAC.into()),
                kind: "User".into(),
                name: wanted.user.clone(),
                namespace: None,
            }]),
            ..RoleBinding::default()
        };
        binding.metadata.name = Some(wanted.name());
        binding.metadata.labels = Some([(names::ROLE_LABEL.to_owned(), wanted.role.to_owned())].into());
        let bindings = session.within::<RoleBinding>(&wanted.namespace);
        match bindings.create(&PostParams::default(), &binding).await {
            // Somebody granted the same at the same time.
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {}
            other => drop(other?),
        }
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `GET` and `HEAD /projects/{project}/users/{user}/roles/{role}`
pub(super) async fn check(
    session: Session,
    Path((project, user, role)): Path<(String, String, String)>,
) -> Answer {
    let wanted = find(&session, &project, &user, &role).await?;
    if wanted.bindings(&session).await?.is_empty() {
        return Err(no_such(&role, &user, &project));
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `DELETE /projects/{project}/users/{user}/roles/{role}`. Tokens that carry the role keep its name until they expire, but
/// what it allowed is refused at once: that is asked of the bindings.
pub(super) async fn revoke(
    session: Session,
    Path((project, user, role)): Path<(String, String, String)>,
) -> Answer {
    let wanted = find(&session, &project, &user, &role).await?;
    let bindings = wanted.bindings(&session).await?;
    if bindings.is_empty() {
        return Err(no_such(&role, &user, &project));
    }
    let api = session.within::<RoleBinding>(&wanted.namespace);
    for binding in bindings {
        let name = ids::name(&binding);
        if binding.subjects.as_ref().is_some_and(|subjects| subjects.len() > 1) {
            return Err(Fault::conflict(format!(
                "RoleBinding {}/{name} gives the role to others as well; change it with kubectl.",
                wanted.namespace
            )));
        }
        api.delete(name, &DeleteParams::default()).await?;
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn no_such(role: &str, user: &str, project: &str) -> Fault {
    Fault::new(
        StatusCode::NOT_FOUND,
        format!("Could not find role assignment with role: {role}, user: {user}, project: {project}."),
    )
}

/// `GET /projects/{project}/users/{user}/roles`
pub(super) async fn of_user(session: Session, Path((project, user)): Path<(String, String)>) -> Answer {
    let project = projects::find(&session, &project).await?;
    let user = users::find(&session, &user).await?;
    let mut found: Vec<&'static str> = Vec::new();
    if let Some(namespace) = home(&project) {
        for binding in ids::list(&session.within::<RoleBinding>(namespace)).await? {
            if let Some(role) =
                role_of(&binding).filter(|_| is_about(binding.subjects.as_ref(), ids::name(&user)))
                && !found.contains(&role)
            {
                found.push(role);
            }
        }
    }
    let path = format!("projects/{}/users/{}/roles", project.id(), user.id());
    let views = found.into_iter().map(|role| json!({"id": roles::id(role), "name": role})).collect();
    Ok(collection(&session, "roles", &path, views))
}

/// `GET /role_assignments`
pub(super) async fn list(session: Session, params: Params) -> Answer {
    let names = params.get("include_names").is_some() && params.flag("include_names")?.unwrap_or(true);
    let users: BTreeMap<String, User> = ids::list(&session.global::<User>())
        .await?
        .into_iter()
        .map(|user| (ids::name(&user).to_owned(), user))
        .collect();
    let projects = ids::list(&session.global::<Project>()).await?;
    let wanted = Wanted {
        user: params.get("user.id"),
        role: params.get("role.id"),
        project: params.get("scope.project.id"),
        system: params.get("scope.system").is_some(),
        nobody: ["group.id", "scope.domain.id"].iter().any(|key| params.get(key).is_some()),
    };
    let mut views = Vec::new();
    for project in &projects {
        let Some(namespace) = home(project) else { continue };
        if wanted.nobody || wanted.system || wanted.project.is_some_and(|id| id != project.id()) {
            continue;
        }
        for binding in ids::list(&session.within::<RoleBinding>(namespace)).await? {
            let Some(role) = role_of(&binding) else { continue };
            for user in subjects(binding.subjects.as_ref(), &users).filter(|user| wanted.takes(user, role)) {
                views.push(view(&session, user, role, Some(project), names).await?);
            }
        }
    }
    if !wanted.nobody && wanted.project.is_none() {
        for binding in ids::list(&session.global::<ClusterRoleBinding>()).await? {
            let admins =
                subjects(binding.subjects.as_ref(), &users).filter(|user| wanted.takes(user, "admin"));
            for user in admins.filter(|_| binding.role_ref.name == "cluster-admin") {
                views.push(view(&session, user, "admin", None, names).await?);
            }
        }
    }
    Ok(collection(&session, "role_assignments", "role_assignments", views))
}

/// The filters of a list of assignments.
struct Wanted<'a> {
    user: Option<&'a str>,
    role: Option<&'a str>,
    project: Option<&'a str>,
    system: bool,
    /// Asked for assignments of a kind that there is not.
    nobody: bool,
}

impl Wanted<'_> {
    fn takes(&self, user: &User, role: &str) -> bool {
        self.user.is_none_or(|id| id == user.id()) && self.role.is_none_or(|id| id == roles::id(role))
    }
}

fn subjects<'a>(
    subjects: Option<&'a Vec<Subject>>,
    users: &'a BTreeMap<String, User>,
) -> impl Iterator<Item = &'a User> {
    subjects
        .into_iter()
        .flatten()
        .filter(|subject| subject.kind == "User")
        .filter_map(|subject| users.get(&subject.name))
}

/// `project` is `None` for an assignment in the whole cloud.
async fn view(
    session: &Session,
    user: &User,
    role: &str,
    project: Option<&Project>,
    names: bool,
) -> Result<Value, Fault> {
    let mut role_view = json!({"id": roles::id(role)});
    let mut user_view = json!({"id": user.id()});
    let mut scope = match project {
        Some(project) => json!({"project": {"id": project.id()}}),
        None => json!({"system": {"all": true}}),
    };
    if names {
        role_view["name"] = json!(role);
        user_view["name"] = json!(user.display_name());
        user_view["domain"] = session.door.directory.domain_of(user.spec.domain.as_deref()).await?.json();
        if let Some(project) = project {
            scope["project"]["name"] = json!(project.display_name());
            scope["project"]["domain"] =
                session.door.directory.domain_of(project.spec.domain.as_deref()).await?.json();
        }
    }
    let link = match project {
        Some(project) => format!("projects/{}/users/{}/roles/{}", project.id(), user.id(), roles::id(role)),
        None => format!("system/users/{}/roles/{}", user.id(), roles::id(role)),
    };
    let links = json!({"assignment": format!("{}/identity/v3/{link}", session.door.endpoint)});
    Ok(json!({"role": role_view, "user": user_view, "scope": scope, "links": links}))
}
