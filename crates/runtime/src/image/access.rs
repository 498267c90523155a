//! Who may use an image that was pulled: who may pull it. Registries give private images to those who show a credential; what one
//! Pod's credential fetched is not for all who know the image's name (Kubernetes KEP-2535, "Ensure Secret Pulled Images").

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Image, ImageStore, RegistryAuth, reference};
use crate::error::{Result, RuntimeError};
use crate::sys;

/// Credentials of one repository that are remembered; the oldest are forgotten first, and are asked about anew.
const MOST: usize = 100;
/// Length of the store's key, bytes.
const KEY: usize = 32;
/// The files of a book.
const GIVEN: &str = "access.json";
const INTENTS: &str = "intents.json";

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
        // Of whom nothing is known, nobody has it: it may be a private one.
        let Some(access) = self.access.as_ref() else { return false };
        if access.is_empty() {
            return true;
        }
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
///
/// Who keeps them has an image before it can be written down to whom it was given. So each pull is written down before it begins
/// ([`AccessBook::intend`]) and crossed out once that is done: what comes in between is closed, also after an end of the process
/// (Kubernetes KEP-2535 has pull intents for the same).
pub struct AccessBook {
    dir: PathBuf,
    fingerprints: Fingerprints,
    pages: Mutex<Pages>,
}

/// By image id, then by repository; empty for an image that an administrator brought.
type Given = BTreeMap<String, BTreeMap<String, Access>>;
/// By name, the id of the image that the name led to before.
type Intents = BTreeMap<String, Option<String>>;

/// What the book holds.
#[derive(Default)]
struct Pages {
    given: Given,
    intents: Intents,
}

impl AccessBook {
    /// The book in `dir`, which is made where it is missing.
    ///
    /// # Errors
    /// When the directory or a file in it can't be used.
    pub fn open(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(RuntimeError::io("create", dir))?;
        let mode = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(dir, mode).map_err(RuntimeError::io("set mode of", dir))?;
        let pages = Pages { given: load(&dir.join(GIVEN))?, intents: load(&dir.join(INTENTS))? };
        Ok(Self { dir: dir.to_owned(), fingerprints: Fingerprints::open(dir)?, pages: Mutex::new(pages) })
    }

    /// The name of an image as others list it, and as it stands here: a tag beside a digest is not said.
    ///
    /// # Errors
    /// `BadReference`.
    pub fn name_of(reference: &str) -> Result<String> {
        let parsed = reference::parse(reference)?;
        Ok(match parsed.digest() {
            Some(digest) => format!("{}@{digest}", reference::repository_of(&parsed)),
            None => parsed.whole(),
        })
    }

    /// To whom an image with these names was given: empty where that is to all, as an administrator or somebody else brought it.
    pub fn of(&self, id: &str, names: &[String]) -> BTreeMap<String, Access> {
        let pages = self.lock();
        match pages.given.get(id) {
            Some(known) => known.clone(),
            None => pages.closed(id, names),
        }
    }

    /// Writes down that an image of this name is about to be pulled; `before` is the id of the one that the name leads to now.
    ///
    /// # Errors
    /// `BadReference`; when it can't be written down: then it must not be pulled.
    pub fn intend(&self, reference: &str, before: Option<&str>) -> Result<()> {
        let name = Self::name_of(reference)?;
        self.change_intents(|intents| {
            // One that was not crossed out still holds.
            intents.entry(name).or_insert_with(|| before.map(str::to_owned));
        })
    }

    /// Crosses out that an image of this name is about to be pulled: to whom it was given is known, or it did not come.
    ///
    /// # Errors
    /// `BadReference`; when it can't be written down.
    pub fn done(&self, reference: &str) -> Result<()> {
        let name = Self::name_of(reference)?;
        self.change_intents(|intents| drop(intents.remove(&name)))
    }

    /// How many pulls were begun and not crossed out.
    pub fn intended(&self) -> usize {
        self.lock().intents.len()
    }

    /// Closes those of the images that are there (ids, each with its names) that pulls brought of which nothing more became known, and
    /// crosses these out; and those that brought nothing, where `keep` does not want them. Images that are gone are forgotten.
    ///
    /// # Errors
    /// When it can't be written down.
    pub fn settle(&self, there: &BTreeMap<String, Vec<String>>, keep: impl Fn(&str) -> bool) -> Result<()> {
        let came: Vec<String> = {
            let pages = self.lock();
            let intents = pages.intents.iter();
            let brought = |(name, before): (&String, &Option<String>)| {
                let mut all = there.iter();
                let came = all.any(|(id, names)| before.as_ref() != Some(id) && names.contains(name));
                came.then(|| name.clone())
            };
            intents.filter_map(brought).collect()
        };
        self.change(|pages, given| {
            for (id, names) in there {
                let closed = pages.closed(id, names);
                if !closed.is_empty() {
                    given.entry(id.clone()).or_insert(closed);
                }
            }
            given.retain(|id, _| there.contains_key(id));
        })?;
        self.change_intents(|intents| intents.retain(|name, _| !came.contains(name) && keep(name)))
    }

    /// Notes that a registry gave an image to who showed `auth`. One that an administrator brought stays for all.
    ///
    /// # Errors
    /// `BadReference`; when it can't be written down.
    pub fn pulled(&self, id: &str, reference: &str, auth: &RegistryAuth) -> Result<()> {
        let new =
            BTreeMap::from([(reference::repository(reference)?, Access::by(self.fingerprints.of(auth)))]);
        self.change(|_, given| match given.get_mut(id) {
            Some(known) if known.is_empty() => {}
            Some(known) => merge(known, new),
            None => drop(given.insert(id.to_owned(), new)),
        })
    }

    /// Notes that an administrator brought an image, for all.
    ///
    /// # Errors
    /// When it can't be written down.
    pub fn brought(&self, id: &str) -> Result<()> {
        self.change(|_, given| drop(given.insert(id.to_owned(), BTreeMap::new())))
    }

    /// Forgets the images that `keep` does not want.
    ///
    /// # Errors
    /// When it can't be written down.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) -> Result<()> {
        self.change(|_, given| given.retain(|id, _| keep(id)))
    }

    /// As [`ImageStore::is_open_to`].
    pub fn is_open_to(&self, image: &Image, reference: &str, credentials: &[RegistryAuth]) -> bool {
        image.is_open_to(reference, &self.fingerprints.of_all(credentials))
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        // It is changed by whole values only.
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what was given in memory and on disk, or neither.
    fn change(&self, edit: impl FnOnce(&Pages, &mut Given)) -> Result<()> {
        let mut pages = self.lock();
        let mut changed = pages.given.clone();
        edit(&pages, &mut changed);
        if changed != pages.given {
            self.write(GIVEN, &changed)?;
            pages.given = changed;
        }
        Ok(())
    }

    /// As [`AccessBook::change`], for the pulls that are about to be.
    fn change_intents(&self, edit: impl FnOnce(&mut Intents)) -> Result<()> {
        let mut pages = self.lock();
        let mut changed = pages.intents.clone();
        edit(&mut changed);
        if changed != pages.intents {
            self.write(INTENTS, &changed)?;
            pages.intents = changed;
        }
        Ok(())
    }

    /// Others write down what they have in their own time: this reaches the disk before.
    fn write(&self, name: &str, page: &impl Serialize) -> Result<()> {
        sys::write_json(&self.dir.join(name), page, true)?;
        let dir = std::fs::File::open(&self.dir).map_err(RuntimeError::io("open", &self.dir))?;
        dir.sync_all().map_err(RuntimeError::io("sync", &self.dir))
    }
}

impl Pages {
    /// What is known of an image of which nothing is written down: that it is nobody's, where a pull that is not done yet may have
    /// brought it. One whose names are not known yet may be any pull's.
    fn closed(&self, id: &str, names: &[String]) -> BTreeMap<String, Access> {
        let brought = |(name, before): &(&String, &Option<String>)| {
            before.as_deref() != Some(id) && (names.is_empty() || names.contains(name))
        };
        let mut found = self.intents.iter().filter(brought);
        let nobody = found.next().map(|(name, _)| {
            let repository = reference::repository(name).unwrap_or_default();
            (repository, Access::default())
        });
        nobody.into_iter().collect()
    }
}

fn load<T: Default + DeserializeOwned>(path: &Path) -> Result<T> {
    match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(T::default()),
        Err(error) => Err(RuntimeError::io("read", path)(error)),
        Ok(text) => {
            serde_json::from_slice(&text).map_err(|error| RuntimeError::io("read", path)(error.into()))
        }
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
        let unknown = Image { access: None, ..image(&[]) };
        assert!(!unknown.is_open_to("r.example/a:1", &own(&["one"])), "it may be a private one");
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

    /// A book, and whether an image with this id, which is listed under `name`, is open under that name.
    fn open(book: &AccessBook, id: &str, name: &str, own: &[RegistryAuth]) -> bool {
        let image = Image { access: Some(book.of(id, &[name.to_owned()])), ..image(&[]) };
        book.is_open_to(&image, name, own)
    }

    #[test]
    fn a_book_remembers_to_whom_images_of_another_store_were_given() {
        let dir = tempfile::tempdir().unwrap();
        let book = AccessBook::open(dir.path()).unwrap();
        book.pulled("sha256:x", "r.example/a:1", &basic("one")).unwrap();
        book.brought("sha256:y").unwrap();
        book.pulled("sha256:y", "r.example/b:1", &basic("one")).unwrap();
        assert!(book.pulled("sha256:z", "Not A Name", &basic("one")).is_err());
        let book = AccessBook::open(dir.path()).unwrap();
        assert!(open(&book, "sha256:x", "r.example/a:1", &[basic("two"), basic("one")]));
        assert!(!open(&book, "sha256:x", "r.example/a:1", &[basic("two")]));
        assert!(!book.of("sha256:x", &[]).is_empty() && book.of("sha256:y", &[]).is_empty());
        assert!(open(&book, "sha256:y", "r.example/b:1", &[]), "an administrator brought it");
        assert!(open(&book, "sha256:z", "r.example/c:1", &[]), "somebody else brought it");
        book.pulled("sha256:x", "r.example/a:1", &RegistryAuth::Anonymous).unwrap();
        assert!(open(&book, "sha256:x", "r.example/a:1", &[]), "its registry gives it to everyone by now");
        book.retain(|id| id == "sha256:y").unwrap();
        assert_eq!(book.lock().given, BTreeMap::from([("sha256:y".to_owned(), BTreeMap::new())]));
    }

    #[test]
    fn what_a_pull_brings_is_nobody_s_until_it_is_known_whose() {
        const NAME: &str = "r.example/a:1";
        let dir = tempfile::tempdir().unwrap();
        let book = AccessBook::open(dir.path()).unwrap();
        assert!(book.intend("Not A Name", None).is_err());
        book.intend(NAME, Some("sha256:before")).unwrap();
        let own = [basic("one")];
        assert!(!open(&book, "sha256:new", NAME, &own));
        assert!(!book.of("sha256:new", &[]).is_empty(), "its name is not known yet");
        assert!(open(&book, "sha256:before", NAME, &[]), "somebody else brought that one");
        assert!(open(&book, "sha256:other", "r.example/b:1", &[]), "and that one");

        // The process ended meanwhile: the image came, and who has no business with it asks first.
        let book = AccessBook::open(dir.path()).unwrap();
        assert!(!open(&book, "sha256:new", NAME, &own));
        book.intend("r.example/never:1", None).unwrap();
        let named = |name: &str| vec![name.to_owned()];
        let mut there = BTreeMap::from([
            ("sha256:new".to_owned(), named(NAME)),
            ("sha256:before".to_owned(), named("r.example/c:1")),
        ]);
        book.settle(&there, |_| true).unwrap();
        assert_eq!(book.intended(), 1, "of the other it may still come");
        book.settle(&there, |_| false).unwrap();
        assert_eq!(book.intended(), 0);
        let book = AccessBook::open(dir.path()).unwrap();
        assert!(!open(&book, "sha256:new", NAME, &own), "it is written down that it is nobody's");
        assert!(open(&book, "sha256:before", "r.example/c:1", &[]));
        book.pulled("sha256:new", NAME, &basic("one")).unwrap();
        assert!(open(&book, "sha256:new", NAME, &own) && !open(&book, "sha256:new", NAME, &[basic("two")]));
        there.remove("sha256:new");
        book.settle(&there, |_| true).unwrap();
        assert!(book.lock().given.is_empty());

        let digest = format!("sha256:{}", "0".repeat(64));
        book.intend(&format!("r.example/a:1@{digest}"), None).unwrap();
        assert!(!open(&book, "sha256:new", &format!("r.example/a@{digest}"), &own), "as it is listed");
        book.done(&format!("r.example/a@{digest}")).unwrap();
        assert!(open(&book, "sha256:new", &format!("r.example/a@{digest}"), &[]));
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
