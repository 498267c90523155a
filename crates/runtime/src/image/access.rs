//! Who may use an image that was pulled: who may pull it. Registries give private images to those who show a credential; what one
//! Pod's credential fetched is not for all who know the image's name (Kubernetes KEP-2535, "Ensure Secret Pulled Images").

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use super::{Image, ImageStore, RegistryAuth, reference};
use crate::error::{Result, RuntimeError};
use crate::sys;

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
        image.is_open_to(reference, &self.fingerprints.of_all(credentials))
    }
}

/// To whom images were given that somebody else keeps, such as a container runtime behind CRI, which knows nothing of that.
pub struct AccessBook {
    path: PathBuf,
    fingerprints: Fingerprints,
    /// By image id.
    known: Mutex<Given>,
}

/// By image id, then by repository; empty for an image that an administrator brought.
type Given = BTreeMap<String, BTreeMap<String, Access>>;

impl AccessBook {
    /// The book in `dir`, which is made where it is missing.
    ///
    /// # Errors
    /// When the directory or a file in it can't be used.
    pub fn open(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(RuntimeError::io("create", dir))?;
        let mode = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(dir, mode).map_err(RuntimeError::io("set mode of", dir))?;
        let path = dir.join("access.json");
        let known = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Given::default(),
            Err(error) => return Err(RuntimeError::io("read", &path)(error)),
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| RuntimeError::io("read", &path)(error.into()))?,
        };
        Ok(Self { path, fingerprints: Fingerprints::open(dir)?, known: Mutex::new(known) })
    }

    /// To whom an image was given; none where it came without us.
    pub fn of(&self, id: &str) -> Option<BTreeMap<String, Access>> {
        self.lock().get(id).cloned()
    }

    /// Notes that a registry gave an image to who showed `auth`. One that an administrator brought stays for all.
    ///
    /// # Errors
    /// `BadReference`; when it can't be written down.
    pub fn pulled(&self, id: &str, reference: &str, auth: &RegistryAuth) -> Result<()> {
        let new =
            BTreeMap::from([(reference::repository(reference)?, Access::by(self.fingerprints.of(auth)))]);
        self.change(|known| match known.get_mut(id) {
            Some(known) if known.is_empty() => {}
            Some(known) => merge(known, new),
            None => drop(known.insert(id.to_owned(), new)),
        })
    }

    /// Notes that an administrator brought an image, for all.
    ///
    /// # Errors
    /// When it can't be written down.
    pub fn brought(&self, id: &str) -> Result<()> {
        self.change(|known| drop(known.insert(id.to_owned(), BTreeMap::new())))
    }

    /// Forgets the images that `keep` does not want.
    ///
    /// # Errors
    /// When it can't be written down.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) -> Result<()> {
        self.change(|known| known.retain(|id, _| keep(id)))
    }

    /// As [`ImageStore::is_open_to`].
    pub fn is_open_to(&self, image: &Image, reference: &str, credentials: &[RegistryAuth]) -> bool {
        image.is_open_to(reference, &self.fingerprints.of_all(credentials))
    }

    fn lock(&self) -> MutexGuard<'_, Given> {
        // It is changed by whole values only.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes it in memory and on disk, or neither.
    fn change(&self, edit: impl FnOnce(&mut Given)) -> Result<()> {
        let mut known = self.lock();
        let mut changed = known.clone();
        edit(&mut changed);
        if changed != *known {
            sys::write_json(&self.path, &changed, true)?;
            *known = changed;
        }
        Ok(())
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

    fn of_all(&self, credentials: &[RegistryAuth]) -> Vec<String> {
        credentials.iter().filter_map(|one| self.of(one)).collect()
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
    fn a_book_remembers_to_whom_images_of_another_store_were_given() {
        let dir = tempfile::tempdir().unwrap();
        let book = AccessBook::open(dir.path()).unwrap();
        assert_eq!(book.of("sha256:x"), None);
        book.pulled("sha256:x", "r.example/a:1", &basic("one")).unwrap();
        book.brought("sha256:y").unwrap();
        book.pulled("sha256:y", "r.example/b:1", &basic("one")).unwrap();
        assert!(book.pulled("sha256:z", "Not A Name", &basic("one")).is_err());
        let book = AccessBook::open(dir.path()).unwrap();
        let of = |id: &str| Image { access: book.of(id), ..image(&[]) };
        let open = |id: &str, name: &str, own: &[RegistryAuth]| book.is_open_to(&of(id), name, own);
        assert!(open("sha256:x", "r.example/a:1", &[basic("two"), basic("one")]));
        assert!(!open("sha256:x", "r.example/a:1", &[basic("two")]));
        assert!(of("sha256:x").was_pulled() && !of("sha256:y").was_pulled());
        assert!(open("sha256:y", "r.example/b:1", &[]), "an administrator brought it");
        assert!(open("sha256:z", "r.example/c:1", &[]), "somebody else brought it");
        book.pulled("sha256:x", "r.example/a:1", &RegistryAuth::Anonymous).unwrap();
        assert!(open("sha256:x", "r.example/a:1", &[]), "its registry gives it to everyone by now");
        book.retain(|id| id == "sha256:y").unwrap();
        assert_eq!((book.of("sha256:x"), book.of("sha256:y")), (None, Some(BTreeMap::new())));
    }

    #[test]
    fn a_credential_is_known_again_in_this_store_alone() {
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
