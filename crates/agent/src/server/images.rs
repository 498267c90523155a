//! Images on this node: bytes of disk images and OCI archives, in and out.

use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncSeekExt, SeekFrom};
use tokio_util::io::ReaderStream;
use yunfan_disks::{Error, Limits};
use yunfan_resources::image::DiskFormat;
use yunfan_runtime::RuntimeError;

use super::{Api, refuse};
use crate::images::stored_as;

#[derive(Deserialize)]
pub(crate) struct UploadQuery {
    format: String,
    /// Most bytes.
    #[serde(default)]
    limit: Option<u64>,
}

/// `PUT /images/{namespace}/{uid}?format=FORMAT&limit=BYTES`: takes a disk image's bytes.
pub(crate) async fn upload(
    State(api): State<Api>,
    Path((_namespace, id)): Path<(String, String)>,
    Query(query): Query<UploadQuery>,
    request: Request,
) -> Response {
    let named = DiskFormat::ALL.into_iter().find(|format| format.name() == query.format);
    let Some(format) = named.map(stored_as) else {
        let text = format!("format {} is not known: use qcow2 or raw", query.format);
        return refuse(StatusCode::BAD_REQUEST, text);
    };
    let bytes = request.into_body().into_data_stream().map(|chunk| chunk.map_err(std::io::Error::other));
    let mut limits = Limits::default();
    limits.max_bytes = limits.max_bytes.min(query.limit.unwrap_or(u64::MAX));
    match api.images.write(&id, format, bytes.boxed(), limits).await {
        Ok(info) => axum::Json(json!({
            "sizeBytes": info.size_bytes,
            "storedBytes": info.stored_bytes(),
            "virtualSizeBytes": info.virtual_size_bytes,
            "sha512": info.sha512,
            "md5": info.md5,
        }))
        .into_response(),
        Err(error) => refuse(status_of(&error), error.to_string()),
    }
}

/// `GET /images/{uid}`: a disk image's bytes, or those from `Range: bytes=FIRST-LAST` on. Whoever asks knows the size, and asks for what is
/// there.
pub(crate) async fn download(State(api): State<Api>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    let (info, mut file) = match api.images.read(&id).await {
        Ok(found) => found,
        Err(error) => return refuse(status_of(&error), error.to_string()),
    };
    let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    let range = range.map(|text| {
        let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
        let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
        (first <= last && last < info.size_bytes).then_some((first, last))
    });
    let (status, length) = match range {
        None => (StatusCode::OK, info.size_bytes),
        Some(Some((first, last))) => {
            if let Err(error) = file.get_mut().seek(SeekFrom::Start(first)).await {
                return refuse(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    format!("image {id} can't be read: {error}"),
                );
            }
            file.set_limit(last - first + 1);
            (StatusCode::PARTIAL_CONTENT, last - first + 1)
        }
        Some(None) => {
            return refuse(StatusCode::RANGE_NOT_SATISFIABLE, "the range is none of the image's".to_owned());
        }
    };
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
    ];
    (status, headers, Body::from_stream(ReaderStream::with_capacity(file, 256 * 1024))).into_response()
}

/// `DELETE /images/{uid}`.
pub(crate) async fn remove(State(api): State<Api>, Path(id): Path<String>) -> Response {
    match api.images.remove(&id).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => refuse(status_of(&error), error.to_string()),
    }
}

fn status_of(error: &Error) -> StatusCode {
    match error {
        Error::NotFound { .. } => StatusCode::NOT_FOUND,
        Error::Exists { .. } | Error::InUse { .. } => StatusCode::CONFLICT,
        Error::BadId { .. } | Error::BadImage { .. } | Error::Interrupted { .. } => StatusCode::BAD_REQUEST,
        Error::TooLarge { .. } | Error::DiskTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        Error::NoSpace { .. } => StatusCode::INSUFFICIENT_STORAGE,
        Error::MissingQemuImg { .. } | Error::QemuImg { .. } | Error::Io { .. } => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

#[derive(Deserialize)]
pub(crate) struct ImportQuery {
    /// Name for the image; the names in the archive when it is not given.
    name: Option<String>,
}

/// Most bytes of an OCI archive.
const MAX_ARCHIVE: u64 = 64 << 30;

/// `POST /containerImages?name=NAME`: takes an OCI layout or `docker save` archive; answers with the images in it.
pub(crate) async fn import_oci(
    State(api): State<Api>,
    Query(query): Query<ImportQuery>,
    request: Request,
) -> Response {
    let file = match receive(request).await {
        Ok(file) => file,
        Err(refusal) => return refusal,
    };
    match api.containers.import(file.path(), query.name.as_deref()).await {
        Ok(images) => axum::Json(images).into_response(),
        Err(error) => {
            let status = match error {
                RuntimeError::BadImage { .. }
                | RuntimeError::BadLayer { .. }
                | RuntimeError::BadReference { .. } => StatusCode::BAD_REQUEST,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            refuse(status, error.to_string())
        }
    }
}

#[derive(Deserialize)]
pub(crate) struct ExportQuery {
    /// Names or ids of images, with commas between.
    names: String,
}

/// `GET /containerImages/archive?names=NAME,NAME`: images as an archive, which is both an OCI layout and what `docker save` writes.
pub(crate) async fn export_oci(State(api): State<Api>, Query(query): Query<ExportQuery>) -> Response {
    let names: Vec<String> = query.names.split(',').map(str::to_owned).collect();
    match api.containers.export(&names).await {
        Ok(bytes) => {
            ([(header::CONTENT_TYPE, "application/x-tar")], Body::from_stream(bytes)).into_response()
        }
        Err(error) => {
            let status = match error {
                RuntimeError::ImageNotFound(_) => StatusCode::NOT_FOUND,
                RuntimeError::BadReference { .. } => StatusCode::BAD_REQUEST,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            refuse(status, error.to_string())
        }
    }
}

/// Puts a request's body into a temporary file.
async fn receive(request: Request) -> Result<Temporary, Response> {
    use tokio::io::AsyncWriteExt;
    let failed = |error: std::io::Error| {
        let status = match error.kind() {
            std::io::ErrorKind::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        refuse(status, format!("the archive could not be kept: {error}"))
    };
    let temporary = Temporary::new();
    let mut file = tokio::fs::File::create(temporary.path()).await.map_err(failed)?;
    let mut body = request.into_body().into_data_stream();
    let mut total = 0;
    while let Some(chunk) = body.next().await {
        let chunk = chunk
            .map_err(|error| refuse(StatusCode::BAD_REQUEST, format!("the upload was cut off: {error}")))?;
        total += chunk.len() as u64;
        if total > MAX_ARCHIVE {
            let text = format!("the archive is larger than {MAX_ARCHIVE} bytes");
            return Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, text));
        }
        file.write_all(&chunk).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    Ok(temporary)
}

/// A file that goes when it is dropped.
struct Temporary(std::path::PathBuf);

impl Temporary {
    fn new() -> Self {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("yunfan-import-{}-{number}.tar", std::process::id())))
    }

    fn path(&self) -> &std::path::Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// `GET /containerImages`: the OCI images of this node.
pub(crate) async fn list_oci(State(api): State<Api>) -> Response {
    match api.containers.list().await {
        Ok(images) => axum::Json(images).into_response(),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}
