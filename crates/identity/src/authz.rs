//! The question "may this user do that?", and the shape of its answer.

use std::sync::Arc;

use crate::UserInfo;

/// One condition of a label selector, as webhooks of authorization are told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelTerm {
    /// The label.
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: &'static str,
    /// For the first two, which values.
    pub values: Vec<String>,
}

/// One condition of a field selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    /// Path of the field, with dots.
    pub field: String,
    /// Whether it must have the value, or must not.
    pub equal: bool,
    /// The value.
    pub value: String,
}

/// What a request wants to do. Words are Kubernetes' (`get`, `list`, `watch`, `create`, `update`,
/// `patch`, `delete`, `deletecollection`, ...); what does not apply is empty.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// Who wants it.
    pub user: &'a UserInfo,
    /// What they want to do; for paths that are no resource, the HTTP method in lower case.
    pub verb: &'a str,
    /// API group; empty for the core group.
    pub group: &'a str,
    /// API version.
    pub version: &'a str,
    /// Resource, plural (`pods`); empty for a request that is for no resource.
    pub resource: &'a str,
    /// Subresource (`log`, `status`).
    pub subresource: &'a str,
    /// Namespace; empty at the cluster scope, and for a list over all namespaces.
    pub namespace: &'a str,
    /// Name of the object; empty for lists and creation.
    pub name: &'a str,
    /// The URL's path, for a request that is for no resource (`/healthz`).
    pub path: &'a str,
    /// Conditions of the field selector of a list, a watch or a deletion of many.
    pub selected: &'a [FieldTerm],
    /// Conditions of its label selector; those on numbers (`>`, `<`) are not among them, as in Kubernetes.
    pub labels: &'a [LabelTerm],
}

impl<'a> Attributes<'a> {
    /// A request for a resource at the cluster scope; set the other fields as needed.
    pub fn resource(user: &'a UserInfo, verb: &'a str, group: &'a str, resource: &'a str) -> Self {
        Self {
            user,
            verb,
            group,
            version: "",
            resource,
            subresource: "",
            namespace: "",
            name: "",
            path: "",
            selected: &[],
            labels: &[],
        }
    }

    /// A request for a path that is no resource.
    pub fn path(user: &'a UserInfo, verb: &'a str, path: &'a str) -> Self {
        Self { path, ..Self::resource(user, verb, "", "") }
    }

    /// Whether its field selector lets through nothing but objects with this value at `field`.
    pub fn selects(&self, field: &str, value: &str) -> bool {
        self.selected.iter().any(|term| term.equal && term.field == field && term.value == value)
    }

    /// Whether it is for a resource (and not for a path).
    pub fn is_resource_request(&self) -> bool {
        !self.resource.is_empty()
    }

    /// The sentence that says that it is not allowed, as Kubernetes words it.
    pub fn refusal(&self) -> String {
        let (user, verb) = (&self.user.name, self.verb);
        if !self.is_resource_request() {
            return format!("User {user:?} cannot {verb} path {:?}", self.path);
        }
        let slash = if self.subresource.is_empty() { "" } else { "/" };
        let resource = format!("{}{slash}{}", self.resource, self.subresource);
        let scope = if self.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {:?}", self.namespace)
        };
        format!("User {user:?} cannot {verb} resource {resource:?} in API group {:?} {scope}", self.group)
    }
}

/// An authorizer's answer. The reason is for people: it goes into the 403's message or the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Allowed; no other authorizer is asked.
    Allow {
        /// What allowed it.
        reason: String,
    },
    /// Refused; no other authorizer is asked.
    Deny {
        /// Why.
        reason: String,
    },
    /// Nothing known that allows it: refused unless another authorizer allows it.
    NoOpinion {
        /// What was found.
        reason: String,
    },
}

impl Decision {
    /// Whether it allows.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow { .. })
    }

    /// The reason, whatever the answer.
    pub fn reason(&self) -> &str {
        match self {
            Self::Allow { reason } | Self::Deny { reason } | Self::NoOpinion { reason } => reason,
        }
    }
}

/// Decides from memory, at once.
pub trait Authorizer: Send + Sync + 'static {
    /// Whether the request may go on.
    fn authorize(&self, request: &Attributes<'_>) -> Decision;
}

impl<A: Authorizer + ?Sized> Authorizer for Arc<A> {
    fn authorize(&self, request: &Attributes<'_>) -> Decision {
        (**self).authorize(request)
    }
}

/// Allows whatever is asked: for trials.
pub struct AlwaysAllow;

impl Authorizer for AlwaysAllow {
    fn authorize(&self, _: &Attributes<'_>) -> Decision {
        Decision::Allow { reason: String::new() }
    }
}

/// Allows nothing. Others in a chain may.
pub struct AlwaysDeny;

impl Authorizer for AlwaysDeny {
    fn authorize(&self, _: &Attributes<'_>) -> Decision {
        Decision::NoOpinion { reason: "Everything is forbidden.".to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_read_like_kubernetes() {
        let user = UserInfo::authenticated("x", [] as [&str; 0]);
        let mut request = Attributes::resource(&user, "list", "", "pods");
        request.namespace = "demo";
        assert_eq!(
            request.refusal(),
            r#"User "x" cannot list resource "pods" in API group "" in the namespace "demo""#
        );
        (request.subresource, request.namespace, request.group) = ("scale", "", "apps");
        assert_eq!(
            request.refusal(),
            r#"User "x" cannot list resource "pods/scale" in API group "apps" at the cluster scope"#
        );
        assert_eq!(
            Attributes::path(&user, "get", "/metrics").refusal(),
            r#"User "x" cannot get path "/metrics""#
        );
    }
}
