//! What is said of a request beside its answer: to the client in `Warning` headers, and to the audit log in annotations.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, OnceLock, PoisonError};

use serde_json::Value;

/// Most that are kept for one answer: more would not fit into its headers.
const MOST: usize = 10_000;
/// Annotations of one record, at most, and their bytes together.
const MOST_NOTES: usize = 1000;
const NOTES_BYTES: usize = 256 << 10;

/// What one request's client is told, gathered on the request's way: a refusal brings it as well.
#[derive(Debug, Default)]
pub(crate) struct Warnings {
    gathered: Mutex<Gathered>,
    /// Not there where nobody would read them.
    notes: OnceLock<Mutex<BTreeMap<String, String>>>,
}

#[derive(Debug, Default)]
struct Gathered {
    texts: Vec<String>,
    known: HashSet<String>,
}

impl Warnings {
    /// Adds some. One that is there already is not said twice.
    pub(crate) fn extend(&self, texts: impl IntoIterator<Item = String>) {
        let mut all = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        for text in texts {
            if !text.is_empty() && all.texts.len() < MOST && all.known.insert(text.clone()) {
                all.texts.push(text);
            }
        }
    }

    /// Takes them all out.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.gathered.lock().unwrap_or_else(PoisonError::into_inner)).texts
    }

    /// There is an audit log: annotations are kept from now on.
    pub(crate) fn keep_notes(&self) {
        self.notes.get_or_init(Mutex::default);
    }

    /// Whether annotations are kept.
    pub(crate) fn keeps_notes(&self) -> bool {
        self.notes.get().is_some()
    }

    /// Adds an annotation for the audit log. What was said first stays.
    pub(crate) fn note(&self, key: &str, value: impl FnOnce() -> String) {
        let Some(notes) = self.notes.get() else { return };
        let value = value();
        let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: usize = notes.iter().map(|(key, value)| key.len() + value.len()).sum();
        if notes.len() < MOST_NOTES && bytes + key.len() + value.len() <= NOTES_BYTES {
            notes.entry(key.to_owned()).or_insert(value);
        }
    }

    /// Adds to an annotation that is a list, as JSON.
    pub(crate) fn note_more(&self, key: &str, values: Vec<Value>) {
        let Some(notes) = self.notes.get() else { return };
        let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<Value> =
            notes.get(key).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        if all.len() + values.len() <= MOST_NOTES {
            all.extend(values);
            notes.insert(key.to_owned(), Value::from(all).to_string());
        }
    }

    /// The annotations so far.
    pub(crate) fn notes(&self) -> BTreeMap<String, String> {
        let notes =
            self.notes.get().map(|notes| notes.lock().unwrap_or_else(PoisonError::into_inner).clone());
        notes.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_said_once_and_in_order() {
        let warnings = Warnings::default();
        warnings.extend(["b".to_owned(), String::new(), "a".to_owned()]);
        warnings.extend(["b".to_owned()]);
        assert_eq!(warnings.take(), ["b", "a"]);
        assert_eq!(warnings.take(), [""; 0]);
    }

    #[test]
    fn no_more_are_kept_than_can_be_shown() {
        let warnings = Warnings::default();
        warnings.extend((0..1_000_000).map(|each| format!("warning {each}")));
        assert_eq!(warnings.take().len(), MOST);
    }

    #[test]
    fn notes_are_kept_where_somebody_reads_them() {
        let warnings = Warnings::default();
        warnings.note("a", || unreachable!("nobody reads it"));
        assert!(warnings.notes().is_empty() && !warnings.keeps_notes());
        warnings.keep_notes();
        warnings.note("a", || "first".to_owned());
        warnings.note("a", || "second".to_owned());
        warnings.note("long", || "x".repeat(NOTES_BYTES));
        assert_eq!(warnings.notes(), BTreeMap::from([("a".to_owned(), "first".to_owned())]));
        assert_eq!(warnings.take(), [""; 0]);
    }
}
