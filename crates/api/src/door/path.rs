//! What a request's path and verb ask for.

use http::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode};
use yunfan_identity::authz::{FieldTerm, LabelTerm};
use yunfan_objects::selector::{FieldSelector, LabelSelector};

/// A request on resources, or on another path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestInfo {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for
    /// other paths the method in lower case.
    pub(crate) verb: String,
    /// Whether the rest, except `path`, says anything.
    pub(crate) is_resource: bool,
    pub(crate) group: String,
    pub(crate) version: String,
    /// Plural name.
    pub(crate) resource: String,
    pub(crate) subresource: String,
    /// Whether there are words behind the subresource.
    pub(crate) below: bool,
    /// Empty for cluster scope and for all namespaces.
    pub(crate) namespace: String,
    /// Empty for collections.
    pub(crate) name: String,
    pub(crate) path: String,
    /// Conditions of the field selector of a list, a watch or a deletion of many.
    pub(crate) selected: Vec<FieldTerm>,
    /// Conditions of the label selector of a list, a watch or a deletion of many.
    pub(crate) labels: Vec<LabelTerm>,
}

/// Subresources of a Namespace itself; anything else behind a namespace's name is a kind in it.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

impl RequestInfo {
    /// Reads method and path. `watch` says whether the query asks for a watch.
    pub(crate) fn parse(method: &Method, path: &str, watch: bool) -> Self {
        let mut info =
            Self { verb: method.as_str().to_ascii_lowercase(), path: path.to_owned(), ..Self::default() };
        if !is_dense(path) {
            return info;
        }
        let parts = words(path);
        let mut parts = parts.iter().map(String::as_str);
        let (group, version) = match parts.next() {
            Some("api") => (Some(""), parts.next()),
            Some("apis") => (parts.next(), parts.next()),
            _ => return info,
        };
        let (Some(group), Some(version)) = (group, version) else { return info };
        let mut rest: Vec<&str> = parts.collect();
        // The old way of asking for a watch: `/api/v1/watch/pods`.
        let below_watch = match rest.first() {
            Some(&"watch") if rest.len() > 1 && *method == Method::GET => {
                rest.remove(0);
                true
            }
            _ => false,
        };
        if rest.is_empty() {
            return info;
        }
        info.is_resource = true;
        info.group = group.to_owned();
        info.version = version.to_owned();
        info.place(&rest);
        // One object is read, and not watched, unless the path says so.
        let watch = below_watch || (watch && info.name.is_empty());
        info.verb = info.resource_verb(method, watch).to_owned();
        info
    }

    fn place(&mut self, rest: &[&str]) {
        let mut rest = rest;
        if rest[0] == "namespaces"
            && rest.len() >= 3
            && !(rest.len() == 3 && NAMESPACE_SUBRESOURCES.contains(&rest[2]))
        {
            self.namespace = rest[1].to_owned();
            rest = &rest[2..];
        } else if rest[0] == "namespaces" && rest.len() >= 2 {
            // A role in a namespace may allow its holder to read that namespace.
            self.namespace = rest[1].to_owned();
        }
        self.resource = rest[0].to_owned();
        self.name = rest.get(1).map(|s| (*s).to_owned()).unwrap_or_default();
        self.subresource = rest.get(2).map(|s| (*s).to_owned()).unwrap_or_default();
        self.below = rest.len() > 3;
    }

    fn resource_verb(&self, method: &Method, watch: bool) -> &'static str {
        let collection = self.name.is_empty();
        match *method {
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if collection => "deletecollection",
            Method::DELETE => "delete",
            // Behind a subresource the query is its own.
            Method::GET | Method::HEAD if watch && self.subresource.is_empty() => "watch",
            Method::GET | Method::HEAD if collection => "list",
            Method::GET | Method::HEAD => "get",
            _ => "unknown",
        }
    }

    /// Notes what the field selector of a request on a collection asks for.
    pub(crate) fn select(&mut self, fields: Option<&str>, labels: Option<&str>) {
        let collective = matches!(self.verb.as_str(), "list" | "watch" | "deletecollection");
        // One that can't be read is refused by whoever is to use it: here it says nothing.
        if let Some(selector) = fields.filter(|_| collective && self.name.is_empty()) {
            self.selected = field_terms(selector).unwrap_or_default();
        }
        if let Some(selector) = labels.filter(|text| collective && !text.is_empty()) {
            self.labels = LabelSelector::parse(selector).map(|read| label_terms(&read)).unwrap_or_default();
        }
    }

    /// The one name that the field selector of a list or a watch asks for, or nothing: who may read the object of that name may do
    /// that. Who deletes many says of none that it is the one.
    pub(crate) fn selected_name(&self) -> &str {
        let named = |term: &&FieldTerm| term.equal && term.field == "metadata.name";
        let found = self.selected.iter().filter(|_| self.verb != "deletecollection").find(named);
        found.map(|term| term.value.as_str()).unwrap_or_default()
    }

    /// Namespace of the object that is asked for: none for a Namespace itself.
    pub(crate) fn object_namespace(&self) -> &str {
        if self.resource == "namespaces" && self.group.is_empty() { "" } else { &self.namespace }
    }
}

/// The conditions of a field selector as authorization knows them; none for text that can't be read.
pub(crate) fn field_terms(text: &str) -> Option<Vec<FieldTerm>> {
    let term = |(field, equal, value)| FieldTerm { field, equal, value };
    Some(FieldSelector::conditions(text).ok()?.into_iter().map(term).collect())
}

/// A selector's conditions as authorization knows them.
pub(crate) fn label_terms(selector: &LabelSelector) -> Vec<LabelTerm> {
    let term = |(key, operator, values): (&str, _, &[String])| LabelTerm {
        key: key.to_owned(),
        operator,
        values: values.to_vec(),
    };
    selector.terms().map(term).collect()
}

/// Whether no word is missing between the slashes of a path, as far as it is ours: what stands behind a proxy is read by
/// others. Slashes at the end do no harm.
fn is_dense(path: &str) -> bool {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.trim_end_matches('/').split('/').take_while(|word| *word != "proxy").all(|word| !word.is_empty())
}

/// Whether a path that is no resource's is written as something is served: no word is missing, and a slash stands at the end of
/// those alone that kube-apiserver's router serves, not of those that have a handler of their own.
pub(crate) fn is_plain(path: &str) -> bool {
    let Some(short) = path.strip_suffix('/') else { return !path.contains("//") };
    let routed = || {
        ["/api", "/apis", "/version", "/.well-known", "/openid"].iter().any(|first| is_below(short, first))
    };
    !path.contains("//") && (short.is_empty() || routed())
}

/// Whether a path is this one, or one below it.
fn is_below(path: &str, first: &str) -> bool {
    path.strip_prefix(first).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The words of a path, decoded one by one.
pub(crate) fn words(path: &str) -> Vec<String> {
    path.split('/').filter(|word| !word.is_empty()).map(percent_decode).collect()
}

/// Whether every server reads a path as we do, whose words are what is authorized: others decode a path before they take it
/// apart, resolve dots in it, drop what follows a semicolon, or know more ways to write a character.
pub(crate) fn is_clear(path: &str) -> bool {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.strip_suffix('/').unwrap_or(path).split('/').all(|word| {
        let is_escape = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let whole = word.match_indices('%').all(|(at, _)| word.get(at + 1..at + 3).is_some_and(is_escape));
        let word = percent_decode(word);
        let odd = |c: char| matches!(c, '/' | '\\' | char::REPLACEMENT_CHARACTER) || c.is_control();
        whole && !word.contains(odd) && !matches!(word.split(';').next(), None | Some("" | "." | ".."))
    })
}

/// What is written with an escape: all but the unreserved characters (RFC 3986, section 2.3), so that it can stand in a path, a
/// query and a header's name.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A text as it can stand in a path, a query or a header's name.
pub(crate) fn percent_encode(text: &str) -> PercentEncode<'_> {
    percent_encoding::utf8_percent_encode(text, RESERVED)
}

/// Undoes percent encoding; what is no valid encoding stays as it is.
pub(crate) fn percent_decode(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_survive_encoding() {
        assert_eq!(percent_encode("a b&c=/é").to_string(), "a%20b%26c%3D%2F%C3%A9");
        assert_eq!(percent_decode(&percent_encode("a b&c=/é").to_string()), "a b&c=/é");
        assert_eq!(percent_decode("%+f%zz%"), "%+f%zz%", "no escapes");
    }

    fn parse(method: &str, path: &str) -> RequestInfo {
        RequestInfo::parse(&method.parse().expect("a method"), path, false)
    }

    #[test]
    fn a_selected_name_is_noted() {
        let mut info = parse("GET", "/api/v1/nodes");
        for (selector, name) in
            [("metadata.name=a", "a"), ("x=y,metadata.name==b", "b"), ("metadata.name!=c", "")]
        {
            info.select(Some(selector), None);
            assert_eq!(info.selected_name(), name);
        }
        let mut many = parse("DELETE", "/api/v1/nodes");
        many.select(Some("metadata.name=a,x!=b"), None);
        let term = |field: &str, equal, value: &str| FieldTerm {
            field: field.to_owned(),
            equal,
            value: value.to_owned(),
        };
        assert_eq!(many.selected, [term("metadata.name", true, "a"), term("x", false, "b")]);
        assert_eq!(many.selected_name(), "");
    }

    #[test]
    fn selected_labels_are_noted() {
        let seen = |verb: &str, selector: &str| {
            let mut info = parse(verb, "/api/v1/namespaces/a/pods");
            info.select(None, Some(selector));
            let shown =
                |term: &LabelTerm| format!("{} {} {}", term.key, term.operator, term.values.join("|"));
            info.labels.iter().map(shown).collect::<Vec<_>>().join(", ")
        };
        assert_eq!(
            seen("GET", "a=1,b!=2,c in (x,y),d,!e,f>5"),
            "a In 1, b NotIn 2, c In x|y, d Exists , e DoesNotExist "
        );
        assert_eq!(seen("DELETE", "a=1"), "a In 1");
        assert_eq!(seen("POST", "a=1"), "");
        assert_eq!(seen("GET", "a in ("), "");
    }

    #[test]
    fn paths_are_understood() {
        let info = parse("GET", "/api/v1/namespaces/demo/pods/web/log");
        assert_eq!((info.namespace.as_str(), info.resource.as_str()), ("demo", "pods"));
        assert_eq!(
            (info.name.as_str(), info.subresource.as_str(), info.verb.as_str()),
            ("web", "log", "get")
        );
        assert!(!info.below && parse("GET", "/api/v1/namespaces/demo/pods/web/log/x").below);
        let info = parse("DELETE", "/apis/apps/v1/namespaces/demo/deployments");
        assert_eq!((info.group.as_str(), info.verb.as_str()), ("apps", "deletecollection"));
        let info = parse("PUT", "/api/v1/namespaces/demo/finalize");
        assert_eq!(
            (info.resource.as_str(), info.name.as_str(), info.subresource.as_str()),
            ("namespaces", "demo", "finalize")
        );
        assert_eq!(info.object_namespace(), "");
        let info = parse("GET", "/api/v1/namespaces/demo");
        assert_eq!(
            (info.resource.as_str(), info.name.as_str(), info.verb.as_str()),
            ("namespaces", "demo", "get")
        );
        for (path, namespace, name) in [
            ("/api/v1/watch/pods", "", ""),
            ("/apis/apps/v1/watch/namespaces/demo/deployments", "demo", ""),
            ("/api/v1/watch/namespaces/demo/pods/web", "demo", "web"),
        ] {
            let info = parse("GET", path);
            assert_eq!(
                (info.verb.as_str(), info.namespace.as_str(), info.name.as_str()),
                ("watch", namespace, name)
            );
        }
        let info = parse("GET", "/api/v1/nodes");
        assert_eq!((info.resource.as_str(), info.verb.as_str()), ("nodes", "list"));
        assert!(!parse("GET", "/apis/apps/v1").is_resource);
        assert!(!parse("GET", "/healthz").is_resource);
        assert_eq!(percent_decode("a%2Fb%zz%+1"), "a/b%zz%+1");
    }

    #[test]
    fn words_are_missed_but_for_the_last() {
        for (path, resource) in [
            ("/api/v1/namespaces/", "namespaces"),
            ("/api/v1/namespaces/a/configmaps/b/", "configmaps"),
            ("/api/v1/namespaces/a/services/b/proxy//x//", "services"),
            ("/api//v1/namespaces", ""),
            ("/api/v1//namespaces", ""),
            ("//api/v1/namespaces", ""),
            ("/api/v1/namespaces/a//configmaps", ""),
            ("/api/v1/namespaces//", "namespaces"),
        ] {
            assert_eq!(parse("GET", path).resource, resource, "{path}");
        }
        for path in [
            "/",
            "/api",
            "/api/",
            "/apis/apps/v1/",
            "/version/",
            "/openid/v1/jwks/",
            "/metrics",
            "/healthz/etcd",
        ] {
            assert!(is_plain(path), "{path}");
        }
        for path in
            ["//", "//api", "/api//", "/healthz/", "/metrics/", "/openapi/v2/", "/apisx/", "/apis//apps"]
        {
            assert!(!is_plain(path), "{path}");
        }
    }

    #[test]
    fn a_path_is_clear_if_nobody_can_read_it_otherwise() {
        for clear in
            ["/apis/a/v1/things", "/apis/a/v1/things/", "/a/x%20y", "/a/system:x", "/a/...", "/a/%C3%A4;b"]
        {
            assert!(is_clear(clear), "{clear}");
        }
        for odd in [
            "/a/b%2Fc",
            "/a/b%5cc",
            "/a/b\\c",
            "/a/./b",
            "/a/../b",
            "/a/%2E./b",
            "/a/..;/b",
            "/a/..;x=1/b",
            "/a/;/b",
            "/a//b",
            "//a",
            "/a//",
            "/a/%00",
            "/a/b%0Ac",
            "/a/%zz",
            "/a/%2",
            "/a/%+1",
            "/a/%u002f",
            "/a/%c0%af",
        ] {
            assert!(!is_clear(odd), "{odd}");
        }
    }
}
