//! Projects that an image is shared with, and what they say to that.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::image::{Image, MemberAnswer, Visibility};

use super::images::find;
use super::visible::{Seen, granted};
use crate::auth::Session;
use crate::body::Json;
use crate::change::Changes;
use crate::error::{Answer, Fault};
use crate::versions::ok;
use crate::{ids, stamp};

/// How many projects an image may be shared with.
const MAX: usize = 128;

/// What a project said to an image, in Glance's words.
pub(super) fn answer_of(image: &Image, project: &str) -> &'static str {
    let answers = image.status.iter().flat_map(|status| &status.members);
    match answers.into_iter().find(|answer| answer.project == project) {
        None => "pending",
        Some(answer) if answer.accepted => "accepted",
        Some(_) => "rejected",
    }
}

fn view(image: &Image, project: &str) -> Value {
    let answers = image.status.iter().flat_map(|status| &status.members);
    let since =
        answers.into_iter().find(|answer| answer.project == project).and_then(|one| one.since.clone());
    let created = stamp::created(image);
    json!({
        "member_id": project, "image_id": image.id(), "status": answer_of(image, project),
        "created_at": stamp::seconds(created), "updated_at": stamp::seconds(since.map_or(created, |at| at.0)),
        "schema": "/v2/schemas/member",
    })
}

/// The members that the caller sees: the image's own project all, a member itself.
fn seen(session: &Session, seen: &Seen) -> Result<Vec<String>, Fault> {
    let image = &seen.image;
    if image.spec.visibility != Visibility::Shared {
        return if seen.is_own(session) {
            Ok(Vec::new())
        } else {
            Err(Fault::forbidden("Only shared images have members."))
        };
    }
    let all = seen.is_own(session) || session.is_admin();
    Ok(image.spec.members.iter().filter(|one| all || *one == session.project_id()).cloned().collect())
}

/// `GET /images/{id}/members`
pub(super) async fn list(session: Session, Path(id): Path<String>) -> Answer {
    let of = find(&session, &id).await?;
    let members: Vec<Value> = seen(&session, &of)?.iter().map(|one| view(&of.image, one)).collect();
    Ok(ok(&json!({"members": members, "schema": "/v2/schemas/members"})))
}

fn missing(id: &str, member: &str) -> Fault {
    Fault::new(StatusCode::NOT_FOUND, format!("{member} not found in the member list of the image {id}."))
}

/// `GET /images/{id}/members/{member}`
pub(super) async fn show(session: Session, Path((id, member)): Path<(String, String)>) -> Answer {
    let of = find(&session, &id).await?;
    if !seen(&session, &of)?.contains(&member) {
        return Err(missing(&id, &member));
    }
    Ok(ok(&view(&of.image, &member)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    member: String,
}

/// `POST /images/{id}/members`
pub(super) async fn create(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    let of = find(&session, &id).await?;
    let image = &of.image;
    if image.spec.visibility != Visibility::Shared {
        return Err(Fault::forbidden("Only shared images have members."));
    }
    if body.member.is_empty() || body.member.len() > 255 {
        return Err(Fault::bad("Member can't be empty, nor longer than 255 characters."));
    }
    let mut members = image.spec.members.clone();
    if members.contains(&body.member) {
        return Err(Fault::conflict(format!("Image member {} already exists for image {id}.", body.member)));
    }
    if members.len() >= MAX {
        let text = format!("The limit has been exceeded on the number of allowed image members: {MAX}.");
        return Err(Fault::new(StatusCode::PAYLOAD_TOO_LARGE, text));
    }
    members.push(body.member.clone());
    let image = set(&session, image, &members).await?;
    Ok(ok(&view(&image, &body.member)))
}

/// Writes whom an image is shared with, as the caller.
async fn set(session: &Session, image: &Image, members: &[String]) -> Result<Image, Fault> {
    let changes = Changes::default().set("members", Some(json!(members)));
    let image = changes.apply(&session.within(ids::namespace(image)), image).await?;
    granted(session, &image).await?;
    Ok(image)
}

/// `DELETE /images/{id}/members/{member}`
pub(super) async fn delete(
    session: Session,
    Path((id, member)): Path<(String, String)>,
) -> Result<Response, Fault> {
    let of = find(&session, &id).await?;
    if !seen(&session, &of)?.contains(&member) {
        return Err(missing(&id, &member));
    }
    let mut members = of.image.spec.members.clone();
    members.retain(|one| *one != member);
    let image = set(&session, &of.image, &members).await?;
    // Who is made a member again is asked again.
    write(&session, &image, &member, None).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// As Glance takes it: what clients say beside, e.g. the member once more, means nothing.
#[derive(Deserialize)]
pub(super) struct Status {
    status: String,
}

/// `PUT /images/{id}/members/{member}`
pub(super) async fn answer(
    session: Session,
    Path((id, member)): Path<(String, String)>,
    Json(body): Json<Status>,
) -> Answer {
    let accepted = match body.status.as_str() {
        "accepted" => Some(true),
        "rejected" => Some(false),
        "pending" => None,
        other => {
            return Err(Fault::bad(format!(
                "Invalid input for field/attribute status. {other} is not one of pending, accepted, rejected."
            )));
        }
    };
    let of = find(&session, &id).await?;
    if !seen(&session, &of)?.contains(&member) {
        return Err(missing(&id, &member));
    }
    if member != session.project_id() {
        return Err(Fault::forbidden(format!(
            "Only project {member} itself says what it makes of image {id}."
        )));
    }
    let image = write(&session, &of.image, &member, accepted).await?;
    Ok(ok(&view(&image, &member)))
}

/// Writes what a project says. It may read the image, which was granted to it; the image's status is written for the cloud.
async fn write(
    session: &Session,
    image: &Image,
    project: &str,
    accepted: Option<bool>,
) -> Result<Image, Fault> {
    let mut answers = image.status.clone().unwrap_or_default().members;
    answers.retain(|answer| answer.project != project);
    answers.extend(accepted.map(|accepted| MemberAnswer {
        project: project.to_owned(),
        accepted,
        since: Some(Time(Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default())),
    }));
    let images = Api::<Image>::namespaced(session.door.system.clone(), ids::namespace(image));
    // Two answers at a time must not undo one another.
    let patch = json!({
        "metadata": {"resourceVersion": image.metadata.resource_version}, "status": {"members": answers},
    });
    Ok(images.patch_status(ids::name(image), &PatchParams::default(), &Patch::Merge(patch)).await?)
}
