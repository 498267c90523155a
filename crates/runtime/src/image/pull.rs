//! Fetches images from registries. Layers are unpacked while they arrive, a few at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use oci_client::Reference;
use oci_client::client::ClientConfig;
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::{OciDescriptor, OciImageManifest};
use oci_client::secrets::RegistryAuth as ClientAuth;
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::access::Access;
use super::config::ConfigFile;
use super::hosts::{self, Place};
use super::unpack::{self, Expected};
use super::{Image, ImageStore, check_digest, hex_of, layer_dir, reference, run_blocking};
use crate::error::{Result, RuntimeError};

/// How to prove to a registry who we are.
#[derive(Clone, Default)]
pub enum RegistryAuth {
    /// Not at all.
    #[default]
    Anonymous,
    /// With a name and a password.
    Basic {
        /// User name.
        username: String,
        /// Password or access token in its place.
        password: String,
    },
    /// With a bearer token.
    Bearer(String),
}

impl std::fmt::Debug for RegistryAuth {
    /// Says the kind only: secrets don't belong in logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Basic { .. } => "Basic",
            Self::Bearer(_) => "Bearer",
        })
    }
}

/// How far a pull is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Layers of the image.
    pub layers: usize,
    /// Layers that are here.
    pub layers_done: usize,
    /// Compressed bytes of the layers that had to be fetched.
    pub bytes: u64,
    /// Of those, how many arrived.
    pub bytes_done: u64,
}

/// Told about progress; called often, from any thread, so it must be quick.
pub type ProgressFn = Arc<dyn Fn(Progress) + Send + Sync>;

/// A configuration larger than this is refused.
const LARGEST_CONFIG: i64 = 8 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Without a byte for so long, a download has failed.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

struct Pull<'a> {
    store: &'a ImageStore,
    name: &'a str,
    sources: Sources,
    meter: Meter,
}

/// The places that give an image's content, in the order in which they are asked.
struct Sources {
    all: Vec<Source>,
    /// Whether the registry itself gave something, to who showed the credential.
    own: AtomicBool,
}

/// A place, and how it is asked for the image.
struct Source {
    place: Place,
    client: oci_client::Client,
    reference: Reference,
    auth: ClientAuth,
}

struct Meter {
    report: Option<ProgressFn>,
    layers: usize,
    layers_done: AtomicUsize,
    bytes: u64,
    bytes_done: AtomicU64,
}

impl Meter {
    fn tell(&self) {
        if let Some(report) = &self.report {
            report(Progress {
                layers: self.layers,
                layers_done: self.layers_done.load(Ordering::Relaxed),
                bytes: self.bytes,
                // What a place broke off comes again from the next.
                bytes_done: self.bytes_done.load(Ordering::Relaxed).min(self.bytes),
            });
        }
    }
}

pub(super) async fn pull(
    store: &ImageStore,
    name: &str,
    auth: &RegistryAuth,
    progress: Option<ProgressFn>,
) -> Result<Image> {
    let reference = reference::parse(name)?;
    let mut sources = Sources::of(store, &reference, auth)?;
    let (manifest, digest) = sources.manifest(name, &reference).await?;
    let corrupt = |reason: String| RuntimeError::BadImage { image: name.to_owned(), reason };
    check_digest(&manifest.config.digest).map_err(corrupt)?;
    if !(0..=LARGEST_CONFIG).contains(&manifest.config.size) {
        return Err(corrupt("its configuration is larger than 8 MiB".to_owned()));
    }
    let raw = sources.config(name, &manifest.config).await?;
    let mut file = ConfigFile::parse(&raw).map_err(corrupt)?;
    if file.rootfs.diff_ids.len() != manifest.layers.len() {
        return Err(corrupt(format!(
            "its manifest has {} layers, its configuration {}",
            manifest.layers.len(),
            file.rootfs.diff_ids.len()
        )));
    }
    let repository = reference::repository_of(&reference);
    let meter = Meter::new(store, &manifest.layers, &file.rootfs.diff_ids, progress);
    let pull = Pull { meter, store, name, sources };
    let size_bytes = pull.layers(&manifest.layers, &file.rootfs.diff_ids).await?;
    write_config(store, &manifest.config.digest, raw).await?;
    // What mirrors alone gave they gave to who showed nothing.
    let shown = pull.sources.own.load(Ordering::Relaxed).then(|| store.fingerprints.of(auth)).flatten();
    Ok(Image {
        id: manifest.config.digest,
        names: if name.contains('@') { Vec::new() } else { vec![name.to_owned()] },
        repo_digests: vec![format!("{repository}@{digest}")],
        layers: file.rootfs.diff_ids.clone(),
        size_bytes,
        config: file.config(),
        access: Some(BTreeMap::from([(repository, Access::by(shown))])),
    })
}

impl Sources {
    /// By the configuration as it stands now.
    fn of(store: &ImageStore, reference: &Reference, auth: &RegistryAuth) -> Result<Self> {
        let places = hosts::places(store.registries.as_deref(), reference)?;
        let all = places.into_iter().map(|place| Source::new(place, reference, auth));
        Ok(Self { all: all.collect::<Result<_>>()?, own: AtomicBool::new(false) })
    }

    /// What the reference leads to, as the first place says that may and does. From then on those that give content are left, this one
    /// first, and those that did not answer as it should last.
    async fn manifest(&mut self, name: &str, reference: &Reference) -> Result<(OciImageManifest, String)> {
        let mut refusals = Refusals::new(name, self.all.len());
        let mut found = None;
        for (index, source) in self.all.iter().enumerate() {
            source.sign_in().await;
            if found.is_some() || !source.place.tells(reference) {
                continue;
            }
            match source.client.pull_image_manifest(&source.reference, &source.auth).await {
                Ok(manifest) => found = Some((index, manifest)),
                Err(error) => refusals.add(&source.place, is_denial(&error), &chain(&error)),
            }
        }
        let Some((index, manifest)) = found else { return Err(refusals.into()) };
        self.gave(&self.all[index]);
        self.all.rotate_left(index);
        self.all.retain(|source| source.place.pulls);
        Ok(manifest)
    }

    async fn config(&self, name: &str, config: &OciDescriptor) -> Result<Vec<u8>> {
        let mut refusals = Refusals::new(name, self.all.len());
        for source in &self.all {
            let mut raw = Vec::new();
            match source.client.pull_blob(&source.reference, config, &mut raw).await {
                Ok(()) => {
                    self.gave(source);
                    return Ok(raw);
                }
                Err(error) => refusals.add(&source.place, false, &chain(&error)),
            }
        }
        Err(refusals.into())
    }

    fn gave(&self, source: &Source) {
        self.own.fetch_or(source.place.own, Ordering::Relaxed);
    }
}

impl Source {
    fn new(place: Place, reference: &Reference, auth: &RegistryAuth) -> Result<Self> {
        let auth = match auth {
            // Whoever set up a mirror is not whom a Pod's credential is for.
            _ if !place.own => ClientAuth::Anonymous,
            RegistryAuth::Anonymous => ClientAuth::Anonymous,
            RegistryAuth::Basic { username, password } => {
                ClientAuth::Basic(username.clone(), password.clone())
            }
            RegistryAuth::Bearer(token) => ClientAuth::Bearer(token.clone()),
        };
        Ok(Self {
            client: client_for(&place, reference)?,
            reference: place.reference(reference),
            place,
            auth,
        })
    }

    /// Has what it is asked later asked with its credential, too.
    async fn sign_in(&self) {
        self.client.store_auth_if_needed(self.reference.resolve_registry(), &self.auth).await;
    }
}

/// What places said that did not give what they were asked for.
struct Refusals<'a> {
    name: &'a str,
    /// Whether there is more than one.
    several: bool,
    denied: bool,
    texts: Vec<String>,
}

impl<'a> Refusals<'a> {
    fn new(name: &'a str, places: usize) -> Self {
        Self { name, several: places > 1, denied: false, texts: Vec::new() }
    }

    fn add(&mut self, place: &Place, denied: bool, text: &str) {
        // What the registry says counts; a mirror knows nobody.
        self.denied |= denied && place.own;
        self.texts.push(if self.several { format!("{}: {text}", place.name()) } else { text.to_owned() });
    }
}

impl From<Refusals<'_>> for RuntimeError {
    fn from(refusals: Refusals<'_>) -> Self {
        let (reference, mut reason) = (refusals.name.to_owned(), refusals.texts.join("; "));
        if reason.is_empty() {
            reason = "no host of the registry's configuration may be asked for it".to_owned();
        }
        match refusals.denied {
            true => Self::PullDenied { reference, reason },
            false => Self::Pull { reference, reason },
        }
    }
}

impl Meter {
    fn new(
        store: &ImageStore,
        layers: &[OciDescriptor],
        diff_ids: &[String],
        report: Option<ProgressFn>,
    ) -> Self {
        let missing =
            layers.iter().zip(diff_ids).filter(|(_, diff_id)| !layer_dir(&store.dir, diff_id).is_dir());
        Self {
            report,
            layers: layers.len(),
            layers_done: AtomicUsize::new(0),
            bytes: missing.map(|(layer, _)| u64::try_from(layer.size).unwrap_or(0)).sum(),
            bytes_done: AtomicU64::new(0),
        }
    }
}

impl Pull<'_> {
    /// Fetches all layers; returns the bytes of their files.
    async fn layers(&self, layers: &[OciDescriptor], diff_ids: &[String]) -> Result<u64> {
        let works: Vec<_> =
            layers.iter().zip(diff_ids).map(|(layer, diff_id)| self.layer(layer, diff_id)).collect();
        futures::stream::iter(works)
            .buffer_unordered(super::PARALLEL_LAYERS)
            .try_fold(0, |sum, size| async move { Ok(sum + size) })
            .await
    }

    async fn layer(&self, layer: &OciDescriptor, diff_id: &str) -> Result<u64> {
        let refuse = |reason: String| RuntimeError::BadLayer { digest: layer.digest.clone(), reason };
        check_digest(&layer.digest).map_err(refuse)?;
        if u64::try_from(layer.size).map_or(true, |size| size > self.store.limits.bytes) {
            return Err(refuse(format!("its size {} is out of bounds", layer.size)));
        }
        let slot = self.store.slots.acquire().await;
        let _slot = slot.map_err(|error| RuntimeError::Task(error.to_string()))?;
        let target = layer_dir(&self.store.dir, diff_id);
        let size = if target.is_dir() {
            run_blocking(move || Ok(unpack::size_of(&target))).await?
        } else {
            self.fetch_from_any(layer, diff_id).await?
        };
        self.meter.layers_done.fetch_add(1, Ordering::Relaxed);
        self.meter.tell();
        Ok(size)
    }

    /// From the first place that gives it whole; what the last said of it otherwise.
    async fn fetch_from_any(&self, layer: &OciDescriptor, diff_id: &str) -> Result<u64> {
        let mut last = None;
        for source in &self.sources.all {
            match self.fetch(source, layer, diff_id).await {
                Ok(size) => {
                    self.sources.gave(source);
                    return Ok(size);
                }
                Err(error) => {
                    tracing::debug!(%error, place = source.place.name(), "a layer was not given");
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| Refusals::new(self.name, 0).into()))
    }

    async fn fetch(&self, source: &Source, layer: &OciDescriptor, diff_id: &str) -> Result<u64> {
        let failed = |reason: String| RuntimeError::Pull {
            reference: self.name.to_owned(),
            reason: format!("layer {}: {reason}", layer.digest),
        };
        let stream = source
            .client
            .pull_blob_stream(&source.reference, layer)
            .await
            .map_err(|error| failed(chain(&error)))?;
        // The blocking side reads from a small pipe, so that dropping this future ends it: the pipe breaks.
        let (mut writer, reader) = tokio::io::duplex(1 << 18);
        let (dir, limits) = (self.store.dir.clone(), self.store.limits);
        let (blob, diff_id) = (layer.digest.clone(), diff_id.to_owned());
        let unpacking = run_blocking(move || {
            let expected = Expected { blob: Some(&blob), diff_id: &diff_id };
            unpack::unpack(&dir, SyncIoBridge::new(reader), &expected, limits)
        });
        let counted = stream.stream.inspect_ok(|bytes| {
            let size = bytes.len() as u64;
            self.meter.bytes_done.fetch_add(size, Ordering::Relaxed);
            self.meter.tell();
        });
        let feeding = async {
            let mut reader = StreamReader::new(counted);
            let fed = tokio::io::copy_buf(&mut reader, &mut writer).await;
            drop(writer);
            fed
        };
        let (fed, unpacked) = tokio::join!(feeding, unpacking);
        match (fed, unpacked) {
            // What arrived was whole but wrong, or refused: that says more than the broken pipe it caused.
            (Ok(_), result) => result,
            (Err(error), Err(refused)) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(refused),
            (Err(error), _) => Err(failed(error.to_string())),
        }
    }
}

fn client_for(place: &Place, reference: &Reference) -> Result<oci_client::Client> {
    // Some TLS provider must be chosen in the process before a client is made; when one is, this does nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = ClientConfig {
        connect_timeout: Some(CONNECT_TIMEOUT),
        read_timeout: Some(READ_TIMEOUT),
        user_agent: concat!("yunfan/", env!("CARGO_PKG_VERSION")),
        ..place.client()
    };
    oci_client::Client::try_from(config).map_err(|error| RuntimeError::Pull {
        reference: reference.whole(),
        reason: format!("{}: no client could be made: {error}", place.name()),
    })
}

async fn write_config(store: &ImageStore, digest: &str, raw: Vec<u8>) -> Result<()> {
    let path = store.dir.join("configs").join(format!("{}.json", hex_of(digest)));
    run_blocking(move || crate::sys::write_atomic(&path, &raw, false)).await
}

/// Whether the registry knows what is asked for, or will not say, and does not give it to who asks.
fn is_denial(error: &OciDistributionError) -> bool {
    match error {
        OciDistributionError::AuthenticationFailure(_) | OciDistributionError::UnauthorizedError { .. } => {
            true
        }
        OciDistributionError::ServerError { code, .. } => matches!(code, 401 | 403),
        OciDistributionError::RegistryError { envelope, .. } => envelope
            .errors
            .iter()
            .any(|error| matches!(error.code, OciErrorCode::Unauthorized | OciErrorCode::Denied)),
        _ => false,
    }
}

/// An error with all its causes: the outermost one of an HTTP client says little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}
