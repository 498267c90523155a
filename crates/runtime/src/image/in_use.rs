//! What containers hold, read from their directories, so that it also holds after a restart.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use crate::error::{Result, RuntimeError};

/// Ids of the images that containers were made from or have mounted, each with one such container.
pub(super) fn images(pods: &Path) -> Result<HashMap<String, String>> {
    let mut found = HashMap::new();
    for bundle in bundles(pods)? {
        let Ok(ids) = std::fs::read_to_string(bundle.join("image")) else { continue };
        let container = bundle.file_name().unwrap_or_default().to_string_lossy();
        found.extend(ids.lines().map(|id| (id.to_owned(), container.clone().into_owned())));
    }
    Ok(found)
}

/// Directory names of the layers that containers have mounted.
pub(super) fn layers(pods: &Path) -> Result<HashSet<String>> {
    let mut found = HashSet::new();
    for bundle in bundles(pods)? {
        let mounted = list(&bundle.join("image-layers"))?;
        let dirs = mounted.into_iter().chain([bundle.join("l")]);
        for link in dirs.map(|dir| list(&dir)).collect::<Result<Vec<_>>>()?.concat() {
            if let Some(name) = std::fs::read_link(&link)
                .ok()
                .and_then(|target| target.file_name().map(|n| n.to_string_lossy().into_owned()))
            {
                found.insert(name);
            }
        }
    }
    Ok(found)
}

fn bundles(pods: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for pod in list(pods)? {
        found.extend(list(&pod.join("containers"))?);
    }
    Ok(found)
}

/// What is in a directory; a missing one is empty.
fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    match std::fs::read_dir(dir) {
        Ok(entries) => {
            entries.map(|entry| Ok(entry.map_err(RuntimeError::io("read", dir))?.path())).collect()
        }
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
        {
            Ok(Vec::new())
        }
        Err(error) => Err(RuntimeError::io("read", dir)(error)),
    }
}
