//! Credentials for registries: a Pod's `imagePullSecrets`, else those of its ServiceAccount.

use std::collections::BTreeMap;

use base64::Engine as _;
use k8s_openapi::api::core::v1::{LocalObjectReference, Pod, Secret, ServiceAccount};
use kube::ResourceExt;
use serde::Deserialize;
use yunfan_client::Writer;
use yunfan_runtime::image::RegistryAuth;

use super::read;

/// What Docker's own registry is called in credentials.
const DOCKER_HUB: &str = "index.docker.io";

/// One registry's entry of a Docker configuration.
#[derive(Debug, Default, Deserialize)]
struct Entry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    /// Name and password in base64, with a colon between.
    #[serde(default)]
    auth: String,
}

/// The credentials that a Pod has for an image's registry, the best fitting first, and the names of the Secrets that could not be
/// read.
pub(super) async fn for_image(writer: &Writer, pod: &Pod, image: &str) -> (Vec<RegistryAuth>, Vec<String>) {
    let namespace = pod.namespace().unwrap_or_default();
    let mut names = references(pod.spec.as_ref().and_then(|spec| spec.image_pull_secrets.as_ref()));
    if names.is_empty() {
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
        let account = account.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".to_owned());
        let found = read::get::<ServiceAccount>(writer, Some(&namespace), &account).await.ok();
        names = references(found.as_ref().and_then(|account| account.image_pull_secrets.as_ref()));
    }
    let (mut entries, mut missing) = (BTreeMap::new(), Vec::new());
    for name in names {
        match read::get::<Secret>(writer, Some(&namespace), &name).await {
            Ok(secret) => entries.extend(parse(&secret)),
            Err(_) => missing.push(name),
        }
    }
    (choose(entries, image), missing)
}

fn references(list: Option<&Vec<LocalObjectReference>>) -> Vec<String> {
    list.into_iter()
        .flatten()
        .map(|reference| reference.name.clone())
        .filter(|name| !name.is_empty())
        .collect()
}

fn parse(secret: &Secret) -> BTreeMap<String, Entry> {
    #[derive(Default, Deserialize)]
    struct Config {
        #[serde(default)]
        auths: BTreeMap<String, Entry>,
    }
    let data = |key: &str| secret.data.as_ref()?.get(key).map(|bytes| bytes.0.as_slice());
    match (data(".dockerconfigjson"), data(".dockercfg")) {
        (Some(bytes), _) => serde_json::from_slice::<Config>(bytes).unwrap_or_default().auths,
        (None, Some(bytes)) => serde_json::from_slice(bytes).unwrap_or_default(),
        (None, None) => BTreeMap::new(),
    }
}

/// Those for the image's registry, or for a part of it: the longer the place, and the fewer patterns in it, the earlier.
fn choose(entries: BTreeMap<String, Entry>, image: &str) -> Vec<RegistryAuth> {
    let name = yunfan_runtime::image::normalize(image).unwrap_or_else(|_| image.to_owned());
    let mut found: Vec<(usize, usize, RegistryAuth)> = entries
        .iter()
        .filter_map(|(place, entry)| {
            let place = place_of(place);
            let (username, password) = entry.login().filter(|_| is_in(&name, &place))?;
            let patterns = place.matches(['*', '?']).count();
            let path = place.split_once('/').map_or(0, |(_, path)| path.len());
            Some((path, patterns, RegistryAuth::Basic { username, password }))
        })
        .collect();
    found.sort_by_key(|(path, patterns, _)| (std::cmp::Reverse(*path), *patterns));
    found.into_iter().map(|(_, _, auth)| auth).collect()
}

/// Whether an image is in a place: a registry's host, with a port where it has one, and a path where it is about a part of it. Each word of
/// the host may have `*` and `?` in it, which stand for no dot: `*.example.com` is not `a.b.example.com`, nor `example.com`.
fn is_in(image: &str, place: &str) -> bool {
    let (host, path) = place.split_once('/').unwrap_or((place, ""));
    let (image_host, rest) = image.split_once('/').unwrap_or((image, ""));
    let (host, port) = host.split_once(':').unwrap_or((host, ""));
    let (image_host, image_port) = image_host.split_once(':').unwrap_or((image_host, ""));
    let words = |host: &str| host.split('.').count();
    let hosts = || host.split('.').zip(image_host.split('.'));
    let Some(behind) = rest.strip_prefix(path) else { return false };
    // Behind a path a colon begins a tag.
    port == image_port
        && words(host) == words(image_host)
        && hosts().all(|(pattern, word)| fits(pattern.as_bytes(), word.as_bytes()))
        && (path.is_empty() || behind.is_empty() || behind.starts_with(['/', '@', ':']))
}

/// Whether a word fits a pattern with `*` (anything) and `?` (one character).
fn fits(pattern: &[u8], word: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    // Where the last star is, and how much of the word it has taken.
    let mut star: Option<(usize, usize)> = None;
    while seen < word.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, seen));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == word[seen] => (at, seen) = (at + 1, seen + 1),
            _ => {
                let Some((place, taken)) = star else { return false };
                star = Some((place, taken + 1));
                (at, seen) = (place + 1, taken + 1);
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

/// `https://index.docker.io/v1/` is `docker.io`; of others scheme, version and the slash at the end do not matter.
fn place_of(text: &str) -> String {
    let plain = text.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let plain = plain.trim_end_matches("/v1").trim_end_matches("/v2");
    match plain.strip_prefix(DOCKER_HUB) {
        Some(rest) => format!("docker.io{rest}"),
        None => plain.to_owned(),
    }
}

impl Entry {
    fn login(&self) -> Option<(String, String)> {
        if !self.username.is_empty() {
            return Some((self.username.clone(), self.password.clone()));
        }
        let decoded = base64::engine::general_purpose::STANDARD.decode(&self.auth).ok()?;
        let text = String::from_utf8(decoded).ok()?;
        let (name, password) = text.split_once(':')?;
        Some((name.to_owned(), password.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use serde_json::json;

    use super::*;

    fn names(config: serde_json::Value, key: &str, image: &str) -> Vec<String> {
        let data = [(key.to_owned(), ByteString(config.to_string().into_bytes()))].into();
        let secret = Secret { data: Some(data), ..Secret::default() };
        let auths = choose(parse(&secret), image).into_iter();
        auths
            .map(|auth| match auth {
                RegistryAuth::Basic { username, password } => format!("{username}:{password}"),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn credentials_are_found_for_the_registry_of_the_image() {
        let auths = json!({
            "https://index.docker.io/v1/": {"auth": "aHViOnB3"},
            "example.com": {"username": "all", "password": "1"},
            "example.com/team": {"username": "team", "password": "2"},
            "broken.example": {"auth": "%%"},
            "*.pattern.example": {"username": "any", "password": "3"},
            "r.pattern.example": {"username": "exact", "password": "4"},
            "?.pattern.example/team": {"username": "part", "password": "5"},
        });
        let of = |image: &str| names(json!({"auths": auths}), ".dockerconfigjson", image);
        assert_eq!(of("busybox"), ["hub:pw"]);
        assert_eq!(of("example.com/team/web:1"), ["team:2", "all:1"]);
        assert_eq!(of("example.com/teams/web:1"), ["all:1"]);
        assert_eq!(of("r.pattern.example/web"), ["exact:4", "any:3"]);
        assert_eq!(of("r.pattern.example/team/web"), ["part:5", "exact:4", "any:3"]);
        assert!(
            of("example.com:5000/web").is_empty()
                && of("example.community/web").is_empty()
                && of("broken.example/web").is_empty()
        );
        assert_eq!(names(auths, ".dockercfg", "example.com/web"), ["all:1"]);
    }

    #[test]
    fn words_of_a_host_may_be_patterns() {
        for (place, image, expected) in [
            ("*.example.com", "a.example.com/web:1", true),
            ("*.example.com", "example.com/web:1", false),
            ("*.example.com", "a.b.example.com/web:1", false),
            ("*.*.example.com", "a.b.example.com/web:1", true),
            ("r*y-?.example.com", "registry-1.example.com/web:1", true),
            ("r*y-?.example.com", "registry-12.example.com/web:1", false),
            ("*.example.com:5000", "a.example.com:5000/web:1", true),
            ("*.example.com", "a.example.com:5000/web:1", false),
            ("*.example.com/team", "a.example.com/team/web:1", true),
            ("*.example.com/team", "a.example.com/team:1", true),
            ("*.example.com/team", "a.example.com/teams/web:1", false),
            ("*", "localhost/web:1", true),
            ("*", "example.com/web:1", false),
            ("a*b*c.org", "aXbYbZc.org/x:1", true),
            ("a*b*c.org", "aXbYbZ.org/x:1", false),
        ] {
            assert_eq!(is_in(image, place), expected, "{place} {image}");
        }
    }
}
