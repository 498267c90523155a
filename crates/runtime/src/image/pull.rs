//! Fetches images from registries. Layers are unpacked while they arrive, a few at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use oci_client::Reference;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth as ClientAuth;
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::access::Access;
use super::config::ConfigFile;
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
    client: oci_client::Client,
    reference: Reference,
    meter: Meter,
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
                bytes_done: self.bytes_done.load(Ordering::Relaxed),
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
    let failed = |error: &dyn std::fmt::Display| RuntimeError::Pull {
        reference: name.to_owned(),
        reason: error.to_string(),
    };
    let refused = |error: OciDistributionError| {
        let (reference, reason) = (name.to_owned(), chain(&error));
        match is_denial(&error) {
            true => RuntimeError::PullDenied { reference, reason },
            false => RuntimeError::Pull { reference, reason },
        }
    };
    let client = client_for(&reference)?;
    let access = Access::by(store.fingerprints.of(auth));
    let auth = match auth {
        RegistryAuth::Anonymous => ClientAuth::Anonymous,
        RegistryAuth::Basic { username, password } => ClientAuth::Basic(username.clone(), password.clone()),
        RegistryAuth::Bearer(token) => ClientAuth::Bearer(token.clone()),
    };
    let (manifest, digest) = client.pull_image_manifest(&reference, &auth).await.map_err(refused)?;
    let corrupt = |reason: String| RuntimeError::BadImage { image: name.to_owned(), reason };
    check_digest(&manifest.config.digest).map_err(corrupt)?;
    if !(0..=LARGEST_CONFIG).contains(&manifest.config.size) {
        return Err(corrupt("its configuration is larger than 8 MiB".to_owned()));
    }
    let mut raw = Vec::new();
    client.pull_blob(&reference, &manifest.config, &mut raw).await.map_err(|error| failed(&chain(&error)))?;
    let mut file = ConfigFile::parse(&raw).map_err(corrupt)?;
    if file.rootfs.diff_ids.len() != manifest.layers.len() {
        return Err(corrupt(format!(
            "its manifest has {} layers, its configuration {}",
            manifest.layers.len(),
            file.rootfs.diff_ids.len()
        )));
    }
    let repository = reference::repository_of(&reference);
    let pull = Pull {
        meter: Meter::new(store, &manifest.layers, &file.rootfs.diff_ids, progress),
        store,
        client,
        reference,
    };
    let size_bytes = pull.layers(&manifest.layers, &file.rootfs.diff_ids).await?;
    write_config(store, &manifest.config.digest, raw).await?;
    Ok(Image {
        id: manifest.config.digest,
        names: if name.contains('@') { Vec::new() } else { vec![name.to_owned()] },
        repo_digests: vec![format!("{repository}@{digest}")],
        layers: file.rootfs.diff_ids.clone(),
        size_bytes,
        config: file.config(),
        access: Some(BTreeMap::from([(repository, access)])),
    })
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
            self.fetch(layer, diff_id).await?
        };
        self.meter.layers_done.fetch_add(1, Ordering::Relaxed);
        self.meter.tell();
        Ok(size)
    }

    async fn fetch(&self, layer: &OciDescriptor, diff_id: &str) -> Result<u64> {
        let failed = |reason: String| RuntimeError::Pull {
            reference: self.reference.whole(),
            reason: format!("layer {}: {reason}", layer.digest),
        };
        let stream = self
            .client
            .pull_blob_stream(&self.reference, layer)
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

fn client_for(reference: &Reference) -> Result<oci_client::Client> {
    // Some TLS provider must be chosen in the process before a client is made; when one is, this does nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let registry = reference.resolve_registry().to_owned();
    let protocol = if reference::is_loopback(&registry) {
        ClientProtocol::HttpsExcept(vec![registry])
    } else {
        ClientProtocol::Https
    };
    let config = ClientConfig {
        protocol,
        connect_timeout: Some(CONNECT_TIMEOUT),
        read_timeout: Some(READ_TIMEOUT),
        user_agent: concat!("yunfan/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    };
    oci_client::Client::try_from(config).map_err(|error| RuntimeError::Pull {
        reference: reference.whole(),
        reason: format!("no client could be made: {error}"),
    })
}

async fn write_config(store: &ImageStore, digest: &str, raw: Vec<u8>) -> Result<()> {
    let path = store.dir.join("configs").join(format!("{}.json", hex_of(digest)));
    run_blocking(move || crate::sys::write_atomic(&path, &raw, false)).await
}

/// An error with all its causes: the outermost one of an HTTP client says little.
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
