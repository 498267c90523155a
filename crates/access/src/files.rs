//! Configuration files: read with a limit, taken apart with the name of the field that is wrong, and followed while they change.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{ConfigError, Fault};

/// Largest file, bytes.
const MAX_FILE: u64 = 4 << 20;
/// How often a file is looked at: what its operator takes back must not count for long.
const LOOK: Duration = Duration::from_millis(500);

/// The text of a file.
///
/// # Errors
/// It cannot be read, is too large, or no text.
pub(crate) fn read(path: &Path) -> Result<String, ConfigError> {
    let failed = |error: std::io::Error| {
        ConfigError::file(path, "", format!("cannot be read: {error}; give a file that the server may read"))
    };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(ConfigError::file(path, "", format!("is larger than {MAX_FILE} bytes; make it smaller")));
    }
    String::from_utf8(bytes).map_err(|_| ConfigError::file(path, "", "is not UTF-8; save it as UTF-8"))
}

/// Reads one of kube-apiserver's configuration objects (YAML or JSON) of the group `apiserver.config.k8s.io`.
///
/// # Errors
/// The text has another kind or version, or a field that is unknown, missing or of the wrong type.
pub(crate) fn object<T: DeserializeOwned>(text: &str, kind: &str, versions: &[&str]) -> Result<T, Fault> {
    let mut value: Value = serde_saphyr::from_str(text)
        .map_err(|error| Fault::new("", format!("is neither YAML nor JSON: {error}")))?;
    let Some(map) = value.as_object_mut() else {
        return Err(Fault::new("", format!("must be an object of kind {kind}")));
    };
    let given = |value: Option<Value>| value.and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
    let (version, found) = (given(map.remove("apiVersion")), given(map.remove("kind")));
    if found != kind {
        return Err(Fault::new("kind", format!("is {found:?}; it must be {kind}")));
    }
    let known = version.strip_prefix("apiserver.config.k8s.io/").is_some_and(|v| versions.contains(&v));
    if !known {
        let wanted: Vec<String> =
            versions.iter().map(|version| format!("apiserver.config.k8s.io/{version}")).collect();
        return Err(Fault::new("apiVersion", format!("is {version:?}; it must be {}", wanted.join(" or "))));
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let field = error.path().to_string();
        let field = if field == "." { String::new() } else { field };
        Fault::new(field, error.into_inner().to_string())
    })
}

/// A file that is looked at again and again.
pub(crate) struct Followed {
    path: PathBuf,
    seen: String,
}

impl Followed {
    /// One whose text was this a moment ago.
    pub(crate) fn new(path: PathBuf, seen: String) -> Self {
        Self { path, seen }
    }

    /// Waits a moment and gives the text, if it is a new one. A file that cannot be read for a moment (it is being replaced)
    /// is as it was.
    pub(crate) async fn look(&mut self) -> Option<String> {
        tokio::time::sleep(LOOK).await;
        let asked = self.path.clone();
        let text = tokio::task::spawn_blocking(move || read(&asked)).await.ok()?.ok()?;
        if text == self.seen {
            return None;
        }
        self.seen.clone_from(&text);
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Thing {
        #[allow(dead_code)] // Read by the test's eyes alone.
        list: Vec<Part>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Part {
        #[allow(dead_code)] // As above.
        number: u32,
    }

    #[test]
    fn what_is_wrong_is_named() {
        let fault = |text: &str| {
            let fault = object::<Thing>(text, "Thing", &["v1"]).expect_err(text);
            format!("{}: {}", fault.field, fault.why)
        };
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: Thing\n";
        object::<Thing>(&format!("{head}list: [{{number: 1}}]"), "Thing", &["v1"]).expect("is one");
        assert!(fault(&format!("{head}list: [{{number: x}}]")).starts_with("list[0].number: "));
        assert!(fault(&format!("{head}list: [{{number: 1, other: 2}}]")).contains("other"));
        assert!(fault("kind: Thing\napiVersion: v1").starts_with("apiVersion: is \"v1\""));
        assert!(fault("kind: Other").starts_with("kind: is \"Other\""));
        assert!(fault("- a").contains("must be an object"));
        assert!(fault("a: [").contains("neither YAML nor JSON"));
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = read(Path::new("/nowhere/at/all")).expect_err("there is none").to_string();
        assert!(error.starts_with("/nowhere/at/all: cannot be read"), "{error}");
    }
}
