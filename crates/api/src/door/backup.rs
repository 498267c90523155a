//! `/yunfan/v1/backup`: all objects as one file, out (GET) and in (POST), while the cloud runs. RBAC guards it as a path.

use axum::body::Body;
use futures::StreamExt;
use http::{Method, Request, Response};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;
use yunfan_objects::ApiError;
use yunfan_store::backup::{self, BackupError};

use super::negotiate::Encoding;
use super::respond;
use crate::Api;

/// The path.
pub(crate) const PATH: &str = "/yunfan/v1/backup";
/// Most bytes of a backup that is sent to us.
const MAX_BYTES: u64 = 16 << 30;
/// Bytes of a backup that wait for a slow reader.
const BUFFER: usize = 256 * 1024;

/// Answers a request for a backup, or to restore one.
pub(crate) async fn handle(api: &Api, request: Request<Body>) -> Result<Response<Body>, ApiError> {
    match *request.method() {
        Method::GET => Ok(download(api)),
        Method::POST => restore(api, request.into_body()).await,
        _ => Err(ApiError::no_such_path()),
    }
}

/// A stream that breaks off when the backup fails: its reader sees that the file is not whole.
fn download(api: &Api) -> Response<Body> {
    let store = api.0.registry.store.clone();
    let (reader, mut writer) = tokio::io::duplex(BUFFER);
    tokio::spawn(async move {
        if let Err(error) = backup::export(store.as_ref(), &mut writer).await {
            tracing::warn!(%error, "a backup broke off");
        }
    });
    respond::raw(200, "application/octet-stream", Body::from_stream(ReaderStream::new(reader)))
}

async fn restore(api: &Api, body: Body) -> Result<Response<Body>, ApiError> {
    let mut file = spool(body).await?;
    let summary =
        backup::import(api.0.registry.store.as_ref(), &mut file).await.map_err(|error| match error {
            BackupError::Damaged(_) | BackupError::Newer { .. } => ApiError::bad_request(error.to_string()),
            BackupError::Store(_) | BackupError::Io(_) => ApiError::internal(error.to_string()),
        })?;
    let said = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "message": format!("restored {} keys of revision {}, {} of them differed", summary.keys, summary.revision, summary.changed),
    });
    Ok(respond::value(200, Encoding::Json, &said))
}

/// Keeps the body in a file that has no name: it is read twice, and may be larger than memory.
async fn spool(body: Body) -> Result<tokio::fs::File, ApiError> {
    use tokio::io::AsyncSeekExt;
    let failed = |error: std::io::Error| ApiError::internal(format!("the backup could not be kept: {error}"));
    let file = tokio::task::spawn_blocking(tempfile::tempfile)
        .await
        .map_err(|e| failed(std::io::Error::other(e)))?;
    let mut file = tokio::fs::File::from_std(file.map_err(failed)?);
    let mut frames = body.into_data_stream();
    let mut total = 0;
    while let Some(frame) = frames.next().await {
        let bytes = frame.map_err(|error| ApiError::bad_request(format!("the upload broke off: {error}")))?;
        total += bytes.len() as u64;
        if total > MAX_BYTES {
            return Err(ApiError::too_large(usize::try_from(MAX_BYTES).unwrap_or(usize::MAX)));
        }
        file.write_all(&bytes).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    file.rewind().await.map_err(failed)?;
    Ok(file)
}
