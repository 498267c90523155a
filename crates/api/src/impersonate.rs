//! Acting as somebody else: the `Impersonate-*` headers. Each name, group and extra that is put on needs a permission of its own.
//!
//! There are five ways, which are tried in this order as kube-apiserver does (KEP-5284). Those that are constrained ask for the verb
//! `impersonate:MODE` on who is put on, in the group authentication.k8s.io, and beside that for `impersonate-on:MODE:VERB` on what the
//! request is about; the old one asks for `impersonate` alone, and then anything may be done.

use http::HeaderMap;
use yunfan_identity::user::{
    ANONYMOUS, AUTHENTICATED_GROUP, EXTRA_NODE_NAME, SERVICE_ACCOUNT_PREFIX, UNAUTHENTICATED_GROUP,
};
use yunfan_identity::{Attributes, UserInfo, node};
use yunfan_objects::{ApiError, GroupResource, meta};
use yunfan_resources::names::COMPONENTS_GROUP;

use crate::chain::{self, Judge};
use crate::door::path::{RequestInfo, percent_decode};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
/// The rest of the header's name is the extra's key.
const EXTRA: &str = "impersonate-extra-";
/// API group of what is put on, but of users, groups and accounts in the old way.
const AUTHENTICATION: &str = "authentication.k8s.io";
/// Whoever is in this group may do everything: only the old way leads into it.
const MASTERS: &str = "system:masters";
/// Of so many groups or extras it is asked first whether all may be put on.
const MANY: usize = 4;
/// Stands in an account's extras for those that it has, where it acts as its node: which node is no part of the question.
const NODE_KEYS: &str = "authentication.kubernetes.io/associated-node-keys";

/// Whom a request is judged as.
pub(crate) struct Acting {
    pub(crate) user: UserInfo,
    /// The verb that let it, where the way was a constrained one: for the audit log.
    pub(crate) constraint: Option<&'static str>,
}

/// A way to act as somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    UserInfo,
    Legacy,
}

impl Mode {
    /// In the order in which they are tried.
    const ALL: [Self; 5] =
        [Self::AssociatedNode, Self::ArbitraryNode, Self::ServiceAccount, Self::UserInfo, Self::Legacy];

    /// The verb on what is put on.
    fn verb(self) -> &'static str {
        match self {
            Self::AssociatedNode => "impersonate:associated-node",
            Self::ArbitraryNode => "impersonate:arbitrary-node",
            Self::ServiceAccount => "impersonate:serviceaccount",
            Self::UserInfo => "impersonate:user-info",
            Self::Legacy => "impersonate",
        }
    }

    /// Its word in verbs on what the request is about; the old way has none.
    fn word(self) -> Option<&'static str> {
        self.verb().strip_prefix("impersonate:")
    }

    /// Whether this is a way for `user` to act as `wanted`.
    fn fits(self, user: &UserInfo, wanted: &UserInfo) -> bool {
        let bare = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
        let node = node_of(&wanted.name);
        match self {
            Self::AssociatedNode => {
                let own = user.extra.get(EXTRA_NODE_NAME).map(Vec::as_slice);
                let on_it = node.is_some_and(|node| own.is_some_and(|own| own == [node]));
                // What limits a user stands among their extras, which are not looked at there.
                bare && on_it && account_of(&user.name).is_some() && user.limit().is_none()
            }
            Self::ArbitraryNode => bare && node.is_some(),
            Self::ServiceAccount => bare && account_of(&wanted.name).is_some(),
            Self::UserInfo => node.is_none() && account_of(&wanted.name).is_none(),
            Self::Legacy => true,
        }
    }
}

/// The node that a user's name says, if it is one.
fn node_of(user: &str) -> Option<&str> {
    user.strip_prefix(node::USER_PREFIX).filter(|name| meta::dns_subdomain(name).is_empty())
}

/// Namespace and name of the service account that a user's name says, if it is one.
fn account_of(user: &str) -> Option<(&str, &str)> {
    let parts = user.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':');
    parts.filter(|(namespace, name)| {
        meta::dns_label(namespace).is_empty() && meta::dns_subdomain(name).is_empty()
    })
}

/// Whom the request is to be judged as, where the headers name somebody.
///
/// # Errors
/// 400 where the headers name groups, extras or a uid but no user, 403 where `user` may not act as they say.
pub(crate) async fn acting(
    judge: &Judge,
    user: &UserInfo,
    info: &RequestInfo,
    headers: &HeaderMap,
) -> Result<Option<Acting>, ApiError> {
    match wanted(headers)? {
        None => Ok(None),
        // Few requests do this: the others need no room for it.
        Some(wanted) => Box::pin(tried(judge, user, info, &wanted)).await.map(Some),
    }
}

/// Tries one way after the other. Where none leads there, the first that was one says why.
async fn tried(
    judge: &Judge,
    user: &UserInfo,
    info: &RequestInfo,
    wanted: &UserInfo,
) -> Result<Acting, ApiError> {
    let mut refusal = None;
    for mode in Mode::ALL.into_iter().filter(|mode| mode.fits(user, wanted)) {
        let mut requestor = user.clone();
        if mode == Mode::AssociatedNode {
            let keys = requestor.extra.into_keys().collect();
            requestor.extra = [(NODE_KEYS.to_owned(), keys)].into();
        }
        let way = Way { judge, mode, user: &requestor, wanted };
        match way.check(info).await {
            Ok(user) => return Ok(Acting { user, constraint: mode.word().map(|_| mode.verb()) }),
            Err(error) => {
                refusal.get_or_insert(error);
            }
        }
    }
    // The old way fits always.
    Err(refusal.unwrap_or_else(|| ApiError::internal("there is no way to act as somebody else")))
}

/// One attempt.
struct Way<'a> {
    judge: &'a Judge,
    mode: Mode,
    user: &'a UserInfo,
    wanted: &'a UserInfo,
}

impl Way<'_> {
    /// The user with all that was asked for, if all of it is allowed.
    async fn check(&self, info: &RequestInfo) -> Result<UserInfo, ApiError> {
        if let Some(word) = self.mode.word() {
            let verb = format!("impersonate-on:{word}:{}", info.verb);
            self.allowed(Attributes { verb: &verb, ..chain::attributes(self.user, info) }).await?;
        }
        self.name().await?;
        if !self.wanted.uid.is_empty() {
            self.allowed(self.part("uids", &self.wanted.uid)).await?;
        }
        self.groups().await?;
        self.extra().await?;
        Ok(wearing(self.wanted, self.mode))
    }

    async fn allowed(&self, asked: Attributes<'_>) -> Result<(), ApiError> {
        let decision = self.judge.authorize(&asked).await;
        match decision.is_allowed() {
            true => Ok(()),
            false => {
                let resource = GroupResource::new(asked.group, asked.resource);
                Err(chain::forbidden(&asked, &resource, asked.name, &decision))
            }
        }
    }

    /// Whether something may be put on.
    fn part<'a>(&'a self, resource: &'a str, name: &'a str) -> Attributes<'a> {
        let core = self.mode == Mode::Legacy && matches!(resource, "users" | "groups" | "serviceaccounts");
        let group = if core { "" } else { AUTHENTICATION };
        let asked = Attributes::resource(self.user, self.mode.verb(), group, resource);
        Attributes { version: "v1", name, ..asked }
    }

    async fn name(&self) -> Result<(), ApiError> {
        let name = &self.wanted.name;
        let asked = match (account_of(name), node_of(name)) {
            (Some((namespace, name)), _) => Attributes { namespace, ..self.part("serviceaccounts", name) },
            (None, Some(node)) if self.mode != Mode::Legacy => {
                // Which of its nodes an account is on must not matter.
                let any = self.mode == Mode::AssociatedNode;
                self.part("nodes", if any { "*" } else { node })
            }
            _ => self.part("users", name),
        };
        self.allowed(asked).await
    }

    async fn groups(&self) -> Result<(), ApiError> {
        let groups = &self.wanted.groups;
        if self.mode != Mode::Legacy {
            let never = [
                ("", "impersonating the empty string group is not allowed"),
                (MASTERS, "impersonating the system:masters group is not allowed"),
                // Masters by another name.
                (COMPONENTS_GROUP, "impersonating the system:yunfan:components group is not allowed"),
            ];
            for (group, why) in never {
                if groups.iter().any(|wanted| wanted == group) {
                    return Err(self.never("groups", group, why));
                }
            }
            if groups.len() >= MANY && self.allowed(self.part("groups", "*")).await.is_ok() {
                return Ok(());
            }
        }
        for group in groups {
            self.allowed(self.part("groups", group)).await?;
        }
        Ok(())
    }

    async fn extra(&self) -> Result<(), ApiError> {
        let extra = &self.wanted.extra;
        if self.mode != Mode::Legacy {
            if let Some(why) = extra.iter().find_map(|(key, values)| wrong_extra(key, values)) {
                return Err(self.never("userextras", "", &why));
            }
            let all = Attributes { subresource: "*", ..self.part("userextras", "*") };
            let count: usize = extra.values().map(Vec::len).sum();
            if count >= MANY && self.allowed(all).await.is_ok() {
                return Ok(());
            }
        }
        for (key, values) in extra {
            for value in values {
                let asked = Attributes { subresource: key, ..self.part("userextras", value) };
                self.allowed(asked).await?;
            }
        }
        Ok(())
    }

    /// What no permission allows.
    fn never(&self, resource: &str, name: &str, why: &str) -> ApiError {
        let why = format!("{}: {why}", self.part(resource, name).refusal());
        ApiError::forbidden(&GroupResource::new(AUTHENTICATION, resource), name, &why)
    }
}

/// Why such an extra can't be put on in a constrained way.
fn wrong_extra(key: &str, values: &[String]) -> Option<String> {
    if key.is_empty() {
        return Some("impersonating the empty string key in extra is not allowed".to_owned());
    }
    let (host, path) = key.split_once('/').unwrap_or((key, ""));
    let in_path = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte);
    if path.is_empty() || !path.bytes().all(in_path) || !meta::dns_subdomain(host).is_empty() {
        let why = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        return Some(format!("impersonating an invalid key in extra is not allowed: {key:?} {why}"));
    }
    if key.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Some(format!("impersonating a non-lowercase key in extra is not allowed: {key:?}"));
    }
    let empty = values.iter().any(String::is_empty);
    empty.then(|| "impersonating the empty string value in extra is not allowed".to_owned())
}

/// Whom the headers name, as they say it.
fn wanted(headers: &HeaderMap) -> Result<Option<UserInfo>, ApiError> {
    let one = |name: &str| {
        let found = headers.get(name).map(|value| text(value.as_bytes())).transpose();
        found.map(Option::unwrap_or_default)
    };
    let mut wanted = UserInfo { name: one(USER)?, uid: one(UID)?, ..UserInfo::default() };
    for group in headers.get_all(GROUP) {
        wanted.groups.push(text(group.as_bytes())?);
    }
    for (name, value) in headers {
        if let Some(key) = name.as_str().strip_prefix(EXTRA) {
            let value = text(value.as_bytes())?;
            wanted.extra.entry(percent_decode(key)).or_default().push(value);
        }
    }
    if !wanted.name.is_empty() {
        return Ok(Some(wanted));
    }
    match wanted == UserInfo::default() {
        true => Ok(None),
        false => Err(ApiError::bad_request(nameless(&wanted))),
    }
}

fn text(bytes: &[u8]) -> Result<String, ApiError> {
    let text = std::str::from_utf8(bytes).map(str::to_owned);
    text.map_err(|_| ApiError::bad_request("a header of impersonation is not UTF-8"))
}

/// What is said where no user is named: the user that the headers make, as upstream's program writes it down.
fn nameless(wanted: &UserInfo) -> String {
    let list = |texts: &[String]| {
        let texts: Vec<String> = texts.iter().map(|text| format!("{text:?}")).collect();
        format!("[]string{{{}}}", texts.join(", "))
    };
    let groups = if wanted.groups.is_empty() { "[]string(nil)".to_owned() } else { list(&wanted.groups) };
    let extra = if wanted.extra.is_empty() {
        "map[string][]string(nil)".to_owned()
    } else {
        let pairs: Vec<String> =
            wanted.extra.iter().map(|(key, values)| format!("{key:?}:{}", list(values))).collect();
        format!("map[string][]string{{{}}}", pairs.join(", "))
    };
    let uid = &wanted.uid;
    format!(
        "requested &user.DefaultInfo{{Name:\"\", UID:{uid:?}, Groups:{groups}, Extra:{extra}}} without impersonating a user name"
    )
}

/// The user with all of this on, and the groups that follow from the name: a service account without groups of its own has those that
/// it always has, and so has a node where it is put on as one.
fn wearing(wanted: &UserInfo, mode: Mode) -> UserInfo {
    let mut user = wanted.clone();
    if user.groups.is_empty() {
        if let Some((namespace, name)) = account_of(&wanted.name) {
            user.groups = UserInfo::service_account(namespace, name, "").groups;
        } else if matches!(mode, Mode::AssociatedNode | Mode::ArbitraryNode) {
            user.groups.push(node::GROUP.to_owned());
        }
    }
    let own = match user.name.as_str() {
        ANONYMOUS => UNAUTHENTICATED_GROUP,
        _ => AUTHENTICATED_GROUP,
    };
    if !user.in_group(own) && !user.in_group(UNAUTHENTICATED_GROUP) {
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
        wearing(&wanted(&headers(pairs)).unwrap().unwrap(), Mode::Legacy)
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
        assert_eq!(account_of("system:serviceaccount:demo"), None);
        let node = UserInfo { name: "system:node:n1".to_owned(), ..UserInfo::default() };
        assert_eq!(wearing(&node, Mode::Legacy).groups, [AUTHENTICATED_GROUP]);
        assert_eq!(wearing(&node, Mode::ArbitraryNode).groups, [node::GROUP, AUTHENTICATED_GROUP]);
    }

    #[test]
    fn without_a_user_there_is_nobody_to_act_as() {
        let error = wanted(&headers(&[("impersonate-group", "dev")])).unwrap_err();
        assert_eq!(
            error.message(),
            "requested &user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string{\"dev\"}, Extra:map[string][]string(nil)} without impersonating a user name"
        );
        assert_eq!(wanted(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn which_ways_there_are_follows_from_who_acts_as_whom() {
        let user = |name: &str| UserInfo { name: name.to_owned(), ..UserInfo::default() };
        let fit = |user: &UserInfo, wanted: &UserInfo| -> Vec<&str> {
            Mode::ALL.into_iter().filter(|mode| mode.fits(user, wanted)).map(Mode::verb).collect()
        };
        let ann = user("ann");
        let account = user("system:serviceaccount:demo:web");
        let mut on_n1 = account.clone();
        on_n1.extra.insert(EXTRA_NODE_NAME.to_owned(), vec!["n1".to_owned()]);
        let (n1, n2) = (user("system:node:n1"), user("system:node:n2"));
        assert_eq!(fit(&ann, &user("bob")), ["impersonate:user-info", "impersonate"]);
        assert_eq!(fit(&ann, &account), ["impersonate:serviceaccount", "impersonate"]);
        assert_eq!(fit(&ann, &n1), ["impersonate:arbitrary-node", "impersonate"]);
        assert_eq!(fit(&on_n1, &n2), ["impersonate:arbitrary-node", "impersonate"]);
        let all = ["impersonate:associated-node", "impersonate:arbitrary-node", "impersonate"];
        assert_eq!(fit(&on_n1, &n1), all);
        let mut as_node = ann.clone();
        as_node.extra = on_n1.extra.clone();
        assert_eq!(fit(&as_node, &n1), all[1..], "only an account is on a node");
        let with_group = UserInfo { groups: vec!["dev".to_owned()], ..account };
        assert_eq!(fit(&ann, &with_group), ["impersonate"]);
    }

    #[test]
    fn extras_have_keys_of_a_domain() {
        let wrong = |key: &str, value: &str| wrong_extra(key, &[value.to_owned()]).is_some();
        assert!(!wrong("example.com/scopes", "view"));
        for (key, value) in [
            ("", "v"),
            ("scopes", "v"),
            ("a b/c", "v"),
            ("e.com/a b", "v"),
            ("e.com/A", "v"),
            ("e.com/a", ""),
        ] {
            assert!(wrong(key, value), "{key} {value}");
        }
    }
}
