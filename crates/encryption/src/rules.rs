//! What is encrypted with what: the first list that has a resource decides, its first provider writes, all read.

use std::fmt;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use yunfan_store::SEALED;

use crate::aead::Key;
use crate::kms::{self, Kms, KmsSettings};

/// Where objects are in the store: `/registry/GROUP/PLURAL/…`, the legacy group being `core`.
const REGISTRY: &[u8] = b"/registry/";

/// What the API server judges each request by: it is never encrypted, because a key that is away must not make rules, quotas and
/// policies look as if there were none. Kubernetes' wildcards take these in.
const PLAIN: [(&str, Option<&str>); 6] = [
    ("admissionregistration.k8s.io", None),
    ("apiextensions.k8s.io", None),
    ("rbac.authorization.k8s.io", None),
    ("", Some("namespaces")),
    ("", Some("resourcequotas")),
    ("", Some("limitranges")),
];

fn is_plain(group: &[u8], resource: &[u8]) -> bool {
    PLAIN.iter().any(|(own, one)| own.as_bytes() == group && one.is_none_or(|one| one.as_bytes() == resource))
}

/// All lists, in their order.
pub(crate) struct Rules(pub(crate) Vec<Rule>);

/// Some resources and what encrypts them.
pub(crate) struct Rule {
    pub(crate) patterns: Vec<Pattern>,
    pub(crate) providers: Vec<Provider>,
}

/// Resources: one, those of a group, or all.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    /// None: any.
    group: Option<String>,
    /// None: any.
    resource: Option<String>,
}

/// What encrypts.
pub(crate) enum Provider {
    /// Nothing does.
    Identity,
    Keys(Keys),
    Kms(Arc<Kms>),
}

/// Named keys: the first one writes.
pub(crate) struct Keys {
    pub(crate) form: &'static str,
    pub(crate) keys: Vec<(String, Key)>,
}

impl Pattern {
    /// Reads `secrets`, `deployments.apps`, `*.apps`, `*.` (the core group) or `*.*`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.contains('/') {
            return Err("a subresource can't be named: it is kept with its object".to_owned());
        }
        if text == "*" {
            return Err("use '*.*' for all resources, or '*.' for those of the core group".to_owned());
        }
        let (resource, group) = text.split_once('.').unwrap_or((text, ""));
        if resource.is_empty() || text.chars().any(|c| c.is_ascii_uppercase() || c.is_whitespace()) {
            return Err(
                "is no resource: expected such as secrets, deployments.apps, *.apps or *.*".to_owned()
            );
        }
        if group == "*" && resource != "*" {
            return Err("a resource of all groups can't be named".to_owned());
        }
        if group != "*" && is_plain(group.as_bytes(), resource.as_bytes()) {
            return Err("is what requests are judged by, and is never encrypted: leave it out".to_owned());
        }
        let named = |word: &str| (word != "*").then(|| word.to_owned());
        Ok(Self { group: named(group), resource: named(resource) })
    }

    /// Whether some resource is meant by both.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        fn both(one: Option<&String>, other: Option<&String>) -> bool {
            one.is_none() || other.is_none() || one == other
        }
        both(self.group.as_ref(), other.group.as_ref())
            && both(self.resource.as_ref(), other.resource.as_ref())
    }

    fn has(&self, group: &[u8], resource: &[u8]) -> bool {
        if is_plain(group, resource) {
            return false;
        }
        self.group.as_ref().is_none_or(|own| own.as_bytes() == group)
            && self.resource.as_ref().is_none_or(|own| own.as_bytes() == resource)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.resource.as_deref().unwrap_or("*"))?;
        match (self.group.as_deref(), &self.resource) {
            (Some(""), Some(_)) => Ok(()),
            (group, _) => write!(f, ".{}", group.unwrap_or("*")),
        }
    }
}

/// Group and resource of a key, if it is that of an object.
fn resource_of(key: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = key.strip_prefix(REGISTRY)?.splitn(3, |byte| *byte == b'/');
    let (group, resource) = (parts.next()?, parts.next()?);
    parts.next()?;
    Some((if group == b"core" { b"" } else { group }, resource))
}

/// By what a value was encrypted, as its beginning says it (`k8s:enc:FORM:…`).
pub(crate) fn form_of(sealed: &[u8]) -> &'static str {
    let form = sealed.strip_prefix(SEALED).and_then(|rest| rest.split(|byte| *byte == b':').next());
    match form {
        Some(b"aesgcm") => "aesgcm",
        Some(b"aesgcm-derived") => "aesgcm-derived",
        Some(b"kms") => "kms",
        _ => "unknown",
    }
}

impl Rules {
    fn rule(&self, key: &[u8]) -> Option<&Rule> {
        let (group, resource) = resource_of(key)?;
        self.0.iter().find(|rule| rule.patterns.iter().any(|pattern| pattern.has(group, resource)))
    }

    /// What encrypts the value of this key, if anything does.
    pub(crate) fn writer(&self, key: &[u8]) -> Option<&Provider> {
        let first = self.rule(key)?.providers.first()?;
        (!matches!(first, Provider::Identity)).then_some(first)
    }

    /// The value of a key. What the key's own list has not is looked for in all others: a resource that is in none any more stays
    /// readable as long as its key is there.
    pub(crate) async fn open(&self, key: &[u8], sealed: &Bytes) -> Result<Bytes, String> {
        let own = self.rule(key);
        let others = self.0.iter().filter(|rule| own.is_none_or(|own| !std::ptr::eq(*rule, own)));
        let mut why = None;
        for provider in own.into_iter().chain(others).flat_map(|rule| &rule.providers) {
            match provider.open(key, sealed).await {
                Some(Ok(value)) => return Ok(value),
                Some(Err(error)) => why = why.or(Some(error)),
                None => {}
            }
        }
        Err(why.unwrap_or_else(|| {
            format!(
                "it is encrypted with {}, which is not configured: add it again to read it",
                named(sealed)
            )
        }))
    }

    /// See [`yunfan_store::Transformer::names`]: also what is to be kept as it is (`identity`) is named.
    pub(crate) fn names(&self, key: &[u8]) -> bool {
        self.rule(key).is_some()
    }

    /// See [`yunfan_store::Transformer::is_stale`].
    pub(crate) fn is_stale(&self, key: &[u8], kept: &[u8]) -> bool {
        match self.writer(key) {
            None => kept.starts_with(SEALED),
            Some(provider) => !provider.is_current(kept),
        }
    }

    /// Waits until each plug-in has given a key, or says why it can't.
    pub(crate) async fn ready(&self) -> Result<(), String> {
        for plugin in self.plugins() {
            plugin.ready().await?;
        }
        Ok(())
    }

    fn plugins(&self) -> impl Iterator<Item = &Arc<Kms>> {
        self.0.iter().flat_map(|rule| &rule.providers).filter_map(|provider| match provider {
            Provider::Kms(plugin) => Some(plugin),
            _ => None,
        })
    }

    /// The plug-in with just these settings.
    pub(crate) fn plugin(&self, settings: &KmsSettings) -> Option<Arc<Kms>> {
        self.plugins().find(|plugin| plugin.settings() == settings).cloned()
    }

    /// `secrets: aesgcm-derived key1`.
    pub(crate) fn describe(&self) -> Vec<String> {
        let line = |rule: &Rule| {
            let resources: Vec<String> = rule.patterns.iter().map(ToString::to_string).collect();
            let writer = match rule.providers.first() {
                Some(Provider::Keys(keys)) => format!("{} {}", keys.form, keys.keys[0].0),
                Some(Provider::Kms(plugin)) => plugin.describe(),
                Some(Provider::Identity) | None => "not encrypted".to_owned(),
            };
            format!("{}: {writer}", resources.join(", "))
        };
        self.0.iter().map(line).collect()
    }
}

/// What a value says that it is encrypted with.
fn named(sealed: &[u8]) -> String {
    let words: Vec<&[u8]> = sealed.splitn(6, |byte| *byte == b':').collect();
    let text = |at: usize| words.get(at).map(|word| String::from_utf8_lossy(word)).unwrap_or_default();
    match words.len() {
        6 if &words[2] == b"kms" => match kms::key_id(words[5]) {
            Some(key) => format!("the key {key:?} of the KMS plug-in {:?}", text(4)),
            None => format!("the KMS plug-in {:?}", text(4)),
        },
        6 => format!("the key {:?} of {}", text(4), text(2)),
        _ => "something unknown".to_owned(),
    }
}

impl Provider {
    /// The word in the values' beginnings.
    pub(crate) fn form(&self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Keys(keys) => keys.form,
            Self::Kms(_) => "kms",
        }
    }

    /// The encrypted value, with its beginning.
    pub(crate) fn seal(&self, key: &[u8], value: &[u8]) -> Result<Bytes, String> {
        let mut out = BytesMut::with_capacity(value.len() + 128);
        match self {
            Self::Identity => out.put_slice(value),
            Self::Keys(keys) => {
                // There is at least one.
                let (name, first) = &keys.keys[0];
                out.put_slice(keys.prefix(name).as_bytes());
                first.seal(key, value, &mut out)?;
            }
            Self::Kms(plugin) => plugin.seal(key, value, &mut out)?,
        }
        Ok(out.freeze())
    }

    /// The value, or why it can't be decrypted; none if this provider has nothing to do with it.
    async fn open(&self, key: &[u8], sealed: &Bytes) -> Option<Result<Bytes, String>> {
        match self {
            Self::Identity => None,
            Self::Keys(keys) => keys.open(key, sealed),
            Self::Kms(plugin) => {
                let rest = sealed.strip_prefix(plugin.prefix().as_bytes())?;
                Some(plugin.open(key, rest).await)
            }
        }
    }

    fn is_current(&self, kept: &[u8]) -> bool {
        match self {
            Self::Identity => !kept.starts_with(SEALED),
            Self::Keys(keys) => kept.starts_with(keys.prefix(&keys.keys[0].0).as_bytes()),
            Self::Kms(plugin) => {
                kept.strip_prefix(plugin.prefix().as_bytes()).is_some_and(|rest| plugin.is_current(rest))
            }
        }
    }
}

impl Keys {
    fn prefix(&self, name: &str) -> String {
        format!("k8s:enc:{}:v1:{name}:", self.form)
    }

    fn open(&self, bound: &[u8], sealed: &[u8]) -> Option<Result<Bytes, String>> {
        for (name, key) in &self.keys {
            let Some(rest) = sealed.strip_prefix(self.prefix(name).as_bytes()) else { continue };
            return Some(key.open(bound, rest).ok_or_else(|| {
                format!(
                    "the key {name:?} of {} does not decrypt it: it is another key of that name, or the value was changed or moved",
                    self.form
                )
            }));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aead::{Single, Uses};
    use crate::config::Configuration;

    const ONE: &[u8] = b"/registry/core/secrets/default/a";

    fn rules(body: &str) -> Rules {
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n{body}"
        );
        Configuration::parse(&text).unwrap().into_rules(None, &Uses::default()).unwrap()
    }

    fn key(name: &str, byte: &str) -> String {
        format!("{{name: {name}, secret: {}=}}", byte.repeat(43))
    }

    #[test]
    fn resources_are_found_by_their_keys() {
        assert_eq!(resource_of(ONE), Some((&b""[..], &b"secrets"[..])));
        assert_eq!(resource_of(b"/registry/apps/deployments/x/y"), Some((&b"apps"[..], &b"deployments"[..])));
        assert_eq!(resource_of(b"/claims/core/secrets/x"), None);
        for (text, hits) in [
            ("secrets", [true, false, false, false]),
            ("deployments.apps", [false, false, true, false]),
            ("*.apps", [false, false, true, false]),
            ("*.", [true, true, false, false]),
            ("*.*", [true, true, true, true]),
        ] {
            let pattern = Pattern::parse(text).unwrap();
            assert_eq!(pattern.to_string(), text);
            let all: [(&[u8], &[u8]); 4] =
                [(b"", b"secrets"), (b"", b"pods"), (b"apps", b"deployments"), (b"x.y", b"secrets")];
            assert_eq!(all.map(|(group, resource)| pattern.has(group, resource)), hits, "{text}");
        }
    }

    #[tokio::test]
    async fn the_first_provider_writes_and_all_read() {
        let old =
            rules(&format!("- resources: [secrets]\n  providers: [aesgcm: {{keys: [{}]}}]", key("old", "A")));
        let new = rules(&format!(
            "- resources: [secrets]\n  providers: [aesgcmDerived: {{keys: [{}]}}, aesgcm: {{keys: [{}]}}, identity: {{}}]",
            key("new", "E"),
            key("old", "A")
        ));
        let before = old.writer(ONE).unwrap().seal(ONE, b"v").unwrap();
        assert!(before.starts_with(b"k8s:enc:aesgcm:v1:old:"));
        assert!(!old.is_stale(ONE, &before) && new.is_stale(ONE, &before) && new.is_stale(ONE, b"{}"));
        assert_eq!(new.open(ONE, &before).await.unwrap(), "v");
        let after = new.writer(ONE).unwrap().seal(ONE, b"v").unwrap();
        assert!(after.starts_with(b"k8s:enc:aesgcm-derived:v1:new:") && !new.is_stale(ONE, &after));
        let why = old.open(ONE, &after).await.unwrap_err();
        assert!(why.contains("the key \"new\" of aesgcm-derived, which is not configured"), "{why}");
        // Another resource is not encrypted, but is read where it was.
        let other = b"/registry/core/configmaps/default/a";
        assert!(new.names(ONE) && !new.names(other));
        assert!(new.writer(other).is_none() && new.is_stale(other, &after) && !new.is_stale(other, b"{}"));
        let moved = new.open(other, &after).await.unwrap_err();
        assert!(moved.contains("was changed or moved"), "{moved}");
        assert_eq!(new.describe(), ["secrets: aesgcm-derived new"]);
        assert_eq!(form_of(&after), "aesgcm-derived");
    }

    #[tokio::test]
    async fn the_first_list_decides() {
        let lists = format!(
            "- resources: [secrets]\n  providers: [identity: {{}}]\n- resources: ['*.*']\n  providers: [aesgcm: {{keys: [{}]}}]",
            key("a", "A")
        );
        let rules = rules(&lists);
        assert!(rules.writer(ONE).is_none());
        assert!(rules.writer(b"/registry/core/pods/x/y").is_some());
        assert!(rules.writer(b"/claims/x").is_none());
        // What another list can read is read.
        let key = Key::Single(Box::new(Single::new(&[0; 32], &Uses::default()).unwrap()));
        let sealed = Provider::Keys(Keys { form: "aesgcm", keys: vec![("a".to_owned(), key)] });
        let sealed = sealed.seal(ONE, b"v").unwrap();
        assert_eq!(rules.open(ONE, &sealed).await.unwrap(), "v");
    }
}
