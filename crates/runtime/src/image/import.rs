//! Takes images from archives: an OCI image layout or what `docker save` writes, as one tar. Blocking.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::config::ConfigFile;
use super::unpack::{self, Expected, Limits, Meter};
use super::{Image, check_digest, hex_of, normalize};
use crate::error::{Result, RuntimeError};

/// Manifests and configurations larger than this are refused.
const LARGEST_JSON: u64 = 8 << 20;
/// More files than this are in no image archive.
const MOST_FILES: usize = 100_000;
/// Images in one archive.
const MOST_IMAGES: usize = 1000;

/// One import.
pub(super) struct Job {
    pub(super) archive: PathBuf,
    pub(super) dir: PathBuf,
    pub(super) limits: Limits,
    /// Normalised; replaces the names inside.
    pub(super) name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    annotations: HashMap<String, String>,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
struct OciIndex {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Where one image's parts are in the archive.
pub(super) struct Parts {
    pub(super) names: Vec<String>,
    pub(super) manifest_digest: Option<String>,
    /// Its path.
    pub(super) config: String,
    /// Path, and the digest of the blob when the archive states it.
    pub(super) layers: Vec<(String, Option<String>)>,
}

pub(super) struct Archive {
    path: PathBuf,
    file: File,
    /// Path in the archive to where the content lies.
    files: HashMap<String, (u64, u64)>,
    links: HashMap<String, String>,
}

impl Job {
    pub(super) fn run(&self) -> Result<Vec<Image>> {
        let (mut archive, found) = self.find()?;
        found.iter().map(|parts| self.image(&mut archive, parts)).collect()
    }

    /// Opens the archive and finds its images, each with the names that it is to have, normalised.
    pub(super) fn find(&self) -> Result<(Archive, Vec<Parts>)> {
        let mut archive = Archive::open(&self.archive, &self.dir, self.limits)?;
        let mut found = if archive.files.contains_key("manifest.json") {
            archive.docker_images()?
        } else if archive.files.contains_key("index.json") {
            archive.oci_images()?
        } else {
            return Err(archive
                .bad("it has neither an index.json (OCI image layout) nor a manifest.json (docker save)"));
        };
        if let Some(name) = &self.name {
            let [only] = &mut found[..] else {
                return Err(archive
                    .bad(&format!("it holds {} images, so one name can't be given to it", found.len())));
            };
            only.names = vec![name.clone()];
        }
        for parts in &mut found {
            if parts.names.is_empty() {
                return Err(archive.bad("it does not name its image: give a name"));
            }
            parts.names = parts.names.iter().map(|n| normalize(n)).collect::<Result<_>>()?;
        }
        Ok((archive, found))
    }

    fn image(&self, archive: &mut Archive, parts: &Parts) -> Result<Image> {
        let names = &parts.names;
        let raw = archive.read(&parts.config)?;
        let id = Meter::new(&raw[..], LARGEST_JSON).finish()?;
        let mut file = ConfigFile::parse(&raw).map_err(|reason| archive.bad(&reason))?;
        if file.rootfs.diff_ids.len() != parts.layers.len() {
            return Err(archive.bad("its manifest and its configuration name different layers"));
        }
        let mut size_bytes = 0;
        for ((path, blob), diff_id) in parts.layers.iter().zip(&file.rootfs.diff_ids) {
            let expected = Expected { blob: blob.as_deref(), diff_id };
            let content = archive.content(path)?;
            size_bytes += unpack::unpack(&self.dir, content, &expected, self.limits)?;
        }
        let kept = self.dir.join("configs").join(format!("{}.json", hex_of(&id)));
        crate::sys::write_atomic(&kept, &raw, false)?;
        let repo_digests = parts.manifest_digest.iter().flat_map(|digest| {
            names.iter().filter_map(move |name| Some(format!("{}@{digest}", name.rsplit_once(':')?.0)))
        });
        Ok(Image {
            id,
            repo_digests: repo_digests.collect(),
            names: names.clone(),
            layers: file.rootfs.diff_ids.clone(),
            size_bytes,
            config: file.config(),
            access: Some(BTreeMap::new()),
        })
    }
}

impl<R: Read> Meter<R> {
    fn finish(mut self) -> Result<String> {
        std::io::copy(&mut self, &mut std::io::sink())
            .map_err(|error| RuntimeError::Task(error.to_string()))?;
        Ok(self.digest())
    }
}

impl Archive {
    fn open(path: &Path, dir: &Path, limits: Limits) -> Result<Self> {
        let failed = || RuntimeError::io("read", path);
        let mut file = File::open(path).map_err(failed())?;
        let mut head = [0; 4];
        let read = file.read(&mut head).map_err(failed())?;
        file.seek(SeekFrom::Start(0)).map_err(failed())?;
        let compressed = read == 4 && (head[..2] == [0x1f, 0x8b] || head == [0x28, 0xb5, 0x2f, 0xfd]);
        if compressed {
            // The parts are not in the order of need, so it must lie on the disk uncompressed. The file has no
            // name: it goes away when it is closed.
            let mut plain = anonymous_file(&dir.join("tmp"))?;
            let source = unpack::decompress(file).map_err(failed())?;
            std::io::copy(&mut Meter::new(source, limits.bytes), &mut plain).map_err(failed())?;
            plain.seek(SeekFrom::Start(0)).map_err(failed())?;
            file = plain;
        }
        let mut archive = Self { path: path.to_owned(), file, files: HashMap::new(), links: HashMap::new() };
        archive.scan().map_err(|error| archive.bad(&format!("it is no valid tar: {error}")))?;
        Ok(archive)
    }

    fn scan(&mut self) -> std::io::Result<()> {
        let mut tar = tar::Archive::new(&self.file);
        for entry in tar.entries_with_seek()? {
            let entry = entry?;
            let Some(name) = clean(&entry.path()?) else { continue };
            if entry.header().entry_type().is_file() {
                self.files.insert(name, (entry.raw_file_position(), entry.size()));
            } else if let Some(target) = entry.link_name()? {
                let beside = Path::new(&name).parent().unwrap_or(Path::new("")).join(target);
                if let Some(target) = clean(&beside) {
                    self.links.insert(name, target);
                }
            }
            if self.files.len() + self.links.len() > MOST_FILES {
                return Err(std::io::Error::other("too many files"));
            }
        }
        Ok(())
    }

    fn bad(&self, reason: &str) -> RuntimeError {
        RuntimeError::BadImage { image: self.path.display().to_string(), reason: reason.to_owned() }
    }

    fn content(&mut self, path: &str) -> Result<impl Read + '_> {
        self.sized(path).map(|(content, _)| content)
    }

    /// A file's content, and how many bytes that is.
    pub(super) fn sized(&mut self, path: &str) -> Result<(impl Read + '_, u64)> {
        let target = self.links.get(path).map_or(path, String::as_str);
        let Some(&(offset, size)) = self.files.get(target) else {
            return Err(self.bad(&format!("{path} is missing in it")));
        };
        self.file.seek(SeekFrom::Start(offset)).map_err(RuntimeError::io("read", &self.path))?;
        Ok(((&self.file).take(size), size))
    }

    pub(super) fn read(&mut self, path: &str) -> Result<Vec<u8>> {
        let at = self.path.clone();
        let mut bytes = Vec::new();
        self.content(path)?
            .take(LARGEST_JSON + 1)
            .read_to_end(&mut bytes)
            .map_err(RuntimeError::io("read", at))?;
        if bytes.len() as u64 > LARGEST_JSON {
            return Err(self.bad(&format!("{path} is larger than 8 MiB")));
        }
        Ok(bytes)
    }

    fn json<T: DeserializeOwned>(&mut self, path: &str) -> Result<T> {
        let bytes = self.read(path)?;
        serde_json::from_slice(&bytes).map_err(|error| self.bad(&format!("{path}: {error}")))
    }

    /// Reads a blob of the OCI layout and checks its digest.
    fn blob_json<T: DeserializeOwned>(&mut self, digest: &str) -> Result<T> {
        let path = self.blob_path(digest)?;
        let bytes = self.read(&path)?;
        let found = Meter::new(&bytes[..], LARGEST_JSON).finish()?;
        if found != digest {
            return Err(self.bad(&format!("{path} has digest {found}")));
        }
        serde_json::from_slice(&bytes).map_err(|error| self.bad(&format!("{path}: {error}")))
    }

    pub(super) fn blob_path(&self, digest: &str) -> Result<String> {
        check_digest(digest).map_err(|reason| self.bad(&reason))?;
        Ok(format!("blobs/sha256/{}", hex_of(digest)))
    }

    fn docker_images(&mut self) -> Result<Vec<Parts>> {
        let images: Vec<DockerImage> = self.json("manifest.json")?;
        if images.len() > MOST_IMAGES {
            return Err(self.bad("it holds too many images"));
        }
        Ok(images
            .into_iter()
            .map(|image| Parts {
                names: image.repo_tags.unwrap_or_default(),
                manifest_digest: None,
                config: image.config,
                layers: image.layers.into_iter().map(|path| (path, None)).collect(),
            })
            .collect())
    }

    fn oci_images(&mut self) -> Result<Vec<Parts>> {
        let index: OciIndex = self.json("index.json")?;
        let mut found: Vec<Parts> = Vec::new();
        let mut queue: Vec<(Descriptor, Option<String>)> =
            index.manifests.into_iter().rev().map(|d| (d, None)).collect();
        let mut seen = HashSet::new();
        while let Some((descriptor, inherited)) = queue.pop() {
            if !descriptor.platform.as_ref().is_none_or(Platform::is_ours) {
                continue;
            }
            let name = descriptor.image_name().or(inherited);
            if descriptor.media_type.contains("index") || descriptor.media_type.contains("list") {
                if !seen.insert(descriptor.digest.clone()) || seen.len() > MOST_IMAGES {
                    return Err(self.bad("its indexes refer to each other or are too many"));
                }
                let inner: OciIndex = self.blob_json(&descriptor.digest)?;
                queue.extend(inner.manifests.into_iter().map(|d| (d, name.clone())));
                continue;
            }
            if let Some(same) =
                found.iter_mut().find(|parts| parts.manifest_digest.as_ref() == Some(&descriptor.digest))
            {
                same.names.extend(name);
                continue;
            }
            if found.len() == MOST_IMAGES {
                return Err(self.bad("it holds too many images"));
            }
            found.push(self.oci_image(&descriptor, name)?);
        }
        Ok(found)
    }

    fn oci_image(&mut self, descriptor: &Descriptor, name: Option<String>) -> Result<Parts> {
        let manifest: Manifest = self.blob_json(&descriptor.digest)?;
        let config = self.blob_path(&manifest.config.digest)?;
        let bytes = self.read(&config)?;
        if Meter::new(&bytes[..], LARGEST_JSON).finish()? != manifest.config.digest {
            return Err(self.bad(&format!("{config} does not have the digest in its name")));
        }
        let layers = manifest.layers.into_iter().map(|layer| {
            let path = self.blob_path(&layer.digest)?;
            Ok((path, Some(layer.digest)))
        });
        Ok(Parts {
            names: name.into_iter().collect(),
            manifest_digest: Some(descriptor.digest.clone()),
            config,
            layers: layers.collect::<Result<_>>()?,
        })
    }
}

impl Descriptor {
    /// The name a tool left for the image; a bare tag is none.
    fn image_name(&self) -> Option<String> {
        ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
            .iter()
            .filter_map(|key| self.annotations.get(*key))
            .find(|name| name.contains(['/', ':']))
            .cloned()
    }
}

impl Platform {
    fn is_ours(&self) -> bool {
        let here = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        self.os == "linux" && self.architecture == here
    }
}

/// A path in the archive in one spelling; `None` when it leads out of the archive.
fn clean(path: &Path) -> Option<String> {
    let mut names: Vec<&str> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.to_str()?),
            Component::CurDir => {}
            Component::ParentDir => drop(names.pop()?),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(names.join("/"))
}

/// A file that nobody else can open, and that goes when it is closed.
pub(super) fn anonymous_file(dir: &Path) -> Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR)
        .map(File::from)
        .map_err(|errno| RuntimeError::io("create a file in", dir)(errno.into()))
}
