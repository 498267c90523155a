//! The body of a list: made piece by piece as it is sent, so that a list takes one piece of memory, however long it is.

use std::convert::Infallible;

use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use http::Response;
use serde_json::{Value, json};

use super::negotiate::{Encoding, Shape};
use super::render::Renderer;
use super::respond;
use crate::registry::{Entries, Page};

/// Bytes of a list that are sent at once.
const PIECE: usize = 64 * 1024;

/// Answers with a list.
pub(super) fn respond(renderer: Renderer, page: Page) -> Response<Body> {
    let media_type = renderer.format.encoding.media_type();
    if renderer.format.encoding == Encoding::Protobuf {
        return match renderer.protobuf_list(&list_meta(&page, &renderer), page.entries) {
            Ok(bytes) => respond::raw(200, media_type, bytes),
            Err(error) => respond::error(&error),
        };
    }
    let head = renderer.list_head(&list_meta(&page, &renderer));
    let mut pieces = Pieces { out: head.into(), entries: Some(page.entries), renderer, empty: true };
    let Some(first) = pieces.next() else { return respond::raw(200, media_type, Body::empty()) };
    if pieces.entries.is_none() {
        return respond::raw(200, media_type, first);
    }
    let body = stream::iter(std::iter::once(first).chain(pieces).map(Ok::<_, Infallible>));
    respond::raw(200, media_type, Body::from_stream(body))
}

fn list_meta(page: &Page, renderer: &Renderer) -> Value {
    let mut meta = json!({ "resourceVersion": page.revision.to_string() });
    // Lists of custom kinds have one even behind the last page.
    if !renderer.kind.descriptor.builtin && renderer.format.shape == Shape::Whole {
        meta["continue"] = json!("");
    }
    if let Some(token) = &page.token {
        meta["continue"] = json!(token);
    }
    if let Some(remaining) = page.remaining {
        meta["remainingItemCount"] = json!(remaining);
    }
    meta
}

struct Pieces {
    out: BytesMut,
    /// None behind the last.
    entries: Option<Entries>,
    renderer: Renderer,
    empty: bool,
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let entries = self.entries.as_mut()?;
        for entry in entries {
            self.renderer.list_item(&entry, self.empty, &mut self.out);
            self.empty = false;
            if self.out.len() >= PIECE {
                return Some(self.out.split().freeze());
            }
        }
        self.entries = None;
        self.out.put_slice(self.renderer.list_tail(self.empty).as_bytes());
        Some(std::mem::take(&mut self.out).freeze())
    }
}
