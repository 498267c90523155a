//! Finding objects of an informer by what they say, without looking at all of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::informer::{ObjectKey, Shared};

/// The words under which an index finds an object.
pub(crate) type Words<K> = fn(&K) -> Vec<String>;

/// The indexes of a kind, by their names. They change under the lock of the objects themselves.
pub(crate) struct Indexes<K>(HashMap<&'static str, (Words<K>, Entries)>);

/// Words, and the objects that say them.
type Entries = BTreeSet<(String, ObjectKey)>;

impl<K> Default for Indexes<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K> Indexes<K> {
    /// Adds an index over what is there, unless there is one of this name.
    pub(crate) fn add<'a>(
        &mut self,
        name: &'static str,
        words: Words<K>,
        all: impl Iterator<Item = (&'a ObjectKey, &'a Arc<K>)>,
    ) where
        K: 'a,
    {
        self.0.entry(name).or_insert_with(|| {
            let entries = all.flat_map(|(key, object)| {
                words(object).into_iter().map(|word| (word, key.clone())).collect::<Vec<_>>()
            });
            (words, entries.collect())
        });
    }

    /// Takes note that what `before` said of a key is now said by `after`.
    pub(crate) fn replace(&mut self, key: &ObjectKey, before: Option<&K>, after: Option<&K>) {
        for (words, entries) in self.0.values_mut() {
            for word in before.map(*words).unwrap_or_default() {
                entries.remove(&(word, key.clone()));
            }
            entries.extend(after.map(*words).unwrap_or_default().into_iter().map(|word| (word, key.clone())));
        }
    }

    fn find(&self, name: &str, word: &str) -> Vec<ObjectKey> {
        let Some((_, entries)) = self.0.get(name) else { return Vec::new() };
        let from = (word.to_owned(), ObjectKey::new("", ""));
        entries.range(from..).take_while(|(own, _)| own == word).map(|(_, key)| key.clone()).collect()
    }
}

/// An index of an [`Informer`](crate::Informer). Cloning it shares it.
pub struct Index<K> {
    pub(crate) shared: Arc<Shared<K>>,
    pub(crate) name: &'static str,
}

impl<K> Clone for Index<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), name: self.name }
    }
}

impl<K> Index<K> {
    /// The objects that say this word, ordered by namespace and name.
    pub fn get(&self, word: &str) -> Vec<Arc<K>> {
        let objects = self.shared.read();
        let keys = self.shared.indexes().find(self.name, word);
        keys.iter().filter_map(|key| objects.get(key).cloned()).collect()
    }
}
