//! What was made of the objects of a kind, once per revision of each.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::Value;
use yunfan_store::Revision;

use crate::cache::{Cache, KindCache};

/// What is made of one object.
pub(super) trait Page {
    /// Makes it.
    fn read(object: &Value) -> Self;

    /// What it is looked up by; nothing where nobody does.
    fn topic(&self) -> &str {
        ""
    }
}

/// All objects of one kind as something else, in the order of their names.
pub(super) struct Book<T> {
    prefix: String,
    objects: Arc<KindCache>,
    made: RwLock<Made<T>>,
}

/// What is in a book.
pub(super) struct Pages<T> {
    all: Vec<Arc<T>>,
    topics: HashMap<String, Vec<Arc<T>>>,
}

impl<T> Pages<T> {
    /// All, in the order of the objects' names.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.all.iter().map(AsRef::as_ref)
    }

    /// Those of a topic, in the same order.
    pub(super) fn of(&self, topic: &str) -> impl Iterator<Item = &T> {
        self.topics.get(topic).into_iter().flatten().map(AsRef::as_ref)
    }
}

struct Made<T> {
    /// Revision of the latest change that is in here.
    last: Revision,
    pages: Arc<Pages<T>>,
    known: HashMap<Arc<str>, (Revision, Arc<T>)>,
}

impl<T> Made<T> {
    fn none() -> Self {
        let pages = Pages { all: Vec::new(), topics: HashMap::new() };
        Self { last: 0, pages: Arc::new(pages), known: HashMap::new() }
    }
}

impl<T: Page> Book<T> {
    /// The objects whose keys have this prefix.
    pub(super) fn new(cache: &Cache, prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), objects: cache.kind(prefix), made: RwLock::new(Made::none()) }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.objects.len() == 0
    }

    /// All as they are now.
    pub(super) fn all(&self) -> Arc<Pages<T>> {
        if self.is_empty() {
            return Made::none().pages;
        }
        let last = self.objects.last();
        {
            let made = self.made.read().unwrap_or_else(PoisonError::into_inner);
            if made.last == last {
                return made.pages.clone();
            }
        }
        let mut made = self.made.write().unwrap_or_else(PoisonError::into_inner);
        let listing = self.objects.list(&self.prefix);
        let mut known = HashMap::with_capacity(listing.entries.len());
        let mut all = Vec::with_capacity(listing.entries.len());
        let mut topics = HashMap::<String, Vec<Arc<T>>>::new();
        for entry in listing.entries {
            let kept = made.known.remove(&entry.key).filter(|(revision, _)| *revision == entry.revision);
            let one = kept.map_or_else(|| Arc::new(T::read(&entry.decode_stored())), |(_, one)| one);
            known.insert(entry.key.clone(), (entry.revision, one.clone()));
            if !one.topic().is_empty() {
                topics.entry(one.topic().to_owned()).or_default().push(one.clone());
            }
            all.push(one);
        }
        *made = Made { last: listing.last, pages: Arc::new(Pages { all, topics }), known };
        made.pages.clone()
    }
}
