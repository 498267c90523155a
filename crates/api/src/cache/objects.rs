//! The objects of one kind in the order of their keys, as a structure whose copy costs nothing: a snapshot shares
//! all that is not changed later. A list walks a snapshot at its own pace, however long the list and however much is
//! written meanwhile; a write copies at most the one part that it falls into, and only while a snapshot holds it.

use std::sync::Arc;

use super::Entry;

/// Objects in one part, at most; a full part is split in two.
const FULL: usize = 512;

/// A stretch of neighbours.
#[derive(Clone)]
struct Part {
    /// No key in this part is lower, and all in the part before are.
    first: Arc<str>,
    /// Never empty.
    entries: Arc<Vec<Arc<Entry>>>,
}

/// Objects by key. A clone is a snapshot.
#[derive(Clone, Default)]
pub(crate) struct Objects {
    parts: Arc<Vec<Part>>,
    len: usize,
    /// How many of them the store could not open.
    unreadable: usize,
}

/// A place among the objects: the next one's part, and its number there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    part: usize,
    at: usize,
}

impl Objects {
    /// Objects that come in the order of their keys, each key once.
    pub(crate) fn from_sorted(entries: &[Arc<Entry>]) -> Self {
        let parts = entries
            .chunks(FULL / 2)
            .map(|chunk| Part { first: chunk[0].key.clone(), entries: Arc::new(chunk.to_vec()) })
            .collect();
        let unreadable = entries.iter().filter(|entry| entry.unreadable().is_some()).count();
        Self { parts: Arc::new(parts), len: entries.len(), unreadable }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Those with keys in `start..end` that the store could not open.
    pub(crate) fn unreadable(&self, start: &str, end: &str) -> Vec<Arc<Entry>> {
        if self.unreadable == 0 {
            return Vec::new();
        }
        self.walk(start, end).filter(|entry| entry.unreadable().is_some()).collect()
    }

    /// The part that has the key, or would.
    fn part_of(&self, key: &str) -> usize {
        self.parts.partition_point(|part| part.first.as_ref() <= key).saturating_sub(1)
    }

    /// One object.
    pub(crate) fn get(&self, key: &str) -> Option<&Arc<Entry>> {
        let part = self.parts.get(self.part_of(key))?;
        let at = find(&part.entries, key).ok()?;
        part.entries.get(at)
    }

    /// Puts an object in; gives the one that was there.
    pub(crate) fn insert(&mut self, entry: Arc<Entry>) -> Option<Arc<Entry>> {
        self.unreadable += usize::from(entry.unreadable().is_some());
        let before = self.put(entry);
        self.unreadable -= usize::from(before.as_ref().is_some_and(|entry| entry.unreadable().is_some()));
        before
    }

    fn put(&mut self, entry: Arc<Entry>) -> Option<Arc<Entry>> {
        let number = self.part_of(&entry.key);
        let parts = Arc::make_mut(&mut self.parts);
        let Some(part) = parts.get_mut(number) else {
            parts.push(Part { first: entry.key.clone(), entries: Arc::new(vec![entry]) });
            self.len += 1;
            return None;
        };
        let entries = Arc::make_mut(&mut part.entries);
        let at = match find(entries, &entry.key) {
            Ok(at) => return Some(std::mem::replace(&mut entries[at], entry)),
            Err(at) => at,
        };
        if entry.key < part.first {
            part.first = entry.key.clone();
        }
        entries.insert(at, entry);
        self.len += 1;
        if entries.len() >= FULL {
            // Objects often come in the order of their names: then the lower half is left nearly full.
            let keep = if at + 1 == entries.len() { FULL * 7 / 8 } else { FULL / 2 };
            let upper = entries.split_off(keep);
            parts.insert(number + 1, Part { first: upper[0].key.clone(), entries: Arc::new(upper) });
        }
        None
    }

    /// Takes an object out.
    pub(crate) fn remove(&mut self, key: &str) -> Option<Arc<Entry>> {
        let number = self.part_of(key);
        let at = find(&self.parts.get(number)?.entries, key).ok()?;
        let parts = Arc::make_mut(&mut self.parts);
        let entries = Arc::make_mut(&mut parts[number].entries);
        let gone = entries.remove(at);
        if entries.is_empty() {
            parts.remove(number);
        }
        self.len -= 1;
        self.unreadable -= usize::from(gone.unreadable().is_some());
        Some(gone)
    }

    /// Place of the first key that is not lower than this one.
    fn place(&self, key: &str) -> Place {
        let part = self.part_of(key);
        let at = self.parts.get(part).map_or(0, |part| part.entries.partition_point(|e| *e.key < *key));
        match self.parts.get(part) {
            Some(full) if at == full.entries.len() => Place { part: part + 1, at: 0 },
            _ => Place { part, at },
        }
    }

    /// How many keys lie in `start..end`.
    pub(crate) fn count(&self, start: &str, end: &str) -> usize {
        let (from, to) = (self.place(start), self.place(end));
        let before = |place: Place| {
            self.parts[..place.part].iter().map(|part| part.entries.len()).sum::<usize>() + place.at
        };
        before(to).saturating_sub(before(from))
    }

    /// Walks the keys in `start..end`, in order, as they are now.
    pub(crate) fn walk(&self, start: &str, end: &str) -> Walk {
        Walk { next: self.place(start), end: self.place(end), objects: self.clone() }
    }
}

fn find(entries: &[Arc<Entry>], key: &str) -> Result<usize, usize> {
    entries.binary_search_by(|entry| entry.key.as_ref().cmp(key))
}

/// A walk over a snapshot, which it holds.
pub(crate) struct Walk {
    objects: Objects,
    next: Place,
    end: Place,
}

impl Iterator for Walk {
    type Item = Arc<Entry>;

    fn next(&mut self) -> Option<Arc<Entry>> {
        let Place { part, at } = self.next;
        if self.next >= self.end {
            return None;
        }
        let entries = &self.objects.parts.get(part)?.entries;
        let entry = entries.get(at)?.clone();
        self.next = if at + 1 == entries.len() {
            Place { part: part + 1, at: 0 }
        } else {
            Place { part, at: at + 1 }
        };
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn entry(number: u32, revision: u64) -> Arc<Entry> {
        Arc::new(Entry::new(format!("/k/{number:05}").into(), Bytes::from_static(b"{}"), revision))
    }

    fn listed(objects: &Objects, start: &str, end: &str) -> Vec<(String, u64)> {
        objects.walk(start, end).map(|e| (e.key.to_string(), e.revision)).collect()
    }

    #[test]
    fn it_holds_what_a_plain_map_holds_and_snapshots_do_not_change() {
        let mut random = StdRng::seed_from_u64(7);
        let (mut objects, mut model) = (Objects::default(), BTreeMap::new());
        let mut snapshots = Vec::new();
        for revision in 0..20_000 {
            let number = random.random_range(0..3000);
            let key = format!("/k/{number:05}");
            if random.random_range(0..3) == 0 {
                let gone = objects.remove(&key).map(|e| e.revision);
                assert_eq!(gone, model.remove(&key));
            } else {
                let before = objects.insert(entry(number, revision)).map(|e| e.revision);
                assert_eq!(before, model.insert(key.clone(), revision));
            }
            assert_eq!(objects.len(), model.len());
            assert_eq!(objects.get(&key).map(|e| e.revision), model.get(&key).copied());
            if revision % 1000 == 0 {
                snapshots.push((objects.clone(), model.clone()));
            }
        }
        for (objects, model) in snapshots {
            let (a, b) = (random.random_range(0..3000), random.random_range(0..3000));
            for (start, end) in
                [("/k/".to_owned(), "/k0".to_owned()), (format!("/k/{a:05}"), format!("/k/{b:05}"))]
            {
                let wanted: Vec<_> = if start <= end {
                    model.range(start.clone()..end.clone()).map(|(k, r)| (k.clone(), *r)).collect()
                } else {
                    Vec::new()
                };
                assert_eq!(listed(&objects, &start, &end), wanted);
                assert_eq!(objects.count(&start, &end), wanted.len());
            }
        }
    }

    #[test]
    fn sorted_objects_are_taken_as_they_come() {
        let entries: Vec<_> = (0..2000).map(|number| entry(number, 1)).collect();
        let objects = Objects::from_sorted(&entries);
        assert_eq!(objects.len(), 2000);
        assert_eq!(objects.walk("/k/", "/k0").count(), 2000);
        assert!(objects.get("/k/01999").is_some() && objects.get("/k/02000").is_none());
        let empty = Objects::from_sorted(&[]);
        assert_eq!(empty.walk("/", "0").count() + empty.count("/", "0"), 0);
    }
}
