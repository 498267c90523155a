//! List: from the cache at its revision; pages after the first from the cache where the kind has not
//! changed since, else from the store at the first page's revision, so that all pages are one snapshot.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use yunfan_objects::ApiError;
use yunfan_objects::selector::{FieldSelector, LabelSelector};
use yunfan_store::{RangeRequest, Revision, key_after};

use super::{Registry, bad_revision};
use crate::cache::Entry;
use crate::errors::{expired, store_error};
use crate::keys;
use crate::kinds::Kind;

/// Keys read at once from the store for a page with selectors.
const CHUNK: usize = 1000;

/// Which objects.
pub(crate) struct Selection {
    pub(crate) labels: LabelSelector,
    pub(crate) fields: FieldSelector,
    /// The kind's selectable fields.
    pub(crate) selectable: Vec<String>,
    pub(crate) namespace: String,
}

impl Selection {
    /// Reads the two selectors of a query.
    pub(crate) fn parse(
        kind: &Kind,
        namespace: &str,
        labels: Option<&str>,
        fields: Option<&str>,
    ) -> Result<Self, ApiError> {
        let selectable = kind.descriptor.selectable_fields.clone();
        Ok(Self {
            labels: LabelSelector::parse(labels.unwrap_or_default())?,
            fields: FieldSelector::parse(fields.unwrap_or_default(), &selectable)?,
            selectable,
            namespace: namespace.to_owned(),
        })
    }

    /// Whether everything (in the namespace) is selected.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether this object is. The namespace is seen to elsewhere.
    pub(crate) fn matches(&self, entry: &Entry) -> bool {
        if let Some(name) = self.fields.exact_name()
            && entry.key.rsplit('/').next() != Some(name)
        {
            return false;
        }
        (self.labels.is_empty() || self.labels.matches(&entry.head().labels))
            && (self.fields.is_empty() || self.fields.matches(entry.fields(&self.selectable)))
    }
}

/// How `resourceVersion` is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum RevisionMatch {
    /// At least that.
    #[default]
    NotOlderThan,
    /// That.
    Exact,
}

/// What a list asks for.
pub(crate) struct ListOptions {
    pub(crate) selection: Selection,
    /// 0 = all.
    pub(crate) limit: usize,
    pub(crate) token: Option<String>,
    /// Empty: as it is now.
    pub(crate) revision: String,
    pub(crate) revision_match: RevisionMatch,
}

/// A list, or a page of one.
pub(crate) struct Page {
    pub(crate) entries: Vec<Arc<Entry>>,
    pub(crate) revision: Revision,
    /// Where the next page begins.
    pub(crate) token: Option<String>,
    /// How many objects follow, where that is known.
    pub(crate) remaining: Option<u64>,
    /// Place in the kind's ring from which changes follow, for a watch that begins with a list.
    pub(crate) cursor: Option<u64>,
}

/// What is inside of a continue token. It says no more than its holder may read anyway: it is checked
/// to lie in the list's own range.
#[derive(Serialize, Deserialize)]
struct Token {
    v: String,
    rv: Revision,
    start: String,
}

impl Token {
    fn encode(revision: Revision, start: &str) -> String {
        let token = Self { v: "meta.k8s.io/v1".to_owned(), rv: revision, start: start.to_owned() };
        // A struct of texts and a number always has a JSON form.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
    }

    fn decode(text: &str) -> Result<Self, ApiError> {
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok();
        let token: Option<Self> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        token
            .filter(|t| t.v == "meta.k8s.io/v1")
            .ok_or_else(|| ApiError::bad_request("continue key is not valid"))
    }
}

impl Registry {
    /// Lists a kind.
    pub(crate) async fn list(&self, kind: &Kind, options: &ListOptions) -> Result<Page, ApiError> {
        let namespace = options.selection.namespace.as_str();
        let prefix = keys::namespace_prefix(&kind.resource.prefix, namespace);
        if let Some(token) = &options.token {
            if !matches!(options.revision.as_str(), "" | "0") {
                return Err(ApiError::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            let token = Token::decode(token)?;
            let start = format!("{prefix}{}", token.start);
            if kind.resource.cache.last() <= token.rv && token.rv <= self.cache.revision() {
                return Ok(self.page_of_cache(kind, options, &prefix, &start, Some(token.rv)));
            }
            return self.page_of_store(options, &prefix, start, token.rv).await;
        }
        match options.revision.as_str() {
            "" => self.cache.wait_current().await?,
            "0" => {}
            text => {
                let at: Revision = text.parse().map_err(|_| bad_revision(text))?;
                self.cache.wait_for(at).await?;
                if options.revision_match == RevisionMatch::Exact && kind.resource.cache.last() > at {
                    return self.page_of_store(options, &prefix, prefix.clone(), at).await;
                }
                if options.revision_match == RevisionMatch::Exact {
                    return Ok(self.page_of_cache(kind, options, &prefix, &prefix, Some(at)));
                }
            }
        }
        Ok(self.page_of_cache(kind, options, &prefix, &prefix, None))
    }

    fn page_of_cache(
        &self,
        kind: &Kind,
        options: &ListOptions,
        prefix: &str,
        start: &str,
        at: Option<Revision>,
    ) -> Page {
        let selection = &options.selection;
        // Read before the objects are: what is listed is at least as new.
        let reached = self.cache.revision();
        if let (Some(name), false) =
            (selection.fields.exact_name(), selection.namespace.is_empty() && kind.descriptor.namespaced)
        {
            let entry = kind.resource.cache.get(&kind.key(&selection.namespace, name));
            let entries: Vec<_> = entry.into_iter().filter(|e| selection.matches(e)).collect();
            let newest = entries.first().map_or(0, |e| e.revision);
            let revision = at.unwrap_or(reached.max(newest));
            return Page { entries, revision, token: None, remaining: None, cursor: None };
        }
        let listing = kind.resource.cache.list(prefix);
        let revision = at.unwrap_or(reached.max(listing.last));
        let mut entries = listing.entries;
        if start != prefix {
            let skip = entries.partition_point(|entry| entry.key.as_ref() < start);
            entries.drain(..skip);
        }
        if !selection.is_everything() {
            entries.retain(|entry| selection.matches(entry));
        }
        let total = entries.len();
        let mut page = Page { entries, revision, token: None, remaining: None, cursor: Some(listing.cursor) };
        if options.limit > 0 && total > options.limit {
            let next = page.entries[options.limit].key.clone();
            page.token = Some(Token::encode(revision, next.strip_prefix(prefix).unwrap_or_default()));
            page.remaining = selection.is_everything().then_some((total - options.limit) as u64);
            page.entries.truncate(options.limit);
        }
        page
    }

    async fn page_of_store(
        &self,
        options: &ListOptions,
        prefix: &str,
        start: String,
        revision: Revision,
    ) -> Result<Page, ApiError> {
        let end = Bytes::from(keys::prefix_end(prefix));
        let limit = if options.limit == 0 { usize::MAX } else { options.limit };
        let mut page = Page { entries: vec![], revision, token: None, remaining: None, cursor: None };
        let mut start = Bytes::from(start);
        loop {
            let chunk =
                if options.selection.is_everything() { limit.saturating_add(1).min(CHUNK) } else { CHUNK };
            let request = RangeRequest {
                start: start.clone(),
                end: end.clone(),
                limit: chunk,
                revision: Some(revision),
            };
            let range = self.store.range(request).await.map_err(|error| match error {
                yunfan_store::StoreError::Compacted { .. } => continue_expired(options),
                error => store_error(error),
            })?;
            for kv in &range.kvs {
                let Ok(key) = std::str::from_utf8(&kv.key) else { continue };
                let entry = Entry::new(key.into(), kv.value.clone(), kv.mod_revision);
                if !options.selection.matches(&entry) {
                    continue;
                }
                if page.entries.len() == limit {
                    page.token = Some(Token::encode(revision, key.strip_prefix(prefix).unwrap_or_default()));
                    return Ok(page);
                }
                page.entries.push(Arc::new(entry));
            }
            match range.kvs.last() {
                Some(last) if range.more => start = key_after(&last.key),
                _ => return Ok(page),
            }
        }
    }
}

fn continue_expired(options: &ListOptions) -> ApiError {
    if options.token.is_none() {
        return expired();
    }
    ApiError::gone(
        "The provided continue parameter is too old to display a consistent list result. You must start a new list without the continue parameter.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_as_it_was() {
        let token = Token::decode(&Token::encode(7, "demo/web")).expect("is a token");
        assert_eq!((token.rv, token.start.as_str()), (7, "demo/web"));
        assert!(Token::decode("%%%").is_err());
    }
}
