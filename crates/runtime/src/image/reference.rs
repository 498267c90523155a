//! Image names: one normal form, so that `busybox` and `docker.io/library/busybox:latest` are the same image.

use oci_client::Reference;

use crate::error::{Result, RuntimeError};

/// `busybox` -> `docker.io/library/busybox:latest`, `demo/web:1` -> `docker.io/demo/web:1`; a digest stays.
///
/// # Errors
/// `BadReference` when it is no image name.
pub fn normalize(name: &str) -> Result<String> {
    Ok(parse(name)?.whole())
}

pub(super) fn parse(name: &str) -> Result<Reference> {
    name.parse::<Reference>()
        .map_err(|error| RuntimeError::BadReference { reference: name.to_owned(), reason: error.to_string() })
}

/// The registry and the path in it, without tag and digest.
pub(super) fn repository(name: &str) -> Result<String> {
    parse(name).map(|reference| repository_of(&reference))
}

pub(super) fn repository_of(reference: &Reference) -> String {
    format!("{}/{}", reference.registry(), reference.repository())
}

/// Whether plain HTTP may be spoken to this registry: only when the name itself says that it is this machine.
pub(super) fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => registry.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (given, expected) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("demo/web:1", "docker.io/demo/web:1"),
            ("127.0.0.1:5000/a/b:c", "127.0.0.1:5000/a/b:c"),
            ("localhost:5000/a", "localhost:5000/a:latest"),
        ] {
            assert_eq!(normalize(given).unwrap(), expected);
            assert_eq!(normalize(expected).unwrap(), expected);
        }
        assert!(normalize("Bad Name").is_err());
        assert!(normalize("").is_err());
    }

    #[test]
    fn plain_http_only_to_this_machine() {
        for registry in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000"] {
            assert!(is_loopback(registry), "{registry}");
        }
        for registry in ["docker.io", "10.0.0.1:5000", "localhost.example.com", "127.0.0.1.nip.io"] {
            assert!(!is_loopback(registry), "{registry}");
        }
    }
}
