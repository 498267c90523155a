//! Secrets are kept encrypted: the options, the cloud's own key file, and `yunfan secrets`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, Subcommand};
use futures::{AsyncBufReadExt, StreamExt};
use serde_json::Value;
use yunfan_encryption::{Encryption, KEY_FILE};
use yunfan_store::{SealedStore, Store};

use crate::cli::DataDir;
use crate::{instance, remote, say};

const PATH: &str = "/yunfan/v1/encryption";

/// How objects are encrypted in the store.
#[derive(Args)]
pub(crate) struct EncryptionOptions {
    /// An EncryptionConfiguration (apiserver.config.k8s.io/v1) that says which objects are encrypted in the store, and how; when not given,
    /// Secrets are, with keys in `pki/encryption.json` in the data directory.
    #[arg(long, value_name = "FILE")]
    pub(crate) encryption_provider_config: Option<PathBuf>,
    /// Take over changes of that file without a restart.
    #[arg(long, requires = "encryption_provider_config")]
    pub(crate) encryption_provider_config_automatic_reload: bool,
}

#[derive(Subcommand)]
pub(crate) enum SecretsCommand {
    /// Say with what objects are encrypted in the store of a running cloud, and which can't be read.
    Status {
        #[command(flatten)]
        data: DataDir,
    },
    /// Encrypt everything in the store of a running cloud anew with the key that is used now. It may be broken off and begun again.
    Reencrypt {
        #[command(flatten)]
        data: DataDir,
    },
    /// Put a new key before those of the cloud's own key file. A running cloud takes it over; what is there stays readable.
    RotateKey {
        #[command(flatten)]
        data: DataDir,
    },
}

/// Where the cloud's own keys are.
pub(crate) fn key_file(dir: &Path) -> PathBuf {
    dir.join("pki").join(KEY_FILE)
}

/// Puts the encryption that the options ask for before the store.
pub(crate) async fn seal(
    store: Arc<dyn Store>,
    dir: &Path,
    options: &EncryptionOptions,
) -> anyhow::Result<(Arc<dyn Store>, Encryption)> {
    let own = key_file(dir);
    let path = match &options.encryption_provider_config {
        Some(path) => path,
        None => {
            if yunfan_encryption::open_or_create(&own)? {
                tracing::info!(path = %own.display(), "made a key for Secrets: without it, backups of them are of no use");
            }
            &own
        }
    };
    let encryption = Encryption::open(path).await.context("the encryption configuration cannot be used")?;
    if options.encryption_provider_config.is_none() || options.encryption_provider_config_automatic_reload {
        encryption.follow();
    }
    Ok((Arc::new(SealedStore::new(store, Arc::new(encryption.clone()))), encryption))
}

/// Runs `yunfan secrets`.
pub(crate) async fn run(command: &SecretsCommand) -> anyhow::Result<()> {
    match command {
        SecretsCommand::Status { data } => status(&data.data_dir).await,
        SecretsCommand::Reencrypt { data } => reencrypt(&data.data_dir).await,
        SecretsCommand::RotateKey { data } => rotate(&data.data_dir).await,
    }
}

async fn rotate(dir: &Path) -> anyhow::Result<()> {
    let path = key_file(dir);
    if instance::holder(dir).is_some() {
        let client = remote::client(dir).await?;
        let said: Value = client.request(http::Request::get(PATH).body(Vec::new())?).await?;
        // A cloud of an older version does not say it.
        let used = said["file"].as_str().map(Path::new);
        anyhow::ensure!(
            used.is_none_or(|used| same_file(used, &path)),
            "the running cloud goes by {} (--encryption-provider-config): add a key to that file by hand",
            used.unwrap_or(&path).display()
        );
    }
    let name = yunfan_encryption::add_key(&path)?;
    say(&format!("added the key {name} to {}", path.display()));
    if instance::holder(dir).is_some() {
        say(&format!("then: yunfan secrets reencrypt --data-dir {}", dir.display()));
    }
    Ok(())
}

fn same_file(one: &Path, other: &Path) -> bool {
    let found = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    found(one) == found(other)
}

async fn status(dir: &Path) -> anyhow::Result<()> {
    let client = remote::client(dir).await?;
    let said: Value = client.request(http::Request::get(PATH).body(Vec::new())?).await?;
    for line in said["encryption"].as_array().into_iter().flatten() {
        say(line.as_str().unwrap_or_default());
    }
    let unreadable = said["unreadable"].as_array().map(Vec::as_slice).unwrap_or_default();
    for object in unreadable {
        let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
        say(&format!("{} cannot be read: {}", text("key"), text("why")));
    }
    anyhow::ensure!(unreadable.is_empty(), "{} objects cannot be read", unreadable.len());
    Ok(())
}

async fn reencrypt(dir: &Path) -> anyhow::Result<()> {
    let client = remote::client(dir).await?;
    let request = http::Request::post(PATH).body(Vec::new())?;
    let stream = client.request_stream(request).await.context("the cloud does not begin")?;
    let mut lines = stream.lines();
    while let Some(line) = lines.next().await {
        let said: Value = serde_json::from_str(&line.context("the cloud broke off: begin again")?)?;
        let number = |key: &str| said["progress"][key].as_u64().unwrap_or_default();
        if !said["progress"].is_null() {
            say(&format!(
                "{} objects looked at, {} encrypted anew, {} failed",
                number("seen"),
                number("written"),
                number("failed")
            ));
        }
        match said["done"].as_bool() {
            None => {}
            Some(false) => anyhow::bail!("it broke off: {}", said["error"].as_str().unwrap_or_default()),
            Some(true) => {
                for failure in said["failures"].as_array().into_iter().flatten() {
                    say(&format!("{}: {}", failure[0].as_str().unwrap_or_default(), failure[1]));
                }
                anyhow::ensure!(
                    number("failed") == 0,
                    "{} objects were not encrypted anew",
                    number("failed")
                );
                return Ok(());
            }
        }
    }
    anyhow::bail!("the cloud broke off: begin again")
}
