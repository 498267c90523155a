//! Glance v2: disk images. An image is an Image object; its bytes are on the nodes and are streamed through.

mod data;
mod images;
mod import;
mod members;
mod metadefs;
mod own;
mod places;
mod update;
mod view;
mod visible;
mod web;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{get, post, put};
pub(crate) use data::empty;
pub(crate) use images::{delete as delete_image, may_publish};
pub(crate) use update::replace_properties;
pub(crate) use visible::{find as find_visible, seen};

use crate::Ctx;
use crate::error::{Shape, render};
use crate::versions::{self, json_response, ok};

/// Everything below `/image`.
pub(crate) fn router(door: Ctx) -> Router {
    let endpoint = door.endpoint.clone();
    let v2 = Router::new()
        .route("/", get(root))
        .route("/images", get(images::list).post(images::create))
        .route("/images/{id}", get(images::show).patch(update::patch).delete(images::delete))
        .route("/images/{id}/file", put(data::upload).get(data::download))
        .route("/images/{id}/tags/{tag}", put(update::add_tag).delete(update::remove_tag))
        .route("/images/{id}/stage", put(import::stage))
        .route("/images/{id}/import", post(import::import))
        .route("/images/{id}/tasks", get(import::tasks))
        .route("/tasks", get(import::all_tasks))
        .route("/tasks/{id}", get(import::task))
        .route("/images/{id}/actions/deactivate", post(import::deactivate))
        .route("/images/{id}/actions/reactivate", post(import::reactivate))
        .route("/images/{id}/members", get(members::list).post(members::create))
        .route(
            "/images/{id}/members/{member}",
            get(members::show).put(members::answer).delete(members::delete),
        )
        .route("/info/import", get(import::methods))
        .route("/info/stores", get(import::stores))
        .route("/info/usage", get(import::usage))
        .route("/schemas/image", get(view::schema))
        .route("/schemas/images", get(view::list_schema))
        .route("/schemas/member", get(view::of_member))
        .route("/schemas/members", get(view::of_members))
        .merge(metadefs::routes());
    Router::new()
        .route("/", get(root))
        .route("/versions", get(versions))
        .nest("/v2", v2)
        .layer(map_response(move |response: Response| {
            let response = render(Shape::Glance, &endpoint, response);
            async move { response }
        }))
        .with_state(door)
}

async fn root(State(door): State<Ctx>) -> Response {
    json_response(StatusCode::MULTIPLE_CHOICES, &versions::glance(&door.endpoint))
}

async fn versions(State(door): State<Ctx>) -> Response {
    ok(&versions::glance(&door.endpoint))
}
