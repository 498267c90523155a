//! Where images are fetched from, as an administrator says it: a directory for each registry's host, `HOST/hosts.toml`, and `_default` for
//! all others, as containerd has them below `certs.d` (containerd's documentation, "Registry Host Configuration").
//!
//! The files are read at each pull: what was changed holds from the next one on.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use oci_client::Reference;
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use serde::Deserialize;

use super::reference;
use crate::error::{Result, RuntimeError};

/// What is asked for those hosts that have no directory.
const DEFAULT: &str = "_default";
const FILE: &str = "hosts.toml";
/// More than this is no configuration.
const LARGEST: u64 = 1 << 20;
/// Most places to ask for one registry's images.
const MOST: usize = 32;

/// A place that images of a registry may be had from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Host, port, and the path before `/v2/`.
    registry: String,
    /// What comes before an image's own path there; empty or ending with a slash.
    prefix: String,
    /// Plain HTTP.
    plain: bool,
    /// Whether it may say what a tag leads to.
    resolves: bool,
    /// Whether content may be had from it.
    pub(super) pulls: bool,
    /// Certificates of authorities, PEM, that are trusted beside the host's own.
    authorities: Vec<Vec<u8>>,
    /// Whoever answers is believed.
    unverified: bool,
    /// The registry itself, to which a Pod's credentials are shown; a mirror has no business with them.
    pub(super) own: bool,
}

/// Of one host, as it stands in the file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMore>,
    client: Option<toml::Value>,
    header: Option<toml::Table>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    override_path: bool,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(PathBuf),
    More(Vec<PathBuf>),
}

/// The places for images of this reference's registry, in the order in which they are to be asked, by the configuration in `dir`.
///
/// # Errors
/// A file that can't be read or is not understood: nothing is fetched past what an administrator may have meant.
pub(super) fn places(dir: Option<&Path>, reference: &Reference) -> Result<Vec<Place>> {
    let found = dir.map(|dir| directory(dir, reference.registry())).transpose()?.flatten();
    let Some(found) = found else { return Ok(vec![Place::of_registry(reference)]) };
    let file = found.join(FILE);
    let bad = |reason: String| RuntimeError::InvalidConfig {
        field: "registry configuration",
        reason: format!("{}: {reason}", file.display()),
    };
    match read(&file)? {
        Some(text) => of_file(&text, &found, reference).map_err(bad),
        // Docker's way: certificates alone.
        None => of_certificates(&found, reference).map_err(bad),
    }
}

/// The directory that is about a registry: its own, that with an underscore around the port for file systems without colons, or
/// the one for all.
fn directory(dir: &Path, registry: &str) -> Result<Option<PathBuf>> {
    let mut names = vec![registry.to_owned()];
    if let Some((host, port)) = registry.rsplit_once(':') {
        names.push(format!("{host}_{port}_"));
    }
    names.push(DEFAULT.to_owned());
    for name in names {
        let path = dir.join(name);
        match std::fs::metadata(&path) {
            Ok(found) if found.is_dir() => return Ok(Some(path)),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            // One that can't be looked at may be the one that says to whom nothing must be sent.
            Err(error) => return Err(RuntimeError::io("look at", path)(error)),
        }
    }
    Ok(None)
}

fn read(file: &Path) -> Result<Option<String>> {
    let size = match std::fs::metadata(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        found => found.map_err(RuntimeError::io("read", file))?.len(),
    };
    if size > LARGEST {
        let error = std::io::Error::other(format!("it has more than {LARGEST} bytes"));
        return Err(RuntimeError::io("read", file)(error));
    }
    std::fs::read_to_string(file).map(Some).map_err(RuntimeError::io("read", file))
}

fn of_file(text: &str, dir: &Path, reference: &Reference) -> Result<Vec<Place>, String> {
    let mut whole: toml::Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    let hosts = whole.remove("host").unwrap_or_else(|| toml::Value::Table(toml::Table::new()));
    let toml::Value::Table(hosts) = hosts else { return Err("`host` must be tables".to_owned()) };
    if hosts.len() >= MOST {
        return Err(format!("it has {} hosts, at most {} are asked", hosts.len(), MOST - 1));
    }
    let server = whole.remove("server");
    let mut places = Vec::new();
    for (url, entry) in hosts {
        let entry: Entry = entry.try_into().map_err(|error| format!("host {url:?}: {error}"))?;
        let mut place = Place::at(&url, entry.override_path).map_err(|why| format!("host {url:?}: {why}"))?;
        place.own = place.registry == reference.registry();
        place.take(&entry, dir).map_err(|why| format!("host {url:?}: {why}"))?;
        places.push(place);
    }
    let entry: Entry = toml::Value::Table(whole).try_into().map_err(|error| format!("{error}"))?;
    let mut last = match &server {
        Some(toml::Value::String(url)) => {
            Place::at(url, entry.override_path).map_err(|why| format!("server {url:?}: {why}"))?
        }
        Some(_) => return Err("`server` must be a URL".to_owned()),
        None => Place::of_registry(reference),
    };
    // What is said for all registries names none of them: such a server is a mirror, which credentials are not shown to.
    last.own = !dir.ends_with(DEFAULT) || last.registry == reference.resolve_registry();
    last.take(&entry, dir).map_err(|why| format!("the server: {why}"))?;
    if !places.iter().any(|place| (&place.registry, &place.prefix) == (&last.registry, &last.prefix)) {
        places.push(last);
    }
    Ok(places)
}

fn of_certificates(dir: &Path, reference: &Reference) -> Result<Vec<Place>, String> {
    let mut place = Place::of_registry(reference);
    let entries = std::fs::read_dir(dir).map_err(|error| error.to_string())?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let with = |extension: &'static str| {
        files.iter().filter(move |file| file.extension().is_some_and(|found| found == extension))
    };
    if let Some(file) = with("cert").next() {
        return Err(format!("{} is a client's certificate: none is shown to registries", file.display()));
    }
    for file in with("crt") {
        place.authorities.push(authority(file)?);
    }
    // On loopback too whoever gives an authority wants its certificates to be asked for.
    place.plain &= place.authorities.is_empty();
    Ok(vec![place])
}

fn authority(file: &Path) -> Result<Vec<u8>, String> {
    let text = std::fs::read(file).map_err(|error| format!("ca {}: {error}", file.display()))?;
    let pem = b"-----BEGIN CERTIFICATE-----";
    match text.windows(pem.len()).any(|part| part == pem) {
        true => Ok(text),
        false => Err(format!("ca {}: there is no certificate in it (PEM)", file.display())),
    }
}

impl Place {
    /// The registry itself: by HTTPS, but where its name says that it is this machine.
    fn of_registry(reference: &Reference) -> Self {
        let registry = reference.resolve_registry().to_owned();
        Self {
            plain: reference::is_loopback(&registry),
            registry,
            prefix: String::new(),
            resolves: true,
            pulls: true,
            authorities: Vec::new(),
            unverified: false,
            own: true,
        }
    }

    /// That of a URL. Its path is that of the API's version 2, `/v2`, which is put behind it where `whole` does not say that it is all.
    fn at(url: &str, whole: bool) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
        let plain = match scheme {
            "http" => true,
            "https" => false,
            other => return Err(format!("{other}:// is neither http nor https")),
        };
        if rest.contains(['@', '?', '#', ' ', '\\']) {
            return Err("a URL of a host, a port and a path is needed".to_owned());
        }
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        if host.is_empty() {
            return Err("it names no host".to_owned());
        }
        let path = path.trim_matches('/');
        let named = path == "v2" || path.ends_with("/v2");
        let path = match (whole, named, path) {
            (true, _, path) => path.to_owned(),
            (false, true, path) => path.to_owned(),
            (false, false, "") => "v2".to_owned(),
            (false, false, path) => format!("{path}/v2"),
        };
        let parts: Vec<&str> = path.split('/').collect();
        let Some(version) = parts.iter().position(|part| *part == "v2") else {
            return Err("override_path needs a path with /v2 in it, which the registry's API has".to_owned());
        };
        let before = parts[..version].iter().map(|part| format!("/{part}"));
        let behind = parts[version + 1..].iter().map(|part| format!("{part}/"));
        Ok(Self {
            registry: host.to_owned() + &before.collect::<String>(),
            prefix: behind.collect(),
            plain,
            resolves: true,
            pulls: true,
            authorities: Vec::new(),
            unverified: false,
            own: false,
        })
    }

    fn take(&mut self, entry: &Entry, dir: &Path) -> Result<(), String> {
        if entry.client.is_some() {
            return Err("no client's certificate is shown to registries: take `client` out".to_owned());
        }
        if entry.header.as_ref().is_some_and(|header| !header.is_empty()) {
            return Err("no headers are sent to registries: take `header` out".to_owned());
        }
        if let Some(capabilities) = &entry.capabilities {
            let known = ["pull", "resolve", "push", "referrers"];
            if let Some(unknown) = capabilities.iter().find(|one| !known.contains(&one.as_str())) {
                return Err(format!("capability {unknown:?} is not known: use pull and resolve"));
            }
            let has = |name: &str| capabilities.iter().any(|one| one == name);
            (self.resolves, self.pulls) = (has("resolve"), has("pull"));
        }
        let files: &[PathBuf] = match &entry.ca {
            None => &[],
            Some(OneOrMore::One(file)) => std::slice::from_ref(file),
            Some(OneOrMore::More(files)) => files,
        };
        for file in files {
            self.authorities.push(authority(&dir.join(file))?);
        }
        self.unverified = entry.skip_verify;
        Ok(())
    }

    /// Whether it may be asked what this reference leads to: for a digest it need not be trusted.
    pub(super) fn tells(&self, reference: &Reference) -> bool {
        self.resolves || (self.pulls && reference.digest().is_some())
    }

    /// The same image at this place.
    pub(super) fn reference(&self, of: &Reference) -> Reference {
        let (registry, path) = (of.registry().to_owned(), format!("{}{}", self.prefix, of.repository()));
        let tag = of.tag().map(str::to_owned);
        let mut there = match (of.digest().map(str::to_owned), tag) {
            (Some(digest), Some(tag)) => Reference::with_tag_and_digest(registry, path, tag, digest),
            (Some(digest), None) => Reference::with_digest(registry, path, digest),
            (None, tag) => Reference::with_tag(registry, path, tag.unwrap_or_else(|| "latest".to_owned())),
        };
        // With another name it is also told whose image is meant.
        if there.resolve_registry() != self.registry {
            there.set_mirror_registry(self.registry.clone());
        }
        there
    }

    /// How it is spoken to.
    pub(super) fn client(&self) -> ClientConfig {
        let certificate =
            |data: &Vec<u8>| Certificate { encoding: CertificateEncoding::Pem, data: data.clone() };
        ClientConfig {
            protocol: if self.plain { ClientProtocol::Http } else { ClientProtocol::Https },
            extra_root_certificates: self.authorities.iter().map(certificate).collect(),
            accept_invalid_certificates: self.unverified,
            ..ClientConfig::default()
        }
    }

    /// What people call it.
    pub(super) fn name(&self) -> String {
        let scheme = if self.plain { "http" } else { "https" };
        format!("{scheme}://{}", self.registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str) -> Reference {
        reference::parse(name).unwrap()
    }

    fn names(places: &[Place]) -> Vec<String> {
        places.iter().map(|place| format!("{} {}", place.name(), place.prefix)).collect()
    }

    fn written(dir: &Path, host: &str, text: &str) {
        std::fs::create_dir_all(dir.join(host)).unwrap();
        std::fs::write(dir.join(host).join(FILE), text).unwrap();
    }

    #[test]
    fn mirrors_are_asked_in_their_order_and_then_the_registry() {
        let dir = tempfile::tempdir().unwrap();
        written(
            dir.path(),
            "docker.io",
            "server = 'https://registry-1.docker.io'\n[host.'https://z.example']\ncapabilities = ['pull']\n\
             [host.'http://a.example:5000/hub']\n[host.'https://m.example/v2/hub']\noverride_path = true\n",
        );
        let found = places(Some(dir.path()), &image("busybox")).unwrap();
        assert_eq!(
            names(&found),
            [
                "https://z.example ",
                "http://a.example:5000/hub ",
                "https://m.example hub/",
                "https://registry-1.docker.io "
            ]
        );
        let tells: Vec<bool> = found.iter().map(|place| place.tells(&image("busybox"))).collect();
        assert_eq!(tells, [false, true, true, true]);
        let digest = format!("busybox@sha256:{}", "a".repeat(64));
        assert!(found[0].tells(&image(&digest)), "a digest says itself what it is");
        let own: Vec<bool> = found.iter().map(|place| place.own).collect();
        assert_eq!(own, [false, false, false, true]);
        let there = found[2].reference(&image("busybox:1"));
        assert_eq!(
            (there.resolve_registry(), there.repository(), there.tag(), there.namespace()),
            ("m.example", "hub/library/busybox", Some("1"), Some("docker.io"))
        );
        let none = places(Some(dir.path()), &image("quay.io/x/y")).unwrap();
        assert_eq!(names(&none), ["https://quay.io "]);
    }

    #[test]
    fn a_registry_has_its_own_directory_or_that_of_all() {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path(), DEFAULT, "[host.'https://all.example']");
        written(dir.path(), "r.example:5000", "server = 'http://r.example:5000'");
        written(dir.path(), "s.example_5000_", "server = 'http://s.example:5000'");
        let of = |name: &str| names(&places(Some(dir.path()), &image(name)).unwrap());
        assert_eq!(of("r.example:5000/a"), ["http://r.example:5000 "]);
        assert_eq!(of("s.example:5000/a"), ["http://s.example:5000 "]);
        assert_eq!(of("other.example/a"), ["https://all.example ", "https://other.example "]);
        // Plain HTTP beyond this machine is only spoken where a file says so.
        assert_eq!(names(&places(None, &image("r.example:5000/a")).unwrap()), ["https://r.example:5000 "]);
        assert_eq!(names(&places(None, &image("127.0.0.1:5000/a")).unwrap()), ["http://127.0.0.1:5000 "]);
    }

    #[test]
    fn what_is_not_carried_out_is_refused_and_says_where() {
        let dir = tempfile::tempdir().unwrap();
        for (text, word) in [
            ("server = 5", "URL"),
            ("[host.'ftp://a']", "neither http nor https"),
            ("[host.'https://']", "no host"),
            ("[host.'https://u:p@a']", "a URL of a host"),
            ("[host.'https://a']\nclient = 'a.pem'", "client"),
            ("[host.'https://a'.header]\nx = 'y'", "header"),
            ("[host.'https://a']\ncapabilities = ['fly']", "\"fly\""),
            ("[host.'https://a']\nca = 'none.crt'", "none.crt"),
            ("[host.'https://a']\nca = 'hosts.toml'", "no certificate"),
            ("[host.'https://a/x']\noverride_path = true", "/v2"),
            ("[host.'https://a']\nskip_verfy = true", "skip_verfy"),
            ("[host", "hosts.toml"),
        ] {
            written(dir.path(), "r.example", text);
            let error = places(Some(dir.path()), &image("r.example/a")).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("r.example/hosts.toml"), "{text}: {error}");
        }
    }

    #[test]
    fn certificates_may_lie_there_alone() {
        let dir = tempfile::tempdir().unwrap();
        let host = dir.path().join("127.0.0.1:5000");
        std::fs::create_dir(&host).unwrap();
        std::fs::write(host.join("ca.crt"), "-----BEGIN CERTIFICATE-----\n").unwrap();
        let found = places(Some(dir.path()), &image("127.0.0.1:5000/a")).unwrap();
        assert_eq!((found[0].authorities.len(), found[0].plain), (1, false));
        std::fs::write(host.join("own.cert"), "x").unwrap();
        let error = places(Some(dir.path()), &image("127.0.0.1:5000/a")).unwrap_err();
        assert!(error.to_string().contains("own.cert"), "{error}");
    }
}
