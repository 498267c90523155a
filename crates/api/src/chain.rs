//! Who is it, and may they? Every request passes here first.

use std::sync::Arc;

use http::HeaderMap;
use http::request::Parts;
use yunfan_access::Authorization;
use yunfan_identity::node::NodeAuthorizer;
use yunfan_identity::rbac::RbacAuthorizer;
use yunfan_identity::{Attributes, Decision, UserInfo};
use yunfan_objects::{ApiError, GroupResource};

use crate::cache::Cache;
use crate::door::path::RequestInfo;
use crate::impersonate::{self, Acting};
use crate::relations::Relate;
use crate::sender::Senders;
use crate::warnings::Warnings;

/// Decides who may do what, as configured: for nodes what has to do with them, then roles, unless told otherwise.
pub(crate) type Judge = Arc<yunfan_access::Judge>;

/// The judge of a cloud with these roles.
pub(crate) fn judge(
    cache: &Arc<Cache>,
    rbac: &Arc<RbacAuthorizer>,
    configured: &Authorization,
) -> Result<Judge, ApiError> {
    let nodes = NodeAuthorizer::new(Relate::new(cache.clone()))
        .map_err(|why| ApiError::internal(format!("the rules for nodes cannot be used: {why}")))?;
    Ok(Arc::new(yunfan_access::Judge::new(nodes, rbac.clone(), configured.clone())))
}

/// The first two links: authentication, then authorization.
pub(crate) struct Gate {
    pub(crate) senders: Senders,
    pub(crate) judge: Judge,
}

impl Gate {
    /// The one whom the request's user may act as and wants to, if there is one.
    pub(crate) async fn acting(
        &self,
        user: &UserInfo,
        info: &RequestInfo,
        headers: &HeaderMap,
    ) -> Result<Option<Acting>, ApiError> {
        impersonate::acting(&self.judge, user, info, headers).await
    }

    /// The request's user. A wrong proof is refused; none makes the user anonymous, where that is allowed.
    pub(crate) async fn sender(&self, parts: &Parts) -> Result<UserInfo, ApiError> {
        self.senders.of(parts).await
    }

    /// Whether the user may do this as well.
    pub(crate) async fn authorize(&self, user: &UserInfo, info: &RequestInfo) -> Result<(), ApiError> {
        self.authorize_noted(user, info, &Warnings::default()).await
    }

    /// Whether the user may do what the request asks for. What is decided is noted for the audit log.
    pub(crate) async fn authorize_noted(
        &self,
        user: &UserInfo,
        info: &RequestInfo,
        notes: &Warnings,
    ) -> Result<(), ApiError> {
        let mut request = attributes(user, info);
        let decision = self.judge.authorize(&request).await;
        let word = if decision.is_allowed() { "allow" } else { "forbid" };
        notes.note("authorization.k8s.io/decision", || word.to_owned());
        notes.note("authorization.k8s.io/reason", || decision.reason().to_owned());
        if decision.is_allowed() {
            return Ok(());
        }
        if info.is_resource && info.resource == "namespaces" && info.group.is_empty() {
            // A refusal about a Namespace speaks of the cluster scope, whatever the look-up was.
            request.namespace = "";
        }
        let resource = GroupResource::new(&info.group, &info.resource);
        Err(forbidden(&request, &resource, &info.name, &decision))
    }
}

/// The refusal of a request that was not allowed.
pub(crate) fn forbidden(
    request: &Attributes<'_>,
    resource: &GroupResource,
    name: &str,
    decision: &Decision,
) -> ApiError {
    let mut why = request.refusal();
    if !decision.reason().is_empty() {
        why = format!("{why}: {}", decision.reason());
    }
    ApiError::forbidden(resource, name, &why)
}

/// What authorization looks at.
pub(crate) fn attributes<'a>(user: &'a UserInfo, info: &'a RequestInfo) -> Attributes<'a> {
    if !info.is_resource {
        return Attributes::path(user, &info.verb, &info.path);
    }
    Attributes {
        user,
        verb: &info.verb,
        group: &info.group,
        version: &info.version,
        resource: &info.resource,
        subresource: &info.subresource,
        namespace: &info.namespace,
        name: if info.name.is_empty() { info.selected_name() } else { &info.name },
        path: &info.path,
        selected: &info.selected,
        labels: &info.labels,
    }
}
