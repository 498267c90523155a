//! `personality`: files that a new server is to have, up to microversion 2.57. Guests find them where the metadata service and the config
//! drive say, and cloud-init writes them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use yunfan_resources::compute::GuestFile;

use crate::error::Fault;

/// Files of one server, and bytes of a path and of a file, as Nova's limits are where nobody set them.
pub(super) const MAX: usize = 5;
const MAX_PATH: usize = 255;
pub(super) const MAX_BYTES: usize = 10_240;

/// A file as a request writes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFile {
    path: String,
    contents: String,
}

/// The files that a request wants.
pub(super) fn files(given: &[RawFile]) -> Result<Vec<GuestFile>, Fault> {
    let limit = |what: &str, most: usize| {
        Fault::forbidden(format!("Personality {what} exceeds the limit of {most}."))
    };
    if given.len() > MAX {
        return Err(limit("file count", MAX));
    }
    let file = |raw: &RawFile| {
        if raw.path.is_empty() || raw.path.len() > MAX_PATH {
            return Err(limit("file path length", MAX_PATH));
        }
        // Clients break long lines.
        let text: String = raw.contents.chars().filter(|letter| !letter.is_ascii_whitespace()).collect();
        let bytes = STANDARD.decode(&text).map_err(|_| {
            Fault::bad(format!("Personality content for {} cannot be decoded: it is not base64.", raw.path))
        })?;
        if bytes.len() > MAX_BYTES {
            return Err(limit("file content", MAX_BYTES));
        }
        Ok(GuestFile { path: raw.path.clone(), contents: text })
    };
    given.iter().map(file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_limits() {
        let raw = |path: &str, contents: &str| RawFile { path: path.into(), contents: contents.into() };
        let made = files(&[raw("/etc/motd", "aGVs\nbG8=")]).unwrap();
        assert_eq!((made[0].path.as_str(), made[0].contents.as_str()), ("/etc/motd", "aGVsbG8="));
        let status = |given: &[RawFile]| files(given).unwrap_err().status.as_u16();
        assert_eq!(status(&[raw("/a", "no!base64")]), 400);
        assert_eq!(status(&vec![raw("/a", ""); 6]), 403);
        assert_eq!(status(&[raw(&"a".repeat(256), "")]), 403);
        assert_eq!(status(&[raw("/a", &STANDARD.encode(vec![0; MAX_BYTES + 1]))]), 403);
    }
}
