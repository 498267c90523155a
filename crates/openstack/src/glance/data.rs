//! The bytes of an image, streamed to and from the nodes.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Request};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use yunfan_resources::Identified;
use yunfan_resources::image::{Image, ImagePhase, ImageStatus};

use super::images::find;
use super::own;
use super::places::Place;
use super::view;
use super::web::Web;
use crate::auth::Session;
use crate::error::{Answer, Fault, OVER_QUOTA};
use crate::nova::is_ready;
use crate::{Ctx, ids, nodes, quota};

/// How long a client may send nothing.
const SILENCE: Duration = Duration::from_secs(60);

/// How long an image may take to be fetched from elsewhere.
const DOWNLOAD: Duration = Duration::from_secs(6 * 3600);
/// Bytes that come from there, at least, in so much time that is waited for them.
const LEAST: u64 = 60 * 1024;
const PACE: Duration = Duration::from_secs(60);
/// Characters of why that failed.
const MESSAGE: usize = 1000;

/// What an agent says of the bytes that it got.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    size_bytes: u64,
    #[serde(default)]
    stored_bytes: Option<u64>,
    virtual_size_bytes: u64,
    sha512: String,
    md5: String,
}

/// What becomes of bytes that arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// They are the image's.
    Final,
    /// They wait to be imported.
    Staged,
}

/// `PUT /images/{id}/file`
pub(super) async fn upload(session: Session, Path(id): Path<String>, request: Request) -> Answer {
    take(session, id, request, Arrival::Final).await
}

/// Takes an image's bytes.
pub(super) async fn take(session: Session, id: String, request: Request, arrival: Arrival) -> Answer {
    let kind =
        request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if kind != "application/octet-stream" {
        return Err(Fault::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("The content type {kind} is not supported; send application/octet-stream"),
        ));
    }
    let image = find(&session, &id).await?.image;
    let phase = image.status.as_ref().map(|status| status.phase).unwrap_or_default();
    if !matches!(phase, ImagePhase::Queued | ImagePhase::Failed) {
        return Err(Fault::conflict(format!(
            "Image {id} already has data (its status is {}); images never change, so make another one.",
            view::status(&image)
        )));
    }
    if image.is_made() {
        return Err(Fault::conflict(format!(
            "Image {id} is made of a volume or a server; it takes no other data."
        )));
    }
    may_change(&session, &image).await?;
    let most = room(&session, &image).await?;
    let node = ready_node(&session).await?;
    let upload = Upload { door: session.door.clone(), image, node, arrival, most, by_web: false };
    // In a task of its own: when the client goes away this handler is dropped, and what was begun must still be ended.
    tokio::spawn(upload.run(patient(request.into_body(), SILENCE))).await.map_err(|error| {
        Fault::new(StatusCode::INTERNAL_SERVER_ERROR, format!("The upload broke off: {error}"))
    })??;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Has the door fetch an image's bytes from an address. It is answered when that begins; why it failed is said in the image's status.
pub(super) async fn fetch(session: &Session, image: Image, uri: &str) -> Answer {
    let phase = image.status.as_ref().map(|status| status.phase).unwrap_or_default();
    if phase != ImagePhase::Queued || image.is_made() {
        return Err(Fault::conflict(format!(
            "Image needs to be in 'queued' state to use 'web-download' method; it is {}.",
            view::status(&image)
        )));
    }
    may_change(session, &image).await?;
    // Before names are looked up, which may take long.
    let place = Place::take(ids::namespace(&image))?;
    let web = Web::public(own::addresses(session).await?)?;
    let url = web.check(uri).await?;
    let most = room(session, &image).await?;
    let node = ready_node(session).await?;
    let door = session.door.clone();
    let upload = Upload { door, image, node, arrival: Arrival::Final, most, by_web: true };
    upload.begin().await?;
    tokio::spawn(async move {
        let _place = place;
        upload.fill_from(&web, url).await;
    });
    Ok(StatusCode::ACCEPTED.into_response())
}

/// How many bytes the image's project may have beside those that it has; `None` where it has no limit. What comes is charged when it is
/// there, and then refused where it is too much; who begins with nothing left is told at once.
async fn room(session: &Session, image: &Image) -> Result<Option<u64>, Fault> {
    let usages = quota::read(session, ids::namespace(image), &[quota::IMAGE_BYTES]).await?;
    let limited = usages.into_iter().map(|(_, usage)| usage).find(|usage| usage.limit != quota::UNLIMITED);
    let Some(usage) = limited else { return Ok(None) };
    match u64::try_from(usage.limit.saturating_sub(usage.used)) {
        Ok(left) if left > 0 => Ok(Some(left)),
        _ => Err(Fault::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("Quota exceeded for image_size_total: {} of {} bytes are used.", usage.used, usage.limit),
        )),
    }
}

/// A body that ends with an error when the client sends nothing for too long: who is slower than that holds a node's place for nothing.
fn patient(body: Body, silence: Duration) -> Body {
    let pieces = body.into_data_stream();
    Body::from_stream(stream::unfold(Some(pieces), move |pieces| async move {
        let mut pieces = pieces?;
        match tokio::time::timeout(silence, pieces.next()).await {
            Ok(piece) => piece.map(|piece| (piece.map_err(std::io::Error::other), Some(pieces))),
            Err(_) => {
                let text = format!("nothing came for {} seconds", silence.as_secs());
                Some((Err(std::io::Error::new(std::io::ErrorKind::TimedOut, text)), None))
            }
        }
    }))
}

/// A body that ends with an error when fewer than `least` bytes came in `time`. Only what is waited for them counts: a slow node is not
/// the sender's fault.
fn steady(body: Body, time: Duration, least: u64) -> Body {
    let begun = Some((body.into_data_stream(), Duration::ZERO, 0_u64));
    Body::from_stream(stream::unfold(begun, move |state| async move {
        let (mut pieces, mut waited, mut came) = state?;
        let since = Instant::now();
        let piece = match pieces.next().await? {
            Ok(piece) => piece,
            Err(error) => return Some((Err(std::io::Error::other(error)), None)),
        };
        waited += since.elapsed();
        came = came.saturating_add(piece.len() as u64);
        if waited >= time {
            if came < least {
                let text = format!("only {came} bytes came in {} seconds", waited.as_secs());
                return Some((Err(std::io::Error::new(std::io::ErrorKind::TimedOut, text)), None));
            }
            (waited, came) = (Duration::ZERO, 0);
        }
        Some((Ok(piece), Some((pieces, waited, came))))
    }))
}

/// Asks the API server, by a change that changes nothing, whether the caller may write this image: the agent is asked as the cloud
/// itself, and would take the bytes from anybody.
pub(super) async fn may_change(session: &Session, image: &Image) -> Result<(), Fault> {
    let params = PatchParams { dry_run: true, ..PatchParams::default() };
    let same = Patch::Merge(json!({"spec": {"protected": image.spec.protected}}));
    session.within::<Image>(ids::namespace(image)).patch(ids::name(image), &params, &same).await?;
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
    arrival: Arrival,
    /// Most bytes, where its project has a limit.
    most: Option<u64>,
    /// Whether nobody waits for the answer.
    by_web: bool,
}

impl Upload {
    async fn run(self, body: Body) -> Result<(), Fault> {
        self.begin().await?;
        self.fill(body).await
    }

    /// As [`Upload::fill`], with what is at an address.
    async fn fill_from(&self, web: &Web, url: reqwest::Url) {
        let fetching = async {
            match web.get(url, self.most.unwrap_or(u64::MAX)).await {
                Ok(body) => self.fill(steady(patient(body, SILENCE), PACE, LEAST)).await,
                Err(why) => {
                    let fault = Fault::bad(why);
                    self.give_up(&fault).await;
                    Err(fault)
                }
            }
        };
        match tokio::time::timeout(DOWNLOAD, fetching).await {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => {
                tracing::info!(%fault, image = self.image.id(), "an image could not be fetched")
            }
            Err(_) => {
                let why = format!("it was not there within {} h", DOWNLOAD.as_secs() / 3600);
                self.give_up(&Fault::bad(why)).await;
            }
        }
    }

    /// Says that bytes come.
    async fn begin(&self) -> Result<(), Fault> {
        // The node is written down first: whatever happens from here on, deleting the image also deletes its bytes.
        let saving = ImageStatus {
            phase: ImagePhase::Saving,
            nodes: vec![self.node.clone()],
            ..ImageStatus::default()
        };
        // By the revision that was looked at: of two uploads at a time one begins.
        let begun =
            json!({"metadata": {"resourceVersion": self.image.metadata.resource_version}, "status": saving});
        let images = Api::<Image>::namespaced(self.door.system.clone(), ids::namespace(&self.image));
        images.patch_status(ids::name(&self.image), &PatchParams::default(), &Patch::Merge(begun)).await?;
        Ok(())
    }

    /// Gives the node the bytes, and says what they are.
    async fn fill(&self, body: Body) -> Result<(), Fault> {
        let stored = match self.send(body).await {
            Ok(stored) => stored,
            Err(fault) => {
                self.give_up(&fault).await;
                return Err(fault);
            }
        };
        let active = ImageStatus {
            phase: match self.arrival {
                Arrival::Final => ImagePhase::Active,
                Arrival::Staged => ImagePhase::Staged,
            },
            size_bytes: Some(stored.size_bytes),
            stored_bytes: stored.stored_bytes,
            virtual_size_bytes: Some(stored.virtual_size_bytes),
            sha512: Some(stored.sha512),
            md5: Some(stored.md5),
            nodes: vec![self.node.clone()],
            ..ImageStatus::default()
        };
        let Err(fault) = self.write(&active).await else { return Ok(()) };
        let over = fault.name == Some(OVER_QUOTA);
        if over || fault.status == StatusCode::NOT_FOUND {
            discard(&self.door, &self.image, &self.node).await;
        }
        if over {
            self.give_up(&fault).await;
        }
        Err(match fault.status {
            StatusCode::NOT_FOUND => Fault::new(StatusCode::GONE, "The image was deleted during the upload."),
            _ => fault,
        })
    }

    /// As in Glance, the image waits for bytes again.
    async fn give_up(&self, fault: &Fault) {
        let message = self.by_web.then(|| fault.message.chars().take(MESSAGE).collect());
        if let Err(other) = self.write(&ImageStatus { message, ..ImageStatus::default() }).await {
            tracing::warn!(%other, image = self.image.id(), "an image whose upload failed stays in saving");
        }
    }

    async fn send(&self, body: Body) -> Result<Stored, Fault> {
        let (namespace, uid) = (ids::namespace(&self.image), self.image.kept_as());
        let limit = self.most.map(|most| format!("&limit={most}")).unwrap_or_default();
        let path = format!("/images/{namespace}/{uid}?format={}{limit}", self.image.spec.disk_format.name());
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
        // What was there before and is not now must go, so absent members are written as null.
        let status = json!({
            "phase": status.phase, "sizeBytes": status.size_bytes, "storedBytes": status.stored_bytes, "virtualSizeBytes": status.virtual_size_bytes,
            "sha512": status.sha512, "md5": status.md5, "nodes": status.nodes, "message": status.message,
        });
        write(&self.door, &self.image, &status).await
    }
}

/// Has a node remove the bytes of an image that is not to have them any more. What fails is the node's own loop's to do later.
pub(super) async fn discard(door: &Ctx, image: &Image, node: &str) {
    let path = format!("/images/{}", image.kept_as());
    if let Err(fault) = nodes::ask(&*door.nodes, node, Method::DELETE, &path, Body::empty()).await {
        tracing::warn!(%fault, node, image = image.id(), "the bytes of a deleted image stay on a node for now");
    }
}

/// Writes a part of an image's status, for the cloud.
pub(super) async fn write(door: &Ctx, image: &Image, status: &Value) -> Result<(), Fault> {
    let images = Api::<Image>::namespaced(door.system.clone(), ids::namespace(image));
    let patch = Patch::Merge(json!({"metadata": {"uid": image.metadata.uid}, "status": status}));
    images.patch_status(ids::name(image), &PatchParams::default(), &patch).await?;
    Ok(())
}

/// Says of a new image that it has no data, and is whole: what it is made of is named in its properties.
///
/// # Errors
/// The API server's.
pub(crate) async fn empty(session: &Session, image: &Image) -> Result<(), Fault> {
    may_change(session, image).await?;
    write(&session.door, image, &json!({"phase": ImagePhase::Active, "sizeBytes": 0, "virtualSizeBytes": 0}))
        .await
}

/// The part of `size` bytes that a `Range` header asks for, first and last byte; `None` for the whole. (RFC 9110, 14.1.2; one range, as
/// in Glance.)
fn range(header: Option<&str>, size: u64) -> Result<Option<(u64, u64)>, Fault> {
    let Some(text) = header else { return Ok(None) };
    let refused = || {
        Fault::new(StatusCode::RANGE_NOT_SATISFIABLE, format!("The range {text} is none of {size} bytes."))
    };
    let (first, last) =
        text.trim().strip_prefix("bytes=").and_then(|text| text.split_once('-')).ok_or_else(refused)?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| refused());
    let end = size.checked_sub(1).ok_or_else(refused)?;
    let (first, last) = match (first, last) {
        ("", tail) => (size.saturating_sub(number(tail)?), end),
        (first, "") => (number(first)?, end),
        (first, last) => (number(first)?, number(last)?.min(end)),
    };
    if first > last { Err(refused()) } else { Ok(Some((first, last))) }
}

/// `GET /images/{id}/file`
pub(super) async fn download(session: Session, Path(id): Path<String>, headers: HeaderMap) -> Answer {
    let image = find(&session, &id).await?.image;
    let status = image.status.clone().unwrap_or_default();
    if status.phase != ImagePhase::Active {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    if image.spec.deactivated && !session.is_admin() {
        return Err(Fault::forbidden(format!(
            "The requested image {id} has been deactivated. Image data download is forbidden."
        )));
    }
    let size = status.size_bytes.unwrap_or(0);
    if size == 0 && status.nodes.is_empty() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let asked = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    let part = range(asked, size)?;
    let path = format!("/images/{}", image.kept_as());
    let mut last = Fault::new(StatusCode::SERVICE_UNAVAILABLE, "No node that has the image answers.");
    for node in &status.nodes {
        let part_of = part.map(|(first, last)| format!("bytes={first}-{last}"));
        match nodes::read(&*session.door.nodes, node, &path, part_of.as_deref()).await {
            Ok(answer) => return Ok(bytes(answer, &status, part)),
            Err(fault) => last = fault,
        }
    }
    Err(last)
}

/// An agent's answer as Glance gives it.
fn bytes(answer: Response, status: &ImageStatus, part: Option<(u64, u64)>) -> Response {
    let size = status.size_bytes.unwrap_or(0);
    let mut response = Body::new(answer.into_body()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    match part {
        None => {
            headers.insert(header::CONTENT_LENGTH, size.into());
            if let Some(Ok(md5)) = status.md5.as_deref().map(HeaderValue::from_str) {
                headers.insert("content-md5", md5);
            }
        }
        Some((first, last)) => {
            headers.insert(header::CONTENT_LENGTH, (last - first + 1).into());
            if let Ok(value) = HeaderValue::from_str(&format!("bytes {first}-{last}/{size}")) {
                headers.insert(header::CONTENT_RANGE, value);
            }
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_http_has_them() {
        let of_ten = |text| range(Some(text), 10);
        assert_eq!(range(None, 10), Ok(None));
        assert_eq!(of_ten("bytes=2-4"), Ok(Some((2, 4))));
        assert_eq!(of_ten("bytes=2-"), Ok(Some((2, 9))));
        assert_eq!(of_ten("bytes=-3"), Ok(Some((7, 9))));
        assert_eq!(of_ten("bytes=-30"), Ok(Some((0, 9))));
        assert_eq!(of_ten("bytes=5-99"), Ok(Some((5, 9))));
        for wrong in ["bytes=10-", "bytes=4-2", "bytes=a-b", "lines=1-2", "bytes=1-2,4-5", "bytes=-0"] {
            assert!(of_ten(wrong).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_client_that_says_nothing_is_cut_off() {
        use http_body_util::BodyExt;
        let silent = stream::pending::<Result<bytes::Bytes, std::io::Error>>();
        let error = patient(Body::from_stream(silent), Duration::from_millis(1)).collect().await.unwrap_err();
        assert!(error.to_string().contains("nothing came"), "{error}");
        let whole = patient(Body::from("whole"), SILENCE).collect().await.unwrap().to_bytes();
        assert_eq!(whole, "whole");
    }
    #[tokio::test(start_paused = true)]
    async fn a_sender_that_goes_on_slowly_is_cut_off() {
        use http_body_util::BodyExt;
        let sent = |pause: u64, pieces: usize| {
            let piece = move |n| async move {
                tokio::time::sleep(Duration::from_secs(pause)).await;
                (n < pieces)
                    .then_some((Ok::<_, std::io::Error>(bytes::Bytes::from_static(b"0123456789")), n + 1))
            };
            steady(Body::from_stream(stream::unfold(0, piece)), PACE, 30).collect()
        };
        let error = sent(59, 9).await.unwrap_err();
        assert!(error.to_string().contains("only 20 bytes came in 118 seconds"), "{error}");
        assert_eq!(sent(20, 9).await.unwrap().to_bytes().len(), 90);
    }
}
