//! What was made of the objects of a kind, once per revision of each.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::Value;
use yunfan_store::Revision;

use crate::cache::{Cache, KindCache};

/// All objects of one kind as something else, in the order of their names.
pub(super) struct Book<T> {
    prefix: String,
    objects: Arc<KindCache>,
    make: fn(&Value) -> T,
    made: RwLock<Made<T>>,
}

struct Made<T> {
    /// Revision of the latest change that is in here.
    last: Revision,
    all: Arc<[Arc<T>]>,
    known: HashMap<Arc<str>, (Revision, Arc<T>)>,
}

impl<T> Book<T> {
    /// The objects whose keys have this prefix, each made into something by `make`.
    pub(super) fn new(cache: &Cache, prefix: &str, make: fn(&Value) -> T) -> Self {
        let made = Made { last: 0, all: Arc::new([]), known: HashMap::new() };
        Self { prefix: prefix.to_owned(), objects: cache.kind(prefix), make, made: RwLock::new(made) }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.objects.len() == 0
    }

    /// All as they are now.
    pub(super) fn all(&self) -> Arc<[Arc<T>]> {
        if self.is_empty() {
            return Arc::new([]);
        }
        let last = self.objects.last();
        {
            let made = self.made.read().unwrap_or_else(PoisonError::into_inner);
            if made.last == last {
                return made.all.clone();
            }
        }
        let mut made = self.made.write().unwrap_or_else(PoisonError::into_inner);
        let listing = self.objects.list(&self.prefix);
        let mut known = HashMap::with_capacity(listing.entries.len());
        let mut all = Vec::with_capacity(listing.entries.len());
        for entry in listing.entries {
            let kept = made.known.remove(&entry.key).filter(|(revision, _)| *revision == entry.revision);
            let one = kept.map_or_else(|| Arc::new((self.make)(&entry.decode_stored())), |(_, one)| one);
            known.insert(entry.key.clone(), (entry.revision, one.clone()));
            all.push(one);
        }
        *made = Made { last: listing.last, all: all.into(), known };
        made.all.clone()
    }
}
