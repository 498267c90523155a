//! Images, which the container runtime keeps. To whom their registries gave them is written down here: it knows nothing of that.
//!
//! CRI has no word for taking an image from an archive. For containerd its own `ctr` does that; other runtimes can't be given one.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use futures::StreamExt;
use k8s_cri::v1::{
    self as cri, AuthConfig, ImageFsInfoRequest, ImageSpec, ImageStatusRequest, ListContainersRequest,
    ListImagesRequest, PullImageRequest, RemoveImageRequest,
};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tonic::Code;
use yunfan_runtime::image::{AccessBook, ByteStream, ImageService, RegistryAuth, normalize, rewrite};
use yunfan_runtime::{Image, Result, RuntimeError};

use crate::api::{PATIENCE, call, failed, gone, said, within};
use crate::runtime::{CriRuntime, Inner, blocking};

/// The namespace of containerd that its CRI service uses.
const NAMESPACE: &str = "k8s.io";
/// The runtime that `ctr` belongs to, as it names itself.
const CONTAINERD: &str = "containerd";
/// The longest pull that is waited for; the runtime has limits of its own for downloads that stand still.
const PULL: Duration = Duration::from_secs(3600);
/// How often, and how many times, it is looked whether the runtime knows an imported image: it hears of it a moment later.
const LOOK: Duration = Duration::from_millis(100);
const LOOKS: u32 = 100;
/// Bytes of an archive that are handed on at once.
const CHUNK: usize = 256 << 10;
/// Most bytes of what a program says of its failure.
const LONGEST_COMPLAINT: u64 = 4096;
/// How many pulls of which nobody knows how they ended are kept in mind.
const MOST_UNKNOWN: usize = 100;
/// What runtimes pass on of a registry that does not give an image to who asks.
const DENIALS: [&str; 5] =
    ["401 Unauthorized", "403 Forbidden", "authorization failed", "pull access denied", "insufficient_scope"];

/// To whom images were given, and what is being done about it.
pub(crate) struct Giving {
    pub(crate) book: AccessBook,
    /// Held by name while an image is pulled: one pull of one name at a time.
    pulls: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Held while it is looked which images there are, and written down what follows.
    noting: tokio::sync::Mutex<()>,
}

impl Giving {
    /// # Errors
    /// As [`AccessBook::open`].
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        Ok(Self {
            book: AccessBook::open(dir)?,
            pulls: Mutex::default(),
            noting: tokio::sync::Mutex::default(),
        })
    }

    fn turn_of(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut pulls = self.pulls.lock().unwrap_or_else(PoisonError::into_inner);
        pulls.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(pulls.entry(name.to_owned()).or_default())
    }

    /// The names that are being pulled.
    fn under_way(&self) -> HashSet<String> {
        let pulls = self.pulls.lock().unwrap_or_else(PoisonError::into_inner);
        let held = pulls.iter().filter(|(_, lock)| Arc::strong_count(lock) > 1);
        held.map(|(name, _)| name.clone()).collect()
    }
}

impl Inner {
    /// The image that a reference leads to: any spelling of a name, or an id.
    pub(crate) async fn image(&self, reference: &str) -> Result<Option<cri::Image>> {
        let image = match reference.starts_with("sha256:") {
            true => reference.to_owned(),
            false => normalize(reference)?,
        };
        let request =
            ImageStatusRequest { image: Some(ImageSpec { image, ..Default::default() }), verbose: false };
        Ok(call("status of an image", self.api.images.clone().image_status(request)).await?.image)
    }

    fn known(&self, image: cri::Image) -> Image {
        Image {
            access: Some(self.giving.book.of(&image.id, &names_of(&image))),
            id: image.id,
            names: image.repo_tags,
            repo_digests: image.repo_digests,
            layers: Vec::new(),
            size_bytes: image.size,
            config: Default::default(),
        }
    }

    async fn images(&self) -> Result<Vec<cri::Image>> {
        let request = ListImagesRequest::default();
        Ok(call("list of images", self.api.images.clone().list_images(request)).await?.images)
    }

    /// Forgets to whom images were given that are gone, and closes those that came by a pull whose end nobody saw. What such pulls
    /// may still bring is kept in mind, but for those that `forget` counts out.
    pub(crate) async fn settle_images(self: &Arc<Self>, forget: bool) -> Result<()> {
        let _alone = self.giving.noting.lock().await;
        let there = self.images().await?;
        let there: BTreeMap<_, _> =
            there.into_iter().map(|image| (image.id.clone(), names_of(&image))).collect();
        let (inner, under_way) = (Arc::clone(self), self.giving.under_way());
        blocking(move || inner.giving.book.settle(&there, |name| !forget || under_way.contains(name))).await
    }

    /// Writes down that an image is about to be pulled.
    async fn intend(self: &Arc<Self>, name: &str) -> Result<()> {
        if self.giving.book.intended() >= MOST_UNKNOWN {
            self.settle_images(true).await?;
        }
        let before = self.image(name).await?.map(|image| image.id);
        let (inner, name) = (Arc::clone(self), name.to_owned());
        blocking(move || inner.giving.book.intend(&name, before.as_deref())).await
    }

    /// Writes down to whom an image was given that has come by a pull.
    async fn pulled(self: &Arc<Self>, name: &str, id: &str, auth: RegistryAuth) -> Result<()> {
        let (inner, name, id) = (Arc::clone(self), name.to_owned(), id.to_owned());
        blocking(move || {
            inner.giving.book.pulled(&id, &name, &auth)?;
            inner.giving.book.done(&name)
        })
        .await
    }

    /// Writes down that a pull is over and brought nothing that it says: should it have brought something after all, that is nobody's.
    async fn given_up(self: &Arc<Self>, name: &str) -> Result<()> {
        self.settle_images(false).await?;
        let (inner, name) = (Arc::clone(self), name.to_owned());
        blocking(move || inner.giving.book.done(&name)).await
    }

    /// The image that was imported under a name.
    async fn imported(&self, name: &str) -> Result<cri::Image> {
        for _ in 0..LOOKS {
            if let Some(image) = self.image(name).await? {
                return Ok(image);
            }
            tokio::time::sleep(LOOK).await;
        }
        let reason = format!("it does not know {name} after its import");
        Err(RuntimeError::Service { action: IMPORT, reason })
    }
}

const IMPORT: &str = "import of an image";
const EXPORT: &str = "export of an image";

/// All by which an image is listed.
fn names_of(image: &cri::Image) -> Vec<String> {
    image.repo_tags.iter().chain(&image.repo_digests).cloned().collect()
}

/// Whether a pull that failed so is over. Of one that was given up here the runtime may still make something.
fn is_over(code: Code) -> bool {
    !matches!(code, Code::DeadlineExceeded | Code::Unavailable | Code::Cancelled)
}

fn auth_of(auth: &RegistryAuth) -> Option<AuthConfig> {
    match auth.clone() {
        RegistryAuth::Anonymous => None,
        RegistryAuth::Basic { username, password } => {
            Some(AuthConfig { username, password, ..AuthConfig::default() })
        }
        RegistryAuth::Bearer(registry_token) => Some(AuthConfig { registry_token, ..AuthConfig::default() }),
    }
}

/// A pull that failed. Which failures are refusals CRI does not say, but runtimes pass on what the registry answered.
fn pull_error(reference: &str, reason: String) -> RuntimeError {
    let reference = reference.to_owned();
    match DENIALS.iter().any(|words| reason.contains(words)) {
        true => RuntimeError::PullDenied { reference, reason },
        false => RuntimeError::Pull { reference, reason },
    }
}

/// Has containerd's own program import an archive, which must be in its plain form.
async fn ctr(socket: &Path, archive: &Path) -> Result<()> {
    let failed = |reason: String| RuntimeError::Service { action: IMPORT, reason };
    let mut command = tokio::process::Command::new("ctr");
    command.arg("--address").arg(socket).args(["--namespace", NAMESPACE, "images", "import"]).arg(archive);
    let ran = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
    let ran = ran.map_err(|error| failed(format!("containerd's program ctr can't be run: {error}")))?;
    match ran.status.success() {
        true => Ok(()),
        false => Err(failed(format!("ctr: {}", String::from_utf8_lossy(&ran.stderr).trim()))),
    }
}

/// What containerd's own program exports: for this node's platform, since others' layers need not be there.
fn exported(socket: &Path, names: &[String]) -> Result<ByteStream> {
    let failed = |reason: String| RuntimeError::Service { action: EXPORT, reason };
    let platform = if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" };
    let mut command = tokio::process::Command::new("ctr");
    command.arg("--address").arg(socket).args(["--namespace", NAMESPACE, "images", "export"]);
    command.args(["--platform", platform, "-"]).args(names);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let ran = command.spawn();
    let mut child = ran.map_err(|error| failed(format!("containerd's program ctr can't be run: {error}")))?;
    let piped = || failed("its output can't be read".to_owned());
    let (mut out, mut errors) =
        (child.stdout.take().ok_or_else(piped)?, child.stderr.take().ok_or_else(piped)?);
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        let complaint = async {
            let mut text = Vec::new();
            let _ = (&mut errors).take(LONGEST_COMPLAINT).read_to_end(&mut text).await;
            // It must not wait for someone to read the rest.
            let _ = tokio::io::copy(&mut errors, &mut tokio::io::sink()).await;
            String::from_utf8_lossy(&text).trim().to_owned()
        };
        let to = &sender;
        // It ends with the pipe, whose other end must hear of it.
        let bytes = async move {
            loop {
                let mut chunk = BytesMut::with_capacity(CHUNK);
                match out.read_buf(&mut chunk).await {
                    Ok(0) => return Ok(()),
                    Ok(_) if to.send(Ok(chunk.freeze())).await.is_ok() => {}
                    // Nobody reads any more.
                    Ok(_) => return Err(std::io::ErrorKind::BrokenPipe.into()),
                    Err(error) => return Err(error),
                }
            }
        };
        let (text, read): (String, std::io::Result<()>) = tokio::join!(complaint, bytes);
        let ended = child.wait().await.is_ok_and(|status| status.success());
        if read.is_err() || !ended {
            let _ = sender.send(Err(std::io::Error::other(failed(format!("ctr: {text}"))))).await;
        }
    });
    Ok(futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|item| (item, receiver))
    })
    .boxed())
}

/// The images that containers were made from, whoever's they are.
fn used_by(containers: Vec<cri::Container>) -> HashSet<String> {
    let names = containers
        .into_iter()
        .flat_map(|one| [Some(one.image_ref), Some(one.image_id), one.image.map(|spec| spec.image)]);
    names.flatten().filter(|name| !name.is_empty()).collect()
}

#[async_trait]
impl ImageService for CriRuntime {
    async fn pull(&self, reference: &str, auth: RegistryAuth) -> Result<Image> {
        let name = normalize(reference)?;
        let turn = self.inner.giving.turn_of(&AccessBook::name_of(&name)?);
        let _turn = turn.lock().await;
        self.inner.intend(&name).await?;
        let spec = ImageSpec { image: name.clone(), ..Default::default() };
        let request = PullImageRequest { image: Some(spec), auth: auth_of(&auth), sandbox_config: None };
        let pulled = within(PULL, "pull", self.inner.api.images.clone().pull_image(request)).await;
        let pulled = match pulled {
            Ok(pulled) => pulled,
            Err(status) => {
                // As long as that is not found out, what it may have brought is closed.
                if is_over(status.code())
                    && let Err(error) = self.inner.given_up(&name).await
                {
                    tracing::warn!(%error, name, "what a failed pull left can't be found out");
                }
                return Err(pull_error(&name, said(&status)));
            }
        };
        let _alone = self.inner.giving.noting.lock().await;
        // What it answers is another name of it in some runtimes, and in others its id.
        let image = self.inner.image(&pulled.image_ref).await?;
        let image = image.ok_or_else(|| RuntimeError::ImageNotFound(name.clone()))?;
        self.inner.pulled(&name, &image.id, auth).await?;
        Ok(self.inner.known(image))
    }

    async fn import(&self, archive: &Path, name: Option<&str>) -> Result<Vec<Image>> {
        let version = &self.inner.version;
        if version.runtime_name != CONTAINERD {
            let reason = format!(
                "{} has no way to take an image from an archive that is known here: use its own, or a registry",
                version.runtime_name
            );
            return Err(RuntimeError::Service { action: IMPORT, reason });
        }
        let (dir, from, name) = (self.inner.image_dir(), archive.to_owned(), name.map(str::to_owned));
        let (plain, names) = blocking(move || {
            let plain = tempfile::NamedTempFile::new_in(dir.join("tmp"))
                .map_err(RuntimeError::io("create a file in", &dir))?;
            let names = rewrite(&from, name.as_deref(), &dir, plain.as_file())?;
            Ok((plain, names))
        })
        .await?;
        ctr(&self.inner.config.socket, plain.path()).await?;
        let mut images: Vec<Image> = Vec::new();
        for name in BTreeSet::from_iter(names) {
            let image = self.inner.imported(&name).await?;
            let (inner, id) = (Arc::clone(&self.inner), image.id.clone());
            blocking(move || inner.giving.book.brought(&id)).await?;
            images.retain(|known| known.id != image.id);
            images.push(self.inner.known(image));
        }
        Ok(images)
    }

    async fn export(&self, references: &[String]) -> Result<ByteStream> {
        let version = &self.inner.version;
        if version.runtime_name != CONTAINERD {
            let reason =
                format!("{} has no way to do that which is known here: use its own", version.runtime_name);
            return Err(RuntimeError::Service { action: EXPORT, reason });
        }
        let mut names = Vec::new();
        for reference in references {
            let image = self.inner.image(reference).await?;
            let image = image.ok_or_else(|| RuntimeError::ImageNotFound(reference.clone()))?;
            match reference.starts_with("sha256:") {
                true => names.extend(image.repo_tags),
                false => names.push(AccessBook::name_of(reference)?),
            }
        }
        exported(&self.inner.config.socket, &names)
    }

    async fn list(&self) -> Result<Vec<Image>> {
        Ok(self.inner.images().await?.into_iter().map(|image| self.inner.known(image)).collect())
    }

    async fn resolve(&self, reference: &str) -> Result<Option<Image>> {
        Ok(self.inner.image(reference).await?.map(|image| self.inner.known(image)))
    }

    fn is_open_to(&self, image: &Image, reference: &str, credentials: &[RegistryAuth]) -> bool {
        self.inner.giving.book.is_open_to(image, reference, credentials)
    }

    async fn used(&self) -> Result<HashSet<String>> {
        let request = ListContainersRequest::default();
        let answer =
            call("list of containers", self.inner.api.runtime.clone().list_containers(request)).await?;
        let used = used_by(answer.containers);
        // They may be named by whatever leads to an image.
        let leads = |image: &cri::Image| {
            used.contains(&image.id)
                || image.repo_tags.iter().chain(&image.repo_digests).any(|name| used.contains(name))
        };
        Ok(self.inner.images().await?.into_iter().filter(leads).map(|image| image.id).collect())
    }

    async fn remove_unused(&self, ids: HashSet<String>) -> Result<HashSet<String>> {
        const ACTION: &str = "removal of an image";
        let (used, mut removed) = (self.used().await?, HashSet::new());
        let there = self.inner.images().await?.into_iter();
        for image in
            there.filter(|image| ids.contains(&image.id) && !used.contains(&image.id) && !image.pinned)
        {
            let spec = ImageSpec { image: image.id.clone(), ..Default::default() };
            let request = RemoveImageRequest { image: Some(spec) };
            let gone_now =
                within(PATIENCE, ACTION, self.inner.api.images.clone().remove_image(request)).await;
            gone(gone_now).map_err(|status| failed(ACTION, &status))?;
            removed.insert(image.id);
        }
        // One that was pulled again meanwhile is somebody's.
        let _alone = self.inner.giving.noting.lock().await;
        let there: HashSet<String> = self.inner.images().await?.into_iter().map(|image| image.id).collect();
        let (inner, gone) = (Arc::clone(&self.inner), removed.clone());
        blocking(move || inner.giving.book.retain(|id| there.contains(id) || !gone.contains(id))).await?;
        Ok(removed)
    }

    async fn place(&self) -> Result<PathBuf> {
        const ACTION: &str = "place of images";
        let answer = call(ACTION, self.inner.api.images.clone().image_fs_info(ImageFsInfoRequest {})).await?;
        let place = answer.image_filesystems.into_iter().find_map(|fs| fs.fs_id);
        let none = || RuntimeError::Service { action: ACTION, reason: "it says none".to_owned() };
        Ok(PathBuf::from(place.ok_or_else(none)?.mountpoint))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_a_registry_are_told_from_other_failures() {
        let of = |reason: &str| pull_error("r.example/a:1", reason.to_owned());
        for reason in [
            "failed to resolve reference: pull access denied, repository does not exist",
            "unexpected status code https://r.example/v2/: 401 Unauthorized",
        ] {
            assert!(matches!(of(reason), RuntimeError::PullDenied { .. }), "{reason}");
        }
        assert!(matches!(of("dial tcp: connection refused"), RuntimeError::Pull { .. }));
    }

    #[test]
    fn images_in_use_are_known_by_whatever_names_them() {
        let container = cri::Container {
            image_ref: "sha256:a".to_owned(),
            image: Some(ImageSpec { image: "docker.io/library/b:1".to_owned(), ..Default::default() }),
            ..Default::default()
        };
        let used = used_by(vec![container]);
        assert_eq!(used, ["sha256:a", "docker.io/library/b:1"].map(str::to_owned).into());
    }

    #[test]
    fn credentials_are_passed_on() {
        assert!(auth_of(&RegistryAuth::Anonymous).is_none());
        let basic = RegistryAuth::Basic { username: "u".to_owned(), password: "p".to_owned() };
        let basic = auth_of(&basic).unwrap();
        assert_eq!((basic.username.as_str(), basic.password.as_str()), ("u", "p"));
        assert_eq!(auth_of(&RegistryAuth::Bearer("t".to_owned())).unwrap().registry_token, "t");
    }
}
