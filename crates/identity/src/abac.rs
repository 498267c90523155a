//! Attribute-based access control: a file of policies, one JSON object a line, as kube-apiserver's mode ABAC reads it
//! (`abac.authorization.kubernetes.io/v1beta1`).

use std::collections::HashMap;

use serde::Deserialize;

use crate::authz::{Attributes, Authorizer, Decision};
use crate::rbac::{NonResourceRule, ResourceRule, Rules};
use crate::user::{AUTHENTICATED_GROUP, UserInfo};

const API_VERSION: &str = "abac.authorization.kubernetes.io/v1beta1";
/// Most policies of a file.
const MAX_POLICIES: usize = 100_000;

/// A line that is no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct AbacError {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Line {
    api_version: String,
    kind: String,
    spec: Policy,
}

/// What one line allows, and to whom. `*` stands for all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Policy {
    user: String,
    group: String,
    readonly: bool,
    api_group: String,
    resource: String,
    namespace: String,
    non_resource_path: String,
}

impl Policy {
    fn is_for(&self, user: &UserInfo) -> bool {
        (self.user.is_empty() || self.user == user.name)
            && (self.group.is_empty() || user.in_group(&self.group))
    }

    fn allows(&self, request: &Attributes<'_>) -> bool {
        let reads = matches!(request.verb, "get" | "list" | "watch");
        if self.readonly && !reads {
            return false;
        }
        let is = |policy: &str, asked: &str| policy == "*" || policy == asked;
        if request.is_resource_request() {
            return is(&self.namespace, request.namespace)
                && is(&self.resource, request.resource)
                && is(&self.api_group, request.group);
        }
        let path = self.non_resource_path.as_str();
        match path.strip_suffix('*') {
            Some(start) => request.path.starts_with(start),
            // What is not said matches no path.
            None => !path.is_empty() && path == request.path,
        }
    }
}

/// Decides by such a file. A decision looks at the policies for the user's name and groups alone.
#[derive(Clone, Debug, Default)]
pub struct AbacAuthorizer {
    by_user: HashMap<String, Vec<Policy>>,
    /// Those that name a group and no user.
    by_group: HashMap<String, Vec<Policy>>,
}

impl AbacAuthorizer {
    /// Reads the text of a file. Empty lines and those that begin with `#` say nothing.
    ///
    /// # Errors
    /// [`AbacError`] for the first line that is no policy.
    pub fn read(text: &str) -> Result<Self, AbacError> {
        let mut new = Self::default();
        let mut count = 0_usize;
        for (index, line) in text.lines().enumerate() {
            let line_text = line.trim();
            if line_text.is_empty() || line_text.starts_with('#') {
                continue;
            }
            let fail = |why: String| AbacError { line: index + 1, why };
            count += 1;
            if count > MAX_POLICIES {
                return Err(fail(format!(
                    "there are more than {MAX_POLICIES} policies; use RBAC for so many"
                )));
            }
            let line: Line = serde_json::from_str(line_text).map_err(|error| {
                fail(format!(
                    "is no policy ({error}); it must be one JSON object with apiVersion, kind and spec"
                ))
            })?;
            if line.api_version != API_VERSION || line.kind != "Policy" {
                let why = format!("is {} {}; it must be {API_VERSION} Policy", line.api_version, line.kind);
                return Err(fail(why));
            }
            new.add(line.spec).map_err(fail)?;
        }
        Ok(new)
    }

    fn add(&mut self, mut policy: Policy) -> Result<(), String> {
        // As Kubernetes: all users, or all groups, are all who proved who they are.
        if policy.user == "*" || policy.group == "*" {
            policy.group = AUTHENTICATED_GROUP.to_owned();
        }
        if policy.user == "*" {
            policy.user.clear();
        }
        let list = match (policy.user.as_str(), policy.group.as_str()) {
            ("", "") => return Err("spec has neither a user nor a group; name one, or \"*\"".to_owned()),
            ("", group) => self.by_group.entry(group.to_owned()),
            (user, _) => self.by_user.entry(user.to_owned()),
        };
        list.or_default().push(policy);
        Ok(())
    }

    fn of<'a>(&'a self, user: &'a UserInfo) -> impl Iterator<Item = &'a Policy> {
        let groups = user.groups.iter().filter_map(|group| self.by_group.get(group));
        self.by_user.get(&user.name).into_iter().chain(groups).flatten().filter(|policy| policy.is_for(user))
    }

    /// Adds all that it allows `user` in `namespace`.
    pub fn collect(&self, user: &UserInfo, namespace: &str, rules: &mut Rules) {
        for policy in self.of(user).filter(|policy| policy.namespace == "*" || policy.namespace == namespace)
        {
            let verbs: &[&str] = if policy.readonly { &["get", "list", "watch"] } else { &["*"] };
            let verbs: Vec<String> = verbs.iter().map(|verb| (*verb).to_owned()).collect();
            if !policy.resource.is_empty() {
                rules.resources.push(ResourceRule {
                    verbs: verbs.clone(),
                    api_groups: vec![policy.api_group.clone()],
                    resources: vec![policy.resource.clone()],
                    resource_names: Vec::new(),
                });
            }
            if !policy.non_resource_path.is_empty() {
                let non_resource_urls = vec![policy.non_resource_path.clone()];
                rules.non_resources.push(NonResourceRule { verbs, non_resource_urls });
            }
        }
    }
}

impl Authorizer for AbacAuthorizer {
    fn authorize(&self, request: &Attributes<'_>) -> Decision {
        match self.of(request.user).any(|policy| policy.allows(request)) {
            true => Decision::Allow { reason: String::new() },
            false => Decision::NoOpinion { reason: "No policy matched.".to_owned() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policies(specs: &[&str]) -> AbacAuthorizer {
        let line = |spec: &&str| {
            format!("{{\"apiVersion\":\"{API_VERSION}\",\"kind\":\"Policy\",\"spec\":{spec}}}\n")
        };
        AbacAuthorizer::read(&specs.iter().map(line).collect::<String>()).expect("policies")
    }

    fn may(abac: &AbacAuthorizer, user: &UserInfo, line: &str) -> bool {
        let words: Vec<&str> = line.split(' ').collect();
        let request = match words.as_slice() {
            [verb, path] => Attributes::path(user, verb, path),
            [verb, group, resource, namespace] => Attributes {
                namespace,
                ..Attributes::resource(user, verb, group.trim_matches('-'), resource)
            },
            _ => panic!("{line}"),
        };
        abac.authorize(&request).is_allowed()
    }

    /// The examples of Kubernetes' page on ABAC.
    #[test]
    fn policies_allow_what_kubernetes_says_that_they_do() {
        let abac = policies(&[
            r#"{"user": "alice", "namespace": "*", "resource": "*", "apiGroup": "*"}"#,
            r#"{"user": "kubelet", "namespace": "*", "resource": "pods", "readonly": true}"#,
            r#"{"user": "bob", "namespace": "projectCaribou", "resource": "pods", "readonly": true}"#,
            r#"{"group": "system:authenticated", "readonly": true, "nonResourcePath": "/version*"}"#,
            r#"{"user": "carol", "group": "dev", "namespace": "*", "resource": "jobs", "apiGroup": "batch"}"#,
            r#"{"user": "*", "nonResourcePath": "/openapi"}"#,
        ]);
        let user = |name: &str, groups: &[&str]| UserInfo::authenticated(name, groups.iter().copied());
        for (name, groups, line, wanted) in [
            ("alice", &[][..], "delete apps deployments x", true),
            ("alice", &[], "get /healthz", false),
            ("kubelet", &[], "list - pods x", true),
            ("kubelet", &[], "create - pods x", false),
            ("kubelet", &[], "list apps pods x", false),
            ("bob", &[], "get - pods projectCaribou", true),
            ("bob", &[], "get - pods other", false),
            ("bob", &[], "get /version/x", true),
            ("bob", &[], "post /version", false),
            ("bob", &[], "post /openapi", true),
            ("bob", &[], "post /openapi/v3", false),
            ("carol", &["dev"], "create batch jobs x", true),
            ("carol", &[], "create batch jobs x", false),
            ("dave", &["dev"], "create batch jobs x", false),
        ] {
            assert_eq!(may(&abac, &user(name, groups), line), wanted, "{name} {line}");
        }
        assert!(!may(&abac, &UserInfo::anonymous(), "get /version"), "all are all who proved who they are");
    }

    #[test]
    fn rules_are_listed() {
        let abac = policies(&[
            r#"{"user": "bob", "namespace": "a", "resource": "pods", "readonly": true}"#,
            r#"{"user": "bob", "namespace": "*", "nonResourcePath": "/version"}"#,
        ]);
        let mut rules = Rules::default();
        abac.collect(&UserInfo::authenticated("bob", [] as [&str; 0]), "a", &mut rules);
        assert_eq!(rules.resources[0].verbs, ["get", "list", "watch"]);
        assert_eq!(rules.non_resources[0].non_resource_urls, ["/version"]);
    }

    #[test]
    fn a_line_that_is_no_policy_is_named() {
        let fail = |text: &str| AbacAuthorizer::read(text).expect_err(text).to_string();
        assert!(AbacAuthorizer::read("# nothing\n\n").is_ok());
        assert!(fail("# x\n{").starts_with("line 2: is no policy"));
        assert!(
            fail(r#"{"apiVersion":"v1","kind":"Policy","spec":{}}"#).contains("must be abac.authorization")
        );
        let nobody = format!("{{\"apiVersion\":\"{API_VERSION}\",\"kind\":\"Policy\",\"spec\":{{}}}}");
        assert!(fail(&nobody).contains("neither a user nor a group"));
    }
}
