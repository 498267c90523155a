//! Ids and names: reading those of objects, and making new ones. `places` finds objects by their ids.

use std::fmt::Debug;

use kube::api::{Api, ListParams, PostParams};
use rand::Rng;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use yunfan_resources::compute::dns_label;

use crate::error::Fault;

/// How often another suffix is tried for a name that is taken.
const ATTEMPTS: usize = 8;
/// Length of a random suffix, with its dash.
const SUFFIX: usize = 6;
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A kind that the door reads and writes.
pub(crate) trait Kind:
    kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize
{
}
impl<K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize> Kind for K {}

/// Every object that `api` can see.
pub(crate) async fn list<K: Kind>(api: &Api<K>) -> Result<Vec<K>, Fault> {
    Ok(api.list(&ListParams::default()).await?.items)
}

/// An object's `metadata.name`.
pub(crate) fn name<K: kube::Resource>(object: &K) -> &str {
    object.meta().name.as_deref().unwrap_or_default()
}

/// An object's namespace; empty for one that is in none.
pub(crate) fn namespace<K: kube::Resource>(object: &K) -> &str {
    object.meta().namespace.as_deref().unwrap_or_default()
}

/// Creates `object`, named after the free name `display`; with a random suffix where that name is taken.
pub(crate) async fn create<K: Kind>(api: &Api<K>, mut object: K, display: &str) -> Result<K, Fault> {
    let base = dns_label(display);
    let mut last = None;
    for attempt in 0..ATTEMPTS {
        object.meta_mut().name = Some(if attempt == 0 { base.clone() } else { suffixed(&base) });
        match api.create(&PostParams::default(), &object).await {
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
                last = Some(kube::Error::Api(status));
            }
            other => return Ok(other?),
        }
    }
    Err(last.map_or_else(|| Fault::conflict("The name is taken"), Fault::from))
}

/// `base` with a random suffix, still a DNS label.
pub(crate) fn suffixed(base: &str) -> String {
    let mut name: String = base.chars().take(63 - SUFFIX).collect();
    name.push('-');
    let mut random = rand::rng();
    for _ in 1..SUFFIX {
        name.push(char::from(LETTERS[random.random_range(0..LETTERS.len())]));
    }
    name
}

/// An id of 32 hexadecimal digits that is always the same for the same text: of things that are no objects (roles, endpoints).
pub(crate) fn stable(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes())[..16])
}

/// As [`stable`], in the form of a UUID.
pub(crate) fn stable_uuid(text: &str) -> String {
    uuid::Uuid::parse_str(&stable(text)).map(|id| id.to_string()).unwrap_or_default()
}

/// A new id of 32 hexadecimal digits: projects and users.
pub(crate) fn plain() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Refuses a display name that is empty (unless `empty`), longer than 255 characters, or has control characters.
pub(crate) fn check_name(field: &str, given: &str, empty: bool) -> Result<(), Fault> {
    let length = given.chars().count();
    if (!empty && given.trim().is_empty()) || length > 255 || given.chars().any(char::is_control) {
        let least = u8::from(!empty);
        return Err(Fault::bad(format!(
            "Invalid input for field/attribute {field}. It must have {least} to 255 printable characters; it has {length}."
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixed_names_stay_dns_labels() {
        let name = suffixed(&"a".repeat(63));
        assert_eq!(name.len(), 63);
        assert_eq!(dns_label(&name), name);
        assert_ne!(suffixed("web"), suffixed("web"));
    }

    #[test]
    fn stable_ids_are_stable_and_have_keystones_form() {
        assert_eq!(stable("role:admin"), stable("role:admin"));
        assert_eq!((stable("role:admin").len(), plain().len()), (32, 32));
    }

    #[test]
    fn names_are_checked() {
        assert!(check_name("name", "Web Server #1", false).is_ok());
        assert!(check_name("name", " ", false).is_err());
        assert!(check_name("name", "", true).is_ok());
        assert!(check_name("name", &"x".repeat(256), true).is_err());
        assert!(check_name("name", "a\nb", true).is_err());
    }
}
