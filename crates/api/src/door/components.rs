//! `componentstatuses`: what is asked anew with each request, and not stored. Deprecated, but people still ask.
//!
//! Only the store is told of: schedulers and controllers are clients like any other, wherever they run, and say that they
//! live by their own Leases.

use std::sync::Arc;

use axum::body::Body;
use http::Response;
use serde_json::{Value, json};
use yunfan_objects::{ApiError, codec};

use super::Call;
use super::health;
use super::negotiate::Format;
use super::resource::{Reply, selection};
use crate::Api;
use crate::cache::Entry;
use crate::kinds::Kind;
use crate::registry::{Page, Stored};

/// The store's name, whichever it is: clients know it by this one.
const STORE: &str = "etcd-0";

/// Whether it is this kind.
pub(super) fn is(kind: &Kind) -> bool {
    kind.is("", "componentstatuses")
}

/// Answers a get or a list.
pub(super) async fn handle(
    api: &Api,
    call: &Call,
    kind: &Kind,
    format: Format,
) -> Result<Response<Body>, ApiError> {
    let reply = Reply::new(call, kind, format)?;
    call.warnings.extend(["v1 ComponentStatus is deprecated in v1.19+".to_owned()]);
    let selected = selection(call, kind)?;
    let name = call.info.name.as_str();
    if !matches!(name, "" | STORE) {
        return Err(ApiError::not_found(&kind.descriptor.group_resource(), name));
    }
    let condition = match health::store(api).await {
        Ok(()) => json!({"type": "Healthy", "status": "True", "message": "ok"}),
        Err(error) => json!({"type": "Healthy", "status": "False", "error": error}),
    };
    let bytes = codec::encode(&status(condition));
    let entry = Arc::new(Entry::new(kind.key("", STORE).into(), bytes, 0));
    if name == STORE {
        return reply.object(200, &Stored::from(&entry));
    }
    let entries: Vec<Arc<Entry>> = [entry].into_iter().filter(|entry| selected.matches(entry)).collect();
    let revision = api.0.registry.cache.revision();
    reply.list(Page::whole(Box::new(entries.into_iter()), revision))
}

fn status(condition: Value) -> Value {
    json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": STORE}, "conditions": [condition]})
}
