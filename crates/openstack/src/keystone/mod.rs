//! Keystone v3: tokens, the catalog, projects, users, groups, roles and who has which, and what users let others do in their name.
//!
//! A project is a Project object and the namespace that its loop makes; a user is a User object and a Secret with the password's hash;
//! a role assignment is a RoleBinding in the project's namespace, or a RoleGrant where there is no such place.

mod access_rules;
mod application_credentials;
mod assignment_list;
mod assignments;
mod catalog;
mod credentials;
mod delegated;
mod domains;
mod ec2;
mod endpoint_groups;
mod groups;
mod named;
mod policies;
mod projects;
mod roles;
mod scope;
mod signin;
mod tags;
mod tokens;
mod trusts;
mod users;

use std::fmt::Debug;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post, put};
use k8s_openapi::ClusterResourceScope;
use kube::api::ListParams;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::auth::Session;
use crate::body::Params;
use crate::error::{Fault, Shape, render};
use crate::versions::{self, json_response, ok};
use crate::{Ctx, ids};

/// Everything below `/identity`.
pub(crate) fn router(door: Ctx) -> Router {
    let endpoint = door.endpoint.clone();
    let v3 = Router::new()
        .route("/", get(version))
        .merge(sign_in())
        .merge(people())
        .merge(granted())
        .merge(in_their_name())
        .merge(in_catalog())
        .nest("/OS-EP-FILTER", endpoint_groups::routes());
    Router::new()
        .route("/", get(root))
        .nest("/v3", v3)
        .layer(axum::middleware::map_response(move |response: Response| {
            let response = render(Shape::Keystone, &endpoint, response);
            async move { response }
        }))
        .with_state(door)
}

fn sign_in() -> Router<Ctx> {
    Router::new()
        .route("/auth/tokens", post(tokens::issue).get(tokens::validate).delete(tokens::revoke))
        .route("/auth/projects", get(tokens::projects))
        .route("/auth/domains", get(tokens::domains))
        .route("/auth/system", get(tokens::system))
        .route("/auth/catalog", get(catalog::show))
}

/// Who there is, and in what.
fn people() -> Router<Ctx> {
    Router::new()
        .route("/domains", get(domains::list).post(domains::create))
        .route("/domains/{id}", get(domains::show).patch(domains::update).delete(domains::delete))
        .route("/projects", get(projects::list).post(projects::create))
        .route("/projects/{id}", get(projects::show).patch(projects::update).delete(projects::delete))
        .route("/projects/{id}/tags", get(tags::list).put(tags::replace).delete(tags::clear))
        .route("/projects/{id}/tags/{tag}", get(tags::check_one).put(tags::add).delete(tags::remove))
        .route("/users", get(users::list).post(users::create))
        .route("/users/{id}", get(users::show).patch(users::update).delete(users::delete))
        .route("/users/{id}/password", post(users::change_password))
        .route("/users/{id}/projects", get(users::projects))
        .route("/users/{id}/groups", get(users::groups))
        .route("/groups", get(groups::list).post(groups::create))
        .route("/groups/{id}", get(groups::show).patch(groups::update).delete(groups::delete))
        .route("/groups/{id}/users", get(groups::members))
        .route("/groups/{group}/users/{user}", put(groups::add).get(groups::check).delete(groups::take_out))
}

/// Roles, and who has which where.
fn granted() -> Router<Ctx> {
    let mut router = Router::new()
        .route("/roles", get(roles::list).post(roles::create))
        .route("/roles/{id}", get(roles::show).patch(roles::update).delete(roles::delete))
        .route("/roles/{id}/implies", get(roles::implies))
        .route(
            "/roles/{prior}/implies/{implied}",
            put(roles::imply).get(roles::implied).head(roles::check_implied).delete(roles::unimply),
        )
        .route("/role_inferences", get(roles::inferences))
        .route("/role_assignments", get(assignment_list::list));
    for place in ["projects/{project}", "domains/{domain}", "system"] {
        for subject in ["users/{user}", "groups/{group}"] {
            let roles = format!("/{place}/{subject}/roles");
            router = router.route(&roles, get(assignments::list)).route(
                &format!("{roles}/{{role}}"),
                put(assignments::grant).get(assignments::check).delete(assignments::revoke),
            );
            if place == "system" {
                continue;
            }
            router = router
                .route(&format!("/OS-INHERIT{roles}/inherited_to_projects"), get(assignments::list_inherited))
                .route(
                    &format!("/OS-INHERIT{roles}/{{role}}/inherited_to_projects"),
                    put(assignments::grant_inherited)
                        .get(assignments::check_inherited)
                        .delete(assignments::revoke_inherited),
                );
        }
    }
    router
}

/// What users let others do in their name.
fn in_their_name() -> Router<Ctx> {
    use application_credentials as app;
    Router::new()
        .route("/users/{user}/application_credentials", get(app::list).post(app::create))
        .route("/users/{user}/application_credentials/{id}", get(app::show).delete(app::delete))
        .route("/users/{user}/access_rules", get(access_rules::list))
        .route("/users/{user}/access_rules/{id}", get(access_rules::show).delete(access_rules::delete))
        .route("/credentials", get(credentials::list).post(credentials::create))
        .route(
            "/credentials/{id}",
            get(credentials::show).patch(credentials::update).delete(credentials::delete),
        )
        .route("/users/{user}/credentials/OS-EC2", get(credentials::list_ec2).post(credentials::create_ec2))
        .route(
            "/users/{user}/credentials/OS-EC2/{access}",
            get(credentials::show_ec2).delete(credentials::delete_ec2),
        )
        .route("/ec2tokens", post(ec2::ec2))
        .route("/s3tokens", post(ec2::s3))
        .route("/OS-TRUST/trusts", get(trusts::list).post(trusts::create))
        .route("/OS-TRUST/trusts/{id}", get(trusts::show).delete(trusts::delete))
        .route("/OS-TRUST/trusts/{id}/roles", get(trusts::roles))
        .route("/OS-TRUST/trusts/{id}/roles/{role}", get(trusts::role).head(trusts::check_role))
}

/// Which services there are.
fn in_catalog() -> Router<Ctx> {
    let (regions, services) = (get(catalog::regions), get(catalog::services));
    Router::new()
        .route("/policies", get(policies::list).post(policies::create))
        .route("/policies/{id}", get(policies::show).patch(policies::update).delete(policies::delete))
        .route("/regions", regions.post(catalog::create_region))
        .route(
            "/regions/{id}",
            get(catalog::region)
                .put(catalog::put_region)
                .patch(catalog::update_region)
                .delete(catalog::delete_region),
        )
        .route("/services", services.post(catalog::create_service))
        .route(
            "/services/{id}",
            get(catalog::service).patch(catalog::update_service).delete(catalog::delete_service),
        )
        .route("/endpoints", get(catalog::endpoints).post(catalog::create_endpoint))
        .route(
            "/endpoints/{id}",
            get(catalog::endpoint).patch(catalog::update_endpoint).delete(catalog::delete_endpoint),
        )
}

async fn root(State(door): State<Ctx>) -> Response {
    let versions = json!({"versions": {"values": [versions::keystone(&door.endpoint)]}});
    json_response(StatusCode::MULTIPLE_CHOICES, &versions)
}

async fn version(State(door): State<Ctx>) -> Response {
    ok(&json!({"version": versions::keystone(&door.endpoint)}))
}

/// Keystone's list: the entries and the links around them.
fn collection(session: &Session, key: &str, path: &str, entries: Vec<Value>) -> Response {
    let url = format!("{}/identity/v3/{path}", session.door.endpoint);
    ok(&json!({key: entries, "links": {"self": url, "previous": null, "next": null}}))
}

/// Refuses what Keystone's default policies keep for admins, of whatever project, and for readers of the whole cloud, who are those that
/// may list objects of the kind.
async fn for_readers<K>(session: &Session) -> Result<(), Fault>
where
    K: kube::Resource<DynamicType = (), Scope = ClusterResourceScope> + Clone + Debug + DeserializeOwned,
{
    if !session.is_admin() {
        session.global::<K>().list(&ListParams::default().limit(1)).await?;
    }
    Ok(())
}

/// What was to be deleted and is not there is no fault.
fn gone<T>(deleted: kube::Result<T>) -> Result<(), Fault> {
    match deleted {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => Ok(other.map(drop)?),
    }
}

/// Refuses names that Keystone has none of.
fn check_name(name: &str, longest: usize) -> Result<(), Fault> {
    ids::check_name("name", name, false)?;
    if name.chars().count() > longest {
        return Err(Fault::bad(format!(
            "Invalid input for field/attribute name. It must have at most {longest} characters."
        )));
    }
    Ok(())
}

/// Whether a name passes the list filters that Keystone's clients send.
fn name_matches(params: &Params, name: &str) -> bool {
    text_matches(params, "name", name)
}

/// Whether a member of an object passes the filters of it: equal, or by a comparison that follows its name after two underscores.
fn text_matches(params: &Params, member: &str, text: &str) -> bool {
    let lower = text.to_lowercase();
    let is = |comparison: &str, holds: &dyn Fn(&str) -> bool| {
        params.get(&format!("{member}{comparison}")).is_none_or(holds)
    };
    is("", &|wanted| wanted == text)
        && is("__contains", &|wanted| text.contains(wanted))
        && is("__icontains", &|wanted| lower.contains(&wanted.to_lowercase()))
        && is("__startswith", &|wanted| text.starts_with(wanted))
        && is("__istartswith", &|wanted| lower.starts_with(&wanted.to_lowercase()))
        && is("__endswith", &|wanted| text.ends_with(wanted))
        && is("__iendswith", &|wanted| lower.ends_with(&wanted.to_lowercase()))
}
