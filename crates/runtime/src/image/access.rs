//! Who may use an image that was pulled: who may pull it. Registries give private images to those who show a credential; what one
//! Pod's credential fetched is not for all who know the image's name (Kubernetes KEP-2535, "Ensure Secret Pulled Images").

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use super::{Image, ImageStore, RegistryAuth, reference};
use crate::error::{Result, RuntimeError};

/// Credentials of one repository that are remembered; the oldest are forgotten first, and are asked about anew.
const MOST: usize = 100;
/// Length of the store's key, bytes.
const KEY: usize = 32;

/// To whom a repository's registry gave an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// To who showed nothing.
    #[serde(default)]
    everyone: bool,
    /// Fingerprints of the credentials to which it gave it.
    #[serde(default)]
    credentials: Vec<String>,
}

impl Access {
    /// That of one pull, with the credential that has this fingerprint, if with any.
    pub(super) fn by(credential: Option<String>) -> Self {
        Self { everyone: credential.is_none(), credentials: credential.into_iter().collect() }
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.everyone |= other.everyone;
        self.credentials.retain(|known| !other.credentials.contains(known));
        self.credentials.extend(other.credentials);
        let excess = self.credentials.len().saturating_sub(MOST);
        self.credentials.drain(..excess);
    }
}

impl Image {
    /// Whether it came by a pull: it can be had again. Others were brought by an administrator, for all.
    pub fn was_pulled(&self) -> bool {
        self.access.as_ref().is_some_and(|access| !access.is_empty())
    }

    /// Whether everyone may use it under the name `reference`.
    pub fn is_open_to_all(&self, reference: &str) -> bool {
        self.is_open_to(reference, &[])
    }

    fn is_open_to(&self, reference: &str, fingerprints: &[String]) -> bool {
        let Some(access) = self.access.as_ref().filter(|access| !access.is_empty()) else { return true };
        let access = reference::repository(reference).ok().and_then(|repository| access.get(&repository));
        access.is_some_and(|access| {
            access.everyone || fingerprints.iter().any(|one| access.credentials.contains(one))
        })
    }
}

impl ImageStore {
    /// Whether an image may be used under the name `reference` by who has these credentials for it.
    pub fn is_open_to(&self, image: &Image, reference: &str, credentials: &[RegistryAuth]) -> bool {
        let own: Vec<String> = credentials.iter().filter_map(|one| self.fingerprints.of(one)).collect();
        image.is_open_to(reference, &own)
    }
}

pub(super) fn merge(known: &mut BTreeMap<String, Access>, new: BTreeMap<String, Access>) {
    for (repository, access) in new {
        known.entry(repository).or_default().merge(access);
    }
}

/// What is kept of credentials: enough to know one again, and to nobody of use who does not have this store's key, though the
/// password be a weak one.
pub(super) struct Fingerprints(hmac::Key);

impl Fingerprints {
    /// With the store's key, which is made where there is none yet.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("key");
        let key = match std::fs::read(&path) {
            Ok(key) if key.len() == KEY => key,
            Ok(_) => make_key(&path)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => make_key(&path)?,
            Err(error) => return Err(RuntimeError::io("read", &path)(error)),
        };
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &key)))
    }

    /// That of a credential; who shows nothing has none.
    pub(super) fn of(&self, auth: &RegistryAuth) -> Option<String> {
        let parts = match auth {
            RegistryAuth::Anonymous => return None,
            RegistryAuth::Basic { username, password } => ["basic", username, password],
            RegistryAuth::Bearer(token) => ["bearer", token, ""],
        };
        let mut tag = hmac::Context::with_key(&self.0);
        for part in parts {
            tag.update(&part.len().to_be_bytes());
            tag.update(part.as_bytes());
        }
        Some(tag.sign().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

fn make_key(path: &Path) -> Result<Vec<u8>> {
    let mut key = vec![0; KEY];
    let filled = SystemRandom::new().fill(&mut key);
    filled.map_err(|_| RuntimeError::io("make", path)(std::io::Error::other("no random numbers")))?;
    let write = || {
        // A key that is only half there is made anew, and what was known by it is asked about again.
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(&key)?;
        file.sync_data()
    };
    write().map_err(RuntimeError::io("write", path))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::super::ImageConfig;
    use super::*;

    fn basic(password: &str) -> RegistryAuth {
        RegistryAuth::Basic { username: "u".to_owned(), password: password.to_owned() }
    }

    fn fingerprints() -> Fingerprints {
        Fingerprints(hmac::Key::new(hmac::HMAC_SHA256, b"key"))
    }

    fn image(pulls: &[(&str, RegistryAuth)]) -> Image {
        let mut access = BTreeMap::new();
        for (repository, auth) in pulls {
            let new = Access::by(fingerprints().of(auth));
            merge(&mut access, BTreeMap::from([((*repository).to_owned(), new)]));
        }
        Image {
            id: "sha256:x".to_owned(),
            names: Vec::new(),
            repo_digests: Vec::new(),
            layers: Vec::new(),
            size_bytes: 0,
            config: ImageConfig::default(),
            access: Some(access),
        }
    }

    #[test]
    fn who_may_pull_may_use() {
        let private = image(&[("r.example/a", basic("one")), ("r.example/open", RegistryAuth::Anonymous)]);
        let own = |passwords: &[&str]| -> Vec<String> {
            passwords.iter().filter_map(|password| fingerprints().of(&basic(password))).collect()
        };
        assert!(private.is_open_to("r.example/a:1", &own(&["two", "one"])));
        assert!(!private.is_open_to("r.example/a:1", &own(&["two"])));
        assert!(!private.is_open_to_all("r.example/a:1"));
        assert!(private.is_open_to_all(
            "r.example/open@sha256:0000000000000000000000000000000000000000000000000000000000000000"
        ));
        for name in ["r.example/b:1", "sha256:x", "Not A Name"] {
            assert!(!private.is_open_to(name, &own(&["one"])), "{name}: nobody was given it under that name");
        }
        assert!(image(&[]).is_open_to_all("r.example/a:1"), "brought by an administrator");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut access = Access::default();
        for number in 0..MOST + 5 {
            access.merge(Access::by(fingerprints().of(&basic(&number.to_string()))));
        }
        assert_eq!(access.credentials.len(), MOST);
        assert_eq!(access.credentials.last(), fingerprints().of(&basic(&(MOST + 4).to_string())).as_ref());
        assert!(!serde_json::to_string(&access).unwrap().contains("everyone\":true"));
    }
    #[test]
    fn a_credential_is_known_again_in_this_store_alone() {
        use std::os::unix::fs::PermissionsExt;
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let of = |dir: &Path| Fingerprints::open(dir).unwrap().of(&basic("weak"));
        let first = of(one.path());
        assert_eq!(of(one.path()), first);
        assert_ne!(of(other.path()), first);
        let key = one.path().join("key");
        assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&key, b"half").unwrap();
        assert_ne!(of(one.path()), first);
        assert!(Fingerprints::open(one.path()).unwrap().of(&RegistryAuth::Anonymous).is_none());
    }
}
