//! Projects: Project objects, whose loop makes a namespace for each.

use std::time::Duration;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, Service};
use kube::api::{Api, DeleteParams, ListParams};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};
use yunfan_resources::compute::{VirtualMachine, dns_label};
use yunfan_resources::iam::{Domain, Project, ProjectSpec, RoleGrant};
use yunfan_resources::image::{Image, ImagePhase};
use yunfan_resources::network::Network;
use yunfan_resources::storage::Volume;
use yunfan_resources::{Identified, names};

use super::named::{
    extra, extra_change, filtered, immutable_option, options_view, refuse_immutable, refuse_taken, show_extra,
};
use super::{collection, delegated, domains, tags};
use crate::auth::Session;
use crate::body::{Json, Params, explicit};
use crate::change::Changes;
use crate::directory::{self, MAX_DEPTH};
use crate::error::{Answer, Fault};
use crate::ids::{self, Kind};
use crate::revocation::{self, Holder};
use crate::versions::{json_response, ok};

/// How long a create waits for the project's namespace.
const NAMESPACE_WAIT: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    project: Fields,
}

#[derive(Deserialize)]
struct Fields {
    #[serde(default)]
    name: Option<String>,
    #[serde(default, deserialize_with = "explicit")]
    description: Option<Option<String>>,
    #[serde(default)]
    enabled: Option<bool>,
    #[serde(default)]
    domain_id: Option<String>,
    #[serde(default)]
    parent_id: Option<String>,
    #[serde(default)]
    is_domain: Option<bool>,
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    options: Option<Map<String, Value>>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

impl Fields {
    fn check(&self) -> Result<(), Fault> {
        if let Some(name) = &self.name {
            super::check_name(name, 64)?;
        }
        tags::check(self.tags.as_deref().unwrap_or_default())
    }

    /// What they say of a domain, of a project that acts as one.
    fn of_domain(self) -> domains::Fields {
        domains::Fields {
            name: self.name,
            description: self.description,
            enabled: self.enabled,
            tags: self.tags,
            options: self.options,
            explicit_domain_id: None,
            extra: self.extra,
        }
    }
}

/// A project as Keystone shows it.
pub(super) async fn view(session: &Session, project: &Project) -> Result<Value, Fault> {
    let id = project.id();
    let domain = session.door.directory.domain_of(project.spec.domain.as_deref()).await?;
    let parent = match &project.spec.parent {
        Some(parent) => session.door.directory.project_named(parent).await?.map(|parent| parent.id()),
        None => None,
    };
    let mut view = json!({
        "id": id, "name": project.display_name(), "domain_id": domain.id, "parent_id": parent.unwrap_or(domain.id),
        "description": project.spec.description.as_deref().unwrap_or_default(), "enabled": project.spec.enabled,
        "is_domain": false, "tags": project.spec.tags, "options": options_view(project.spec.immutable),
        "links": {"self": format!("{}/identity/v3/projects/{id}", session.door.endpoint)},
    });
    show_extra(&mut view, &project.spec.extra);
    Ok(view)
}

/// The project with this id, as the caller may see it; one's own project everybody may.
pub(super) async fn find(session: &Session, id: &str) -> Result<Project, Fault> {
    let own = session.claims.project.as_ref().filter(|own| own.id == id);
    let found = match own {
        Some(own) => session.door.directory.project_named(&own.name).await?.map(|found| (*found).clone()),
        None => session.find(&session.global::<Project>(), id).await?,
    };
    found.ok_or_else(|| Fault::not_found("Could not find project:", id))
}

/// `GET /projects`
pub(super) async fn list(session: Session, params: Params) -> Answer {
    let mut views = Vec::new();
    if params.flag("is_domain")? == Some(true) {
        // They are in no domain, and below nothing.
        let within = ["domain_id", "parent_id"].iter().any(|key| params.get(key).is_some());
        let domains = if within { Vec::new() } else { domains::filtered(&session, &params).await? };
        let tagged = domains.iter().filter(|domain| tags::matches(&params, &domain.spec.tags));
        views.extend(tagged.map(|domain| domains::project_view(&session, domain)));
    } else {
        for project in filtered(&session, &params, &session.global::<Project>()).await? {
            if !tags::matches(&params, &project.spec.tags) {
                continue;
            }
            let view = view(&session, &project).await?;
            if params.get("parent_id").is_none_or(|wanted| view["parent_id"] == wanted) {
                views.push(view);
            }
        }
    }
    Ok(collection(&session, "projects", "projects", views))
}

/// The projects directly below each, of all that the caller may see.
fn below<'a>(all: &'a [Project], name: &'a str) -> impl Iterator<Item = &'a Project> {
    all.iter().filter(move |project| project.spec.parent.as_deref() == Some(name))
}

fn subtree_ids(all: &[Project], name: &str, depth: usize) -> Value {
    let children = below(all, name).filter(|_| depth > 0);
    let ids: Map<String, Value> =
        children.map(|child| (child.id(), subtree_ids(all, ids::name(child), depth - 1))).collect();
    if ids.is_empty() { Value::Null } else { Value::Object(ids) }
}

fn subtree<'a>(all: &'a [Project], name: &str, depth: usize, found: &mut Vec<&'a Project>) {
    let children: Vec<&Project> =
        all.iter().filter(|project| project.spec.parent.as_deref() == Some(name) && depth > 0).collect();
    for child in children {
        found.push(child);
        subtree(all, ids::name(child), depth - 1, found);
    }
}

/// What is above and below a project, where a request asks for it.
async fn hierarchy(
    session: &Session,
    params: &Params,
    project: &Project,
    view: &mut Value,
) -> Result<(), Fault> {
    let asked = |key: &str| params.0.iter().any(|(name, _)| name == key);
    for what in ["parents", "subtree"] {
        if asked(&format!("{what}_as_list")) && asked(&format!("{what}_as_ids")) {
            return Err(Fault::bad(format!(
                "Cannot use {what}_as_list and {what}_as_ids query params at the same time."
            )));
        }
    }
    let domain = session.door.directory.domain_of(project.spec.domain.as_deref()).await?;
    if asked("parents_as_list") || asked("parents_as_ids") {
        let above = session.door.directory.above(project).await?;
        let ids =
            above.iter().rev().fold(json!({domain.id: null}), |inner, parent| json!({parent.id(): inner}));
        if asked("parents_as_ids") {
            view["parents"] = ids;
        } else {
            let mut views = Vec::new();
            for parent in &above {
                views.push(json!({"project": self::view(session, parent).await?}));
            }
            view["parents"] = Value::Array(views);
        }
    }
    if asked("subtree_as_list") || asked("subtree_as_ids") {
        let all = ids::list(&session.global::<Project>()).await?;
        let name = ids::name(project);
        if asked("subtree_as_ids") {
            view["subtree"] = subtree_ids(&all, name, 4 * MAX_DEPTH);
        } else {
            let (mut found, mut views) = (Vec::new(), Vec::new());
            subtree(&all, name, 4 * MAX_DEPTH, &mut found);
            for child in found {
                views.push(json!({"project": self::view(session, child).await?}));
            }
            view["subtree"] = Value::Array(views);
        }
    }
    Ok(())
}

/// `GET /projects/{id}`
pub(super) async fn show(session: Session, Path(id): Path<String>, params: Params) -> Answer {
    if let Some(domain) = acts_as(&session, &id).await? {
        return Ok(ok(&json!({"project": domains::project_view(&session, &domain)})));
    }
    let project = find(&session, &id).await?;
    let mut view = view(&session, &project).await?;
    hierarchy(&session, &params, &project, &mut view).await?;
    Ok(ok(&json!({"project": view})))
}

/// The domain with this id: a project that acts as one has no other.
async fn acts_as(session: &Session, id: &str) -> Result<Option<Domain>, Fault> {
    let domains = session.door.directory.domains().await?;
    if !domains.iter().any(|(domain, _)| domain.id == id) {
        return Ok(None);
    }
    Ok(Some(domains::find(session, id).await?))
}

/// The parent that a new project names: its `metadata.name` and that of its domain. A domain is the parent of those that have none.
async fn parent(session: &Session, fields: &Fields) -> Result<(Option<String>, Option<String>), Fault> {
    let given = fields.parent_id.as_deref();
    let domains = session.door.directory.domains().await?;
    let Some(id) = given.filter(|id| !domains.iter().any(|(domain, _)| domain.id == *id)) else {
        let domain = fields.domain_id.as_deref().or(given);
        if given.is_some() && given != domain {
            return Err(Fault::bad("parent_id names another domain than domain_id."));
        }
        return Ok((None, domains::name_of(session, domain).await?));
    };
    let parent = find(session, id).await?;
    let domain = session.door.directory.domain_of(parent.spec.domain.as_deref()).await?;
    if fields.domain_id.as_ref().is_some_and(|own| *own != domain.id) {
        return Err(Fault::bad("domain_id must be that of the parent project."));
    }
    if !parent.spec.enabled {
        return Err(Fault::forbidden(format!(
            "Cannot create a project below {id}: a project above it is disabled."
        )));
    }
    if session.door.directory.above(&parent).await?.len() + 2 > MAX_DEPTH {
        return Err(Fault::forbidden(format!("Max hierarchy depth reached for {id} branch ({MAX_DEPTH}).")));
    }
    Ok((Some(ids::name(&parent).to_owned()), parent.spec.domain))
}

/// `POST /projects`. Answers when the project can be used: when it has its namespace.
pub(super) async fn create(session: Session, Json(body): Json<Body>) -> Answer {
    let fields = body.project;
    fields.check()?;
    if fields.is_domain == Some(true) {
        if fields.parent_id.is_some() || fields.domain_id.is_some() {
            return Err(Fault::bad("only root projects are allowed to act as domains."));
        }
        let made = domains::make(&session, fields.of_domain()).await?;
        let view = domains::project_view(&session, &made);
        return Ok(json_response(StatusCode::CREATED, &json!({"project": view})));
    }
    let (parent, domain) = parent(&session, &fields).await?;
    let name = fields.name.ok_or_else(|| Fault::bad("'name' is a required property"))?;
    let projects = session.global::<Project>();
    refuse_taken(&projects, &name, domain.as_deref(), None).await?;
    let spec = ProjectSpec {
        id: Some(ids::plain()),
        display_name: Some(name.clone()),
        description: fields.description.flatten(),
        domain,
        parent,
        enabled: fields.enabled.unwrap_or(true),
        immutable: immutable_option(fields.options.as_ref())?.unwrap_or(false),
        tags: fields.tags.unwrap_or_default(),
        extra: extra(&fields.extra)?,
        ..ProjectSpec::default()
    };
    let made = ids::create(&projects, Project::new("", spec), &free_name(&session, &name).await?).await?;
    let made = wait_for_namespace(&projects, made).await?;
    session.door.directory.saw(&made).await?;
    Ok(json_response(StatusCode::CREATED, &json!({"project": view(&session, &made).await?})))
}

/// The home namespace is named like the project, so a project does not take the name of a namespace that is there already: that one
/// is another's, or the cloud's own.
async fn free_name(session: &Session, display: &str) -> Result<String, Fault> {
    let label = dns_label(display);
    let taken = label.starts_with("kube-") || session.global::<Namespace>().get_opt(&label).await?.is_some();
    Ok(if taken { ids::suffixed(&label) } else { label })
}

async fn wait_for_namespace(projects: &Api<Project>, made: Project) -> Result<Project, Fault> {
    let (started, mut pause) = (Instant::now(), Duration::from_millis(2));
    let name = ids::name(&made);
    while started.elapsed() < NAMESPACE_WAIT {
        match projects.get_opt(name).await? {
            Some(project) if directory::home(&project).is_some() => return Ok(project),
            Some(_) => {}
            None => {
                return Err(Fault::conflict(format!("Project {name} was deleted while it was being made.")));
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
    // The project is there and will be usable; refusing now would only make the client create a second one.
    tracing::warn!(project = name, "the project has no namespace yet; does the project loop run?");
    Ok(made)
}

/// `PATCH /projects/{id}`
pub(super) async fn update(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    let fields = body.project;
    fields.check()?;
    if acts_as(&session, &id).await?.is_some() {
        if fields.is_domain == Some(false) || fields.parent_id.is_some() || fields.domain_id.is_some() {
            return Err(Fault::bad("Update of `is_domain`, `parent_id` and `domain_id` is not allowed."));
        }
        let domain = domains::change(&session, &id, fields.of_domain()).await?;
        return Ok(ok(&json!({"project": domains::project_view(&session, &domain)})));
    }
    if fields.is_domain == Some(true) {
        return Err(Fault::bad("Update of `is_domain` is not allowed."));
    }
    let projects = session.global::<Project>();
    let project = find(&session, &id).await?;
    let shown = view(&session, &project).await?;
    let other = |given: &Option<String>, key: &str| given.as_ref().is_some_and(|given| shown[key] != **given);
    if other(&fields.domain_id, "domain_id") {
        return Err(Fault::bad("Domain ID cannot be changed."));
    }
    if other(&fields.parent_id, "parent_id") {
        return Err(Fault::forbidden("Update of `parent_id` is not allowed."));
    }
    let immutable = immutable_option(fields.options.as_ref())?;
    refuse_immutable("project", &id, project.spec.immutable && immutable != Some(false))?;
    if let Some(name) = &fields.name {
        refuse_taken(&projects, name, project.spec.domain.as_deref(), Some(&id)).await?;
    }
    if fields.enabled == Some(false) {
        let all = ids::list(&projects).await?;
        if below(&all, ids::name(&project)).any(|child| child.spec.enabled) {
            return Err(Fault::forbidden(format!(
                "Cannot disable project {id} since its subtree contains enabled projects."
            )));
        }
    }
    if fields.enabled == Some(true)
        && session.door.directory.above(&project).await?.iter().any(|parent| !parent.spec.enabled)
    {
        return Err(Fault::forbidden(format!("Cannot enable project {id} since it has disabled parents.")));
    }
    let changes = Changes::default()
        .set("displayName", fields.name)
        .set("description", fields.description)
        .set("enabled", fields.enabled)
        .set("immutable", immutable)
        .set("tags", fields.tags)
        .set("extra", extra_change(&fields.extra)?);
    let project = changes.apply(&projects, &project).await?;
    session.door.directory.saw(&project).await?;
    if fields.enabled == Some(false) {
        let door = &session.door;
        revocation::revoke_all(&door.system, &door.tokens, &Holder::Project(id)).await?;
    }
    Ok(ok(&json!({"project": view(&session, &project).await?})))
}

/// `DELETE /projects/{id}`, and with it the home namespace, role assignments and quota. Nothing that a tenant made is deleted
/// along: while there is any of it, the project stays.
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    if acts_as(&session, &id).await?.is_some() {
        return domains::delete(session, Path(id)).await;
    }
    let project = find(&session, &id).await?;
    refuse_immutable("project", &id, project.spec.immutable)?;
    let all = ids::list(&session.global::<Project>()).await?;
    if below(&all, ids::name(&project)).next().is_some() {
        return Err(Fault::forbidden(format!(
            "Cannot delete the project {id} since it is not a leaf in the hierarchy. Use the cascade option if you want to delete a \
             whole subtree."
        )));
    }
    refuse_if_in_use(&session, &project).await?;
    remove(&session, &project).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Refuses while there is something of a tenant's in a project.
pub(super) async fn refuse_if_in_use(session: &Session, project: &Project) -> Result<(), Fault> {
    let id = project.id();
    let home = directory::home(project);
    if let Some(home) = home {
        refuse_if_used(session, &id, home).await?;
    }
    let owned = ListParams::default().labels(&format!("{}={}", names::PROJECT_LABEL, ids::name(project)));
    let owned = session.global::<Namespace>().list(&owned).await?.items;
    if let Some(other) = owned.iter().map(ids::name).find(|name| Some(*name) != home) {
        return Err(Fault::conflict(format!(
            "Project {id} still owns the namespace {other}; delete it first."
        )));
    }
    Ok(())
}

/// Deletes a project that is not in use, and what is granted on it.
pub(super) async fn remove(session: &Session, project: &Project) -> Result<(), Fault> {
    let name = ids::name(project);
    session.global::<Project>().delete(name, &DeleteParams::default()).await?;
    if let Some(home) = directory::home(project) {
        match session.global::<Namespace>().delete(home, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => drop(other?),
        }
    }
    let grants = session.global::<RoleGrant>();
    for grant in ids::list(&grants).await? {
        if grant.spec.project.as_deref() == Some(name) {
            grants.delete(ids::name(&grant), &DeleteParams::default()).await?;
        }
    }
    delegated::forget(session, |_, of| of == project.id()).await?;
    session.door.directory.saw_gone(project).await
}

async fn refuse_if_used(session: &Session, project: &str, home: &str) -> Result<(), Fault> {
    let nothing = |_: &str| false;
    refuse_if_any::<VirtualMachine>(session, home, project, "servers", nothing).await?;
    refuse_if_any::<Volume>(session, home, project, "volumes", nothing).await?;
    refuse_if_any::<Network>(session, home, project, "networks", nothing).await?;
    let images = ids::list(&session.within::<Image>(home)).await?;
    if let Some(image) = images.iter().find(|image| has_bytes(image)) {
        return Err(still_has(project, "images", ids::name(image)));
    }
    refuse_if_any::<Pod>(session, home, project, "pods", nothing).await?;
    refuse_if_any::<Deployment>(session, home, project, "deployments", nothing).await?;
    refuse_if_any::<Service>(session, home, project, "services", nothing).await?;
    refuse_if_any::<Secret>(session, home, project, "secrets", nothing).await?;
    // Every namespace has this one.
    refuse_if_any::<ConfigMap>(session, home, project, "config maps", |name| name == "kube-root-ca.crt").await
}

async fn refuse_if_any<K>(
    session: &Session,
    home: &str,
    project: &str,
    what: &str,
    except: impl Fn(&str) -> bool,
) -> Result<(), Fault>
where
    K: Kind + kube::Resource<Scope = NamespaceResourceScope>,
{
    let some = session.within::<K>(home).list(&ListParams::default().limit(2)).await?.items;
    match some.iter().map(ids::name).find(|name| !except(name)) {
        None => Ok(()),
        Some(name) => Err(still_has(project, what, name)),
    }
}

fn still_has(project: &str, what: &str, name: &str) -> Fault {
    Fault::conflict(format!("Project {project} still has {what} ({name}); delete them first."))
}

/// Whether anything would be lost with an image: one that never got its bytes is a name and no more.
fn has_bytes(image: &Image) -> bool {
    let status = image.status.clone().unwrap_or_default();
    image.is_made()
        || !status.nodes.is_empty()
        || !matches!(status.phase, ImagePhase::Queued | ImagePhase::Failed)
}
