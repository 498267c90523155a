//! The version documents that clients read first.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::microversion::{CINDER, NOVA, PLACEMENT};

/// A JSON answer.
pub(crate) fn json_response(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// 200 with a JSON body.
pub(crate) fn ok(body: &Value) -> Response {
    json_response(StatusCode::OK, body)
}

/// One entry of Keystone's list.
pub(crate) fn keystone(endpoint: &str) -> Value {
    json!({
        "id": "v3.14", "status": "stable", "updated": "2020-04-07T00:00:00Z",
        "links": [{"rel": "self", "href": format!("{endpoint}/identity/v3/")}],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}],
    })
}

/// One entry of Nova's list.
pub(crate) fn nova(endpoint: &str) -> Value {
    json!({
        "id": "v2.1", "status": "CURRENT", "updated": "2013-07-23T11:33:21Z",
        "min_version": NOVA.min_text(), "version": NOVA.max_text(),
        "links": [{"rel": "self", "href": format!("{endpoint}/compute/v2.1/")}],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.compute+json;version=2.1"}],
    })
}

/// The entry of Nova's list for clients from before there were microversions.
pub(crate) fn first_nova(endpoint: &str) -> Value {
    json!({
        "id": "v2.0", "status": "SUPPORTED", "updated": "2011-01-21T11:33:21Z", "min_version": "", "version": "",
        "links": [{"rel": "self", "href": format!("{endpoint}/compute/v2/")}],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.compute+json;version=2"}],
    })
}

/// Glance's list. Minor versions are promises that were added: 2.7 brought the multihash.
pub(crate) fn glance(endpoint: &str) -> Value {
    let versions: Vec<Value> = (0..=7)
        .rev()
        .map(|minor| {
            json!({
                "id": format!("v2.{minor}"),
                "status": if minor == 7 { "CURRENT" } else { "SUPPORTED" },
                "links": [{"rel": "self", "href": format!("{endpoint}/image/v2/")}],
            })
        })
        .collect();
    json!({"versions": versions})
}

/// One entry of Neutron's list.
pub(crate) fn neutron(endpoint: &str) -> Value {
    json!({
        "id": "v2.0", "status": "CURRENT",
        "links": [{"rel": "self", "href": format!("{endpoint}/network/v2.0/")}],
    })
}

/// One entry of Cinder's list.
pub(crate) fn cinder(endpoint: &str) -> Value {
    json!({
        "id": "v3.0", "status": "CURRENT", "updated": "2023-08-31T00:00:00Z",
        "min_version": CINDER.min_text(), "version": CINDER.max_text(),
        "links": [{"rel": "self", "href": format!("{endpoint}/volume/v3/")}],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.volume+json;version=3"}],
    })
}

/// One entry of placement's list.
pub(crate) fn placement() -> Value {
    json!({
        "id": "v1.0", "status": "CURRENT", "min_version": PLACEMENT.min_text(), "max_version": PLACEMENT.max_text(),
        "links": [{"rel": "self", "href": ""}],
    })
}
