//! `/yunfan/v1/encryption`: with what objects are encrypted in the store (GET), and having all encrypted anew (POST). RBAC guards it as a
//! path.

use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use http::{Method, Response};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use yunfan_objects::ApiError;
use yunfan_store::{Resealed, Store, StoreError};

use super::negotiate::Encoding;
use super::respond;
use crate::{Api, keys};

/// The path.
pub(super) const PATH: &str = "/yunfan/v1/encryption";
/// Lines that wait for a slow reader; those that come then are left out.
const LINES: usize = 16;

/// Answers a request.
pub(super) async fn handle(api: &Api, method: &Method) -> Result<Response<Body>, ApiError> {
    match *method {
        Method::GET => describe(api),
        Method::POST => reencrypt(api).await,
        _ => Err(ApiError::no_such_path()),
    }
}

fn describe(api: &Api) -> Result<Response<Body>, ApiError> {
    let registry = &api.0.registry;
    let keys = registry.store.sealed().map(|store| store.transformer().describe()).unwrap_or_default();
    let unreadable: Vec<Value> = registry
        .cache
        .unreadable()
        .iter()
        .map(|entry| json!({"key": &*entry.key, "why": entry.unreadable()}))
        .collect();
    let file = registry.store.sealed().and_then(|store| store.transformer().file());
    let said = json!({"encryption": keys, "file": file, "unreadable": unreadable});
    Ok(respond::value(200, Encoding::Json, &said))
}

/// A line of JSON for each step; the last one says that it is done, or why not.
async fn reencrypt(api: &Api) -> Result<Response<Body>, ApiError> {
    let store = api.0.registry.store.clone();
    let Some(sealed) = store.sealed() else {
        return Err(ApiError::bad_request("this cloud has no encryption configuration"));
    };
    // A key that was added a moment ago is to be used.
    sealed.transformer().refresh().await.map_err(ApiError::bad_request)?;
    let (lines, mut told) = mpsc::channel::<Bytes>(LINES);
    tokio::spawn(async move {
        let last = all_anew(&*store, &lines).await;
        let last = match last {
            Ok(done) => json!({"done": true, "progress": progress(&done), "failures": done.failures}),
            Err(error) => json!({"done": false, "error": error.to_string()}),
        };
        let _ = lines.send(line(&last)).await;
    });
    let frames =
        stream::poll_fn(move |context| told.poll_recv(context).map(|line| line.map(Ok::<_, std::io::Error>)));
    Ok(respond::raw(200, "application/json", Body::from_stream(frames)))
}

async fn all_anew(store: &dyn Store, lines: &mpsc::Sender<Bytes>) -> Result<Resealed, StoreError> {
    let range =
        (Bytes::from_static(keys::REGISTRY.as_bytes()), Bytes::from(keys::prefix_end(keys::REGISTRY)));
    match store.sealed() {
        Some(sealed) => {
            let told = |done: &Resealed| {
                let _ = lines.try_send(line(&json!({"progress": progress(done)})));
            };
            sealed.reseal(range, told).await
        }
        None => Ok(Resealed::default()),
    }
}

fn progress(done: &Resealed) -> Value {
    json!({"seen": done.seen, "written": done.written, "failed": done.failed})
}

fn line(value: &Value) -> Bytes {
    Bytes::from(format!("{value}\n"))
}
