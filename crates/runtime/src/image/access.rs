//! Who may use an image that was pulled: who may pull it. Registries give private images to those who show a credential; what one
//! Pod's credential fetched is not for all who know the image's name (Kubernetes KEP-2535, "Ensure Secret Pulled Images").

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Image, RegistryAuth, reference};

/// Credentials of one repository that are remembered; the oldest are forgotten first, and are asked about anew.
const MOST: usize = 100;

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
    /// That of one pull.
    pub(super) fn by(auth: &RegistryAuth) -> Self {
        let credential = fingerprint(auth);
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
        !self.access.is_empty()
    }

    /// Whether it may be used under the name `reference` by who has these credentials for it.
    pub fn is_open_to(&self, reference: &str, credentials: &[RegistryAuth]) -> bool {
        if !self.was_pulled() {
            return true;
        }
        let access =
            reference::repository(reference).ok().and_then(|repository| self.access.get(&repository));
        access.is_some_and(|access| {
            access.everyone
                || credentials.iter().filter_map(fingerprint).any(|one| access.credentials.contains(&one))
        })
    }

    /// Whether everyone may use it under the name `reference`.
    pub fn is_open_to_all(&self, reference: &str) -> bool {
        self.is_open_to(reference, &[])
    }
}

pub(super) fn merge(known: &mut BTreeMap<String, Access>, new: BTreeMap<String, Access>) {
    for (repository, access) in new {
        known.entry(repository).or_default().merge(access);
    }
}

/// A credential is not kept, but for this.
fn fingerprint(auth: &RegistryAuth) -> Option<String> {
    let parts = match auth {
        RegistryAuth::Anonymous => return None,
        RegistryAuth::Basic { username, password } => ["basic", username, password],
        RegistryAuth::Bearer(token) => ["bearer", token, ""],
    };
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    Some(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::super::ImageConfig;
    use super::*;

    fn basic(password: &str) -> RegistryAuth {
        RegistryAuth::Basic { username: "u".to_owned(), password: password.to_owned() }
    }

    fn image(pulls: &[(&str, RegistryAuth)]) -> Image {
        let mut image = Image {
            id: "sha256:x".to_owned(),
            names: Vec::new(),
            repo_digests: Vec::new(),
            layers: Vec::new(),
            size_bytes: 0,
            config: ImageConfig::default(),
            access: BTreeMap::new(),
        };
        for (repository, auth) in pulls {
            merge(&mut image.access, BTreeMap::from([((*repository).to_owned(), Access::by(auth))]));
        }
        image
    }

    #[test]
    fn who_may_pull_may_use() {
        let private = image(&[("r.example/a", basic("one")), ("r.example/open", RegistryAuth::Anonymous)]);
        assert!(private.is_open_to("r.example/a:1", &[basic("two"), basic("one")]));
        assert!(!private.is_open_to("r.example/a:1", &[basic("two")]));
        assert!(!private.is_open_to_all("r.example/a:1"));
        assert!(private.is_open_to_all(
            "r.example/open@sha256:0000000000000000000000000000000000000000000000000000000000000000"
        ));
        for name in ["r.example/b:1", "sha256:x", "Not A Name"] {
            assert!(
                !private.is_open_to(name, &[basic("one")]),
                "{name}: nobody was given it under that name"
            );
        }
        assert!(image(&[]).is_open_to_all("r.example/a:1"), "brought by an administrator");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut access = Access::default();
        for number in 0..MOST + 5 {
            access.merge(Access::by(&basic(&number.to_string())));
        }
        assert_eq!(access.credentials.len(), MOST);
        assert_eq!(access.credentials.last(), fingerprint(&basic(&(MOST + 4).to_string())).as_ref());
        assert!(!serde_json::to_string(&access).unwrap().contains("everyone\":true"));
    }
}
