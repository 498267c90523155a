//! Roles that are granted on a domain or a project for all projects below it: a RoleBinding in each one's namespace.

use std::collections::BTreeMap;

use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject};
use kube::ResourceExt;
use kube::api::ObjectMeta;
use serde_json::json;
use yunfan_client::{is_exists, is_not_found};
use yunfan_resources::iam::{Project, RoleGrant};
use yunfan_resources::names::INHERITED_LABEL;

use super::Loop;

const RBAC: &str = "rbac.authorization.k8s.io";
/// The domain of what names none.
const DEFAULT_DOMAIN: &str = "default";
/// How many projects there may be one above the other. What stands in a circle ends here.
const MAX_DEPTH: usize = 32;

impl Loop {
    /// The projects above one, the nearest first.
    fn above(&self, project: &Project) -> Vec<String> {
        let mut above = Vec::new();
        let mut next = project.spec.parent.clone();
        while let Some(name) = next.filter(|name| above.len() < MAX_DEPTH && !above.contains(name)) {
            next = self.projects.get(None, &name).and_then(|parent| parent.spec.parent.clone());
            above.push(name);
        }
        above
    }

    /// Whether a project inherits a grant, below `above`.
    fn inherits(project: &Project, above: &[String], grant: &RoleGrant) -> bool {
        let spec = &grant.spec;
        let domain = project.spec.domain.as_deref().unwrap_or(DEFAULT_DOMAIN);
        spec.inherited
            && grant.metadata.deletion_timestamp.is_none()
            && (spec.domain.as_deref() == Some(domain)
                || spec.project.as_ref().is_some_and(|on| above.contains(on)))
    }

    /// Makes the bindings in a project's namespace those that it inherits, and no others.
    pub(super) async fn bind_inherited(&self, project: &Project, namespace: &str) -> kube::Result<()> {
        let above = self.above(project);
        let mut wanted: BTreeMap<String, RoleBinding> = BTreeMap::new();
        for grant in self.grants.list() {
            if let Some(binding) =
                Self::inherits(project, &above, &grant).then(|| binding(&grant, namespace)).flatten()
            {
                wanted.insert(binding.name_any(), binding);
            }
        }
        for there in self.bindings.in_namespace(namespace) {
            if !is_inherited(&there) {
                continue;
            }
            let name = there.name_any();
            let right = wanted.get(&name).is_some_and(|it| is_same(it, &there));
            if right {
                wanted.remove(&name);
            } else {
                // A binding's role can't be changed.
                let uid = there.uid();
                self.context.writer.delete::<RoleBinding>(Some(namespace), &name, uid.as_deref()).await?;
            }
        }
        for binding in wanted.values() {
            match self.context.writer.create(binding).await {
                Err(error) if is_exists(&error) => self.make_right(binding, namespace).await?,
                other => drop(other?),
            }
        }
        Ok(())
    }

    /// Puts a binding in the place of another of its name, unless that is the same.
    async fn make_right(&self, wanted: &RoleBinding, namespace: &str) -> kube::Result<()> {
        let name = wanted.name_any();
        let writer = &self.context.writer;
        match writer.get::<RoleBinding>(Some(namespace), &name).await {
            Ok(there) if is_same(wanted, &there) => return Ok(()),
            Ok(there) => {
                writer.delete::<RoleBinding>(Some(namespace), &name, there.uid().as_deref()).await?;
            }
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(error),
        }
        writer.create(wanted).await.map(drop)
    }

    /// Sees to all projects that a grant reaches, or reached, and says that they have it.
    pub(super) async fn reconcile_grant(&self, name: &str) -> kube::Result<()> {
        let grant = self.grants.get(None, name);
        for project in self.projects.list() {
            let reached =
                grant.as_ref().is_some_and(|grant| Self::inherits(&project, &self.above(&project), grant));
            let namespace = project.name_any();
            let labelled = self.bindings.get(Some(&namespace), &binding_name(name)).is_some();
            if (!reached && !labelled) || project.metadata.deletion_timestamp.is_some() {
                continue;
            }
            // Without one, it binds them when it gets one.
            let home = self.namespaces.get(None, &namespace);
            if home.is_some_and(|home| home.metadata.deletion_timestamp.is_none()) {
                self.bind_inherited(&project, &namespace).await?;
            }
        }
        let Some(grant) = grant else { return Ok(()) };
        if grant.status.as_ref().is_some_and(|status| status.bound) {
            return Ok(());
        }
        let patch = json!({"status": {"bound": true}});
        match self.context.writer.merge_status::<RoleGrant>(None, name, &patch).await {
            Err(error) if !is_not_found(&error) => Err(error),
            _ => Ok(()),
        }
    }
}

/// Whether a binding is one of these: by its label, or by its name where somebody took the label away.
pub(super) fn is_inherited(binding: &RoleBinding) -> bool {
    binding.labels().contains_key(INHERITED_LABEL) || binding.name_any().starts_with("inherited:")
}

/// Whether a binding gives the same as it should, and says so.
fn is_same(wanted: &RoleBinding, there: &RoleBinding) -> bool {
    let label = |binding: &RoleBinding| binding.labels().get(INHERITED_LABEL).cloned();
    wanted.role_ref == there.role_ref && wanted.subjects == there.subjects && label(wanted) == label(there)
}

/// What the binding of a grant is called.
fn binding_name(grant: &str) -> String {
    format!("inherited:{grant}")
}

/// The RoleBinding of a grant; none for one that is for nobody.
fn binding(grant: &RoleGrant, namespace: &str) -> Option<RoleBinding> {
    let (kind, name) = match (&grant.spec.user, &grant.spec.group) {
        (Some(user), _) => ("User", user),
        (None, Some(group)) => ("Group", group),
        (None, None) => return None,
    };
    let subject = Subject {
        api_group: Some(RBAC.to_owned()),
        kind: kind.to_owned(),
        name: name.clone(),
        namespace: None,
    };
    Some(RoleBinding {
        metadata: ObjectMeta {
            name: Some(binding_name(&grant.name_any())),
            namespace: Some(namespace.to_owned()),
            labels: Some([(INHERITED_LABEL.to_owned(), grant.name_any())].into()),
            ..ObjectMeta::default()
        },
        role_ref: RoleRef {
            api_group: Some(RBAC.to_owned()),
            kind: "ClusterRole".to_owned(),
            name: grant.spec.cluster_role.clone(),
        },
        subjects: Some(vec![subject]),
    })
}
