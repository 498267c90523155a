//! Watch: a stream of events. It begins with what is there, or with history from the store where the kind's ring does
//! not go back that far, and goes on from a place in the ring. An event's bytes are made once for all who watch alike.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use futures::{StreamExt, stream};
use http::Response;
use rand::Rng;
use tokio::time::{Instant, Sleep};
use yunfan_objects::ApiError;
use yunfan_store::Revision;

use super::options::ReadOptions;
use super::render::Renderer;
use super::respond;
use crate::cache::{Change, ChangeType, Cursor, Expired, Variant};
use crate::errors::too_old;
use crate::metrics::Watches;
use crate::registry::{Entries, History, ListOptions, Registry, RevisionMatch, Selection, unreadable};

/// Bookmarks come this often while nothing else does.
const BOOKMARK: Duration = Duration::from_secs(60);
/// A watch of this time or less has no bookmark at its end: upstream sends its last one so long before.
const LAST: Duration = Duration::from_secs(2);
/// A watch without timeoutSeconds ends by itself after 30 to 60 minutes.
const LONGEST: std::ops::Range<u64> = 1800..3600;
/// One that asks for more time than this has so much: a clock holds no more than some centuries.
const LONGEST_ASKED: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Bytes sent at once.
const BATCH: usize = 64 * 1024;

/// Starts a watch.
pub(super) async fn start(
    registry: Arc<Registry>,
    counts: Watches,
    renderer: Renderer,
    selection: Selection,
    options: ReadOptions,
) -> Result<Response<Body>, ApiError> {
    renderer.check_stream()?;
    let media_type = renderer.format.encoding.stream_type();
    let definition =
        renderer.kind.resource.definition.as_ref().map(|entry| registry.kinds.follow(entry)).transpose();
    let definition = definition.map_err(|Expired| too_old(0, registry.cache.revision()))?;
    let Begin { cursor, listed, history, revision } =
        match begin(&registry, &renderer, &selection, &options).await {
            Ok(begin) => begin,
            // Told in the stream, as the API conventions want it: clients start over only then, and else try for ever.
            Err(error) => return Ok(respond::raw(200, media_type, renderer.error(&error))),
        };
    let longest = || Duration::from_secs(rand::rng().random_range(LONGEST));
    let variants = [renderer.variant(false), renderer.variant(true)];
    let now = Instant::now();
    let end = now + options.timeout.map_or_else(longest, |asked| asked.min(LONGEST_ASKED));
    let alarm = if options.bookmarks { end.min(now + BOOKMARK) } else { end };
    let watch = Watch {
        prefix: selection.prefix(&renderer.kind),
        definition,
        end,
        alarm: Box::pin(tokio::time::sleep_until(alarm)),
        told_at: None,
        registry,
        counts,
        renderer,
        variants,
        selection,
        bookmarks: options.bookmarks,
        brief: options.timeout.is_some_and(|asked| asked <= LAST),
        cursor,
        listed,
        history,
        told: revision,
        sent: revision,
        pending: VecDeque::new(),
        first: true,
        gone: None,
        done: false,
    };
    let frames = stream::unfold(watch, |mut watch| async move {
        let frame = watch.next().await?;
        Some((Ok::<_, Infallible>(frame), watch))
    });
    Ok(respond::raw(200, media_type, Body::from_stream(frames)))
}

/// Where a watch begins.
struct Begin {
    cursor: Cursor,
    /// What is there, where that is wanted.
    listed: Option<Entries>,
    history: Option<History>,
    revision: Revision,
}

async fn begin(
    registry: &Arc<Registry>,
    renderer: &Renderer,
    selection: &Selection,
    options: &ReadOptions,
) -> Result<Begin, ApiError> {
    let kind = &renderer.kind;
    let cache = &kind.resource.cache;
    let topic = selection.topic(kind);
    if options.initial == Some(true) {
        // Without a revision it begins with all that was acknowledged before: a list as it is now.
        let list = ListOptions {
            selection: selection.clone(),
            limit: 0,
            token: None,
            revision: options.revision,
            matching: options.revision.map(|_| RevisionMatch::NotOlderThan),
        };
        let page = registry.list(kind, &list).await?;
        let cursor =
            cache.cursor_at(topic, page.next).map_err(|Expired| too_old(page.revision, cache.floor()))?;
        return Ok(Begin { cursor, listed: Some(page.entries), history: None, revision: page.revision });
    }
    let at = match options.revision {
        Some(0) => registry.cache.revision(),
        Some(at) => at,
        None => {
            registry.cache.wait_current().await?;
            registry.cache.revision()
        }
    };
    if let Ok(cursor) = cache.cursor_after(topic.clone(), at) {
        return Ok(Begin { cursor, listed: None, history: None, revision: at });
    }
    // Taken before the history is read, so that nothing is missed between the two.
    let floor = cache.floor();
    let cursor = cache.cursor_after(topic, floor).map_err(|Expired| too_old(at, cache.floor()))?;
    let history = registry.history(&selection.prefix(kind), at, floor).await?;
    Ok(Begin { cursor, listed: None, history: Some(history), revision: at })
}

struct Watch {
    registry: Arc<Registry>,
    counts: Watches,
    renderer: Renderer,
    /// How events are written behind the first, and as the first.
    variants: [Variant; 2],
    selection: Selection,
    bookmarks: bool,
    /// Whether it ends too soon for a bookmark at its end.
    brief: bool,
    prefix: String,
    cursor: Cursor,
    /// The place in the changes of the kind's definition, where it has one.
    definition: Option<Cursor>,
    listed: Option<Entries>,
    history: Option<History>,
    /// Revision that the client began with: nothing up to here is sent.
    told: Revision,
    /// Everything up to here was sent.
    sent: Revision,
    pending: VecDeque<Bytes>,
    /// The time of the next bookmark, or of the end. Setting it anew for each event of each watcher would cost more than the event.
    alarm: Pin<Box<Sleep>>,
    /// What the last bookmark told.
    told_at: Option<Revision>,
    end: Instant,
    /// Whether nothing was sent yet, or nothing since the definition changed.
    first: bool,
    /// The revision at which the kind stopped to be served: what came before is still sent.
    gone: Option<Revision>,
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
            if self.listed.is_some() {
                self.next_listed();
            } else if self.history.is_some() {
                self.next_history().await;
            } else if let Some(frame) = self.next_change().await {
                self.counts.events.inc();
                return Some(frame);
            }
        }
    }

    fn drain(&mut self) -> Option<Bytes> {
        let waiting = self.pending.len();
        if waiting <= 1 {
            self.counts.events.inc_by(waiting as u64);
            return self.pending.pop_front();
        }
        let mut out = BytesMut::new();
        while out.len() < BATCH
            && let Some(frame) = self.pending.pop_front()
        {
            out.put_slice(&frame);
        }
        self.counts.events.inc_by((waiting - self.pending.len()) as u64);
        Some(out.freeze())
    }

    /// Some of what was there at the start; behind the last, that it was all.
    fn next_listed(&mut self) {
        let mut bytes = 0;
        while bytes < BATCH {
            let Some(entry) = self.listed.as_mut().and_then(Iterator::next) else {
                self.listed = None;
                if self.bookmarks {
                    self.told_at = Some(self.sent);
                    self.pending.push_back(self.renderer.bookmark(self.sent, true));
                }
                return;
            };
            let frame = self.renderer.event(ChangeType::Added, &entry, std::mem::take(&mut self.first));
            bytes += frame.len();
            self.pending.push_back(frame);
        }
    }

    async fn next_history(&mut self) {
        let Some(history) = &mut self.history else { return };
        match history.next().await {
            Some(Ok(changes)) => {
                self.follow_definition();
                self.push_all(changes.into_iter().map(Arc::new).collect()).await;
            }
            Some(Err(error)) => self.fail(&error),
            None => self.history = None,
        }
    }

    async fn next_change(&mut self) -> Option<Bytes> {
        if Instant::now() >= self.end {
            self.done = true;
            return self.last_bookmark();
        }
        // Read before the ring is: what is not in the ring then was sent before this revision.
        let reached = self.registry.cache.revision();
        let ending = self.gone.is_some();
        let taken = self.cursor.take();
        // Followed behind that: the kind as it is shown is then at least as new as what is shown of it.
        self.follow_definition();
        match taken {
            // A client that is too slow goes on from the last event it has got, by a watch of its own.
            Err(Expired) => {
                self.counts.dropped.inc();
                self.done = true;
            }
            Ok(changes) if changes.is_empty() && ending => self.done = true,
            // What came between the two is still to be taken.
            Ok(changes) if changes.is_empty() && self.gone.is_some() => {}
            Ok(changes) if changes.is_empty() => {
                self.sent = self.sent.max(reached);
                return self.wait().await;
            }
            Ok(changes) => self.push_all(changes).await,
        }
        None
    }

    async fn push_all(&mut self, changes: Vec<Arc<Change>>) {
        match self.registry.present_changes(&self.renderer.kind, changes).await {
            Ok(changes) => changes.iter().for_each(|change| self.push(change)),
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&mut self, error: &ApiError) {
        self.done = true;
        self.pending.push_back(self.renderer.error(error));
    }

    fn push(&mut self, change: &Change) {
        // What came behind the end is of a namesake.
        let revision = change.entry.revision;
        if self.done || revision <= self.told || self.gone.is_some_and(|gone| revision > gone) {
            return;
        }
        self.sent = revision;
        if change.entry.unreadable().is_some() && self.selection.may_match(&change.entry, &self.prefix) {
            if let Some(error) = unreadable::refusal([&change.entry]) {
                self.fail(&error);
            }
            return;
        }
        if let Some(frame) = self.change_frame(change) {
            self.first = false;
            self.pending.push_back(frame);
        }
    }

    /// Waits for a change, the end, or the time of a bookmark, which it gives.
    async fn wait(&mut self) -> Option<Bytes> {
        tokio::select! {
            () = self.cursor.changed() => return None,
            () = changed(&mut self.definition) => return None,
            () = self.alarm.as_mut() => {}
        }
        let now = Instant::now();
        if now >= self.end {
            self.done = true;
            return self.last_bookmark();
        }
        self.alarm.as_mut().reset(self.end.min(now + BOOKMARK));
        self.told_at = None;
        self.bookmark()
    }

    /// The last word lets the client go on from here.
    fn last_bookmark(&mut self) -> Option<Bytes> {
        if self.brief { None } else { self.bookmark() }
    }

    /// Where the client is, unless it knows.
    fn bookmark(&mut self) -> Option<Bytes> {
        let known = self.told_at.replace(self.sent) == Some(self.sent);
        (self.bookmarks && !known).then(|| self.renderer.bookmark(self.sent, false))
    }

    /// Goes on with the kind as its definition has it now. Where that is gone, or selectors may mean something else now,
    /// the watch ends when all that came before was sent.
    fn follow_definition(&mut self) {
        let before = &self.renderer.kind;
        let Some(cursor) = &mut self.definition else { return };
        let mut changed = None;
        while cursor.is_behind() {
            changed = match cursor.take() {
                Ok(changes) => changes.last().map(|change| change.entry.revision).or(changed),
                Err(Expired) => return self.gone = Some(self.registry.cache.revision()),
            };
        }
        if changed.is_none() || self.gone.is_some() {
            return;
        }
        let descriptor = &before.descriptor;
        let now = self.registry.kinds.table().get(&descriptor.group, &descriptor.version, &descriptor.plural);
        match now {
            Some(now) if now.resource.has_definition_of(&before.resource) && !self.selection.has_fields() => {
                self.renderer = self.renderer.with_kind(now);
                self.variants = [self.renderer.variant(false), self.renderer.variant(true)];
                self.first = true;
            }
            _ => self.gone = changed,
        }
    }

    fn change_frame(&self, change: &Change) -> Option<Bytes> {
        if !change.entry.key.starts_with(&self.prefix) {
            return None;
        }
        let kind = if self.selection.is_everything() {
            change.kind
        } else {
            let before = change.prev.as_ref().is_some_and(|prev| self.selection.matches(prev));
            let after = change.kind != ChangeType::Deleted && self.selection.matches(&change.entry);
            match (before, after) {
                (false, false) => return None,
                (false, true) => ChangeType::Added,
                (true, true) => ChangeType::Modified,
                (true, false) => ChangeType::Deleted,
            }
        };
        let encode = || match (&change.prev, kind) {
            // What stopped to match is shown as it was when it last did, at the revision of the change.
            (Some(prev), ChangeType::Deleted) if change.kind != ChangeType::Deleted => {
                self.renderer.event(kind, &prev.at(change.entry.revision), self.first)
            }
            _ => self.renderer.event(kind, &change.entry, self.first),
        };
        Some(change.frame(kind, &self.variants[usize::from(self.first)], encode))
    }
}

/// Waits for a change of the definition; for ever where there is none.
async fn changed(definition: &mut Option<Cursor>) {
    match definition {
        Some(cursor) => cursor.changed().await,
        None => std::future::pending().await,
    }
}
