//! Acting as somebody else: the `Impersonate-*` headers. Each name, group and extra that is put on needs the verb `impersonate` on it.

use http::HeaderMap;
use yunfan_identity::user::{ANONYMOUS, AUTHENTICATED_GROUP, SERVICE_ACCOUNT_PREFIX, UNAUTHENTICATED_GROUP};
use yunfan_identity::{Attributes, UserInfo};
use yunfan_objects::{ApiError, GroupResource, meta};

use crate::chain::{self, Judge};
use crate::door::path::percent_decode;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
/// The rest of the header's name is the extra's key.
const EXTRA: &str = "impersonate-extra-";
/// API group of what is neither a user nor a group.
const AUTHENTICATION: &str = "authentication.k8s.io";

/// One thing to be put on.
#[derive(Debug, PartialEq, Eq)]
enum Mask {
    ServiceAccount { namespace: String, name: String },
    User(String),
    Group(String),
    Extra { key: String, value: String },
    Uid(String),
}

impl Mask {
    fn of_user(user: String) -> Self {
        let parts = user.strip_prefix(SERVICE_ACCOUNT_PREFIX).and_then(|rest| rest.split_once(':'));
        match parts {
            Some((namespace, name))
                if meta::dns_label(namespace).is_empty() && meta::dns_subdomain(name).is_empty() =>
            {
                Self::ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned() }
            }
            _ => Self::User(user),
        }
    }

    /// What the user must be allowed to do to put it on.
    fn asks<'a>(&'a self, user: &'a UserInfo) -> Attributes<'a> {
        let (group, resource, subresource, namespace, name) = match self {
            Self::ServiceAccount { namespace, name } => ("", "serviceaccounts", "", namespace.as_str(), name),
            Self::User(name) => ("", "users", "", "", name),
            Self::Group(name) => ("", "groups", "", "", name),
            Self::Extra { key, value } => (AUTHENTICATION, "userextras", key.as_str(), "", value),
            Self::Uid(uid) => (AUTHENTICATION, "uids", "", "", uid),
        };
        let version = if group.is_empty() { "" } else { "v1" };
        Attributes {
            subresource,
            namespace,
            name,
            version,
            ..Attributes::resource(user, "impersonate", group, resource)
        }
    }
}

/// The user whom the request is to be judged as: `user`, or the one whom the headers name.
///
/// # Errors
/// 400 where the headers name groups, extras or a uid but no user, 403 where `user` may not put on one of them.
pub(crate) async fn acting(judge: &Judge, user: UserInfo, headers: &HeaderMap) -> Result<UserInfo, ApiError> {
    let masks = masks(headers)?;
    if masks.is_empty() {
        return Ok(user);
    }
    for mask in &masks {
        let asked = mask.asks(&user);
        let decision = judge.authorize(&asked).await;
        if !decision.is_allowed() {
            let resource = GroupResource::new(asked.group, asked.resource);
            return Err(chain::forbidden(&asked, &resource, asked.name, &decision));
        }
    }
    Ok(wearing(masks))
}

fn masks(headers: &HeaderMap) -> Result<Vec<Mask>, ApiError> {
    let mut masks = Vec::new();
    let one = |name: &str| headers.get(name).map(|value| text(value.as_bytes())).transpose();
    let filled = |found: Option<String>| found.filter(|text| !text.is_empty());
    masks.extend(filled(one(USER)?).map(Mask::of_user));
    let has_user = !masks.is_empty();
    for group in headers.get_all(GROUP) {
        masks.push(Mask::Group(text(group.as_bytes())?));
    }
    for (name, value) in headers {
        if let Some(key) = name.as_str().strip_prefix(EXTRA) {
            masks.push(Mask::Extra { key: percent_decode(key), value: text(value.as_bytes())? });
        }
    }
    masks.extend(filled(one(UID)?).map(Mask::Uid));
    if !has_user && !masks.is_empty() {
        return Err(ApiError::bad_request(nameless(masks)));
    }
    Ok(masks)
}

fn text(bytes: &[u8]) -> Result<String, ApiError> {
    let text = std::str::from_utf8(bytes).map(str::to_owned);
    text.map_err(|_| ApiError::bad_request("a header of impersonation is not UTF-8"))
}

/// What is said where no user is named: the user that the headers make, as upstream's program writes it down.
fn nameless(masks: Vec<Mask>) -> String {
    let (mut groups, mut uid) = (Vec::new(), String::new());
    let mut extra: std::collections::BTreeMap<String, Vec<String>> = std::collections::BTreeMap::new();
    for mask in masks {
        match mask {
            Mask::Group(group) => groups.push(group),
            Mask::Uid(given) => uid = given,
            Mask::Extra { key, value } => extra.entry(key).or_default().push(value),
            Mask::User(_) | Mask::ServiceAccount { .. } => {}
        }
    }
    let list = |texts: &[String]| {
        let texts: Vec<String> = texts.iter().map(|text| format!("{text:?}")).collect();
        format!("[]string{{{}}}", texts.join(", "))
    };
    let groups = if groups.is_empty() { "[]string(nil)".to_owned() } else { list(&groups) };
    let extra = if extra.is_empty() {
        "map[string][]string(nil)".to_owned()
    } else {
        let pairs: Vec<String> =
            extra.iter().map(|(key, values)| format!("{key:?}:{}", list(values))).collect();
        format!("map[string][]string{{{}}}", pairs.join(", "))
    };
    format!(
        "requested &user.DefaultInfo{{Name:\"\", UID:{uid:?}, Groups:{groups}, Extra:{extra}}} without impersonating a user name"
    )
}

/// The user with all of these on. Without groups of its own, a service account has those that it always has.
fn wearing(masks: Vec<Mask>) -> UserInfo {
    let has_groups = masks.iter().any(|mask| matches!(mask, Mask::Group(_)));
    let mut user = UserInfo::default();
    for mask in masks {
        match mask {
            Mask::ServiceAccount { namespace, name } => {
                let account = UserInfo::service_account(&namespace, &name, "");
                user.name = account.name;
                if !has_groups {
                    user.groups = account.groups;
                }
            }
            Mask::User(name) => user.name = name,
            Mask::Group(group) => user.groups.push(group),
            Mask::Extra { key, value } => user.extra.entry(key).or_default().push(value),
            Mask::Uid(uid) => user.uid = uid,
        }
    }
    let (own, other) = match user.name.as_str() {
        ANONYMOUS => (UNAUTHENTICATED_GROUP, UNAUTHENTICATED_GROUP),
        _ => (AUTHENTICATED_GROUP, UNAUTHENTICATED_GROUP),
    };
    if !user.in_group(own) && !user.in_group(other) {
        user.groups.push(own.to_owned());
    }
    user
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn worn(pairs: &[(&'static str, &str)]) -> UserInfo {
        wearing(masks(&headers(pairs)).unwrap())
    }

    #[test]
    fn a_user_has_what_the_headers_name() {
        let user = worn(&[
            ("impersonate-user", "ann"),
            ("impersonate-group", "dev"),
            ("impersonate-group", "ops"),
            ("impersonate-extra-example.com%2fscopes", "view"),
            ("impersonate-uid", "7"),
        ]);
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("ann", "7"));
        assert_eq!(user.groups, ["dev", "ops", AUTHENTICATED_GROUP]);
        assert_eq!(user.extra["example.com/scopes"], ["view"]);
    }

    #[test]
    fn groups_follow_from_the_name_where_none_is_given() {
        let account = "system:serviceaccount:demo:web";
        let own = UserInfo::service_account("demo", "web", "");
        assert_eq!(worn(&[("impersonate-user", account)]), own);
        let given = worn(&[("impersonate-user", account), ("impersonate-group", "dev")]);
        assert_eq!(given.groups, ["dev", AUTHENTICATED_GROUP]);
        assert_eq!(worn(&[("impersonate-user", ANONYMOUS)]), UserInfo::anonymous());
        assert_eq!(Mask::of_user("system:serviceaccount:demo".to_owned()).asks(&own).resource, "users");
    }

    #[test]
    fn without_a_user_there_is_nobody_to_act_as() {
        let error = masks(&headers(&[("impersonate-group", "dev")])).unwrap_err();
        assert_eq!(
            error.message(),
            "requested &user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string{\"dev\"}, Extra:map[string][]string(nil)} without impersonating a user name"
        );
        assert_eq!(masks(&HeaderMap::new()).unwrap(), []);
    }
}
