//! The templates that a StatefulSet or DaemonSet had: one ControllerRevision each, numbered in the order in which they were last
//! in force.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use yunfan_client::{Writer, is_exists};

use crate::claim::{claim, controller_reference};
use crate::hash::short_hash;

/// Label that ties objects to a revision.
pub(crate) const HASH_LABEL: &str = "controller-revision-hash";
/// How often a name that is taken is tried with another hash.
const TRIES: i32 = 5;

/// An object's revisions.
pub(crate) struct History {
    /// The revision of the present template.
    pub(crate) update: Arc<ControllerRevision>,
    /// All, in their order.
    pub(crate) all: Vec<Arc<ControllerRevision>>,
    /// How many names were taken by revisions of other templates.
    pub(crate) collisions: i32,
}

/// The template of a revision.
pub(crate) fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    serde_json::from_value(revision.data.0.get("spec")?.get("template")?.clone()).ok()
}

fn number(revision: &ControllerRevision) -> i64 {
    revision.revision.unwrap_or(0)
}

/// The hash of a revision, as the Pods of a DaemonSet bear it.
pub(crate) fn hash_of(revision: &ControllerRevision) -> &str {
    revision.metadata.labels.as_ref().and_then(|labels| labels.get(HASH_LABEL)).map_or("", String::as_str)
}

/// Finds or makes the revision of the present template, and gives it the highest number. `known` are the revisions of the owner's
/// namespace.
pub(crate) async fn settle<O>(
    writer: &Writer,
    owner: &O,
    selector: &LabelSelector,
    template: &PodTemplateSpec,
    collisions: i32,
    known: Vec<Arc<ControllerRevision>>,
) -> kube::Result<History>
where
    O: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let mut all = claim(writer, owner, selector, None, known).await?;
    all.sort_by_key(|revision| (number(revision), revision.creation_timestamp(), revision.name_any()));
    let highest = all.last().map_or(0, |last| number(last));
    // The newest of equal ones.
    let place = all.iter().rposition(|revision| template_of(revision).as_ref() == Some(template));
    let mut history = History { update: Arc::default(), all, collisions };
    match place {
        Some(place) if number(&history.all[place]) == highest => {
            history.update = history.all[place].clone();
        }
        Some(place) => {
            let old = history.all.remove(place);
            let patch = json!({"metadata": {"uid": old.uid()}, "revision": highest + 1});
            let namespace = owner.meta().namespace.as_deref();
            history.update =
                Arc::new(writer.merge::<ControllerRevision>(namespace, &old.name_any(), &patch).await?);
            history.all.push(history.update.clone());
        }
        None => {
            let new = make(writer, owner, template, highest + 1, &mut history.collisions).await?;
            history.update = Arc::new(new);
            history.all.push(history.update.clone());
        }
    }
    Ok(history)
}

async fn make<O>(
    writer: &Writer,
    owner: &O,
    template: &PodTemplateSpec,
    number: i64,
    collisions: &mut i32,
) -> kube::Result<ControllerRevision>
where
    O: Resource<DynamicType = ()>,
{
    let mut tries = 0;
    loop {
        let new = revision_of(owner, template, number, *collisions);
        match writer.create(&new).await {
            Err(error) if is_exists(&error) && tries < TRIES => {
                let namespace = owner.meta().namespace.as_deref();
                let there: ControllerRevision = writer.get(namespace, &new.name_any()).await?;
                let owners = there.metadata.owner_references.iter().flatten();
                let ours = owners.map(|owner| &owner.uid).any(|uid| Some(uid) == owner.meta().uid.as_ref());
                if ours && template_of(&there).as_ref() == Some(template) {
                    // Made by a pass before; the informer lags.
                    return Ok(there);
                }
                *collisions += 1;
                tries += 1;
            }
            other => return other,
        }
    }
}

fn revision_of<O>(owner: &O, template: &PodTemplateSpec, number: i64, collisions: i32) -> ControllerRevision
where
    O: Resource<DynamicType = ()>,
{
    let meta = owner.meta();
    let hash = short_hash(template, collisions);
    let mut labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    labels.insert(HASH_LABEL.to_owned(), hash.clone());
    let mut data = json!({"spec": {"template": template}});
    // What a rollback patches the owner with: the template as a whole.
    data["spec"]["template"]["$patch"] = json!("replace");
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", meta.name.as_deref().unwrap_or_default())),
            namespace: meta.namespace.clone(),
            labels: Some(labels),
            annotations: meta.annotations.clone(),
            owner_references: Some(vec![controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        data: RawExtension(data),
        revision: Some(number),
    }
}

/// Deletes the oldest of the revisions that nothing uses, so that `limit` of them are left.
pub(crate) async fn trim(
    writer: &Writer,
    history: &History,
    live: &HashSet<String>,
    limit: Option<i32>,
) -> kube::Result<()> {
    for revision in surplus(&history.all, live, usize::try_from(limit.unwrap_or(10)).unwrap_or(usize::MAX)) {
        let (namespace, uid) = (revision.namespace(), revision.uid());
        writer
            .delete::<ControllerRevision>(namespace.as_deref(), &revision.name_any(), uid.as_deref())
            .await?;
    }
    Ok(())
}

/// `live` holds the names and the hashes of those in use.
fn surplus<'a>(
    all: &'a [Arc<ControllerRevision>],
    live: &HashSet<String>,
    limit: usize,
) -> Vec<&'a ControllerRevision> {
    let unused = |revision: &&ControllerRevision| {
        !live.contains(&revision.name_any()) && !live.contains(hash_of(revision))
    };
    let mut unused: Vec<_> = all.iter().map(Arc::as_ref).filter(unused).collect();
    unused.truncate(unused.len().saturating_sub(limit));
    unused
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::DaemonSet;

    fn template(image: &str) -> PodTemplateSpec {
        serde_json::from_value(json!({"metadata": {"labels": {"app": "a"}},
            "spec": {"containers": [{"name": "c", "image": image}]}}))
        .unwrap()
    }

    #[test]
    fn a_revision_holds_its_template() {
        let mut owner = DaemonSet::default();
        owner.metadata.name = Some("d".into());
        owner.metadata.uid = Some("u".into());
        let revision = revision_of(&owner, &template("i:1"), 3, 0);
        assert_eq!(template_of(&revision), Some(template("i:1")));
        assert_eq!(revision.data.0["spec"]["template"]["$patch"], "replace");
        assert_eq!(revision.name_any(), format!("d-{}", hash_of(&revision)));
        assert_eq!((revision.labels()["app"].as_str(), revision.revision), ("a", Some(3)));
        assert_ne!(revision.name_any(), revision_of(&owner, &template("i:1"), 3, 1).name_any());
        assert_ne!(revision.name_any(), revision_of(&owner, &template("i:2"), 3, 0).name_any());
    }

    #[test]
    fn the_oldest_that_nothing_uses_go() {
        let all: Vec<Arc<ControllerRevision>> = ["a", "b", "c", "d"]
            .into_iter()
            .map(|name| {
                let labels = json!({HASH_LABEL: format!("hash-{name}")});
                Arc::new(
                    serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}, "data": {}}))
                        .unwrap(),
                )
            })
            .collect();
        let live: HashSet<String> = ["a".to_owned(), "hash-d".to_owned()].into();
        let names = |limit| surplus(&all, &live, limit).iter().map(|r| r.name_any()).collect::<Vec<_>>();
        assert_eq!(names(1), ["b"]);
        assert_eq!(names(0), ["b", "c"]);
        assert!(names(2).is_empty());
    }
}
