//! Which requests are recorded, and how much of them: the first rule that fits decides.

use std::path::Path;

use serde::Deserialize;
use yunfan_identity::UserInfo;

use crate::AuditError;

/// How much is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    /// Nothing.
    None,
    /// Who, what, when, and what became of it.
    Metadata,
    /// Also what was sent.
    Request,
    /// Also what was answered.
    RequestResponse,
}

impl Level {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

/// When something is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Stage {
    /// As soon as it is known who asks.
    RequestReceived,
    /// When the headers of a long answer are sent.
    ResponseStarted,
    /// When the answer is complete.
    ResponseComplete,
    /// When the server failed in the midst of it.
    Panic,
}

impl Stage {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of stages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages(u8);

impl Stages {
    fn of(stages: &[Stage]) -> Self {
        Self(stages.iter().fold(0, |all, stage| all | stage.bit()))
    }

    /// Whether it is one of them.
    pub fn has(self, stage: Stage) -> bool {
        self.0 & stage.bit() != 0
    }
}

/// What the policy looks at.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Who asks (and not as whom).
    pub user: &'a UserInfo,
    /// The verb; of other paths than resources' the method in lower case.
    pub verb: &'a str,
    /// Whether it is about a resource: what follows, up to the path, says something then.
    pub is_resource: bool,
    /// API group.
    pub group: &'a str,
    /// Plural.
    pub resource: &'a str,
    /// Empty for none.
    pub subresource: &'a str,
    /// Empty for cluster scope.
    pub namespace: &'a str,
    /// Empty for collections.
    pub name: &'a str,
    /// The URL's path.
    pub path: &'a str,
}

/// What the policy says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// How much is recorded.
    pub level: Level,
    /// When nothing is.
    pub omitted: Stages,
    /// Whether objects are recorded without who owns which of their fields.
    pub omits_managed_fields: bool,
}

/// The policy.
#[derive(Debug)]
pub struct Policy {
    rules: Vec<Rule>,
    omitted: Stages,
    omits_managed_fields: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    #[expect(dead_code, reason = "it may be there, and says nothing")]
    metadata: serde_json::Value,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<Resources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

impl Policy {
    /// Reads a policy from a file.
    ///
    /// # Errors
    /// It can't be read, or is none.
    pub fn read(path: &Path) -> Result<Self, AuditError> {
        let shown = || path.display().to_string();
        let text =
            std::fs::read_to_string(path).map_err(|source| AuditError::File { path: shown(), source })?;
        Self::parse(&text).map_err(|why| AuditError::Invalid { path: shown(), why })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let file: File = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        if file.api_version != "audit.k8s.io/v1" || file.kind != "Policy" {
            return Err(format!(
                "expected apiVersion audit.k8s.io/v1 and kind Policy, found {:?} and {:?}",
                file.api_version, file.kind
            ));
        }
        if file.rules.is_empty() {
            return Err("rules: at least one is needed, as nothing is recorded without".to_owned());
        }
        for (number, rule) in file.rules.iter().enumerate() {
            rule.check().map_err(|why| format!("rules[{number}].{why}"))?;
        }
        Ok(Self {
            omitted: Stages::of(&file.omit_stages),
            omits_managed_fields: file.omit_managed_fields,
            rules: file.rules,
        })
    }

    /// How much of a request is recorded.
    pub fn judge(&self, asked: &Asked<'_>) -> Judged {
        let rule = self.rules.iter().find(|rule| rule.fits(asked));
        match rule {
            None => Judged { level: Level::None, omitted: self.omitted, omits_managed_fields: false },
            Some(rule) => Judged {
                level: rule.level,
                omitted: Stages(self.omitted.0 | Stages::of(&rule.omit_stages).0),
                omits_managed_fields: rule.omit_managed_fields.unwrap_or(self.omits_managed_fields),
            },
        }
    }
}

impl Rule {
    fn check(&self) -> Result<(), String> {
        let of_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        if of_resources && !self.non_resource_urls.is_empty() {
            return Err("nonResourceURLs: a rule cannot be about resources and other paths".to_owned());
        }
        for (number, url) in self.non_resource_urls.iter().enumerate() {
            let at = format!("nonResourceURLs[{number}]: {url:?}");
            if url == "*" {
                continue;
            }
            if !url.starts_with('/') {
                return Err(format!("{at} must begin with a slash"));
            }
            if url.strip_suffix('*').unwrap_or(url).contains('*') {
                return Err(format!("{at} may have a '*' at its end alone"));
            }
        }
        for (number, one) in self.resources.iter().enumerate() {
            let at = format!("resources[{number}]");
            if !one.resource_names.is_empty() && one.resources.is_empty() {
                return Err(format!("{at}.resourceNames: need at least one of resources"));
            }
            if one.group.contains(['*', '/']) {
                return Err(format!("{at}.group: {:?} is no group", one.group));
            }
        }
        Ok(())
    }

    fn fits(&self, asked: &Asked<'_>) -> bool {
        let among = |words: &[String], word: &str| words.is_empty() || words.iter().any(|each| each == word);
        let in_groups =
            self.user_groups.is_empty() || asked.user.groups.iter().any(|g| self.user_groups.contains(g));
        if !among(&self.users, &asked.user.name) || !in_groups || !among(&self.verbs, asked.verb) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return asked.is_resource
                && among(&self.namespaces, asked.namespace)
                && (self.resources.is_empty() || self.resources.iter().any(|one| one.fits(asked)));
        }
        if !self.non_resource_urls.is_empty() {
            let fits = |url: &String| match url.strip_suffix('*') {
                Some(begin) => asked.path.starts_with(begin),
                None => asked.path == url,
            };
            return !asked.is_resource && self.non_resource_urls.iter().any(fits);
        }
        true
    }
}

impl Resources {
    fn fits(&self, asked: &Asked<'_>) -> bool {
        if self.group != asked.group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        let named =
            self.resource_names.is_empty() || self.resource_names.iter().any(|name| name == asked.name);
        named && self.resources.iter().any(|resource| is_meant(resource, asked))
    }
}

/// `pods`, `pods/log`, `pods/*`, `*/status`, `*`.
fn is_meant(resource: &str, asked: &Asked<'_>) -> bool {
    match resource.split_once('/') {
        _ if resource == "*" => true,
        None => asked.subresource.is_empty() && resource == asked.resource,
        Some(("*", below)) => !asked.subresource.is_empty() && below == asked.subresource,
        Some((above, "*")) => above == asked.resource,
        Some((above, below)) => above == asked.resource && below == asked.subresource,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(rules: &str) -> Policy {
        Policy::parse(&format!(
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n{rules}"
        ))
        .unwrap()
    }

    fn level(policy: &Policy, user: &UserInfo, verb: &str, what: &str) -> Level {
        let empty = Asked {
            user,
            verb,
            is_resource: false,
            group: "",
            resource: "",
            subresource: "",
            namespace: "",
            name: "",
            path: what,
        };
        if what.starts_with('/') {
            return policy.judge(&empty).level;
        }
        let mut words = what.split(' ');
        let (place, name) = (words.next().unwrap(), words.next().unwrap_or_default());
        let (namespace, name) = name.split_once('/').unwrap_or(("", name));
        let (group, resource) = place.split_once(':').unwrap_or(("", place));
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        policy
            .judge(&Asked { is_resource: true, group, resource, subresource, namespace, name, ..empty })
            .level
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let policy = policy(
            "- {level: None, users: ['system:kube-proxy'], verbs: [watch], resources: [{resources: [endpoints]}]}\n\
             - {level: None, nonResourceURLs: ['/healthz*', /version]}\n\
             - {level: Request, namespaces: [kube-system], resources: [{resources: [configmaps], resourceNames: [auth]}]}\n\
             - {level: Metadata, resources: [{resources: ['pods/log', '*/status']}]}\n\
             - {level: RequestResponse, userGroups: [devs], resources: [{group: apps}, {resources: ['pods/*', pods]}]}\n\
             - {level: Metadata, namespaces: ['']}\n",
        );
        let user = UserInfo::authenticated("u", ["devs"]);
        let proxy = UserInfo::authenticated("system:kube-proxy", ["x"]);
        for (user, verb, what, wanted) in [
            (&proxy, "watch", "endpoints a/b", Level::None),
            (&proxy, "list", "nodes", Level::Metadata),
            (&user, "get", "/healthz/ping", Level::None),
            (&user, "get", "/version", Level::None),
            (&user, "get", "/versions", Level::None),
            (&user, "get", "configmaps kube-system/auth", Level::Request),
            (&user, "get", "configmaps kube-system/other", Level::None),
            (&user, "get", "pods/log a/b", Level::Metadata),
            (&user, "get", "pods/exec a/b", Level::RequestResponse),
            (&proxy, "get", "pods/exec a/b", Level::None),
            (&user, "get", "apps:deployments/status a/b", Level::RequestResponse),
            (&user, "get", "nodes/status b", Level::Metadata),
            (&user, "get", "batch:jobs a/b", Level::None),
        ] {
            assert_eq!(level(&policy, user, verb, what), wanted, "{} {verb} {what}", user.name);
        }
    }

    #[test]
    fn stages_and_fields_are_left_out_by_the_policy_and_by_its_rules() {
        let policy = policy(
            "- {level: Metadata, verbs: [get], omitStages: [ResponseStarted], omitManagedFields: true}\n- {level: Metadata}",
        );
        let user = UserInfo::anonymous();
        let asked = |verb| Asked {
            user: &user,
            verb,
            is_resource: false,
            group: "",
            resource: "",
            subresource: "",
            namespace: "",
            name: "",
            path: "/",
        };
        let (one, other) = (policy.judge(&asked("get")), policy.judge(&asked("post")));
        assert!(one.omitted.has(Stage::RequestReceived) && one.omitted.has(Stage::ResponseStarted));
        assert!(other.omitted.has(Stage::RequestReceived) && !other.omitted.has(Stage::ResponseStarted));
        assert!(!one.omitted.has(Stage::ResponseComplete) && !one.omitted.has(Stage::Panic));
        assert!(one.omits_managed_fields && !other.omits_managed_fields);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, wanted) in [
            ("apiVersion: v1\nkind: Policy\nrules: [{level: None}]", "audit.k8s.io/v1"),
            ("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: []", "at least one"),
            ("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: All}]", "All"),
            ("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, user: [x]}]", "user"),
            (
                "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, namespaces: [x], nonResourceURLs: [/x]}]",
                "rules[0].nonResourceURLs",
            ),
            (
                "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, nonResourceURLs: ['/a*b']}]",
                "at its end alone",
            ),
            (
                "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, resources: [{resourceNames: [x]}]}]",
                "rules[0].resources[0].resourceNames",
            ),
        ] {
            let why = Policy::parse(text).unwrap_err();
            assert!(why.contains(wanted), "{text}: {why}");
        }
    }
}
