//! What a client is told beside its answer, in `Warning` headers.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// Most that are kept for one answer: more would not fit into its headers.
const MOST: usize = 10_000;

/// What one request's client is told, gathered on the request's way: a refusal brings it as well.
#[derive(Debug, Default)]
pub(crate) struct Warnings(Mutex<Gathered>);

#[derive(Debug, Default)]
struct Gathered {
    texts: Vec<String>,
    known: HashSet<String>,
}

impl Warnings {
    /// Adds some. One that is there already is not said twice.
    pub(crate) fn extend(&self, texts: impl IntoIterator<Item = String>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for text in texts {
            if !text.is_empty() && all.texts.len() < MOST && all.known.insert(text.clone()) {
                all.texts.push(text);
            }
        }
    }

    /// Takes them all out.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).texts
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
}
