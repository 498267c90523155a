//! `yunfan backup` and `yunfan restore`: all objects to a file and back, while the cloud runs.

use std::path::Path;

use anyhow::Context;
use futures::{AsyncReadExt, StreamExt};
use tokio::io::AsyncWriteExt;

use crate::cli::FileOptions;
use crate::{encryption, instance, remote, say};

const PATH: &str = "/yunfan/v1/backup";

pub(crate) async fn backup(options: &FileOptions) -> anyhow::Result<()> {
    let dir = &options.data.data_dir;
    let cannot = || format!("cannot write {}", options.file.display());
    // Under another name until it is whole: a file of the given name is always a whole backup.
    let temporary = options.file.with_extension("part");
    let mut file = private(&temporary).await.with_context(cannot)?;
    let bytes = if instance::holder(dir).is_some() {
        download(dir, &mut file).await?
    } else {
        let store = offline(dir).await?;
        let mut buffer = Vec::new();
        yunfan_store::backup::export(store.as_ref(), &mut buffer).await?;
        file.write_all(&buffer).await.with_context(cannot)?;
        buffer.len() as u64
    };
    file.sync_all().await.with_context(cannot)?;
    tokio::fs::rename(&temporary, &options.file).await.with_context(cannot)?;
    say(&format!("wrote {} ({bytes} bytes)", options.file.display()));
    let keys = encryption::key_file(dir);
    if keys.exists() {
        say(&format!(
            "Secrets in it are encrypted: to read them again takes {} too, kept apart from it",
            keys.display()
        ));
    }
    Ok(())
}

async fn private(path: &Path) -> std::io::Result<tokio::fs::File> {
    tokio::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).await
}

async fn download(dir: &Path, file: &mut tokio::fs::File) -> anyhow::Result<u64> {
    let client = remote::client(dir).await?;
    let request = http::Request::get(PATH).body(Vec::new())?;
    let mut stream = client.request_stream(request).await.context("the cloud does not give a backup")?;
    let mut buffer = vec![0; 64 * 1024];
    let mut total = 0;
    loop {
        let length = stream.read(&mut buffer).await.context("the backup broke off")?;
        if length == 0 {
            return Ok(total);
        }
        file.write_all(&buffer[..length]).await?;
        total += length as u64;
    }
}

async fn offline(dir: &Path) -> anyhow::Result<std::sync::Arc<dyn yunfan_store::Store>> {
    anyhow::ensure!(
        dir.join("store").exists(),
        "{} has no embedded store: is it the data directory of a cloud?",
        dir.display()
    );
    crate::store::open(dir, &[]).await
}

pub(crate) async fn restore(options: &FileOptions) -> anyhow::Result<()> {
    let dir = &options.data.data_dir;
    let bytes = tokio::fs::read(&options.file)
        .await
        .with_context(|| format!("cannot read {}", options.file.display()))?;
    if instance::holder(dir).is_some() {
        upload(dir, bytes).await?;
    } else {
        let _held = instance::Instance::open(dir)?;
        let store = crate::store::open(dir, &[]).await?;
        yunfan_store::backup::import(store.as_ref(), &mut std::io::Cursor::new(bytes))
            .await
            .with_context(|| format!("nothing was restored from {}", options.file.display()))?;
    }
    say(&format!("restored {}", options.file.display()));
    Ok(())
}

async fn upload(dir: &Path, bytes: Vec<u8>) -> anyhow::Result<()> {
    let client = remote::client(dir).await?;
    let request = http::Request::post(PATH).body(kube::client::Body::from(bytes))?;
    let answer = client.send(request).await.context("the cloud does not answer")?;
    let status = answer.status();
    let mut body = Vec::new();
    let mut frames = http_body_util::BodyStream::new(answer.into_body());
    while let Some(frame) = frames.next().await {
        if let Ok(data) = frame?.into_data() {
            body.extend_from_slice(&data);
        }
    }
    if !status.is_success() {
        let said: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        anyhow::bail!("nothing was restored: {}", said["message"].as_str().unwrap_or(status.as_str()));
    }
    Ok(())
}
