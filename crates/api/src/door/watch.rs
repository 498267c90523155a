//! Watch: a stream of events from a place in the kind's ring. In the stored version an event's bytes are
//! made once, for all who watch.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use http::Response;
use rand::Rng;
use serde_json::{Value, json};
use tokio::time::Instant;
use yunfan_objects::ApiError;
use yunfan_objects::table::IncludeObject;
use yunfan_store::Revision;

use super::negotiate::{Encoding, Format, Shape};
use super::params::Params;
use super::respond;
use crate::cache::{Change, ChangeType, Cursor, Entry};
use crate::errors::too_old;
use crate::kinds::Kind;
use crate::registry::{ListOptions, Registry, RevisionMatch, Selection};

/// Bookmarks come this often while nothing else does.
const BOOKMARK: Duration = Duration::from_secs(60);
/// A watch without timeoutSeconds ends by itself after 30 to 60 minutes.
const LONGEST: std::ops::Range<u64> = 1800..3600;
/// Frames sent at once, bytes.
const BATCH: usize = 64 * 1024;

/// What a watch asks for.
pub(crate) struct WatchRequest {
    pub(crate) kind: Kind,
    pub(crate) selection: Selection,
    pub(crate) format: Format,
    pub(crate) include: IncludeObject,
    revision: String,
    bookmarks: bool,
    initial: Option<bool>,
    timeout: Duration,
}

impl WatchRequest {
    /// Reads the query.
    pub(crate) fn parse(
        kind: Kind,
        selection: Selection,
        format: Format,
        include: IncludeObject,
        params: &Params,
    ) -> Result<Self, ApiError> {
        let initial = params.get("sendInitialEvents").map(|_| params.flag("sendInitialEvents"));
        let matching = params.get("resourceVersionMatch");
        if initial.is_some() && matching != Some("NotOlderThan") {
            return Err(invalid(
                "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
        if initial.is_none() && matching.is_some() {
            return Err(invalid(
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ));
        }
        let seconds = params.number("timeoutSeconds").map_err(ApiError::bad_request)?;
        let seconds = seconds.filter(|s| *s > 0).unwrap_or_else(|| rand::rng().random_range(LONGEST));
        Ok(Self {
            kind,
            selection,
            format,
            include,
            revision: params.get("resourceVersion").unwrap_or_default().to_owned(),
            bookmarks: params.flag("allowWatchBookmarks"),
            initial,
            timeout: Duration::from_secs(seconds),
        })
    }
}

fn invalid(why: &str) -> ApiError {
    ApiError::new(
        422,
        yunfan_objects::Reason::Invalid,
        format!("ListOptions.meta.k8s.io \"\" is invalid: {why}"),
    )
}

/// Starts a watch.
pub(crate) async fn start(
    registry: Arc<Registry>,
    request: WatchRequest,
) -> Result<Response<Body>, ApiError> {
    let media_type = request.format.encoding.media_type();
    let (cursor, listed, revision) = match begin(&registry, &request).await {
        Ok(begin) => begin,
        // Told in the stream, as the API conventions want it: clients start over only then, and else try for ever.
        Err(error) if error.code() == 410 => {
            return Ok(respond::raw(200, media_type, Body::from(error_frame(&error))));
        }
        Err(error) => return Err(error),
    };
    let mut watch = Watch {
        prefix: crate::keys::namespace_prefix(&request.kind.resource.prefix, &request.selection.namespace),
        version: request.kind.other_version(),
        end: Instant::now() + request.timeout,
        registry,
        cursor,
        sent: revision,
        pending: VecDeque::new(),
        done: false,
        request,
    };
    if let Some(entries) = listed {
        for entry in entries {
            let frame = watch.entry_frame(ChangeType::Added, &entry);
            watch.pending.push_back(frame);
        }
        if watch.request.initial == Some(true) && watch.request.bookmarks {
            let frame = watch.bookmark(revision, true);
            watch.pending.push_back(frame);
        }
    }
    let frames = stream::unfold(watch, |mut watch| async move {
        let frame = watch.next().await?;
        Some((Ok::<_, Infallible>(frame), watch))
    });
    Ok(respond::raw(200, media_type, Body::from_stream(frames)))
}

type Begin = (Cursor, Option<Vec<Arc<Entry>>>, Revision);

/// The place where the events begin, and before them the objects that are there, where those are wanted.
async fn begin(registry: &Registry, request: &WatchRequest) -> Result<Begin, ApiError> {
    let cache = &request.kind.resource.cache;
    let listed = match (request.initial, request.revision.as_str()) {
        (Some(wanted), _) => wanted,
        (None, "" | "0") => true,
        (None, _) => false,
    };
    if listed {
        // Everything first, so that the list has a place in the ring; the selectors come after.
        let options = ListOptions {
            selection: Selection::parse(&request.kind, &request.selection.namespace, None, None)?,
            limit: 0,
            token: None,
            revision: request.revision.clone(),
            revision_match: RevisionMatch::NotOlderThan,
        };
        let mut page = registry.list(&request.kind, &options).await?;
        page.entries.retain(|entry| request.selection.matches(entry));
        let cursor = page.cursor.ok_or_else(|| ApiError::internal("a list has no place in the ring"))?;
        return Ok((cache.cursor_at(cursor), Some(page.entries), page.revision));
    }
    if request.revision.is_empty() {
        registry.cache.wait_current().await?;
    }
    let at: Revision = match request.revision.as_str() {
        "" | "0" => registry.cache.revision(),
        text => {
            text.parse().map_err(|_| ApiError::bad_request(format!("invalid resource version {text:?}")))?
        }
    };
    registry.cache.wait_for(at).await?;
    let cursor = cache.cursor_after(at).map_err(|_| too_old(at, cache.floor()))?;
    Ok((cursor, None, at))
}

struct Watch {
    registry: Arc<Registry>,
    request: WatchRequest,
    prefix: String,
    version: Option<String>,
    cursor: Cursor,
    /// Everything up to here was sent.
    sent: Revision,
    pending: VecDeque<Bytes>,
    end: Instant,
    done: bool,
}

impl Watch {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(frames) = self.drain() {
                return Some(frames);
            }
            if self.done {
                return None;
            }
            // Read before the ring is: what is not in the ring then was sent before this revision.
            let reached = self.registry.cache.revision();
            match self.cursor.take() {
                Err(_) => {
                    self.done = true;
                    return Some(error_frame(&too_old(self.sent, self.request.kind.resource.cache.floor())));
                }
                Ok(changes) if changes.is_empty() => {
                    self.sent = self.sent.max(reached);
                    if let Some(frame) = self.wait().await {
                        return Some(frame);
                    }
                }
                Ok(changes) => {
                    for change in changes {
                        self.sent = change.entry.revision;
                        if let Some(frame) = self.change_frame(&change) {
                            self.pending.push_back(frame);
                        }
                    }
                }
            }
        }
    }

    fn drain(&mut self) -> Option<Bytes> {
        if self.pending.len() <= 1 {
            return self.pending.pop_front();
        }
        let mut out = BytesMut::new();
        while out.len() < BATCH
            && let Some(frame) = self.pending.pop_front()
        {
            out.put_slice(&frame);
        }
        Some(out.freeze())
    }

    /// Waits for a change, the end, or the time of a bookmark, which it gives.
    async fn wait(&mut self) -> Option<Bytes> {
        tokio::select! {
            () = self.cursor.changed() => None,
            () = tokio::time::sleep_until(self.end) => {
                self.done = true;
                // The last word lets the client go on from here.
                (self.request.bookmarks).then(|| self.bookmark(self.sent, false))
            }
            () = tokio::time::sleep(BOOKMARK), if self.request.bookmarks => {
                let sent = self.sent;
                Some(self.bookmark(sent, false))
            }
        }
    }

    fn change_frame(&self, change: &Change) -> Option<Bytes> {
        if !change.entry.key.starts_with(&self.prefix) {
            return None;
        }
        let selection = &self.request.selection;
        let kind = if selection.is_everything() {
            change.kind
        } else {
            let before = change.prev.as_ref().is_some_and(|prev| selection.matches(prev));
            let after = change.kind != ChangeType::Deleted && selection.matches(&change.entry);
            match (before, after) {
                (false, false) => return None,
                (false, true) => ChangeType::Added,
                (true, true) => ChangeType::Modified,
                (true, false) => ChangeType::Deleted,
            }
        };
        let gone;
        let entry = match (&change.prev, kind) {
            // What stopped to match is shown as it was when it last did.
            (Some(prev), ChangeType::Deleted) if change.kind != ChangeType::Deleted => {
                gone = prev.at(change.entry.revision);
                &gone
            }
            _ => &*change.entry,
        };
        if self.version.is_none() && self.request.format == Format::default() {
            return Some(change.frame(kind, || self.entry_frame(kind, entry)));
        }
        Some(self.entry_frame(kind, entry))
    }

    fn entry_frame(&self, kind: ChangeType, entry: &Entry) -> Bytes {
        if self.request.format.shape == Shape::Whole && self.request.format.encoding != Encoding::Yaml {
            let mut out = BytesMut::with_capacity(entry.bytes.len() + 80);
            out.put_slice(b"{\"type\":\"");
            out.put_slice(kind.word().as_bytes());
            out.put_slice(b"\",\"object\":");
            entry.render_into(self.version.as_deref(), &mut out);
            out.put_slice(b"}\n");
            return out.freeze();
        }
        let whole = respond::whole(&self.request.kind, entry);
        let object = respond::shaped(
            self.request.format.shape,
            &self.request.kind.descriptor,
            whole,
            self.request.include,
        );
        self.frame(&json!({ "type": kind.word(), "object": object }))
    }

    fn bookmark(&self, revision: Revision, initial_end: bool) -> Bytes {
        let descriptor = &self.request.kind.descriptor;
        let mut meta = json!({ "resourceVersion": revision.to_string(), "creationTimestamp": null });
        if initial_end {
            meta["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let object = match self.request.format.shape {
            Shape::Table => json!({
                "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta,
                "columnDefinitions": yunfan_objects::table::column_definitions(descriptor), "rows": [],
            }),
            Shape::Metadata => {
                json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta })
            }
            _ => json!({ "kind": descriptor.kind, "apiVersion": descriptor.api_version(), "metadata": meta }),
        };
        self.frame(&json!({ "type": "BOOKMARK", "object": object }))
    }

    fn frame(&self, event: &Value) -> Bytes {
        match self.request.format.encoding {
            Encoding::Yaml => match serde_saphyr::to_string(event) {
                Ok(text) => format!("---\n{text}").into(),
                Err(_) => format!("---\n{event}\n").into(),
            },
            _ => format!("{event}\n").into(),
        }
    }
}

/// The last event of a watch that can't go on.
fn error_frame(error: &ApiError) -> Bytes {
    format!("{}\n", json!({ "type": "ERROR", "object": error.to_status() })).into()
}
