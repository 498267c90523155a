//! Flow schemas: which requests belong together, and at which level they wait.

use std::sync::Arc;

use serde_json::Value;
use yunfan_identity::UserInfo;

use super::metrics::Counters;
use crate::door::path::RequestInfo;

/// What tells the flows of one schema apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Distinguisher {
    Nothing,
    User,
    Namespace,
}

/// A FlowSchema whose level is there.
#[derive(Debug)]
pub(super) struct Schema {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) precedence: i64,
    /// Name of the PriorityLevelConfiguration.
    pub(super) level: String,
    /// Number of the level in the queues, and the uid of its object.
    pub(super) place: (u32, String),
    pub(super) counters: Counters,
    distinguisher: Distinguisher,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<Resources>,
    paths: Vec<Paths>,
}

#[derive(Debug, PartialEq, Eq)]
enum Subject {
    User(String),
    Group(String),
    /// Namespace and name, which may be `*`.
    Account(String, String),
}

#[derive(Debug)]
struct Resources {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    cluster: bool,
    namespaces: Vec<String>,
}

#[derive(Debug)]
struct Paths {
    verbs: Vec<String>,
    urls: Vec<String>,
}

impl Schema {
    /// What the object says; the level's place is found by its name.
    pub(super) fn of(object: &Value, place: (u32, String), counters: Counters) -> Self {
        let spec = &object["spec"];
        Self {
            name: text(&object["metadata"]["name"]),
            uid: text(&object["metadata"]["uid"]),
            precedence: spec["matchingPrecedence"].as_i64().unwrap_or(1000),
            level: level_of(object),
            place,
            counters,
            distinguisher: match spec["distinguisherMethod"]["type"].as_str() {
                Some("ByUser") => Distinguisher::User,
                Some("ByNamespace") => Distinguisher::Namespace,
                _ => Distinguisher::Nothing,
            },
            rules: each(&spec["rules"]).map(Rule::of).collect(),
        }
    }

    /// Whether a request is one of these.
    pub(super) fn takes(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        self.rules.iter().any(|rule| rule.takes(user, info))
    }

    /// A number that the requests of one flow have in common.
    pub(super) fn flow(&self, user: &UserInfo, info: &RequestInfo) -> u64 {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        self.name.hash(&mut hasher);
        match self.distinguisher {
            Distinguisher::Nothing => {}
            Distinguisher::User => user.name.hash(&mut hasher),
            Distinguisher::Namespace => info.namespace.hash(&mut hasher),
        }
        hasher.finish()
    }
}

/// Name of the level that a FlowSchema names.
pub(super) fn level_of(object: &Value) -> String {
    text(&object["spec"]["priorityLevelConfiguration"]["name"])
}

/// The schemas in the order in which they are asked: by precedence, then by name.
pub(super) fn sorted(mut schemas: Vec<Schema>) -> Vec<Arc<Schema>> {
    schemas.sort_by(|one, other| (one.precedence, &one.name).cmp(&(other.precedence, &other.name)));
    schemas.into_iter().map(Arc::new).collect()
}

impl Rule {
    fn of(rule: &Value) -> Self {
        Self {
            subjects: each(&rule["subjects"]).filter_map(Subject::of).collect(),
            resources: each(&rule["resourceRules"]).map(Resources::of).collect(),
            paths: each(&rule["nonResourceRules"])
                .map(|paths| Paths { verbs: texts(&paths["verbs"]), urls: texts(&paths["nonResourceURLs"]) })
                .collect(),
        }
    }

    fn takes(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        if !self.subjects.iter().any(|subject| subject.is(user)) {
            return false;
        }
        if info.is_resource {
            self.resources.iter().any(|resources| resources.take(info))
        } else {
            self.paths.iter().any(|paths| paths.take(info))
        }
    }
}

impl Subject {
    fn of(subject: &Value) -> Option<Self> {
        match subject["kind"].as_str()? {
            "User" => Some(Self::User(text(&subject["user"]["name"]))),
            "Group" => Some(Self::Group(text(&subject["group"]["name"]))),
            "ServiceAccount" => {
                let account = &subject["serviceAccount"];
                Some(Self::Account(text(&account["namespace"]), text(&account["name"])))
            }
            _ => None,
        }
    }

    fn is(&self, user: &UserInfo) -> bool {
        match self {
            Self::User(name) => name == "*" || *name == user.name,
            Self::Group(name) => name == "*" || user.in_group(name),
            Self::Account(namespace, name) => {
                let account = user.name.strip_prefix("system:serviceaccount:");
                account
                    .and_then(|account| account.split_once(':'))
                    .is_some_and(|(own, own_name)| own == namespace && (name == "*" || own_name == name))
            }
        }
    }
}

impl Resources {
    fn of(rule: &Value) -> Self {
        Self {
            verbs: texts(&rule["verbs"]),
            groups: texts(&rule["apiGroups"]),
            resources: texts(&rule["resources"]),
            cluster: rule["clusterScope"].as_bool().unwrap_or_default(),
            namespaces: texts(&rule["namespaces"]),
        }
    }

    fn take(&self, info: &RequestInfo) -> bool {
        let scope =
            if info.namespace.is_empty() { self.cluster } else { has(&self.namespaces, &info.namespace) };
        scope && has(&self.verbs, &info.verb) && has(&self.groups, &info.group) && self.names(info)
    }

    fn names(&self, info: &RequestInfo) -> bool {
        if info.subresource.is_empty() {
            return has(&self.resources, &info.resource);
        }
        self.resources.iter().any(|named| {
            named == "*"
                || named
                    .split_once('/')
                    .is_some_and(|(resource, part)| resource == info.resource && part == info.subresource)
        })
    }
}

impl Paths {
    fn take(&self, info: &RequestInfo) -> bool {
        has(&self.verbs, &info.verb)
            && self.urls.iter().any(|url| match url.strip_suffix('*') {
                Some(start) => info.path.starts_with(start),
                None => *url == info.path,
            })
    }
}

fn has(words: &[String], word: &str) -> bool {
    words.iter().any(|own| own == "*" || own == word)
}

fn each(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(list: &Value) -> Vec<String> {
    each(list).filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::json;

    use super::*;

    fn info(method: &Method, path: &str) -> RequestInfo {
        RequestInfo::parse(method, path, false)
    }

    fn schema(rules: Value, distinguisher: &str) -> Schema {
        let object = json!({"metadata": {"name": "s", "uid": "u"}, "spec": {"matchingPrecedence": 5,
            "priorityLevelConfiguration": {"name": "l"}, "distinguisherMethod": {"type": distinguisher}, "rules": rules}});
        Schema::of(&object, (1, String::new()), Counters::default())
    }

    fn ann() -> UserInfo {
        UserInfo::authenticated("ann", ["dev"])
    }

    #[test]
    fn a_rule_takes_its_subjects_and_what_they_ask() {
        let everything = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}]);
        let of = |subject: Value| schema(json!([{"subjects": [subject], "resourceRules": everything}]), "");
        let pods = info(&Method::GET, "/api/v1/namespaces/a/pods");
        for (subject, takes) in [
            (json!({"kind": "User", "user": {"name": "ann"}}), true),
            (json!({"kind": "User", "user": {"name": "*"}}), true),
            (json!({"kind": "User", "user": {"name": "bob"}}), false),
            (json!({"kind": "Group", "group": {"name": "dev"}}), true),
            (json!({"kind": "Group", "group": {"name": "ops"}}), false),
            (json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "a", "name": "*"}}), false),
        ] {
            assert_eq!(of(subject.clone()).takes(&ann(), &pods), takes, "{subject}");
        }
        let account = UserInfo::authenticated("system:serviceaccount:a:b", Vec::<String>::new());
        for (namespace, name, takes) in
            [("a", "b", true), ("a", "*", true), ("a", "c", false), ("c", "*", false)]
        {
            let subject =
                json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": namespace, "name": name}});
            assert_eq!(of(subject).takes(&account, &pods), takes, "{namespace} {name}");
        }
        assert!(
            !of(json!({"kind": "User", "user": {"name": "ann"}}))
                .takes(&ann(), &info(&Method::GET, "/version"))
        );
    }

    #[test]
    fn a_rule_takes_parts_scopes_and_paths_as_it_names_them() {
        let of = |rule: Value| {
            let key = if rule["nonResourceURLs"].is_null() { "resourceRules" } else { "nonResourceRules" };
            schema(json!([{"subjects": [{"kind": "User", "user": {"name": "ann"}}], key: [rule]}]), "")
        };
        let rule = |resources: &[&str], cluster: bool, namespaces: &[&str]| {
            of(
                json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": resources, "clusterScope": cluster, "namespaces": namespaces}),
            )
        };
        let takes = |schema: &Schema, method: Method, path: &str| schema.takes(&ann(), &info(&method, path));
        let pods = rule(&["pods"], false, &["a"]);
        assert!(takes(&pods, Method::GET, "/api/v1/namespaces/a/pods"));
        assert!(!takes(&pods, Method::GET, "/api/v1/namespaces/b/pods"));
        assert!(!takes(&pods, Method::GET, "/api/v1/pods"), "of the whole cluster");
        assert!(!takes(&pods, Method::POST, "/api/v1/namespaces/a/pods"), "another verb");
        assert!(!takes(&pods, Method::GET, "/apis/apps/v1/namespaces/a/pods"), "another group");
        assert!(!takes(&pods, Method::GET, "/api/v1/namespaces/a/pods/p/status"), "a part");
        assert!(takes(
            &rule(&["pods/status"], false, &["*"]),
            Method::GET,
            "/api/v1/namespaces/a/pods/p/status"
        ));
        assert!(takes(&rule(&["*"], true, &[]), Method::GET, "/api/v1/nodes"));
        assert!(!takes(&rule(&["*"], false, &["*"]), Method::GET, "/api/v1/nodes"));
        let paths = of(json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/apis/*"]}));
        for (path, taken) in
            [("/healthz", true), ("/healthz/etcd", false), ("/apis/apps", true), ("/apis", false)]
        {
            assert_eq!(takes(&paths, Method::GET, path), taken, "{path}");
        }
    }

    #[test]
    fn flows_are_told_apart_as_the_schema_says() {
        let (a, b) = (
            info(&Method::GET, "/api/v1/namespaces/a/pods"),
            info(&Method::GET, "/api/v1/namespaces/b/pods"),
        );
        let bob = UserInfo::authenticated("bob", Vec::<String>::new());
        let same = |distinguisher: &str| {
            let schema = schema(json!([]), distinguisher);
            let first = schema.flow(&ann(), &a);
            (first == schema.flow(&bob, &a), first == schema.flow(&ann(), &b))
        };
        assert_eq!(same(""), (true, true));
        assert_eq!(same("ByUser"), (false, true));
        assert_eq!(same("ByNamespace"), (true, false));
    }
}
