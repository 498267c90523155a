//! List: from the cache at its revision; at an older one (an exact list, the pages after the first) from a snapshot that
//! the cache kept for it, else from the store. So all pages of a list are one snapshot, however much is written between.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use yunfan_objects::ApiError;
use yunfan_store::{RangeRequest, Revision, StoreError, key_after};

use super::token::Token;
use super::{Registry, Selection, unreadable};
use crate::cache::{Entry, Objects, View};
use crate::errors::{list_expired, store_error};
use crate::keys;
use crate::kinds::Kind;
use crate::metrics::Asked;

/// Keys read at once from the store for a page with selectors.
const CHUNK: usize = 1000;

/// How `resourceVersion` is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RevisionMatch {
    /// At least that.
    NotOlderThan,
    /// That.
    Exact,
}

/// What a list asks for.
#[derive(Clone)]
pub(crate) struct ListOptions {
    pub(crate) selection: Selection,
    /// 0 = all.
    pub(crate) limit: usize,
    pub(crate) token: Option<String>,
    /// None: as it is now. 0: as the cache has it.
    pub(crate) revision: Option<Revision>,
    pub(crate) matching: Option<RevisionMatch>,
}

/// Objects in the order of their keys, found as they are asked for.
pub(crate) type Entries = Box<dyn Iterator<Item = Arc<Entry>> + Send>;

/// A list, or a page of one.
pub(crate) struct Page {
    pub(crate) entries: Entries,
    pub(crate) revision: Revision,
    /// Where the next page begins.
    pub(crate) token: Option<String>,
    /// How many objects follow, where that is known.
    pub(crate) remaining: Option<u64>,
    /// Number of the change that comes next, for a watch that begins with a list.
    pub(crate) next: u64,
}

impl Page {
    /// All there is, on one page that no watch begins with.
    pub(crate) fn whole(entries: Entries, revision: Revision) -> Self {
        Self { entries, revision, token: None, remaining: None, next: 0 }
    }
}

/// The keys that a page is taken from: `start..end`, all with the list's prefix.
struct Range {
    prefix: String,
    start: String,
    end: String,
}

/// Where objects are found, and the revision that they are of.
enum Source {
    /// In the cache as it is: those are also as they were at the revision.
    Now(Box<View>, Revision),
    /// In a snapshot that the cache kept.
    Past(Objects, Revision),
    Store(Revision),
}

impl Source {
    /// A list that has not all is no list: it is refused, and says which objects can't be read.
    fn check(&self, range: &Range) -> Result<(), ApiError> {
        let objects = match self {
            Self::Now(view, _) => &view.objects,
            Self::Past(objects, _) => objects,
            Self::Store(_) => return Ok(()),
        };
        unreadable::refusal(&objects.unreadable(&range.start, &range.end)).map_or(Ok(()), Err)
    }
}

impl Registry {
    /// Lists a kind.
    pub(crate) async fn list(&self, kind: &Kind, options: &ListOptions) -> Result<Page, ApiError> {
        let (range, exact) = options.range(kind)?;
        match exact {
            Some(at) => {
                self.cache.wait_for(at).await?;
                if at < self.cache.oldest() {
                    return Err(options.expired(&range));
                }
            }
            None => match options.revision {
                Some(revision) if options.token.is_none() => self.cache.wait_for(revision).await?,
                _ => self.cache.wait_current().await?,
            },
        }
        let source = self.source(kind, exact);
        source.check(&range)?;
        // Fields are selected as this version shows them, which costs the indexes where it is not as they are stored.
        let page = if options.selection.has_fields() && !is_shown_as_stored(kind, exact) {
            let all = ListOptions { selection: options.selection.whole(), limit: 0, ..options.clone() };
            let page = self.page(kind, &all, &range, &source).await?;
            let mut found = self.present(kind, page.entries.collect()).await?;
            found.retain(|entry| options.selection.matches(entry));
            let shown = page_of_found(found, options, &range, page.revision, None);
            Page { next: page.next, ..shown }
        } else {
            let mut page = self.page(kind, options, &range, &source).await?;
            if kind.resource.converter.is_some() {
                page.entries = Box::new(self.present(kind, page.entries.collect()).await?.into_iter());
            }
            page
        };
        if let Source::Now(view, revision) = &source
            && page.token.is_some()
        {
            kind.resource.cache.keep(view, *revision);
        }
        Ok(page)
    }

    /// Where the objects are that a list is about: now, or at exactly a revision.
    fn source(&self, kind: &Kind, exact: Option<Revision>) -> Source {
        // Read before the objects are: what is listed is at least as new.
        let reached = self.cache.revision();
        let cache = &kind.resource.cache;
        let view = cache.view();
        match exact {
            None => {
                let revision = reached.max(view.last);
                Source::Now(Box::new(view), revision)
            }
            Some(at) if view.last <= at => Source::Now(Box::new(view), at),
            Some(at) => cache.past(at).map_or(Source::Store(at), |objects| Source::Past(objects, at)),
        }
    }

    /// A page of the objects as they are stored.
    async fn page(
        &self,
        kind: &Kind,
        options: &ListOptions,
        range: &Range,
        source: &Source,
    ) -> Result<Page, ApiError> {
        match source {
            Source::Now(view, at) => Ok(page_of_view(kind, options, range, view, *at)),
            Source::Past(objects, at) => Ok(page_of(objects, options, range, *at)),
            Source::Store(at) => self.page_of_store(options, range, *at).await,
        }
    }

    async fn page_of_store(
        &self,
        options: &ListOptions,
        range: &Range,
        revision: Revision,
    ) -> Result<Page, ApiError> {
        let limit = if options.limit == 0 { usize::MAX } else { options.limit };
        let everything = options.selection.is_everything();
        let chunk = if everything { limit.saturating_add(1).min(CHUNK) } else { CHUNK };
        let mut start = Bytes::from(range.start.clone());
        let mut found = Vec::new();
        loop {
            let request =
                RangeRequest { start, end: range.end.clone().into(), limit: chunk, revision: Some(revision) };
            let began = Instant::now();
            let response = self.store.range(request).await;
            self.times.count(Asked::List, &range.start, began, response.is_ok());
            let response = response.map_err(|error| match error {
                StoreError::Compacted { .. } => options.expired(range),
                error => store_error(error),
            })?;
            let before = found.len();
            unreadable::check_kept(&response.kvs)?;
            for kv in &response.kvs {
                let Ok(key) = std::str::from_utf8(&kv.key) else { continue };
                let entry = Entry::new(key.into(), kv.value.clone(), kv.mod_revision);
                if options.selection.matches(&entry) {
                    found.push(Arc::new(entry));
                }
                if found.len() > limit {
                    break;
                }
            }
            match response.kvs.last() {
                Some(last) if response.more && found.len() <= limit => start = key_after(&last.key),
                _ => {
                    // How many follow is known when this was the only answer and all of it counts.
                    let whole = everything && before == 0;
                    let remaining = whole.then(|| response.count.saturating_sub(limit as u64));
                    return Ok(page_of_found(found, options, range, revision, remaining));
                }
            }
        }
    }
}

impl ListOptions {
    /// The keys it is about, and the revision where it asks for exactly one.
    fn range(&self, kind: &Kind) -> Result<(Range, Option<Revision>), ApiError> {
        let prefix = self.selection.prefix(kind);
        let mut range = Range { start: prefix.clone(), end: keys::prefix_end(&prefix), prefix };
        let Some(token) = &self.token else {
            return Ok((range, self.revision.filter(|_| self.is_exact())));
        };
        let token = Token::decode(token)?;
        if !matches!(self.revision, None | Some(0)) {
            let why = "specifying resource version is not allowed when using continue";
            return Err(ApiError::bad_request(why));
        }
        range.start = format!("{}{}", range.prefix, token.start);
        Ok((range, token.revision))
    }

    /// Whether it asks for the objects as they were at a revision. (A page at a revision always did, before that
    /// could be said.)
    fn is_exact(&self) -> bool {
        let some = self.revision.is_some_and(|revision| revision > 0);
        match self.matching {
            Some(matching) => matching == RevisionMatch::Exact,
            None => some && self.limit > 0,
        }
    }

    /// The refusal where the revision is gone: a page has a token that goes on with what is there now.
    fn expired(&self, range: &Range) -> ApiError {
        list_expired(self.token.as_ref().map(|_| range.go_on()))
    }

    /// What is listed as the cache has it is never paged, as in Kubernetes.
    fn page_limit(&self) -> Option<usize> {
        (self.limit > 0 && (self.revision != Some(0) || self.token.is_some())).then_some(self.limit)
    }
}

impl Range {
    /// The token that goes on here with whatever is there.
    fn go_on(&self) -> String {
        let start = self.start.strip_prefix(&self.prefix).unwrap_or_default().to_owned();
        Token { revision: None, start }.encode()
    }
}

/// Whether all objects, now or at a revision, are shown with the fields that they are stored with.
fn is_shown_as_stored(kind: &Kind, exact: Option<Revision>) -> bool {
    let Some(converter) = &kind.resource.converter else { return true };
    exact.is_none()
        && kind.resource.cache.list("").entries.iter().all(|entry| converter.is_current(kind, entry))
}

/// A page of the objects as they are now; those are also as they were at `revision`.
fn page_of_view(kind: &Kind, options: &ListOptions, range: &Range, view: &View, revision: Revision) -> Page {
    let selection = &options.selection;
    let cache = &kind.resource.cache;
    let mut page = if let Some(key) = selection.key(kind) {
        let entry = view.objects.get(&key).filter(|e| *e.key >= *range.start && selection.matches(e));
        page_of_found(entry.cloned().into_iter().collect(), options, range, revision, None)
    } else if let Some((found, indexed)) = cache.indexed(&selection.demands(), &range.start, &range.end)
        && indexed.last == view.last
    {
        let found = found.into_iter().filter(|entry| selection.matches(entry)).collect();
        page_of_found(found, options, range, revision, None)
    } else {
        page_of(&view.objects, options, range, revision)
    };
    page.next = view.next;
    page
}

/// A page of a snapshot.
fn page_of(objects: &Objects, options: &ListOptions, range: &Range, revision: Revision) -> Page {
    let walk = objects.walk(&range.start, &range.end);
    let selection = options.selection.clone();
    let everything = selection.is_everything();
    let selected: Entries = if everything {
        Box::new(walk)
    } else {
        Box::new(walk.filter(move |entry| selection.matches(entry)))
    };
    let Some(limit) = options.page_limit() else {
        return Page::whole(selected, revision);
    };
    let found: Vec<_> = selected.take(limit.saturating_add(1)).collect();
    let more = found.len() > limit;
    let remaining = (everything && more).then(|| (objects.count(&range.start, &range.end) - limit) as u64);
    page_of_found(found, options, range, revision, remaining)
}

/// A page of the objects that were found: all, or at least one more than fit.
fn page_of_found(
    mut found: Vec<Arc<Entry>>,
    options: &ListOptions,
    range: &Range,
    revision: Revision,
    remaining: Option<u64>,
) -> Page {
    let limit = options.page_limit().unwrap_or(usize::MAX);
    let next = found.get(limit).map(|entry| entry.key.strip_prefix(&range.prefix).unwrap_or_default());
    let token = next.map(|next| Token { revision: Some(revision), start: next.to_owned() }.encode());
    found.truncate(limit);
    let remaining = remaining.filter(|_| token.is_some());
    Page { entries: Box::new(found.into_iter()), revision, token, remaining, next: 0 }
}
