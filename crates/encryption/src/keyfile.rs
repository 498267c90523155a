//! The key file of a cloud that was told nothing about encryption: an `EncryptionConfiguration` of its own, with keys that are made here.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::aead::random;
use crate::config::{API_VERSION, Configuration, Empty, KeyList, KeySpec, ProviderSpec, Resources};
use crate::{EncryptionError, invalid, parse};

/// Its name in the directory of the cloud's keys.
pub const KEY_FILE: &str = "encryption.json";
/// Keys in the file, at most: nobody needs old ones that nothing is encrypted with any more.
const MAX_KEYS: usize = 100;

/// Makes the file where it is not there: Secrets are encrypted, and those that were kept plain are still read. Returns whether it was made.
///
/// # Errors
/// It can't be written.
pub fn open_or_create(path: &Path) -> Result<bool, EncryptionError> {
    // A link that leads nowhere, and a disk that does not answer, are no missing file.
    match path.symlink_metadata() {
        Ok(_) => return Ok(false),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => return Err(EncryptionError::File { path: path.display().to_string(), source }),
    }
    let keys = KeyList { keys: vec![new_key(path, 1)?] };
    let file = Configuration {
        api_version: API_VERSION.to_owned(),
        kind: "EncryptionConfiguration".to_owned(),
        resources: vec![Resources {
            resources: vec!["secrets".to_owned()],
            providers: vec![
                ProviderSpec { aesgcm_derived: Some(keys), ..ProviderSpec::default() },
                ProviderSpec { identity: Some(Empty {}), ..ProviderSpec::default() },
            ],
        }],
    };
    write(path, &file)?;
    Ok(true)
}

/// Puts a new key before those of the file, and returns its name. What was encrypted with the others is still read. Who does this at the
/// same time waits: of two keys one would be lost, and with it what was encrypted in between.
///
/// # Errors
/// The file is not there, is not as [`open_or_create`] makes it, or can't be written.
pub fn add_key(path: &Path) -> Result<String, EncryptionError> {
    let failed = |source| EncryptionError::File { path: path.display().to_string(), source };
    // The file itself is replaced, so it can't be what is locked. Gone at the end of this function.
    let lock = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path.with_extension("lock"))
        .map_err(failed)?;
    lock.lock().map_err(failed)?;
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let mut file = parse(path, &text)?;
    let keys = file.resources.iter_mut().flat_map(|entry| &mut entry.providers).next();
    let Some(keys) = keys.and_then(|first| first.aesgcm_derived.as_mut()).map(|list| &mut list.keys) else {
        let why = "its first provider is not aesgcmDerived: add a key to it by hand".to_owned();
        return Err(invalid(path, why));
    };
    if keys.len() >= MAX_KEYS {
        let why = format!(
            "it has {MAX_KEYS} keys: encrypt everything anew (yunfan secrets reencrypt) and take out old ones"
        );
        return Err(invalid(path, why));
    }
    let number = |key: &KeySpec| {
        let rest = key.name.strip_prefix("key")?;
        rest.split('-').next()?.parse::<u32>().ok()
    };
    let next = keys.iter().filter_map(number).max().unwrap_or_default().saturating_add(1);
    let key = new_key(path, next)?;
    let name = key.name.clone();
    keys.insert(0, key);
    write(path, &file)?;
    Ok(name)
}

fn new_key(path: &Path, number: u32) -> Result<KeySpec, EncryptionError> {
    let secret: [u8; 32] = random().map_err(|why| invalid(path, why))?;
    // Another file's key must not be taken for this one: both may have to stand in one file some day.
    let tag: [u8; 4] = random().map_err(|why| invalid(path, why))?;
    let tag: String = tag.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(KeySpec { name: format!("key{number}-{tag}"), secret: STANDARD.encode(secret) })
}

/// Whole or not at all, and for its owner alone. What is encrypted with a key must never be older than the key on the disk.
fn write(path: &Path, file: &Configuration) -> Result<(), EncryptionError> {
    let text = serde_json::to_string_pretty(file).map_err(|error| invalid(path, error.to_string()))?;
    let write = || -> std::io::Result<()> {
        let temporary = path.with_extension("tmp");
        let _ = std::fs::remove_file(&temporary);
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        match path.parent() {
            Some(parent) => std::fs::File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(|source| EncryptionError::File { path: path.display().to_string(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use bytes::Bytes;
    use yunfan_store::Transformer;

    use super::*;
    use crate::Encryption;

    #[test]
    fn keys_that_are_added_at_one_time_are_all_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEY_FILE);
        open_or_create(&path).unwrap();
        let added = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(|| add_key(&path).unwrap())).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>()
        });
        let text = std::fs::read_to_string(&path).unwrap();
        for name in added {
            assert!(text.contains(&name), "{name}");
        }
    }

    #[tokio::test]
    async fn a_new_file_encrypts_secrets_and_takes_further_keys() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEY_FILE);
        assert!(open_or_create(&path).unwrap());
        assert!(!open_or_create(&path).unwrap(), "it stays");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let encryption = Encryption::open(&path).await.unwrap();
        let key = b"/registry/core/secrets/a/b";
        let sealed = encryption.seal(key, Bytes::from("{}")).unwrap();
        assert!(sealed.starts_with(b"k8s:enc:aesgcm-derived:v1:key1-"));
        assert_eq!(encryption.seal(b"/registry/core/configmaps/a/b", "{}".into()).unwrap(), "{}");

        assert!(!encryption.reload().await.unwrap());
        assert!(add_key(&path).unwrap().starts_with("key2-"));
        assert!(encryption.reload().await.unwrap());
        assert!(encryption.is_stale(key, &sealed));
        assert_eq!(encryption.open(key, &sealed).await.unwrap(), "{}");
        let again = encryption.seal(key, Bytes::from("{}")).unwrap();
        assert!(again.starts_with(b"k8s:enc:aesgcm-derived:v1:key2-"));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);

        std::fs::write(&path, "resources: 5").unwrap();
        let wrong = encryption.reload().await.unwrap_err().to_string();
        assert!(wrong.contains(KEY_FILE), "{wrong}");
        assert!(encryption.describe()[0].starts_with("secrets: aesgcm-derived key2-"), "the old one stays");
        assert!(add_key(&dir.path().join("none")).is_err());
    }
}
