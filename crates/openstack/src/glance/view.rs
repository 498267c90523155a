//! An Image as Glance shows it.

use axum::response::Response;
use serde_json::{Map, Value, json};
use yunfan_resources::Identified;
use yunfan_resources::image::{ContainerFormat, DiskFormat, Image, ImagePhase, ImageStatus, Visibility};

use super::import::STORE;
use crate::auth::Session;
use crate::stamp;
use crate::versions::ok;

/// Members that are no free properties.
pub(super) const BASE: [&str; 29] = [
    "id",
    "name",
    "status",
    "visibility",
    "protected",
    "tags",
    "disk_format",
    "container_format",
    "size",
    "virtual_size",
    "checksum",
    "os_hash_algo",
    "os_hash_value",
    "min_disk",
    "min_ram",
    "owner",
    "os_hidden",
    "created_at",
    "updated_at",
    "self",
    "file",
    "schema",
    "locations",
    "direct_url",
    "members",
    "stores",
    "deleted",
    "deleted_at",
    "is_public",
];

/// Glance's word for where an image stands.
pub(super) fn status(image: &Image) -> &'static str {
    if image.metadata.deletion_timestamp.is_some() {
        return "pending_delete";
    }
    match image.status.as_ref().map(|status| status.phase).unwrap_or_default() {
        ImagePhase::Queued => "queued",
        ImagePhase::Saving => "saving",
        ImagePhase::Staged => "uploading",
        ImagePhase::Active if image.spec.deactivated => "deactivated",
        ImagePhase::Active => "active",
        ImagePhase::Failed => "killed",
    }
}

/// The image as Glance shows it; `owner` is the project's id.
pub(super) fn view(image: &Image, owner: &str) -> Value {
    let (id, spec) = (image.id(), &image.spec);
    let bytes = image.status.clone().unwrap_or_default();
    // What is staged is not the image's yet.
    let bytes = if bytes.phase == ImagePhase::Staged { ImageStatus::default() } else { bytes };
    let mut view: Map<String, Value> =
        spec.properties.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    let base = json!({
        "id": id, "name": spec.display_name, "status": status(image), "visibility": spec.visibility.name(),
        "protected": spec.protected, "tags": spec.tags, "disk_format": spec.disk_format.name(),
        "container_format": spec.container_format.name(), "size": bytes.size_bytes,
        "virtual_size": bytes.virtual_size_bytes, "checksum": bytes.md5,
        "os_hash_algo": bytes.sha512.as_ref().map(|_| "sha512"), "os_hash_value": bytes.sha512,
        "min_disk": spec.min_disk_gib, "min_ram": spec.min_ram_mib, "owner": owner, "os_hidden": spec.hidden,
        "created_at": stamp::seconds(stamp::created(image)), "updated_at": stamp::seconds(stamp::updated(image)),
        "self": format!("/v2/images/{id}"), "file": format!("/v2/images/{id}/file"), "schema": "/v2/schemas/image",
    });
    if let Value::Object(base) = base {
        view.extend(base);
    }
    if bytes.phase == ImagePhase::Queued && bytes.message.is_some() {
        // As Glance says that what was to be fetched could not be.
        view.insert("os_glance_failed_import".to_owned(), json!(STORE));
        view.insert("os_glance_import_error".to_owned(), json!(bytes.message));
    }
    if bytes.phase == ImagePhase::Active {
        view.insert("stores".to_owned(), json!(STORE));
    }
    Value::Object(view)
}

fn names<T: Copy>(all: &[T], name: fn(T) -> &'static str) -> Vec<&'static str> {
    all.iter().map(|one| name(*one)).collect()
}

fn image_schema() -> Value {
    let text = json!({"type": ["null", "string"]});
    let number = json!({"type": ["null", "integer"]});
    let enumerated = |values: &[&str]| json!({"type": ["null", "string"], "enum": values});
    json!({
        "name": "image",
        "properties": {
            "id": {"type": "string", "pattern": "^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){12}$"},
            "name": {"type": ["null", "string"], "maxLength": 255},
            "status": {"type": "string", "readOnly": true, "enum": ["queued", "saving", "uploading", "active", "deactivated", "killed", "pending_delete"]},
            "visibility": {"type": "string", "enum": names(&Visibility::ALL, Visibility::name)},
            "protected": {"type": "boolean"}, "os_hidden": {"type": "boolean"},
            "disk_format": enumerated(&names(&DiskFormat::ALL, DiskFormat::name)),
            "container_format": enumerated(&names(&ContainerFormat::ALL, ContainerFormat::name)),
            "stores": {"type": "string", "readOnly": true},
            "min_disk": {"type": "integer"}, "min_ram": {"type": "integer"}, "size": number, "virtual_size": number,
            "checksum": text, "os_hash_algo": text, "os_hash_value": text, "owner": text,
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 255}},
            "created_at": text, "updated_at": text, "self": text, "file": text, "schema": text,
        },
        "additionalProperties": {"type": "string"},
        "links": [{"rel": "self", "href": "{self}"}, {"rel": "enclosure", "href": "{file}"}, {"rel": "describedby", "href": "{schema}"}],
    })
}

/// `GET /schemas/image`
pub(super) async fn schema(_: Session) -> Response {
    ok(&image_schema())
}

/// `GET /schemas/images`
pub(super) async fn list_schema(_: Session) -> Response {
    ok(&json!({
        "name": "images",
        "properties": {
            "images": {"type": "array", "items": image_schema()},
            "first": {"type": "string"}, "next": {"type": "string"}, "schema": {"type": "string"},
        },
        "links": [{"rel": "first", "href": "{first}"}, {"rel": "next", "href": "{next}"}, {"rel": "describedby", "href": "{schema}"}],
    }))
}

fn member_schema() -> Value {
    let text = json!({"type": "string"});
    json!({
        "name": "member",
        "properties": {
            "created_at": text, "image_id": text, "member_id": text, "schema": {"readOnly": true, "type": "string"},
            "status": {"type": "string", "enum": ["pending", "accepted", "rejected"]}, "updated_at": text,
        },
    })
}

/// `GET /schemas/member`
pub(super) async fn of_member(_: Session) -> Response {
    ok(&member_schema())
}

/// `GET /schemas/members`
pub(super) async fn of_members(_: Session) -> Response {
    ok(&json!({
        "name": "members",
        "properties": {"members": {"type": "array", "items": member_schema()}, "schema": {"type": "string"}},
        "links": [{"rel": "describedby", "href": "{schema}"}],
    }))
}

#[cfg(test)]
mod tests {
    use yunfan_resources::image::{ImageSpec, ImageStatus};

    use super::*;

    #[test]
    fn an_image_is_shown_flat_and_its_properties_hide_nothing() {
        let spec = ImageSpec {
            id: Some("7".into()),
            display_name: Some("cirros".into()),
            properties: [
                ("hw_disk_bus".to_owned(), "virtio".to_owned()),
                ("status".to_owned(), "active".to_owned()),
            ]
            .into(),
            ..ImageSpec::default()
        };
        let mut image = Image::new("cirros", spec);
        let shown = view(&image, "p");
        assert_eq!((&shown["hw_disk_bus"], &shown["status"]), (&json!("virtio"), &json!("queued")));
        assert_eq!((&shown["size"], &shown["os_hash_algo"]), (&Value::Null, &Value::Null));
        image.status = Some(ImageStatus {
            phase: ImagePhase::Active,
            sha512: Some("ab".into()),
            ..ImageStatus::default()
        });
        assert_eq!(view(&image, "p")["os_hash_algo"], "sha512");
    }

    #[test]
    fn the_view_has_no_member_that_could_be_taken_for_a_property() {
        let shown = view(&Image::new("a", ImageSpec::default()), "p");
        assert!(shown.as_object().unwrap().keys().all(|key| BASE.contains(&key.as_str())));
    }
}
