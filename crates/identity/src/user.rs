//! Users as the API sees them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Name of the user of a request that carries no credentials.
pub const ANONYMOUS: &str = "system:anonymous";
/// Group of every user who proved who they are.
pub const AUTHENTICATED_GROUP: &str = "system:authenticated";
/// Group of [`ANONYMOUS`].
pub const UNAUTHENTICATED_GROUP: &str = "system:unauthenticated";
/// Group whose members may do everything, whatever the roles say.
pub const MASTERS_GROUP: &str = "system:masters";
/// Group of every service account.
pub const SERVICE_ACCOUNTS_GROUP: &str = "system:serviceaccounts";
/// What every service account's user name begins with: `system:serviceaccount:NAMESPACE:NAME`.
pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// Key of [`UserInfo::extra`] with the id of the project that the token is scoped to.
pub const EXTRA_PROJECT_ID: &str = "iam.yunfan.io/project-id";
/// Key of [`UserInfo::extra`] with the `metadata.name` of the project that the token is scoped to.
pub const EXTRA_PROJECT_NAME: &str = "iam.yunfan.io/project-name";
/// Key of [`UserInfo::extra`] with the Keystone role names in the token.
pub const EXTRA_ROLES: &str = "iam.yunfan.io/roles";
/// Key of [`UserInfo::extra`] with the namespace that the token's rights end at, for one that has less than its user. Authorization
/// looks at it: it takes rights away and never gives any.
pub const EXTRA_LIMIT_NAMESPACE: &str = "iam.yunfan.io/limited-to";
/// Key of [`UserInfo::extra`] with the ClusterRoles of which such a token's rights are.
pub const EXTRA_LIMIT_ROLES: &str = "iam.yunfan.io/limited-roles";
/// Key of [`UserInfo::extra`] with the id of the credential, `JTI=...` (Kubernetes' key and form).
pub const EXTRA_CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";
/// Key of [`UserInfo::extra`] with the Pod that a service account's token is bound to.
pub const EXTRA_POD_NAME: &str = "authentication.kubernetes.io/pod-name";
/// The same with the Pod's uid.
pub const EXTRA_POD_UID: &str = "authentication.kubernetes.io/pod-uid";
/// Key of [`UserInfo::extra`] with the Node that a service account's token is bound to, or that its Pod is on.
pub const EXTRA_NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// The same with the Node's uid.
pub const EXTRA_NODE_UID: &str = "authentication.kubernetes.io/node-uid";

/// A user: what Kubernetes calls `UserInfo`, with its field names on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserInfo {
    /// Name, unique in the cloud: the subject of role bindings of kind User.
    #[serde(rename = "username")]
    pub name: String,
    /// Id that is never given again after the user is gone; empty where there is none (certificates).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Groups: subjects of role bindings of kind Group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// More that an authenticator knows; of it authorization looks at the limit of a token alone, [`EXTRA_LIMIT_NAMESPACE`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user who proved to be `name`: their groups are `groups` and [`AUTHENTICATED_GROUP`].
    pub fn authenticated<G: Into<String>>(
        name: impl Into<String>,
        groups: impl IntoIterator<Item = G>,
    ) -> Self {
        let mut groups: Vec<String> = groups.into_iter().map(Into::into).collect();
        if !groups.iter().any(|group| group == AUTHENTICATED_GROUP) {
            groups.push(AUTHENTICATED_GROUP.to_owned());
        }
        Self { name: name.into(), groups, ..Self::default() }
    }

    /// The user of a request without credentials.
    pub fn anonymous() -> Self {
        Self { name: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED_GROUP.to_owned()], ..Self::default() }
    }

    /// The user of the service account `name` in `namespace`, whose object has the uid `uid`.
    pub fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        let mut user = Self::authenticated(
            service_account_user(namespace, name),
            [SERVICE_ACCOUNTS_GROUP.to_owned(), format!("{SERVICE_ACCOUNTS_GROUP}:{namespace}")],
        );
        user.uid = uid.to_owned();
        user
    }

    /// The namespace and the ClusterRoles that the user's rights are limited to, if they are.
    pub fn limit(&self) -> Option<(&str, &[String])> {
        let namespace = self.extra.get(EXTRA_LIMIT_NAMESPACE)?;
        let roles = self.extra.get(EXTRA_LIMIT_ROLES).map(Vec::as_slice).unwrap_or_default();
        Some((namespace.first().map(String::as_str).unwrap_or_default(), roles))
    }

    /// Whether the user is in `group`.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }
}

/// The user name of the service account `name` in `namespace`.
pub fn service_account_user(namespace: &str, name: &str) -> String {
    format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}")
}

/// Request extension that says whom the request is from. The authentication layer puts it there; so does
/// the in-process client, which needs no further proof: extensions cannot come over the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller(pub UserInfo);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_is_that_of_kubernetes() {
        let user = UserInfo::service_account("demo", "web", "7");
        assert_eq!(
            serde_json::to_value(&user).unwrap(),
            serde_json::json!({
                "username": "system:serviceaccount:demo:web", "uid": "7",
                "groups": ["system:serviceaccounts", "system:serviceaccounts:demo", "system:authenticated"],
            })
        );
        assert!(!UserInfo::anonymous().in_group(AUTHENTICATED_GROUP));
    }
}
