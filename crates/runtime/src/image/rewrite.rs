//! Archives made anew for importers other than ours: with one way of naming images, and nothing in them that is not ours to import.

use std::collections::HashSet;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::import::{Archive, Job, Parts};
use super::{Limits, normalize};
use crate::error::{Result, RuntimeError};

/// Writes the images of an archive, as [`super::ImageStore::import`] understands it, as another one: uncompressed, with each image by all
/// its normalised names. Returns these names. `tmp` below `dir` is for what has to be unpacked meanwhile. Blocking.
///
/// # Errors
/// As [`super::ImageStore::import`], but nothing is said of layers: whoever takes the archive looks at them.
pub fn rewrite(archive: &Path, name: Option<&str>, dir: &Path, out: impl Write) -> Result<Vec<String>> {
    let name = name.map(normalize).transpose()?;
    let job = Job { archive: archive.to_owned(), dir: dir.to_owned(), limits: Limits::default(), name };
    let (mut from, images) = job.find()?;
    let mut to = Writer { tar: tar::Builder::new(out), there: HashSet::new(), at: archive };
    let is_oci = images.iter().all(|image| image.manifest_digest.is_some());
    let index = match is_oci {
        true => oci_index(&mut from, &images)?,
        false => docker_index(&images),
    };
    for (path, content) in index {
        to.put(path, content.as_bytes(), content.len() as u64)?;
    }
    for image in &images {
        let manifest = image.manifest_digest.as_ref().map(|digest| from.blob_path(digest)).transpose()?;
        let layers = image.layers.iter().map(|(path, _)| path);
        for path in manifest.iter().chain([&image.config]).chain(layers) {
            if to.there.insert(path.clone()) {
                let (content, size) = from.sized(path)?;
                to.put(path, content, size)?;
            }
        }
    }
    to.tar.finish().map_err(to.failed())?;
    Ok(images.into_iter().flat_map(|image| image.names).collect())
}

struct Writer<'a, W: Write> {
    tar: tar::Builder<W>,
    /// Files that are in it.
    there: HashSet<String>,
    /// Whose parts these are.
    at: &'a Path,
}

impl<W: Write> Writer<'_, W> {
    fn put(&mut self, path: &str, content: impl std::io::Read, size: u64) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(0o644);
        let failed = self.failed();
        self.tar.append_data(&mut header, path, content).map_err(failed)
    }

    fn failed(&self) -> impl FnOnce(std::io::Error) -> RuntimeError + use<W> {
        RuntimeError::io("write anew", self.at.to_owned())
    }
}

/// An index of the OCI image layout: an entry for each name.
fn oci_index(from: &mut Archive, images: &[Parts]) -> Result<Vec<(&'static str, String)>> {
    let mut manifests = Vec::new();
    for image in images {
        let digest = image.manifest_digest.clone().unwrap_or_default();
        let raw = from.read(&from.blob_path(&digest)?)?;
        let manifest: Value = serde_json::from_slice(&raw).unwrap_or_default();
        let kind = manifest["mediaType"].as_str().unwrap_or("application/vnd.oci.image.manifest.v1+json");
        for name in &image.names {
            manifests.push(json!({
                "mediaType": kind, "digest": digest, "size": raw.len(),
                "annotations": {"io.containerd.image.name": name},
            }));
        }
    }
    let index = json!({"schemaVersion": 2, "manifests": manifests});
    let layout = json!({"imageLayoutVersion": "1.0.0"});
    Ok(vec![("oci-layout", layout.to_string()), ("index.json", index.to_string())])
}

/// The index of `docker save`.
fn docker_index(images: &[Parts]) -> Vec<(&'static str, String)> {
    let entry = |image: &Parts| {
        let layers: Vec<&String> = image.layers.iter().map(|(path, _)| path).collect();
        json!({"Config": image.config, "RepoTags": image.names, "Layers": layers})
    };
    vec![("manifest.json", Value::from_iter(images.iter().map(entry)).to_string())]
}
