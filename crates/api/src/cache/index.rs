//! Which objects of a kind have which value of a label or a field. An index is made when a selector asks for it first,
//! and follows each change from then on; those that were not asked for the longest go when there are too many.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;

use super::entry::{Entry, Fields};
use super::objects::Objects;
use super::ring::Change;

/// Indexes of one kind, at most.
const MAX_INDEXES: usize = 8;
/// Below this number of objects looking at each is as good.
pub(super) const WORTH: usize = 256;

/// What is indexed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Term {
    /// The label with this key.
    Label(String),
    /// The selectable field at this path.
    Field(String, Fields),
}

impl Term {
    /// The object's value, if it has one. A field that is absent counts as empty text, as selectors have it.
    fn value(&self, entry: &Entry) -> Option<String> {
        match self {
            Self::Label(key) => entry.labels().get(key)?.as_str().map(str::to_owned),
            Self::Field(path, selectable) => Some(field_text(&entry.fields(selectable), path)),
        }
    }
}

/// What a field selector compares with: the text of the value at a path.
pub(super) fn field_text(fields: &Value, path: &str) -> String {
    let found = path.trim_start_matches('.').split('.').try_fold(fields, |value, part| value.get(part));
    match found {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// Objects with one of these values: what a selector demands.
#[derive(Clone, Debug)]
pub(crate) struct Demand {
    pub(crate) term: Term,
    pub(crate) values: Vec<String>,
}

/// One index.
pub(super) struct Index {
    term: Term,
    keys: HashMap<String, BTreeSet<Arc<str>>>,
    /// When it was asked for last, as a count of askings.
    used: AtomicU64,
}

impl Index {
    /// An index of these objects.
    pub(super) fn of(term: Term, objects: &Objects) -> Self {
        let mut index = Self { term, keys: HashMap::new(), used: AtomicU64::new(0) };
        for entry in objects.walk("", "\u{7f}") {
            if let Some(value) = index.term.value(&entry) {
                index.add(value, entry.key.clone());
            }
        }
        index
    }

    fn add(&mut self, value: String, key: Arc<str>) {
        self.keys.entry(value).or_default().insert(key);
    }

    /// Follows a change.
    pub(super) fn apply(&mut self, change: &Change) {
        let before = change.prev.as_ref().and_then(|prev| self.term.value(prev));
        let deleted = change.kind == super::ChangeType::Deleted;
        let after = if deleted { None } else { self.term.value(&change.entry) };
        if before == after {
            return;
        }
        if let Some(value) = before
            && let Some(keys) = self.keys.get_mut(&value)
        {
            keys.remove(&change.entry.key);
            if keys.is_empty() {
                self.keys.remove(&value);
            }
        }
        if let Some(value) = after {
            self.add(value, change.entry.key.clone());
        }
    }

    fn sets<'a>(&'a self, values: &'a [String]) -> impl Iterator<Item = &'a BTreeSet<Arc<str>>> {
        values.iter().filter_map(|value| self.keys.get(value))
    }

    /// Keys in `start..end` with one of the values, in order.
    fn keys(&self, values: &[String], start: &str, end: &str) -> Vec<Arc<str>> {
        let mut keys: Vec<_> = Vec::new();
        for set in self.sets(values) {
            keys.extend(set.range::<str, _>((Bound::Included(start), Bound::Excluded(end))).cloned());
        }
        if values.len() > 1 {
            keys.sort_unstable();
            keys.dedup();
        }
        keys
    }
}

/// The indexes of one kind.
#[derive(Default)]
pub(super) struct Indexes {
    indexes: Vec<Index>,
    asked: AtomicU64,
}

impl Indexes {
    /// Follows a change.
    pub(super) fn apply(&mut self, change: &Change) {
        for index in &mut self.indexes {
            index.apply(change);
        }
    }

    /// Keys in `start..end` that meet the demand that fewest objects meet; none if none of the demands has an index.
    pub(super) fn keys(&self, demands: &[Demand], start: &str, end: &str) -> Option<Vec<Arc<str>>> {
        let found = demands.iter().filter_map(|demand| {
            let index = self.indexes.iter().find(|index| index.term == demand.term)?;
            let size: usize = index.sets(&demand.values).map(BTreeSet::len).sum();
            Some((size, index, demand))
        });
        let (_, index, demand) = found.min_by_key(|(size, ..)| *size)?;
        index.used.store(self.asked.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        // BTreeSet panics on a range that ends before it begins.
        (start < end).then(|| index.keys(&demand.values, start, end)).or_else(|| Some(Vec::new()))
    }

    /// Takes one in that was made; the one that was not asked for the longest goes if there are too many.
    pub(super) fn put(&mut self, index: Index) {
        if self.indexes.iter().any(|other| other.term == index.term) {
            return;
        }
        if self.indexes.len() >= MAX_INDEXES
            && let Some(oldest) =
                (0..self.indexes.len()).min_by_key(|at| self.indexes[*at].used.load(Ordering::Relaxed))
        {
            self.indexes.swap_remove(oldest);
        }
        index.used.store(self.asked.load(Ordering::Relaxed), Ordering::Relaxed);
        self.indexes.push(index);
    }
}
