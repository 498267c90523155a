//! Glance v2: disk images. An image is an Image object; its bytes are on the nodes and are streamed through.

mod data;
mod images;
mod update;
mod view;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{get, put};
use serde_json::json;

use crate::Ctx;
use crate::auth::Session;
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
        .route("/images/{id}/members", get(images::members))
        .route("/info/import", get(import_methods))
        .route("/info/stores", get(stores))
        .route("/schemas/image", get(view::schema))
        .route("/schemas/images", get(view::list_schema));
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

/// Bytes come in by `PUT .../file`; there is no other way.
async fn import_methods(_: Session) -> Response {
    ok(&json!({"import-methods": {"description": "Import methods available.", "type": "array", "value": []}}))
}

async fn stores(_: Session) -> Response {
    ok(&json!({"stores": []}))
}
