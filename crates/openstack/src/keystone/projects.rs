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
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use yunfan_resources::compute::{VirtualMachine, dns_label};
use yunfan_resources::iam::{Project, ProjectSpec};
use yunfan_resources::image::Image;
use yunfan_resources::network::Network;
use yunfan_resources::storage::Volume;
use yunfan_resources::{Identified, names};

use super::domains::{filtered, refuse_taken};
use super::{collection, domain_name};
use crate::auth::Session;
use crate::body::{Json, Params, only};
use crate::change::Changes;
use crate::directory;
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
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    enabled: Option<bool>,
    #[serde(default)]
    domain_id: Option<String>,
    #[serde(default)]
    parent_id: Option<String>,
    #[serde(default)]
    is_domain: Option<bool>,
    #[serde(default)]
    tags: Option<Value>,
    #[serde(default)]
    options: Option<Value>,
}

impl Fields {
    fn check(&self) -> Result<(), Fault> {
        if let Some(name) = &self.name {
            ids::check_name("name", name, false)?;
        }
        if self.is_domain == Some(true) {
            return Err(Fault::bad("is_domain=true is not supported: a project is no domain."));
        }
        only("tags", self.tags.as_ref(), &[json!([])], "projects have no tags")?;
        only("options", self.options.as_ref(), &[json!({})], "projects have no options")
    }
}

/// A project as Keystone shows it.
pub(super) async fn view(session: &Session, project: &Project) -> Result<Value, Fault> {
    let id = project.id();
    let domain = session.door.directory.domain_of(project.spec.domain.as_deref()).await?;
    Ok(json!({
        "id": id, "name": project.display_name(), "domain_id": domain.id, "parent_id": domain.id,
        "description": project.spec.description.as_deref().unwrap_or_default(), "enabled": project.spec.enabled,
        "is_domain": false, "tags": [], "options": {},
        "links": {"self": format!("{}/identity/v3/projects/{id}", session.door.endpoint)},
    }))
}

/// The project with this id, as the caller may see it; one's own project everybody may.
pub(super) async fn find(session: &Session, id: &str) -> Result<Project, Fault> {
    let own = session.claims.project.as_ref().filter(|own| own.id == id);
    let found = match own {
        Some(own) => session.door.directory.project_named(&own.name).await?,
        None => session.find(&session.global::<Project>(), id).await?,
    };
    found.ok_or_else(|| Fault::not_found("Could not find project:", id))
}

/// `GET /projects`
pub(super) async fn list(session: Session, params: Params) -> Answer {
    let mut views = Vec::new();
    // No project is a domain.
    if params.flag("is_domain")? != Some(true) {
        for project in filtered(&session, &params, &session.global::<Project>()).await? {
            views.push(view(&session, &project).await?);
        }
    }
    Ok(collection(&session, "projects", "projects", views))
}

/// `GET /projects/{id}`
pub(super) async fn show(session: Session, Path(id): Path<String>) -> Answer {
    let project = find(&session, &id).await?;
    Ok(ok(&json!({"project": view(&session, &project).await?})))
}

/// `POST /projects`. Answers when the project can be used: when it has its namespace.
pub(super) async fn create(session: Session, Json(body): Json<Body>) -> Answer {
    let fields = body.project;
    fields.check()?;
    let name =
        fields.name.ok_or_else(|| Fault::bad("Invalid input for field/attribute name. It is required."))?;
    let domain = domain_name(&session, fields.domain_id.as_deref()).await?;
    if let Some(parent) = fields.parent_id.as_deref().filter(|parent| *parent != directory::DEFAULT_DOMAIN)
        && Some(parent) != fields.domain_id.as_deref()
    {
        return Err(Fault::bad("parent_id is not supported: a project's parent is its domain."));
    }
    let projects = session.global::<Project>();
    refuse_taken(&projects, &name, domain.as_deref(), None).await?;
    let spec = ProjectSpec {
        id: Some(ids::plain()),
        display_name: Some(name.clone()),
        description: fields.description,
        domain,
        enabled: fields.enabled.unwrap_or(true),
    };
    let made = ids::create(&projects, Project::new("", spec), &free_name(&session, &name).await?).await?;
    wait_for_namespace(&projects, ids::name(&made)).await?;
    Ok(json_response(StatusCode::CREATED, &json!({"project": view(&session, &made).await?})))
}

/// The home namespace is named like the project, so a project does not take the name of a namespace that is there already: that one
/// is another's, or the cloud's own.
async fn free_name(session: &Session, display: &str) -> Result<String, Fault> {
    let label = dns_label(display);
    let taken = label.starts_with("kube-") || session.global::<Namespace>().get_opt(&label).await?.is_some();
    Ok(if taken { ids::suffixed(&label) } else { label })
}

async fn wait_for_namespace(projects: &Api<Project>, name: &str) -> Result<(), Fault> {
    let (started, mut pause) = (Instant::now(), Duration::from_millis(2));
    while started.elapsed() < NAMESPACE_WAIT {
        match projects.get_opt(name).await? {
            Some(project) if directory::home(&project).is_some() => return Ok(()),
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
    Ok(())
}

/// `PATCH /projects/{id}`
pub(super) async fn update(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    let fields = body.project;
    fields.check()?;
    if fields.domain_id.is_some() || fields.parent_id.is_some() {
        return Err(Fault::bad("domain_id and parent_id cannot be changed."));
    }
    let projects = session.global::<Project>();
    let project = find(&session, &id).await?;
    if let Some(name) = &fields.name {
        refuse_taken(&projects, name, project.spec.domain.as_deref(), Some(&id)).await?;
    }
    let changes = Changes::default()
        .set("displayName", fields.name)
        .set("description", fields.description)
        .set("enabled", fields.enabled);
    let project = changes.apply(&projects, &project).await?;
    if fields.enabled == Some(false) {
        let door = &session.door;
        revocation::revoke_all(&door.system, &door.tokens, &Holder::Project(id)).await?;
    }
    Ok(ok(&json!({"project": view(&session, &project).await?})))
}

/// `DELETE /projects/{id}`, and with it the home namespace, role assignments and quota. Nothing that a tenant made is deleted
/// along: while there is any of it, the project stays.
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    let project = find(&session, &id).await?;
    let namespaces = session.global::<Namespace>();
    let home = directory::home(&project).map(str::to_owned);
    if let Some(home) = &home {
        refuse_if_used(&session, &id, home).await?;
    }
    let owned = ListParams::default().labels(&format!("{}={}", names::PROJECT_LABEL, ids::name(&project)));
    let owned = namespaces.list(&owned).await?.items;
    if let Some(other) = owned.iter().map(ids::name).find(|name| Some(*name) != home.as_deref()) {
        return Err(Fault::conflict(format!(
            "Project {id} still owns the namespace {other}; delete it first."
        )));
    }
    session.global::<Project>().delete(ids::name(&project), &DeleteParams::default()).await?;
    if let Some(home) = home {
        match namespaces.delete(&home, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => drop(other?),
        }
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn refuse_if_used(session: &Session, project: &str, home: &str) -> Result<(), Fault> {
    let nothing = |_: &str| false;
    refuse_if_any::<VirtualMachine>(session, home, project, "servers", nothing).await?;
    refuse_if_any::<Volume>(session, home, project, "volumes", nothing).await?;
    refuse_if_any::<Network>(session, home, project, "networks", nothing).await?;
    refuse_if_any::<Image>(session, home, project, "images", nothing).await?;
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
        Some(name) => {
            Err(Fault::conflict(format!("Project {project} still has {what} ({name}); delete them first.")))
        }
    }
}
