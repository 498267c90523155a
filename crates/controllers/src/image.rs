//! Image → who may read it: a Role and a RoleBinding for each image that others than its own project may.
//!
//! So that what is shared is granted where all else is, by RBAC, and doors need no rule of their own. Both objects end with the image.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::rbac::v1::{Role, RoleBinding, Subject};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use yunfan_client::{Informer, ObjectKey, Queue, is_exists, is_not_found, run_loop};
use yunfan_resources::Identified;
use yunfan_resources::iam::Project;
use yunfan_resources::image::{GRANTED, Image, Visibility, grant_name};
use yunfan_resources::names::ROLES;

use crate::Context;

const API_GROUP: &str = "rbac.authorization.k8s.io";

/// Whether a binding gives one of the roles of projects: who has one of them may read what the project may.
fn is_of_project(binding: &RoleBinding) -> bool {
    // Kubernetes' own admin is manager of the project.
    let role = binding.role_ref.name.as_str();
    role == "admin" || ROLES.iter().any(|(_, known)| *known == role)
}

/// Runs the loop.
pub async fn run(context: Context) {
    let work = Arc::new(Loop {
        images: context.informers.of(),
        projects: context.informers.of(),
        bindings: context.informers.of(),
        context,
    });
    tokio::join!(work.images.synced(), work.projects.synced(), work.bindings.synced());
    let queue = Queue::new();
    queue.feed(&work.images, |image| [ObjectKey::of(image)]);
    let shared = |work: &Arc<Loop>| {
        let images = work.images.clone();
        move || {
            let all = images.list();
            let shared = all.iter().filter(|image| image.spec.visibility == Visibility::Shared);
            shared.map(|image| ObjectKey::of(image.as_ref())).collect::<Vec<_>>()
        }
    };
    // Who is in a project, and where a project's roles are, changes who may read what is shared with it.
    let of_binding = shared(&work);
    queue.feed(&work.bindings, move |binding: &RoleBinding| {
        // One of ours that comes late may be one that is to go by now.
        if let Some(image) = binding.name_any().strip_prefix(&grant_name("")) {
            return vec![ObjectKey::new(binding.namespace().unwrap_or_default(), image)];
        }
        if is_of_project(binding) { of_binding() } else { Vec::new() }
    });
    let of_project = shared(&work);
    queue.feed(&work.projects, move |_: &Project| of_project());
    run_loop("image", queue, 2, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

struct Loop {
    context: Context,
    images: Informer<Image>,
    projects: Informer<Project>,
    bindings: Informer<RoleBinding>,
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let Some(image) = self.images.get_key(key) else { return Ok(None) };
        if image.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let (writer, name) = (&self.context.writer, grant_name(&key.name));
        let readers = self.readers(&image);
        if !image.is_granted() {
            // Most images were never anything else.
            if self.bindings.get(key.namespace(), &name).is_some() {
                gone(writer.delete::<RoleBinding>(key.namespace(), &name, None).await)?;
                gone(writer.delete::<Role>(key.namespace(), &name, None).await)?;
            }
            return Ok(None);
        }
        let (role, binding) = (role(&image, &name), binding(&image, &name, &readers));
        let there = self.bindings.get(key.namespace(), &name);
        if there.as_ref().is_some_and(|there| is_so(there, &binding)) {
            return Ok(None);
        }
        // The role first: a binding to none would be refused.
        self.put::<Role>(key, &name, role).await?;
        self.put::<RoleBinding>(key, &name, binding).await?;
        Ok(None)
    }

    async fn put<K>(&self, key: &ObjectKey, name: &str, object: Value) -> kube::Result<()>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + serde::Serialize
            + serde::de::DeserializeOwned
            + Clone
            + std::fmt::Debug
            + Send
            + Sync,
    {
        let writer = &self.context.writer;
        // It is written by us, in the kind's own form.
        let made: K = serde_json::from_value(object.clone()).map_err(kube::Error::SerdeError)?;
        match writer.create(&made).await {
            Err(error) if is_exists(&error) => {
                writer.merge::<K>(key.namespace(), name, &object).await.map(drop)
            }
            other => other.map(drop),
        }
    }

    /// Who may read an image beside its own project.
    fn readers(&self, image: &Image) -> Vec<Subject> {
        match image.spec.visibility {
            Visibility::Private => Vec::new(),
            Visibility::Public | Visibility::Community => vec![Subject {
                api_group: Some(API_GROUP.to_owned()),
                kind: "Group".to_owned(),
                name: "system:authenticated".to_owned(),
                namespace: None,
            }],
            Visibility::Shared => self.members(image),
        }
    }

    fn members(&self, image: &Image) -> Vec<Subject> {
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        let projects = self.projects.list();
        let shared = projects.iter().filter(|project| image.spec.members.contains(&project.id()));
        for namespace in shared.filter_map(|project| project.status.as_ref()?.namespace.clone()) {
            for binding in self.bindings.in_namespace(&namespace) {
                if !is_of_project(&binding) {
                    continue;
                }
                for subject in binding.subjects.iter().flatten() {
                    let key = (subject.kind.clone(), subject.namespace.clone(), subject.name.clone());
                    if seen.insert(key) {
                        found.push(subject.clone());
                    }
                }
            }
        }
        found
    }
}

fn gone(result: kube::Result<()>) -> kube::Result<()> {
    match result {
        Err(error) if is_not_found(&error) => Ok(()),
        other => other,
    }
}

fn metadata(image: &Image, name: &str) -> Value {
    json!({
        "name": name, "namespace": image.namespace(),
        "annotations": {GRANTED: image.metadata.generation.unwrap_or(0).to_string()},
        "ownerReferences": [{
            "apiVersion": "image.yunfan.io/v1", "kind": "Image", "name": image.name_any(), "uid": image.uid(),
        }],
    })
}

fn role(image: &Image, name: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata(image, name),
        "rules": [{
            "apiGroups": ["image.yunfan.io"], "resources": ["images"], "verbs": ["get"],
            "resourceNames": [image.name_any()],
        }],
    })
}

fn binding(image: &Image, name: &str, readers: &[Subject]) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": metadata(image, name),
        "roleRef": {"apiGroup": API_GROUP, "kind": "Role", "name": name}, "subjects": readers,
    })
}

/// Whether a binding says what it should already.
fn is_so(there: &RoleBinding, wanted: &Value) -> bool {
    let subjects = json!(there.subjects.clone().unwrap_or_default());
    let granted = there.annotations().get(GRANTED).map(String::as_str);
    subjects == wanted["subjects"] && granted == wanted["metadata"]["annotations"][GRANTED].as_str()
}

#[cfg(test)]
mod tests {
    use yunfan_resources::image::ImageSpec;

    use super::*;

    #[test]
    fn a_binding_is_written_again_when_image_or_readers_change() {
        let mut image = Image::new("os", ImageSpec::default());
        image.metadata.generation = Some(2);
        let reader = Subject { kind: "User".into(), name: "a".into(), ..Subject::default() };
        let wanted = binding(&image, "image:os", std::slice::from_ref(&reader));
        let there: RoleBinding = serde_json::from_value(wanted.clone()).unwrap();
        assert!(is_so(&there, &wanted));
        assert!(!is_so(&there, &binding(&image, "image:os", &[])));
        image.metadata.generation = Some(3);
        assert!(!is_so(&there, &binding(&image, "image:os", &[reader])));
        assert_eq!(role(&image, "image:os")["rules"][0]["resourceNames"], json!(["os"]));
    }
}
