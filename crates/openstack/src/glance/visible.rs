//! Which images a caller sees: those of their project, and those that others let them read.
//!
//! What is shared is granted in authorization. The cloud's own look only says which images may have been; each is then read as the
//! caller.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::ResourceExt;
use kube::api::Api;
use yunfan_resources::Identified;
use yunfan_resources::iam::Project;
use yunfan_resources::image::{GRANTED, Image, Visibility, grant_name};

use crate::auth::Session;
use crate::error::Fault;
use crate::volume::is_backup;
use crate::{directory, ids};

/// How often, and how many times, it is looked whether a grant has been written.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const LOOKS: usize = 200;

/// An image that the caller sees, and the id of the project that it is of.
pub(crate) struct Seen {
    pub(crate) image: Image,
    pub(crate) owner: String,
}

impl Seen {
    /// Whether it is of the caller's own project.
    pub(crate) fn is_own(&self, session: &Session) -> bool {
        self.owner == session.project_id()
    }
}

/// The image with this id, if the caller sees it.
pub(crate) async fn find(session: &Session, id: &str) -> Result<Option<Seen>, Fault> {
    if let Some(image) = session.find(&session.own::<Image>()?, id).await? {
        if is_backup(&image) {
            return Ok(None);
        }
        return Ok(Some(Seen { image, owner: session.project_id().to_owned() }));
    }
    let all = Api::<Image>::all(session.door.system.clone());
    let Some(there) = session.find(&all, id).await?.filter(|image| !is_backup(image)) else {
        return Ok(None);
    };
    let Some(image) = as_caller(session, &there).await? else { return Ok(None) };
    let owner = owners(session).await?.remove(ids::namespace(&image)).unwrap_or_default();
    Ok(Some(Seen { image, owner }))
}

/// The image as the caller reads it; `None` for who may not.
async fn as_caller(session: &Session, image: &Image) -> Result<Option<Image>, Fault> {
    match session.within::<Image>(ids::namespace(image)).get_opt(ids::name(image)).await {
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(None),
        other => Ok(other?),
    }
}

/// Every image that the caller sees: those of their own project, and of others those that are public, of the community or shared
/// with the project. Who may read all sees all. Backups of volumes are Cinder's.
pub(super) async fn all(session: &Session) -> Result<Vec<Seen>, Fault> {
    let mut seen = readable(session).await?;
    seen.retain(|one| !is_backup(&one.image));
    Ok(seen)
}

async fn readable(session: &Session) -> Result<Vec<Seen>, Fault> {
    if session.is_admin() {
        match ids::list(&session.everywhere::<Image>()).await {
            // Admin of a project, but not of the cloud.
            Err(fault) if fault.status.as_u16() == 403 => {}
            images => {
                let owners = owners(session).await?;
                let owner = |image: &Image| owners.get(ids::namespace(image)).cloned().unwrap_or_default();
                return Ok(images?.into_iter().map(|image| Seen { owner: owner(&image), image }).collect());
            }
        }
    }
    let own = session.namespace()?;
    let mine = ids::list(&session.own::<Image>()?).await?;
    let project = session.project_id();
    let mut seen: Vec<Seen> =
        mine.into_iter().map(|image| Seen { image, owner: project.to_owned() }).collect();
    let everywhere = Api::<Image>::all(session.door.system.clone());
    let mut others = ids::list(&everywhere).await?;
    others.retain(|image| {
        let shared = match image.spec.visibility {
            Visibility::Private => false,
            Visibility::Public | Visibility::Community => true,
            Visibility::Shared => image.spec.members.iter().any(|member| member == project),
        };
        shared && ids::namespace(image) != own
    });
    if others.is_empty() {
        return Ok(seen);
    }
    let owners = owners(session).await?;
    for image in others {
        if let Some(image) = as_caller(session, &image).await? {
            let owner = owners.get(ids::namespace(&image)).cloned().unwrap_or_default();
            seen.push(Seen { image, owner });
        }
    }
    Ok(seen)
}

/// The images of [`all`], without whose they are.
pub(crate) async fn seen(session: &Session) -> Result<Vec<Image>, Fault> {
    Ok(all(session).await?.into_iter().map(|seen| seen.image).collect())
}

/// Project ids by namespace: whose an image is, everybody knows who sees the image.
async fn owners(session: &Session) -> Result<HashMap<String, String>, Fault> {
    let projects = ids::list(&Api::<Project>::all(session.door.system.clone())).await?;
    Ok(projects.iter().filter_map(|one| Some((directory::home(one)?.to_owned(), one.id()))).collect())
}

/// Waits until others may read an image as its last change says, so that whom it was shared with finds it at once.
pub(super) async fn granted(session: &Session, image: &Image) -> Result<(), Fault> {
    let bindings = Api::<RoleBinding>::namespaced(session.door.system.clone(), ids::namespace(image));
    let name = grant_name(ids::name(image));
    for _ in 0..LOOKS {
        let binding = bindings.get_opt(&name).await?;
        let granted = binding.map(|binding| {
            let generation = binding.annotations().get(GRANTED).and_then(|text| text.parse::<i64>().ok());
            generation.unwrap_or(0)
        });
        let done = match granted {
            None => !image.is_granted(),
            Some(granted) => image.is_granted() && granted >= image.metadata.generation.unwrap_or(0),
        };
        if done {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    // It will be, later: what was asked for is written.
    Ok(())
}
