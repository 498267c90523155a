//! Project ↔ Namespace: a project gets its home namespace, and a namespace that someone made gets a project. What is granted above a
//! project ([`inherited`]) is bound in its namespace before it is said to have one.

mod inherited;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, ResourceQuota};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::ResourceExt;
use kube::api::ObjectMeta;
use serde_json::json;
use yunfan_client::{Informer, ObjectKey, Queue, is_exists, is_not_found, run_loop};
use yunfan_resources::iam::{Project, ProjectSpec, RoleGrant};
use yunfan_resources::names::{POD_SECURITY_LABEL, PROJECT_LABEL, TENANT_POD_SECURITY};

use crate::Context;

/// Namespaces that are the cloud's own and no tenant's.
fn is_system(namespace: &str) -> bool {
    namespace == "default" || namespace.starts_with("kube-")
}

/// Labels of the namespace that is made for a project. One that an operator made has none of Pod security, as in Kubernetes.
fn home_labels(project: &str) -> BTreeMap<String, String> {
    let labels = [(PROJECT_LABEL, project), (POD_SECURITY_LABEL, TENANT_POD_SECURITY)];
    labels.map(|(label, value)| (label.to_owned(), value.to_owned())).into()
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    Project(String),
    Namespace(String),
    Grant(String),
}

/// Runs the loop.
pub async fn run(context: Context) {
    let projects = context.informers.of::<Project>();
    let namespaces = context.informers.of::<Namespace>();
    let grants = context.informers.of::<RoleGrant>();
    let bindings = context.informers.of::<RoleBinding>();
    let queue = Queue::new();
    let quotas = context.informers.of::<ResourceQuota>();
    tokio::join!(projects.synced(), namespaces.synced(), grants.synced(), bindings.synced(), quotas.synced());
    queue.feed(&grants, |grant| [Work::Grant(grant.name_any())]);
    queue.feed(&bindings, |binding| {
        // Also where somebody takes one away, or makes one up. The home namespace has its project's name.
        inherited::is_inherited(binding).then(|| Work::Project(binding.namespace().unwrap_or_default()))
    });
    queue.feed(&projects, |project| [Work::Project(project.name_any())]);
    queue.feed(&namespaces, |namespace| {
        let project = namespace.labels().get(PROJECT_LABEL).cloned();
        [Some(Work::Namespace(namespace.name_any())), project.map(Work::Project)].into_iter().flatten()
    });
    let work = Arc::new(Loop { context, projects, namespaces, grants, bindings, quotas });
    run_loop("project", queue, 2, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

struct Loop {
    context: Context,
    projects: Informer<Project>,
    namespaces: Informer<Namespace>,
    grants: Informer<RoleGrant>,
    bindings: Informer<RoleBinding>,
    quotas: Informer<ResourceQuota>,
}

impl Loop {
    async fn reconcile(&self, work: &Work) -> kube::Result<Option<Duration>> {
        match work {
            Work::Project(name) => self.reconcile_project(name).await?,
            Work::Namespace(name) => self.reconcile_namespace(name).await?,
            Work::Grant(name) => self.reconcile_grant(name).await?,
        }
        Ok(None)
    }

    /// Makes the project's home namespace and writes down which it is.
    async fn reconcile_project(&self, name: &str) -> kube::Result<()> {
        let Some(project) = self.projects.get_key(&ObjectKey::new("", name)) else { return Ok(()) };
        if project.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let home = project.status.as_ref().and_then(|status| status.namespace.as_deref());
        match self.namespaces.get(None, name) {
            None if home == Some(name) => return self.follow_namespace(&project, name).await,
            None => {
                let namespace = Namespace {
                    metadata: ObjectMeta {
                        name: Some(name.to_owned()),
                        labels: Some(home_labels(name)),
                        ..ObjectMeta::default()
                    },
                    ..Namespace::default()
                };
                match self.context.writer.create(&namespace).await {
                    Err(error) if !is_exists(&error) => return Err(error),
                    _ => {}
                }
            }
            Some(namespace) if !namespace.labels().contains_key(PROJECT_LABEL) => {
                self.label(name, name).await?;
            }
            Some(_) => {}
        }
        self.bind_inherited(&project, name).await?;
        if home == Some(name) {
            return Ok(());
        }
        match crate::quota::fill(&self.quotas, &self.context.writer, name).await {
            // What is wrong with the default limits must not keep new projects from their namespaces.
            Err(kube::Error::Api(status)) if [400, 403, 422].contains(&status.code) => {
                tracing::warn!(project = name, %status, "the default limits cannot be given to a project");
            }
            other => drop(other?),
        }
        let patch = json!({"status": {"namespace": name}});
        match self.context.writer.merge_status::<Project>(None, name, &patch).await {
            Err(error) if !is_not_found(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// The home namespace that a project had is gone: it was deleted, and the two are one tenant, so the project goes too. (Made
    /// again, a deleted namespace would never stay deleted.)
    async fn follow_namespace(&self, project: &Project, name: &str) -> kube::Result<()> {
        // The informer may lag behind a namespace that was just made: ask.
        match self.context.writer.get::<Namespace>(None, name).await {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) => {
                self.context.writer.delete::<Project>(None, name, project.uid().as_deref()).await
            }
            Err(error) => Err(error),
        }
    }

    /// Makes the project of a namespace that was made without one.
    async fn reconcile_namespace(&self, name: &str) -> kube::Result<()> {
        let Some(namespace) = self.namespaces.get(None, name) else { return Ok(()) };
        let owned = namespace.labels().contains_key(PROJECT_LABEL);
        if owned || is_system(name) || namespace.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let project = Project::new(
            name,
            ProjectSpec {
                display_name: Some(name.to_owned()),
                domain: Some("default".to_owned()),
                enabled: true,
                ..ProjectSpec::default()
            },
        );
        match self.context.writer.create(&project).await {
            Err(error) if !is_exists(&error) => Err(error),
            _ => self.label(name, name).await,
        }
    }

    async fn label(&self, namespace: &str, project: &str) -> kube::Result<()> {
        let patch = json!({"metadata": {"labels": {PROJECT_LABEL: project}}});
        match self.context.writer.merge::<Namespace>(None, namespace, &patch).await {
            Err(error) if !is_not_found(&error) => Err(error),
            _ => Ok(()),
        }
    }
}
