//! `EncryptionConfiguration` (apiserver.config.k8s.io/v1): its text, and what is wrong with it.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::aead::{Derived, Key, Single, Uses};
use crate::kms::{Kms, KmsSettings};
use crate::rules::{Keys, Pattern, Provider, Rule, Rules};

/// The only version of the configuration.
pub(crate) const API_VERSION: &str = "apiserver.config.k8s.io/v1";
const KIND: &str = "EncryptionConfiguration";
/// How long a plug-in has for an answer unless the configuration says something else, as in Kubernetes.
const KMS_TIME: Duration = Duration::from_secs(3);

/// The whole file.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Configuration {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) resources: Vec<Resources>,
}

/// Some resources and what encrypts them: the first provider writes, all read.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Resources {
    pub(crate) resources: Vec<String>,
    pub(crate) providers: Vec<ProviderSpec>,
}

/// Exactly one of these.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ProviderSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) aesgcm: Option<KeyList>,
    /// Ours: AES-256-GCM with a key for each value, as KMS v2 has it, from a seed in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) aesgcm_derived: Option<KeyList>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) aescbc: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) secretbox: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) identity: Option<Empty>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kms: Option<KmsSpec>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Empty {}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyList {
    pub(crate) keys: Vec<KeySpec>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeySpec {
    pub(crate) name: String,
    /// Base64.
    pub(crate) secret: String,
}

impl std::fmt::Debug for KeySpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeySpec").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct KmsSpec {
    api_version: Option<String>,
    name: String,
    endpoint: String,
    timeout: Option<String>,
    cachesize: Option<i32>,
}

impl Configuration {
    /// Reads the file's text (YAML or JSON).
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let read: Self = serde_saphyr::from_str(text).map_err(|error| without_values(&error.to_string()))?;
        if read.api_version != API_VERSION || read.kind != KIND {
            return Err(format!(
                "expected apiVersion {API_VERSION} and kind {KIND}, found {:?} and {:?}",
                read.api_version, read.kind
            ));
        }
        Ok(read)
    }

    /// What it says. Plug-ins that `before` has as well stay the same ones. Must be called within a tokio runtime.
    pub(crate) fn into_rules(self, before: Option<&Rules>, uses: &Uses) -> Result<Rules, String> {
        if self.resources.is_empty() {
            return Err("resources: at least one entry is needed".to_owned());
        }
        let mut plugins = HashSet::new();
        let mut rules = Vec::new();
        for (number, entry) in self.resources.into_iter().enumerate() {
            let at = format!("resources[{number}]");
            rules.push(rule(entry, &at, before, uses, &mut plugins)?);
        }
        Ok(Rules(rules))
    }
}

/// The parser may quote the line at fault, which may hold a key.
fn without_values(error: &str) -> String {
    error.lines().next().unwrap_or("it is not readable").to_owned()
}

fn rule(
    entry: Resources,
    at: &str,
    before: Option<&Rules>,
    uses: &Uses,
    plugins: &mut HashSet<String>,
) -> Result<Rule, String> {
    if entry.resources.is_empty() || entry.providers.is_empty() {
        return Err(format!("{at}: resources and providers must each have at least one item"));
    }
    let mut patterns: Vec<Pattern> = Vec::new();
    for (number, text) in entry.resources.iter().enumerate() {
        let at = format!("{at}.resources[{number}]");
        let pattern = Pattern::parse(text).map_err(|why| format!("{at}: {text:?}: {why}"))?;
        if let Some(other) = patterns.iter().find(|other| other.overlaps(&pattern)) {
            return Err(format!("{at}: {text:?} overlaps with {:?} in the same list", other.to_string()));
        }
        patterns.push(pattern);
    }
    let mut providers = Vec::new();
    for (number, spec) in entry.providers.into_iter().enumerate() {
        let at = format!("{at}.providers[{number}]");
        providers.push(provider(spec, before, uses, plugins).map_err(|why| format!("{at}.{why}"))?);
    }
    Ok(Rule { patterns, providers })
}

fn provider(
    spec: ProviderSpec,
    before: Option<&Rules>,
    uses: &Uses,
    plugins: &mut HashSet<String>,
) -> Result<Provider, String> {
    const ONE: &str = "exactly one of aesgcm, aesgcmDerived, identity and kms is needed";
    let ProviderSpec { aesgcm, aesgcm_derived, aescbc, secretbox, identity, kms } = spec;
    if aescbc.is_some() {
        return Err(
            "aescbc: AES-CBC is not offered, as whoever changes a value may find out what it holds: \
             have kube-apiserver decrypt everything (identity first, then write all anew) before its data come here, as values are \
             bound to their keys in the store, which differ"
                .to_owned(),
        );
    }
    if secretbox.is_some() {
        return Err(
            "secretbox: XSalsa20-Poly1305 is not offered: use aesgcm, aesgcmDerived or kms".to_owned()
        );
    }
    match (aesgcm, aesgcm_derived, identity, kms) {
        (Some(list), None, None, None) => {
            let keys = keys(list, |secret| {
                let key = Single::new(secret, uses).map(|key| Key::Single(Box::new(key)));
                key.ok_or("must have 16 or 32 bytes (24, which is AES-192, is not offered)")
            });
            Ok(Provider::Keys(Keys { form: "aesgcm", keys: keys.map_err(|why| format!("aesgcm.{why}"))? }))
        }
        (None, Some(list), None, None) => {
            let keys = keys(list, |secret| {
                Derived::new(secret).map(Key::Derived).ok_or("must have at least 32 bytes")
            });
            let keys = keys.map_err(|why| format!("aesgcmDerived.{why}"))?;
            Ok(Provider::Keys(Keys { form: "aesgcm-derived", keys }))
        }
        (None, None, Some(Empty {}), None) => Ok(Provider::Identity),
        (None, None, None, Some(spec)) => {
            let settings = spec.settings().map_err(|why| format!("kms.{why}"))?;
            if !plugins.insert(settings.name.clone()) {
                return Err(format!("kms.name: {:?} is used more than once", settings.name));
            }
            let known = before.and_then(|rules| rules.plugin(&settings));
            Ok(Provider::Kms(known.unwrap_or_else(|| Arc::new(Kms::start(settings)))))
        }
        _ => Err(ONE.to_owned()),
    }
}

fn keys(
    list: KeyList,
    make: impl Fn(&[u8]) -> Result<Key, &'static str>,
) -> Result<Vec<(String, Key)>, String> {
    if list.keys.is_empty() {
        return Err("keys: at least one is needed".to_owned());
    }
    let mut made: Vec<(String, Key)> = Vec::new();
    for (number, KeySpec { name, secret }) in list.keys.into_iter().enumerate() {
        let at = format!("keys[{number}]");
        if name.is_empty() || name.contains(':') {
            return Err(format!("{at}.name: {name:?} must not be empty, nor have a colon"));
        }
        if made.iter().any(|(other, _)| *other == name) {
            return Err(format!("{at}.name: {name:?} is used more than once"));
        }
        let secret = STANDARD.decode(secret.trim()).map_err(|_| format!("{at}.secret: is no base64"))?;
        let key = make(&secret).map_err(|why| format!("{at}.secret: {why}, has {}", secret.len()))?;
        made.push((name, key));
    }
    Ok(made)
}

impl KmsSpec {
    fn settings(self) -> Result<KmsSettings, String> {
        if self.api_version.as_deref() != Some("v2") {
            return Err("apiVersion: must be v2; v1 has no rotation of keys and is not offered".to_owned());
        }
        if self.cachesize.is_some() {
            return Err("cachesize: is not for v2".to_owned());
        }
        if self.name.is_empty() || self.name.contains(':') {
            return Err(format!("name: {:?} must not be empty, nor have a colon", self.name));
        }
        let socket = self.endpoint.strip_prefix("unix://").filter(|path| path.starts_with('/'));
        let socket = socket.filter(|path| !path.starts_with("/@")).ok_or_else(|| {
            format!("endpoint: {:?} is no Unix socket: expected unix:///PATH", self.endpoint)
        })?;
        let time = match &self.timeout {
            None => KMS_TIME,
            Some(text) => {
                duration(text).ok_or_else(|| format!("timeout: {text:?} should be such as 3s or 500ms"))?
            }
        };
        Ok(KmsSettings { name: self.name, socket: PathBuf::from(socket), time })
    }
}

/// A time as Go writes it, in whole milliseconds at least: `3s`, `500ms`, `1m30s`; up to an hour.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut all = 0_u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        let unit = match &rest[digits..end] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        all = all.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[end..];
    }
    (1..=3_600_000).contains(&all).then(|| Duration::from_millis(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn refused(body: &str) -> String {
        let text = format!("apiVersion: {API_VERSION}\nkind: {KIND}\nresources:\n{body}");
        match Configuration::parse(&text).and_then(|read| read.into_rules(None, &Uses::default())) {
            Ok(_) => String::new(),
            Err(why) => why,
        }
    }

    #[test]
    fn times_are_written_as_in_go() {
        let millis = |text: &str| duration(text).map(|time| time.as_millis());
        assert_eq!(millis("3s"), Some(3_000));
        assert_eq!(millis("500ms"), Some(500));
        assert_eq!(millis("1m30s"), Some(90_000));
        for wrong in
            ["", "3", "s", "0s", "2h", "1m 30s", "-1s", "99999999999999999999s", "18446744073709551615m"]
        {
            assert_eq!(millis(wrong), None, "{wrong}");
        }
    }

    fn of_provider(provider: &str) -> String {
        refused(&format!("- resources: [secrets]\n  providers:\n  - {provider}"))
    }

    #[tokio::test]
    async fn what_is_wrong_is_said_with_its_place() {
        let key = format!("{{name: a, secret: {KEY}}}");
        for (provider, wanted) in [
            (format!("aesgcm: {{keys: [{key}]}}"), ""),
            ("identity: {}".to_owned(), ""),
            ("kms: {apiVersion: v2, name: k, endpoint: 'unix:///run/k.sock', timeout: 500ms}".to_owned(), ""),
            ("aescbc: {keys: []}".to_owned(), "resources[0].providers[0].aescbc: AES-CBC is not offered"),
            ("secretbox: {keys: []}".to_owned(), "secretbox: XSalsa20"),
            (format!("{{aesgcm: {{keys: [{key}]}}, identity: {{}}}}"), "exactly one"),
            ("{}".to_owned(), "exactly one"),
            ("aesgcm: {keys: []}".to_owned(), "aesgcm.keys: at least one"),
            (format!("aesgcm: {{keys: [{key}, {key}]}}"), "aesgcm.keys[1].name: \"a\" is used more"),
            (
                "aesgcm: {keys: [{name: a, secret: AAAA}]}".to_owned(),
                "keys[0].secret: must have 16 or 32 bytes",
            ),
            ("aesgcm: {keys: [{name: a, secret: '%'}]}".to_owned(), "is no base64"),
            ("aesgcm: {keys: [{name: 'a:b', secret: AAAA}]}".to_owned(), "a colon"),
            (
                "kms: {apiVersion: v1, name: k, endpoint: 'unix:///k'}".to_owned(),
                "kms.apiVersion: must be v2",
            ),
            ("kms: {apiVersion: v2, name: k, endpoint: 'tcp://k'}".to_owned(), "kms.endpoint"),
            (
                "kms: {apiVersion: v2, name: k, endpoint: 'unix:///k', timeout: soon}".to_owned(),
                "kms.timeout",
            ),
            (
                "kms: {apiVersion: v2, name: k, endpoint: 'unix:///k', cachesize: 5}".to_owned(),
                "kms.cachesize",
            ),
            ("rot13: {}".to_owned(), "rot13"),
        ] {
            let why = of_provider(&provider);
            assert!(why.contains(wanted) && why.is_empty() == wanted.is_empty(), "{provider}: {why}");
        }
        for (lists, wanted) in [
            ("[secrets, '*.']", "overlaps"),
            ("['*.*', secrets]", "overlaps"),
            ("['*']", "use '*.*'"),
            ("[secrets/status]", "subresource"),
            ("['']", "resource"),
            ("[]", "at least one item"),
            ("[secrets, configmaps, '*.apps', widgets.example.com]", ""),
        ] {
            let why = refused(&format!("- resources: {lists}\n  providers: [identity: {{}}]"));
            assert!(why.contains(wanted) && why.is_empty() == wanted.is_empty(), "{lists}: {why}");
        }
        let wrong = Configuration::parse("apiVersion: v1\nkind: Secret\nresources: []").unwrap_err();
        assert!(wrong.contains("expected apiVersion apiserver.config.k8s.io/v1"), "{wrong}");
    }
}
