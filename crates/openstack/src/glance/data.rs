//! The bytes of an image, streamed to and from the nodes.

use axum::body::Body;
use axum::extract::{Path, Request};
use axum::http::{Method, StatusCode, header};
use axum::response::IntoResponse;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use serde::Deserialize;
use serde_json::json;
use yunfan_resources::Identified;
use yunfan_resources::image::{Image, ImagePhase, ImageStatus};

use super::images::find;
use super::view;
use crate::auth::Session;
use crate::error::{Answer, Fault};
use crate::nova::is_ready;
use crate::{Ctx, ids, nodes};

/// What an agent says of the bytes that it got.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    size_bytes: u64,
    virtual_size_bytes: u64,
    sha512: String,
    md5: String,
}

/// `PUT /images/{id}/file`
pub(super) async fn upload(session: Session, Path(id): Path<String>, request: Request) -> Answer {
    let kind =
        request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if kind != "application/octet-stream" {
        return Err(Fault::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("The content type {kind} is not supported; send application/octet-stream"),
        ));
    }
    let image = find(&session, &id).await?;
    let phase = image.status.as_ref().map(|status| status.phase).unwrap_or_default();
    if !matches!(phase, ImagePhase::Queued | ImagePhase::Failed) {
        return Err(Fault::conflict(format!(
            "Image {id} already has data (its status is {}); images never change, so make another one.",
            view::status(&image)
        )));
    }
    may_change(&session, &image).await?;
    let node = ready_node(&session).await?;
    let upload = Upload { door: session.door.clone(), image, node };
    // In a task of its own: when the client goes away this handler is dropped, and what was begun must still be ended.
    tokio::spawn(upload.run(request.into_body())).await.map_err(|error| {
        Fault::new(StatusCode::INTERNAL_SERVER_ERROR, format!("The upload broke off: {error}"))
    })??;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Asks the API server, by a change that changes nothing, whether the caller may write this image: the agent is asked as the cloud
/// itself, and would take the bytes from anybody.
async fn may_change(session: &Session, image: &Image) -> Result<(), Fault> {
    let params = PatchParams { dry_run: true, ..PatchParams::default() };
    let same = Patch::Merge(json!({"spec": {"protected": image.spec.protected}}));
    session.own::<Image>()?.patch(ids::name(image), &params, &same).await?;
    Ok(())
}

/// A node whose agent is there. Nodes are the cloud's, not the caller's, so it is the cloud that looks.
async fn ready_node(session: &Session) -> Result<String, Fault> {
    let nodes = ids::list(&Api::<Node>::all(session.door.system.clone())).await?;
    nodes.iter().find(|node| is_ready(node)).map(|node| ids::name(node).to_owned()).ok_or_else(|| {
        Fault::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "No node is ready to take the image; try again when one is.",
        )
    })
}

/// One upload. The caller may write the image; its status, which tenants may not write, is written for the cloud.
struct Upload {
    door: Ctx,
    image: Image,
    node: String,
}

impl Upload {
    async fn run(self, body: Body) -> Result<(), Fault> {
        // The node is written down first: whatever happens from here on, deleting the image also deletes its bytes.
        let saving = ImageStatus {
            phase: ImagePhase::Saving,
            nodes: vec![self.node.clone()],
            ..ImageStatus::default()
        };
        self.write(&saving).await?;
        let stored = match self.send(body).await {
            Ok(stored) => stored,
            Err(fault) => {
                // As in Glance, the image waits for bytes again.
                if let Err(other) = self.write(&ImageStatus::default()).await {
                    tracing::warn!(%other, image = self.image.id(), "an image whose upload failed stays in saving");
                }
                return Err(fault);
            }
        };
        let active = ImageStatus {
            phase: ImagePhase::Active,
            size_bytes: Some(stored.size_bytes),
            virtual_size_bytes: Some(stored.virtual_size_bytes),
            sha512: Some(stored.sha512),
            md5: Some(stored.md5),
            nodes: vec![self.node.clone()],
            message: None,
        };
        let written = self.write(&active).await;
        if written.as_ref().is_err_and(|fault| fault.status == StatusCode::NOT_FOUND) {
            let path = format!("/images/{}", self.image.id());
            if let Err(fault) =
                nodes::ask(&*self.door.nodes, &self.node, Method::DELETE, &path, Body::empty()).await
            {
                tracing::warn!(%fault, image = self.image.id(), "the bytes of a deleted image stay on a node for now");
            }
            return Err(Fault::new(StatusCode::GONE, "The image was deleted during the upload."));
        }
        written
    }

    async fn send(&self, body: Body) -> Result<Stored, Fault> {
        let (namespace, id) = (ids::namespace(&self.image), self.image.id());
        let path = format!("/images/{namespace}/{id}?format={}", view::format(self.image.spec.disk_format));
        let response = nodes::ask(&*self.door.nodes, &self.node, Method::PUT, &path, body).await?;
        crate::body::parse(nodes::text(response).await?.as_bytes()).map_err(|fault| {
            tracing::error!(%fault, node = self.node, "an agent's answer to an upload cannot be read");
            Fault::new(
                StatusCode::BAD_GATEWAY,
                format!("The agent on node {} gave an answer that cannot be read.", self.node),
            )
        })
    }

    async fn write(&self, status: &ImageStatus) -> Result<(), Fault> {
        let images = Api::<Image>::namespaced(self.door.system.clone(), ids::namespace(&self.image));
        // What was there before and is not now must go, so absent members are written as null.
        let status = json!({
            "phase": status.phase, "sizeBytes": status.size_bytes, "virtualSizeBytes": status.virtual_size_bytes,
            "sha512": status.sha512, "md5": status.md5, "nodes": status.nodes, "message": status.message,
        });
        let patch = Patch::Merge(json!({"metadata": {"uid": self.image.metadata.uid}, "status": status}));
        images.patch_status(ids::name(&self.image), &PatchParams::default(), &patch).await?;
        Ok(())
    }
}

/// `GET /images/{id}/file`
pub(super) async fn download(session: Session, Path(id): Path<String>) -> Answer {
    let image = find(&session, &id).await?;
    let status = image.status.clone().unwrap_or_default();
    if status.phase != ImagePhase::Active {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let path = format!("/images/{}", image.id());
    let mut last = Fault::new(StatusCode::SERVICE_UNAVAILABLE, "No node that has the image answers.");
    for node in &status.nodes {
        match nodes::ask(&*session.door.nodes, node, Method::GET, &path, Body::empty()).await {
            Ok(answer) => {
                let mut response = Body::new(answer.into_body()).into_response();
                let headers = response.headers_mut();
                headers.insert(
                    header::CONTENT_TYPE,
                    header::HeaderValue::from_static("application/octet-stream"),
                );
                if let Some(size) = status.size_bytes {
                    headers.insert(header::CONTENT_LENGTH, size.into());
                }
                if let Some(Ok(md5)) = status.md5.as_deref().map(header::HeaderValue::from_str) {
                    headers.insert("content-md5", md5);
                }
                return Ok(response);
            }
            Err(fault) => last = fault,
        }
    }
    Err(last)
}
