//! Which endpoints a project sees (Keystone's OS-EP-FILTER): single ones, and groups of those that have something in common. A group is an
//! EndpointGroup; which a project sees is in its Project, and goes with it. A project that names none of either sees all.

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, put};
use kube::api::DeleteParams;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use yunfan_resources::Identified;
use yunfan_resources::iam::{EndpointFilters, EndpointGroup, EndpointGroupSpec, Interface, Project};

use super::{catalog, collection, name_matches, projects};
use crate::auth::Session;
use crate::body::{Json, Params, parse_value};
use crate::change::{self, Changes};
use crate::error::{Answer, Fault};
use crate::versions::{json_response, ok};
use crate::{Ctx, ids};

/// Groups in a cloud, and what one project names of each.
const MAX: usize = 1000;
const MAX_NAMED: usize = 200;

/// Everything below `/OS-EP-FILTER`.
pub(super) fn routes() -> Router<Ctx> {
    Router::new()
        .route("/endpoint_groups", get(list).post(create))
        .route("/endpoint_groups/{id}", get(show).patch(update).delete(delete))
        .route("/endpoint_groups/{id}/endpoints", get(endpoints))
        .route("/endpoint_groups/{id}/projects", get(projects_of_group))
        .route(
            "/endpoint_groups/{id}/projects/{project}",
            put(add_group).get(group_of_project).delete(remove_group),
        )
        .route("/projects/{project}/endpoints", get(endpoints_of_project))
        .route(
            "/projects/{project}/endpoints/{endpoint}",
            put(add_endpoint).get(check_endpoint).head(check_endpoint).delete(remove_endpoint),
        )
        .route("/projects/{project}/endpoint_groups", get(groups_of_project))
        .route("/endpoints/{endpoint}/projects", get(projects_of_endpoint))
}

/// What a project's catalog shows, where that is not all.
pub(super) struct Shown {
    endpoints: Vec<String>,
    groups: Vec<EndpointFilters>,
}

impl Shown {
    /// Whether an endpoint of a service, as the catalog shows it, is among it.
    pub(super) fn has(&self, service: &str, endpoint: &Value) -> bool {
        self.endpoints.iter().any(|id| endpoint["id"] == id.as_str())
            || self.groups.iter().any(|filters| is_in(filters, service, endpoint))
    }
}

fn is_in(filters: &EndpointFilters, service: &str, endpoint: &Value) -> bool {
    filters.service_id.as_deref().is_none_or(|wanted| wanted == service)
        && filters.interface.is_none_or(|wanted| endpoint["interface"] == json!(wanted))
        && filters.region.as_deref().is_none_or(|wanted| endpoint["region_id"] == wanted)
}

/// What the catalog of a project (an id) shows; `None` where that is all.
pub(super) async fn shown(door: &Ctx, project: Option<&str>) -> Result<Option<Shown>, Fault> {
    let Some(project) = project else { return Ok(None) };
    let Some(project) = door.directory.with_id::<Project>(project).await? else { return Ok(None) };
    let spec = &project.spec;
    if spec.endpoints.is_empty() && spec.endpoint_groups.is_empty() {
        return Ok(None);
    }
    let mut groups = Vec::with_capacity(spec.endpoint_groups.len());
    for id in &spec.endpoint_groups {
        if let Some(group) = door.directory.with_id::<EndpointGroup>(id).await? {
            groups.push(group.spec.filters.clone());
        }
    }
    Ok(Some(Shown { endpoints: spec.endpoints.clone(), groups }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    endpoint_group: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    filters: Option<Map<String, Value>>,
}

impl Fields {
    fn check(&self) -> Result<(), Fault> {
        ids::check_name("description", self.description.as_deref().unwrap_or_default(), true)?;
        self.name.as_deref().map_or(Ok(()), |name| super::check_name(name, 255))
    }

    /// What the group's endpoints have, where the request says it.
    fn filters(&self) -> Result<Option<EndpointFilters>, Fault> {
        let Some(given) = &self.filters else { return Ok(None) };
        let mut filters = EndpointFilters::default();
        for (key, value) in given {
            let text = value.as_str().filter(|text| (1..=255).contains(&text.len()));
            let text = text.ok_or_else(|| {
                Fault::bad(format!("Invalid input for field/attribute filters. {key} is no text."))
            })?;
            match key.as_str() {
                "service_id" => filters.service_id = Some(text.to_owned()),
                "region_id" => filters.region = Some(text.to_owned()),
                "interface" => filters.interface = Some(parse_value::<Interface>(value.clone())?),
                _ => {
                    return Err(Fault::bad(
                        "Invalid input for field/attribute filters. They are service_id, region_id and interface.",
                    ));
                }
            }
        }
        Ok(Some(filters))
    }
}

fn view(session: &Session, group: &EndpointGroup) -> Value {
    let (spec, id) = (&group.spec, group.id());
    let mut filters = Map::new();
    let filter = &spec.filters;
    for (key, value) in [
        ("service_id", filter.service_id.as_ref().map(|id| json!(id))),
        ("region_id", filter.region.as_ref().map(|id| json!(id))),
        ("interface", filter.interface.map(|interface| json!(interface))),
    ] {
        filters.extend(value.map(|value| (key.to_owned(), value)));
    }
    json!({
        "id": id, "name": group.display_name(), "description": spec.description,
        "filters": filters, "links": catalog::link(session, "OS-EP-FILTER/endpoint_groups", &id),
    })
}

/// The group with this id, as who may read the catalog's parts sees it.
async fn find(session: &Session, id: &str) -> Result<EndpointGroup, Fault> {
    super::for_readers::<EndpointGroup>(session).await?;
    let found = session.door.directory.with_id::<EndpointGroup>(id).await?;
    found.map(|group| (*group).clone()).ok_or_else(|| Fault::not_found("Could not find endpoint group:", id))
}

/// Refuses a service and a region that there is not.
async fn check_filters(session: &Session, filters: Option<&EndpointFilters>) -> Result<(), Fault> {
    let Some(filters) = filters else { return Ok(()) };
    let has = |views: Vec<Value>, id: &str| views.iter().any(|view| view["id"] == id);
    if let Some(id) = &filters.service_id
        && !has(catalog::service_views(session).await?, id)
    {
        return Err(Fault::not_found("Could not find service:", id));
    }
    if let Some(id) = &filters.region
        && !has(catalog::region_views(session).await?, id)
    {
        return Err(Fault::not_found("Could not find region:", id));
    }
    Ok(())
}

/// `GET /endpoint_groups`
async fn list(session: Session, params: Params) -> Answer {
    super::for_readers::<EndpointGroup>(&session).await?;
    let mut groups = session.door.directory.all::<EndpointGroup>().await?.list();
    groups.retain(|group| name_matches(&params, &group.display_name()));
    let views = groups.iter().map(|group| view(&session, group)).collect();
    Ok(collection(&session, "endpoint_groups", "OS-EP-FILTER/endpoint_groups", views))
}

/// `GET` and `HEAD /endpoint_groups/{id}`
async fn show(session: Session, Path(id): Path<String>) -> Answer {
    let group = find(&session, &id).await?;
    Ok(ok(&json!({"endpoint_group": view(&session, &group)})))
}

/// `POST /endpoint_groups`
async fn create(session: Session, Json(body): Json<Body>) -> Answer {
    let fields = body.endpoint_group;
    fields.check()?;
    let filters = fields.filters()?.ok_or_else(|| Fault::bad("'filters' is a required property"))?;
    check_filters(&session, Some(&filters)).await?;
    let name = fields.name.ok_or_else(|| Fault::bad("'name' is a required property"))?;
    if session.door.directory.all::<EndpointGroup>().await?.list().len() >= MAX {
        return Err(Fault::forbidden(format!("There are at most {MAX} endpoint groups; delete some first.")));
    }
    let id = ids::plain();
    let spec = EndpointGroupSpec {
        id: Some(id.clone()),
        display_name: Some(name),
        description: fields.description,
        filters,
    };
    let group = EndpointGroup::new("", spec);
    let made =
        ids::create(&session.global::<EndpointGroup>(), group, &format!("endpoint-group-{id}")).await?;
    session.door.directory.saw(&made).await?;
    Ok(json_response(StatusCode::CREATED, &json!({"endpoint_group": view(&session, &made)})))
}

/// `PATCH /endpoint_groups/{id}`
async fn update(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    let fields = body.endpoint_group;
    fields.check()?;
    let filters = fields.filters()?;
    check_filters(&session, filters.as_ref()).await?;
    let group = find(&session, &id).await?;
    // All of them: what is not named any more is taken away.
    let filters = filters.map(|wanted| {
        json!({"serviceId": wanted.service_id, "interface": wanted.interface, "region": wanted.region})
    });
    let changes = Changes::default()
        .set("displayName", fields.name)
        .set("description", fields.description)
        .set("filters", filters);
    let group = changes.apply(&session.global::<EndpointGroup>(), &group).await?;
    session.door.directory.saw(&group).await?;
    Ok(ok(&json!({"endpoint_group": view(&session, &group)})))
}

/// `DELETE /endpoint_groups/{id}`: projects that saw its endpoints name it no more.
async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    let group = find(&session, &id).await?;
    for project in session.door.directory.all::<Project>().await?.list() {
        if project.spec.endpoint_groups.contains(&id) {
            edit(&session, &project, Named::Group, |all| all.retain(|other| *other != id)).await?;
        }
    }
    session.global::<EndpointGroup>().delete(ids::name(&group), &DeleteParams::default()).await?;
    session.door.directory.saw_gone(&group).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Takes an endpoint that goes from what projects name.
pub(super) async fn forget_endpoint(session: &Session, id: &str) -> Result<(), Fault> {
    for project in session.door.directory.all::<Project>().await?.list() {
        if project.spec.endpoints.iter().any(|other| other == id) {
            edit(session, &project, Named::Endpoint, |all| all.retain(|other| other != id)).await?;
        }
    }
    Ok(())
}

/// What a project names.
#[derive(Clone, Copy)]
enum Named {
    Endpoint,
    Group,
}

impl Named {
    fn of(self, project: &Project) -> &Vec<String> {
        match self {
            Self::Endpoint => &project.spec.endpoints,
            Self::Group => &project.spec.endpoint_groups,
        }
    }
}

async fn edit(
    session: &Session,
    project: &Project,
    what: Named,
    change: impl Fn(&mut Vec<String>),
) -> Result<(), Fault> {
    let projects = session.global::<Project>();
    let edited = change::edit(&projects, project.clone(), |project| {
        let mut named = what.of(project).clone();
        change(&mut named);
        if named.len() > MAX_NAMED {
            let text = format!("A project names at most {MAX_NAMED} endpoints, and as many endpoint groups.");
            return Err(Fault::forbidden(text));
        }
        let member = match what {
            Named::Endpoint => "endpoints",
            Named::Group => "endpointGroups",
        };
        Ok(Changes::default().set(member, Some(json!(named))))
    });
    let project = edited.await?;
    session.door.directory.saw(&project).await
}

async fn add(session: &Session, project: &Project, what: Named, id: &str) -> Answer {
    let add = |all: &mut Vec<String>| {
        if !all.iter().any(|other| other == id) {
            all.push(id.to_owned());
        }
    };
    edit(session, project, what, add).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn remove(session: &Session, project: &Project, what: Named, id: &str) -> Answer {
    check(what, project, id)?;
    edit(session, project, what, |all| all.retain(|other| other != id)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Refuses what a project does not name.
fn check(what: Named, project: &Project, id: &str) -> Result<(), Fault> {
    let word = match what {
        Named::Endpoint => "endpoint",
        Named::Group => "endpoint group",
    };
    let named = what.of(project).iter().any(|other| other == id);
    named.then_some(()).ok_or_else(|| {
        let text = format!("Could not find {word} {id} associated with project {}.", project.id());
        Fault::new(StatusCode::NOT_FOUND, text)
    })
}

/// The endpoint with this id, as lists show it.
async fn endpoint(session: &Session, id: &str) -> Result<Value, Fault> {
    let found = catalog::endpoint_views(session).await?.into_iter().find(|view| view["id"] == id);
    found.ok_or_else(|| Fault::not_found("Could not find endpoint:", id))
}

/// `GET /endpoint_groups/{id}/endpoints`
async fn endpoints(session: Session, Path(id): Path<String>) -> Answer {
    let filters = find(&session, &id).await?.spec.filters;
    let mut views = catalog::endpoint_views(&session).await?;
    views.retain(|view| is_in(&filters, view["service_id"].as_str().unwrap_or_default(), view));
    let path = format!("OS-EP-FILTER/endpoint_groups/{id}/endpoints");
    Ok(collection(&session, "endpoints", &path, views))
}

async fn project_views(session: &Session, what: Named, id: &str) -> Result<Vec<Value>, Fault> {
    let mut views = Vec::new();
    for project in ids::list(&session.global::<Project>()).await? {
        if what.of(&project).iter().any(|other| other == id) {
            views.push(projects::view(session, &project).await?);
        }
    }
    Ok(views)
}

/// `GET /endpoint_groups/{id}/projects`
async fn projects_of_group(session: Session, Path(id): Path<String>) -> Answer {
    find(&session, &id).await?;
    let views = project_views(&session, Named::Group, &id).await?;
    Ok(collection(&session, "projects", &format!("OS-EP-FILTER/endpoint_groups/{id}/projects"), views))
}

/// `PUT /endpoint_groups/{id}/projects/{project}`
async fn add_group(session: Session, Path((id, project)): Path<(String, String)>) -> Answer {
    find(&session, &id).await?;
    let project = projects::find(&session, &project).await?;
    add(&session, &project, Named::Group, &id).await
}

/// `GET` and `HEAD /endpoint_groups/{id}/projects/{project}`
async fn group_of_project(session: Session, Path((id, project)): Path<(String, String)>) -> Answer {
    find(&session, &id).await?;
    let project = projects::find(&session, &project).await?;
    check(Named::Group, &project, &id)?;
    let links =
        catalog::link(&session, &format!("OS-EP-FILTER/endpoint_groups/{id}/projects"), &project.id());
    Ok(ok(&json!({"project": {"project_id": project.id(), "endpoint_group_id": id, "links": links}})))
}

/// `DELETE /endpoint_groups/{id}/projects/{project}`
async fn remove_group(session: Session, Path((id, project)): Path<(String, String)>) -> Answer {
    find(&session, &id).await?;
    let project = projects::find(&session, &project).await?;
    remove(&session, &project, Named::Group, &id).await
}

/// `GET /projects/{project}/endpoint_groups`
async fn groups_of_project(session: Session, Path(id): Path<String>) -> Answer {
    super::for_readers::<EndpointGroup>(&session).await?;
    let project = projects::find(&session, &id).await?;
    let mut groups = session.door.directory.all::<EndpointGroup>().await?.list();
    groups.retain(|group| project.spec.endpoint_groups.contains(&group.id()));
    let views = groups.iter().map(|group| view(&session, group)).collect();
    Ok(collection(&session, "endpoint_groups", &format!("OS-EP-FILTER/projects/{id}/endpoint_groups"), views))
}

/// `GET /projects/{project}/endpoints`: those that its catalog shows because they, or a group of theirs, are named.
async fn endpoints_of_project(session: Session, Path(id): Path<String>) -> Answer {
    super::for_readers::<EndpointGroup>(&session).await?;
    projects::find(&session, &id).await?;
    let shown = shown(&session.door, Some(&id)).await?;
    let mut views = catalog::endpoint_views(&session).await?;
    views.retain(|view| {
        let service = view["service_id"].as_str().unwrap_or_default();
        shown.as_ref().is_some_and(|shown| shown.has(service, view))
    });
    Ok(collection(&session, "endpoints", &format!("OS-EP-FILTER/projects/{id}/endpoints"), views))
}

/// `PUT /projects/{project}/endpoints/{endpoint}`
async fn add_endpoint(session: Session, Path((project, id)): Path<(String, String)>) -> Answer {
    super::for_readers::<EndpointGroup>(&session).await?;
    endpoint(&session, &id).await?;
    let project = projects::find(&session, &project).await?;
    add(&session, &project, Named::Endpoint, &id).await
}

/// `GET` and `HEAD /projects/{project}/endpoints/{endpoint}`
async fn check_endpoint(session: Session, Path((project, id)): Path<(String, String)>) -> Answer {
    super::for_readers::<EndpointGroup>(&session).await?;
    endpoint(&session, &id).await?;
    let project = projects::find(&session, &project).await?;
    check(Named::Endpoint, &project, &id)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `DELETE /projects/{project}/endpoints/{endpoint}`
async fn remove_endpoint(session: Session, Path((project, id)): Path<(String, String)>) -> Answer {
    super::for_readers::<EndpointGroup>(&session).await?;
    let project = projects::find(&session, &project).await?;
    remove(&session, &project, Named::Endpoint, &id).await
}

/// `GET /endpoints/{endpoint}/projects`
async fn projects_of_endpoint(session: Session, Path(id): Path<String>) -> Answer {
    super::for_readers::<EndpointGroup>(&session).await?;
    endpoint(&session, &id).await?;
    let views = project_views(&session, Named::Endpoint, &id).await?;
    Ok(collection(&session, "projects", &format!("OS-EP-FILTER/endpoints/{id}/projects"), views))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_what_has_all_that_it_names() {
        let filters = |given: Value| {
            let fields: Fields = serde_json::from_value(json!({"filters": given})).unwrap();
            fields.filters()
        };
        let endpoint = json!({"id": "e", "interface": "public", "region_id": "North"});
        let has = |given: Value| is_in(&filters(given).unwrap().unwrap(), "s", &endpoint);
        assert!(
            has(json!({})) && has(json!({"service_id": "s", "interface": "public", "region_id": "North"}))
        );
        assert!(!has(json!({"service_id": "t", "interface": "public"})));
        assert!(!has(json!({"interface": "admin"})) && !has(json!({"region_id": "South"})));
        for wrong in [json!({"colour": "red"}), json!({"interface": "none"}), json!({"service_id": 1})] {
            assert!(filters(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
